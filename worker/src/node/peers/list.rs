//! What callers see of peers: lists, counts, blocks, the node's own identity.

use super::{
    Peers,
    book::{Entry, Link},
};
use crate::{Refusal, node::page::Page, refuse, swarm::Behaviour};
use libp2p::{
    Multiaddr, PeerId, Swarm,
    core::PeerRecord,
    gossipsub::TopicHash,
    identity::{KeyType, PublicKey},
    multiaddr::Protocol,
};
use plexus_bus::Payload;
use plexus_proto::{
    reason::Reason,
    text::{self, Base},
    v1::{self, connection::Direction, peer::State, peer::View},
};
use std::{
    collections::{BTreeSet, HashMap},
    time::SystemTime,
};

/// Names in a table of counts.
const COUNTS_MAX: usize = 50;

type Answer = Result<Payload, Refusal>;

impl Peers {
    pub(super) fn list(&self, swarm: &Swarm<Behaviour>, request: &v1::ListPeersRequest) -> Answer {
        let in_mesh = request.in_mesh.map_or(0u8, |wanted| if wanted { 2 } else { 1 });
        let pinned = request.pinned.map_or(0u8, |wanted| if wanted { 2 } else { 1 });
        let fields: [&[u8]; 8] = [
            &request.state.to_be_bytes(),
            request.protocol.as_bytes(),
            request.topic.as_bytes(),
            &[in_mesh, pinned],
            &request.direction.to_be_bytes(),
            request.agent_prefix.as_bytes(),
            request.tag.as_bytes(),
            &request.view.to_be_bytes(),
        ];
        let page = Page::read(request.page_size, &request.page_token, &fields)?;
        let gossip = Gossip::of(swarm, &request.topic)?;
        let passes = |(peer, entry): &(&PeerId, &Entry)| passes(request, &gossip, peer, entry);
        let all = self.book.iter().filter(passes).map(|(peer, entry)| (peer.to_bytes(), *peer, entry));
        let (peers, next_page_token) = page.cut(all, |(name, ..)| name);
        let full = request.view() == View::Full;
        let peers = peers.into_iter().map(|(_, peer, entry)| show(swarm, &peer, entry, full)).collect();
        Ok(Payload::of(v1::ListPeersResponse { peers, next_page_token }))
    }

    /// Shows one peer with everything.
    pub(super) fn show(&self, swarm: &Swarm<Behaviour>, peer: &PeerId) -> Answer {
        match self.book.get(peer) {
            Some(entry) => Ok(Payload::of(show(swarm, peer, entry, true))),
            None => Err(refuse(Reason::PeerNotFound, "the node does not know this peer")),
        }
    }

    pub(super) fn count(&self, swarm: &Swarm<Behaviour>) -> Answer {
        let (mut protocols, mut agents, mut transports) = (HashMap::new(), HashMap::new(), HashMap::new());
        for (_, entry) in self.book.iter().filter(|(_, entry)| !entry.links.is_empty()) {
            for protocol in &entry.protocols {
                *protocols.entry(protocol.clone()).or_insert(0) += 1;
            }
            let agent = entry.agent.split('/').next().unwrap_or_default();
            *agents.entry(agent.to_owned()).or_insert(0) += 1;
            for link in &entry.links {
                *transports.entry(transport(&link.address).to_owned()).or_insert(0) += 1;
            }
        }
        Ok(Payload::of(v1::CountPeersResponse {
            counts: Some(self.counts(swarm)),
            by_protocol: most_frequent(protocols),
            by_agent: most_frequent(agents),
            by_transport: most_frequent(transports),
        }))
    }

    /// The counts for `NodeStatus`.
    pub(crate) fn counts(&self, swarm: &Swarm<Behaviour>) -> v1::PeerCounts {
        let mut counts = v1::PeerCounts::default();
        for (_, entry) in self.book.iter() {
            let incoming = entry.links.iter().filter(|link| link.incoming).count();
            counts.connected += u32::from(!entry.links.is_empty());
            counts.known += u32::from(!entry.links.is_empty() || !entry.addresses.is_empty());
            counts.incoming += u32::try_from(incoming).unwrap_or(u32::MAX);
            counts.outgoing += u32::try_from(entry.links.len() - incoming).unwrap_or(u32::MAX);
        }
        let gossip = swarm.behaviour().gossip.as_ref();
        let mesh = gossip.map_or(0, |gossip| gossip.all_mesh_peers().collect::<BTreeSet<_>>().len());
        counts.mesh = u32::try_from(mesh).unwrap_or(u32::MAX);
        counts
    }

