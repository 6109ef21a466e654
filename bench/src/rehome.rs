//! Row 9: a worker is told to stop; how long until its node hears gossip on another worker.

use crate::{
    clock,
    fleet::{self, TOPIC},
    sheet::Sheet,
};
use anyhow::{Context, Result, ensure};
use plexus_tests::{Lines, Peer, process::Plexus, redis::Server};
use serde_json::json;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use tokio::{
    task::JoinSet,
    time::{interval, timeout},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// One run. The clock starts when the peer sees the connection to the old owner end, which is before the
/// lease is released, and stops when a reader has a message that the peer sent after that.
pub(crate) async fn run(sheet: &mut Sheet) -> Result<()> {
    let redis = Server::start();
    let mut workers = BTreeMap::new();
    for id in ["w1", "w2"] {
        workers.insert(id.to_owned(), fleet::worker(&redis, id, &[]).await);
    }
    let gateway = Plexus::start("gateway", &redis.url(), &[]).await;
    let spec = json!({ "listenAddresses": ["/ip4/127.0.0.1/tcp/0"], "topics": [{ "topic": TOPIC }] });
    gateway.client().post("/v1/nodes", &json!({ "id": "alpha", "spec": spec })).await?.ok()?;
    let owner = owner(&gateway).await?;
    let mut lines = gateway.client().events(&format!("{PATH}?view=TEXT"), None).await?;
    lines.next("start").await?;

    let peer = Peer::start().await;
    peer.subscribe(TOPIC).await;
    let path = format!("/v1/nodes/alpha/peers/{}:connect", peer.id);
    gateway.client().post(&path, &json!({ "addresses": [peer.address.to_string()] })).await?.ok()?;
    let end = Instant::now() + PATIENCE;
    while peer.mesh(TOPIC).await == 0 {
        ensure!(Instant::now() < end, "no mesh");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The owner writes whom the node is connected to every 5 s; the next owner dials them.
    tokio::time::sleep(Duration::from_secs(6)).await;

    let mut connections = peer.connections.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(publish(peer));
    timeout(PATIENCE, next(&mut lines)).await.context("nothing arrives")??;
    let old = workers.remove(&owner).context("the owner is one of the two")?;
    let stopped = tokio::task::spawn_blocking(|| old.terminate());
    timeout(PATIENCE, connections.wait_for(|count| *count == 0)).await.context("the old owner stays")??;
    let gone = Instant::now();
    loop {
        let age = timeout(PATIENCE, next(&mut lines)).await.context("nothing arrives")??;
        if age < gone.elapsed() {
            break;
        }
    }
    sheet.measure("rehome", gone.elapsed().as_secs_f64() * 1e3);
    tasks.shutdown().await;
    stopped.await?;
    Ok(())
}

const PATH: &str = "/v1/nodes/alpha/topics/bench/messages";

/// The worker that runs the node: the part of the incarnation before its nonce.
async fn owner(gateway: &Plexus) -> Result<String> {
    let end = Instant::now() + PATIENCE;
    loop {
        let node = gateway.client().get("/v1/nodes/alpha").await?.ok()?;
        let worker = node["status"]["worker"].as_str().unwrap_or_default();
        if node["status"]["state"] == "RUNNING" {
            return Ok(worker.split('.').next().unwrap_or_default().to_owned());
        }
        ensure!(Instant::now() < end, "the node does not run: {node}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Publishes every other millisecond, whether anybody follows or not.
async fn publish(peer: Peer) {
    let mut ticks = interval(Duration::from_millis(2));
    loop {
        ticks.tick().await;
        let _ = peer.publish(TOPIC, clock::payload(64)).await;
    }
}

/// How long ago the next message was sent.
async fn next(lines: &mut Lines) -> Result<Duration> {
    let event = lines.next("message").await?;
    clock::age(event.data["text"].as_str().unwrap_or_default().as_bytes()).context("one of ours")
}
