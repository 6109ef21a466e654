//! The gate: every call of every dialect passes it once, as a gRPC request in memory, before a service
//! sees it. What is refused here is refused before anybody looks whether the thing is there.

use super::{
    super::{desc::Method, trunk::prefixed},
    ask, missing,
};
use crate::{
    caller::Caller,
    grant::{self, Part, Verdict},
};
use axum::body::Body;
use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use plexus_proto::{reason::Reason, v1};
use std::time::SystemTime;
use tonic::Status;

/// Bytes of a resource that a refusal tells.
const TOLD_BYTES_MAX: usize = 256;

/// Lets a call through whose caller may make it.
pub(crate) async fn pass(request: Request<Body>, method: &Method) -> Result<Request<Body>, Status> {
    if method.open {
        return Ok(request);
    }
    let refused = |error: &v1::Error| method.refusal(error);
    let caller = request.extensions().get::<Caller>().cloned().ok_or_else(|| refused(&missing()))?;
    if caller.is_expired(SystemTime::now()) {
        return Err(refused(&super::expired()));
    }
    if caller.grants.is_all() {
        return Ok(request);
    }
    if !method.kind.takes_one() {
        // What its requests name is not known when it begins, so it must be allowed on everything.
        decide(&caller, method, None).map_err(|e| refused(&e))?;
        return Ok(request);
    }
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|e| Status::from_error(e.into_inner()))?.to_bytes();
    let message = message(&body);
    let message = message.ok_or_else(|| refused(&unreadable()))?;
    decide(&caller, method, Some(&message)).map_err(|e| refused(&e))?;
    // What was judged is what is served, not what another reader of the same bytes might make of them.
    Ok(Request::from_parts(parts, Body::from(prefixed(&message))))
}

/// Decides on every resource that a request names: all or nothing.
fn decide(caller: &Caller, method: &Method, request: Option<&Bytes>) -> Result<(), Box<v1::Error>> {
    let resources = method.asks.resources(request).map_err(|ask::Unreadable| unreadable())?;
    let verb = method.asks.verb();
    let denied = |resource: &&Vec<Part>| grant::decide(&caller.grants, verb, resource) == Verdict::Denied;
    match resources.iter().find(denied) {
        None => Ok(()),
        Some(resource) => {
            let mut told = ask::spell(resource);
            told.truncate(TOLD_BYTES_MAX);
            let text = format!("no grant covers {} on {told}", verb.name);
            let error = v1::Error::new(Reason::NotAllowed, text);
            Err(Box::new(error.with("verb", verb.name).with("resource", told)))
        }
    }
}

fn unreadable() -> Box<v1::Error> {
    Box::new(v1::Error::new(Reason::FieldInvalid, "failed to decode Protobuf message"))
}

/// The only message of a gRPC body, which is not packed any more; `None`: there is none that can be read.
fn message(body: &Bytes) -> Option<Bytes> {
    let [packed, len @ ..] = *body.first_chunk::<5>()?;
    let message = body.slice(5..);
    (packed == 0 && message.len() == u32::from_be_bytes(len) as usize).then_some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_whole_or_not_at_all() {
        let body = |flag: u8, message: &[u8]| {
            Bytes::from([&[flag][..], &(message.len() as u32).to_be_bytes(), message].concat())
        };
        assert_eq!(message(&body(0, b"abc")).unwrap(), "abc");
        assert_eq!(message(&body(0, b"")).unwrap(), "");
        assert_eq!(message(&body(1, b"abc")), None, "what is packed is unpacked before");
        assert_eq!(message(&body(2, b"abc")), None);
        assert_eq!(message(&body(0, b"abc").slice(..7)), None);
        assert_eq!(message(&Bytes::new()), None);
    }
}
