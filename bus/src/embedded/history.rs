//! A node's slot: its logs with the grant that may write them, its record and key, and who wants its
//! topics. `open`, `append`, `look` and `stamp` of protocol.md §2, pure.

use crate::{
    Append, Entry, Era, Extent, GatewayId, Grant, Look, Memory, Opened, Opening, Payload, Position, Range,
    Spot, Stage, Topic, Value,
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Duration,
};
use tokio::time::Instant;

/// Doubt about what an era lost ends so long after the last opening that was not sure.
const DOUBT: Duration = Duration::from_secs(3600);

/// One node's slot.
#[derive(Clone, Default)]
pub(super) struct Slot {
    /// `f` without the tails; `None`: never made.
    front: Option<Front>,
    /// The logs, each with its tail.
    logs: HashMap<Topic, Log>,
    /// Readers, by gateway and topic.
    interest: BTreeMap<(GatewayId, Topic), u32>,
    /// The node's record.
    pub(super) record: Option<Value>,
    /// Its sealed key.
    pub(super) sealed: Option<Value>,
    /// Its state, with the grant that wrote it.
    state: Option<(Grant, Bytes)>,
}

/// Who opened the logs, and in which era they were known to be whole.
#[derive(Clone)]
struct Front {
    grant: Option<Grant>,
    era: Era,
    /// Until then a log that seems empty may have been lost.
    doubt: Option<Instant>,
}

#[derive(Clone, Default)]
struct Log {
    tail: Position,
    entries: VecDeque<Entry>,
}

impl Log {
    fn push(&mut self, id: Position, entry: Payload) {
        self.entries.push_back(Entry { id, entry });
        self.tail = id;
    }

    fn keep(&mut self, entries: u64) {
        let keep = usize::try_from(entries).unwrap_or(usize::MAX);
        self.entries.drain(..self.entries.len().saturating_sub(keep));
    }

    fn has_messages(&self) -> bool {
        self.entries.iter().any(|entry| entry.id.seq > 0)
    }
}

impl Slot {
    /// Makes `f` where the node's record is first written: nothing can have been lost before.
    pub(super) fn found(&mut self, era: Era) {
        self.front.get_or_insert(Front { grant: None, era, doubt: None });
    }

    /// Tells whether this very grant opened the logs.
    pub(super) fn opened_by(&self, grant: Grant) -> bool {
        self.grant() == Some(grant)
    }

    /// Tells whether another grant opened the logs, or wrote a state, at or after this one. Unlike
    /// [`Slot::opened_by`] it allows what an owner does before it opens.
    pub(super) fn is_stale(&self, grant: Grant) -> bool {
        let wrote = self.state.as_ref().map(|(grant, _)| *grant);
        self.grant().into_iter().chain(wrote).any(|last| is_after(last, grant))
    }

    fn grant(&self) -> Option<Grant> {
        self.front.as_ref().and_then(|front| front.grant)
    }

    /// Gives the logs to a grant; answers the topics to be opened, or why none is. [`Slot::begin`] writes
    /// each opening.
    pub(super) fn open(
        &mut self,
        era: &Era,
        now: Instant,
        grant: Grant,
        topics: &[Topic],
        stage: Stage,
    ) -> Result<Vec<Opening>, Opened> {
        // No tail is ahead of the grant: both live and die together here.
        if let Some(last) = self.grant().filter(|last| is_after(*last, grant)) {
            return Err(Opened::Fenced(last.epoch));
        }
        if stage == Stage::Later && !self.opened_by(grant) {
            return Err(Opened::Lost);
        }
        let sure = self.front.as_ref().is_some_and(|front| front.era == *era);
        let doubt = match &self.front {
            Some(front) if sure => front.doubt.filter(|end| now < *end),
            _ => Some(now + DOUBT),
        };
        self.front = Some(Front { grant: Some(grant), era: era.clone(), doubt });

        let begin = Position::new(grant.epoch, 0);
        let wanted = self.interest.keys().map(|(_, topic)| topic).chain(topics).cloned();
        let wanted: BTreeSet<Topic> = wanted.collect();
        if stage == (Stage::First { sweep: true }) {
            // Not one of this epoch, whose positions would come again.
            self.logs.retain(|topic, log| log.tail >= begin || log.has_messages() || wanted.contains(topic));
        }
        let known = self.logs.keys().cloned().collect();
        let openings = wanted.union(&known).filter_map(|topic| {
            let prev = self.logs.get(topic).map_or(Position::ZERO, |log| log.tail);
            let sure = sure && !(doubt.is_some() && prev == Position::ZERO);
            (prev < begin).then(|| Opening { topic: topic.clone(), prev, sure })
        });
        Ok(openings.collect())
    }

    /// Writes the opening entry of a topic.
    pub(super) fn begin(&mut self, topic: &Topic, grant: Grant, entry: Payload) {
        let id = Position::new(grant.epoch, 0);
        match self.logs.get_mut(topic) {
            Some(log) => log.push(id, entry),
            // A copy, so that the log does not keep the request alive that named it.
            None => self.logs.entry(Bytes::copy_from_slice(topic)).or_default().push(id, entry),
        }
    }

