//! The sole owner of which nodes live on this worker. It renews the lease, claims nodes, starts and
//! ends their tasks, buries the deleted ones, and hands all over at the end. It never waits for the
//! bus or for a node: errands and tasks come back as inputs.
//!
//! The lease's deadline is tested before anything else in every wake (protocol.md P2). Nodes test it
//! themselves before they poll their swarms; a fence here only ends what already stands still.

mod control;
mod fleet;
mod hearing;
mod nodes;

use super::{
    create::Maker,
    errands::{self, Done, Feeds},
    identity::Seal,
    lease::{Lease, Phase, Renewal, Step},
    placement::Placement,
};
use crate::{
    Alive, Config, Metrics, Pulse,
    clock::Moment,
    node::{Ended, Note, Start, Store},
};
use control::{Claimed, Control, Next};
use fleet::Fleet;
use futures::future::BoxFuture;
use nodes::Hosted;
use plexus_bus::{Bus, Claim, Error, Event, NodeName, Renewed, Subscription};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, Id, JoinError, JoinSet},
    time::{Interval, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

/// How often the loop looks at the clock: bounds how late a renewal, a claim or a fence is.
const TICK: Duration = Duration::from_millis(50);
/// How often it is asked which workers live: with the lease's 6 s it bounds how fast a dead worker is
/// noticed.
const LIVES_INTERVAL: Duration = Duration::from_millis(500);
/// How long a node may take to end after a fence before its task is cut off.
const FENCE_TIME: Duration = Duration::from_secs(2);
/// Wait before a failed subscription is tried again.
const SUBSCRIBE_RETRY: Duration = Duration::from_secs(1);
/// Creations at once; more are left to other workers, and to the caller's next try.
const CREATIONS_MAX: usize = 64;
/// Notes of nodes that wait; nodes drop theirs when it is full, and the record tells what was missed.
const NOTES_MAX: usize = 4096;
/// Records of nodes here that are read again in one survey, in case a hint was missed.
const CHECKS_MAX: usize = 64;

/// Runs a node; [`crate::node::event_loop::EventLoop`] outside of tests.
pub(crate) type Spawn = Arc<dyn Fn(Start, CancellationToken) -> BoxFuture<'static, Ended> + Send + Sync>;

/// What probes look at.
pub(crate) struct Probes {
    /// Whether the lease is held.
    pub(crate) ready: watch::Sender<bool>,
    /// Whether the loops turn.
    pub(crate) alive: Alive,
}

/// The host of a worker.
pub(crate) struct EventLoop {
    config: Arc<Config>,
    bus: Bus,
    metrics: Metrics,
    /// Makes nodes, and holds what seals their keys.
    maker: Maker,
    spawn: Spawn,
    probes: Probes,
    lease: Lease,
    /// The deadline as nodes read it; a new channel for each incarnation, so that none lives on.
    deadline: watch::Sender<Moment>,
    /// What renewals tell of the store, as nodes read it.
    store: watch::Sender<Option<Store>>,
    /// Until then the store counts as replicated: as long as it had a replica when one of the entries that
    /// nodes keep was written.
    replicated_until: Moment,
    /// Stops every node of this incarnation.
    root: CancellationToken,
    placement: Placement,
    /// Nodes under a grant of this incarnation.
    hosted: HashMap<NodeName, Hosted>,
    /// Their tasks, and those of nodes that are not ours any more until they end.
    tasks: JoinSet<Ended>,
    /// Whose task is whose.
    running: HashMap<Id, Task>,
    /// Nodes whose task has to end before they may run here again.
    lingering: HashSet<NodeName>,
    /// What has to be said to the control slot.
    control: Control,
    /// Errands under way.
    work: JoinSet<Done>,
    /// What nodes say.
    notes: mpsc::Receiver<(NodeName, Note)>,
    /// Their end of it, handed to each.
    note_sender: mpsc::Sender<(NodeName, Note)>,
    feeds: Feeds,
    /// What the worker says of itself.
    fleet: Fleet,
    clock: Interval,
    /// When to survey next, and whether one is under way; so for the others.
    survey_at: Moment,
    surveying: bool,
    lives_at: Moment,
    asking_lives: bool,
    subscribe_at: Moment,
    subscribing: bool,
    reading: bool,
    forgetting: bool,
    /// When nodes of a fenced incarnation are given back: not before others know that this worker is
    /// there again.
    forget_at: Moment,
    retiring: bool,
    creations: usize,
    /// Nodes whose revision is being read, and those to read once more after that.
    asking: HashSet<NodeName>,
    ask_again: HashSet<NodeName>,
    /// Nodes here in the order in which their records are read again.
    checks: VecDeque<NodeName>,
    /// When a drain is broken off.
    drain_until: Option<Moment>,
    /// The drain took too long: [`EventLoop::close`] gives back what is left.
    given_up: bool,
}

/// A running task.
struct Task {
    node: NodeName,
    abort: AbortHandle,
    pulse: Pulse,
    /// When it is cut off.
    until: Option<Moment>,
}

impl Task {
    fn limit(&mut self, until: Moment) {
        self.until = Some(self.until.map_or(until, |earlier| earlier.min(until)));
    }
}

/// What wakes the loop.
enum Input {
    /// The worker shall leave.
    Stop,
    /// Time passed.
    Tick,
    /// A node's task ended.
    Ended(Id, Result<Ended, JoinError>),
    /// An errand came back.
    Done(Box<Done>),
    /// A node said something.
    Note(NodeName, Note),
    /// Ownership changed; `None`: the feed ended. So for the others.
    Ownership(Option<Event>),
    /// A record changed.
    Records(Option<Event>),
    /// A call for any worker.
    Anyone(Option<Event>),
}

impl EventLoop {
    /// Makes a host; nothing happens before [`EventLoop::run`].
    pub(crate) fn new(
        config: Arc<Config>,
        id: &str,
        bus: Bus,
        seal: Seal,
        metrics: Metrics,
        probes: Probes,
        spawn: Spawn,
    ) -> Self {
        let now = Moment::now();
        let (note_sender, notes) = mpsc::channel(NOTES_MAX);
        let mut clock = tokio::time::interval(TICK);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            lease: Lease::new(id, &config.lease, now),
            placement: Placement::new(id, &config),
            fleet: Fleet::new(id, &config, now),
            maker: Maker { bus: bus.clone(), seal: Arc::new(seal) },
            config,
            bus,
            metrics,
            spawn,
            probes,
            deadline: watch::Sender::new(Moment::PAST),
            store: watch::Sender::new(None),
            replicated_until: Moment::PAST,
            root: CancellationToken::new(),
            hosted: HashMap::new(),
            tasks: JoinSet::new(),
            running: HashMap::new(),
            lingering: HashSet::new(),
            control: Control::default(),
            work: JoinSet::new(),
            notes,
            note_sender,
            feeds: Feeds::default(),
            clock,
            survey_at: now,
            surveying: false,
            lives_at: now,
            asking_lives: false,
            subscribe_at: now,
            subscribing: false,
            reading: false,
            forgetting: false,
            forget_at: now,
            retiring: false,
            creations: 0,
            asking: HashSet::new(),
            ask_again: HashSet::new(),
            checks: VecDeque::new(),
            drain_until: None,
            given_up: false,
        }
    }

    /// Hosts nodes until `stop`, then hands them over.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        while let Some(input) = self.next(&stop).await {
            self.apply(Moment::now(), input);
        }
        self.close().await;
    }

    async fn next(&mut self, stop: &CancellationToken) -> Option<Input> {
        if self.lease.phase() == Phase::Gone || self.given_up {
            return None;
        }
        tokio::select! {
            () = stop.cancelled(), if !self.lease.leaving() => Some(Input::Stop),
            Some(ended) = self.tasks.join_next_with_id() => Some(match ended {
                Ok((id, ended)) => Input::Ended(id, Ok(ended)),
                Err(error) => Input::Ended(error.id(), Err(error)),
            }),
            Some(done) = self.work.join_next() => Some(Input::Done(Box::new(done.expect("errands do not panic")))),
            Some((node, note)) = self.notes.recv() => Some(Input::Note(node, note)),
            event = heard(&mut self.feeds.ownership) => Some(Input::Ownership(event)),
            event = heard(&mut self.feeds.records) => Some(Input::Records(event)),
            event = heard(&mut self.feeds.anyone) => Some(Input::Anyone(event)),
            _ = self.clock.tick() => Some(Input::Tick),
        }
    }

    fn apply(&mut self, now: Moment, input: Input) {
        if self.lease.overdue(now) {
            self.fence(now);
        }
        match input {
            Input::Stop => self.leave(now),
            Input::Tick => self.probes.alive.beat(self.running.values().map(|task| &task.pulse)),
            Input::Ended(task, ended) => self.ended(task, ended, now),
            Input::Done(done) => self.done(*done, now),
            Input::Note(node, note) => return self.noted(&node, note),
            Input::Ownership(event) => return self.ownership(event, now),
            Input::Records(event) => return self.records(event, now),
            Input::Anyone(event) => return self.anyone(event, now),
        }
        self.advance(now);
    }

    /// Cuts off what is left, and gives back what can be.
    async fn close(mut self) {
        self.probes.ready.send_replace(false);
        self.root.cancel();
        self.tasks.shutdown().await;
        self.work.shutdown().await;
        if self.lease.phase() != Phase::Draining || self.lease.overdue(Moment::now()) {
            return;
        }
        let nodes: Vec<_> =
            self.hosted.iter().map(|(node, hosted)| (node.clone(), hosted.grant.epoch)).collect();
        tracing::warn!(nodes = nodes.len(), "the drain took too long; what is left is given back");
        let incarnation = self.lease.incarnation();
        if !nodes.is_empty() && self.bus.release(incarnation, &nodes).await.is_err() {
            return;
        }
        if let Err(error) = self.bus.retire(incarnation).await {
            tracing::debug!(%error, "the lease is left to its end");
        }
    }

    /// Does all that is due.
    fn advance(&mut self, now: Moment) {
        self.settle(now);
        if let Some(renewal) = self.lease.renewal(now) {
            let bus = self.bus.clone();
            self.work.spawn(async move {
                let answer = bus.renew(&renewal.incarnation, renewal.fresh).await;
                Done::Renewed { renewal, answer }
            });
        }
        self.look(now);
        self.show(now);
        self.wake(now);
        if self.lease.held() {
            self.plan(now);
            self.spread(now);
        }
        self.say(now);
        self.cut_off(now);
    }

    /// Goes on to the next phase of the lease once nothing holds it back.
    fn settle(&mut self, now: Moment) {
        match self.lease.phase() {
            Phase::Fenced if self.running.is_empty() => {
                self.lease.stopped(now);
                self.deadline = watch::Sender::new(Moment::PAST);
                self.root = CancellationToken::new();
            }
            Phase::Draining if self.drain_until.is_some_and(|until| until <= now) => {
                self.given_up = true;
            }
            _ => {}
        }
        let empty = self.hosted.is_empty() && self.running.is_empty() && self.control.is_idle();
        if self.lease.phase() == Phase::Draining && empty && !self.retiring {
            self.retiring = true;
            self.work.spawn(errands::retire(self.bus.clone(), self.lease.incarnation().clone()));
        }
    }

    /// Reads what has to be known: subscriptions, the directory, who lives.
    fn look(&mut self, now: Moment) {
        let deaf = self.feeds.records.is_none();
        if deaf && !self.subscribing && self.subscribe_at <= now && !self.lease.leaving() {
            self.subscribing = true;
            self.work.spawn(errands::subscribe(self.bus.clone()));
        }
        if !self.lease.held() {
            return;
        }
        if self.survey_at <= now && !self.surveying {
            self.surveying = true;
            self.survey_at = now.after(self.config.lease.survey_interval);
            self.work.spawn(errands::survey(self.bus.clone(), self.placement.own().worker.clone()));
            self.check();
        }
        if self.lives_at <= now && !self.asking_lives {
            self.asking_lives = true;
            self.lives_at = now.after(LIVES_INTERVAL);
            let bus = self.bus.clone();
            self.work.spawn(async move { Done::Lives(bus.workers().await) });
        }
        if let Some(former) = self.lease.former().filter(|_| !self.forgetting && self.forget_at <= now) {
            self.forgetting = true;
            let (incarnation, former) = (self.lease.incarnation().clone(), former.clone());
            self.work.spawn(errands::forget(self.bus.clone(), incarnation, former));
        }
    }

    /// Reads the records of some nodes here again, in turn.
    fn check(&mut self) {
        if self.checks.is_empty() {
            self.checks = self.hosted.keys().cloned().collect();
        }
        for node in self.checks.drain(..self.checks.len().min(CHECKS_MAX)).collect::<Vec<_>>() {
            if self.hosted.contains_key(&node) {
                self.ask(node);
            }
        }
    }

    fn plan(&mut self, now: Moment) {
        let loading =
            self.hosted.values().filter(|hosted| matches!(hosted.phase, nodes::Phase::Loading)).count();
        let may_claim =
            loading < self.config.lease.claims_max && self.control.is_idle() && self.fleet.takes();
        let plan = self.placement.step(now, !self.reading, may_claim);
        for node in plan.claim {
            self.control.claim(Claim { node, floor: 0, from: None });
        }
        if !plan.read.is_empty() {
            self.reading = true;
            self.work.spawn(errands::read(self.bus.clone(), plan.read));
        }
    }

    /// Says the next thing to the control slot.
    fn say(&mut self, now: Moment) {
        if !matches!(self.lease.phase(), Phase::Held | Phase::Draining) {
            return;
        }
        let Some(next) = self.control.next(now) else { return };
        let (bus, incarnation) = (self.bus.clone(), self.lease.incarnation().clone());
        match next {
            Next::Take(nonce, claims) => self.work.spawn(async move {
                let answer = bus.take(&incarnation, nonce, &claims).await;
                Done::Took { incarnation, nonce, claims, answer }
            }),
            Next::Release(nodes) => self.work.spawn(async move {
                let answer = bus.release(&incarnation, &nodes).await;
                Done::Released { incarnation, nodes, answer }
            }),
            Next::Compare => self.work.spawn(async move {
                let answer = bus.owned(&incarnation).await;
                Done::Owned { incarnation, answer }
            }),
        };
    }

    /// Ends tasks that do not end by themselves.
    fn cut_off(&mut self, now: Moment) {
        for task in self.running.values_mut().filter(|task| task.until.is_some_and(|until| until <= now)) {
            tracing::error!(node = %task.node, "a node did not end in time and is cut off");
            task.abort.abort();
            task.until = None;
        }
    }
}

