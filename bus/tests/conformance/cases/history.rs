//! The writer of a log: opening, appending, fencing (protocol.md P9–P14).

use crate::ground::{Author, FIRST, Ground, SWEEP, all, at, by_topic, entry, logged, node, off, topic};
use bytes::Bytes;
use plexus_bus::{Appended, Error, Grant, Opened, Opening, Payload, Spot, Stage, Subject};
use plexus_proto::bus as wire;
use prost::Message;

fn opening(name: &str, prev: (u64, u64), sure: bool) -> Opening {
    Opening { topic: topic(name), prev: at(prev.0, prev.1), sure }
}

async fn logged_entries(author: &Author, name: &str) -> Vec<wire::LogEntry> {
    let read = author.bus.read(&author.node, &topic(name), all()).await.unwrap();
    read.into_iter().map(|entry| entry.entry.take().unwrap()).collect()
}

pub(crate) async fn an_entry_is_logged_and_heard_alike(ground: Ground) {
    let author = ground.authored("a", &["t"]).await;
    let mut live = ground.other.subscribe(Subject::Topic(node("a"), topic("t"))).await.unwrap();
    author.write("t", 1, 3).await;
    let sent = author.entry(1, 3);
    assert_eq!(entry(&mut live).await, sent);
    assert_eq!(logged_entries(&author, "t").await[1], sent);
    assert_eq!(author.ids("t").await, [at(10, 0), at(10, 3)], "the id is that of the last message");
}

pub(crate) async fn an_opening_is_logged_and_heard_alike(ground: Ground) {
    let first = ground.authored("a", &["t"]).await;
    first.write("t", 1, 7).await;
    let mut live = ground.other.subscribe(Subject::Topic(node("a"), topic("t"))).await.unwrap();
    let second = ground.author(&node("a"), 20, 2);
    second.opened(&[]).await;
    let mut expected = second.marker();
    expected.opening.get_or_insert_default().prev = "10-7".into();
    expected.opening.get_or_insert_default().sure = true;
    assert_eq!(entry(&mut live).await, expected);
    assert_eq!(logged_entries(&second, "t").await.last(), Some(&expected));
    assert_eq!(second.ids("t").await.last(), Some(&at(20, 0)));
}

pub(crate) async fn the_first_opening_of_a_log_has_nothing_before(ground: Ground) {
    let author = ground.author(&ground.founded("a").await, 10, 1);
    assert_eq!(author.opened(&["t"]).await, [opening("t", (0, 0), true)]);
    let told = logged_entries(&author, "t").await[0].opening.clone().unwrap();
    assert_eq!((told.prev.as_str(), told.sure, told.worker.as_str()), ("", true, "pod.1"));
}

pub(crate) async fn an_opening_tells_the_tail_before(ground: Ground) {
    let first = ground.authored("a", &["quiet", "busy"]).await;
    first.write("busy", 1, 2).await;
    first.write("busy", 3, 9).await;
    let openings = ground.author(&node("a"), 11, 2).opened(&[]).await;
    assert_eq!(openings, [opening("busy", (10, 9), true), opening("quiet", (10, 0), true)]);
}

pub(crate) async fn an_opening_without_a_record_is_not_sure(ground: Ground) {
    let first = ground.author(&node("lost"), 10, 1);
    assert_eq!(first.opened(&["t"]).await, [opening("t", (0, 0), false)]);
    assert!(!logged_entries(&first, "t").await[0].opening.clone().unwrap().sure);
}

pub(crate) async fn doubt_stays_with_logs_that_seem_empty(ground: Ground) {
    ground.author(&node("lost"), 10, 1).opened(&["t"]).await;
    // What is there now was seen by an owner of this era; what is not there may have been lost.
    let openings = ground.author(&node("lost"), 20, 2).opened(&["new"]).await;
    assert_eq!(openings, [opening("new", (0, 0), false), opening("t", (10, 0), true)]);
}

