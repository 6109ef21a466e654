//! Which node to take: preference over the workers that live ([`plexus_proto::placement`]), capacity, and
//! what a node's record wishes. Pure; it is told what the directory says and what time it is. A wrong view costs
//! only a refused take: the record in the store decides (protocol.md P3, P4).
//!
//! - A node comes back to its last worker: the others wait `claim_delay`, and a node whose lease
//!   expired is left alone that long even by its next choice (P3).
//! - The first choice among the workers that may have the node claims at once, the others a `claim_delay`
//!   later: what a worker says of itself may be old by then.
//! - A node that its worker gave back is not that worker's any more, for it drains; unless that
//!   worker is there under another name: then it was fenced and comes back.
//! - A node that its worker promised to another is that one's; the rest wait longer.
//!
//! Nothing is taken from a worker that lives. What to give away is decided in `spread`.

use crate::{clock::Moment, config};
use plexus_bus::{Incarnation, NodeName, Owner};
pub(crate) use plexus_proto::placement::Rule;
use plexus_proto::{
    bus::{NodeRecord, NodeState},
    placement::Seat,
    v1::node_status::State,
};
use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::Duration,
};

/// After this a node that is not to be run is read again, in case a hint was missed.
const READ_AGAIN: Duration = Duration::from_secs(60);

/// The view of one worker on all nodes.
#[derive(Debug)]
pub(crate) struct Placement {
    /// This worker.
    own: Seat,
    /// What workers say of themselves, by id.
    told: HashMap<String, Seat>,
    /// The other workers that live.
    others: Vec<Seat>,
    claim_delay: Duration,
    batch_max: usize,
    /// Incarnations that live; `None`: not known yet, so nothing is taken.
    live: Option<HashSet<Incarnation>>,
    nodes: BTreeMap<NodeName, Entry>,
    free: BTreeSet<NodeName>,
    /// Nodes that are here or being taken, with what the rules need of them.
    here: HashMap<NodeName, Rule>,
}

#[derive(Debug)]
struct Entry {
    owner: Option<Incarnation>,
    /// The last owner that was seen.
    last: Option<Incarnation>,
    free_since: Moment,
    /// When this worker may claim it; forgotten when the set of workers changes.
    due: Option<Moment>,
    wish: Wish,
    not_before: Moment,
    /// Its owner promised it: to this worker, or to another.
    promised: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Wish {
    Unread,
    Reading,
    Take(Rule),
    Leave { until: Moment },
}

/// What to do now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Nodes whose records to read before they can be claimed.
    pub(crate) read: Vec<NodeName>,
    /// Nodes to take.
    pub(crate) claim: Vec<NodeName>,
}

/// Reads what a record wishes; `None`: it is not to be run. A node that is being deleted, or is listed
/// without a record, is taken to be buried.
pub(crate) fn rule(record: Option<&NodeRecord>, state: Option<&NodeState>) -> Option<Rule> {
    let Some(record) = record else { return Some(Rule::default()) };
    let spec = record.node.as_ref().and_then(|node| node.spec.as_ref()).cloned().unwrap_or_default();
    if !record.deleting && (spec.stopped == Some(true) || quarantined(record, state)) {
        return None;
    }
    let rule = Rule::of(&spec, &record.home);
    Some(if record.deleting { Rule { avoid: None, ..rule } } else { rule })
}

/// Tells whether a node failed too often; a restart, which raises the generation, lifts it.
pub(crate) fn quarantined(record: &NodeRecord, state: Option<&NodeState>) -> bool {
    state.is_some_and(|state| {
        let status = state.status.as_ref().map(|status| status.state());
        status == Some(State::Quarantined) && state.generation >= record.generation
    })
}

/// The pod of an incarnation `<pod>.<nonce>`.
pub(crate) fn pod(incarnation: &str) -> &str {
    incarnation.rsplit_once('.').map_or(incarnation, |(pod, _)| pod)
}

