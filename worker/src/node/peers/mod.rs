//! Remote peers as one node sees them: the book of peers and addresses, and what PeerService,
//! GetIdentity, ListBootstrap and ListBlocks ask. The node's loop owns it, hands it the swarm for each
//! call and tells it every event of the swarm; it never waits.
//!
//! How the loop uses it: [`Peers::ask`] answers at once or keeps the call; [`Peers::on_swarm_event`] and
//! [`Peers::tick`] (once a second, and at [`Peers::wake`]) may finish calls, which
//! [`Peers::take_ready`] then hands out. [`Peers::tick`] also dials the bootstrap peers of a node that
//! is alone. [`Peers::cancel`] forgets a call whose caller is gone.
//!
//! Read on: [`book`] what is known, [`list`] what of it is shown, [`read`] how requests are read,
//! [`waiting`] calls that wait for a peer, [`ping`] one run of pings, [`bootstrap`] the way into the
//! network.

mod book;
mod bootstrap;
mod list;
mod ping;
mod read;
#[cfg(test)]
mod tests;
mod waiting;

use crate::{
    Refusal,
    clock::Moment,
    config, refuse,
    swarm::{Behaviour, BehaviourEvent, probe},
};
use book::Book;
use bootstrap::Bootstrap;
use libp2p::{Multiaddr, PeerId, Swarm, identify, identity::Keypair, kad, swarm::SwarmEvent};
use ping::Run;
use plexus_bus::{CallId, Payload};
use plexus_proto::{bus::NodeRecord, reason::Reason, v1};
use std::time::{Duration, SystemTime};
use waiting::{Dials, Goal, Waiting};

/// Calls that wait at most; more are refused.
const WAITING_MAX: usize = 1024;
/// Addresses that peers see the node at, at most.
const OBSERVED_MAX: usize = 16;

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
    /// The node's identity.
    key: Keypair,
    /// What the node shall be.
    spec: v1::NodeSpec,
    /// Who is kept out.
    blocks: Vec<v1::BlockEntry>,
    book: Book,
    bootstrap: Bootstrap,
    /// Calls that wait for a peer.
    waiting: Vec<Waiting>,
    /// How many dials the API may still ask for.
    dials: Dials,
    /// How long a peer is waited for, unless said otherwise.
    dial_timeout: Duration,
    /// Where peers see the node, newest first.
    observed: Vec<Multiaddr>,
    ready: Vec<Ready>,
}

impl Peers {
    /// Begins with the addresses that the former owner was connected to (`NodeState.peers`).
    pub(crate) fn new(config: &config::Node, record: &NodeRecord, known: &[String], key: Keypair) -> Self {
        let spec = record.node.as_ref().and_then(|node| node.spec.clone()).unwrap_or_default();
        let mut book = Book::new(config.peers_max);
        for (peer, address) in known.iter().chain(&spec.bootstrap).filter_map(|text| read::target(text)) {
            book.entry(peer, Moment::PAST).learn(address);
        }
        Self {
            key,
            bootstrap: Bootstrap::new(&spec),
            blocks: record.blocks.clone(),
            book,
            waiting: Vec::new(),
            dials: Dials::new(config.dials_per_second),
            dial_timeout: config.dial_timeout,
            observed: Vec::new(),
            ready: Vec::new(),
            spec,
        }
    }

