//! Reading logs, and what else a node's slot holds.

use crate::ground::{FIRST, Ground, all, at, node, topic};
use bytes::Bytes;
use plexus_bus::{Appended, Error, Extent, Grant, Key, Opened, Position, Range, Value, When};
use std::time::Duration;

pub(crate) async fn a_log_reads_both_ways_within_bounds(ground: Ground) {
    let author = ground.authored("a", &["t"]).await;
    for n in [1, 3, 5, 7] {
        author.write("t", n, n + 1).await;
    }
    let ids = [at(10, 0), at(10, 2), at(10, 4), at(10, 6), at(10, 8)];
    let range = |from, until, limit, newest_first| Range { from, until, limit, newest_first };
    let cases: &[(Range, &[usize])] = &[
        (range(Position::ZERO, None, 100, false), &[0, 1, 2, 3, 4]),
        (range(Position::ZERO, None, 100, true), &[4, 3, 2, 1, 0]),
        (range(Position::ZERO, None, 2, false), &[0, 1]),
        (range(Position::ZERO, None, 2, true), &[4, 3]),
        (range(at(10, 2), None, 100, false), &[1, 2, 3, 4]),
        (range(at(10, 3), None, 100, false), &[2, 3, 4]),
        (range(at(10, 2), Some(at(10, 6)), 100, false), &[1, 2, 3]),
        (range(at(10, 2), Some(at(10, 6)), 100, true), &[3, 2, 1]),
        (range(at(10, 2), Some(at(10, 6)), 1, true), &[3]),
        (range(at(10, 2), Some(at(10, 5)), 100, false), &[1, 2]),
        (range(at(9, 0), Some(at(10, 0)), 100, false), &[0]),
        (range(at(10, 9), None, 100, false), &[]),
        (range(at(10, 6), Some(at(10, 2)), 100, false), &[]),
        (range(Position::ZERO, None, 0, false), &[]),
    ];
    for (range, expected) in cases {
        let read = ground.other.read(&author.node, &topic("t"), *range).await.unwrap();
        let read: Vec<_> = read.iter().map(|entry| entry.id).collect();
        let expected: Vec<_> = expected.iter().map(|n| ids[*n]).collect();
        assert_eq!(read, expected, "{range:?}");
    }
}

pub(crate) async fn a_log_that_is_not_there_reads_as_nothing(ground: Ground) {
    let node = ground.founded("a").await;
    assert!(ground.bus.read(&node, &topic("t"), all()).await.unwrap().is_empty());
    assert_eq!(ground.bus.extent(&node, &topic("t")).await, Ok(None));
    assert_eq!(ground.bus.tops(&[(node, topic("t"))]).await, Ok(vec![None]));
}

pub(crate) async fn an_extent_tells_how_far_a_log_reaches(ground: Ground) {
    let author = ground.authored("a", &["t"]).await;
    author.write("t", 1, 5).await;
    author.write("t", 6, 6).await;
    let t = topic("t");
    let extent = || ground.bus.extent(&author.node, &t);
    let expected = Extent { oldest: Some(at(10, 0)), top: at(10, 6), entries: 3 };
    assert_eq!(extent().await, Ok(Some(expected)));
    ground.bus.trim(&author.node, author.grant, &t, 2).await.unwrap();
    assert_eq!(extent().await, Ok(Some(Extent { oldest: Some(at(10, 5)), entries: 2, ..expected })));
    ground.bus.trim(&author.node, author.grant, &t, 0).await.unwrap();
    assert_eq!(extent().await, Ok(Some(Extent { oldest: None, entries: 0, ..expected })));
}

pub(crate) async fn a_trim_keeps_the_newest_and_the_tail(ground: Ground) {
    let author = ground.authored("a", &["t", "other"]).await;
    for n in 1..=250 {
        author.write("t", n, n).await;
    }
    assert_eq!(ground.bus.trim(&author.node, author.grant, &topic("t"), 3).await, Ok(true));
    assert_eq!(author.ids("t").await, [at(10, 248), at(10, 249), at(10, 250)]);
    assert_eq!(ground.bus.trim(&author.node, author.grant, &topic("t"), 0).await, Ok(true));
    assert_eq!(ground.bus.tops(&[(author.node.clone(), topic("t"))]).await, Ok(vec![Some(at(10, 250))]));
    assert_eq!(author.ids("other").await, [at(10, 0)]);
}

pub(crate) async fn a_stale_owner_cannot_trim(ground: Ground) {
    let older = ground.authored("a", &["t"]).await;
    older.write("t", 1, 1).await;
    ground.author(&node("a"), 11, 2).opened(&[]).await;
    for stale in [older.grant, Grant { epoch: 11, nonce: 3 }, Grant { epoch: 12, nonce: 2 }] {
        assert_eq!(ground.bus.trim(&older.node, stale, &topic("t"), 0).await, Ok(false), "{stale:?}");
    }
    assert_eq!(older.ids("t").await.len(), 3);
}

