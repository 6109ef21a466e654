//! The loop that owns what waits: it hears the bus and the handles, and keeps everybody's clock.

use super::{
    Metrics,
    call::{Command, Sink},
    heard::{Heard, Lives},
    jobs::{self, Done},
    notes::{Note, Notes},
    orders::finish,
    pending::{Pending, Standing},
    subscriptions::{self, Subscriptions},
};
use crate::{card::Card, config, pulse::Beat, resume::Tokens};
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use plexus_bus::{Bus, Envelope, Event, GatewayId, NodeName};
use plexus_proto::bus::OwnerChange;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Interval, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

/// How exactly deadlines are kept.
const TICK: Duration = Duration::from_millis(25);
/// Time between looks at every topic.
const SWEEP: Duration = Duration::from_secs(1);
/// Time between looks at how many readers there are; with the owner's own interval of 4 s what it tells
/// follows within 5 s.
const COUNT: Duration = Duration::from_millis(500);
/// Tails read in one round trip.
const TOPS_MAX: usize = 512;

/// Sole owner of pending calls and subscriptions.
pub struct EventLoop {
    pub(super) bus: Bus,
    pub(super) gateway: GatewayId,
    pub(super) config: config::Router,
    /// What handles ask for.
    commands: mpsc::Receiver<Command>,
    /// What callers and readers say when they go on or give up.
    notes: Notes,
    /// Resume tokens, whose key the bus keeps.
    tokens: Tokens,
    /// Answers to this gateway, changes of ownership, names of changed records.
    heard: Option<Heard>,
    /// Live entries of every followed topic.
    pub(super) lives: Lives,
    /// Calls that wait for an answer.
    pub(super) pending: Pending<Sink>,
    /// Readers and the topics they follow.
    pub(super) subscriptions: Subscriptions,
    /// Calls on their way to the bus. Each is handed to the carrier when it is first polled, and those
    /// polls are in order: calls of one session reach a node in the order in which they came.
    pub(super) sends: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Work that the loop does not wait for.
    pub(super) work: JoinSet<Done>,
    clock: Interval,
    swept: Instant,
    /// Live entries may have been missed: tails are compared at the next tick.
    doubted: bool,
    attended: Instant,
    /// What the gateway says of itself.
    pub(super) card: Option<Card>,
    counted: Instant,
    /// Nothing new is taken; the loop ends when nobody waits.
    draining: bool,
    pub(super) metrics: Arc<Metrics>,
    /// That the loop turns.
    beat: Beat,
}

enum Input {
    Stop,
    Tick,
    Done(Done),
    Command(Command),
    Notes(Vec<Note>),
    Reply(Event),
    Ownership(Event),
    Record(Event),
    Live(u32, Event),
}

