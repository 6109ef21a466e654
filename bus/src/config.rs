//! Embedded or Redis, its bounds and lease times.

use crate::Error;
use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf, time::Duration};

/// How processes reach each other.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `memory:` within one process, or `redis://[user:password@]host:port[/db]`, `redis-sentinel://…`,
    /// `redis-cluster://…`; over TLS `rediss…://`.
    pub url: String,
    /// File with the address instead.
    pub url_file: Option<PathBuf>,
    /// File with the password; the user is that of the address.
    pub password_file: Option<PathBuf>,
    /// How often these files and those of TLS are looked at; new connections are made where they changed.
    #[serde(with = "humantime_serde")]
    pub reload_interval: Duration,
    /// What TLS to Redis takes.
    pub tls: Tls,
    /// Whether this process loads the functions where they are missing: workers do, gateways may not.
    #[serde(skip, default = "yes")]
    pub loads_functions: bool,
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

/// What TLS to Redis takes, where the address begins with `rediss`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// Authorities in PEM that sign servers; the public ones without it.
    pub ca_file: Option<PathBuf>,
    /// Certificate chain of this client in PEM, with `key_file`.
    pub certificate_file: Option<PathBuf>,
    /// Its private key in PEM.
    pub key_file: Option<PathBuf>,
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

fn yes() -> bool {
    true
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
            url_file: None,
            password_file: None,
            reload_interval: Duration::from_secs(10),
            tls: Tls::default(),
            loads_functions: true,
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
        self.url == "memory:" && self.url_file.is_none()
    }

    /// Checks what serde cannot. [`crate::Bus::open`] refuses the same.
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |what: &str| Err(Error::Invalid(what.to_owned()));
        if self.url_file.is_some() && self.url != "memory:" {
            return wrong("url_file: not beside url");
        }
        if self.url != "memory:" {
            crate::redis::check(&self.url)?;
        }
        if self.tls.certificate_file.is_some() != self.tls.key_file.is_some() {
            return wrong("tls.key_file: goes with tls.certificate_file");
        }
        let empty = [
            ("reload_interval", self.reload_interval.is_zero()),
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
        // What stands before an `@`, and in the query, may be a password.
        let place = self.url.split('?').next().unwrap_or_default();
        let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
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
        let changes: [(&str, Change); 8] = [
            ("url", |c| c.url = "http://redis:6379".into()),
            ("url", |c| c.url = "redis-cluster://redis:6379/1".into()),
            ("url_file", |c| {
                c.url = "redis://redis:6379".into();
                c.url_file = Some("url".into());
            }),
            ("tls.key_file", |c| c.tls.certificate_file = Some("tls.crt".into())),
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
