//! What a carrier must do: live subjects, history and keys. Two carriers implement it, and one suite
//! (`tests/conformance.rs`) holds both to it. The exact meaning of history and leases is
//! protocol.md §2; each method names its function there.
//!
//! Every method is one round trip. Deadlines and bounds (frame size, length of names, entries without
//! a place) are put around it by [`crate::Bus`]; a carrier never repeats a call by itself.

use crate::{
    Era, Error, GatewayId, Grant, Incarnation, Key, NodeName, Payload, Position, Subject, Topic,
    subscription::Subscription,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use std::time::Duration;

/// What a call answers.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, Error>>;

/// A carrier.
pub trait Port: Live + History + Ownership + Keys {
    /// Tells whether probes are answered at this moment.
    fn healthy(&self) -> bool;
    /// Ends connections and tasks; later calls answer [`Error::Closed`].
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// Live subjects: at most once, in order per sender, bounded.
pub trait Live: Send + Sync {
    /// Sends a frame and answers how many subscribers the carrier handed it to.
    fn publish(&self, subject: Subject, frame: Payload) -> Answer<'_, usize>;
    /// Subscribes; answers once the carrier has it, so that what is published afterwards arrives. Beyond
    /// `subscriptions_max` the answer is [`Error::Overloaded`]; a closed carrier ends the subscription.
    fn subscribe(&self, subject: Subject, queue: usize) -> Answer<'_, Subscription>;
}

/// Logs of a node's topics: one writer, fenced by its grant.
pub trait History: Send + Sync {
    /// `open`: ends the old epoch in all known, wanted (interest) and given topics. `marker` is the
    /// encoded opening [`plexus_proto::bus::LogEntry`]; the carrier appends `opening.prev` and
    /// `opening.sure` to it (`prev` empty where the log was). `sure` counts from the writing of the node's
    /// [`Key::Record`], which makes `f` in the present era.
    fn open<'a>(
        &'a self,
        node: &'a NodeName,
        grant: Grant,
        topics: &'a [Topic],
        marker: Bytes,
        stage: Stage,
    ) -> Answer<'a, Opened>;
    /// `append`: one entry per topic, all under one grant.
    fn append<'a>(&'a self, node: &'a NodeName, grant: Grant, entries: Vec<Append>) -> Answer<'a, Appended>;
    /// `look`: who opened the logs last, their tails, and the present era.
    fn look<'a>(&'a self, node: &'a NodeName) -> Answer<'a, Look>;
    /// `stamp`: says that the owner repaired its logs in this era. False: not the owner, or a newer era.
    fn stamp<'a>(&'a self, node: &'a NodeName, grant: Grant, era: Era) -> Answer<'a, bool>;
    /// Reads the tails of many topics in one round trip; `None` where there is no log.
    fn tops<'a>(&'a self, wanted: &'a [(NodeName, Topic)]) -> Answer<'a, Vec<Option<Position>>>;
    /// Reads entries in order (or newest first), bounded by `limit` entries.
    fn read<'a>(&'a self, node: &'a NodeName, topic: &'a Topic, range: Range) -> Answer<'a, Vec<Entry>>;
    /// Tells the oldest and newest entry and how many there are; `None` where there is no log.
    fn extent<'a>(&'a self, node: &'a NodeName, topic: &'a Topic) -> Answer<'a, Option<Extent>>;
    /// Keeps the newest `keep` entries; refused (false) from a stale owner. The tail stays known.
    fn trim<'a>(&'a self, node: &'a NodeName, grant: Grant, topic: &'a Topic, keep: u64) -> Answer<'a, bool>;
    /// P18: waits until `replicas` replicas have (and, with `disk`, the primary has fsynced) all that
    /// was appended before; answers how many have. [`Error::Unsupported`] where the carrier cannot.
    fn replicate<'a>(
        &'a self,
        node: &'a NodeName,
        replicas: u32,
        disk: bool,
        timeout: Duration,
    ) -> Answer<'a, u32>;
    /// Removes everything of a node's slot (logs, record, state, key, interest). Refused (false) where a
    /// later grant, or the same epoch with another nonce, opened or wrote a state;
    /// works from the take on, before `open`. For an hour no grant up to this one acts on what is made anew.
    fn erase<'a>(&'a self, node: &'a NodeName, grant: Grant) -> Answer<'a, bool>;
}

