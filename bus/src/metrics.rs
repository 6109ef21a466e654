//! What the bus counts.

use crate::Error;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Counters of one bus; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Calls to the carrier, by outcome.
    pub calls: Family<CallLabels, Counter>,
    /// Refusals of the server, by reason; also of connections.
    pub refusals: Family<RefusalLabels, Counter>,
    /// Frames dropped because a subscriber's queue was full.
    pub lagged: Counter,
    /// Times the carrier connected again.
    pub reconnects: Counter,
    /// Changes of the files with its address and credentials, by outcome.
    pub reloads: Family<ReloadLabels, Counter>,
    /// Whether the carrier answers probes: 1 or 0.
    pub up: Gauge,
}

/// Labels of [`Metrics::calls`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CallLabels {
    /// `ok`, `timeout`, `unreachable`, `overloaded`, `refused`, `other`.
    pub outcome: &'static str,
}

/// Labels of [`Metrics::refusals`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusalLabels {
    /// What [`crate::Refusal::label`] says.
    pub reason: &'static str,
}

/// Labels of [`Metrics::reloads`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReloadLabels {
    /// `taken` or `refused`.
    pub outcome: &'static str,
}

impl Metrics {
    /// Registers every counter under `plexus_bus_…`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("plexus_bus");
        registry.register("calls", "Calls to the carrier, by outcome", self.calls.clone());
        registry.register("refusals", "Refusals of the server, by reason", self.refusals.clone());
        registry.register(
            "lagged_frames",
            "Frames dropped because a subscriber was slow",
            self.lagged.clone(),
        );
        registry.register("reconnects", "Times the carrier connected again", self.reconnects.clone());
        registry.register(
            "reloads",
            "Changes of the files with the bus's address and credentials, by outcome",
            self.reloads.clone(),
        );
        registry.register("up", "Whether the carrier answers probes", self.up.clone());
    }

    pub(crate) fn observe<T>(&self, result: &Result<T, Error>) {
        let outcome = match result {
            Ok(_) => "ok",
            Err(Error::Timeout) => "timeout",
            Err(Error::Unreachable { .. }) => "unreachable",
            Err(Error::Overloaded) => "overloaded",
            Err(Error::Refused(_)) => "refused",
            Err(_) => "other",
        };
        self.calls.get_or_create(&CallLabels { outcome }).inc();
        if let Err(error) = result {
            self.refused(error);
        }
    }

    /// Counts a refusal.
    pub(crate) fn refused(&self, error: &Error) {
        if let Error::Refused(refusal) = error {
            self.refusals.get_or_create(&RefusalLabels { reason: refusal.label() }).inc();
        }
    }

    /// Counts a change of the files.
    pub(crate) fn reloaded(&self, taken: bool) {
        let outcome = if taken { "taken" } else { "refused" };
        self.reloads.get_or_create(&ReloadLabels { outcome }).inc();
    }
}