pub(crate) async fn tops_answer_for_many_logs_in_order(ground: Ground) {
    let one = ground.authored("one", &["a", "b"]).await;
    one.write("b", 1, 7).await;
    let two = ground.author(&ground.founded("two").await, 33, 1);
    two.opened(&["a"]).await;
    let wanted = [
        (node("two"), topic("a")),
        (node("one"), topic("b")),
        (node("none"), topic("a")),
        (node("one"), topic("none")),
        (node("one"), topic("a")),
        (node("one"), topic("b")),
    ];
    let b = Some(at(10, 7));
    let tops = vec![Some(at(33, 0)), b, None, None, Some(at(10, 0)), b];
    assert_eq!(ground.other.tops(&wanted).await, Ok(tops));
    assert_eq!(ground.other.tops(&[]).await, Ok(vec![]));
}

pub(crate) async fn a_look_tells_grant_era_and_tails(ground: Ground) {
    let author = ground.authored("a", &["t", "u"]).await;
    author.write("t", 1, 2).await;
    let mut look = ground.other.look(&author.node).await.unwrap();
    look.tails.sort();
    assert_eq!(look.grant, Some(author.grant));
    assert_eq!(look.tails, [(topic("t"), at(10, 2)), (topic("u"), at(10, 0))]);
    assert_eq!(look.stamped, Some(look.era.clone()));
    assert!(!look.era.is_empty());
    let other = ground.bus.look(&node("none")).await.unwrap();
    assert_eq!((other.grant, other.stamped, other.tails), (None, None, vec![]));
    assert_eq!(other.era, look.era, "there is one era");
}

pub(crate) async fn a_stamp_counts_only_from_the_owner_in_the_present_era(ground: Ground) {
    let author = ground.authored("a", &["t"]).await;
    let era = ground.bus.look(&author.node).await.unwrap().era;
    let stamp = |grant, era| ground.bus.stamp(&author.node, grant, era);
    assert_eq!(stamp(author.grant, era.clone()).await, Ok(true));
    assert_eq!(stamp(author.grant, "another".into()).await, Ok(false));
    assert_eq!(stamp(Grant { epoch: 9, nonce: 1 }, era.clone()).await, Ok(false));
    assert_eq!(stamp(Grant { epoch: 10, nonce: 2 }, era.clone()).await, Ok(false));
    assert_eq!(ground.bus.look(&author.node).await.unwrap().stamped, Some(era));
}

pub(crate) async fn replicas_that_are_not_there_are_not_reported(ground: Ground) {
    let author = ground.authored("a", &["t"]).await;
    author.write("t", 1, 1).await;
    let told = ground.bus.replicate(&author.node, 1, false, Duration::from_millis(50)).await;
    let expected =
        if ground.is_remote() { told == Ok(0) } else { matches!(told, Err(Error::Unsupported(_))) };
    assert!(expected, "{told:?}");
}

pub(crate) async fn an_erased_node_leaves_nothing(ground: Ground) {
    let author = ground.authored("a", &["t", "u"]).await;
    author.write("t", 1, 1).await;
    let sealed = Key::Sealed(node("a"));
    ground.bus.put(sealed.clone(), Bytes::from_static(b"key"), When::Always, None).await.unwrap();
    ground.bus.put_state(&author.node, author.grant, Bytes::from_static(b"state")).await.unwrap();
    ground.bus.want(&author.node, &"gateway".into(), &[(topic("t"), Some(1))]).await.unwrap();
    assert_eq!(ground.bus.erase(&author.node, author.grant).await, Ok(true));

    assert_eq!(ground.other.get_state(&author.node).await, Ok((None, None)));
    assert_eq!(ground.other.get(sealed).await, Ok(None));
    assert_eq!(ground.other.wanted(&author.node).await, Ok(vec![]));
    let look = ground.other.look(&author.node).await.unwrap();
    assert_eq!((look.grant, look.stamped, look.tails), (None, None, vec![]));
    assert_eq!(author.ids("t").await, []);
    assert_eq!(ground.other.extent(&author.node, &topic("u")).await, Ok(None));
}

pub(crate) async fn a_stale_owner_cannot_erase(ground: Ground) {
    let author = ground.authored("a", &["t"]).await;
    for stale in [Grant { epoch: 9, nonce: 1 }, Grant { epoch: 10, nonce: 2 }] {
        assert_eq!(ground.bus.erase(&author.node, stale).await, Ok(false), "{stale:?}");
    }
    assert_eq!(author.ids("t").await, [at(10, 0)]);
    assert!(ground.bus.get(Key::Record(author.node)).await.unwrap().is_some());
}

