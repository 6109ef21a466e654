//! Whether the gateway's loops still turn. Each writes down when it last did; whoever watches over the
//! process reads that, and never waits for a loop to learn that it stands.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Written by a loop that ended by itself: nobody waits for its next turn.
const ENDED: u64 = u64::MAX;

/// The loops of a gateway, as seen from outside; cheap to clone, and outlives [`crate::Gateway::run`].
#[derive(Clone, Debug)]
pub struct Pulse {
    beats: Arc<[Beat]>,
}

impl Pulse {
    pub(crate) fn new(beats: impl IntoIterator<Item = Beat>) -> Self {
        Self { beats: beats.into_iter().collect() }
    }

    /// Tells whether every loop turned within this time. A loop that ended counts as alive, so that a
    /// drain is no illness; one that has not begun counts from when it was made.
    pub fn alive(&self, within: Duration) -> bool {
        self.beats.iter().all(|beat| beat.alive(within))
    }
}

/// One loop's turns.
#[derive(Clone, Debug)]
pub(crate) struct Beat {
    born: Instant,
    /// Milliseconds from birth to the last turn.
    last: Arc<AtomicU64>,
}

impl Beat {
    /// Counts from now.
    pub(crate) fn new() -> Self {
        Self { born: Instant::now(), last: Arc::default() }
    }

    /// Notes a turn of the loop.
    pub(crate) fn beat(&self) {
        self.last.store(self.age(), Ordering::Relaxed);
    }

    /// Notes that the loop ended as it should.
    pub(crate) fn end(&self) {
        self.last.store(ENDED, Ordering::Relaxed);
    }

    fn alive(&self, within: Duration) -> bool {
        let last = self.last.load(Ordering::Relaxed);
        Duration::from_millis(self.age().saturating_sub(last)) <= within
    }

    fn age(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(ENDED - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aged(by: Duration) -> Beat {
        Beat { born: Instant::now() - by, ..Beat::new() }
    }

    #[test]
    fn a_gateway_is_alive_while_each_of_its_loops_turns() {
        let (first, second) = (aged(Duration::from_secs(60)), aged(Duration::from_secs(60)));
        let pulse = Pulse::new([first.clone(), second.clone()]);
        let within = Duration::from_secs(30);
        assert!(!pulse.alive(within), "neither ever turned");
        first.beat();
        assert!(!pulse.alive(within), "one stands");
        second.beat();
        assert!(pulse.alive(within));
    }

    #[test]
    fn a_loop_that_ended_is_not_missed() {
        let beat = aged(Duration::from_secs(60));
        beat.end();
        assert!(Pulse::new([beat]).alive(Duration::ZERO));
    }
}
