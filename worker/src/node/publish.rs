//! Publishes, from the call to the log, in the order of P16: deadline, window, peers, number. What
//! comes after is in `receipt`.
//!
//! A message id is known before the message is sent, because the swarm tells which sequence number
//! its n-th next publish will use. So messages are gossiped strictly in the order in which their ids
//! were reserved, whatever order their topics are logged in.

use super::{
    answers::Content,
    calls::Asked,
    event_loop::EventLoop,
    log::Known,
    policy::Policy,
    publishes::{Cause, Publish, Repeat, Stage},
    receipt::{needs, unavailable},
    start::Muted,
};
use crate::{Refusal, clock::Now, refuse};
use bytes::Bytes;
use plexus_bus::{CallId, Position, Topic};
use plexus_proto::{
    reason::Reason,
    text,
    v1::{self, publish_request, receipt::Level},
};
use sha2::{Digest, Sha256};
use std::time::Duration;

/// Waits for peers and levels at most.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Waits for them by default.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long an `ACCEPTED` receipt waits, so that it can say more where the log is quick.
const SOON: Duration = Duration::from_millis(250);
/// How soon before the caller's deadline the answer leaves.
const MARGIN: Duration = Duration::from_millis(50);
/// Peers that may be asked for.
const PEERS_MAX: u32 = 1000;

/// From the call to the log.
impl EventLoop {
    /// Begins a publish.
    pub(super) fn publish(&mut self, call: CallId, asked: Asked, request: v1::PublishRequest, now: Now) {
        let begun = self.read_publish(call, asked, request, now);
        match begun {
            Ok(publish) => {
                let ticket = self.publishes.add(publish);
                self.step(ticket, now);
            }
            Err(refusal) => self.calls.answer(call, Err(refusal), now),
        }
    }

    fn read_publish(
        &mut self,
        call: CallId,
        asked: Asked,
        request: v1::PublishRequest,
        now: Now,
    ) -> Result<Publish, Refusal> {
        let topic = read_topic(&request.topic)?;
        let hash = self.network_name(&topic)?;
        self.know(&topic);
        let policy = self.following.policy(&topic);
        let level = read_level(&request, &policy)?;
        check_names(&request)?;
        if request.min_peers > PEERS_MAX {
            return Err(Box::new(v1::Error::field("minPeers", format!("0 to {PEERS_MAX}"))));
        }
        let timeout = read_timeout(request.timeout)?;
        let left = asked.deadline.map(|deadline| deadline.duration_since(now.wall).unwrap_or_default());
        let timeout = left.map_or(timeout, |left| timeout.min(left.saturating_sub(MARGIN)));
        let data = match request.payload {
            Some(publish_request::Payload::Data(data)) => data,
            Some(publish_request::Payload::Text(text)) => Bytes::from(text),
            None => Bytes::new(),
        };
        if data.len() > policy.message_bytes_max {
            return Err(too_large(data.len(), policy.message_bytes_max));
        }
        let caller = asked.caller;
        let session = if caller.session.is_empty() { caller.token_id } else { caller.session };
        Ok(Publish {
            call: Some(call),
            topic,
            hash,
            data,
            key: request.request_id,
            producer: request.producer,
            producer_seq: request.producer_seq,
            level,
            min_peers: request.min_peers as usize,
            until: now.moment.after(timeout),
            traceparent: asked.traceparent,
            session,
            accepted_at: now.wall,
            id: Bytes::new(),
            position: None,
            duplicate: false,
            peers: 0,
            stage: Stage::Waiting(Cause::Window),
        })
    }

