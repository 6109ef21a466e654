//! What a worker may be told.

use crate::{Error, host::Seal};
use plexus_bus::Incarnation;
use plexus_proto::v1;
use serde::{Deserialize, Serialize};
use std::{path::PathBuf, time::Duration};

/// Longest deadline that leaves a margin before the store ends the lease.
const LEASE_DEADLINE_MAX: Duration = Duration::from_secs(5);

/// A worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Name of the worker, such as the pod's; empty: the host's name. Letters, digits, `-` and `.`.
    pub id: String,
    /// Lets nodes dial and listen on loopback and private ranges. Development only.
    pub allow_private_addresses: bool,
    /// Capacity in node weights; 1 a node by default.
    pub nodes_max: usize,
    /// Free labels for placement rules.
    pub labels: std::collections::BTreeMap<String, String>,
    /// How leases are kept.
    pub lease: Lease,
    /// How nodes spread over workers.
    pub balance: Balance,
    /// Where the key-encryption key is.
    pub keys: Keys,
    /// Bytes that all nodes together keep to append again after a failover.
    pub ring_bytes_max: usize,
    /// Bounds and defaults of each node.
    pub node: Node,
    /// Longest drain at shutdown.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
}

/// How leases are kept (protocol.md P1–P5).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lease {
    /// Time between renewals.
    #[serde(with = "humantime_serde")]
    pub renew_interval: Duration,
    /// After the send of the last renewal that was answered; past it the worker fences itself. The
    /// lease itself lives 6 s in the store.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
    /// How long a worker that is not a node's first choice waits before it claims it.
    #[serde(with = "humantime_serde")]
    pub claim_delay: Duration,
    /// Time between full looks at the directory of nodes.
    #[serde(with = "humantime_serde")]
    pub survey_interval: Duration,
    /// Most nodes claimed in one step.
    pub claims_max: usize,
}

/// How nodes that run spread over the workers that live.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Balance {
    /// Nodes that a worker gives to others in a second at most; 0: nodes stay where they are.
    pub moves_per_second: u32,
    /// How long nobody must have come or gone before nodes are given away, and a node must have run.
    #[serde(with = "humantime_serde")]
    pub settle: Duration,
}

/// Where the key-encryption key is: 32 bytes, base64 or hexadecimal.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Keys {
    /// A file with the key.
    pub file: Option<PathBuf>,
    /// The key itself; prefer a file. Masked in `config print`.
    pub key: Option<String>,
    /// Makes a key for this process where none is given: nodes do not outlive it. Development only.
    pub generate: bool,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let key = self.key.as_ref().map(|_| "[masked]");
        f.debug_struct("Keys")
            .field("file", &self.file)
            .field("key", &key)
            .field("generate", &self.generate)
            .finish()
    }
}

/// Bounds and defaults of each node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// Addresses that nodes without `listenAddresses` listen on.
    pub listen_addresses: Vec<String>,
    /// Commands that may wait for one node; more are refused as overloaded.
    pub commands_max: usize,
    /// Answers kept for calls that come twice (5 min; 10 by `request_id`); the oldest go.
    pub answers_max: usize,
    /// Topics a node follows at most (interop.md D.0: many peers ignore a node with over 100).
    pub topics_max: usize,
    /// Logs of a node at most.
    pub logs_max: usize,
    /// Largest payload of a message in bytes.
    pub message_bytes_max: usize,
    /// Established connections at most, 4 a peer; pending ones are bounded each way.
    pub connections_max: u32,
    /// Connections to one peer at most.
    pub connections_per_peer_max: u32,
    /// Incoming connections being set up at most.
    pub pending_incoming_max: u32,
    /// Outgoing connections being set up at most.
    pub pending_outgoing_max: u32,
    /// Dials a second at most, through the API.
    pub dials_per_second: u32,
    /// Peers remembered at most.
    pub peers_max: usize,
    /// Closes connections that carry nothing.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// Time one dial may take.
    #[serde(with = "humantime_serde")]
    pub dial_timeout: Duration,
    /// Gossip heartbeat of a node with peers.
    #[serde(with = "humantime_serde")]
    pub heartbeat_interval: Duration,
    /// Messages of the network that may wait while the log cannot be written.
    pub backlog_messages_max: usize,
    /// Bytes of those.
    pub backlog_bytes_max: usize,
    /// Bytes kept to append again after a failover.
    pub ring_bytes_max: usize,
    /// How long they are kept.
    #[serde(with = "humantime_serde")]
    pub ring_age_max: Duration,
    /// The same where the store has no replica.
    #[serde(with = "humantime_serde")]
    pub ring_age_alone_max: Duration,
    /// Retained messages of a topic by default.
    pub retention_messages: u32,
    /// Their age by default.
    #[serde(with = "humantime_serde")]
    pub retention_age: Duration,
    /// Their payload bytes by default.
    pub retention_bytes: u64,
    /// Failures in a row before a node is quarantined.
    pub failures_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            id: String::new(),
            allow_private_addresses: false,
            nodes_max: 2_000,
            labels: Default::default(),
            lease: Lease::default(),
            balance: Balance::default(),
            keys: Keys::default(),
            ring_bytes_max: 256 << 20,
            node: Node::default(),
            drain: Duration::from_secs(45),
        }
    }
}

