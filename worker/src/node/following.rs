//! Which topics the node follows, and for whom: pins of the spec, readers behind gateways, and topics
//! that only have a log. Says what to join and to leave. Pure: time is an argument.

use super::policy::Policy;
use crate::{
    clock::{Moment, Now},
    config,
};
use libp2p::{PeerId, gossipsub::TopicHash};
use plexus_bus::{GatewayId, Position, Topic};
use plexus_proto::{bus::NodeRecord, text, v1};
use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, SystemTime},
};

/// How long the interest of a dead gateway is kept (P23).
const DEAD: Duration = Duration::from_secs(60);

/// The topics of a node.
pub(crate) struct Following {
    /// By name.
    all: BTreeMap<Topic, State>,
    /// What the policies of topics without a pin are made of.
    spec: v1::NodeSpec,
    /// Defaults and bounds.
    config: config::Node,
}

/// One topic.
#[derive(Debug)]
pub(crate) struct State {
    /// Its name on the network; `None`: not UTF-8, so gossipsub cannot carry it.
    pub(crate) hash: Option<TopicHash>,
    /// The pin's policy as the spec says it; `None`: no pin.
    pub(crate) pin: Option<v1::TopicPolicy>,
    /// When the pin ends by itself.
    until: Option<SystemTime>,
    /// How it is kept.
    pub(crate) policy: Policy,
    /// Whose readers follow it.
    readers: HashMap<GatewayId, Readers>,
    /// Whether its log is open.
    pub(crate) open: bool,
    /// Whether the swarm is subscribed.
    pub(crate) joined: bool,
    /// Position of its last message; `None`: none, or not known.
    pub(crate) last: Option<Position>,
    /// Peers that said they follow it, and since when.
    pub(crate) peers: HashMap<PeerId, SystemTime>,
    /// Whether `peers` holds those that said so before the topic was known.
    counted: bool,
}

#[derive(Clone, Copy, Debug)]
struct Readers {
    count: u32,
    /// When the gateway last said so.
    told: Moment,
    /// Since when the gateway's lease is gone.
    dead: Option<Moment>,
}

/// What the swarm must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Move {
    /// Subscribe.
    Join(Topic),
    /// Unsubscribe.
    Leave(Topic),
}

impl State {
    fn new(topic: &Topic, spec: &v1::NodeSpec, config: &config::Node) -> Self {
        Self {
            hash: std::str::from_utf8(topic).ok().map(TopicHash::from_raw),
            pin: None,
            until: None,
            policy: Policy::of(None, spec, config),
            readers: HashMap::new(),
            open: false,
            joined: false,
            last: None,
            peers: HashMap::new(),
            counted: false,
        }
    }

    /// Tells whether it is pinned at this moment.
    pub(crate) fn is_pinned(&self, now: SystemTime) -> bool {
        self.pin.is_some() && self.until.is_none_or(|until| now < until)
    }

    /// Open subscriptions on all gateways.
    pub(crate) fn readers(&self) -> u32 {
        self.readers.values().map(|readers| readers.count).sum()
    }

    fn is_wanted(&self, now: SystemTime) -> bool {
        self.hash.is_some() && !self.policy.publish_only && (self.is_pinned(now) || !self.readers.is_empty())
    }
}

impl Following {
    /// Begins with nothing.
    pub(crate) fn new(config: config::Node) -> Self {
        Self { all: BTreeMap::new(), spec: v1::NodeSpec::default(), config }
    }

    /// Topics followed at most.
    pub(crate) fn most(&self) -> usize {
        match self.spec.gossip.as_ref().map_or(0, |gossip| gossip.topics_max) {
            0 => self.config.topics_max,
            asked => asked as usize,
        }
    }

    /// Takes the pins and defaults of a record.
    pub(crate) fn set_record(&mut self, record: &NodeRecord) {
        let node = record.node.clone().unwrap_or_default();
        self.spec = node.spec.unwrap_or_default();
        let since = node.updated_at.or(node.created_at).and_then(|at| SystemTime::try_from(at).ok());
        for state in self.all.values_mut() {
            state.pin = None;
        }
        for pinned in self.spec.topics.clone() {
            // The gateway refuses a pin that is no topic; a record with one is passed over.
            let Ok(topic) = text::topic_from_text(&pinned.topic) else { continue };
            self.entry(&topic).pin = Some(pinned.policy.unwrap_or_default());
        }
        for (topic, state) in &mut self.all {
            let since = record.pinned_at(topic).or(since);
            state.policy = Policy::of(state.pin.as_ref(), &self.spec, &self.config);
            state.until = since.zip(state.policy.ttl).and_then(|(since, ttl)| since.checked_add(ttl));
        }
    }

