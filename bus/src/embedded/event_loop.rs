//! The one task that owns the tables. Handles send it functions of the tables; it runs them one at a
//! time, in order, and never waits for anybody.

use super::tables::Tables;
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, Interval, MissedTickBehavior, interval, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// One call: a function of the tables, which sends its answer itself.
pub(super) type Deed = Box<dyn FnOnce(&mut Tables) + Send>;

/// Calls run at one wake at most.
const BATCH: usize = 128;

/// Owner of the tables.
pub(super) struct EventLoop {
    /// Calls that wait.
    deeds: mpsc::Receiver<Deed>,
    /// Calls taken off the queue at this wake; empty between wakes.
    batch: Vec<Deed>,
    /// All that the bus knows.
    tables: Tables,
    /// Forgets what expired.
    sweep: Interval,
    /// Ends a pause early.
    resume: Arc<Notify>,
}

/// What wakes the loop.
enum Input {
    /// `batch` has calls.
    Deeds,
    /// Time to forget what expired.
    Sweep,
    /// A pause is over.
    Resumed,
}

impl EventLoop {
    pub(super) fn new(deeds: mpsc::Receiver<Deed>, tables: Tables, resume: Arc<Notify>) -> Self {
        let mut sweep = interval(Duration::from_secs(1));
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { deeds, batch: Vec::with_capacity(BATCH), tables, sweep, resume }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        while let Some(input) = self.next(&stop).await {
            self.apply(input);
        }
        self.close();
    }

    async fn next(&mut self, stop: &CancellationToken) -> Option<Input> {
        let paused = self.tables.paused().is_some();
        let end = self.tables.paused().unwrap_or_else(|| self.tables.now());
        tokio::select! {
            () = stop.cancelled() => None,
            () = sleep_until(end), if paused => Some(Input::Resumed),
            () = self.resume.notified(), if paused => Some(Input::Resumed),
            got = self.deeds.recv_many(&mut self.batch, BATCH), if !paused => (got > 0).then_some(Input::Deeds),
            _ = self.sweep.tick() => Some(Input::Sweep),
        }
    }

    fn apply(&mut self, input: Input) {
        self.tables.turn(Instant::now(), SystemTime::now());
        match input {
            Input::Deeds => self.batch.drain(..).for_each(|deed| deed(&mut self.tables)),
            Input::Sweep => self.tables.sweep(),
            Input::Resumed => self.tables.resume(),
        }
    }

    /// Subscriptions, and calls that still wait, end as the loop is dropped.
    fn close(self) {
        self.tables.up.set(0);
    }
}
