//! What the writer asks of the bus and what the bus said. [`Order::run`] is the only place of this
//! module that waits; the node's loop spawns it and hands the result to [`Log::done`](super::Log::done).

use bytes::Bytes;
use plexus_bus::{
    Append, Appended, Bus, Claim, Entry, Era, Error, Grant, Incarnation, Look, NodeName, Opened, Range,
    Stage, Taken, Topic,
};
use plexus_proto::bus::{EpochOpening, LogEntry};
use prost::Message;
use std::time::SystemTime;

/// One errand, numbered, so that an answer that comes too late is known as such.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    /// Goes back with the answer.
    pub(crate) turn: u64,
    /// What to do.
    pub(crate) task: Do,
}

/// What to do.
#[derive(Clone, Debug)]
pub(crate) enum Do {
    /// Open logs under the grant, once.
    Open {
        /// The present grant.
        grant: Grant,
        /// Topics beside those the carrier knows or that gateways want.
        topics: Vec<Topic>,
        /// The first under the grant, or a later one.
        stage: Stage,
    },
    /// Append one entry per topic.
    Append(Grant, Vec<Append>),
    /// Look who opened the logs last, and at the tails.
    Look,
    /// Say that the logs are repaired in this era.
    Stamp(Grant, Era),
    /// Replace the grant by a larger one (P10). A repeat has the same nonce, so it is the same take.
    Raise {
        /// Nonce of the grant to replace.
        from: u64,
        /// The new epoch must be above this.
        floor: u64,
        /// Nonce of the new grant.
        nonce: u64,
    },
    /// Keep only the newest entries of a topic at rest.
    Trim(Grant, Topic, u64),
    /// Read retained entries, to fill the window (P12).
    Read(Topic, Range),
}

/// How an errand went.
#[derive(Debug)]
pub(crate) enum Done {
    /// Of [`Do::Open`].
    Opened(Result<Opened, Error>),
    /// Of [`Do::Append`].
    Appended(Result<Appended, Error>),
    /// Of [`Do::Look`].
    Looked(Result<Look, Error>),
    /// Of [`Do::Stamp`].
    Stamped(Result<bool, Error>),
    /// Of [`Do::Raise`].
    Raised(Result<Taken, Error>),
    /// Of [`Do::Trim`].
    Trimmed(Result<bool, Error>),
    /// Of [`Do::Read`]: the entries, and the wall clock when they came.
    Read(Result<Vec<Entry>, Error>, SystemTime),
}

impl Order {
    /// Runs the errand: one call to the bus.
    pub(crate) async fn run(self, bus: Bus, node: NodeName, worker: Incarnation) -> (u64, Done) {
        let done = match self.task {
            Do::Open { grant, topics, stage } => {
                Done::Opened(bus.open_logs(&node, grant, &topics, marker(grant, &worker), stage).await)
            }
            Do::Append(grant, entries) => Done::Appended(bus.append(&node, grant, entries).await),
            Do::Look => Done::Looked(bus.look(&node).await),
            Do::Stamp(grant, era) => Done::Stamped(bus.stamp(&node, grant, era).await),
            Do::Raise { from, floor, nonce } => {
                let claim = Claim { node, floor, from: Some(from) };
                Done::Raised(bus.take(&worker, nonce, &[claim]).await)
            }
            Do::Trim(grant, topic, keep) => Done::Trimmed(bus.trim(&node, grant, &topic, keep).await),
            Do::Read(topic, range) => Done::Read(bus.read(&node, &topic, range).await, SystemTime::now()),
        };
        (self.turn, done)
    }
}

/// Encodes the entry that opens an epoch; the carrier adds `prev` and `sure`.
fn marker(grant: Grant, worker: &Incarnation) -> Bytes {
    let opening = EpochOpening {
        worker: worker.as_ref().into(),
        at: Some(SystemTime::now().into()),
        ..Default::default()
    };
    let entry =
        LogEntry { epoch: grant.epoch, nonce: grant.nonce, opening: Some(opening), ..Default::default() };
    entry.encode_to_vec().into()
}
