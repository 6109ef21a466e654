//! Bodies of REST requests: of which type they are, how they are packed, and the request they hold.

use super::{
    desc::Method,
    guard,
    json::{self, Unknown},
};
use axum::body::Body;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http::{HeaderMap, HeaderName, header};
use plexus_proto::{reason::Reason, v1};
use prost_reflect::{DynamicMessage, Kind, Value};
use std::io::Read;
use tokio::sync::Semaphore;

/// The field that a body is which is not JSON.
pub(crate) const RAW: &str = "data";

/// Encodings that a body may have; the answer to any other names them.
pub(crate) const ENCODINGS: &str = "gzip, identity";

/// Bytes that are unpacked before others have their turn: some 20 µs.
const UNPACKED_AT_ONCE: usize = 16 << 10;

/// The turns of unpacking: two bodies at a time in the whole process, the others in the order they came in.
static UNPACKING: Semaphore = Semaphore::const_new(2);

/// Refuses a body where the fields are query parameters: it would be passed over in silence.
pub(crate) async fn none(method: &Method, body: Body) -> Result<(DynamicMessage, bool), Box<v1::Error>> {
    if !http_body::Body::is_end_stream(&body) && !guard::read(body, 0).await.is_ok_and(|b| b.is_empty()) {
        return Err(Box::new(v1::Error::field("body", "none is read here: the fields are query parameters")));
    }
    Ok((DynamicMessage::new(method.input.clone()), true))
}

/// Reads a body into the field that it is, `*` for the request itself. The second value tells whether it
/// was not JSON: the other fields are then in the query.
pub(crate) async fn read(
    method: &Method,
    field: &str,
    headers: &HeaderMap,
    body: Body,
    limit: usize,
) -> Result<(DynamicMessage, bool), Box<v1::Error>> {
    let media = Media::read(headers)?;
    let packed = is_gzip(headers)?;
    let raw = method.input.get_field_by_name(RAW).filter(|f| matches!(f.kind(), Kind::Bytes) && !f.is_list());
    let body = guard::read(body, limit).await?;
    let body = if packed { unpack(&body, limit, &header::CONTENT_ENCODING).await? } else { body };
    if media.json {
        // A body that is one field of the request is read as that field alone.
        let wrapped = match field {
            "*" => body,
            field => [b"{\"", field.as_bytes(), b"\":", &body, b"}"].concat().into(),
        };
        return Ok((json::read(&method.input, &wrapped, Unknown::Refuse)?, false));
    }
    let mut message = DynamicMessage::new(method.input.clone());
    match raw {
        Some(field) => message.set_field(&field, Value::Bytes(body)),
        None if body.is_empty() => {}
        None => return Err(unsupported(&header::CONTENT_TYPE, &media.name, "application/json")),
    }
    Ok((message, true))
}

/// The fields that have no other place where a body that is not JSON is one of them: itself, and what may
/// not stand beside it.
pub(crate) fn payload(method: &Method) -> impl Iterator<Item = String> {
    let raw = method.input.get_field_by_name(RAW);
    let rivals = raw.as_ref().and_then(|f| f.containing_oneof());
    let rivals =
        rivals.map(|o| o.fields().map(|f| f.name().to_owned()).collect::<Vec<_>>()).unwrap_or_default();
    raw.map(|f| f.name().to_owned()).into_iter().chain(rivals)
}

/// The type of a body.
struct Media {
    name: String,
    json: bool,
}

impl Media {
    /// Reads `content-type`; without one a body is JSON.
    fn read(headers: &HeaderMap) -> Result<Self, Box<v1::Error>> {
        let Some(text) = single(headers, &header::CONTENT_TYPE)? else {
            return Ok(Self { name: String::new(), json: true });
        };
        let mut parts = text.split(';').map(|p| p.trim().to_ascii_lowercase());
        let name = parts.next().unwrap_or_default();
        let json = name == "application/json" || name.ends_with("+json");
        let foreign = |p: &String| {
            let charset = p.strip_prefix("charset=").map(|c| c.trim_matches('"'));
            charset.is_some_and(|c| !matches!(c, "utf-8" | "utf8" | "us-ascii"))
        };
        match parts.find(foreign) {
            Some(charset) if json => Err(unsupported(&header::CONTENT_TYPE, &charset, "charset=utf-8")),
            _ => Ok(Self { name, json }),
        }
    }
}

