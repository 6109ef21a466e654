//! The writer of a node's logs: protocol.md P9–P17. It owns what is not yet in the log, what may have
//! to be appended again, and the window in which repeats are known. The node's loop talks to it; it
//! never waits, reads no clock and does no I/O.
//!
//! How the loop uses it:
//!
//! 1. [`Log::new`] under the grant, [`Log::open`] with what is pinned or wanted.
//! 2. After each input: `while let Some(order) = log.next(now)`, spawn [`Order::run`], and sleep at most
//!    until [`Log::wake`].
//! 3. Its result goes to [`Log::done`], whose [`Out`]s say what to tell and to do.
//! 4. A publish: [`Log::seek`] first; where [`Known::New`], reserve the message id and [`Log::push`] with a
//!    ticket. [`Out::Logged`] brings the ticket back; only then gossip it (P16). A message of the
//!    network: `push` without a ticket; those logged within 2 min are dropped silently.
//! 5. Reconnect, [`plexus_bus::Event::Restored`] or `Lagged`, and each change of era: [`Log::doubt`].
//!
//! A message gets its number when an append takes it along, not when it is pushed: a number is final
//! within its epoch, and what waits may still be dropped or come under a later epoch.
//!
//! Read on: [`errand`] what is asked of the bus, `topic` one log (waiting, ring, retention), `numbered` its entries,
//! `writer` the table of P13, `window` the repeats.

mod errand;
mod numbered;
mod topic;
mod window;
mod writer;

#[cfg(test)]
mod tests;

pub(crate) use errand::{Do, Done, Order};
pub(crate) use writer::Log;

use crate::config;
use bytes::Bytes;
use plexus_bus::{Grant, Opening, Position, Topic};
use plexus_proto::{bus::LogEntry, v1};
use std::{sync::Arc, time::Duration};

/// Bounds of the writer.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Messages of the network that may wait.
    pub(crate) backlog_messages_max: usize,
    /// Payload bytes of those.
    pub(crate) backlog_bytes_max: usize,
    /// Messages of callers that may wait; more are refused.
    pub(crate) own_messages_max: usize,
    /// Payload bytes of those.
    pub(crate) own_bytes_max: usize,
    /// Payload bytes kept to append again.
    pub(crate) ring_bytes_max: usize,
    /// How long they are kept.
    pub(crate) ring_age_max: Duration,
    /// Logs of the node at most.
    pub(crate) logs_max: usize,
    /// What topics without a policy retain.
    pub(crate) retention: Retention,
}

/// What a log keeps; the first bound that is reached trims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Retention {
    /// Messages; 0 is kept as 1, so that positions go on.
    pub(crate) messages: u64,
    /// Payload bytes.
    pub(crate) bytes: u64,
    /// Age.
    pub(crate) age: Duration,
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Too much waits; try later.
    Full,
    /// The node keeps as many logs as it may.
    Logs,
    /// The node hands over, or another owner is there.
    Ending,
}

/// How a publish is named for the recognition of repeats.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Name<'a> {
    /// Its `request_id`; empty: none.
    pub(crate) key: &'a str,
    /// Its producer; empty: none.
    pub(crate) producer: &'a str,
    /// The producer's number.
    pub(crate) seq: u64,
}

/// What the window knows of a publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// Never seen: push it.
    New,
    /// The window is still read, the topic not open, or the message is logged anew under a new grant:
    /// ask again at [`Out::Ready`].
    Wait,
    /// Pushed by this owner under this ticket, not logged yet: wait for that.
    Pending(u64),
    /// In the log.
    Logged {
        /// Where.
        position: Position,
        /// Its gossipsub message id.
        id: Bytes,
    },
    /// The producer has a later number and this one is not in the window: `PRODUCER_SEQ_STALE`.
    Stale,
}

/// What the loop must do or tell.
#[derive(Clone, Debug)]
pub(crate) enum Out {
    /// The first opening under a grant is done (or a further topic's): the node may act.
    Opened {
        /// The grant under which the logs are open.
        grant: Grant,
        /// What was opened.
        openings: Vec<Opening>,
    },
    /// The window of a topic is complete: publishes that wait for it go on.
    Ready(Topic),
    /// An entry is in the log.
    Logged {
        /// The topic.
        topic: Topic,
        /// Position of its first message.
        first: Position,
        /// Messages, in order; shared with what was published live.
        entry: Arc<LogEntry>,
        /// Tickets with the positions of their messages.
        tickets: Vec<(u64, Position)>,
    },
    /// The grant was replaced; tell the host.
    Raised(Grant),
    /// A purge is done.
    Purged(Topic),
    /// Messages of the network were dropped, for the counters. Readers are told by the next entry.
    Dropped(u64),
    /// Another owner is there: stop the node at once.
    Fenced,
}

/// What is retained of a topic, as far as known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Messages.
    pub(crate) messages: u64,
    /// Payload bytes.
    pub(crate) bytes: u64,
}

impl Limits {
    /// The bounds that the config gives.
    pub(crate) fn of(config: &config::Node) -> Self {
        Self {
            backlog_messages_max: config.backlog_messages_max,
            backlog_bytes_max: config.backlog_bytes_max,
            own_messages_max: config.commands_max,
            own_bytes_max: config.message_bytes_max.saturating_mul(16),
            ring_bytes_max: config.ring_bytes_max,
            ring_age_max: config.ring_age_max,
            logs_max: config.logs_max,
            retention: Retention::of(None, config),
        }
    }
}

impl Retention {
    /// Fills a policy's gaps from the config.
    pub(crate) fn of(policy: Option<&v1::Retention>, config: &config::Node) -> Self {
        let age = policy.and_then(|p| p.age).and_then(|age| Duration::try_from(age).ok());
        Self {
            messages: policy.and_then(|p| p.messages).unwrap_or(config.retention_messages).into(),
            bytes: policy.and_then(|p| p.bytes).unwrap_or(config.retention_bytes),
            age: age.unwrap_or(config.retention_age),
        }
    }
}
