//! The one way into the services: a gRPC request in memory. Native gRPC comes with its own, every other
//! dialect makes one here from encoded messages and gets encoded messages back. Deadline, drain and
//! counting happen here, and the gate is here, so they are the same for all.

use super::{
    auth::{self, Auth, gate},
    desc::{Method, Registry},
    drain::{Drain, Leave},
    guard,
    limits::{self, Bounded, Silent, Tally, Trailers, Trailing, Verdict},
    rate::Rates,
    reply::Reply,
};
use crate::{
    caller::{Caller, Deadline},
    config::Limits,
    error,
    frame::{Shared, TakesFrames},
    metrics::{ByDialect, Dialect, Metrics},
    resume::Tokens,
};
use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use futures::{Stream, StreamExt, stream::BoxStream};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body_util::{Full, StreamBody};
use plexus_bus::Trace;
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};
use tonic::{Code, Status};
use tower::ServiceExt;
use tracing::Instrument;

/// Headers of a dialect or a connection, which are no metadata of a call.
const NOT_METADATA: [HeaderName; 16] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::HOST,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("connect-accept-encoding"),
    HeaderName::from_static("connect-content-encoding"),
    HeaderName::from_static("grpc-accept-encoding"),
    HeaderName::from_static("grpc-encoding"),
    HeaderName::from_static("grpc-timeout"),
];

/// The outcome, which is no metadata either.
const OUTCOME: [&str; 3] = ["grpc-status", "grpc-message", "grpc-status-details-bin"];

/// The services and what every call needs; cheap to clone.
#[derive(Clone)]
pub(crate) struct Trunk {
    services: axum::Router,
    shared: Arc<Parts>,
}

struct Parts {
    registry: Registry,
    auth: Auth,
    limits: Limits,
    rates: Rates,
    drain: Drain,
    tokens: Tokens,
    metrics: Arc<Metrics>,
}

/// A call as a dialect makes it.
pub(crate) struct Call {
    /// How the client speaks.
    pub(crate) dialect: Dialect,
    /// What it calls.
    pub(crate) method: Arc<Method>,
    /// Its metadata; headers of the dialect itself are left out on the way.
    pub(crate) headers: HeaderMap,
    /// The caller and whatever else came with the connection.
    pub(crate) extensions: Extensions,
    /// The time it asks for, if any.
    pub(crate) timeout: Option<Duration>,
    /// Its requests.
    pub(crate) input: Input,
}

/// The encoded requests of a call.
pub(crate) enum Input {
    /// Exactly one.
    One(Bytes),
    /// As they come; an error ends the call.
    Many(BoxStream<'static, Result<Bytes, Status>>),
}

impl Trunk {
    /// Puts the services together with what their calls are held to.
    pub(crate) fn new(
        services: tonic::service::Routes,
        registry: Registry,
        (auth, tokens): (Auth, Tokens),
        limits: Limits,
        rates: Rates,
        drain: Drain,
        metrics: Metrics,
    ) -> Self {
        let services = services.prepare().into_axum_router();
        let metrics = metrics.into();
        let parts = Parts { registry, auth, limits, rates, drain, tokens, metrics };
        Self { services, shared: Arc::new(parts) }
    }

    /// What is served.
    pub(crate) fn registry(&self) -> &Registry {
        &self.shared.registry
    }

    /// Who may come in.
    pub(crate) fn auth(&self) -> &Auth {
        &self.shared.auth
    }

    /// What requests are held to.
    pub(crate) fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// How often callers may call.
    pub(crate) fn rates(&self) -> &Rates {
        &self.shared.rates
    }

    /// How the gateway leaves.
    pub(crate) fn drain(&self) -> &Drain {
        &self.shared.drain
    }

    /// Makes and reads resume tokens.
    pub(crate) fn tokens(&self) -> &Tokens {
        &self.shared.tokens
    }

    /// What is counted.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Calls a method. Dropping the reply cancels the call.
    pub(crate) async fn call(&self, call: Call) -> Reply {
        let body = match call.input {
            Input::One(message) => Body::new(Full::new(prefixed(&message))),
            Input::Many(messages) => {
                Body::new(StreamBody::new(messages.map(|m| m.map(|m| http_body::Frame::data(prefixed(&m))))))
            }
        };
        let mut request = Request::new(body);
        *request.method_mut() = http::Method::POST;
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = call.method.path.parse().expect("a method's path is a path");
        *request.extensions_mut() = call.extensions;
        request.extensions_mut().insert(TakesFrames { ids: call.dialect == Dialect::Sse });
        *request.headers_mut() = metadata(call.headers);
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
        Reply::new(self.serve(call.dialect, Some(&call.method), call.timeout, request).await)
    }

    /// Serves a gRPC request, `method` being the one it names if there is such.
    pub(crate) async fn serve(
        &self,
        dialect: Dialect,
        method: Option<&Method>,
        asked: Option<Duration>,
        request: Request<Body>,
    ) -> Response<Body> {
        let name = method.map(Method::name).unwrap_or_default();
        match self.shared.rates.take(request.extensions()) {
            Ok(standing) => {
                let mut response = self.run(dialect, method, asked, request).await;
                // The frames of a session have no place for it.
                if let Some(told) = standing.told().filter(|_| dialect != Dialect::Websocket) {
                    response.extensions_mut().insert(told);
                }
                response
            }
            Err(limited) => {
                let refusal = error::refusal(&limited.error, method.is_some_and(|m| m.told));
                Tally::done(&self.shared.metrics, dialect, name.to_owned(), refusal.code());
                let mut response = refusal.into_http();
                response.extensions_mut().insert(limited.told);
                response
            }
        }
    }

