//! The control slot: leases of workers and gateways, grants of nodes, the directory of PeerIds. `renew`,
//! `turn`, `renew`, `take` and `release` of protocol.md §2, pure. Within a process the era never changes, so
//! that there is no grace (P24); the simulator changes it.

use crate::{Claim, Enlisted, Era, GatewayId, Grant, Incarnation, NodeName, Owned, Owner, Renewed, Taken};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};
use tokio::time::Instant;

/// Term of a worker's lease.
const WORKER_TTL: Duration = Duration::from_secs(6);
/// Term of a gateway's lease.
const GATEWAY_TTL: Duration = Duration::from_secs(15);

/// The control slot.
#[derive(Clone, Default)]
pub(super) struct Control {
    /// `era`: the present one, and until when nothing is taken since it began (P4).
    era: Option<(Era, Option<Instant>)>,
    /// `w`: when each worker's lease ends.
    workers: BTreeMap<Incarnation, Instant>,
    /// `n`: who owns each node.
    owners: BTreeMap<NodeName, Owner>,
    /// `o`: what each worker owns, and how often that changed.
    records: HashMap<Incarnation, Record>,
    /// `p`: the node of each PeerId.
    peers: HashMap<Bytes, NodeName>,
    /// `q`: the PeerId of each node.
    nodes: HashMap<NodeName, Bytes>,
    /// `g`: when each gateway's lease ends.
    gateways: HashMap<GatewayId, Instant>,
}

#[derive(Clone, Default)]
struct Record {
    changes: u64,
    nodes: BTreeMap<NodeName, Grant>,
}

/// A change of ownership, to be published.
pub(super) struct Change {
    pub(super) node: NodeName,
    pub(super) worker: Option<Incarnation>,
    pub(super) epoch: u64,
}

/// What a new epoch must be above (P6).
#[derive(Clone, Copy)]
pub(super) struct Seed {
    /// The wall clock in microseconds.
    pub(super) micros: u64,
    /// Uniform in 0..2^20, one per take: two grants of one node differ even where one was lost.
    pub(super) random: u64,
}

impl Seed {
    fn epoch(self, last: u64, floor: u64) -> u64 {
        let above_floor = if floor > 0 { floor + 1 + self.random } else { 0 };
        (last + 1 + self.random).max(self.micros).max(above_floor)
    }
}

impl Control {
    /// First of all in each wake: a new primary gives every lease a full term, and takes nothing for as
    /// long. Without an era before, the store is new and nobody can have been granted anything.
    pub(super) fn turn(&mut self, era: &Era, now: Instant) {
        if self.era.as_ref().is_some_and(|(known, _)| known == era) {
            return;
        }
        let end = now + WORKER_TTL;
        let grace = self.era.is_some().then_some(end);
        self.era = Some((era.clone(), grace));
        self.workers.values_mut().filter(|lease| now < **lease).for_each(|lease| *lease = end);
    }

    fn grace(&self, now: Instant) -> bool {
        self.era.as_ref().is_some_and(|(_, end)| end.is_some_and(|end| now < end))
    }

    pub(super) fn renew(&mut self, worker: &Incarnation, fresh: bool, era: &Era, now: Instant) -> Renewed {
        if !fresh && !self.grace(now) && !self.lives(worker, now) {
            return Renewed::Lost;
        }
        self.workers.insert(worker.clone(), now + WORKER_TTL);
        let changes = self.records.get(worker).map_or(0, |record| record.changes);
        Renewed::Held { era: era.clone(), changes, replicas: 0 }
    }

    fn lives(&self, worker: &Incarnation, now: Instant) -> bool {
        self.workers.get(worker).is_some_and(|end| now < *end)
    }

    pub(super) fn take(
        &mut self,
        worker: &Incarnation,
        nonce: u64,
        claims: &[Claim],
        seed: Seed,
        now: Instant,
    ) -> (Taken, Vec<Change>) {
        if !self.lives(worker, now) {
            return (Taken::Lost, Vec::new());
        }
        let mut changes = Vec::new();
        let epochs = claims.iter().map(|claim| self.take_one(worker, nonce, claim, seed, now, &mut changes));
        (Taken::Epochs(epochs.collect()), changes)
    }

    fn take_one(
        &mut self,
        worker: &Incarnation,
        nonce: u64,
        claim: &Claim,
        seed: Seed,
        now: Instant,
        changes: &mut Vec<Change>,
    ) -> Option<u64> {
        let last = self.owners.get(&claim.node).cloned().unwrap_or_else(nobody);
        let own = last.worker.as_ref() == Some(worker);
        if own && last.grant.nonce == nonce {
            return Some(last.grant.epoch);
        }
        let free = match claim.from {
            Some(from) => own && last.grant.nonce == from,
            None => !self.grace(now) && last.worker.as_ref().is_none_or(|owner| !self.lives(owner, now)),
        };
        if !free {
            return None;
        }
        let epoch = seed.epoch(last.grant.epoch, claim.floor);
        let grant = Grant { epoch, nonce };
        if let Some(dead) = last.worker.filter(|owner| owner != worker) {
            self.record(&dead).remove(&claim.node);
        }
        self.owners.insert(claim.node.clone(), Owner { worker: Some(worker.clone()), grant });
        self.record(worker).insert(claim.node.clone(), grant);
        changes.push(Change { node: claim.node.clone(), worker: Some(worker.clone()), epoch });
        Some(epoch)
    }

