//! The clock that leases are held against: CLOCK_BOOTTIME, which goes on while a machine is suspended
//! (`std::time::Instant` stands still there). protocol.md P1.

use std::time::Duration;

/// A moment on CLOCK_BOOTTIME.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(Duration);

impl Moment {
    /// Before everything: a deadline that has passed.
    pub const PAST: Self = Self(Duration::ZERO);

    /// Reads the clock.
    pub fn now() -> Self {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Self(Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0)))
    }

    /// Makes a moment from its time since boot; for tests of pure cores.
    pub const fn at(since_boot: Duration) -> Self {
        Self(since_boot)
    }

    /// The time from `earlier` to this; zero if it is later.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment `later` after this.
    #[must_use]
    pub fn after(self, later: Duration) -> Self {
        Self(self.0.saturating_add(later))
    }
}

/// Both clocks, read once a wake: leases and windows go by the moment, what callers see by the wall.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// On CLOCK_BOOTTIME.
    pub moment: Moment,
    /// The time of day.
    pub wall: std::time::SystemTime,
}

impl Now {
    /// Reads both.
    pub fn read() -> Self {
        Self { moment: Moment::now(), wall: std::time::SystemTime::now() }
    }
}