pub(crate) async fn known_wanted_and_given_topics_are_opened(ground: Ground) {
    ground.authored("a", &["known", "both"]).await;
    let readers = [(topic("wanted"), Some(1)), (topic("both"), Some(3))];
    ground.other.want(&node("a"), &"gateway".into(), &readers).await.unwrap();
    let openings = ground.author(&node("a"), 20, 2).opened(&["given", "both"]).await;
    let known = |name| opening(name, (10, 0), true);
    let new = |name| opening(name, (0, 0), true);
    assert_eq!(openings, [known("both"), new("given"), known("known"), new("wanted")]);
}

pub(crate) async fn a_topic_is_opened_once_per_grant(ground: Ground) {
    let author = ground.authored("a", &["t"]).await;
    author.write("t", 1, 1).await;
    assert_eq!(author.opened_later(&["t", "later"]).await, [opening("later", (0, 0), true)]);
    assert_eq!(author.opened_later(&["t", "later"]).await, []);
    assert_eq!(author.opened(&["t", "later"]).await, [], "nor by the first once more");
    author.write("t", 2, 2).await;
    author.write("later", 1, 1).await;
}

pub(crate) async fn a_later_topic_is_opened_only_where_the_first_opening_is_there(ground: Ground) {
    let first = ground.authored("a", &["t"]).await;
    let mut live = ground.other.subscribe(Subject::Topic(node("a"), topic("t"))).await.unwrap();
    let second = ground.author(&node("a"), 20, 2);
    assert_eq!(second.open(&["later"], Stage::Later).await, Ok(Opened::Lost));
    assert_eq!(ground.bus.look(&node("a")).await.unwrap().grant, Some(first.grant));
    assert_eq!(ground.bus.tops(&[(node("a"), topic("later"))]).await, Ok(vec![None]));
    first.write("t", 1, 1).await;
    assert_eq!(entry(&mut live).await, first.entry(1, 1), "nothing was told");
    for older in [(9, 2), (10, 2)] {
        let older = ground.author(&node("a"), older.0, older.1);
        assert_eq!(older.open(&["later"], Stage::Later).await, Ok(Opened::Fenced(10)));
    }
    let never = ground.author(&ground.founded("b").await, 10, 1);
    assert_eq!(never.open(&["t"], Stage::Later).await, Ok(Opened::Lost));
    second.opened(&[]).await;
    assert_eq!(second.opened_later(&["later"]).await, [opening("later", (0, 0), true)]);
}

pub(crate) async fn an_older_grant_cannot_open(ground: Ground) {
    ground.authored("a", &["t"]).await;
    let older = ground.author(&node("a"), 9, 2);
    assert_eq!(older.open(&["t", "new"], FIRST).await, Ok(Opened::Fenced(10)));
    assert_eq!(ground.bus.tops(&[(node("a"), topic("new"))]).await, Ok(vec![None]));
    assert_eq!(ground.bus.look(&node("a")).await.unwrap().grant, Some(Grant { epoch: 10, nonce: 1 }));
}

pub(crate) async fn another_nonce_of_the_same_epoch_cannot_open(ground: Ground) {
    ground.authored("a", &["t"]).await;
    let twin = ground.author(&node("a"), 10, 2);
    assert_eq!(twin.open(&["new"], FIRST).await, Ok(Opened::Fenced(10)));
}

pub(crate) async fn an_older_grant_cannot_append(ground: Ground) {
    let older = ground.authored("a", &["t"]).await;
    older.write("t", 1, 1).await;
    let newer = ground.author(&node("a"), 11, 2);
    newer.opened(&[]).await;
    assert_eq!(older.append("t", 2, 2).await, Appended::Fenced);
    assert_eq!(newer.ids("t").await, [at(10, 0), at(10, 1), at(11, 0)]);
}

pub(crate) async fn another_nonce_of_the_same_epoch_cannot_append(ground: Ground) {
    ground.authored("a", &["t"]).await;
    assert_eq!(ground.author(&node("a"), 10, 2).append("t", 1, 1).await, Appended::Fenced);
}

pub(crate) async fn a_grant_that_did_not_open_cannot_append(ground: Ground) {
    ground.authored("a", &["t"]).await;
    assert_eq!(ground.author(&node("a"), 11, 2).append("t", 1, 1).await, Appended::Fenced);
    let fresh = ground.author(&ground.founded("b").await, 10, 1);
    assert_eq!(fresh.append("t", 1, 1).await, Appended::Fenced);
}

