//! The sole owner of a node's swarm: one identity, one task. It opens the node's logs, builds the
//! swarm, serves calls and events until the lease ends, the host stops it, or another owner is there.
//!
//! `next` waits, `apply` acts and never waits; what takes time is a task in `work` and comes back as
//! an input. Each capability has its arm and its file: `publish`, `topics`, `messages`, `status`,
//! `start`. Nothing outside holds any of this state.

use super::{
    Ended, Note, Start, Store,
    calls::Calls,
    following::Following,
    leased::{Event, Leased},
    log::{Limits, Log},
    peers::Peers,
    publishes::Publishes,
    ring::{self, Share},
    start::Muted,
    status::Status,
    topics::Waits,
    work::{self, Done},
};
use crate::{
    Config, Metrics, Pulse,
    clock::{Moment, Now},
    swarm::{BehaviourEvent, gossip},
};
use bytes::Bytes;
use libp2p::{identity::Keypair, swarm::SwarmEvent};
use plexus_bus::{Bus, CallId, Era, Event as Heard, Incarnation, NodeName, Subscription};
use plexus_proto::bus::NodeRecord;
use std::{collections::HashSet, pin::Pin, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, Sleep},
};
use tokio_util::sync::CancellationToken;

/// Between two ticks.
const TICK: Duration = Duration::from_secs(1);
/// The same of a node at rest, whose ticks are most of what it costs.
const TICK_AT_REST: Duration = Duration::from_secs(3);
/// The soonest that the loop wakes itself again.
const SOON: Duration = Duration::from_millis(2);
/// Commands taken in one wake.
const COMMANDS: usize = 64;
/// Between two looks at the interest of gateways: with their half second, readers are counted within 5 s.
const SURVEY: Duration = Duration::from_secs(4);
/// The same while nobody reads anything.
const SURVEY_IDLE: Duration = Duration::from_secs(30);
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
    /// Remote peers.
    pub(super) peers: Peers,
    /// Calls that `peers` has to finish.
    pub(super) asking: HashSet<CallId>,
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
    /// Calls from the bus; `None` before the node is open and once nobody sends it any.
    pub(super) commands: Option<Subscription>,
    /// What the last renewal told of the store.
    store: watch::Receiver<Option<Store>>,
    /// The era that the logs are known to be in.
    last_era: Option<Era>,
    /// What of the worker's memory it may keep to append again, and for how long.
    pub(super) share: Share,
    pub(super) ring_age_max: Duration,
    /// The revision that the host last heard of.
    changed: watch::Receiver<u64>,
    notes: mpsc::Sender<(NodeName, Note)>,
    /// Shows that the loop turns.
    pulse: Pulse,
    clock: Pin<Box<Sleep>>,
    pub(super) ticked: Moment,
    pub(super) surveyed: Moment,
    /// Whether interest, record or subscription are being read.
    pub(super) surveying: bool,
    pub(super) reading: bool,
    pub(super) subscribing: bool,
    /// Whether `Note::Running` was given.
    pub(super) running: bool,
    /// A note that found the host's queue full.
    unsaid: Vec<Note>,
    /// Since when it hands over.
    pub(super) draining: Option<Moment>,
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
    /// The store has another primary, or other replicas.
    Store,
    /// The record changed.
    Record,
    /// The swarm's events.
    Swarm(Vec<Event>),
}

