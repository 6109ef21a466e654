//! What gossipsub must do that its defaults do not.

use super::*;
use libp2p::swarm::NetworkBehaviour;
use plexus_proto::v1::{
    node_spec::{
        Gossip,
        gossip::{Mesh, SignPolicy},
    },
    topic_policy::Preset,
};
use prometheus_client::registry::Registry;

fn with(gossip: Gossip) -> v1::NodeSpec {
    v1::NodeSpec { gossip: Some(gossip), ..Default::default() }
}

fn fast() -> v1::NodeSpec {
    let heartbeat_interval = Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 });
    with(Gossip { heartbeat_interval, ..Default::default() })
}

/// A peer whose heartbeats are counted.
fn counted(registry: &mut Registry) -> Peer {
    let mut peer = Peer::dev(fast());
    let config =
        gossipsub::ConfigBuilder::default().validation_mode(gossipsub::ValidationMode::None).build().unwrap();
    let stand_in = gossip::Gossipsub::new(gossipsub::MessageAuthenticity::RandomAuthor, config).unwrap();
    let gossip: &mut gossip::Gossipsub = peer.gossip();
    *gossip = std::mem::replace(gossip, stand_in).with_metrics(registry, Default::default());
    peer
}

fn heartbeats(registry: &Registry) -> usize {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("heartbeat_duration_count ")).unwrap_or("0");
    line.parse().unwrap()
}

#[tokio::test]
async fn the_heartbeat_of_a_quiet_pair_goes_on() {
    let mut registries = [Registry::default(), Registry::default()];
    let mut peers: Vec<_> = registries.iter_mut().map(counted).collect();
    peers.iter_mut().for_each(|peer| peer.follow("t"));
    star(&mut peers).await;
    eventually(&mut peers, "a mesh", |peers| peers.iter().all(|peer| peer.mesh("t") == 1)).await;
    // Nothing but their own timers polls the swarms: a pair that sleeps beats once an event at most.
    let (before, begin) = (heartbeats(&registries[0]), Instant::now());
    let mut events = 0;
    while begin.elapsed() < Duration::from_secs(2) {
        let next = select_all(peers.iter_mut().map(|peer| peer.swarm.select_next_some()));
        events += usize::from(tokio::time::timeout(Duration::from_secs(2), next).await.is_ok());
    }
    let due = begin.elapsed().as_millis() as usize / 100;
    let beats = heartbeats(&registries[0]) - before;
    assert!(beats * 10 >= due * 6 && beats > events + 5, "{beats} of {due}, {events} events");
}

#[tokio::test]
async fn a_node_without_peers_rests_and_wakes_with_the_first() {
    let mut registries = [Registry::default(), Registry::default()];
    let mut peers: Vec<_> = registries.iter_mut().map(counted).collect();
    peers[0].follow("t");
    let _ = tokio::time::timeout(Duration::from_secs(2), peers[0].swarm.next()).await;
    assert!(heartbeats(&registries[0]) <= 2, "{}", heartbeats(&registries[0]));
    peers[1].follow("t");
    star(&mut peers).await;
    eventually(&mut peers, "beats", |_| registries.iter().all(|registry| heartbeats(registry) > 5)).await;
    assert_eq!(peers[0].mesh("t"), 1);
}

#[tokio::test]
async fn a_peer_with_many_topics_is_seen() {
    let mut peers = [Peer::dev(v1::NodeSpec::default()), Peer::dev(v1::NodeSpec::default())];
    for n in 0..150 {
        peers[1].follow(&format!("t{n}"));
    }
    star(&mut peers).await;
    eventually(&mut peers, "150 topics", |peers| (0..150).all(|n| peers[0].followers(&format!("t{n}")) == 1))
        .await;
}

#[tokio::test]
async fn nobody_follows_the_topic_of_publishes_that_reach_nobody() {
    let long = "x".repeat(1025);
    let mut peers = [Peer::dev(v1::NodeSpec::default()), Peer::dev(v1::NodeSpec::default())];
    // The peer is another implementation: it may say that it follows anything.
    let config = gossipsub::ConfigBuilder::default().build().unwrap();
    let author = gossipsub::MessageAuthenticity::Signed(Keypair::generate_ed25519());
    let mut free: gossipsub::Behaviour = gossipsub::Behaviour::new(author, config).unwrap();
    for topic in ["", &long, "t"] {
        free.subscribe(&gossipsub::IdentTopic::new(topic)).unwrap();
    }
    let key = Keypair::generate_ed25519();
    let mut other = libp2p::SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_tcp(Default::default(), libp2p::noise::Config::new, libp2p::yamux::Config::default)
        .unwrap()
        .with_behaviour(|_| free)
        .unwrap()
        .build();
    let addr = listen(&mut peers, 0, "/ip4/127.0.0.1/tcp/0").await;
    other.dial(addr).unwrap();
    let mut work = tokio::task::JoinSet::new();
    work.spawn(async move { while other.next().await.is_some() {} });
    eventually(&mut peers, "it follows", |peers| peers[0].followers("t") == 1).await;
    assert_eq!((peers[0].followers(""), peers[0].followers(&long)), (0, 0));
    assert!(peers[0].gossip().publish(gossipsub::TopicHash::from_raw(""), []).is_err());
}

