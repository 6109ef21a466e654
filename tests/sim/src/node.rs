//! A node as its owner runs it: the real writer of its logs and the real window of its calls, with a
//! swarm of which only this is known: it acts. Mirrors `worker/src/node/event_loop.rs` and `publish.rs`.

use crate::{
    net::{Answer, Ask, Net, Said},
    worker::{
        clock::{Moment, Now},
        node::{
            calls::{Calls, Incoming, Request},
            log::{Do, Done, Known, Limits, Log, Name, Out, Refused, Retention},
        },
        refuse,
    },
};
use bytes::Bytes;
use plexus_bus::{
    CallId, Envelope, Era, Error, Grant, Incarnation, NodeName, Payload, Position, Subject, Topic,
};
use plexus_proto::{
    bus::{Joined, LogMessage},
    reason::Reason,
    text, v1,
};
use std::{collections::BTreeMap, time::Duration};

/// Longest wait for appends when it hands over (P7).
const DRAIN: Duration = Duration::from_secs(3);

/// Why it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Stopped,
    Fenced,
}

/// What the node waits for.
#[derive(Debug)]
pub(crate) enum Job {
    Log(u64, Kind),
    Batch,
    Subscribed,
}

/// What kind of errand of the log.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Open,
    Append,
    Look,
    Stamp,
    Raise,
    Trim,
    Read,
}

struct Publish {
    call: Option<CallId>,
    topic: Topic,
    data: Bytes,
    key: String,
}

/// What it needs of its worker.
pub(crate) struct Place<'a> {
    pub(crate) process: usize,
    pub(crate) life: u32,
    pub(crate) incarnation: &'a Incarnation,
    pub(crate) now: Now,
}

/// A running node.
pub(crate) struct Node {
    /// Of which run it is: a node that ends and comes back is another.
    pub(crate) run: u64,
    pub(crate) name: NodeName,
    pub(crate) log: Log,
    calls: Calls,
    publishes: BTreeMap<u64, Publish>,
    waiting: Vec<u64>,
    joins: Vec<(CallId, Topic)>,
    tickets: u64,
    /// The logs are open and the swarm acts.
    pub(crate) running: bool,
    heard: bool,
    subscribing: bool,
    draining: Option<Moment>,
    last_era: Option<Era>,
    pub(crate) ended: Option<Ended>,
    /// A higher grant, to be told to the host.
    pub(crate) raised: Option<Grant>,
    pub(crate) jobs: Vec<(Ask, Job)>,
    batch: usize,
    /// Where the tails were when it began; for planted bugs.
    pub(crate) known: Vec<(Topic, Position)>,
}

impl Node {
    pub(crate) fn new(
        run: u64,
        name: NodeName,
        grant: Grant,
        worker: &Incarnation,
        era: Option<Era>,
        retention: u64,
    ) -> Self {
        let retention = Retention { messages: retention, bytes: 1 << 30, age: Duration::from_secs(3600) };
        let limits = Limits {
            backlog_messages_max: 1000,
            backlog_bytes_max: 4 << 20,
            own_messages_max: 1024,
            own_bytes_max: 16 << 20,
            ring_bytes_max: 4 << 20,
            ring_age_max: Duration::from_secs(30),
            logs_max: 16,
            retention,
        };
        Self {
            run,
            name,
            log: Log::new(grant, limits),
            calls: Calls::new(worker.clone(), grant.epoch, 1024, 4096),
            publishes: BTreeMap::new(),
            waiting: Vec::new(),
            joins: Vec::new(),
            tickets: 0,
            running: false,
            heard: false,
            subscribing: false,
            draining: None,
            last_era: era,
            ended: None,
            raised: None,
            jobs: Vec::new(),
            batch: 0,
            known: Vec::new(),
        }
    }

    /// Another primary: what was written before may be lost there.
    pub(crate) fn era(&mut self, era: &Era) {
        if self.last_era.as_ref().is_some_and(|last| last != era) {
            self.log.doubt();
        }
        self.last_era = Some(era.clone());
    }

    pub(crate) fn restored(&mut self) {
        self.log.doubt();
    }

    /// The swarm does something in the world.
    fn act(&self, net: &mut Net) {
        if self.running {
            net.check.acts(&self.name, self.log.grant());
        }
    }

    pub(crate) fn tick(&mut self, place: &Place<'_>, net: &mut Net) {
        self.act(net);
        let _ = self.calls.expire(place.now);
        self.step_waiting(None, place, net);
        if self.running && !self.heard && !self.subscribing && self.draining.is_none() {
            self.subscribing = true;
            self.jobs.push((Ask::Subscribe(Subject::Calls(self.name.clone())), Job::Subscribed));
        }
        self.settle(place, net);
    }