impl Default for Lease {
    fn default() -> Self {
        Self {
            renew_interval: Duration::from_secs(1),
            deadline: Duration::from_secs(4),
            claim_delay: Duration::from_secs(1),
            survey_interval: Duration::from_secs(5),
            claims_max: 64,
        }
    }
}

impl Default for Balance {
    fn default() -> Self {
        Self { moves_per_second: 5, settle: Duration::from_secs(10) }
    }
}

impl Default for Node {
    fn default() -> Self {
        Self {
            listen_addresses: Vec::new(),
            commands_max: 1024,
            answers_max: 4096,
            topics_max: 90,
            logs_max: 1000,
            message_bytes_max: 1 << 20,
            connections_max: 512,
            connections_per_peer_max: 4,
            pending_incoming_max: 64,
            pending_outgoing_max: 64,
            dials_per_second: 10,
            peers_max: 4096,
            idle_timeout: Duration::from_secs(30),
            dial_timeout: Duration::from_secs(10),
            heartbeat_interval: Duration::from_secs(1),
            backlog_messages_max: 1000,
            backlog_bytes_max: 4 << 20,
            ring_bytes_max: 4 << 20,
            ring_age_max: Duration::from_secs(30),
            ring_age_alone_max: Duration::from_secs(2),
            retention_messages: 1000,
            retention_age: Duration::from_secs(3600),
            retention_bytes: 16 << 20,
            failures_max: 5,
        }
    }
}

impl Config {
    /// Checks what serde cannot, and that there is a key-encryption key. [`crate::Worker::new`] refuses
    /// the same.
    pub fn check(&self) -> Result<(), Error> {
        self.name()?;
        Seal::load(&self.keys).map(drop)
    }

    /// Checks all but the key, and answers the name of the worker: the configured one, else the host's.
    pub(crate) fn name(&self) -> Result<String, Error> {
        let wrong = |what: &str| Err(Error::Config(what.into()));
        let lease = &self.lease;
        if lease.renew_interval.is_zero() || lease.deadline < lease.renew_interval * 2 {
            return wrong("lease.deadline: must be at least twice lease.renew_interval, and that above 0");
        }
        if lease.deadline > LEASE_DEADLINE_MAX {
            return wrong("lease.deadline: must be at most 5s, as the lease itself lives 6s in the store");
        }
        if let Some(name) = self.empty() {
            return wrong(&format!("{name}: must be above 0"));
        }
        let listen =
            v1::NodeSpec { listen_addresses: self.node.listen_addresses.clone(), ..Default::default() };
        if let Err(error) = plexus_proto::spec::check(&listen) {
            return wrong(&format!("node.listen_addresses: {}", error.message));
        }
        let id = if self.id.is_empty() { host_name() } else { self.id.clone() };
        let fits = (1..=200).contains(&id.len()) && id.bytes().all(is_id_byte);
        if fits { Ok(id) } else { wrong("id: must be 1 to 200 letters, digits, `-` and `.`") }
    }

    /// The first bound with which no node could live.
    fn empty(&self) -> Option<&'static str> {
        let node = &self.node;
        let empty = [
            ("nodes_max", self.nodes_max == 0),
            ("lease.survey_interval", self.lease.survey_interval.is_zero()),
            ("lease.claims_max", self.lease.claims_max == 0),
            ("node.commands_max", node.commands_max == 0),
            ("node.answers_max", node.answers_max == 0),
            ("node.topics_max", node.topics_max == 0),
            ("node.logs_max", node.logs_max == 0),
            ("node.message_bytes_max", node.message_bytes_max == 0),
            ("node.peers_max", node.peers_max == 0),
            ("node.dial_timeout", node.dial_timeout.is_zero()),
            ("node.heartbeat_interval", node.heartbeat_interval.is_zero()),
            ("node.retention_messages", node.retention_messages == 0),
            ("node.failures_max", node.failures_max == 0),
        ];
        empty.iter().find(|(_, empty)| *empty).map(|(name, _)| *name)
    }
}

fn is_id_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.'
}

/// The name of this machine or pod, in the letters that an id may have.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name
        .trim()
        .bytes()
        .map(|byte| if is_id_byte(byte) { char::from(byte) } else { '-' })
        .take(200)
        .collect();
    if name.is_empty() { "worker".into() } else { name }
}

/// Makes a new incarnation of the worker named `id`: `<id>.<16 hex digits>`.
pub fn incarnation(id: &str) -> Incarnation {
    format!("{id}.{:016x}", rand::random::<u64>()).into()
}
