//! Streams as text over REST paths: server-sent events and NDJSON.

use super::{
    Answers, Client, Dialect, rest,
    rpc::{Failure, Rpc},
};
use futures::{StreamExt, stream};
use http_body_util::BodyExt;
use plexus_tests::Lines;
use serde_json::{Value, json};

/// The id of a stream that ended by itself.
const ENDED: &str = "$end";

/// Opens a stream.
pub(crate) async fn open(client: &Client, rpc: &Rpc, request: &Value) -> Result<Answers, Failure> {
    let sent = rest::write(rpc, request);
    assert_eq!((&sent.verb, &sent.body), (&http::Method::GET, &None), "streams are GETs");
    let sse = client.dialect == Dialect::Sse;
    let kind = if sse { "text/event-stream" } else { "application/x-ndjson" };
    let http = client.http();
    let opened = http.open(sent.verb, &sent.path, &[("accept", kind)], Default::default()).await;
    let (head, body, connection) = opened.unwrap();
    if !head.status.is_success() {
        let body = body.collect().await.unwrap().to_bytes();
        return Err(Failure::of_json(&serde_json::from_slice(&body).unwrap()));
    }
    assert_eq!(head.headers["content-type"], kind);
    let lines = Lines::new(head, body, connection);
    if sse {
        return Ok(stream::unfold(Some(lines), event).boxed());
    }
    Ok(stream::unfold(Some(lines), line).boxed())
}

async fn event(lines: Option<Lines>) -> Option<(Result<Value, Failure>, Option<Lines>)> {
    let mut lines = lines?;
    loop {
        let event = lines.event().await.unwrap()?;
        if event.id.as_deref() == Some(ENDED) && (event.event.is_empty() || event.data == json!({})) {
            return None;
        }
        match event.event.as_str() {
            "failure" => return Some((Err(Failure::of_json(&event.data)), None)),
            "" if event.data.is_null() => {}
            "" => return Some((Ok(event.data), Some(lines))),
            // The event's name is the field, its data that field's value.
            name => return Some((Ok(json!({ name: event.data })), Some(lines))),
        }
    }
}

async fn line(lines: Option<Lines>) -> Option<(Result<Value, Failure>, Option<Lines>)> {
    let mut lines = lines?;
    let answer = lines.json().await.unwrap()?;
    match answer.get("failure") {
        Some(failure) => Some((Err(Failure::of_json(failure)), None)),
        None => Some((Ok(answer), Some(lines))),
    }
}