/// Reads a header that can only be there once.
pub(crate) fn single(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, Box<v1::Error>> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        let error = v1::Error::new(Reason::RepeatedParameter, format!("{name}: given more than once"));
        return Err(Box::new(error.violation(name.as_str(), "given more than once")));
    }
    let text = value.to_str().map_err(|_| Box::new(v1::Error::field(name.as_str(), "not visible ASCII")))?;
    Ok(Some(text.trim().to_owned()))
}

/// Reads `content-encoding`.
fn is_gzip(headers: &HeaderMap) -> Result<bool, Box<v1::Error>> {
    match single(headers, &header::CONTENT_ENCODING)?.unwrap_or_default().to_ascii_lowercase().as_str() {
        "" | "identity" => Ok(false),
        "gzip" | "x-gzip" => Ok(true),
        other => Err(unsupported(&header::CONTENT_ENCODING, other, ENCODINGS)),
    }
}

/// Unpacks a body, never to more than the limit; `name` is the header that says how it is packed. A little
/// at a time, as others wait meanwhile: a bomb keeps a core busy for milliseconds. And few at a time, as each
/// keeps what it has unpacked.
pub(crate) async fn unpack(body: &[u8], limit: usize, name: &HeaderName) -> Result<Bytes, Box<v1::Error>> {
    // An error would be of a semaphore that was closed, which this one never is.
    let _turn = UNPACKING.acquire().await.ok();
    let (mut decoder, mut out) = (MultiGzDecoder::new(body), Vec::new());
    loop {
        let slice = UNPACKED_AT_ONCE.min(limit + 1 - out.len());
        let read = decoder.by_ref().take(slice as u64).read_to_end(&mut out);
        let read = read
            .map_err(|e| Box::new(v1::Error::field(name.as_str(), format!("the body is not gzip: {e}"))))?;
        if out.len() > limit {
            return Err(Box::new(guard::too_large(limit)));
        }
        if read < slice {
            return Ok(out.into());
        }
        tokio::task::yield_now().await;
    }
}

/// Refuses what is of no kind that is read here, by the header that says so.
pub(crate) fn unsupported(name: &HeaderName, given: &str, wanted: &str) -> Box<v1::Error> {
    let text = format!("{given:?}: it must be {wanted} here");
    let error = v1::Error::new(Reason::UnsupportedMediaType, format!("{name}: {text}"));
    Box::new(error.violation(name.as_str(), text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_packed_body_is_held_to_the_size_that_it_unpacks_to() {
        let limit = 1000;
        let unpack =
            |body: &[u8], limit| futures::executor::block_on(unpack(body, limit, &header::CONTENT_ENCODING));
        assert_eq!(unpack(&packed(&[7; 1000]), limit).unwrap().len(), 1000);
        assert!(unpack(&packed(&[7; 1001]), limit).unwrap_err().is(Reason::MessageTooLarge));
        let bomb = packed(&vec![0; 64 << 20]);
        assert!(unpack(&bomb, limit).unwrap_err().is(Reason::MessageTooLarge));
        let two = [packed(b"a"), packed(b"b")].concat();
        assert_eq!(unpack(&two, limit).unwrap(), "ab");
        for broken in [&b"plain"[..], b"", &packed(b"half")[..12], &[&packed(b"x")[..], b"rest"].concat()] {
            let refused = unpack(broken, limit).unwrap_err();
            assert_eq!(refused.violations[0].field, "content-encoding", "{broken:?}");
        }
    }

    #[test]
    fn a_type_or_an_encoding_that_is_not_read_is_refused_by_its_header() {
        for (name, value, field) in [
            (header::CONTENT_TYPE, "application/json; charset=utf-16", Some("content-type")),
            (header::CONTENT_TYPE, "application/json; charset=UTF-8", None),
            (header::CONTENT_TYPE, "application/merge-patch+json", None),
            (header::CONTENT_ENCODING, "br", Some("content-encoding")),
            (header::CONTENT_ENCODING, "gzip, gzip", Some("content-encoding")),
            (header::CONTENT_ENCODING, "x-gzip", None),
        ] {
            let headers = HeaderMap::from_iter([(name, value.parse().unwrap())]);
            let refused = Media::read(&headers).err().or(is_gzip(&headers).err());
            assert_eq!(refused.map(|e| e.violations[0].field.clone()).as_deref(), field, "{value}");
        }
    }
}
