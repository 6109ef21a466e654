//! Gateways and workers die as real processes, over a real Redis: the same PeerId comes back, readers
//! go on, and nothing that was acknowledged is missing, doubled or out of order.

use plexus_tests::{
    Http, eventually,
    process::Plexus,
    redis::{Role, Store},
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

const PATIENCE: Duration = Duration::from_secs(30);
const PATH: &str = "/v1/nodes/alpha/topics/demo/messages";

struct Fleet {
    gateways: Vec<Plexus>,
    workers: BTreeMap<String, Plexus>,
    _redis: Store,
}

impl Fleet {
    async fn start() -> Self {
        let redis = Store::start();
        let papers = redis.environment();
        let papers: Vec<_> = papers.iter().map(|(name, path)| (*name, path.as_str())).collect();
        let (workers_url, url) = (redis.url(Role::Worker), redis.url(Role::Gateway));
        let mut workers = BTreeMap::new();
        for id in ["w1", "w2"] {
            workers.insert(id.to_owned(), Plexus::worker_with(&workers_url, id, &papers).await);
        }
        let gateways = vec![
            Plexus::start("gateway", &url, &papers).await,
            Plexus::start("gateway", &url, &papers).await,
        ];
        let made = gateways[0].client().post("/v1/nodes", &json!({"id": "alpha"})).await.unwrap();
        made.ok().unwrap();
        Self { gateways, workers, _redis: redis }
    }

    async fn node(&self) -> Value {
        eventually(PATIENCE, || async {
            let node = self.gateways[0].client().get("/v1/nodes/alpha").await?.ok()?;
            anyhow::ensure!(node["status"]["state"] == "RUNNING", "{node}");
            anyhow::Ok(node)
        })
        .await
    }

    /// The worker that owns the node: the part of the incarnation before its nonce.
    async fn owner(&self) -> String {
        let node = self.node().await;
        let incarnation = node["status"]["worker"].as_str().unwrap();
        incarnation.split('.').next().unwrap().to_owned()
    }
}

/// What one producer was promised: text → position.
type Receipts = Vec<(String, String)>;

async fn produce(client: Http, name: &'static str, count: usize, every: Duration) -> Receipts {
    let mut receipts = Vec::new();
    let mut next = Instant::now();
    for n in 0..count {
        next += every;
        let text = format!("{name}-{n}");
        let body = json!({"text": text, "requestId": text, "timeout": "20s"});
        // A key makes the repeat safe: it answers the first position if that was logged.
        let receipt = eventually(PATIENCE, || async { client.post(PATH, &body).await?.ok() }).await;
        receipts.push((text, receipt["position"].as_str().unwrap().to_owned()));
        tokio::time::sleep_until(next.into()).await; // paces the load
    }
    receipts
}

/// Waits until so many messages are logged: the load is well under way.
async fn logged(client: &Http, messages: u64) {
    eventually(PATIENCE, || async {
        let topic = client.get("/v1/nodes/alpha/topics/demo").await?.ok()?;
        let retained: u64 = topic["retainedMessages"].as_str().unwrap_or("0").parse()?;
        anyhow::ensure!(retained >= messages, "{retained} of {messages}");
        Ok(())
    })
    .await;
}

/// Reads on, over any gateway, until `count` messages came; gives positions and texts in order.
async fn read(gateways: Vec<Http>, count: usize) -> Vec<(String, String)> {
    let mut got: Vec<(String, String)> = Vec::new();
    let mut at = 0;
    let end = Instant::now() + Duration::from_secs(90);
    while got.len() < count {
        assert!(Instant::now() < end, "{} of {count} messages came", got.len());
        let last = got.last().map(|(position, _)| position.clone());
        let path =
            if last.is_some() { format!("{PATH}?view=TEXT") } else { format!("{PATH}?view=TEXT&after=0") };
        let stream = gateways[at % gateways.len()].events(&path, last.as_deref()).await;
        at += 1;
        let Ok(mut stream) = stream else {
            tokio::time::sleep(Duration::from_millis(100)).await; // as a client does before it comes again
            continue;
        };
        while got.len() < count {
            match stream.event().await {
                Ok(Some(event)) if event.event == "message" => got.push((
                    event.data["position"].as_str().unwrap().to_owned(),
                    event.data["text"].as_str().unwrap().to_owned(),
                )),
                Ok(Some(event)) if event.event == "gap" => panic!("a gap: {event:?}"),
                Ok(Some(_)) => {}
                _ => break,
            }
        }
    }
    got
}

fn place(position: &str) -> (u64, u64) {
    let (epoch, seq) = position.split_once('-').unwrap();
    (epoch.parse().unwrap(), seq.parse().unwrap())
}

/// None missing, none twice, none out of order, and every receipt's position is where the reader got it.
fn check(receipts: &[Receipts], got: &[(String, String)]) {
    assert!(got.windows(2).all(|w| place(&w[0].0) < place(&w[1].0)), "out of order or twice");
    let texts: BTreeSet<_> = got.iter().map(|(_, text)| text).collect();
    assert_eq!(texts.len(), got.len(), "a message came twice");
    let places: BTreeMap<_, _> =
        got.iter().map(|(position, text)| (text.as_str(), position.as_str())).collect();
    for receipts in receipts {
        for (text, position) in receipts {
            assert_eq!(
                places.get(text.as_str()),
                Some(&position.as_str()),
                "{text} at its receipt's position"
            );
        }
        assert!(receipts.windows(2).all(|w| place(&w[0].1) < place(&w[1].1)), "a producer's order");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_under_load_loses_nothing_and_its_node_keeps_its_peer_id() {
    plexus_tests::log();
    let mut fleet = Fleet::start().await;
    let before = fleet.node().await;
    let gateways: Vec<Http> = fleet.gateways.iter().map(Plexus::client).collect();
    const COUNT: usize = 1_500;
    let every = Duration::from_millis(10);
    let mut producers = JoinSet::new();
    producers.spawn(produce(gateways[0].clone(), "a", COUNT, every));
    producers.spawn(produce(gateways[1].clone(), "b", COUNT, every));
    let mut readers = JoinSet::new();
    for turn in 0..3 {
        let order = if turn == 0 { gateways.clone() } else { vec![gateways[turn % 2].clone()] };
        readers.spawn(read(order, 2 * COUNT));
    }
    logged(&gateways[1], 400).await;
    let owner = fleet.owner().await;
    fleet.workers.remove(&owner).unwrap().kill();
    let killed = Instant::now();
    let after = eventually(PATIENCE, || async {
        let node = fleet.gateways[1].client().get("/v1/nodes/alpha").await?.ok()?;
        let worker = node["status"]["worker"].as_str().unwrap_or_default().to_owned();
        anyhow::ensure!(!worker.is_empty() && !worker.starts_with(&format!("{owner}.")), "{node}");
        anyhow::ensure!(node["status"]["state"] == "RUNNING", "{node}");
        anyhow::Ok(node)
    })
    .await;
    println!("killed {owner}; the node ran elsewhere after {:?}", killed.elapsed());
    assert_eq!(before["peerId"], after["peerId"]);
    let receipts: Vec<Receipts> = producers.join_all().await;
    for got in readers.join_all().await {
        check(&receipts, &got);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_resumes_on_another_gateway_without_a_gap() {
    plexus_tests::log();
    let mut fleet = Fleet::start().await;
    let gateways: Vec<Http> = fleet.gateways.iter().map(Plexus::client).collect();
    const COUNT: usize = 400;
    let mut producer = JoinSet::new();
    producer.spawn(produce(gateways[1].clone(), "a", COUNT, Duration::from_millis(5)));
    let mut reader = JoinSet::new();
    reader.spawn(read(gateways.clone(), COUNT));
    logged(&gateways[1], 100).await;
    fleet.gateways.remove(0).kill();
    let receipts = producer.join_all().await;
    for got in reader.join_all().await {
        check(&receipts, &got);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_told_to_stop_hands_its_node_over() {
    plexus_tests::log();
    let mut fleet = Fleet::start().await;
    let before = fleet.node().await;
    let gateways: Vec<Http> = fleet.gateways.iter().map(Plexus::client).collect();
    const COUNT: usize = 300;
    let mut producer = JoinSet::new();
    producer.spawn(produce(gateways[0].clone(), "a", COUNT, Duration::from_millis(10)));
    let mut reader = JoinSet::new();
    reader.spawn(read(vec![gateways[1].clone()], COUNT));
    logged(&gateways[1], 100).await;
    let owner = fleet.owner().await;
    let worker = fleet.workers.remove(&owner).unwrap();
    let started = Instant::now();
    let code = tokio::task::spawn_blocking(|| worker.terminate()).await.unwrap();
    println!("drained in {:?}", started.elapsed());
    assert_eq!(code, Some(0));
    let receipts = producer.join_all().await;
    for got in reader.join_all().await {
        check(&receipts, &got);
    }
    assert_eq!(before["peerId"], fleet.node().await["peerId"]);
}
