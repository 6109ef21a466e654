//! The product as its users run it: the `plexus` binary in processes of its own, a real redis-server, and
//! nodes made through the API.

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use plexus_tests::{Http, process::Plexus, redis::Server};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The topic that everything is published to.
pub(crate) const TOPIC: &str = "bench";
/// Calls to the API at once, where many nodes are made.
const AT_ONCE: usize = 16;
const PATIENCE: Duration = Duration::from_secs(60);

/// A gateway and a worker, and Redis between them; or both in one process.
pub(crate) struct Fleet {
    /// The gateway, or both.
    pub(crate) gateway: Plexus,
    /// The worker where it is a process of its own.
    pub(crate) worker: Option<Plexus>,
    /// Redis where there is one.
    pub(crate) redis: Option<Server>,
}

/// A node as it was made.
pub(crate) struct Made {
    id: String,
    peer: String,
}

impl Fleet {
    /// Both in one process.
    pub(crate) async fn together() -> Self {
        Self { gateway: Plexus::start("up", "memory:", &[]).await, worker: None, redis: None }
    }

    /// Each in a process of its own.
    pub(crate) async fn apart(settings: &[(&str, &str)]) -> Self {
        let redis = Server::start();
        let worker = worker(&redis, "w1", settings).await;
        let gateway = Plexus::start("gateway", &redis.url(), settings).await;
        Self { gateway, worker: Some(worker), redis: Some(redis) }
    }

    /// The process that hosts nodes.
    pub(crate) fn host(&self) -> u32 {
        self.worker.as_ref().unwrap_or(&self.gateway).pid()
    }

    /// A client of the gateway.
    pub(crate) fn client(&self) -> Http {
        self.gateway.client()
    }

    /// Makes nodes `n<from>` to `n<until - 1>` and waits until all of them listen.
    pub(crate) async fn grow(&self, from: usize, until: usize, spec: &Value) -> Result<Vec<Made>> {
        let made: Vec<_> = stream::iter(from..until)
            .map(|n| self.make(format!("n{n}"), spec.clone()))
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        let end = Instant::now() + PATIENCE;
        loop {
            let waiting = self.waiting(until).await?;
            if waiting == 0 {
                return Ok(made);
            }
            ensure!(Instant::now() < end, "{waiting} of {until} nodes do not listen");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn make(&self, id: String, spec: Value) -> Result<Made> {
        let made = self.client().post("/v1/nodes", &json!({ "id": id, "spec": spec })).await?.ok()?;
        Ok(Made { id, peer: made["peerId"].as_str().context("a PeerId")?.into() })
    }

    /// Every node.
    async fn nodes(&self) -> Result<Vec<Value>> {
        let (mut nodes, mut token) = (Vec::new(), String::new());
        loop {
            let path = format!("/v1/nodes?pageSize=1000&pageToken={token}");
            let mut page = self.client().get(&path).await?.ok()?;
            nodes.extend(page["nodes"].as_array_mut().map(std::mem::take).unwrap_or_default());
            token = page["nextPageToken"].as_str().unwrap_or_default().into();
            if token.is_empty() {
                return Ok(nodes);
            }
        }
    }

    async fn waiting(&self, wanted: usize) -> Result<usize> {
        let nodes = self.nodes().await?;
        let listens = |node: &&Value| {
            node["status"]["state"] == "RUNNING" && node["status"]["addresses"][0].is_string()
        };
        Ok(wanted - nodes.iter().filter(listens).count().min(wanted))
    }

    /// Connects each node to the next, and the last to the first.
    pub(crate) async fn ring(&self, nodes: &[Made]) -> Result<()> {
        let addresses: std::collections::HashMap<String, Value> = self
            .nodes()
            .await?
            .into_iter()
            .map(|mut node| {
                let id = node["id"].as_str().unwrap_or_default().to_owned();
                (id, node["status"]["addresses"].take())
            })
            .collect();
        let next = nodes.iter().cycle().skip(1);
        stream::iter(nodes.iter().zip(next))
            .map(|(from, to)| self.connect(&from.id, &to.peer, &addresses[&to.id]))
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    async fn connect(&self, node: &str, peer: &str, addresses: &Value) -> Result<()> {
        let path = format!("/v1/nodes/{node}/peers/{peer}:connect");
        self.client().post(&path, &json!({ "addresses": addresses })).await?.ok()?;
        Ok(())
    }

    /// How many nodes have so many peers, by what their owner last wrote.
    pub(crate) async fn with_peers(&self, peers: u64) -> Result<usize> {
        let has = |node: &&Value| {
            let counts = &node["status"]["peers"];
            number(&counts["connected"]) >= peers
        };
        Ok(self.nodes().await?.iter().filter(has).count())
    }

    /// Makes two nodes that have each other in the mesh of [`TOPIC`].
    pub(crate) async fn pair(&self) -> Result<()> {
        let spec = json!({
            "listenAddresses": ["/ip4/127.0.0.1/tcp/0"], "topics": [{ "topic": TOPIC }],
            "limits": { "idleTimeout": "600s" },
        });
        let nodes = self.grow(0, 2, &spec).await?;
        self.ring(&nodes[..]).await?;
        let end = Instant::now() + PATIENCE;
        loop {
            let mut meshed = 0;
            for node in &nodes {
                let path = format!("/v1/nodes/{}/topics/{TOPIC}", node.id);
                meshed += number(&self.client().get(&path).await?.ok()?["meshPeers"]);
            }
            if meshed == 2 {
                return Ok(());
            }
            ensure!(Instant::now() < end, "no mesh");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Starts a worker whose nodes may use loopback.
pub(crate) async fn worker(redis: &Server, id: &str, settings: &[(&str, &str)]) -> Plexus {
    let own = [
        ("PLEXUS__WORKER__ID", id),
        ("PLEXUS__WORKER__ALLOW_PRIVATE_ADDRESSES", "true"),
        ("PLEXUS__WORKER__NODES_MAX", "4000"),
        ("PLEXUS__WORKER__KEYS__KEY", "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"),
    ];
    Plexus::start("worker", &redis.url(), &[&own, settings].concat()).await
}

/// A number of the API, which writes large ones as text.
fn number(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_default()
}
