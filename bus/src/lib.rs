//! The carrier between gateways and workers. It addresses, delivers, remembers and leases, and never
//! looks inside an envelope. One cloneable [`Bus`]; behind it one [`Port`] with two implementations:
//! within a process ([`embedded`]) and over Redis ([`redis`]).
//!
//! Read in this order: [`subject`] names places, [`envelope`] is what travels, [`port`] is what a
//! carrier must do, then the carriers; [`fleet`] is what processes say of themselves. protocol.md is the
//! normative text behind `port`.

mod bounds;
pub mod config;
pub mod embedded;
pub mod envelope;
mod error;
pub mod fleet;
pub mod metrics;
pub mod port;
pub mod redis;
pub mod subject;
mod subscription;
mod trace;

pub use bounds::KEY_BYTES_MAX;
pub use config::{Config, Memory, Tls};
pub use envelope::{Body, Call, CallId, Envelope, Frame, Outcome, Payload};
pub use error::{Error, Outcome as Ran, Refusal};
pub use metrics::Metrics;
pub use port::{
    Append, Appended, Claim, Enlisted, Entry, Extent, Look, Opened, Opening, Owned, Owner, Port, Range,
    Renewed, Spot, Stage, Taken, Value, When,
};
pub use subject::{Era, GatewayId, Grant, Incarnation, Key, NodeName, Position, Subject, Topic};
pub use subscription::{Event, Subscription};
pub use trace::Trace;

use bytes::Bytes;
use std::{sync::Arc, time::Duration};

/// A handle to the carrier; cheap to clone. Every method is one round trip with a deadline
/// ([`Config::call_timeout`]); none is repeated by itself.
#[derive(Clone)]
pub struct Bus {
    port: Arc<dyn Port>,
    timeout: Duration,
    queue: usize,
    bounds: bounds::Bounds,
    metrics: Metrics,
}

impl Bus {
    /// Opens the carrier that the config names. Over Redis it connects and loads the functions.
    pub async fn open(config: &Config) -> Result<Self, Error> {
        config.check()?;
        let metrics = Metrics::default();
        let port: Arc<dyn Port> = if config.embedded() {
            Arc::new(embedded::Embedded::new(config, metrics.clone()))
        } else {
            Arc::new(Box::pin(redis::Redis::connect(config, metrics.clone())).await?)
        };
        Ok(Self::over(port, config, metrics))
    }

    /// Wraps a carrier; for tests that put something between.
    pub fn over(port: Arc<dyn Port>, config: &Config, metrics: Metrics) -> Self {
        Self {
            port,
            timeout: config.call_timeout,
            queue: config.subscription_queue,
            bounds: bounds::Bounds::new(config),
            metrics,
        }
    }

    /// The counters of this bus, to be registered once.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Tells whether probes are answered at this moment.
    pub fn healthy(&self) -> bool {
        self.port.healthy()
    }

    /// Ends connections and tasks.
    pub async fn close(&self) {
        self.port.close().await;
    }

    async fn within<T>(&self, answer: port::Answer<'_, T>) -> Result<T, Error> {
        self.limited(self.timeout, answer).await
    }

    async fn limited<T>(&self, timeout: Duration, answer: port::Answer<'_, T>) -> Result<T, Error> {
        let result = tokio::time::timeout(timeout, answer).await.unwrap_or(Err(Error::Timeout));
        self.metrics.observe(&result);
        result
    }
}

/// Live subjects ([`port::Live`]).
impl Bus {
    /// Sends a frame; answers how many subscribers the carrier handed it to.
    pub async fn publish(&self, subject: Subject, frame: Payload) -> Result<usize, Error> {
        self.bounds.frame(&frame)?;
        bounds::subject(&subject)?;
        self.within(self.port.publish(subject, frame)).await
    }

    /// Subscribes; what is published after the answer arrives.
    pub async fn subscribe(&self, subject: Subject) -> Result<Subscription, Error> {
        bounds::subject(&subject)?;
        self.within(self.port.subscribe(subject, self.queue)).await
    }

