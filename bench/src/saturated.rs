//! Rows 6 and 7: CPU per message and throughput of the whole path over Redis, as much as one core gives
//! the worker. The worker has a core of its own; gateway, Redis and the client share the other. The
//! baseline has the worker's core.

use crate::{
    client::{self, Heard, Listener, Speaker},
    clock,
    fleet::{Fleet, TOPIC},
    proc::{self, Watch, micros},
    raw::Baseline,
    sheet::Sheet,
};
use anyhow::{Context, Result, bail};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Semaphore, task::JoinSet};

const BYTES: usize = 256;
const WARM: Duration = Duration::from_millis(1500);
const SECONDS: u64 = 4;
/// Calls under way at most; a session's own bound.
const WINDOW: usize = 256;
/// Messages published and not read yet, at most.
const UNREAD: usize = 512;
const WORKER_CORE: usize = 1;
const OTHER_CORE: usize = 0;

/// One run.
pub(crate) async fn run(sheet: &mut Sheet) -> Result<()> {
    if proc::cores() < 2 {
        bail!("two cores are needed");
    }
    let raw = raw(sheet).await?;
    let me = std::process::id();
    let fleet = Fleet::apart(&[("TOKIO_WORKER_THREADS", "1")]).await;
    fleet.pair().await?;
    let redis = fleet.redis.as_ref().context("there is Redis")?.pid();
    let pids = [fleet.gateway.pid(), fleet.host(), redis, me];
    for pid in [fleet.gateway.pid(), redis, me] {
        proc::pin(pid, Some(OTHER_CORE))?;
    }
    proc::pin(fleet.host(), Some(WORKER_CORE))?;
    let measured = flood(&fleet, &pids).await;
    proc::pin(me, None)?;
    let (rate, used) = measured?;
    for (name, used) in ["full.gateway", "full.worker", "full.redis", "full.client"].into_iter().zip(used) {
        sheet.measure(name, used);
    }
    sheet.measure("full.rate", rate);
    sheet.baseline("full.rate", raw);
    Ok(())
}

async fn raw(sheet: &mut Sheet) -> Result<f64> {
    let words = format!("flood --seconds {SECONDS} --bytes {BYTES}");
    let answer = Baseline::start(&words, Some(WORKER_CORE))?.answer().await?;
    let number = |name: &str| answer[name].as_f64().context("a number");
    let messages = number("messages")?;
    sheet.baseline("full.worker", number("cpu_us")? / messages);
    Ok(messages / number("seconds")?)
}

/// Keeps a window of publishes under way; answers messages a second as the reader got them, and CPU-µs
/// per message of each process.
async fn flood(fleet: &Fleet, pids: &[u32]) -> Result<(f64, Vec<f64>)> {
    let (mut asks, mut reads) = client::session(fleet.gateway.address).await?;
    asks.subscribe(1, "n1", TOPIC).await?;
    reads.started().await?;
    let (speaks, hears) = client::session(fleet.gateway.address).await?;
    let (calls, unread) = (Arc::new(Semaphore::new(WINDOW)), Arc::new(Semaphore::new(UNREAD)));
    let read = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    tasks.spawn(publish(speaks, Arc::clone(&calls), Arc::clone(&unread)));
    tasks.spawn(answers(hears, calls));
    tasks.spawn(count(reads, unread, Arc::clone(&read)));
    let whole = async {
        tokio::time::sleep(WARM).await;
        let (watch, before) = (Watch::begin(pids)?, read.load(Ordering::Relaxed));
        tokio::time::sleep(Duration::from_secs(SECONDS)).await;
        let (elapsed, used) = watch.end()?;
        let messages = u32::try_from(read.load(Ordering::Relaxed) - before)?;
        anyhow::Ok((f64::from(messages), elapsed, used))
    };
    let (messages, elapsed, used) = tokio::select! {
        whole = whole => whole?,
        Some(ended) = tasks.join_next() => bail!("a client ended: {ended:?}"),
    };
    let each = used.into_iter().map(|used| micros(used) / messages).collect();
    Ok((messages / elapsed.as_secs_f64(), each))
}

async fn publish(mut speaks: Speaker, calls: Arc<Semaphore>, unread: Arc<Semaphore>) -> Result<()> {
    for id in 1.. {
        for window in [&calls, &unread] {
            if let Ok(slot) = window.try_acquire() {
                slot.forget();
            } else {
                speaks.flush().await?;
                window.acquire().await?.forget();
            }
        }
        speaks.publish(id, "n0", TOPIC, clock::payload(BYTES)).await?;
    }
    Ok(())
}

async fn answers(mut hears: Listener, calls: Arc<Semaphore>) -> Result<()> {
    loop {
        if let Heard::Result = hears.hear().await? {
            calls.add_permits(1);
        }
    }
}

async fn count(mut reads: Listener, unread: Arc<Semaphore>, read: Arc<AtomicU64>) -> Result<()> {
    loop {
        if let Heard::Message(_) = reads.hear().await? {
            unread.add_permits(1);
            read.fetch_add(1, Ordering::Relaxed);
        }
    }
}
