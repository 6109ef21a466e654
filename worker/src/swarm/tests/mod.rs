//! Real swarms that talk to each other, over loopback and the memory transport.

mod dials;
mod ids;
mod links;
mod outcasts;
mod topics;

use super::*;
use futures::{FutureExt, StreamExt, future::select_all};
use libp2p::{Multiaddr, PeerId, gossipsub, identity::Keypair, swarm::SwarmEvent};
use std::time::Instant;

/// A swarm and everything it has told.
struct Peer {
    swarm: Swarm<Behaviour>,
    ids: gossip::Ids,
    metrics: Metrics,
    events: Vec<SwarmEvent<BehaviourEvent>>,
}

impl Peer {
    fn new(spec: v1::NodeSpec, allow_private: bool) -> Self {
        Self::with_key(&Keypair::generate_ed25519(), spec, allow_private)
    }

    fn with_key(key: &Keypair, spec: v1::NodeSpec, allow_private: bool) -> Self {
        let (metrics, config) = (Metrics::default(), config::Node::default());
        let plan = Plan { key, spec: &spec, blocks: &[], config: &config, allow_private, metrics: &metrics };
        let (swarm, ids) = build(&plan).unwrap();
        Self { swarm, ids, metrics, events: Vec::new() }
    }

    /// A peer of a development worker.
    fn dev(spec: v1::NodeSpec) -> Self {
        Self::new(spec, true)
    }

    fn id(&self) -> PeerId {
        *self.swarm.local_peer_id()
    }

    fn gossip(&mut self) -> &mut gossip::Awake {
        self.swarm.behaviour_mut().gossip.as_mut().unwrap()
    }

    fn follow(&mut self, topic: &str) {
        self.gossip().subscribe(&gossip::topic(topic.as_bytes()).unwrap()).unwrap();
    }

    fn messages(&self) -> Vec<(gossipsub::MessageId, gossipsub::Message)> {
        let message = |event: &SwarmEvent<BehaviourEvent>| match event {
            SwarmEvent::Behaviour(BehaviourEvent::Gossip(gossipsub::Event::Message {
                message_id,
                message,
                ..
            })) => Some((message_id.clone(), message.clone())),
            _ => None,
        };
        self.events.iter().filter_map(message).collect()
    }

    /// Peers that are known to follow the topic.
    fn followers(&self, topic: &str) -> usize {
        let gossip = self.swarm.behaviour().gossip.as_ref().unwrap();
        gossip.all_peers().filter(|(_, topics)| topics.iter().any(|t| t.as_str() == topic)).count()
    }

    /// Peers in the mesh of the topic.
    fn mesh(&self, topic: &str) -> usize {
        let gossip = self.swarm.behaviour().gossip.as_ref().unwrap();
        gossip.mesh_peers(&gossipsub::TopicHash::from_raw(topic)).count()
    }

    /// Rules that stopped dials, in order.
    fn rules(&self) -> Vec<guard::Rule> {
        let rule = |event: &SwarmEvent<BehaviourEvent>| match event {
            SwarmEvent::OutgoingConnectionError { error, .. } => guard::Rule::of(error),
            _ => None,
        };
        self.events.iter().filter_map(rule).collect()
    }

    /// Accepts what was received, as a node does once it is logged.
    fn accept(&mut self) {
        let Some(SwarmEvent::Behaviour(BehaviourEvent::Gossip(gossipsub::Event::Message {
            propagation_source,
            message_id,
            ..
        }))) = self.events.last()
        else {
            return;
        };
        let (source, id) = (*propagation_source, message_id.clone());
        self.gossip().report_message_validation_result(&id, &source, gossipsub::MessageAcceptance::Accept);
    }
}

/// Drives the peers until the condition holds, and fails the test if it does not.
async fn eventually(peers: &mut [Peer], what: &str, mut holds: impl FnMut(&mut [Peer]) -> bool) {
    let begin = Instant::now();
    while !holds(peers) {
        assert!(begin.elapsed() < Duration::from_secs(30), "never happened: {what}");
        drive(peers, Duration::from_millis(50)).await;
    }
}

/// Drives the peers until one of them tells something, or the time is over.
async fn drive(peers: &mut [Peer], time: Duration) {
    let next = select_all(peers.iter_mut().map(|peer| peer.swarm.select_next_some()));
    if let Ok((event, from, _)) = tokio::time::timeout(time, next).await {
        peers[from].events.push(event);
        peers[from].accept();
        while let Some(Some(event)) = peers[from].swarm.next().now_or_never() {
            peers[from].events.push(event);
            peers[from].accept();
        }
    }
}

/// Lets a peer listen and answers where.
async fn listen(peers: &mut [Peer], at: usize, addr: &str) -> Multiaddr {
    let known = peers[at].swarm.listeners().count();
    peers[at].swarm.listen_on(addr.parse().unwrap()).unwrap();
    eventually(peers, "a listen address", |peers| peers[at].swarm.listeners().count() > known).await;
    peers[at].swarm.listeners().find(|a| is_kin(a, addr)).unwrap().clone()
}

/// Tells whether both are addresses of one transport.
fn is_kin(addr: &Multiaddr, asked: &str) -> bool {
    let asked: Multiaddr = asked.parse().unwrap();
    let tags = |addr: &Multiaddr| addr.protocol_stack().map(str::to_owned).collect::<Vec<_>>();
    tags(addr) == tags(&asked)
}

/// Connects every peer to the first, over the memory transport.
async fn star(peers: &mut [Peer]) {
    let addr = listen(peers, 0, "/memory/0").await;
    for peer in &mut peers[1..] {
        peer.swarm.dial(addr.clone()).unwrap();
    }
    let all = peers.len() - 1;
    eventually(peers, "all connected", |peers| peers[0].swarm.connected_peers().count() == all).await;
}
