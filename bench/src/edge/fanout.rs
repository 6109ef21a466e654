//! Rows 12 and 13: what it costs to hand a message to 1,000 readers, by dialect, beside the centrifuge
//! library. The next message, or burst, goes when all have read the last.

use super::{
    crowd::{Crowd, Place},
    dialect::Dialect,
    payload,
    rival::Server,
};
use crate::{
    client::{self, Heard, Listener, Speaker},
    fleet::{Fleet, TOPIC},
    proc::{Watch, micros},
    sheet::Sheet,
};
use anyhow::{Context, Result};
use serde_json::json;
use std::time::{Duration, Instant};

const READERS: usize = 1_000;
const BYTES: usize = 256;
const DURING: Duration = Duration::from_millis(1_500);
/// Rounds before those that count.
const WARM: usize = 3;
const BURST: usize = 16;
const NODE: &str = "n0";

const DIALECTS: [Dialect; 6] =
    [Dialect::WebSocket, Dialect::Sse, Dialect::Ndjson, Dialect::Connect, Dialect::GrpcWeb, Dialect::Grpc];

/// One run.
pub(crate) async fn run(sheet: &mut Sheet) -> Result<()> {
    let fleet = Fleet::apart(&[]).await;
    let spec = json!({ "listenAddresses": ["/ip4/127.0.0.1/tcp/0"], "topics": [{ "topic": TOPIC }] });
    fleet.grow(0, 1, &spec).await?;
    let mut first = [0.0; 2];
    for dialect in DIALECTS {
        let name = format!("fan.{}", dialect.name());
        let costs = ours(&fleet, dialect).await.context(name.clone())?;
        for (what, cost, first) in [("one", costs[0], first[0]), ("burst", costs[1], first[1])] {
            sheet.measure(&format!("{name}.{what}"), cost);
            if dialect != Dialect::WebSocket {
                sheet.baseline(&format!("{name}.{what}"), first);
            }
        }
        if dialect == Dialect::WebSocket {
            first = costs;
        }
    }
    drop(fleet);
    if let Some(rival) = Server::centrifuge().await? {
        let costs = rivals(rival).await?;
        sheet.baseline("fan.ws.one", costs[0]);
        sheet.baseline("fan.ws.burst", costs[1]);
    }
    Ok(())
}

/// CPU-µs of the gateway per delivery: one at a time, and in bursts.
async fn ours(fleet: &Fleet, dialect: Dialect) -> Result<[f64; 2]> {
    let address = fleet.gateway.address;
    let mut crowd =
        Crowd::gather(Place { dialect, address, node: NODE, topic: TOPIC }, READERS, None).await?;
    let mut session = client::session(address).await?;
    let mut costs = [0.0; 2];
    for (cost, burst) in costs.iter_mut().zip([1, BURST]) {
        let (speaks, hears) = &mut session;
        let publish = async || publish(speaks, hears, burst).await;
        *cost = rounds(&mut crowd, fleet.gateway.pid(), burst, publish).await?;
    }
    Ok(costs)
}

/// Publishes so many at once and waits for the receipts.
async fn publish(speaks: &mut Speaker, hears: &mut Listener, burst: usize) -> Result<()> {
    for id in 0..burst {
        speaks.publish(u32::try_from(id)? + 1, NODE, TOPIC, payload(BYTES)).await?;
    }
    speaks.flush().await?;
    let mut left = burst;
    while left > 0 {
        if let Heard::Result = hears.hear().await? {
            left -= 1;
        }
    }
    Ok(())
}

async fn rivals(mut rival: Server) -> Result<[f64; 2]> {
    let place = Place { dialect: Dialect::Rival, address: rival.address, node: "", topic: TOPIC };
    let mut crowd = Crowd::gather(place, READERS, None).await?;
    let pid = rival.pid()?;
    let mut costs = [0.0; 2];
    for (cost, burst) in costs.iter_mut().zip([1, BURST]) {
        *cost = rounds(&mut crowd, pid, burst, async || rival.publish(burst, BYTES).await).await?;
    }
    Ok(costs)
}

async fn rounds(
    crowd: &mut Crowd,
    pid: u32,
    burst: usize,
    mut publish: impl AsyncFnMut() -> Result<()>,
) -> Result<f64> {
    let deliveries = (READERS * burst) as u64;
    for _ in 0..WARM {
        crowd.read(deliveries, publish()).await?;
    }
    let (watch, started, mut rounds) = (Watch::begin(&[pid])?, Instant::now(), 0);
    while started.elapsed() < DURING {
        crowd.read(deliveries, publish()).await?;
        rounds += 1;
    }
    let (_, used) = watch.end()?;
    Ok(micros(used[0]) / f64::from(u32::try_from(rounds * deliveries)?))
}
