//! Fields from text: path variables, query parameters and headers become fields of the request, by
//! descriptor. Pure.

use base64::Engine;
use plexus_proto::{reason::Reason, v1};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage, Value};

/// Splits a query, decoding `+` and percent escapes; what is no UTF-8 is replaced.
pub(crate) fn pairs(query: &str) -> Vec<(String, String)> {
    let text = |part: &str| {
        let spaced = part.replace('+', " ");
        percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
    };
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (text(name), text(value)))
        .collect()
}

/// Sets the fields that a query names. `taken` are those that path and body gave.
pub(crate) fn query(
    message: &mut DynamicMessage,
    query: &str,
    taken: &[String],
) -> Result<(), Box<v1::Error>> {
    let mut seen = taken.to_vec();
    for (name, value) in pairs(query) {
        let (path, repeated) = resolve(&message.descriptor(), &name).ok_or_else(|| unknown(&name))?;
        if !repeated && seen.contains(&path) {
            let error = v1::Error::new(Reason::RepeatedParameter, format!("{name}: given more than once"));
            return Err(Box::new(error.violation(name, "given more than once")));
        }
        set(message, &path, &value)?;
        seen.push(path);
    }
    Ok(())
}

/// Says that a parameter is no field of the request.
pub(crate) fn unknown(name: &str) -> Box<v1::Error> {
    let text = "no parameter of this operation";
    Box::new(v1::Error::new(Reason::UnknownParameter, format!("{name}: {text}")).violation(name, text))
}

/// Finds a field by a dotted path in either spelling: its proto path, and whether it is repeated.
fn resolve(message: &MessageDescriptor, path: &str) -> Option<(String, bool)> {
    let (head, rest) = path.split_once('.').map_or((path, None), |(head, rest)| (head, Some(rest)));
    let field = message.get_field_by_name(head).or_else(|| message.get_field_by_json_name(head))?;
    let Some(rest) = rest else { return Some((field.name().into(), field.is_list())) };
    match field.kind() {
        Kind::Message(inner) if !field.is_list() && !field.is_map() => {
            resolve(&inner, rest).map(|(rest, repeated)| (format!("{}.{rest}", field.name()), repeated))
        }
        _ => None,
    }
}

/// Sets a field, given by its proto path, from text; a repeated one gets one value more.
pub(crate) fn set(message: &mut DynamicMessage, path: &str, text: &str) -> Result<(), Box<v1::Error>> {
    set_in(message, "", path, text)
}

/// The same of what is in the field `above`, which ends in a dot.
fn set_in(message: &mut DynamicMessage, above: &str, path: &str, text: &str) -> Result<(), Box<v1::Error>> {
    let (head, rest) = path.split_once('.').map_or((path, None), |(head, rest)| (head, Some(rest)));
    let field = message.descriptor().get_field_by_name(head).ok_or_else(|| unknown(path))?;
    if let Some(rest) = rest {
        return match message.get_field_mut(&field) {
            Value::Message(inner) => set_in(inner, &format!("{above}{}.", field.json_name()), rest, text),
            _ => Err(unknown(path)),
        };
    }
    let value = value(&field, text).ok_or_else(|| {
        let name = format!("{above}{}", field.json_name());
        Box::new(v1::Error::field(name, format!("{text:?} is no {}", wanted(&field))))
    })?;
    match message.get_field_mut(&field) {
        Value::List(list) => list.push(value),
        place => *place = value,
    }
    Ok(())
}

fn value(field: &FieldDescriptor, text: &str) -> Option<Value> {
    if field.is_map() {
        return None;
    }
    Some(match field.kind() {
        Kind::String => Value::String(text.into()),
        Kind::Bool => Value::Bool(match text {
            "true" | "1" => true,
            "false" | "0" => false,
            _ => return None,
        }),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(text.parse().ok()?),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(text.parse().ok()?),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(text.parse().ok()?),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(text.parse().ok()?),
        Kind::Float => Value::F32(text.parse().ok()?),
        Kind::Double => Value::F64(text.parse().ok()?),
        Kind::Bytes => Value::Bytes(base64(text)?.into()),
        Kind::Enum(values) => Value::EnumNumber(values.get_value_by_name(text)?.number()),
        // Times, durations and masks are strings in JSON; other messages have no form in a query.
        Kind::Message(inner) => {
            let text = serde_json::Value::String(text.into());
            Value::Message(DynamicMessage::deserialize(inner, text).ok()?)
        }
    })
}

/// Reads base64 in either alphabet; a query turns `+` into a blank.
fn base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=').replace(['+', ' '], "-").replace('/', "_");
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).ok()
}

fn wanted(field: &FieldDescriptor) -> String {
    match field.kind() {
        _ if field.is_map() => "single value: an object has no form here".into(),
        Kind::Message(inner) => inner.name().into(),
        Kind::Enum(values) => {
            let names: Vec<_> = values.values().skip(1).map(|v| v.name().to_owned()).collect();
            format!("one of {}", names.join(", "))
        }
        Kind::Bytes => "base64".into(),
        kind => format!("{kind:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(name: &str) -> DynamicMessage {
        DynamicMessage::new(crate::edge::desc::tests::POOL.get_message_by_name(name).unwrap())
    }

    fn json(name: &str, text: &str) -> String {
        let mut message = request(name);
        match query(&mut message, text, &["topic".into()]) {
            Ok(()) => serde_json::to_string(&message).unwrap(),
            Err(e) => e.reason,
        }
    }

    #[test]
    fn a_query_is_fields_of_the_request_in_either_spelling() {
        let name = "plexus.v1.SubscribeRequest";
        assert_eq!(
            json(name, "queueMessages=3&topics=a&topics=b%20c"),
            r#"{"topics":["a","b c"],"queueMessages":3}"#
        );
        assert_eq!(json(name, "queue_messages=3"), r#"{"queueMessages":3}"#);
        assert_eq!(
            json(name, "filter.authors=a&filter.origin=LOCAL"),
            r#"{"filter":{"authors":["a"],"origin":"LOCAL"}}"#
        );
        assert_eq!(json(name, "heartbeat=2.5s&own=false"), r#"{"own":false,"heartbeat":"2.500s"}"#);
        assert_eq!(json(name, "filter.dataPrefix=_-8="), r#"{"filter":{"dataPrefix":"/+8="}}"#);
    }

    #[test]
    fn what_a_query_may_not_say_is_refused_by_name() {
        let name = "plexus.v1.SubscribeRequest";
        for (text, reason) in [
            ("nope=1", "UNKNOWN_PARAMETER"),
            ("filter.nope=1", "UNKNOWN_PARAMETER"),
            ("after.x=1", "UNKNOWN_PARAMETER"),
            ("after=1&after=2", "REPEATED_PARAMETER"),
            ("queueMessages=1&queue_messages=1", "REPEATED_PARAMETER"),
            ("topic=a", "REPEATED_PARAMETER"),
            ("queueMessages=-1", "FIELD_INVALID"),
            ("slowReader=FAST", "FIELD_INVALID"),
            ("slowReader=1", "FIELD_INVALID"),
            ("positions=a", "FIELD_INVALID"),
            ("filter=a", "FIELD_INVALID"),
            ("own=yes", "FIELD_INVALID"),
        ] {
            assert_eq!(json(name, text), reason, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_query_makes_the_binder_panic(text in ".*") {
            let _ = json("plexus.v1.SubscribeRequest", &text);
        }
    }
}