impl Placement {
    /// Makes an empty view for the worker named `pod`.
    pub(crate) fn new(pod: &str, config: &config::Config) -> Self {
        let labels = config.labels.clone();
        Self {
            own: Seat { worker: pod.into(), capacity: config.nodes_max as u64, labels, ..Seat::default() },
            told: HashMap::new(),
            others: Vec::new(),
            claim_delay: config.lease.claim_delay,
            batch_max: config.lease.claims_max,
            live: None,
            nodes: BTreeMap::new(),
            free: BTreeSet::new(),
            here: HashMap::new(),
        }
    }

    /// Takes in what workers say of themselves.
    pub(crate) fn told(&mut self, seats: Vec<Seat>) {
        self.told = seats.into_iter().map(|seat| (seat.worker.clone(), seat)).collect();
        self.seat();
    }

    /// Seats the others that live. One that says nothing of itself counts as one like this, without labels.
    fn seat(&mut self) {
        let pods: BTreeSet<&str> = self.live.iter().flatten().map(|other| pod(other)).collect();
        let silent = |pod: &str| Seat { worker: pod.into(), capacity: self.own.capacity, ..Seat::default() };
        let others = pods.into_iter().filter(|pod| *pod != self.own.worker);
        self.others = others.map(|pod| self.told.get(pod).cloned().unwrap_or_else(|| silent(pod))).collect();
        self.nodes.values_mut().for_each(|entry| entry.due = None);
    }

    /// Takes in who owns what, as a whole, and who lives.
    pub(crate) fn survey(&mut self, owners: Vec<(NodeName, Owner)>, live: Vec<Incarnation>, now: Moment) {
        let listed: HashSet<&NodeName> = owners.iter().map(|(node, _)| node).collect();
        self.nodes.retain(|node, _| listed.contains(node) || self.here.contains_key(node));
        self.free.retain(|node| listed.contains(node));
        self.lives(live, now);
        for (node, owner) in owners {
            self.owned(&node, owner.worker, now);
        }
    }

    /// Takes in who lives. Answers whether that changed.
    pub(crate) fn lives(&mut self, live: Vec<Incarnation>, now: Moment) -> bool {
        let live: HashSet<Incarnation> = live.into_iter().collect();
        if self.live.as_ref() == Some(&live) {
            return false;
        }
        self.live = Some(live);
        let freed: Vec<NodeName> = self
            .nodes
            .iter()
            .filter(|(_, entry)| self.is_free(entry))
            .map(|(node, _)| node.clone())
            .collect();
        for node in freed {
            self.set_free(&node, now);
        }
        self.seat();
        true
    }

    /// Takes in who owns a node now.
    pub(crate) fn owned(&mut self, node: &NodeName, owner: Option<Incarnation>, now: Moment) {
        if self.here.contains_key(node) {
            return;
        }
        let entry = self.nodes.entry(node.clone()).or_insert_with(|| Entry::new(now));
        if let Some(owner) = &owner {
            entry.last = Some(owner.clone());
        }
        if entry.owner != owner {
            if owner.is_some() {
                entry.promised = None;
            }
            entry.owner = owner;
            entry.due = None;
            entry.wish = Wish::Unread;
        }
        if self.nodes.get(node).is_some_and(|entry| self.is_free(entry)) {
            self.set_free(node, now);
        } else {
            self.free.remove(node);
        }
    }

    /// Takes in an owner that was just announced, and so lives.
    pub(crate) fn announced(&mut self, node: &NodeName, owner: Option<Incarnation>, now: Moment) {
        if let (Some(live), Some(owner)) = (&mut self.live, &owner)
            && live.insert(owner.clone())
        {
            self.seat();
        }
        // A node that is buried is told like one that is given back; an unknown one stays unknown.
        if owner.is_some() || self.knows(node) {
            self.owned(node, owner, now);
        }
    }

    /// Hears that a node will be given to a worker.
    pub(crate) fn promised(&mut self, node: &NodeName, worker: &str) {
        if let Some(entry) = self.nodes.get_mut(node) {
            entry.promised = Some(worker == self.own.worker);
            entry.due = None;
        }
    }

    /// Hears what the record of a node that is here says now.
    pub(crate) fn ruled(&mut self, node: &NodeName, rule: Rule) {
        if let Some(held) = self.here.get_mut(node) {
            self.own.load = self.own.load - held.weight + rule.weight;
            *held = rule;
        }
    }

    /// This worker.
    pub(crate) fn own(&self) -> &Seat {
        &self.own
    }

