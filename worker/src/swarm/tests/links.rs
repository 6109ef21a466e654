//! Transports, limits and the smaller protocols.

use super::*;
use libp2p::{identify, ping};
use plexus_proto::v1::node_spec::{Kad, Limits, PrivateNetwork, Protocols, kad, protocols::Transport};

fn speaks(transports: &[Transport]) -> v1::NodeSpec {
    let transports = transports.iter().map(|t| *t as i32).collect();
    v1::NodeSpec { protocols: Some(Protocols { transports, ..Default::default() }), ..Default::default() }
}

#[tokio::test]
async fn nodes_meet_over_every_transport() {
    let addresses = [
        "/ip4/127.0.0.1/tcp/0",
        "/ip4/127.0.0.1/udp/0/quic-v1",
        "/ip4/127.0.0.1/tcp/0/ws",
        "/ip6/::1/tcp/0",
        "/memory/0",
    ];
    for addr in addresses {
        let mut peers = [Peer::dev(v1::NodeSpec::default()), Peer::dev(v1::NodeSpec::default())];
        let at = listen(&mut peers, 0, addr).await;
        peers[1].swarm.dial(at).unwrap();
        eventually(&mut peers, addr, |peers| {
            let pinged = |e: &SwarmEvent<BehaviourEvent>| {
                matches!(e, SwarmEvent::Behaviour(BehaviourEvent::Ping(ping::Event { result: Ok(_), .. })))
            };
            peers.iter().all(|peer| peer.events.iter().any(pinged))
        })
        .await;
    }
}

#[tokio::test]
async fn names_are_resolved_in_development() {
    for (listens, name) in [("/ip4/127.0.0.1/tcp/0", "/tcp/"), ("/ip4/127.0.0.1/tcp/0/ws", "/ws")] {
        let mut peers = [Peer::dev(v1::NodeSpec::default()), Peer::dev(v1::NodeSpec::default())];
        let at = listen(&mut peers, 0, listens).await;
        let named: Multiaddr = at.to_string().replace("/ip4/127.0.0.1", "/dns4/localhost").parse().unwrap();
        assert!(named.to_string().contains(name));
        peers[1].swarm.dial(named).unwrap();
        eventually(&mut peers, listens, |peers| peers[0].swarm.connected_peers().count() == 1).await;
    }
}

#[tokio::test]
async fn only_the_transports_of_the_spec_are_there() {
    let all = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0/ws"];
    for (at, only) in [Transport::Tcp, Transport::Quic, Transport::Ws].into_iter().enumerate() {
        let mut peer = Peer::dev(speaks(&[only, Transport::Relay]));
        let works = all.map(|addr| peer.swarm.listen_on(addr.parse().unwrap()).is_ok());
        assert_eq!(works.iter().position(|w| *w), Some(at), "{only:?}: {works:?}");
        assert_eq!(works.iter().filter(|w| **w).count(), 1, "{only:?}: {works:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_built_is_an_error() {
    let config = config::Node::default();
    let kad = |protocols: &[&str]| {
        let protocols = protocols.iter().map(|p| (*p).to_owned()).collect();
        let kad = Kad { mode: kad::Mode::Client as i32, protocols, ..Default::default() };
        v1::NodeSpec { kad: Some(kad), ..Default::default() }
    };
    let specs = [
        speaks(&[Transport::WebrtcDirect]),
        v1::NodeSpec { private_network: Some(PrivateNetwork::default()), ..Default::default() },
        kad(&["no-slash"]),
        kad(&["/a", "/b"]),
    ];
    for spec in specs {
        let (key, metrics) = (Keypair::generate_ed25519(), Metrics::default());
        let plan = Plan {
            key: &key,
            spec: &spec,
            blocks: &[],
            config: &config,
            allow_private: true,
            metrics: &metrics,
        };
        assert!(matches!(build(&plan), Err(Error::Swarm(_))), "{spec:?}");
    }
}

#[tokio::test]
async fn identify_tells_the_agent_and_pushes_changes() {
    let named = v1::NodeSpec { agent_version: "ours/1".to_owned(), ..Default::default() };
    let mut peers = [Peer::dev(named), Peer::dev(v1::NodeSpec::default())];
    star(&mut peers).await;
    let agents = |peer: &Peer| -> Vec<(String, usize)> {
        let info = |e: &SwarmEvent<BehaviourEvent>| match e {
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received { info, .. })) => {
                Some((info.agent_version.clone(), info.listen_addrs.len()))
            }
            _ => None,
        };
        peer.events.iter().filter_map(info).collect()
    };
    eventually(&mut peers, "both identified", |peers| peers.iter().all(|p| !agents(p).is_empty())).await;
    assert_eq!(agents(&peers[1])[0].0, "ours/1");
    assert!(agents(&peers[0])[0].0.starts_with("plexus/"));
    let before = agents(&peers[1])[0].1;
    listen(&mut peers, 0, "/ip4/127.0.0.1/tcp/0").await;
    eventually(&mut peers, "a push", |peers| agents(&peers[1]).iter().any(|(_, addrs)| *addrs > before))
        .await;
}

