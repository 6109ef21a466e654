//! Remote peers as one node sees them: the book of peers and addresses, and what PeerService,
//! GetIdentity, ListBootstrap and ListBlocks ask. The node's loop owns it, hands it the swarm for each
//! call and tells it every event of the swarm; it never waits.
//!
//! How the loop uses it: [`Peers::ask`] answers at once or keeps the call; [`Peers::on_swarm_event`] and
//! [`Peers::tick`] (once a second, and at [`Peers::wake`]) may finish calls, which
//! [`Peers::take_ready`] then hands out. [`Peers::tick`] also dials the bootstrap peers of a node that
//! is alone. [`Peers::cancel`] forgets a call whose caller is gone.
//!
//! - [`book`] what is known of each peer, [`list`] how callers see it
//! - [`connect`] connections asked for, [`ping`] round trips asked for, [`bootstrap`] who to dial when alone

mod book;
mod bootstrap;
mod connect;
mod list;
mod ping;

use crate::{
    Refusal,
    clock::Moment,
    config, refuse,
    swarm::{Behaviour, BehaviourEvent, probe},
};
use book::Book;
use bootstrap::Bootstrap;
use connect::Pending;
use libp2p::{Multiaddr, PeerId, Swarm, identify, identity::Keypair, multiaddr::Protocol, swarm::SwarmEvent};
use ping::Pinging;
use plexus_bus::{CallId, Payload};
use plexus_proto::{bus::NodeRecord, reason::Reason, text, v1};
use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::{Duration, SystemTime},
};

/// Addresses under which peers saw the node, kept at most.
const OBSERVED_MAX: usize = 16;
/// Calls kept at once; more are refused.
const CALLS_MAX: usize = 1024;

/// A request about peers.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    /// `PeerService/ListPeers`.
    List(v1::ListPeersRequest),
    /// `PeerService/CountPeers`.
    Count,
    /// `PeerService/GetPeer`.
    Get(v1::GetPeerRequest),
    /// `PeerService/Connect`.
    Connect(v1::ConnectRequest),
    /// `PeerService/Disconnect`.
    Disconnect(v1::DisconnectRequest),
    /// `PeerService/Ping`: [`Ready::Pong`]s, then the end.
    Ping(v1::PingRequest),
    /// `PeerService/ListBlocks`.
    Blocks(v1::ListBlocksRequest),
    /// `NodeService/GetIdentity`.
    Identity,
    /// `NodeService/ListBootstrap`.
    Bootstrap,
}

/// What became of a call that was kept.
#[derive(Debug)]
pub(crate) enum Ready {
    /// One more answer of a stream.
    Pong(CallId, v1::PingResponse),
    /// The answer of a unary call, or the end of a stream.
    End(CallId, Result<Payload, Refusal>),
}

/// The peers of a node.
pub(crate) struct Peers {
    /// What is known.
    book: Book,
    /// The node's own key: it signs the peer record.
    key: Keypair,
    spec: v1::NodeSpec,
    blocks: Vec<v1::BlockEntry>,
    /// Where peers saw the node.
    observed: BTreeSet<Multiaddr>,
    /// Bootstrap addresses and how each fares.
    bootstrap: Bootstrap,
    /// Calls that wait for a connection or an identity.
    pending: HashMap<CallId, Pending>,
    /// Calls that ping.
    pings: HashMap<CallId, Pinging>,
    /// Questions on their way, and whose they are.
    asked: HashMap<probe::Id, CallId>,
    /// What is finished and not handed out.
    ready: Vec<Ready>,
    /// When the last dials were asked for, for the rate.
    dialled: VecDeque<Moment>,
    dials_per_second: usize,
    dial_timeout: Duration,
}