    /// A peer's message.
    pub(crate) fn received(&mut self, topic: &Topic, number: u64, place: &Place<'_>, net: &mut Net) {
        if !self.running || self.draining.is_some() {
            return;
        }
        self.act(net);
        let message = message(number, "", place.now);
        if self.log.push(topic, LogMessage { via: Bytes::from_static(b"p"), ..message }, None).is_ok() {
            net.check.heard(number);
        }
        self.settle(place, net);
    }

    pub(crate) fn command(&mut self, envelope: Envelope, place: &Place<'_>, net: &mut Net) {
        self.act(net);
        if !self.heard && !self.subscribing {
            return;
        }
        match self.calls.take(envelope, place.now) {
            Incoming::Run(call, _, request) if self.draining.is_some() => {
                let _ = request;
                self.calls.not_run(call);
            }
            Incoming::Run(call, _, request) => match *request {
                Request::Publish(request) => self.publish(call, *request, place, net),
                Request::Join(interest) => {
                    let _ = self.log.open([interest.topic.clone()]);
                    self.joins.push((call, interest.topic));
                    self.step_joins(place.now);
                }
                _ => {}
            },
            Incoming::Cancelled(call) => {
                self.publishes.values_mut().filter(|p| p.call == Some(call)).for_each(|p| p.call = None);
            }
            Incoming::Nothing => {}
        }
        self.settle(place, net);
    }

    fn publish(&mut self, call: CallId, request: v1::PublishRequest, place: &Place<'_>, net: &mut Net) {
        let Some(v1::publish_request::Payload::Data(data)) = request.payload else { return };
        let topic = text::topic_from_text(&request.topic).expect("topics of a walk are good");
        self.tickets += 1;
        let publish = Publish { call: Some(call), topic, data, key: request.request_id };
        self.publishes.insert(self.tickets, publish);
        self.step(self.tickets, place, net);
    }

    /// Window, then number (P16).
    fn step(&mut self, ticket: u64, place: &Place<'_>, net: &mut Net) {
        let Some(publish) = self.publishes.get(&ticket) else { return };
        let name = Name { key: &publish.key, ..Name::default() };
        match self.log.seek(&publish.topic, name) {
            Known::New => self.push(ticket, place, net),
            Known::Wait | Known::Pending(_) => self.waiting.push(ticket),
            Known::Logged { position, .. } => self.receipt(ticket, position, place.now, net),
            Known::Stale => {}
        }
    }

    fn push(&mut self, ticket: u64, place: &Place<'_>, net: &mut Net) {
        let Some(publish) = self.publishes.get(&ticket) else { return };
        let message = message(number(&publish.data), &publish.key, place.now);
        let Err(refused) = self.log.push(&publish.topic, message, Some(ticket)) else { return };
        let Some(call) = self.publishes.remove(&ticket).and_then(|publish| publish.call) else { return };
        net.note(|| format!("{} refuses a message: {refused:?}", self.name));
        match refused {
            Refused::Ending => self.calls.not_run(call),
            Refused::Full | Refused::Logs => {
                self.calls.answer(call, Err(refuse(Reason::Overloaded, "full")), place.now);
            }
        }
    }

    fn receipt(&mut self, ticket: u64, position: Position, now: Now, net: &mut Net) {
        let Some(publish) = self.publishes.remove(&ticket) else { return };
        let Some(call) = publish.call else { return };
        self.act(net);
        net.check.receipt(number(&publish.data), self.run);
        let receipt = v1::Receipt { position: position.to_string(), ..v1::Receipt::default() };
        self.calls.answer(call, Ok(Payload::of(receipt)), now);
    }

    fn step_waiting(&mut self, topic: Option<&Topic>, place: &Place<'_>, net: &mut Net) {
        for ticket in std::mem::take(&mut self.waiting) {
            let same =
                self.publishes.get(&ticket).is_some_and(|p| topic.is_none_or(|topic| p.topic == *topic));
            if same {
                self.step(ticket, place, net);
            } else if self.publishes.contains_key(&ticket) {
                self.waiting.push(ticket);
            }
        }
    }

