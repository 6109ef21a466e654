//! Peers of other implementations, with their own defaults: a real mesh, then signed messages each
//! way, with message ids compared byte for byte with what the peer itself computed.

use crate::topics::address;
use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use plexus_tests::{Cluster, Http, eventually, foreign::Foreign};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

const PATIENCE: Duration = Duration::from_secs(30);
const MESSAGES: usize = 1_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_go_peer_and_a_client_exchange_a_thousand_messages_each_way() {
    if let Some(peer) = Foreign::go().await {
        exchange(peer, "GO").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_js_peer_and_a_client_exchange_a_thousand_messages_each_way() {
    if let Some(peer) = Foreign::js().await {
        exchange(peer, "JS").await;
    }
}

async fn exchange(mut peer: Foreign, preset: &str) {
    let cluster = Cluster::one().await;
    let client = cluster.client();
    let spec = json!({"id": "seat", "spec": {"gossip": {"preset": preset}}});
    let node = client.post("/v1/nodes", &spec).await.unwrap().ok().unwrap();
    let ours = node["peerId"].as_str().unwrap().to_owned();
    let path = "/v1/nodes/seat/topics/exchange/messages";
    let mut sse = client.events(path, None).await.unwrap();
    sse.next("start").await.unwrap();
    peer.subscribe("exchange").await;
    peer.connect(&address(&cluster, "seat").await).await;
    mesh(&client, &peer.id).await;

    // From the client to the peer.
    let mut sent = BTreeMap::new();
    for n in 0..MESSAGES {
        let receipt = client.post(path, &json!({"text": format!("ours-{n}")})).await.unwrap().ok().unwrap();
        assert_eq!(receipt["peers"], 1, "{receipt}");
        sent.insert(format!("ours-{n}"), id_of(&receipt));
    }
    let mut received = BTreeMap::new();
    while received.len() < MESSAGES {
        let message = peer.next("message").await;
        let text =
            String::from_utf8(BASE64.decode(message["data"].as_str().unwrap().as_bytes()).unwrap()).unwrap();
        assert_eq!(message["from"], ours.as_str());
        let fresh =
            received.insert(text, HEXLOWER.decode(message["id"].as_str().unwrap().as_bytes()).unwrap());
        assert!(fresh.is_none(), "twice: {message}");
    }
    assert_eq!(sent, received);

    // From the peer to every reader.
    peer.send(json!({"cmd": "publish", "topic": "exchange", "prefix": "theirs-", "count": MESSAGES, "everyUs": 500}))
        .await;
    let mut seen = BTreeMap::new();
    while seen.len() < MESSAGES {
        let event = sse.next("message").await.unwrap();
        if event.data["origin"] == "NETWORK" {
            assert_eq!(event.data["author"], peer.id.as_str());
            let text = BASE64.decode(event.data["data"].as_str().unwrap().as_bytes()).unwrap();
            assert!(
                seen.insert(String::from_utf8(text).unwrap(), id_of(&event.data)).is_none(),
                "twice: {event:?}"
            );
        }
    }
    compare_own_ids(&mut peer, preset, &seen).await;
    identify_and_ping(&client, &mut peer, &ours).await;
}

/// go-libp2p-pubsub hands a publisher its own messages too, with the ids that it computed.
async fn compare_own_ids(peer: &mut Foreign, preset: &str, seen: &BTreeMap<String, Vec<u8>>) {
    assert_eq!(seen.len(), MESSAGES);
    if preset != "GO" {
        // js-libp2p does not; its rule is the public key and the sequence number.
        let id = seen.values().next().unwrap();
        assert!(id.len() > 8 && id.starts_with(&[0x08, 0x01, 0x12, 0x20]), "{id:?}");
        return;
    }
    let mut own = BTreeMap::new();
    while own.len() < MESSAGES {
        let message = peer.next("message").await;
        let data = BASE64.decode(message["data"].as_str().unwrap().as_bytes()).unwrap();
        own.insert(
            String::from_utf8(data).unwrap(),
            HEXLOWER.decode(message["id"].as_str().unwrap().as_bytes()).unwrap(),
        );
    }
    assert_eq!(&own, seen);
}

async fn identify_and_ping(client: &Http, peer: &mut Foreign, ours: &str) {
    let known = client.get(&format!("/v1/nodes/seat/peers/{}", peer.id)).await.unwrap().ok().unwrap();
    assert!(!known["agentVersion"].as_str().unwrap().is_empty(), "{known}");
    let protocols = known["protocols"].as_array().unwrap();
    assert!(protocols.iter().any(|p| p.as_str().unwrap().starts_with("/meshsub/")), "{known}");
    let mut pings = client
        .lines(
            &format!("/v1/nodes/seat/peers/{}:ping?count=3&interval=0.1s", peer.id),
            &[("accept", "application/x-ndjson")],
        )
        .await
        .unwrap();
    let mut pongs = 0;
    while let Some(line) = pings.json().await.unwrap() {
        if line["pong"]["rtt"].is_string() {
            pongs += 1;
        }
        if line["summary"].is_object() {
            assert_eq!(line["summary"]["received"], 3, "{line}");
        }
    }
    assert_eq!(pongs, 3);
    let pong = peer.ask(json!({"cmd": "ping", "peer": ours}), "pong").await;
    assert!(pong["rttUs"].is_number());
    let seen = peer.ask(json!({"cmd": "identify", "peer": ours}), "identified").await;
    assert!(seen["agent"].as_str().unwrap().starts_with("plexus/"), "{seen}");
    assert!(seen["protocols"].as_array().unwrap().iter().any(|p| p == "/ipfs/ping/1.0.0"), "{seen}");
}

async fn mesh(client: &Http, peer: &str) {
    eventually(PATIENCE, || async {
        let peers = client.get("/v1/nodes/seat/topics/exchange/peers").await?.ok()?;
        let there =
            peers["peers"].as_array().into_iter().flatten().any(|p| p["peer"] == peer && p["role"] == "MESH");
        anyhow::ensure!(there, "no mesh yet: {peers}");
        Ok(())
    })
    .await;
}

fn id_of(value: &Value) -> Vec<u8> {
    BASE64URL_NOPAD.decode(value["id"].as_str().unwrap().as_bytes()).unwrap()
}
