//! Real swarms, over the memory transport and loopback, asked as callers ask.

use super::*;
use crate::{Metrics, swarm};
use futures::{FutureExt, StreamExt, future::select_all};
use libp2p::core::{PeerRecord, SignedEnvelope};
use plexus_proto::{
    text,
    v1::{connection::Direction, peer::State, ping_response::Event as Ping},
};
use std::time::Instant;
use uuid::Uuid;

struct Node {
    swarm: Swarm<Behaviour>,
    peers: Peers,
    ready: Vec<Ready>,
}

impl Node {
    fn new(record: NodeRecord, private: bool) -> Self {
        let key = Keypair::generate_ed25519();
        let spec = record.node.as_ref().and_then(|node| node.spec.clone()).unwrap_or_default();
        let (metrics, config) = (Metrics::default(), config::Node::default());
        let plan = swarm::Plan {
            key: &key,
            spec: &spec,
            blocks: &record.blocks,
            config: &config,
            allow_private: private,
            metrics: &metrics,
        };
        let (swarm, _) = swarm::build(&plan).unwrap();
        let peers = Peers::new(&config, &record, &[], key);
        Self { swarm, peers, ready: Vec::new() }
    }

    fn id(&self) -> String {
        text::peer_id_to_text(&self.swarm.local_peer_id().to_bytes())
    }

    fn ask(&mut self, ask: Ask) -> Option<Result<Payload, Refusal>> {
        let (now, wall) = (Moment::now(), SystemTime::now());
        self.peers.ask(&mut self.swarm, Uuid::nil(), ask, None, now, wall)
    }

    /// The answer to a question that is answered at once.
    fn told<M: prost::Message + Default + Clone + 'static>(&mut self, ask: Ask) -> M {
        self.ask(ask).unwrap().unwrap().take::<M>().unwrap()
    }

    fn refused(&mut self, ask: Ask) -> v1::Error {
        *self.ask(ask).unwrap().unwrap_err()
    }

    fn list(&mut self, request: v1::ListPeersRequest) -> Vec<v1::Peer> {
        self.told::<v1::ListPeersResponse>(Ask::List(request)).peers
    }
}

fn spec(spec: v1::NodeSpec) -> NodeRecord {
    NodeRecord { node: Some(v1::Node { spec: Some(spec), ..Default::default() }), ..Default::default() }
}

fn nodes(count: usize) -> Vec<Node> {
    (0..count).map(|_| Node::new(NodeRecord::default(), true)).collect()
}

async fn eventually(nodes: &mut [Node], what: &str, mut holds: impl FnMut(&mut [Node]) -> bool) {
    let begin = Instant::now();
    while !holds(nodes) {
        assert!(begin.elapsed() < Duration::from_secs(30), "never happened: {what}");
        let next = select_all(nodes.iter_mut().map(|node| node.swarm.select_next_some()));
        if let Ok((event, from, _)) = tokio::time::timeout(Duration::from_millis(20), next).await {
            let mut event = Some(event);
            while let Some(one) = event {
                let Node { swarm, peers, .. } = &mut nodes[from];
                peers.on_swarm_event(swarm, &one, Moment::now(), SystemTime::now());
                event = nodes[from].swarm.next().now_or_never().flatten();
            }
        }
        for node in nodes.iter_mut() {
            node.peers.tick(&mut node.swarm, Moment::now());
            node.ready.extend(node.peers.take_ready());
        }
    }
}

/// Waits for the end of the first node's call.
async fn end(nodes: &mut [Node]) -> Result<Payload, Refusal> {
    let is_end = |ready: &Ready| matches!(ready, Ready::End(..));
    eventually(nodes, "an answer", |nodes| nodes[0].ready.iter().any(is_end)).await;
    let at = nodes[0].ready.iter().position(is_end).unwrap();
    match nodes[0].ready.remove(at) {
        Ready::End(_, answer) => answer,
        Ready::Pong(..) => unreachable!(),
    }
}

async fn listen(nodes: &mut [Node], at: usize) -> String {
    nodes[at].swarm.listen_on("/memory/0".parse().unwrap()).unwrap();
    eventually(nodes, "an address", |nodes| nodes[at].swarm.listeners().count() > 0).await;
    nodes[at].swarm.listeners().next().unwrap().to_string()
}

fn connect(peer: &str, addresses: &[String]) -> Ask {
    Ask::Connect(v1::ConnectRequest {
        peer: peer.into(),
        addresses: addresses.to_vec(),
        ..Default::default()
    })
}

