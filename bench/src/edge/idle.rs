//! Rows 11 and 17: what an idle reader costs by WebSocket, beside the centrifuge library with the same
//! pings, and as many of them as the goal names, or the limit of open files lets in, by a storm of
//! connects. How long a frozen client stays (row 15) takes as long, so it is measured meanwhile.

use super::{
    crowd::{Crowd, Place},
    dialect::Dialect,
    ends,
    rival::Server,
};
use crate::{
    fleet::{Fleet, TOPIC},
    proc::{self, rss},
    sheet::Sheet,
};
use anyhow::Result;
use serde_json::json;
use std::time::{Duration, Instant};

/// Readers of the goal.
const READERS: usize = 10_000;
/// Readers of the rival at most.
const RIVALS: usize = 5_000;
/// Readers before the first look, so that what a process has once is not counted.
const FIRST: usize = 200;
/// Connects a second that are tried; the goal is 2,000.
const PACE: usize = 2_500;
/// Files of this process that are no readers.
const FILES: usize = 2_000;
/// How long processes are watched: longer than the 25 s between two pings.
const WATCHED: Duration = Duration::from_secs(30);
/// How long the first readers are watched.
const GLANCE: Duration = Duration::from_secs(3);

/// One run.
pub(crate) async fn run(sheet: &mut Sheet) -> Result<()> {
    let files = usize::try_from(proc::files()).unwrap_or(usize::MAX).saturating_sub(FILES);
    let (readers, rivals) = (READERS.min(files * 2 / 3), RIVALS.min(files / 3));
    let fleet = Fleet::apart(&[]).await;
    let spec = json!({ "listenAddresses": ["/ip4/127.0.0.1/tcp/0"], "topics": [{ "topic": TOPIC }] });
    fleet.grow(0, 1, &spec).await?;
    let pid = fleet.gateway.pid();
    let address = fleet.gateway.address;
    let place = Place { dialect: Dialect::WebSocket, address, node: "n0", topic: TOPIC };
    let mut ours = Herd::begin(place, pid).await?;
    let rival = Server::centrifuge().await?;
    let mut theirs = match &rival {
        None => None,
        Some(rival) => {
            let place = Place { dialect: Dialect::Rival, address: rival.address, node: "", topic: TOPIC };
            let mut herd = Herd::begin(place, rival.pid()?).await?;
            herd.grow(rivals, PACE).await?;
            Some(herd)
        }
    };
    let taken = ours.grow(readers, PACE).await?;
    sheet.measure("many.readers", ours.count() as f64);
    sheet.measure("many.storm", taken);
    let theirs = async {
        match &mut theirs {
            Some(herd) => herd.cost().await.map(Some),
            None => Ok(None),
        }
    };
    let (frozen, ours, theirs) = tokio::join!(ends::frozen(), ours.cost(), theirs);
    for (name, frozen) in frozen? {
        sheet.measure(name, frozen);
    }
    let (kib, cpu) = ours?;
    sheet.measure("reader.rss", kib);
    sheet.measure("reader.cpu", cpu);
    if let Some((kib, cpu)) = theirs? {
        sheet.baseline("reader.rss", kib);
        sheet.baseline("reader.cpu", cpu);
    }
    Ok(())
}

/// Idle readers of one process, and what it needed before they came.
struct Herd {
    place: Place,
    pid: u32,
    crowd: Crowd,
    first: (u64, f64),
    more: usize,
}

impl Herd {
    async fn begin(place: Place, pid: u32) -> Result<Self> {
        let crowd = Crowd::gather(place, FIRST, None).await?;
        let cpu = proc::idle(pid, GLANCE).await?;
        Ok(Self { place, pid, crowd, first: (rss(pid)?, cpu), more: 0 })
    }

    /// Adds more readers until there are so many, at this pace; answers how many a second were taken.
    async fn grow(&mut self, until: usize, pace: usize) -> Result<f64> {
        let started = Instant::now();
        self.more = until.saturating_sub(FIRST);
        self.crowd.add(self.place, self.more, Some(pace)).await?;
        Ok(self.more as f64 / started.elapsed().as_secs_f64())
    }

    fn count(&self) -> usize {
        FIRST + self.more
    }

    /// KiB and CPU-µs per second of a reader at rest.
    async fn cost(&mut self) -> Result<(f64, f64)> {
        let cpu = proc::idle(self.pid, WATCHED).await?;
        self.crowd.check()?;
        let more = self.more as f64;
        Ok(((rss(self.pid)? - self.first.0) as f64 / 1024.0 / more, (cpu - self.first.1) / more))
    }
}