    /// Subscribes with a queue of another length.
    pub async fn subscribe_with(&self, subject: Subject, queue: usize) -> Result<Subscription, Error> {
        bounds::subject(&subject)?;
        self.within(self.port.subscribe(subject, queue)).await
    }
}

/// Logs ([`port::History`]).
impl Bus {
    /// Opens a node's logs under a grant.
    pub async fn open_logs(
        &self,
        node: &NodeName,
        grant: Grant,
        topics: &[Topic],
        marker: Bytes,
        stage: Stage,
    ) -> Result<Opened, Error> {
        bounds::topics(topics)?;
        self.bounds.bytes(marker.len())?;
        self.within(self.port.open(node, grant, topics, marker, stage)).await
    }

    /// Appends one entry per topic.
    pub async fn append(
        &self,
        node: &NodeName,
        grant: Grant,
        entries: Vec<Append>,
    ) -> Result<Appended, Error> {
        self.bounds.entries(&entries)?;
        self.within(self.port.append(node, grant, entries)).await
    }

    /// Reads who opened the logs last, and their tails.
    pub async fn look(&self, node: &NodeName) -> Result<Look, Error> {
        self.within(self.port.look(node)).await
    }

    /// Says that the owner repaired its logs in this era.
    pub async fn stamp(&self, node: &NodeName, grant: Grant, era: Era) -> Result<bool, Error> {
        self.within(self.port.stamp(node, grant, era)).await
    }

    /// Reads the tails of many topics.
    pub async fn tops(&self, wanted: &[(NodeName, Topic)]) -> Result<Vec<Option<Position>>, Error> {
        self.within(self.port.tops(wanted)).await
    }

    /// Reads entries.
    pub async fn read(&self, node: &NodeName, topic: &Topic, range: Range) -> Result<Vec<Entry>, Error> {
        self.within(self.port.read(node, topic, range)).await
    }

    /// Tells how far a log reaches.
    pub async fn extent(&self, node: &NodeName, topic: &Topic) -> Result<Option<Extent>, Error> {
        self.within(self.port.extent(node, topic)).await
    }

    /// Keeps the newest entries of a log.
    pub async fn trim(&self, node: &NodeName, grant: Grant, topic: &Topic, keep: u64) -> Result<bool, Error> {
        self.within(self.port.trim(node, grant, topic, keep)).await
    }

    /// Waits for replicas or the disk (P18); `timeout` bounds the wait in the store.
    pub async fn replicate(
        &self,
        node: &NodeName,
        replicas: u32,
        disk: bool,
        timeout: Duration,
    ) -> Result<u32, Error> {
        let limit = timeout + self.timeout;
        self.limited(limit, self.port.replicate(node, replicas, disk, timeout)).await
    }

    /// Removes everything of a node's slot.
    pub async fn erase(&self, node: &NodeName, grant: Grant) -> Result<bool, Error> {
        self.within(self.port.erase(node, grant)).await
    }
}

/// Leases and interest ([`port::Ownership`]).
impl Bus {
    /// Extends a worker's lease.
    pub async fn renew(&self, worker: &Incarnation, fresh: bool) -> Result<Renewed, Error> {
        self.within(self.port.renew(worker, fresh)).await
    }

    /// Claims nodes.
    pub async fn take(&self, worker: &Incarnation, nonce: u64, claims: &[Claim]) -> Result<Taken, Error> {
        self.within(self.port.take(worker, nonce, claims)).await
    }

    /// Gives nodes back.
    pub async fn release(&self, worker: &Incarnation, nodes: &[(NodeName, u64)]) -> Result<usize, Error> {
        self.within(self.port.release(worker, nodes)).await
    }

    /// Ends a worker's lease.
    pub async fn retire(&self, worker: &Incarnation) -> Result<(), Error> {
        self.within(self.port.retire(worker)).await
    }

