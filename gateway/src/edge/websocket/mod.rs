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
use http::{HeaderMap, HeaderName, Request, Response};

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
    let of = |name: HeaderName| parts.headers.get(&name).map(|value| (name, value.clone()));
    let headers: HeaderMap = METADATA.into_iter().filter_map(of).collect();
    let (trunk, form) = (trunk.clone(), Form::of(protocol));
    let tasks = trunk.drain().tasks.clone();
    let cut = trunk.drain().cut.clone();
    tasks.spawn(async move {
        // Boxed, so that the task that stays does not carry the handshake's size.
        let Some(socket) = Box::pin(socket::take(upgrade, trunk.limits())).await else { return };
        let crowded = parts.extensions.get::<Crowded>().map(Crowded::error);
        let session = EventLoop::new(trunk, form, headers, parts.extensions, socket, echo);
        match crowded {
            None => drop(cut.run_until_cancelled_owned(session.run()).await),
            Some(error) => drop(cut.run_until_cancelled_owned(session.refuse(*error)).await),
        }
    });
    response
}

/// The trace of a request, so that an error can quote it.
fn traced(error: &mut plexus_proto::v1::Error, headers: &HeaderMap) {
    super::problem::trace(error, headers);
}

/// Reads an error back from a status, with its trace.
fn failure(status: &tonic::Status, headers: &HeaderMap) -> plexus_proto::v1::Error {
    let mut failure = error::from_status(status);
    traced(&mut failure, headers);
    failure
}
