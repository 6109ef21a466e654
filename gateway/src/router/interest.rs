//! What this gateway wants of nodes: which topics linger, which are left, whose tail is compared, and the
//! counts that owners see. protocol.md P23.

use super::{
    subscriptions::{Order, Reading, Subscriptions, draining},
    topic::{Phase, Topic},
};
use plexus_bus::NodeName;
use std::{collections::HashMap, time::Instant};

/// How many read each topic.
pub(crate) type Counts = Vec<(plexus_bus::Topic, Option<u32>)>;

impl Subscriptions {
    /// Interest was withdrawn, or could not be: then it is tried again, lest the node stays joined.
    pub(crate) fn left(&mut self, t: u32, withdrawn: bool, now: Instant) {
        let Some(topic) = self.topics.get_mut(&t) else { return };
        if topic.phase != (Phase::Leaving { again: true }) || topic.coming.is_empty() {
            topic.stuck = !withdrawn;
            return if withdrawn {
                self.forget(t)
            };
        }
        let fresh = Topic::new(t, topic.node.clone(), topic.name.clone(), self.config.patience, now);
        let coming = std::mem::take(&mut topic.coming);
        *topic = Topic { coming, ..fresh };
        self.orders.push(Order::Follow { t, node: topic.node.clone(), topic: topic.name.clone() });
    }

    /// Looks at every topic, about once a second: leaves what nobody reads, drops who gave up.
    /// Answers whose tail is to be compared, under which ticket.
    pub(crate) fn sweep(&mut self, now: Instant) -> Vec<(u32, u64, NodeName, plexus_bus::Topic)> {
        let lingered = |t: &&Topic| {
            t.left.is_some_and(|at| now >= at + self.config.linger) && t.phase == Phase::Listening
        };
        let leave: Vec<u32> = self.topics.values().filter(lingered).map(|t| t.t).collect();
        leave.into_iter().for_each(|t| self.leave(t));
        for topic in self.topics.values_mut().filter(|t| t.stuck) {
            topic.stuck = false;
            self.orders.push(Order::Leave {
                t: topic.t,
                node: topic.node.clone(),
                topic: topic.name.clone(),
            });
        }
        let gave_up = |r: &Reading| r.answer.as_ref().is_some_and(|waits| waits.0.is_closed());
        let gone: Vec<u64> = self.readers.iter().filter(|(_, r)| gave_up(r)).map(|(id, _)| *id).collect();
        gone.into_iter().for_each(|id| self.remove(id, now));
        let interval = self.config.check_interval;
        let due = |topic: &mut Topic| {
            let read = !topic.attached.is_empty() || !topic.coming.is_empty();
            let ticket = read.then(|| topic.reader.due(now, interval)).flatten()?;
            Some((topic.t, ticket, topic.node.clone(), topic.name.clone()))
        };
        self.topics.values_mut().filter_map(due).collect()
    }

    /// Interest to write, by node: all of it, or where the count changed. Who lingers counts nobody.
    pub(crate) fn interest(&mut self, all: bool) -> Vec<(NodeName, Counts)> {
        let mut wanted: HashMap<NodeName, Vec<_>> = HashMap::new();
        for topic in self.topics.values_mut().filter(|t| t.phase == Phase::Listening) {
            let readers = topic.readers(); // none is a count too, while it lingers
            if all || readers != topic.counted {
                topic.counted = readers;
                wanted.entry(topic.node.clone()).or_default().push((topic.name.clone(), Some(readers)));
            }
        }
        wanted.into_iter().collect()
    }

    /// Ends every stream and takes no more.
    pub(crate) fn drain(&mut self, now: Instant) {
        self.draining = true;
        for id in self.readers.keys().copied().collect::<Vec<_>>() {
            self.fail(id, draining(), now);
        }
    }

    pub(super) fn leave(&mut self, t: u32) {
        let Some(topic) = self.topics.get_mut(&t) else { return };
        match topic.phase {
            Phase::Following => topic.unwanted = true,
            Phase::Listening => {
                topic.phase = Phase::Leaving { again: false };
                self.orders.push(Order::Leave { t, node: topic.node.clone(), topic: topic.name.clone() });
            }
            Phase::Leaving { .. } => {}
        }
    }

    fn forget(&mut self, t: u32) {
        let Some(topic) = self.topics.remove(&t) else { return };
        if let Some(ts) = self.nodes.get_mut(&topic.node) {
            ts.remove(&t);
            if ts.is_empty() {
                self.nodes.remove(&topic.node);
            }
        }
        self.names.remove(&(topic.node, topic.name));
    }
}
