//! Redis dies, stands still, is slow, full, forgets, and is replaced by a replica that missed writes.

use crate::{
    ground::{Ground, Plan},
    load::{Load, Mix, Style},
    owners::Owners,
    proxy::{Mode, Proxy},
    reader::Kind,
    report::{Report, seconds},
    scenario::{Run, Scenario},
    store::Store,
    workers::STRICT,
};
use anyhow::{Context, Result, ensure};
use plexus_tests::{eventually, history::Terms};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::time::sleep;

const GAPS: Terms = Terms { gaps: true };
const ALIVE: &str = "a replica that missed the last n entries is promoted, the owner lives: 0 lost, no gap, for \
                     those who read along and for who comes later";
const DEAD: &str = "the same, and the owner dies with the primary: what was lost is told as a gap";

pub(crate) const ALL: &[Scenario] = &[
    Scenario {
        name: "redis-frozen",
        ids: "F14",
        promise: "calls fail ≤ 2 s, nodes stop, and come back with it ≤ 10 s; nothing acked lost, no gap",
        fixed: true,
        run: |run| Box::pin(frozen(run)),
    },
    Scenario {
        name: "redis-restarted-aof",
        ids: "F9",
        promise: "kill -9 and a start with its append-only file: full service ≤ 10 s, the same PeerIds, nothing acked lost \
                  while the owner lives",
        fixed: true,
        run: |run| Box::pin(restarted(run)),
    },
    Scenario {
        name: "redis-restarted-empty",
        ids: "F10",
        promise: "no worker runs a node without a record; readers of a topic that is made anew are told a gap",
        fixed: true,
        run: |run| Box::pin(emptied(run)),
    },
    Scenario {
        name: "failover-lag-1",
        ids: "F11, C.4",
        promise: ALIVE,
        fixed: false,
        run: |run| Box::pin(lag(run, 1, true)),
    },
    Scenario {
        name: "failover-lag-3",
        ids: "F11, C.4",
        promise: ALIVE,
        fixed: true,
        run: |run| Box::pin(lag(run, 3, true)),
    },
    Scenario {
        name: "failover-lag-100",
        ids: "F11, C.4",
        promise: ALIVE,
        fixed: false,
        run: |run| Box::pin(lag(run, 100, true)),
    },
    Scenario {
        name: "failover-lag-1-owner-dead",
        ids: "F11, C.4",
        promise: DEAD,
        fixed: false,
        run: |run| Box::pin(lag(run, 1, false)),
    },
    Scenario {
        name: "failover-lag-3-owner-dead",
        ids: "F11, C.4",
        promise: DEAD,
        fixed: true,
        run: |run| Box::pin(lag(run, 3, false)),
    },
    Scenario {
        name: "failover-lag-100-owner-dead",
        ids: "F11, C.4",
        promise: DEAD,
        fixed: false,
        run: |run| Box::pin(lag(run, 100, false)),
    },
    Scenario {
        name: "sentinel-failover",
        ids: "F11",
        promise: "1 + 2 servers and 3 Sentinels, the primary killed: service ≤ 15 s; what is lost is told",
        fixed: false,
        run: |run| Box::pin(sentinel(run)),
    },
    Scenario {
        name: "redis-slow",
        ids: "F8",
        promise: "answers late by up to 0.2 s for 10 s: no call fails, no node moves, no gap",
        fixed: false,
        run: |run| Box::pin(slow(run)),
    },
    Scenario {
        name: "redis-full",
        ids: "F15",
        promise: "publishes wait for room and are refused after their 5 s; nodes stay where they are, and go on; no gap",
        fixed: false,
        run: |run| Box::pin(full(run)),
    },
];

async fn frozen(run: Run) -> Result<Report> {
    let mut report = Report::default();
    let ground = Ground::start(Plan { nodes: 2, ..Plan::small(run.seed) }).await?;
    let load = Load::start(&ground, &Mix::usual());
    load.flows(200).await;
    sleep(run.moment(500)).await;
    let frozen = Instant::now();
    ground.store.freeze();
    sleep(Duration::from_secs(run.either(8, 20) as u64)).await;
    ground.store.thaw();
    let thawed = Instant::now();
    ground.running().await;
    load.flows(20).await;
    let back = thawed.elapsed();
    load.flows(200).await;
    let ledger = load.finish().await;
    let refused = ledger.slowest(frozen, thawed, false);
    let ok = refused <= Duration::from_secs(2);
    report.fact(format!("frozen for {}, refused {:?}", seconds(thawed - frozen), ledger.refusals()));
    report.timed(run, ok, format!("the slowest refusal after {}", seconds(refused)));
    let ok = back <= Duration::from_secs(10);
    report.timed(run, ok, format!("served again after {}", seconds(back)));
    report.judge(&ledger, STRICT);
    Ok(report)
}

