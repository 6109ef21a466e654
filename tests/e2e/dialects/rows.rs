//! Every method, in every dialect of its kind. A method without a row fails, and so does a cell that was
//! not called. Each lane has a node of its own, and its answers are those of the others.

use super::{Client, Dialect, Lane, PATIENCE, rpc::Rpc};
use futures::future::join_all;
use plexus_tests::{Cluster, Http, Peer, eventually};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

/// Where a lane plays.
struct Place {
    node: String,
    peer: String,
    address: String,
    /// The API key, and the revocation, that were made last.
    made: String,
}

/// One method: what is asked, and what its first answer must have.
struct Row {
    method: &'static str,
    request: fn(&Place) -> Value,
    has: fn(&Place) -> Value,
    /// Answers taken at most.
    most: usize,
}

const fn row(method: &'static str, request: fn(&Place) -> Value, has: fn(&Place) -> Value) -> Row {
    Row { method, request, has, most: usize::MAX }
}

const TOPIC: &str = "rows/of é";
const NETWORK: &str = "203.0.113.0/24";

/// In an order in which each finds what it needs.
const ROWS: &[Row] = &[
    row(
        "NodeService/CreateNode",
        |p| json!({"id": p.node, "spec": {"labels": {"lane": "any"}}}),
        |p| json!({"id": p.node}),
    ),
    row("NodeService/GetNode", |p| json!({"node": p.node}), |p| json!({"id": p.node})),
    row("NodeService/ListNodes", |p| json!({"prefix": p.node}), |p| json!({"nodes": [{"id": p.node}]})),
    Row {
        method: "NodeService/WatchNodes",
        request: |p| json!({"nodes": [p.node]}),
        has: |p| json!({"change": "PRESENT", "node": {"id": p.node}}),
        most: 1,
    },
    row(
        "NodeService/UpdateNode",
        |p| json!({"node": p.node, "spec": {"labels": {"lane": "other"}}}),
        |_| json!({"spec": {"labels": {"lane": "other"}}}),
    ),
    row(
        "NodeService/AddBootstrap",
        |p| json!({"node": p.node, "addresses": [p.address]}),
        |p| json!({"entries": [{"address": p.address}]}),
    ),
    row(
        "NodeService/ListBootstrap",
        |p| json!({"node": p.node}),
        |p| json!({"entries": [{"address": p.address}]}),
    ),
    row("NodeService/RemoveBootstrap", |p| json!({"node": p.node, "all": true}), |_| json!({})),
    row("NodeService/StopNode", |p| json!({"node": p.node}), |_| json!({"spec": {"stopped": true}})),
    row("NodeService/StartNode", |p| json!({"node": p.node}), |p| json!({"id": p.node})),
    row("NodeService/RestartNode", |p| json!({"node": p.node}), |p| json!({"id": p.node})),
    row("NodeService/GetIdentity", |p| json!({"node": p.node}), |_| json!({"keyType": "ED25519"})),
    row(
        "PeerService/Connect",
        |p| json!({"node": p.node, "peer": p.peer, "addresses": [p.address], "timeout": "20s"}),
        |p| json!({"peer": p.peer, "state": "CONNECTED"}),
    ),
    row("PeerService/ListPeers", |p| json!({"node": p.node}), |p| json!({"peers": [{"peer": p.peer}]})),
    row("PeerService/CountPeers", |p| json!({"node": p.node}), |_| json!({"counts": {"connected": 1}})),
    row("PeerService/GetPeer", |p| json!({"node": p.node, "peer": p.peer}), |p| json!({"peer": p.peer})),
    row(
        "PeerService/Ping",
        |p| json!({"node": p.node, "peer": p.peer, "count": 2, "interval": "0.1s"}),
        |_| json!({"pong": {"seq": 1}}),
    ),
    row(
        "TopicService/PinTopic",
        |p| json!({"node": p.node, "topic": TOPIC, "policy": {"retention": {"messages": 10}}}),
        |_| json!({"topic": TOPIC, "pinned": true, "policy": {"retention": {"messages": 10}}}),
    ),
    row(
        "TopicService/Publish",
        |p| json!({"node": p.node, "topic": TOPIC, "text": "hello", "producer": "rows", "producerSeq": "7"}),
        |_| json!({"topic": TOPIC, "level": "LOGGED", "producerSeq": "7"}),
    ),
    row(
        "TopicService/Subscribe",
        |p| json!({"node": p.node, "topic": TOPIC, "after": "0", "limit": 1}),
        |_| json!({"start": {"topic": TOPIC}}),
    ),
    row(
        "TopicService/ListMessages",
        |p| json!({"node": p.node, "topic": TOPIC, "view": "TEXT"}),
        |_| json!({"messages": [{"text": "hello", "origin": "LOCAL", "producer": "rows"}]}),
    ),
    row("TopicService/GetTopic", |p| json!({"node": p.node, "topic": TOPIC}), |_| json!({"topic": TOPIC})),
    row(
        "TopicService/ListTopics",
        |p| json!({"node": p.node, "prefix": "rows/"}),
        |_| json!({"topics": [{"topic": TOPIC, "pinned": true}]}),
    ),
    row("TopicService/ListTopicPeers", |p| json!({"node": p.node, "topic": TOPIC}), |_| json!({})),
    row("TopicService/UnpinTopic", |p| json!({"node": p.node, "topic": TOPIC, "purge": true}), |_| json!({})),
    row(
        "PeerService/Block",
        |p| json!({"node": p.node, "entry": NETWORK, "comment": "a test", "ttl": "600s"}),
        |_| json!({"entry": NETWORK, "comment": "a test"}),
    ),
    row(
        "PeerService/ListBlocks",
        |p| json!({"node": p.node}),
        |_| json!({"blocks": [{"entry": NETWORK, "comment": "a test"}]}),
    ),
    row("PeerService/Unblock", |p| json!({"node": p.node, "entry": NETWORK}), |_| json!({})),
    row("PeerService/Disconnect", |p| json!({"node": p.node, "peer": p.peer}), |_| json!({})),
    row(
        "NodeService/ExplainPlacement",
        |p| json!({"node": p.node}),
        |_| json!({"worker": "worker-1", "candidates": [{"worker": "worker-1", "eligible": true}]}),
    ),
    row("NodeService/MoveNode", |p| json!({"node": p.node, "worker": "worker-1"}), |p| json!({"id": p.node})),
    row(
        "AdminService/DrainWorker",
        |_| json!({"worker": "worker-1", "undo": true}),
        |_| json!({"worker": "worker-1", "state": "READY"}),
    ),
    row(
        "AdminService/ListWorkers",
        |_| json!({"state": "READY"}),
        |_| json!({"workers": [{"worker": "worker-1", "state": "READY", "capacity": 2000}]}),
    ),
    row("AdminService/GetWorker", |_| json!({"worker": "worker-1"}), |_| json!({"worker": "worker-1"})),
    row("AdminService/ListGateways", |_| json!({}), |_| json!({"gateways": [{"ready": true}]})),
    row("AdminService/GetVersion", |_| json!({}), |_| json!({"api": ["plexus.v1"]})),
    row(
        "AdminService/CreateApiKey",
        |p| json!({"namespace": p.node, "grants": [{"verbs": ["read"], "resources": ["nodes/a"]}]}),
        |p| json!({"namespace": p.node}),
    ),
    row(
        "AdminService/ListApiKeys",
        |p| json!({"namespace": p.node}),
        |p| json!({"apiKeys": [{"apiKey": p.made}]}),
    ),
    row("AdminService/DeleteApiKey", |p| json!({"api_key": p.made}), |_| json!({})),
    row(
        "AdminService/Revoke",
        |p| json!({"namespace": p.node, "subject": "ann", "comment": "a test"}),
        |_| json!({"subject": "ann", "comment": "a test"}),
    ),
    row(
        "AdminService/ListRevocations",
        |p| json!({"namespace": p.node}),
        |p| json!({"revocations": [{"revocation": p.made}]}),
    ),
    row("AdminService/DeleteRevocation", |p| json!({"revocation": p.made}), |_| json!({})),
    row("NodeService/DeleteNode", |p| json!({"node": p.node}), |_| json!({})),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_method_answers_alike_in_every_dialect_of_its_kind() {
    let rpcs = Rpc::all();
    let named: BTreeSet<&str> = rpcs.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(ROWS.iter().map(|r| r.method).collect::<BTreeSet<_>>(), named, "each method has one row");
    let cluster = Cluster::one().await;
    let address = cluster.gateways[0].0;
    let peer = Peer::start().await;
    let played = join_all(Lane::ALL.iter().map(|lane| play(address, lane, &peer))).await;
    let called: BTreeSet<(String, Dialect)> = played.iter().flat_map(|(cells, _)| cells.clone()).collect();
    let all = rpcs
        .iter()
        .flat_map(|r| Dialect::ALL.into_iter().filter(|d| d.takes(r)).map(|d| (r.name.clone(), d)));
    let missing: Vec<_> = all.filter(|cell| !called.contains(cell)).collect();
    assert!(missing.is_empty(), "never called: {missing:?}");
    let (_, first) = &played[0];
    for (lane, (_, answers)) in Lane::ALL.iter().zip(&played).skip(1) {
        for (method, answer) in answers {
            assert_eq!(answer, &first[method], "{method}: {} and {} differ", lane.name, Lane::ALL[0].name);
        }
    }
}

type Played = (Vec<(String, Dialect)>, BTreeMap<&'static str, Value>);

/// Calls every row on a node of the lane's own.
async fn play(address: SocketAddr, lane: &Lane, peer: &Peer) -> Played {
    let mut place = Place {
        node: format!("{}-node", lane.name),
        peer: peer.id.to_string(),
        address: peer.address.to_string(),
        made: String::new(),
    };
    let (mut cells, mut answers, mut epoch) = (Vec::new(), BTreeMap::new(), 0);
    for row in ROWS {
        let rpc = Rpc::named(row.method);
        let client = Client::new(address, lane.dialect(&rpc));
        let answer = client.call(&rpc, &(row.request)(&place), row.most).await;
        let answer = answer.unwrap_or_else(|e| panic!("{} in {:?}: {e:?}", row.method, client.dialect));
        let made = answer[0].get("apiKey").or_else(|| answer[0].get("revocation"));
        if let Some(made) = made {
            place.made = made.as_str().unwrap().into();
        }
        let has = (row.has)(&place);
        assert!(
            contains(&answer[0], &has),
            "{} in {:?}: {has} is not in {answer:?}",
            row.method,
            client.dialect
        );
        answers.insert(row.method, mask(&Value::Array(answer), &place));
        cells.push((rpc.name, client.dialect));
        epoch = match row.method {
            "NodeService/StopNode" => settled(address, &place.node, "STOPPED", 0).await,
            "NodeService/StartNode" => settled(address, &place.node, "RUNNING", 0).await,
            "NodeService/RestartNode" => settled(address, &place.node, "RUNNING", epoch + 1).await,
            _ => epoch,
        };
    }
    (cells, answers)
}

/// Waits until a node is what it shall be; answers its epoch, which is at least `epoch`.
async fn settled(address: SocketAddr, node: &str, state: &str, epoch: u64) -> u64 {
    eventually(PATIENCE, || async {
        let node = Http::new(address).get(&format!("/v1/nodes/{node}")).await?.ok()?;
        let now = node["status"]["epoch"].as_str().map_or(0, |e| e.parse().unwrap());
        anyhow::ensure!(node["status"]["state"] == state && now >= epoch, "{node}");
        Ok(now)
    })
    .await
}

/// Tells whether everything in `part` is in `whole` as well.
pub(super) fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(name, value)| whole.get(name).is_some_and(|w| contains(w, value)))
        }
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() >= part.len() && whole.iter().zip(part).all(|(w, p)| contains(w, p))
        }
        (whole, part) => whole == part,
    }
}