/// Leases of workers, grants of nodes, interest of gateways.
pub trait Ownership: Send + Sync {
    /// `renew`: extends the worker's lease. `fresh` begins a new one.
    fn renew<'a>(&'a self, worker: &'a Incarnation, fresh: bool) -> Answer<'a, Renewed>;
    /// `take`: claims nodes under one nonce; an epoch per node, `None` where it is not free.
    fn take<'a>(&'a self, worker: &'a Incarnation, nonce: u64, claims: &'a [Claim]) -> Answer<'a, Taken>;
    /// `release`: gives nodes back; answers how many were the worker's.
    fn release<'a>(&'a self, worker: &'a Incarnation, nodes: &'a [(NodeName, u64)]) -> Answer<'a, usize>;
    /// Ends the worker's lease, after its last node (P7).
    fn retire<'a>(&'a self, worker: &'a Incarnation) -> Answer<'a, ()>;
    /// Reads what the record says the worker owns, and its change count (P5).
    fn owned<'a>(&'a self, worker: &'a Incarnation) -> Answer<'a, Owned>;
    /// Reads who owns every node of the bus.
    fn owners(&self) -> Answer<'_, Vec<(NodeName, Owner)>>;
    /// Reads who owns one node; `None`: no such node.
    fn owner<'a>(&'a self, node: &'a NodeName) -> Answer<'a, Option<Owner>>;
    /// Reads the incarnations whose lease lives.
    fn workers(&self) -> Answer<'_, Vec<Incarnation>>;
    /// Enters a node and its PeerId (multihash bytes) into the directory, in one step: it then has an
    /// [`Owner`] of epoch 0, and nobody. The same again is [`Enlisted::Done`] and changes nothing.
    fn enlist<'a>(&'a self, node: &'a NodeName, peer: &'a [u8]) -> Answer<'a, Enlisted>;
    /// Takes a node out of the directory and of the worker's record, if `worker` still owns it under
    /// `epoch`; counted and published as a release.
    fn strike<'a>(
        &'a self,
        worker: &'a Incarnation,
        node: &'a NodeName,
        epoch: u64,
        peer: &'a [u8],
    ) -> Answer<'a, bool>;
    /// Finds the node with this PeerId (multihash bytes).
    fn find<'a>(&'a self, peer: &'a [u8]) -> Answer<'a, Option<NodeName>>;
    /// Renews a gateway's lease of 15 s.
    fn attend<'a>(&'a self, gateway: &'a GatewayId) -> Answer<'a, ()>;
    /// Tells which of these gateways' leases live, in order.
    fn attending<'a>(&'a self, gateways: &'a [GatewayId]) -> Answer<'a, Vec<bool>>;
    /// Writes a gateway's interest in topics: readers, `None` removes the field (P23).
    fn want<'a>(
        &'a self,
        node: &'a NodeName,
        gateway: &'a GatewayId,
        readers: &'a [(Topic, Option<u32>)],
    ) -> Answer<'a, ()>;
    /// Reads all interest in a node's topics.
    fn wanted<'a>(&'a self, node: &'a NodeName) -> Answer<'a, Vec<(GatewayId, Topic, u32)>>;
}

/// Kept values with revisions.
pub trait Keys: Send + Sync {
    /// Reads a value.
    fn get(&self, key: Key) -> Answer<'_, Option<Value>>;
    /// Writes a value where `when` holds; answers the new revision, or `None` where it does not hold.
    /// Revisions rise by one from 1, and begin at 1 again after a deletion or expiry. `ttl` is for
    /// [`Key::Named`]; a write without one never expires, also where the value before did. Writes and
    /// deletions of free keys publish the name on [`Subject::Keys`]; nothing else publishes by itself.
    fn put(&self, key: Key, data: Bytes, when: When, ttl: Option<Duration>) -> Answer<'_, Option<u64>>;
    /// Removes a value where `when` holds; false where nothing was removed.
    fn delete(&self, key: Key, when: When) -> Answer<'_, bool>;
    /// Lists free keys ([`Key::Named`]) that begin with `prefix`, by name.
    fn list(&self, prefix: String) -> Answer<'_, Vec<(String, Value)>>;
    /// Writes a node's state beside its record; refused (false) where a later grant, or the same epoch
    /// with another nonce, opened or wrote a state. Works from the take on, before `open`.
    fn put_state<'a>(&'a self, node: &'a NodeName, grant: Grant, state: Bytes) -> Answer<'a, bool>;
    /// Reads a node's record and state in one round trip.
    fn get_state<'a>(&'a self, node: &'a NodeName) -> Answer<'a, (Option<Value>, Option<Bytes>)>;
}