/// The lease.
impl EventLoop {
    fn renewed(&mut self, renewal: &Renewal, answer: Result<Renewed, Error>, now: Moment) {
        let answer =
            answer.inspect_err(|error| tracing::warn!(%error, "the lease could not be renewed")).ok();
        let step = self.lease.answered(renewal, answer.as_ref(), now);
        if let (Step::Begun | Step::Extended, Some(Renewed::Held { era, changes, replicas })) = (step, answer)
        {
            if replicas > 0 {
                self.replicated_until = now.after(self.config.node.ring_age_max);
            }
            self.control.counted(&era, changes);
            let store = Store { era, replicated: now < self.replicated_until };
            self.store.send_if_modified(|known| known.replace(store.clone()).as_ref() != Some(&store));
            self.deadline.send_replace(self.lease.deadline());
        }
        match step {
            Step::Begun => {
                tracing::info!(incarnation = %self.lease.incarnation(), "lease held");
                self.probes.ready.send_replace(true);
                self.survey_at = now;
                self.forget_at = now.after(LIVES_INTERVAL * 2);
            }
            Step::Fence => self.fence(now),
            Step::None | Step::Extended => {}
        }
    }

    /// Stops every node and drops every grant (P2, P3).
    fn fence(&mut self, now: Moment) {
        if self.root.is_cancelled() {
            return;
        }
        tracing::error!(nodes = self.hosted.len(), "the lease is over: every node is stopped");
        self.metrics.fences.inc();
        self.lease.fence();
        self.deadline.send_replace(Moment::PAST);
        self.probes.ready.send_replace(false);
        self.root.cancel();
        let until = now.after(FENCE_TIME);
        self.running.values_mut().for_each(|task| task.limit(until));
        self.hosted.clear();
        self.control = Control::default();
        self.placement.fenced(self.lease.incarnation());
        self.forgetting = false;
        self.retiring = false;
    }

    fn leave(&mut self, now: Moment) {
        tracing::info!(nodes = self.hosted.len(), "draining");
        self.probes.ready.send_replace(false);
        self.lease.drain();
        self.feeds.anyone = None;
        self.drain_until = Some(now.after(self.config.drain));
        self.reshow(now);
        self.hand_over();
    }
}

/// Waits for an event of a feed, forever where there is none. Cancel-safe.
async fn heard(feed: &mut Option<Subscription>) -> Option<Event> {
    match feed {
        Some(feed) => feed.recv().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
