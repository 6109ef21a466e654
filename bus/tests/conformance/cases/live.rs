//! Live subjects: at most once, in order, bounded.

use crate::ground::{Ground, entry, event, eventually, frame, node, text, topic};
use bytes::Bytes;
use plexus_bus::{Body, Call, Envelope, Error, Event, Payload, Subject, Subscription};
use plexus_proto::bus as wire;
use std::time::{Duration, SystemTime};

fn word(text: &str) -> Payload {
    Payload::of(text.to_owned())
}

pub(crate) async fn a_frame_reaches_every_subscriber(ground: Ground) {
    let mut here = ground.bus.subscribe(Subject::Records).await.unwrap();
    let mut again = ground.bus.subscribe(Subject::Records).await.unwrap();
    let mut there = ground.other.subscribe(Subject::Records).await.unwrap();
    ground.bus.publish(Subject::Records, word("default/a")).await.unwrap();
    for subscription in [&mut here, &mut again, &mut there] {
        assert_eq!(text(subscription).await, "default/a");
    }
}

pub(crate) async fn a_publish_answers_how_many_listen(ground: Ground) {
    let subject = Subject::Calls(node("a"));
    assert_eq!(ground.bus.publish(subject.clone(), word("nobody")).await, Ok(0));
    let _here = ground.bus.subscribe(subject.clone()).await.unwrap();
    assert_eq!(ground.other.publish(subject.clone(), word("one")).await, Ok(1));
    let _there = ground.other.subscribe(subject.clone()).await.unwrap();
    assert_eq!(ground.bus.publish(subject, word("two")).await, Ok(2));
}

pub(crate) async fn what_is_published_after_a_subscription_arrives(ground: Ground) {
    for n in 0..50 {
        let subject = Subject::Replies(format!("gateway-{n}").into());
        let mut subscription = ground.other.subscribe(subject.clone()).await.unwrap();
        assert_eq!(ground.bus.publish(subject, word(&n.to_string())).await, Ok(1), "{n}");
        assert_eq!(text(&mut subscription).await, n.to_string());
    }
}

pub(crate) async fn frames_arrive_in_the_order_of_their_sender(ground: Ground) {
    let mut subscription = ground.other.subscribe(Subject::Anyone).await.unwrap();
    for n in 0..500 {
        ground.bus.publish(Subject::Anyone, word(&n.to_string())).await.unwrap();
    }
    for n in 0..500 {
        assert_eq!(text(&mut subscription).await, n.to_string());
    }
}

pub(crate) async fn a_subject_carries_only_its_own_frames(ground: Ground) {
    let bytes = |bytes: &'static [u8]| Subject::Topic(node("a"), Bytes::from_static(bytes));
    let subjects = [
        Subject::Calls(node("a")),
        Subject::Calls(node("a-b")),
        Subject::Anyone,
        Subject::Replies("a".into()),
        Subject::Replies("b".into()),
        Subject::Topic(node("b"), topic("t")),
        bytes(b"t"),
        bytes(b"t:t"),
        bytes(b"t\0"),
        bytes(b"\xff\xfe"),
        bytes(b"\xff\xfd"),
        Subject::Ownership,
        Subject::Records,
        Subject::Keys,
    ];
    let mut subscriptions = Vec::new();
    for subject in &subjects {
        subscriptions.push(ground.other.subscribe(subject.clone()).await.unwrap());
    }
    for (n, subject) in subjects.iter().enumerate() {
        for word in [format!("{n}"), format!("{n} again")] {
            assert_eq!(ground.bus.publish(subject.clone(), Payload::of(word)).await, Ok(1), "{subject:?}");
        }
    }
    for (n, subscription) in subscriptions.iter_mut().enumerate() {
        assert_eq!(text(subscription).await, format!("{n}"), "{:?}", subjects[n]);
        assert_eq!(text(subscription).await, format!("{n} again"), "{:?}", subjects[n]);
    }
}

