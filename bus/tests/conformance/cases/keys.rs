//! Kept values: revisions, conditions, terms.

use crate::ground::{Ground, eventually, node, text};
use bytes::Bytes;
use plexus_bus::{Error, Key, NodeName, Subject, Value, When};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

fn named(name: &str) -> Key {
    Key::Named(name.into())
}

fn value(revision: u64, data: &'static str) -> Option<Value> {
    Some(Value { revision, data: data.into() })
}

fn kinds(node: &NodeName) -> [Key; 3] {
    [Key::Record(node.clone()), Key::Sealed(node.clone()), named("default/a")]
}

pub(crate) async fn a_value_is_written_only_where_it_may_be(ground: Ground) {
    for key in kinds(&node("a")) {
        let put = |data: &'static str, when| ground.bus.put(key.clone(), data.into(), when, None);
        assert_eq!(put("none", When::Revision(0)).await, Ok(None), "{key:?}");
        assert_eq!(put("none", When::Revision(1)).await, Ok(None), "{key:?}");
        assert_eq!(put("one", When::Absent).await, Ok(Some(1)), "{key:?}");
        assert_eq!(put("again", When::Absent).await, Ok(None), "{key:?}");
        assert_eq!(put("two", When::Revision(1)).await, Ok(Some(2)), "{key:?}");
        assert_eq!(put("late", When::Revision(1)).await, Ok(None), "{key:?}");
        assert_eq!(put("early", When::Revision(3)).await, Ok(None), "{key:?}");
        assert_eq!(ground.other.get(key.clone()).await, Ok(value(2, "two")), "{key:?}");
        assert_eq!(put("three", When::Always).await, Ok(Some(3)), "{key:?}");
        assert_eq!(ground.other.get(key.clone()).await, Ok(value(3, "three")), "{key:?}");
    }
}

pub(crate) async fn a_value_is_removed_only_where_it_may_be(ground: Ground) {
    for key in kinds(&node("a")) {
        let delete = |when| ground.bus.delete(key.clone(), when);
        assert_eq!(delete(When::Always).await, Ok(false), "{key:?}: nothing is there");
        ground.bus.put(key.clone(), "one".into(), When::Always, None).await.unwrap();
        assert_eq!(delete(When::Revision(2)).await, Ok(false), "{key:?}");
        assert_eq!(delete(When::Absent).await, Ok(false), "{key:?}");
        assert_eq!(ground.other.get(key.clone()).await, Ok(value(1, "one")), "{key:?}");
        assert_eq!(delete(When::Revision(1)).await, Ok(true), "{key:?}");
        assert_eq!(ground.other.get(key.clone()).await, Ok(None), "{key:?}");
    }
}

pub(crate) async fn revisions_begin_again_after_a_deletion(ground: Ground) {
    for key in kinds(&node("a")) {
        for _ in 0..3 {
            ground.bus.put(key.clone(), "x".into(), When::Always, None).await.unwrap();
        }
        assert_eq!(ground.bus.delete(key.clone(), When::Always).await, Ok(true));
        assert_eq!(ground.bus.put(key.clone(), "y".into(), When::Absent, None).await, Ok(Some(1)), "{key:?}");
    }
}

pub(crate) async fn a_value_may_be_any_bytes(ground: Ground) {
    let every: Bytes = (0..=255u8).cycle().take(100_000).collect();
    for (key, data) in kinds(&node("a")).into_iter().zip([every.clone(), Bytes::new(), every]) {
        assert_eq!(
            ground.bus.put(key.clone(), data.clone(), When::Absent, None).await,
            Ok(Some(1)),
            "{key:?}"
        );
        assert_eq!(ground.other.get(key).await, Ok(Some(Value { revision: 1, data })));
    }
}

pub(crate) async fn values_of_one_name_are_kept_apart(ground: Ground) {
    let keys = [kinds(&node("a")), kinds(&node("b"))].concat();
    let mut keys: Vec<_> = keys.into_iter().collect();
    keys[5] = named("default/b");
    for (n, key) in keys.iter().enumerate() {
        let put = ground.bus.put(key.clone(), n.to_string().into(), When::Absent, None).await;
        assert_eq!(put, Ok(Some(1)), "{key:?}");
    }
    for (n, key) in keys.iter().enumerate() {
        assert_eq!(ground.other.get(key.clone()).await.unwrap().unwrap().data, n.to_string(), "{key:?}");
    }
}

