//! JSON ↔ protobuf by descriptor, in the canonical mapping: 64-bit integers as strings, bytes as
//! base64, defaults left out. It knows types, never what they mean.

use super::desc::{self, Registry};
use bytes::Bytes;
use plexus_proto::{reason::Reason, v1};
use prost::Message as _;
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};

/// What to do with a field that the request does not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unknown {
    /// Refuse it by name: in a body written by hand it is a typo.
    Refuse,
    /// Skip it: a generated client may be newer than we are.
    Ignore,
}

/// Reads a request. Nothing at all is the empty request.
pub(crate) fn read(
    input: &MessageDescriptor,
    json: &[u8],
    unknown: Unknown,
) -> Result<DynamicMessage, Box<v1::Error>> {
    if json.iter().all(u8::is_ascii_whitespace) {
        return Ok(DynamicMessage::new(input.clone()));
    }
    let options = DeserializeOptions::new().deny_unknown_fields(unknown == Unknown::Refuse);
    let mut reader = serde_json::Deserializer::from_slice(json);
    let message = DynamicMessage::deserialize_with_options(input.clone(), &mut reader, &options)
        .map_err(|e| refusal(&e, &place(input, json, &options)))?;
    reader.end().map_err(|e| refusal(&e, ""))?;
    Ok(message)
}

/// Finds the field that cannot be read, by reading once more: only who is refused pays for that.
fn place(input: &MessageDescriptor, json: &[u8], options: &DeserializeOptions) -> String {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut reader, &mut track);
    let read = DynamicMessage::deserialize_with_options(input.clone(), tracked, options);
    let path = track.path().to_string();
    // A place that was not reached has no name.
    let path = path.trim_end_matches('?').trim_end_matches('.');
    if read.is_ok() { String::new() } else { path.to_owned() }
}

/// Reads a request into its encoding, skipping fields that it does not have.
pub(crate) fn to_proto(input: &MessageDescriptor, json: &[u8]) -> Result<Bytes, Box<v1::Error>> {
    Ok(read(input, json, Unknown::Ignore)?.encode_to_vec().into())
}

/// Writes an encoded answer.
pub(crate) fn from_proto(output: &MessageDescriptor, proto: &Bytes) -> Result<Bytes, Box<v1::Error>> {
    let message = DynamicMessage::decode(output.clone(), proto.clone()).map_err(|e| defect(&e))?;
    write(&message)
}

/// Writes a message.
pub(crate) fn write(message: &DynamicMessage) -> Result<Bytes, Box<v1::Error>> {
    let mut out = Vec::with_capacity(256);
    let mut writer = serde_json::Serializer::new(&mut out);
    message.serialize_with_options(&mut writer, &SerializeOptions::new()).map_err(|e| defect(&e))?;
    Ok(out.into())
}

/// Writes an error as every JSON dialect shows it.
pub(crate) fn error(registry: &Registry, error: &v1::Error) -> Bytes {
    write(&desc::reflect(registry.error(), error)).unwrap_or_else(|_| Bytes::from_static(b"{}"))
}

/// Splits an answer that is one field of a oneof into the field's name and its JSON. Canonical JSON
/// has no blanks, so both are slices of what is shared by all readers.
pub(crate) fn untag(json: &Bytes) -> Option<(Bytes, Bytes)> {
    let rest = json.strip_prefix(b"{\"")?.strip_suffix(b"}")?;
    let name = rest.iter().position(|b| *b == b'"')?;
    rest[name..].starts_with(b"\":").then(|| (json.slice(2..2 + name), json.slice(name + 4..json.len() - 1)))
}

