//! Publishes, from the call to the receipt, in the order of P16: deadline, window, peers, log, then
//! gossip, then the answer. [`Publishes`] keeps what is under way; the verbs are the loop's.
//!
//! A message id is known before the message is sent, because the swarm tells which sequence number
//! its n-th next publish will use. So messages are gossiped strictly in the order in which their ids
//! were reserved, whatever order their topics are logged in.

use super::{
    answers::Content,
    calls::Asked,
    event_loop::EventLoop,
    log::{Known, Name, Refused},
    policy::Policy,
    start::Muted,
    work,
};
use crate::{
    Refusal,
    clock::{Moment, Now},
    refuse,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use libp2p::gossipsub::{MessageId, PublishError, TopicHash};
use plexus_bus::{CallId, Error, Payload, Position, Topic};
use plexus_proto::{
    bus::LogMessage,
    reason::Reason,
    text,
    v1::{self, publish_request, receipt::Level},
};
use sha2::{Digest, Sha256};
use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, SystemTime},
};

/// Waits for peers and levels at most.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Waits for them by default.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long an `ACCEPTED` receipt waits, so that it can say more where the log is quick.
const SOON: Duration = Duration::from_millis(250);
/// How soon before the caller's deadline the answer leaves.
const MARGIN: Duration = Duration::from_millis(50);
/// One wait for replicas in the store.
const SECURE: Duration = Duration::from_secs(1);
/// How long a `request_id` is remembered here, also where nothing is retained.
const REPEATS: Duration = Duration::from_secs(600);
/// Peers that may be asked for.
const PEERS_MAX: u32 = 1000;
/// Between two looks at timeouts.
const LOOK: Duration = Duration::from_millis(50);

/// Publishes under way.
#[derive(Default)]
pub(super) struct Publishes {
    /// By ticket.
    all: HashMap<u64, Publish>,
    /// By call, while it is to be answered.
    calls: HashMap<CallId, u64>,
    /// Reserved and not yet gossiped, in order.
    outgoing: VecDeque<u64>,
    /// Tickets that wait for the window, for another publish, for peers or for the carrier's word.
    waiting: Vec<u64>,
    /// Tickets that wait for replicas (and disk), under way and for the next round.
    securing: [Securing; 2],
    /// What the carrier can do at all: replicas, disk; `None`: not known.
    can: [Option<bool>; 2],
    /// `request_id`s used here, with what they named and the receipt.
    repeats: HashMap<(Topic, String), Repeat>,
    /// Their ends, oldest first.
    ends: VecDeque<(Moment, (Topic, String))>,
    next: u64,
}

#[derive(Default)]
struct Securing {
    now: Option<Vec<u64>>,
    next: Vec<u64>,
}

struct Repeat {
    content: Content,
    receipt: Option<v1::Receipt>,
}

struct Publish {
    /// Whom to answer; `None`: answered, but still under way.
    call: Option<CallId>,
    topic: Topic,
    hash: TopicHash,
    data: Bytes,
    key: String,
    producer: String,
    producer_seq: Option<u64>,
    level: Level,
    min_peers: usize,
    /// When the wait for peers or level ends.
    until: Moment,
    traceparent: String,
    session: String,
    accepted_at: SystemTime,
    id: Bytes,
    position: Option<Position>,
    /// Repeats one that a former owner logged: only gossiped, and said to be a duplicate.
    duplicate: bool,
    peers: u32,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
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
enum Cause {
    /// The window, or another publish of the same name.
    Window,
    /// Peers.
    Peers,
    /// Whether the carrier can do what is asked at all.
    Carrier,
}

impl Publishes {
    /// When to look at timeouts next.
    pub(super) fn wake(&self, now: Moment) -> Option<Moment> {
        (!self.calls.is_empty()).then(|| now.after(LOOK))
    }

    /// Tells whether nothing has to be gossiped any more.
    pub(super) fn is_drained(&self) -> bool {
        self.outgoing.is_empty() && self.securing.iter().all(|securing| securing.now.is_none())
    }

