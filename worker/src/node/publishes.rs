//! Publishes under way: where each is on its way to a receipt, and what it waits for. Owned by the
//! loop; the steps are in `publish` (up to the log) and `receipt` (from the log on).

use super::{answers::Content, log::Name, receipt::reached_so_far};
use crate::{Refusal, clock::Moment, refuse};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use libp2p::gossipsub::{MessageId, PublishError, TopicHash};
use plexus_bus::{CallId, Position, Topic};
use plexus_proto::{
    bus::LogMessage,
    reason::Reason,
    text,
    v1::{self, receipt::Level},
};
use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, SystemTime},
};

/// How long a `request_id` is remembered here, also where nothing is retained.
const REPEATS: Duration = Duration::from_secs(600);
/// Between two looks at timeouts.
const LOOK: Duration = Duration::from_millis(50);

/// Publishes under way.
pub(super) struct Publishes {
    /// By ticket.
    pub(super) all: HashMap<u64, Publish>,
    /// By call, while it is to be answered.
    pub(super) calls: HashMap<CallId, u64>,
    /// Reserved and not yet gossiped, in order.
    pub(super) outgoing: VecDeque<u64>,
    /// Tickets that wait for the window, for another publish, for peers or for the carrier's word.
    pub(super) waiting: Vec<u64>,
    /// Tickets that wait for replicas (and disk), under way and for the next round.
    pub(super) securing: [Securing; 2],
    /// What the carrier can do at all: replicas, disk; `None`: not known.
    pub(super) can: [Option<bool>; 2],
    /// `request_id`s used here, with what they named and the receipt.
    pub(super) repeats: HashMap<(Topic, String), Repeat>,
    /// Their ends, oldest first.
    pub(super) ends: VecDeque<(Moment, (Topic, String))>,
    pub(super) next: u64,
    /// When timeouts were looked at last.
    looked: Moment,
}

#[derive(Default)]
pub(super) struct Securing {
    pub(super) now: Option<Vec<u64>>,
    pub(super) next: Vec<u64>,
}

pub(super) struct Repeat {
    pub(super) content: Content,
    pub(super) receipt: Option<v1::Receipt>,
}

pub(super) struct Publish {
    /// Whom to answer; `None`: answered, but still under way.
    pub(super) call: Option<CallId>,
    pub(super) topic: Topic,
    pub(super) hash: TopicHash,
    pub(super) data: Bytes,
    pub(super) key: String,
    pub(super) producer: String,
    pub(super) producer_seq: Option<u64>,
    pub(super) level: Level,
    pub(super) min_peers: usize,
    /// When the wait for peers or level ends.
    pub(super) until: Moment,
    pub(super) traceparent: String,
    pub(super) session: String,
    pub(super) accepted_at: SystemTime,
    pub(super) id: Bytes,
    pub(super) position: Option<Position>,
    /// Repeats one that a former owner logged: only gossiped, and said to be a duplicate.
    pub(super) duplicate: bool,
    pub(super) peers: u32,
    pub(super) stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Waits; asks again at the next cause.
    Waiting(Cause),
    /// Pushed, not logged.
    Logging,
    /// Logged, to be gossiped in its turn.
    Sending,
    /// Gossiped; waits for replicas or the disk.
    Securing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The window, or another publish of the same name.
    Window,
    /// Peers.
    Peers,
    /// Whether the carrier can do what is asked at all.
    Carrier,
}

impl Default for Publishes {
    fn default() -> Self {
        Self {
            all: HashMap::new(),
            calls: HashMap::new(),
            outgoing: VecDeque::new(),
            waiting: Vec::new(),
            securing: Default::default(),
            can: [None; 2],
            repeats: HashMap::new(),
            ends: VecDeque::new(),
            next: 0,
            looked: Moment::PAST,
        }
    }
}

impl Publishes {
    /// When to look at timeouts next.
    pub(super) fn wake(&self) -> Option<Moment> {
        (!self.calls.is_empty()).then(|| self.looked.after(LOOK))
    }

    /// Tickets whose wait is over, of those to be answered; looks every 50 ms.
    pub(super) fn late(&mut self, now: Moment) -> Vec<u64> {
        if now.since(self.looked) < LOOK {
            return Vec::new();
        }
        self.looked = now;
        while self.ends.front().is_some_and(|(end, _)| *end <= now) {
            self.forget();
        }
        let is_late = |ticket: &u64| self.all.get(ticket).is_some_and(|publish| publish.until <= now);
        self.calls.values().copied().filter(is_late).collect()
    }

