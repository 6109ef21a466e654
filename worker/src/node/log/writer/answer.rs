//! What the answers of the bus mean: the rows of P13.

use super::{Log, State, ask::TRIM_INTERVAL};
use crate::{
    clock::Moment,
    node::log::{Out, topic},
};
use plexus_bus::{Appended, Error, Grant, Look, Opened, Opening, Position, Ran, Spot, Taken, Topic};
use std::collections::BTreeMap;

/// What the bus said.
impl Log {
    pub(super) fn on_opened(
        &mut self,
        first: bool,
        topics: Vec<Topic>,
        result: Result<Opened, Error>,
        now: Moment,
        outs: &mut Vec<Out>,
    ) {
        match result {
            Ok(Opened::Done(openings)) => {
                self.state = if self.suspect { State::Unsure } else { State::Open };
                self.succeeded();
                if first {
                    self.sweep = false;
                    self.trim_after = now.after(TRIM_INTERVAL);
                }
                for opening in &openings {
                    self.on_opening(opening, now, outs);
                }
                // Asked for and not opened: it was open before, so only looking tells where it is.
                if topics.iter().any(|topic| self.topics.get(topic).is_some_and(|log| !log.open)) {
                    self.adopt(&topics, now, outs);
                    self.state = State::Unsure;
                }
                outs.push(Out::Opened { grant: self.grant, openings });
            }
            Ok(Opened::Fenced(largest)) => self.raise(largest),
            Ok(Opened::Lost) => self.raise(self.grant.epoch),
            Err(error) if error.outcome() == Ran::NotRun => {
                self.pause(now);
                if !first {
                    self.to_open.extend(topics);
                }
                if self.suspect && !first {
                    self.state = State::Unsure;
                }
            }
            Err(_) => self.raise(self.grant.epoch),
        }
    }

    pub(super) fn on_opening(&mut self, opening: &Opening, now: Moment, outs: &mut Vec<Out>) {
        let topic = &opening.topic;
        let retention = self.retentions.remove(topic).unwrap_or(self.limits.retention);
        let log = self.topics.entry(topic.clone()).or_insert_with(|| topic::Log::new(retention));
        log.opened(self.grant, opening.prev, now);
        if log.purge {
            self.trims.push_back(topic.clone());
        }
        if log.decides(opening.prev) {
            self.settle(topic, opening.prev, outs);
        } else {
            self.read_on(topic, outs);
        }
    }

    /// Takes topics as open whose opening was not answered.
    pub(super) fn adopt(&mut self, topics: &[Topic], now: Moment, outs: &mut Vec<Out>) {
        for topic in topics {
            if self.topics.get(topic).is_some_and(|log| !log.open) {
                let prev = Position::new(self.grant.epoch, 0);
                self.on_opening(&Opening { topic: topic.clone(), prev, sure: false }, now, outs);
            }
        }
    }

    pub(super) fn on_appended(
        &mut self,
        sent: &[(Topic, u64)],
        result: Result<Appended, Error>,
        now: Moment,
        outs: &mut Vec<Out>,
    ) {
        match result {
            Ok(Appended::Done(spots)) if spots.len() == sent.len() => {
                for ((topic, last), spot) in sent.iter().zip(&spots) {
                    if *spot == Spot::Logged {
                        self.confirm(topic, *last, outs);
                        self.queue(topic);
                    }
                }
                if spots.iter().all(|spot| *spot == Spot::Logged) {
                    self.succeeded();
                } else {
                    self.fail(now);
                }
            }
            Ok(Appended::Fenced) => self.fence(outs),
            Ok(_) | Err(_) => self.fail(now),
        }
    }

    pub(super) fn on_look(&mut self, result: Result<Look, Error>, now: Moment, outs: &mut Vec<Out>) {
        let Ok(look) = result else { return self.fail(now) };
        let ours = self.grant;
        let seen = look.grant.map_or(0, |grant| grant.epoch);
        if seen > ours.epoch || look.grant.is_some_and(|grant| grant.epoch == ours.epoch && grant != ours) {
            return self.fence(outs);
        }
        let tails: BTreeMap<Topic, Position> = look.tails.into_iter().collect();
        let floor = tails.values().map(|tail| tail.epoch).max().unwrap_or(0).max(ours.epoch);
        let lost = |(topic, log): (&Topic, &topic::Log)| {
            log.open && tails.get(topic).is_none_or(|tail| tail.epoch != ours.epoch)
        };
        if seen < ours.epoch || self.topics.iter().any(lost) {
            return self.raise(floor);
        }
        let seq = |topic: &Topic| tails.get(topic).map_or(0, |tail| tail.seq);
        if self.topics.iter().any(|(topic, log)| log.open && seq(topic) > log.last) {
            // Somebody writes under our own grant.
            return self.fence(outs);
        }
        let mut rewound = false;
        let open: Vec<Topic> =
            self.topics.iter().filter(|(_, log)| log.open).map(|(topic, _)| topic.clone()).collect();
        for topic in open {
            let tail = seq(&topic);
            rewound |= self.topics.get(&topic).is_some_and(|log| tail < log.acked);
            self.confirm(&topic, tail, outs);
            self.queue(&topic);
        }
        if !self.topics.values().all(|log| !log.open || log.reaches()) {
            return self.raise(floor);
        }
        for log in self.topics.values_mut().filter(|log| log.open) {
            log.regroup(ours, now);
        }
        self.weigh();
        let stamp = rewound || look.stamped.as_ref() != Some(&look.era);
        self.state = State::Repair { era: look.era, stamp };
    }

    pub(super) fn on_stamped(&mut self, result: Result<bool, Error>, now: Moment) {
        match result {
            Ok(true) => {
                self.succeeded();
                self.state = State::Open;
            }
            Ok(false) | Err(_) => self.fail(now),
        }
    }

    pub(super) fn on_raised(&mut self, result: Result<Taken, Error>, now: Moment, outs: &mut Vec<Out>) {
        let State::Raise { nonce, .. } = self.state else { return };
        match result {
            Ok(Taken::Epochs(epochs)) if let Some(&Some(epoch)) = epochs.first() => {
                for log in self.topics.values_mut() {
                    log.lay_aside(self.grant);
                    log.queued = false;
                }
                self.grant = Grant { epoch, nonce };
                self.state = State::Fresh;
                self.read = None;
                self.ready.clear();
                self.unread.clear();
                self.to_open.clear();
                outs.push(Out::Raised(self.grant));
            }
            Ok(_) => self.fence(outs),
            Err(_) => self.pause(now),
        }
    }

    pub(super) fn on_trimmed(
        &mut self,
        topic: Topic,
        purge: bool,
        result: Result<bool, Error>,
        now: Moment,
        outs: &mut Vec<Out>,
    ) {
        match (purge, result) {
            (true, Ok(true)) => {
                if let Some(log) = self.topics.get_mut(&topic) {
                    log.purge = false;
                    log.purge();
                }
                outs.push(Out::Purged(topic));
            }
            (_, Ok(true)) => {}
            (_, Ok(false)) => self.fail(now),
            (purge, Err(_)) => {
                self.pause(now);
                if purge {
                    self.trims.push_front(topic);
                }
            }
        }
    }
}
