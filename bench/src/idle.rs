//! Rows 1 to 3: what a hosted node costs that does nothing, and what a connection costs.

use crate::{
    fleet::Fleet,
    proc::{self, rss},
    raw::Baseline,
    sheet::Sheet,
};
use anyhow::{Result, ensure};
use plexus_tests::foreign::Foreign;
use serde_json::json;
use std::time::Duration;

/// Nodes before the first look, so that what a process has once is not counted.
const FIRST: usize = 200;
/// Nodes at the second look.
const SECOND: usize = 1_200;
/// Nodes with Kademlia at the second look.
const KAD: usize = 600;
/// Nodes of row 2.
const MANY: usize = 2_000;
/// Swarms of the baseline at the second look.
const RAW: usize = 700;
/// How long a process is watched, and rests before its memory is read.
const WATCHED: Duration = Duration::from_secs(8);

/// Sockets of the largest fleet, with room.
pub(crate) const FILES: u64 = 12_000;

/// One run: what has goals for its CPU alone, the rest at the same time.
pub(crate) async fn run(sheet: &mut Sheet) -> Result<()> {
    ours(sheet).await?;
    // Started first: hundreds of swarms would soon sit on the ports that it was given.
    let fleet = Fleet::apart(&[]).await;
    let (kad, raw, raw_kad, go) = tokio::join!(with_kad(&fleet), raw(false), raw(true), Foreign::go());
    let (kad, raw, raw_kad) = (kad?, raw?, raw_kad?);
    sheet.measure("kad.rss", kad.0);
    sheet.measure("kad.cpu", kad.1);
    sheet.baseline("idle.rss", raw.0);
    sheet.baseline("idle.cpu", raw.1);
    sheet.baseline("end.rss", raw.2);
    sheet.baseline("kad.rss", raw_kad.0);
    sheet.baseline("kad.cpu", raw_kad.1);
    if let Some(go) = go {
        sheet.measure("idle.go", mib(rss(go.process())?));
    }
    Ok(())
}

/// Memory and CPU-µs per second of a process at rest.
async fn rest(pid: u32) -> Result<(u64, f64)> {
    let cpu = proc::idle(pid, WATCHED).await?;
    Ok((rss(pid)?, cpu))
}

async fn ours(sheet: &mut Sheet) -> Result<()> {
    let fleet = Fleet::apart(&[]).await;
    let spec = json!({ "listenAddresses": ["/ip4/127.0.0.1/tcp/0"], "limits": { "idleTimeout": "600s" } });
    let mut nodes = fleet.grow(0, FIRST, &spec).await?;
    let first = rest(fleet.host()).await?;
    nodes.extend(fleet.grow(FIRST, SECOND, &spec).await?);
    let second = rest(fleet.host()).await?;
    sheet.measure("idle.rss", kib_each(first.0, second.0, SECOND - FIRST));
    sheet.measure("idle.cpu", each(first.1, second.1, SECOND - FIRST));

    nodes.extend(fleet.grow(SECOND, MANY, &spec).await?);
    tokio::time::sleep(WATCHED).await;
    let alone = rss(fleet.host())?;
    fleet.ring(&nodes).await?;
    let (bytes, cpu) = rest(fleet.host()).await?;
    let connected = fleet.with_peers(2).await?;
    ensure!(connected == MANY, "{connected} of {MANY} nodes have two peers");
    sheet.measure("many.rss", mib(bytes));
    sheet.measure("many.cpu", cpu / 1e6 * 100.0);
    sheet.measure("end.rss", kib_each(alone, bytes, 2 * MANY));
    Ok(())
}

/// KiB and CPU-µs per second of a node with Kademlia.
async fn with_kad(fleet: &Fleet) -> Result<(f64, f64)> {
    let spec = json!({ "listenAddresses": ["/ip4/127.0.0.1/tcp/0"], "kad": { "mode": "CLIENT" } });
    fleet.grow(0, FIRST, &spec).await?;
    let first = rest(fleet.host()).await?;
    fleet.grow(FIRST, KAD, &spec).await?;
    let second = rest(fleet.host()).await?;
    Ok((kib_each(first.0, second.0, KAD - FIRST), each(first.1, second.1, KAD - FIRST)))
}

/// KiB and CPU-µs per second of a raw swarm, and KiB of one end of its connections.
async fn raw(kad: bool) -> Result<(f64, f64, f64)> {
    let mut child = Baseline::start(if kad { "idle --kad" } else { "idle" }, None)?;
    child.answer().await?;
    child.ask(&format!("grow {FIRST}")).await?;
    let first = rest(child.pid()?).await?;
    child.ask(&format!("grow {}", RAW - FIRST)).await?;
    let second = rest(child.pid()?).await?;
    child.ask("ring").await?;
    let (bytes, _) = rest(child.pid()?).await?;
    Ok((
        kib_each(first.0, second.0, RAW - FIRST),
        each(first.1, second.1, RAW - FIRST),
        kib_each(second.0, bytes, 2 * RAW),
    ))
}

#[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn kib_each(before: u64, after: u64, count: usize) -> f64 {
    each(mib(before) * 1024.0, mib(after) * 1024.0, count)
}

#[expect(clippy::cast_precision_loss, reason = "a few thousand")]
fn each(before: f64, after: f64, count: usize) -> f64 {
    (after - before) / count as f64
}