#[tokio::test]
async fn a_run_of_the_largest_messages_arrives() {
    let mut peers = [Peer::dev(v1::NodeSpec::default()), Peer::dev(v1::NodeSpec::default())];
    let most = config::Node::default().message_bytes_max;
    peers.iter_mut().for_each(|peer| peer.follow("t"));
    star(&mut peers).await;
    eventually(&mut peers, "a mesh", |peers| peers[0].mesh("t") == 1).await;
    for n in 0..12u8 {
        peers[0].gossip().publish(gossipsub::TopicHash::from_raw("t"), vec![n; most]).unwrap();
    }
    eventually(&mut peers, "12 messages", |peers| peers[1].messages().len() == 12).await;
}

#[tokio::test]
async fn what_was_missed_comes_by_gossip_on_a_busy_topic() {
    // Degrees of one: of the two followers the middle peer sends one whole messages, the other only
    // what it asks for after an IHAVE of 600 ids, which is over the crate's bound.
    let mesh = Mesh { d: 1, d_low: 1, d_high: 1, d_lazy: 6 };
    let flood_publish = Some(false);
    let narrow = Gossip { mesh: Some(mesh), flood_publish, scoring: Some(false), ..fast().gossip.unwrap() };
    let mut peers: Vec<_> = (0..3).map(|_| Peer::dev(with(narrow))).collect();
    peers.iter_mut().for_each(|peer| peer.follow("t"));
    star(&mut peers).await;
    eventually(&mut peers, "both follow", |peers| peers[0].followers("t") == 2 && peers[0].mesh("t") == 1)
        .await;
    for n in 0..600u32 {
        peers[0].gossip().publish(gossipsub::TopicHash::from_raw("t"), n.to_be_bytes()).unwrap();
    }
    eventually(&mut peers, "600 messages at both", |peers| {
        peers[1..].iter().all(|peer| peer.messages().len() == 600)
    })
    .await;
}

#[tokio::test]
async fn peers_that_share_an_address_keep_their_score_in_development() {
    let mut peers: Vec<_> = (0..16).map(|_| Peer::dev(fast())).collect();
    peers.iter_mut().for_each(|peer| peer.follow("t"));
    let addr = listen(&mut peers, 0, "/ip4/127.0.0.1/tcp/0").await;
    for peer in &mut peers[1..] {
        peer.swarm.dial(addr.clone()).unwrap();
    }
    eventually(&mut peers, "all follow", |peers| peers[0].followers("t") == 15).await;
    let others: Vec<_> = peers[1..].iter().map(Peer::id).collect();
    // Scores are taken every second; wait for one that counted the time in the mesh.
    eventually(&mut peers, "scores", |peers| {
        let scores: Vec<_> = others.iter().map(|peer| peers[0].gossip().peer_score(peer).unwrap()).collect();
        assert!(scores.iter().all(|score| *score >= 0.0), "{scores:?}");
        scores.iter().any(|score| *score > 0.0)
    })
    .await;
}

#[tokio::test]
async fn invalid_messages_put_a_peer_on_the_graylist() {
    let mut peers = [Peer::dev(v1::NodeSpec::default()), Peer::dev(v1::NodeSpec::default())];
    peers.iter_mut().for_each(|peer| peer.follow("t"));
    star(&mut peers).await;
    eventually(&mut peers, "a mesh", |peers| peers.iter().all(|peer| peer.mesh("t") == 1)).await;
    let sender = peers[0].id();
    for n in 0..3u8 {
        peers[0].gossip().publish(gossipsub::TopicHash::from_raw("t"), [n]).unwrap();
    }
    // This peer judges them before `accept` does.
    let mut judged = 0;
    while judged < 3 {
        let (first, second) = peers.split_at_mut(1);
        let event = tokio::select! {
            event = second[0].swarm.select_next_some() => event,
            _ = first[0].swarm.select_next_some() => continue,
        };
        if let SwarmEvent::Behaviour(BehaviourEvent::Gossip(gossipsub::Event::Message {
            message_id, ..
        })) = event
        {
            let reject = gossipsub::MessageAcceptance::Reject;
            second[0].gossip().report_message_validation_result(&message_id, &sender, reject);
            judged += 1;
        }
    }
    let score = peers[1].gossip().peer_score(&sender).unwrap();
    assert!(score < -80.0, "{score}");
}

