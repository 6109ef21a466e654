//! Workers die, end, freeze and lose Redis.

use crate::{
    ground::{Ground, Plan, Side, peer_ids},
    load::{Load, Mix, Style},
    owners::{self, Owners},
    proxy::Mode,
    reader::Kind,
    report::{Report, seconds, spread},
    scenario::{Run, Scenario},
};
use anyhow::Result;
use plexus_tests::{eventually, history::Terms};
use rustix::process::Signal;
use std::time::{Duration, Instant};
use tokio::time::sleep;

pub(crate) const STRICT: Terms = Terms { gaps: false };
/// Longer than a lease.
const PAST_LEASE: Duration = Duration::from_secs(8);

pub(crate) const ALL: &[Scenario] = &[
    Scenario {
        name: "worker-killed",
        ids: "F1",
        promise: "the same PeerIds elsewhere, p50 ≤ 7 s, p99 ≤ 10 s; nothing acked lost, no gap; what has no key \
                  runs at most once",
        fixed: true,
        run: |run| Box::pin(killed(run)),
    },
    Scenario {
        name: "worker-terminated",
        ids: "F4",
        promise: "each node ≤ 1 s without owner, all handed over ≤ 10 s, exit 0; no call fails; no gap",
        fixed: true,
        run: |run| Box::pin(terminated(run)),
    },
    Scenario {
        name: "zombie-worker",
        ids: "F5",
        promise: "a worker frozen past its lease writes nothing when it wakes, and fences itself; no gap",
        fixed: true,
        run: |run| Box::pin(zombie(run)),
    },
    Scenario {
        name: "worker-cut-off",
        ids: "F7",
        promise: "a worker that loses Redis alone stops its nodes; another runs them; it comes back empty; no gap",
        fixed: false,
        run: |run| Box::pin(cut_off(run)),
    },
    Scenario {
        name: "lease-deleted",
        ids: "F21",
        promise: "of two workers that are made to own one node, one acts: no repeat, no gap, nothing acked lost",
        fixed: false,
        run: |run| Box::pin(lease_deleted(run)),
    },
];

/// One producer and one reader a node, of every kind in turn.
fn wide(style: &[Style], every: u64) -> Mix {
    Mix { producers: style.to_vec(), readers: vec![Kind::Sse], every: Duration::from_millis(every) }
}

async fn killed(run: Run) -> Result<Report> {
    let mut report = Report::default();
    let nodes = run.either(10, 50);
    let plan = Plan { nodes, ..Plan::small(run.seed) };
    let mut ground = Ground::start(plan).await?;
    let before = ground.running().await;
    let load = Load::start(&ground, &wide(&[Style::Keyed, Style::Once], 40 * nodes as u64));
    load.flows(4 * nodes).await;
    sleep(run.moment(1_000)).await;
    let (owner, count) = ground.busiest().await;
    let killed = Instant::now();
    ground.workers.remove(&owner).unwrap().plexus.kill();
    let after = ground.running().await;
    load.flows(2 * nodes).await;
    let ledger = load.finish().await;
    let times = ledger.taken_over(killed);
    report.fact(format!("{count} of {nodes} nodes lost their owner"));
    let at = |share: f64| times.get((times.len() as f64 * share).ceil() as usize - 1).copied();
    let within = |share, limit| at(share).is_some_and(|time| time <= Duration::from_secs(limit));
    report.require(times.len() == count, format!("{} answered elsewhere", times.len()));
    report.timed(run, within(0.5, 7) && within(0.99, 10), format!("after the kill: {}", spread(&times)));
    report.require(peer_ids(&before) == peer_ids(&after), "the same PeerIds");
    report.fact(format!("refusals: {:?}", ledger.refusals()));
    report.judge(&ledger, STRICT);
    Ok(report)
}

async fn terminated(run: Run) -> Result<Report> {
    let mut report = Report::default();
    let nodes = run.either(10, 50);
    let plan = Plan { nodes, ..Plan::small(run.seed) };
    let mut ground = Ground::start(plan).await?;
    let before = ground.running().await;
    let load = Load::start(&ground, &wide(&[Style::Once], 5 * nodes as u64 / 2));
    load.flows(4 * nodes).await;
    sleep(run.moment(1_000)).await;
    let (owner, count) = ground.busiest().await;
    let changes = Owners::listen(ground.store.port()).await?;
    let told = Instant::now();
    let code = ground.workers.remove(&owner).unwrap().terminate().await;
    let ended = told.elapsed();
    let after = ground.running().await;
    load.flows(4 * nodes).await;
    let until = Instant::now();
    let ledger = load.finish().await;
    let changes = changes.end().await;
    let times = owners::unowned(&changes);
    let longest = times.last().copied().unwrap_or_default();
    let all = changes.iter().map(|change| change.at - told).max().unwrap_or_default();
    report.fact(format!("{count} of {nodes} nodes handed over"));
    report.require(times.len() == count, format!("{} found another owner", times.len()));
    report.timed(run, longest <= Duration::from_secs(1), format!("without owner: {}", spread(&times)));
    report.timed(run, all <= Duration::from_secs(10), format!("all owned again after {}", seconds(all)));
    report.require(code == Some(0), format!("exit {code:?} after {}", seconds(ended)));
    let refusals = ledger.refusals();
    report.require(refusals.is_empty(), format!("failed calls: {refusals:?}"));
    report.fact(format!("slowest call {}", seconds(ledger.slowest(told, until, true))));
    report.require(peer_ids(&before) == peer_ids(&after), "the same PeerIds");
    report.judge(&ledger, STRICT);
    Ok(report)
}