pub(crate) async fn an_envelope_arrives_whole(ground: Ground) {
    let sent = Envelope {
        id: uuid::Uuid::from_u128(7),
        sequence: 3,
        traceparent: "00-1-2-01".into(),
        tracestate: "a=b".into(),
        epoch: 9,
        body: Body::Call(Box::new(Call {
            method: "plexus.v1.TopicService/Publish".into(),
            payload: word("payload"),
            node: Some(node("a")),
            namespace: "default".into(),
            reply_to: "gateway".into(),
            deadline: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123)),
            caller: wire::Principal { subject: "somebody".into(), ..Default::default() },
            idempotency_key: "once".into(),
            epoch_seen: 8,
            attempt: 2,
            idempotent: true,
            credit: 1024,
        })),
    };
    let mut calls = ground.other.subscribe(Subject::Calls(node("a"))).await.unwrap();
    ground.bus.publish(Subject::Calls(node("a")), Payload::of(sent.clone())).await.unwrap();
    let heard: Envelope = frame(&mut calls).await.take().unwrap();
    let plain = |envelope: Envelope| Payload::of(envelope).to_bytes();
    assert_eq!(plain(heard), plain(sent));
}

/// Takes events until so many frames were heard or reported lost.
async fn tally(subscription: &mut Subscription, total: u64) -> (u64, u64) {
    let (mut heard, mut lost) = (0, 0);
    while heard + lost < total {
        match event(subscription).await {
            Event::Frame(_) => heard += 1,
            Event::Lagged(n) => lost += n,
            Event::Restored => panic!("nothing broke"),
        }
    }
    (heard, lost)
}

pub(crate) async fn a_slow_subscriber_is_told_how_much_it_missed(ground: Ground) {
    let mut slow = ground.other.subscribe_with(Subject::Records, 4).await.unwrap();
    let mut wide = ground.other.subscribe(Subject::Records).await.unwrap();
    for n in 0..100 {
        ground.bus.publish(Subject::Records, word(&n.to_string())).await.unwrap();
    }
    assert_eq!(tally(&mut wide, 100).await, (100, 0));
    let Event::Lagged(missed) = event(&mut slow).await else { panic!("a lag is told before what is queued") };
    assert_eq!(tally(&mut slow, 100 - missed).await.0, 4, "the queue holds what it may");
    ground.bus.publish(Subject::Records, word("after")).await.unwrap();
    assert_eq!(text(&mut slow).await, "after");
}

pub(crate) async fn a_lag_counts_every_frame_dropped(ground: Ground) {
    let mut slow = ground.other.subscribe_with(Subject::Records, 4).await.unwrap();
    let mut wide = ground.other.subscribe(Subject::Records).await.unwrap();
    for _ in 0..50 {
        ground.bus.publish(Subject::Records, word("x")).await.unwrap();
    }
    assert_eq!(tally(&mut wide, 50).await, (50, 0));
    assert_eq!(tally(&mut slow, 50).await, (4, 46));
    assert_eq!(ground.other.metrics().lagged.get(), 46);
}

pub(crate) async fn a_subscriber_that_never_reads_holds_up_nobody(ground: Ground) {
    let _deaf = ground.other.subscribe_with(Subject::Records, 1).await.unwrap();
    let mut keen = ground.other.subscribe(Subject::Records).await.unwrap();
    let mut calls = ground.other.subscribe(Subject::Anyone).await.unwrap();
    for _ in 0..300 {
        ground.bus.publish(Subject::Records, word("x")).await.unwrap();
    }
    ground.bus.publish(Subject::Anyone, word("call")).await.unwrap();
    assert_eq!(tally(&mut keen, 300).await, (300, 0));
    assert_eq!(text(&mut calls).await, "call");
}

pub(crate) async fn a_dropped_subscription_counts_no_more(ground: Ground) {
    let subject = Subject::Calls(node("a"));
    let dropped = ground.other.subscribe(subject.clone()).await.unwrap();
    assert_eq!(ground.bus.publish(subject.clone(), word("x")).await, Ok(1));
    drop(dropped);
    let (bus, subject) = (&ground.bus, &subject);
    eventually("nobody listens", || async {
        (bus.publish(subject.clone(), word("x")).await == Ok(0)).then_some(())
    })
    .await;
}

