//! The loop that owns what waits: it hears the bus and the handles, and keeps everybody's clock.

use super::{
    Failure, Note,
    call::{Command, Output, Sink},
    jobs::{self, Done},
    pending::{Act, Pending, Standing},
    subscriptions::{self, Order, Subscriptions},
};
use crate::{config, pulse::Beat};
use futures::{
    Stream, StreamExt,
    stream::{AbortHandle, Abortable, SelectAll},
};
use plexus_bus::{
    Bus, Call, CallId, Envelope, Error, Event, GatewayId, NodeName, Payload, Subject, Subscription, Trace,
};
use plexus_proto::{
    bus::{Interest, Joined, OwnerChange, Principal, principal::Kind},
    reason::Reason,
    v1,
};
use std::{
    collections::HashMap,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant, SystemTime},
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
/// How long a subscription waits for its node to join.
const JOIN: Duration = Duration::from_secs(5);
/// Tails read in one round trip.
const TOPS_MAX: usize = 512;
/// Pause before the bus is tried again at start.
const OPEN_RETRY: Duration = Duration::from_millis(500);

/// Sole owner of pending calls and subscriptions.
pub struct EventLoop {
    bus: Bus,
    gateway: GatewayId,
    config: config::Router,
    /// What handles ask for.
    commands: mpsc::Receiver<Command>,
    /// What callers and readers say when they go on or give up.
    notes: mpsc::UnboundedReceiver<Note>,
    /// Answers to this gateway, changes of ownership, names of changed records.
    heard: Option<Heard>,
    /// Live entries of every followed topic.
    lives: SelectAll<Abortable<Live>>,
    /// Ends the listening to one of them.
    aborts: HashMap<u32, AbortHandle>,
    /// Calls that wait for an answer.
    pending: Pending<Sink>,
    /// Readers and the topics they follow.
    subscriptions: Subscriptions,
    /// Work that the loop does not wait for.
    work: JoinSet<Done>,
    clock: Interval,
    swept: Instant,
    /// Live entries may have been missed: tails are compared at the next tick.
    doubted: bool,
    attended: Instant,
    counted: Instant,
    /// Nothing new is taken; the loop ends when nobody waits.
    draining: bool,
    /// That the loop turns.
    beat: Beat,
}

/// Subscriptions that a gateway always has.
struct Heard {
    replies: Subscription,
    ownership: Subscription,
    records: Subscription,
}

impl Heard {
    /// Subscribes, again and again until the bus answers.
    async fn open(bus: Bus, gateway: GatewayId) -> Self {
        loop {
            let heard = async {
                let replies = bus.subscribe(Subject::Replies(gateway.clone())).await?;
                let ownership = bus.subscribe(Subject::Ownership).await?;
                let records = bus.subscribe(Subject::Records).await?;
                bus.attend(&gateway).await?;
                Ok::<_, Error>(Self { replies, ownership, records })
            };
            match heard.await {
                Ok(heard) => return heard,
                Err(error) => tracing::warn!(%error, "the bus cannot be heard yet"),
            }
            tokio::time::sleep(OPEN_RETRY).await;
        }
    }
}

/// Live entries of one topic.
struct Live {
    t: u32,
    subscription: Subscription,
}

impl Stream for Live {
    type Item = (u32, Event);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let t = self.t;
        self.subscription.poll_recv(cx).map(|event| event.map(|event| (t, event)))
    }
}

