//! Publish, follow, history, resume: from an ordinary client to a real peer and back.

use http::Method;
use plexus_tests::{
    Cluster, Peer, eventually,
    redis::{Form, Store},
};
use serde_json::json;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

/// The first loopback TCP address of node `default`.
pub(crate) async fn address(cluster: &Cluster, node: &str) -> String {
    let client = cluster.client();
    eventually(PATIENCE, || async {
        let node = client.get(&format!("/v1/nodes/{node}")).await?.ok()?;
        let addresses = node["status"]["addresses"].as_array().cloned().unwrap_or_default();
        let tcp = addresses.iter().filter_map(|a| a.as_str()).find(|a| a.contains("/tcp/"));
        anyhow::Ok(tcp.ok_or_else(|| anyhow::anyhow!("no address yet: {node}"))?.to_owned())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_curl_publishes_reaches_every_reader_in_order() {
    let cluster = Cluster::one().await;
    let client = cluster.client();
    let path = "/v1/topics/demo/messages";
    let mut sse = client.events(path, None).await.unwrap();
    let start = sse.next("start").await.unwrap();
    assert_eq!(start.data["topic"], "demo");
    let mut last = String::new();
    for n in 0..20 {
        let receipt = client
            .send(
                Method::POST,
                path,
                &[("content-type", "application/x-www-form-urlencoded")],
                format!("hello {n}"),
            )
            .await
            .unwrap()
            .ok()
            .unwrap();
        assert_eq!(receipt["level"], "LOGGED", "{receipt}");
        last = receipt["position"].as_str().unwrap().to_owned();
        let event = sse.next("message").await.unwrap();
        assert_eq!(event.data["position"], last.as_str());
        assert_eq!(event.id.as_deref(), Some(last.as_str()));
        assert_eq!(event.data["data"], data_encoding::BASE64.encode(format!("hello {n}").as_bytes()));
    }
    let history = client.get(&format!("{path}?view=TEXT&pageSize=100")).await.unwrap().ok().unwrap();
    let texts: Vec<_> =
        history["messages"].as_array().unwrap().iter().map(|m| m["text"].as_str().unwrap()).collect();
    assert_eq!(texts, (0..20).map(|n| format!("hello {n}")).collect::<Vec<_>>());
    assert_eq!(history["position"], last.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_resumes_after_its_last_event_without_gap_or_repeat() {
    let cluster = Cluster::one().await;
    let client = cluster.client();
    let path = "/v1/topics/demo/messages";
    let mut positions = Vec::new();
    for n in 0..10 {
        let receipt = client.post(path, &json!({"text": format!("m{n}")})).await.unwrap().ok().unwrap();
        positions.push(receipt["position"].as_str().unwrap().to_owned());
    }
    let mut sse = client.events(path, Some(&positions[3])).await.unwrap();
    let start = sse.next("start").await.unwrap();
    assert_eq!(start.data["recovered"], true, "{start:?}");
    client.post(path, &json!({"text": "live"})).await.unwrap().ok().unwrap();
    for position in &positions[4..] {
        let event = sse.event().await.unwrap().unwrap();
        assert_eq!((event.event.as_str(), &event.data["position"]), ("message", &json!(position)));
    }
    assert_eq!(sse.next("message").await.unwrap().data["data"], "bGl2ZQ==");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_go_from_a_client_to_a_peer_and_back() {
    let cluster = Cluster::one().await;
    let client = cluster.client();
    let path = "/v1/topics/demo/messages";
    let mut sse = client.events(path, None).await.unwrap();
    sse.next("start").await.unwrap();
    let mut peer = Peer::start().await;
    peer.subscribe("demo").await;
    let connected = client
        .post(&format!("/v1/peers/{}:connect", peer.id), &json!({"addresses": [peer.address.to_string()]}))
        .await
        .unwrap()
        .ok()
        .unwrap();
    assert_eq!(connected["state"], "CONNECTED", "{connected}");
    eventually(PATIENCE, || async { if peer.mesh("demo").await == 1 { Ok(()) } else { Err("no mesh") } })
        .await;
    let receipt = client.post(path, &json!({"text": "to you", "minPeers": 1})).await.unwrap().ok().unwrap();
    assert_eq!(receipt["peers"], 1, "{receipt}");
    let got = peer.receive().await;
    assert_eq!(got.data, b"to you");
    let identity = client.get("/v1/nodes/default/identity").await.unwrap().ok().unwrap();
    assert_eq!(identity["peerId"], got.author.unwrap().to_string());
    assert_eq!(sse.next("message").await.unwrap().data["origin"], "LOCAL");
    peer.publish("demo", "to me").await.unwrap();
    let event = sse.next("message").await.unwrap();
    assert_eq!(event.data["data"], "dG8gbWU=");
    assert_eq!(event.data["origin"], "NETWORK");
    assert_eq!(event.data["author"], peer.id.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_that_wants_peers_says_so_when_there_are_none() {
    let cluster = Cluster::one().await;
    let body = json!({"text": "anybody?", "minPeers": 1, "timeout": "0.2s"});
    let answer = cluster.client().post("/v1/topics/demo/messages", &body).await.unwrap();
    let problem = answer.json();
    assert_eq!(problem["reason"], "NOT_ENOUGH_PEERS", "{problem}");
    assert_eq!(answer.status, 400);
    assert_eq!(problem["metadata"]["peers"], "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_repeated_with_its_request_id_is_one_message() {
    let cluster = Cluster::one().await;
    let client = cluster.client();
    let path = "/v1/topics/demo/messages";
    let body = json!({"text": "once", "requestId": "r-1"});
    let first = client.post(path, &body).await.unwrap().ok().unwrap();
    let again = client.post(path, &body).await.unwrap().ok().unwrap();
    assert_eq!(first["position"], again["position"]);
    assert_eq!(again["duplicate"], true, "{again}");
    let history = client.get(path).await.unwrap().ok().unwrap();
    assert_eq!(history["messages"].as_array().unwrap().len(), 1);
    let other = client.post(path, &json!({"text": "other", "requestId": "r-1"})).await.unwrap();
    assert_eq!(other.json()["reason"], "REQUEST_ID_REUSED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_reaches_the_level_that_it_asks_for_or_is_told_how_far_it_came() {
    let cluster = Cluster::one().await;
    let (client, path) = (cluster.client(), "/v1/topics/demo/messages");
    let client = &client;
    let publish = async |level: &str| {
        let timeout = if level == "DURABLE" { "20s" } else { "2s" };
        let body = json!({"text": level, "level": level, "timeout": timeout});
        client.post(path, &body).await.unwrap().json()
    };
    // How far the bus may go is known by the first message.
    client.post(path, &json!({"text": "first"})).await.unwrap().ok().unwrap();
    let told = publish("REPLICATED").await;
    match cluster.store().map(Store::form) {
        Some(Form::Sentinel) => {
            assert_eq!(told["level"], "REPLICATED", "{told}");
            let all = (0..50).map(|_| publish("REPLICATED"));
            let all = futures::future::join_all(all).await;
            assert!(all.iter().all(|told| told["level"] == "REPLICATED"), "{all:?}");
        }
        Some(_) => {
            let reached = (&told["reason"], &told["metadata"]["level"]);
            assert_eq!(reached, (&json!("DEADLINE_EXCEEDED"), &json!("LOGGED")), "{told}");
            let kept = client.get(&format!("{path}?view=TEXT")).await.unwrap().ok().unwrap();
            let last = kept["messages"].as_array().unwrap().last().unwrap();
            assert_eq!(
                (&last["text"], &last["position"]),
                (&json!("REPLICATED"), &told["metadata"]["position"]),
                "published all the same"
            );
        }
        None => assert_eq!(told["reason"], "LEVEL_UNAVAILABLE", "{told}"),
    }
    let disk = cluster.store().is_some_and(Store::use_disk);
    let told = publish("DURABLE").await;
    match disk {
        true => assert_eq!(told["level"], "DURABLE", "{told}"),
        false => assert_eq!(told["reason"], "LEVEL_UNAVAILABLE", "{told}"),
    }
}
