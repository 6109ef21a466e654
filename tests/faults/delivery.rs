//! Answers are lost, cut in the middle, live links killed; thousands of messages are missed; and everything at
//! once, by chance.

use crate::{
    ground::{Ground, Plan},
    load::{Load, Mix, Style},
    proxy::Mode,
    reader::Kind,
    report::{Report, seconds},
    scenario::{Run, Scenario},
    workers::STRICT,
};
use anyhow::Result;
use rand::{Rng, SeedableRng, rngs::StdRng};
use rustix::process::Signal;
use std::time::{Duration, Instant};
use tokio::time::sleep;

pub(crate) const ALL: &[Scenario] = &[
    Scenario {
        name: "replies-lost",
        ids: "F18, C.4",
        promise: "commands ran, their answers never came: each key runs once, the repeat gets the same position; no gap",
        fixed: true,
        run: |run| Box::pin(replies_lost(run)),
    },
    Scenario {
        name: "replies-truncated",
        ids: "F31",
        promise: "connections to Redis reset in the middle of an answer, again and again: no repeat, no gap",
        fixed: true,
        run: |run| Box::pin(replies_truncated(run)),
    },
    Scenario {
        name: "live-link-killed",
        ids: "C.4 (L2)",
        promise: "a message logged while a gateway's links were down, and no traffic after: told ≤ 6 s after it is back",
        fixed: true,
        run: |run| Box::pin(live_link(run)),
    },
    Scenario {
        name: "five-thousand-missed",
        ids: "C.4 (L4)",
        promise: "5,000 messages missed while a gateway was cut off: all come in order without a reload, no gap",
        fixed: false,
        run: |run| Box::pin(missed(run)),
    },
    Scenario {
        name: "nemesis",
        ids: "F1–F8, F14",
        promise: "faults by chance for a minute, Redis keeps its data: nothing acked lost, no repeat, no gap",
        fixed: true,
        run: |run| Box::pin(nemesis(run)),
    },
];

async fn replies_lost(run: Run) -> Result<Report> {
    let mut report = Report::default();
    let ground = Ground::start(Plan::small(run.seed)).await?;
    let load = Load::start(&ground, &Mix::usual());
    load.flows(100).await;
    let rounds = run.either(3, 10);
    for round in 0..rounds {
        let owner = ground.owner("n0").await;
        let gateway = &ground.gateways["g0"];
        let proxy = if round % 2 == 0 { &ground.workers[&owner].proxy } else { &gateway.proxy };
        sleep(run.moment(300)).await;
        proxy.set(Mode::HoldBack);
        sleep(Duration::from_millis(700)).await;
        proxy.reset();
        proxy.set(Mode::Pass);
        load.flows(60).await;
    }
    let ledger = load.finish().await;
    let again = ledger.tries().filter(|one| one.outcome.is_err()).count();
    report.fact(format!("{rounds} times the answers of 0.7 s; {again} publishes repeated"));
    report.judge(&ledger, STRICT);
    Ok(report)
}

async fn replies_truncated(run: Run) -> Result<Report> {
    let mut report = Report::default();
    let mut rng = StdRng::seed_from_u64(run.seed);
    let ground = Ground::start(Plan::small(run.seed)).await?;
    let load = Load::start(&ground, &Mix::usual());
    load.flows(100).await;
    let rounds = run.either(8, 40);
    for _ in 0..rounds {
        let at = rng.random_range(0..4);
        let proxy = ground.proxies().nth(at).expect("four processes");
        proxy.set(Mode::Truncate(rng.random_range(1..3_000)));
        sleep(Duration::from_millis(rng.random_range(50..400))).await;
        proxy.set(Mode::Pass);
        load.flows(20).await;
    }
    let ledger = load.finish().await;
    report.fact(format!("{rounds} times; refused {:?}", ledger.refusals()));
    report.judge(&ledger, STRICT);
    Ok(report)
}

async fn live_link(run: Run) -> Result<Report> {
    let mut report = Report::default();
    let ground = Ground::start(Plan::small(run.seed)).await?;
    // The readers turn to g0 and g1 in turn; what they miss is published through either.
    let mix = Mix { producers: vec![Style::Keyed], ..Mix::usual() };
    let mut slowest = Duration::ZERO;
    let mut load = Load::start(&ground, &mix);
    load.flows(50).await;
    let g0 = &ground.gateways["g0"].proxy;
    g0.set(Mode::Refuse);
    g0.reset();
    sleep(Duration::from_millis(500) + run.moment(500)).await;
    // The last message is logged while the links are down, and nothing comes after it.
    load.quiet().await;
    sleep(Duration::from_millis(300)).await;
    g0.set(Mode::Pass);
    let healed = Instant::now();
    let ledger = load.finish().await;
    for followed in ledger.0.iter().flat_map(|ended| &ended.readers) {
        if let Some(at) = followed.arrivals.last() {
            slowest = slowest.max(at.saturating_duration_since(healed));
        }
    }
    let ok = slowest <= Duration::from_secs(6);
    report.timed(run, ok, format!("the last reader had it {} after the links were back", seconds(slowest)));
    report.judge(&ledger, STRICT);
    Ok(report)
}

