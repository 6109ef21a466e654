//! Nodes over the embedded bus and, where they meet, over the memory transport.

use super::{Ended, Note, Start, Store, event_loop::EventLoop};
use crate::{
    Config, Metrics,
    clock::Moment,
    tests::{
        ground::{self, Caller, PATIENCE, bus},
        honeypot::Honeypot,
    },
};
use bytes::Bytes;
use libp2p::identity::Keypair;
use plexus_bus::{
    Bus, CallId, Claim, Event, Grant, Key, NodeName, Outcome, Payload, Position, Range, Subject, Taken,
    Topic, When,
};
use plexus_proto::{
    bus::{Interest, Joined, LogEntry, NodeRecord, NodeState},
    reason::Reason,
    v1::{self, node_spec::PinnedTopic, receipt::Level},
};
use prost::Message;
use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// A node that runs.
struct Running {
    bus: Bus,
    name: NodeName,
    grant: Grant,
    stop: CancellationToken,
    deadline: watch::Sender<Moment>,
    changed: watch::Sender<u64>,
    notes: mpsc::Receiver<(NodeName, Note)>,
    task: JoinSet<Ended>,
    store: watch::Sender<Option<Store>>,
}

fn key(seed: u8) -> Keypair {
    Keypair::ed25519_from_bytes([seed; 32]).unwrap()
}

fn record(id: &str, spec: v1::NodeSpec) -> NodeRecord {
    let node = v1::Node { id: id.into(), spec: Some(spec), ..Default::default() };
    NodeRecord { node: Some(node), ..Default::default() }
}

fn pins(topics: &[&str]) -> v1::NodeSpec {
    let topics = topics.iter().map(|topic| PinnedTopic { topic: (*topic).into(), policy: None });
    v1::NodeSpec { topics: topics.collect(), ..Default::default() }
}

/// Takes the node for a new worker, whoever had it.
async fn take(bus: &Bus, name: &NodeName) -> (plexus_bus::Incarnation, Grant) {
    let worker = crate::incarnation("w");
    bus.renew(&worker, true).await.unwrap();
    if let Some(owner) = bus.owner(name).await.unwrap()
        && let Some(former) = owner.worker
    {
        bus.release(&former, &[(name.clone(), owner.grant.epoch)]).await.unwrap();
    }
    let nonce = rand::random();
    let claim = Claim { node: name.clone(), floor: 0, from: None };
    match bus.take(&worker, nonce, &[claim]).await.unwrap() {
        Taken::Epochs(epochs) => (worker, Grant { epoch: epochs[0].unwrap(), nonce }),
        Taken::Lost => panic!("the lease is gone"),
    }
}

async fn start(bus: &Bus, id: &str, seed: u8, spec: v1::NodeSpec) -> Running {
    start_on(&Worker::development(), bus, id, seed, spec).await
}

/// What nodes of one worker share.
struct Worker {
    config: Arc<Config>,
    metrics: Metrics,
}

impl Worker {
    fn new(config: Config) -> Self {
        Self { config: Arc::new(config), metrics: Metrics::default() }
    }

    fn development() -> Self {
        Self::new(Config { allow_private_addresses: true, ..Default::default() })
    }
}

