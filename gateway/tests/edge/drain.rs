//! How the gateway leaves.

use crate::{Server, eventually};
use serde_json::json;
use std::{sync::atomic::Ordering, time::Duration};
use tokio::net::TcpStream;

const SSE: (&str, &str) = ("accept", "text/event-stream");

#[tokio::test]
async fn streams_are_told_and_calls_are_finished() {
    let mut server = Server::start().await;
    let (_connection, mut reader) = server.open("/v1/topics/demo/messages", &[SSE]).await;
    assert_eq!(reader.event().await.unwrap().0, "start");
    let mut other = server.http2().await;
    let call = async {
        let json = [("content-type", "application/json")];
        other.send(&server, "POST", "/v1/topics/later/messages", &json, "{}").await
    };
    let leave = async {
        eventually("the call has begun", || server.toy.calls.load(Ordering::SeqCst) == 1).await;
        server.stop.cancel();
        reader.event().await
    };
    let (answer, last) = tokio::join!(call, leave);
    assert_eq!(answer.status, 200, "a call that was begun is finished");
    let (name, _, data) = last.unwrap();
    assert_eq!((name.as_str(), &data["reason"]), ("failure", &json!("DRAINING")));
    assert!(!data["retryAfter"].as_str().unwrap().is_empty());
    assert_eq!(reader.event().await, None);
    tokio::time::timeout(Duration::from_secs(3), server.ended()).await.expect("nothing keeps it");
    assert!(TcpStream::connect(server.addr).await.is_err(), "new connections are refused");
}

#[tokio::test]
async fn the_drain_ends_with_its_window() {
    let mut server = Server::with(|c| c.drain = Duration::from_millis(200)).await;
    let mut connection = server.http1().await;
    let json = [("content-type", "application/json")];
    let call = connection.begin(&server, "POST", "/v1/topics/never/messages", &json, "{}");
    let stop = async {
        eventually("the call has begun", || server.toy.calls.load(Ordering::SeqCst) == 1).await;
        server.stop.cancel();
        std::future::pending::<()>().await;
    };
    let cut = async {
        tokio::select! { response = call => drop(response), () = stop => {} }
    };
    // The connection is cut, so the client's request fails: `begin` panics, which is caught as a task.
    let outcome = futures::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(cut)).await;
    assert!(outcome.is_err(), "the call was cut");
    tokio::time::timeout(Duration::from_secs(3), server.ended()).await.expect("the window is a bound");
}

#[tokio::test]
async fn a_gateway_serves_the_whole_contract_until_it_is_stopped() {
    use plexus_gateway::{Gateway, config::Config};
    let bus = plexus_bus::Bus::open(&plexus_bus::Config::default()).await.unwrap();
    let config = Config { listen: "127.0.0.1:0".into(), ..Config::default() };
    let gateway = Gateway::bind(config, bus).await.unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let mut server = Server::of(gateway.local_addr().unwrap(), stop.clone(), gateway.run(stop));
    let document = server.get("/openapi.json").await.json();
    let paths = document["paths"].as_object().unwrap();
    for path in
        ["/v1/nodes/{node}:start", "/v1/topics/{topic}/messages", "/v1/peers/{peer}:ping", "/v1/nodes"]
    {
        assert!(paths.contains_key(path), "{path}");
    }
    server.stop.cancel();
    tokio::time::timeout(Duration::from_secs(5), server.ended()).await.expect("nothing keeps it");
}