pub(crate) async fn what_is_fenced_is_not_heard(ground: Ground) {
    let older = ground.authored("a", &["t"]).await;
    let mut live = ground.other.subscribe(Subject::Topic(node("a"), topic("t"))).await.unwrap();
    let newer = ground.author(&node("a"), 11, 2);
    newer.opened(&[]).await;
    older.append("t", 1, 1).await;
    newer.write("t", 1, 1).await;
    assert_eq!(entry(&mut live).await.epoch, 11, "the opening");
    assert_eq!(entry(&mut live).await, newer.entry(1, 1));
}

pub(crate) async fn a_repeated_append_is_refused(ground: Ground) {
    let author = ground.authored("a", &["t"]).await;
    let mut live = ground.other.subscribe(Subject::Topic(node("a"), topic("t"))).await.unwrap();
    author.write("t", 1, 4).await;
    assert_eq!(author.append("t", 1, 4).await, off(Some(at(10, 4))));
    assert_eq!(author.append("t", 4, 5).await, off(Some(at(10, 4))), "nor a part of it");
    author.write("t", 5, 5).await;
    assert_eq!(author.ids("t").await, [at(10, 0), at(10, 4), at(10, 5)]);
    assert_eq!(entry(&mut live).await, author.entry(1, 4));
    assert_eq!(entry(&mut live).await, author.entry(5, 5), "a refused entry is not heard");
}

pub(crate) async fn a_hole_is_refused(ground: Ground) {
    let author = ground.authored("a", &["t"]).await;
    assert_eq!(author.append("t", 2, 2).await, off(Some(at(10, 0))));
    author.write("t", 1, 1).await;
    assert_eq!(author.append("t", 3, 3).await, off(Some(at(10, 1))));
    assert_eq!(author.ids("t").await, [at(10, 0), at(10, 1)]);
}

pub(crate) async fn an_old_id_is_refused_after_all_was_trimmed(ground: Ground) {
    let author = ground.authored("a", &["t"]).await;
    author.write("t", 1, 5).await;
    assert_eq!(ground.bus.trim(&author.node, author.grant, &topic("t"), 0).await, Ok(true));
    assert_eq!(author.ids("t").await, []);
    assert_eq!(author.append("t", 1, 5).await, off(Some(at(10, 5))));
    author.write("t", 6, 6).await;
    assert_eq!(author.ids("t").await, [at(10, 6)]);
}

pub(crate) async fn an_append_never_makes_a_log(ground: Ground) {
    let author = ground.authored("a", &["t"]).await;
    assert_eq!(author.append("other", 1, 1).await, off(None));
    assert_eq!(ground.bus.extent(&author.node, &topic("other")).await, Ok(None));
}

pub(crate) async fn one_append_answers_for_each_topic(ground: Ground) {
    let author = ground.authored("a", &["a", "b", "c"]).await;
    let entries = vec![
        author.append_of("a", 1, 2),
        author.append_of("b", 2, 2),
        author.append_of("none", 1, 1),
        author.append_of("c", 1, 64),
    ];
    let spots = vec![Spot::Logged, Spot::Off(Some(at(10, 0))), Spot::Off(None), Spot::Logged];
    assert_eq!(ground.bus.append(&author.node, author.grant, entries).await, Ok(Appended::Done(spots)));
    assert_eq!(author.ids("b").await, [at(10, 0)]);
    assert_eq!(author.ids("c").await, [at(10, 0), at(10, 64)]);
}

pub(crate) async fn an_append_keeps_about_as_many_entries_as_asked(ground: Ground) {
    let author = ground.authored("a", &["t"]).await;
    for n in 1..=400 {
        let append = plexus_bus::Append { keep: 10, ..author.append_of("t", n, n) };
        assert_eq!(ground.bus.append(&author.node, author.grant, vec![append]).await, Ok(logged()));
    }
    let ids = author.ids("t").await;
    // A server trims by whole nodes of its tree, of 100 entries at most.
    assert!((10..=110).contains(&ids.len()), "{}", ids.len());
    assert_eq!(ids.last(), Some(&at(10, 400)));
    assert_eq!(ids[ids.len() - 10], at(10, 391), "the newest are kept");
}

