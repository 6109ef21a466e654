//! The sole owner of a node's swarm: one identity, one task. It opens the node's logs, builds the
//! swarm, serves calls and events until the lease ends, the host stops it, or another owner is there.
//!
//! `next` waits, `apply` acts and never waits; what takes time is a task in `work` and comes back as
//! an input. Each capability has its arm and its file: `publish`, `topics`, `messages`, `status`,
//! `start`. Nothing outside holds any of this state.

use super::{
    Ended, Note, Start,
    calls::{Calls, Incoming, Request},
    following::Following,
    leased::{Event, Leased},
    log::{Limits, Log, Out},
    publish::Publishes,
    start::{self, Muted},
    status::Status,
    topics::Waits,
    work::{self, Done},
};
use crate::{
    Config, Metrics,
    clock::{Moment, Now},
    refuse,
    swarm::{BehaviourEvent, gossip},
};
use bytes::Bytes;
use libp2p::{identity::Keypair, swarm::SwarmEvent};
use plexus_bus::{
    Bus, CallId, Envelope, Era, Error, Event as Heard, Frame, Incarnation, NodeName, Subscription, Value,
};
use plexus_proto::{bus::NodeRecord, reason::Reason, v1};
use std::{pin::Pin, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, Sleep},
};
use tokio_util::sync::CancellationToken;

/// Between two ticks of a node at rest.
const TICK: Duration = Duration::from_secs(1);
/// Commands taken in one wake.
const COMMANDS: usize = 64;
/// Between two looks at the interest of gateways.
const SURVEY: Duration = Duration::from_secs(5);
/// The same while nobody reads anything.
const SURVEY_IDLE: Duration = Duration::from_secs(30);
/// Between two dials of the bootstrap peers by a node that is alone.
const ALONE: Duration = Duration::from_secs(15);
/// Longest wait for appends and answers when it hands over (P7).
const DRAIN: Duration = Duration::from_secs(3);

/// A node.
pub struct EventLoop {
    /// Its full name.
    pub(super) name: NodeName,
    /// The worker that owns it.
    pub(super) worker: Incarnation,
    /// What it shall be, as read last.
    pub(super) record: NodeRecord,
    /// Revision of the record.
    pub(super) revision: u64,
    /// Its identity.
    pub(super) key: Keypair,
    /// Its PeerId bytes, as authors stand in the log.
    pub(super) author: Bytes,
    /// The bus.
    pub(super) bus: Bus,
    /// Bounds.
    pub(super) config: Arc<Config>,
    /// Counters.
    pub(super) metrics: Metrics,
    /// The swarm, which stands still past the deadline.
    pub(super) swarm: Leased,
    /// The ids of what it will publish; `None` before the swarm is built.
    pub(super) ids: Option<gossip::Ids>,
    /// The writer of the logs; it holds the grant.
    pub(super) log: Log,
    /// Calls and their answers.
    pub(super) calls: Calls,
    /// Topics, and who wants them.
    pub(super) following: Following,
    /// Publishes under way.
    pub(super) publishes: Publishes,
    /// Calls that wait for something about topics.
    pub(super) waits: Waits,
    /// What it says of itself.
    pub(super) status: Status,
    /// Tasks that leave the loop.
    pub(super) work: JoinSet<Done>,
    /// Highest gossip sequence used by former swarms.
    pub(super) seqno: u64,
    /// Addresses to dial at first.
    pub(super) known: Vec<String>,
    /// Why nothing is published for now.
    pub(super) muted: Option<Muted>,
    /// Whether own messages go to every peer that follows the topic.
    pub(super) flood: bool,
    /// Whether topics have to be joined or left.
    pub(super) moved: bool,
    /// The time of this wake.
    pub(super) now: Now,
    /// Calls from the bus; `None` before the node is open and once it hands over.
    commands: Option<Subscription>,
    /// The era of the last renewal.
    era: watch::Receiver<Option<Era>>,
    /// The revision that the host last heard of.
    changed: watch::Receiver<u64>,
    notes: mpsc::Sender<(NodeName, Note)>,
    clock: Pin<Box<Sleep>>,
    ticked: Moment,
    surveyed: Moment,
    dialled: Moment,
    /// Whether interest, record or subscription are being read.
    surveying: bool,
    reading: bool,
    subscribing: bool,
    /// Whether the first interest was read and the logs may be opened.
    begun: bool,
    /// Whether `Note::Running` was given.
    running: bool,
    /// A note that found the host's queue full.
    unsaid: Vec<Note>,
    /// Since when it hands over.
    draining: Option<Moment>,
    ended: Option<Ended>,
}

