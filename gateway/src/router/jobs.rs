//! Slow work that the loop sends out: what it asks of the bus and must not wait for.

use super::{
    Failure,
    pending::{Standing, unavailable},
    place::{self, Edge, Found, Place},
    topic::Facts,
};
use plexus_bus::{
    Body, Bus, CallId, Envelope, Error, GatewayId, NodeName, Payload, Position, Range, Subject, Subscription,
    Topic, Trace,
};
use plexus_proto::{
    bus::{LogEntry, NodeRecord, NodeState},
    v1::node_status,
};
use std::sync::Arc;
use tracing::Instrument;

/// What came of it.
pub(super) enum Done {
    Sent {
        id: CallId,
        attempt: u32,
        result: Result<usize, Error>,
    },
    Looked {
        node: NodeName,
        standing: Option<Standing>,
    },
    Listening {
        t: u32,
        result: Result<Subscription, Failure>,
    },
    Facts {
        t: u32,
        result: Result<Facts, Failure>,
    },
    Found {
        t: u32,
        ticket: u64,
        found: Option<Found>,
    },
    FoundFor {
        id: u64,
        slot: usize,
        found: Option<Found>,
    },
    Tops(Vec<(u32, u64, Option<Position>)>),
    Left {
        t: u32,
        withdrawn: bool,
    },
    /// A word that nobody waits for.
    Said,
}

/// Sends a call to its node's owner, or to any worker, under a span of its own.
pub(super) async fn send(bus: Bus, mut envelope: Box<Envelope>) -> Done {
    let Body::Call(call) = &envelope.body else { return Done::Said };
    let (id, attempt) = (envelope.id, call.attempt);
    let subject = call.node.clone().map_or(Subject::Anyone, Subject::Calls);
    let span = tracing::debug_span!("bus.send", call = %id, attempt);
    if !span.is_disabled() {
        let trace = Trace::new(&envelope.traceparent, &envelope.tracestate).enter(&span);
        (envelope.traceparent, envelope.tracestate) = (trace.parent, trace.state);
    }
    let result = bus.publish(subject, Payload::of(*envelope)).instrument(span).await;
    Done::Sent { id, attempt, result }
}

/// Reads what a node's record says about its calls.
pub(crate) async fn standing(bus: &Bus, node: &NodeName) -> Result<Standing, Error> {
    let (record, state) = bus.get_state(node).await?;
    let Some(record) = record else { return Ok(Standing::Missing) };
    let record =
        <NodeRecord as prost::Message>::decode(record.data).map_err(|e| Error::Unreadable(e.to_string()))?;
    let stopped = record.node.and_then(|n| n.spec).and_then(|s| s.stopped).unwrap_or(false);
    let state = state.and_then(|s| <NodeState as prost::Message>::decode(s).ok()).and_then(|s| {
        let current = s.generation >= record.generation; // a restart lifts a quarantine
        s.status.filter(|_| current).map(|s| s.state())
    });
    Ok(match state {
        _ if record.deleting => Standing::Missing,
        _ if stopped => Standing::Stopped,
        Some(node_status::State::Quarantined) => Standing::Quarantined,
        _ => Standing::Expected,
    })
}

/// Subscribes to a topic's live entries, then writes interest, so that nothing the owner does for us
/// is missed.
pub(super) async fn follow(bus: Bus, gateway: GatewayId, t: u32, node: NodeName, topic: Topic) -> Done {
    let both = async {
        let live = bus.subscribe(Subject::Topic(node.clone(), topic.clone())).await?;
        bus.want(&node, &gateway, &[(topic, Some(1))]).await?;
        Ok(live)
    };
    Done::Listening { t, result: both.await.map_err(|e: Error| unavailable(&e)) }
}

/// Withdraws interest.
pub(super) async fn leave(bus: Bus, gateway: GatewayId, t: u32, node: NodeName, topic: Topic) -> Done {
    let result = bus.want(&node, &gateway, &[(topic, None)]).await;
    if let Err(error) = &result {
        tracing::debug!(%error, "interest was not withdrawn");
    }
    Done::Left { t, withdrawn: result.is_ok() }
}

/// Reads the ends of a log.
pub(super) async fn facts(bus: Bus, t: u32, node: NodeName, topic: Topic) -> Done {
    Done::Facts { t, result: ends(&bus, &node, &topic).await.map_err(|e| unavailable(&e)) }
}

/// Reads the ends of a log.
pub(crate) async fn ends(bus: &Bus, node: &NodeName, topic: &Topic) -> Result<Facts, Error> {
    let (extent, first, last) = tokio::try_join!(
        bus.extent(node, topic),
        read(bus, node, topic, first(4)),
        read(bus, node, topic, last(None)),
    )?;
    let top = extent.map(|e| e.top);
    let oldest = first.iter().find(|e| !e.messages.is_empty()).map(|e| {
        let before = place::before(e);
        Position::new(before.epoch, before.seq + 1)
    });
    let nonce = last.first().filter(|e| Some(place::id_of(e)) == top).map_or(0, |e| e.nonce);
    Ok(Facts { start: first.first().map(|e| place::before(e)), oldest, top, nonce })
}

/// Reads a page from a place on, and the edge of the log where the page does not say enough.
pub(crate) async fn page(
    bus: &Bus,
    node: &NodeName,
    topic: &Topic,
    place: Place,
    limit: usize,
) -> Option<Found> {
    let read_page = async {
        let range = Range { from: place.at, until: None, limit, newest_first: false };
        let entries = read(bus, node, topic, range).await?;
        let full = entries.len() >= limit;
        if entries.first().is_some_and(|e| place.touches(e)) {
            return Ok(Found { entries, full, edge: None });
        }
        let (extent, first, before) = tokio::try_join!(
            bus.extent(node, topic),
            read(bus, node, topic, first(1)),
            read(bus, node, topic, last(Some(place.at))),
        )?;
        let edge = Edge {
            start: first.first().map(|e| place::before(e)),
            top: extent.map(|e| e.top),
            before: before.first().map(|e| (place::id_of(e), e.nonce)),
        };
        Ok(Found { entries, full, edge: Some(edge) })
    };
    read_page
        .await
        .inspect_err(|error: &Error| tracing::debug!(%node, %error, "a log could not be read"))
        .ok()
}

/// Reads tails.
pub(super) async fn tops(bus: Bus, due: Vec<(u32, u64, NodeName, Topic)>) -> Done {
    let wanted: Vec<_> = due.iter().map(|(_, _, node, topic)| (node.clone(), topic.clone())).collect();
    match bus.tops(&wanted).await {
        Ok(tops) => {
            Done::Tops(due.into_iter().zip(tops).map(|((t, ticket, ..), top)| (t, ticket, top)).collect())
        }
        Err(error) => {
            tracing::debug!(%error, "tails could not be read");
            Done::Said
        }
    }
}

fn first(limit: usize) -> Range {
    Range { from: Position::ZERO, until: None, limit, newest_first: false }
}

fn last(until: Option<Position>) -> Range {
    Range { from: Position::ZERO, until, limit: 1, newest_first: true }
}

/// Reads entries of a log.
pub(crate) async fn read(
    bus: &Bus,
    node: &NodeName,
    topic: &Topic,
    range: Range,
) -> Result<Vec<Arc<LogEntry>>, Error> {
    bus.read(node, topic, range).await?.into_iter().map(|e| e.entry.open()).collect()
}
