//! Attacks on a gateway's port, as strangers try them: each is a few bytes at first, a few more at every
//! step, and a way to read or not to read. `make attacks` runs each for a minute and measures others
//! meanwhile; `tests/e2e/attacks.rs` runs all of them for a moment.
//!
//! - [`http1`] slow heads, bodies and readers, bodies without an end, gzip bombs
//! - [`tls`] handshakes that are never finished
//! - [`http2`] floods of frames and starved windows, written by hand
//! - [`websocket`] floods, crumbs and slow readers within a session

mod frames;
mod http1;
mod http2;
mod raid;
mod tls;
mod websocket;

pub use raid::{Effort, Target, Toll, raid};

use std::time::Duration;

/// One way to hurt a gateway.
#[derive(Clone, Copy, Debug)]
pub struct Attack {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub what: &'static str,
    /// Connections at once in a full run.
    pub connections: usize,
    /// The pause between two steps of one connection.
    pub every: Duration,
    /// How it reads.
    pub reads: Reads,
    /// Whether it comes by the port for TLS.
    pub tls: bool,
    /// Whether its connections must end.
    pub ends: bool,
    /// What a connection sends at a step: its number, the step, the host.
    pub script: fn(usize, u64, &str) -> Vec<u8>,
}

/// How an attacker reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// All of it.
    All,
    /// One byte a second, into the least buffer that the kernel gives.
    Drip,
    /// All of it, and keeps the HTTP/2 connection alive.
    Alive,
}

/// Every attack.
pub fn all() -> impl Iterator<Item = Attack> {
    [&http1::ATTACKS[..], &tls::ATTACKS, &http2::ATTACKS, &websocket::ATTACKS].concat().into_iter()
}

/// The pause of attacks that drip.
const SLOWLY: Duration = Duration::from_secs(1);

/// The pause of those that flood.
const FAST: Duration = Duration::from_millis(10);
