//! Rows 4 and 5: how long a message takes from a client over the mesh to a reader of another node.

use crate::{
    client::{self, Heard, Kept},
    clock,
    fleet::{Fleet, TOPIC},
    proc::micros,
    raw::Baseline,
    sheet::Sheet,
};
use anyhow::{Context, Result};
use fred::{
    prelude::{Builder, ClientLike, Config},
    types::RespVersion,
};
use std::time::{Duration, Instant};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

const RATE: u32 = 200;
const SECONDS: u64 = 4;
const DURING: Duration = Duration::from_secs(SECONDS);
/// What is sent before samples count: caches, connections, the first page of a log.
const WARM: Duration = Duration::from_millis(500);
const BYTES: usize = 256;

/// One run within a process.
pub(crate) async fn embedded(sheet: &mut Sheet) -> Result<()> {
    raw(sheet, "hop").await?;
    let fleet = Fleet::together().await;
    both(sheet, &fleet, "hop").await
}

/// One run over Redis.
pub(crate) async fn apart(sheet: &mut Sheet) -> Result<()> {
    raw(sheet, "redis").await?;
    let fleet = Fleet::apart(&[]).await;
    both(sheet, &fleet, "redis").await?;
    let url = fleet.redis.as_ref().context("there is Redis")?.url();
    let took = round_trips(&url).await?;
    sheet.measure("redis.trip.p50", clock::quantile(&took, 0.5) / 1e3);
    sheet.measure("redis.trip.p99", clock::quantile(&took, 0.99) / 1e3);
    Ok(())
}

async fn both(sheet: &mut Sheet, fleet: &Fleet, row: &str) -> Result<()> {
    fleet.pair().await?;
    for (dialect, took) in [("ws", websocket(fleet).await?), ("sse", events(fleet).await?)] {
        for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
            sheet.measure(&format!("{row}.{dialect}.{name}"), clock::quantile(&took, share) / 1e3);
        }
    }
    Ok(())
}

async fn raw(sheet: &mut Sheet, row: &str) -> Result<()> {
    let words = format!("hop --rate {RATE} --seconds {SECONDS} --bytes {BYTES}");
    let answer = Baseline::start(&words, None)?.answer().await?;
    let took: Vec<f64> = serde_json::from_value(answer["took_us"].clone())?;
    for dialect in ["ws", "sse"] {
        for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
            sheet.baseline(&format!("{row}.{dialect}.{name}"), clock::quantile(&took, share) / 1e3);
        }
    }
    Ok(())
}

fn ticks() -> tokio::time::Interval {
    let mut ticks = interval(Duration::from_secs(1) / RATE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Publishes to node 0 over one session, reads node 1 over another.
async fn websocket(fleet: &Fleet) -> Result<Vec<f64>> {
    let address = fleet.gateway.address;
    let (mut asks, mut reads) = client::session(address).await?;
    asks.subscribe(1, "n1", TOPIC).await?;
    reads.started().await?;
    let (mut speaks, mut hears) = client::session(address).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut ticks = ticks();
        for id in 1.. {
            ticks.tick().await;
            speaks.publish(id, "n0", TOPIC, clock::payload(BYTES)).await?;
            speaks.flush().await?;
        }
        anyhow::Ok(())
    });
    tasks.spawn(async move {
        loop {
            hears.hear().await?;
        }
    });
    collect(&mut tasks, async || {
        loop {
            if let Heard::Message(data) = reads.hear().await? {
                return Ok(data.to_vec());
            }
        }
    })
    .await
}

/// Publishes to node 0 by POST, reads node 1 as server-sent events.
async fn events(fleet: &Fleet) -> Result<Vec<f64>> {
    let mut kept = Kept::open(fleet.gateway.address).await?;
    let mut lines = fleet.client().events(&path("n1", "?view=TEXT"), None).await?;
    lines.next("start").await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (mut ticks, path) = (ticks(), path("n0", ""));
        loop {
            ticks.tick().await;
            kept.publish(&path, clock::payload(BYTES)).await?;
        }
    });
    collect(&mut tasks, async || {
        let event = lines.next("message").await?;
        Ok(event.data["text"].as_str().context("a text")?.as_bytes().to_vec())
    })
    .await
}

fn path(node: &str, query: &str) -> String {
    format!("/v1/nodes/{node}/topics/{TOPIC}/messages{query}")
}

/// Takes the ages of what is read, in microseconds, until the time is over.
async fn collect(
    tasks: &mut JoinSet<Result<()>>,
    mut next: impl AsyncFnMut() -> Result<Vec<u8>>,
) -> Result<Vec<f64>> {
    let (mut took, started) = (Vec::new(), Instant::now());
    while started.elapsed() < WARM + DURING {
        let data = tokio::select! {
            data = timeout(DURING, next()) => data.context("nothing arrives")??,
            Some(ended) = tasks.join_next() => anyhow::bail!("a client ended: {ended:?}"),
        };
        if started.elapsed() > WARM {
            took.extend(clock::age(&data).map(micros));
        }
    }
    tasks.shutdown().await;
    Ok(took)
}

/// One command after another at the same rate, over a client as the bus has it.
async fn round_trips(url: &str) -> Result<Vec<f64>> {
    let mut config = Config::from_url(url)?;
    config.version = RespVersion::RESP3;
    let client = Builder::from_config(config).build()?;
    client.init().await?;
    let (mut ticks, mut took, started) = (ticks(), Vec::new(), Instant::now());
    while started.elapsed() < DURING {
        ticks.tick().await;
        let sent = Instant::now();
        client.ping::<()>(None).await?;
        took.push(micros(sent.elapsed()));
    }
    client.quit().await?;
    Ok(took)
}
