//! Bounds on connections and requests, alike on every dialect.

use crate::{Server, eventually};
use bytes::{BufMut, Bytes, BytesMut};
use serde_json::json;
use std::{sync::atomic::Ordering, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const JSON: (&str, &str) = ("content-type", "application/json");
const MESSAGES: &str = "/v1/topics/demo/messages";
const PUBLISH: &str = "/plexus.v1.TopicService/Publish";

#[tokio::test]
async fn a_request_that_is_too_large_gets_its_answer() {
    let server = Server::with(|c| {
        c.limits.body_bytes_max = 1000;
        c.limits.message_bytes_max = 1000;
    })
    .await;
    let large = Bytes::from(vec![b'x'; 500_000]);
    for mut connection in [server.http1().await, server.http2().await] {
        let rest = connection
            .send(&server, "POST", MESSAGES, &[("content-type", "text/plain")], large.clone())
            .await;
        assert_eq!((rest.status.as_u16(), &rest.json()["reason"]), (413, &json!("MESSAGE_TOO_LARGE")));
    }
    for mut connection in [server.http1().await, server.http2().await] {
        let connect = connection.send(&server, "POST", PUBLISH, &[JSON], large.clone()).await;
        assert_eq!(connect.json()["code"], "resource_exhausted");
    }
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(500_000);
    framed.put_slice(&large);
    let grpc = ("content-type", "application/grpc");
    let answer = server.http2().await.send(&server, "POST", PUBLISH, &[grpc], framed).await;
    assert_eq!(answer.header("grpc-status"), "8");
}

#[tokio::test]
async fn a_call_of_one_message_takes_exactly_one() {
    let server = Server::start().await;
    let grpc = ("content-type", "application/grpc");
    for body in [vec![], vec![0; 10]] {
        let answer = server.http2().await.send(&server, "POST", PUBLISH, &[grpc], body).await;
        assert_eq!(answer.header("grpc-status"), "12", "{answer:?}");
    }
}

#[tokio::test]
async fn headers_that_are_too_large_are_refused_in_the_callers_dialect() {
    let server = Server::start().await;
    let long = "x".repeat(20 << 10);
    let many: Vec<(String, &str)> = (0..110).map(|n| (format!("x-{n}"), "1")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(n, v)| (n.as_str(), *v)).collect();
    for mut connection in [server.http1().await, server.http2().await] {
        let answer = connection.send(&server, "GET", "/v1/topics", &[("x-long", &long)], "").await;
        assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (431, &json!("HEADERS_TOO_LARGE")));
        let answer = connection.send(&server, "GET", "/v1/topics", &many, "").await;
        assert_eq!(answer.status, 431);
    }
    let grpc = [("content-type", "application/grpc"), ("x-long", long.as_str())];
    let answer = server.http2().await.send(&server, "POST", PUBLISH, &grpc, vec![0; 5]).await;
    assert_eq!(answer.header("grpc-status"), "8");
}

#[tokio::test]
async fn a_call_without_a_deadline_gets_one() {
    let server = Server::with(|c| c.limits.call_timeout = Duration::from_millis(50)).await;
    let answer = server.send("POST", "/v1/topics/never/messages", &[JSON], "{}").await;
    assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (504, &json!("DEADLINE_EXCEEDED")));
    assert_eq!(server.toy.calls.load(Ordering::SeqCst), 0, "the service's call is dropped");
    for bad in ["1x", "", "123456789m"] {
        let headers = [("content-type", "application/grpc"), ("grpc-timeout", bad)];
        let answer = server.http2().await.send(&server, "POST", PUBLISH, &headers, vec![0; 5]).await;
        assert_eq!(answer.header("grpc-status"), "3", "{bad}");
    }
}

#[tokio::test]
async fn a_foreign_page_is_refused() {
    let server = Server::with(|c| c.origins = vec!["https://app.example".into()]).await;
    let plain = ("content-type", "text/plain");
    let foreign = server.send("POST", MESSAGES, &[plain, ("origin", "http://evil.example")], "x").await;
    assert_eq!((foreign.status.as_u16(), &foreign.json()["reason"]), (403, &json!("ORIGIN_NOT_ALLOWED")));
    assert_eq!(foreign.header("access-control-allow-origin"), "");
    let own = format!("http://{}", server.addr);
    assert_eq!(server.send("POST", MESSAGES, &[plain, ("origin", &own)], "x").await.status, 200);
    let listed = ("origin", "https://app.example");
    let answer = server.send("POST", MESSAGES, &[plain, listed], "x").await;
    assert_eq!(answer.header("access-control-allow-origin"), "https://app.example");
    let asked = [
        listed,
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization"),
    ];
    let preflight = server.send("OPTIONS", MESSAGES, &asked, "").await;
    assert_eq!(preflight.header("access-control-allow-headers"), "authorization");
}

