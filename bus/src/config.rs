//! Embedded or Redis, its bounds and lease times.

use crate::Error;
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
    /// What the bus within a process holds at most; over Redis `maxmemory` is the bound.
    pub memory: Memory,
}

/// What the bus within a process holds at most. What is new beyond a bound is refused as a full store
/// refuses it ([`crate::Refusal::OutOfMemory`]); what is there stays and goes on.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Memory {
    /// Nodes.
    pub nodes_max: usize,
    /// Free keys.
    pub keys_max: usize,
    /// Logs of a node, and topics of it that gateways want.
    pub logs_max: usize,
    /// Gateways' interest in a node: one for each gateway and topic.
    pub interest_max: usize,
}

impl Default for Memory {
    fn default() -> Self {
        Self { nodes_max: 10_000, keys_max: 1_000_000, logs_max: 10_000, interest_max: 100_000 }
    }
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
            memory: Memory::default(),
        }
    }
}

impl Config {
    /// Tells whether the bus lives within this process.
    pub fn embedded(&self) -> bool {
        self.url == "memory:"
    }

    /// Checks what serde cannot. [`crate::Bus::open`] refuses the same.
    pub fn check(&self) -> Result<(), Error> {
        if !self.embedded() {
            crate::redis::check(&self.url)?;
        }
        let empty = [
            ("call_timeout", self.call_timeout.is_zero()),
            ("connect_timeout", self.connect_timeout.is_zero()),
            ("probe_interval", self.probe_interval.is_zero()),
            ("probe_timeout", self.probe_timeout.is_zero()),
            ("commands_max", self.commands_max == 0),
            ("subscription_queue", self.subscription_queue == 0),
            ("subscriptions_max", self.subscriptions_max == 0),
            ("frame_bytes_max", self.frame_bytes_max == 0),
        ];
        match empty.iter().find(|(_, empty)| *empty) {
            Some((name, _)) => Err(Error::Invalid(format!("{name}: must be above 0"))),
            None => Ok(()),
        }
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
    fn a_bound_of_nothing_and_an_address_of_nowhere_are_refused() {
        type Change = fn(&mut Config);
        let changes: [(&str, Change); 6] = [
            ("url", |c| c.url = "http://redis:6379".into()),
            ("url", |c| c.url = "redis-cluster://redis:6379".into()),
            ("call_timeout", |c| c.call_timeout = Duration::ZERO),
            ("probe_interval", |c| c.probe_interval = Duration::ZERO),
            ("subscription_queue", |c| c.subscription_queue = 0),
            ("commands_max", |c| c.commands_max = 0),
        ];
        for (name, change) in changes {
            let mut config = Config::default();
            assert_eq!(config.check(), Ok(()));
            change(&mut config);
            let told = config.check().unwrap_err().to_string();
            assert!(told.starts_with(&format!("{name}: ")), "{told}");
        }
    }

    #[test]
    fn a_config_in_a_log_hides_the_password() {
        let config = Config { url: "redis://me:s3cret@bus:6379".into(), ..Config::default() };
        let told = format!("{config:?}");
        assert!(told.contains("bus:6379") && !told.contains("s3cret"), "{told}");
    }
}