    /// Appends one entry behind the tail, or tells where the tail is.
    pub(super) fn append(&mut self, epoch: u64, append: &Append) -> Spot {
        let Some(log) = self.logs.get_mut(&append.topic) else { return Spot::Off(None) };
        if log.tail != Position::new(epoch, append.first - 1) {
            return Spot::Off(Some(log.tail));
        }
        log.push(Position::new(epoch, append.last), append.entry.clone());
        log.keep(append.keep);
        Spot::Logged
    }

    pub(super) fn look(&self, era: &Era) -> Look {
        let mut tails: Vec<_> = self.logs.iter().map(|(topic, log)| (topic.clone(), log.tail)).collect();
        tails.sort_unstable();
        let stamped = self.front.as_ref().map(|front| front.era.clone());
        Look { era: era.clone(), grant: self.grant(), stamped, tails }
    }

    /// Notes that the owner repaired its logs in this era.
    pub(super) fn stamp(&mut self, grant: Grant, era: &Era) -> bool {
        let Some(front) = self.front.as_mut().filter(|front| front.grant == Some(grant)) else {
            return false;
        };
        front.era = era.clone();
        true
    }

    pub(super) fn top(&self, topic: &Topic) -> Option<Position> {
        self.logs.get(topic).map(|log| log.tail)
    }

    pub(super) fn read(&self, topic: &Topic, range: Range) -> Vec<Entry> {
        let Some(log) = self.logs.get(topic) else { return Vec::new() };
        let begin = log.entries.partition_point(|entry| entry.id < range.from);
        let end = match range.until {
            Some(until) => log.entries.partition_point(|entry| entry.id <= until),
            None => log.entries.len(),
        };
        let entries = log.entries.range(begin..end.max(begin)).cloned();
        if range.newest_first {
            entries.rev().take(range.limit).collect()
        } else {
            entries.take(range.limit).collect()
        }
    }

    pub(super) fn extent(&self, topic: &Topic) -> Option<Extent> {
        let log = self.logs.get(topic)?;
        let oldest = log.entries.front().map(|entry| entry.id);
        Some(Extent { oldest, top: log.tail, entries: log.entries.len() as u64 })
    }

    /// Keeps the newest entries; the tail stays known.
    pub(super) fn trim(&mut self, grant: Grant, topic: &Topic, keep: u64) -> bool {
        if !self.opened_by(grant) {
            return false;
        }
        if let Some(log) = self.logs.get_mut(topic) {
            log.keep(keep);
        }
        true
    }

    /// Keeps the owner's word on the node, unless the grant is stale.
    pub(super) fn put_state(&mut self, grant: Grant, state: Bytes) -> bool {
        let may = !self.is_stale(grant);
        if may {
            self.state = Some((grant, state));
        }
        may
    }

    pub(super) fn state(&self) -> Option<Bytes> {
        self.state.as_ref().map(|(_, state)| state.clone())
    }

    /// Tells whether there is room for logs of these topics beside those that are there or wanted.
    pub(super) fn has_room<'a>(&'a self, topics: impl Iterator<Item = &'a Topic>, most: usize) -> bool {
        let topics: Vec<&Topic> = topics.collect();
        if self.logs.len() + self.interest.len() + topics.len() <= most {
            return true;
        }
        let wanted = self.interest.keys().map(|(_, topic)| topic);
        let before: BTreeSet<&Topic> = self.logs.keys().chain(wanted).collect();
        let new: BTreeSet<&Topic> = topics.into_iter().filter(|topic| !before.contains(topic)).collect();
        new.is_empty() || before.len() + new.len() <= most
    }

    /// Notes a gateway's readers; `None` removes its interest. False, and nothing is noted: there is no room.
    pub(super) fn want(
        &mut self,
        gateway: &GatewayId,
        readers: &[(Topic, Option<u32>)],
        most: &Memory,
    ) -> bool {
        let news: Vec<&Topic> = readers.iter().filter(|(_, n)| n.is_some()).map(|(topic, _)| topic).collect();
        let more = news
            .iter()
            .filter(|topic| !self.interest.contains_key(&(gateway.clone(), (**topic).clone())))
            .count();
        let full = more > 0 && self.interest.len() + more > most.interest_max;
        if full || !self.has_room(news.into_iter(), most.logs_max) {
            return false;
        }
        for (topic, readers) in readers {
            let place = (gateway.clone(), Bytes::copy_from_slice(topic));
            match readers {
                None => self.interest.remove(&place),
                Some(readers) => self.interest.insert(place, *readers),
            };
        }
        true
    }

    pub(super) fn wanted(&self) -> Vec<(GatewayId, Topic, u32)> {
        let entry = |((gateway, topic), readers): (&(GatewayId, Topic), &u32)| {
            (gateway.clone(), topic.clone(), *readers)
        };
        self.interest.iter().map(entry).collect()
    }
}

/// Tells whether `last` forbids what is done under `grant`.
fn is_after(last: Grant, grant: Grant) -> bool {
    last.epoch > grant.epoch || (last.epoch == grant.epoch && last.nonce != grant.nonce)
}
