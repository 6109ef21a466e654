//! Bounds of the router.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Bounds of the router.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Router {
    /// Requests that may wait for the router.
    pub queue: usize,
    /// Calls waiting for an answer at most.
    pub pending_max: usize,
    /// Readers at most.
    pub readers_max: usize,
    /// Topics with a reader at most.
    pub topics_max: usize,
    /// Topics of one subscription, and of all on one connection, at most.
    pub subscription_topics_max: usize,
    /// Watches of nodes on one connection at most.
    pub watches_max: usize,
    /// Gaps that may wait for one reader; over it the reader ends as slow.
    pub subscription_gaps_max: usize,
    /// Time without an answer after which a call that may be repeated is sent again.
    #[serde(with = "humantime_serde")]
    pub resend_after: Duration,
    /// Silence of a topic after which its tail is compared.
    #[serde(with = "humantime_serde")]
    pub check_interval: Duration,
    /// How long a reader waits for an owner to append again what a failover lost (P22).
    #[serde(with = "humantime_serde")]
    pub patience: Duration,
    /// How long interest outlives a topic's last reader (P23).
    #[serde(with = "humantime_serde")]
    pub linger: Duration,
    /// Time between renewals of this gateway's lease of 15 s.
    #[serde(with = "humantime_serde")]
    pub attend_interval: Duration,
    /// Entries read from a log at once.
    pub page_entries: usize,
}

impl Router {
    /// The first bound with which nothing could be routed.
    pub(super) fn empty(&self) -> Option<&'static str> {
        let empty = [
            ("router.queue", self.queue == 0),
            ("router.pending_max", self.pending_max == 0),
            ("router.readers_max", self.readers_max == 0),
            ("router.topics_max", self.topics_max == 0),
            ("router.subscription_topics_max", self.subscription_topics_max == 0),
            ("router.watches_max", self.watches_max == 0),
            ("router.subscription_gaps_max", self.subscription_gaps_max == 0),
            ("router.resend_after", self.resend_after.is_zero()),
            ("router.check_interval", self.check_interval.is_zero()),
            ("router.attend_interval", self.attend_interval.is_zero()),
            ("router.page_entries", self.page_entries == 0),
        ];
        empty.iter().find(|(_, empty)| *empty).map(|(name, _)| *name)
    }
}

impl Default for Router {
    fn default() -> Self {
        Self {
            queue: 4096,
            pending_max: 10_000,
            readers_max: 100_000,
            topics_max: 20_000,
            subscription_topics_max: 128,
            watches_max: 64,
            subscription_gaps_max: 256,
            resend_after: Duration::from_secs(2),
            check_interval: Duration::from_secs(5),
            patience: Duration::from_secs(2),
            linger: Duration::from_secs(60),
            attend_interval: Duration::from_secs(5),
            page_entries: 256,
        }
    }
}
