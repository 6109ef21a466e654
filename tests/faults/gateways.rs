//! Gateways die, end, freeze, and lose Redis in every way that a network has.

use crate::{
    ground::{Ground, Plan, Side},
    load::{Load, Mix, Style, messages, publish},
    proxy::Mode,
    reader::Kind,
    report::{Report, seconds},
    scenario::{Run, Scenario},
    workers::STRICT,
};
use anyhow::{Result, ensure};
use plexus_tests::eventually;
use rustix::process::Signal;
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

const CUT: &str =
    "not ready ≤ 5 s, calls refused ≤ 2 s, none hangs; clients stay, and miss nothing after it healed";

pub(crate) const ALL: &[Scenario] = &[
    Scenario {
        name: "gateway-killed",
        ids: "F2, F29",
        promise: "its readers go on elsewhere; no gap, no repeat",
        fixed: true,
        run: |run| Box::pin(killed(run)),
    },
    Scenario {
        name: "gateway-terminated",
        ids: "F3",
        promise: "no unary call fails, exit 0 ≤ 45 s; readers go on elsewhere; no gap, no repeat",
        fixed: true,
        run: |run| Box::pin(terminated(run)),
    },
    Scenario {
        name: "gateway-frozen",
        ids: "F6",
        promise: "its clients give up and go on elsewhere; it takes up work when it wakes; no gap, no repeat",
        fixed: false,
        run: |run| Box::pin(frozen(run)),
    },
    Scenario {
        name: "gateway-half-open",
        ids: "F8",
        promise: CUT,
        fixed: true,
        run: |run| Box::pin(cut(run, Mode::Hold)),
    },
    Scenario {
        name: "gateway-reset",
        ids: "F8",
        promise: CUT,
        fixed: false,
        run: |run| Box::pin(cut(run, Mode::Refuse)),
    },
    Scenario {
        name: "gateway-deaf",
        ids: "F8",
        promise: CUT,
        fixed: false,
        run: |run| Box::pin(cut(run, Mode::HoldBack)),
    },
    Scenario {
        name: "gateway-drips",
        ids: "F8",
        promise: CUT,
        fixed: false,
        run: |run| Box::pin(cut(run, Mode::Drip(40))),
    },
    Scenario {
        name: "rolling-update",
        ids: "F28",
        promise: "every worker and gateway is replaced under load: no unary call fails, each node moves at most twice; no gap",
        fixed: false,
        run: |run| Box::pin(rolling(run)),
    },
];

/// Many readers of one node, of every kind.
fn crowd(readers: usize, producers: Vec<Style>) -> Mix {
    let kinds = [Kind::Sse, Kind::WebSocket, Kind::Ndjson];
    let readers = kinds.into_iter().cycle().take(readers).collect();
    Mix { producers, readers, every: Duration::from_millis(40) }
}

async fn killed(run: Run) -> Result<Report> {
    let mut report = Report::default();
    let mut ground = Ground::start(Plan { gateways: 3, ..Plan::small(run.seed) }).await?;
    let readers = run.either(30, 300);
    let load = Load::start(&ground, &crowd(readers, vec![Style::Keyed; 2]));
    load.flows(100).await;
    sleep(run.moment(500)).await;
    let commands = ground.store.info("total_commands_processed")?;
    let side = ground.take_gateway("g0");
    side.plexus.kill();
    load.flows(150).await;
    let asked = ground.store.info("total_commands_processed")? - commands;
    let ledger = load.finish().await;
    let resumed = ledger.resumes();
    report.require(resumed >= readers / 3, format!("{resumed} of {readers} readers came again"));
    report.fact(format!("{asked} commands at Redis meanwhile"));
    report.judge(&ledger, STRICT);
    Ok(report)
}

async fn terminated(run: Run) -> Result<Report> {
    let mut report = Report::default();
    let mut ground = Ground::start(Plan { gateways: 3, ..Plan::small(run.seed) }).await?;
    let readers = run.either(30, 300);
    let load = Load::start(&ground, &crowd(readers, vec![Style::Once; 6]));
    load.flows(200).await;
    sleep(run.moment(500)).await;
    let side = ground.take_gateway("g0");
    // As a balancer does, clients hear first that it goes.
    sleep(Duration::from_millis(200)).await;
    let told = Instant::now();
    let code = side.terminate().await;
    let ended = told.elapsed();
    report.require(code == Some(0), format!("exit {code:?}"));
    report.timed(run, ended < Duration::from_secs(45), format!("after {}", seconds(ended)));
    load.flows(200).await;
    let ledger = load.finish().await;
    let refusals = ledger.refusals();
    let calls = ledger.tries().count();
    report.require(refusals.is_empty(), format!("{calls} calls, failed: {refusals:?}"));
    report.require(ledger.resumes() >= readers / 3, format!("{} readers came again", ledger.resumes()));
    report.judge(&ledger, STRICT);
    Ok(report)
}

async fn frozen(run: Run) -> Result<Report> {
    let mut report = Report::default();
    let ground = Ground::start(Plan { gateways: 3, ..Plan::small(run.seed) }).await?;
    let load = Load::start(&ground, &crowd(12, vec![Style::Keyed; 2]));
    load.flows(100).await;
    let side = &ground.gateways["g0"];
    side.signal(Signal::STOP);
    sleep(Duration::from_secs(if run.full { 30 } else { 20 })).await;
    side.signal(Signal::CONT);
    let woke = Instant::now();
    eventually(Duration::from_secs(20), || async {
        ensure!(side.ready().await?, "not ready");
        Ok(())
    })
    .await;
    report.fact(format!("ready {} after it woke", seconds(woke.elapsed())));
    load.flows(100).await;
    let ledger = load.finish().await;
    report.fact(format!("{} times readers came again", ledger.resumes()));
    report.judge(&ledger, STRICT);
    Ok(report)
}

