//! Streams and sessions that a gateway ends before their time say where they go on, in every dialect.

use crate::{
    bad_input::half::upgraded,
    dialects::{
        Client, Dialect,
        rpc::Rpc,
        ws::{Heard, Session, Terms},
    },
};
use futures::{SinkExt, StreamExt};
use http::Version;
use plexus_tests::{Cluster, Http};
use serde_json::{Value, json};
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{sync::Barrier, task::JoinSet};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

const PATIENCE: Duration = Duration::from_secs(30);

fn subscribe() -> Rpc {
    Rpc::named("TopicService/Subscribe")
}

async fn publish(address: SocketAddr, topic: &str, text: &str) {
    let path = format!("/v1/topics/{topic}/messages");
    Http::new(address).post(&path, &json!({"text": text})).await.unwrap().ok().unwrap();
}

fn text(answer: &Value) -> Option<String> {
    answer["message"]["text"].as_str().map(str::to_owned)
}

/// What a stream said before it was told to leave, and its token.
type Left = (Dialect, Vec<String>, String);

/// Follows two topics, hears what is there, and then waits to be told to leave.
async fn told_to_leave(client: Client, ready: Option<Arc<Barrier>>) -> Left {
    let request = json!({"topics": ["a", "b"], "after": "0", "view": "TEXT"});
    let mut answers = client.open(&subscribe(), &request).await.unwrap();
    let (mut heard, mut ready) = (Vec::new(), ready);
    let failure = loop {
        match tokio::time::timeout(PATIENCE, answers.next()).await.expect("the stream ends").unwrap() {
            Ok(answer) => heard.extend(text(&answer)),
            Err(failure) => break failure,
        }
        if heard.len() == 2
            && let Some(ready) = ready.take()
        {
            ready.wait().await;
        }
    };
    assert_eq!((&*failure.code, &*failure.reason), ("unavailable", "DRAINING"), "{client:?}");
    let token = failure.metadata.into_iter().find(|(name, _)| name == "resume");
    let (_, token) = token.unwrap_or_else(|| panic!("{client:?} is told no token"));
    (client.dialect, heard, token)
}

/// Follows on from a token, in the dialect that it came in, until everything was heard once.
async fn goes_on(address: SocketAddr, (dialect, mut heard, token): Left) {
    let request = json!({"topics": ["a", "b"], "resume": token, "view": "TEXT"});
    let mut answers = Client::new(address, dialect).open(&subscribe(), &request).await.unwrap();
    while heard.len() < 4 {
        let answer = tokio::time::timeout(PATIENCE, answers.next()).await.expect("the rest comes");
        heard.extend(text(&answer.unwrap().unwrap()));
    }
    heard.sort_unstable();
    assert_eq!(heard, ["a 1", "a 2", "b 1", "b 2"], "{dialect:?}");
}

