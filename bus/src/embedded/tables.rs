//! All that the bus knows: the tables of protocol.md §1, by slot. It joins the pure parts: what one of
//! them answers to be published goes out through [`Subjects`].

use super::{
    history::Slot,
    keys::Names,
    live::Subjects,
    ownership::{Change, Control},
};
use crate::{
    Append, Appended, Config, Era, Error, GatewayId, Grant, Key, Memory, Metrics, NodeName, Opened, Payload,
    Position, Refusal, Stage, Subject, Topic, Value, When,
};
use bytes::Bytes;
use plexus_proto::bus as wire;
use prometheus_client::metrics::gauge::Gauge;
use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};
use tokio::time::Instant;

/// An erased node's epoch is remembered so long.
const GRAVE: Duration = Duration::from_secs(3600);

/// What is new finds no room.
const FULL: Error = Error::Refused(Refusal::OutOfMemory);

/// The tables.
pub(super) struct Tables {
    /// Who listens where.
    pub(super) live: Subjects,
    /// The control slot: leases, grants, the directory.
    pub(super) control: Control,
    /// Free keys.
    pub(super) names: Names,
    /// One slot per node.
    slots: HashMap<NodeName, Slot>,
    /// `z`: the epoch that erased a node, for an hour: no older grant acts on what is made after it.
    erased: HashMap<NodeName, (u64, Instant)>,
    /// Random per process.
    era: Era,
    /// Encodes the openings too.
    strict: bool,
    /// What is held at most.
    most: Memory,
    /// When this wake began.
    now: Instant,
    /// The same by the wall clock, from which epochs are made.
    wall: SystemTime,
    /// Set by tests: nothing runs before.
    paused: Option<Instant>,
    /// Whether the loop runs.
    pub(super) up: Gauge,
}

impl Tables {
    pub(super) fn new(config: &Config, metrics: Metrics) -> Self {
        metrics.up.set(1);
        Self {
            live: Subjects::new(config.subscriptions_max, metrics.lagged),
            control: Control::default(),
            names: Names::default(),
            slots: HashMap::new(),
            erased: HashMap::new(),
            era: uuid::Uuid::new_v4().simple().to_string().into(),
            strict: config.strict,
            most: config.memory,
            now: Instant::now(),
            wall: SystemTime::now(),
            paused: None,
            up: metrics.up,
        }
    }

    /// Takes the time, once per wake.
    pub(super) fn turn(&mut self, now: Instant, wall: SystemTime) {
        (self.now, self.wall) = (now, wall);
        self.control.turn(&self.era, now);
    }

    pub(super) fn now(&self) -> Instant {
        self.now
    }

    /// Microseconds since 1970, the least that an epoch may be.
    pub(super) fn micros(&self) -> u64 {
        let since = self.wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }

    pub(super) fn era(&self) -> &Era {
        &self.era
    }

    pub(super) fn slot(&self, node: &NodeName) -> Option<&Slot> {
        self.slots.get(node)
    }

    pub(super) fn slot_mut(&mut self, node: &NodeName) -> Option<&mut Slot> {
        self.slots.get_mut(node)
    }

    /// The node's slot, made where there is room for it.
    fn make_slot(&mut self, node: &NodeName) -> Result<&mut Slot, Error> {
        if self.slots.len() >= self.most.nodes_max && !self.slots.contains_key(node) {
            return Err(FULL);
        }
        Ok(self.slots.entry(node.clone()).or_default())
    }

    /// Notes a gateway's readers.
    pub(super) fn want(
        &mut self,
        node: &NodeName,
        gateway: &GatewayId,
        readers: &[(Topic, Option<u32>)],
    ) -> Result<(), Error> {
        let most = self.most;
        let done = self.make_slot(node)?.want(gateway, readers, &most);
        if done { Ok(()) } else { Err(FULL) }
    }

    /// `open`, and its markers on the live subjects.
    pub(super) fn open(
        &mut self,
        node: &NodeName,
        grant: Grant,
        topics: &[Topic],
        marker: &wire::LogEntry,
        stage: Stage,
    ) -> Result<Opened, Error> {
        if let Some(erased) = self.erased_after(node, grant) {
            return Ok(Opened::Fenced(erased));
        }
        self.make_slot(node)?;
        let Some(slot) = self.slots.get_mut(node) else { return Err(FULL) };
        if !slot.has_room(topics.iter(), self.most.logs_max) {
            return Err(FULL);
        }
        let openings = match slot.open(&self.era, self.now, grant, topics, stage) {
            Ok(openings) => openings,
            Err(refused) => return Ok(refused),
        };
        for opening in &openings {
            let mut entry = marker.clone();
            let told = entry.opening.get_or_insert_default();
            told.prev = if opening.prev == Position::ZERO { String::new() } else { opening.prev.to_string() };
            told.sure = opening.sure;
            let entry = Payload::of(entry);
            let entry = if self.strict { entry.flatten() } else { entry };
            slot.begin(&opening.topic, grant, entry.clone());
            self.live.publish(&Subject::Topic(node.clone(), opening.topic.clone()), entry);
        }
        Ok(Opened::Done(openings))
    }

    /// `append`, and its entries on the live subjects.
    pub(super) fn append(&mut self, node: &NodeName, grant: Grant, entries: Vec<Append>) -> Appended {
        let Some(slot) = self.slots.get_mut(node).filter(|slot| slot.opened_by(grant)) else {
            return Appended::Fenced;
        };
        let append = |append: Append| {
            let spot = slot.append(grant.epoch, &append);
            if spot == crate::Spot::Logged {
                self.live.publish(&Subject::Topic(node.clone(), append.topic), append.entry);
            }
            spot
        };
        Appended::Done(entries.into_iter().map(append).collect())
    }