    /// The other workers that live and say what they are.
    pub(crate) fn others(&self) -> impl Iterator<Item = &Seat> {
        self.others.iter().filter(|seat| self.told.contains_key(&seat.worker))
    }

    /// Tells whether a worker says what it is.
    pub(crate) fn is_told(&self, worker: &str) -> bool {
        worker == self.own.worker || self.told.contains_key(worker)
    }

    /// How many nodes each worker owns.
    pub(crate) fn counts(&self) -> HashMap<&str, usize> {
        let mut counts = HashMap::from([(self.own.worker.as_str(), self.here.len())]);
        let others = self.nodes.iter().filter(|(node, _)| !self.here.contains_key(*node));
        for owner in others.filter_map(|(_, entry)| entry.owner.as_deref()) {
            *counts.entry(pod(owner)).or_default() += 1;
        }
        counts
    }

    /// What the record of a node that is here says.
    pub(crate) fn rule_of(&self, node: &NodeName) -> Option<&Rule> {
        self.here.get(node)
    }

    /// Tells whether the node is known.
    pub(crate) fn knows(&self, node: &NodeName) -> bool {
        self.nodes.contains_key(node)
    }

    /// Hears that the node's record changed.
    pub(crate) fn changed(&mut self, node: &NodeName) {
        if let Some(entry) = self.nodes.get_mut(node) {
            entry.wish = Wish::Unread;
            entry.not_before = Moment::PAST;
        }
    }

    /// Takes in what a record wishes; `Err`: it could not be read.
    pub(crate) fn learned(&mut self, node: &NodeName, rule: Result<Option<Rule>, ()>, now: Moment) {
        let wish = match rule {
            Ok(Some(rule)) if rule.fits(&self.own.labels) => Wish::Take(rule),
            Ok(_) => Wish::Leave { until: now.after(READ_AGAIN) },
            Err(()) => Wish::Leave { until: now.after(self.claim_delay) },
        };
        // A hint that came meanwhile made the wish unread again: what was read may be older.
        if let Some(entry) = self.nodes.get_mut(node).filter(|entry| entry.wish == Wish::Reading) {
            entry.wish = wish;
            entry.due = None;
        }
    }

    /// Hears that a take was refused: somebody else has the node, or nothing can be taken yet (P4).
    pub(crate) fn refused(&mut self, node: &NodeName, now: Moment) {
        self.leave(node);
        if let Some(entry) = self.nodes.get_mut(node) {
            entry.not_before = now.after(self.claim_delay);
        }
    }

    /// Hears that this worker, under `incarnation`, gave a node back.
    pub(crate) fn left(&mut self, node: &NodeName, incarnation: &Incarnation, now: Moment) {
        self.leave(node);
        if let Some(entry) = self.nodes.get_mut(node) {
            entry.last = Some(incarnation.clone());
            // Whoever it is promised to has its time from here.
            entry.free_since = now;
            self.owned(node, None, now);
        }
    }

    /// Hears that this worker's lease is over: nothing is here.
    pub(crate) fn fenced(&mut self, former: &Incarnation) {
        for node in std::mem::take(&mut self.here).into_keys() {
            if let Some(entry) = self.nodes.get_mut(&node) {
                entry.owner = Some(former.clone());
                entry.last = Some(former.clone());
            }
        }
        self.own.load = 0;
    }

    /// Hears that a node is gone for good.
    pub(crate) fn buried(&mut self, node: &NodeName) {
        self.leave(node);
        self.nodes.remove(node);
        self.free.remove(node);
    }

