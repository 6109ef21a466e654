//! What a worker counts. Labels are closed sets; no peer, topic or node is ever one.

use crate::swarm::Counters;
use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

/// Counters of one worker; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Nodes that run here.
    pub nodes: Gauge,
    /// Times a node was started.
    pub starts: Counter,
    /// Times a node failed.
    pub failures: Counter,
    /// Times this worker fenced itself.
    pub fences: Counter,
    /// Nodes given to other workers, by order or to spread them.
    pub gifts: Counter,
    /// Commands taken off the bus.
    pub commands: Counter,
    /// Messages published by callers.
    pub published: Counter,
    /// Messages received from the network.
    pub received: Counter,
    /// Entries appended to logs.
    pub entries: Counter,
    /// Messages of the network dropped while the log could not be written.
    pub dropped: Counter,
    /// Dials that the guard refused.
    pub dials_refused: Counter,
    /// Payload bytes that nodes keep to append again.
    pub ring_bytes: Gauge,
    /// libp2p's own counters.
    pub libp2p: Counters,
}

impl Metrics {
    /// Registers every counter: ours under `plexus_worker_…`, libp2p's own under `libp2p_…`.
    pub fn register(&self, registry: &mut Registry) {
        self.libp2p.register(registry);
        let registry = registry.sub_registry_with_prefix("plexus_worker");
        registry.register("nodes", "Nodes that run here", self.nodes.clone());
        registry.register("node_starts", "Times a node was started", self.starts.clone());
        registry.register("node_failures", "Times a node failed", self.failures.clone());
        registry.register("fences", "Times this worker fenced itself", self.fences.clone());
        registry.register("gifts", "Nodes given to other workers", self.gifts.clone());
        registry.register("commands", "Commands taken off the bus", self.commands.clone());
        registry.register("published_messages", "Messages published by callers", self.published.clone());
        registry.register("received_messages", "Messages received from the network", self.received.clone());
        registry.register("log_entries", "Entries appended to logs", self.entries.clone());
        registry.register(
            "dropped_messages",
            "Messages dropped while the log could not be written",
            self.dropped.clone(),
        );
        registry.register("dials_refused", "Dials that the guard refused", self.dials_refused.clone());
        registry.register("ring_bytes", "Payload bytes kept to append again", self.ring_bytes.clone());
    }
}
