//! Connect: unary calls as plain POST or GET, streams in envelopes.

use super::{
    Answers, Client, Dialect,
    rpc::{BASE64, Failure, Rpc},
};
use base64::Engine;
use bytes::{Buf, Bytes, BytesMut};
use futures::{FutureExt, StreamExt, stream};
use http::Method as Verb;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use plexus_tests::Answer;
use serde_json::Value;
use tokio::task::JoinSet;

/// Flag of the envelope that ends a stream.
const END: u8 = 0b10;

/// Calls a method without side effects by GET.
pub(crate) async fn get(client: &Client, rpc: &Rpc, request: &Value) -> Result<Answers, Failure> {
    let message = utf8_percent_encode(&request.to_string(), NON_ALPHANUMERIC).to_string();
    let path = format!("{}?connect=v1&encoding=json&message={message}", rpc.path);
    let headers = deadline(client);
    let headers: Vec<_> = headers.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let answer = client.http().send(Verb::GET, &path, &headers, "").await.unwrap();
    only(rpc, &answer)
}

/// Calls a method by POST, as JSON or Protobuf.
pub(crate) async fn post(client: &Client, rpc: &Rpc, request: &Value) -> Result<Answers, Failure> {
    let json = client.dialect == Dialect::ConnectJson;
    let body = if json { request.to_string().into_bytes() } else { rpc.encode(request) };
    let form = if json { "json" } else { "proto" };
    let deadline = deadline(client);
    let mut headers: Vec<_> = deadline.iter().map(|(k, v)| (*k, v.as_str())).collect();
    headers.push(("connect-protocol-version", "1"));
    let http = client.http();
    let kind =
        if rpc.streams { format!("application/connect+{form}") } else { format!("application/{form}") };
    headers.push(("content-type", &kind));
    if !rpc.streams {
        let answer = http.send(Verb::POST, &rpc.path, &headers, body).await.unwrap();
        return only(rpc, &answer);
    }
    let (head, incoming, connection) =
        http.open(Verb::POST, &rpc.path, &headers, enveloped(&body)).await.unwrap();
    assert_eq!(head.status, 200);
    assert_eq!(head.headers["content-type"], kind.as_str());
    let rpc = rpc.clone();
    let answers = stream::unfold(Some(Envelopes::new(incoming, connection)), move |envelopes| {
        let rpc = rpc.clone();
        async move {
            let mut envelopes = envelopes?;
            let (flags, bytes) = envelopes.next().await.expect("a stream ends with an envelope that says so");
            if flags & END == 0 {
                let answer = if json { serde_json::from_slice(&bytes).unwrap() } else { rpc.decode(&bytes) };
                return Some((Ok(answer), Some(envelopes)));
            }
            let end: Value = serde_json::from_slice(&bytes).unwrap();
            end.get("error").map(|error| (Err(failure(error)), None))
        }
    });
    Ok(answers.boxed())
}

fn only(rpc: &Rpc, answer: &Answer) -> Result<Answers, Failure> {
    if !answer.status.is_success() {
        return Err(failure(&answer.json()));
    }
    let json = match answer.headers["content-type"].to_str().unwrap() {
        "application/json" => answer.json(),
        "application/proto" => rpc.decode(&answer.body),
        other => panic!("{other}"),
    };
    Ok(stream::once(async { Ok(json) }.boxed()).boxed())
}

fn failure(error: &Value) -> Failure {
    let details = error["details"].as_array().cloned().unwrap_or_default();
    let details = details.iter().map(|d| {
        let value = BASE64.decode(d["value"].as_str().unwrap()).unwrap();
        (d["type"].as_str().unwrap().to_owned(), value)
    });
    Failure::of_details(error["code"].as_str().unwrap_or_else(|| panic!("{error}")), details)
}

fn deadline(client: &Client) -> Vec<(&'static str, String)> {
    client.deadline.map(|d| ("connect-timeout-ms", d.as_millis().to_string())).into_iter().collect()
}

/// A message behind its flags and its length.
pub(crate) fn enveloped(message: &[u8]) -> Bytes {
    let len = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &len[..], message].concat().into()
}

/// A body of envelopes: flags, length, message.
pub(crate) struct Envelopes {
    body: Incoming,
    rest: BytesMut,
    _connection: JoinSet<()>,
}

impl Envelopes {
    pub(crate) fn new(body: Incoming, connection: JoinSet<()>) -> Self {
        Self { body, rest: BytesMut::new(), _connection: connection }
    }

    /// The next envelope; `None` at the end of the body.
    pub(crate) async fn next(&mut self) -> Option<(u8, Bytes)> {
        loop {
            if let Some([flags, len @ ..]) = self.rest.first_chunk::<5>() {
                let (flags, len) = (*flags, u32::from_be_bytes(*len) as usize);
                if self.rest.len() >= 5 + len {
                    self.rest.advance(5);
                    return Some((flags, self.rest.split_to(len).freeze()));
                }
            }
            match self.body.frame().await {
                Some(frame) => self.rest.extend_from_slice(&frame.unwrap().into_data().unwrap_or_default()),
                None => {
                    assert!(self.rest.is_empty(), "the body ends within an envelope");
                    return None;
                }
            }
        }
    }
}