    /// Reads what the record says a worker owns.
    pub async fn owned(&self, worker: &Incarnation) -> Result<Owned, Error> {
        self.within(self.port.owned(worker)).await
    }

    /// Reads who owns every node.
    pub async fn owners(&self) -> Result<Vec<(NodeName, Owner)>, Error> {
        self.within(self.port.owners()).await
    }

    /// Reads who owns one node.
    pub async fn owner(&self, node: &NodeName) -> Result<Option<Owner>, Error> {
        self.within(self.port.owner(node)).await
    }

    /// Reads the workers that live.
    pub async fn workers(&self) -> Result<Vec<Incarnation>, Error> {
        self.within(self.port.workers()).await
    }

    /// Enters a node and its PeerId into the directory.
    pub async fn enlist(&self, node: &NodeName, peer: &[u8]) -> Result<Enlisted, Error> {
        self.within(self.port.enlist(node, peer)).await
    }

    /// Takes a node out of the directory.
    pub async fn strike(
        &self,
        worker: &Incarnation,
        node: &NodeName,
        epoch: u64,
        peer: &[u8],
    ) -> Result<bool, Error> {
        self.within(self.port.strike(worker, node, epoch, peer)).await
    }

    /// Finds the node with this PeerId.
    pub async fn find(&self, peer: &[u8]) -> Result<Option<NodeName>, Error> {
        self.within(self.port.find(peer)).await
    }

    /// Renews a gateway's lease.
    pub async fn attend(&self, gateway: &GatewayId) -> Result<(), Error> {
        self.within(self.port.attend(gateway)).await
    }

    /// Tells which gateways live.
    pub async fn attending(&self, gateways: &[GatewayId]) -> Result<Vec<bool>, Error> {
        self.within(self.port.attending(gateways)).await
    }

    /// Writes a gateway's interest in topics of a node: how many read each, nobody for a while too; `None`
    /// withdraws it.
    pub async fn want(
        &self,
        node: &NodeName,
        gateway: &GatewayId,
        readers: &[(Topic, Option<u32>)],
    ) -> Result<(), Error> {
        bounds::topics(readers.iter().map(|(topic, _)| topic))?;
        self.within(self.port.want(node, gateway, readers)).await
    }

    /// Reads all interest in a node's topics.
    pub async fn wanted(&self, node: &NodeName) -> Result<Vec<(GatewayId, Topic, u32)>, Error> {
        self.within(self.port.wanted(node)).await
    }
}

/// Kept values ([`port::Keys`]).
impl Bus {
    /// Reads a value.
    pub async fn get(&self, key: Key) -> Result<Option<Value>, Error> {
        bounds::key(&key, None)?;
        self.within(self.port.get(key)).await
    }

    /// Writes a value where `when` holds; `None` where it does not.
    pub async fn put(
        &self,
        key: Key,
        data: Bytes,
        when: When,
        ttl: Option<Duration>,
    ) -> Result<Option<u64>, Error> {
        bounds::key(&key, ttl)?;
        self.bounds.bytes(data.len())?;
        self.within(self.port.put(key, data, when, ttl)).await
    }

    /// Removes a value where `when` holds.
    pub async fn delete(&self, key: Key, when: When) -> Result<bool, Error> {
        bounds::key(&key, None)?;
        self.within(self.port.delete(key, when)).await
    }

    /// Lists free keys by prefix.
    pub async fn list(&self, prefix: &str) -> Result<Vec<(String, Value)>, Error> {
        self.within(self.port.list(prefix.to_owned())).await
    }

    /// Writes a node's state; false from a stale owner.
    pub async fn put_state(&self, node: &NodeName, grant: Grant, state: Bytes) -> Result<bool, Error> {
        self.bounds.bytes(state.len())?;
        self.within(self.port.put_state(node, grant, state)).await
    }

    /// Reads a node's record and state.
    pub async fn get_state(&self, node: &NodeName) -> Result<(Option<Value>, Option<Bytes>), Error> {
        self.within(self.port.get_state(node)).await
    }
}