async fn start_on(on: &Worker, bus: &Bus, id: &str, seed: u8, spec: v1::NodeSpec) -> Running {
    let name = ground::name(id);
    let key = key(seed);
    bus.enlist(&name, &key.public().to_peer_id().to_bytes()).await.unwrap();
    let (kept, state) = bus.get_state(&name).await.unwrap();
    if kept.is_none() {
        let bytes = record(id, spec).encode_to_vec().into();
        bus.put(Key::Record(name.clone()), bytes, When::Absent, None).await.unwrap();
    }
    let kept = bus.get(Key::Record(name.clone())).await.unwrap().unwrap();
    let (worker, grant) = take(bus, &name).await;
    let (deadline, deadline_rx) = watch::channel(Moment::now().after(Duration::from_secs(3600)));
    let (store, store_rx) = watch::channel(None);
    let (changed, changed_rx) = watch::channel(kept.revision);
    let (notes_tx, notes) = mpsc::channel(16);
    let node = EventLoop::new(Start {
        name: name.clone(),
        worker,
        grant,
        record: NodeRecord::decode(kept.data).unwrap(),
        revision: kept.revision,
        state: state.map(|state| NodeState::decode(state).unwrap()).unwrap_or_default(),
        key,
        deadline: deadline_rx,
        store: store_rx,
        changed: changed_rx,
        bus: bus.clone(),
        config: on.config.clone(),
        metrics: on.metrics.clone(),
        pulse: crate::Pulse::default(),
        notes: notes_tx,
    });
    let stop = CancellationToken::new();
    let mut task = JoinSet::new();
    task.spawn(node.run(stop.clone()));
    let mut running = Running { bus: bus.clone(), name, grant, stop, deadline, changed, notes, task, store };
    running.heard(Note::Running).await;
    running
}

impl Running {
    async fn heard(&mut self, wanted: Note) {
        let heard = async {
            while let Some((_, note)) = self.notes.recv().await {
                if note == wanted {
                    return;
                }
            }
            panic!("the node ended: {:?}", self.task.join_next().await);
        };
        tokio::time::timeout(PATIENCE, heard).await.unwrap();
    }

    async fn ended(mut self) -> Ended {
        tokio::time::timeout(PATIENCE, self.task.join_next()).await.unwrap().unwrap().unwrap()
    }

    async fn stopped(self) -> Ended {
        self.stop.cancel();
        self.ended().await
    }

    async fn outcome(&self, id: CallId, method: &str, payload: Payload) -> Outcome {
        Caller::new(&self.bus).await.call(id, method, Some(&self.name), payload).await
    }

    async fn call<A: plexus_bus::Frame>(&self, method: &str, payload: Payload) -> Result<A, Box<v1::Error>> {
        let outcome = self.outcome(CallId::new_v4(), method, payload).await;
        outcome.result.map(|payload| payload.take().unwrap())
    }

    async fn publish(&self, request: v1::PublishRequest) -> Result<v1::Receipt, Box<v1::Error>> {
        self.call("plexus.v1.TopicService/Publish", Payload::of(request)).await
    }

    async fn topic(&self, topic: &str) -> Result<v1::Topic, Box<v1::Error>> {
        let request = v1::GetTopicRequest { topic: topic.into(), ..Default::default() };
        self.call("plexus.v1.TopicService/GetTopic", Payload::of(request)).await
    }

    async fn join(&self, topic: &'static str) -> Joined {
        let interest = Interest {
            topic: Bytes::from_static(topic.as_bytes()),
            gateway: "g".into(),
            readers: 1,
            ..Default::default()
        };
        self.call("plexus.bus.v1.Owner/Join", Payload::of(interest)).await.unwrap()
    }

    /// Payloads in the log, in order.
    async fn logged(&self, topic: &'static str) -> Vec<String> {
        let range = Range { from: Position::ZERO, until: None, limit: 1000, newest_first: false };
        let entries = self.bus.read(&self.name, &Topic::from_static(topic.as_bytes()), range).await.unwrap();
        let messages =
            entries.iter().flat_map(|entry| entry.entry.open::<LogEntry>().unwrap().messages.clone());
        messages.map(|message| String::from_utf8(message.data.to_vec()).unwrap()).collect()
    }

    async fn change(&self, change: impl FnOnce(&mut NodeRecord)) -> u64 {
        let key = Key::Record(self.name.clone());
        let value = self.bus.get(key.clone()).await.unwrap().unwrap();
        let mut record = NodeRecord::decode(value.data).unwrap();
        change(&mut record);
        let bytes = record.encode_to_vec().into();
        self.bus.put(key, bytes, When::Revision(value.revision), None).await.unwrap().unwrap()
    }
}

/// Asks until it holds.
async fn eventually<F: Future<Output = bool>>(holds: impl FnMut() -> F) {
    ground::eventually("what this test waits for", holds).await;
}