impl Peers {
    /// Begins with the addresses that the former owner was connected to (`NodeState.peers`).
    pub(crate) fn new(config: &config::Node, record: &NodeRecord, known: &[String], key: Keypair) -> Self {
        let mut peers = Self {
            book: Book::new(config.peers_max),
            key,
            spec: v1::NodeSpec::default(),
            blocks: Vec::new(),
            observed: BTreeSet::new(),
            bootstrap: Bootstrap::default(),
            pending: HashMap::new(),
            pings: HashMap::new(),
            asked: HashMap::new(),
            ready: Vec::new(),
            dialled: VecDeque::new(),
            dials_per_second: config.dials_per_second as usize,
            dial_timeout: config.dial_timeout,
        };
        peers.take_record(record);
        for address in known {
            if let Some((peer, address)) = address.parse().ok().and_then(split) {
                peers.book.entry(peer, Moment::PAST).learn(address);
            }
        }
        peers
    }

    /// Takes a new record: its bootstrap addresses, blocks and dial rules. The swarm's blocks are set
    /// here as well.
    pub(crate) fn set_record(&mut self, record: &NodeRecord, swarm: Option<&mut Swarm<Behaviour>>) {
        self.take_record(record);
        if let Some(swarm) = swarm
            && let Err(error) = swarm.behaviour_mut().blocks.set(&self.blocks)
        {
            tracing::warn!(%error, "a block cannot be read and does not hold");
        }
    }

    fn take_record(&mut self, record: &NodeRecord) {
        self.spec = record.node.as_ref().and_then(|node| node.spec.clone()).unwrap_or_default();
        self.blocks.clone_from(&record.blocks);
        self.bootstrap.set(&self.spec.bootstrap);
    }

    /// Answers a call at once, or keeps it (`None`) and tells by [`Peers::take_ready`]. `until`: after
    /// this nobody waits.
    pub(crate) fn ask(
        &mut self,
        swarm: &mut Swarm<Behaviour>,
        call: CallId,
        ask: Ask,
        until: Option<Moment>,
        now: Moment,
        wall: SystemTime,
    ) -> Option<Result<Payload, Refusal>> {
        if self.pending.len() + self.pings.len() >= CALLS_MAX {
            let text = format!("{CALLS_MAX} calls about peers wait already");
            return Some(Err(refuse(Reason::Overloaded, text)));
        }
        match ask {
            Ask::List(request) => Some(self.list(swarm, &request)),
            Ask::Count => Some(self.count(swarm)),
            Ask::Get(request) => self.get(swarm, call, &request, until, now),
            Ask::Connect(request) => self.connect(swarm, call, &request, until, now),
            Ask::Disconnect(request) => Some(self.disconnect(swarm, &request)),
            Ask::Ping(request) => self.ping(swarm, call, &request, until, now),
            Ask::Blocks(request) => Some(self.blocks(swarm, &request, wall)),
            Ask::Identity => Some(self.identity(swarm)),
            Ask::Bootstrap => Some(Ok(Payload::of(self.bootstrap.list(&self.book)))),
        }
    }

