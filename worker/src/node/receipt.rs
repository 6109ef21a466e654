//! From the log to the receipt: gossip in the order of the ids, wait for the level, answer; and what
//! becomes of publishes that take too long.

use super::{
    event_loop::EventLoop,
    log::Refused,
    publishes::{Cause, Stage},
    work,
};
use crate::{Refusal, clock::Now, refuse};
use libp2p::gossipsub::TopicHash;
use plexus_bus::{Error, Payload, Position, Topic};
use plexus_proto::{
    reason::Reason,
    v1::{self, receipt::Level},
};
use std::time::Duration;

/// The wait that only finds out whether the carrier can.
const PROBE: Duration = Duration::from_millis(10);
/// One wait for replicas in the store.
const SECURE: Duration = Duration::from_secs(1);

/// From the log to the receipt.
impl EventLoop {
    /// Messages are in the log, under these tickets.
    pub(super) fn logged(&mut self, topic: &Topic, tickets: &[(u64, Position)], now: Now) {
        for (ticket, position) in tickets {
            if let Some(publish) = self.publishes.all.get_mut(ticket) {
                publish.position = Some(*position);
                publish.stage = Stage::Sending;
            }
        }
        self.gossip(now);
        self.step_waiting(Some(topic), now);
    }

    /// Gossips what is logged, in the order of the ids.
    pub(super) fn gossip(&mut self, now: Now) {
        while let Some(ticket) = self.publishes.outgoing.front().copied() {
            let publish = self.publishes.all.get_mut(&ticket);
            if publish.as_ref().is_some_and(|publish| publish.stage != Stage::Sending) {
                return;
            }
            let Some(gossip) = self.swarm.act().and_then(|swarm| swarm.behaviour_mut().gossip.as_mut())
            else {
                return;
            };
            self.publishes.outgoing.pop_front();
            let Some(publish) = publish else {
                // It was refused after its id was reserved: a publish that reaches nobody uses the number.
                let _ = gossip.publish(TopicHash::from_raw(""), Vec::new());
                continue;
            };
            let reached = match self.flood {
                true => self.following.get(&publish.topic).map_or(0, |state| state.peers.len()),
                false => gossip.mesh_peers(&publish.hash).count(),
            };
            let result = gossip.publish(publish.hash.clone(), publish.data.to_vec());
            match publish.sent(result, reached) {
                Some(refusal) => self.refuse_publish(ticket, refusal, now),
                None => self.gossiped(ticket, now),
            }
        }
    }

    /// It was given to the mesh: answers, or waits for the level.
    pub(super) fn gossiped(&mut self, ticket: u64, now: Now) {
        let Some(publish) = self.publishes.all.get_mut(&ticket) else { return };
        match needs(publish.level).filter(|_| publish.call.is_some()) {
            Some(disk) => {
                publish.stage = Stage::Securing;
                self.publishes.securing[usize::from(disk)].next.push(ticket);
                self.secure(disk, now);
            }
            None => self.reach(ticket, Level::Logged, now),
        }
    }

    /// The level is reached: answers with the receipt.
    fn reach(&mut self, ticket: u64, level: Level, now: Now) {
        let Some(publish) = self.publishes.all.get(&ticket) else { return };
        let keeps = self.following.policy(&publish.topic).keeps;
        let level = if keeps { level } else { Level::Accepted };
        let mut receipt = publish.receipt(level, keeps, now.wall);
        receipt.receipt = publish.call.map(|call| call.to_string()).unwrap_or_default();
        self.finish(ticket, Ok(receipt), now);
    }

    pub(super) fn finish(&mut self, ticket: u64, result: Result<v1::Receipt, Refusal>, now: Now) {
        if let Some(publish) = self.publishes.all.get(&ticket)
            && let Ok(receipt) = &result
            && let Some(repeat) =
                self.publishes.repeats.get_mut(&(publish.topic.clone(), publish.key.clone()))
        {
            repeat.receipt = Some(receipt.clone());
        }
        if let Some(call) = self.publishes.caller(ticket) {
            self.calls.answer(call, result.map(Payload::of), now);
        }
        self.publishes.all.remove(&ticket);
    }

    pub(super) fn refuse_publish(&mut self, ticket: u64, refusal: Refusal, now: Now) {
        self.finish(ticket, Err(refusal), now);
    }

    pub(super) fn refuse_push(&mut self, ticket: u64, refused: Refused, now: Now) {
        if let Some(publish) = self.publishes.all.get(&ticket) {
            self.publishes.repeats.remove(&(publish.topic.clone(), publish.key.clone()));
        }
        match refused {
            Refused::Full => {
                let refusal = refuse(Reason::Overloaded, "too many messages wait for the log");
                self.refuse_publish(ticket, refusal, now);
            }
            Refused::Logs => {
                let limit = self.config.node.logs_max;
                let refusal = refuse(Reason::TopicLimit, format!("the node keeps at most {limit} topics"));
                self.refuse_publish(ticket, refusal, now);
            }
            Refused::Ending => {
                if let Some(call) = self.publishes.caller(ticket) {
                    self.calls.not_run(call);
                }
                self.publishes.all.remove(&ticket);
            }
        }
    }

    /// Hands back what only waits: the next owner does it (P7).
    pub(super) fn hand_back_publishes(&mut self) {
        for ticket in std::mem::take(&mut self.publishes.waiting) {
            if let Some(call) = self.publishes.caller(ticket) {
                self.calls.not_run(call);
            }
            self.publishes.all.remove(&ticket);
        }
    }

