//! The verbs on topics: list, look, who is in the mesh; and what only gateways ask of an owner: join,
//! refresh, purge. Publishing is in `publish`.

use super::{
    calls::Request,
    event_loop::EventLoop,
    following::{Move, State},
    log::Refused,
    page::Page,
    publish::read_topic,
    work,
};
use crate::{Refusal, clock::Now, refuse};
use libp2p::{PeerId, gossipsub::TopicHash};
use plexus_bus::{CallId, Payload, Topic};
use plexus_proto::{
    bus::{Interest, Joined},
    pin,
    reason::Reason,
    text,
    v1::{self, topic_peer::Role},
};
use std::{collections::HashSet, time::SystemTime};

/// Calls that wait for something about topics.
#[derive(Default)]
pub(super) struct Waits {
    /// Joins that wait for the topic's log to open.
    joins: Vec<(CallId, Topic)>,
    /// Calls that wait for a revision of the record.
    pub(super) refreshes: Vec<(CallId, u64)>,
    /// Purges under way.
    purges: Vec<(CallId, Topic)>,
}

impl Waits {
    /// Forgets a call.
    pub(super) fn cancel(&mut self, call: CallId) {
        self.joins.retain(|(id, _)| *id != call);
        self.refreshes.retain(|(id, _)| *id != call);
        self.purges.retain(|(id, _)| *id != call);
    }
}

/// What callers ask.
impl EventLoop {
    /// Answers a verb of this file.
    pub(super) fn topics(&mut self, call: CallId, request: Request, now: Now) {
        let refused = match request {
            Request::ListTopics(request) => self.list_topics(call, &request, now),
            Request::GetTopic(request) => self.get_topic(call, &request, now),
            Request::ListTopicPeers(request) => self.list_topic_peers(call, &request, now),
            Request::Join(interest) => {
                self.join(call, interest, now);
                Ok(())
            }
            Request::Refresh(revision) => {
                self.refresh(call, revision, now);
                Ok(())
            }
            Request::Purge(topic) => self.purge(call, topic),
            _ => Ok(()),
        };
        if let Err(refusal) = refused {
            self.calls.answer(call, Err(refusal), now);
        }
    }

    fn list_topics(
        &mut self,
        call: CallId,
        request: &v1::ListTopicsRequest,
        now: Now,
    ) -> Result<(), Refusal> {
        let pinned = format!("{:?}", request.pinned);
        let fields = [b"topics".as_slice(), pinned.as_bytes(), request.prefix.as_bytes()];
        let page = Page::read(request.page_size, &request.page_token, &fields)?;
        let hits = self.following.iter().filter(|(name, state)| {
            request.pinned.is_none_or(|pinned| state.is_pinned(now.wall) == pinned)
                && text::bytes_to_text(name).starts_with(&request.prefix)
        });
        let (entries, next_page_token) = page.cut(hits, |(name, _)| name);
        let topics =
            entries.into_iter().map(|(name, state)| (name.clone(), self.shown(name, state, now.wall)));
        let topics: Vec<_> = topics.collect();
        let answer = |topics| Payload::of(v1::ListTopicsResponse { topics, next_page_token });
        self.work.spawn(work::complete(self.bus.clone(), self.name.clone(), call, topics, answer));
        Ok(())
    }

    fn get_topic(&mut self, call: CallId, request: &v1::GetTopicRequest, now: Now) -> Result<(), Refusal> {
        let name = read_topic(&request.topic)?;
        let state = self.following.get(&name).ok_or_else(|| not_found(&request.topic))?;
        let topic = self.shown(&name, state, now.wall);
        let answer = |mut topics: Vec<v1::Topic>| Payload::of(topics.pop().unwrap_or_default());
        let topics = vec![(name, topic)];
        self.work.spawn(work::complete(self.bus.clone(), self.name.clone(), call, topics, answer));
        Ok(())
    }

    /// A topic as callers see it; what is retained is read from the bus afterwards.
    fn shown(&self, name: &Topic, state: &State, now: SystemTime) -> v1::Topic {
        let kept = self.log.kept(name);
        let gossip = self.swarm.see().and_then(|swarm| swarm.behaviour().gossip.as_ref());
        let mesh =
            gossip.zip(state.hash.as_ref()).map_or(0, |(gossip, hash)| gossip.mesh_peers(hash).count());
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        v1::Topic {
            topic: text::bytes_to_text(name),
            pinned: state.is_pinned(now),
            policy: Some(state.policy.shown.clone()),
            joined: state.joined,
            position: state.last.map(|last| last.to_string()).unwrap_or_default(),
            retained: None,
            retained_messages: kept.messages,
            retained_bytes: kept.bytes,
            peers: count(state.peers.len()),
            mesh_peers: count(mesh),
            readers: i32::try_from(state.readers()).unwrap_or(i32::MAX),
            etag: pin::etag(state.pin.as_ref()),
        }
    }

