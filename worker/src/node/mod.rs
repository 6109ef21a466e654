//! A hosted node: one identity, one swarm, one task.
//!
//! The host makes a [`Start`], [`EventLoop::new`](event_loop::EventLoop::new) builds the loop, its
//! future ends with [`Ended`]. While it runs it shares nothing but what is in `Start`.

pub mod event_loop;

mod answers;
mod calls;
mod commands;
mod page;

mod following;
mod messages;
mod policy;
mod publish;
mod publishes;
mod receipt;
mod record;
mod status;
mod topics;

mod leased;
mod ring;
mod start;
mod work;

pub(crate) mod log;
pub(crate) mod peers;

use crate::{Config, Metrics, Pulse, clock::Moment};
use libp2p::identity::Keypair;
use plexus_bus::{Bus, Era, Grant, Incarnation, NodeName};
use plexus_proto::bus::{NodeRecord, NodeState};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// Everything a node begins with.
pub struct Start {
    /// Its full name.
    pub name: NodeName,
    /// The worker that owns it.
    pub worker: Incarnation,
    /// The grant under which it acts; a raise (P10) replaces it and is told by [`Note::Raised`].
    pub grant: Grant,
    /// Its record as read after the take.
    pub record: NodeRecord,
    /// Revision of the record.
    pub revision: u64,
    /// What the former owner wrote last.
    pub state: NodeState,
    /// Its identity, opened by the host.
    pub key: Keypair,
    /// The worker's lease deadline (P1, P2): past it the swarm must not be polled.
    pub deadline: watch::Receiver<Moment>,
    /// What the last renewal told of the store; another era makes every log unsure (P13).
    pub store: watch::Receiver<Option<Store>>,
    /// Revision of the record that the host last heard of; the node reads it again when it changes.
    pub changed: watch::Receiver<u64>,
    /// The bus.
    pub bus: Bus,
    /// The worker's config; its `node` part bounds the node.
    pub config: Arc<Config>,
    /// The worker's counters.
    pub metrics: Metrics,
    /// Where the loop shows that it turns.
    pub pulse: Pulse,
    /// Where notes to the host go; the host never waits for the node, nor the node for the host.
    pub notes: mpsc::Sender<(NodeName, Note)>,
}

/// What a renewal tells of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// The present era.
    pub era: Era,
    /// Whether a replica may be promoted that lacks what was appended lately.
    pub replicated: bool,
}

/// What a node tells its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// The logs are open and the swarm runs.
    Running,
    /// The node raised its own grant.
    Raised(Grant),
    /// Its record says it shall not run: stopped, deleted, or another generation.
    Unwanted,
}

/// Why a node's task ended. The swarm is dropped by then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to: appends drained, swarm stopped (P7). The highest gossip sequence is in its state.
    Stopped,
    /// Another owner is there, or the lease deadline passed.
    Fenced,
    /// It cannot go on; one sentence. The host restarts it with back-off, then quarantines it.
    Failed(String),
}

#[cfg(test)]
mod tests;
