//! How a topic is kept and judged: the pin's policy with every gap filled from the node's spec and the
//! worker's config. Pure.

use super::log::Retention;
use crate::config;
use libp2p::PeerId;
use plexus_proto::{
    text,
    v1::{self, receipt::Level, topic_policy::Durability, topic_policy::Preset, validation::Mode},
};
use std::{collections::HashSet, time::Duration};

/// Payload of a message under the Waku preset at most.
const WAKU_BYTES_MAX: usize = 150 << 10;

/// The effective policy of a topic.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Policy {
    /// What the log keeps.
    pub(crate) retention: Retention,
    /// Whether it keeps anything at all; positions of topics that do not are not shown.
    pub(crate) keeps: bool,
    /// How message ids are made.
    pub(crate) preset: Preset,
    /// Largest payload in bytes.
    pub(crate) message_bytes_max: usize,
    /// Only these authors; empty: anyone.
    pub(crate) authors: HashSet<PeerId>,
    /// What a publish that names no level waits for.
    pub(crate) level: Level,
    /// Publishes and never subscribes.
    pub(crate) publish_only: bool,
    /// How long the pin lasts unless it is renewed; `None`: for good.
    pub(crate) ttl: Option<Duration>,
    /// The same in the words of the contract.
    pub(crate) shown: v1::TopicPolicy,
}

/// What is judged of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Deliver and forward.
    Accept,
    /// Drop, and blame the peer: no node of the network may send it.
    Reject,
    /// Drop without blame: only this node does not want it.
    Ignore,
}

impl Policy {
    /// Fills the gaps of a pin's policy.
    pub(crate) fn of(pin: Option<&v1::TopicPolicy>, spec: &v1::NodeSpec, config: &config::Node) -> Self {
        let pin = pin.cloned().unwrap_or_default();
        let gossip = spec.gossip.unwrap_or_default();
        let preset = match (pin.preset(), gossip.preset()) {
            (Preset::Unspecified, Preset::Unspecified) => Preset::Go,
            (Preset::Unspecified, node) => node,
            (topic, _) => topic,
        };
        let retention = Retention::of(pin.retention.as_ref(), config);
        let keeps = pin.retention.as_ref().and_then(|r| r.messages) != Some(0);
        let validation = pin.validation.clone().unwrap_or_default();
        let message_bytes_max =
            largest(preset, &[validation.message_bytes_max, gossip.message_bytes_max], config);
        let authors = validation.authors.iter().filter_map(|author| peer(author)).collect();
        Self {
            retention,
            keeps,
            preset,
            message_bytes_max,
            authors,
            level: if keeps { level(pin.durability()) } else { Level::Accepted },
            publish_only: pin.publish_only,
            ttl: pin.ttl.and_then(|ttl| Duration::try_from(ttl).ok()),
            shown: shown(pin, preset, retention, keeps, message_bytes_max),
        }
    }

    /// Judges a message of the network; its signature was checked before it came here.
    pub(crate) fn judge(&self, author: Option<PeerId>, bytes: usize) -> Verdict {
        if bytes > self.message_bytes_max {
            return Verdict::Reject;
        }
        if !self.authors.is_empty() && !author.is_some_and(|author| self.authors.contains(&author)) {
            return Verdict::Ignore;
        }
        Verdict::Accept
    }
}

/// The smallest of the bounds that are set.
fn largest(preset: Preset, asked: &[u32], config: &config::Node) -> usize {
    let agreed = if preset == Preset::Waku { WAKU_BYTES_MAX } else { usize::MAX };
    let asked = asked.iter().filter(|bytes| **bytes > 0).map(|bytes| *bytes as usize);
    asked.chain([agreed, config.message_bytes_max]).min().unwrap_or(agreed)
}

fn level(durability: Durability) -> Level {
    match durability {
        Durability::Unspecified | Durability::Memory => Level::Logged,
        Durability::Replicated => Level::Replicated,
        Durability::Fsync => Level::Durable,
    }
}

fn shown(
    mut pin: v1::TopicPolicy,
    preset: Preset,
    retention: Retention,
    keeps: bool,
    message_bytes_max: usize,
) -> v1::TopicPolicy {
    pin.preset = preset.into();
    pin.retention = Some(v1::Retention {
        messages: Some(if keeps { u32::try_from(retention.messages).unwrap_or(u32::MAX) } else { 0 }),
        age: prost_types::Duration::try_from(retention.age).ok(),
        bytes: Some(retention.bytes),
    });
    if pin.durability() == Durability::Unspecified {
        pin.durability = Durability::Memory.into();
    }
    let mut validation = pin.validation.take().unwrap_or_default();
    if validation.mode() == Mode::Unspecified {
        validation.mode = Mode::Basic.into();
    }
    validation.message_bytes_max = u32::try_from(message_bytes_max).unwrap_or(u32::MAX);
    pin.validation = Some(validation);
    pin
}

/// Reads a PeerId in any text form.
pub(crate) fn peer(text: &str) -> Option<PeerId> {
    let multihash = text::peer_id_from_text(text).ok()?;
    PeerId::from_bytes(&multihash).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_policy_leaves_out_comes_from_the_node_and_then_from_the_config() {
        let config = config::Node::default();
        let policy = Policy::of(None, &v1::NodeSpec::default(), &config);
        assert_eq!((policy.preset, policy.level, policy.keeps), (Preset::Go, Level::Logged, true));
        assert_eq!(policy.retention.messages, 1000);
        assert_eq!(policy.message_bytes_max, 1 << 20);
        let gossip = v1::node_spec::Gossip { preset: Preset::Waku.into(), ..Default::default() };
        let spec = v1::NodeSpec { gossip: Some(gossip), ..Default::default() };
        let policy = Policy::of(None, &spec, &config);
        assert_eq!((policy.preset, policy.message_bytes_max), (Preset::Waku, 150 << 10));
    }

    #[test]
    fn a_topic_that_keeps_nothing_promises_no_more_than_accepted() {
        let pin = v1::TopicPolicy {
            retention: Some(v1::Retention { messages: Some(0), ..Default::default() }),
            durability: Durability::Fsync.into(),
            ..Default::default()
        };
        let policy = Policy::of(Some(&pin), &v1::NodeSpec::default(), &config::Node::default());
        assert_eq!((policy.level, policy.keeps), (Level::Accepted, false));
    }

    #[test]
    fn size_is_a_fault_and_another_author_is_not() {
        let known = PeerId::random();
        let pin = v1::TopicPolicy {
            validation: Some(v1::Validation {
                message_bytes_max: 10,
                authors: vec![known.to_string()],
                ..Default::default()
            }),
            ..Default::default()
        };
        let policy = Policy::of(Some(&pin), &v1::NodeSpec::default(), &config::Node::default());
        assert_eq!(policy.judge(Some(known), 10), Verdict::Accept);
        assert_eq!(policy.judge(Some(known), 11), Verdict::Reject);
        assert_eq!(policy.judge(Some(PeerId::random()), 1), Verdict::Ignore);
        assert_eq!(policy.judge(None, 1), Verdict::Ignore);
    }
}