/// Asks a gateway again and again while it is cut off: one publish without a key at a time, and one read.
async fn asked(side: &Side, node: &str, until: Instant) -> Vec<(Duration, Option<String>)> {
    let client = side.plexus.client();
    let mut asks = JoinSet::new();
    for turn in 0..4 {
        let (client, node) = (client.clone(), node.to_owned());
        asks.spawn(async move {
            let mut answers = Vec::new();
            while Instant::now() < until {
                let began = Instant::now();
                let refusal = match turn % 2 {
                    0 => {
                        let body = json!({"text": "cut off", "requestId": format!("cut {turn}")});
                        publish(&client, &messages(&node).replace("demo", "other"), &body).await.err()
                    }
                    _ => match client.get(&format!("/v1/nodes/{node}")).await {
                        Ok(answer) if answer.status.is_success() => None,
                        Ok(answer) => Some(answer.json()["reason"].as_str().unwrap_or("?").to_owned()),
                        Err(error) => Some(error.to_string()),
                    },
                };
                answers.push((began.elapsed(), refusal));
                sleep(Duration::from_millis(100)).await;
            }
            answers
        });
    }
    asks.join_all().await.concat()
}

async fn cut(run: Run, mode: Mode) -> Result<Report> {
    let mut report = Report::default();
    let ground = Ground::start(Plan::small(run.seed)).await?;
    let load = Load::start(
        &ground,
        &Mix { readers: vec![Kind::Sse, Kind::WebSocket, Kind::Ndjson, Kind::Sse], ..Mix::usual() },
    );
    load.flows(150).await;
    sleep(run.moment(500)).await;
    let side = &ground.gateways["g0"];
    let cut = Instant::now();
    side.proxy.set(mode);
    if mode == Mode::Refuse {
        side.proxy.reset();
    }
    let lasts = Duration::from_secs(if run.full { 15 } else { 8 });
    let unready = async {
        while side.ready().await.unwrap_or(false) {
            sleep(Duration::from_millis(50)).await;
        }
        cut.elapsed()
    };
    let asks = asked(side, "n0", cut + lasts);
    let (unready, answers) = tokio::join!(timeout(lasts, unready), asks);
    match unready {
        Ok(time) => {
            let ok = time <= Duration::from_secs(5);
            report.timed(run, ok, format!("not ready after {}", seconds(time)));
        }
        Err(_) => report.require(false, "ready all the while"),
    }
    let refused: Vec<_> = answers.iter().filter_map(|(took, why)| Some((*took, why.as_ref()?))).collect();
    let slowest = refused.iter().map(|(took, _)| *took).max().unwrap_or_default();
    let reasons: std::collections::BTreeSet<_> = refused.iter().map(|(_, why)| (*why).clone()).collect();
    let reasons = reasons.into_iter().collect::<Vec<_>>().join(", ");
    report.require(!refused.is_empty(), format!("{} calls refused ({reasons})", refused.len()));
    let ok = slowest <= Duration::from_secs(2);
    report.timed(run, ok, format!("the slowest refusal after {}", seconds(slowest)));
    let hung = answers.iter().map(|(took, _)| *took).max().unwrap_or_default();
    report.timed(
        run,
        hung <= Duration::from_secs(5),
        format!("the slowest call of all took {}", seconds(hung)),
    );
    side.proxy.set(Mode::Pass);
    let healed = Instant::now();
    eventually(Duration::from_secs(20), || async {
        ensure!(side.ready().await?, "not ready");
        Ok(())
    })
    .await;
    report.fact(format!("ready {} after it healed", seconds(healed.elapsed())));
    load.flows(200).await;
    let ledger = load.finish().await;
    report.fact(format!("{} times readers came again", ledger.resumes()));
    report.judge(&ledger, STRICT);
    Ok(report)
}

async fn rolling(run: Run) -> Result<Report> {
    let mut report = Report::default();
    let nodes = run.either(4, 20);
    let mut ground = Ground::start(Plan { nodes, ..Plan::small(run.seed) }).await?;
    let mix = Mix {
        producers: vec![Style::Once],
        readers: vec![Kind::Sse, Kind::WebSocket],
        every: Duration::from_millis(25 * nodes as u64),
    };
    let owners = crate::owners::Owners::listen(ground.store.port()).await?;
    let load = Load::start(&ground, &mix);
    load.flows(4 * nodes).await;
    let mut codes = Vec::new();
    for name in ground.workers.keys().cloned().collect::<Vec<_>>() {
        ground.add_worker().await;
        codes.push(ground.workers.remove(&name).unwrap().terminate().await);
        ground.running().await;
        load.flows(2 * nodes).await;
    }
    for name in ground.gateways.keys().cloned().collect::<Vec<_>>() {
        ground.add_gateway().await;
        let side = ground.take_gateway(&name);
        sleep(Duration::from_millis(200)).await;
        codes.push(side.terminate().await);
        load.flows(2 * nodes).await;
    }
    let ledger = load.finish().await;
    let mut moves = std::collections::BTreeMap::new();
    for change in owners.end().await.into_iter().filter(|change| !change.worker.is_empty()) {
        *moves.entry(change.node).or_insert(0) += 1;
    }
    let most = moves.values().max().copied().unwrap_or(0);
    report.require(codes.iter().all(|code| *code == Some(0)), format!("exits {codes:?}"));
    report.require(most <= 2, format!("a node moved {most} times at most"));
    let refusals = ledger.refusals();
    report.require(refusals.is_empty(), format!("{} calls, failed: {refusals:?}", ledger.tries().count()));
    report.judge(&ledger, STRICT);
    Ok(report)
}