/// Waits until a worker has fenced itself and has no node left.
async fn fenced(worker: &Side, patience: Duration) {
    eventually(patience, || async {
        let (fences, nodes) =
            (worker.metric("plexus_worker_fences_total").await?, worker.metric("plexus_worker_nodes").await?);
        anyhow::ensure!(fences >= 1.0 && nodes == 0.0, "{fences} fences, {nodes} nodes");
        Ok(())
    })
    .await;
}

async fn zombie(run: Run) -> Result<Report> {
    let mut report = Report::default();
    let plan = Plan { nodes: run.either(2, 10), ..Plan::small(run.seed) };
    let mut ground = Ground::start(plan).await?;
    let load = Load::start(&ground, &Mix::usual());
    load.flows(200).await;
    sleep(run.moment(500)).await;
    let (owner, count) = ground.busiest().await;
    let worker = ground.workers.remove(&owner).unwrap();
    let frozen = Instant::now();
    worker.signal(Signal::STOP);
    ground.running().await;
    let span = if run.full { Duration::from_secs(30) } else { PAST_LEASE };
    sleep(span.saturating_sub(frozen.elapsed())).await;
    load.flows(100).await;
    worker.signal(Signal::CONT);
    let woke = Instant::now();
    fenced(&worker, Duration::from_secs(10)).await;
    report.fact(format!("{count} nodes; frozen for {}", seconds(woke - frozen)));
    report.fact(format!("fenced and without nodes {} after it woke", seconds(woke.elapsed())));
    load.flows(200).await;
    let ledger = load.finish().await;
    report.judge(&ledger, STRICT);
    Ok(report)
}

async fn cut_off(run: Run) -> Result<Report> {
    let mut report = Report::default();
    let plan = Plan { nodes: run.either(2, 10), ..Plan::small(run.seed) };
    let mut ground = Ground::start(plan).await?;
    let load = Load::start(&ground, &Mix::usual());
    load.flows(200).await;
    sleep(run.moment(500)).await;
    let (owner, _) = ground.busiest().await;
    let worker = ground.workers.remove(&owner).unwrap();
    let cut = Instant::now();
    worker.proxy.set(Mode::Hold);
    fenced(&worker, Duration::from_secs(8)).await;
    report.fact(format!("fenced itself and dropped its nodes after {}", seconds(cut.elapsed())));
    ground.running().await;
    report.fact(format!("all run elsewhere after {}", seconds(cut.elapsed())));
    sleep(PAST_LEASE.saturating_sub(cut.elapsed())).await;
    load.flows(100).await;
    worker.proxy.set(Mode::Pass);
    eventually(Duration::from_secs(20), || async {
        anyhow::ensure!(worker.ready().await?, "not ready");
        Ok(())
    })
    .await;
    load.flows(200).await;
    let nodes = worker.metric("plexus_worker_nodes").await?;
    report.require(nodes == 0.0, format!("{nodes} nodes on it after the partition healed"));
    let ledger = load.finish().await;
    report.judge(&ledger, STRICT);
    Ok(report)
}

async fn lease_deleted(run: Run) -> Result<Report> {
    let mut report = Report::default();
    let ground = Ground::start(Plan { nodes: 4, ..Plan::small(run.seed) }).await?;
    let load = Load::start(&ground, &Mix::usual());
    for _ in 0..run.either(2, 5) {
        load.flows(200).await;
        sleep(run.moment(1_000)).await;
        let keys = ground.store.ask(&["--raw", "KEYS", "plx:{c}:w:*"]);
        let keys: Vec<&str> = keys.lines().collect();
        ground.store.ask(&[&["DEL"], keys.as_slice()].concat());
        sleep(Duration::from_secs(2)).await;
        ground.running().await;
    }
    let mut fences = 0.0;
    for side in ground.workers.values() {
        fences += side.metric("plexus_worker_fences_total").await?;
    }
    report.require(fences >= 2.0, format!("{fences} times a worker fenced itself"));
    let ledger = load.finish().await;
    report.judge(&ledger, STRICT);
    Ok(report)
}
