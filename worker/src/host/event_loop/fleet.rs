//! The worker among others: it says where it is, hears what operators order, and gives nodes to others.

use super::{EventLoop, nodes};
use crate::{
    Config,
    clock::Moment,
    host::{
        card::{Card, Standing},
        errands::{self, Done},
        lease::Phase,
        spread::{Spread, View},
    },
};
use plexus_bus::{Call, NodeName, fleet};
use plexus_proto::bus::OwnerChange;
use std::time::Duration;

/// How often the worker shows its card.
const SHOW_INTERVAL: Duration = Duration::from_secs(2);

/// What the worker has to do with others.
pub(super) struct Fleet {
    card: Card,
    /// When to show it next, and whether that is under way.
    show_at: Moment,
    showing: bool,
    /// Nodes that shall be given away in a second, by an operator's order.
    drain: Option<u32>,
    /// The orders are known.
    heard: bool,
    spread: Spread,
}

impl Fleet {
    pub(super) fn new(id: &str, config: &Config, now: Moment) -> Self {
        Self {
            card: Card::new(id, config),
            show_at: now,
            showing: false,
            drain: None,
            heard: false,
            spread: Spread::new(&config.balance, now),
        }
    }

    /// Tells whether nodes may be taken: no order says otherwise.
    pub(super) fn takes(&self) -> bool {
        self.heard && self.drain.is_none()
    }

    /// There may be something to give.
    pub(super) fn hurry(&mut self) {
        self.spread.hurry();
    }
}

impl EventLoop {
    /// Shows the card while the lease lives.
    pub(super) fn show(&mut self, now: Moment) {
        let lives = matches!(self.lease.phase(), Phase::Held | Phase::Draining) && !self.retiring;
        if !lives || self.fleet.showing || now < self.fleet.show_at {
            return;
        }
        self.fleet.showing = true;
        self.fleet.show_at = now.after(SHOW_INTERVAL);
        let standing = Standing {
            nodes: self.hosted.len(),
            load: self.placement.load(),
            draining: self.lease.leaving() || self.fleet.drain.is_some(),
        };
        let (bus, card) = (self.bus.clone(), self.fleet.card.fill(standing));
        self.work.spawn(async move {
            if let Err(error) = bus.show_worker(&card).await {
                tracing::debug!(%error, "the worker's card could not be shown");
            }
            Done::Shown
        });
    }

    /// The card changed: it is shown again at once.
    pub(super) fn reshow(&mut self, now: Moment) {
        self.fleet.show_at = now;
    }

    pub(super) fn shown(&mut self) {
        self.fleet.showing = false;
    }

    /// A word to one worker, which all hear.
    pub(super) fn word(&mut self, call: &Call, now: Moment) {
        let Ok(word) = call.payload.open::<OwnerChange>() else { return };
        if &*call.method == fleet::ORDERS {
            if word.worker == self.placement.own().worker {
                self.survey_at = now;
            }
        } else if let Ok(node) = NodeName::new(&word.namespace, &word.node) {
            self.placement.promised(&node, &word.worker);
        }
    }

    /// Takes in whether nodes shall be given away.
    pub(super) fn ordered(&mut self, drain: Option<u32>, now: Moment) {
        self.fleet.heard = true;
        if self.fleet.drain != drain {
            tracing::info!(nodes_per_second = drain, "nodes are given away by order; none: not any more");
            self.fleet.drain = drain;
            self.fleet.hurry();
            self.reshow(now);
        }
    }

    /// Gives nodes to other workers: promises each, then hands it over (P7).
    pub(super) fn spread(&mut self, now: Moment) {
        if !self.fleet.spread.is_due(now) {
            return;
        }
        let staying = self.hosted.iter().filter(|(_, hosted)| !hosted.leaving);
        let staying = staying.filter_map(|(node, hosted)| match hosted.phase {
            nodes::Phase::Running { since, .. } => Some((node, self.placement.rule_of(node)?, since)),
            nodes::Phase::Waiting { .. } => Some((node, self.placement.rule_of(node)?, now)),
            _ => None,
        });
        let going = self.hosted.iter().filter(|(_, hosted)| hosted.leaving).map(|(node, _)| node);
        let view = View {
            own: self.placement.own(),
            others: self.placement.others().collect(),
            counts: self.placement.counts(),
            nodes: staying.collect(),
            going: going.collect(),
            drain: self.fleet.drain,
            era: self.store.borrow().as_ref().map(|store| store.era.clone()),
        };
        for gift in self.fleet.spread.step(view, now) {
            tracing::info!(node = %gift.node, to = gift.to, "a node is given to another worker");
            self.metrics.gifts.inc();
            self.placement.promised(&gift.node, &gift.to);
            self.work.spawn(errands::promise(self.bus.clone(), gift.node.clone(), gift.to));
            self.give(gift.node);
        }
    }
}
