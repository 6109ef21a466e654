//! Embedded or Redis, its bounds and lease times.

use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// How processes reach each other.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `memory:` within one process, or `redis://[user:password@]host:port[/db]`.
    pub url: String,
    /// Encodes every message also in memory, as between processes. For tests.
    pub strict: bool,
    /// Deadline of one call to the bus.
    #[serde(with = "humantime_serde")]
    pub call_timeout: Duration,
    /// Longest time to set up a connection.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Calls under way on one connection at most; more are refused as overloaded.
    pub commands_max: usize,
    /// Frames that may wait for one subscriber; more are counted and told as a lag.
    pub subscription_queue: usize,
    /// Silence after which a connection is probed.
    #[serde(with = "humantime_serde")]
    pub probe_interval: Duration,
    /// Time a probe may take before the connection counts as dead.
    #[serde(with = "humantime_serde")]
    pub probe_timeout: Duration,
    /// Subscriptions of one process at most.
    pub subscriptions_max: usize,
    /// Bytes of one frame or entry at most.
    pub frame_bytes_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: "memory:".into(),
            strict: false,
            call_timeout: Duration::from_millis(1500),
            connect_timeout: Duration::from_secs(2),
            commands_max: 1024,
            subscription_queue: 4096,
            probe_interval: Duration::from_millis(500),
            probe_timeout: Duration::from_secs(1),
            subscriptions_max: 100_000,
            frame_bytes_max: 2 << 20,
        }
    }
}

impl Config {
    /// Tells whether the bus lives within this process.
    pub fn embedded(&self) -> bool {
        self.url == "memory:"
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What stands before an `@` may be a password.
        let place = self.url.rsplit_once('@').map_or(self.url.as_str(), |(_, place)| place);
        f.debug_struct("Config")
            .field("place", &place)
            .field("call_timeout", &self.call_timeout)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_in_a_log_hides_the_password() {
        let config = Config { url: "redis://me:s3cret@bus:6379".into(), ..Config::default() };
        let told = format!("{config:?}");
        assert!(told.contains("bus:6379") && !told.contains("s3cret"), "{told}");
    }
}