fn message(topic: &str, text: &str) -> v1::PublishRequest {
    v1::PublishRequest {
        topic: topic.into(),
        payload: Some(v1::publish_request::Payload::Text(text.into())),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_receipt_names_the_place_in_the_log() {
    let bus = bus().await;
    let node = start(&bus, "a", 1, pins(&[])).await;
    for n in 1..=3u64 {
        let receipt = node.publish(message("demo", &format!("m{n}"))).await.unwrap();
        assert_eq!(receipt.position, Position::new(node.grant.epoch, n).to_string());
        assert_eq!((receipt.level(), receipt.peers, receipt.duplicate), (Level::Logged, 0, false));
    }
    assert_eq!(node.logged("demo").await, ["m1", "m2", "m3"]);
    let topic = node.topic("demo").await.unwrap();
    assert_eq!(topic.position, Position::new(node.grant.epoch, 3).to_string());
    assert_eq!(topic.retained_messages, 3);
    assert_eq!(topic.retained.unwrap().after, Position::new(node.grant.epoch, 0).to_string());
    assert!(node.topic("other").await.unwrap_err().is(Reason::TopicNotFound));
    assert_eq!(node.stopped().await, Ended::Stopped);
}

#[tokio::test]
async fn a_joined_topic_tells_its_readers_live() {
    let bus = bus().await;
    let node = start(&bus, "a", 1, pins(&[])).await;
    let topic = Topic::from_static(b"demo");
    let mut live = bus.subscribe(Subject::Topic(node.name.clone(), topic)).await.unwrap();
    let joined = node.join("demo").await;
    assert_eq!((joined.error, joined.epoch), (None, node.grant.epoch));
    assert_eq!(joined.position, Position::new(node.grant.epoch, 0).to_string());
    node.publish(message("demo", "hello")).await.unwrap();
    let told = async {
        loop {
            let Some(Event::Frame(frame)) = live.recv().await else { panic!("closed") };
            let entry = frame.open::<LogEntry>().unwrap();
            if let Some(message) = entry.messages.first() {
                return message.data.clone();
            }
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, told).await.unwrap(), "hello");
    let topic = node.topic("demo").await.unwrap();
    assert_eq!((topic.joined, topic.readers, topic.pinned), (true, 1, false));
}

#[tokio::test]
async fn two_nodes_hear_each_other() {
    let bus = bus().await;
    let port: u64 = rand::random();
    let listening = v1::NodeSpec { listen_addresses: vec![format!("/memory/{port}")], ..pins(&["demo"]) };
    let a = start(&bus, "a", 1, listening).await;
    let address = format!("/memory/{port}/p2p/{}", key(1).public().to_peer_id());
    let b = start(&bus, "b", 2, v1::NodeSpec { bootstrap: vec![address], ..pins(&["demo"]) }).await;
    let request = v1::PublishRequest {
        min_peers: 1,
        timeout: Some(prost_types::Duration { seconds: 20, nanos: 0 }),
        ..message("demo", "from b")
    };
    let receipt = b.publish(request).await.unwrap();
    assert_eq!(receipt.peers, 1);
    eventually(|| async { a.logged("demo").await == ["from b"] }).await;
    assert_eq!(b.logged("demo").await, ["from b"]);
    eventually(|| async { a.topic("demo").await.unwrap().mesh_peers == 1 }).await;
    a.publish(message("demo", "from a")).await.unwrap();
    eventually(|| async { b.logged("demo").await == ["from b", "from a"] }).await;
    assert_eq!(a.logged("demo").await, ["from b", "from a"], "an own message is logged once");
}

#[tokio::test]
async fn libp2ps_own_metrics_of_all_nodes_are_in_one_scrape_and_name_none_of_them() {
    let (bus, worker) = (bus().await, Worker::development());
    let mut registry = prometheus_client::registry::Registry::default();
    worker.metrics.register(&mut registry);
    let scrape = || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    };
    let port: u64 = rand::random();
    let listening = v1::NodeSpec { listen_addresses: vec![format!("/memory/{port}")], ..pins(&["wonder"]) };
    let a = start_on(&worker, &bus, "alice", 1, listening).await;
    let address = format!("/memory/{port}/p2p/{}", key(1).public().to_peer_id());
    let dialling = v1::NodeSpec { bootstrap: vec![address], ..pins(&["wonder"]) };
    let b = start_on(&worker, &bus, "bertha", 2, dialling).await;
    let request = v1::PublishRequest {
        min_peers: 1,
        timeout: Some(prost_types::Duration { seconds: 20, nanos: 0 }),
        ..message("wonder", "from b")
    };
    b.publish(request).await.unwrap();
    for line in [
        r#"libp2p_swarm_connections_established_total{role="Dialer",protocols="/memory"} 1"#,
        r#"libp2p_swarm_connections_established_total{role="Listener",protocols="/memory"} 1"#,
        "libp2p_gossipsub_messages_total 1",
        "libp2p_identify_received_total 2",
        r#"libp2p_identify_remote_protocols{protocol="/ipfs/ping/1.0.0"} 2"#,
        "libp2p_ping_rtt_seconds_count 2",
    ] {
        eventually(|| async { scrape().contains(line) }).await;
    }
    let names = [1, 2].map(|seed| key(seed).public().to_peer_id().to_string());
    for name in ["alice", "bertha", "wonder", &port.to_string(), &names[0], &names[1]] {
        assert!(!scrape().contains(name), "{name}");
    }
    drop((a, b));
    let gone = r#"libp2p_identify_remote_protocols{protocol="/ipfs/ping/1.0.0"}"#;
    eventually(|| async { !scrape().contains(gone) }).await;
}

#[tokio::test]
async fn what_nodes_keep_to_append_again_counts_for_their_worker_until_it_is_let_go() {
    let (bus, worker) = (bus().await, Worker::development());
    let metrics = &worker.metrics;
    let node = start_on(&worker, &bus, "a", 1, pins(&["demo"])).await;
    node.publish(message("demo", "four")).await.unwrap();
    eventually(|| async { metrics.ring_bytes.get() == 4 }).await;
    node.store.send(Some(Store { era: "e".into(), replicated: false })).unwrap();
    eventually(|| async { metrics.ring_bytes.get() == 0 }).await;
    node.publish(message("demo", "four")).await.unwrap();
    eventually(|| async { metrics.ring_bytes.get() == 4 }).await;
    assert_eq!(node.stopped().await, Ended::Stopped);
    assert_eq!(metrics.ring_bytes.get(), 0);
}

/// A node whose spec names the addresses as those of bootstrap peers, each with another peer.
async fn bootstrap(on: &Worker, addresses: &[libp2p::Multiaddr]) -> Running {
    let with_peer = |(i, address): (usize, &libp2p::Multiaddr)| {
        let seed = u8::try_from(100 + i).unwrap();
        format!("{address}/p2p/{}", key(seed).public().to_peer_id())
    };
    let bootstrap = addresses.iter().enumerate().map(with_peer).collect();
    let spec = v1::NodeSpec { bootstrap, ..Default::default() };
    start_on(on, &bus().await, "a", 1, spec).await
}

#[tokio::test]
async fn bootstrap_addresses_of_a_fleet_node_go_through_the_guard() {
    let (honeypot, fleet) = (Honeypot::new().await, Worker::new(Config::default()));
    let addresses = honeypot.addresses();
    let _node = bootstrap(&fleet, &addresses).await;
    let refused = || fleet.metrics.dials_refused.get();
    eventually(|| async { refused() >= addresses.len() as u64 }).await;
    assert_eq!(honeypot.hits(), 0);
}

#[tokio::test]
async fn bootstrap_addresses_are_dialled_in_development_so_the_listeners_do_count() {
    let (honeypot, development) = (Honeypot::new().await, Worker::development());
    let addresses: Vec<_> =
        honeypot.addresses().into_iter().filter(|a| !a.to_string().contains("8.8.8.8")).collect();
    let _node = bootstrap(&development, &addresses).await;
    eventually(|| async { honeypot.hits() >= 8 }).await;
}

/// Ids and sequence numbers in the log, by payload.
async fn ids(node: &Running, topic: &'static str) -> BTreeMap<Bytes, (Bytes, Option<u64>)> {
    let range = Range { from: Position::ZERO, until: None, limit: 1000, newest_first: false };
    let entries = node.bus.read(&node.name, &Topic::from_static(topic.as_bytes()), range).await.unwrap();
    let messages = entries.iter().flat_map(|entry| entry.entry.open::<LogEntry>().unwrap().messages.clone());
    messages.map(|message| (message.data, (message.id, message.seqno))).collect()
}

#[tokio::test]
async fn the_log_knows_the_ids_under_which_messages_travel() {
    let topics = ["one", "two", "three"];
    let bus = bus().await;
    let port: u64 = rand::random();
    let listening = v1::NodeSpec { listen_addresses: vec![format!("/memory/{port}")], ..pins(&topics) };
    let a = start(&bus, "a", 1, listening).await;
    let address = format!("/memory/{port}/p2p/{}", key(1).public().to_peer_id());
    let spec = v1::NodeSpec { bootstrap: vec![address], ..pins(&topics) };
    let b = start(&bus, "b", 2, spec.clone()).await;
    let publish = |n: usize, round: &str| {
        b.publish(v1::PublishRequest {
            min_peers: 1,
            timeout: Some(prost_types::Duration { seconds: 20, nanos: 0 }),
            ..message(topics[n % 3], &format!("{round} {n}"))
        })
    };
    let all = |round: &'static str| futures::future::join_all((0..300).map(move |n| publish(n, round)));
    assert!(all("first").await.iter().all(Result::is_ok));
    // Another swarm counts from another number.
    let spec = v1::NodeSpec { agent_version: "me".into(), ..spec };
    let revision = b.change(|record| record.node.as_mut().unwrap().spec = Some(spec)).await;
    let refresh = Payload::encoded(revision.to_be_bytes().to_vec());
    assert!(b.outcome(CallId::new_v4(), "plexus.bus.v1.Owner/Refresh", refresh).await.result.is_ok());
    assert!(all("second").await.iter().all(Result::is_ok));
    for topic in topics {
        eventually(|| async { ids(&a, topic).await.len() == 200 }).await;
        assert_eq!(ids(&a, topic).await, ids(&b, topic).await);
    }
}

#[tokio::test]
async fn positions_and_keys_outlive_the_owner() {
    let bus = bus().await;
    let keyed = || v1::PublishRequest { request_id: "once".into(), ..message("demo", "precious") };
    let node = start(&bus, "a", 1, pins(&["demo"])).await;
    let first = node.publish(keyed()).await.unwrap();
    let again = node.publish(keyed()).await.unwrap();
    assert_eq!((&again.position, again.duplicate), (&first.position, true));
    let other = v1::PublishRequest { request_id: "once".into(), ..message("demo", "else") };
    assert!(node.publish(other).await.unwrap_err().is(Reason::RequestIdReused));
    assert_eq!(node.stopped().await, Ended::Stopped);

    let node = start(&bus, "a", 1, pins(&["demo"])).await;
    let again = node.publish(keyed()).await.unwrap();
    assert_eq!((&again.position, &again.id, again.duplicate), (&first.position, &first.id, true));
    let next = node.publish(message("demo", "next")).await.unwrap();
    assert_eq!(next.position, Position::new(node.grant.epoch, 1).to_string());
    assert_eq!(node.logged("demo").await, ["precious", "next"]);
    assert_eq!(node.topic("demo").await.unwrap().retained_messages, 2);
}

#[tokio::test]
async fn a_call_sent_twice_is_done_once() {
    let bus = bus().await;
    let node = start(&bus, "a", 1, pins(&[])).await;
    let id = CallId::new_v4();
    let publish = || Payload::of(message("demo", "x"));
    let first = node.outcome(id, "plexus.v1.TopicService/Publish", publish()).await;
    let second = node.outcome(id, "plexus.v1.TopicService/Publish", publish()).await;
    assert!(!first.from_window && second.from_window);
    assert_eq!(node.logged("demo").await, ["x"]);
}

#[tokio::test]
async fn a_producers_older_number_is_refused() {
    let bus = bus().await;
    let node = start(&bus, "a", 1, pins(&[])).await;
    let numbered = |seq, text| v1::PublishRequest {
        producer: "p".into(),
        producer_seq: Some(seq),
        ..message("demo", text)
    };
    let five = node.publish(numbered(5, "five")).await.unwrap();
    assert!(node.publish(numbered(4, "four")).await.unwrap_err().is(Reason::ProducerSeqStale));
    assert_eq!(node.publish(numbered(5, "five")).await.unwrap().position, five.position);
    assert_eq!(node.logged("demo").await, ["five"]);
}

#[tokio::test]
async fn a_publish_without_its_peers_is_neither_logged_nor_sent() {
    let bus = bus().await;
    let node = start(&bus, "a", 1, pins(&[])).await;
    let request = v1::PublishRequest {
        min_peers: 2,
        timeout: Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 }),
        ..message("demo", "x")
    };
    let error = node.publish(request).await.unwrap_err();
    assert!(error.is(Reason::NotEnoughPeers));
    assert_eq!(error.metadata["peers"], "0");
    assert!(node.logged("demo").await.is_empty());
}