pub(crate) async fn one_of_many_writers_wins(ground: Ground) {
    let put = |n: u32| {
        let bus = if n.is_multiple_of(2) { &ground.bus } else { &ground.other };
        bus.put(named("call/7"), n.to_string().into(), When::Absent, Some(Duration::from_secs(600)))
    };
    let won = futures::future::join_all((0..20).map(put)).await;
    let winners: Vec<_> = (0..20).filter(|n| won[*n] == Ok(Some(1))).collect();
    assert_eq!(winners.len(), 1, "{won:?}");
    assert_eq!(ground.bus.get(named("call/7")).await.unwrap().unwrap().data, winners[0].to_string());
}

pub(crate) async fn a_key_ends_with_its_term(ground: Ground) {
    let begin = Instant::now();
    let term = Some(Duration::from_millis(400));
    assert_eq!(ground.bus.put(named("a"), "x".into(), When::Absent, term).await, Ok(Some(1)));
    assert_eq!(ground.bus.get(named("a")).await, Ok(value(1, "x")));
    let bus = &ground.bus;
    eventually("it ends", || async { bus.get(named("a")).await.unwrap().is_none().then_some(()) }).await;
    let lived = begin.elapsed();
    assert!(lived >= Duration::from_millis(390) && lived < Duration::from_secs(2), "{lived:?}");
    assert_eq!(bus.list("").await, Ok(vec![]));
    assert_eq!(bus.delete(named("a"), When::Always).await, Ok(false));
    assert_eq!(bus.put(named("a"), "y".into(), When::Absent, None).await, Ok(Some(1)));
}

pub(crate) async fn a_key_that_ended_is_not_there_at_once(ground: Ground) {
    // Ends that fall between two sweeps of a carrier that sweeps.
    for n in 0..5 {
        let key = named(&format!("a{n}"));
        let begin = Instant::now();
        let put = |when| ground.bus.put(key.clone(), "x".into(), when, Some(Duration::from_millis(50)));
        put(When::Always).await.unwrap();
        sleep_until(begin + Duration::from_millis(120)).await;
        assert_eq!(ground.bus.get(key.clone()).await, Ok(None));
        assert_eq!(ground.bus.list("a").await, Ok(vec![]));
        assert_eq!(put(When::Absent).await, Ok(Some(1)));
        ground.bus.delete(key.clone(), When::Always).await.unwrap();
    }
}

pub(crate) async fn a_write_without_a_term_stays(ground: Ground) {
    let begin = Instant::now();
    ground.bus.put(named("a"), "x".into(), When::Always, Some(Duration::from_millis(300))).await.unwrap();
    ground.bus.put(named("a"), "y".into(), When::Always, None).await.unwrap();
    sleep_until(begin + Duration::from_millis(600)).await;
    assert_eq!(ground.bus.get(named("a")).await, Ok(value(2, "y")));
}

pub(crate) async fn a_write_that_may_not_be_leaves_the_term(ground: Ground) {
    let begin = Instant::now();
    ground.bus.put(named("a"), "x".into(), When::Always, None).await.unwrap();
    let term = Some(Duration::from_millis(200));
    assert_eq!(ground.bus.put(named("a"), "y".into(), When::Absent, term).await, Ok(None));
    sleep_until(begin + Duration::from_millis(500)).await;
    assert_eq!(ground.bus.get(named("a")).await, Ok(value(1, "x")));
}