impl EventLoop {
    /// Makes a node; nothing happens before [`EventLoop::run`]. Boxed, as a future holds what it is given
    /// twice.
    pub fn new(start: Start) -> Box<Self> {
        let now = Now::read();
        let limits = &start.config.node;
        let store = start.store.borrow().clone();
        let ring_age_max = ring::age_max(store.as_ref(), limits);
        let last_era = store.map(|store| store.era);
        let mut following = Following::new(limits.clone());
        following.set_record(&start.record);
        let mut node = Box::new(Self {
            status: Status::new(&start.state, now),
            author: start.key.public().to_peer_id().to_bytes().into(),
            swarm: Leased::new(start.deadline, start.metrics.libp2p.clone()),
            ids: None,
            log: Log::new(start.grant, Limits::of(limits)),
            share: Share::new(start.metrics.ring_bytes.clone(), start.config.ring_bytes_max),
            ring_age_max,
            calls: Calls::new(
                start.worker.clone(),
                start.grant.epoch,
                limits.commands_max,
                limits.answers_max,
            ),
            following,
            publishes: Publishes::default(),
            waits: Waits::default(),
            asking: HashSet::new(),
            peers: Peers::new(limits, &start.record, &start.state.peers, start.key.clone()),
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
            surveying: false,
            reading: false,
            subscribing: false,
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
            last_era,
            store: start.store,
            changed: start.changed,
            notes: start.notes,
            pulse: start.pulse,
        });
        // Known and wanted logs are opened by the carrier; with the pins these are all.
        node.apply_policies();
        node.open_kept(now);
        node
    }

