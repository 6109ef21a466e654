//! When the store stands still, breaks or is promoted; and the end of a bus.

use crate::ground::{FIRST, Ground, Worker, all, at, event, eventually, node, text, topic};
use futures::future::{BoxFuture, FutureExt, join_all};
use plexus_bus::{Bus, Error, Event, Grant, Key, Opened, Payload, Ran, Renewed, Stage, Subject, When};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Waits for a replica: what only a server can do.
async fn replicates(bus: &Bus) -> Option<Error> {
    bus.replicate(&node("a"), 1, false, Duration::from_millis(100)).await.err()
}

/// A call of every kind, each of which must come to an end.
fn every_call(bus: &Bus) -> Vec<(&'static str, BoxFuture<'_, Option<Error>>)> {
    let grant = Grant { epoch: 1, nonce: 1 };
    let (key, word) = (Key::Named("a".into()), Payload::of("word".to_owned()));
    macro_rules! calls {
        ($($name:literal: $call:expr),* $(,)?) => { vec![$(($name, async move { $call.await.err() }.boxed())),*] };
    }
    let (put, deleted) = (key.clone(), key.clone());
    calls![
        "publish": bus.publish(Subject::Anyone, word),
        "subscribe": bus.subscribe(Subject::Anyone),
        "open": bus.open_logs(&node("a"), grant, &[topic("t")], Default::default(), FIRST),
        "append": bus.append(&node("a"), grant, vec![]),
        "look": bus.look(&node("a")),
        "stamp": bus.stamp(&node("a"), grant, "era".into()),
        "tops": bus.tops(&[(node("a"), topic("t"))]),
        "read": bus.read(&node("a"), &topic("t"), all()),
        "extent": bus.extent(&node("a"), &topic("t")),
        "trim": bus.trim(&node("a"), grant, &topic("t"), 1),
        "erase": bus.erase(&node("a"), grant),
        "renew": bus.renew(&"w.1".into(), true),
        "take": bus.take(&"w.1".into(), 1, &[]),
        "release": bus.release(&"w.1".into(), &[(node("a"), 1)]),
        "retire": bus.retire(&"w.1".into()),
        "owned": bus.owned(&"w.1".into()),
        "owners": bus.owners(),
        "owner": bus.owner(&node("a")),
        "workers": bus.workers(),
        "enlist": bus.enlist(&node("a"), b"peer"),
        "strike": bus.strike(&"w.1".into(), &node("a"), 1, b"peer"),
        "find": bus.find(b"peer"),
        "attend": bus.attend(&"g".into()),
        "attending": bus.attending(&["g".into()]),
        "want": bus.want(&node("a"), &"g".into(), &[(topic("t"), Some(1))]),
        "wanted": bus.wanted(&node("a")),
        "get": bus.get(key),
        "put": bus.put(put, "x".into(), When::Always, None),
        "delete": bus.delete(deleted, When::Always),
        "list": bus.list(""),
        "put state": bus.put_state(&node("a"), grant, "x".into()),
        "get state": bus.get_state(&node("a")),
    ]
}

pub(crate) async fn every_call_ends_within_its_deadline(ground: Ground) {
    let ground = ground.anew(|config| config.call_timeout = Duration::from_millis(700)).await;
    ground.stand().await;
    let begin = Instant::now();
    let mut calls = every_call(&ground.bus);
    if ground.is_remote() {
        calls.push(("replicate", replicates(&ground.bus).boxed()));
    }
    let ended = join_all(calls.into_iter().map(|(name, call)| async move {
        let error = call.await;
        (name, error, begin.elapsed())
    }));
    for (name, error, took) in ended.await {
        let typed = matches!(error, Some(Error::Timeout | Error::Unreachable { .. } | Error::Overloaded));
        assert!(typed, "{name}: {error:?}");
        assert!(took < Duration::from_millis(1500), "{name}: {took:?}");
    }
    ground.resume().await;
}

pub(crate) async fn a_store_that_stood_still_is_used_again(ground: Ground) {
    let ground = ground.anew(|config| config.call_timeout = Duration::from_millis(500)).await;
    ground.stand().await;
    let key = || Key::Named("a".into());
    let error = ground.bus.put(key(), "x".into(), When::Always, None).await.unwrap_err();
    assert!(matches!(error, Error::Timeout | Error::Unreachable { .. }), "{error:?}");
    ground.resume().await;
    let bus = &ground.bus;
    eventually("it answers", || async { bus.put(key(), "y".into(), When::Always, None).await.ok() }).await;
    assert_eq!(bus.get(key()).await.unwrap().unwrap().data, "y");
    assert!(bus.healthy());
}

pub(crate) async fn too_many_calls_are_refused_and_none_is_forgotten(ground: Ground) {
    let ground = ground
        .anew(|config| {
            config.commands_max = 8;
            config.call_timeout = Duration::from_millis(700);
        })
        .await;
    ground.stand().await;
    let begin = Instant::now();
    let call = |n: u32| ground.bus.get(Key::Named(n.to_string().into()));
    let answers = join_all((0..200).map(call)).await;
    assert!(begin.elapsed() < Duration::from_millis(1500), "{:?}", begin.elapsed());
    let refused = answers.iter().filter(|a| **a == Err(Error::Overloaded)).count();
    let waited =
        answers.iter().filter(|a| matches!(a, Err(Error::Timeout | Error::Unreachable { .. }))).count();
    assert_eq!((refused, waited), (192, 8));
    ground.resume().await;
}