/// What the loop hears.
enum Input {
    /// The host wants it to stop.
    Stop,
    /// The lease is over.
    Late,
    /// A task is done.
    Done(Box<Done>),
    /// Time passed.
    Tick,
    /// Calls.
    Commands(Vec<Heard>),
    /// The carrier is closed.
    Deaf,
    /// The store has another primary, perhaps.
    Era,
    /// The record changed.
    Record,
    /// The swarm's events.
    Swarm(Vec<Event>),
}

impl EventLoop {
    /// Makes a node; nothing happens before [`EventLoop::run`].
    pub fn new(start: Start) -> Self {
        let now = Now::read();
        let limits = &start.config.node;
        let mut following = Following::new(limits.clone());
        following.set_record(&start.record);
        Self {
            status: Status::new(&start.state, now),
            author: start.key.public().to_peer_id().to_bytes().into(),
            swarm: Leased::new(start.deadline),
            ids: None,
            log: Log::new(start.grant, Limits::of(limits)),
            calls: Calls::new(
                start.worker.clone(),
                start.grant.epoch,
                limits.commands_max,
                limits.answers_max,
            ),
            following,
            publishes: Publishes::default(),
            waits: Waits::default(),
            work: JoinSet::new(),
            seqno: start.state.seqno,
            known: start.state.peers,
            muted: None,
            flood: true,
            moved: false,
            now,
            commands: None,
            clock: Box::pin(tokio::time::sleep(Duration::ZERO)),
            ticked: Moment::PAST,
            surveyed: Moment::PAST,
            dialled: now.moment,
            surveying: false,
            reading: false,
            subscribing: false,
            begun: false,
            running: false,
            unsaid: Vec::new(),
            draining: None,
            ended: None,
            name: start.name,
            worker: start.worker,
            record: start.record,
            revision: start.revision,
            key: start.key,
            bus: start.bus,
            config: start.config,
            metrics: start.metrics,
            era: start.era,
            changed: start.changed,
            notes: start.notes,
        }
    }

    /// Opens the logs, builds the swarm, and serves until it ends.
    pub async fn run(mut self, stop: CancellationToken) -> Ended {
        loop {
            if let Some(ended) = self.ended.take() {
                return self.close(ended).await;
            }
            let input = self.next(&stop).await;
            self.apply(input);
        }
    }

    async fn next(&mut self, stop: &CancellationToken) -> Input {
        self.set_clock();
        let mut heard = Vec::new();
        tokio::select! {
            () = stop.cancelled(), if self.draining.is_none() => Input::Stop,
            Some(done) = self.work.join_next() => Input::Done(Box::new(done.expect("work does not panic"))),
            () = &mut self.clock => Input::Tick,
            n = hear(&mut self.commands, &mut heard) => {
                if n == 0 { Input::Deaf } else { Input::Commands(heard) }
            }
            Ok(()) = self.era.changed() => Input::Era,
            Ok(()) = self.changed.changed() => Input::Record,
            events = self.swarm.next() => events.map_or(Input::Late, Input::Swarm),
        }
    }

    fn set_clock(&mut self) {
        let mut until = self.ticked.after(TICK).min(self.swarm.deadline());
        let more = [self.log.wake(), self.publishes.wake(self.now.moment), self.unmute_at()];
        for wake in more.into_iter().flatten() {
            until = until.min(wake);
        }
        let at = Instant::now() + until.since(Moment::now());
        // A timer that is set anew at each wake costs more than one that fires a little early or late.
        let is = self.clock.deadline();
        if self.clock.is_elapsed() || at < is || at.duration_since(is) > TICK {
            self.clock.as_mut().reset(at);
        }
    }

    fn unmute_at(&self) -> Option<Moment> {
        match self.muted {
            Some(Muted::Until(at)) => Some(at),
            _ => None,
        }
    }

    fn apply(&mut self, input: Input) {
        // P2: the deadline first, before one event, reply or command is handled.
        if !self.swarm.holds() {
            return self.end(Ended::Fenced);
        }
        self.now = Now::read();
        let now = self.now;
        match input {
            Input::Stop => self.drain(now),
            Input::Late => self.end(Ended::Fenced),
            Input::Done(done) => self.done(*done, now),
            Input::Tick => {}
            Input::Commands(heard) => self.commands(heard, now),
            Input::Deaf => self.end(Ended::Failed("the bus is closed".into())),
            Input::Era => self.log.doubt(),
            Input::Record => self.read_record(),
            Input::Swarm(events) => self.events(events, now),
        }
        if now.moment.since(self.ticked) >= TICK {
            self.tick(now);
        }
        self.settle(now);
    }