async fn restarted(run: Run) -> Result<Report> {
    let mut report = Report::default();
    let store = Store::durable().await;
    let mut ground = Ground::over(store, Plan { nodes: 2, ..Plan::small(run.seed) }).await?;
    let before = ground.running().await;
    let mut load = Load::start(&ground, &Mix::usual());
    load.flows(300).await;
    sleep(run.moment(1_000)).await;
    ground.store.kill();
    let killed = Instant::now();
    ground.store.restart().await;
    load.flows(20).await;
    let back = killed.elapsed();
    let after = ground.running().await;
    load.flows(200).await;
    load.join(Kind::Sse);
    let ledger = load.finish().await;
    let ok = back <= Duration::from_secs(10);
    report.timed(run, ok, format!("served again after {}", seconds(back)));
    report.require(crate::ground::peer_ids(&before) == crate::ground::peer_ids(&after), "the same PeerIds");
    report.fact(format!("refused {:?}", ledger.refusals()));
    report.judge(&ledger, STRICT);
    Ok(report)
}

async fn emptied(run: Run) -> Result<Report> {
    let mut report = Report::default();
    let mut ground = Ground::start(Plan::small(run.seed)).await?;
    let load = Load::start(&ground, &Mix::usual());
    load.flows(200).await;
    ground.store.kill();
    let killed = Instant::now();
    ground.store.restart().await;
    eventually(Duration::from_secs(20), || async {
        for side in ground.workers.values() {
            let nodes = side.metric("plexus_worker_nodes").await?;
            ensure!(nodes == 0.0 && side.ready().await?, "{nodes} nodes");
        }
        Ok(())
    })
    .await;
    report.fact(format!("no node runs after {}", seconds(killed.elapsed())));
    eventually(Duration::from_secs(20), || async {
        ground.client().post("/v1/nodes", &json!({"id": "n0"})).await?.ok()
    })
    .await;
    ground.running().await;
    load.flows(100).await;
    let ledger = load.finish().await;
    report.fact(format!("refused {:?}", ledger.refusals()));
    let verdict = report.judge(&ledger, GAPS);
    let told: usize = verdict.gaps.values().sum();
    report.require(told >= verdict.readers, format!("{told} gaps told to {} readers", verdict.readers));
    Ok(report)
}

async fn lag(run: Run, entries: usize, owner_lives: bool) -> Result<Report> {
    let mut report = Report::default();
    let primary = Store::start(&["--repl-diskless-sync-delay", "0"]).await;
    let link = Proxy::before(primary.port(), run.seed).await;
    let replica = Store::start(&["--replicaof", "127.0.0.1", &link.port().to_string()]).await;
    replica.follows().await;
    let mut ground = Ground::over(primary, Plan::small(run.seed)).await?;
    let every = Duration::from_millis(if entries < 10 { 250 } else { 10 });
    let mix = Mix { producers: vec![Style::Keyed], every, ..Mix::usual() };
    let mut load = Load::start(&ground, &mix);
    load.flows(run.either(8, 40)).await;
    // The worker hears with its next renewal that there is a replica.
    sleep(Duration::from_millis(1_500) + run.moment(500)).await;
    link.set(Mode::Hold);
    load.flows(entries).await;
    drop(link);
    // Before its owner dies: the next one counts anew.
    let missed = tail(&ground.store)? - tail(&replica)?;
    if !owner_lives {
        let owner = ground.owner("n0").await;
        ground.workers.remove(&owner).unwrap().plexus.kill();
    }
    ground.store.kill();
    let killed = Instant::now();
    replica.ask(&["REPLICAOF", "NO", "ONE"]);
    ground.proxies().for_each(|proxy| proxy.lead(replica.port()));
    load.flows(1).await;
    let back = killed.elapsed();
    load.flows(run.either(8, 40)).await;
    load.join(Kind::Sse);
    load.join(Kind::WebSocket);
    let ledger = load.finish().await;
    report.fact(format!("the replica missed {missed} messages; served again after {}", seconds(back)));
    report.fact(format!("refused {:?}", ledger.refusals()));
    let verdict = report.judge(&ledger, if owner_lives { STRICT } else { GAPS });
    if !owner_lives {
        let told = verdict.gaps.get("REWOUND").copied().unwrap_or(0);
        report
            .require(told >= verdict.readers, format!("{told} times REWOUND to {} readers", verdict.readers));
    }
    drop(replica);
    Ok(report)
}