    /// Removes a node's slot, unless the grant is stale.
    pub(super) fn erase(&mut self, node: &NodeName, grant: Grant) -> bool {
        let opened = self.slots.get(node).is_some_and(|slot| slot.opened_by(grant));
        let may = opened || self.is_current(node, grant);
        if may {
            self.slots.remove(node);
            self.erased.insert(node.clone(), (grant.epoch, self.now + GRAVE));
        }
        may
    }

    /// Keeps a node's state, unless the grant is stale.
    pub(super) fn put_state(&mut self, node: &NodeName, grant: Grant, state: Bytes) -> Result<bool, Error> {
        Ok(self.is_current(node, grant) && self.make_slot(node)?.put_state(grant, state))
    }

    fn is_current(&self, node: &NodeName, grant: Grant) -> bool {
        let stale = self.slots.get(node).is_some_and(|slot| slot.is_stale(grant));
        !stale && self.erased_after(node, grant).is_none()
    }

    /// The epoch that erased the node, where this grant is not later.
    fn erased_after(&self, node: &NodeName, grant: Grant) -> Option<u64> {
        let (erased, end) = self.erased.get(node)?;
        (grant.epoch <= *erased && self.now < *end).then_some(*erased)
    }

    /// Publishes changes of ownership.
    pub(super) fn tell(&mut self, changes: impl IntoIterator<Item = Change>) {
        for Change { node, worker, epoch } in changes {
            let change = wire::OwnerChange {
                namespace: node.namespace().into(),
                node: node.node().into(),
                worker: worker.as_deref().unwrap_or_default().into(),
                epoch,
            };
            let frame = Payload::of(change);
            self.live.publish(&Subject::Ownership, if self.strict { frame.flatten() } else { frame });
        }
    }

    /// Reads a kept value.
    pub(super) fn get(&self, key: &Key) -> Option<Value> {
        match key {
            Key::Record(node) => self.slot(node)?.record.clone(),
            Key::Sealed(node) => self.slot(node)?.sealed.clone(),
            Key::Named(name) => self.names.get(name, self.now),
        }
    }

    /// Writes a kept value; a free key is also told on its subject.
    pub(super) fn put(
        &mut self,
        key: Key,
        data: Bytes,
        when: When,
        ttl: Option<Duration>,
    ) -> Result<Option<u64>, Error> {
        let put = |place: &mut Option<Value>| {
            let revision = next(place.as_ref(), when)?;
            *place = Some(Value { revision, data: data.clone() });
            Some(revision)
        };
        match key {
            Key::Record(node) => {
                let era = self.era.clone();
                let slot = self.make_slot(&node)?;
                let revision = put(&mut slot.record);
                if revision.is_some() {
                    slot.found(era);
                }
                Ok(revision)
            }
            Key::Sealed(node) => Ok(put(&mut self.make_slot(&node)?.sealed)),
            Key::Named(name) => {
                let expires = ttl.map(|ttl| self.now + ttl);
                if !self.names.has_room(&name, self.most.keys_max, self.now) {
                    return Err(FULL);
                }
                let revision = self.names.put(&name, data, when, expires, self.now);
                if revision.is_some() {
                    self.hint(&name);
                }
                Ok(revision)
            }
        }
    }

    /// Removes a kept value.
    pub(super) fn delete(&mut self, key: Key, when: When) -> bool {
        let delete = |place: &mut Option<Value>| place.take_if(|value| holds(Some(value), when)).is_some();
        match key {
            Key::Record(node) => self.slot_mut(&node).is_some_and(|slot| delete(&mut slot.record)),
            Key::Sealed(node) => self.slot_mut(&node).is_some_and(|slot| delete(&mut slot.sealed)),
            Key::Named(name) => {
                let deleted = self.names.delete(&name, when, self.now);
                if deleted {
                    self.hint(&name);
                }
                deleted
            }
        }
    }

    fn hint(&mut self, name: &str) {
        let frame = Payload::of(name.to_owned());
        self.live.publish(&Subject::Keys, if self.strict { frame.flatten() } else { frame });
    }

    /// Forgets what expired or ended.
    pub(super) fn sweep(&mut self) {
        self.live.sweep();
        self.names.sweep(self.now);
        self.control.sweep(self.now);
        self.erased.retain(|_, (_, end)| self.now < *end);
    }

    pub(super) fn stand(&mut self, pause: Duration) {
        self.paused = Some(self.now + pause);
    }

    pub(super) fn paused(&self) -> Option<Instant> {
        self.paused
    }

    pub(super) fn resume(&mut self) {
        self.paused = None;
    }
}

/// Tells whether a write may happen over this value.
pub(super) fn holds(present: Option<&Value>, when: When) -> bool {
    match when {
        When::Always => true,
        When::Absent => present.is_none(),
        When::Revision(revision) => present.is_some_and(|value| value.revision == revision),
    }
}

/// The revision of a write over this value; `None` where it may not happen.
pub(super) fn next(present: Option<&Value>, when: When) -> Option<u64> {
    holds(present, when).then(|| present.map_or(0, |value| value.revision) + 1)
}

/// Reads an opening entry, to which `prev` and `sure` are added.
pub(super) fn marker(bytes: Bytes) -> Result<wire::LogEntry, Error> {
    prost::Message::decode(bytes).map_err(|_| Error::Invalid("the marker is no log entry".into()))
}