    /// Ends waits that took too long.
    pub(super) fn expire_publishes(&mut self, now: Now) {
        for ticket in self.publishes.late(now.moment) {
            self.expire_publish(ticket, now);
        }
    }

    fn expire_publish(&mut self, ticket: u64, now: Now) {
        let Some(publish) = self.publishes.all.get(&ticket) else { return };
        let late = |message: &str| refuse(Reason::DeadlineExceeded, message);
        let refusal = match publish.stage {
            Stage::Waiting(Cause::Peers) => {
                let peers = self.following.get(&publish.topic).map_or(0, |state| state.peers.len());
                let message = format!("{peers} of {} peers follow the topic", publish.min_peers);
                Box::new(refuse(Reason::NotEnoughPeers, message).with("peers", peers))
            }
            Stage::Waiting(_) => late("the message was neither logged nor sent in time"),
            Stage::Logging if publish.level == Level::Accepted => {
                return self.answer_early(ticket, Level::Accepted, now);
            }
            Stage::Logging => reached_so_far(late("the message is not logged yet"), Level::Accepted, None),
            Stage::Sending | Stage::Securing => {
                let refusal = late("the message is published, the level is not reached yet");
                reached_so_far(refusal, Level::Logged, publish.position)
            }
        };
        if matches!(publish.stage, Stage::Waiting(_)) {
            self.publishes.waiting.retain(|waiting| *waiting != ticket);
            return self.refuse_publish(ticket, refusal, now);
        }
        if let Some(call) = self.publishes.caller(ticket) {
            self.calls.answer(call, Err(refusal), now);
        }
    }

    /// Answers while the message is still on its way.
    fn answer_early(&mut self, ticket: u64, level: Level, now: Now) {
        let Some(publish) = self.publishes.all.get(&ticket) else { return };
        let mut receipt = publish.receipt(level, false, now.wall);
        if let Some(call) = self.publishes.caller(ticket) {
            receipt.receipt = call.to_string();
            self.calls.answer(call, Ok(Payload::of(receipt)), now);
        }
    }
}

/// Replicas and the disk.
impl EventLoop {
    /// Asks the carrier whether it can do this at all.
    pub(super) fn probe(&mut self, disk: bool) {
        let securing = &mut self.publishes.securing[usize::from(disk)];
        if securing.now.is_none() {
            securing.now = Some(Vec::new());
            self.spawn_secure(disk, PROBE);
        }
    }

    fn secure(&mut self, disk: bool, now: Now) {
        let securing = &mut self.publishes.securing[usize::from(disk)];
        if securing.now.is_some() || securing.next.is_empty() {
            return;
        }
        let tickets = std::mem::take(&mut securing.next);
        let until =
            tickets.iter().filter_map(|ticket| self.publishes.all.get(ticket)).map(|publish| publish.until);
        let left = until.max().map_or(Duration::ZERO, |until| until.since(now.moment));
        securing.now = Some(tickets);
        self.spawn_secure(disk, left.min(SECURE));
    }

    fn spawn_secure(&mut self, disk: bool, timeout: Duration) {
        let (bus, node) = (self.bus.clone(), self.name.clone());
        self.work.spawn(work::secure(bus, node, disk, timeout));
    }

    /// The carrier answered how many have what was logged before.
    pub(super) fn secured(&mut self, disk: bool, result: Result<u32, Error>, now: Now) {
        let kind = usize::from(disk);
        let tickets = self.publishes.securing[kind].now.take().unwrap_or_default();
        match &result {
            Ok(_) | Err(Error::Timeout) => self.publishes.can[kind] = Some(true),
            Err(Error::Unsupported(_)) => self.publishes.can[kind] = Some(false),
            Err(_) => {}
        }
        let level = if disk { Level::Durable } else { Level::Replicated };
        for ticket in tickets {
            match &result {
                Ok(reached) if disk || *reached > 0 => self.reach(ticket, level, now),
                Err(Error::Unsupported(_)) => self.refuse_publish(ticket, unavailable(Level::Logged), now),
                // Tried again until the publish's own timeout says so; one that was answered is done.
                _ => match self.publishes.all.get(&ticket).is_some_and(|publish| publish.call.is_some()) {
                    true => self.publishes.securing[kind].next.push(ticket),
                    false => drop(self.publishes.all.remove(&ticket)),
                },
            }
        }
        // A carrier that could not be asked is asked again at the next tick.
        if self.publishes.can[kind].is_some() {
            self.step_waiting(None, now);
        }
        self.secure(disk, now);
    }
}

/// The work of [`Level`]s above the log: with disk or without.
pub(super) fn needs(level: Level) -> Option<bool> {
    match level {
        Level::Replicated => Some(false),
        Level::Durable => Some(true),
        _ => None,
    }
}

/// The level cannot be had here.
pub(super) fn unavailable(highest: Level) -> Refusal {
    let message = format!("the topic reaches {} at most", highest.as_str_name());
    Box::new(refuse(Reason::LevelUnavailable, message).with("highest", highest.as_str_name()))
}

/// Adds what was reached all the same.
pub(super) fn reached_so_far(refusal: Refusal, level: Level, position: Option<Position>) -> Refusal {
    let refusal = refusal.with("level", level.as_str_name());
    Box::new(match position {
        Some(position) => refusal.with("position", position),
        None => refusal,
    })
}
