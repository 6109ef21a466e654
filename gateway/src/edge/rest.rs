//! REST: path and verb name the method, path, query, body and headers its fields. Which field a header
//! is follows from the conventions of the contract, which hold for every method alike.

use super::{
    bind,
    desc::{Error, Method},
    guard,
    json::{self, Unknown},
    problem,
    route::{Captures, Found, Route, Routes, has_verb},
    sse::{self, Form},
    trunk::{Answer, Call, Input, Trunk},
};
use crate::{error, metrics::Dialect};
use axum::body::Body;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method as Verb, Request, Response, StatusCode, header, request,
};
use plexus_proto::{reason::Reason, v1};
use prost::Message as _;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, ReflectMessage, Value};
use std::sync::Arc;

/// The field that a body is which is not JSON.
const RAW: &str = "data";
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The paths over the trunk.
#[derive(Clone)]
pub(crate) struct Rest {
    trunk: Trunk,
    routes: Arc<Routes>,
}

/// What `accept` asks for.
struct Accept {
    form: Option<Form>,
    json: bool,
}

impl Rest {
    /// Reads the paths of everything that the trunk serves.
    pub(crate) fn new(trunk: Trunk) -> Result<Self, Error> {
        let routes = Arc::new(Routes::new(trunk.registry())?);
        Ok(Self { trunk, routes })
    }

    /// Answers a request; an error becomes a problem.
    pub(crate) async fn handle(&self, request: Request<Body>) -> Response<Body> {
        guard::patiently(request, |request| async move {
            let (parts, body) = request.into_parts();
            let headers = parts.headers.clone();
            match self.answer(parts, body).await {
                Ok(response) => response,
                Err(error) => problem::response(self.trunk.registry(), &headers, &error),
            }
        })
        .await
    }

    async fn answer(&self, parts: request::Parts, body: Body) -> Result<Response<Body>, Box<v1::Error>> {
        let found = self.routes.find(&parts.method, parts.uri.path())?;
        if found.unary.is_none() && found.stream.is_none() {
            return self.nothing(&parts, &found);
        }
        let accept = accept(&parts.headers);
        let (route, captures, form) = choose(found, &accept)?;
        let ended = form.is_some() && parts.headers.get(LAST_EVENT_ID).is_some_and(|id| id == sse::ENDED);
        if ended {
            return Ok(status(StatusCode::NO_CONTENT));
        }
        if let (&Verb::HEAD, Some(form)) = (&parts.method, form) {
            return Ok(form.head());
        }
        let request = self.request(route, captures, &parts, body).await?;
        let method = route.method.clone();
        let dialect = match form {
            None => Dialect::Rest,
            Some(Form::Sse) => Dialect::Sse,
            Some(Form::Ndjson) => Dialect::Ndjson,
        };
        let headers = parts.headers.clone();
        let input = Input::One(request.encode_to_vec().into());
        let call = Call {
            dialect,
            method: method.clone(),
            headers: parts.headers,
            extensions: parts.extensions,
            timeout: None,
            input,
        };
        let reply = self.trunk.call(call).await;
        let Some(form) = form else {
            let (answer, _) =
                reply.only().await.map_err(|(status, _)| Box::new(error::from_status(&status)))?;
            return resource(&method, &answer, &headers);
        };
        if reply.is_refused() {
            let (outcome, _) = reply.finish().await;
            let status = outcome.err().unwrap_or_else(|| tonic::Status::unknown("refused without a reason"));
            return Err(Box::new(error::from_status(&status)));
        }
        Ok(sse::response(self.trunk.clone(), method, form, headers, reply))
    }

    /// Answers a path that the verb does not have.
    fn nothing(&self, parts: &request::Parts, found: &Found<'_>) -> Result<Response<Body>, Box<v1::Error>> {
        if found.allow.is_empty() {
            let path = parts.uri.path();
            let hint = if has_verb(path) { "; a colon in a name is written %3A" } else { "" };
            let text = format!("no operation has the path {path:?}{hint}");
            return Err(Box::new(v1::Error::new(Reason::RouteNotFound, text)));
        }
        let allow = format!("{}, OPTIONS", found.allow.join(", "));
        let mut response = if parts.method == Verb::OPTIONS {
            status(StatusCode::NO_CONTENT)
        } else {
            let text = format!("the path takes {}", found.allow.join(", "));
            let error = v1::Error::new(Reason::MethodNotAllowed, text);
            problem::response(self.trunk.registry(), &parts.headers, &error)
        };
        let allow =
            HeaderValue::try_from(allow).map_err(|_| Box::new(v1::Error::new(Reason::Internal, "allow")))?;
        response.headers_mut().insert(header::ALLOW, allow);
        Ok(response)
    }