    pub(super) fn list_blocks(
        &self,
        swarm: &Swarm<Behaviour>,
        request: &v1::ListBlocksRequest,
        wall: SystemTime,
    ) -> Answer {
        let page = Page::read(request.page_size, &request.page_token, &[])?;
        let hits: HashMap<String, u64> = swarm.behaviour().blocks.hits().into_iter().collect();
        let over = |block: &v1::BlockEntry| {
            block.expires_at.and_then(|at| SystemTime::try_from(at).ok()).is_some_and(|at| at <= wall)
        };
        let mut blocks: Vec<(Vec<u8>, v1::BlockEntry)> = self
            .blocks
            .iter()
            .filter(|block| !over(block))
            .map(|block| {
                let hits = hits.get(&block.entry).copied().unwrap_or(block.hits);
                (newest_first(block), v1::BlockEntry { hits, ..block.clone() })
            })
            .collect();
        blocks.sort_by(|a, b| a.0.cmp(&b.0));
        let (blocks, next_page_token) = page.cut(blocks, |(name, _)| name);
        let blocks = blocks.into_iter().map(|(_, block)| block).collect();
        Ok(Payload::of(v1::ListBlocksResponse { blocks, next_page_token }))
    }

    pub(super) fn identity(&self, swarm: &Swarm<Behaviour>) -> Answer {
        let peer = swarm.local_peer_id().to_bytes();
        let public = self.key.public();
        let texts =
            |addresses: Vec<&Multiaddr>| addresses.into_iter().map(ToString::to_string).collect::<Vec<_>>();
        let listen: Vec<&Multiaddr> = swarm.listeners().collect();
        let external: Vec<&Multiaddr> = swarm.external_addresses().collect();
        let told = if external.is_empty() { &listen } else { &external };
        let record =
            PeerRecord::new_interop(&self.key, told.iter().map(|address| (*address).clone()).collect());
        Ok(Payload::of(v1::Identity {
            peer_id: text::peer_id_to_text(&peer),
            peer_id_cid: text::peer_id_to_cid(&peer, Base::Base32Lower),
            peer_id_base36: text::peer_id_to_cid(&peer, Base::Base36Lower),
            key_type: key_type(&public).into(),
            public_key: public.encode_protobuf().into(),
            listen_addresses: texts(listen.clone()),
            external_addresses: texts(external.clone()),
            observed_addresses: texts(self.observed.iter().collect()),
            protocols: self.protocols(swarm),
            agent_version: self.agent(),
            protocol_version: "ipfs/0.1.0".into(),
            signed_peer_record: record
                .map(|record| record.into_signed_envelope().into_protobuf_encoding().into())
                .unwrap_or_default(),
        }))
    }

    /// Protocol ids that the node answers to.
    fn protocols(&self, swarm: &Swarm<Behaviour>) -> Vec<String> {
        let behaviour = swarm.behaviour();
        let mut all = Vec::new();
        if behaviour.ping.is_enabled() {
            all.push("/ipfs/ping/1.0.0".to_owned());
        }
        if behaviour.identify.is_enabled() {
            all.extend(["/ipfs/id/1.0.0", "/ipfs/id/push/1.0.0"].map(str::to_owned));
        }
        if behaviour.gossip.is_enabled() {
            let waku = crate::swarm::preset::protocol(self.spec.gossip.unwrap_or_default().preset());
            match waku {
                Some(protocol) => all.push(protocol.to_owned()),
                None => all.extend(
                    ["1.3.0", "1.2.0", "1.1.0", "1.0.0"].map(|version| format!("/meshsub/{version}")),
                ),
            }
        }
        if let Some(kad) = behaviour.kad.as_ref().filter(|kad| kad.mode() == libp2p::kad::Mode::Server) {
            all.extend(kad.protocol_names().iter().map(ToString::to_string));
        }
        all
    }

    fn agent(&self) -> String {
        match self.spec.agent_version.as_str() {
            "" => concat!("plexus/", env!("CARGO_PKG_VERSION")).to_owned(),
            own => own.to_owned(),
        }
    }
}

/// What gossipsub knows, gathered once a request.
struct Gossip {
    topic: Option<TopicHash>,
    followers: BTreeSet<PeerId>,
    mesh: BTreeSet<PeerId>,
}

impl Gossip {
    fn of(swarm: &Swarm<Behaviour>, topic: &str) -> Result<Self, Refusal> {
        let topic = match topic {
            "" => None,
            name => {
                let bytes =
                    text::topic_from_text(name).map_err(|e| refuse(Reason::BadTopic, e.to_string()))?;
                std::str::from_utf8(&bytes).ok().map(TopicHash::from_raw).or(Some(TopicHash::from_raw("\0")))
            }
        };
        let Some(gossip) = swarm.behaviour().gossip.as_ref() else {
            return Ok(Self { topic, followers: BTreeSet::new(), mesh: BTreeSet::new() });
        };
        let followers = match &topic {
            Some(topic) => {
                gossip.all_peers().filter(|(_, topics)| topics.contains(&topic)).map(|(p, _)| *p).collect()
            }
            None => BTreeSet::new(),
        };
        let mesh = match &topic {
            Some(topic) => gossip.mesh_peers(topic).copied().collect(),
            None => gossip.all_mesh_peers().copied().collect(),
        };
        Ok(Self { topic, followers, mesh })
    }
}

