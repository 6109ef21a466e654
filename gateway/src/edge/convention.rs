//! Headers that mean the same for every method, because the contract gives the fields behind them one
//! name everywhere: keys of repeats, entity tags, cursors of streams.

use super::{bind, body::single, desc::Method, negotiate, reply::Answer};
use axum::body::Body;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use plexus_proto::{reason::Reason, v1};
use prost_reflect::{DynamicMessage, ReflectMessage, Value};

/// The field of `Idempotency-Key`.
pub(crate) const REQUEST_ID: &str = "request_id";
/// The fields of `If-Match`, the first that a request has.
pub(crate) const CONDITIONS: [&str; 2] = ["etag", "if_revision"];
/// The fields of `ETag`, the first that an answer has.
pub(crate) const TAGS: [&str; 2] = ["etag", "revision"];
/// The fields of `Last-Event-ID`, the first that a request has.
pub(crate) const CURSORS: [&str; 2] = ["resume", "after"];

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub(crate) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Takes the headers that are fields of every request that has them.
pub(crate) fn fill(
    message: &mut DynamicMessage,
    method: &Method,
    headers: &HeaderMap,
) -> Result<(), Box<v1::Error>> {
    let first =
        |names: &[&'static str]| names.iter().copied().find(|n| method.input.get_field_by_name(n).is_some());
    if !method.safe {
        if headers.contains_key(header::IF_NONE_MATCH) {
            return Err(untaken(&header::IF_NONE_MATCH, "works with GET and HEAD only"));
        }
        if let Some(tag) = single(headers, &header::IF_MATCH)? {
            let untaken = || untaken(&header::IF_MATCH, "this operation has no entity tag");
            let field = first(&CONDITIONS).ok_or_else(untaken)?;
            if tag.split(',').count() != 1 || tag.is_empty() {
                return Err(Box::new(v1::Error::field("if-match", "exactly one entity tag, or *")));
            }
            set(message, field, &header::IF_MATCH, negotiate::opaque(&tag))?;
        }
    }
    if let (Some(key), Some(field)) = (single(headers, &IDEMPOTENCY_KEY)?, first(&[REQUEST_ID])) {
        // Its draft writes it as a quoted string, everybody else does not.
        let key = key.strip_prefix('"').and_then(|k| k.strip_suffix('"')).unwrap_or(&key);
        if key.is_empty() {
            return Err(Box::new(v1::Error::field(
                IDEMPOTENCY_KEY.as_str(),
                "1 to 128 printable characters",
            )));
        }
        set(message, field, &IDEMPOTENCY_KEY, key)?;
    }
    if let (Some(id), true) =
        (single(headers, &LAST_EVENT_ID)?.filter(|id| !id.is_empty()), method.kind.streams())
        && let Some(field) = first(&CURSORS)
    {
        // EventSource repeats the query with which it began, so the header wins.
        bind::set(message, field, &id)?;
    }
    Ok(())
}

/// Sets a field from a header; the request may say the same, but nothing else.
fn set(
    message: &mut DynamicMessage,
    name: &str,
    header: &HeaderName,
    value: &str,
) -> Result<(), Box<v1::Error>> {
    let said = message.clone();
    bind::set(message, name, value)?;
    let field = message.descriptor().get_field_by_name(name).ok_or_else(|| bind::unknown(name))?;
    if said.has_field(&field) && said.get_field(&field) != message.get_field(&field) {
        let text = format!("the header and the field {} differ", field.json_name());
        let error = v1::Error::new(Reason::RepeatedParameter, format!("{header}: {text}"));
        return Err(Box::new(error.violation(header.as_str(), text)));
    }
    Ok(())
}

fn untaken(name: &HeaderName, text: &str) -> Box<v1::Error> {
    Box::new(
        v1::Error::new(Reason::UnknownParameter, format!("{name}: {text}")).violation(name.as_str(), text),
    )
}

/// Writes the only answer of a call: whole, or that it is what the client has.
pub(crate) fn resource(
    method: &Method,
    answer: &Answer,
    headers: &HeaderMap,
) -> Result<Response<Body>, Box<v1::Error>> {
    let tag = tag(method, answer);
    if let (true, Some(wanted)) = (method.safe, single(headers, &header::IF_MATCH)?) {
        check(&wanted, tag.as_deref())?;
    }
    let known = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()).zip(tag.as_deref());
    let fresh = method.safe && known.is_some_and(|(known, tag)| negotiate::names(known, tag));
    let mut response = Response::new(Body::empty());
    if fresh {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        *response.body_mut() = Body::from(answer.json(&method.output)?);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    if let Some(tag) = tag.and_then(|t| HeaderValue::try_from(t).ok()) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}

/// Refuses to answer with anything but what the client means.
fn check(wanted: &str, tag: Option<&str>) -> Result<(), Box<v1::Error>> {
    let Some(tag) = tag else { return Err(untaken(&header::IF_MATCH, "the answer has no entity tag")) };
    if negotiate::names(wanted, tag) {
        return Ok(());
    }
    let error = v1::Error::new(Reason::EtagMismatch, format!("if-match: it is {tag} now"));
    Err(Box::new(error.with("etag", negotiate::opaque(tag))))
}

/// The entity tag of an answer that has one.
fn tag(method: &Method, answer: &Answer) -> Option<String> {
    let field = TAGS.iter().find_map(|f| method.output.get_field_by_name(f))?;
    let message = DynamicMessage::decode(method.output.clone(), answer.proto()).ok()?;
    let tag = match message.get_field(&field).as_ref() {
        Value::String(text) => text.clone(),
        Value::U64(n) => n.to_string(),
        Value::I64(n) => n.to_string(),
        _ => return None,
    };
    (!tag.is_empty()).then(|| format!("\"{tag}\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::desc::{Registry, tests::POOL};

    /// Fills a request from headers and shows it, or what was wrong: reason and field.
    fn filled(method: &str, json: &str, headers: &[(&str, &str)]) -> String {
        let services: Vec<_> = POOL.services().map(|s| s.full_name().to_owned()).collect();
        let names: Vec<&str> = services.iter().map(String::as_str).collect();
        let registry = Registry::new(&[plexus_proto::DESCRIPTOR], &names, &[]).unwrap();
        let method = registry.method(&format!("/plexus.v1.{method}")).unwrap();
        let mut message =
            crate::edge::json::read(&method.input, json.as_bytes(), crate::edge::json::Unknown::Refuse)
                .unwrap();
        let headers = headers
            .iter()
            .map(|(k, v)| (HeaderName::try_from(*k).unwrap(), HeaderValue::try_from(*v).unwrap()))
            .collect();
        match fill(&mut message, method, &headers) {
            Ok(()) => serde_json::to_string(&message).unwrap(),
            Err(e) => {
                let fields = e.violations.iter().map(|v| v.field.as_str()).collect::<Vec<_>>();
                format!("{} {}", e.reason, fields.join(","))
            }
        }
    }

    #[test]
    fn headers_are_fields_of_every_request_that_has_them() {
        let update = "NodeService/UpdateNode";
        let publish = "TopicService/Publish";
        let subscribe = "TopicService/Subscribe";
        for (method, json, headers, wanted) in [
            (update, "{}", &[("if-match", "\"7\"")][..], r#"{"etag":"7"}"#),
            (update, "{}", &[("if-match", "W/\"7\"")], r#"{"etag":"7"}"#),
            (update, "{}", &[("if-match", "*")], r#"{"etag":"*"}"#),
            (update, r#"{"etag":"7"}"#, &[("if-match", "\"7\"")], r#"{"etag":"7"}"#),
            (update, r#"{"etag":"8"}"#, &[("if-match", "\"7\"")], "REPEATED_PARAMETER if-match"),
            (update, "{}", &[("if-match", "\"7\", \"8\"")], "FIELD_INVALID if-match"),
            (update, "{}", &[("if-match", "")], "FIELD_INVALID if-match"),
            (update, "{}", &[("if-match", "\"7\""), ("if-match", "\"7\"")], "REPEATED_PARAMETER if-match"),
            (update, "{}", &[("if-none-match", "*")], "UNKNOWN_PARAMETER if-none-match"),
            (publish, "{}", &[("if-match", "\"7\"")], "UNKNOWN_PARAMETER if-match"),
            (publish, "{}", &[("idempotency-key", "k")], r#"{"requestId":"k"}"#),
            (publish, "{}", &[("idempotency-key", "\"k\"")], r#"{"requestId":"k"}"#),
            (publish, r#"{"requestId":"k"}"#, &[("idempotency-key", "k")], r#"{"requestId":"k"}"#),
            (
                publish,
                r#"{"requestId":"j"}"#,
                &[("idempotency-key", "k")],
                "REPEATED_PARAMETER idempotency-key",
            ),
            (publish, "{}", &[("idempotency-key", "")], "FIELD_INVALID idempotency-key"),
            (publish, "{}", &[("idempotency-key", "é")], "FIELD_INVALID idempotency-key"),
            (publish, "{}", &[("last-event-id", "1-2")], "{}"),
            (subscribe, "{}", &[("last-event-id", "1-2")], r#"{"resume":"1-2"}"#),
            (subscribe, r#"{"resume":"1-1"}"#, &[("last-event-id", "1-2")], r#"{"resume":"1-2"}"#),
            (subscribe, "{}", &[("last-event-id", "")], "{}"),
            (subscribe, "{}", &[("idempotency-key", "k")], "{}"),
        ] {
            assert_eq!(filled(method, json, headers), wanted, "{method} {json} {headers:?}");
        }
    }
}