enum Input {
    Stop,
    Tick,
    Done(Done),
    Command(Command),
    Note(Note),
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
        (said, notes): (mpsc::UnboundedSender<Note>, mpsc::UnboundedReceiver<Note>),
    ) -> Self {
        let now = Instant::now();
        let mut clock = tokio::time::interval(TICK);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            bus,
            gateway,
            commands,
            notes,
            heard: None,
            lives: SelectAll::new(),
            aborts: HashMap::new(),
            pending: Pending::new(config.pending_max, config.resend_after),
            subscriptions: Subscriptions::new(config.clone(), said),
            config,
            work: JoinSet::new(),
            clock,
            swept: now,
            doubted: false,
            attended: now,
            counted: now,
            draining: false,
            beat: Beat::new(),
        }
    }

    /// That the loop turns.
    pub(crate) fn beat(&self) -> Beat {
        self.beat.clone()
    }

    /// Runs until `stop`; then it refuses what is new, ends streams with `DRAINING` and waits for the
    /// answers that are still due.
    pub async fn run(mut self, stop: CancellationToken) {
        if stop.run_until_cancelled(self.open()).await.is_some() {
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
        let heard = Heard::open(self.bus.clone(), self.gateway.clone());
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
            Some(done) = self.work.join_next() => Some(Input::Done(done.expect("work does not panic"))),
            Some(command) = self.commands.recv() => Some(Input::Command(command)),
            Some(note) = self.notes.recv() => Some(Input::Note(note)),
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
            Input::Note(Note::CallGone(id)) => self.pending.gone(id),
            Input::Note(Note::Took(id, bytes)) => self.pending.credit(id, bytes),
            Input::Note(note) => self.subscriptions.note(note, now),
            Input::Reply(event) => self.reply(event, now),
            Input::Ownership(event) => self.ownership(event, now),
            Input::Record(event) => self.record(event),
            Input::Live(t, event) => self.live(t, event, now),
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
        if now >= self.counted + self.config.check_interval {
            self.counted = now;
            self.write_interest(false);
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
                let result = result.map(|subscription| self.listen(t, subscription));
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

    fn listen(&mut self, t: u32, subscription: Subscription) {
        let (abort, registration) = AbortHandle::new_pair();
        self.lives.push(Abortable::new(Live { t, subscription }, registration));
        if let Some(former) = self.aborts.insert(t, abort) {
            former.abort();
        }
    }

    fn command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Call { sink, .. } if self.draining => finish(sink, Err(subscriptions::draining())),
            Command::Call { id, call, trace, deadline, sink } => {
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

    /// Does what the pure parts ask for, until they ask for nothing.
    fn act(&mut self) {
        loop {
            let (acts, orders) = (self.pending.take(), self.subscriptions.take());
            if acts.is_empty() && orders.is_empty() {
                return;
            }
            acts.into_iter().for_each(|act| self.perform(act));
            orders.into_iter().for_each(|order| self.order(order));
        }
    }

    fn perform(&mut self, act: Act<Sink>) {
        let bus = self.bus.clone();
        match act {
            Act::Send(envelope) => {
                self.work.spawn(jobs::send(bus, envelope));
            }
            Act::Tell(node, envelope) => {
                self.work.spawn(async move {
                    let _ = bus.publish(Subject::Calls(node), Payload::of(*envelope)).await;
                    Done::Said
                });
            }
            Act::Look(node) => self.look(node),
            Act::Output(id, payload) => self.output(id, payload),
            Act::Finish(Sink::Join(t), result) => {
                self.subscriptions.joined(t, result.and_then(|p| joined(&p)), Instant::now());
            }
            Act::Finish(sink, result) => finish(sink, result),
        }
    }

    fn output(&mut self, id: CallId, payload: Payload) {
        let Some(Sink::Stream(outputs)) = self.pending.sink(id) else { return };
        if outputs.try_send(Output::Next(payload)).is_err() {
            let failure = v1::Error::new(Reason::Overloaded, "the caller fell behind its stream");
            self.pending.abandon(id, Box::new(failure));
        }
    }

    fn order(&mut self, order: Order) {
        let (bus, gateway) = (self.bus.clone(), self.gateway.clone());
        match order {
            Order::Follow { t, node, topic } => {
                self.work.spawn(jobs::follow(bus, gateway, t, node, topic));
            }
            Order::Leave { t, node, topic } => {
                if let Some(abort) = self.aborts.remove(&t) {
                    abort.abort();
                }
                self.work.spawn(jobs::leave(bus, gateway, t, node, topic));
            }
            Order::Join { t, node, topic } => self.join(t, node, topic),
            Order::Facts { t, node, topic } => {
                self.work.spawn(jobs::facts(bus, t, node, topic));
            }
            Order::Read { t, node, topic, ask } => {
                let limit = self.config.page_entries;
                self.work.spawn(async move {
                    let found = jobs::page(&bus, &node, &topic, ask.place, limit).await;
                    Done::Found { t, ticket: ask.ticket, found }
                });
            }
            Order::ReadFor { id, slot, node, topic, place, limit } => {
                self.work.spawn(async move {
                    Done::FoundFor { id, slot, found: jobs::page(&bus, &node, &topic, place, limit).await }
                });
            }
        }
    }

    /// Asks the owner to join a topic.
    fn join(&mut self, t: u32, node: NodeName, topic: plexus_bus::Topic) {
        let interest = Interest {
            namespace: node.namespace().to_owned(),
            node: node.node().to_owned(),
            topic,
            gateway: self.gateway.to_string(),
            readers: 1,
            ..Interest::default()
        };
        let call = Call {
            method: "plexus.bus.v1.Owner/Join".into(),
            payload: Payload::of(interest),
            namespace: node.namespace().into(),
            node: Some(node),
            reply_to: self.gateway.clone(),
            deadline: Some(SystemTime::now() + JOIN),
            caller: Principal { kind: Kind::System as i32, ..Principal::default() },
            idempotency_key: String::new(),
            epoch_seen: 0,
            attempt: 0,
            idempotent: true,
            credit: 0,
        };
        let deadline = Some(Instant::now() + JOIN);
        self.pending.begin(CallId::now_v7(), call, Trace::default(), Sink::Join(t), deadline);
    }

    fn look(&mut self, node: NodeName) {
        let bus = self.bus.clone();
        self.work.spawn(async move {
            let standing = jobs::standing(&bus, &node).await.ok();
            Done::Looked { node, standing }
        });
    }

    fn attend(&mut self) {
        let (bus, gateway) = (self.bus.clone(), self.gateway.clone());
        self.work.spawn(async move {
            if let Err(error) = bus.attend(&gateway).await {
                tracing::warn!(%error, "this gateway's lease was not renewed");
            }
            Done::Said
        });
    }

    fn write_interest(&mut self, all: bool) {
        for (node, readers) in self.subscriptions.interest(all) {
            let (bus, gateway) = (self.bus.clone(), self.gateway.clone());
            self.work.spawn(async move {
                if let Err(error) = bus.want(&node, &gateway, &readers).await {
                    tracing::warn!(%node, %error, "interest was not written");
                }
                Done::Said
            });
        }
    }

    /// Refuses what still waits; interest stays and ends with this gateway's lease.
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
    }
}

fn finish(sink: Sink, result: Result<Payload, Failure>) {
    match sink {
        Sink::Unary(answer) => {
            let _ = answer.send(result);
        }
        Sink::Stream(outputs) => {
            let _ = outputs.try_send(Output::End(result.map(|_| ())));
        }
        Sink::Join(_) => {}
    }
}

fn joined(answer: &Payload) -> Result<(), Failure> {
    let joined =
        answer.open::<Joined>().map_err(|e| Box::new(v1::Error::new(Reason::Internal, e.to_string())))?;
    joined.error.clone().map_or(Ok(()), |error| Err(Box::new(error)))
}