#[tokio::test]
async fn a_level_that_the_bus_cannot_reach_is_refused_before_anything_happens() {
    let bus = bus().await;
    let node = start(&bus, "a", 1, pins(&[])).await;
    let request = v1::PublishRequest { level: Level::Replicated.into(), ..message("demo", "x") };
    let error = node.publish(request).await.unwrap_err();
    assert!(error.is(Reason::LevelUnavailable), "{error:?}");
    assert_eq!(error.metadata["highest"], "LOGGED");
    assert!(node.logged("demo").await.is_empty());
}

#[tokio::test]
async fn what_is_too_large_or_no_topic_is_refused() {
    let bus = bus().await;
    let node = start(&bus, "a", 1, pins(&[])).await;
    let data = v1::publish_request::Payload::Data(vec![0; (1 << 20) + 1].into());
    let large = v1::PublishRequest { payload: Some(data), ..message("demo", "") };
    assert!(node.publish(large).await.unwrap_err().is(Reason::MessageTooLarge));
    assert!(node.publish(message("", "x")).await.unwrap_err().is(Reason::BadTopic));
    assert!(node.publish(message("~_w", "x")).await.unwrap_err().is(Reason::BadTopic));
}

#[tokio::test]
async fn a_node_past_its_deadline_stops_without_a_word() {
    let bus = bus().await;
    let node = start(&bus, "a", 1, pins(&["demo"])).await;
    node.deadline.send(Moment::PAST).unwrap();
    assert_eq!(node.ended().await, Ended::Fenced);
}

