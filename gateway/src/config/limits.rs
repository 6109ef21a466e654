//! Bounds on connections and requests.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Bounds on connections and requests.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections at most; over it new ones wait to be accepted.
    pub connections_max: usize,
    /// Connections of one client address at most, 0: any number; counts where the address is public or
    /// forwarders are named.
    pub connections_per_address_max: usize,
    /// Streams and sessions of one API key or subject of a token that are open, at most, 0: any number.
    pub open_per_caller_max: usize,
    /// Streams and sessions of one namespace that are open, at most, 0: any number.
    pub open_per_namespace_max: usize,
    /// Age of an HTTP/2 connection, give or take a tenth, at which its client has to open another.
    #[serde(with = "humantime_serde")]
    pub connection_age_max: Duration,
    /// Time that calls on such a connection still have.
    #[serde(with = "humantime_serde")]
    pub connection_grace: Duration,
    /// Time until the first byte of a connection.
    #[serde(with = "humantime_serde")]
    pub first_byte_timeout: Duration,
    /// Time for a TLS handshake, from its first byte.
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
    /// Time for a request head, from its first byte.
    #[serde(with = "humantime_serde")]
    pub head_timeout: Duration,
    /// Time for a request's body or a message of a session, from its begin; one second more for each KiB
    /// that came.
    #[serde(with = "humantime_serde")]
    pub body_timeout: Duration,
    /// Time after which a connection ends on which nothing is asked and nothing open.
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
    /// Frames without content (pings, settings, resets, crumbs of messages) that a client may send in one
    /// second, twice as many at once, and one more for every 32 bytes that it was sent. Over it the
    /// connection is cut.
    pub empty_frames_a_second: u32,
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
    /// Streams that are packed by gzip at once; more go out as they are. Each keeps about 300 KB.
    pub compressed_streams_max: usize,
    /// Calls open on one WebSocket session.
    pub session_calls_max: usize,
    /// Bytes that may wait to be written on one WebSocket session.
    pub session_buffer_max: usize,
    /// Bytes of frames ready together that are written together on one WebSocket session.
    pub session_batch_bytes: usize,
    /// Bytes of a session's resume token; one that would be larger is left out.
    pub session_resume_bytes_max: usize,
    /// Silence after which a WebSocket session is pinged, and how long its answer may take.
    #[serde(with = "humantime_serde")]
    pub session_ping_interval: Duration,
    /// How long the answer to such a ping may take.
    #[serde(with = "humantime_serde")]
    pub session_pong_timeout: Duration,
}

impl Limits {
    /// The first limit with which nothing could be served.
    pub(super) fn empty(&self) -> Option<&'static str> {
        let empty = [
            ("limits.connections_max", self.connections_max == 0),
            ("limits.connection_age_max", self.connection_age_max.is_zero()),
            ("limits.first_byte_timeout", self.first_byte_timeout.is_zero()),
            ("limits.handshake_timeout", self.handshake_timeout.is_zero()),
            ("limits.head_timeout", self.head_timeout.is_zero()),
            ("limits.body_timeout", self.body_timeout.is_zero()),
            ("limits.idle_timeout", self.idle_timeout.is_zero()),
            ("limits.write_timeout", self.write_timeout.is_zero()),
            ("limits.streams_max", self.streams_max == 0),
            ("limits.ping_interval", self.ping_interval.is_zero()),
            ("limits.ping_timeout", self.ping_timeout.is_zero()),
            ("limits.empty_frames_a_second", self.empty_frames_a_second == 0),
            ("limits.header_bytes_max", self.header_bytes_max == 0),
            ("limits.headers_max", self.headers_max == 0),
            ("limits.body_bytes_max", self.body_bytes_max == 0),
            ("limits.message_bytes_max", self.message_bytes_max == 0),
            ("limits.call_timeout", self.call_timeout.is_zero()),
            ("limits.heartbeat_interval", self.heartbeat_interval.is_zero()),
            ("limits.session_calls_max", self.session_calls_max == 0),
            ("limits.session_buffer_max", self.session_buffer_max == 0),
            ("limits.session_batch_bytes", self.session_batch_bytes == 0),
            ("limits.session_resume_bytes_max", self.session_resume_bytes_max == 0),
            ("limits.session_ping_interval", self.session_ping_interval.is_zero()),
            ("limits.session_pong_timeout", self.session_pong_timeout.is_zero()),
        ];
        empty.iter().find(|(_, empty)| *empty).map(|(name, _)| *name)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 20_000,
            connections_per_address_max: 50,
            open_per_caller_max: 1_000,
            open_per_namespace_max: 10_000,
            connection_age_max: Duration::from_secs(3600),
            connection_grace: Duration::from_secs(30),
            first_byte_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(5),
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
            streams_max: 128,
            ping_interval: Duration::from_secs(20),
            ping_timeout: Duration::from_secs(10),
            empty_frames_a_second: 1_000,
            header_bytes_max: 16 << 10,
            headers_max: 100,
            body_bytes_max: 1 << 20,
            message_bytes_max: (1 << 20) + (16 << 10),
            call_timeout: Duration::from_secs(30),
            call_timeout_max: Duration::from_secs(300),
            heartbeat_interval: Duration::from_secs(15),
            compressed_streams_max: 64,
            session_calls_max: 256,
            session_buffer_max: 128 << 10,
            session_batch_bytes: 16 << 10,
            session_resume_bytes_max: 64 << 10,
            session_ping_interval: Duration::from_secs(25),
            session_pong_timeout: Duration::from_secs(10),
        }
    }
}
