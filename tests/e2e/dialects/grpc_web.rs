//! gRPC-Web: gRPC over HTTP/1.1, its trailers as the last envelope.

use super::{
    Answers, Client,
    connect::{Envelopes, enveloped},
    rpc::{BASE64, Failure, Rpc},
};
use base64::Engine;
use futures::{StreamExt, stream};
use http::{HeaderMap, HeaderName, Method as Verb};
use percent_encoding::percent_decode_str;
use serde_json::Value;

/// Flag of the envelope that carries the trailers.
const TRAILERS: u8 = 0x80;
const KIND: &str = "application/grpc-web+proto";

/// Calls a method.
pub(crate) async fn open(client: &Client, rpc: &Rpc, request: &Value) -> Result<Answers, Failure> {
    let timeout = client.deadline.map(|d| format!("{}m", d.as_millis()));
    let mut headers = vec![("content-type", KIND), ("x-grpc-web", "1")];
    headers.extend(timeout.as_deref().map(|t| ("grpc-timeout", t)));
    let http = client.http();
    let body = enveloped(&rpc.encode(request));
    let (head, incoming, connection) = http.open(Verb::POST, &rpc.path, &headers, body).await.unwrap();
    assert_eq!(head.status, 200);
    assert_eq!(head.headers["content-type"], KIND);
    if let Some(failure) = outcome(&head.headers) {
        return Err(failure);
    }
    let rpc = rpc.clone();
    let answers = stream::unfold(Some(Envelopes::new(incoming, connection)), move |envelopes| {
        let rpc = rpc.clone();
        async move {
            let mut envelopes = envelopes?;
            let (flags, bytes) = envelopes.next().await.expect("a call ends with its trailers");
            if flags & TRAILERS == 0 {
                return Some((Ok(rpc.decode(&bytes)), Some(envelopes)));
            }
            let trailers = trailers(std::str::from_utf8(&bytes).unwrap());
            assert!(trailers.contains_key("grpc-status"), "{trailers:?}");
            outcome(&trailers).map(|failure| (Err(failure), None))
        }
    });
    Ok(answers.boxed())
}

fn trailers(text: &str) -> HeaderMap {
    let pairs = text.lines().filter(|l| !l.is_empty()).map(|line| line.split_once(':').unwrap());
    pairs.map(|(k, v)| (k.parse::<HeaderName>().unwrap(), v.trim().parse().unwrap())).collect()
}

/// The failure that headers or trailers tell; `None`: they tell success, or nothing yet.
fn outcome(headers: &HeaderMap) -> Option<Failure> {
    let text = |name: &str| headers.get(name).map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
    let code: i32 = text("grpc-status").parse().ok().filter(|code| *code != 0)?;
    assert!(percent_decode_str(&text("grpc-message")).decode_utf8().is_ok());
    Some(Failure::of_status(code, &BASE64.decode(text("grpc-status-details-bin")).unwrap()))
}
