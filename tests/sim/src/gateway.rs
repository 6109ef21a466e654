//! A gateway: the real pending calls, subscriptions, readers and queues. Mirrors
//! `gateway/src/router/event_loop.rs`, `orders.rs` and `jobs.rs`, with simulated time in place of tasks.

mod orders;

use super::{
    Failure, Metrics,
    frames::Filter,
    notes::{Note, Notes},
    pending::{Act, Pending, Standing},
    queue::{Pen, Policy, Queue, Terms},
    reads::{Next, Reading},
    subscriptions::{Order, Subscriptions, Wish},
};
use crate::{
    gateway::{caller::Caller, config, resume::Tokens},
    net::{Answer, Ask, Heard, MS, Net, SEC, Said, TIMEOUT, Us, envelope},
};
use futures::FutureExt;
use plexus_bus::{Call, CallId, Envelope, Error, GatewayId, NodeName, Payload, Subject, Topic, Trace};
use plexus_proto::{
    bus::{Interest, LogEntry, OwnerChange, Principal},
    text::After,
    v1::{self, View},
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

const TICK: Us = 50 * MS;
const SWEEP: Us = SEC;
const COUNT: Us = 500 * MS;
const JOIN: Duration = Duration::from_secs(5);

/// Where an answer goes.
#[derive(Clone, Copy, Debug)]
enum Sink {
    Join(u32),
    Client(u64),
}

enum Job {
    Sent(CallId, u32),
    Looked(NodeName),
    Followed(u32, NodeName, Topic),
    Wanted(u32),
    Left(u32),
    Tops(Vec<(u32, u64)>),
    Read(u64, usize),
    Heard(Subject),
    Said,
}

/// Who waits for a read.
enum For {
    All(u32, u64),
    One(u64, usize),
    Facts(u32),
}

/// A client that reads, as this gateway serves it.
struct Served {
    reader: usize,
    answer: Option<oneshot::Receiver<Result<Queue, Failure>>>,
    queue: Option<Queue>,
    /// It takes nothing before.
    rests_until: Us,
}

/// What became of a call.
pub(crate) struct Finished {
    pub(crate) call: u64,
    pub(crate) result: Result<Payload, Failure>,
}

/// A gateway process.
pub(crate) struct Gateway {
    pub(crate) process: usize,
    pub(crate) life: u32,
    start: Instant,
    skew: i64,
    id: GatewayId,
    config: config::Router,
    pending: Pending<Sink>,
    subscriptions: Subscriptions,
    notes: Notes,
    jobs: BTreeMap<u64, (Us, Job)>,
    reads: BTreeMap<u64, (For, Reading)>,
    served: Vec<Served>,
    follows: BTreeMap<(NodeName, Topic), u32>,
    hears: u8,
    swept: Us,
    counted: Us,
    doubted: bool,
    calls: u64,
    pub(crate) finished: VecDeque<Finished>,
    /// Readers whose stream ended.
    pub(crate) parted: Vec<usize>,
}

impl Gateway {
    pub(crate) fn new(process: usize, life: u32, start: Instant, page: usize, net: &mut Net) -> Self {
        let config = config::Router { page_entries: page, ..config::Router::default() };
        let notes = Notes::default();
        let mut gateway = Self {
            process,
            life,
            start,
            skew: net.dice.below(2 * SEC) as i64 - SEC as i64,
            id: format!("gw-{process}-{life}").into(),
            pending: Pending::new(config.pending_max, config.resend_after),
            subscriptions: Subscriptions::new(config.clone(), notes.clone(), Arc::new(Metrics::default())),
            config,
            notes,
            jobs: BTreeMap::new(),
            reads: BTreeMap::new(),
            served: Vec::new(),
            follows: BTreeMap::new(),
            hears: 0,
            swept: net.now,
            counted: net.now,
            doubted: false,
            calls: 0,
            finished: VecDeque::new(),
            parted: Vec::new(),
        };
        for subject in [Subject::Replies(gateway.id.clone()), Subject::Ownership] {
            gateway.ask(Ask::Subscribe(subject.clone()), Job::Heard(subject), net);
        }
        gateway
    }

    fn now(&self, net: &Net) -> Instant {
        self.start + Duration::from_micros(net.now)
    }

    fn ask(&mut self, ask: Ask, job: Job, net: &mut Net) {
        let op = net.ask(self.process, self.life, ask);
        self.jobs.insert(op, (net.now, job));
    }

    /// Whether it hears what a gateway must hear before it may ask anything.
    pub(crate) fn ready(&self) -> bool {
        self.hears >= 2
    }

    /// Calls that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.pending.len()
    }

    /// Publishes for a client.
    pub(crate) fn publish(
        &mut self,
        (call, number): (u64, u64),
        node: &NodeName,
        topic: &Topic,
        key: &str,
        within: Us,
        net: &mut Net,
    ) {
        let request = v1::PublishRequest {
            topic: plexus_proto::text::bytes_to_text(topic),
            request_id: key.into(),
            payload: Some(v1::publish_request::Payload::Data(number.to_be_bytes().to_vec().into())),
            ..v1::PublishRequest::default()
        };
        let within = Duration::from_micros(within);
        self.begin(
            "plexus.v1.TopicService/Publish",
            node,
            Payload::of(request),
            key,
            within,
            Sink::Client(call),
            net,
        );
        self.act(net);
    }

    #[expect(clippy::too_many_arguments, reason = "a call has as many parts")]
    fn begin(
        &mut self,
        method: &str,
        node: &NodeName,
        payload: Payload,
        key: &str,
        within: Duration,
        sink: Sink,
        net: &mut Net,
    ) {
        self.calls += 1;
        let wall = crate::bus::embedded::store::wall(net.now.saturating_add_signed(self.skew));
        let call = Call {
            method: method.into(),
            payload,
            namespace: node.namespace().into(),
            node: Some(node.clone()),
            reply_to: self.id.clone(),
            deadline: Some(wall + within),
            caller: Principal::default(),
            idempotency_key: key.into(),
            epoch_seen: 0,
            attempt: 0,
            idempotent: matches!(sink, Sink::Join(_)),
            credit: 0,
        };
        let id = CallId::from_u128(
            (self.process as u128) << 96 | u128::from(self.life) << 64 | u128::from(self.calls),
        );
        let deadline = Some(self.now(net) + within);
        self.pending.begin(id, call, Trace::default(), sink, deadline);
    }

    /// Lets a client read.
    pub(crate) fn serve(
        &mut self,
        reader: usize,
        node: &NodeName,
        topics: Vec<(Topic, After)>,
        net: &mut Net,
    ) {
        let (answer, waits) = oneshot::channel();
        let wish = Wish {
            node: node.clone(),
            topics,
            terms: Terms {
                messages: 64,
                bytes: 1 << 20,
                gaps: 256,
                policy: Policy::Disconnect,
                limit: 0,
                heartbeat: Duration::from_secs(3600),
                ids: false,
            },
            pen: Pen {
                tokens: Tokens::default(),
                bearer: (&Caller::default()).into(),
                seat: None,
                named: false,
            },
            view: View::Bytes,
            filter: Filter::default(),
            require_recovery: false,
        };
        self.subscriptions.subscribe(wish, answer, self.now(net));
        self.served.push(Served { reader, answer: Some(waits), queue: None, rests_until: 0 });
        self.act(net);
    }

    /// Readers that it serves.
    pub(crate) fn readers(&self) -> Vec<usize> {
        self.served.iter().map(|served| served.reader).collect()
    }

    pub(crate) fn tick(&mut self, net: &mut Net) -> Us {
        while let Some((&op, (sent, _))) = self.jobs.first_key_value()
            && sent + TIMEOUT <= net.now
        {
            if let Some((_, job)) = self.jobs.remove(&op) {
                self.done(job, Err(Error::Timeout), net);
            }
        }
        let now = self.now(net);
        for note in self.notes.take() {
            match note {
                Note::CallGone(id) => self.pending.gone(id),
                Note::Took(id, bytes) => self.pending.credit(id, bytes),
                Note::Drained(_) | Note::Left(_) => self.subscriptions.note(note, now),
            }
        }
        self.pending.tick(now);
        self.subscriptions.tick(now);
        if net.now >= self.swept + SWEEP || self.doubted {
            (self.swept, self.doubted) = (net.now, false);
            let mut due = self.subscriptions.sweep(now);
            due.sort_unstable_by_key(|(t, ..)| *t);
            if !due.is_empty() {
                let wanted = due.iter().map(|(_, _, node, topic)| (node.clone(), topic.clone())).collect();
                let tickets = due.into_iter().map(|(t, ticket, ..)| (t, ticket)).collect();
                self.ask(Ask::Tops(wanted), Job::Tops(tickets), net);
            }
        }
        if net.now >= self.counted + COUNT {
            self.counted = net.now;
            self.write_interest(false, net);
        }
        self.act(net);
        TICK + net.dice.below(2 * MS)
    }

    fn write_interest(&mut self, all: bool, net: &mut Net) {
        let mut wanted = self.subscriptions.interest(all);
        wanted.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        for (node, mut readers) in wanted {
            readers.sort_unstable();
            self.ask(Ask::Want(node, self.id.clone(), readers), Job::Said, net);
        }
    }

    pub(crate) fn heard(&mut self, subject: &Subject, heard: Heard, net: &mut Net) {
        let now = self.now(net);
        match (subject, heard) {
            (Subject::Replies(_), Heard::Frame(frame)) => {
                if let Some(envelope) = envelope(frame) {
                    self.pending.reply(envelope, now);
                }
            }
            (Subject::Replies(_), heard) => {
                self.pending.missed(now);
                if matches!(heard, Heard::Restored) {
                    self.write_interest(true, net);
                }
            }
            (Subject::Ownership, Heard::Frame(frame)) => self.owner(&frame, now),
            (Subject::Topic(node, topic), heard) => {
                let Some(&t) = self.follows.get(&(node.clone(), topic.clone())) else { return };
                match heard {
                    Heard::Frame(frame) => {
                        let entry = frame.open::<LogEntry>().expect("entries are published");
                        self.subscriptions.live(t, entry, now);
                    }
                    Heard::Lagged | Heard::Restored => {
                        self.subscriptions.doubt(t);
                        self.doubted = true;
                    }
                }
            }
            _ => {}
        }
        self.act(net);
    }

    fn owner(&mut self, frame: &Payload, now: Instant) {
        let Ok(change) = frame.open::<OwnerChange>() else { return };
        let Ok(node) = NodeName::new(&change.namespace, &change.node) else { return };
        let owned = !change.worker.is_empty();
        self.pending.owner(&node, owned, change.epoch, now);
        if !owned {
            self.subscriptions.disowned(&node);
        }
    }

    pub(crate) fn answered(&mut self, op: u64, answer: Answer, net: &mut Net) {
        let Some((_, job)) = self.jobs.remove(&op) else { return };
        self.done(job, answer, net);
        self.act(net);
    }

    fn done(&mut self, job: Job, answer: Answer, net: &mut Net) {
        let now = self.now(net);
        match job {
            Job::Sent(id, attempt) => {
                let result = answer.map(|said| if let Said::Count(count) = said { count } else { 0 });
                self.pending.sent(id, attempt, result, now);
            }
            Job::Looked(node) => self.pending.looked(&node, answer.ok().map(|_| Standing::Expected)),
            Job::Followed(t, node, topic) => match answer {
                Ok(_) => {
                    let want = Ask::Want(node, self.id.clone(), vec![(topic, Some(1))]);
                    self.ask(want, Job::Wanted(t), net);
                }
                Err(error) => self.subscriptions.listening(t, Err(super::pending::unavailable(&error)), now),
            },
            Job::Wanted(t) => {
                let result = answer.map(drop).map_err(|error| super::pending::unavailable(&error));
                self.subscriptions.listening(t, result, now);
            }
            Job::Left(t) => self.subscriptions.left(t, answer.is_ok(), now),
            Job::Tops(tickets) => {
                if let Ok(Said::Tops(tops)) = answer {
                    let tops =
                        tickets.into_iter().zip(tops).map(|((t, ticket), top)| (t, ticket, top)).collect();
                    self.subscriptions.compare(tops, now);
                }
            }
            Job::Read(read, part) => {
                let Some((_, reading)) = self.reads.get_mut(&read) else { return };
                let next = reading.answered(part, answer);
                self.go_on(read, next, net);
            }
            Job::Heard(_) if answer.is_ok() => self.hears += 1,
            // Again, until the bus answers.
            Job::Heard(subject) => self.ask(Ask::Subscribe(subject.clone()), Job::Heard(subject), net),
            Job::Said => {}
        }
    }

    fn read(&mut self, whose: For, (reading, next): (Reading, Next), net: &mut Net) {
        let number = net.fresh();
        self.reads.insert(number, (whose, reading));
        self.go_on(number, next, net);
    }

    fn go_on(&mut self, number: u64, next: Next, net: &mut Net) {
        let found = match next {
            Next::Wait => return,
            Next::Ask(asks) => {
                for (part, ask) in asks {
                    self.ask(ask, Job::Read(number, part), net);
                }
                return;
            }
            Next::Facts(facts) => {
                let now = self.now(net);
                if let Some((For::Facts(t), _)) = self.reads.remove(&number) {
                    self.subscriptions.facts(t, Ok(facts), now);
                }
                return;
            }
            Next::Page(found) => Some(found),
            Next::Failed => None,
        };
        let now = self.now(net);
        match self.reads.remove(&number).map(|(whose, _)| whose) {
            Some(For::All(t, ticket)) => self.subscriptions.found(t, ticket, found, now),
            Some(For::One(id, slot)) => self.subscriptions.found_for(id, slot, found, now),
            Some(For::Facts(t)) => {
                self.subscriptions.facts(t, Err(super::pending::unavailable(&Error::Timeout)), now);
            }
            None => {}
        }
    }

    /// Hands readers what waits for them.
    fn take(&mut self, net: &mut Net) {
        let mut i = 0;
        while i < self.served.len() {
            let served = &mut self.served[i];
            if let Some(begun) = served.answer.as_mut().and_then(|answer| answer.now_or_never()) {
                served.answer = None;
                match begun {
                    Ok(Ok(queue)) => served.queue = Some(queue),
                    _ => {
                        self.parted.push(served.reader);
                        self.served.remove(i);
                        continue;
                    }
                }
            }
            let mut parted = false;
            while served.rests_until <= net.now
                && let Some(next) = served.queue.as_mut().and_then(Queue::take)
            {
                match next {
                    Ok(delivery) => {
                        parted = net.check.told(served.reader, delivery.frame.proto());
                        if net.dice.once_in(4) {
                            served.rests_until = net.now + net.dice.spread(10 * MS, 4 * SEC);
                        }
                    }
                    Err(_) => parted = true,
                }
                if parted {
                    break;
                }
            }
            if parted {
                self.parted.push(served.reader);
                self.served.remove(i);
            } else {
                i += 1;
            }
        }
    }

    /// A reader closes its connection.
    pub(crate) fn part(&mut self, reader: usize) {
        self.served.retain(|served| served.reader != reader);
    }

    /// Topics whose reader on this gateway is not at rest, for the trace.
    pub(crate) fn waits(&self) -> String {
        format!("{} calls wait, readers {:?}", self.pending.len(), self.readers())
    }
}