#[tokio::test]
async fn waku_has_its_own_protocol_alone() {
    let waku = with(Gossip { preset: Preset::Waku as i32, ..Default::default() });
    let mut peer = Peer::dev(waku);
    let local = "/memory/1".parse::<Multiaddr>().unwrap();
    let id = libp2p::swarm::ConnectionId::new_unchecked(1);
    let other = PeerId::random();
    let handler = peer.gossip().handle_established_inbound_connection(id, other, &local, &local).unwrap();
    let upgrade = format!("{:?}", libp2p::swarm::ConnectionHandler::listen_protocol(&handler).upgrade());
    assert!(upgrade.contains("/vac/waku/relay/2.0.0") && !upgrade.contains("meshsub"), "{upgrade}");
}

#[tokio::test]
async fn impossible_degrees_are_an_error_and_low_ones_are_not() {
    let config = config::Node::default();
    let (key, metrics) = (Keypair::generate_ed25519(), Metrics::default());
    for (mesh, works) in [
        (Mesh { d: 3, ..Default::default() }, true),
        (Mesh { d: 1, ..Default::default() }, true),
        (Mesh { d: 20, ..Default::default() }, true),
        (Mesh { d: 4, d_low: 5, ..Default::default() }, false),
        (Mesh { d: 8, d_high: 7, ..Default::default() }, false),
    ] {
        let spec = with(Gossip { mesh: Some(mesh), ..Default::default() });
        let plan = Plan {
            key: &key,
            spec: &spec,
            blocks: &[],
            config: &config,
            allow_private: true,
            metrics: &metrics,
        };
        assert_eq!(build(&plan).is_ok(), works, "{mesh:?}");
    }
}

#[tokio::test]
async fn messages_pass_and_attackers_fall_when_two_thirds_are_attackers() {
    const HONEST: usize = 8;
    const ATTACKERS: usize = 16;
    const MESSAGES: usize = 5;
    let sign_policy = SignPolicy::StrictNoSign as i32;
    let unsigned = with(Gossip { sign_policy, scoring: Some(false), ..fast().gossip.unwrap() });
    let mut peers: Vec<_> = (0..HONEST).map(|_| Peer::dev(fast())).collect();
    peers.extend((0..ATTACKERS).map(|_| Peer::dev(unsigned.clone())));
    peers.iter_mut().for_each(|peer| peer.follow("t"));
    // A ring of the honest with one chord each; every attacker sits on every honest peer.
    for at in 0..HONEST {
        let addr = listen(&mut peers, at, "/memory/0").await;
        for from in [(at + 1) % HONEST, (at + 3) % HONEST].into_iter().chain(HONEST..HONEST + ATTACKERS) {
            peers[from].swarm.dial(addr.clone()).unwrap();
        }
    }
    eventually(&mut peers, "all know who follows", |peers| {
        let (honest, attackers) = peers.split_at(HONEST);
        honest.iter().all(|peer| peer.followers("t") == ATTACKERS + 4)
            && attackers.iter().all(|peer| peer.followers("t") == HONEST)
    })
    .await;
    let topic = || gossipsub::TopicHash::from_raw("t");
    for n in 0..MESSAGES {
        for (at, peer) in peers.iter_mut().enumerate() {
            peer.gossip().publish(topic(), format!("{at} {n}")).unwrap();
        }
    }
    eventually(&mut peers, "every honest message at every honest peer", |peers| {
        peers[..HONEST].iter().all(|peer| peer.messages().len() == (HONEST - 1) * MESSAGES)
    })
    .await;
    let ids: Vec<_> = peers.iter().map(Peer::id).collect();
    eventually(&mut peers, "attackers are on the graylist", |peers| {
        let score = |at: usize, of: &PeerId| {
            peers[at].swarm.behaviour().gossip.as_ref().unwrap().peer_score(of).unwrap()
        };
        (0..HONEST).all(|at| ids[HONEST..].iter().all(|attacker| score(at, attacker) < -80.0))
    })
    .await;
    for at in 0..HONEST {
        let friend = &ids[(at + 1) % HONEST];
        assert!(peers[at].gossip().peer_score(friend).unwrap() >= 0.0);
    }
}
