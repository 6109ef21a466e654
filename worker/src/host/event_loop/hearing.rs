//! What the loop does with what it hears: feeds of the bus, and errands that came back.

use super::{CREATIONS_MAX, EventLoop, LIVES_INTERVAL, SUBSCRIBE_RETRY};
use crate::{
    clock::Moment,
    host::errands::{Directory, Done, Feeds, Sight},
};
use plexus_bus::{Body, Envelope, Error, Event, Incarnation, NodeName, Trace, fleet};
use plexus_proto::bus::OwnerChange;
use tracing::{Instrument, info_span};

/// Errands.
impl EventLoop {
    pub(super) fn done(&mut self, done: Done, now: Moment) {
        // Bound by `incarnation`: what an earlier one asked for is the record's to settle.
        let present = |incarnation: &_| incarnation == self.lease.incarnation();
        match done {
            Done::Renewed { renewal, answer } => self.renewed(&renewal, answer, now),
            Done::Took { incarnation, nonce, claims, answer } if present(&incarnation) => {
                match self.control.took(nonce, claims, answer, now) {
                    Some(claimed) => {
                        claimed.into_iter().for_each(|claimed| self.claimed(claimed, nonce, now))
                    }
                    None => self.fence(now),
                }
            }
            Done::Released { incarnation, nodes, answer } if present(&incarnation) => {
                for node in self.control.released(nodes, &answer, now) {
                    self.released(&node, now);
                }
            }
            Done::Owned { incarnation, answer } if present(&incarnation) => {
                if let Some(owned) = self.control.compared(answer, now) {
                    self.compared(owned, now);
                }
            }
            Done::Forgot { incarnation, former, answer } if present(&incarnation) => {
                self.forgetting = false;
                if answer.is_ok() {
                    self.lease.forgotten(&former);
                    self.survey_at = now;
                }
            }
            Done::Retired { incarnation } if present(&incarnation) => self.lease.retired(),
            Done::Loaded { incarnation, node, grant, load } if present(&incarnation) => {
                self.loaded(node, grant, load, now);
            }
            Done::Took { .. } | Done::Released { .. } | Done::Owned { .. } | Done::Forgot { .. } => {}
            Done::Retired { .. } | Done::Loaded { .. } => {}
            Done::Surveyed(answer) => self.surveyed(answer, now),
            Done::Lives(answer) => self.lives(answer, now),
            Done::Read(sights) => self.read(sights, now),
            Done::Revision { node, record } => self.revised(&node, record, now),
            Done::Found { node, owner } => self.found(&node, owner, now),
            Done::Subscribed(feeds) => self.subscribed(*feeds, now),
            Done::Created(node) => self.created(node, now),
            Done::Shown => self.shown(),
            Done::Nothing => {}
        }
    }
}

/// Feeds.
impl EventLoop {
    pub(super) fn subscribed(&mut self, feeds: Result<Feeds, Error>, now: Moment) {
        self.subscribing = false;
        match feeds {
            Ok(feeds) => {
                self.feeds = feeds;
                self.missed(now);
            }
            Err(error) => {
                tracing::warn!(%error, "the bus cannot be listened to");
                self.subscribe_at = now.after(SUBSCRIBE_RETRY);
            }
        }
    }

    /// Anything may have been missed: reads all again.
    pub(super) fn missed(&mut self, now: Moment) {
        self.survey_at = now;
        self.lives_at = now;
        for node in self.hosted.keys().cloned().collect::<Vec<_>>() {
            self.hinted(node, now);
        }
    }

    pub(super) fn deaf(&mut self, now: Moment) {
        self.feeds = Feeds::default();
        self.subscribe_at = now.after(SUBSCRIBE_RETRY);
    }

    pub(super) fn ownership(&mut self, event: Option<Event>, now: Moment) {
        let frame = match event {
            Some(Event::Frame(frame)) => frame,
            Some(Event::Lagged(_) | Event::Restored) => return self.missed(now),
            None => return self.deaf(now),
        };
        let Ok(change) = frame.open::<OwnerChange>() else { return };
        let Ok(node) = NodeName::new(&change.namespace, &change.node) else { return };
        let worker = Some(change.worker.as_str()).filter(|worker| !worker.is_empty()).map(Incarnation::from);
        self.placement.announced(&node, worker, now);
    }

    pub(super) fn records(&mut self, event: Option<Event>, now: Moment) {
        let frame = match event {
            Some(Event::Frame(frame)) => frame,
            Some(Event::Lagged(_) | Event::Restored) => return self.missed(now),
            None => return self.deaf(now),
        };
        if let Some(node) = frame.open::<String>().ok().and_then(|name| NodeName::parse(&name).ok()) {
            self.hinted(node, now);
        }
    }

    /// Calls that were missed are the gateway's to send again.
    pub(super) fn anyone(&mut self, event: Option<Event>, now: Moment) {
        let frame = match event {
            Some(Event::Frame(frame)) => frame,
            Some(Event::Lagged(_) | Event::Restored) => return,
            None => return self.deaf(now),
        };
        let Ok(envelope) = frame.take::<Envelope>() else { return };
        let Body::Call(call) = envelope.body else { return };
        if matches!(&*call.method, fleet::EXPECT | fleet::ORDERS) {
            return self.word(&call, now);
        }
        if self.creations >= CREATIONS_MAX {
            tracing::warn!("a creation is left to other workers: too many are under way");
            return;
        }
        self.creations += 1;
        self.metrics.commands.inc();
        let span = info_span!("host.create");
        // The answer carries no trace of its own.
        let _ = Trace::new(&envelope.traceparent, &envelope.tracestate).enter(&span);
        let answer = self.maker.clone().answer(self.lease.incarnation().clone(), envelope.id, call);
        self.work.spawn(async move { Done::Created(answer.await) }.instrument(span));
    }

    pub(super) fn created(&mut self, node: Option<NodeName>, now: Moment) {
        self.creations -= 1;
        if let Some(node) = node {
            self.hinted(node, now);
        }
    }

    pub(super) fn surveyed(&mut self, answer: Result<Directory, Error>, now: Moment) {
        self.surveying = false;
        match answer {
            Ok(Directory { owners, live, seats, drain }) => {
                self.placement.told(seats);
                self.placement.survey(owners, live, now);
                self.ordered(drain, now);
            }
            Err(error) => tracing::warn!(%error, "the directory could not be read"),
        }
    }

    pub(super) fn lives(&mut self, answer: Result<Vec<Incarnation>, Error>, now: Moment) {
        self.asking_lives = false;
        // Who is new shows a card by then.
        if let Ok(live) = answer
            && self.placement.lives(live, now)
        {
            self.survey_at = self.survey_at.min(now.after(LIVES_INTERVAL));
        }
    }

    pub(super) fn read(&mut self, sights: Vec<(NodeName, Sight)>, now: Moment) {
        self.reading = false;
        for (node, sight) in sights {
            match sight {
                Sight::Wish(rule) => self.placement.learned(&node, Ok(rule), now),
                Sight::Dark => self.placement.learned(&node, Err(()), now),
                Sight::Gone => self.placement.buried(&node),
            }
        }
    }
}
