//! Sequence numbers and message ids, known before the publish.

use crate::swarm::preset;
use arc_swap::ArcSwap;
use bytes::Bytes;
use libp2p::{
    PeerId,
    gossipsub::{self, MessageId, TopicHash},
};
use plexus_bus::Topic;
use plexus_proto::v1::topic_policy::Preset;
use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

/// What the id function and [`Ids`] both see.
#[derive(Default)]
pub(super) struct Shared {
    default: Preset,
    presets: ArcSwap<HashMap<TopicHash, Preset>>,
    /// Number of the priming publish, the first that the id function ever saw.
    primed: OnceLock<Option<u64>>,
}

impl Shared {
    pub(super) fn new(default: Preset) -> Self {
        Self { default, ..Self::default() }
    }

    pub(super) fn see(&self, message: &gossipsub::Message) -> MessageId {
        let seqno = message.sequence_number;
        self.primed.get_or_init(|| seqno);
        let preset = self.preset(&message.topic);
        preset::message_id(preset, message.source.as_ref(), seqno, message.topic.as_str(), &message.data)
            .into()
    }

    fn preset(&self, topic: &TopicHash) -> Preset {
        self.presets.load().get(topic).copied().unwrap_or(self.default)
    }
}

/// Knows the sequence number and the id of the next message before it is published.
///
/// The crate begins at the wall clock in nanoseconds and counts each publish that passes its size
/// check, also a failed one. So each [`reserve`](Self::reserve) must be followed by one publish, in
/// the same order, of a payload within the limit.
pub struct Ids {
    shared: Arc<Shared>,
    author: Option<PeerId>,
    last: Option<u64>,
}

impl Ids {
    /// Begins after the priming publish of an author; none without signatures.
    pub(super) fn new(shared: Arc<Shared>, author: Option<PeerId>) -> Self {
        let last = shared.primed.get().copied().flatten();
        Self { shared, author, last }
    }

    /// The ids of a node without gossipsub.
    pub(in crate::swarm) fn off() -> Self {
        Self { shared: Arc::default(), author: None, last: None }
    }

    /// Answers the sequence number and the id of the next publish. Without signatures there is no
    /// number.
    pub fn reserve(&mut self, topic: &Topic, data: &[u8]) -> (Option<u64>, Bytes) {
        self.last = self.last.map(|last| last + 1);
        let topic = String::from_utf8_lossy(topic);
        let preset = self.shared.preset(&TopicHash::from_raw(topic.as_ref()));
        (self.last, preset::message_id(preset, self.author.as_ref(), self.last, &topic, data).into())
    }

    /// Answers the last number that was used; 0 without signatures. It goes into `NodeState.seqno`.
    pub fn last(&self) -> u64 {
        self.last.unwrap_or(0)
    }

    /// Answers how far the clock of this worker is behind the last number that a former owner logged.
    /// Peers that check numbers ignore what is not above it: build the swarm again when that time has
    /// passed, and over 30 s publish nothing and say so.
    pub fn behind(&self, floor: u64) -> Option<Duration> {
        let last = self.last?;
        (last <= floor).then(|| Duration::from_nanos(floor - last))
    }

    /// Sets how ids on a topic are made; unspecified: as the node's.
    pub fn set_preset(&mut self, topic: &Topic, preset: Preset) {
        let topic = TopicHash::from_raw(String::from_utf8_lossy(topic));
        let mut presets = HashMap::clone(&self.shared.presets.load());
        match preset {
            Preset::Unspecified => presets.remove(&topic),
            other => presets.insert(topic, other),
        };
        self.shared.presets.store(Arc::new(presets));
    }
}
