//! What the gateway says of itself, for operators: who it is, and what it counts.

use crate::metrics::{ByDialect, Dialect, Metrics};
use plexus_bus::{Bus, GatewayId, fleet};
use plexus_proto::v1;
use std::time::SystemTime;
use tokio_util::sync::CancellationToken;

/// Fills the card in, as often as it is shown.
pub(crate) struct Card {
    gateway: GatewayId,
    bus: Bus,
    metrics: Metrics,
    /// Cancelled when the drain begins.
    leaving: CancellationToken,
    started: SystemTime,
}

impl Card {
    pub(crate) fn new(gateway: GatewayId, bus: Bus, metrics: Metrics, leaving: CancellationToken) -> Self {
        Self { gateway, bus, metrics, leaving, started: SystemTime::now() }
    }

    pub(crate) fn fill(&self) -> v1::Gateway {
        let draining = self.leaving.is_cancelled();
        let count = |n: i64| u32::try_from(n.max(0)).unwrap_or(u32::MAX);
        // A session is one of them, however many streams it has.
        let open =
            Dialect::ALL.map(|dialect| self.metrics.streams.get_or_create(&ByDialect { dialect }).get());
        v1::Gateway {
            gateway: self.gateway.to_string(),
            ready: !draining && self.bus.healthy(),
            draining,
            connections: count(self.metrics.connections.get()),
            sessions: count(open.iter().sum()),
            topics: count(self.metrics.router.topics.get()),
            version: env!("CARGO_PKG_VERSION").into(),
            started_at: Some(self.started.into()),
            memory_bytes: fleet::memory_bytes(),
        }
    }
}
