//! The one way into the services: a gRPC request in memory. Native gRPC comes with its own, every other
//! dialect makes one here from encoded messages and gets encoded messages back. Deadline, drain and
//! counting happen here, and the gate is here, so they are the same for all.

use super::{
    auth::{self, Auth, gate},
    desc::{Method, Registry},
    drain::Drain,
    guard,
    limits::{self, Bounded, Silent, Stay, Tally, Trailers, Trailing, Verdict},
    rate::Rates,
    reply::Reply,
    services::Services,
    share::Shares,
};
use crate::{
    caller::{Caller, Deadline},
    config::Limits,
    error,
    frame::{Seat, Shared, TakesFrames},
    metrics::{ByDialect, Dialect, Each, Metrics},
    resume::Tokens,
};
use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use futures::{Stream, StreamExt, stream::BoxStream};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body_util::{Full, StreamBody};
use plexus_bus::Trace;
use plexus_proto::v1;
use prometheus_client::metrics::histogram::Histogram;
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};
use tonic::{Code, Status};
use tracing::Instrument;

/// The services and what every call needs; cheap to clone.
#[derive(Clone)]
pub(crate) struct Trunk(Arc<Parts>);

struct Parts {
    services: Services,
    registry: Registry,
    auth: Auth,
    limits: Limits,
    rates: Rates,
    shares: Shares,
    drain: Drain,
    tokens: Tokens,
    metrics: Arc<Metrics>,
    /// How long calls take, as the metrics have it.
    seconds: Each<Histogram>,
}