    /// Hears of everything that the swarm does.
    pub(crate) fn on_swarm_event(
        &mut self,
        swarm: &mut Swarm<Behaviour>,
        event: &SwarmEvent<BehaviourEvent>,
        now: Moment,
        wall: SystemTime,
    ) {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.book.entry(*peer_id, now).linked(*connection_id, endpoint, wall);
                self.bootstrap.worked(peer_id, wall);
                self.connected(swarm, peer_id);
                self.ping_now(swarm, now);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, .. } => {
                self.book.closed(peer_id, *connection_id, now);
            }
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), connection_id, error, .. } => {
                self.bootstrap.failed(peer, error);
                self.dial_failed(peer, *connection_id, error);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                peer_id,
                info,
                ..
            })) => {
                if self.observed.len() < OBSERVED_MAX {
                    self.observed.insert(info.observed_addr.clone());
                }
                let entry = self.book.entry(*peer_id, now);
                entry.identified(info, wall);
                info.listen_addrs.iter().for_each(|address| entry.learn(address.clone()));
            }
            SwarmEvent::Behaviour(BehaviourEvent::Ping(event)) => {
                if let (Ok(rtt), Some(entry)) = (&event.result, self.book.known(&event.peer)) {
                    entry.measured(*rtt);
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Probe(event)) => self.probed(swarm, event, now, wall),
            _ => {}
        }
    }

    /// A question ended.
    fn probed(&mut self, swarm: &mut Swarm<Behaviour>, event: &probe::Event, now: Moment, wall: SystemTime) {
        if let (Ok(answer), Some(entry)) = (&event.result, self.book.known(&event.peer)) {
            match answer {
                probe::Answer::Pong(rtt) => entry.measured(*rtt),
                probe::Answer::Identity(identity) => entry.answered(identity, wall),
            }
        }
        let Some(call) = self.asked.remove(&event.id) else { return };
        if self.pings.contains_key(&call) {
            self.ponged(swarm, call, event, now);
        } else if self.pending.remove(&call).is_some() {
            let answer = match &event.result {
                Ok(_) => self.show(swarm, &event.peer),
                Err(failure) => Err(refusal(*failure)),
            };
            self.ready.push(Ready::End(call, answer));
        }
    }

    /// Ends what is late, sends pings that are due, dials the bootstrap peers of a node that is alone.
    pub(crate) fn tick(&mut self, swarm: &mut Swarm<Behaviour>, now: Moment) {
        let late: Vec<CallId> =
            self.pending.iter().filter(|(_, pending)| pending.until <= now).map(|(call, _)| *call).collect();
        for call in late {
            self.pending.remove(&call);
            let error = refuse(Reason::PeerUnreachable, "no address of the peer answered in time");
            self.ready.push(Ready::End(call, Err(error)));
        }
        self.ping_now(swarm, now);
        let outgoing = self.spec.dial.as_ref().and_then(|dial| dial.outgoing).unwrap_or(true);
        if outgoing && !self.book.connected() {
            self.bootstrap.dial(swarm, now);
        } else {
            self.bootstrap.rest();
        }
    }

    /// When [`Peers::tick`] is due before the next second is over.
    pub(crate) fn wake(&self) -> Option<Moment> {
        let pending = self.pending.values().map(|pending| pending.until);
        pending.chain(self.pings.values().map(Pinging::wake)).min()
    }

    /// Forgets a call: its caller is gone.
    pub(crate) fn cancel(&mut self, call: CallId) {
        self.pending.remove(&call);
        self.pings.remove(&call);
        self.asked.retain(|_, whose| *whose != call);
    }

    /// Hands out what became of kept calls, in order.
    pub(crate) fn take_ready(&mut self) -> Vec<Ready> {
        std::mem::take(&mut self.ready)
    }
}

/// What a caller is told of a question that was not answered.
fn refusal(failure: probe::Failure) -> Refusal {
    let reason = match failure {
        probe::Failure::Timeout => Reason::PeerTimeout,
        probe::Failure::Unsupported => Reason::ProtocolNotSupported,
        probe::Failure::Lost => Reason::PeerUnreachable,
        probe::Failure::Busy => Reason::Overloaded,
    };
    refuse(reason, failure.to_string())
}

/// Splits a multiaddr that ends in `/p2p/…`.
fn split(address: Multiaddr) -> Option<(PeerId, Multiaddr)> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some((peer, book::without_peer(address))),
        _ => None,
    }
}

/// Reads a `peer` field: a PeerId in any text form, or a multiaddr that ends in one.
fn read_peer(field: &str) -> Result<(PeerId, Option<Multiaddr>), Refusal> {
    if field.starts_with('/') {
        let bad = || refuse(Reason::BadMultiaddr, "peer: not a multiaddr that ends in /p2p/ and a PeerId");
        let (peer, address) = field.parse().ok().and_then(split).ok_or_else(bad)?;
        return Ok((peer, Some(address)));
    }
    let bytes =
        text::peer_id_from_text(field).map_err(|e| refuse(Reason::BadPeerId, format!("peer: {e}")))?;
    let peer = PeerId::from_bytes(&bytes).map_err(|e| refuse(Reason::BadPeerId, format!("peer: {e}")))?;
    Ok((peer, None))
}
