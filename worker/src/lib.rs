//! The worker: hosts libp2p nodes. [`host`] decides which nodes live here, each [`node`] is one
//! identity with one task and one swarm, [`swarm`] assembles libp2p. It names no axum.

pub mod clock;
mod config;
mod error;
pub mod host;
mod metrics;
pub mod node;
mod pulse;
pub mod swarm;

pub use config::{Config, incarnation};
pub use error::{Error, Refusal, refuse};
pub use metrics::Metrics;
pub use pulse::{Alive, Pulse};

use host::Seal;
use plexus_bus::Bus;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A worker, ready to run.
pub struct Worker {
    config: Arc<Config>,
    id: String,
    seal: Seal,
    bus: Bus,
    metrics: Metrics,
    ready: watch::Sender<bool>,
    alive: Alive,
}

/// Tells whether a worker may host nodes; cheap to clone, and outlives the worker.
#[derive(Clone, Debug)]
pub struct Ready(watch::Receiver<bool>);

impl Ready {
    /// Tells whether the worker holds its lease and is not draining.
    pub fn is_ready(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until the worker is ready; false: it ended before. Cancel-safe.
    pub async fn wait(&mut self) -> bool {
        self.0.wait_for(|ready| *ready).await.is_ok()
    }
}

impl Worker {
    /// Checks the config and reads the key-encryption key. Nothing happens before [`Worker::run`].
    pub fn new(config: Config, bus: Bus) -> Result<Self, Error> {
        let id = config.name()?;
        let seal = Seal::load(&config.keys)?;
        let metrics = Metrics::default();
        let (ready, alive) = (watch::Sender::new(false), Alive::default());
        Ok(Self { config: Arc::new(config), id, seal, bus, metrics, ready, alive })
    }

    /// The counters, to be registered once.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// A handle that tells whether the worker may host nodes.
    pub fn ready(&self) -> Ready {
        Ready(self.ready.subscribe())
    }

    /// A handle that tells whether the loops turn.
    pub fn alive(&self) -> Alive {
        self.alive.clone()
    }

    /// Hosts nodes until `stop`, then hands each over and ends the lease; at most [`Config::drain`].
    pub async fn run(self, stop: CancellationToken) {
        let spawn: host::Spawn =
            Arc::new(|start, stop| Box::pin(node::event_loop::EventLoop::new(start).run(stop)));
        let Self { config, id, seal, bus, metrics, ready, alive } = self;
        let probes = host::Probes { ready, alive };
        host::EventLoop::new(config, &id, bus, seal, metrics, probes, spawn).run(stop).await;
    }
}

#[cfg(test)]
pub(crate) mod tests;