/// How many messages of the topic a server has in this epoch.
fn tail(store: &Store) -> Result<i64> {
    let tail = store.ask(&["HGET", "plx:{default/n0}:f", "t:demo"]);
    let (_, seq) = tail.split_once('-').with_context(|| format!("no tail: {tail}"))?;
    Ok(seq.parse()?)
}

async fn sentinel(run: Run) -> Result<Report> {
    let mut report = Report::default();
    let primary = Store::start(&["--repl-diskless-sync-delay", "0"]).await;
    let port = primary.port().to_string();
    let (one, two) = (
        Store::start(&["--replicaof", "127.0.0.1", &port]).await,
        Store::start(&["--replicaof", "127.0.0.1", &port]).await,
    );
    one.follows().await;
    two.follows().await;
    let config = format!(
        "sentinel monitor main 127.0.0.1 {port} 2\nsentinel down-after-milliseconds main 2000\n\
         sentinel failover-timeout main 10000\n"
    );
    let mut sentinels = Vec::new();
    for _ in 0..3 {
        sentinels.push(Store::sentinel(&config).await);
    }
    eventually(Duration::from_secs(20), || async {
        let told = sentinels[0].ask(&["SENTINEL", "CKQUORUM", "main"]);
        let replicas = sentinels[0].ask(&["SENTINEL", "REPLICAS", "main"]);
        ensure!(told.starts_with("OK 3"), "{told}");
        ensure!(replicas.matches("slave-repl-offset").count() == 2, "{replicas}");
        Ok(())
    })
    .await;
    let [a, b, c] = [0, 1, 2].map(|at| sentinels[at].port());
    let bus = format!(
        "redis-sentinel://127.0.0.1:{a}?sentinelServiceName=main&node=127.0.0.1:{b}&node=127.0.0.1:{c}"
    );
    let mut ground = Ground::over(primary, Plan { bus: Some(bus), ..Plan::small(run.seed) }).await?;
    let mut load = Load::start(&ground, &Mix::usual());
    load.flows(300).await;
    sleep(run.moment(1_000)).await;
    ground.store.kill();
    let killed = Instant::now();
    load.flows(5).await;
    let back = killed.elapsed();
    load.flows(200).await;
    load.join(Kind::Sse);
    let ledger = load.finish().await;
    let ok = back <= Duration::from_secs(15);
    report.timed(run, ok, format!("served again after {}", seconds(back)));
    report.fact(format!("refused {:?}", ledger.refusals()));
    report.judge(&ledger, GAPS);
    drop((one, two, sentinels));
    Ok(report)
}

async fn slow(run: Run) -> Result<Report> {
    let mut report = Report::default();
    let ground = Ground::start(Plan { nodes: 4, ..Plan::small(run.seed) }).await?;
    let owners = Owners::listen(ground.store.port()).await?;
    let load = Load::start(&ground, &Mix::usual());
    load.flows(200).await;
    let began = Instant::now();
    ground.proxies().for_each(|proxy| proxy.set(Mode::Late(Duration::from_millis(100))));
    sleep(Duration::from_secs(10)).await;
    ground.proxies().for_each(|proxy| proxy.set(Mode::Pass));
    let ended = Instant::now();
    load.flows(200).await;
    let ledger = load.finish().await;
    let moves = owners.end().await.len();
    report.require(moves == 0, format!("{moves} changes of ownership"));
    let refusals = ledger.refusals();
    report.require(refusals.is_empty(), format!("failed calls: {refusals:?}"));
    report.fact(format!("slowest call {}", seconds(ledger.slowest(began, ended, true))));
    report.judge(&ledger, STRICT);
    Ok(report)
}

async fn full(run: Run) -> Result<Report> {
    let mut report = Report::default();
    let ground = Ground::start(Plan { nodes: 2, ..Plan::small(run.seed) }).await?;
    let owners = Owners::listen(ground.store.port()).await?;
    let load = Load::start(&ground, &Mix::usual());
    load.flows(200).await;
    let began = Instant::now();
    ground.store.ask(&["CONFIG", "SET", "maxmemory", "1mb"]);
    sleep(Duration::from_secs(8)).await;
    ground.store.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    let ended = Instant::now();
    load.flows(200).await;
    let ledger = load.finish().await;
    let slowest = ledger.slowest(began, ended, false);
    let refusals = ledger.refusals();
    report.require(!refusals.is_empty(), format!("refused {refusals:?}"));
    let ok = slowest <= Duration::from_secs(6);
    report.timed(run, ok, format!("the slowest refusal after {}", seconds(slowest)));
    let moves = owners.end().await.len();
    report.require(moves == 0, format!("{moves} changes of ownership"));
    report.judge(&ledger, STRICT);
    Ok(report)
}