/// Connects the first node to all others.
async fn star(nodes: &mut [Node]) {
    for at in 1..nodes.len() {
        let (peer, address) = (nodes[at].id(), listen(nodes, at).await);
        assert!(nodes[0].ask(connect(&peer, &[address])).is_none());
        let shown = end(nodes).await.unwrap().take::<v1::Peer>().unwrap();
        assert_eq!((shown.peer.as_str(), shown.state()), (peer.as_str(), State::Connected));
    }
}

#[tokio::test]
async fn connecting_answers_the_peer_and_once_more_is_success() {
    let mut nodes = nodes(2);
    star(&mut nodes).await;
    let peer = nodes[1].id();
    let shown: v1::Peer = nodes[0].told(connect(&peer, &[]));
    assert_eq!((shown.connections.len(), shown.connections[0].direction()), (1, Direction::Outgoing));
    let force = v1::ConnectRequest { peer: peer.clone(), force_new: true, ..Default::default() };
    assert!(nodes[0].ask(Ask::Connect(force)).is_none());
    assert_eq!(end(&mut nodes).await.unwrap().take::<v1::Peer>().unwrap().connections.len(), 2);
    let closed: v1::DisconnectResponse =
        nodes[0].told(Ask::Disconnect(v1::DisconnectRequest { peer, ..Default::default() }));
    assert_eq!(closed.closed, 2);
    eventually(&mut nodes, "disconnected", |nodes| nodes[0].swarm.connected_peers().count() == 0).await;
    assert!(nodes[0].list(Default::default()).is_empty());
    assert_eq!(
        nodes[0].list(v1::ListPeersRequest { state: State::Known.into(), ..Default::default() }).len(),
        1
    );
}

#[tokio::test]
async fn what_may_not_be_dialled_is_told_before_anything_is_dialled() {
    let blocked = Node::new(NodeRecord::default(), true).id();
    let blocks = vec![v1::BlockEntry { entry: blocked.clone(), ..Default::default() }];
    let mut node = Node::new(NodeRecord { blocks, ..Default::default() }, false);
    let other = Node::new(NodeRecord::default(), true).id();
    let error = node.refused(connect(&other, &["/ip4/127.0.0.1/tcp/4001".into()]));
    assert!(error.is(Reason::AddressNotAllowed));
    assert_eq!(error.metadata["rule"], "loopback");
    let error = node.refused(connect(&blocked, &["/ip4/8.8.8.8/tcp/4001".into()]));
    assert!(error.is(Reason::PeerBlocked), "{error:?}");
    let listed: v1::ListBlocksResponse = node.told(Ask::Blocks(Default::default()));
    assert_eq!((listed.blocks.len(), listed.blocks[0].hits), (1, 1));
    assert!(node.refused(connect(&other, &[])).is(Reason::PeerNotFound));
    assert!(node.refused(connect("nobody", &[])).is(Reason::BadPeerId));
    assert!(node.refused(connect(&other, &["nowhere".into()])).is(Reason::BadMultiaddr));
    assert!(
        node.refused(connect(&other, &vec!["/ip4/8.8.8.8/tcp/4001".into(); 17])).is(Reason::FieldInvalid)
    );
    let own = node.id();
    assert!(node.refused(connect(&own, &[])).is(Reason::FieldInvalid));
}

#[tokio::test]
async fn every_failed_dial_looks_the_same() {
    let mut nodes = nodes(2);
    let (stranger, address) = (Node::new(NodeRecord::default(), true).id(), listen(&mut nodes, 1).await);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut told = Vec::new();
    for address in [address, format!("/ip4/127.0.0.1/tcp/{closed}")] {
        assert!(nodes[0].ask(connect(&stranger, &[address])).is_none());
        told.push(*end(&mut nodes).await.unwrap_err());
    }
    assert!(told[0].is(Reason::PeerUnreachable));
    assert_eq!(told[0], told[1]);
}

#[tokio::test]
async fn a_node_dials_no_more_than_so_often_a_second() {
    let mut nodes = nodes(1);
    let (stranger, closed) = (Node::new(NodeRecord::default(), true).id(), "/memory/77777".to_owned());
    let now = Moment::now();
    let mut refused = Vec::new();
    for _ in 0..11 {
        let Node { swarm, peers, .. } = &mut nodes[0];
        let answer = peers.ask(
            swarm,
            Uuid::nil(),
            connect(&stranger, std::slice::from_ref(&closed)),
            None,
            now,
            SystemTime::now(),
        );
        refused.extend(answer.map(Result::unwrap_err));
    }
    assert_eq!(refused.len(), 1);
    assert!(refused[0].is(Reason::DialRateLimited) && refused[0].retry_after.is_some());
}

