//! The fleet grows, shrinks and is moved about while messages flow: nodes spread over who is there, calls
//! wait instead of failing, and nothing that was acknowledged is missing, doubled or out of order.

use plexus_tests::{Cluster, Http, eventually};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);
const EVERY: Duration = Duration::from_millis(100);

fn messages(node: &str) -> String {
    format!("/v1/nodes/{node}/topics/demo/messages")
}

/// What a producer was promised: text → position.
type Receipts = Vec<(String, String)>;

/// Publishes to a node until it is told to stop. No call may fail, and none is made twice.
async fn produce(gateway: Http, node: String, stop: CancellationToken) -> Receipts {
    let mut receipts = Vec::new();
    while !stop.is_cancelled() {
        let text = format!("{node}-{}", receipts.len());
        let body = json!({"text": text, "requestId": text, "timeout": "20s"});
        let receipt = gateway.post(&messages(&node), &body).await.unwrap().ok().unwrap();
        receipts.push((text, receipt["position"].as_str().unwrap().to_owned()));
        tokio::time::sleep(EVERY).await; // paces the load
    }
    receipts
}

/// Reads a node's topic until the text `end` comes; gives positions and texts in order.
async fn read(gateway: Http, node: String) -> Vec<(String, String)> {
    let path = format!("{}?view=TEXT&after=0", messages(&node));
    let mut stream = gateway.events(&path, None).await.unwrap();
    let mut got = Vec::new();
    loop {
        let event = stream.event().await.unwrap().expect("the stream goes on");
        match event.event.as_str() {
            "message" => {
                let text = event.data["text"].as_str().unwrap().to_owned();
                if text == "end" {
                    return got;
                }
                got.push((event.data["position"].as_str().unwrap().to_owned(), text));
            }
            "gap" | "failure" => panic!("{event:?}"),
            _ => {}
        }
    }
}

fn place(position: &str) -> (u64, u64) {
    let (epoch, seq) = position.split_once('-').unwrap();
    (epoch.parse().unwrap(), seq.parse().unwrap())
}

/// Every receipt's message came once, at its position, in order, and nothing else came.
fn check(receipts: &Receipts, got: &[(String, String)]) {
    assert!(got.windows(2).all(|w| place(&w[0].0) < place(&w[1].0)), "out of order or twice");
    let told: Vec<_> = receipts.iter().map(|(text, position)| (position.clone(), text.clone())).collect();
    assert_eq!(told, got);
}

/// Makes nodes, and waits until all run.
async fn nodes(gateway: &Http, count: usize) -> Vec<String> {
    let names: Vec<String> = (0..count).map(|n| format!("n{n}")).collect();
    for name in &names {
        gateway.post("/v1/nodes", &json!({"id": name})).await.unwrap().ok().unwrap();
    }
    eventually(PATIENCE, || async {
        let nodes = gateway.get("/v1/nodes?pageSize=1000&state=RUNNING").await?.ok()?;
        let running = nodes["nodes"].as_array().map_or(0, Vec::len);
        anyhow::ensure!(running == count, "{running} of {count} run");
        Ok(())
    })
    .await;
    names
}

/// How many nodes each worker has.
async fn spread(gateway: &Http) -> anyhow::Result<BTreeMap<String, u64>> {
    let workers = gateway.get("/v1/admin/workers").await?.ok()?;
    let workers = workers["workers"].as_array().cloned().unwrap_or_default();
    let count = |worker: &Value| {
        let name = worker["worker"].as_str().unwrap_or_default().to_owned();
        (name, worker["nodes"].as_u64().unwrap_or_default())
    };
    Ok(workers.iter().map(count).collect())
}

