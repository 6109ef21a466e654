//! Remote peers as one node sees them: the book of peers and addresses, and what PeerService,
//! GetIdentity, ListBootstrap and ListBlocks ask. The node's loop owns it, hands it the swarm for each
//! call and tells it every event of the swarm; it never waits.
//!
//! How the loop uses it: [`Peers::ask`] answers at once or keeps the call; [`Peers::on_swarm_event`] and
//! [`Peers::tick`] (once a second, and at [`Peers::wake`]) may finish calls, which
//! [`Peers::take_ready`] then hands out. [`Peers::tick`] also dials the bootstrap peers of a node that
//! is alone. [`Peers::cancel`] forgets a call whose caller is gone.

use crate::{
    Refusal,
    clock::Moment,
    config,
    swarm::{Behaviour, BehaviourEvent},
};
use libp2p::{Swarm, swarm::SwarmEvent};
use plexus_bus::{CallId, Payload};
use plexus_proto::{bus::NodeRecord, v1};
use std::time::SystemTime;

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
pub(crate) struct Peers {}

impl Peers {
    /// Begins with the addresses that the former owner was connected to (`NodeState.peers`).
    pub(crate) fn new(_config: &config::Node, _record: &NodeRecord, _known: &[String]) -> Self {
        Self {}
    }

    /// Takes a new record: its bootstrap addresses, blocks and dial rules. The swarm's blocks are set
    /// here as well.
    pub(crate) fn set_record(&mut self, _record: &NodeRecord, _swarm: Option<&mut Swarm<Behaviour>>) {}

    /// Answers a call at once, or keeps it (`None`) and tells by [`Peers::take_ready`]. `until`: after
    /// this nobody waits.
    pub(crate) fn ask(
        &mut self,
        _swarm: &mut Swarm<Behaviour>,
        _call: CallId,
        _ask: Ask,
        _until: Option<Moment>,
        _now: Moment,
        _wall: SystemTime,
    ) -> Option<Result<Payload, Refusal>> {
        None
    }

    /// Hears of everything that the swarm does.
    pub(crate) fn on_swarm_event(
        &mut self,
        _swarm: &mut Swarm<Behaviour>,
        _event: &SwarmEvent<BehaviourEvent>,
        _now: Moment,
        _wall: SystemTime,
    ) {
    }

    /// Ends what is late, sends pings that are due, dials the bootstrap peers of a node that is alone.
    pub(crate) fn tick(&mut self, _swarm: &mut Swarm<Behaviour>, _now: Moment) {}

    /// When [`Peers::tick`] is due before the next second is over.
    pub(crate) fn wake(&self) -> Option<Moment> {
        None
    }

    /// Forgets a call: its caller is gone.
    pub(crate) fn cancel(&mut self, _call: CallId) {}

    /// Hands out what became of kept calls, in order.
    pub(crate) fn take_ready(&mut self) -> Vec<Ready> {
        Vec::new()
    }

    /// The counts for `NodeStatus`.
    pub(crate) fn counts(&self, _swarm: &Swarm<Behaviour>) -> v1::PeerCounts {
        v1::PeerCounts::default()
    }
}
