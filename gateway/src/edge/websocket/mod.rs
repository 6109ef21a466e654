//! WebSocket sessions: many calls and streams on one socket, in JSON or Protobuf by subprotocol
//! (session.proto). One more dialect in front of the trunk; it knows no capability.
//!
//! - [`handshake`] the upgrade, over HTTP/1.1 and HTTP/2 (RFC 6455, RFC 8441)
//! - [`socket`] the connection taken out of hyper
//! - [`form`] frames in both forms
//! - [`call`] one call of a session as a stream of answers, [`calls`] all that are open
//! - [`outbox`] frames that wait to be written
//! - [`event_loop`] one socket, many calls, and its end

mod call;
mod calls;
mod event_loop;
mod form;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod handshake;
mod outbox;
mod socket;

use super::{crowd::Crowded, trunk::Trunk};
use crate::error;
use axum::body::Body;
use event_loop::EventLoop;
use form::Form;
use http::{Extensions, HeaderMap, HeaderName, Request, Response};
use hyper::upgrade::OnUpgrade;
use plexus_proto::v1;

/// The path of sessions.
pub(crate) const PATH: &str = "/v1/ws";

/// Headers of the handshake that are metadata of the session's calls. The rest is let go: a session stays.
const METADATA: [HeaderName; 2] =
    [HeaderName::from_static("traceparent"), HeaderName::from_static("tracestate")];

/// Answers the handshake and leaves the session to a task of the drain. One that is an `echo` gives
/// frames back as they came.
pub(crate) fn open(trunk: &Trunk, echo: bool, mut request: Request<Body>) -> Response<Body> {
    let (response, protocol, upgrade) = match handshake::accept(&mut request) {
        Ok(accepted) => accepted,
        Err(refusal) => return refusal.response(),
    };
    let (parts, _) = request.into_parts();
    let http::request::Parts { headers, extensions, .. } = parts;
    // Boxed, so that the task that stays does not carry the handshake's size.
    let begin = Box::pin(begin(trunk.clone(), Form::of(protocol), upgrade, headers, extensions, echo));
    trunk.drain().tasks.spawn(async move {
        match begin.await {
            Some((session, None)) => session.run().await,
            Some((session, Some(refusal))) => session.refuse(refusal).await,
            None => {}
        }
    });
    response
}

/// Waits for the socket and makes a session of it, and what it is refused with at once; `None` where the
/// client went away, or the drain took too long.
async fn begin(
    trunk: Trunk,
    form: Form,
    upgrade: OnUpgrade,
    headers: HeaderMap,
    extensions: Extensions,
    echo: bool,
) -> Option<(Box<EventLoop>, Option<Box<v1::Error>>)> {
    let of = |name: HeaderName| headers.get(&name).map(|value| (name, value.clone()));
    let headers: HeaderMap = METADATA.into_iter().filter_map(of).collect();
    let cut = trunk.drain().cut.clone();
    let socket = cut.run_until_cancelled(socket::take(upgrade, trunk.limits())).await.flatten()?;
    let crowded = extensions.get::<Crowded>().map(Crowded::error);
    let mut session = EventLoop::new(trunk, form, boxed(headers), extensions, socket, echo);
    let refusal = crowded.or_else(|| session.take_share().err());
    Some((session, refusal))
}

/// Metadata where there is any: most sessions and calls have none.
type Metadata = Option<Box<HeaderMap>>;

fn boxed(headers: HeaderMap) -> Metadata {
    (!headers.is_empty()).then(|| Box::new(headers))
}

/// The trace of a request, so that an error can quote it.
fn traced(error: &mut v1::Error, headers: &Metadata) {
    if let Some(headers) = headers {
        super::problem::trace(error, headers);
    }
}

/// Reads an error back from a status, with its trace.
fn failure(status: &tonic::Status, headers: &Metadata) -> v1::Error {
    let mut failure = error::from_status(status);
    traced(&mut failure, headers);
    failure
}