#[tokio::test]
async fn a_node_stops_when_another_owner_opened_its_logs() {
    let bus = bus().await;
    let node = start(&bus, "a", 1, pins(&["demo"])).await;
    let (_, grant) = take(&bus, &node.name).await;
    let marker = LogEntry { epoch: grant.epoch, nonce: grant.nonce, ..Default::default() }.encode_to_vec();
    bus.open_logs(&node.name, grant, &[], marker.into(), plexus_bus::Stage::First { sweep: false })
        .await
        .unwrap();
    let name = node.name.clone();
    let publish = Payload::of(message("demo", "late"));
    let call =
        ground::call(CallId::new_v4(), "plexus.v1.TopicService/Publish", Some(&name), publish, &"g".into());
    bus.publish(Subject::Calls(name.clone()), call).await.unwrap();
    assert_eq!(node.ended().await, Ended::Fenced);
    let range = Range { from: Position::ZERO, until: None, limit: 100, newest_first: false };
    let entries = bus.read(&name, &Topic::from_static(b"demo"), range).await.unwrap();
    assert!(entries.iter().all(|entry| entry.entry.open::<LogEntry>().unwrap().messages.is_empty()));
}

#[tokio::test]
async fn a_changed_record_is_applied_in_place() {
    let bus = bus().await;
    let mut node = start(&bus, "a", 1, pins(&[])).await;
    let pin = |record: &mut NodeRecord| record.node.as_mut().unwrap().spec = Some(pins(&["demo"]));
    let revision = node.change(pin).await;
    let refresh = Payload::encoded(revision.to_be_bytes().to_vec());
    let outcome = node.outcome(CallId::new_v4(), "plexus.bus.v1.Owner/Refresh", refresh).await;
    assert!(outcome.result.is_ok());
    eventually(|| async { node.topic("demo").await.is_ok_and(|topic| topic.pinned && topic.joined) }).await;
    let revision = node.change(|record| record.generation += 1).await;
    node.changed.send(revision).unwrap();
    node.heard(Note::Unwanted).await;
}