async fn add_worker(cluster: &mut Cluster) {
    cluster
        .add_worker_with(|config| {
            config.balance.settle = Duration::from_secs(1);
            config.balance.moves_per_second = 10;
            config.lease.survey_interval = Duration::from_secs(1);
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_grows_from_one_to_four_while_messages_flow_and_loses_none() {
    const NODES: usize = 16;
    let mut cluster = Cluster::of(1, 0).await;
    add_worker(&mut cluster).await;
    let names = nodes(&cluster.client(), NODES).await;
    let peers = ids(&cluster.client()).await;
    let stop = CancellationToken::new();
    let (mut producers, mut readers) = (JoinSet::new(), JoinSet::new());
    let mut begin = |address: SocketAddr, names: &[String]| {
        for name in names {
            let (gateway, name, stop) = (Http::new(address), name.clone(), stop.clone());
            producers.spawn(async move { (name.clone(), produce(gateway, name, stop).await) });
        }
    };
    begin(cluster.gateways[0].0, &names[..NODES / 2]);
    let mut follow = |address: SocketAddr| {
        for name in &names {
            let (gateway, name) = (Http::new(address), name.clone());
            readers.spawn(async move { (name.clone(), read(gateway, name).await) });
        }
    };
    follow(cluster.gateways[0].0);
    for size in [2, 4] {
        while cluster.workers.len() < size {
            add_worker(&mut cluster).await;
            let gateway = cluster.add_gateway().await;
            if cluster.gateways.len() == 2 {
                begin(gateway, &names[NODES / 2..]);
                follow(gateway);
            }
        }
        let share = NODES.div_ceil(size) as u64 + 1;
        let spread = eventually(PATIENCE, || async {
            let spread = spread(&cluster.client()).await?;
            let even = spread.values().all(|n| (1..=share).contains(n));
            anyhow::ensure!(even && spread.len() == size, "{spread:?}");
            anyhow::ensure!(spread.values().sum::<u64>() == NODES as u64, "{spread:?}");
            anyhow::Ok(spread)
        })
        .await;
        println!("{size} workers: {spread:?}");
    }
    stop.cancel();
    let receipts: BTreeMap<String, Receipts> = producers.join_all().await.into_iter().collect();
    for name in &names {
        let end = json!({"text": "end", "timeout": "20s"});
        cluster.client().post(&messages(name), &end).await.unwrap().ok().unwrap();
    }
    let got = readers.join_all().await;
    assert_eq!(got.len(), 2 * NODES);
    for (name, got) in got {
        check(&receipts[&name], &got);
    }
    let sent: usize = receipts.values().map(Vec::len).sum();
    println!("{sent} messages, two readers of each");
    assert_eq!(ids(&cluster.client()).await, peers, "who they are to the network");
    let gateways = cluster.client().get("/v1/admin/gateways").await.unwrap().ok().unwrap();
    assert_eq!(gateways["gateways"].as_array().unwrap().len(), cluster.gateways.len());
}

/// The PeerIds of all nodes.
async fn ids(gateway: &Http) -> BTreeSet<String> {
    let nodes = gateway.get("/v1/nodes?pageSize=1000").await.unwrap().ok().unwrap();
    nodes["nodes"].as_array().unwrap().iter().map(|n| n["peerId"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_moves_where_it_is_told_and_calls_wait_meanwhile() {
    let mut cluster = Cluster::of(1, 0).await;
    for _ in 0..2 {
        cluster.add_worker_with(|config| config.balance.moves_per_second = 0).await;
    }
    let http = cluster.client();
    let name = nodes(&http, 1).await.remove(0);
    let peers = ids(&http).await;
    eventually(PATIENCE, || async {
        let workers = spread(&http).await?;
        anyhow::ensure!(workers.len() == 2, "{workers:?}");
        Ok(())
    })
    .await;
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let (gateway, node, told) = (http.clone(), name.clone(), stop.clone());
    tasks.spawn(async move { produce(gateway, node, told).await });
    let mut reader = JoinSet::new();
    reader.spawn(read(http.clone(), name.clone()));
    let act = async |path: &str, body: Value| http.post(path, &body).await.unwrap();
    for to in ["worker-1", "worker-2", "worker-1"] {
        let node = act(&format!("/v1/nodes/{name}:move"), json!({"worker": to})).await.ok().unwrap();
        assert_eq!((&node["status"]["worker"], &node["status"]["state"]), (&json!(to), &json!("RUNNING")));
        let told = http.get(&format!("/v1/nodes/{name}/placement")).await.unwrap().ok().unwrap();
        assert_eq!(told["candidates"][0]["worker"], to, "{told}");
        assert_eq!(told["candidates"][0]["reason"], "an operator moved the node here");
    }
    let away = act(&format!("/v1/nodes/{name}:move"), json!({})).await.ok().unwrap();
    assert_eq!(away["status"]["worker"], "worker-2");
    let refused = act(&format!("/v1/nodes/{name}:move"), json!({"worker": "nowhere"})).await;
    assert_eq!((refused.status.as_u16(), &refused.json()["reason"]), (404, &json!("WORKER_NOT_FOUND")));
    // A worker that shall give its nodes away.
    let drained = act("/v1/admin/workers/worker-2:drain", json!({})).await.ok().unwrap();
    assert_eq!(drained["state"], "DRAINING");
    let at = async |worker: &str| {
        eventually(PATIENCE, || async {
            let node = http.get(&format!("/v1/nodes/{name}")).await?.ok()?;
            anyhow::ensure!(node["status"]["worker"] == worker, "{node}");
            anyhow::ensure!(node["status"]["state"] == "RUNNING", "{node}");
            Ok(())
        })
        .await;
    };
    at("worker-1").await;
    let refused = act("/v1/admin/workers/worker-1:drain", json!({})).await;
    assert_eq!(refused.json()["reason"], "NO_CANDIDATE");
    let refused = act(&format!("/v1/nodes/{name}:move"), json!({"worker": "worker-2"})).await;
    assert_eq!(refused.json()["reason"], "NO_CANDIDATE");
    let undone = act("/v1/admin/workers/worker-2:drain", json!({"undo": true})).await.ok().unwrap();
    assert_eq!(undone["state"], "READY");
    at("worker-2").await; // where it was moved to last
    stop.cancel();
    let receipts = tasks.join_all().await.remove(0);
    act(&messages(&name), json!({"text": "end", "timeout": "20s"})).await.ok().unwrap();
    check(&receipts, &reader.join_all().await.remove(0));
    println!("{} messages over six moves", receipts.len());
    assert_eq!(ids(&http).await, peers);
}