fn dialects() -> impl Iterator<Item = Dialect> {
    Dialect::ALL.into_iter().filter(|dialect| dialect.takes(&subscribe()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_a_gateway_that_drains_goes_on_at_another_in_every_dialect() {
    let cluster = Cluster::of(2, 1).await;
    let [first, second] = [cluster.gateways[0].0, cluster.gateways[1].0];
    for topic in ["a", "b"] {
        publish(second, topic, &format!("{topic} 1")).await;
    }
    let (mut tasks, ready) = (JoinSet::new(), Arc::new(Barrier::new(1 + dialects().count())));
    for dialect in dialects() {
        tasks.spawn(told_to_leave(Client::new(first, dialect), Some(ready.clone())));
    }
    tokio::time::timeout(PATIENCE, ready.wait()).await.expect("all follow");
    cluster.gateways[0].1.stop.cancel();
    let tokens = tasks.join_all().await;
    for topic in ["a", "b"] {
        publish(second, topic, &format!("{topic} 2")).await;
    }
    for left in tokens {
        goes_on(second, left).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_a_connection_that_ages_goes_on_in_every_dialect_of_http2() {
    let mut cluster = Cluster::one().await;
    let fresh = cluster.gateways[0].0;
    let address =
        cluster.add_gateway_with(|c| c.limits.connection_age_max = Duration::from_millis(1500)).await;
    for topic in ["a", "b"] {
        publish(fresh, topic, &format!("{topic} 1")).await;
    }
    let mut tasks = JoinSet::new();
    let sessions = [Dialect::WebSocketJson, Dialect::WebSocketProto];
    for dialect in dialects().filter(|dialect| !sessions.contains(dialect)) {
        let client = Client { http2: true, ..Client::new(address, dialect) };
        tasks.spawn(told_to_leave(client, None));
    }
    tasks.spawn(session(address));
    let tokens = tasks.join_all().await;
    for topic in ["a", "b"] {
        publish(fresh, topic, &format!("{topic} 2")).await;
    }
    for left in tokens {
        goes_on(fresh, left).await;
    }
}

/// The same as [`told_to_leave`] by a session within HTTP/2.
async fn session(address: SocketAddr) -> Left {
    let mut tasks = JoinSet::new();
    let wire = upgraded(address, Version::HTTP_2, "json", &mut tasks).await;
    let mut socket = WebSocketStream::from_raw_socket(wire, Role::Client, None).await;
    let params = json!({"topics": ["a", "b"], "after": "0", "view": "TEXT"});
    let call = json!({"id": 1, "call": "TopicService.Subscribe", "params": params});
    socket.send(Message::Text(call.to_string().into())).await.unwrap();
    let mut heard = Vec::new();
    loop {
        let message = tokio::time::timeout(PATIENCE, socket.next()).await.expect("the session ends");
        let Message::Text(said) = message.unwrap().unwrap() else { continue };
        let frame: Value = serde_json::from_str(&said).unwrap();
        if let Some(close) = frame.get("close") {
            assert_eq!((&close["code"], &close["reason"]), (&json!(3001), &json!("DRAINING")));
            return (Dialect::WebSocketJson, heard, close["resume"].as_str().unwrap().to_owned());
        }
        heard.extend(text(&frame["event"]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_taken_up_goes_on_with_what_is_left_of_its_limit_in_either_form() {
    let cluster = Cluster::of(2, 1).await;
    let [first, second] = [cluster.gateways[0].0, cluster.gateways[1].0];
    for text in ["a 1", "a 2"] {
        publish(second, "a", text).await;
    }
    let mut sessions = Vec::new();
    for protocol in ["plexus.v1.json", "plexus.v1.proto"] {
        let mut session = Session::open(first, Some(protocol)).await;
        for (id, limit) in [(1, 3), (2, 2)] {
            let request = json!({"topic": "a", "after": "0", "view": "TEXT", "limit": limit});
            // The window lets the start and one message through; the next one is held back in the gateway.
            let terms = Terms { window: 2, ..Terms::default() };
            session.begin(id, &subscribe(), &request, &terms).await;
            assert_eq!(texts(&mut session, id, 1).await, ["a 1"]);
        }
        sessions.push(session);
    }
    cluster.gateways[0].1.stop.cancel();
    for text in ["a 3", "a 4"] {
        publish(second, "a", text).await;
    }
    for (mut session, protocol) in sessions.into_iter().zip(["plexus.v1.proto", "plexus.v1.json"]) {
        let token = loop {
            if let Heard::Close { resume, .. } = session.hear().await.1 {
                break resume;
            }
        };
        let mut session = Session::open(second, Some(protocol)).await;
        session.take_up(&token).await;
        let mut said = BTreeMap::from([(1, Vec::new()), (2, Vec::new())]);
        let mut ended = 0;
        while ended < 2 {
            match session.hear().await {
                (id, Heard::Answer(answer, false)) => {
                    let event = session.json(&subscribe(), &answer);
                    said.entry(id).or_default().extend(text(&event));
                    session.credit(id, 1).await;
                }
                (_, Heard::End(false)) => ended += 1,
                (_, Heard::Ping(_)) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(said[&1], ["a 2", "a 3"], "three in all");
        assert_eq!(said[&2], ["a 2"], "two in all");
    }
}

/// The texts of so many messages of one call.
async fn texts(session: &mut Session, of: u32, count: usize) -> Vec<String> {
    let mut said = Vec::new();
    while said.len() < count {
        match session.hear().await {
            (id, Heard::Answer(answer, false)) if id == of => {
                said.extend(text(&session.json(&subscribe(), &answer)));
            }
            (_, Heard::Answer(..) | Heard::Ping(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    said
}