impl EventLoop {
    pub(super) fn new(
        bus: Bus,
        gateway: GatewayId,
        config: config::Router,
        commands: mpsc::Receiver<Command>,
        notes: Notes,
        tokens: Tokens,
        metrics: Arc<Metrics>,
    ) -> Self {
        let now = Instant::now();
        let mut clock = tokio::time::interval(TICK);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            bus,
            gateway,
            commands,
            notes: notes.clone(),
            tokens,
            heard: None,
            lives: Lives::default(),
            pending: Pending::new(config.pending_max, config.resend_after),
            subscriptions: Subscriptions::new(config.clone(), notes, metrics.clone()),
            config,
            sends: FuturesUnordered::new(),
            work: JoinSet::new(),
            clock,
            swept: now,
            doubted: false,
            attended: now,
            card: None,
            counted: now,
            draining: false,
            metrics,
            beat: Beat::new(),
        }
    }

    /// Shows a card of the gateway, as often as its lease is renewed.
    pub(crate) fn show(&mut self, card: Card) {
        self.card = Some(card);
    }

    /// That the loop turns.
    pub(crate) fn beat(&self) -> Beat {
        self.beat.clone()
    }

    /// Runs until `stop`; then it refuses what is new, ends streams with `DRAINING` and waits for the
    /// answers that are still due.
    pub async fn run(mut self, stop: CancellationToken) {
        if stop.run_until_cancelled(self.open()).await.is_some() {
            self.attend();
            while let Some(input) = self.next(&stop).await {
                self.beat.beat();
                self.apply(input);
                self.act();
            }
        }
        self.beat.end();
        self.close().await;
    }

    /// Listens to what a gateway must hear before it may ask anything. A bus that does not answer is no
    /// reason to call the loop dead.
    async fn open(&mut self) {
        let heard = Heard::open(self.bus.clone(), self.gateway.clone(), self.tokens.clone());
        tokio::pin!(heard);
        loop {
            tokio::select! {
                heard = &mut heard => {
                    self.heard = Some(heard);
                    return;
                }
                _ = self.clock.tick() => self.beat.beat(),
            }
        }
    }

    async fn next(&mut self, stop: &CancellationToken) -> Option<Input> {
        if self.draining && self.pending.is_empty() {
            return None;
        }
        let heard = self.heard.as_mut()?;
        tokio::select! {
            () = stop.cancelled(), if !self.draining => Some(Input::Stop),
            _ = self.clock.tick() => Some(Input::Tick),
            Some(done) = self.sends.next() => Some(Input::Done(done)),
            Some(done) = self.work.join_next() => Some(Input::Done(done.expect("work does not panic"))),
            Some(command) = self.commands.recv() => Some(Input::Command(command)),
            notes = self.notes.heard() => Some(Input::Notes(notes)),
            Some(event) = heard.replies.recv() => Some(Input::Reply(event)),
            Some(event) = heard.ownership.recv() => Some(Input::Ownership(event)),
            Some(event) = heard.records.recv() => Some(Input::Record(event)),
            Some((t, event)) = self.lives.next() => Some(Input::Live(t, event)),
        }
    }

    fn apply(&mut self, input: Input) {
        let now = Instant::now();
        match input {
            Input::Stop => {
                self.draining = true;
                self.subscriptions.drain(now);
            }
            Input::Tick => self.tick(now),
            Input::Done(done) => self.done(done, now),
            Input::Command(command) => self.command(command, now),
            Input::Notes(notes) => notes.into_iter().for_each(|note| self.note(note, now)),
            Input::Reply(event) => self.reply(event, now),
            Input::Ownership(event) => self.ownership(event, now),
            Input::Record(event) => self.record(event),
            Input::Live(t, event) => self.live(t, event, now),
        }
    }

    fn note(&mut self, note: Note, now: Instant) {
        match note {
            Note::CallGone(id) => self.pending.gone(id),
            Note::Took(id, bytes) => self.pending.credit(id, bytes),
            Note::Drained(_) | Note::Left(_) => self.subscriptions.note(note, now),
        }
    }

    fn tick(&mut self, now: Instant) {
        self.pending.tick(now);
        self.subscriptions.tick(now);
        if now >= self.attended + self.config.attend_interval {
            self.attended = now;
            self.attend();
        }
        if now >= self.swept + SWEEP || self.doubted {
            (self.swept, self.doubted) = (now, false);
            let due = self.subscriptions.sweep(now);
            for due in due.chunks(TOPS_MAX) {
                self.work.spawn(jobs::tops(self.bus.clone(), due.to_vec()));
            }
        }
        if now >= self.counted + COUNT {
            self.counted = now;
            self.write_interest(false);
            self.metrics.pending.set(self.pending.len() as i64);
            let (readers, topics) = self.subscriptions.len();
            self.metrics.readers.set(readers as i64);
            self.metrics.topics.set(topics as i64);
        }
    }

    fn done(&mut self, done: Done, now: Instant) {
        match done {
            Done::Sent { id, attempt, result } => self.pending.sent(id, attempt, result, now),
            Done::Looked { node, standing } => {
                self.pending.looked(&node, standing);
                if standing == Some(Standing::Missing) {
                    self.subscriptions.deleted(&node, now);
                }
            }
            Done::Listening { t, result } => {
                let result = result.map(|subscription| self.lives.add(t, subscription));
                self.subscriptions.listening(t, result, now);
            }
            Done::Facts { t, result } => self.subscriptions.facts(t, result, now),
            Done::Found { t, ticket, found } => self.subscriptions.found(t, ticket, found, now),
            Done::FoundFor { id, slot, found } => self.subscriptions.found_for(id, slot, found, now),
            Done::Tops(tops) => self.subscriptions.compare(tops, now),
            Done::Left { t, withdrawn } => self.subscriptions.left(t, withdrawn, now),
            Done::Said => {}
        }
    }

    fn command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Call { sink, .. } if self.draining => finish(sink, Err(subscriptions::draining())),
            Command::Call { id, call, trace, deadline, sink } => {
                if self.pending.len() >= self.config.pending_max {
                    self.metrics.refuse("pending_max");
                }
                self.pending.begin(id, *call, trace, sink, deadline)
            }
            Command::Subscribe { wish, answer } => self.subscriptions.subscribe(*wish, answer, now),
        }
    }

    fn reply(&mut self, event: Event, now: Instant) {
        match event {
            Event::Frame(frame) => match frame.take::<Envelope>() {
                Ok(envelope) => self.pending.reply(envelope, now),
                Err(error) => tracing::warn!(%error, "an answer could not be read"),
            },
            Event::Lagged(_) => self.pending.missed(now),
            Event::Restored => {
                self.pending.missed(now);
                self.attend();
                self.write_interest(true);
            }
        }
    }

    fn ownership(&mut self, event: Event, now: Instant) {
        let Event::Frame(frame) = event else { return }; // calls look again by themselves
        let Ok(change) = frame.open::<OwnerChange>() else { return };
        let Ok(node) = NodeName::new(&change.namespace, &change.node) else { return };
        let owned = !change.worker.is_empty();
        self.pending.owner(&node, owned, change.epoch, now);
        if !owned && self.subscriptions.follows(&node) {
            self.subscriptions.disowned(&node);
            self.look(node);
        }
    }

    fn record(&mut self, event: Event) {
        let Event::Frame(frame) = event else { return };
        let Ok(name) = frame.open::<String>() else { return };
        let Ok(node) = NodeName::parse(&name) else { return };
        if self.subscriptions.follows(&node) {
            self.look(node);
        }
    }

    fn live(&mut self, t: u32, event: Event, now: Instant) {
        match event {
            Event::Frame(frame) => match frame.open() {
                Ok(entry) => self.subscriptions.live(t, entry, now),
                Err(error) => {
                    tracing::warn!(%error, "a live entry could not be read");
                    self.subscriptions.doubt(t);
                }
            },
            Event::Lagged(_) | Event::Restored => {
                self.subscriptions.doubt(t);
                self.doubted = true;
            }
        }
    }

    /// Refuses what still waits and takes the card away; interest stays and ends with this gateway's lease.
    async fn close(mut self) {
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Call { sink, .. } => finish(sink, Err(subscriptions::draining())),
                Command::Subscribe { answer, .. } => {
                    let _ = answer.send(Err(subscriptions::draining()));
                }
            }
        }
        self.work.shutdown().await;
        if self.card.is_some()
            && let Err(error) = self.bus.hide_gateway(&self.gateway).await
        {
            tracing::debug!(%error, "the gateway's card is left to its end");
        }
    }
}
