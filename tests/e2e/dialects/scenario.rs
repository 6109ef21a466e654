//! One story in every dialect: a node, a foreign peer, messages both ways, history, resuming, and what
//! can go wrong. Each lane plays it on a node of its own with a peer of its own.

use super::{Client, Dialect, Lane, rows::contains, rpc::Failure, rpc::Rpc};
use futures::{StreamExt, future::join_all};
use plexus_bus::{NodeName, Subject};
use plexus_proto::reason;
use plexus_tests::{Cluster, Peer, eventually};
use serde_json::{Value, json};
use std::{net::SocketAddr, time::Duration};

const PATIENCE: Duration = Duration::from_secs(20);

/// A lane at work.
#[derive(Clone, Copy)]
struct Player {
    address: SocketAddr,
    lane: Lane,
}

impl Player {
    fn client(&self, rpc: &Rpc) -> Client {
        Client::new(self.address, self.lane.dialect(rpc))
    }

    /// Makes a unary call.
    async fn ask(&self, method: &str, request: Value) -> Result<Value, Failure> {
        let rpc = Rpc::named(method);
        Ok(self.client(&rpc).call(&rpc, &request, 1).await?.remove(0))
    }

    /// Makes a unary call that must succeed.
    async fn get(&self, method: &str, request: Value) -> Value {
        let answer = self.ask(method, request).await;
        answer.unwrap_or_else(|e| panic!("{method} by {}: {e:?}", self.lane.name))
    }

    /// Reads a stream to its end.
    async fn read(&self, method: &str, request: Value) -> Result<Vec<Value>, Failure> {
        let rpc = Rpc::named(method);
        self.client(&rpc).call(&rpc, &request, usize::MAX).await
    }
}

fn bytes(text: &str) -> String {
    data_encoding::BASE64.encode(text.as_bytes())
}

