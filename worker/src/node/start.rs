//! The swarm's first steps: built, listening, dialling those it knew. Also what is done again when the
//! spec changes.

use super::{event_loop::EventLoop, peers::Peers};
use crate::{
    Error,
    clock::{Moment, Now},
    swarm,
};
use libp2p::{
    Multiaddr, PeerId,
    multiaddr::Protocol,
    swarm::dial_opts::{DialOpts, PeerCondition},
};
use plexus_bus::NodeName;
use plexus_proto::v1;
use std::{collections::BTreeMap, time::Duration};

/// A clock further behind than this is told instead of waited for.
const BEHIND_MAX: Duration = Duration::from_secs(30);

/// Why nothing is published for now: peers ignore sequence numbers that they have seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Muted {
    /// The swarm is built again then, with later numbers.
    Until(Moment),
    /// The clock of this worker is this far behind.
    Behind(Duration),
}

impl EventLoop {
    /// Builds the swarm, listens and dials. Call it only after the logs are open (P9).
    pub(super) fn build(&mut self, now: Now) -> Result<(), Error> {
        let spec = self.spec();
        let plan = swarm::Plan {
            key: &self.key,
            spec: &spec,
            blocks: &self.record.blocks,
            config: &self.config.node,
            allow_private: self.config.allow_private_addresses,
            metrics: &self.metrics,
        };
        let (swarm, mut ids) = swarm::build(&plan)?;
        let floor = self.seqno.max(self.ids.as_ref().map_or(0, swarm::gossip::Ids::last));
        self.seqno = floor;
        self.muted = ids.behind(floor).map(|behind| match behind {
            behind if behind <= BEHIND_MAX => {
                Muted::Until(now.moment.after(behind + Duration::from_millis(1)))
            }
            behind => Muted::Behind(behind),
        });
        // What the former swarm did not send goes first; its ids in the log are those of the former.
        for publish in self.publishes.reserved() {
            match publish {
                Some(publish) => ids.reserve(&publish.topic, &publish.data),
                None => ids.reserve(&Default::default(), &[]),
            };
        }
        self.flood = spec.gossip.and_then(|gossip| gossip.flood_publish).unwrap_or(true);
        self.swarm.put(swarm);
        self.ids = Some(ids);
        self.status.rebuilt(now);
        self.peers = Peers::new(&self.config.node, &self.record, &self.known, self.key.clone());
        self.following.rejoin();
        self.apply_policies();
        self.listen(&spec);
        self.move_topics(now);
        self.dial_known(&spec);
        Ok(())
    }

    fn listen(&mut self, spec: &v1::NodeSpec) {
        let addresses = match spec.listen_addresses.as_slice() {
            [] => self.config.node.listen_addresses.clone(),
            own => own.to_vec(),
        };
        let announced = spec.announce_addresses.clone();
        let Some(swarm) = self.swarm.act() else { return };
        self.status.listens = addresses.len();
        for address in addresses {
            let result = address.parse::<Multiaddr>().map_err(|error| error.to_string());
            if let Err(error) = result.and_then(|address| swarm.listen_on(address).map_err(|e| e.to_string()))
            {
                tracing::warn!(node = %self.name, address, error, "cannot listen");
                self.status.listen_error = Some(format!("{address}: {error}"));
            }
        }
        for address in announced.iter().filter_map(|address| address.parse().ok()) {
            swarm.add_external_address(address);
        }
    }

    /// Dials the peers that the former owner was connected to, and the bootstrap peers.
    fn dial_known(&mut self, spec: &v1::NodeSpec) {
        let known = std::mem::take(&mut self.known);
        self.dial(known.iter().chain(&spec.bootstrap));
    }

    /// Dials peers by addresses that end in `/p2p/…`, each peer once.
    pub(super) fn dial<'a>(&mut self, addresses: impl Iterator<Item = &'a String>) {
        let outgoing = self.spec().dial.and_then(|dial| dial.outgoing).unwrap_or(true);
        if !outgoing {
            return;
        }
        for (peer, addresses) in by_peer(addresses) {
            let Some(swarm) = self.swarm.act() else { return };
            if peer == *swarm.local_peer_id() {
                continue;
            }
            if let Some(kad) = swarm.behaviour_mut().kad.as_mut() {
                for address in &addresses {
                    kad.add_address(&peer, address.clone());
                }
            }
            let options = DialOpts::peer_id(peer)
                .addresses(addresses)
                .condition(PeerCondition::DisconnectedAndNotDialing)
                .build();
            if let Err(error) = swarm.dial(options) {
                tracing::debug!(node = %self.name, %peer, %error, "dial refused");
            }
        }
    }

    /// The spec that runs.
    pub(super) fn spec(&self) -> v1::NodeSpec {
        self.record.node.as_ref().and_then(|node| node.spec.clone()).unwrap_or_default()
    }

    /// Tells whether the node speaks gossipsub.
    pub(super) fn gossips(&self) -> bool {
        let spec = self.record.node.as_ref().and_then(|node| node.spec.as_ref());
        let protocols = spec.and_then(|spec| spec.protocols.as_ref());
        protocols.and_then(|protocols| protocols.gossipsub).unwrap_or(true)
    }
}

/// Groups addresses by the peer they end in; those without one are passed over.
fn by_peer<'a>(addresses: impl Iterator<Item = &'a String>) -> BTreeMap<PeerId, Vec<Multiaddr>> {
    let mut peers: BTreeMap<PeerId, Vec<Multiaddr>> = BTreeMap::new();
    for address in addresses {
        let Ok(mut address) = address.parse::<Multiaddr>() else { continue };
        if let Some(Protocol::P2p(peer)) = address.pop() {
            peers.entry(peer).or_default().push(address);
        }
    }
    peers
}

/// What of a spec needs another swarm: everything but what is applied in place.
pub(super) fn fixed(spec: &v1::NodeSpec) -> v1::NodeSpec {
    let mut spec = spec.clone();
    spec.labels.clear();
    spec.stopped = None;
    spec.topics.clear();
    spec.bootstrap.clear();
    spec.placement = None;
    if let Some(gossip) = &mut spec.gossip {
        gossip.topics_max = 0;
    }
    spec
}

/// Names a node's swarm in a sentence.
pub(super) fn failed(name: &NodeName, error: &Error) -> String {
    format!("node {name}: {error}")
}
