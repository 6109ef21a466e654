//! How the loop does what its pure parts ask for: calls go to the bus in order, slow work leaves the loop.

use super::{
    EventLoop, Failure,
    call::{Output, Sink},
    jobs::{self, Done},
    pending::Act,
    subscriptions::Order,
};
use crate::card::Card;
use plexus_bus::{Call, CallId, NodeName, Payload, Subject, Trace};
use plexus_proto::{
    bus::{Interest, Joined, Principal, principal::Kind},
    reason::Reason,
    v1,
};
use std::time::{Duration, Instant, SystemTime};

/// How long a subscription waits for its node to join.
const JOIN: Duration = Duration::from_secs(5);

impl EventLoop {
    /// Does what the pure parts ask for, until they ask for nothing.
    pub(super) fn act(&mut self) {
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
                self.sends.push(Box::pin(jobs::send(bus, envelope)));
            }
            Act::Tell(node, envelope) => {
                let tell = async move {
                    let _ = bus.publish(Subject::Calls(node), Payload::of(*envelope)).await;
                    Done::Said
                };
                self.sends.push(Box::pin(tell));
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
                self.lives.remove(t);
                self.work.spawn(jobs::leave(bus, gateway, t, node, topic));
            }
            Order::Join { t, node, topic } => self.join(t, node, topic),
            Order::Facts { t, node, topic } => {
                self.work.spawn(jobs::facts(bus, t, node, topic));
            }
            Order::Read { t, node, topic, ask } => {
                self.metrics.repairs.inc();
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

    pub(super) fn look(&mut self, node: NodeName) {
        let bus = self.bus.clone();
        self.work.spawn(async move {
            let standing = jobs::standing(&bus, &node).await.ok();
            Done::Looked { node, standing }
        });
    }

    pub(super) fn attend(&mut self) {
        let (bus, gateway) = (self.bus.clone(), self.gateway.clone());
        let card = self.card.as_ref().map(Card::fill);
        self.work.spawn(async move {
            if let Err(error) = bus.attend(&gateway).await {
                tracing::warn!(%error, "this gateway's lease was not renewed");
            }
            if let Some(card) = card
                && let Err(error) = bus.show_gateway(&card).await
            {
                tracing::debug!(%error, "the gateway's card could not be shown");
            }
            Done::Said
        });
    }

    pub(super) fn write_interest(&mut self, all: bool) {
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
}

/// Hands over the end of a call.
pub(super) fn finish(sink: Sink, result: Result<Payload, Failure>) {
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
