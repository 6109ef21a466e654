//! A fleet of real processes over a real Redis, each behind a proxy of its own, and the balancer's list of gateways
//! that live.

use crate::{
    proxy::Proxy,
    store::{Store, signal},
};
use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use plexus_tests::{Http, eventually, process::Plexus};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{collections::BTreeMap, net::SocketAddr, time::Duration};
use tokio::sync::watch;

/// The topic of every node.
pub(crate) const TOPIC: &str = "demo";
const PATIENCE: Duration = Duration::from_secs(60);
/// Calls to the API at once, where many nodes are made.
const AT_ONCE: usize = 8;

/// A process, and what stands between it and Redis.
pub(crate) struct Side {
    pub(crate) plexus: Plexus,
    pub(crate) proxy: Proxy,
}

impl Side {
    /// Stands still, or goes on.
    pub(crate) fn signal(&self, what: Signal) {
        signal(self.plexus.pid(), what);
    }

    /// Sends SIGTERM, waits for the end and answers the exit code.
    pub(crate) async fn terminate(self) -> Option<i32> {
        let Self { plexus, proxy } = self;
        let code = tokio::task::spawn_blocking(|| plexus.terminate()).await.unwrap();
        drop(proxy);
        code
    }

    /// Whether it says that it is ready.
    pub(crate) async fn ready(&self) -> Result<bool> {
        Ok(Http::new(self.plexus.admin).get("/readyz").await?.status == 200)
    }

    /// A number of `/metrics`, all labels together.
    pub(crate) async fn metric(&self, name: &str) -> Result<f64> {
        let answer = Http::new(self.plexus.admin).get("/metrics").await?;
        let text = String::from_utf8(answer.body.to_vec())?;
        let of = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let values = text.lines().filter(of).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(values.sum())
    }
}

/// What a fleet is made of.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) workers: usize,
    pub(crate) gateways: usize,
    /// Nodes `n0`, `n1` and so on, each with its topic.
    pub(crate) nodes: usize,
    pub(crate) seed: u64,
    /// Where the bus is, if not at the store through a proxy.
    pub(crate) bus: Option<String>,
}

impl Plan {
    /// Two of each, and one node.
    pub(crate) fn small(seed: u64) -> Self {
        Self { workers: 2, gateways: 2, nodes: 1, seed, bus: None }
    }
}

/// A running fleet. Dropping it ends everything.
pub(crate) struct Ground {
    pub(crate) store: Store,
    pub(crate) workers: BTreeMap<String, Side>,
    pub(crate) gateways: BTreeMap<String, Side>,
    pub(crate) nodes: Vec<String>,
    lanes: watch::Sender<Vec<SocketAddr>>,
    seed: u64,
    bus: Option<String>,
    made: usize,
}

impl Ground {
    /// Starts a fleet over a plain Redis.
    pub(crate) async fn start(plan: Plan) -> Result<Self> {
        Self::over(Store::start(&[]).await, plan).await
    }

    /// Starts a fleet over this Redis.
    pub(crate) async fn over(store: Store, plan: Plan) -> Result<Self> {
        let (lanes, _) = watch::channel(Vec::new());
        let (workers, gateways) = (BTreeMap::new(), BTreeMap::new());
        let nodes = (0..plan.nodes).map(|n| format!("n{n}")).collect();
        let Plan { seed, bus, .. } = plan;
        let mut ground = Self { store, workers, gateways, nodes, lanes, seed, bus, made: 0 };
        let workers = join_all((0..plan.workers).map(|n| ground.worker(format!("w{n}")))).await;
        let gateways = join_all((0..plan.gateways).map(|n| ground.gateway(format!("g{n}")))).await;
        ground.workers.extend(workers);
        ground.gateways.extend(gateways);
        ground.balance();
        ground.make_nodes().await?;
        Ok(ground)
    }

    async fn worker(&self, name: String) -> (String, Side) {
        let proxy = Proxy::before(self.store.port(), self.seed).await;
        let plexus = Plexus::worker(&self.url(&proxy), &name).await;
        (name, Side { plexus, proxy })
    }

    async fn gateway(&self, name: String) -> (String, Side) {
        let proxy = Proxy::before(self.store.port(), self.seed).await;
        let plexus = Plexus::gateway(&self.url(&proxy)).await;
        (name, Side { plexus, proxy })
    }

