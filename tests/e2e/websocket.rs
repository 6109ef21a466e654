//! WebSocket sessions over real sockets: many calls on one, and how a session ends.

use crate::dialects::{
    rpc::{Failure, Rpc},
    ws::{Heard, Session, Terms},
};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use plexus_tests::{Cluster, eventually};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::{
        CloseFrame,
        frame::{
            Frame,
            coding::{CloseCode, Control, Data, OpCode},
        },
    },
};

const PATIENCE: Duration = Duration::from_secs(20);

/// What a session says about a call that went wrong.
#[track_caller]
fn reason(heard: Heard) -> String {
    match heard {
        Heard::Failed(Failure { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

fn json_of(bytes: &Bytes) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// The JSON of one event of a stream.
#[track_caller]
fn event(heard: &Heard) -> Value {
    match heard {
        Heard::Answer(json, false) => json_of(json),
        other => panic!("{other:?}"),
    }
}

/// Opens a subscription and waits for its start.
async fn follow(session: &mut Session, id: u32, params: Value, terms: &Terms) {
    session.begin(id, &Rpc::named("TopicService/Subscribe"), &params, terms).await;
    let (of, heard) = session.hear().await;
    assert_eq!(of, id);
    assert!(event(&heard).get("start").is_some(), "{heard:?}");
}

async fn publish(cluster: &Cluster, topic: &str, text: &str) {
    let path = format!("/v1/topics/{topic}/messages");
    cluster.client().post(&path, &json!({ "text": text })).await.unwrap().ok().unwrap();
}

/// Waits until the session is closed, and answers the close frame of ours and the code of the WebSocket.
async fn closed(session: &mut Session) -> (Option<(u32, String, u32)>, Option<u16>) {
    let mut said = None;
    loop {
        match session.hear().await.1 {
            Heard::Close { code, reason, retry_after_ms, .. } => said = Some((code, reason, retry_after_ms)),
            Heard::Closed(code) => return (said, code),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_and_streams_share_one_socket_in_both_forms() {
    let cluster = Cluster::one().await;
    let publish = Rpc::named("TopicService/Publish");
    for protocol in [None, Some("plexus.v1.json"), Some("plexus.v1.proto")] {
        let mut session = Session::open(cluster.gateways[0].0, protocol).await;
        let name = protocol.unwrap_or("none");
        let topics: Vec<String> = (0..4).map(|n| format!("{name}-{n}")).collect();
        let subscribe = Rpc::named("TopicService/Subscribe");
        for (id, topic) in (1..).zip(&topics) {
            session.begin(id, &subscribe, &json!({ "topic": topic }), &Terms::default()).await;
        }
        // A call waits for no other: starts come in any order.
        let mut events: BTreeMap<u32, usize> = BTreeMap::new();
        while events.len() < topics.len() {
            let (id, heard) = session.hear().await;
            assert!(matches!(heard, Heard::Answer(_, false)), "{heard:?}");
            *events.entry(id).or_default() += 1;
        }
        for n in 0..100 {
            let request = json!({"topic": topics[n % 4], "text": format!("number {n}")});
            session.begin(100 + n as u32, &publish, &request, &Terms::default()).await;
        }
        let mut results = 0;
        while results < 100 || events.values().sum::<usize>() < 4 + 100 {
            match session.hear().await {
                (100..200, Heard::Answer(_, true)) => results += 1,
                (id @ 1..=4, Heard::Answer(_, false)) => *events.entry(id).or_default() += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(events.values().all(|n| *n == 26), "{events:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_cancelled_by_its_id_and_the_others_go_on() {
    let cluster = Cluster::one().await;
    let mut session = Session::open(cluster.gateways[0].0, None).await;
    follow(&mut session, 1, json!({"topic": "a"}), &Terms::default()).await;
    follow(&mut session, 2, json!({"topic": "a"}), &Terms::default()).await;
    session.say(json!({"id": 1, "cancel": true})).await;
    assert_eq!(session.hear().await, (1, Heard::End(true)));
    publish(&cluster, "a", "still there").await;
    let (id, heard) = session.hear().await;
    assert_eq!((id, &event(&heard)["message"]["data"]), (2, &json!("c3RpbGwgdGhlcmU=")));
    // The id is free again, and a call that is over is cancelled all the same.
    follow(&mut session, 1, json!({"topic": "b"}), &Terms::default()).await;
    session.say(json!({"id": 77, "cancel": true})).await;
    assert_eq!(session.hear().await, (77, Heard::End(true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_in_use_and_a_call_too_many_are_refused_and_nothing_else_suffers() {
    let mut cluster = Cluster::one().await;
    let small = cluster.add_gateway_with(|c| c.limits.session_calls_max = 2).await;
    let mut session = Session::open(small, None).await;
    follow(&mut session, 1, json!({"topic": "a"}), &Terms::default()).await;
    session.say(json!({"id": 1, "call": "NodeService.ListNodes"})).await;
    let (id, heard) = session.hear().await;
    assert_eq!((id, reason(heard).as_str()), (1, "CALL_ID_IN_USE"));
    follow(&mut session, 2, json!({"topic": "a"}), &Terms::default()).await;
    session.say(json!({"id": 3, "call": "NodeService.ListNodes"})).await;
    let (id, heard) = session.hear().await;
    assert_eq!((id, reason(heard).as_str()), (3, "CALL_LIMIT"));
    session.say(json!({"call": "NodeService.ListNodes"})).await;
    let (id, heard) = session.hear().await;
    assert_eq!((id, reason(heard).as_str()), (0, "FIELD_INVALID"));
    session.say(json!({"id": 2, "cancel": true})).await;
    assert_eq!(session.hear().await, (2, Heard::End(true)));
    session.ask(3, "NodeService.ListNodes", json!({})).await.unwrap();
    publish(&cluster, "a", "x").await;
    assert_eq!(session.hear().await.0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_only_as_far_as_the_window_and_its_credit_reach() {
    let cluster = Cluster::one().await;
    for n in 0..10 {
        publish(&cluster, "w", &n.to_string()).await;
    }
    let mut session = Session::open(cluster.gateways[0].0, None).await;
    let terms = Terms { window: 3, ..Terms::default() };
    follow(&mut session, 1, json!({"topic": "w", "after": "0", "limit": 10}), &terms).await;
    // The start was the first of three.
    let mut seen = 0;
    let mut credit = 2;
    while seen < 10 {
        for _ in 0..credit {
            let (id, heard) = session.hear().await;
            assert_eq!(
                (id, &event(&heard)["message"]["data"]),
                (1, &json!(data_encoding::BASE64.encode(seen.to_string().as_bytes())))
            );
            seen += 1;
        }
        // Nothing is left that could come: answers to other calls overtake the events that are held back.
        for n in 0..5 {
            session
                .ask(9, "NodeService.GetNode", json!({"node": "default"}))
                .await
                .unwrap_or_else(|e| panic!("{n}: {e:?}"));
        }
        credit = (10 - seen).min(4);
        if credit > 0 {
            session.say(json!({"id": 1, "credit": credit})).await;
        }
    }
    // The `end` event is one more; the end of the call costs nothing.
    session.say(json!({"id": 1, "credit": 1})).await;
    let (_, heard) = session.hear().await;
    assert_eq!(event(&heard)["end"]["reason"], "LIMIT");
    assert_eq!(session.hear().await, (1, Heard::End(false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_are_answered_and_a_client_that_answers_none_is_closed() {
    let mut cluster = Cluster::one().await;
    let mut session = Session::open(cluster.gateways[0].0, None).await;
    session.say(json!({"ping": 7})).await;
    assert_eq!(session.hear().await, (0, Heard::Pong(7)));
    let eager = cluster
        .add_gateway_with(|c| {
            c.limits.session_ping_interval = Duration::from_millis(200);
            c.limits.session_pong_timeout = Duration::from_millis(400);
        })
        .await;
    let mut session = Session::open(eager, Some("plexus.v1.json")).await;
    // Any frame is an answer.
    for answer in [json!({"pong": 1}), json!({"ping": 1})] {
        loop {
            match session.hear().await.1 {
                Heard::Ping(_) => break,
                Heard::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
        session.say(answer).await;
    }
    let (said, code) = closed(&mut session).await;
    assert_eq!(said.map(|(code, reason, _)| (code, reason)), Some((3012, "PONG_MISSING".into())));
    assert_eq!(code, Some(3012));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_ping_of_a_burst_is_answered_in_order() {
    let cluster = Cluster::one().await;
    let address = cluster.gateways[0].0;
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut socket, _) =
        tokio_tungstenite::client_async(format!("ws://{address}/v1/ws"), stream).await.unwrap();
    let numbers = || (0..1000u32).map(|n| Bytes::from(n.to_string()));
    for number in numbers() {
        socket.feed(Message::Ping(number)).await.unwrap();
    }
    socket.flush().await.unwrap();
    for number in numbers() {
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong(number));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_of_the_wrong_kind_closes_with_1003() {
    let cluster = Cluster::one().await;
    let binary = Message::Binary(Bytes::from_static(b"\x08\x01"));
    let text = Message::Text("{}".into());
    for (protocol, message) in [("plexus.v1.json", binary), ("plexus.v1.proto", text)] {
        let mut session = Session::open(cluster.gateways[0].0, Some(protocol)).await;
        session.send(message).await;
        let (said, code) = closed(&mut session).await;
        assert_eq!(said.map(|(code, reason, _)| (code, reason)), Some((1003, "BAD_FRAME".into())));
        assert_eq!(code, Some(1003));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_websocket_closes_with_1002_and_text_that_is_none_with_1007() {
    let cluster = Cluster::one().await;
    let frame = |opcode, bytes: &'static [u8], last, extended| {
        let mut frame = Frame::message(bytes, OpCode::Data(Data::Text), last);
        // The library itself makes no such frames.
        (frame.header_mut().opcode, frame.header_mut().rsv1) = (opcode, extended);
        Message::Frame(frame)
    };
    let data = OpCode::Data;
    for (what, message, expected) in [
        ("an opcode that nobody knows", frame(data(Data::Reserved(3)), b"", true, false), 1002),
        ("a ping in two parts", frame(OpCode::Control(Control::Ping), b"", false, false), 1002),
        ("a bit of no extension", frame(data(Data::Text), b"{}", true, true), 1002),
        ("a continuation of nothing", frame(data(Data::Continue), b"x", true, false), 1002),
        ("text that is no UTF-8", frame(data(Data::Text), b"{\xff}", true, false), 1007),
    ] {
        let mut session = Session::open(cluster.gateways[0].0, None).await;
        session.send(message).await;
        assert_eq!(closed(&mut session).await, (None, Some(expected)), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_frame_is_told_and_closes_with_3501() {
    let cluster = Cluster::one().await;
    let text = |text: &str| Message::Text(text.into());
    let broken = [
        ("plexus.v1.json", text("{")),
        ("plexus.v1.json", text("[]")),
        ("plexus.v1.json", text(r#"{"id":1}"#)),
        ("plexus.v1.json", text(r#"{"id":-1,"cancel":true}"#)),
        ("plexus.v1.proto", Message::Binary(Bytes::from_static(b"\xff\xff"))),
        ("plexus.v1.proto", Message::Binary(Bytes::new())),
    ];
    for (protocol, message) in broken {
        let mut session = Session::open(cluster.gateways[0].0, Some(protocol)).await;
        session.send(message.clone()).await;
        let (id, heard) = session.hear().await;
        assert_eq!((id, reason(heard).as_str()), (0, "BAD_FRAME"), "{message:?}");
        let (said, code) = closed(&mut session).await;
        assert_eq!(said.map(|(code, reason, _)| (code, reason)), Some((3501, "BAD_FRAME".into())));
        assert_eq!(code, Some(3501));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn params_that_are_no_request_fail_their_call_alone() {
    let cluster = Cluster::one().await;
    let mut session = Session::open(cluster.gateways[0].0, None).await;
    session.say(json!({"id": 1, "call": "TopicService.Publish", "params": {"topic": 5}})).await;
    let (id, heard) = session.hear().await;
    assert_eq!((id, reason(heard).as_str()), (1, "BAD_JSON"));
    session.say(json!({"id": 2, "call": "TopicService.Ponder", "params": {}})).await;
    let (id, heard) = session.hear().await;
    assert_eq!((id, reason(heard).as_str()), (2, "METHOD_NOT_FOUND"));
    session.say(json!({"id": 3, "input": {}})).await;
    let (id, heard) = session.hear().await;
    assert_eq!((id, reason(heard).as_str()), (3, "BAD_FRAME"));
    session.ask(4, "plexus.v1.NodeService.ListNodes", json!({})).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_over_the_limit_closes_with_1009() {
    let cluster = Cluster::one().await;
    for (protocol, message) in [
        ("plexus.v1.json", Message::Text("x".repeat(2 << 20).into())),
        ("plexus.v1.proto", Message::Binary(vec![0; 2 << 20].into())),
    ] {
        let mut session = Session::open(cluster.gateways[0].0, Some(protocol)).await;
        session.send(message).await;
        let (said, code) = closed(&mut session).await;
        assert_eq!(said.map(|(code, reason, _)| (code, reason)), Some((1009, "MESSAGE_TOO_LARGE".into())));
        assert_eq!(code, Some(1009));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_drains_says_so_to_every_session() {
    let cluster = Cluster::one().await;
    let mut sessions = Vec::new();
    for protocol in ["plexus.v1.json", "plexus.v1.proto"] {
        let mut session = Session::open(cluster.gateways[0].0, Some(protocol)).await;
        let subscribe = Rpc::named("TopicService/Subscribe");
        session.begin(1, &subscribe, &json!({"topic": "d"}), &Terms::default()).await;
        assert!(matches!(session.hear().await, (1, Heard::Answer(_, false))));
        sessions.push(session);
    }
    let began = Instant::now();
    cluster.gateways[0].1.stop.cancel();
    for session in &mut sessions {
        let (said, code) = closed(session).await;
        println!("told of the drain after {:?}", began.elapsed());
        let (ours, reason, wait) = said.unwrap();
        assert_eq!((ours, reason.as_str(), code), (3001, "DRAINING", Some(3001)));
        assert!((1..=10_000).contains(&wait), "{wait}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_repeated_with_the_frames_request_id_is_one_message() {
    let cluster = Cluster::one().await;
    let rpc = Rpc::named("TopicService/Publish");
    for protocol in ["plexus.v1.json", "plexus.v1.proto"] {
        let mut session = Session::open(cluster.gateways[0].0, Some(protocol)).await;
        let terms = Terms { request_id: format!("once-{protocol}"), ..Terms::default() };
        let mut receipts = Vec::new();
        for id in 1..=2 {
            session.begin(id, &rpc, &json!({"topic": "r", "text": protocol}), &terms).await;
            let (of, Heard::Answer(answer, true)) = session.hear().await else { panic!() };
            assert_eq!(of, id);
            receipts.push(if protocol.ends_with("json") { json_of(&answer) } else { rpc.decode(&answer) });
        }
        assert_eq!(receipts[0]["position"], receipts[1]["position"]);
        assert_eq!(receipts[1]["duplicate"], true, "{receipts:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn publishes_sent_in_a_row_are_logged_in_that_order() {
    let cluster = Cluster::one().await;
    publish(&cluster, "row", "the node is there").await;
    let mut session = Session::open(cluster.gateways[0].0, None).await;
    let (all, mut positions) = (1..=200_u32, BTreeMap::new());
    for id in all.clone() {
        let params = json!({"topic": "row", "text": format!("{id}")});
        session.say(json!({"id": id, "call": "TopicService.Publish", "params": params})).await;
    }
    for _ in all {
        match session.hear().await {
            (id, Heard::Answer(receipt, true)) => {
                let position = json_of(&receipt)["position"].as_str().unwrap().to_owned();
                let (_, seq) = position.split_once('-').unwrap();
                positions.insert(id, seq.parse::<u64>().unwrap());
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(positions.values().is_sorted(), "{positions:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_closes_is_answered_and_its_readers_are_gone() {
    let mut cluster = Cluster::one().await;
    let linger = cluster.add_gateway_with(|c| c.router.linger = Duration::from_millis(100)).await;
    let topics = || async { plexus_tests::Http::new(linger).get("/v1/topics").await?.ok() };
    let mut session = Session::open(linger, None).await;
    follow(&mut session, 1, json!({"topic": "c"}), &Terms::default()).await;
    eventually(PATIENCE, || async {
        let topics = topics().await?;
        anyhow::ensure!(topics["topics"][0]["joined"] == true, "{topics}");
        Ok(())
    })
    .await;
    session.send(Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "bye".into() }))).await;
    assert_eq!(session.hear().await.1, Heard::Closed(Some(1000)));
    // The server hangs up first.
    assert_eq!(session.hear().await.1, Heard::Closed(None));
    eventually(PATIENCE, || async {
        let topics = topics().await?;
        anyhow::ensure!(topics["topics"][0]["joined"] != true, "{topics}");
        Ok(())
    })
    .await;
}