fn refusal(error: &serde_json::Error, place: &str) -> Box<v1::Error> {
    let text = error.to_string();
    let unknown = text.strip_prefix("unrecognized field name '").and_then(|t| t.split_once('\''));
    if let Some((name, _)) = unknown {
        let field = if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") };
        let text = "the request has no such field";
        return Box::new(
            v1::Error::new(Reason::UnknownField, format!("{field}: {text}")).violation(field, text),
        );
    }
    let refused = v1::Error::new(Reason::BadJson, format!("the body is not the JSON of the request: {text}"));
    Box::new(if place.is_empty() { refused } else { refused.violation(place, text) })
}

fn defect(error: &dyn std::error::Error) -> Box<v1::Error> {
    Box::new(v1::Error::new(Reason::Internal, format!("the answer cannot be written: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(name: &str) -> MessageDescriptor {
        desc::tests::POOL.get_message_by_name(name).unwrap()
    }

    #[test]
    fn a_field_that_is_not_there_is_refused_by_its_name() {
        let refused =
            read(&message("plexus.v1.Error"), br#"{"code":"x","cod":1}"#, Unknown::Refuse).unwrap_err();
        assert!(refused.is(Reason::UnknownField));
        assert_eq!(refused.violations[0].field, "cod");
        assert!(read(&message("plexus.v1.Error"), br#"{"code":"x","cod":1}"#, Unknown::Ignore).is_ok());
    }

    #[test]
    fn what_is_no_json_of_the_request_says_where() {
        for bad in [&b"{"[..], b"[]", b"{}{}", br#"{"code":5}"#, b"\xff"] {
            let refused = read(&message("plexus.v1.Error"), bad, Unknown::Refuse).unwrap_err();
            assert!(refused.is(Reason::BadJson), "{bad:?}: {refused:?}");
        }
    }

    #[test]
    fn the_field_that_cannot_be_read_is_named_wherever_it_stands() {
        let update = message("plexus.v1.UpdateNodeRequest");
        for (json, field) in [
            (r#"{"spec":{"kad":{"replication":"x"}}}"#, "spec.kad.replication"),
            (r#"{"spec":{"labels":{"a":1}}}"#, "spec.labels.a"),
            (r#"{"spec":{"bootstrap":["/ip4/1.2.3.4",7]}}"#, "spec.bootstrap[1]"),
            (r#"{"spec":{"kad":{"nope":1}}}"#, "spec.kad.nope"),
            (r#"{"spec":{"kad":{"mode":"FAST"}}}"#, "spec.kad.mode"),
            (r#"{"spec":{"limits":{"idleTimeout":"3"}}}"#, "spec.limits.idleTimeout"),
        ] {
            let refused = read(&update, json.as_bytes(), Unknown::Refuse).unwrap_err();
            assert_eq!(refused.violations[0].field, field, "{json}");
        }
    }

    #[test]
    fn a_number_is_read_to_its_last_bit() {
        let said = br#"{"score":8.623516079449852e-308}"#;
        let read = read(&message("plexus.v1.Peer"), said, Unknown::Refuse).unwrap();
        assert_eq!(write(&read).unwrap(), &said[..]);
    }

    #[test]
    fn an_event_is_named_by_its_field_without_parsing_it() {
        let (name, value) = untag(&Bytes::from_static(br#"{"end":{"reason":"LIMIT"}}"#)).unwrap();
        assert_eq!((&name[..], &value[..]), (&b"end"[..], &br#"{"reason":"LIMIT"}"#[..]));
        assert_eq!(untag(&Bytes::from_static(b"{}")), None);
        assert_eq!(untag(&Bytes::new()), None);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(code in ".*", message_text in ".*", key in ".*", value in ".*") {
            let error = v1::Error { code, message: message_text, metadata: [(key, value)].into(), ..v1::Error::default() };
            let desc = message("plexus.v1.Error");
            let json = from_proto(&desc, &error.encode_to_vec().into()).unwrap();
            prop_assert_eq!(v1::Error::decode(to_proto(&desc, &json).unwrap()).unwrap(), error);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&message("plexus.v1.Error"), &bytes, Unknown::Refuse);
            let _ = untag(&bytes.into());
        }
    }
}