    /// Ends the loop; the first reason counts. The swarm stops at once.
    pub(super) fn end(&mut self, ended: Ended) {
        if ended != Ended::Stopped {
            self.swarm.drop_swarm();
        }
        self.ended.get_or_insert(ended);
    }

    /// What follows from any input.
    fn settle(&mut self, now: Now) {
        if self.ended.is_some() {
            return;
        }
        self.expire_publishes(now);
        if self.moved {
            self.move_topics(now);
        }
        while let Some(order) = self.log.next(now.moment) {
            let (bus, node, worker) = (self.bus.clone(), self.name.clone(), self.worker.clone());
            self.work.spawn(async move {
                let (turn, done) = order.run(bus, node, worker).await;
                Done::Log(turn, done)
            });
        }
        if let Some(batch) = self.calls.batch() {
            self.work.spawn(work::send(self.bus.clone(), batch));
        }
        if self.draining.is_some() {
            self.check_drained(now);
        }
    }

    fn tick(&mut self, now: Now) {
        self.ticked = now.moment;
        for call in self.calls.expire(now) {
            self.cancelled(call);
        }
        for note in std::mem::take(&mut self.unsaid) {
            self.tell(note);
        }
        let idle = self.begun && self.following.gateways().is_empty();
        if now.moment.since(self.surveyed) >= if idle { SURVEY_IDLE } else { SURVEY } {
            self.survey(now);
        }
        if self.unmute_at().is_some_and(|at| at <= now.moment) {
            self.rebuild(now);
        }
        if !self.waits.refreshes.is_empty() {
            self.read_record();
        }
        if self.swarm.see().is_some() {
            self.subscribe();
            if self.running {
                self.write_state(now);
            }
            if now.moment.since(self.dialled) >= ALONE {
                self.dialled = now.moment;
                self.dial_when_alone();
            }
        }
        self.following.tidy();
        // Pins end by themselves, and topics over the limit may have room by now.
        self.moved = true;
    }

    fn survey(&mut self, now: Now) {
        if !self.surveying {
            self.surveying = true;
            self.surveyed = now.moment;
            self.work.spawn(work::survey(self.bus.clone(), self.name.clone(), now.moment));
        }
    }

    fn subscribe(&mut self) {
        if self.commands.is_none() && !self.subscribing && self.draining.is_none() {
            self.subscribing = true;
            let queue = self.config.node.commands_max;
            self.work.spawn(work::subscribe(self.bus.clone(), self.name.clone(), queue));
        }
    }

    /// Reads the record again; one read at a time.
    pub(super) fn read_record(&mut self) {
        if !self.reading {
            self.reading = true;
            self.work.spawn(work::record(self.bus.clone(), self.name.clone()));
        }
    }

    fn tell(&mut self, note: Note) {
        if let Err(mpsc::error::TrySendError::Full((_, note))) =
            self.notes.try_send((self.name.clone(), note))
        {
            self.unsaid.push(note);
        }
    }
}

/// What tasks bring back.
impl EventLoop {
    fn done(&mut self, done: Done, now: Now) {
        match done {
            Done::Log(turn, done) => {
                for out in self.log.done(turn, done, now.moment) {
                    self.out(out, now);
                }
            }
            Done::Sent => self.calls.sent(),
            Done::Subscribed(result) => self.subscribed(result),
            Done::Surveyed(since, result) => self.surveyed(since, result, now),
            Done::Record(result) => self.record_read(result, now),
            Done::State(result) => match result {
                Ok(true) => self.status.wrote(true),
                Ok(false) => {
                    self.status.wrote(false);
                    self.log.doubt();
                }
                Err(error) => {
                    tracing::debug!(node = %self.name, %error, "the state was not written");
                    self.status.wrote(false);
                }
            },
            Done::Answered(call, answer) => self.calls.answer(call, answer, now),
            Done::Secured(disk, result) => self.secured(disk, result, now),
            Done::Nothing => {}
        }
    }