    fn add(&mut self, publish: Publish) -> u64 {
        self.next += 1;
        if let Some(call) = publish.call {
            self.calls.insert(call, self.next);
        }
        self.all.insert(self.next, publish);
        self.next
    }

    /// Takes the call off a publish: it is answered now.
    fn caller(&mut self, ticket: u64) -> Option<CallId> {
        let call = self.all.get_mut(&ticket)?.call.take()?;
        self.calls.remove(&call);
        Some(call)
    }

    fn wait(&mut self, ticket: u64, cause: Cause) {
        if let Some(publish) = self.all.get_mut(&ticket) {
            publish.stage = Stage::Waiting(cause);
            if !self.waiting.contains(&ticket) {
                self.waiting.push(ticket);
            }
        }
    }

    fn remember(&mut self, topic: &Topic, key: &str, content: Content, now: Moment, most: usize) {
        let name = (topic.clone(), key.to_owned());
        self.repeats.insert(name.clone(), Repeat { content, receipt: None });
        self.ends.push_back((now.after(REPEATS), name));
        while self.ends.len() > most {
            self.forget();
        }
    }

    fn forget(&mut self) {
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
    fn receipt(&self, level: Level, shows: bool, now: SystemTime) -> v1::Receipt {
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
    fn sent(&mut self, result: Result<MessageId, PublishError>, reached: usize) -> Option<Refusal> {
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

    fn name(&self) -> Name<'_> {
        Name { key: &self.key, producer: &self.producer, seq: self.producer_seq.unwrap_or_default() }
    }

    fn message(&self, author: Bytes, seqno: Option<u64>) -> LogMessage {
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
            Known::Wait => {
                let topic = publish.topic.clone();
                match self.log.open([topic]) {
                    Ok(()) => self.publishes.wait(ticket, Cause::Window),
                    Err(refused) => self.refuse_push(ticket, refused, now),
                }
            }
            Known::Pending(_) => self.publishes.wait(ticket, Cause::Window),
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
            Err(refused) => self.refuse_push(ticket, refused, now),
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

/// From the log to the receipt.
impl EventLoop {
    /// Messages are in the log, under these tickets.
    pub(super) fn logged(&mut self, topic: &Topic, tickets: &[(u64, Position)], now: Now) {
        for (ticket, position) in tickets {
            if let Some(publish) = self.publishes.all.get_mut(ticket) {
                publish.position = Some(*position);
                publish.stage = Stage::Sending;
            }
        }
        self.gossip(now);
        self.step_waiting(Some(topic), now);
    }

    /// Gossips what is logged, in the order of the ids.
    fn gossip(&mut self, now: Now) {
        while let Some(ticket) = self.publishes.outgoing.front().copied() {
            let publish = self.publishes.all.get_mut(&ticket);
            if publish.as_ref().is_some_and(|publish| publish.stage != Stage::Sending) {
                return;
            }
            let Some(gossip) = self.swarm.act().and_then(|swarm| swarm.behaviour_mut().gossip.as_mut())
            else {
                return;
            };
            self.publishes.outgoing.pop_front();
            let Some(publish) = publish else {
                // It was refused after its id was reserved: a publish that reaches nobody uses the number.
                let _ = gossip.publish(TopicHash::from_raw(""), Vec::new());
                continue;
            };
            let reached = match self.flood {
                true => self.following.get(&publish.topic).map_or(0, |state| state.peers.len()),
                false => gossip.mesh_peers(&publish.hash).count(),
            };
            let result = gossip.publish(publish.hash.clone(), publish.data.to_vec());
            match publish.sent(result, reached) {
                Some(refusal) => self.refuse_publish(ticket, refusal, now),
                None => self.gossiped(ticket, now),
            }
        }
    }

    /// It was given to the mesh: answers, or waits for the level.
    fn gossiped(&mut self, ticket: u64, now: Now) {
        let Some(publish) = self.publishes.all.get_mut(&ticket) else { return };
        match needs(publish.level).filter(|_| publish.call.is_some()) {
            Some(disk) => {
                publish.stage = Stage::Securing;
                self.publishes.securing[usize::from(disk)].next.push(ticket);
                self.secure(disk, now);
            }
            None => self.reach(ticket, Level::Logged, now),
        }
    }

    /// The level is reached: answers with the receipt.
    fn reach(&mut self, ticket: u64, level: Level, now: Now) {
        let Some(publish) = self.publishes.all.get(&ticket) else { return };
        let keeps = self.following.policy(&publish.topic).keeps;
        let level = if keeps { level } else { Level::Accepted };
        let mut receipt = publish.receipt(level, keeps, now.wall);
        receipt.receipt = publish.call.map(|call| call.to_string()).unwrap_or_default();
        self.finish(ticket, Ok(receipt), now);
    }

    fn finish(&mut self, ticket: u64, result: Result<v1::Receipt, Refusal>, now: Now) {
        if let Some(publish) = self.publishes.all.get(&ticket)
            && let Ok(receipt) = &result
            && let Some(repeat) =
                self.publishes.repeats.get_mut(&(publish.topic.clone(), publish.key.clone()))
        {
            repeat.receipt = Some(receipt.clone());
        }
        if let Some(call) = self.publishes.caller(ticket) {
            self.calls.answer(call, result.map(Payload::of), now);
        }
        self.publishes.all.remove(&ticket);
    }

    fn refuse_publish(&mut self, ticket: u64, refusal: Refusal, now: Now) {
        self.finish(ticket, Err(refusal), now);
    }

    fn refuse_push(&mut self, ticket: u64, refused: Refused, now: Now) {
        if let Some(publish) = self.publishes.all.get(&ticket) {
            self.publishes.repeats.remove(&(publish.topic.clone(), publish.key.clone()));
        }
        match refused {
            Refused::Full => {
                let refusal = refuse(Reason::Overloaded, "too many messages wait for the log");
                self.refuse_publish(ticket, refusal, now);
            }
            Refused::Logs => {
                let limit = self.config.node.logs_max;
                let refusal = refuse(Reason::TopicLimit, format!("the node keeps at most {limit} topics"));
                self.refuse_publish(ticket, refusal, now);
            }
            Refused::Ending => {
                if let Some(call) = self.publishes.caller(ticket) {
                    self.calls.not_run(call);
                }
                self.publishes.all.remove(&ticket);
            }
        }
    }

    /// Hands back what only waits: the next owner does it (P7).
    pub(super) fn hand_back_publishes(&mut self) {
        for ticket in std::mem::take(&mut self.publishes.waiting) {
            if let Some(call) = self.publishes.caller(ticket) {
                self.calls.not_run(call);
            }
            self.publishes.all.remove(&ticket);
        }
    }

    /// Ends waits that took too long.
    pub(super) fn expire_publishes(&mut self, now: Now) {
        while self.publishes.ends.front().is_some_and(|(end, _)| *end <= now.moment) {
            self.publishes.forget();
        }
        let late: Vec<u64> = self.publishes.calls.values().copied().collect();
        for ticket in late {
            if self.publishes.all.get(&ticket).is_some_and(|publish| publish.until <= now.moment) {
                self.expire_publish(ticket, now);
            }
        }
    }

    fn expire_publish(&mut self, ticket: u64, now: Now) {
        let Some(publish) = self.publishes.all.get(&ticket) else { return };
        let late = |message: &str| refuse(Reason::DeadlineExceeded, message);
        let refusal = match publish.stage {
            Stage::Waiting(Cause::Peers) => {
                let peers = self.following.get(&publish.topic).map_or(0, |state| state.peers.len());
                let message = format!("{peers} of {} peers follow the topic", publish.min_peers);
                Box::new(refuse(Reason::NotEnoughPeers, message).with("peers", peers))
            }
            Stage::Waiting(_) => late("the message was neither logged nor sent in time"),
            Stage::Logging if publish.level == Level::Accepted => {
                return self.answer_early(ticket, Level::Accepted, now);
            }
            Stage::Logging => reached_so_far(late("the message is not logged yet"), Level::Accepted, None),
            Stage::Sending | Stage::Securing => {
                let refusal = late("the message is published, the level is not reached yet");
                reached_so_far(refusal, Level::Logged, publish.position)
            }
        };
        if matches!(publish.stage, Stage::Waiting(_)) {
            self.publishes.waiting.retain(|waiting| *waiting != ticket);
            return self.refuse_publish(ticket, refusal, now);
        }
        if let Some(call) = self.publishes.caller(ticket) {
            self.calls.answer(call, Err(refusal), now);
        }
    }

    /// Answers while the message is still on its way.
    fn answer_early(&mut self, ticket: u64, level: Level, now: Now) {
        let Some(publish) = self.publishes.all.get(&ticket) else { return };
        let mut receipt = publish.receipt(level, false, now.wall);
        if let Some(call) = self.publishes.caller(ticket) {
            receipt.receipt = call.to_string();
            self.calls.answer(call, Ok(Payload::of(receipt)), now);
        }
    }
}

/// Replicas and the disk.
impl EventLoop {
    /// Asks the carrier whether it can do this at all.
    fn probe(&mut self, disk: bool) {
        let securing = &mut self.publishes.securing[usize::from(disk)];
        if securing.now.is_none() {
            securing.now = Some(Vec::new());
            self.spawn_secure(disk, Duration::ZERO);
        }
    }

    fn secure(&mut self, disk: bool, now: Now) {
        let securing = &mut self.publishes.securing[usize::from(disk)];
        if securing.now.is_some() || securing.next.is_empty() {
            return;
        }
        let tickets = std::mem::take(&mut securing.next);
        let until =
            tickets.iter().filter_map(|ticket| self.publishes.all.get(ticket)).map(|publish| publish.until);
        let left = until.max().map_or(Duration::ZERO, |until| until.since(now.moment));
        securing.now = Some(tickets);
        self.spawn_secure(disk, left.min(SECURE));
    }

    fn spawn_secure(&mut self, disk: bool, timeout: Duration) {
        let (bus, node) = (self.bus.clone(), self.name.clone());
        self.work.spawn(work::secure(bus, node, disk, timeout));
    }

    /// The carrier answered how many have what was logged before.
    pub(super) fn secured(&mut self, disk: bool, result: Result<u32, Error>, now: Now) {
        let kind = usize::from(disk);
        let tickets = self.publishes.securing[kind].now.take().unwrap_or_default();
        match &result {
            Ok(_) => self.publishes.can[kind] = Some(true),
            Err(Error::Unsupported(_)) => self.publishes.can[kind] = Some(false),
            Err(_) => {}
        }
        let level = if disk { Level::Durable } else { Level::Replicated };
        for ticket in tickets {
            match &result {
                Ok(reached) if disk || *reached > 0 => self.reach(ticket, level, now),
                Err(Error::Unsupported(_)) => self.refuse_publish(ticket, unavailable(Level::Logged), now),
                // Tried again until the publish's own timeout says so; one that was answered is done.
                _ => match self.publishes.all.get(&ticket).is_some_and(|publish| publish.call.is_some()) {
                    true => self.publishes.securing[kind].next.push(ticket),
                    false => drop(self.publishes.all.remove(&ticket)),
                },
            }
        }
        self.step_waiting(None, now);
        self.secure(disk, now);
    }
}

/// The work of [`Level`]s above the log: with disk or without.
fn needs(level: Level) -> Option<bool> {
    match level {
        Level::Replicated => Some(false),
        Level::Durable => Some(true),
        _ => None,
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

fn unavailable(highest: Level) -> Refusal {
    let message = format!("the topic reaches {} at most", highest.as_str_name());
    Box::new(refuse(Reason::LevelUnavailable, message).with("highest", highest.as_str_name()))
}

fn reused() -> Refusal {
    refuse(Reason::RequestIdReused, "the request id was used with other content")
}

fn reached_so_far(refusal: Refusal, level: Level, position: Option<Position>) -> Refusal {
    let refusal = refusal.with("level", level.as_str_name());
    Box::new(match position {
        Some(position) => refusal.with("position", position),
        None => refusal,
    })
}

fn content(data: &[u8]) -> Content {
    Sha256::digest(data).into()
}