pub(crate) async fn what_may_have_run_is_told_apart_from_what_did_not(_: Ground) {
    let unknown = [Error::Timeout, Error::Unreachable { sent: true }, Error::Unreadable("x".into())];
    let not_run =
        [Error::Overloaded, Error::Closed, Error::Unreachable { sent: false }, Error::Invalid("x".into())];
    assert!(unknown.iter().all(|e| e.outcome() == Ran::Unknown));
    assert!(not_run.iter().all(|e| e.outcome() == Ran::NotRun));
}

pub(crate) async fn a_restored_connection_is_told_and_goes_on(ground: Ground) {
    let mut subscription = ground.bus.subscribe(Subject::Records).await.unwrap();
    ground.cut().await;
    let restored = event(&mut subscription).await;
    assert!(matches!(restored, Event::Restored), "{restored:?}");
    let bus = &ground.bus;
    let word = || Payload::of("after".to_owned());
    eventually("it is heard", || async {
        (bus.publish(Subject::Records, word()).await == Ok(1)).then_some(())
    })
    .await;
    assert_eq!(text(&mut subscription).await, "after");
}

pub(crate) async fn a_closed_bus_answers_closed(ground: Ground) {
    assert!(ground.bus.healthy());
    ground.bus.close().await;
    for (name, call) in every_call(&ground.bus) {
        let begin = Instant::now();
        assert_eq!(call.await, Some(Error::Closed), "{name}");
        assert!(begin.elapsed() < Duration::from_millis(500), "{name}");
    }
    assert!(!ground.bus.healthy());
}

pub(crate) async fn a_closed_bus_ends_its_subscriptions(ground: Ground) {
    let mut subscription = ground.bus.subscribe(Subject::Records).await.unwrap();
    ground.bus.close().await;
    let end = tokio::time::timeout(Duration::from_secs(5), subscription.recv()).await.expect("it ends");
    assert!(end.is_none(), "{end:?}");
}

pub(crate) async fn a_call_given_up_by_its_caller_harms_nobody(ground: Ground) {
    let keys: Vec<_> = (0..50).map(|n| Key::Named(format!("k{n}").into())).collect();
    for key in &keys {
        // Polled once, so it is on its way, then dropped.
        let _ = ground.bus.put(key.clone(), "x".into(), When::Always, None).now_or_never();
    }
    assert_eq!(ground.bus.put(Key::Named("after".into()), "x".into(), When::Always, None).await, Ok(Some(1)));
}

// What follows needs a server.

pub(crate) async fn a_dead_server_is_answered_for_in_time(ground: Ground) {
    ground.server().kill();
    let bus = &ground.bus;
    let waits = [("replicate", replicates(bus).boxed())];
    for (name, call) in every_call(bus).into_iter().chain(waits) {
        let begin = Instant::now();
        let error = call.await;
        let typed = matches!(error, Some(Error::Timeout | Error::Unreachable { .. } | Error::Overloaded));
        assert!(typed, "{name}: {error:?}");
        assert!(begin.elapsed() < Duration::from_millis(2000), "{name}: {:?}", begin.elapsed());
    }
    eventually("probes fail", || async { (!bus.healthy()).then_some(()) }).await;
}

pub(crate) async fn functions_that_were_flushed_are_loaded_again(ground: Ground) {
    let author = ground.authored("a", &["t"]).await;
    let worker = ground.worker("w.1").await;
    ground.server().say(&["FUNCTION", "FLUSH"]).await.unwrap();
    let bus = &ground.bus;
    let appended = || async {
        let entries = vec![author.append_of("t", 1, 1)];
        bus.append(&author.node, author.grant, entries).await.ok()
    };
    eventually("it is appended", appended).await;
    eventually("it is renewed", || async { bus.renew(&worker.inc, false).await.ok() }).await;
    assert_eq!(author.ids("t").await, [at(10, 0), at(10, 1)]);
}

pub(crate) async fn a_new_era_makes_openings_unsure(ground: Ground) {
    let first = ground.authored("a", &["t"]).await;
    first.write("t", 1, 3).await;
    ground.server().turn_era().await;
    let openings = ground.author(&node("a"), 20, 2).opened(&["new"]).await;
    let told: Vec<_> = openings.iter().map(|o| (o.topic.as_ref(), o.prev, o.sure)).collect();
    assert_eq!(told, [(&b"new"[..], at(0, 0), false), (b"t", at(10, 3), false)]);
    let openings = ground.author(&node("a"), 30, 3).opened(&["newer"]).await;
    let told: Vec<_> = openings.iter().map(|o| (o.topic.as_ref(), o.sure)).collect();
    assert_eq!(told, [(&b"new"[..], true), (b"newer", false), (b"t", true)], "doubt stays with empty logs");
}

