//! The gateway: clients on one port, every dialect, the same services behind. It names no libp2p.
//!
//! The life of a call: [`edge`] turns words of any dialect into one gRPC request in memory, a service
//! ([`service`]) checks what it means, the [`router`] sends it over the bus and waits, and the answer
//! goes back the same way; streams come back as [`frame`]s that are encoded once for all readers.

pub mod caller;
mod card;
pub mod config;
pub mod edge;
pub mod error;
pub mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod grant;
pub mod holdings;
pub mod key;
pub mod metrics;
pub mod pulse;
pub mod resume;
mod revoked;
pub mod router;
pub mod service;
mod vault;

use card::Card;
use config::Config;
use edge::{Edge, Served};
use metrics::Metrics;
use plexus_bus::Bus;
use pulse::Pulse;
use resume::Tokens;
use router::Router;
use service::watch::Watching;
use std::{io, net::SocketAddr, sync::Arc};
use tokio_util::sync::CancellationToken;

/// A gateway that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port cannot be had.
    #[error("cannot listen on {listen}")]
    Listen {
        /// Where.
        listen: String,
        /// Why not.
        source: io::Error,
    },
    /// The config cannot be used.
    #[error("{0}")]
    Config(String),
    /// What should be served cannot be.
    #[error(transparent)]
    Edge(#[from] edge::Error),
}

/// A gateway whose port is bound.
pub struct Gateway {
    /// The port and its dialects.
    edge: Edge,
    /// Who waits for answers and messages.
    waiting: router::EventLoop,
    /// What is known of nodes for those who watch.
    watching: service::watch::EventLoop,
    metrics: Metrics,
    pulse: Pulse,
    /// Cancelled when the drain begins.
    leaving: CancellationToken,
}

impl Gateway {
    /// Binds the port; nothing is answered before [`Gateway::run`].
    pub async fn bind(config: Config, bus: Bus) -> Result<Self, Error> {
        config.check()?;
        let metrics = Metrics::default();
        let (healthy, kept) = (bus.clone(), bus.clone());
        let (handle, watching) = Watching::new(bus.clone(), config.router.queue);
        let tokens = Tokens::new(config.resume.key.as_deref());
        if let Err(error) = tokens.share(&bus).await {
            tracing::warn!(%error, "resume tokens cannot be read until the bus answers");
        }
        let (router, mut waiting) =
            Router::new(bus.clone(), config.router.clone(), tokens.clone(), metrics.router.clone());
        let leaving = CancellationToken::new();
        waiting.show(Card::new(router.gateway().clone(), bus, metrics.clone(), leaving.clone()));
        let (routes, services) = service::routes(router, handle, &config);
        let healthy = Arc::new(move || healthy.healthy());
        let open = service::for_all();
        let kept = Some(kept);
        let served = Served {
            routes,
            services,
            open,
            bus: kept,
            descriptors: Vec::new(),
            healthy,
            echo: false,
            tokens,
        };
        let edge = Edge::bind(&config, served, metrics.clone()).await?;
        let pulse = Pulse::new([edge.beat(), waiting.beat(), watching.beat()]);
        Ok(Self { edge, waiting, watching, metrics, pulse, leaving })
    }

    /// Says where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.edge.local_addr()
    }

    /// Says where it listens for TLS alone; none where that is no port of its own.
    pub fn tls_addr(&self) -> io::Result<Option<SocketAddr>> {
        self.edge.tls_addr()
    }

    /// What it counts, to be registered once.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Tells whether its loops turn, also while it runs.
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Serves until `stop`, then drains: calls finish, streams end, and only then nobody waits any more.
    pub async fn run(self, stop: CancellationToken) {
        let idle = CancellationToken::new();
        let told = async {
            stop.run_until_cancelled(idle.cancelled()).await;
            self.leaving.cancel();
        };
        let serve = async {
            self.edge.run(stop.clone()).await;
            idle.cancel();
        };
        tokio::join!(serve, told, self.waiting.run(idle.clone()), self.watching.run(idle.clone()));
    }
}