pub(crate) async fn an_append_that_makes_no_sense_is_refused(ground: Ground) {
    let ground = ground.anew(|config| config.frame_bytes_max = 1000).await;
    let author = ground.authored("a", &["t"]).await;
    let good = author.append_of("t", 1, 1);
    let bad = [
        plexus_bus::Append { first: 0, ..good.clone() },
        plexus_bus::Append { first: 3, last: 2, ..good.clone() },
        plexus_bus::Append { keep: 0, ..good.clone() },
        plexus_bus::Append { topic: Bytes::new(), ..good.clone() },
        plexus_bus::Append { entry: Payload::of("x".repeat(2000)), ..good.clone() },
    ];
    for bad in bad {
        let refused = ground.bus.append(&author.node, author.grant, vec![good.clone(), bad]).await;
        assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    }
    assert_eq!(author.ids("t").await, [at(10, 0)], "nothing of it was written");
}

pub(crate) async fn a_sweep_drops_logs_without_messages_that_nobody_wants(ground: Ground) {
    let first = ground.authored("a", &["full", "wanted", "given", "empty", "purged"]).await;
    first.write("full", 1, 1).await;
    first.write("purged", 1, 1).await;
    assert_eq!(ground.bus.trim(&first.node, first.grant, &topic("purged"), 0).await, Ok(true));
    ground.bus.want(&node("a"), &"gateway".into(), &[(topic("wanted"), Some(1))]).await.unwrap();
    let second = ground.author(&node("a"), 20, 2);
    let opened = by_topic(second.open(&["given"], SWEEP).await);
    let stays =
        [opening("full", (10, 1), true), opening("given", (10, 0), true), opening("wanted", (10, 0), true)];
    assert_eq!(opened, stays);
    assert_eq!(second.ids("wanted").await, [at(10, 0), at(20, 0)]);
    assert_eq!(ground.bus.extent(&node("a"), &topic("empty")).await, Ok(None));
    assert_eq!(second.append("empty", 1, 1).await, off(None));
}

pub(crate) async fn without_a_sweep_an_empty_log_stays(ground: Ground) {
    ground.authored("a", &["empty"]).await;
    let second = ground.author(&node("a"), 20, 2);
    assert_eq!(by_topic(second.open(&[], FIRST).await), [opening("empty", (10, 0), true)]);
}

pub(crate) async fn a_sweep_drops_nothing_of_its_own_epoch(ground: Ground) {
    let author = ground.authored("a", &["t"]).await;
    author.write("t", 1, 5).await;
    assert_eq!(ground.bus.trim(&author.node, author.grant, &topic("t"), 0).await, Ok(true));
    assert_eq!(by_topic(author.open(&["u"], SWEEP).await), [opening("u", (0, 0), true)]);
    // Else its numbers would come again with other messages.
    assert_eq!(author.append("t", 1, 1).await, off(Some(at(10, 5))));
}

pub(crate) async fn a_swept_log_begins_anew(ground: Ground) {
    ground.authored("a", &["t"]).await;
    assert_eq!(by_topic(ground.author(&node("a"), 20, 2).open(&[], SWEEP).await), []);
    let third = ground.author(&node("a"), 30, 3);
    assert_eq!(third.opened(&["t"]).await, [opening("t", (0, 0), true)]);
    assert_eq!(third.ids("t").await, [at(30, 0)]);
}

pub(crate) async fn an_opening_is_the_callers_marker_and_more(ground: Ground) {
    let author = ground.author(&ground.founded("a").await, 10, 1);
    let marker = wire::LogEntry { dropped: 5, opening: None, ..author.marker() };
    let opened = ground
        .bus
        .open_logs(&author.node, author.grant, &[topic("t")], marker.encode_to_vec().into(), FIRST)
        .await;
    assert_eq!(by_topic(opened).len(), 1);
    let entry = &logged_entries(&author, "t").await[0];
    assert_eq!((entry.dropped, entry.epoch, entry.nonce), (5, 10, 1));
    assert!(entry.opening.as_ref().unwrap().sure);
}
