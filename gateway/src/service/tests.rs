//! The services over the embedded bus, with an owner that does little, but by the book.

use super::*;
use crate::frame::{Shared, TakesFrames};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use plexus_bus::{
    Append, Appended, Body, Bus, Claim, Envelope, Event, Grant, Key, Opened, Outcome, Position, Spot, Stage,
    Subject, Taken, Topic, When, embedded::Embedded,
};
use plexus_proto::{
    bus::{EpochOpening, Joined, LogEntry, LogMessage, NodeRecord, NodeState},
    v1::{
        SubscriptionEvent, node_service_server::NodeService as _, node_status::State,
        peer_service_server::PeerService as _, subscription_event::Event as Told,
        topic_service_server::TopicService as _, watch_nodes_response::Change,
    },
};
use prost::Message;
use std::{collections::HashMap, future::Future};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(20);
const PEER: &str = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA";

/// Waits until `check` answers something.
async fn eventually<T, F: Future<Output = Option<T>>>(mut check: impl FnMut() -> F) -> T {
    let looking = async {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, looking).await.expect("it never happens")
}

/// A gateway's services, a bus, and workers as the test wants them.
struct World {
    bus: Bus,
    carrier: Arc<Embedded>,
    service: Service,
    tasks: JoinSet<()>,
    stop: CancellationToken,
    workers: u32,
}

impl World {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(edit: impl FnOnce(&mut config::Router)) -> Self {
        let bus_config = plexus_bus::Config { strict: true, ..plexus_bus::Config::default() };
        let metrics = plexus_bus::Metrics::default();
        let carrier = Arc::new(Embedded::new(&bus_config, metrics.clone()));
        let bus = Bus::over(carrier.clone(), &bus_config, metrics);
        let mut config = config::Router::default();
        edit(&mut config);
        let (router, event_loop) = Router::new(
            bus.clone(),
            config,
            crate::resume::Tokens::default(),
            crate::router::Metrics::default(),
        );
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(event_loop.run(stop.clone()));
        let (watching, watch_loop) = Watching::new(bus.clone(), 16);
        tasks.spawn(watch_loop.run(stop.clone()));
        let service = Service { router, watching, limits: Arc::default(), auth: Arc::default() };
        Self { bus, carrier, service, tasks, stop, workers: 0 }
    }

    /// Starts a worker that makes nodes and owns those it makes.
    async fn worker(&mut self) -> CancellationToken {
        self.workers += 1;
        let stop = self.stop.child_token();
        let worker =
            Worker { bus: self.bus.clone(), name: format!("w{}.1", self.workers), stop: stop.clone() };
        self.bus.renew(&worker.name.as_str().into(), true).await.unwrap();
        let anyone = self.bus.subscribe(Subject::Anyone).await.unwrap();
        self.tasks.spawn(worker.run(anyone));
        stop
    }

    /// A worker that takes a node which is there already.
    async fn owner(&mut self, node: &str) -> CancellationToken {
        self.workers += 1;
        let stop = self.stop.child_token();
        let worker =
            Worker { bus: self.bus.clone(), name: format!("w{}.1", self.workers), stop: stop.clone() };
        self.bus.renew(&worker.name.as_str().into(), true).await.unwrap();
        let owner = worker.take(name(node)).await;
        self.tasks.spawn(owner.run());
        stop
    }

    /// Writes a node that nobody owns.
    async fn node(&self, id: &str) {
        write_node(&self.bus, &v1::CreateNodeRequest { id: id.into(), ..Default::default() }).await.unwrap();
    }

    async fn publish(&self, node: &str, topic: &str, text: &str) -> Result<v1::Receipt, Status> {
        let payload = Some(v1::publish_request::Payload::Text(text.into()));
        let request =
            v1::PublishRequest { node: node.into(), topic: topic.into(), payload, ..Default::default() };
        self.service.publish(Request::new(request)).await.map(Response::into_inner)
    }

    async fn subscribe(&self, request: v1::SubscribeRequest) -> Result<Client, Status> {
        let stream = self.service.subscribe(Request::new(request)).await?.into_inner();
        Ok(Client(stream.boxed()))
    }

    async fn get(&self, node: &str) -> Result<v1::Node, Status> {
        let request = v1::GetNodeRequest { node: node.into() };
        self.service.get_node(Request::new(request)).await.map(Response::into_inner)
    }

    async fn record(&self, node: &str) -> NodeRecord {
        let value = self.bus.get(Key::Record(name(node))).await.unwrap().expect("a record");
        NodeRecord::decode(value.data).unwrap()
    }
}