    /// Takes a new record: its bootstrap addresses, blocks and dial rules. The swarm's blocks are set
    /// here as well.
    pub(crate) fn set_record(&mut self, record: &NodeRecord, swarm: Option<&mut Swarm<Behaviour>>) {
        self.spec = record.node.as_ref().and_then(|node| node.spec.clone()).unwrap_or_default();
        self.blocks.clone_from(&record.blocks);
        let new = self.bootstrap.set(&self.spec);
        let Some(swarm) = swarm else { return };
        if let Err(error) = swarm.behaviour_mut().blocks.set(&record.blocks) {
            tracing::warn!(%error, "the blocks of the record cannot be read");
        }
        self.bootstrap.dial(swarm, &new);
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
        if self.waiting.len() >= WAITING_MAX {
            let message = format!("{WAITING_MAX} calls about peers wait already");
            return Some(Err(refuse(Reason::Overloaded, message)));
        }
        match ask {
            Ask::List(request) => Some(self.list(swarm, &request)),
            Ask::Count => Some(self.count(swarm)),
            Ask::Blocks(request) => Some(self.list_blocks(swarm, &request, wall)),
            Ask::Identity => Some(self.identity(swarm)),
            Ask::Bootstrap => Some(Ok(Payload::of(self.bootstrap.list(swarm)))),
            Ask::Disconnect(request) => Some(self.disconnect(swarm, &request)),
            Ask::Get(request) => self.get(swarm, call, &request, until, now).transpose(),
            Ask::Connect(request) => self.connect(swarm, call, &request, until, now).transpose(),
            Ask::Ping(request) => self.ping(swarm, call, &request, until, now).err().map(Err),
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
                let entry = self.book.entry(*peer_id, now);
                entry.dials.remove(connection_id);
                entry.linked(*connection_id, endpoint, wall);
                self.bootstrap.connected(peer_id, endpoint, wall);
                self.on_connected(swarm, *peer_id, *connection_id, now);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, .. } => {
                self.book.closed(peer_id, *connection_id, now);
            }
            SwarmEvent::Dialing { peer_id: Some(peer), connection_id } => {
                self.book.entry(*peer, now).dials.insert(*connection_id);
            }
            SwarmEvent::OutgoingConnectionError { peer_id, connection_id, error } => {
                if let Some(peer) = peer_id {
                    if let Some(entry) = self.book.known(peer) {
                        entry.dials.remove(connection_id);
                    }
                    self.bootstrap.failed(peer, error);
                }
                self.on_dial_failed(swarm, *connection_id, error, now);
            }
            SwarmEvent::NewExternalAddrOfPeer { peer_id, address } => {
                self.learn(swarm, *peer_id, [address], now);
            }
            SwarmEvent::NewExternalAddrCandidate { address } => self.observe(address),
            SwarmEvent::Behaviour(event) => self.on_behaviour_event(swarm, event, now, wall),
            _ => {}
        }
    }

    fn on_behaviour_event(
        &mut self,
        swarm: &mut Swarm<Behaviour>,
        event: &BehaviourEvent,
        now: Moment,
        wall: SystemTime,
    ) {
        match event {
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                self.book.entry(*peer_id, now).identified(info, wall);
                self.learn(swarm, *peer_id, &info.listen_addrs, now);
                self.observe(&info.observed_addr);
            }
            BehaviourEvent::Ping(libp2p::ping::Event { peer, result: Ok(rtt), .. }) => {
                self.book.entry(*peer, now).measured(*rtt);
            }
            BehaviourEvent::Probe(event) => self.on_probed(swarm, event, now, wall),
            BehaviourEvent::Kad(kad::Event::RoutingUpdated { peer, addresses, .. }) => {
                self.learn(swarm, *peer, addresses.iter(), now);
            }
            BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed {
                id,
                result: kad::QueryResult::GetClosestPeers(result),
                ..
            }) => self.on_sought(swarm, *id, result, now),
            _ => {}
        }
    }

    /// Ends what is late, sends pings that are due, dials the bootstrap peers of a node that is alone.
    pub(crate) fn tick(&mut self, swarm: &mut Swarm<Behaviour>, now: Moment) {
        self.expire(swarm, now);
        self.send_pings(swarm, now);
        let alone = !self.book.connected();
        self.bootstrap.tick(swarm, alone, now);
    }

    /// When [`Peers::tick`] is due before the next second is over.
    pub(crate) fn wake(&self) -> Option<Moment> {
        self.waiting.iter().map(Waiting::wake).min()
    }

    /// Tells whether it is alone and has bootstrap peers to dial.
    pub(crate) fn searches(&self) -> bool {
        !self.bootstrap.is_empty() && !self.book.connected()
    }

    /// Forgets a call: its caller is gone.
    pub(crate) fn cancel(&mut self, call: CallId) {
        self.waiting.retain(|waiting| waiting.call != call);
    }

    /// Hands out what became of kept calls, in order.
    pub(crate) fn take_ready(&mut self) -> Vec<Ready> {
        std::mem::take(&mut self.ready)
    }

    /// Notes addresses that somebody told, if they may be dialled.
    fn learn<'a>(
        &mut self,
        swarm: &Swarm<Behaviour>,
        peer: PeerId,
        addresses: impl IntoIterator<Item = &'a Multiaddr>,
        now: Moment,
    ) {
        if peer == *swarm.local_peer_id() {
            return;
        }
        let guard = swarm.behaviour().blocks.guard();
        let entry = self.book.entry(peer, now);
        for address in addresses.into_iter().filter(|address| guard.check(address).is_ok()) {
            entry.learn(address.clone());
        }
    }

    fn observe(&mut self, address: &Multiaddr) {
        self.observed.retain(|known| known != address);
        self.observed.insert(0, address.clone());
        self.observed.truncate(OBSERVED_MAX);
    }
}

