//! How many connections an address may have, and how old one gets.

use crate::{
    Server,
    auth::Session,
    client::{Connection, Reader},
    eventually,
};
use plexus_gateway::config::Config;
use serde_json::json;
use std::{sync::atomic::Ordering, time::Duration};
use tokio::{io::AsyncReadExt, net::TcpStream};

const MESSAGES: &str = "/v1/topics/demo/messages";
const NDJSON: (&str, &str) = ("accept", "application/x-ndjson");

/// Two connections of an address; with forwarders named, loopback counts as well.
fn two(config: &mut Config) {
    config.forwarders.trusted = vec!["192.0.2.0/24".into()];
    config.limits.connections_per_address_max = 2;
}

#[tokio::test]
async fn an_address_with_too_many_connections_is_told_and_a_crowd_is_closed() {
    let server = Server::with(two).await;
    let mut first = server.http1().await;
    assert_eq!(first.send(&server, "GET", "/v1/topics", &[], "").await.status, 200);
    let _second = server.http2().await;
    eventually("both are counted", || server.metrics.connections.get() == 2).await;

    let answer = server.get("/v1/topics").await;
    assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (429, &json!("CONNECTION_LIMIT")));
    assert_eq!(
        (answer.json()["metadata"]["limit"].clone(), answer.header("connection")),
        (json!("2"), "close")
    );
    assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
    eventually("the one too many is gone", || server.metrics.connections.get() == 2).await;

    let mut session = Session::open(&server).await;
    let close = session.hear().await["close"].clone();
    assert_eq!((&close["code"], &close["reason"]), (&json!(3504), &json!("CONNECTION_LIMIT")));
    assert!(close["retryAfterMs"].as_u64().unwrap() > 0);
    assert_eq!(session.hear().await, json!(3504));
    drop(session);
    eventually("the session is gone", || server.metrics.connections.get() == 2).await;

    let [_third, _fourth] = [server.http1().await, server.http1().await];
    eventually("two too many may hear why", || server.metrics.connections.get() == 4).await;
    let mut crowd = TcpStream::connect(server.addr).await.unwrap();
    let read = tokio::time::timeout(Duration::from_secs(5), crowd.read(&mut [0])).await.expect("an end");
    assert!(!matches!(read, Ok(1)));
    assert!(server.metrics.crowded.get() >= 5);
    assert_eq!(first.send(&server, "GET", "/v1/topics", &[], "").await.status, 200, "others do not notice");
}

#[tokio::test]
async fn an_http2_connection_too_many_goes_after_its_answer() {
    let server = Server::with(two).await;
    let _held = [server.http1().await, server.http1().await];
    eventually("both are counted", || server.metrics.connections.get() == 2).await;
    let mut connection = server.http2().await;
    let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
    let answer = connection.send(&server, "POST", "/plexus.v1.TopicService/Publish", &grpc, vec![0; 5]).await;
    assert_eq!(answer.header("grpc-status"), "8");
    eventually("it is closed", || is_closed(&connection)).await;
}

fn is_closed(connection: &Connection) -> bool {
    match connection {
        Connection::One(send, _) => send.is_closed(),
        Connection::Two(send, _) => send.is_closed(),
    }
}

#[tokio::test]
async fn behind_a_forwarder_the_streams_of_a_client_are_its_connections() {
    let server = Server::with(|c| {
        two(c);
        c.forwarders.trusted = vec!["127.0.0.1".into()];
    })
    .await;
    let by = |client| [NDJSON, ("x-forwarded-for", client)];
    let (one, other) = (by("198.51.100.1"), by("198.51.100.2"));
    let mut open = Vec::new();
    for _ in 0..2 {
        let (connection, reader) = server.open(MESSAGES, &one).await;
        assert_eq!(reader.status, 200);
        open.push((connection, reader));
    }
    let refused = server.send("GET", MESSAGES, &one, "").await;
    assert_eq!((refused.status.as_u16(), &refused.json()["reason"]), (429, &json!("CONNECTION_LIMIT")));
    assert_eq!(server.open(MESSAGES, &other).await.1.status, 200);
    open.pop();
    eventually("one stream is left", || server.toy.readers.load(Ordering::SeqCst) == 1).await;
    assert_eq!(server.open(MESSAGES, &one).await.1.status, 200);
}

#[tokio::test]
async fn an_old_http2_connection_ends_its_streams_and_finishes_its_calls() {
    let server = Server::with(|c| {
        c.limits.connection_age_max = Duration::from_millis(300);
        c.limits.connection_grace = Duration::from_secs(5);
    })
    .await;
    let (_old, mut single) = server.open(MESSAGES, &[NDJSON]).await;
    assert!(single.line().await.unwrap()["start"].is_object());
    let mut connection = server.http2().await;
    let mut reader = Reader::new(connection.begin(&server, "GET", MESSAGES, &[NDJSON], "").await);
    assert!(reader.line().await.unwrap()["start"].is_object());
    let last = reader.line().await.unwrap();
    assert_eq!(last["failure"]["reason"], "DRAINING", "{last}");
    assert!(!last["failure"]["retryAfter"].as_str().unwrap().is_empty());
    assert_eq!(reader.line().await, None);
    eventually("the client knows that it takes no more", || is_closed(&connection)).await;
    let text = [("content-type", "text/plain")];
    assert_eq!(server.send("POST", MESSAGES, &text, "x").await.status, 200);
    assert!(single.line().await.unwrap()["message"].is_object(), "a stream of HTTP/1 stays");
}

#[tokio::test]
async fn what_an_old_connection_still_does_after_its_grace_is_cut() {
    let server = Server::with(|c| {
        c.limits.connection_age_max = Duration::from_millis(300);
        c.limits.connection_grace = Duration::from_millis(200);
    })
    .await;
    let mut connection = server.http2().await;
    let json = [("content-type", "application/json")];
    let Connection::Two(send, _) = &mut connection else { unreachable!() };
    let uri = format!("http://{}/v1/topics/never/messages", server.addr);
    let request = http::Request::post(uri).header(json[0].0, json[0].1).body("{}".into()).unwrap();
    assert!(send.send_request(request).await.is_err(), "the call is cut");
    eventually("nothing is left of it", || server.metrics.connections.get() == 0).await;
    eventually("not even the call", || server.toy.calls.load(Ordering::SeqCst) == 0).await;
}