/// A reader of a subscription.
struct Client(futures::stream::BoxStream<'static, Result<SubscriptionEvent, Status>>);

impl Client {
    async fn next(&mut self) -> Option<Result<Told, Status>> {
        let next = tokio::time::timeout(LIMIT, self.0.next()).await.expect("it says nothing");
        next.map(|next| next.map(|event| event.event.expect("an event")))
    }

    async fn start(&mut self) -> v1::subscription_event::Start {
        match self.next().await {
            Some(Ok(Told::Start(start))) => start,
            other => panic!("{other:?}"),
        }
    }

    async fn message(&mut self) -> (String, Bytes) {
        match self.next().await {
            Some(Ok(Told::Message(m))) => match m.payload {
                Some(v1::message::Payload::Data(data)) => (m.position, data),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }
}

fn name(node: &str) -> NodeName {
    NodeName::new("default", node).unwrap()
}

fn reason<T>(result: Result<T, Status>) -> String {
    match result {
        Ok(_) => "OK".into(),
        Err(status) => error::from_status(&status).reason,
    }
}

async fn write_node(bus: &Bus, request: &v1::CreateNodeRequest) -> Result<v1::Node, Failure> {
    let node = v1::Node {
        id: request.id.clone(),
        peer_id: PEER.into(),
        spec: request.spec.clone(),
        ..Default::default()
    };
    let record = NodeRecord { node: Some(node.clone()), ..NodeRecord::default() };
    let key = Key::Record(name(&request.id));
    if bus.put(key, record.encode_to_vec().into(), When::Absent, None).await.unwrap().is_none() {
        return Err(Box::new(v1::Error::new(Reason::NodeExists, "it is there")));
    }
    let peer = [&text::peer_id_from_text(PEER).unwrap()[..37], request.id.as_bytes()].concat();
    bus.enlist(&name(&request.id), &peer).await.unwrap();
    Ok(node)
}

/// Takes calls that any worker may take.
struct Worker {
    bus: Bus,
    name: String,
    stop: CancellationToken,
}

impl Worker {
    async fn run(self, mut anyone: plexus_bus::Subscription) {
        let mut owned = JoinSet::new();
        while let Some(Some(event)) = self.stop.run_until_cancelled(anyone.recv()).await {
            let Event::Frame(frame) = event else { continue };
            let envelope: Envelope = frame.take().unwrap();
            let Body::Call(call) = envelope.body else { continue };
            let claim = Key::Named(format!("call/{}", envelope.id).into());
            if self.bus.put(claim, Bytes::new(), When::Absent, None).await.unwrap().is_none() {
                continue;
            }
            let request: v1::CreateNodeRequest = call.payload.take().unwrap();
            let made = write_node(&self.bus, &request).await;
            if made.is_ok() {
                let worker = Self { bus: self.bus.clone(), name: self.name.clone(), stop: self.stop.clone() };
                owned.spawn(worker.take(name(&request.id)).await.run());
            }
            reply(&self.bus, &call.reply_to, envelope.id, 0, 0, outcome(made.map(Payload::of))).await;
        }
        owned.join_all().await;
    }

    async fn take(self, node: NodeName) -> Owner {
        let worker = self.name.as_str().into();
        let claim = Claim { node: node.clone(), floor: 0, from: None };
        let taken = self.bus.take(&worker, 7, &[claim]).await.unwrap();
        let Taken::Epochs(epochs) = taken else { panic!("{taken:?}") };
        let grant = Grant { epoch: epochs[0].expect("the node is free"), nonce: 7 };
        let mut owner = Owner { worker: self, node, grant, tails: HashMap::new() };
        owner.open(&[], Stage::First { sweep: false }).await;
        owner
    }
}

fn outcome(result: Result<Payload, Failure>) -> Body {
    Body::Outcome(Outcome { result, from_window: false, moved: false })
}

async fn reply(
    bus: &Bus,
    to: &plexus_bus::GatewayId,
    id: plexus_bus::CallId,
    epoch: u64,
    sequence: u64,
    body: Body,
) {
    let (traceparent, tracestate) = (String::new(), String::new());
    let envelope = Envelope { id, sequence, traceparent, tracestate, epoch, body };
    bus.publish(Subject::Replies(to.clone()), Payload::of(envelope)).await.unwrap();
}

/// Owns one node: opens its logs, joins, appends what is published.
struct Owner {
    worker: Worker,
    node: NodeName,
    grant: Grant,
    tails: HashMap<Topic, u64>,
}

impl Owner {
    async fn open(&mut self, topics: &[Topic], stage: Stage) {
        let opening = Some(EpochOpening { worker: self.worker.name.clone(), ..EpochOpening::default() });
        let marker =
            LogEntry { epoch: self.grant.epoch, nonce: self.grant.nonce, opening, ..LogEntry::default() };
        let marker = marker.encode_to_vec().into();
        let opened = self.worker.bus.open_logs(&self.node, self.grant, topics, marker, stage).await.unwrap();
        let Opened::Done(opened) = opened else { panic!("{opened:?}") };
        for opening in opened {
            self.tails.entry(opening.topic).or_insert(0);
        }
    }

    async fn run(mut self) {
        let bus = self.worker.bus.clone();
        let stop = self.worker.stop.clone();
        let mut calls = bus.subscribe(Subject::Calls(self.node.clone())).await.unwrap();
        let mut beat = tokio::time::interval(Duration::from_secs(1));
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => break,
                _ = beat.tick() => {
                    bus.renew(&self.worker.name.as_str().into(), false).await.unwrap();
                    continue;
                }
                event = calls.recv() => event.unwrap(),
            };
            let Event::Frame(frame) = event else { continue };
            let envelope: Envelope = frame.take().unwrap();
            match envelope.body {
                Body::Call(call) => self.answer(envelope.id, *call).await,
                Body::Cancel(why) => {
                    let key = Key::Named(format!("cancelled/{why}").into());
                    bus.put(key, Bytes::new(), When::Always, None).await.unwrap();
                }
                _ => {}
            }
        }
        let worker = self.worker.name.as_str().into();
        bus.release(&worker, &[(self.node.clone(), self.grant.epoch)]).await.unwrap();
    }

    async fn answer(&mut self, id: plexus_bus::CallId, call: plexus_bus::Call) {
        let bus = self.worker.bus.clone();
        let result = match &*call.method {
            "plexus.bus.v1.Owner/Join" => {
                let interest: plexus_proto::bus::Interest = call.payload.take().unwrap();
                self.open(&[interest.topic], Stage::Later).await;
                Ok(Payload::of(Joined::default()))
            }
            "plexus.bus.v1.Owner/Refresh" => {
                let asked = u64::from_be_bytes(call.payload.to_bytes()[..].try_into().unwrap());
                let held = bus.get(Key::Record(self.node.clone())).await.unwrap().unwrap().revision;
                assert!(held >= asked, "a refresh names a revision that is written");
                Ok(Payload::default())
            }
            "plexus.v1.TopicService/Publish" => {
                Ok(Payload::of(self.publish(call.payload.take().unwrap()).await))
            }
            "plexus.v1.TopicService/GetTopic" => {
                let request: v1::GetTopicRequest = call.payload.take().unwrap();
                Ok(Payload::of(v1::Topic { topic: request.topic, joined: true, ..v1::Topic::default() }))
            }
            "plexus.v1.PeerService/Ping" => {
                for sequence in 0..3 {
                    let pong = v1::ping_response::Pong { seq: sequence as u32 + 1, ..Default::default() };
                    let event = Some(v1::ping_response::Event::Pong(pong));
                    let output = Body::Output(Payload::of(v1::PingResponse { event }));
                    reply(&bus, &call.reply_to, id, self.grant.epoch, sequence, output).await;
                }
                return; // it goes on until it is cancelled
            }
            _ => Err(Box::new(v1::Error::new(Reason::WorkerTooOld, call.method.to_string()))),
        };
        reply(&bus, &call.reply_to, id, self.grant.epoch, 0, outcome(result)).await;
    }

    async fn publish(&mut self, request: v1::PublishRequest) -> v1::Receipt {
        let topic = text::topic_from_text(&request.topic).unwrap();
        if !self.tails.contains_key(&topic) {
            self.open(std::slice::from_ref(&topic), Stage::Later).await;
        }
        let tail = self.tails.get_mut(&topic).unwrap();
        let Some(v1::publish_request::Payload::Text(text)) = request.payload else { panic!("text") };
        // Several at once where the text has several words: one entry of many messages.
        let message = |word: &str| LogMessage {
            id: Bytes::copy_from_slice(word.as_bytes()),
            data: Bytes::copy_from_slice(word.as_bytes()),
            received_at: Some(std::time::SystemTime::now().into()),
            ..LogMessage::default()
        };
        let messages: Vec<_> = text.split_whitespace().map(message).collect();
        let (first, last) = (*tail + 1, *tail + messages.len() as u64);
        *tail = last;
        let entry = LogEntry {
            epoch: self.grant.epoch,
            nonce: self.grant.nonce,
            seq: last,
            messages,
            ..LogEntry::default()
        };
        let append = Append { topic, first, last, keep: 1000, entry: Payload::of(entry) };
        let appended = self.worker.bus.append(&self.node, self.grant, vec![append]).await.unwrap();
        assert_eq!(appended, Appended::Done(vec![Spot::Logged]));
        let position = Position::new(self.grant.epoch, last).to_string();
        v1::Receipt { position, topic: request.topic, ..v1::Receipt::default() }
    }
}

#[tokio::test]
async fn node_default_is_made_on_first_use_and_once() {
    let mut world = World::new();
    world.worker().await;
    world.worker().await;
    let publish = |n: u32| world.publish("", "demo", ["a", "b"][n as usize % 2]);
    let receipts = futures::future::join_all((0..8).map(publish)).await;
    let mut positions: Vec<_> = receipts.into_iter().map(|r| r.unwrap().position).collect();
    positions.sort();
    positions.dedup();
    assert_eq!(positions.len(), 8);
    let node = world.get("default").await.unwrap();
    assert_eq!((node.id.as_str(), node.peer_id.as_str()), ("default", PEER));
    assert!(node.status.unwrap().worker.starts_with('w'));
    assert_eq!(node.etag, "1");
}

#[tokio::test]
async fn a_subscription_begins_and_hears_what_is_published() {
    let mut world = World::new();
    world.worker().await;
    let request = v1::SubscribeRequest { topic: "demo".into(), ..Default::default() };
    let mut client = world.subscribe(request.clone()).await.unwrap();
    let start = client.start().await;
    assert!(start.joined && start.recovered);
    assert_eq!(start.topic, "demo");
    // The dialects' way: the same events, as shared frames, and a silent body.
    let mut marked = Request::new(request);
    marked.extensions_mut().insert(TakesFrames { ids: true });
    let response = world.service.subscribe(marked).await.unwrap();
    let mut frames = response.extensions().get::<Shared>().unwrap().take().unwrap();
    assert!(frames.next().await.unwrap().is_ok());
    for text in ["one", "two"] {
        let receipt = world.publish("", "demo", text).await.unwrap();
        let (position, data) = client.message().await;
        assert_eq!((position.as_str(), &data[..]), (receipt.position.as_str(), text.as_bytes()));
        let delivery = frames.next().await.unwrap().unwrap();
        assert_eq!(delivery.id(), Some(receipt.position.as_str()), "the position is the event's id");
    }
}

#[tokio::test]
async fn a_reader_goes_on_over_owners_and_a_call_waits_for_the_next_one() {
    let mut world = World::new();
    world.node("n").await;
    let first = world.owner("n").await;
    let request = v1::SubscribeRequest { node: "n".into(), topic: "demo".into(), ..Default::default() };
    let mut client = world.subscribe(request).await.unwrap();
    client.start().await;
    world.publish("n", "demo", "one").await.unwrap();
    first.cancel();
    eventually(|| async {
        world.bus.owner(&name("n")).await.unwrap().unwrap().worker.is_none().then_some(())
    })
    .await;
    let (bus, service) = (world.bus.clone(), world.service.clone());
    let payload = Some(v1::publish_request::Payload::Text("two".into()));
    let request =
        v1::PublishRequest { node: "n".into(), topic: "demo".into(), payload, ..Default::default() };
    world.tasks.spawn(async move {
        service.publish(Request::new(request)).await.unwrap();
        bus.put(Key::Named("published".into()), Bytes::new(), When::Always, None).await.unwrap();
    });
    assert_eq!(world.get("n").await.unwrap().status.unwrap().state(), State::Pending);
    world.owner("n").await;
    let (old, new) = (client.message().await, client.message().await);
    assert_eq!((&old.1[..], &new.1[..]), (&b"one"[..], &b"two"[..]));
    let epoch = |m: &(String, Bytes)| m.0.parse::<Position>().unwrap().epoch;
    assert!(epoch(&old) < epoch(&new), "the next owner's epoch");
    // Resumed from between, it is the same story.
    let request =
        v1::SubscribeRequest { node: "n".into(), topic: "demo".into(), resume: old.0, ..Default::default() };
    let mut client = world.subscribe(request).await.unwrap();
    assert!(client.start().await.recovered);
    assert_eq!(client.message().await, new);
}

#[tokio::test]
async fn the_record_says_why_a_node_takes_no_calls() {
    let mut world = World::new();
    world.node("n").await;
    assert_eq!(reason(world.publish("gone", "t", "x").await), "NODE_NOT_FOUND");
    assert_eq!(reason(world.publish("Not-An-Id", "t", "x").await), "FIELD_INVALID");
    assert_eq!(reason(world.publish(PEER, "t", "x").await), "NODE_NOT_FOUND", "a PeerId nobody has");
    let request = v1::StopNodeRequest { node: "n".into(), ..Default::default() };
    let node = world.service.stop_node(Request::new(request)).await.unwrap().into_inner();
    assert_eq!((node.status.unwrap().state(), node.revision), (State::Stopped, 2));
    assert_eq!(reason(world.publish("n", "t", "x").await), "NODE_STOPPED");
    let request = v1::SubscribeRequest { node: "n".into(), topic: "t".into(), ..Default::default() };
    assert_eq!(reason(world.subscribe(request).await.map(|_| ())), "NODE_STOPPED");
    let request = v1::StartNodeRequest { node: "n".into(), ..Default::default() };
    world.service.start_node(Request::new(request)).await.unwrap();
    let mut late = Request::new(v1::GetTopicRequest { node: "n".into(), topic: "t".into() });
    late.extensions_mut().insert(Deadline(Instant::now() + Duration::from_millis(400)));
    assert_eq!(reason(world.service.get_topic(late).await), "NO_OWNER");
    world.owner("n").await;
    assert_eq!(reason(world.publish("n", "t", "x").await), "OK");
}

#[tokio::test]
async fn a_node_is_found_by_its_peer_id_in_its_own_namespace_only() {
    let mut world = World::new();
    world.node("n").await;
    world.owner("n").await;
    let peer = text::peer_id_from_text(PEER).unwrap();
    world.bus.enlist(&NodeName::new("other", "m").unwrap(), &peer).await.unwrap();
    assert_eq!(reason(world.get(PEER).await), "NODE_NOT_FOUND", "in another namespace there is nothing");
    let request = v1::GetNodeRequest { node: PEER.into() };
    let mut request = Request::new(request);
    let caller = Caller { namespace: "other".into(), ..Caller::anonymous() };
    request.extensions_mut().insert(caller);
    // Found by name there, but nothing was ever written of it.
    assert_eq!(reason(world.service.get_node(request).await), "NODE_NOT_FOUND");
}

#[tokio::test]
async fn an_update_changes_what_its_mask_says_and_only_over_what_the_caller_saw() {
    let world = World::new();
    world.node("n").await;
    let spec = v1::NodeSpec { agent_version: "x".into(), ..v1::NodeSpec::default() };
    let update = |etag: &str, spec: v1::NodeSpec, id: &str| {
        let request = v1::UpdateNodeRequest {
            node: "n".into(),
            spec: Some(spec),
            etag: etag.into(),
            request_id: id.into(),
            ..Default::default()
        };
        world.service.update_node(Request::new(request))
    };
    let node = update("1", spec.clone(), "").await.unwrap().into_inner();
    assert_eq!((node.etag.as_str(), node.spec.unwrap().agent_version.as_str()), ("2", "x"));
    assert_eq!(reason(update("1", spec.clone(), "").await), "ETAG_MISMATCH");
    assert_eq!(update("", spec.clone(), "").await.unwrap().into_inner().revision, 2, "nothing changed");
    let bad = v1::NodeSpec { agent_version: "x".repeat(65), ..v1::NodeSpec::default() };
    assert_eq!(reason(update("", bad, "").await), "FIELD_INVALID");
    // A repeat answers what the first answered, also when the node went on meanwhile.
    let other = v1::NodeSpec { agent_version: "y".into(), ..v1::NodeSpec::default() };
    assert_eq!(update("", other.clone(), "id").await.unwrap().into_inner().revision, 3);
    assert_eq!(update("", spec.clone(), "").await.unwrap().into_inner().revision, 4);
    assert_eq!(update("", other, "id").await.unwrap().into_inner().revision, 3);
    assert_eq!(reason(update("", spec, "id").await), "REQUEST_ID_REUSED");
}

#[tokio::test]
async fn a_restart_with_a_request_id_happens_once() {
    let world = World::new();
    world.node("n").await;
    for (id, generation) in [("a", 1), ("a", 1), ("b", 2), ("", 3), ("", 4)] {
        let request = v1::RestartNodeRequest { node: "n".into(), request_id: id.into() };
        world.service.restart_node(Request::new(request)).await.unwrap();
        assert_eq!(world.record("n").await.generation, generation);
    }
}

#[tokio::test]
async fn nodes_are_listed_by_id_in_pages() {
    let world = World::new();
    for id in ["c", "a", "b", "d1", "d2"] {
        world.node(id).await;
    }
    let list = |token: &str, prefix: &str, state: State| {
        let request = v1::ListNodesRequest {
            page_size: 2,
            page_token: token.into(),
            prefix: prefix.into(),
            state: state.into(),
            ..Default::default()
        };
        world.service.list_nodes(Request::new(request))
    };
    let ids = |page: &v1::ListNodesResponse| page.nodes.iter().map(|n| n.id.clone()).collect::<Vec<_>>();
    let (mut token, mut all) = (String::new(), Vec::new());
    loop {
        let page = list(&token, "", State::Unspecified).await.unwrap().into_inner();
        all.push(ids(&page));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(all, [vec!["a", "b"], vec!["c", "d1"], vec!["d2"]]);
    let page = list("", "d", State::Pending).await.unwrap().into_inner();
    assert_eq!((ids(&page), page.next_page_token.as_str()), (vec!["d1".into(), "d2".into()], ""));
    assert!(list("", "", State::Running).await.unwrap().into_inner().nodes.is_empty());
    let first = list("", "", State::Unspecified).await.unwrap().into_inner();
    assert_eq!(reason(list(&first.next_page_token, "d", State::Unspecified).await), "BAD_PAGE_TOKEN");
}

#[tokio::test]
async fn a_watch_tells_what_is_there_and_then_what_changes() {
    let mut world = World::new();
    world.node("n").await;
    let request = v1::WatchNodesRequest::default();
    let mut watch = world.service.watch_nodes(Request::new(request)).await.unwrap().into_inner();
    async fn next(
        watch: &mut (impl Stream<Item = Result<v1::WatchNodesResponse, Status>> + Unpin),
    ) -> (Change, String, State) {
        let next = tokio::time::timeout(LIMIT, watch.next()).await.unwrap().unwrap().unwrap();
        let node = next.node.clone().unwrap_or_default();
        (next.change(), node.id, node.status.unwrap_or_default().state())
    }
    assert_eq!(next(&mut watch).await, (Change::Present, "n".into(), State::Pending));
    assert_eq!(next(&mut watch).await.0, Change::Synced);
    let stop = world.owner("n").await;
    assert_eq!(next(&mut watch).await, (Change::Updated, "n".into(), State::Starting));
    let request = v1::StopNodeRequest { node: "n".into(), ..Default::default() };
    world.service.stop_node(Request::new(request)).await.unwrap();
    assert_eq!(next(&mut watch).await, (Change::Updated, "n".into(), State::Stopping));
    stop.cancel();
    assert_eq!(next(&mut watch).await, (Change::Updated, "n".into(), State::Stopped));
    world.node("m").await;
    world.bus.publish(Subject::Records, Payload::of("default/m".to_owned())).await.unwrap();
    assert_eq!(next(&mut watch).await, (Change::Created, "m".into(), State::Pending));
    world.bus.delete(Key::Record(name("m")), When::Always).await.unwrap();
    world.bus.publish(Subject::Records, Payload::of("default/m".to_owned())).await.unwrap();
    let removed = next(&mut watch).await;
    assert_eq!((removed.0, removed.1.as_str()), (Change::Removed, "m"));
}

#[tokio::test]
async fn a_pin_is_part_of_the_spec_and_taken_in_before_the_answer() {
    let mut world = World::new();
    world.node("n").await;
    let stop = world.owner("n").await;
    let pin = |topic: &str, etag: &str, messages: u32| {
        let retention = Some(v1::Retention { messages: Some(messages), ..Default::default() });
        let policy = Some(v1::TopicPolicy { retention, ..Default::default() });
        let request = v1::PinTopicRequest {
            node: "n".into(),
            topic: topic.into(),
            policy,
            etag: etag.into(),
            ..Default::default()
        };
        world.service.pin_topic(Request::new(request))
    };
    assert!(pin("demo", "0", 5).await.unwrap().into_inner().joined);
    assert_eq!(reason(pin("demo", "0", 6).await), "ETAG_MISMATCH", "it is pinned already");
    assert_eq!(reason(pin("demo", "", 2_000_000).await), "FIELD_INVALID");
    assert_eq!(reason(pin("~ZGVtbw", "", 7).await), "OK", "another spelling of the same topic");
    let spec = world.record("n").await.node.unwrap().spec.unwrap();
    assert_eq!(spec.topics.len(), 1);
    assert_eq!(spec.topics[0].policy.as_ref().unwrap().retention.unwrap().messages, Some(7));
    let unpin = |purge| {
        let request =
            v1::UnpinTopicRequest { node: "n".into(), topic: "demo".into(), purge, ..Default::default() };
        world.service.unpin_topic(Request::new(request))
    };
    assert_eq!(reason(unpin(true).await), "WORKER_TOO_OLD", "the purge is the owner's");
    assert!(world.record("n").await.node.unwrap().spec.unwrap().topics.is_empty());
    assert_eq!(reason(unpin(false).await), "OK", "without a pin nothing changes");
    stop.cancel();
    let request = v1::StopNodeRequest { node: "n".into(), ..Default::default() };
    world.service.stop_node(Request::new(request)).await.unwrap();
    eventually(|| async {
        world.bus.owner(&name("n")).await.unwrap().unwrap().worker.is_none().then_some(())
    })
    .await;
    let topic = pin("later", "0", 5).await.unwrap().into_inner();
    assert!(topic.pinned && !topic.joined, "a stopped node joins when it is started");
    assert_eq!(reason(pin("later", &topic.etag, 6).await), "OK");
}

#[tokio::test]
async fn the_ttl_of_a_pin_begins_with_the_pin_and_again_with_the_same_one() {
    let mut world = World::new();
    world.node("n").await;
    world.owner("n").await;
    let policy = || {
        let ttl = Some(prost_types::Duration { seconds: 60, nanos: 0 });
        Some(v1::TopicPolicy { ttl, ..Default::default() })
    };
    let pin = |topic: &str, policy| {
        let request =
            v1::PinTopicRequest { node: "n".into(), topic: topic.into(), policy, ..Default::default() };
        world.service.pin_topic(Request::new(request))
    };
    pin("demo", policy()).await.unwrap();
    let made = world.record("n").await.pinned_at(b"demo").expect("it is dated");
    pin("other", None).await.unwrap();
    let record = world.record("n").await;
    assert_eq!((record.pinned_at(b"demo"), record.pinned_at(b"other")), (Some(made), None));
    pin("~ZGVtbw", policy()).await.unwrap();
    let renewed = world.record("n").await;
    assert!(renewed.pinned_at(b"demo").unwrap() > made);
    assert_eq!(renewed.node, record.node, "the spec is what it was");
}

#[tokio::test]
async fn blocks_are_kept_in_the_record_in_one_spelling() {
    let mut world = World::new();
    world.node("n").await;
    world.owner("n").await;
    for (entry, comment) in [("10.1.2.3", "a"), ("10.1.2.3/32", "b"), (PEER, "c")] {
        let request = v1::BlockRequest {
            node: "n".into(),
            entry: entry.into(),
            comment: comment.into(),
            ttl: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
            ..Default::default()
        };
        let block = world.service.block(Request::new(request)).await.unwrap().into_inner();
        assert!(block.expires_at.is_some());
    }
    let kept = |blocks: &[v1::BlockEntry]| {
        blocks.iter().map(|b| format!("{} {}", b.entry, b.comment)).collect::<Vec<_>>()
    };
    assert_eq!(kept(&world.record("n").await.blocks), ["10.1.2.3/32 b".to_owned(), format!("{PEER} c")]);
    let request = v1::UnblockRequest { node: "n".into(), entry: "10.1.2.3".into(), ..Default::default() };
    world.service.unblock(Request::new(request)).await.unwrap();
    assert_eq!(world.record("n").await.blocks.len(), 1);
}

/// Logs seven messages in entries of one, three, two and one, so that bounds fall between and inside them;
/// answers their epoch.
async fn seven_messages(world: &mut World) -> u64 {
    world.node("n").await;
    world.owner("n").await;
    let mut epoch = 0;
    for words in ["m1", "m2 m3 m4", "m5 m6", "m7"] {
        let receipt = world.publish("n", "demo", words).await.unwrap();
        epoch = receipt.position.parse::<Position>().unwrap().epoch;
    }
    epoch
}

async fn list(
    world: &World,
    edit: impl FnOnce(&mut v1::ListMessagesRequest),
) -> Result<v1::ListMessagesResponse, Status> {
    let mut request = v1::ListMessagesRequest {
        node: "n".into(),
        topic: "demo".into(),
        view: v1::View::Text.into(),
        ..Default::default()
    };
    edit(&mut request);
    world.service.list_messages(Request::new(request)).await.map(Response::into_inner)
}

fn words(page: &v1::ListMessagesResponse) -> String {
    let word = |m: &v1::Message| match &m.payload {
        Some(v1::message::Payload::Text(text)) => text.clone(),
        other => panic!("{other:?}"),
    };
    page.messages.iter().map(word).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn history_is_read_by_range_order_and_page() {
    use v1::Order;
    let mut world = World::new();
    let epoch = seven_messages(&mut world).await;
    let at = |seq: u64| format!("{epoch}-{seq}");
    let all = list(&world, |_| {}).await.unwrap();
    assert_eq!(words(&all), "m1 m2 m3 m4 m5 m6 m7");
    assert_eq!((all.position.as_str(), all.gap.is_none()), (at(7).as_str(), true));
    assert_eq!(all.messages[0].topic, "demo");
    for after in 0..=7_u64 {
        for until in after..=7 {
            for order in [Order::OldestFirst, Order::NewestFirst] {
                let range = |r: &mut v1::ListMessagesRequest| {
                    (r.after, r.until, r.order) = (at(after), at(until), order.into());
                };
                let mut expected: Vec<_> = (after + 1..=until).map(|n| format!("m{n}")).collect();
                if order == Order::NewestFirst {
                    expected.reverse();
                }
                let page = list(&world, range).await.unwrap();
                assert_eq!(words(&page), expected.join(" "), "{after} {until} {order:?}");
            }
        }
    }
    for (order, expected) in
        [(Order::OldestFirst, "m1 m2|m3 m4|m5 m6|m7"), (Order::NewestFirst, "m7 m6|m5 m4|m3 m2|m1")]
    {
        let (mut token, mut pages) = (String::new(), Vec::new());
        loop {
            let next = |r: &mut v1::ListMessagesRequest| {
                (r.order, r.page_size, r.page_token) = (order.into(), 2, token.clone());
            };
            let page = list(&world, next).await.unwrap();
            pages.push(words(&page));
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(pages.join("|"), expected);
    }
}

#[tokio::test]
async fn history_says_what_is_missing_and_refuses_what_is_not_there() {
    let mut world = World::new();
    let epoch = seven_messages(&mut world).await;
    let at = |seq: u64| format!("{epoch}-{seq}");
    let id = base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, "m6");
    assert_eq!(words(&list(&world, |r| r.ids = vec![id.clone()]).await.unwrap()), "m6");
    assert_eq!(words(&list(&world, |r| r.after = "$".into()).await.unwrap()), "");
    assert_eq!(reason(list(&world, |r| r.after = "x".into()).await), "BAD_POSITION");
    assert_eq!(reason(list(&world, |r| r.topic = "none".into()).await), "TOPIC_NOT_FOUND");
    assert_eq!(reason(list(&world, |r| r.node = "gone".into()).await), "NODE_NOT_FOUND");
    let since = Some(prost_types::Timestamp { seconds: 1 << 33, nanos: 0 });
    assert!(list(&world, |r| r.since = since).await.unwrap().messages.is_empty());
    // Trimmed: what is missing is said, or refused where that was asked.
    world.bus.trim(&name("n"), Grant { epoch, nonce: 7 }, &Topic::from_static(b"demo"), 2).await.unwrap();
    let page = list(&world, |r| r.after = at(1)).await.unwrap();
    let gap = page.gap.clone().unwrap();
    assert_eq!((words(&page).as_str(), gap.after, gap.until), ("m5 m6 m7", at(1), at(4)));
    assert_eq!(page.retained.unwrap().after, at(4));
    let complete = |r: &mut v1::ListMessagesRequest| (r.after, r.require_complete) = (at(1), true);
    assert_eq!(reason(list(&world, complete).await), "POSITION_TRIMMED");
}

#[tokio::test]
async fn a_deleted_node_ends_its_readers() {
    let mut world = World::new();
    world.node("n").await;
    let stop = world.owner("n").await;
    let request = v1::SubscribeRequest { node: "n".into(), topic: "demo".into(), ..Default::default() };
    let mut client = world.subscribe(request).await.unwrap();
    client.start().await;
    let service = world.service.clone();
    world.tasks.spawn(async move {
        let request = v1::DeleteNodeRequest { node: "n".into(), ..Default::default() };
        service.delete_node(Request::new(request)).await.unwrap();
    });
    match client.next().await {
        Some(Ok(Told::End(end))) => assert_eq!(end.reason(), v1::subscription_event::end::Reason::Deleted),
        other => panic!("{other:?}"),
    }
    assert!(client.next().await.is_none());
    assert!(world.record("n").await.deleting);
    assert_eq!(world.get("n").await.unwrap().status.unwrap().state(), State::Deleting);
    assert_eq!(reason(world.publish("n", "t", "x").await), "OK", "until its owner stops it takes calls");
    stop.cancel();
    let request = v1::DeleteNodeRequest { node: "gone".into(), ..Default::default() };
    assert_eq!(reason(world.service.delete_node(Request::new(request)).await), "NODE_NOT_FOUND");
    let request = v1::DeleteNodeRequest { node: "gone".into(), allow_missing: true, ..Default::default() };
    assert_eq!(reason(world.service.delete_node(Request::new(request)).await), "OK");
}

#[tokio::test]
async fn interest_ends_some_time_after_the_last_reader() {
    let mut world = World::with(|config| config.linger = Duration::from_millis(50));
    world.worker().await;
    let request = v1::SubscribeRequest { topics: vec!["a".into(), "b".into()], ..Default::default() };
    let client = world.subscribe(request).await.unwrap();
    let node = name("default");
    assert_eq!(world.bus.wanted(&node).await.unwrap().len(), 2);
    drop(client);
    eventually(|| async { world.bus.wanted(&node).await.unwrap().is_empty().then_some(()) }).await;
}

#[tokio::test]
async fn the_count_of_readers_follows_while_interest_lingers() {
    let mut world = World::new();
    world.worker().await;
    let request = v1::SubscribeRequest { topic: "a".into(), ..Default::default() };
    let (one, two) =
        (world.subscribe(request.clone()).await.unwrap(), world.subscribe(request).await.unwrap());
    let node = name("default");
    let counts = async |wanted: u32| {
        let read = || async {
            let counts: Vec<u32> = world.bus.wanted(&node).await.unwrap().into_iter().map(|w| w.2).collect();
            (counts == [wanted]).then_some(())
        };
        eventually(read).await;
    };
    counts(2).await;
    drop(one);
    counts(1).await;
    drop(two);
    counts(0).await; // and it is still there: whoever comes back finds the topic joined
}

#[tokio::test]
async fn a_bus_that_came_back_hears_again_of_all_interest() {
    let mut world = World::new();
    world.worker().await;
    let request = v1::SubscribeRequest { topic: "a".into(), ..Default::default() };
    let _client = world.subscribe(request).await.unwrap();
    let (node, gateway) = (name("default"), world.service.router.gateway().clone());
    // A failover may lose what was written last.
    world.bus.want(&node, &gateway, &[(Topic::from_static(b"a"), None)]).await.unwrap();
    world.carrier.restore().await.unwrap();
    eventually(|| async { (world.bus.wanted(&node).await.unwrap().len() == 1).then_some(()) }).await;
}

#[tokio::test]
async fn a_call_whose_answer_may_be_lost_is_asked_again_when_the_bus_came_back() {
    let world = World::with(|config| config.resend_after = Duration::from_secs(60));
    world.node("n").await;
    let mut calls = world.bus.subscribe(Subject::Calls(name("n"))).await.unwrap();
    let mut next = async || loop {
        let Some(Event::Frame(frame)) = calls.recv().await else { continue };
        let envelope = frame.take::<Envelope>().unwrap();
        if let Body::Call(call) = envelope.body {
            return (envelope.id, call);
        }
    };
    let request = v1::GetTopicRequest { node: "n".into(), topic: "a".into() };
    let asked = world.service.get_topic(Request::new(request));
    let owner = async {
        let (first, _) = next().await; // its answer is lost
        let (id, call) = loop {
            world.carrier.restore().await.unwrap();
            if let Ok(again) = tokio::time::timeout(Duration::from_millis(100), next()).await {
                break again;
            }
        };
        assert_eq!((id, call.attempt), (first, 1));
        let topic = Payload::of(v1::Topic { topic: "a".into(), ..v1::Topic::default() });
        reply(&world.bus, &call.reply_to, id, 1, 0, outcome(Ok(topic))).await;
    };
    let both = tokio::time::timeout(LIMIT, async { tokio::join!(asked, owner) });
    let (answer, ()) = both.await.expect("it is asked again");
    assert_eq!(answer.unwrap().into_inner().topic, "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_made_one_after_the_other_reach_their_node_in_that_order() {
    let mut world = World::new();
    world.worker().await;
    world.publish("", "demo", "the node is there").await.unwrap();
    let calls = (0..500).map(|n| {
        let world = &world;
        async move { world.publish("", "demo", &n.to_string()).await.unwrap().position }
    });
    let positions: Vec<Position> =
        futures::future::join_all(calls).await.iter().map(|p| p.parse().unwrap()).collect();
    assert!(positions.is_sorted(), "{positions:?}");
}

#[tokio::test]
async fn a_stream_that_is_dropped_is_cancelled_at_the_owner() {
    let mut world = World::new();
    world.worker().await;
    let request = v1::PingRequest { peer: PEER.into(), ..Default::default() };
    let mut pings = world.service.ping(Request::new(request)).await.unwrap().into_inner();
    for seq in 1..=3 {
        match pings.next().await.unwrap().unwrap().event {
            Some(v1::ping_response::Event::Pong(pong)) => assert_eq!(pong.seq, seq),
            other => panic!("{other:?}"),
        }
    }
    drop(pings);
    let cancelled = || Key::Named("cancelled/CANCELLED".into());
    eventually(|| async { world.bus.get(cancelled()).await.unwrap() }).await;
}

#[tokio::test]
async fn draining_ends_streams_and_refuses_what_is_new() {
    let mut world = World::new();
    world.worker().await;
    let request = v1::SubscribeRequest { topic: "demo".into(), ..Default::default() };
    let mut client = world.subscribe(request.clone()).await.unwrap();
    client.start().await;
    world.stop.cancel();
    match client.next().await {
        Some(Err(status)) => {
            let error = error::from_status(&status);
            assert_eq!(error.reason, "DRAINING");
            assert!(error.retry_after.is_some() && error.metadata.contains_key("resume"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(reason(world.subscribe(request).await.map(|_| ())), "DRAINING");
    assert_eq!(reason(world.publish("", "demo", "x").await), "DRAINING");
}

#[tokio::test]
async fn what_is_wrong_is_refused_before_anybody_is_asked() {
    let world = World::new();
    let publish = |edit: &dyn Fn(&mut v1::PublishRequest)| {
        let mut request = v1::PublishRequest { node: "n".into(), topic: "t".into(), ..Default::default() };
        edit(&mut request);
        Request::new(request)
    };
    let large = Some(v1::publish_request::Payload::Data(vec![0; (1 << 20) + 1].into()));
    let table: [(&str, Request<v1::PublishRequest>); 8] = [
        ("BAD_TOPIC", publish(&|r| r.topic.clear())),
        ("BAD_TOPIC", publish(&|r| r.topic = "x".repeat(1025))),
        ("MESSAGE_TOO_LARGE", publish(&|r| r.payload = large.clone())),
        ("FIELD_INVALID", publish(&|r| r.level = 15)),
        ("FIELD_INVALID", publish(&|r| r.min_peers = 1001)),
        ("FIELD_INVALID", publish(&|r| r.timeout = Some(prost_types::Duration { seconds: 61, nanos: 0 }))),
        ("FIELD_INVALID", publish(&|r| r.producer = "p".into())),
        ("FIELD_INVALID", publish(&|r| r.request_id = "\n".into())),
    ];
    for (expected, request) in table {
        let error = error::from_status(&world.service.publish(request).await.unwrap_err());
        assert_eq!(error.reason, expected, "{error:?}");
    }
    let connect = |peer: &str, address: &str| {
        let addresses = vec![address.to_owned()];
        Request::new(v1::ConnectRequest {
            node: "n".into(),
            peer: peer.into(),
            addresses,
            ..Default::default()
        })
    };
    assert_eq!(reason(world.service.connect(connect("bob", "/ip4/1.2.3.4/tcp/1")).await), "BAD_PEER_ID");
    assert_eq!(reason(world.service.connect(connect("/ip4/1.2.3.4/tcp/1", "/x")).await), "BAD_PEER_ID");
    assert_eq!(reason(world.service.connect(connect(PEER, "1.2.3.4")).await), "BAD_MULTIADDR");
    let request = v1::CreateNodeRequest { id: "A".into(), ..Default::default() };
    assert_eq!(reason(world.service.create_node(Request::new(request)).await), "FIELD_INVALID");
    let request = v1::ListTopicsRequest { page_size: -1, ..Default::default() };
    assert_eq!(reason(world.service.list_topics(Request::new(request)).await), "FIELD_INVALID");
}

#[test]
fn the_contract_says_what_may_be_repeated() {
    for method in
        ["plexus.v1.TopicService/GetTopic", "plexus.v1.PeerService/Connect", "plexus.bus.v1.Owner/Join"]
    {
        assert!(idempotent(method), "{method}");
    }
    for method in ["plexus.v1.TopicService/Publish", nodes::CREATE] {
        assert!(!idempotent(method), "{method}");
    }
}

/// A status that an owner wrote is shown while it owns the node.
#[tokio::test]
async fn a_status_is_shown_while_its_owner_is_there() {
    let mut world = World::new();
    world.node("n").await;
    world.owner("n").await;
    let grant = world.bus.owner(&name("n")).await.unwrap().unwrap().grant;
    let status =
        v1::NodeStatus { state: State::Running.into(), epoch: grant.epoch, topics: 4, ..Default::default() };
    let state = NodeState { status: Some(status), ..NodeState::default() };
    assert!(world.bus.put_state(&name("n"), grant, state.encode_to_vec().into()).await.unwrap());
    let status = world.get("n").await.unwrap().status.unwrap();
    assert_eq!((status.state(), status.topics, status.worker.as_str()), (State::Running, 4, "w1"));
}