    /// Counts a change of a worker's record, and opens it for that.
    fn record(&mut self, worker: &Incarnation) -> &mut BTreeMap<NodeName, Grant> {
        let record = self.records.entry(worker.clone()).or_default();
        record.changes += 1;
        &mut record.nodes
    }

    fn owns(&self, worker: &Incarnation, node: &NodeName, epoch: u64) -> bool {
        self.owners.get(node).is_some_and(|o| o.worker.as_ref() == Some(worker) && o.grant.epoch == epoch)
    }

    pub(super) fn release(&mut self, worker: &Incarnation, nodes: &[(NodeName, u64)]) -> Vec<Change> {
        let mut changes = Vec::new();
        for (node, epoch) in nodes {
            if !self.owns(worker, node, *epoch) {
                continue;
            }
            if let Some(owner) = self.owners.get_mut(node) {
                owner.worker = None;
            }
            self.record(worker).remove(node);
            changes.push(Change { node: node.clone(), worker: None, epoch: *epoch });
        }
        changes
    }

    pub(super) fn retire(&mut self, worker: &Incarnation) {
        self.workers.remove(worker);
        self.forget(worker);
    }

    /// Drops the record of a worker that is gone and owns nothing.
    fn forget(&mut self, worker: &Incarnation) {
        if self.records.get(worker).is_some_and(|record| record.nodes.is_empty()) {
            self.records.remove(worker);
        }
    }

    pub(super) fn owned(&self, worker: &Incarnation) -> Owned {
        self.records.get(worker).map_or_else(Owned::default, |record| Owned {
            changes: record.changes,
            nodes: record.nodes.iter().map(|(node, grant)| (node.clone(), *grant)).collect(),
        })
    }

    pub(super) fn owners(&self) -> Vec<(NodeName, Owner)> {
        self.owners.iter().map(|(node, owner)| (node.clone(), owner.clone())).collect()
    }

    pub(super) fn owner(&self, node: &NodeName) -> Option<Owner> {
        self.owners.get(node).cloned()
    }

    pub(super) fn workers(&self, now: Instant) -> Vec<Incarnation> {
        self.workers.iter().filter(|(_, end)| now < **end).map(|(worker, _)| worker.clone()).collect()
    }

    pub(super) fn enlist(&mut self, node: &NodeName, peer: &[u8]) -> Enlisted {
        if self.nodes.get(node).is_some_and(|there| there != peer) {
            return Enlisted::NodeExists;
        }
        if self.peers.get(peer).is_some_and(|there| there != node) {
            return Enlisted::PeerExists;
        }
        let peer = Bytes::copy_from_slice(peer);
        self.nodes.insert(node.clone(), peer.clone());
        self.peers.insert(peer, node.clone());
        self.owners.entry(node.clone()).or_insert_with(nobody);
        Enlisted::Done
    }

    pub(super) fn strike(
        &mut self,
        worker: &Incarnation,
        node: &NodeName,
        epoch: u64,
        peer: &[u8],
    ) -> Option<Change> {
        if !self.owns(worker, node, epoch) {
            return None;
        }
        self.owners.remove(node);
        self.nodes.remove(node);
        if self.peers.get(peer) == Some(node) {
            self.peers.remove(peer);
        }
        self.record(worker).remove(node);
        Some(Change { node: node.clone(), worker: None, epoch })
    }

    pub(super) fn find(&self, peer: &[u8]) -> Option<NodeName> {
        self.peers.get(peer).cloned()
    }

    pub(super) fn attend(&mut self, gateway: &GatewayId, now: Instant) {
        self.gateways.insert(gateway.clone(), now + GATEWAY_TTL);
    }

    pub(super) fn attending(&self, gateways: &[GatewayId], now: Instant) -> Vec<bool> {
        gateways.iter().map(|gateway| self.gateways.get(gateway).is_some_and(|end| now < *end)).collect()
    }

    /// Forgets expired leases, and records of their workers that hold nothing.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.gateways.retain(|_, end| now < *end);
        let dead: Vec<_> =
            self.workers.iter().filter(|(_, end)| now >= **end).map(|(w, _)| w.clone()).collect();
        for worker in dead {
            self.workers.remove(&worker);
        }
        self.records.retain(|worker, record| !record.nodes.is_empty() || self.workers.contains_key(worker));
    }
}

/// Who owns a node that was never taken.
fn nobody() -> Owner {
    Owner { worker: None, grant: Grant { epoch: 0, nonce: 0 } }
}