/// A call as a dialect makes it.
pub(crate) struct Call {
    /// How the client speaks.
    pub(crate) dialect: Dialect,
    /// What it calls.
    pub(crate) method: Arc<Method>,
    /// Its [`metadata`].
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
        services: Services,
        registry: Registry,
        (auth, tokens): (Auth, Tokens),
        limits: Limits,
        rates: Rates,
        drain: Drain,
        metrics: Metrics,
    ) -> Self {
        let shares = Shares::new(&limits, metrics.clone());
        let (metrics, seconds) = (metrics.into(), Each::default());
        let parts =
            Parts { services, registry, auth, limits, rates, shares, drain, tokens, metrics, seconds };
        Self(Arc::new(parts))
    }

    /// What is served.
    pub(crate) fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// Who may come in.
    pub(crate) fn auth(&self) -> &Auth {
        &self.0.auth
    }

    /// What requests are held to.
    pub(crate) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// How often callers may call.
    pub(crate) fn rates(&self) -> &Rates {
        &self.0.rates
    }

    /// How many streams and sessions callers may have open.
    pub(crate) fn shares(&self) -> &Shares {
        &self.0.shares
    }

    /// How the gateway leaves.
    pub(crate) fn drain(&self) -> &Drain {
        &self.0.drain
    }

    /// Makes and reads resume tokens.
    pub(crate) fn tokens(&self) -> &Tokens {
        &self.0.tokens
    }

    /// What is counted.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
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
        *request.uri_mut() = call.method.uri.clone();
        *request.extensions_mut() = call.extensions;
        request.extensions_mut().insert(TakesFrames { ids: call.dialect == Dialect::Sse });
        *request.headers_mut() = call.headers;
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
        Reply::new(self.serve(call.dialect, Some(&call.method), call.timeout, request).await)
    }

    /// Serves a gRPC request, `method` being the one it names if there is such.
    pub(crate) async fn serve(
        &self,
        dialect: Dialect,
        method: Option<&Arc<Method>>,
        asked: Option<Duration>,
        request: Request<Body>,
    ) -> Response<Body> {
        match self.0.rates.take(request.extensions()) {
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
                Tally::done(&self.0.metrics, dialect, method.map(|m| &**m), refusal.code());
                let mut response = refusal.into_http();
                response.extensions_mut().insert(limited.told);
                response
            }
        }
    }

    /// What a stream keeps while it is open; an error if its caller has too many.
    fn stay(
        &self,
        dialect: Dialect,
        method: Option<&Method>,
        request: &mut Request<Body>,
    ) -> Result<Option<Box<Stay>>, Box<v1::Error>> {
        if dialect == Dialect::Websocket {
            return Ok(None);
        }
        let extensions = request.extensions();
        let caller = extensions.get::<Caller>();
        let watched = caller.filter(|_| method.is_none_or(|m| !m.open)).cloned().zip(self.0.auth.watch());
        let stay = Stay {
            ends: caller.and_then(ends),
            watched: watched.map(Box::new),
            leave: self.0.drain.enter(extensions),
            seat: method.filter(|m| m.resumes).map(|_| Arc::new(Seat::new(Box::new(|_| Vec::new())))),
            _share: caller.map(|caller| self.0.shares.take(caller)).transpose()?.flatten(),
        };
        if let Some(seat) = stay.seat.clone() {
            request.extensions_mut().insert(seat);
        }
        Ok(Some(Box::new(stay)))
    }

    /// Through the gate and to the service.
    async fn pass(&self, method: Option<&Arc<Method>>, request: Request<Body>) -> Response<Body> {
        let Some(method) = method else { return error::refusal(&auth::missing(), false).into_http() };
        match gate::pass(request, method).await {
            Ok(request) => match self.0.services.call(method.service(), request) {
                Some(answer) => answer.await,
                None => Status::unimplemented("the service is described and not served").into_http(),
            },
            Err(refusal) => refusal.into_http(),
        }
    }

    async fn run(
        &self,
        dialect: Dialect,
        method: Option<&Arc<Method>>,
        asked: Option<Duration>,
        mut request: Request<Body>,
    ) -> Response<Body> {
        let Parts { limits, metrics, .. } = &*self.0;
        // What is not in the contract (reflection) may stream, so it is treated as a stream.
        let streams = method.is_none_or(|m| m.kind.streams());
        let at = limits::deadline(limits, asked, streams);
        if let Some(at) = at {
            request.extensions_mut().insert(Deadline(at.into_std()));
        }
        // What is not in the contract does not speak its words either.
        let told = method.is_some_and(|m| m.told);
        let stay = if streams { self.stay(dialect, method.map(|m| &**m), &mut request) } else { Ok(None) };
        let stay = match stay {
            Ok(stay) => stay,
            Err(error) => {
                let refusal = error::refusal(&error, told);
                Tally::done(metrics, dialect, method.map(|m| &**m), refusal.code());
                return refusal.into_http();
            }
        };
        let began = tokio::time::Instant::now();
        let span = span(method.map_or("", |m| m.name()), dialect, request.extensions());
        join_trace(&span, request.headers_mut());
        // Pinned where it is: what is moved further is a pointer, and not the state of the whole call.
        let answer = std::pin::pin!(self.pass(method, request).instrument(span));
        let answer = match at {
            Some(at) => tokio::time::timeout_at(at, answer).await.ok(),
            None => Some(answer.await),
        };
        let Some(mut response) = answer else {
            Tally::done(metrics, dialect, method.map(|m| &**m), Code::DeadlineExceeded);
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
            let tally = Tally { metrics: metrics.clone(), dialect, method: method.cloned(), verdict };
            // A body that others stand in for says nothing, and need not keep the buffers that it would use.
            let silent = response.extensions().get::<Shared>().is_some();
            return response.map(|body| {
                let body = if silent { Body::new(Silent) } else { body };
                Body::new(Bounded::new(body, at, stay, trailers, tally))
            });
        }
        Tally::done(metrics, dialect, method.map(|m| &**m), code);
        let seconds = || metrics.call_seconds.get_or_create(&ByDialect { dialect }).clone();
        self.0.seconds.get(dialect, seconds).observe(began.elapsed().as_secs_f64());
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

/// The metadata of a call, or of an answer: all but the headers of a dialect or a connection, and the outcome.
pub(crate) fn metadata(headers: &HeaderMap) -> HeaderMap {
    let all = headers.iter().filter(|(name, _)| is_metadata(name));
    all.map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn is_metadata(name: &HeaderName) -> bool {
    !matches!(
        name.as_str(),
        "accept"
            | "accept-encoding"
            | "connect-accept-encoding"
            | "connect-content-encoding"
            | "connection"
            | "content-encoding"
            | "content-length"
            | "content-type"
            | "grpc-accept-encoding"
            | "grpc-encoding"
            | "grpc-message"
            | "grpc-status"
            | "grpc-status-details-bin"
            | "grpc-timeout"
            | "host"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
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
