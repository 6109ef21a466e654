//! Errors on REST: an RFC 9457 problem that carries the whole error.

use super::{body, desc, desc::Registry, json};
use crate::error;
use axum::body::Body;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use plexus_proto::{reason, v1};
use serde_json::{Map, Value};

/// Answers with a problem. `headers` are the request's: the error names its trace.
pub(crate) fn response(registry: &Registry, headers: &HeaderMap, error: &v1::Error) -> Response<Body> {
    let status = error::http_status(error);
    let mut error = error.clone();
    trace(&mut error, headers);
    let mut response = Response::new(Body::from(document(registry, status, &error).to_string()));
    *response.status_mut() = status;
    let answer = response.headers_mut();
    answer.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if error.violations.iter().any(|v| v.field == header::CONTENT_ENCODING.as_str()) {
        answer.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(body::ENCODINGS));
    }
    if let Some(wait) = &error.retry_after {
        // Whole seconds, never fewer than asked for.
        let seconds = wait.seconds.max(0) + i64::from(wait.nanos > 0);
        answer.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Notes the trace that the request belongs to, so that a report can quote it.
pub(crate) fn trace(error: &mut v1::Error, headers: &HeaderMap) {
    if error.traceparent.is_empty()
        && let Some(parent) = headers.get("traceparent").and_then(|v| v.to_str().ok())
    {
        error.traceparent = parent.into();
    }
}

fn document(registry: &Registry, status: StatusCode, error: &v1::Error) -> Value {
    let reflected = desc::reflect(registry.error(), error);
    let written = json::write(&reflected).unwrap_or_default();
    let mut fields: Map<String, Value> = serde_json::from_slice(&written).unwrap_or_default();
    let detail = fields.remove("message").unwrap_or_default();
    let title = reason::by_name(&error.reason).map_or("An error", |row| row.meaning);
    let mut document = Map::new();
    document.insert("type".into(), format!("urn:plexus:error:{}", error.reason).into());
    document.insert("title".into(), title.into());
    document.insert("status".into(), status.as_u16().into());
    document.insert("detail".into(), detail);
    document.extend(fields);
    document.into()
}