#[tokio::test]
async fn what_the_spec_leaves_out_is_off_and_kademlia_is_a_client() {
    let off =
        Protocols { gossipsub: Some(false), identify: Some(false), ping: Some(false), ..Default::default() };
    let peer = Peer::dev(v1::NodeSpec { protocols: Some(off), ..Default::default() });
    let behaviour = peer.swarm.behaviour();
    assert!(
        !behaviour.gossip.is_enabled() && !behaviour.identify.is_enabled() && !behaviour.ping.is_enabled()
    );
    assert_eq!(peer.ids.last(), 0);
    assert!(!behaviour.kad.is_enabled());

    for (mode, expected) in
        [(kad::Mode::Client, "client"), (kad::Mode::Server, "server"), (kad::Mode::Auto, "client")]
    {
        let spec =
            v1::NodeSpec { kad: Some(Kad { mode: mode as i32, ..Default::default() }), ..Default::default() };
        let peer = Peer::dev(spec);
        assert_eq!(peer.swarm.behaviour().kad.as_ref().unwrap().mode().to_string(), expected);
    }
}

#[tokio::test]
async fn connections_are_bounded_by_the_stricter_of_spec_and_config() {
    let limits = Limits { connections_max: 2, ..Default::default() };
    let bounded = v1::NodeSpec { limits: Some(limits), ..Default::default() };
    let mut peers: Vec<_> =
        std::iter::once(Peer::dev(bounded)).chain((0..3).map(|_| Peer::dev(Default::default()))).collect();
    let addr = listen(&mut peers, 0, "/memory/0").await;
    for peer in &mut peers[1..] {
        peer.swarm.dial(addr.clone()).unwrap();
    }
    eventually(&mut peers, "one is turned away", |peers| {
        let denied = |e: &SwarmEvent<BehaviourEvent>| {
            matches!(
                e,
                SwarmEvent::IncomingConnectionError { error: libp2p::swarm::ListenError::Denied { .. }, .. }
            )
        };
        peers[0].events.iter().any(denied)
    })
    .await;
    assert_eq!(peers[0].swarm.connected_peers().count(), 2);
}

#[tokio::test]
async fn announced_addresses_stand_instead_of_those_listened_on() {
    let announced: Multiaddr = "/dns4/node.example.com/tcp/4001".parse().unwrap();
    let spec = v1::NodeSpec { announce_addresses: vec![announced.to_string()], ..Default::default() };
    let mut peers = [Peer::dev(spec), Peer::dev(v1::NodeSpec::default())];
    peers[0].swarm.add_external_address(announced.clone());
    star(&mut peers).await;
    let told = |e: &SwarmEvent<BehaviourEvent>| match e {
        SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received { info, .. })) => {
            Some(info.listen_addrs.clone())
        }
        _ => None,
    };
    eventually(&mut peers, "identify", |peers| peers[1].events.iter().any(|e| told(e).is_some())).await;
    assert_eq!(peers[1].events.iter().find_map(told), Some(vec![announced]));
}