    /// Goes on with a publish that waits.
    fn step(&mut self, ticket: u64, now: Now) {
        let Some(publish) = self.publishes.all.get(&ticket) else { return };
        match self.muted {
            Some(Muted::Until(_)) => return self.publishes.wait(ticket, Cause::Window),
            Some(Muted::Behind(behind)) => {
                let message =
                    format!("the clock of the worker is {} s behind the last message", behind.as_secs());
                return self.refuse_publish(ticket, refuse(Reason::Internal, message), now);
            }
            None => {}
        }
        if let Some(disk) =
            needs(publish.level).filter(|disk| self.publishes.can[usize::from(*disk)].is_none())
        {
            self.publishes.wait(ticket, Cause::Carrier);
            self.probe(disk);
            return;
        }
        if needs(publish.level).is_some_and(|disk| self.publishes.can[usize::from(disk)] == Some(false)) {
            return self.refuse_publish(ticket, unavailable(Level::Logged), now);
        }
        match self.log.seek(&publish.topic, publish.name()) {
            Known::New => self.admit(ticket, now),
            Known::Wait | Known::Pending(_) => self.publishes.wait(ticket, Cause::Window),
            Known::Logged { position, id } => self.repeat(ticket, position, id, now),
            Known::Stale => {
                let message = "a later sequence of this producer is already logged";
                self.refuse_publish(ticket, refuse(Reason::ProducerSeqStale, message), now);
            }
        }
    }

    /// Checks the key's content and the peers, then pushes.
    fn admit(&mut self, ticket: u64, now: Now) {
        let Some(publish) = self.publishes.all.get(&ticket) else { return };
        if !self.has_peers(publish) {
            self.publishes.wait(ticket, Cause::Peers);
            return;
        }
        if !publish.key.is_empty() {
            let (topic, key, content) = (publish.topic.clone(), publish.key.clone(), content(&publish.data));
            match self.publishes.repeats.get(&(topic.clone(), key.clone())) {
                Some(repeat) if repeat.content != content => {
                    return self.refuse_publish(ticket, reused(), now);
                }
                // It was pushed here, though the log does not know it (any more): nothing is retained.
                Some(Repeat { receipt: Some(receipt), .. }) => {
                    let receipt = v1::Receipt { duplicate: true, ..receipt.clone() };
                    return self.finish(ticket, Ok(receipt), now);
                }
                _ => {
                    let most = self.config.node.answers_max;
                    self.publishes.remember(&topic, &key, content, now.moment, most);
                }
            }
        }
        self.push(ticket, now);
    }

    fn has_peers(&self, publish: &Publish) -> bool {
        self.following.get(&publish.topic).map_or(0, |state| state.peers.len()) >= publish.min_peers
    }

    /// Reserves the id and hands the message to the log.
    fn push(&mut self, ticket: u64, now: Now) {
        let author = self.author.clone();
        let Some(publish) = self.publishes.all.get_mut(&ticket) else { return };
        let Some(ids) = &mut self.ids else {
            return self.refuse_publish(ticket, refuse(Reason::NoOwner, "the node is not open yet"), now);
        };
        let (seqno, id) = ids.reserve(&publish.topic, &publish.data);
        publish.id = id;
        let message = publish.message(author, seqno);
        self.publishes.outgoing.push_back(ticket);
        match self.log.push(&publish.topic, message, Some(ticket)) {
            Ok(()) => {
                publish.stage = Stage::Logging;
                if publish.level == Level::Accepted {
                    publish.until = publish.until.min(now.moment.after(SOON));
                }
                self.metrics.published.inc();
            }
            Err(refused) => {
                self.refuse_push(ticket, refused, now);
                // Its number must be used up all the same.
                self.gossip(now);
            }
        }
    }