    /// The topic, made where it is new.
    pub(crate) fn entry(&mut self, topic: &Topic) -> &mut State {
        self.all.entry(topic.clone()).or_insert_with(|| State::new(topic, &self.spec, &self.config))
    }

    /// The topic, where the node knows it.
    pub(crate) fn get(&self, topic: &[u8]) -> Option<&State> {
        self.all.get(topic)
    }

    /// Every topic by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Topic, &State)> {
        self.all.iter()
    }

    /// The policy of a topic, also of one that is not known.
    pub(crate) fn policy(&self, topic: &[u8]) -> Policy {
        match self.all.get(topic) {
            Some(state) => state.policy.clone(),
            None => Policy::of(None, &self.spec, &self.config),
        }
    }

    /// Topics that must have an open log: pinned or wanted.
    pub(crate) fn kept(&self, now: SystemTime) -> Vec<Topic> {
        let kept = |state: &State| state.is_pinned(now) || !state.readers.is_empty();
        self.all.iter().filter(|(_, state)| kept(state)).map(|(topic, _)| topic.clone()).collect()
    }

    /// How many topics the swarm is subscribed to.
    pub(crate) fn joined(&self) -> usize {
        self.all.values().filter(|state| state.joined).count()
    }

    /// Tells whether one more topic may be followed.
    pub(crate) fn has_room(&self, topic: &[u8], now: SystemTime) -> bool {
        let wanted =
            self.all.iter().filter(|(name, state)| name.as_ref() != topic && state.is_wanted(now)).count();
        wanted < self.most()
    }

    /// Takes a gateway's word on its readers; 0 withdraws.
    pub(crate) fn want(&mut self, gateway: &GatewayId, topic: &Topic, count: u32, now: Moment) {
        if count > 0 {
            let readers = Readers { count, told: now, dead: None };
            self.entry(topic).readers.insert(gateway.clone(), readers);
        } else if let Some(state) = self.all.get_mut(topic) {
            state.readers.remove(gateway);
        }
    }

    /// Takes all interest as the bus keeps it, read after `since`; what gateways said meanwhile stays.
    pub(crate) fn survey(&mut self, wanted: Vec<(GatewayId, Topic, u32)>, since: Moment) {
        let mut former = HashMap::new();
        for (topic, state) in &mut self.all {
            for (gateway, readers) in std::mem::take(&mut state.readers) {
                if readers.told >= since {
                    state.readers.insert(gateway, readers);
                } else {
                    former.insert((gateway, topic.clone()), readers);
                }
            }
        }
        for (gateway, topic, count) in wanted {
            if !self.all.contains_key(&topic) && self.all.len() >= self.config.logs_max {
                continue;
            }
            let before = former.get(&(gateway.clone(), topic.clone()));
            let dead = before.and_then(|readers| readers.dead);
            let told = before.map_or(since, |readers| readers.told);
            self.entry(&topic).readers.entry(gateway).or_insert(Readers { count, told, dead });
        }
    }

    /// Every gateway with readers here.
    pub(crate) fn gateways(&self) -> Vec<GatewayId> {
        let mut all: Vec<GatewayId> =
            self.all.values().flat_map(|state| state.readers.keys().cloned()).collect();
        all.sort();
        all.dedup();
        all
    }

    /// Takes which gateways live; answers the interest of those that are gone for good.
    pub(crate) fn attending(
        &mut self,
        lives: &HashMap<GatewayId, bool>,
        now: Moment,
    ) -> Vec<(GatewayId, Topic)> {
        let mut gone = Vec::new();
        for (topic, state) in &mut self.all {
            state.readers.retain(|gateway, readers| {
                readers.dead = match lives.get(gateway) {
                    Some(false) => Some(readers.dead.unwrap_or(now)),
                    _ => None,
                };
                let stays = readers.dead.is_none_or(|since| now.since(since) < DEAD);
                if !stays {
                    gone.push((gateway.clone(), topic.clone()));
                }
                stays
            });
        }
        gone
    }

    /// What to join and to leave. Topics with an open log only; pins first, then those that are joined.
    pub(crate) fn moves(&self, now: Now) -> Vec<Move> {
        let mut wanted: Vec<(&Topic, &State)> =
            self.all.iter().filter(|(_, state)| state.open && state.is_wanted(now.wall)).collect();
        wanted.sort_by_key(|(_, state)| (!state.is_pinned(now.wall), !state.joined));
        wanted.truncate(self.most());
        let stays = |topic: &Topic| wanted.iter().any(|(name, _)| *name == topic);
        let leave = self.all.iter().filter(|(topic, state)| state.joined && !stays(topic));
        let leave = leave.map(|(topic, _)| Move::Leave(topic.clone()));
        let join =
            wanted.iter().filter(|(_, state)| !state.joined).map(|(topic, _)| Move::Join((*topic).clone()));
        leave.chain(join).collect()
    }

    /// Forgets that anything is joined: the swarm is a new one.
    pub(crate) fn rejoin(&mut self) {
        for state in self.all.values_mut() {
            state.joined = false;
            state.peers.clear();
            state.counted = false;
        }
    }

    /// Topics whose peers are not counted yet.
    pub(crate) fn uncounted(&self) -> bool {
        self.all.values().any(|state| !state.counted)
    }

    /// Counts the peers of topics that became known after their peers: `peers` are all of gossipsub,
    /// with what they follow.
    pub(crate) fn census<'a>(
        &mut self,
        peers: impl Iterator<Item = (&'a PeerId, Vec<&'a TopicHash>)>,
        now: SystemTime,
    ) {
        for (peer, topics) in peers {
            for topic in topics {
                if let Some(state) =
                    self.all.get_mut(topic.as_str().as_bytes()).filter(|state| !state.counted)
                {
                    state.peers.insert(*peer, now);
                }
            }
        }
        for state in self.all.values_mut() {
            state.counted = true;
        }
    }

    /// Forgets topics that nothing holds: no pin, no reader, no log.
    pub(crate) fn tidy(&mut self) {
        self.all.retain(|_, state| {
            state.pin.is_some() || !state.readers.is_empty() || state.open || state.joined
        });
    }

    /// Notes that a peer follows a topic.
    pub(crate) fn subscribed(&mut self, topic: &[u8], peer: PeerId, now: SystemTime) {
        if let Some(state) = self.all.get_mut(topic) {
            state.peers.entry(peer).or_insert(now);
        }
    }

    /// Notes that a peer follows it no more.
    pub(crate) fn unsubscribed(&mut self, topic: &[u8], peer: &PeerId) {
        if let Some(state) = self.all.get_mut(topic) {
            state.peers.remove(peer);
        }
    }

    /// Notes that a peer is gone.
    pub(crate) fn disconnected(&mut self, peer: &PeerId) {
        for state in self.all.values_mut() {
            state.peers.remove(peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        let since = Duration::from_secs(seconds);
        Now { moment: Moment::at(since), wall: SystemTime::UNIX_EPOCH + since }
    }

    fn topic(name: &str) -> Topic {
        Topic::copy_from_slice(name.as_bytes())
    }

    fn record(pins: &[(&str, v1::TopicPolicy)]) -> NodeRecord {
        let topics = pins.iter().map(|(name, policy)| v1::node_spec::PinnedTopic {
            topic: (*name).into(),
            policy: Some(policy.clone()),
        });
        let spec = v1::NodeSpec { topics: topics.collect(), ..Default::default() };
        let node = v1::Node { spec: Some(spec), updated_at: Some(at(0).wall.into()), ..Default::default() };
        NodeRecord { node: Some(node), ..Default::default() }
    }

    fn apply(following: &mut Following, now: Now) -> Vec<Move> {
        let moves = following.moves(now);
        for change in &moves {
            match change {
                Move::Join(topic) => following.entry(topic).joined = true,
                Move::Leave(topic) => following.entry(topic).joined = false,
            }
        }
        moves
    }

    fn open(following: &mut Following) {
        for state in following.all.values_mut() {
            state.open = true;
        }
    }

    #[test]
    fn a_topic_is_joined_only_after_its_log_is_open() {
        let mut following = Following::new(config::Node::default());
        following.set_record(&record(&[("a", v1::TopicPolicy::default())]));
        assert_eq!(following.kept(at(1).wall), [topic("a")]);
        assert_eq!(apply(&mut following, at(1)), []);
        open(&mut following);
        assert_eq!(apply(&mut following, at(1)), [Move::Join(topic("a"))]);
        assert_eq!(apply(&mut following, at(1)), []);
        following.set_record(&record(&[]));
        assert_eq!(apply(&mut following, at(1)), [Move::Leave(topic("a"))]);
    }

    #[test]
    fn a_pin_with_a_ttl_ends_by_itself_and_a_publish_only_one_never_joins() {
        let mut following = Following::new(config::Node::default());
        let ttl = prost_types::Duration { seconds: 10, nanos: 0 };
        let short = v1::TopicPolicy { ttl: Some(ttl), ..Default::default() };
        let mute = v1::TopicPolicy { publish_only: true, ..Default::default() };
        following.set_record(&record(&[("a", short), ("b", mute)]));
        open(&mut following);
        assert_eq!(apply(&mut following, at(9)), [Move::Join(topic("a"))]);
        assert_eq!(apply(&mut following, at(10)), [Move::Leave(topic("a"))]);
    }

    #[test]
    fn the_ttl_of_a_pin_counts_from_when_it_was_made_whatever_else_changes() {
        let mut following = Following::new(config::Node::default());
        let ttl = Some(prost_types::Duration { seconds: 10, nanos: 0 });
        let pins = [("a", v1::TopicPolicy { ttl, ..Default::default() })];
        let mut made = record(&pins);
        made.date_pins(&NodeRecord::default(), at(0).wall);
        let mut labelled = made.clone();
        labelled.node.as_mut().unwrap().updated_at = Some(at(9).wall.into());
        labelled.date_pins(&made, at(9).wall);
        following.set_record(&labelled);
        open(&mut following);
        assert_eq!(apply(&mut following, at(9)), [Move::Join(topic("a"))]);
        assert_eq!(apply(&mut following, at(10)), [Move::Leave(topic("a"))]);
        labelled.renew_pin(b"a", at(11).wall);
        following.set_record(&labelled);
        assert_eq!(apply(&mut following, at(20)), [Move::Join(topic("a"))]);
        assert_eq!(apply(&mut following, at(21)), [Move::Leave(topic("a"))]);
    }

    #[test]
    fn interest_outlives_its_gateway_by_a_minute() {
        let mut following = Following::new(config::Node::default());
        let gateway: GatewayId = "g".into();
        following.want(&gateway, &topic("a"), 2, at(0).moment);
        open(&mut following);
        assert_eq!(apply(&mut following, at(1)), [Move::Join(topic("a"))]);
        let dead = HashMap::from([(gateway.clone(), false)]);
        assert_eq!(following.attending(&dead, at(5).moment), []);
        assert_eq!(following.attending(&dead, at(64).moment), []);
        assert_eq!(following.attending(&dead, at(65).moment), [(gateway, topic("a"))]);
        assert_eq!(apply(&mut following, at(65)), [Move::Leave(topic("a"))]);
    }

    #[test]
    fn a_survey_does_not_forget_what_a_gateway_said_meanwhile() {
        let mut following = Following::new(config::Node::default());
        let gateway: GatewayId = "g".into();
        following.want(&gateway, &topic("old"), 1, at(0).moment);
        following.want(&gateway, &topic("new"), 1, at(2).moment);
        following.survey(vec![(gateway.clone(), topic("kept"), 3)], at(1).moment);
        let readers = |name: &str| following.get(name.as_bytes()).unwrap().readers();
        assert_eq!((readers("old"), readers("new"), readers("kept")), (0, 1, 3));
    }

    #[test]
    fn interest_without_a_reader_keeps_the_topic_and_counts_nobody() {
        let mut following = Following::new(config::Node::default());
        following.survey(vec![("g".into(), topic("a"), 0)], at(0).moment);
        let state = following.get(b"a").unwrap();
        assert_eq!((state.readers(), following.gateways()), (0, vec!["g".into()]));
        assert!(state.is_wanted(at(0).wall));
        following.survey(Vec::new(), at(1).moment);
        assert_eq!(following.gateways(), Vec::<GatewayId>::new(), "withdrawn");
    }

    #[test]
    fn no_more_topics_are_joined_than_peers_accept() {
        let mut following = Following::new(config::Node { topics_max: 2, ..Default::default() });
        let gateway: GatewayId = "g".into();
        for name in ["a", "b"] {
            following.want(&gateway, &topic(name), 1, at(0).moment);
        }
        assert!(!following.has_room(b"c", at(0).wall));
        assert!(following.has_room(b"b", at(0).wall));
        following.set_record(&record(&[("z", v1::TopicPolicy::default())]));
        open(&mut following);
        assert_eq!(apply(&mut following, at(0)), [Move::Join(topic("z")), Move::Join(topic("a"))]);
    }
}
