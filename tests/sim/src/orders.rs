//! How a gateway does what its pure parts ask for. Mirrors `gateway/src/router/orders.rs`.

use super::*;

impl Gateway {
    /// Does what the pure parts ask for, until they ask for nothing.
    pub(crate) fn act(&mut self, net: &mut Net) {
        loop {
            let (acts, orders) = (self.pending.take(), self.subscriptions.take());
            if acts.is_empty() && orders.is_empty() {
                break;
            }
            acts.into_iter().for_each(|act| self.perform(act, net));
            let mut orders = orders;
            orders.sort_by_key(order_key); // some come off a hash map
            orders.into_iter().for_each(|order| self.order(order, net));
        }
        self.take(net);
    }

    pub(super) fn perform(&mut self, act: Act<Sink>, net: &mut Net) {
        match act {
            Act::Send(envelope) => {
                let plexus_bus::Body::Call(call) = &envelope.body else { return };
                let Some(node) = call.node.clone() else { return };
                let job = Job::Sent(envelope.id, call.attempt);
                self.ask(Ask::Publish(Subject::Calls(node), Payload::of::<Envelope>(*envelope)), job, net);
            }
            Act::Tell(node, envelope) => {
                self.ask(
                    Ask::Publish(Subject::Calls(node), Payload::of::<Envelope>(*envelope)),
                    Job::Said,
                    net,
                );
            }
            Act::Look(node) => self.ask(Ask::Record, Job::Looked(node), net),
            Act::Output(..) => {}
            Act::Finish(Sink::Join(t), result) => {
                self.subscriptions.joined(t, result.map(drop), self.now(net));
            }
            Act::Finish(Sink::Client(call), result) => self.finished.push_back(Finished { call, result }),
        }
    }

    pub(super) fn order(&mut self, order: Order, net: &mut Net) {
        match order {
            Order::Follow { t, node, topic } => {
                self.follows.insert((node.clone(), topic.clone()), t);
                let subject = Subject::Topic(node.clone(), topic.clone());
                self.ask(Ask::Subscribe(subject), Job::Followed(t, node, topic), net);
            }
            Order::Leave { t, node, topic } => {
                self.follows.remove(&(node.clone(), topic.clone()));
                let subject = Subject::Topic(node.clone(), topic.clone());
                net.ask(self.process, self.life, Ask::Unsubscribe(subject));
                self.ask(Ask::Want(node, self.id.clone(), vec![(topic, None)]), Job::Left(t), net);
            }
            Order::Join { t, node, topic } => {
                let interest = Interest { topic, ..Interest::default() };
                let payload = Payload::of(interest);
                self.begin("plexus.bus.v1.Owner/Join", &node, payload, "", JOIN, Sink::Join(t), net);
            }
            Order::Facts { t, node, topic } => self.read(For::Facts(t), Reading::ends(node, topic), net),
            Order::Read { t, node, topic, ask } => {
                let reading = Reading::page(node, topic, ask.place, self.config.page_entries);
                self.read(For::All(t, ask.ticket), reading, net);
            }
            Order::ReadFor { id, slot, node, topic, place, limit } => {
                self.read(For::One(id, slot), Reading::page(node, topic, place, limit), net);
            }
        }
    }
}

fn order_key(order: &Order) -> (u8, u64, usize) {
    match order {
        Order::Follow { t, .. } => (0, u64::from(*t), 0),
        Order::Join { t, .. } => (1, u64::from(*t), 0),
        Order::Facts { t, .. } => (2, u64::from(*t), 0),
        Order::Read { t, .. } => (3, u64::from(*t), 0),
        Order::ReadFor { id, slot, .. } => (4, *id, *slot),
        Order::Leave { t, .. } => (5, u64::from(*t), 0),
    }
}