    /// Answers what an earlier publish of the same name is known to have reached.
    fn repeat(&mut self, ticket: u64, position: Position, id: Bytes, now: Now) {
        let Some(publish) = self.publishes.all.get_mut(&ticket) else { return };
        publish.position = Some(position);
        publish.id = id;
        publish.duplicate = true;
        let name = (publish.topic.clone(), publish.key.clone());
        let before = self.publishes.repeats.get(&name).filter(|_| !publish.key.is_empty());
        if before.is_some_and(|repeat| repeat.content != content(&publish.data)) {
            return self.refuse_publish(ticket, reused(), now);
        }
        if let Some(receipt) = before.and_then(|repeat| repeat.receipt.as_ref()) {
            publish.peers = receipt.peers;
        }
        if publish.min_peers == 0 || publish.peers > 0 {
            return self.gossiped(ticket, now);
        }
        // P17: no owner we know of has sent it, and the caller wants it sent. The mesh may see it twice.
        let Some(publish) = self.publishes.all.get(&ticket) else { return };
        if !self.has_peers(publish) {
            return self.publishes.wait(ticket, Cause::Peers);
        }
        let (topic, data) = (publish.topic.clone(), publish.data.clone());
        if let Some(ids) = &mut self.ids {
            ids.reserve(&topic, &data);
            self.set_stage(ticket, Stage::Sending);
            self.publishes.outgoing.push_back(ticket);
            self.gossip(now);
        }
    }

    fn set_stage(&mut self, ticket: u64, stage: Stage) {
        if let Some(publish) = self.publishes.all.get_mut(&ticket) {
            publish.stage = stage;
        }
    }

    /// Something changed for the publishes of a topic that wait (`None`: of all).
    pub(super) fn step_waiting(&mut self, topic: Option<&[u8]>, now: Now) {
        if self.publishes.waiting.is_empty() {
            return;
        }
        let all = &self.publishes.all;
        let hit = |ticket: &u64| match all.get(ticket) {
            Some(publish) => topic.is_none_or(|topic| publish.topic.as_ref() == topic),
            None => true,
        };
        let (go, stay) = self.publishes.waiting.iter().partition(|ticket| hit(ticket));
        self.publishes.waiting = stay;
        let go: Vec<u64> = go;
        for ticket in go {
            self.step(ticket, now);
        }
    }
}

/// Reads a topic's name.
pub(super) fn read_topic(text: &str) -> Result<Topic, Refusal> {
    text::topic_from_text(text).map_err(|error| refuse(Reason::BadTopic, error.to_string()))
}

fn read_level(request: &v1::PublishRequest, policy: &Policy) -> Result<Level, Refusal> {
    let level = Level::try_from(request.level);
    match level.map_err(|_| v1::Error::field("level", "ACCEPTED, LOGGED, REPLICATED or DURABLE"))? {
        Level::Unspecified => Ok(policy.level),
        level if level > Level::Accepted && !policy.keeps => Err(unavailable(Level::Accepted)),
        level => Ok(level),
    }
}

fn read_timeout(timeout: Option<prost_types::Duration>) -> Result<Duration, Refusal> {
    match timeout.map(Duration::try_from) {
        None => Ok(TIMEOUT),
        Some(Ok(timeout)) if timeout <= TIMEOUT_MAX => Ok(timeout),
        Some(_) => Err(Box::new(v1::Error::field("timeout", "0 to 60 s"))),
    }
}

fn check_names(request: &v1::PublishRequest) -> Result<(), Refusal> {
    let field = |name: &str, what: &str| Err(Box::new(v1::Error::field(name, what)));
    let printable = |text: &str| text.chars().all(|c| !c.is_control());
    if request.request_id.chars().count() > 128 || !printable(&request.request_id) {
        return field("requestId", "1 to 128 printable characters");
    }
    if request.producer.chars().count() > 64 || !printable(&request.producer) {
        return field("producer", "1 to 64 characters");
    }
    if request.producer.is_empty() != request.producer_seq.is_none() {
        return field("producerSeq", "given together with `producer`");
    }
    Ok(())
}

fn too_large(bytes: usize, most: usize) -> Refusal {
    let message = format!("data has {bytes} bytes, the topic takes at most {most}");
    Box::new(refuse(Reason::MessageTooLarge, message).with("limit", most))
}

fn reused() -> Refusal {
    refuse(Reason::RequestIdReused, "the request id was used with other content")
}

fn content(data: &[u8]) -> Content {
    Sha256::digest(data).into()
}
