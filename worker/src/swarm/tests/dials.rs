//! The guard seen from outside: listeners on forbidden addresses count who comes.

use super::*;
use crate::tests::honeypot::Honeypot;
use guard::Rule;
use libp2p::{identify, swarm::dial_opts::DialOpts};
use plexus_proto::v1::node_spec::DialPolicy;

fn failures(peer: &Peer) -> usize {
    peer.events.iter().filter(|event| matches!(event, SwarmEvent::OutgoingConnectionError { .. })).count()
}

/// Dials each address alone, as the API and bootstrap do, and waits for all to fail.
async fn dial_each(peers: &mut [Peer], addresses: &[Multiaddr]) {
    for addr in addresses {
        let before = failures(&peers[0]);
        peers[0].swarm.dial(DialOpts::unknown_peer_id().address(addr.clone()).build()).unwrap();
        eventually(peers, "a dial ends", |peers| failures(&peers[0]) > before).await;
    }
}

#[tokio::test]
async fn a_fleet_node_sends_nothing_to_forbidden_addresses() {
    let honeypot = Honeypot::new().await;
    let mut peers = [Peer::new(v1::NodeSpec::default(), false)];
    let addresses = honeypot.addresses();
    dial_each(&mut peers, &addresses).await;
    assert_eq!(honeypot.hits(), 0);
    assert_eq!(peers[0].rules().len(), addresses.len(), "{:?}", peers[0].rules());
    assert_eq!(peers[0].metrics.dials_refused.get(), addresses.len() as u64);
    for rule in [Rule::Loopback, Rule::Unspecified, Rule::Mapped, Rule::Name, Rule::Protocol] {
        assert!(peers[0].rules().contains(&rule), "{rule}");
    }
}

#[tokio::test]
async fn a_development_node_reaches_them_so_the_listeners_do_count() {
    let honeypot = Honeypot::new().await;
    let mut peers = [Peer::dev(v1::NodeSpec::default())];
    for addr in honeypot.addresses() {
        let (before, expected) =
            (honeypot.hits(), peers[0].swarm.behaviour().blocks.guard().check(&addr).is_ok());
        // QUIC gives up only after its handshake timeout; that a packet came is enough.
        peers[0].swarm.dial(DialOpts::unknown_peer_id().address(addr.clone()).build()).unwrap();
        if expected {
            eventually(&mut peers, "the listener is reached", |_| honeypot.hits() > before).await;
        }
    }
    assert!(honeypot.hits() >= 16, "{}", honeypot.hits());
}

/// A peer tells by identify that it, too, is at forbidden addresses; the node then dials it by
/// whatever it has learned.
async fn learn_and_dial(allow_private: bool, honeypot: &Honeypot) -> Vec<Peer> {
    let mut peers =
        vec![Peer::new(v1::NodeSpec::default(), allow_private), Peer::dev(v1::NodeSpec::default())];
    let addr = listen(&mut peers, 0, "/ip4/127.0.0.1/tcp/0").await;
    for addr in honeypot.addresses() {
        peers[1].swarm.add_external_address(addr);
    }
    peers[1].swarm.dial(addr).unwrap();
    let teller = peers[1].id();
    eventually(&mut peers, "identify", |peers| {
        let told = |e: &SwarmEvent<BehaviourEvent>| {
            matches!(e, SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received { info, .. }))
                if info.listen_addrs.len() > 10)
        };
        peers[0].events.iter().any(told)
    })
    .await;
    peers[0].swarm.disconnect_peer_id(teller).unwrap();
    eventually(&mut peers, "disconnected", |peers| !peers[0].swarm.is_connected(&teller)).await;
    peers[0].swarm.dial(teller).unwrap();
    peers
}

#[tokio::test]
async fn what_a_peer_says_of_itself_is_judged_alike() {
    let honeypot = Honeypot::new().await;
    let mut peers = learn_and_dial(false, &honeypot).await;
    eventually(&mut peers, "the dial ends", |peers| failures(&peers[0]) > 0).await;
    assert_eq!(honeypot.hits(), 0);
    // Identify remembers ten addresses of a peer.
    assert!(peers[0].metrics.dials_refused.get() >= 8, "{}", peers[0].metrics.dials_refused.get());

    let mut peers = learn_and_dial(true, &honeypot).await;
    eventually(&mut peers, "the listener is reached", |_| honeypot.hits() > 0).await;
}

#[tokio::test]
async fn a_policy_can_forbid_dials_and_learned_addresses() {
    let spec = |dial| v1::NodeSpec { dial: Some(dial), ..Default::default() };
    let off = spec(DialPolicy { outgoing: Some(false), ..Default::default() });
    let given = spec(DialPolicy { learned: Some(false), ..Default::default() });
    let mut peers = [Peer::dev(off), Peer::dev(given), Peer::dev(v1::NodeSpec::default())];
    let addr = listen(&mut peers, 2, "/memory/0").await;
    let target = peers[2].id();

    let refused = peers[0].swarm.dial(addr.clone()).unwrap_err();
    assert_eq!(Rule::of(&refused), Some(Rule::Outgoing));
    let learned = peers[1].swarm.dial(target).unwrap_err();
    assert_eq!(Rule::of(&learned), Some(Rule::Learned));
    peers[1].swarm.dial(addr).unwrap();
    eventually(&mut peers, "connected", |peers| peers[1].swarm.is_connected(&target)).await;
}

#[tokio::test]
async fn the_memory_transport_is_for_development_alone() {
    let mut peers = [Peer::new(v1::NodeSpec::default(), false), Peer::dev(v1::NodeSpec::default())];
    let addr = listen(&mut peers, 1, "/memory/0").await;
    assert!(peers[0].swarm.listen_on("/memory/0".parse().unwrap()).is_err());
    dial_each(&mut peers, &[addr]).await;
    assert_eq!(peers[0].rules(), [Rule::Protocol]);
}
