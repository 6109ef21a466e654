//! Who is kept out: blocked peers and address ranges, both ways, and how often each entry held.
//!
//! The [`Behaviour`] judges connections, the dial guard judges resolved addresses by the same
//! [`List`]. The node loop calls [`Behaviour::set`] when the record changes and reads
//! [`Behaviour::hits`] for ListBlocks. It also holds a dial back that the node's policy forbids as a
//! whole (none at all, none to learned addresses).

use super::guard::{Guard, Refused, Rule};
use crate::Error;
use arc_swap::ArcSwap;
use ipnet::IpNet;
use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    multiaddr::Protocol,
    swarm::{
        CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm, dummy,
    },
};
use plexus_proto::v1;
use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::SystemTime,
};

/// The entries, shared by the behaviour that changes them and the transport that looks.
#[derive(Clone, Default)]
pub struct List(Arc<ArcSwap<Vec<Entry>>>);

struct Entry {
    text: String,
    kind: Kind,
    until: Option<SystemTime>,
    hits: Arc<AtomicU64>,
}

enum Kind {
    Peer(PeerId),
    Range(IpNet),
}

impl Entry {
    fn new(block: &v1::BlockEntry, hits: Arc<AtomicU64>) -> Result<Self, Error> {
        let until = block.expires_at.and_then(|at| SystemTime::try_from(at).ok());
        let kind = match (net(&block.entry), plexus_proto::text::peer_id_from_text(&block.entry)) {
            (Some(range), _) => Kind::Range(range),
            (None, Ok(peer)) => Kind::Peer(PeerId::from_bytes(&peer).map_err(|_| unreadable(&block.entry))?),
            (None, Err(_)) => return Err(unreadable(&block.entry)),
        };
        Ok(Self { text: block.entry.clone(), kind, until, hits })
    }

    fn holds(&self) -> bool {
        self.until.is_none_or(|until| SystemTime::now() < until)
    }

    fn covers(&self, peer: Option<&PeerId>, ip: Option<&IpAddr>) -> bool {
        match &self.kind {
            Kind::Peer(blocked) => peer == Some(blocked),
            Kind::Range(range) => ip.is_some_and(|ip| range.contains(&ip.to_canonical())),
        }
    }
}

impl List {
    /// Reads the entries; one that is neither a PeerId nor a CIDR is an error.
    pub fn new(blocks: &[v1::BlockEntry]) -> Result<Self, Error> {
        let list = Self::default();
        list.set(blocks)?;
        Ok(list)
    }

    /// Replaces the entries. Those that stay keep their count.
    fn set(&self, blocks: &[v1::BlockEntry]) -> Result<(), Error> {
        let old = self.0.load();
        let counts: HashMap<&str, &Arc<AtomicU64>> = old.iter().map(|e| (e.text.as_str(), &e.hits)).collect();
        let count = |block: &v1::BlockEntry| match counts.get(block.entry.as_str()) {
            Some(count) => Arc::clone(count),
            None => Arc::new(AtomicU64::new(block.hits)),
        };
        let entries = blocks.iter().map(|block| Entry::new(block, count(block))).collect::<Result<_, _>>()?;
        self.0.store(Arc::new(entries));
        Ok(())
    }

    /// Tells whether the peer or the address is kept out, and counts it.
    pub(super) fn refuses(&self, peer: Option<&PeerId>, ip: Option<&IpAddr>) -> bool {
        let entries = self.0.load();
        let hit = entries.iter().find(|entry| entry.covers(peer, ip) && entry.holds());
        if let Some(entry) = hit {
            entry.hits.fetch_add(1, Ordering::Relaxed);
        }
        hit.is_some()
    }

    fn covers(&self, peer: &PeerId, ip: Option<&IpAddr>) -> bool {
        self.0.load().iter().any(|entry| entry.covers(Some(peer), ip) && entry.holds())
    }
}

/// Reads a CIDR, or one address as a range of itself.
pub(super) fn net(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

fn unreadable(entry: &str) -> Error {
    Error::Swarm(format!("{entry:?} is neither a PeerId nor a CIDR"))
}

/// Finds the address a connection comes from or goes to; none for names and the memory transport.
fn ip(addr: &Multiaddr) -> Option<IpAddr> {
    match addr.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// Denies connections by the [`List`], and dials that the policy forbids as a whole.
pub struct Behaviour {
    list: List,
    guard: Guard,
    /// Established connections, so that a new block also ends those that are there.
    connections: HashMap<ConnectionId, (PeerId, Option<IpAddr>)>,
    close: VecDeque<(PeerId, ConnectionId)>,
}

impl Behaviour {
    pub(super) fn new(list: List, guard: Guard) -> Self {
        Self { list, guard, connections: HashMap::new(), close: VecDeque::new() }
    }

    /// Replaces the entries and closes the connections they now forbid. On an error nothing changes.
    pub fn set(&mut self, blocks: &[v1::BlockEntry]) -> Result<(), Error> {
        self.list.set(blocks)?;
        let forbidden = self.connections.iter().filter(|(_, (peer, ip))| self.list.covers(peer, ip.as_ref()));
        self.close.extend(forbidden.map(|(connection, (peer, _))| (*peer, *connection)));
        Ok(())
    }

    /// Tells how often each entry refused a connection or a dial.
    pub fn hits(&self) -> Vec<(String, u64)> {
        self.list
            .0
            .load()
            .iter()
            .map(|entry| (entry.text.clone(), entry.hits.load(Ordering::Relaxed)))
            .collect()
    }

    /// The guard of this swarm, for refusals before a dial is tried.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    fn judge(&self, peer: Option<&PeerId>, addr: Option<&Multiaddr>) -> Result<(), ConnectionDenied> {
        if self.list.refuses(peer, addr.and_then(ip).as_ref()) {
            return Err(ConnectionDenied::new(Refused(Rule::Blocked)));
        }
        Ok(())
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.judge(None, Some(remote))
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.judge(Some(&peer), None)?;
        Ok(dummy::ConnectionHandler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.guard.check_dial(addresses).map_err(|rule| ConnectionDenied::new(Refused(rule)))?;
        self.judge(peer.as_ref(), None)?;
        Ok(Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.judge(Some(&peer), None)?;
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(e) => {
                self.connections.insert(e.connection_id, (e.peer_id, ip(e.endpoint.get_remote_address())));
            }
            FromSwarm::ConnectionClosed(e) => {
                self.connections.remove(&e.connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    // Whoever calls `set` holds the swarm and polls it next, so no waker is kept.
    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        match self.close.pop_front() {
            Some((peer_id, id)) => {
                Poll::Ready(ToSwarm::CloseConnection { peer_id, connection: CloseConnection::One(id) })
            }
            None => Poll::Pending,
        }
    }
}