    /// Makes the request from all its places.
    async fn request(
        &self,
        route: &Route,
        captures: Captures,
        parts: &request::Parts,
        body: Body,
    ) -> Result<DynamicMessage, Box<v1::Error>> {
        let limit = self.trunk.limits().body_bytes_max;
        let query = parts.uri.query().unwrap_or_default();
        let (mut message, raw) = match route.rule.body.as_str() {
            "" => (DynamicMessage::new(route.method.input.clone()), true),
            field => read(&route.method, field, &parts.headers, guard::read(body, limit).await?)?,
        };
        for (name, value) in &captures {
            fill(&mut message, name, value)?;
        }
        if raw || route.rule.body != "*" {
            bind::query(&mut message, query, &captures)?;
        } else if let Some((name, _)) = bind::pairs(query).first() {
            let text = "belongs in the JSON body";
            let error = v1::Error::new(Reason::UnknownParameter, format!("{name}: {text}"));
            return Err(Box::new(error.violation(name, text)));
        }
        conventions(&mut message, &route.method, &parts.headers)?;
        Ok(message)
    }
}

/// Chooses between a list and its watch, and how the watch is written.
fn choose<'a>(
    found: Found<'a>,
    accept: &Accept,
) -> Result<(&'a Route, Captures, Option<Form>), Box<v1::Error>> {
    let refused = |text: &str| Box::new(v1::Error::new(Reason::NotAcceptable, text));
    match (found.unary, found.stream) {
        (_, Some((route, captures))) if accept.form.is_some() => Ok((route, captures, accept.form)),
        (Some((route, captures)), _) if accept.json => Ok((route, captures, None)),
        (None, Some((route, captures))) if accept.json => Ok((route, captures, Some(Form::Ndjson))),
        (None, _) => Err(refused("the answer is text/event-stream or application/x-ndjson")),
        (Some(_), _) => Err(refused("the answer is application/json")),
    }
}

