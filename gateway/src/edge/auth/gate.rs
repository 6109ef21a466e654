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
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use plexus_proto::{reason::Reason, v1};
use std::{io::Read, time::SystemTime};
use tonic::Status;

/// Bytes of a resource that a refusal tells.
const TOLD_BYTES_MAX: usize = 256;

/// Lets a call through whose caller may make it.
pub(crate) async fn pass(
    request: Request<Body>,
    method: &Method,
    message_bytes_max: usize,
) -> Result<Request<Body>, Status> {
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
    let message = message(&body, &parts.headers, message_bytes_max);
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

/// The only message of a gRPC body, decompressed; `None`: there is none that can be read.
fn message(body: &Bytes, headers: &HeaderMap, bytes_max: usize) -> Option<Bytes> {
    let [packed, len @ ..] = *body.first_chunk::<5>()?;
    let message = body.slice(5..);
    if message.len() != u32::from_be_bytes(len) as usize {
        return None;
    }
    match packed {
        0 => Some(message),
        1 if headers.get("grpc-encoding").is_some_and(|v| v == "gzip") => {
            let mut out = Vec::new();
            let most = bytes_max as u64 + 1;
            flate2::read::MultiGzDecoder::new(&message[..]).take(most).read_to_end(&mut out).ok()?;
            (out.len() <= bytes_max).then(|| out.into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use http::HeaderValue;
    use std::io::Write;

    fn body(flag: u8, message: &[u8]) -> Bytes {
        [&[flag][..], &(message.len() as u32).to_be_bytes(), message].concat().into()
    }

    #[test]
    fn a_packed_message_is_read_like_a_plain_one_and_within_the_same_bound() {
        let gzip = HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-encoding"),
            HeaderValue::from_static("gzip"),
        )]);
        let packed = |message: &[u8]| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(message).unwrap();
            encoder.finish().unwrap()
        };
        let none = HeaderMap::new();
        assert_eq!(message(&body(0, b"abc"), &none, 3).unwrap(), "abc");
        assert_eq!(message(&body(1, &packed(b"abc")), &gzip, 3).unwrap(), "abc");
        assert_eq!(message(&body(1, &packed(b"abcd")), &gzip, 3), None);
        assert_eq!(message(&body(1, &packed(b"abc")), &none, 3), None);
        assert_eq!(message(&body(2, b"abc"), &gzip, 3), None);
        assert_eq!(message(&body(1, b"abc"), &gzip, 3), None);
        assert_eq!(message(&body(0, b"abc").slice(..7), &none, 3), None);
        assert_eq!(message(&Bytes::new(), &none, 3), None);
    }
}
