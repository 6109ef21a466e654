//! Readers that are cut off go on elsewhere: whole sessions by one frame, streams of text by their ids. No
//! message is missing, doubled or out of order, however many were missed.

use crate::dialects::{
    Client, Dialect,
    rpc::{Failure, Rpc},
    ws::{Heard, Session, Terms},
};
use plexus_tests::{Cluster, Http};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket},
    task::JoinSet,
};

/// Messages that are missed while nobody reads: far more than a page of the log or a reader's queue.
const MISSED: usize = 5_000;

fn subscribe() -> Rpc {
    Rpc::named("TopicService/Subscribe")
}

/// Publishes texts in order, many at once.
async fn publish(address: SocketAddr, topic: &str, texts: impl Iterator<Item = String>) {
    let mut session = Session::open(address, None).await;
    let mut open = 0;
    for (id, text) in (1_u32..).zip(texts) {
        let params = json!({"topic": topic, "text": text});
        session.say(json!({"id": id, "call": "TopicService.Publish", "params": params})).await;
        open += 1;
        if open == 200 {
            answered(&mut session, 100).await;
            open -= 100;
        }
    }
    answered(&mut session, open).await;
}

async fn answered(session: &mut Session, count: usize) {
    for _ in 0..count {
        match session.hear().await.1 {
            Heard::Answer(_, true) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Keeps more of a topic than is missed.
async fn keep(client: &Http, topic: &str) {
    let policy = json!({"policy": {"retention": {"messages": 2 * MISSED}}});
    client.put(&format!("/v1/topics/{topic}"), &policy).await.unwrap().ok().unwrap();
}

fn texts(topic: &str, range: std::ops::Range<usize>) -> impl Iterator<Item = String> {
    range.map(move |n| format!("{topic} {n:05}"))
}

/// The events of a session until every one of these topics has said so many texts; by call.
async fn read_on(session: &mut Session, wanted: &BTreeMap<u32, usize>) -> BTreeMap<u32, Vec<Value>> {
    let mut heard: BTreeMap<u32, Vec<Value>> = BTreeMap::new();
    let rpc = subscribe();
    let said = |events: &Vec<Value>| events.iter().filter(|e| e.get("message").is_some()).count();
    while wanted.iter().any(|(id, count)| heard.get(id).is_none_or(|events| said(events) < *count)) {
        match session.hear().await {
            (id, Heard::Answer(answer, false)) => {
                let event = session.json(&rpc, &answer);
                heard.entry(id).or_default().push(event);
            }
            (_, Heard::Ping(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    heard
}

/// What the messages among events say.
fn said(events: &[Value]) -> Vec<String> {
    let text = |event: &Value| event["message"]["text"].as_str().map(str::to_owned);
    events.iter().filter_map(text).collect()
}

/// Waits for the close of a session, and answers its code and its token.
async fn closed(session: &mut Session) -> (u32, String, u32, String) {
    loop {
        match session.hear().await.1 {
            Heard::Close { code, reason, retry_after_ms, resume } => {
                return (code, reason, retry_after_ms, resume);
            }
            Heard::Closed(code) => panic!("closed with {code:?} and without a word"),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_frame_takes_up_a_whole_session_on_another_gateway_in_either_form() {
    let cluster = Cluster::of(2, 1).await;
    let [first, second] = [cluster.gateways[0].0, cluster.gateways[1].0];
    for topic in ["a", "b", "c"] {
        publish(second, topic, texts(topic, 0..3)).await;
    }
    let mut tokens = Vec::new();
    for protocol in ["plexus.v1.json", "plexus.v1.proto"] {
        let mut session = Session::open(first, Some(protocol)).await;
        let both = json!({"topics": ["a", "b"], "after": "0", "view": "TEXT"});
        session.begin(7, &subscribe(), &both, &Terms::default()).await;
        let one = json!({"topic": "c", "after": "0", "view": "TEXT"});
        // The window lets four of this one's events through, and the fifth waits in the gateway.
        session.begin(99, &subscribe(), &one, &Terms { window: 3, ..Terms::default() }).await;
        let heard = read_on(&mut session, &BTreeMap::from([(7, 6), (99, 2)])).await;
        assert_eq!(said(&heard[&99]), ["c 00000", "c 00001"]);
        tokens.push((protocol, session));
    }
    cluster.gateways[0].1.stop.cancel();
    let mut former = Vec::new();
    for (protocol, mut session) in tokens {
        let (code, reason, wait, token) = closed(&mut session).await;
        assert_eq!((code, reason.as_str()), (3001, "DRAINING"));
        assert!(wait > 0 && !token.is_empty());
        former.push((protocol, token));
    }
    for topic in ["a", "b", "c"] {
        publish(second, topic, texts(topic, 3..6)).await;
    }
    for ((_, token), protocol) in former.iter().zip(["plexus.v1.proto", "plexus.v1.json"]) {
        let mut session = Session::open(second, Some(protocol)).await;
        session.take_up(token).await;
        session.begin(3, &subscribe(), &json!({"topic": "d"}), &Terms::default()).await;
        let heard = read_on(&mut session, &BTreeMap::from([(7, 6), (99, 2), (3, 0)])).await;
        let starts = heard[&7].iter().filter(|e| e["start"]["recovered"] == true).count();
        assert_eq!(starts, 2, "both topics go on: {heard:?}");
        let of = |topic: &str| -> Vec<String> {
            said(&heard[&7]).into_iter().filter(|text| text.starts_with(topic)).collect()
        };
        assert_eq!(of("a"), texts("a", 3..6).collect::<Vec<_>>());
        assert_eq!(of("b"), texts("b", 3..6).collect::<Vec<_>>());
        assert_eq!(said(&heard[&99]), ["c 00002", "c 00003"], "the one that was held back comes first");
        // What is open cannot be taken up twice.
        session.take_up(token).await;
        match session.hear().await {
            (0, Heard::Failed(Failure { reason, .. })) => assert_eq!(reason, "CALL_ID_IN_USE"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_subscriptions_token_takes_it_up_alone_and_any_request_takes_a_sessions() {
    let mut cluster = Cluster::one().await;
    let address = cluster.gateways[0].0;
    publish(address, "a", texts("a", 0..2)).await;
    let mut session = Session::open(address, None).await;
    let quiet = json!({"topic": "a", "after": "0", "view": "TEXT", "heartbeat": "1s"});
    session.begin(5, &subscribe(), &quiet, &Terms::default()).await;
    let token = loop {
        if let (5, Heard::Answer(event, false)) = session.hear().await {
            let event: Value = serde_json::from_slice(&event).unwrap();
            if let Some(token) = event["heartbeat"]["resume"].as_str() {
                break token.to_owned();
            }
        }
    };
    drop(session);
    let other = cluster.add_gateway().await;
    publish(address, "a", texts("a", 2..4)).await;
    let mut session = Session::open(other, None).await;
    session.take_up(&token).await;
    let heard = read_on(&mut session, &BTreeMap::from([(5, 2)])).await;
    assert_eq!(said(&heard[&5]), ["a 00002", "a 00003"]);
    for dialect in Dialect::ALL.into_iter().filter(|d| d.takes(&subscribe())) {
        let request = json!({"resume": token, "view": "TEXT", "limit": 2});
        let answers = Client::new(other, dialect).call(&subscribe(), &request, 3).await.unwrap();
        assert_eq!(said(&answers), ["a 00002", "a 00003"], "{dialect:?}");
    }
    // A token of no session has no call to begin.
    let path = "/v1/messages?topics=a&topics=b&after=0";
    let mut lines = Http::new(other).events(path, None).await.unwrap();
    let id = lines.event().await.unwrap().unwrap().id.unwrap();
    session.take_up(&id).await;
    assert_eq!(refused(&mut session).await, "BAD_RESUME_TOKEN");
}

async fn refused(session: &mut Session) -> String {
    match session.hear().await {
        (0, Heard::Failed(Failure { reason, .. })) => reason,
        other => panic!("{other:?}"),
    }
}

/// A file of two keys, and their secrets.
fn keys() -> (PathBuf, [String; 2]) {
    use plexus_gateway::{grant::Written, key};
    let all = || vec![Written { verbs: vec!["*".into()], resources: vec!["**".into()] }];
    let made = [(), ()].map(|()| key::make("default", all(), None).unwrap());
    let secrets = made.each_ref().map(|m| m.secret.clone());
    let path = std::env::temp_dir().join(format!("plexus-sessions-{}.toml", std::process::id()));
    let file = key::File { keys: made.into_iter().map(|m| m.line).collect() };
    std::fs::write(&path, toml::to_string(&file).unwrap()).unwrap();
    (path, secrets)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_not_good_is_refused_on_every_dialect() {
    let mut cluster = Cluster::one().await;
    let address = cluster.gateways[0].0;
    let secret = |c: &mut plexus_gateway::config::Config| c.resume.key = Some("k".repeat(32));
    let other_key = cluster.add_gateway_with(secret).await;
    publish(address, "a", texts("a", 0..2)).await;
    let mut lines = Http::new(address).events("/v1/messages?topics=a&topics=b", None).await.unwrap();
    let good = lines.event().await.unwrap().unwrap().id.unwrap();
    let mut tampered = good.clone().into_bytes();
    tampered[30] = if tampered[30] == b'A' { b'B' } else { b'A' };
    let tampered = String::from_utf8(tampered).unwrap();
    for dialect in Dialect::ALL.into_iter().filter(|d| d.takes(&subscribe())) {
        let topics = |token: &str| json!({"topics": ["a", "b"], "resume": token});
        let taken = Client::new(address, dialect).call(&subscribe(), &topics(&good), 1).await.unwrap();
        assert_eq!(taken[0]["start"]["recovered"], true, "{dialect:?}: {taken:?}");
        let bad =
            [(address, tampered.as_str()), (address, &good[..good.len() - 4]), (other_key, good.as_str())];
        for (address, token) in bad {
            let refused = Client::new(address, dialect).call(&subscribe(), &topics(token), 1).await;
            assert_eq!(refused.unwrap_err().reason, "BAD_RESUME_TOKEN", "{dialect:?} {token}");
        }
    }
    for (address, token) in [(address, tampered), (other_key, good)] {
        let mut session = Session::open(address, None).await;
        session.take_up(&token).await;
        assert_eq!(refused(&mut session).await, "BAD_RESUME_TOKEN");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_its_callers_alone_and_has_an_id_of_its_own() {
    let mut cluster = Cluster::one().await;
    let (path, secrets) = keys();
    let guarded = |c: &mut plexus_gateway::config::Config| {
        c.auth.mode = plexus_gateway::config::Mode::On;
        c.auth.keys = path.to_str().unwrap().into();
    };
    let address = cluster.add_gateway_with(guarded).await;
    std::fs::remove_file(&path).unwrap();
    let mut ids = BTreeSet::new();
    let mut tokens = Vec::new();
    for secret in &secrets {
        let mut session = Session::open(address, None).await;
        ids.insert(shown(&mut session, secret).await);
        session.begin(1, &subscribe(), &json!({"topic": "a", "heartbeat": "1s"}), &Terms::default()).await;
        loop {
            if let (1, Heard::Answer(event, false)) = session.hear().await {
                let event: Value = serde_json::from_slice(&event).unwrap();
                if let Some(token) = event["heartbeat"]["resume"].as_str() {
                    tokens.push(token.to_owned());
                    break;
                }
            }
        }
    }
    for (secret, token, good) in [
        (&secrets[0], &tokens[0], true),
        (&secrets[0], &tokens[1], false),
        (&secrets[1], &tokens[0], false),
        (&secrets[1], &tokens[1], true),
    ] {
        let mut session = Session::open(address, None).await;
        ids.insert(shown(&mut session, secret).await);
        session.take_up(token).await;
        match session.hear().await {
            (1, Heard::Answer(..)) => assert!(good),
            (0, Heard::Failed(Failure { reason, .. })) => {
                assert_eq!((reason.as_str(), good), ("BAD_RESUME_TOKEN", false))
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(ids.len(), 6, "every session has its own");
    assert!(ids.iter().all(|id| id.len() == 32), "{ids:?}");
}

/// Shows credentials and answers the session's id.
async fn shown(session: &mut Session, secret: &str) -> String {
    session.say(json!({"auth": {"token": secret}})).await;
    match session.hear().await.1 {
        Heard::Other(text) => {
            let frame: Value = serde_json::from_str(&text).unwrap();
            frame["authenticated"]["session"].as_str().unwrap_or_else(|| panic!("{text}")).to_owned()
        }
        other => panic!("{other:?}"),
    }
}

/// Reads a stream of text on, over whichever gateway lives, until so many messages came; answers their texts.
async fn follow(
    address: SocketAddr,
    sse: bool,
    place: &mut Option<String>,
    count: usize,
) -> Vec<(String, String)> {
    let (accept, mut path) = match sse {
        true => ("text/event-stream", "/v1/messages?topics=a&topics=b&view=TEXT&after=0".to_owned()),
        false => (
            "application/x-ndjson",
            "/v1/messages?topics=a&topics=b&view=TEXT&after=0&heartbeat=1s".to_owned(),
        ),
    };
    let mut headers = vec![("accept", accept)];
    let last = place.clone();
    match &last {
        Some(id) if sse => headers.push(("last-event-id", id.as_str())),
        // No header for this one: the token is a parameter.
        Some(token) => path.push_str(&format!("&resume={token}")),
        None => {}
    }
    let mut lines = Http::new(address).lines(&path, &headers).await.unwrap();
    let mut got = Vec::new();
    let mut topics = BTreeMap::new();
    loop {
        let (name, data, id) = match sse {
            true => {
                let event = lines.event().await.unwrap().unwrap();
                (event.event, event.data, event.id)
            }
            false => {
                let line = lines.json().await.unwrap().unwrap();
                let (name, data) = line.as_object().unwrap().iter().next().unwrap();
                let token = data["resume"].as_str().map(str::to_owned);
                (name.clone(), data.clone(), token)
            }
        };
        if let Some(id) = id {
            *place = Some(id);
        }
        match name.as_str() {
            "start" => {
                assert!(data["recovered"] == true || last.is_none(), "{data}");
                topics.insert(data["t"].clone().to_string(), data["topic"].as_str().unwrap().to_owned());
            }
            "message" => {
                let topic = topics[&data["t"].to_string()].clone();
                got.push((topic, data["text"].as_str().unwrap().to_owned()));
            }
            "gap" => panic!("a gap: {data}"),
            _ => {}
        }
        // A line has no id: its reader waits for a heartbeat, which has the token.
        if got.len() >= count && (sse || name == "heartbeat") {
            return got;
        }
    }
}

fn check(got: &[(String, String)], topic: &str, range: std::ops::Range<usize>) {
    let of: Vec<_> = got.iter().filter(|(t, _)| t == topic).map(|(_, text)| text.clone()).collect();
    assert!(of == texts(topic, range.clone()).collect::<Vec<_>>(), "{topic}: {} of {range:?}", of.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_missed_messages_come_without_a_reload_when_the_gateway_is_killed() {
    let mut cluster = Cluster::of(2, 1).await;
    let second = cluster.gateways[1].0;
    keep(&cluster.client(), "a").await;
    publish(second, "a", texts("a", 0..10)).await;
    publish(second, "b", texts("b", 0..10)).await;
    let (first, side) = cluster.gateways.remove(0);
    let (mut id, mut token) = (None, None);
    for (sse, place) in [(true, &mut id), (false, &mut token)] {
        let got = follow(first, sse, place, 20).await;
        check(&got, "a", 0..10);
        check(&got, "b", 0..10);
    }
    let mut session = Session::open(first, None).await;
    let both = json!({"topics": ["a", "b"], "after": "0", "view": "TEXT", "heartbeat": "1s"});
    session.begin(4, &subscribe(), &both, &Terms::default()).await;
    read_on(&mut session, &BTreeMap::from([(4, 20)])).await;
    let last = loop {
        if let (4, Heard::Answer(event, false)) = session.hear().await {
            let event: Value = serde_json::from_slice(&event).unwrap();
            if let Some(token) = event["heartbeat"]["resume"].as_str() {
                break token.to_owned();
            }
        }
    };
    side.kill().await;
    publish(second, "a", texts("a", 10..MISSED)).await;
    publish(second, "b", texts("b", 10..20)).await;
    for (sse, place) in [(true, &mut id), (false, &mut token)] {
        let got = follow(second, sse, place, MISSED).await;
        check(&got, "a", 10..MISSED);
        check(&got, "b", 10..20);
    }
    let mut session = Session::open(second, None).await;
    session.take_up(&last).await;
    let heard = read_on(&mut session, &BTreeMap::from([(4, MISSED)])).await;
    assert!(heard[&4].iter().all(|e| e.get("gap").is_none()));
    let of = |topic: &str| -> Vec<String> {
        said(&heard[&4]).into_iter().filter(|text| text.starts_with(topic)).collect()
    };
    assert!(of("a") == texts("a", 10..MISSED).collect::<Vec<_>>());
    assert_eq!(of("b"), texts("b", 10..20).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn all_readers_of_a_gateway_hear_the_same_number_of_a_topic() {
    let cluster = Cluster::one().await;
    let address = cluster.gateways[0].0;
    publish(address, "a", texts("a", 0..1)).await;
    let mut numbers = BTreeSet::new();
    for dialect in Dialect::ALL.into_iter().filter(|d| d.takes(&subscribe())) {
        let request = json!({"topics": ["other", "a"], "after": "0", "view": "TEXT", "limit": 1});
        let answers = Client::new(address, dialect).call(&subscribe(), &request, 4).await.unwrap();
        let message = answers.iter().find_map(|e| e.get("message")).unwrap_or_else(|| panic!("{answers:?}"));
        let start = answers.iter().find(|e| e["start"]["topic"] == "a").unwrap();
        assert_eq!(message["t"], start["start"]["t"], "{dialect:?}");
        numbers.insert(message["t"].as_u64().unwrap());
    }
    assert_eq!(numbers.len(), 1, "{numbers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_reads_too_slowly_is_closed_with_3008_and_goes_on_elsewhere() {
    let mut cluster = Cluster::one().await;
    let address = cluster.gateways[0].0;
    keep(&cluster.client(), "a").await;
    // The proxy passes on each message in many small reads, one after the other.
    let pad = "x".repeat(600 << 10);
    let count = 20;
    publish(address, "a", texts("a", 0..count).map(|text| format!("{text} {pad}"))).await;
    let slow = cluster
        .add_gateway_with(|c| {
            c.limits.session_pong_timeout = Duration::from_secs(1);
            c.limits.session_ping_interval = Duration::from_secs(600);
            c.limits.write_timeout = Duration::from_secs(3);
        })
        .await;
    let metrics = cluster.gateways[1].1.metrics.clone();
    let (narrow, _proxy) = slowly(slow, move || metrics.slow_sessions.get() == 0).await;
    let mut session = Session::open(narrow, None).await;
    let all =
        json!({"topic": "a", "after": "0", "view": "TEXT", "queueBytes": 4 << 20, "queueMessages": 4096});
    session.begin(6, &subscribe(), &all, &Terms::default()).await;
    let mut read = Vec::new();
    let (code, reason, wait, token) = loop {
        match session.hear().await.1 {
            Heard::Answer(event, false) => {
                let event: Value = serde_json::from_slice(&event).unwrap();
                read.extend(event["message"]["text"].as_str().map(|text| text[..7].to_owned()));
            }
            Heard::Close { code, reason, retry_after_ms, resume } => {
                break (code, reason, retry_after_ms, resume);
            }
            other => panic!("after {}: {other:?}", read.len()),
        }
    };
    println!("closed after {} messages", read.len());
    assert_eq!((code, reason.as_str()), (3008, "SLOW_READER"));
    assert!(wait >= 1_000 && read.len() < count, "{wait} {}", read.len());
    let mut session = Session::open(address, None).await;
    session.take_up(&token).await;
    let rest = read_on(&mut session, &BTreeMap::from([(6, count - read.len())])).await;
    read.extend(said(&rest[&6]).iter().map(|text| text[..7].to_owned()));
    assert!(read == texts("a", 0..count).collect::<Vec<_>>(), "nothing is missing or doubled");
}

/// Stands before a gateway and passes on what it says a little at a time, but never stands still, for as
/// long as that holds.
async fn slowly(
    gateway: SocketAddr,
    slow: impl Fn() -> bool + Send + Sync + 'static,
) -> (SocketAddr, JoinSet<std::io::Result<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, mut tasks) = (listener.local_addr().unwrap(), JoinSet::new());
    tasks.spawn(async move {
        let (client, _) = listener.accept().await?;
        let socket = TcpSocket::new_v4()?;
        // More than a segment of the loopback, or the kernel would take the window for shut.
        socket.set_recv_buffer_size(128 << 10)?;
        let (mut hear, mut say) = socket.connect(gateway).await?.into_split();
        let (mut from, mut to) = client.into_split();
        let said = tokio::io::copy(&mut from, &mut say);
        let heard = async {
            let mut piece = vec![0; 8 << 10];
            loop {
                let n = hear.read(&mut piece).await?;
                if n == 0 {
                    return to.shutdown().await;
                }
                to.write_all(&piece[..n]).await?;
                if slow() {
                    tokio::time::sleep(Duration::from_millis(100)).await; // the slowness that is tried
                }
            }
        };
        tokio::try_join!(async { said.await.map(drop) }, heard).map(drop)
    });
    (address, tasks)
}
