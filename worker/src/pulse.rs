//! Whether loops turn, for liveness probes. A loop beats when it wakes, and each of ours wakes every
//! few seconds at least, whatever the bus does; a handle tells how long ago that was. It goes by the clock that
//! stands still while the machine is suspended, so that nobody is restarted for having slept.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// When a loop turned last; clones share it.
#[derive(Clone, Debug)]
pub struct Pulse {
    since: Instant,
    /// Milliseconds after `since`.
    last: Arc<AtomicU64>,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { since: Instant::now(), last: Arc::default() }
    }
}

impl Pulse {
    /// Notes that the loop turns.
    pub(crate) fn beat(&self) {
        self.set(Instant::now());
    }

    fn set(&self, at: Instant) {
        let millis = at.saturating_duration_since(self.since).as_millis();
        self.last.store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// When it beat last; when it was made, if it never did.
    pub(crate) fn last(&self) -> Instant {
        self.since + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }

    /// One that beat last so long ago.
    #[cfg(test)]
    pub(crate) fn stale(age: Duration) -> Self {
        let since = Instant::now().checked_sub(age).expect("the machine is up for longer");
        Self { since, last: Arc::default() }
    }
}

/// Tells whether the loops of a worker turn; cheap to clone and to ask, and outlives the worker.
#[derive(Clone, Debug, Default)]
pub struct Alive {
    host: Pulse,
    /// The node that turned longest ago, as the host saw it.
    nodes: Pulse,
}

impl Alive {
    /// Tells whether the host and each of its nodes turned within that time. Nodes may need a few
    /// seconds for their last words, so ask for no less than 5 s. False once the worker ended.
    pub fn is_alive(&self, within: Duration) -> bool {
        self.host.last().min(self.nodes.last()).elapsed() <= within
    }

    /// Notes that the host turns, and which node turned longest ago.
    pub(crate) fn beat<'a>(&self, nodes: impl Iterator<Item = &'a Pulse>) {
        let now = Instant::now();
        self.host.set(now);
        self.nodes.set(nodes.map(Pulse::last).fold(now, Instant::min));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    impl Alive {
        fn since(age: Duration) -> Self {
            Self { host: Pulse::stale(age), nodes: Pulse::stale(age) }
        }
    }

    #[test]
    fn a_worker_whose_host_stands_still_is_not_alive() {
        let alive = Alive::since(LIMIT * 2);
        assert!(!alive.is_alive(LIMIT));
        alive.beat([].into_iter());
        assert!(alive.is_alive(LIMIT));
    }

    #[test]
    fn a_worker_is_as_alive_as_the_node_that_turned_longest_ago() {
        let (alive, stuck) = (Alive::since(LIMIT * 4), Pulse::stale(LIMIT * 2));
        let nodes = [Pulse::default(), stuck.clone(), Pulse::default()];
        alive.beat(nodes.iter());
        assert!(!alive.is_alive(LIMIT));
        assert!(alive.is_alive(LIMIT * 3));
        stuck.beat();
        alive.beat(nodes.iter());
        assert!(alive.is_alive(LIMIT));
    }
}
