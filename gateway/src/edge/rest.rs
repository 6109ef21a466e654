//! REST: path and verb name the method, path, query, body and headers its fields. Which field a header
//! is follows from the conventions of the contract, which hold for every method alike.

use super::{
    bind, body, convention,
    desc::{Error, Registry},
    guard, limits,
    negotiate::{self, Accept},
    problem,
    route::{Captures, Found, Route, Routes, has_verb},
    sse::{self, Form},
    trunk::{Call, Input, Trunk, metadata},
};
use crate::{error, metrics::Dialect};
use axum::body::Body;
use http::{HeaderMap, HeaderValue, Method as Verb, Request, Response, StatusCode, header, request};
use plexus_proto::{reason::Reason, v1};
use prost::Message as _;
use prost_reflect::{DynamicMessage, ReflectMessage};
use std::sync::Arc;
use tokio::time::{Instant, timeout_at};

/// The paths over the trunk.
#[derive(Clone)]
pub(crate) struct Rest {
    trunk: Trunk,
    routes: Arc<Routes>,
}

impl Rest {
    /// Reads the paths of everything that the trunk serves.
    pub(crate) fn new(trunk: Trunk) -> Result<Self, Error> {
        let routes = Arc::new(Routes::new(trunk.registry())?);
        Ok(Self { trunk, routes })
    }

    /// Tells whether everybody may call what a path names.
    pub(crate) fn is_open(&self, verb: &Verb, path: &str) -> bool {
        let verb = if *verb == Verb::HEAD { &Verb::GET } else { verb };
        let found = self.routes.find(verb, path).ok();
        found.is_some_and(|found| {
            [found.unary, found.stream].into_iter().flatten().any(|(route, _)| route.method.open)
        })
    }

    /// Answers a request; an error becomes a problem.
    pub(crate) async fn handle(&self, request: Request<Body>) -> Response<Body> {
        guard::patiently(request, |request| async move {
            let (mut parts, body) = request.into_parts();
            let mut told = HeaderMap::new();
            let mut response = match self.answer(&mut parts, body, &mut told).await {
                Ok(response) => response,
                Err(error) => problem::response(self.trunk.registry(), &parts.headers, &error),
            };
            response.headers_mut().extend(told);
            response
        })
        .await
    }

    /// `told` takes what any answer says about the rate.
    async fn answer(
        &self,
        parts: &mut request::Parts,
        body: Body,
        told: &mut HeaderMap,
    ) -> Result<Response<Body>, Box<v1::Error>> {
        let found = self.routes.find(&parts.method, parts.uri.path())?;
        if found.unary.is_none() && found.stream.is_none() {
            return self.nothing(parts, &found);
        }
        let shared = found.unary.is_some() && found.stream.is_some();
        let (route, captures, form) = choose(found, &negotiate::accept(&parts.headers))?;
        let last = parts.headers.get(convention::LAST_EVENT_ID);
        let ended = form.is_some() && last.is_some_and(|id| id == sse::ENDED);
        if ended {
            return Ok(status(StatusCode::NO_CONTENT));
        }
        if let (&Verb::HEAD, Some(form)) = (&parts.method, form) {
            return Ok(form.head());
        }
        let timeout = limits::asked(&parts.headers)?;
        let limit = self.trunk.limits().body_bytes_max;
        // The time a body takes is the call's.
        let begun = Instant::now();
        let reading = request(route, captures, parts, body, limit);
        let request = match limits::deadline(self.trunk.limits(), timeout, false) {
            Some(by) => timeout_at(by, reading).await.map_err(|_| Box::new(limits::expired()))??,
            None => reading.await?,
        };
        let timeout = timeout.map(|timeout| timeout.saturating_sub(begun.elapsed()));
        let method = route.method.clone();
        let dialect = match form {
            None => Dialect::Rest,
            Some(Form::Sse) => Dialect::Sse,
            Some(Form::Ndjson) => Dialect::Ndjson,
        };
        let input = Input::One(request.encode_to_vec().into());
        let call = Call {
            dialect,
            method: method.clone(),
            headers: metadata(&parts.headers),
            extensions: std::mem::take(&mut parts.extensions),
            timeout,
            input,
        };
        let mut reply = self.trunk.call(call).await;
        *told = reply.told();
        let Some(form) = form else {
            let (answer, _) =
                reply.only().await.map_err(|(status, _)| Box::new(error::from_status(&status)))?;
            return Ok(varied(shared, convention::resource(&method, &answer, &parts.headers)?));
        };
        if reply.is_refused() {
            let (outcome, _) = reply.finish().await;
            let status = outcome.err().unwrap_or_else(|| tonic::Status::unknown("refused without a reason"));
            return Err(Box::new(error::from_status(&status)));
        }
        Ok(varied(
            shared,
            sse::response(self.trunk.clone(), method, form, std::mem::take(&mut parts.headers), reply),
        ))
    }

    /// Answers a path that the verb does not have.
    fn nothing(&self, parts: &request::Parts, found: &Found<'_>) -> Result<Response<Body>, Box<v1::Error>> {
        if found.allow.is_empty() {
            let path = parts.uri.path();
            let hint = if has_verb(path) { "; a colon in a name is written %3A" } else { "" };
            let text = format!("no operation has the path {path:?}{hint}");
            return Err(Box::new(v1::Error::new(Reason::RouteNotFound, text)));
        }
        let verbs = format!("{}, OPTIONS", found.allow.join(", "));
        Ok(allow(self.trunk.registry(), &parts.method, &parts.headers, &verbs))
    }
}

/// Makes a request from all its places; its body has at most `limit` bytes.
pub(crate) async fn request(
    route: &Route,
    captures: Captures,
    parts: &request::Parts,
    body: Body,
    limit: usize,
) -> Result<DynamicMessage, Box<v1::Error>> {
    let query = parts.uri.query().unwrap_or_default();
    let (mut message, raw) = match route.rule.body.as_str() {
        "" => body::none(&route.method, body).await?,
        field => body::read(&route.method, field, &parts.headers, body, limit).await?,
    };
    for (name, value) in &captures {
        fill(&mut message, name, value)?;
    }
    if raw || route.rule.body != "*" {
        let mut taken: Vec<String> = captures.iter().map(|(name, _)| name.clone()).collect();
        if !route.rule.body.is_empty() {
            taken.extend(body::payload(&route.method));
        }
        bind::query(&mut message, query, &taken)?;
    } else if let Some((name, _)) = bind::pairs(query).first() {
        let text = "belongs in the JSON body";
        let error = v1::Error::new(Reason::UnknownParameter, format!("{name}: {text}"));
        return Err(Box::new(error.violation(name, text)));
    }
    convention::fill(&mut message, &route.method, &parts.headers)?;
    Ok(message)
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

/// Answers which verbs a path takes: as what OPTIONS asks for, else as a refusal.
pub(crate) fn allow(registry: &Registry, verb: &Verb, headers: &HeaderMap, verbs: &str) -> Response<Body> {
    let mut response = if verb == Verb::OPTIONS {
        status(StatusCode::NO_CONTENT)
    } else {
        let error = v1::Error::new(Reason::MethodNotAllowed, format!("{verb}: the path takes {verbs}"));
        problem::response(registry, headers, &error)
    };
    let verbs = HeaderValue::from_str(verbs).expect("verbs are a header");
    response.headers_mut().insert(header::ALLOW, verbs);
    response
}

/// Notes that the same path answers another `accept` in another way.
fn varied(shared: bool, mut response: Response<Body>) -> Response<Body> {
    if shared {
        response.headers_mut().append(header::VARY, HeaderValue::from_static("accept"));
    }
    response
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}