async fn missed(run: Run) -> Result<Report> {
    let mut report = Report::default();
    let ground = Ground::start(Plan::small(run.seed)).await?;
    let mix = Mix {
        producers: vec![Style::Keyed; 8],
        readers: vec![Kind::Sse, Kind::WebSocket, Kind::Ndjson, Kind::Sse, Kind::WebSocket, Kind::Ndjson],
        every: Duration::from_millis(1),
    };
    let load = Load::start(&ground, &mix);
    load.flows(100).await;
    let g0 = &ground.gateways["g0"].proxy;
    g0.set(Mode::Hold);
    let cut = Instant::now();
    load.flows(5_000).await;
    let spent = cut.elapsed();
    g0.set(Mode::Pass);
    let healed = Instant::now();
    let ledger = load.finish().await;
    let last = ledger.0.iter().flat_map(|ended| &ended.readers).filter_map(|f| f.arrivals.last()).max();
    report.fact(format!("cut off for {}", seconds(spent)));
    report.fact(format!(
        "the last reader was through {} after it healed",
        last.map_or("never".into(), |at| seconds(at.saturating_duration_since(healed)))
    ));
    report.fact(format!("{} times readers came again", ledger.resumes()));
    report.judge(&ledger, STRICT);
    Ok(report)
}

/// Breaks something by chance, and mends it after a while.
async fn nemesis(run: Run) -> Result<Report> {
    let mut report = Report::default();
    let mut rng = StdRng::seed_from_u64(run.seed);
    let plan = Plan { workers: 3, gateways: 3, nodes: 3, ..Plan::small(run.seed) };
    let mut ground = Ground::start(plan).await?;
    let load = Load::start(&ground, &Mix { every: Duration::from_millis(30), ..Mix::usual() });
    load.flows(100).await;
    let end = Instant::now() + Duration::from_secs(run.either(20, 90) as u64);
    let mut done = Vec::new();
    while Instant::now() < end {
        done.push(blow(&mut ground, &mut rng).await);
        sleep(Duration::from_millis(rng.random_range(0..1_500))).await;
    }
    ground.running().await;
    load.flows(100).await;
    let ledger = load.finish().await;
    report.fact(done.join(", "));
    report.fact(format!("refused {:?}; readers came again {} times", ledger.refusals(), ledger.resumes()));
    report.judge(&ledger, STRICT);
    Ok(report)
}

/// One blow; what was killed is replaced.
async fn blow(ground: &mut Ground, rng: &mut StdRng) -> String {
    let span = Duration::from_millis(rng.random_range(200..7_000));
    let pick = |rng: &mut StdRng, names: Vec<&String>| names[rng.random_range(0..names.len())].clone();
    let worker = pick(rng, ground.workers.keys().collect());
    let gateway = pick(rng, ground.gateways.keys().collect());
    let far = rng.random_bool(0.5);
    match rng.random_range(0..9) {
        0 => {
            ground.workers.remove(&worker).unwrap().plexus.kill();
            ground.add_worker().await;
            format!("killed {worker}")
        }
        1 => {
            ground.workers.remove(&worker).unwrap().terminate().await;
            ground.add_worker().await;
            format!("ended {worker}")
        }
        2 => {
            ground.take_gateway(&gateway).plexus.kill();
            ground.add_gateway().await;
            format!("killed {gateway}")
        }
        3 => {
            ground.take_gateway(&gateway).terminate().await;
            ground.add_gateway().await;
            format!("ended {gateway}")
        }
        4 => {
            let side = if far { &ground.workers[&worker] } else { &ground.gateways[&gateway] };
            side.signal(Signal::STOP);
            sleep(span).await;
            side.signal(Signal::CONT);
            format!("froze {} for {}", if far { worker } else { gateway }, seconds(span))
        }
        5 => {
            ground.store.freeze();
            sleep(span / 2).await;
            ground.store.thaw();
            format!("froze Redis for {}", seconds(span / 2))
        }
        6 => {
            let mode = Mode::Truncate(rng.random_range(1..4_000));
            ground.proxies().for_each(|proxy| proxy.set(mode));
            sleep(span / 8).await;
            ground.proxies().for_each(|proxy| proxy.set(Mode::Pass));
            format!("cut answers for {}", seconds(span / 8))
        }
        kind => {
            let side = if far { &ground.workers[&worker] } else { &ground.gateways[&gateway] };
            side.proxy.set(if kind == 7 { Mode::Hold } else { Mode::HoldBack });
            sleep(span).await;
            side.proxy.set(Mode::Pass);
            format!("cut {} off for {}", if far { worker } else { gateway }, seconds(span))
        }
    }
}
