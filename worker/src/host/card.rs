//! What the worker says of itself, for operators and for other workers. It knows the process and what does
//! not change; where the worker is in its life it is told.

use crate::Config;
use plexus_bus::fleet;
use plexus_proto::{
    bus::WorkerCard,
    v1::{self, worker::State},
};
use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant, SystemTime};

/// The card, and what the last one was reckoned from.
pub(super) struct Card {
    unchanging: v1::Worker,
    /// Processor time of the process, and when it was read.
    spent: (Duration, Instant),
}

/// Where a worker is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// Nodes under its grants.
    pub(super) nodes: usize,
    /// Their weight, and that of those being taken.
    pub(super) load: u64,
    /// It gives nodes away and takes none.
    pub(super) draining: bool,
}

impl Card {
    pub(super) fn new(id: &str, config: &Config) -> Self {
        let now = SystemTime::now();
        let started = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let unchanging = v1::Worker {
            worker: id.into(),
            capacity: u32::try_from(config.nodes_max).unwrap_or(u32::MAX),
            labels: config.labels.clone().into_iter().collect(),
            version: env!("CARGO_PKG_VERSION").into(),
            started_at: Some(now.into()),
            incarnation: u64::try_from(started.as_millis()).unwrap_or(u64::MAX),
            ..v1::Worker::default()
        };
        Self { unchanging, spent: (spent(), Instant::now()) }
    }

    /// Fills the card in.
    pub(super) fn fill(&mut self, standing: Standing) -> WorkerCard {
        let Standing { nodes, load, draining } = standing;
        let state = match draining {
            true => State::Draining,
            false if load >= u64::from(self.unchanging.capacity) => State::Full,
            false => State::Ready,
        };
        let worker = v1::Worker {
            state: state as i32,
            nodes: u32::try_from(nodes).unwrap_or(u32::MAX),
            lease_until: Some((SystemTime::now() + fleet::WORKER_CARD).into()),
            memory_bytes: fleet::memory_bytes(),
            cpu: self.cpu(),
            ..self.unchanging.clone()
        };
        WorkerCard { worker: Some(worker), load }
    }

    /// Cores in use since the last card.
    fn cpu(&mut self) -> f64 {
        let (before, at) = std::mem::replace(&mut self.spent, (spent(), Instant::now()));
        let passed = self.spent.1.saturating_duration_since(at).as_secs_f64();
        let used = self.spent.0.saturating_sub(before).as_secs_f64();
        if passed > 0.0 { used / passed } else { 0.0 }
    }
}

/// Processor time of this process so far.
fn spent() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_says_where_the_worker_is() {
        let mut card = Card::new("w", &Config { nodes_max: 2, ..Config::default() });
        let table = [(0, false, State::Ready), (2, false, State::Full), (2, true, State::Draining)];
        for (load, draining, state) in table {
            let filled = card.fill(Standing { nodes: 1, load, draining });
            let worker = filled.worker.unwrap();
            assert_eq!((worker.state(), worker.nodes, filled.load), (state, 1, load));
            assert!(worker.memory_bytes > 1 << 20 && worker.incarnation > 0, "{worker:?}");
        }
    }
}
