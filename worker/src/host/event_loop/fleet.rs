//! The worker among others: it says where it is.

use super::EventLoop;
use crate::{
    Config,
    clock::Moment,
    host::{
        card::{Card, Standing},
        errands::Done,
        lease::Phase,
    },
};
use std::time::Duration;

/// How often the worker shows its card.
const SHOW_INTERVAL: Duration = Duration::from_secs(2);

/// What the worker has to do with others.
pub(super) struct Fleet {
    card: Card,
    /// When to show it next, and whether that is under way.
    show_at: Moment,
    showing: bool,
}

impl Fleet {
    pub(super) fn new(id: &str, config: &Config, now: Moment) -> Self {
        Self { card: Card::new(id, config), show_at: now, showing: false }
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
            draining: self.lease.leaving(),
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
}