#[tokio::test]
async fn each_ping_that_is_asked_for_is_measured() {
    let mut nodes = nodes(2);
    star(&mut nodes).await;
    let interval = Some(Duration::from_millis(150).try_into().unwrap());
    let request = v1::PingRequest { peer: nodes[1].id(), count: 4, interval, ..Default::default() };
    let begin = Instant::now();
    assert!(nodes[0].ask(Ask::Ping(request)).is_none());
    end(&mut nodes).await.unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(450), "one after the other, at the interval");
    let events: Vec<Ping> = nodes[0]
        .ready
        .drain(..)
        .filter_map(|ready| if let Ready::Pong(_, response) = ready { response.event } else { None })
        .collect();
    let pongs: Vec<_> =
        events.iter().filter_map(|e| if let Ping::Pong(pong) = e { Some(pong) } else { None }).collect();
    assert_eq!(pongs.iter().map(|pong| pong.seq).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert!(pongs.iter().all(|pong| pong.rtt.is_some()), "{pongs:?}");
    let Some(Ping::Summary(summary)) = events.last() else { panic!("no summary: {events:?}") };
    assert_eq!((summary.sent, summary.received), (4, 4));
    assert!(summary.min.is_some() && summary.max.is_some());
    let shown = &nodes[0].list(Default::default())[0];
    assert!(shown.latency.is_some());
}

#[tokio::test]
async fn a_peer_that_goes_away_ends_pings_with_a_reason_and_a_summary() {
    let mut nodes = nodes(2);
    star(&mut nodes).await;
    let interval = Some(Duration::from_millis(100).try_into().unwrap());
    let request = v1::PingRequest { peer: nodes[1].id(), count: 6, interval, ..Default::default() };
    assert!(nodes[0].ask(Ask::Ping(request)).is_none());
    eventually(&mut nodes, "a pong", |nodes| !nodes[0].ready.is_empty()).await;
    nodes.truncate(1);
    end(&mut nodes).await.unwrap();
    let lost = |ready: &Ready| matches!(ready, Ready::Pong(_, r) if matches!(&r.event, Some(Ping::Pong(p)) if p.reason == "PEER_UNREACHABLE"));
    assert!(nodes[0].ready.iter().any(lost));
    let Some(Ready::Pong(_, last)) = nodes[0].ready.last() else { panic!() };
    assert!(matches!(last.event, Some(Ping::Summary(s)) if s.sent == 6 && s.received < 6));
}

#[tokio::test]
async fn a_peer_says_who_it_is_when_it_is_asked() {
    let agent = v1::NodeSpec { agent_version: "other/7".into(), ..Default::default() };
    let mut nodes = vec![Node::new(NodeRecord::default(), true), Node::new(spec(agent), true)];
    let (peer, address) = (nodes[1].id(), listen(&mut nodes, 1).await);
    let unknown = v1::GetPeerRequest { peer: peer.clone(), ..Default::default() };
    assert!(nodes[0].refused(Ask::Get(unknown)).is(Reason::PeerNotFound));
    let id = *nodes[1].swarm.local_peer_id();
    nodes[0].peers.book.entry(id, Moment::now()).learn(address.parse().unwrap());
    let now = v1::GetPeerRequest {
        peer,
        identify: v1::get_peer_request::Identify::Now.into(),
        ..Default::default()
    };
    assert!(nodes[0].ask(Ask::Get(now)).is_none(), "it connects by itself");
    let shown = end(&mut nodes).await.unwrap().take::<v1::Peer>().unwrap();
    assert_eq!(shown.agent_version, "other/7");
    assert!(
        shown.identified_at.is_some() && shown.protocols.iter().any(|p| p == "/ipfs/ping/1.0.0"),
        "{shown:?}"
    );
    assert!(!shown.public_key.is_empty());
}

