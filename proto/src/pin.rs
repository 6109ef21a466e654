//! Pins of topics: how their policies are marked, and when each was made. Gateways write both into a
//! node's record, owners read them.

use crate::{bus, text, v1};
use prost::Message;
use prost_types::Timestamp;
use sha2::{Digest, Sha256};
use std::time::SystemTime;

/// Marks the policy of a topic: equal for equal pins, `0` without one.
pub fn etag(pin: Option<&v1::TopicPolicy>) -> String {
    match pin {
        None => "0".into(),
        Some(policy) => data_encoding::HEXLOWER.encode(&Sha256::digest(policy.encode_to_vec())[..8]),
    }
}

fn ends(pinned: &v1::node_spec::PinnedTopic) -> bool {
    pinned.policy.as_ref().is_some_and(|policy| policy.ttl.is_some())
}

impl bus::NodeRecord {
    fn pins(&self) -> &[v1::node_spec::PinnedTopic] {
        let spec = self.node.as_ref().and_then(|node| node.spec.as_ref());
        spec.map(|spec| &spec.topics[..]).unwrap_or_default()
    }

    /// Dates the pins that end by themselves and are new or other than in the record `before`: they begin
    /// at `now`. All others keep their dates, whatever else changed.
    pub fn date_pins(&mut self, before: &Self, now: SystemTime) {
        let dated = |pinned: &&v1::node_spec::PinnedTopic| ends(pinned);
        let date = |pinned: &v1::node_spec::PinnedTopic| {
            let same = before.pins().contains(pinned);
            let kept = self.pinned.iter().find(|date| same && date.topic == pinned.topic);
            kept.cloned()
                .unwrap_or_else(|| bus::PinDate { topic: pinned.topic.clone(), at: Some(now.into()) })
        };
        self.pinned = self.pins().iter().filter(dated).map(date).collect();
    }

    /// Renews a pin that ends by itself; false where there is none to renew.
    pub fn renew_pin(&mut self, topic: &[u8], now: SystemTime) -> bool {
        let date = self.pinned.iter_mut().find(|date| names(&date.topic, topic));
        date.map(|date| date.at = Some(now.into())).is_some()
    }

    /// When a pin that ends by itself was made or renewed.
    pub fn pinned_at(&self, topic: &[u8]) -> Option<SystemTime> {
        let date = self.pinned.iter().find(|date| names(&date.topic, topic))?;
        date.at.and_then(|at: Timestamp| SystemTime::try_from(at).ok())
    }
}

/// Tells whether a text names this topic, however it is spelled.
fn names(text: &str, topic: &[u8]) -> bool {
    text::topic_from_text(text).is_ok_and(|named| named == topic)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn pin(topic: &str, ttl: Option<i64>, messages: u32) -> v1::node_spec::PinnedTopic {
        let policy = v1::TopicPolicy {
            ttl: ttl.map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
            retention: Some(v1::Retention { messages: Some(messages), ..Default::default() }),
            ..Default::default()
        };
        v1::node_spec::PinnedTopic { topic: topic.into(), policy: Some(policy) }
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// The record after a change of its pins at a time.
    fn changed(before: &bus::NodeRecord, pins: &[v1::node_spec::PinnedTopic], now: u64) -> bus::NodeRecord {
        let spec = v1::NodeSpec { topics: pins.to_vec(), ..Default::default() };
        let node = v1::Node { spec: Some(spec), ..Default::default() };
        let mut after = bus::NodeRecord { node: Some(node), ..before.clone() };
        after.date_pins(before, at(now));
        after
    }

    #[test]
    fn a_pin_keeps_its_date_until_it_is_changed_or_renewed() {
        let made = changed(&Default::default(), &[pin("a", Some(60), 1), pin("b", None, 1)], 10);
        assert_eq!((made.pinned_at(b"a"), made.pinned_at(b"b")), (Some(at(10)), None), "b never ends");
        let other = changed(&made, &[pin("c", Some(60), 1), pin("a", Some(60), 1)], 20);
        assert_eq!((other.pinned_at(b"a"), other.pinned_at(b"c")), (Some(at(10)), Some(at(20))));
        let mut longer = changed(&other, &[pin("a", Some(90), 1)], 30);
        assert_eq!((longer.pinned_at(b"a"), longer.pinned.len()), (Some(at(30)), 1));
        assert!(longer.renew_pin(b"a", at(40)) && !longer.renew_pin(b"c", at(40)));
        assert_eq!(longer.pinned_at(b"a"), Some(at(40)));
        assert_eq!(changed(&longer, &[], 50).pinned, []);
        let again = changed(&changed(&longer, &[], 50), &[pin("a", Some(90), 1)], 60);
        assert_eq!(again.pinned_at(b"a"), Some(at(60)), "made anew");
    }

    #[test]
    fn equal_policies_have_equal_marks() {
        let mark = |pin: v1::node_spec::PinnedTopic| etag(pin.policy.as_ref());
        assert_eq!(mark(pin("a", None, 1)), mark(pin("b", None, 1)));
        assert_ne!(mark(pin("a", None, 1)), mark(pin("a", None, 2)));
        assert_eq!(etag(None), "0");
        assert_eq!(etag(Some(&v1::TopicPolicy::default())).len(), 16);
    }
}
