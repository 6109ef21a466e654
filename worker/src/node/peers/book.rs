//! The book: what the node knows of its peers. Bounded: beyond `peers_max` those that were gone
//! longest are forgotten; connected ones never are.

use crate::{clock::Moment, swarm::probe::Identity};
use libp2p::{
    Multiaddr, PeerId, core::ConnectedPoint, identify, identity::PublicKey, multiaddr::Protocol,
    swarm::ConnectionId,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

/// Addresses kept of one peer.
const ADDRESSES_MAX: usize = 16;
/// Protocols kept of one peer.
const PROTOCOLS_MAX: usize = 128;
/// Bytes of an agent's name kept.
const AGENT_BYTES_MAX: usize = 256;

/// A connection.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) id: ConnectionId,
    pub(super) address: Multiaddr,
    pub(super) incoming: bool,
    pub(super) opened_at: SystemTime,
}

/// One peer.
#[derive(Clone, Debug, Default)]
pub(super) struct Entry {
    /// Where it can be dialled, best first.
    pub(super) addresses: Vec<Multiaddr>,
    pub(super) agent: String,
    pub(super) protocols: BTreeSet<String>,
    pub(super) public_key: Option<PublicKey>,
    pub(super) identified_at: Option<SystemTime>,
    /// Smoothed round trip.
    pub(super) latency: Option<Duration>,
    /// Open connections, oldest first.
    pub(super) links: Vec<Link>,
    /// Dials under way.
    pub(super) dials: BTreeSet<ConnectionId>,
    /// When it was last connected or heard of.
    seen: Option<Moment>,
}

/// All peers.
pub(super) struct Book {
    peers: BTreeMap<PeerId, Entry>,
    most: usize,
}

impl Book {
    pub(super) fn new(most: usize) -> Self {
        Self { peers: BTreeMap::new(), most: most.max(1) }
    }

    pub(super) fn get(&self, peer: &PeerId) -> Option<&Entry> {
        self.peers.get(peer)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&PeerId, &Entry)> {
        self.peers.iter()
    }

    /// The entry of a peer, made where there is none.
    pub(super) fn entry(&mut self, peer: PeerId, now: Moment) -> &mut Entry {
        if !self.peers.contains_key(&peer) {
            self.make_room();
        }
        let entry = self.peers.entry(peer).or_default();
        entry.seen = entry.seen.max(Some(now));
        entry
    }

    /// The entry of a peer that is known.
    pub(super) fn known(&mut self, peer: &PeerId) -> Option<&mut Entry> {
        self.peers.get_mut(peer)
    }

    /// Notes the end of a connection.
    pub(super) fn closed(&mut self, peer: &PeerId, id: ConnectionId, now: Moment) {
        let Some(entry) = self.peers.get_mut(peer) else { return };
        entry.links.retain(|link| link.id != id);
        entry.seen = Some(now);
    }

    /// Whether any connection is open.
    pub(super) fn connected(&self) -> bool {
        self.peers.values().any(|entry| !entry.links.is_empty())
    }

    fn make_room(&mut self) {
        while self.peers.len() >= self.most {
            let idle =
                self.peers.iter().filter(|(_, entry)| entry.links.is_empty() && entry.dials.is_empty());
            let Some(oldest) = idle.min_by_key(|(_, entry)| entry.seen).map(|(peer, _)| *peer) else {
                return;
            };
            self.peers.remove(&oldest);
        }
    }
}

impl Entry {
    /// Notes an address that worked, or was given: it goes first.
    pub(super) fn prefer(&mut self, address: Multiaddr) {
        let address = without_peer(address);
        self.addresses.retain(|known| *known != address);
        self.addresses.insert(0, address);
        self.addresses.truncate(ADDRESSES_MAX);
    }

    /// Notes an address that somebody told: it goes last.
    pub(super) fn learn(&mut self, address: Multiaddr) {
        let address = without_peer(address);
        if self.addresses.len() < ADDRESSES_MAX && !self.addresses.contains(&address) {
            self.addresses.push(address);
        }
    }

    pub(super) fn linked(&mut self, id: ConnectionId, endpoint: &ConnectedPoint, at: SystemTime) {
        let address = endpoint.get_remote_address().clone();
        let incoming = endpoint.is_listener();
        if !incoming {
            self.prefer(address.clone());
        }
        self.links.push(Link { id, address: without_peer(address), incoming, opened_at: at });
    }

    /// Notes what the peer says of itself; answers the addresses it says it listens on.
    pub(super) fn identified(&mut self, info: &identify::Info, at: SystemTime) {
        let protocols = info.protocols.iter().map(ToString::to_string);
        self.describe(&info.public_key, &info.agent_version, protocols, at);
    }

    /// The same, asked for.
    pub(super) fn answered(&mut self, identity: &Identity, at: SystemTime) {
        self.describe(&identity.public_key, &identity.agent_version, identity.protocols.iter().cloned(), at);
    }

    fn describe(
        &mut self,
        key: &PublicKey,
        agent: &str,
        protocols: impl Iterator<Item = String>,
        at: SystemTime,
    ) {
        self.public_key = Some(key.clone());
        self.agent = agent.chars().filter(|c| !c.is_control()).take(AGENT_BYTES_MAX).collect();
        self.protocols = protocols.filter(|name| name.len() <= AGENT_BYTES_MAX).take(PROTOCOLS_MAX).collect();
        self.identified_at = Some(at);
    }

    /// Notes a round trip: each weighs one eighth.
    pub(super) fn measured(&mut self, rtt: Duration) {
        self.latency = Some(self.latency.map_or(rtt, |before| (before * 7 + rtt) / 8));
    }
}

/// Takes `/p2p/…` off the end.
pub(super) fn without_peer(mut address: Multiaddr) -> Multiaddr {
    if matches!(address.iter().last(), Some(Protocol::P2p(_))) {
        address.pop();
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_book_forgets_who_was_gone_longest_and_nobody_connected() {
        let mut book = Book::new(3);
        let peers: Vec<PeerId> = (0..4).map(|_| PeerId::random()).collect();
        for (n, peer) in peers.iter().take(3).enumerate() {
            book.entry(*peer, Moment::at(Duration::from_secs(n as u64)));
        }
        let link = Link {
            id: ConnectionId::new_unchecked(1),
            address: Multiaddr::empty(),
            incoming: true,
            opened_at: SystemTime::now(),
        };
        book.known(&peers[0]).unwrap().links.push(link);
        book.entry(peers[3], Moment::at(Duration::from_secs(9)));
        let left: BTreeSet<PeerId> = book.iter().map(|(peer, _)| *peer).collect();
        assert_eq!(left, BTreeSet::from([peers[0], peers[2], peers[3]]));
    }

    #[test]
    fn what_worked_goes_first_and_hearsay_last() {
        let mut entry = Entry::default();
        let at = |port: u16| format!("/ip4/1.2.3.4/tcp/{port}").parse::<Multiaddr>().unwrap();
        for port in 1..40 {
            entry.learn(at(port));
        }
        assert_eq!(entry.addresses.len(), ADDRESSES_MAX);
        entry.prefer(at(99));
        assert_eq!((entry.addresses.len(), &entry.addresses[0]), (ADDRESSES_MAX, &at(99)));
        assert_eq!(without_peer(at(1).with_p2p(PeerId::random()).unwrap()), at(1));
    }
}