    /// The end of a stream with the gateway. A session leaves as a whole, and says how its streams go on.
    fn leave(&self, dialect: Dialect, extensions: &Extensions) -> Option<Leave> {
        (dialect != Dialect::Websocket).then(|| self.shared.drain.enter(extensions))
    }

    async fn run(
        &self,
        dialect: Dialect,
        method: Option<&Method>,
        asked: Option<Duration>,
        mut request: Request<Body>,
    ) -> Response<Body> {
        let Parts { limits, metrics, .. } = &*self.shared;
        let name = method.map(Method::name).unwrap_or_default();
        // What is not in the contract (reflection) may stream, so it is treated as a stream.
        let streams = method.is_none_or(|m| m.kind.streams());
        let at = limits::deadline(limits, asked, streams);
        // A session looks after its caller's credentials by itself, and takes fresh ones.
        let caller = request.extensions().get::<Caller>().filter(|_| dialect != Dialect::Websocket);
        let ends = caller.and_then(ends);
        let watch = if streams { self.shared.auth.watch() } else { None };
        let watched = caller.filter(|_| method.is_none_or(|m| !m.open)).cloned().zip(watch);
        if let Some(at) = at {
            request.extensions_mut().insert(Deadline(at.into_std()));
        }
        let leave = if streams { self.leave(dialect, request.extensions()) } else { None };
        let began = tokio::time::Instant::now();
        let span = span(name, dialect, request.extensions());
        join_trace(&span, request.headers_mut());
        let services = self.services.clone();
        let answer = async move {
            let request = match method {
                Some(method) => gate::pass(request, method, limits.message_bytes_max).await,
                None => Err(error::refusal(&auth::missing(), false)),
            };
            match request {
                Ok(request) => services.oneshot(request).await,
                Err(refusal) => Ok(refusal.into_http()),
            }
        };
        let answer = answer.instrument(span);
        let answer = match at {
            Some(at) => tokio::time::timeout_at(at, answer).await.ok(),
            None => Some(answer.await),
        };
        // What is not in the contract does not speak its words either.
        let told = method.is_some_and(|m| m.told);
        let Some(Ok(mut response)) = answer else {
            Tally::done(metrics, dialect, name.to_owned(), Code::DeadlineExceeded);
            return error::refusal(&limits::expired(), told).into_http();
        };
        let bare = |status: Status| guard::bare(&status, limits.message_bytes_max);
        if let Some(error) = Status::from_header_map(response.headers()).and_then(bare) {
            response = error::refusal(&error, told).into_http();
        }
        let code = Status::from_header_map(response.headers()).map_or(Code::Ok, |s| s.code());
        let trailers = response.extensions().get::<Trailers>().map(|t| t.0.clone());
        if streams && code == Code::Ok {
            let verdict = Verdict::cancelled();
            response.extensions_mut().insert(verdict.clone());
            let tally = Tally { metrics: metrics.clone(), dialect, method: name.to_owned(), told, verdict };
            // A body that others stand in for says nothing, and need not keep the buffers that it would use.
            let silent = response.extensions().get::<Shared>().is_some();
            return response.map(|body| {
                let body = if silent { Body::new(Silent) } else { body };
                Body::new(Bounded::new(body, (at, ends), watched, leave, trailers, tally))
            });
        }
        Tally::done(metrics, dialect, name.to_owned(), code);
        metrics.call_seconds.get_or_create(&ByDialect { dialect }).observe(began.elapsed().as_secs_f64());
        match trailers {
            Some(trailers) => response.map(|body| Body::new(Trailing::new(body, trailers))),
            None => response,
        }
    }
}

/// When a stream ends because its caller's credentials do.
fn ends(caller: &Caller) -> Option<tokio::time::Instant> {
    let left = caller.expires_at?.duration_since(SystemTime::now()).unwrap_or_default();
    tokio::time::Instant::now().checked_add(left)
}

/// The span of a call, with the session that it came through.
fn span(method: &str, dialect: Dialect, extensions: &Extensions) -> tracing::Span {
    let span = tracing::debug_span!("gateway.call", method, ?dialect, session = tracing::field::Empty);
    let session = extensions.get::<Caller>().map_or("", |caller| &caller.principal.session);
    if !session.is_empty() {
        span.record("session", session);
    }
    span
}

/// Makes the call's span a child of the client's, and lets the services see the span as the caller.
fn join_trace(span: &tracing::Span, headers: &mut HeaderMap) {
    let word = |name| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let trace = Trace::new(word("traceparent"), word("tracestate")).enter(span);
    for (name, word) in [("traceparent", trace.parent), ("tracestate", trace.state)] {
        match HeaderValue::try_from(word) {
            Ok(word) if !word.is_empty() => drop(headers.insert(name, word)),
            _ => drop(headers.remove(name)),
        }
    }
}

/// Leaves only metadata.
pub(crate) fn metadata(mut headers: HeaderMap) -> HeaderMap {
    for name in NOT_METADATA {
        headers.remove(name);
    }
    for name in OUTCOME {
        headers.remove(name);
    }
    headers
}

/// A message behind the five bytes that gRPC puts before it.
pub(crate) fn prefixed(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(5 + message.len());
    out.put_u8(0);
    out.put_u32(message.len() as u32);
    out.put_slice(message);
    out.freeze()
}

/// Requests that come as a stream.
impl<S: Stream<Item = Result<Bytes, Status>> + Send + 'static> From<S> for Input {
    fn from(messages: S) -> Self {
        Self::Many(messages.boxed())
    }
}