/// Sends bytes slowly and says how long the peer put up with it.
async fn drip(server: &Server, bytes: &[u8], pause: Duration) -> Duration {
    let began = tokio::time::Instant::now();
    let mut socket = TcpStream::connect(server.addr).await.unwrap();
    let (mut read, mut write) = socket.split();
    let send = async {
        for byte in bytes {
            if write.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(pause).await; // this is the dawdling
        }
        std::future::pending::<()>().await;
    };
    let closed = async {
        let mut buffer = [0; 64];
        while matches!(read.read(&mut buffer).await, Ok(n) if n > 0) {}
    };
    let wait = async {
        tokio::select! { () = send => {}, () = closed => {} }
    };
    timeout(Duration::from_secs(4), wait).await.expect("the peer was never cut off");
    began.elapsed()
}

#[tokio::test]
async fn a_peer_that_dawdles_is_cut_off() {
    let server = Server::with(|c| {
        c.limits.first_byte_timeout = Duration::from_millis(200);
        c.limits.head_timeout = Duration::from_millis(300);
    })
    .await;
    let pause = Duration::from_millis(20);
    let slow = b"GET /v1/topics HTTP/1.1\r\nhost: x\r\nx-long: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    for bytes in [&b""[..], b"PRI * HT", b"GET /v1", slow] {
        let lived = drip(&server, bytes, pause).await;
        assert!(lived < Duration::from_millis(1500), "{lived:?}");
    }
    eventually("no connection is left", || server.metrics.connections.get() == 0).await;
}

#[tokio::test]
async fn a_connection_that_waits_between_requests_is_kept() {
    let server = Server::with(|c| c.limits.head_timeout = Duration::from_millis(50)).await;
    let mut connection = server.http1().await;
    for _ in 0..3 {
        assert_eq!(connection.send(&server, "GET", "/v1/topics", &[], "").await.status, 200);
        tokio::time::sleep(Duration::from_millis(120)).await; // longer than a head may take
    }
}

#[tokio::test]
async fn a_connection_that_nobody_uses_ends_and_one_with_a_stream_stays() {
    let server = Server::with(|c| c.limits.idle_timeout = Duration::from_millis(200)).await;
    let mut idle = [server.http1().await, server.http2().await, server.http2().await];
    for connection in &mut idle[..2] {
        assert_eq!(connection.send(&server, "GET", "/v1/topics", &[], "").await.status, 200);
    }
    let mut used = server.http2().await;
    let lines = [("accept", "application/x-ndjson")];
    let stream = used.begin(&server, "GET", MESSAGES, &lines, "").await;
    eventually("one connection is left", || server.metrics.connections.get() == 1).await;
    tokio::time::sleep(Duration::from_millis(500)).await; // longer than it may rest
    assert_eq!(used.send(&server, "GET", "/v1/topics", &[], "").await.status, 200);
    drop((stream, idle));
}

#[tokio::test]
async fn over_the_cap_peers_wait_for_a_place() {
    let server = Server::with(|c| c.limits.connections_max = 1).await;
    let mut first = server.http1().await;
    assert_eq!(first.send(&server, "GET", "/v1/topics", &[], "").await.status, 200);
    let mut second = server.http1().await;
    let waits = second.send(&server, "GET", "/v1/topics", &[], "");
    let mut waits = std::pin::pin!(waits);
    assert!(timeout(Duration::from_millis(100), &mut waits).await.is_err());
    drop(first);
    assert_eq!(timeout(Duration::from_secs(5), waits).await.unwrap().status, 200);
}

#[tokio::test]
async fn every_call_is_counted_by_its_dialect_and_its_code() {
    use plexus_gateway::metrics::{Call, Dialect};
    let server = Server::start().await;
    let count = |dialect, method: &str, code| {
        let method = format!("plexus.v1.TopicService/{method}");
        server.metrics.calls.get_or_create(&Call { dialect, method, code }).get()
    };
    assert_eq!(server.send("POST", MESSAGES, &[JSON], "{}").await.status, 200);
    assert_eq!(server.send("POST", PUBLISH, &[JSON], r#"{"topic":"bad"}"#).await.status, 400);
    let ended = server.send(
        "GET",
        "/v1/topics/demo/messages?after=0&limit=1",
        &[("accept", "text/event-stream")],
        "",
    );
    assert_eq!(ended.await.status, 200);
    let (reader, _) = server.open(MESSAGES, &[("accept", "application/x-ndjson")]).await;
    drop(reader);
    assert_eq!(count(Dialect::Rest, "Publish", "ok"), 1);
    assert_eq!(count(Dialect::Connect, "Publish", "invalid_argument"), 1);
    assert_eq!(count(Dialect::Sse, "Subscribe", "ok"), 1);
    eventually("the reader's call is counted", || count(Dialect::Ndjson, "Subscribe", "canceled") == 1).await;
}
