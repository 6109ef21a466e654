//! The worker: hosts libp2p nodes. [`host`] decides which nodes live here, each [`node`] is one
//! identity with one task and one swarm, [`swarm`] assembles libp2p. It names no axum.

pub mod clock;
mod config;
mod error;
pub mod host;
mod metrics;
pub mod node;
pub mod swarm;

pub use config::{Config, incarnation};
pub use error::{Error, Refusal, refuse};
pub use metrics::Metrics;