    fn list_topic_peers(
        &mut self,
        call: CallId,
        request: &v1::ListTopicPeersRequest,
        now: Now,
    ) -> Result<(), Refusal> {
        let role = request.role.to_be_bytes();
        let fields = [b"topic peers".as_slice(), request.topic.as_bytes(), &role];
        let page = Page::read(request.page_size, &request.page_token, &fields)?;
        let topic = match request.topic.as_str() {
            "-" => None,
            text => Some(read_topic(text)?),
        };
        let mut peers = match &topic {
            Some(topic) if self.following.get(topic).is_none() => return Err(not_found(&request.topic)),
            Some(topic) => self.topic_peers(Some(topic)),
            None => self.topic_peers(None),
        };
        peers.retain(|peer| request.role() == Role::Unspecified || peer.role() == request.role());
        peers.sort_by(|a, b| a.peer.cmp(&b.peer));
        let (peers, next_page_token) = page.cut(peers, |peer| peer.peer.as_bytes());
        let answer = v1::ListTopicPeersResponse { peers, next_page_token };
        self.calls.answer(call, Ok(Payload::of(answer)), now);
        Ok(())
    }

    /// The peers of a topic, or of all. Peers in the fanout cannot be told from others: gossipsub does
    /// not say whom it chose, and with flood publishing it chooses nobody.
    fn topic_peers(&self, topic: Option<&Topic>) -> Vec<v1::TopicPeer> {
        let Some(gossip) = self.swarm.see().and_then(|swarm| swarm.behaviour().gossip.as_ref()) else {
            return Vec::new();
        };
        let hash = topic.and_then(|topic| std::str::from_utf8(topic).ok()).map(TopicHash::from_raw);
        let mesh: HashSet<&PeerId> = match &hash {
            Some(hash) => gossip.mesh_peers(hash).collect(),
            None => gossip.all_mesh_peers().collect(),
        };
        let since = topic.and_then(|topic| self.following.get(topic)).map(|state| &state.peers);
        let protocols: std::collections::HashMap<_, _> = gossip.peer_protocol().collect();
        let all = gossip.all_peers();
        let follows = all.filter(|(peer, topics)| match &hash {
            Some(hash) => mesh.contains(peer) || topics.contains(&hash),
            None => mesh.contains(peer) || !topics.is_empty(),
        });
        let shown = follows.map(|(peer, _)| v1::TopicPeer {
            peer: peer.to_string(),
            role: if mesh.contains(peer) { Role::Mesh } else { Role::Subscribed }.into(),
            score: gossip.peer_score(peer).unwrap_or_default(),
            protocol: protocols.get(peer).map(|kind| protocol(kind.as_ref()).to_owned()).unwrap_or_default(),
            since: since
                .and_then(|peers| peers.get(peer))
                .filter(|_| !mesh.contains(peer))
                .map(|at| (*at).into()),
        });
        shown.collect()
    }
}

/// What gateways ask of the owner.
impl EventLoop {
    fn join(&mut self, call: CallId, interest: Interest, now: Now) {
        let topic = interest.topic.clone();
        let gateway = interest.gateway.as_str().into();
        if interest.readers == 0 {
            self.following.want(&gateway, &topic, 0, now.moment);
            self.moved = true;
            return self.answer_join(call, &topic, None, now);
        }
        match self.admit_join(&topic, now) {
            Ok(()) => {}
            Err(Some(refusal)) => return self.answer_join(call, &topic, Some(refusal), now),
            Err(None) => return self.calls.not_run(call),
        }
        self.following.want(&gateway, &topic, interest.readers, now.moment);
        self.know(&topic);
        self.moved = true;
        if self.log.top(&topic).is_some() {
            self.move_topics(now);
            self.answer_join(call, &topic, None, now);
        } else {
            self.waits.joins.push((call, topic));
        }
    }

    /// `Err(None)`: the node hands over.
    fn admit_join(&mut self, topic: &Topic, now: Now) -> Result<(), Option<Refusal>> {
        if topic.is_empty() || topic.len() > text::TOPIC_BYTES_MAX {
            return Err(Some(refuse(Reason::BadTopic, "a topic has 1 to 1024 bytes")));
        }
        self.network_name(topic).map_err(Some)?;
        if !self.following.has_room(topic, now.wall) {
            let most = self.following.most();
            let message = format!("the node follows {most} topics, the most that peers accept");
            return Err(Some(Box::new(refuse(Reason::TopicLimit, message).with("limit", most))));
        }
        self.log.open([topic.clone()]).map_err(|refused| match refused {
            Refused::Ending => None,
            Refused::Full => Some(refuse(Reason::Overloaded, "too much waits for the log")),
            Refused::Logs => {
                let most = self.config.node.logs_max;
                Some(refuse(Reason::TopicLimit, format!("the node keeps at most {most} topics")))
            }
        })
    }

    fn answer_join(&mut self, call: CallId, topic: &Topic, refusal: Option<Refusal>, now: Now) {
        let joined = Joined {
            node: self.name.node().to_owned(),
            topic: topic.clone(),
            epoch: self.log.grant().epoch,
            position: self.log.top(topic).map(|top| top.to_string()).unwrap_or_default(),
            error: refusal.map(|refusal| *refusal),
        };
        self.calls.answer(call, Ok(Payload::of(joined)), now);
    }

