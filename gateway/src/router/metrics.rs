//! What the router counts. Labels are closed sets: why, never who.

use plexus_proto::v1::subscription_event::gap::Reason;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// A router's counters and gauges.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Calls that wait for an answer now.
    pub pending: Gauge,
    /// Readers now.
    pub readers: Gauge,
    /// Topics followed now, those that linger without a reader included.
    pub topics: Gauge,
    /// Reads of a log for all readers of a topic, because its live entries did not continue.
    pub repairs: Counter,
    /// Gaps told to readers, by reason.
    pub gaps: Family<ByReason, Counter>,
    /// Readers ended because their queue ran over.
    pub slow: Counter,
    /// Messages that readers' own policies dropped.
    pub skipped: Counter,
    /// Calls and readers refused because there are too many, by which bound.
    pub refused: Family<ByBound, Counter>,
}

/// Why a gap is there.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct ByReason {
    /// As the contract names it.
    pub reason: &'static str,
}

/// Which bound was reached.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct ByBound {
    /// The key of `gateway.router`.
    pub bound: &'static str,
}

impl Metrics {
    /// Registers everything under `…_router_…`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("router");
        registry.register("pending", "Calls that wait for an answer now", self.pending.clone());
        registry.register("readers", "Readers now", self.readers.clone());
        registry.register("topics", "Topics followed now", self.topics.clone());
        registry.register("repairs", "Reads of a log for all readers of a topic", self.repairs.clone());
        registry.register("gaps", "Gaps told to readers, by reason", self.gaps.clone());
        registry.register("slow", "Readers ended because their queue ran over", self.slow.clone());
        registry.register("skipped", "Messages that readers' own policies dropped", self.skipped.clone());
        registry.register("refused", "Calls and readers refused, by which bound", self.refused.clone());
    }

    /// Counts a gap that a reader is told.
    pub(super) fn gap(&self, reason: Reason) {
        self.gaps.get_or_create(&ByReason { reason: reason.as_str_name() }).inc();
    }

    /// Counts a refusal.
    pub(super) fn refuse(&self, bound: &'static str) {
        self.refused.get_or_create(&ByBound { bound }).inc();
    }
}
