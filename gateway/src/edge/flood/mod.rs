//! What a client sends beside content: frames that cost the gateway work and carry nothing. Each takes
//! from its connection's allowance, which grows with time and with what the gateway itself had to say, as
//! that is what honest clients acknowledge. Nobody else notices a connection that has none left and is cut.
//!
//! - [`http2`] and [`websocket`] tell the frames apart and what each costs
//! - [`slow`] times bodies of requests that come in drips, [`untaken`] answers that are not taken

pub(crate) mod http2;
pub(crate) mod slow;
pub(crate) mod untaken;
pub(crate) mod websocket;

use std::time::Instant;

/// Bytes written by the gateway that allow for one more frame: no acknowledgement is as large.
const BYTES_A_FRAME: usize = 32;

/// What may be saved up at most by what the gateway wrote.
const SAVED_MAX: u32 = 100_000;

/// How many frames without content a connection may send.
#[derive(Debug)]
pub(crate) struct Allowance {
    left: u32,
    a_second: u32,
    filled: Instant,
}

impl Allowance {
    /// Allows so many a second, and twice as many at once.
    pub(crate) fn new(a_second: u32, now: Instant) -> Self {
        Self { left: a_second.saturating_mul(2), a_second, filled: now }
    }

    /// Notes what the gateway wrote at once.
    pub(crate) fn wrote(&mut self, bytes: usize) {
        let more = u32::try_from(bytes / BYTES_A_FRAME).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(more).min(SAVED_MAX.max(self.left));
    }

    /// Takes what frames cost; false where too little is left. The clock is only asked where it matters.
    pub(crate) fn take(&mut self, cost: u32, now: impl FnOnce() -> Instant) -> bool {
        if cost > self.left {
            self.fill(now());
        }
        let enough = cost <= self.left;
        self.left = self.left.saturating_sub(cost);
        enough
    }

    fn fill(&mut self, now: Instant) {
        let most = self.a_second.saturating_mul(2);
        let new = now.duration_since(self.filled).as_secs_f64() * f64::from(self.a_second);
        // At most what is allowed at once, which a float holds.
        let new = new.min(f64::from(most)) as u32;
        if new > 0 {
            self.filled = now;
            self.left = self.left.saturating_add(new).min(most.max(self.left));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn an_allowance_grows_with_time_and_with_what_was_written_to_the_client() {
        let start = Instant::now();
        let mut allowance = Allowance::new(10, start);
        let mut take = |cost, after_ms| allowance.take(cost, || start + Duration::from_millis(after_ms));
        assert!(take(20, 0), "twice as much at once");
        assert!(!take(1, 50), "nothing is left");
        assert!(take(1, 150) && !take(1, 150), "ten a second");
        assert!(take(20, 60_000) && !take(1, 60_000), "a long silence saves up no more than that");
        allowance.wrote(BYTES_A_FRAME * 5 + 1);
        assert!(allowance.take(5, || start) && !allowance.take(1, || start));
        allowance.wrote(BYTES_A_FRAME - 1);
        assert!(!allowance.take(1, || start), "an acknowledgement allows for nothing");
        allowance.wrote(usize::MAX);
        assert!(allowance.take(SAVED_MAX, || start) && !allowance.take(1, || start));
    }
}
