//! When readers have to hear that their streams live. One clock for all of them, the loop's own: a timer
//! for each would cost as much memory as all that waits for a reader at rest. Pure.

use super::subscriptions::Subscriptions;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// How exactly it is kept. Who is due within that is due, so that no silence is longer than promised.
const STEP: Duration = Duration::from_millis(25);

/// Readers by the step in which to look at them. One that is gone stays until then.
pub(crate) struct Beats {
    began: Instant,
    steps: BTreeMap<u128, Vec<u64>>,
}

impl Beats {
    /// Nobody yet.
    pub(crate) fn new(now: Instant) -> Self {
        Self { began: now, steps: BTreeMap::new() }
    }

    /// Looks at a reader at this time, or a little before.
    pub(crate) fn plan(&mut self, id: u64, at: Instant) {
        let step = at.saturating_duration_since(self.began).as_millis() / STEP.as_millis();
        self.steps.entry(step).or_default().push(id);
    }

    /// Whom to look at now.
    fn due(&mut self, now: Instant) -> Vec<u64> {
        let step = now.saturating_duration_since(self.began).as_millis() / STEP.as_millis();
        let later = self.steps.split_off(&(step + 1));
        let due = std::mem::replace(&mut self.steps, later);
        due.into_values().flatten().collect()
    }
}

impl Subscriptions {
    /// Does what is due: readers to wake, reads to repeat, patience that is over.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.beat(now);
        for (id, slot) in std::mem::take(&mut self.timed) {
            self.advance(id, slot, now);
        }
        for t in std::mem::take(&mut self.restless) {
            self.pull(t, now);
        }
    }

    /// Wakes readers that have heard nothing for as long as they want.
    fn beat(&mut self, now: Instant) {
        for id in self.beats.due(now) {
            if let Some(reading) = self.readers.get(&id) {
                self.beats.plan(id, reading.feed.beat(now + STEP));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_due_is_looked_at_in_time_and_once() {
        let start = Instant::now();
        let (mut beats, at) = (Beats::new(start), |ms| start + Duration::from_millis(ms));
        beats.plan(1, at(1_000));
        beats.plan(2, at(1_020));
        beats.plan(3, at(15_000));
        assert!(beats.due(at(990)).is_empty());
        assert_eq!(beats.due(at(1_000)), [1, 2], "those of one step together");
        assert!(beats.due(at(1_010)).is_empty());
        assert_eq!(beats.due(at(60_000)), [3], "late, but not lost");
        assert!(beats.steps.is_empty());
    }
}
