//! What a gateway counts. Registered once; labels are closed sets: a dialect, a code, never a name that
//! a client chose.

use crate::router;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use std::sync::OnceLock;

/// A gateway's counters and gauges.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Calls that ended, by dialect, method and code.
    pub calls: Family<Call, Counter>,
    /// Time from a call to its answer, for calls with one answer.
    pub call_seconds: Family<ByDialect, Histogram, fn() -> Histogram>,
    /// Streams and sessions open now.
    pub streams: Family<ByDialect, Gauge>,
    /// Connections open now.
    pub connections: Gauge,
    /// Connections accepted.
    pub accepted: Counter,
    /// Connections that were one too many for their address.
    pub crowded: Counter,
    /// Streams and sessions that were one too many, by whose they were.
    pub open_refused: Family<ByBucket, Counter>,
    /// TLS handshakes and PROXY headers by how they ended.
    pub handshakes: Family<ByOutcome, Counter>,
    /// Changed certificates: taken, or kept out because they cannot be used.
    pub certificates: Family<ByReload, Counter>,
    /// Keys and revocations that changed: taken, or kept out because they cannot be used.
    pub credentials: Family<BySource, Counter>,
    /// Sessions ended because their bytes waited too long to be read.
    pub slow_sessions: Counter,
    /// Requests refused before any service saw them.
    pub refused: Counter,
    /// Calls refused because there were too many, by whose bucket was empty.
    pub rate_limited: Family<ByBucket, Counter>,
    /// Calls whose bucket had no place of its own.
    pub rate_overflow: Counter,
    /// What the router counts.
    pub router: router::Metrics,
}

/// How a client speaks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelValue)]
pub enum Dialect {
    /// Native gRPC.
    Grpc,
    /// Connect, gRPC-Web and gRPC with JSON.
    Connect,
    /// JSON over HTTP by path and verb.
    Rest,
    /// Server-sent events.
    Sse,
    /// Lines of JSON.
    Ndjson,
    /// A WebSocket session.
    Websocket,
}

impl Dialect {
    /// Every one.
    pub const ALL: [Self; 6] =
        [Self::Grpc, Self::Connect, Self::Rest, Self::Sse, Self::Ndjson, Self::Websocket];
}

/// One of each dialect: what every call counts is looked up once.
#[derive(Debug)]
pub(crate) struct Each<T>([OnceLock<T>; Dialect::ALL.len()]);

impl<T> Each<T> {
    /// That of a dialect, found at first by `find`.
    pub(crate) fn get(&self, dialect: Dialect, find: impl FnOnce() -> T) -> &T {
        self.0[dialect as usize].get_or_init(find)
    }
}

impl<T> Default for Each<T> {
    fn default() -> Self {
        Self([const { OnceLock::new() }; Dialect::ALL.len()])
    }
}

/// How a call ended.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct Call {
    /// How the client spoke.
    pub dialect: Dialect,
    /// The method of the contract; empty for one that is not in it.
    pub method: String,
    /// The canonical code.
    pub code: &'static str,
}

/// By dialect alone.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct ByDialect {
    /// How the client speaks.
    pub dialect: Dialect,
}

/// How the beginning of a connection went, before any HTTP.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelValue)]
pub enum Handshake {
    /// TLS is spoken.
    Done,
    /// The peer took too long.
    Timeout,
    /// The peer went away.
    Gone,
    /// The peer speaks no TLS, and the port nothing else.
    Plaintext,
    /// No version, suite or protocol in common.
    Incompatible,
    /// The client has no certificate and must have one.
    NoCertificate,
    /// The client's certificate is not good.
    BadCertificate,
    /// The client would not have it: it does not trust the certificate, for one.
    Refused,
    /// What came was no handshake.
    Malformed,
    /// A forwarder's PROXY header is missing or cannot be read.
    ProxyHeader,
}

/// By outcome alone.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct ByOutcome {
    /// How it ended.
    pub outcome: Handshake,
}

/// What became of changed certificate files.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelValue)]
pub enum Reload {
    /// They hold for new connections.
    Taken,
    /// They cannot be used; those before still hold.
    Refused,
}

/// By what became of them.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct ByReload {
    /// What became of them.
    pub outcome: Reload,
}

/// Where what vouches for credentials comes from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelValue)]
pub enum Secrets {
    /// The file of API keys.
    KeysFile,
    /// The keys of the issuer, from a file or its address.
    Issuer,
    /// API keys and revocations of the store.
    Store,
}

/// By where it came from and what became of it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct BySource {
    /// Where it came from.
    pub source: Secrets,
    /// What became of it.
    pub outcome: Reload,
}

/// Whose calls are counted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelValue)]
pub enum Bucket {
    /// Those of a client's address.
    Address,
    /// Those of an API key or the subject of a token.
    Caller,
    /// Those of a namespace.
    Namespace,
}

impl Bucket {
    /// As clients read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Caller => "caller",
            Self::Namespace => "namespace",
        }
    }
}

/// By bucket alone.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct ByBucket {
    /// Whose it is.
    pub bucket: Bucket,
}

impl Metrics {
    /// Registers everything under `plexus_gateway_…`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("plexus_gateway");
        registry.register("calls", "Calls that ended", self.calls.clone());
        registry.register("call_seconds", "Time from a call to its answer", self.call_seconds.clone());
        registry.register("streams", "Streams and sessions open now", self.streams.clone());
        registry.register("connections", "Connections open now", self.connections.clone());
        registry.register("accepted", "Connections accepted", self.accepted.clone());
        registry.register("crowded", "Connections too many for their address", self.crowded.clone());
        registry.register(
            "open_refused",
            "Streams and sessions refused as too many, by bucket",
            self.open_refused.clone(),
        );
        registry.register("handshakes", "Beginnings of connections by outcome", self.handshakes.clone());
        registry.register("certificates", "Changed certificates by outcome", self.certificates.clone());
        registry.register("credentials", "Changed keys and revocations by outcome", self.credentials.clone());
        registry.register("slow_sessions", "Sessions ended as too slow", self.slow_sessions.clone());
        registry.register("refused", "Requests refused before any service saw them", self.refused.clone());
        registry.register("rate_limited", "Calls refused as too many, by bucket", self.rate_limited.clone());
        registry.register("rate_overflow", "Calls without a bucket of their own", self.rate_overflow.clone());
        self.router.register(registry);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            calls: Family::default(),
            call_seconds: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.001, 2.0, 16))
            }),
            streams: Family::default(),
            connections: Gauge::default(),
            accepted: Counter::default(),
            crowded: Counter::default(),
            open_refused: Family::default(),
            handshakes: Family::default(),
            certificates: Family::default(),
            credentials: Family::default(),
            slow_sessions: Counter::default(),
            refused: Counter::default(),
            rate_limited: Family::default(),
            rate_overflow: Counter::default(),
            router: router::Metrics::default(),
        }
    }
}
