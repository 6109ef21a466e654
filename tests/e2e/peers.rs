//! Remote peers over plain HTTP.

use plexus_tests::{Cluster, Peer};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_ping_is_a_stream_of_its_own_path_whatever_the_client_accepts() {
    let cluster = Cluster::one().await;
    let client = cluster.client();
    let peer = Peer::start().await;
    let addresses = json!({"addresses": [peer.address.to_string()]});
    client.post(&format!("/v1/peers/{}:connect", peer.id), &addresses).await.unwrap().ok().unwrap();
    let path = format!("/v1/peers/{}:ping?count=2&interval=0.1s", peer.id);
    for (accept, wanted) in [
        (None, "application/x-ndjson"),
        (Some("*/*"), "application/x-ndjson"),
        (Some("application/json"), "application/x-ndjson"),
        (Some("application/x-ndjson"), "application/x-ndjson"),
        (Some("text/event-stream"), "text/event-stream"),
    ] {
        let headers: Vec<_> = accept.map(|a| ("accept", a)).into_iter().collect();
        let mut lines = client.lines(&path, &headers).await.unwrap();
        assert_eq!(lines.headers["content-type"], wanted, "{accept:?}");
        if wanted == "text/event-stream" {
            assert!(lines.next("summary").await.unwrap().data["received"].as_u64() > Some(0));
            continue;
        }
        let mut events = Vec::new();
        while let Some(event) = lines.json().await.unwrap() {
            events.push(event);
        }
        assert_eq!(events.len(), 3, "{accept:?}: {events:?}");
        assert_eq!(events[2]["summary"]["received"], 2, "{events:?}");
    }
    // A verb that is none is not the end of a name.
    let answer = client.get(&format!("/v1/peers/{}:pong", peer.id)).await.unwrap();
    assert_eq!(answer.status, 404);
    assert_eq!(answer.json()["reason"], "ROUTE_NOT_FOUND");
}
