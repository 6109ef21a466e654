//! Streams as text.

use crate::{Server, eventually};
use serde_json::json;
use std::{sync::atomic::Ordering, time::Duration};

const SSE: (&str, &str) = ("accept", "text/event-stream");
const NDJSON: (&str, &str) = ("accept", "application/x-ndjson");
const MESSAGES: &str = "/v1/topics/demo/messages";

async fn publish(server: &Server, text: &'static str) {
    let answer = server.send("POST", MESSAGES, &[("content-type", "text/plain")], text).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn an_event_is_named_by_its_kind_and_says_where_to_go_on() {
    let server = Server::start().await;
    let (_connection, mut reader) = server.open(MESSAGES, &[SSE]).await;
    assert_eq!(reader.status, 200);
    assert_eq!(reader.headers["content-type"], "text/event-stream");
    assert_eq!(reader.headers["cache-control"], "no-store");
    assert_eq!(reader.event().await.unwrap(), ("start".into(), String::new(), json!({ "topic": "demo" })));
    publish(&server, "one").await;
    let (name, id, data) = reader.event().await.unwrap();
    assert_eq!((name.as_str(), id.as_str(), &data["data"]), ("message", "1-1", &json!("b25l")));
}

#[tokio::test]
async fn every_reader_gets_every_message_in_its_own_form() {
    let server = Server::start().await;
    let (_a, mut events) = server.open(MESSAGES, &[SSE]).await;
    let (_b, mut lines) = server.open(MESSAGES, &[NDJSON]).await;
    assert_eq!(lines.headers["content-type"], "application/x-ndjson");
    assert_eq!(events.event().await.unwrap().0, "start");
    assert_eq!(lines.line().await.unwrap(), json!({ "start": { "topic": "demo" } }));
    for text in ["one", "two", "three"] {
        publish(&server, text).await;
    }
    for seq in 1..=3 {
        let position = format!("1-{seq}");
        assert_eq!(events.event().await.unwrap().1, position);
        assert_eq!(lines.line().await.unwrap()["message"]["position"], json!(position));
    }
}

#[tokio::test]
async fn a_reader_goes_on_after_the_last_event_it_saw() {
    let server = Server::start().await;
    for text in ["one", "two", "three"] {
        publish(&server, text).await;
    }
    // The header wins over the query, which EventSource repeats from its URL.
    let path = format!("{MESSAGES}?after=1-1");
    let (_connection, mut reader) = server.open(&path, &[SSE, ("last-event-id", "1-2")]).await;
    assert_eq!(reader.event().await.unwrap().0, "start");
    assert_eq!(reader.event().await.unwrap().1, "1-3");
}

#[tokio::test]
async fn a_stream_that_ended_tells_its_reader_to_stay_away() {
    let server = Server::start().await;
    publish(&server, "one").await;
    let path = format!("{MESSAGES}?limit=1");
    let (_connection, mut reader) = server.open(&path, &[SSE]).await;
    assert_eq!(reader.event().await.unwrap().0, "start");
    assert_eq!(reader.event().await.unwrap().0, "message");
    assert_eq!(reader.event().await.unwrap().0, "end");
    let last = reader.until("\n\n").await.unwrap();
    assert_eq!(last, "id: $end", "the end is said once, its id is kept");
    assert_eq!(reader.until("\n\n").await, None);
    let again = server.send("GET", &path, &[SSE, ("last-event-id", "$end")], "").await;
    assert_eq!((again.status.as_u16(), again.body.len()), (204, 0));
}

#[tokio::test]
async fn a_failure_is_an_event_and_says_when_to_come_back() {
    let server = Server::start().await;
    let (_a, mut events) = server.open(MESSAGES, &[SSE]).await;
    let (_b, mut lines) = server.open(MESSAGES, &[NDJSON]).await;
    assert_eq!(events.event().await.unwrap().0, "start");
    assert!(lines.line().await.is_some());
    publish(&server, "poison").await;
    let block = events.until("\n\n").await.unwrap();
    assert!(block.starts_with("event: failure\nretry: 700\ndata: {"), "{block}");
    assert_eq!(events.until("\n\n").await, None);
    assert_eq!(lines.line().await.unwrap()["failure"]["reason"], "OVERLOADED");
    assert_eq!(lines.line().await, None);
}

#[tokio::test]
async fn a_stream_that_never_began_is_a_problem() {
    let server = Server::start().await;
    for accept in [SSE, NDJSON] {
        let answer = server.send("GET", "/v1/topics/missing/messages", &[accept], "").await;
        assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (404, &json!("TOPIC_NOT_FOUND")));
    }
}

#[tokio::test]
async fn a_path_that_only_streams_needs_no_accept() {
    let server = Server::start().await;
    let (_connection, mut reader) = server.open("/v1/messages?topics=a&topics=b", &[]).await;
    assert_eq!(reader.headers["content-type"], "application/x-ndjson");
    assert!(reader.line().await.unwrap()["start"].is_object());
}

#[tokio::test]
async fn silence_is_filled() {
    let server = Server::with(|c| c.limits.heartbeat_interval = Duration::from_millis(30)).await;
    let (_a, mut events) = server.open(MESSAGES, &[SSE]).await;
    let (_b, mut lines) = server.open(MESSAGES, &[NDJSON]).await;
    assert!(events.event().await.is_some() && lines.line().await.is_some());
    assert_eq!(events.until("\n\n").await.unwrap(), ": ping");
    assert_eq!(lines.until("\n").await.unwrap(), "");
}

#[tokio::test]
async fn a_reader_that_is_gone_is_noticed() {
    let server = Server::start().await;
    let (connection, mut reader) = server.open(MESSAGES, &[SSE]).await;
    assert!(reader.event().await.is_some());
    assert_eq!(server.toy.readers.load(Ordering::SeqCst), 1);
    drop((connection, reader));
    eventually("the reader is gone", || server.toy.readers.load(Ordering::SeqCst) == 0).await;
}