    /// What is reserved and not gossiped, in order; `None`: refused afterwards.
    pub(super) fn reserved(&self) -> impl Iterator<Item = Option<&Publish>> {
        self.outgoing.iter().map(|ticket| self.all.get(ticket))
    }

    /// Tells whether nothing has to be gossiped any more.
    pub(super) fn is_drained(&self) -> bool {
        self.outgoing.is_empty() && self.securing.iter().all(|securing| securing.now.is_none())
    }

    pub(super) fn add(&mut self, publish: Publish) -> u64 {
        self.next += 1;
        if let Some(call) = publish.call {
            self.calls.insert(call, self.next);
        }
        self.all.insert(self.next, publish);
        self.next
    }

    /// Takes the call off a publish: it is answered now.
    pub(super) fn caller(&mut self, ticket: u64) -> Option<CallId> {
        let call = self.all.get_mut(&ticket)?.call.take()?;
        self.calls.remove(&call);
        Some(call)
    }

    pub(super) fn wait(&mut self, ticket: u64, cause: Cause) {
        if let Some(publish) = self.all.get_mut(&ticket) {
            publish.stage = Stage::Waiting(cause);
            if !self.waiting.contains(&ticket) {
                self.waiting.push(ticket);
            }
        }
    }

    pub(super) fn remember(&mut self, topic: &Topic, key: &str, content: Content, now: Moment, most: usize) {
        let name = (topic.clone(), key.to_owned());
        self.repeats.insert(name.clone(), Repeat { content, receipt: None });
        self.ends.push_back((now.after(REPEATS), name));
        while self.ends.len() > most {
            self.forget();
        }
    }

    pub(super) fn forget(&mut self) {
        if let Some((_, name)) = self.ends.pop_front() {
            self.repeats.remove(&name);
        }
    }

    /// The caller is gone: what only waits is dropped, what is on its way goes on.
    pub(super) fn cancel(&mut self, call: CallId) {
        let Some(ticket) = self.calls.remove(&call) else { return };
        let Some(publish) = self.all.get_mut(&ticket) else { return };
        publish.call = None;
        if matches!(publish.stage, Stage::Waiting(_)) {
            self.all.remove(&ticket);
            self.waiting.retain(|waiting| *waiting != ticket);
        }
    }
}

impl Publish {
    pub(super) fn receipt(&self, level: Level, shows: bool, now: SystemTime) -> v1::Receipt {
        let position = self.position.filter(|_| shows);
        v1::Receipt {
            receipt: String::new(),
            topic: text::bytes_to_text(&self.topic),
            id: BASE64_URL_SAFE_NO_PAD.encode(&self.id),
            position: position.map(|position| position.to_string()).unwrap_or_default(),
            level: level.into(),
            peers: self.peers,
            duplicate: self.duplicate,
            accepted_at: Some(self.accepted_at.into()),
            updated_at: Some(now.into()),
            producer_seq: self.producer_seq,
            traceparent: self.traceparent.clone(),
        }
    }

    /// Takes what gossipsub said (interop.md D.1); a refusal where the caller wanted more.
    pub(super) fn sent(
        &mut self,
        result: Result<MessageId, PublishError>,
        reached: usize,
    ) -> Option<Refusal> {
        match result {
            Ok(_) => self.peers = u32::try_from(reached.max(1)).unwrap_or(u32::MAX),
            Err(PublishError::AllQueuesFull(_)) if self.min_peers > 0 => {
                let refusal = refuse(Reason::QueuesFull, "the queue of every peer is full; nothing was sent");
                return Some(reached_so_far(refusal, Level::Logged, self.position));
            }
            Err(PublishError::Duplicate | PublishError::NoPeersSubscribedToTopic) => {}
            Err(error) => tracing::debug!(%error, "a logged message was not sent"),
        }
        None
    }

    pub(super) fn name(&self) -> Name<'_> {
        Name { key: &self.key, producer: &self.producer, seq: self.producer_seq.unwrap_or_default() }
    }

    pub(super) fn message(&self, author: Bytes, seqno: Option<u64>) -> LogMessage {
        LogMessage {
            id: self.id.clone(),
            data: self.data.clone(),
            author: if seqno.is_some() { author } else { Bytes::new() },
            via: Bytes::new(),
            seqno,
            received_at: Some(self.accepted_at.into()),
            producer: self.producer.clone(),
            producer_seq: self.producer_seq.unwrap_or_default(),
            idempotency_key: self.key.clone(),
            traceparent: self.traceparent.clone(),
            session: self.session.clone(),
        }
    }
}