#[tokio::test]
async fn lists_are_filtered_and_paged_and_counted() {
    let mut nodes = nodes(4);
    star(&mut nodes).await;
    eventually(&mut nodes, "all identified", |nodes| {
        nodes[0].list(Default::default()).iter().all(|peer| peer.agent_version.starts_with("plexus/"))
    })
    .await;
    let (mut seen, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListPeersRequest { page_size: 2, page_token, ..Default::default() };
        let page: v1::ListPeersResponse = nodes[0].told(Ask::List(request));
        seen.extend(page.peers.into_iter().map(|peer| peer.peer));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    seen.sort();
    let mut ids: Vec<String> = nodes[1..].iter().map(Node::id).collect();
    ids.sort();
    assert_eq!(seen, ids);
    let with = |request: v1::ListPeersRequest, nodes: &mut [Node]| nodes[0].list(request).len();
    let filters = [
        (v1::ListPeersRequest { protocol: "/ipfs/ping/1.0.0".into(), ..Default::default() }, 3),
        (v1::ListPeersRequest { protocol: "/none".into(), ..Default::default() }, 0),
        (v1::ListPeersRequest { agent_prefix: "plexus".into(), ..Default::default() }, 3),
        (v1::ListPeersRequest { agent_prefix: "kubo".into(), ..Default::default() }, 0),
        (v1::ListPeersRequest { direction: Direction::Incoming.into(), ..Default::default() }, 0),
        (v1::ListPeersRequest { direction: Direction::Outgoing.into(), ..Default::default() }, 3),
        (v1::ListPeersRequest { topic: "nobody".into(), ..Default::default() }, 0),
        (v1::ListPeersRequest { pinned: Some(true), ..Default::default() }, 0),
        (v1::ListPeersRequest { state: State::Connecting.into(), ..Default::default() }, 0),
    ];
    for (request, count) in filters {
        assert_eq!(with(request.clone(), &mut nodes), count, "{request:?}");
    }
    let counts: v1::CountPeersResponse = nodes[0].told(Ask::Count);
    let all = counts.counts.unwrap();
    assert_eq!((all.connected, all.outgoing, all.incoming), (3, 3, 0));
    assert_eq!((counts.by_agent["plexus"], counts.by_transport["memory"]), (3, 3));
    assert!(nodes[0].list(Default::default()).iter().all(|peer| peer.addresses.is_empty()));
}

#[tokio::test]
async fn a_node_tells_its_id_in_every_form_and_signs_its_addresses() {
    let mut nodes = nodes(1);
    listen(&mut nodes, 0).await;
    let told: v1::Identity = nodes[0].told(Ask::Identity);
    let id = nodes[0].swarm.local_peer_id().to_bytes();
    for form in [&told.peer_id, &told.peer_id_cid, &told.peer_id_base36] {
        assert_eq!(text::peer_id_from_text(form).unwrap(), id, "{form}");
    }
    assert!(told.peer_id_cid.starts_with("bafz") && told.peer_id_base36.starts_with("k51"));
    let envelope = SignedEnvelope::from_protobuf_encoding(&told.signed_peer_record).unwrap();
    let record = PeerRecord::from_signed_envelope_interop(envelope).unwrap();
    assert_eq!(record.peer_id().to_bytes(), id);
    assert_eq!(record.addresses().len(), told.listen_addresses.len());
    assert!(told.protocols.iter().any(|protocol| protocol == "/meshsub/1.1.0"));
}

#[tokio::test]
async fn a_node_that_is_alone_comes_back_to_its_bootstrap_peers_and_tells_how_they_fare() {
    let mut other = vec![Node::new(NodeRecord::default(), true)];
    let address = listen(&mut other, 0).await;
    let good = format!("{address}/p2p/{}", other[0].id());
    let bad = format!("/memory/88888/p2p/{}", Node::new(NodeRecord::default(), true).id());
    let mut nodes = vec![Node::new(NodeRecord::default(), true)];
    nodes.append(&mut other);
    let bootstrap = vec![good, bad];
    let record = spec(v1::NodeSpec { bootstrap, ..Default::default() });
    let Node { swarm, peers, .. } = &mut nodes[0];
    peers.set_record(&record, Some(swarm));
    eventually(&mut nodes, "one connected and one failed", |nodes| {
        let list: v1::BootstrapList = nodes[0].told(Ask::Bootstrap);
        list.entries[0].connected
            && list.entries[0].last_success_at.is_some()
            && list.entries[1].last_error == "no answer"
    })
    .await;
    let peer = *nodes[1].swarm.local_peer_id();
    nodes[0].swarm.disconnect_peer_id(peer).unwrap();
    eventually(&mut nodes, "alone", |nodes| nodes[0].swarm.connected_peers().count() == 0).await;
    let Node { swarm, peers, .. } = &mut nodes[0];
    for later in [0, 6] {
        peers.tick(swarm, Moment::now().after(Duration::from_secs(later)));
    }
    eventually(&mut nodes, "connected again", |nodes| nodes[0].swarm.is_connected(&peer)).await;
}