pub(crate) async fn one_that_leaves_hears_all_that_it_was_counted_for(ground: Ground) {
    for round in 0..20 {
        let subject = Subject::Calls(node(&format!("n{round}")));
        let mut subscription = ground.other.subscribe_with(subject.clone(), 4_096).await.unwrap();
        let publishing = async {
            let (mut counted, mut after) = (0, 0);
            for n in 0.. {
                match ground.bus.publish(subject.clone(), word(&n.to_string())).await.unwrap() {
                    0 => after += 1,
                    listen => counted += listen,
                }
                if after == 3 {
                    break;
                }
            }
            counted
        };
        let leaving = async {
            for n in 0..=round {
                assert_eq!(text(&mut subscription).await, n.to_string());
            }
            subscription.leave();
            let mut heard = round + 1;
            while subscription.recv().await.is_some() {
                heard += 1;
            }
            heard
        };
        let (counted, heard) = tokio::join!(publishing, leaving);
        assert_eq!(heard, counted, "round {round}");
    }
}

pub(crate) async fn a_place_is_free_again_after_one_of_two_left(ground: Ground) {
    let subject = Subject::Calls(node("a"));
    let dropped = ground.other.subscribe(subject.clone()).await.unwrap();
    let mut kept = ground.other.subscribe(subject.clone()).await.unwrap();
    drop(dropped);
    for n in 0..20 {
        assert_eq!(ground.bus.publish(subject.clone(), word(&n.to_string())).await, Ok(1));
        assert_eq!(text(&mut kept).await, n.to_string());
    }
}

pub(crate) async fn subscriptions_are_bounded(ground: Ground) {
    let ground = ground.anew(|config| config.subscriptions_max = 3).await;
    let mut held = Vec::new();
    for name in ["a", "b", "c"] {
        held.push(ground.bus.subscribe(Subject::Calls(node(name))).await.unwrap());
    }
    let fourth = ground.bus.subscribe(Subject::Anyone).await;
    assert_eq!(fourth.err(), Some(Error::Overloaded));
    held.pop();
    let bus = &ground.bus;
    eventually("there is a place", || async { bus.subscribe(Subject::Anyone).await.ok() }).await;
}

pub(crate) async fn an_oversize_frame_is_refused(ground: Ground) {
    let ground = ground.anew(|config| config.frame_bytes_max = 1000).await;
    let mut heard = ground.other.subscribe(Subject::Anyone).await.unwrap();
    let held = Payload::of("x".repeat(2000));
    let encoded = held.clone().flatten();
    let inside = Payload::of(Envelope {
        id: uuid::Uuid::nil(),
        sequence: 0,
        traceparent: String::new(),
        tracestate: String::new(),
        epoch: 0,
        body: Body::Output(held.clone()),
    });
    for frame in [held, encoded, inside] {
        let refused = ground.bus.publish(Subject::Anyone, frame).await;
        assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    }
    let fits = Payload::of("y".repeat(990));
    ground.bus.publish(Subject::Anyone, fits).await.unwrap();
    assert_eq!(text(&mut heard).await, "y".repeat(990));
}

pub(crate) async fn a_topic_has_1_to_1024_bytes(ground: Ground) {
    for (length, fits) in [(0, false), (1, true), (1024, true), (1025, false)] {
        let subject = Subject::Topic(node("a"), Bytes::from(vec![b't'; length]));
        let subscribed = ground.bus.subscribe(subject.clone()).await;
        assert_eq!(subscribed.is_ok(), fits, "{length}");
        let published = ground.bus.publish(subject, Payload::of(wire::LogEntry::default())).await;
        assert_eq!(published.is_ok(), fits, "{length}");
    }
}

pub(crate) async fn an_entry_arrives_as_it_was_published(ground: Ground) {
    let subject = Subject::Topic(node("a"), topic("t"));
    let mut heard = ground.other.subscribe(subject.clone()).await.unwrap();
    let sent = ground.author(&node("a"), 5, 6).entry(1, 64);
    ground.bus.publish(subject, Payload::of(sent.clone())).await.unwrap();
    assert_eq!(entry(&mut heard).await, sent);
}