/// Calls about one peer.
impl Peers {
    fn get(
        &mut self,
        swarm: &mut Swarm<Behaviour>,
        call: CallId,
        request: &v1::GetPeerRequest,
        until: Option<Moment>,
        now: Moment,
    ) -> Result<Option<Payload>, Refusal> {
        let peer = read::peer(&request.peer)?;
        if request.identify() != v1::get_peer_request::Identify::Now {
            return self.show(swarm, &peer).map(Some);
        }
        let until = read::within(until, now.after(self.dial_timeout));
        let waiting = Waiting::new(call, peer, Goal::Identify, until);
        self.begin(swarm, waiting, Vec::new(), now).map(|()| None)
    }

    fn connect(
        &mut self,
        swarm: &mut Swarm<Behaviour>,
        call: CallId,
        request: &v1::ConnectRequest,
        until: Option<Moment>,
        now: Moment,
    ) -> Result<Option<Payload>, Refusal> {
        let (peer, own) = read::peer_at(&request.peer)?;
        if peer == *swarm.local_peer_id() {
            return Err(Box::new(v1::Error::field("peer", "another peer: this is the node itself")));
        }
        let addresses = read::addresses(&request.addresses, &peer, own)?;
        let timeout =
            read::duration("timeout", request.timeout, self.dial_timeout, Duration::ZERO, read::TIMEOUT_MAX)?;
        if swarm.is_connected(&peer) && !request.force_new {
            return self.show(swarm, &peer).map(Some);
        }
        let addresses = read::allowed(addresses, swarm.behaviour().blocks.guard())?;
        let mut waiting = Waiting::new(call, peer, Goal::Connect, read::within(until, now.after(timeout)));
        waiting.force_new = request.force_new;
        self.begin(swarm, waiting, addresses, now).map(|()| None)
    }

    fn ping(
        &mut self,
        swarm: &mut Swarm<Behaviour>,
        call: CallId,
        request: &v1::PingRequest,
        until: Option<Moment>,
        now: Moment,
    ) -> Result<(), Refusal> {
        let peer = read::peer(&request.peer)?;
        let run = Run::read(request)?;
        let until = read::within(until, now.after(run.longest()));
        self.begin(swarm, Waiting::new(call, peer, Goal::Ping(run), until), Vec::new(), now)
    }

    fn disconnect(
        &mut self,
        swarm: &mut Swarm<Behaviour>,
        request: &v1::DisconnectRequest,
    ) -> Result<Payload, Refusal> {
        let peer = read::peer(&request.peer)?;
        let address = match request.address.as_str() {
            "" => None,
            text => Some(book::without_peer(read::address(text)?)),
        };
        let links = self.book.get(&peer).map(|entry| entry.links.as_slice()).unwrap_or_default();
        let chosen =
            links.iter().filter(|link| address.as_ref().is_none_or(|address| link.address == *address));
        let closed = chosen.filter(|link| swarm.close_connection(link.id)).count();
        Ok(Payload::of(v1::DisconnectResponse { closed: u32::try_from(closed).unwrap_or(u32::MAX) }))
    }

    fn on_probed(
        &mut self,
        swarm: &mut Swarm<Behaviour>,
        event: &probe::Event,
        now: Moment,
        wall: SystemTime,
    ) {
        match &event.result {
            Ok(probe::Answer::Pong(rtt)) => self.book.entry(event.peer, now).measured(*rtt),
            Ok(probe::Answer::Identity(identity)) => {
                self.book.entry(event.peer, now).answered(identity, wall);
                self.learn(swarm, event.peer, &identity.listen_addrs, now);
            }
            Err(_) => {}
        }
        self.on_answered(swarm, event, now);
    }
}
