//! What a gateway may be told.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A gateway.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The one port, `host:port`; port 0 takes any and prints it.
    pub listen: String,
    /// Origins whose pages may call, beside the own host: `https://app.example`.
    pub origins: Vec<String>,
    /// Bounds on connections and requests.
    pub limits: Limits,
    /// Bounds of the router: calls and readers.
    pub router: Router,
    /// Longest drain at shutdown.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
}

/// Bounds on connections and requests.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections at most; over it new ones wait to be accepted.
    pub connections_max: usize,
    /// Time until the first byte of a connection.
    #[serde(with = "humantime_serde")]
    pub first_byte_timeout: Duration,
    /// Time for a request head, from its first byte.
    #[serde(with = "humantime_serde")]
    pub head_timeout: Duration,
    /// Idle time of an HTTP/1 connection.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// Time a write may stand still.
    #[serde(with = "humantime_serde")]
    pub write_timeout: Duration,
    /// HTTP/2 streams of one connection at once.
    pub streams_max: u32,
    /// Time between HTTP/2 pings.
    #[serde(with = "humantime_serde")]
    pub ping_interval: Duration,
    /// Time an HTTP/2 ping may take.
    #[serde(with = "humantime_serde")]
    pub ping_timeout: Duration,
    /// Bytes of a request's headers.
    pub header_bytes_max: usize,
    /// Headers of a request.
    pub headers_max: usize,
    /// Bytes of a JSON or raw request, also after decompression.
    pub body_bytes_max: usize,
    /// Bytes of a binary request: one payload of the size above and its envelope.
    pub message_bytes_max: usize,
    /// Deadline of a unary call that brings none.
    #[serde(with = "humantime_serde")]
    pub call_timeout: Duration,
    /// Longest deadline of a unary call.
    #[serde(with = "humantime_serde")]
    pub call_timeout_max: Duration,
    /// Silence after which a text stream says that it lives.
    #[serde(with = "humantime_serde")]
    pub heartbeat_interval: Duration,
    /// Calls open on one WebSocket session.
    pub session_calls_max: usize,
    /// Bytes that may wait to be written on one WebSocket session.
    pub session_buffer_max: usize,
    /// Silence after which a WebSocket session is pinged, and how long its answer may take.
    #[serde(with = "humantime_serde")]
    pub session_ping_interval: Duration,
    /// How long the answer to such a ping may take.
    #[serde(with = "humantime_serde")]
    pub session_pong_timeout: Duration,
}

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
    /// Topics of one subscription at most.
    pub subscription_topics_max: usize,
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

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".into(),
            origins: Vec::new(),
            limits: Limits::default(),
            router: Router::default(),
            drain: Duration::from_secs(45),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 20_000,
            first_byte_timeout: Duration::from_secs(10),
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
            streams_max: 128,
            ping_interval: Duration::from_secs(20),
            ping_timeout: Duration::from_secs(10),
            header_bytes_max: 16 << 10,
            headers_max: 100,
            body_bytes_max: 1 << 20,
            message_bytes_max: (1 << 20) + (16 << 10),
            call_timeout: Duration::from_secs(30),
            call_timeout_max: Duration::from_secs(300),
            heartbeat_interval: Duration::from_secs(15),
            session_calls_max: 256,
            session_buffer_max: 1 << 20,
            session_ping_interval: Duration::from_secs(25),
            session_pong_timeout: Duration::from_secs(10),
        }
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
            resend_after: Duration::from_secs(2),
            check_interval: Duration::from_secs(5),
            patience: Duration::from_secs(2),
            linger: Duration::from_secs(60),
            attend_interval: Duration::from_secs(5),
            page_entries: 256,
        }
    }
}
