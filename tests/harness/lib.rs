//! The ground that the promises are tested on: a whole fleet in one process with real sockets outside,
//! real Redis where the run asks for it, real swarms and foreign peers, and real processes where
//! something must die.
//!
//! - [`cluster`] gateways and workers in this process, over the bus that `PLEXUS_TEST_BUS` names
//! - [`redis`] a real Redis on free ports, in the form that `PLEXUS_TEST_REDIS` names
//! - [`history`] what was promised and what was told, and whether both agree
//! - [`http`] a small HTTP client: requests, and streams line by line
//! - [`issuer`] keys, tokens, and an address that tells the keys or misbehaves
//! - [`peer`] a plain rust-libp2p gossipsub peer
//! - [`foreign`] go-libp2p and js-libp2p peers, driven by lines of JSON
//! - [`attacks`] what strangers do to a port
//! - [`otlp`] a collector of traces
//! - [`process`] the `plexus` binary as processes of their own

#![allow(clippy::missing_panics_doc, clippy::unwrap_used, reason = "a test that cannot go on panics")]

pub mod attacks;
pub mod cluster;
pub mod foreign;
pub mod history;
pub mod http;
pub mod issuer;
pub mod otlp;
pub mod peer;
pub mod process;
pub mod redis;

pub use cluster::{Cluster, Ground};
pub use http::{Answer, Http, Lines};
pub use peer::Peer;

use std::{
    fmt::Debug,
    future::Future,
    time::{Duration, Instant},
};

/// Tries until it succeeds; panics with the last failure once the time is over.
pub async fn eventually<T, E: Debug, F: Future<Output = Result<T, E>>>(
    within: Duration,
    mut attempt: impl FnMut() -> F,
) -> T {
    let end = Instant::now() + within;
    let mut wait = Duration::from_millis(5);
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) if Instant::now() >= end => panic!("not within {within:?}: {error:?}"),
            Err(_) => tokio::time::sleep(wait).await,
        }
        wait = (wait * 2).min(Duration::from_millis(100));
    }
}

/// Begins to log where `PLEXUS__LOG` asks for it.
pub fn log() {
    if let Ok(filter) = std::env::var("PLEXUS__LOG") {
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    }
}