    /// Says which records to read and which nodes to take; both are bounded, and counted as under way
    /// until they are heard of again.
    pub(crate) fn step(&mut self, now: Moment, may_read: bool, may_claim: bool) -> Plan {
        let mut plan = Plan::default();
        if self.live.is_none() || !(may_read || may_claim) {
            return plan;
        }
        for node in self.free.clone() {
            let full = |list: &Vec<NodeName>, open: bool| !open || list.len() >= self.batch_max;
            if full(&plan.read, may_read) && full(&plan.claim, may_claim) {
                break;
            }
            let (reads, claims) = (!full(&plan.read, may_read), !full(&plan.claim, may_claim));
            if !self.may_claim(&node, now) {
                continue;
            }
            let Some(entry) = self.nodes.get_mut(&node) else { continue };
            match &entry.wish {
                Wish::Unread if reads => plan.read.push(node),
                Wish::Leave { until } if reads && *until <= now => plan.read.push(node),
                Wish::Take(rule) if claims => {
                    let rule = rule.clone();
                    if self.has_room(&rule) {
                        self.arrive(&node, rule);
                        plan.claim.push(node);
                    }
                    continue;
                }
                _ => continue,
            }
            entry.wish = Wish::Reading;
        }
        plan
    }

    /// Nodes that are here or being taken, by weight.
    pub(crate) fn load(&self) -> u64 {
        self.own.load
    }

    fn has_room(&self, rule: &Rule) -> bool {
        let avoids = |(key, value): &(String, String)| {
            self.here.values().any(|other| other.labels.get(key).is_some_and(|found| found == value))
        };
        self.own.load + rule.weight <= self.own.capacity && !rule.avoid.as_ref().is_some_and(avoids)
    }

    fn arrive(&mut self, node: &NodeName, rule: Rule) {
        self.free.remove(node);
        self.own.load += rule.weight;
        self.here.insert(node.clone(), rule);
    }

    fn leave(&mut self, node: &NodeName) {
        let Some(rule) = self.here.remove(node) else { return };
        self.own.load -= rule.weight;
        let Some(entry) = self.nodes.get_mut(node) else { return };
        entry.wish = Wish::Unread;
        entry.due = None;
        if self.nodes.get(node).is_some_and(|entry| self.is_free(entry)) {
            self.free.insert(node.clone());
        }
    }

    fn is_free(&self, entry: &Entry) -> bool {
        match (&entry.owner, &self.live) {
            (None, _) => true,
            (Some(owner), Some(live)) => !live.contains(owner),
            (Some(_), None) => false,
        }
    }

    fn set_free(&mut self, node: &NodeName, now: Moment) {
        if self.here.contains_key(node) {
            return;
        }
        if self.free.insert(node.clone())
            && let Some(entry) = self.nodes.get_mut(node)
        {
            entry.free_since = now;
            entry.due = None;
            entry.not_before = Moment::PAST;
        }
    }

    fn may_claim(&mut self, node: &NodeName, now: Moment) -> bool {
        let Some(entry) = self.nodes.get(node) else { return false };
        let due = entry.due.unwrap_or_else(|| entry.free_since.after(self.delay(node, entry)));
        let not_before = entry.not_before;
        if let Some(entry) = self.nodes.get_mut(node) {
            entry.due = Some(due);
        }
        due.max(not_before) <= now
    }

    fn delay(&self, node: &NodeName, entry: &Entry) -> Duration {
        let last = entry.last.as_deref().map(pod);
        match entry.promised {
            Some(true) => return Duration::ZERO,
            None if last == Some(&*self.own.worker) => return Duration::ZERO,
            _ => {}
        }
        // Its last worker is back under another name, or may be soon: the node is left to it.
        let mut live = self.live.iter().flatten();
        let back = live.any(|other| Some(pod(other)) == last && entry.last.as_ref() != Some(other));
        let waits = entry.owner.is_some() || back;
        let unread = Rule { weight: 1, ..Rule::default() };
        let rule = if let Wish::Take(rule) = &entry.wish { rule } else { &unread };
        let mut others = self.others.iter().filter(|other| waits || Some(&*other.worker) != last);
        let first = others.all(|other| {
            rule.bar(other, false).is_some()
                || rule.compare(node.as_str(), &self.own, other) == Ordering::Greater
        });
        let mut turns = u32::from(waits) + u32::from(!first);
        if entry.promised.is_some() {
            turns += 2 + u32::from(last == Some(&*self.own.worker));
        }
        self.claim_delay * turns
    }
}

impl Entry {
    fn new(now: Moment) -> Self {
        Self {
            owner: None,
            last: None,
            free_since: now,
            due: None,
            wish: Wish::Unread,
            not_before: Moment::PAST,
            promised: None,
        }
    }
}

#[cfg(test)]
mod tests;