    fn url(&self, proxy: &Proxy) -> String {
        self.bus.clone().unwrap_or_else(|| proxy.url())
    }

    /// What stands between each process and Redis.
    pub(crate) fn proxies(&self) -> impl Iterator<Item = &Proxy> {
        self.workers.values().chain(self.gateways.values()).map(|side| &side.proxy)
    }

    /// Adds a worker under a name that no other had.
    pub(crate) async fn add_worker(&mut self) {
        self.made += 1;
        let (name, side) = self.worker(format!("v{}", self.made)).await;
        self.workers.insert(name, side);
    }

    /// Adds a gateway, and tells the clients.
    pub(crate) async fn add_gateway(&mut self) {
        self.made += 1;
        let (name, side) = self.gateway(format!("h{}", self.made)).await;
        self.gateways.insert(name, side);
        self.balance();
    }

    /// Tells clients which gateways live. A client that is refused tries the next one.
    pub(crate) fn balance(&self) {
        self.lanes.send_replace(self.gateways.values().map(|side| side.plexus.address).collect());
    }

    /// Where clients go.
    pub(crate) fn lanes(&self) -> watch::Receiver<Vec<SocketAddr>> {
        self.lanes.subscribe()
    }

    /// Takes a gateway off the list and hands it over.
    pub(crate) fn take_gateway(&mut self, name: &str) -> Side {
        let side = self.gateways.remove(name).unwrap();
        self.balance();
        side
    }

    async fn make_nodes(&self) -> Result<()> {
        for some in self.nodes.chunks(AT_ONCE) {
            for made in join_all(some.iter().map(|node| self.make(node))).await {
                made?;
            }
        }
        self.running().await;
        Ok(())
    }

    /// Makes a node, and keeps more of its topic than a run says.
    async fn make(&self, node: &str) -> Result<()> {
        let client = self.client();
        client.post("/v1/nodes", &json!({ "id": node })).await?.ok()?;
        let policy = json!({"policy": {"retention": {"messages": 100_000}}});
        client.put(&format!("/v1/nodes/{node}/topics/{TOPIC}"), &policy).await?.ok()?;
        Ok(())
    }

    /// A client of the first gateway.
    pub(crate) fn client(&self) -> Http {
        self.gateways.values().next().expect("a gateway lives").plexus.client()
    }

    /// Every node, by its id, as the first gateway tells it.
    pub(crate) async fn list(&self) -> Result<BTreeMap<String, Value>> {
        let page = self.client().get("/v1/nodes?pageSize=1000").await?.ok()?;
        let nodes = page["nodes"].as_array().context("nodes")?.clone();
        let id = |node: &Value| node["id"].as_str().unwrap_or_default().to_owned();
        Ok(nodes.into_iter().map(|node| (id(&node), node)).collect())
    }

    /// Waits until every node runs on a worker that lives here, and answers them.
    pub(crate) async fn running(&self) -> BTreeMap<String, Value> {
        eventually(PATIENCE, || async {
            let list = self.list().await?;
            for node in &self.nodes {
                let status = &list.get(node).with_context(|| format!("no node {node}"))?["status"];
                let lives = self.workers.contains_key(pod(status["worker"].as_str().unwrap_or_default()));
                ensure!(status["state"] == "RUNNING" && lives, "{node}: {status}");
            }
            anyhow::Ok(list)
        })
        .await
    }

    /// The name of the worker that owns a node.
    pub(crate) async fn owner(&self, node: &str) -> String {
        let list = self.running().await;
        pod(list[node]["status"]["worker"].as_str().unwrap()).to_owned()
    }

    /// The worker that owns most nodes.
    pub(crate) async fn busiest(&self) -> (String, usize) {
        let list = self.running().await;
        let mut counts = BTreeMap::new();
        for node in list.values() {
            let owner = pod(node["status"]["worker"].as_str().unwrap_or_default()).to_owned();
            *counts.entry(owner).or_insert(0) += 1;
        }
        counts.into_iter().max_by_key(|(_, count)| *count).expect("a node")
    }
}

/// The part of an incarnation before its nonce.
fn pod(incarnation: &str) -> &str {
    incarnation.split('.').next().unwrap_or_default()
}

/// The PeerIds of nodes.
pub(crate) fn peer_ids(nodes: &BTreeMap<String, Value>) -> Vec<&Value> {
    nodes.values().map(|node| &node["peerId"]).collect()
}
