//! What the writer asks of the bus next.

use super::{Flight, Log, State};
use crate::{
    clock::Moment,
    node::log::{Do, topic::Source},
};
use plexus_bus::{Append, Payload, Position, Stage, Topic};
use plexus_proto::bus::LogMessage;
use std::time::Duration;

/// Topics and payload bytes of one append at most.
const APPEND_TOPICS_MAX: usize = 256;
const APPEND_BYTES_MAX: usize = 8 << 20;
/// Between two looks for logs at rest to trim.
pub(super) const TRIM_INTERVAL: Duration = Duration::from_secs(60);

/// What to ask of the bus.
impl Log {
    pub(super) fn wants(&self) -> bool {
        match self.state {
            State::Open => !self.to_open.is_empty() || !self.ready.is_empty() || !self.trims.is_empty(),
            State::Fenced => false,
            _ => true,
        }
    }

    pub(super) fn open_task(&mut self, first: bool) -> (Do, Flight) {
        let further = std::mem::take(&mut self.to_open);
        let topics = if first { self.topics.keys().cloned().collect() } else { further };
        self.suspect = false;
        let stage = if first { Stage::First { sweep: self.sweep } } else { Stage::Later };
        let task = Do::Open { grant: self.grant, topics: topics.clone(), stage };
        (task, Flight::Open { first, topics })
    }

    pub(super) fn open_state_task(&mut self, now: Moment) -> Option<(Do, Flight)> {
        if !self.to_open.is_empty() {
            return Some(self.open_task(false));
        }
        if now >= self.trim_after {
            self.trim_after = now.after(TRIM_INTERVAL);
            let due =
                self.topics.iter_mut().filter_map(|(topic, log)| log.loosened(now).then(|| topic.clone()));
            self.trims.extend(due);
        }
        self.evict(now);
        // One trim between two appends: neither can keep the other waiting.
        if !self.trimmed_last
            && let Some(task) = self.trim_task()
        {
            self.trimmed_last = true;
            return Some(task);
        }
        self.trimmed_last = false;
        let sent = self.number(now);
        if sent.is_empty() { self.trim_task() } else { Some(self.append_task(sent)) }
    }

    pub(super) fn trim_task(&mut self) -> Option<(Do, Flight)> {
        while let Some(topic) = self.trims.pop_front() {
            let Some(log) = self.topics.get(&topic).filter(|log| log.open) else { continue };
            let purge = log.purge;
            let keep = if purge { 0 } else { log.keep() };
            return Some((Do::Trim(self.grant, topic.clone(), keep), Flight::Trim { topic, purge }));
        }
        None
    }

    /// Numbers an entry for each topic that has something, within the bounds of one append.
    pub(super) fn number(&mut self, now: Moment) -> Vec<Topic> {
        let (mut sent, mut total) = (Vec::new(), 0);
        for _ in 0..self.ready.len() {
            if sent.len() == APPEND_TOPICS_MAX || total >= APPEND_BYTES_MAX {
                break;
            }
            let Some(topic) = self.ready.pop_front() else { break };
            let Some(log) = self.topics.get_mut(&topic) else { continue };
            log.queued = false;
            if !log.numbers() {
                continue;
            }
            let (seen, load) = (&mut self.seen, &mut self.load);
            let fresh = |message: &LogMessage, source| {
                seen.insert(&topic, &message.id, now) || source != Source::Network
            };
            let numbered = log.number(self.grant, now, fresh, |source, len| load.take(source, len));
            if let Some(bytes) = numbered {
                total += bytes;
                self.ring_bytes += bytes;
                self.order.push_back((topic.clone(), Position::new(self.grant.epoch, log.last), now));
                sent.push(topic.clone());
            }
            self.queue(&topic);
        }
        sent
    }

    /// Appends what is past the tails, then stamps, then the logs are open again.
    pub(super) fn repair_task(&mut self, now: Moment) -> Option<(Do, Flight)> {
        let (mut sent, mut total) = (Vec::new(), 0);
        for (topic, log) in self.topics.iter().filter(|(_, log)| log.open) {
            let Some(next) = log.unsent() else { continue };
            if sent.len() == APPEND_TOPICS_MAX || total >= APPEND_BYTES_MAX {
                break;
            }
            total += next.bytes;
            sent.push(topic.clone());
        }
        if !sent.is_empty() {
            return Some(self.append_task(sent));
        }
        let State::Repair { era, stamp } = &self.state else { return None };
        if *stamp {
            return Some((Do::Stamp(self.grant, era.clone()), Flight::Stamp));
        }
        self.succeeded();
        self.state = State::Open;
        self.open_state_task(now)
    }

    pub(super) fn append_task(&self, topics: Vec<Topic>) -> (Do, Flight) {
        let (mut entries, mut sent) = (Vec::new(), Vec::new());
        for topic in topics {
            let Some(log) = self.topics.get(&topic) else { continue };
            let Some(next) = log.unsent() else { continue };
            let entry = Payload::shared(next.entry.clone());
            entries.push(Append {
                topic: topic.clone(),
                first: next.first,
                last: next.last,
                keep: log.keep(),
                entry,
            });
            sent.push((topic, next.last));
        }
        (Do::Append(self.grant, entries), Flight::Append(sent))
    }
}