pub(crate) async fn keys_are_listed_by_prefix_in_order(ground: Ground) {
    for name in ["kv/b", "kv/a", "kv/a/b", "kw", "k", "kv*", "kv/[x]", "kv/?"] {
        ground.bus.put(named(name), name.to_owned().into(), When::Absent, None).await.unwrap();
    }
    ground.bus.put(Key::Record(node("kv")), "record".into(), When::Absent, None).await.unwrap();
    let list = |prefix: &'static str| {
        let bus = ground.other.clone();
        async move {
            let listed = bus.list(prefix).await.unwrap();
            listed.iter().for_each(|(name, value)| {
                assert_eq!((value.revision, &value.data[..]), (1, name.as_bytes()))
            });
            listed.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        }
    };
    assert_eq!(list("kv/").await, ["kv/?", "kv/[x]", "kv/a", "kv/a/b", "kv/b"]);
    assert_eq!(list("kv*").await, ["kv*"], "a prefix is no pattern");
    assert_eq!(list("kv/[").await, ["kv/[x]"]);
    assert_eq!(list("nothing").await, Vec::<String>::new());
    assert_eq!(list("").await.len(), 8, "free keys alone");
    ground.bus.delete(named("kv/a"), When::Always).await.unwrap();
    assert_eq!(list("kv/a").await, ["kv/a/b"]);
}

pub(crate) async fn changes_of_free_keys_are_told(ground: Ground) {
    let mut told = ground.other.subscribe(Subject::Keys).await.unwrap();
    let bus = &ground.bus;
    bus.put(named("a"), "x".into(), When::Absent, None).await.unwrap();
    assert_eq!(text(&mut told).await, "a");
    bus.put(named("a"), "refused".into(), When::Absent, None).await.unwrap();
    bus.delete(named("a"), When::Revision(9)).await.unwrap();
    bus.delete(named("none"), When::Always).await.unwrap();
    bus.put(Key::Record(node("a")), "record".into(), When::Absent, None).await.unwrap();
    bus.put(Key::Sealed(node("a")), "key".into(), When::Absent, None).await.unwrap();
    bus.delete(named("a"), When::Revision(1)).await.unwrap();
    assert_eq!(text(&mut told).await, "a");
    bus.put(named("b"), "x".into(), When::Always, None).await.unwrap();
    assert_eq!(text(&mut told).await, "b", "nothing but changes of free keys is told");
}

pub(crate) async fn a_record_tells_nobody_by_itself(ground: Ground) {
    let mut told = ground.other.subscribe(Subject::Records).await.unwrap();
    ground.founded("a").await;
    ground.bus.delete(Key::Record(node("a")), When::Always).await.unwrap();
    let hint = plexus_bus::Payload::of("default/b".to_owned());
    ground.bus.publish(Subject::Records, hint).await.unwrap();
    assert_eq!(text(&mut told).await, "default/b");
}

pub(crate) async fn a_name_has_1_to_512_bytes(ground: Ground) {
    for (length, fits) in [(0, false), (1, true), (512, true), (513, false)] {
        let key = named(&"n".repeat(length));
        let put = ground.bus.put(key.clone(), "x".into(), When::Always, None).await;
        assert_eq!(put.is_ok(), fits, "{length}: {put:?}");
        assert_eq!(ground.bus.get(key.clone()).await.is_ok(), fits, "{length}");
        assert_eq!(ground.bus.delete(key, When::Always).await.is_ok(), fits, "{length}");
    }
}

pub(crate) async fn a_value_that_is_too_large_is_refused(ground: Ground) {
    let ground = ground.anew(|config| config.frame_bytes_max = 1000).await;
    for key in kinds(&node("a")) {
        let put = |length: usize| ground.bus.put(key.clone(), vec![0; length].into(), When::Always, None);
        assert!(matches!(put(1001).await, Err(Error::Invalid(_))), "{key:?}");
        assert_eq!(put(1000).await, Ok(Some(1)), "{key:?}");
    }
}

pub(crate) async fn a_term_is_for_free_keys(ground: Ground) {
    let term = Some(Duration::from_secs(1));
    for key in [Key::Record(node("a")), Key::Sealed(node("a"))] {
        let put = ground.bus.put(key.clone(), "x".into(), When::Always, term).await;
        assert!(matches!(put, Err(Error::Invalid(_))), "{put:?}");
        assert_eq!(ground.bus.get(key).await, Ok(None));
    }
}