pub(crate) async fn a_stamp_makes_the_next_opening_sure(ground: Ground) {
    let first = ground.authored("a", &["t"]).await;
    let old = ground.bus.look(&first.node).await.unwrap().era;
    ground.server().turn_era().await;
    let look = ground.bus.look(&first.node).await.unwrap();
    assert_ne!(look.era, old);
    assert_eq!(look.stamped, Some(old.clone()));
    assert_eq!(ground.bus.stamp(&first.node, first.grant, old).await, Ok(false), "an era that is over");
    assert_eq!(ground.bus.stamp(&first.node, first.grant, look.era).await, Ok(true));
    assert!(ground.author(&node("a"), 20, 2).opened(&[]).await[0].sure);
}

pub(crate) async fn a_later_topic_vouches_for_nothing(ground: Ground) {
    let first = ground.authored("a", &["t"]).await;
    let old = ground.bus.look(&first.node).await.unwrap().era;
    ground.server().turn_era().await;
    assert!(!first.opened_later(&["later"]).await[0].sure);
    // Its logs are not repaired by that: only a stamp says so.
    assert_eq!(ground.bus.look(&first.node).await.unwrap().stamped, Some(old));
    let openings = ground.author(&node("a"), 20, 2).opened(&[]).await;
    assert!(openings.iter().all(|o| !o.sure), "{openings:?}");
}

pub(crate) async fn a_lost_opening_is_not_made_up_for_by_a_later_topic(ground: Ground) {
    let first = ground.authored("a", &["t"]).await;
    first.write("t", 1, 1).await;
    // The promoted store has not heard of grant 20, which logged something. An opening runs there that was
    // given up long ago.
    ground.server().turn_era().await;
    assert!(!ground.author(&node("a"), 15, 2).opened(&[]).await[0].sure);
    let present = ground.author(&node("a"), 20, 3);
    assert_eq!(present.open(&["u"], Stage::Later).await, Ok(Opened::Lost));
    // So no opening of that epoch says that nothing came after it.
    assert_eq!(present.ids("t").await, [at(10, 0), at(10, 1), at(15, 0)]);
    assert_eq!(present.ids("u").await, []);
}

pub(crate) async fn a_renewal_tells_the_era(ground: Ground) {
    let era = |renewed| match renewed {
        Renewed::Held { era, .. } => era,
        Renewed::Lost => panic!("lost"),
    };
    let worker: plexus_bus::Incarnation = "w.1".into();
    let before = era(ground.bus.renew(&worker, true).await.unwrap());
    assert_eq!(ground.bus.look(&node("a")).await.unwrap().era, before);
    ground.server().turn_era().await;
    let after = era(ground.bus.renew(&worker, false).await.unwrap());
    assert_ne!(before, after);
}

pub(crate) async fn nothing_is_taken_for_six_seconds_after_an_era(ground: Ground) {
    let one = ground.worker("w.1").await;
    let held = one.take(&node("held"), 7).await.unwrap();
    let released = one.take(&node("released"), 7).await.unwrap();
    ground.server().turn_era().await;
    let begin = Instant::now();
    assert!(one.renewed(false).await.is_some());
    assert_eq!(one.release(&node("released"), released).await, 1);
    for name in ["never-owned", "released"] {
        assert_eq!(one.take(&node(name), 8).await, None, "{name}");
    }
    let raise = plexus_bus::Claim { node: node("held"), floor: 0, from: Some(7) };
    assert!(one.claim(8, raise).await.unwrap() > held, "a raise is no take");
    sleep_until(begin + Duration::from_millis(5500)).await;
    assert!(one.renewed(false).await.is_some());
    assert_eq!(one.take(&node("released"), 9).await, None);
    eventually("the grace ends", || async { one.take(&node("released"), 9).await }).await;
    assert!(begin.elapsed() >= Duration::from_millis(5800), "{:?}", begin.elapsed());
}

pub(crate) async fn a_new_era_gives_every_lease_a_full_term(ground: Ground) {
    let begin = Instant::now();
    let old = ground.worker("w.1").await;
    sleep_until(begin + Duration::from_secs(4)).await;
    ground.server().turn_era().await;
    // The first script of the new era does it.
    let _other = ground.worker("w.2").await;
    sleep_until(begin + Duration::from_millis(7500)).await;
    assert!(ground.bus.workers().await.unwrap().contains(&old.inc));
    sleep_until(begin + Duration::from_millis(10_700)).await;
    assert_eq!(ground.bus.workers().await.unwrap(), [], "and no more than one");
}

pub(crate) async fn a_renewal_within_the_grace_is_answered_though_expired(ground: Ground) {
    let begin = Instant::now();
    let worker = ground.worker("w.1").await;
    sleep_until(begin + Duration::from_millis(6500)).await;
    ground.server().turn_era().await;
    assert!(worker.renewed(false).await.is_some());
    let unknown = Worker { bus: ground.bus.clone(), inc: "w.9".into() };
    assert!(unknown.renewed(false).await.is_some(), "its lease may be among the lost writes");
}
