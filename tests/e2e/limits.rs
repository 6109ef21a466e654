//! Every limit of the edge on every dialect that it applies to: the same reason, and when to come back.

use crate::{
    access::{grants, kept},
    dialects::{
        Client, Dialect,
        rpc::{Failure, Rpc},
        ws::{Heard, Session, Terms},
    },
};
use futures::{StreamExt, future::join_all};
use http::{Method as Verb, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use plexus_gateway::{
    config::{Config, Mode},
    key::{self, File},
};
use plexus_tests::{Cluster, eventually};
use serde_json::{Value, json};
use std::{net::SocketAddr, time::Duration};
use tokio::{net::TcpStream, task::JoinSet};

const PATIENCE: Duration = Duration::from_secs(30);

/// One limit: what makes it small, what goes over it, and what is told.
struct Row {
    name: &'static str,
    change: fn(&mut Config),
    /// The first that a dialect takes.
    methods: [&'static str; 2],
    request: fn() -> Value,
    code: &'static str,
    reason: &'static str,
    metadata: &'static [(&'static str, &'static str)],
    retry: bool,
}

const EXHAUSTED: &str = "resource_exhausted";
const PUBLISH: [&str; 2] = ["TopicService/Publish", "TopicService/Subscribe"];
const READ: [&str; 2] = ["NodeService/ListNodes", "NodeService/WatchNodes"];

fn nothing() -> Value {
    json!({})
}

/// With forwarders named, loopback counts as any other address.
fn counts_loopback(config: &mut Config) {
    config.forwarders.trusted = vec!["192.0.2.0/24".into()];
}

const ROWS: [Row; 3] = [
    Row {
        name: "calls of an address",
        change: |c| {
            counts_loopback(c);
            (c.rate.address_per_second, c.rate.address_burst) = (1, 2);
        },
        methods: READ,
        request: nothing,
        code: EXHAUSTED,
        reason: "RATE_LIMITED",
        metadata: &[("bucket", "address"), ("limit", "1")],
        retry: true,
    },
    Row {
        name: "bytes of a request",
        change: |c| (c.limits.body_bytes_max, c.limits.message_bytes_max) = (1_000, 1_000),
        methods: PUBLISH,
        request: || json!({"topic": "a", "text": "x".repeat(2_000)}),
        code: EXHAUSTED,
        reason: "MESSAGE_TOO_LARGE",
        metadata: &[("limit", "1000")],
        retry: false,
    },
    Row {
        name: "topics of a subscription",
        change: |c| c.router.subscription_topics_max = 2,
        methods: ["TopicService/Subscribe", "TopicService/Subscribe"],
        request: || json!({"topics": ["a", "b", "c"]}),
        code: EXHAUSTED,
        reason: "SUBSCRIPTION_LIMIT",
        metadata: &[("limit", "2")],
        retry: false,
    },
];

/// Calls until it is refused, one connection a call.
async fn until_refused(address: SocketAddr, dialect: Dialect, rpc: &Rpc, request: &Value) -> Failure {
    for _ in 0..100 {
        if let Err(failure) = Client::new(address, dialect).call(rpc, request, 1).await {
            return failure;
        }
    }
    panic!("{dialect:?}: never refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_over_a_limit_is_told_alike_in_every_dialect() {
    let mut cluster = Cluster::of(0, 1).await;
    for row in &ROWS {
        let mut asked = 0;
        for dialect in Dialect::ALL {
            let methods = row.methods.map(Rpc::named);
            // A frame of a session that is too large ends the session: tests/e2e/websocket.rs.
            let session = matches!(dialect, Dialect::WebSocketJson | Dialect::WebSocketProto);
            let Some(rpc) = methods.iter().find(|rpc| dialect.takes(rpc)) else { continue };
            if row.reason == "MESSAGE_TOO_LARGE" && (session || rpc.streams) {
                continue;
            }
            asked += 1;
            // Each dialect meets a gateway that nobody has called yet.
            let address = cluster.add_gateway_with(row.change).await;
            let failure = until_refused(address, dialect, rpc, &(row.request)()).await;
            let what = format!("{} in {dialect:?}: {failure:?}", row.name);
            assert_eq!((&*failure.code, &*failure.reason), (row.code, row.reason), "{what}");
            let facts: Vec<_> =
                row.metadata.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            assert_eq!(failure.metadata, facts, "{what}");
            assert_eq!(failure.retry_after_ms.is_some(), row.retry, "{what}");
        }
        assert!(asked >= 5, "{}", row.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_connections_are_told_in_every_dialect() {
    const MOST: usize = 8;
    let mut cluster = Cluster::of(0, 0).await;
    let change = |c: &mut Config| {
        counts_loopback(c);
        c.limits.connections_per_address_max = MOST;
    };
    let address = cluster.add_gateway_with(change).await;
    let held = join_all((0..MOST).map(|_| TcpStream::connect(address))).await;
    assert!(held.iter().all(Result::is_ok));
    let methods = READ.map(Rpc::named);
    for dialect in Dialect::ALL {
        if matches!(dialect, Dialect::WebSocketJson | Dialect::WebSocketProto) {
            let protocol =
                if dialect == Dialect::WebSocketJson { "plexus.v1.json" } else { "plexus.v1.proto" };
            let mut session = Session::open(address, Some(protocol)).await;
            let (_, heard) = session.hear().await;
            let Heard::Close { code, reason, retry_after_ms, .. } = heard else {
                panic!("{dialect:?}: {heard:?}")
            };
            assert_eq!((code, &*reason), (3504, "CONNECTION_LIMIT"), "{dialect:?}");
            assert!(retry_after_ms > 0);
            continue;
        }
        let rpc = methods.iter().find(|rpc| dialect.takes(rpc)).unwrap();
        let failure = Client::new(address, dialect).call(rpc, &json!({}), 1).await.unwrap_err();
        assert_eq!(failure.told(), (EXHAUSTED, "CONNECTION_LIMIT", &[][..]), "{dialect:?}");
        assert_eq!(failure.metadata, [("limit".to_owned(), MOST.to_string())], "{dialect:?}");
        assert!(failure.retry_after_ms.is_some_and(|ms| ms >= 1_000), "{dialect:?}");
    }
    drop(held);
    let (client, request) = (Client::new(address, Dialect::Rest), json!({}));
    eventually(PATIENCE, || async { client.call(&methods[0], &request, 1).await.map(drop) }).await;
}

/// Watches and subscriptions of one HTTP/2 connection, as lines of JSON: status and first line of each.
async fn streams(address: SocketAddr, paths: &[&str]) -> Vec<(u16, Value)> {
    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { drop(connection.await) });
    let (mut seen, mut open) = (Vec::new(), Vec::new());
    for path in paths {
        let request = Request::builder().method(Verb::GET).uri(format!("http://{address}{path}"));
        let request = request.header("accept", "application/x-ndjson").body(Full::<bytes::Bytes>::default());
        let (head, mut body) = send.send_request(request.unwrap()).await.unwrap().into_parts();
        let first = tokio::time::timeout(PATIENCE, body.frame()).await.unwrap().unwrap().unwrap();
        let text = first.into_data().unwrap();
        let line = text.split(|b| *b == b'\n').next().unwrap();
        seen.push((head.status.as_u16(), serde_json::from_slice(line).unwrap_or_default()));
        open.push(body);
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn the_streams_of_a_connection_share_its_limits() {
    let mut cluster = Cluster::of(0, 1).await;
    let change = |c: &mut Config| (c.router.subscription_topics_max, c.router.watches_max) = (3, 1);
    let address = cluster.add_gateway_with(change).await;
    let topics = |topic: &str| format!("/v1/topics/{topic}/messages");
    let [a, b, c, d] = ["a", "b", "c", "d"].map(topics);
    for (paths, field) in [(vec![&*a, &*b, &*c, &*d], "topics"), (vec!["/v1/nodes", "/v1/nodes"], "")] {
        let seen = streams(address, &paths).await;
        let (last, before) = seen.split_last().unwrap();
        assert!(before.iter().all(|(status, _)| *status == 200), "{seen:?}");
        let problem = &last.1;
        assert_eq!((last.0, &problem["reason"]), (429, &json!("SUBSCRIPTION_LIMIT")), "{seen:?}");
        assert_eq!(problem["violations"][0]["field"].as_str().unwrap_or_default(), field);
    }
    for protocol in ["plexus.v1.json", "plexus.v1.proto"] {
        let mut session = Session::open(address, Some(protocol)).await;
        let (subscribe, watch) = (Rpc::named("TopicService/Subscribe"), Rpc::named("NodeService/WatchNodes"));
        for (id, rpc, request) in [
            (1, &subscribe, json!({"topics": ["a", "b"]})),
            (2, &watch, json!({})),
            (3, &subscribe, json!({"topics": ["c", "d"]})),
            (4, &watch, json!({})),
        ] {
            session.begin(id, rpc, &request, &Terms::default()).await;
            if id > 2 {
                let failure = loop {
                    match session.hear().await {
                        (of, Heard::Failed(failure)) if of == id => break failure,
                        (_, Heard::Answer(..)) => {}
                        other => panic!("{other:?}"),
                    }
                };
                assert_eq!(failure.reason, "SUBSCRIPTION_LIMIT", "{protocol}");
            } else {
                while !matches!(session.hear().await, (of, Heard::Answer(..)) if of == id) {}
            }
        }
    }
    let seen = streams(address, &[&a, &b, &c]).await;
    assert!(seen.iter().all(|(status, _)| *status == 200), "another connection has its own: {seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_and_sessions_of_a_caller_and_of_a_namespace_are_bounded_in_every_dialect() {
    let made = [(); 2].map(|()| key::make("default", grants(&[("*", "**")]), None).unwrap());
    let tokens = [0, 1].map(|i| kept(made[i].secret.clone()));
    let file = std::env::temp_dir().join(format!("plexus-{}-{}.toml", std::process::id(), made[0].line.id));
    let lines = File { keys: made.map(|made| made.line).into() };
    std::fs::write(&file, toml::to_string(&lines).unwrap()).unwrap();
    let mut cluster = Cluster::of(0, 1).await;
    let change = |c: &mut Config| {
        (c.auth.mode, c.auth.keys) = (Mode::On, file.to_str().unwrap().to_owned());
        (c.limits.open_per_caller_max, c.limits.open_per_namespace_max) = (2, 3);
    };
    let address = cluster.add_gateway_with(change).await;
    std::fs::remove_file(&file).unwrap();
    let rpc = Rpc::named("NodeService/WatchNodes");
    for dialect in Dialect::ALL.into_iter().filter(|dialect| dialect.takes(&rpc)) {
        let open = async |token| {
            let client = Client { token: Some(token), ..Client::new(address, dialect) };
            let mut answers = client.open(&rpc, &json!({})).await?;
            // Some dialects refuse a stream in its first word.
            answers.next().await.expect("an answer")?;
            Ok::<_, Failure>(answers)
        };
        // Those of the dialect before may take a moment to go.
        let mut held = Vec::new();
        for token in [tokens[0], tokens[0], tokens[1]] {
            held.push(eventually(PATIENCE, || open(token)).await);
        }
        for (token, bucket, limit) in [(tokens[0], "caller", "2"), (tokens[1], "namespace", "3")] {
            let Err(failure) = open(token).await else { panic!("{dialect:?}: one more of this {bucket}") };
            assert_eq!((&*failure.code, &*failure.reason), (EXHAUSTED, "CONNECTION_LIMIT"), "{dialect:?}");
            // A session tells why it is closed, and no facts.
            if !matches!(dialect, Dialect::WebSocketJson | Dialect::WebSocketProto) {
                let facts = [("bucket", bucket), ("limit", limit)].map(|(k, v)| (k.to_owned(), v.to_owned()));
                assert_eq!(failure.metadata, facts, "{dialect:?}");
                assert!(failure.retry_after_ms.is_some_and(|ms| ms >= 1_000), "{dialect:?}");
            }
        }
        held.pop();
        drop(eventually(PATIENCE, || open(tokens[1])).await);
    }
}