    fn out(&mut self, out: Out, now: Now) {
        match out {
            Out::Opened { grant, openings } => {
                self.calls.set_epoch(grant.epoch);
                for opening in openings {
                    let state = self.following.entry(&opening.topic);
                    state.open = true;
                    state.last = state.last.or((opening.prev.seq > 0).then_some(opening.prev));
                }
                self.opened(now);
            }
            Out::Ready(topic) => self.step_waiting(Some(&topic), now),
            Out::Logged { topic, first, entry, tickets } => {
                self.metrics.entries.inc();
                let last = plexus_bus::Position::new(first.epoch, entry.seq);
                self.following.entry(&topic).last = Some(last);
                self.logged(&topic, &tickets, now);
            }
            Out::Raised(grant) => {
                tracing::info!(node = %self.name, epoch = grant.epoch, "raised its grant");
                self.calls.set_epoch(grant.epoch);
                self.tell(Note::Raised(grant));
            }
            Out::Purged(topic) => {
                self.following.entry(&topic).last = None;
                self.purged(&topic, now);
            }
            Out::Dropped(count) => {
                self.metrics.dropped.inc_by(count);
            }
            Out::Fenced => self.end(Ended::Fenced),
        }
    }

    /// Logs are open: the first time, the node may act (P9).
    fn opened(&mut self, now: Now) {
        if self.swarm.see().is_none() {
            if let Err(error) = self.build(now) {
                return self.end(Ended::Failed(start::failed(&self.name, &error)));
            }
            self.subscribe();
        }
        self.moved = true;
        self.move_topics(now);
        self.answer_joins(now);
    }

    fn subscribed(&mut self, result: Result<Subscription, Error>) {
        self.subscribing = false;
        match result {
            Ok(_) if self.draining.is_some() => {}
            Ok(commands) => {
                self.commands = Some(commands);
                if !self.running {
                    self.running = true;
                    self.tell(Note::Running);
                }
                self.ticked = Moment::PAST;
            }
            Err(error) => tracing::warn!(node = %self.name, %error, "cannot hear calls yet"),
        }
    }

    fn surveyed(&mut self, since: Moment, result: Result<work::Survey, Error>, now: Now) {
        self.surveying = false;
        match result {
            Ok(survey) => {
                self.following.survey(survey.wanted, since);
                let gone = self.following.attending(&survey.lives, now.moment);
                if !gone.is_empty() {
                    self.work.spawn(work::forget(self.bus.clone(), self.name.clone(), gone));
                }
                self.moved = true;
                self.begun = true;
                let kept = self.following.kept(now.wall);
                // Before the swarm is built this is the opening itself, also of no topic at all.
                if let Err(refused) = self.log.open(kept) {
                    tracing::warn!(node = %self.name, ?refused, "not every wanted topic can be kept");
                }
                self.apply_policies();
            }
            Err(error) => tracing::debug!(node = %self.name, %error, "interest could not be read"),
        }
    }
}

/// Calls and events.
impl EventLoop {
    fn commands(&mut self, heard: Vec<Heard>, now: Now) {
        for event in heard {
            match event {
                Heard::Frame(frame) => match frame.take::<Envelope>() {
                    Ok(envelope) => self.command(envelope, now),
                    Err(error) => tracing::debug!(node = %self.name, %error, "a call cannot be read"),
                },
                // Calls may be lost; gateways send them again. The logs may have missed a failover.
                Heard::Lagged(count) => tracing::warn!(node = %self.name, count, "calls were dropped"),
                Heard::Restored => self.log.doubt(),
            }
        }
    }

    fn command(&mut self, envelope: Envelope, now: Now) {
        let traceparent = envelope.traceparent.clone();
        match self.calls.take(envelope, now) {
            Incoming::Run(call, asked, request) => {
                self.metrics.commands.inc();
                let span = tracing::debug_span!("node.command", node = %self.name, %call, traceparent);
                let _in = span.entered();
                match request {
                    Request::Publish(request) => self.publish(call, asked, *request, now),
                    request @ (Request::ListTopics(_)
                    | Request::GetTopic(_)
                    | Request::ListTopicPeers(_)
                    | Request::Join(_)
                    | Request::Refresh(_)
                    | Request::Purge(_)) => self.topics(call, request, now),
                    _ => {
                        let refusal = refuse(Reason::WorkerTooOld, "this worker cannot do that yet");
                        self.calls.answer(call, Err(refusal), now);
                    }
                }
            }
            Incoming::Cancelled(call) => self.cancelled(call),
            Incoming::Nothing => {}
        }
    }

    fn cancelled(&mut self, call: CallId) {
        self.publishes.cancel(call);
        self.waits.cancel(call);
    }

    fn events(&mut self, events: Vec<Event>, now: Now) {
        for event in events {
            // P2 again: each event may lead to an effect.
            if !self.swarm.holds() {
                return self.end(Ended::Fenced);
            }
            self.event(event, now);
        }
    }

