//! What leaves the loop: round trips to the bus. Each runs as a task of the node and comes back as
//! [`Done`], whose arms are below; no task touches the node's state.

use super::{
    Ended, Note,
    answers::Answer,
    event_loop::EventLoop,
    log::{self, Out},
    start,
};
use crate::clock::{Moment, Now};
use futures::future::join_all;
use plexus_bus::{
    Bus, CallId, Envelope, Error, Extent, GatewayId, Key, NodeName, Payload, Position, Range, Subject,
    Subscription, Topic, Value,
};
use plexus_proto::{
    bus::{LogEntry, NodeState},
    v1,
};
use std::{collections::HashMap, time::Duration};

/// Entries read back to find the last message of a topic at rest.
const LOOK_BACK: usize = 16;

/// What a task brought.
pub(super) enum Done {
    /// An errand of the log's writer.
    Log(u64, log::Done),
    /// A batch of answers is sent.
    Sent,
    /// The node's subject is subscribed.
    Subscribed(Result<Subscription, Error>),
    /// All interest, read after the moment, and which gateways live.
    Surveyed(Moment, Result<Survey, Error>),
    /// The node's record.
    Record(Result<Option<Value>, Error>),
    /// The node's state is written; false: refused, there is another owner.
    State(Result<bool, Error>),
    /// A call is answered with what was read.
    Answered(CallId, Answer),
    /// How many replicas have what was logged before; with disk or without.
    Secured(bool, Result<u32, Error>),
    /// Nothing that anybody waits for.
    Nothing,
}

/// Interest in the node's topics.
pub(super) struct Survey {
    /// Readers by gateway and topic.
    pub(super) wanted: Vec<(GatewayId, Topic, u32)>,
    /// Which of the gateways live.
    pub(super) lives: HashMap<GatewayId, bool>,
}

/// Sends answers in order. What cannot be sent is lost, as on any way: the gateway asks again.
pub(super) async fn send(bus: Bus, batch: Vec<(GatewayId, Envelope)>) -> Done {
    let sends = batch.into_iter().map(|(gateway, envelope)| {
        let bus = &bus;
        async move { bus.publish(Subject::Replies(gateway), Payload::of(envelope)).await }
    });
    // Each is handed to the carrier when it is first polled, and those polls are in order.
    for result in join_all(sends).await {
        if let Err(error) = result {
            tracing::debug!(%error, "an answer was lost");
        }
    }
    Done::Sent
}

/// Subscribes to the calls to the node.
pub(super) async fn subscribe(bus: Bus, node: NodeName, queue: usize) -> Done {
    Done::Subscribed(bus.subscribe_with(Subject::Calls(node), queue).await)
}

/// Reads who wants what.
pub(super) async fn survey(bus: Bus, node: NodeName, since: Moment) -> Done {
    let survey = async {
        let wanted = bus.wanted(&node).await?;
        let mut gateways: Vec<GatewayId> = wanted.iter().map(|(gateway, ..)| gateway.clone()).collect();
        gateways.sort();
        gateways.dedup();
        let lives = if gateways.is_empty() { Vec::new() } else { bus.attending(&gateways).await? };
        Ok(Survey { wanted, lives: gateways.into_iter().zip(lives).collect() })
    };
    Done::Surveyed(since, survey.await)
}

/// Removes the interest of gateways that are gone.
pub(super) async fn forget(bus: Bus, node: NodeName, gone: Vec<(GatewayId, Topic)>) -> Done {
    for (gateway, topic) in gone {
        if let Err(error) = bus.want(&node, &gateway, &[(topic, None)]).await {
            tracing::debug!(%error, "interest of a dead gateway stays for now");
        }
    }
    Done::Nothing
}

/// Reads the node's record.
pub(super) async fn record(bus: Bus, node: NodeName) -> Done {
    Done::Record(bus.get(Key::Record(node)).await)
}

/// Writes the node's state.
pub(super) async fn state(bus: Bus, node: NodeName, grant: plexus_bus::Grant, state: NodeState) -> Done {
    let bytes = prost::Message::encode_to_vec(&state).into();
    Done::State(bus.put_state(&node, grant, bytes).await)
}

/// Waits for replicas or the disk (P18).
pub(super) async fn secure(bus: Bus, node: NodeName, disk: bool, timeout: Duration) -> Done {
    let replicas = u32::from(!disk);
    Done::Secured(disk, bus.replicate(&node, replicas, disk, timeout).await)
}

/// Completes topics with what the bus keeps of them, then answers the call with them.
pub(super) async fn complete(
    bus: Bus,
    node: NodeName,
    call: CallId,
    topics: Vec<(Topic, v1::Topic)>,
    answer: impl FnOnce(Vec<v1::Topic>) -> Payload,
) -> Done {
    let mut complete = Vec::with_capacity(topics.len());
    for some in topics.chunks(32) {
        let reads = some.iter().map(|(name, topic)| retained(&bus, &node, name, topic.clone()));
        for topic in join_all(reads).await {
            match topic {
                Ok(topic) => complete.push(topic),
                Err(error) => return Done::Answered(call, Err(super::calls::bus_refusal(&error))),
            }
        }
    }
    Done::Answered(call, Ok(answer(complete)))
}

async fn retained(
    bus: &Bus,
    node: &NodeName,
    name: &Topic,
    mut topic: v1::Topic,
) -> Result<v1::Topic, Error> {
    let Some(Extent { oldest: Some(_), top, .. }) = bus.extent(node, name).await? else { return Ok(topic) };
    let oldest = Range { from: Position::ZERO, until: None, limit: 1, newest_first: false };
    if let Some(entry) = bus.read(node, name, oldest).await?.first() {
        let count = entry.entry.open::<LogEntry>()?.messages.len() as u64;
        let after = Position::new(entry.id.epoch, entry.id.seq.saturating_sub(count));
        topic.retained = Some(v1::PositionRange { after: after.to_string(), until: top.to_string() });
    }
    if topic.position.is_empty() {
        let newest = Range { from: Position::ZERO, until: None, limit: LOOK_BACK, newest_first: true };
        let last = bus.read(node, name, newest).await?.into_iter().find(|entry| entry.id.seq > 0);
        topic.position = last.map(|entry| entry.id.to_string()).unwrap_or_default();
    }
    if topic.position.is_empty() {
        topic.retained = None;
    }
    Ok(topic)
}

/// What tasks bring back.
impl EventLoop {
    pub(super) fn done(&mut self, done: Done, now: Now) {
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
                let last = Position::new(first.epoch, entry.seq);
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

    pub(super) fn subscribed(&mut self, result: Result<Subscription, Error>) {
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

    pub(super) fn surveyed(&mut self, since: Moment, result: Result<Survey, Error>, now: Now) {
        self.surveying = false;
        match result {
            Ok(survey) => {
                self.following.survey(survey.wanted, since);
                let gone = self.following.attending(&survey.lives, now.moment);
                if !gone.is_empty() {
                    self.work.spawn(forget(self.bus.clone(), self.name.clone(), gone));
                }
                self.moved = true;
                self.open_kept(now);
                self.apply_policies();
            }
            Err(error) => tracing::debug!(node = %self.name, %error, "interest could not be read"),
        }
    }
}