    /// Answers the joins of topics whose logs are open now.
    pub(super) fn answer_joins(&mut self, now: Now) {
        let (ready, waiting) = std::mem::take(&mut self.waits.joins)
            .into_iter()
            .partition(|(_, topic)| self.log.top(topic).is_some());
        self.waits.joins = waiting;
        let ready: Vec<(CallId, Topic)> = ready;
        for (call, topic) in ready {
            self.answer_join(call, &topic, None, now);
        }
    }

    fn refresh(&mut self, call: CallId, revision: u64, now: Now) {
        if self.revision >= revision {
            return self.calls.answer(call, Ok(Payload::default()), now);
        }
        self.waits.refreshes.push((call, revision));
        self.read_record();
    }

    fn purge(&mut self, call: CallId, topic: Topic) -> Result<(), Refusal> {
        if !self.log.purge(&topic) {
            return Err(not_found(&text::bytes_to_text(&topic)));
        }
        self.waits.purges.push((call, topic));
        Ok(())
    }

    /// A purge is done.
    pub(super) fn purged(&mut self, topic: &Topic, now: Now) {
        let (done, waiting) =
            std::mem::take(&mut self.waits.purges).into_iter().partition(|(_, purging)| purging == topic);
        self.waits.purges = waiting;
        let done: Vec<(CallId, Topic)> = done;
        for (call, _) in done {
            self.calls.answer(call, Ok(Payload::default()), now);
        }
    }
}

/// What the swarm follows.
impl EventLoop {
    /// The name under which gossipsub carries a topic.
    pub(super) fn network_name(&self, topic: &Topic) -> Result<TopicHash, Refusal> {
        if !self.gossips() {
            let refusal = refuse(Reason::FeatureOff, "the node does not speak gossipsub");
            return Err(Box::new(refusal.with("setting", "spec.protocols.gossipsub")));
        }
        match std::str::from_utf8(topic) {
            Ok(text) => Ok(TopicHash::from_raw(text)),
            Err(_) => {
                let text = "gossipsub carries only topics that are UTF-8";
                Err(Box::new(refuse(Reason::BadTopic, text).violation("topic", text)))
            }
        }
    }

    /// Makes a topic known, with its peers.
    pub(super) fn know(&mut self, topic: &Topic) {
        self.following.entry(topic);
        self.count_peers();
    }

    /// Counts the peers of topics that became known after them.
    pub(super) fn count_peers(&mut self) {
        if !self.following.uncounted() {
            return;
        }
        let gossip = self.swarm.see().and_then(|swarm| swarm.behaviour().gossip.as_ref());
        if let Some(gossip) = gossip {
            self.following.census(gossip.all_peers(), self.now.wall);
        }
    }

    /// Sees to it that every topic that is pinned or read has an open log.
    pub(super) fn open_kept(&mut self, now: Now) {
        if let Err(refused) = self.log.open(self.following.kept(now.wall)) {
            tracing::warn!(node = %self.name, ?refused, "not every topic can be kept");
        }
    }

    /// Joins and leaves what should be.
    pub(super) fn move_topics(&mut self, now: Now) {
        self.moved = false;
        for change in self.following.moves(now) {
            let Some(gossip) = self.swarm.act().and_then(|swarm| swarm.behaviour_mut().gossip.as_mut())
            else {
                return;
            };
            let (topic, joins) = match &change {
                Move::Join(topic) => (topic, true),
                Move::Leave(topic) => (topic, false),
            };
            let Some(name) = crate::swarm::gossip::topic(topic) else { continue };
            let state = self.following.entry(topic);
            if !joins {
                gossip.unsubscribe(&name);
                state.joined = false;
            } else if let Err(error) = gossip.follow(&name, state.policy.shown.score.as_ref()) {
                tracing::warn!(node = %self.name, %error, "a topic could not be joined");
            } else {
                state.joined = true;
            }
        }
        self.count_peers();
    }

    /// Tells the log and the swarm how topics are kept.
    pub(super) fn apply_policies(&mut self) {
        for (topic, state) in self.following.iter() {
            self.log.retain(topic, state.policy.retention);
            if let Some(ids) = &mut self.ids
                && state.hash.is_some()
            {
                ids.set_preset(topic, state.policy.preset);
            }
        }
    }
}

fn not_found(topic: &str) -> Refusal {
    refuse(Reason::TopicNotFound, format!("the node neither follows nor keeps the topic {topic}"))
}

/// The protocol id of a kind of peer, by the only name that gossipsub gives it.
fn protocol(kind: &str) -> &'static str {
    match kind {
        "Floodsub" => "/floodsub/1.0.0",
        "Gossipsub v1.0" => "/meshsub/1.0.0",
        "Gossipsub v1.1" => "/meshsub/1.1.0",
        "Gossipsub v1.2" => "/meshsub/1.2.0",
        "Gossipsub v1.3" => "/meshsub/1.3.0",
        _ => "",
    }
}