#[tokio::test]
async fn a_changed_spec_builds_the_swarm_anew_and_keeps_topics_and_positions() {
    let bus = bus().await;
    let node = start(&bus, "a", 1, pins(&["demo"])).await;
    node.publish(message("demo", "one")).await.unwrap();
    let agent = |record: &mut NodeRecord| {
        record.node.as_mut().unwrap().spec =
            Some(v1::NodeSpec { agent_version: "me".into(), ..pins(&["demo"]) });
    };
    let revision = node.change(agent).await;
    let refresh = Payload::encoded(revision.to_be_bytes().to_vec());
    assert!(node.outcome(CallId::new_v4(), "plexus.bus.v1.Owner/Refresh", refresh).await.result.is_ok());
    let receipt = node.publish(message("demo", "two")).await.unwrap();
    assert_eq!(receipt.position, Position::new(node.grant.epoch, 2).to_string());
    assert!(node.topic("demo").await.unwrap().joined);
}

#[tokio::test]
async fn a_purged_topic_keeps_its_positions() {
    let bus = bus().await;
    let node = start(&bus, "a", 1, pins(&[])).await;
    node.publish(message("demo", "one")).await.unwrap();
    let purge = Payload::encoded(Bytes::from_static(b"demo"));
    assert!(node.outcome(CallId::new_v4(), "plexus.bus.v1.Owner/Purge", purge).await.result.is_ok());
    assert!(node.logged("demo").await.is_empty());
    let receipt = node.publish(message("demo", "two")).await.unwrap();
    assert_eq!(receipt.position, Position::new(node.grant.epoch, 2).to_string());
}