pub(crate) async fn an_owner_may_erase_before_it_opens(ground: Ground) {
    let author = ground.authored("a", &["t"]).await;
    assert_eq!(ground.bus.erase(&author.node, Grant { epoch: 11, nonce: 2 }).await, Ok(true));
    assert_eq!(ground.bus.get(Key::Record(author.node)).await, Ok(None));
}

pub(crate) async fn a_state_is_refused_from_a_stale_owner(ground: Ground) {
    let author = ground.authored("a", &["t"]).await;
    let state = |grant, word: &'static str| ground.bus.put_state(&author.node, grant, word.into());
    assert_eq!(state(author.grant, "owner").await, Ok(true));
    assert_eq!(state(Grant { epoch: 9, nonce: 1 }, "older").await, Ok(false));
    assert_eq!(state(Grant { epoch: 10, nonce: 2 }, "twin").await, Ok(false));
    let (_, kept) = ground.other.get_state(&author.node).await.unwrap();
    assert_eq!(kept, Some(Bytes::from_static(b"owner")));
    assert_eq!(state(Grant { epoch: 11, nonce: 3 }, "next").await, Ok(true), "from the take on");
}

pub(crate) async fn a_state_fences_what_is_older(ground: Ground) {
    let author = ground.authored("a", &["t"]).await;
    let state = |epoch, nonce| ground.bus.put_state(&author.node, Grant { epoch, nonce }, "state".into());
    assert_eq!(state(20, 1).await, Ok(true), "taken, not yet opened");
    assert_eq!(state(19, 1).await, Ok(false));
    assert_eq!(state(20, 2).await, Ok(false));
    assert_eq!(state(20, 1).await, Ok(true));
    assert_eq!(ground.bus.erase(&author.node, Grant { epoch: 19, nonce: 1 }).await, Ok(false));
}

pub(crate) async fn an_erased_node_is_closed_to_older_grants(ground: Ground) {
    let author = ground.authored("a", &["t"]).await;
    assert_eq!(ground.bus.erase(&author.node, author.grant).await, Ok(true));
    assert_eq!(author.append("t", 1, 1).await, Appended::Fenced);
    assert_eq!(author.open(&["t"], FIRST).await, Ok(Opened::Fenced(10)));
    assert_eq!(ground.bus.put_state(&author.node, author.grant, "zombie".into()).await, Ok(false));
    // The name is used again.
    let node = ground.founded("a").await;
    assert_eq!(author.open(&["t"], FIRST).await, Ok(Opened::Fenced(10)));
    assert_eq!(ground.bus.put_state(&node, author.grant, "zombie".into()).await, Ok(false));
    assert_eq!(ground.bus.erase(&node, author.grant).await, Ok(false));
    let next = ground.author(&node, 11, 2);
    assert!(next.opened(&["t"]).await[0].sure, "it is a new node");
    next.write("t", 1, 1).await;
}

pub(crate) async fn a_state_and_a_record_are_read_together(ground: Ground) {
    let node = ground.founded("a").await;
    let record = Value { revision: 1, data: Bytes::from_static(b"record") };
    assert_eq!(ground.other.get_state(&node).await, Ok((Some(record.clone()), None)));
    let state = Bytes::from_static(b"\0state\xff");
    assert_eq!(ground.bus.put_state(&node, Grant { epoch: 1, nonce: 1 }, state.clone()).await, Ok(true));
    assert_eq!(ground.other.get_state(&node).await, Ok((Some(record.clone()), Some(state))));
    assert_eq!(ground.other.get(Key::Record(node)).await, Ok(Some(record)), "a state is no revision");
}

pub(crate) async fn interest_is_written_read_and_removed(ground: Ground) {
    let node = ground.founded("a").await;
    let (one, two) = ("gateway.1".into(), "gateway.2".into());
    // A topic may hold any bytes, a space too.
    let spaced = Bytes::from_static(b"a b\0\xff");
    ground.bus.want(&node, &one, &[(topic("t"), Some(2)), (spaced.clone(), Some(1))]).await.unwrap();
    ground.bus.want(&node, &two, &[(topic("t"), Some(1))]).await.unwrap();
    ground.bus.want(&node, &one, &[(topic("t"), Some(7))]).await.unwrap();
    let wanted = || async {
        let mut wanted = ground.other.wanted(&node).await.unwrap();
        wanted.sort();
        wanted
    };
    let all = [(one.clone(), spaced.clone(), 1), (one.clone(), topic("t"), 7), (two.clone(), topic("t"), 1)];
    assert_eq!(wanted().await, all);
    ground.bus.want(&node, &two, &[(topic("t"), Some(0))]).await.unwrap();
    let lingers = (two.clone(), topic("t"), 0);
    assert_eq!(
        wanted().await,
        [all[0].clone(), all[1].clone(), lingers.clone()],
        "nobody reads, and it is wanted"
    );
    ground.bus.want(&node, &one, &[(topic("t"), None), (topic("never"), None)]).await.unwrap();
    assert_eq!(wanted().await, [all[0].clone(), lingers]);
}
