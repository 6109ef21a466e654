//! What leaves the loop: round trips to the bus. Each runs as a task of the node and comes back as
//! [`Done`]; none touches the node's state.

use super::{answers::Answer, log};
use crate::clock::Moment;
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
        if let Err(error) = bus.want(&node, &gateway, &[(topic, 0)]).await {
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