/// A kept value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// Rises by one with each write, from 1.
    pub revision: u64,
    /// The bytes.
    pub data: Bytes,
}

/// When a write may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Always.
    Always,
    /// Only where nothing is.
    Absent,
    /// Only at this revision.
    Revision(u64),
}

/// Which opening of a grant it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The first, which makes the grant the one that may write.
    First {
        /// Drops logs that hold no message and are neither wanted nor given, unless they were opened in
        /// this epoch.
        sweep: bool,
    },
    /// A later one, for further topics. Only where the first is there: a store that lost it cannot say what
    /// else it lost, and this one must not be taken for it.
    Later,
}

/// Outcome of `open`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// The topics opened, with the tail before and whether nothing can be lost before it.
    Done(Vec<Opening>),
    /// A later grant is there; the largest epoch seen.
    Fenced(u64),
    /// The grant's first opening is not there; nothing was written.
    Lost,
}

/// One opened topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The topic.
    pub topic: Topic,
    /// The tail before; zero: the log was empty.
    pub prev: Position,
    /// Whether nothing can have been lost after `prev`.
    pub sure: bool,
}

/// One entry to append.
#[derive(Clone, Debug)]
pub struct Append {
    /// The topic; opened before.
    pub topic: Topic,
    /// Sequence of the first message.
    pub first: u64,
    /// Sequence of the last message, which is the entry's id.
    pub last: u64,
    /// Entries to keep, this one included.
    pub keep: u64,
    /// The [`plexus_proto::bus::LogEntry`].
    pub entry: Payload,
}

/// Outcome of `append`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appended {
    /// One word per entry, in order.
    Done(Vec<Spot>),
    /// Another grant opened the logs.
    Fenced,
}

/// What became of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spot {
    /// It is in the log, and was published.
    Logged,
    /// The tail is elsewhere; nothing was written. Never success (P13). `None`: no log.
    Off(Option<Position>),
}

/// Answer of `look`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// The present era.
    pub era: Era,
    /// Grant of the last opening; `None`: never opened, or lost.
    pub grant: Option<Grant>,
    /// Era in which an owner last stamped.
    pub stamped: Option<Era>,
    /// Tail of each topic.
    pub tails: Vec<(Topic, Position)>,
}

/// What to read of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Entries with an id at or after this.
    pub from: Position,
    /// Entries with an id at or before this; `None`: to the tail.
    pub until: Option<Position>,
    /// Entries at most.
    pub limit: usize,
    /// Begins at the newest.
    pub newest_first: bool,
}

/// An entry of a log.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its id: the position of its last message.
    pub id: Position,
    /// The [`plexus_proto::bus::LogEntry`].
    pub entry: Payload,
}

/// How far a log reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Id of the oldest entry kept; `None`: all trimmed.
    pub oldest: Option<Position>,
    /// The tail.
    pub top: Position,
    /// Entries kept.
    pub entries: u64,
}

/// Outcome of `renew`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewed {
    /// The lease lives.
    Held {
        /// The present era.
        era: Era,
        /// Changes of the worker's record so far (`o.#`).
        changes: u64,
        /// Replicas of the store that are connected at this moment; one may lag.
        replicas: u32,
    },
    /// It expired.
    Lost,
}

/// A node to take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The node.
    pub node: NodeName,
    /// The new epoch must be above this; 0: any.
    pub floor: u64,
    /// Raises the worker's own grant of this nonce (P10); `None`: takes a free node.
    pub from: Option<u64>,
}

/// Outcome of `take`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// An epoch per claim, `None` where the node is not free.
    Epochs(Vec<Option<u64>>),
    /// The worker's own lease is gone.
    Lost,
}

/// A worker's record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owned {
    /// Changes so far (`#`).
    pub changes: u64,
    /// Nodes and grants.
    pub nodes: Vec<(NodeName, Grant)>,
}

/// Who owns a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The incarnation; `None`: nobody.
    pub worker: Option<Incarnation>,
    /// The last grant; epoch 0: never taken.
    pub grant: Grant,
}

/// Outcome of `enlist`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enlisted {
    /// It is in the directory.
    Done,
    /// A node of this name is there, with another PeerId.
    NodeExists,
    /// Another node has this PeerId.
    PeerExists,
}