    /// Opens the logs, builds the swarm, and serves until it ends.
    pub async fn run(mut self: Box<Self>, stop: CancellationToken) -> Ended {
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
            Ok(()) = self.store.changed() => Input::Store,
            Ok(()) = self.changed.changed() => Input::Record,
            events = self.swarm.next() => events.map_or(Input::Late, Input::Swarm),
        }
    }

    fn set_clock(&mut self) {
        let tick = if self.at_rest() { TICK_AT_REST } else { TICK };
        let mut until = self.ticked.after(tick).min(self.swarm.deadline());
        let more = [self.log.wake(), self.publishes.wake(), self.peers.wake(), self.unmute_at()];
        // What is due and still waits for a task must not keep the loop spinning.
        let soon = self.now.moment.after(SOON);
        for wake in more.into_iter().flatten() {
            until = until.min(wake.max(soon));
        }
        let at = Instant::now() + until.since(Moment::now());
        // A timer that is set anew at each wake costs more than one that fires a little early or late.
        let is = self.clock.deadline();
        if self.clock.is_elapsed() || at < is || at.duration_since(is) > TICK {
            self.clock.as_mut().reset(at);
        }
    }

    /// Tells whether nothing is under way that a tick would move on: no call, no reader, nobody to find.
    fn at_rest(&self) -> bool {
        self.running
            && self.draining.is_none()
            && self.unsaid.is_empty()
            && self.commands.is_some()
            && self.calls.is_quiet()
            && !self.peers.searches()
            && self.following.gateways().is_empty()
    }

    fn unmute_at(&self) -> Option<Moment> {
        match self.muted {
            Some(Muted::Until(at)) => Some(at),
            _ => None,
        }
    }

    fn apply(&mut self, input: Input) {
        self.pulse.beat();
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
            Input::Commands(heard) if self.draining.is_some() => self.hand_back(heard, now),
            Input::Commands(heard) => self.commands(heard, now),
            Input::Deaf if self.draining.is_some() => self.commands = None,
            Input::Deaf => self.end(Ended::Failed("the bus is closed".into())),
            Input::Store => self.store_changed(),
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

    /// Another primary: what was written before may be lost there. The first era heard of is no change.
    fn store_changed(&mut self) {
        let store = self.store.borrow_and_update().clone();
        self.ring_age_max = ring::age_max(store.as_ref(), &self.config.node);
        let era = store.map(|store| store.era);
        if self.last_era.is_some() && era != self.last_era {
            self.log.doubt();
        }
        self.last_era = era;
    }

    /// What follows from any input.
    fn settle(&mut self, now: Now) {
        if self.ended.is_some() {
            return;
        }
        self.expire_publishes(now);
        self.serve_peers(now);
        if self.moved {
            self.move_topics(now);
        }
        self.remember();
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
        if self.running && self.draining.is_none() {
            self.write_state(now);
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
        let idle = self.following.gateways().is_empty();
        if now.moment.since(self.surveyed) >= if idle { SURVEY_IDLE } else { SURVEY } {
            self.survey(now);
        }
        if self.unmute_at().is_some_and(|at| at <= now.moment) {
            self.rebuild(now);
        }
        if !self.waits.refreshes.is_empty() {
            self.read_record();
        }
        if let Some(swarm) = self.swarm.act() {
            self.peers.tick(swarm, now.moment);
            self.subscribe();
        }
        self.step_waiting(None, now);
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

    pub(super) fn subscribe(&mut self) {
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

    pub(super) fn tell(&mut self, note: Note) {
        if let Err(mpsc::error::TrySendError::Full((_, note))) =
            self.notes.try_send((self.name.clone(), note))
        {
            self.unsaid.push(note);
        }
    }
}

/// What the swarm tells.
impl EventLoop {
    fn events(&mut self, events: Vec<Event>, now: Now) {
        for event in events {
            // P2 again: each event may lead to an effect.
            if !self.swarm.holds() {
                return self.end(Ended::Fenced);
            }
            if let Some(swarm) = self.swarm.act() {
                self.peers.on_swarm_event(swarm, &event, now.moment, now.wall);
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

/// The end.
impl EventLoop {
    fn drain(&mut self, now: Now) {
        self.draining = Some(now.moment);
        if let Some(commands) = &mut self.commands {
            commands.leave();
        }
        self.hand_back_publishes();
        self.log.drain();
    }

    fn check_drained(&mut self, now: Now) {
        let late = self.draining.is_some_and(|since| now.moment.since(since) >= DRAIN);
        let clear = self.commands.is_none()
            && self.log.drained()
            && self.publishes.is_drained()
            && self.calls.is_flushed();
        if clear || late || !self.running {
            self.end(Ended::Stopped);
        }
    }

    /// The swarm is gone before this returns (P7). An owner past its deadline writes nothing more.
    async fn close(&mut self, ended: Ended) -> Ended {
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

#[cfg(test)]
mod tests {
    use super::*;
    use plexus_bus::Grant;

    async fn node(deadline: Moment) -> Box<EventLoop> {
        let (_, deadline) = watch::channel(deadline);
        let (_, store) = watch::channel(Some(Store { era: "one".into(), replicated: false }));
        let (_, changed) = watch::channel(1);
        EventLoop::new(Start {
            name: NodeName::new("default", "a").unwrap(),
            worker: "w.1".into(),
            grant: Grant { epoch: 7, nonce: 1 },
            record: NodeRecord::default(),
            revision: 1,
            state: Default::default(),
            key: Keypair::generate_ed25519(),
            deadline,
            store,
            changed,
            bus: Bus::open(&plexus_bus::Config::default()).await.unwrap(),
            config: Arc::new(Config { allow_private_addresses: true, ..Default::default() }),
            metrics: Metrics::default(),
            pulse: Pulse::default(),
            notes: mpsc::channel(1).0,
        })
    }

    #[tokio::test]
    async fn nothing_is_done_past_the_deadline() {
        let mut late = node(Moment::PAST).await;
        late.apply(Input::Tick);
        assert_eq!(late.ended, Some(Ended::Fenced));
        assert!(late.work.is_empty());
        let mut held = node(Moment::now().after(Duration::from_secs(60))).await;
        held.apply(Input::Tick);
        assert_eq!(held.ended, None);
        assert!(!held.work.is_empty(), "it opens its logs");
        assert!(held.swarm.see().is_none(), "it has no swarm before they are open");
    }

    #[tokio::test]
    async fn each_wake_shows_that_the_loop_turns() {
        let mut node = node(Moment::now().after(Duration::from_secs(60))).await;
        node.pulse = Pulse::stale(Duration::from_secs(60));
        let before = node.pulse.last();
        node.apply(Input::Tick);
        assert!(node.pulse.last() > before);
    }

    #[tokio::test]
    async fn a_stop_before_the_logs_are_open_ends_at_once() {
        let mut node = node(Moment::now().after(Duration::from_secs(60))).await;
        node.apply(Input::Stop);
        assert_eq!(node.ended, Some(Ended::Stopped));
    }
}