    fn event(&mut self, event: Event, now: Now) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Gossip(event)) => self.gossip_event(event, now),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.status.connected(connection_id, peer_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, .. } => {
                self.status.closed(connection_id);
                if num_established == 0 {
                    self.following.disconnected(&peer_id);
                }
            }
            SwarmEvent::ListenerClosed { reason: Err(error), .. }
            | SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(node = %self.name, %error, "a listener failed");
                self.status.listen_error = Some(error.to_string());
            }
            _ => {}
        }
    }
}

/// The record.
impl EventLoop {
    fn record_read(&mut self, result: Result<Option<Value>, Error>, now: Now) {
        self.reading = false;
        match result {
            Ok(Some(value)) if value.revision > self.revision => match NodeRecord::from_bytes(value.data) {
                Ok(record) => self.adopt(record, value.revision, now),
                Err(error) => tracing::error!(node = %self.name, %error, "the record cannot be read"),
            },
            Ok(Some(_)) => {}
            Ok(None) => self.tell(Note::Unwanted),
            Err(error) => tracing::debug!(node = %self.name, %error, "the record was not read"),
        }
        let refreshes = std::mem::take(&mut self.waits.refreshes);
        for (call, revision) in refreshes {
            if self.revision >= revision {
                self.calls.answer(call, Ok(plexus_bus::Payload::default()), now);
            } else {
                self.waits.refreshes.push((call, revision));
            }
        }
    }

    fn adopt(&mut self, record: NodeRecord, revision: u64, now: Now) {
        let former = std::mem::replace(&mut self.record, record);
        self.revision = revision;
        let spec = self.spec();
        if self.record.deleting || spec.stopped() || self.record.generation != former.generation {
            return self.tell(Note::Unwanted);
        }
        self.following.set_record(&self.record);
        self.apply_policies();
        if let Err(refused) = self.log.open(self.following.kept(now.wall)) {
            tracing::warn!(node = %self.name, ?refused, "not every pinned topic can be kept");
        }
        self.moved = true;
        if self.swarm.see().is_none() {
            return;
        }
        let old = former.node.and_then(|node| node.spec).unwrap_or_default();
        if start::fixed(&old) != start::fixed(&spec) {
            return self.rebuild(now);
        }
        if former.blocks != self.record.blocks {
            self.set_blocks(now);
        }
        let new: Vec<String> =
            spec.bootstrap.iter().filter(|a| !old.bootstrap.contains(a)).cloned().collect();
        self.dial(new.iter());
    }

    fn set_blocks(&mut self, now: Now) {
        let blocks: &[v1::BlockEntry] = &self.record.blocks;
        let Some(swarm) = self.swarm.act() else { return };
        if let Err(error) = swarm.behaviour_mut().blocks.set(blocks) {
            self.status.failed(Reason::Internal, error.to_string(), now);
        }
    }

    /// Builds the swarm anew in place; a spec that cannot be built leaves the former one running.
    fn rebuild(&mut self, now: Now) {
        self.known.extend(self.connected_addresses());
        if let Err(error) = self.build(now) {
            tracing::warn!(node = %self.name, %error, "the changed spec cannot be run");
            self.status.failed(Reason::FieldInvalid, error.to_string(), now);
        }
        self.step_waiting(None, now);
    }
}

/// The end.
impl EventLoop {
    fn drain(&mut self, now: Now) {
        self.draining = Some(now.moment);
        self.commands = None;
        self.hand_back_publishes();
        self.log.drain();
    }

    fn check_drained(&mut self, now: Now) {
        let late = self.draining.is_some_and(|since| now.moment.since(since) >= DRAIN);
        let clear = self.log.drained() && self.publishes.is_drained() && self.calls.is_flushed();
        if clear || late || !self.running {
            self.end(Ended::Stopped);
        }
    }

    /// The swarm is gone before this returns (P7). An owner past its deadline writes nothing more.
    async fn close(mut self, ended: Ended) -> Ended {
        self.swarm.drop_swarm();
        self.commands = None;
        if ended == Ended::Stopped && self.running {
            let state = self.last_state(Now::read());
            let write = work::state(self.bus.clone(), self.name.clone(), self.log.grant(), state);
            if let Done::State(Err(error)) = write.await {
                tracing::debug!(node = %self.name, %error, "the last state was not written");
            }
        }
        self.work.shutdown().await;
        ended
    }
}

/// Waits for calls; for ever without a subscription. Cancel-safe.
async fn hear(commands: &mut Option<Subscription>, heard: &mut Vec<Heard>) -> usize {
    match commands {
        Some(commands) => commands.recv_many(heard, COMMANDS).await,
        None => std::future::pending().await,
    }
}