fn passes(request: &v1::ListPeersRequest, gossip: &Gossip, peer: &PeerId, entry: &Entry) -> bool {
    let connected = !entry.links.is_empty();
    let state = match request.state() {
        State::Unspecified | State::Connected => connected,
        State::Known => connected || !entry.addresses.is_empty(),
        State::Connecting => !connected && !entry.dials.is_empty(),
    };
    let direction = match request.direction() {
        Direction::Unspecified => true,
        wanted => entry.links.iter().any(|link| link.incoming == (wanted == Direction::Incoming)),
    };
    state
        && direction
        && (request.protocol.is_empty() || entry.protocols.contains(&request.protocol))
        && entry.agent.starts_with(&request.agent_prefix)
        && (gossip.topic.is_none() || gossip.followers.contains(peer))
        && request.in_mesh.is_none_or(|wanted| gossip.mesh.contains(peer) == wanted)
        // Nothing pins or tags peers yet.
        && request.tag.is_empty()
        && request.pinned != Some(true)
}

fn show(swarm: &Swarm<Behaviour>, peer: &PeerId, entry: &Entry, full: bool) -> v1::Peer {
    let state = match (entry.links.is_empty(), entry.dials.is_empty()) {
        (false, _) => State::Connected,
        (true, false) => State::Connecting,
        (true, true) => State::Known,
    };
    let gossip = swarm.behaviour().gossip.as_ref();
    let mut shown = v1::Peer {
        peer: text::peer_id_to_text(&peer.to_bytes()),
        state: state.into(),
        connections: entry.links.iter().map(show_link).collect(),
        agent_version: entry.agent.clone(),
        latency: entry.latency.and_then(|rtt| rtt.try_into().ok()),
        score: gossip.and_then(|gossip| gossip.peer_score(peer)),
        identified_at: entry.identified_at.map(Into::into),
        public_key: entry.public_key.as_ref().map(PublicKey::encode_protobuf).unwrap_or_default().into(),
        ..Default::default()
    };
    if full {
        shown.addresses = entry.addresses.iter().map(ToString::to_string).collect();
        shown.protocols = entry.protocols.iter().cloned().collect();
        if let Some(gossip) = gossip {
            let ours: BTreeSet<&TopicHash> = gossip.topics().collect();
            let theirs = gossip.all_peers().find(|(other, _)| *other == peer).map(|(_, topics)| topics);
            let both = theirs.into_iter().flatten().filter(|topic| ours.contains(topic));
            shown.topics = both.map(|topic| text::bytes_to_text(topic.as_str().as_bytes())).collect();
            shown.topics.sort();
        }
    }
    shown
}

fn show_link(link: &Link) -> v1::Connection {
    let transport = transport(&link.address);
    let quic = transport == "quic-v1";
    v1::Connection {
        id: link.id.to_string(),
        address: link.address.to_string(),
        direction: if link.incoming { Direction::Incoming } else { Direction::Outgoing }.into(),
        relayed: link.address.iter().any(|part| part == Protocol::P2pCircuit),
        transport: transport.to_owned(),
        // Which of the two secures a TCP link is not told by the swarm.
        security: if quic { "tls".into() } else { String::new() },
        muxer: if quic { "quic" } else { "yamux" }.into(),
        opened_at: Some(link.opened_at.into()),
        ..Default::default()
    }
}

fn transport(address: &Multiaddr) -> &'static str {
    let mut name = "";
    for part in address {
        name = match part {
            Protocol::Tcp(_) => "tcp",
            Protocol::QuicV1 => "quic-v1",
            Protocol::Ws(_) | Protocol::Wss(_) => "ws",
            Protocol::WebRTCDirect => "webrtc-direct",
            Protocol::Memory(_) => "memory",
            _ => name,
        };
    }
    name
}

fn key_type(key: &PublicKey) -> v1::key::Type {
    match key.key_type() {
        KeyType::Ed25519 => v1::key::Type::Ed25519,
        KeyType::RSA => v1::key::Type::Rsa,
        KeyType::Secp256k1 => v1::key::Type::Secp256k1,
        KeyType::Ecdsa => v1::key::Type::Ecdsa,
    }
}

fn most_frequent(counts: HashMap<String, u32>) -> HashMap<String, u32> {
    let mut all: Vec<(String, u32)> = counts.into_iter().filter(|(name, _)| !name.is_empty()).collect();
    all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    all.into_iter().take(COUNTS_MAX).collect()
}

/// A name that sorts the newest block first.
fn newest_first(block: &v1::BlockEntry) -> Vec<u8> {
    let at =
        block.created_at.map_or(0, |at| at.seconds.max(0) as u64 * 1_000_000_000 + at.nanos.max(0) as u64);
    [&(u64::MAX - at).to_be_bytes()[..], block.entry.as_bytes()].concat()
}