/// Reads `accept`: a stream must be named, JSON is what any other type gets that may be it.
fn accept(headers: &HeaderMap) -> Accept {
    let mut accept = Accept { form: None, json: !headers.contains_key(header::ACCEPT) };
    let ranges =
        headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    for range in ranges {
        let mut parts = range.split(';').map(|p| p.trim().to_ascii_lowercase());
        let media = parts.next().unwrap_or_default();
        if parts.any(|p| matches!(p.as_str(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000")) {
            continue;
        }
        match media.as_str() {
            "text/event-stream" => accept.form = accept.form.or(Some(Form::Sse)),
            "application/x-ndjson" | "application/jsonl" => accept.form = accept.form.or(Some(Form::Ndjson)),
            "*/*" | "application/*" | "application/json" | "application/problem+json" => accept.json = true,
            other => accept.json |= other.ends_with("+json"),
        }
    }
    accept
}

/// Reads a body. The second value tells whether it was not JSON: the other fields are then in the query.
fn read(
    method: &Method,
    field: &str,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<(DynamicMessage, bool), Box<v1::Error>> {
    let media = headers.get(header::CONTENT_TYPE).map(|v| v.to_str().unwrap_or_default());
    let media = media.map(|m| m.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    let is_json = media.as_deref().is_none_or(|m| m == "application/json" || m.ends_with("+json"));
    if headers.get(header::CONTENT_ENCODING).is_some_and(|e| e != "identity") {
        return Err(Box::new(v1::Error::new(
            Reason::UnsupportedMediaType,
            "content-encoding: none is read here",
        )));
    }
    if is_json {
        // A body that is one field of the request is read as that field alone.
        let wrapped = match field {
            "*" => body,
            field => [b"{\"", field.as_bytes(), b"\":", &body, b"}"].concat().into(),
        };
        return Ok((json::read(&method.input, &wrapped, Unknown::Refuse)?, false));
    }
    let raw = method.input.get_field_by_name(RAW).filter(|f| matches!(f.kind(), Kind::Bytes) && !f.is_list());
    let mut message = DynamicMessage::new(method.input.clone());
    match raw {
        Some(field) => message.set_field(&field, Value::Bytes(body)),
        None if body.is_empty() => {}
        None => {
            let text = format!("{}: the body must be application/json here", media.unwrap_or_default());
            return Err(Box::new(v1::Error::new(Reason::UnsupportedMediaType, text)));
        }
    }
    Ok((message, true))
}

/// Sets a field of the path; a body may repeat it, but not say otherwise.
fn fill(message: &mut DynamicMessage, name: &str, value: &str) -> Result<(), Box<v1::Error>> {
    let field = message.descriptor().get_field_by_name(name).ok_or_else(|| bind::unknown(name))?;
    let before = message.has_field(&field).then(|| message.get_field(&field).into_owned());
    message.clear_field(&field);
    bind::set(message, name, value)?;
    match before {
        Some(before) if before != *message.get_field(&field) => {
            let text = "the path and the body differ";
            let error = v1::Error::new(Reason::RepeatedParameter, format!("{}: {text}", field.json_name()));
            Err(Box::new(error.violation(field.json_name(), text)))
        }
        _ => Ok(()),
    }
}

/// Takes the headers that are fields of every request that has them.
fn conventions(
    message: &mut DynamicMessage,
    method: &Method,
    headers: &HeaderMap,
) -> Result<(), Box<v1::Error>> {
    let has = |name: &str| method.input.get_field_by_name(name).is_some();
    let text = |name: &HeaderName| {
        let bad = || Box::new(v1::Error::field(name.as_str(), "not visible ASCII"));
        headers.get(name).map(|v| v.to_str().map_err(|_| bad())).transpose()
    };
    if let Some(etag) = text(&header::IF_MATCH)?
        && etag != "*"
        && !method.safe
    {
        let field =
            ["etag", "if_revision"].into_iter().find(|f| has(f)).ok_or_else(|| bind::unknown("if-match"))?;
        bind::set(message, field, opaque(etag))?;
    }
    if let (Some(key), true) = (text(&IDEMPOTENCY_KEY)?, has("request_id")) {
        bind::set(message, "request_id", key)?;
    }
    if let (Some(id), true) = (text(&LAST_EVENT_ID)?.filter(|id| !id.is_empty()), method.kind.streams())
        && let Some(field) = ["resume", "after"].into_iter().find(|f| has(f))
    {
        bind::set(message, field, id)?;
    }
    Ok(())
}

/// An entity tag without its quotes.
fn opaque(etag: &str) -> &str {
    let etag = etag.trim();
    etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"')
}

/// Writes the only answer of a call.
fn resource(method: &Method, answer: &Answer, headers: &HeaderMap) -> Result<Response<Body>, Box<v1::Error>> {
    let tag = etag(method, answer);
    let known = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()).zip(tag.as_deref());
    let fresh = known.is_some_and(|(known, tag)| known.split(',').any(|k| opaque(k) == opaque(tag)));
    let mut response = if method.safe && fresh {
        status(StatusCode::NOT_MODIFIED)
    } else {
        let mut response = Response::new(Body::from(answer.json(&method.output)?));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    };
    if let Some(tag) = tag.and_then(|t| HeaderValue::try_from(t).ok()) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}

/// The entity tag of an answer that has one.
fn etag(method: &Method, answer: &Answer) -> Option<String> {
    let field: FieldDescriptor =
        ["etag", "revision"].iter().find_map(|f| method.output.get_field_by_name(f))?;
    let message = DynamicMessage::decode(method.output.clone(), answer.proto()).ok()?;
    let tag = match message.get_field(&field).as_ref() {
        Value::String(text) => text.clone(),
        Value::U64(n) => n.to_string(),
        Value::I64(n) => n.to_string(),
        _ => return None,
    };
    (!tag.is_empty()).then(|| format!("\"{tag}\""))
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_must_be_asked_for_by_name() {
        let ask = |text: &'static str| {
            let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(text))]);
            let accept = accept(&headers);
            (accept.form, accept.json)
        };
        assert_eq!(ask("*/*"), (None, true));
        assert_eq!(ask("text/html, application/xhtml+xml;q=0.9, */*;q=0.8"), (None, true));
        assert_eq!(ask("text/event-stream"), (Some(Form::Sse), false));
        assert_eq!(ask("application/x-ndjson, application/json"), (Some(Form::Ndjson), true));
        assert_eq!(ask("text/event-stream;q=0, application/json"), (None, true));
        assert_eq!(ask("image/png"), (None, false));
        assert!(accept(&HeaderMap::new()).json);
    }

    #[test]
    fn an_entity_tag_is_what_stands_between_its_quotes() {
        assert_eq!(opaque("\"a1\""), "a1");
        assert_eq!(opaque("W/\"a1\""), "a1");
        assert_eq!(opaque("a1"), "a1");
    }
}