#[track_caller]
fn has(answer: &Value, part: Value) {
    assert!(contains(answer, &part), "{part} is not in {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_story_goes_alike_in_every_dialect() {
    let cluster = Cluster::one().await;
    let address = cluster.gateways[0].0;
    join_all(Lane::ALL.map(|lane| story(Player { address, lane }))).await;
}

async fn story(player: Player) {
    let node = format!("{}-story", player.lane.name);
    let created = player.get("NodeService/CreateNode", json!({"id": node})).await;
    let mut peer = Peer::start().await;
    peer.subscribe("talk").await;
    let connect = json!({"node": node, "peer": peer.id.to_string(), "addresses": [peer.address.to_string()]});
    has(&player.get("PeerService/Connect", connect).await, json!({"state": "CONNECTED"}));
    let subscribe = Rpc::named("TopicService/Subscribe");
    let talk = json!({"node": node, "topic": "talk"});
    let mut reader = player.client(&subscribe).open(&subscribe, &talk).await.unwrap();
    has(&reader.next().await.unwrap().unwrap(), json!({"start": {"topic": "talk"}}));
    eventually(PATIENCE, || async { if peer.mesh("talk").await == 1 { Ok(()) } else { Err("no mesh") } })
        .await;

    // From the client to the peer and the reader.
    let mut publish = talk.clone();
    publish["text"] = json!("from the client");
    publish["minPeers"] = json!(1);
    let receipt = player.get("TopicService/Publish", publish).await;
    has(&receipt, json!({"level": "LOGGED", "peers": 1}));
    let received = peer.receive().await;
    assert_eq!(received.data, b"from the client");
    assert_eq!(json!(received.author.unwrap().to_string()), created["peerId"]);
    let event = reader.next().await.unwrap().unwrap();
    let first = json!({"position": receipt["position"], "data": bytes("from the client"), "origin": "LOCAL"});
    has(&event, json!({ "message": first }));

    // From the peer to the reader.
    peer.publish("talk", "from the peer").await.unwrap();
    let event = reader.next().await.unwrap().unwrap();
    let second = json!({"data": bytes("from the peer"), "origin": "NETWORK", "author": peer.id.to_string()});
    has(&event, json!({ "message": second }));

    history(&player, &talk, &receipt["position"]).await;
    errors(&player, &node).await;
    player.get("NodeService/DeleteNode", json!({ "node": node })).await;
}

/// Reads back, and resumes after the first of five.
async fn history(player: &Player, talk: &Value, first: &Value) {
    for n in 3..=5 {
        let mut publish = talk.clone();
        publish["data"] = json!(bytes(&format!("number {n}")));
        player.get("TopicService/Publish", publish).await;
    }
    let mut list = talk.clone();
    list["view"] = json!("TEXT");
    let history = player.get("TopicService/ListMessages", list.clone()).await;
    let texts: Vec<_> = history["messages"].as_array().unwrap().iter().map(|m| &m["text"]).collect();
    assert_eq!(texts, ["from the client", "from the peer", "number 3", "number 4", "number 5"]);
    list["order"] = json!("NEWEST_FIRST");
    list["pageSize"] = json!(2);
    let page = player.get("TopicService/ListMessages", list).await;
    has(&page, json!({"messages": [{"text": "number 5"}, {"text": "number 4"}]}));
    assert_ne!(page["nextPageToken"], json!(""), "{page}");
    let mut resume = talk.clone();
    resume["after"] = first.clone();
    resume["limit"] = json!(4);
    let events = player.read("TopicService/Subscribe", resume).await.unwrap();
    assert_eq!(events.len(), 6, "{events:?}");
    has(&events[0], json!({"start": {"recovered": true, "position": first}}));
    for (event, text) in events[1..5].iter().zip(["from the peer", "number 3", "number 4", "number 5"]) {
        has(event, json!({"message": {"data": bytes(text)}}));
    }
    has(&events[5], json!({"end": {"reason": "LIMIT"}}));
}

/// What goes wrong, goes wrong alike: code, reason and the fields that are to blame.
async fn errors(player: &Player, node: &str) {
    let small = json!({"node": node, "topic": "small", "policy": {"validation": {"messageBytesMax": 16}}});
    player.get("TopicService/PinTopic", small).await;
    let stranger = libp2p::PeerId::random().to_string();
    let (at, talk) = (json!(node), "talk");
    let table = [
        ("NodeService/GetNode", json!({"node": "nowhere"}), "NODE_NOT_FOUND", None),
        (
            "TopicService/Publish",
            json!({"node": "nowhere", "topic": talk, "text": "x"}),
            "NODE_NOT_FOUND",
            None,
        ),
        ("TopicService/Subscribe", json!({"node": "nowhere", "topic": talk}), "NODE_NOT_FOUND", None),
        ("NodeService/CreateNode", json!({"id": at}), "NODE_EXISTS", None),
        ("NodeService/CreateNode", json!({"id": "Not An Id"}), "FIELD_INVALID", Some("id")),
        (
            "TopicService/Publish",
            json!({"node": at, "topic": talk, "text": "x", "minPeers": 5000}),
            "FIELD_INVALID",
            Some("minPeers"),
        ),
        ("TopicService/Publish", json!({"node": at, "topic": "~!", "text": "x"}), "BAD_TOPIC", Some("topic")),
        ("TopicService/Subscribe", json!({"node": at, "topic": "~!"}), "BAD_TOPIC", Some("topic")),
        (
            "TopicService/Subscribe",
            json!({"node": at, "topic": talk, "after": "yesterday"}),
            "BAD_POSITION",
            Some("after"),
        ),
        (
            "TopicService/ListMessages",
            json!({"node": at, "topic": talk, "after": "yesterday"}),
            "BAD_POSITION",
            Some("after"),
        ),
        (
            "TopicService/Publish",
            json!({"node": at, "topic": talk, "text": "x", "minPeers": 50, "timeout": "0.2s"}),
            "NOT_ENOUGH_PEERS",
            None,
        ),
        (
            "TopicService/Publish",
            json!({"node": at, "topic": "small", "text": "more than sixteen bytes"}),
            "MESSAGE_TOO_LARGE",
            None,
        ),
        ("TopicService/GetTopic", json!({"node": at, "topic": "never heard of"}), "TOPIC_NOT_FOUND", None),
        ("PeerService/GetPeer", json!({"node": at, "peer": "nobody"}), "BAD_PEER_ID", Some("peer")),
        ("PeerService/GetPeer", json!({"node": at, "peer": stranger}), "PEER_NOT_FOUND", None),
    ];
    for (method, request, wanted, field) in table {
        let failure = player.read(method, request.clone()).await.map(|a| panic!("{method} {request}: {a:?}"));
        told(player, method, failure, wanted, field);
    }
}

#[track_caller]
fn told(player: &Player, method: &str, failure: Result<(), Failure>, wanted: &str, field: Option<&str>) {
    let failure = failure.unwrap_err();
    let code = reason::by_name(wanted).unwrap().code.as_str();
    let fields: Vec<String> = field.map(str::to_owned).into_iter().collect();
    assert_eq!(failure.told(), (code, wanted, &fields[..]), "{method} by {}", player.lane.name);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_is_not_there_is_told_alike() {
    let cluster = Cluster::one().await;
    let mut rpc = Rpc::named("TopicService/GetTopic");
    rpc.name = "TopicService/Ponder".into();
    rpc.path = "/plexus.v1.TopicService/Ponder".into();
    for dialect in Dialect::ALL.into_iter().filter(|d| d.takes(&rpc) && *d != Dialect::Rest) {
        let failure = Client::new(cluster.gateways[0].0, dialect).call(&rpc, &json!({"topic": "x"}), 1).await;
        let failure = failure.unwrap_err();
        assert_eq!(failure.told(), ("unimplemented", "METHOD_NOT_FOUND", &[][..]), "{dialect:?}");
    }
    // REST has paths instead of methods.
    let problem = cluster.client().get("/v1/ponder").await.unwrap().json();
    assert_eq!(problem["reason"], "ROUTE_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_passes_is_told_alike() {
    let mut cluster = Cluster::of(1, 0).await;
    // Somebody takes the calls of the node, and never says a word.
    let node = NodeName::new("default", "deaf").unwrap();
    let bus = cluster.bus(plexus_tests::redis::Role::Worker).await;
    let _deaf = bus.subscribe(Subject::Calls(node)).await.unwrap();
    let ask = json!({"node": "deaf", "topic": "demo"});
    let quick = cluster.add_gateway_with(|c| c.limits.call_timeout = Duration::from_millis(600)).await;
    let patient = cluster.gateways[0].0;
    let rpc = Rpc::named("TopicService/GetTopic");
    for dialect in Dialect::ALL.into_iter().filter(|d| d.takes(&rpc)) {
        // REST has no word for a deadline; there the gateway's own holds.
        let (address, deadline) = match dialect {
            Dialect::Rest => (quick, None),
            _ => (patient, Some(Duration::from_millis(600))),
        };
        let client = Client { deadline, ..Client::new(address, dialect) };
        let failure = client.call(&rpc, &ask, 1).await.unwrap_err();
        assert_eq!(failure.told(), ("deadline_exceeded", "DEADLINE_EXCEEDED", &[][..]), "{dialect:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_over_the_limit_is_told_alike() {
    let cluster = Cluster::one().await;
    let rpc = Rpc::named("TopicService/Publish");
    let request = json!({"topic": "large", "text": "x".repeat(1_200_000)});
    for dialect in Dialect::ALL.into_iter().filter(|d| d.takes(&rpc)) {
        // A frame too large ends its session: that is told in `websocket`.
        if matches!(dialect, Dialect::WebSocketJson | Dialect::WebSocketProto) {
            continue;
        }
        let failure = Client::new(cluster.gateways[0].0, dialect).call(&rpc, &request, 1).await.unwrap_err();
        assert_eq!(failure.told(), ("resource_exhausted", "MESSAGE_TOO_LARGE", &[][..]), "{dialect:?}");
    }
}