#[tokio::test]
async fn the_state_beside_the_record_says_where_the_node_is() {
    let bus = bus().await;
    let port: u64 = rand::random();
    let spec = v1::NodeSpec { listen_addresses: vec![format!("/memory/{port}")], ..pins(&["demo"]) };
    let node = start(&bus, "a", 1, spec).await;
    let wanted = format!("/memory/{port}/p2p/{}", key(1).public().to_peer_id());
    let read = || ground::state(&bus, &node.name);
    eventually(|| async { read().await.status.unwrap_or_default().addresses == [wanted.clone()] }).await;
    let state = read().await;
    let status = state.status.unwrap();
    assert_eq!(status.epoch, node.grant.epoch);
    assert!(state.seqno > 0);
    let name = node.name.clone();
    assert_eq!(node.stopped().await, Ended::Stopped);
    let (_, after) = bus.get_state(&name).await.unwrap();
    assert!(NodeState::decode(after.unwrap()).unwrap().seqno >= state.seqno);
}

#[tokio::test]
async fn lists_come_in_pages_by_name() {
    let bus = bus().await;
    let node = start(&bus, "a", 1, pins(&["a", "b", "c"])).await;
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListTopicsRequest { page_size: 2, page_token, ..Default::default() };
        let page: v1::ListTopicsResponse =
            node.call("plexus.v1.TopicService/ListTopics", Payload::of(request)).await.unwrap();
        names.extend(page.topics.into_iter().map(|topic| topic.topic));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["a", "b", "c"]);
}