    fn step_joins(&mut self, now: Now) {
        let (ready, wait): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.joins).into_iter().partition(|(_, topic)| self.log.top(topic).is_some());
        self.joins = wait;
        for (call, _) in ready {
            self.calls.answer(call, Ok(Payload::of(Joined::default())), now);
        }
    }

    /// Begins to hand over (P7).
    pub(crate) fn drain(&mut self, place: &Place<'_>, net: &mut Net) {
        self.draining = Some(place.now.moment);
        self.heard = false;
        self.jobs.push((Ask::Unsubscribe(Subject::Calls(self.name.clone())), Job::Subscribed));
        for ticket in std::mem::take(&mut self.waiting) {
            if let Some(call) = self.publishes.remove(&ticket).and_then(|publish| publish.call) {
                self.calls.not_run(call);
            }
        }
        self.log.drain();
        self.settle(place, net);
    }

    /// What follows from any input.
    fn settle(&mut self, place: &Place<'_>, net: &mut Net) {
        if self.ended.is_some() {
            return;
        }
        while let Some(order) = self.log.next(place.now.moment) {
            let (ask, kind) = self.errand(order.task, place);
            self.jobs.push((ask, Job::Log(order.turn, kind)));
        }
        if let Some(batch) = self.calls.batch() {
            self.batch = batch.len();
            for (gateway, envelope) in batch {
                self.jobs.push((Ask::Publish(Subject::Replies(gateway), Payload::of(envelope)), Job::Batch));
            }
        }
        if let Some(since) = self.draining {
            let late = place.now.moment.since(since) >= DRAIN;
            let clear = self.log.drained() && self.calls.is_flushed();
            if clear || late || !self.running {
                self.ended = Some(Ended::Stopped);
            }
        }
        let _ = net;
    }

    fn errand(&self, task: Do, place: &Place<'_>) -> (Ask, Kind) {
        let node = self.name.clone();
        match task {
            Do::Open { grant, topics, stage } => {
                (Ask::Open { node, grant, topics, stage, known: self.known.clone() }, Kind::Open)
            }
            Do::Append(grant, entries) => (Ask::Append(node, grant, entries), Kind::Append),
            Do::Look => (Ask::Look(node), Kind::Look),
            Do::Stamp(grant, era) => (Ask::Stamp(node, grant, era), Kind::Stamp),
            Do::Raise { from, floor, nonce } => {
                let claim = plexus_bus::Claim { node, floor, from: Some(from) };
                (Ask::Take(place.incarnation.clone(), nonce, vec![claim]), Kind::Raise)
            }
            Do::Trim(grant, topic, keep) => (Ask::Trim(node, grant, topic, keep), Kind::Trim),
            Do::Read(topic, range) => (Ask::Read(node, topic, range), Kind::Read),
        }
    }

    pub(crate) fn done(&mut self, job: Job, answer: Answer, place: &Place<'_>, net: &mut Net) {
        self.act(net);
        match job {
            Job::Log(turn, kind) => {
                let done = result(kind, answer, place.now);
                for out in self.log.done(turn, done, place.now.moment) {
                    self.out(out, place, net);
                }
            }
            Job::Batch => {
                self.batch = self.batch.saturating_sub(1);
                if self.batch == 0 {
                    self.calls.sent();
                }
            }
            Job::Subscribed => {
                self.subscribing = false;
                self.heard = answer.is_ok() && self.draining.is_none();
            }
        }
        self.settle(place, net);
    }

    fn out(&mut self, out: Out, place: &Place<'_>, net: &mut Net) {
        match out {
            Out::Opened { grant, openings } => {
                net.note(|| format!("{} is open under {grant:?}: {openings:?}", self.name));
                self.running = true;
                self.act(net);
                self.step_joins(place.now);
            }
            Out::Ready(topic) => {
                self.step_waiting(Some(&topic), place, net);
                self.step_joins(place.now);
            }
            Out::Logged { topic, tickets, .. } => {
                for (ticket, position) in tickets {
                    self.receipt(ticket, position, place.now, net);
                }
                self.step_waiting(Some(&topic), place, net);
            }
            Out::Raised(grant) => {
                net.note(|| format!("{} goes on under {grant:?}", self.name));
                self.calls.set_epoch(grant.epoch);
                self.raised = Some(grant);
            }
            Out::Dropped(count) => net.check.dropped(count),
            Out::Purged(_) => {}
            Out::Fenced => self.ended = Some(Ended::Fenced),
        }
    }
}

fn result(kind: Kind, answer: Answer, now: Now) -> Done {
    macro_rules! of {
        ($what:ident) => {
            answer.map(|said| match said {
                Said::$what(said) => said,
                other => unreachable!("the store answers {other:?}"),
            })
        };
    }
    match kind {
        Kind::Open => Done::Opened(of!(Opened)),
        Kind::Append => Done::Appended(of!(Appended)),
        Kind::Look => Done::Looked(of!(Look)),
        Kind::Stamp => Done::Stamped(of!(Flag)),
        Kind::Raise => Done::Raised(of!(Taken)),
        Kind::Trim => Done::Trimmed(of!(Flag)),
        Kind::Read => Done::Read(of!(Entries), now.wall),
    }
}

/// The number that a payload is.
pub(crate) fn number(data: &[u8]) -> u64 {
    data.try_into().map(u64::from_be_bytes).unwrap_or(0)
}

fn message(number: u64, key: &str, now: Now) -> LogMessage {
    let data = Bytes::copy_from_slice(&number.to_be_bytes());
    LogMessage {
        id: data.clone(),
        data,
        received_at: Some(now.wall.into()),
        idempotency_key: key.into(),
        ..LogMessage::default()
    }
}