/// Differ from node to node: only that they are there is compared.
const OWN: [&str; 32] = [
    "acceptedAt",
    "after",
    "apiKey",
    "avg",
    "bytesIn",
    "bytesOut",
    "createdAt",
    "epoch",
    "etag",
    "expiresAt",
    "externalAddresses",
    "id",
    "listenAddresses",
    "max",
    "min",
    "oldest",
    "openedAt",
    "peerId",
    "peerIdBase36",
    "peerIdCid",
    "position",
    "receipt",
    "receivedAt",
    "resume",
    "revocation",
    "rtt",
    "secret",
    "signedPeerRecord",
    "t",
    "top",
    "until",
    "updatedAt",
];

/// Depend on the moment: not compared.
const FLEETING: [&str; 14] = [
    "byAgent",
    "byProtocol",
    "byTransport",
    "closed",
    "connected",
    "connections",
    "counts",
    "identifiedAt",
    "joined",
    "latency",
    "observedAddresses",
    "score",
    "seqno",
    "status",
];
/// The same: what the node learned of the peer, and when.
const LEARNED: [&str; 10] = [
    "agentVersion",
    "author",
    "lastSuccessAt",
    "meshPeers",
    "observedAt",
    "peers",
    "protocols",
    "publicKey",
    "readers",
    "revision",
];

/// The same where it is no list: counts of a moment.
const COUNTED: [&str; 8] =
    ["cpu", "leaseUntil", "memoryBytes", "nodes", "preference", "room", "sessions", "topics"];

/// Leaves what must be alike.
fn mask(value: &Value, place: &Place) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(k, v)| {
                let counted = COUNTED.contains(&k.as_str()) && !v.is_array();
                !counted && !FLEETING.contains(&k.as_str()) && !LEARNED.contains(&k.as_str())
            });
            let masked = kept.map(|(name, value)| {
                let own = OWN.contains(&name.as_str()) && !value.is_null();
                (name.clone(), if own { json!("own") } else { mask(value, place) })
            });
            Value::Object(masked.collect())
        }
        Value::Array(values) => values.iter().map(|v| mask(v, place)).collect(),
        Value::String(text) => Value::String(text.replace(&place.node, "the node")),
        other => other.clone(),
    }
}
