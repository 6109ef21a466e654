//! P13 row by row. The random walks are in `model`.

mod model;

use super::*;
use crate::clock::Moment;
use plexus_bus::{Append, Appended, Entry, Era, Error, Look, Opened, Opening, Payload, Spot, Stage, Taken};
use plexus_proto::bus::LogMessage;
use std::time::SystemTime;

const T: Topic = Bytes::from_static(b"t");
const OURS: Grant = Grant { epoch: 10, nonce: 1 };

fn at(ms: u64) -> Moment {
    Moment::at(Duration::from_secs(1000) + Duration::from_millis(ms))
}

fn pos(epoch: u64, seq: u64) -> Position {
    Position::new(epoch, seq)
}

fn message(data: &str) -> LogMessage {
    LogMessage {
        data: Bytes::copy_from_slice(data.as_bytes()),
        id: Bytes::copy_from_slice(data.as_bytes()),
        ..Default::default()
    }
}

fn limits() -> Limits {
    Limits {
        backlog_messages_max: 4,
        backlog_bytes_max: 1000,
        own_messages_max: 200,
        own_bytes_max: 100 << 20,
        ring_bytes_max: 1000,
        ring_age_max: Duration::from_secs(30),
        logs_max: 3,
        retention: Retention { messages: 1000, bytes: 1 << 30, age: Duration::from_secs(3600) },
    }
}

/// A writer with its errand in hand.
struct Desk {
    log: Log,
    now: Moment,
}

impl Desk {
    /// Open with one empty log.
    fn open() -> Self {
        let mut desk = Self { log: Log::new(OURS, limits()), now: at(0) };
        desk.log.open([T]).unwrap();
        let outs = desk.answer(Done::Opened(Ok(opened(Position::ZERO))));
        assert!(matches!(outs[..], [Out::Ready(_), Out::Opened { .. }]), "{outs:?}");
        desk
    }

    fn order(&mut self) -> Order {
        self.log.next(self.now).expect("something to do")
    }

    fn answer(&mut self, done: Done) -> Vec<Out> {
        let order = self.order();
        self.log.done(order.turn, done, self.now)
    }

    fn push(&mut self, data: &str, ticket: u64) {
        self.log.push(&T, message(data), Some(ticket)).unwrap();
    }

    /// The next errand, which must be an append.
    fn append(&mut self) -> (u64, Vec<Append>) {
        let order = self.order();
        match order.task {
            Do::Append(grant, entries) => {
                assert_eq!(grant, self.log.grant());
                (order.turn, entries)
            }
            other => panic!("an append was due, not {other:?}"),
        }
    }

    fn appended(&mut self, spots: &[Spot]) -> Vec<Out> {
        let (turn, _) = self.append();
        self.log.done(turn, Done::Appended(Ok(Appended::Done(spots.to_vec()))), self.now)
    }

    fn log_all(&mut self) -> Vec<Out> {
        self.appended(&[Spot::Logged])
    }

    fn looked(&mut self, grant: Option<Grant>, tail: Position) -> Vec<Out> {
        self.now = self.now.after(Duration::from_secs(2));
        let order = self.order();
        assert!(matches!(order.task, Do::Look), "{order:?}");
        let look = Look { era: era("b"), grant, stamped: Some(era("a")), tails: vec![(T, tail)] };
        self.log.done(order.turn, Done::Looked(Ok(look)), self.now)
    }

    fn raises(&mut self, floor: u64) {
        match self.order().task {
            Do::Raise { from, floor: f, .. } => assert_eq!((from, f), (OURS.nonce, floor)),
            other => panic!("a raise was due, not {other:?}"),
        }
    }

    fn stamps(&mut self) {
        let order = self.order();
        assert!(matches!(&order.task, Do::Stamp(OURS, e) if *e == era("b")), "{order:?}");
        self.log.done(order.turn, Done::Stamped(Ok(true)), self.now);
    }
}

fn era(name: &str) -> Era {
    name.into()
}

fn opened(prev: Position) -> Opened {
    Opened::Done(vec![Opening { topic: T, prev, sure: true }])
}

fn ids(entries: &[Append]) -> Vec<(u64, u64, Vec<String>)> {
    let text = |m: &LogMessage| String::from_utf8(m.data.to_vec()).unwrap();
    let one = |e: &Append| {
        (e.first, e.last, e.entry.open::<LogEntry>().unwrap().messages.iter().map(text).collect())
    };
    entries.iter().map(one).collect()
}

fn tickets(outs: &[Out]) -> Vec<(u64, Position)> {
    outs.iter()
        .flat_map(|out| if let Out::Logged { tickets, .. } = out { tickets.clone() } else { Vec::new() })
        .collect()
}

fn fenced(outs: &[Out]) -> bool {
    outs.iter().any(|out| matches!(out, Out::Fenced))
}

#[test]
fn open_numbers_what_is_ready_and_has_one_append_under_way() {
    let mut desk = Desk::open();
    desk.push("a", 1);
    desk.push("b", 2);
    let (turn, entries) = desk.append();
    assert_eq!(ids(&entries), [(1, 2, vec!["a".into(), "b".into()])]);
    desk.push("c", 3);
    assert!(desk.log.next(desk.now).is_none(), "one append in flight");
    let outs = desk.log.done(turn, Done::Appended(Ok(Appended::Done(vec![Spot::Logged]))), desk.now);
    assert_eq!(tickets(&outs), [(1, pos(10, 1)), (2, pos(10, 2))]);
    assert_eq!(ids(&desk.append().1), [(3, 3, vec!["c".into()])]);
}

#[test]
fn sent_and_fenced_stops_the_node() {
    let mut desk = Desk::open();
    desk.push("a", 1);
    let outs = desk.answer(Done::Appended(Ok(Appended::Fenced)));
    assert!(fenced(&outs) && tickets(&outs).is_empty());
    assert!(desk.log.next(desk.now).is_none());
    assert_eq!(desk.log.push(&T, message("b"), None), Err(Refused::Ending));
}

#[test]
fn off_is_never_success_and_only_looking_tells() {
    let mut desk = Desk::open();
    desk.push("a", 1);
    assert!(tickets(&desk.appended(&[Spot::Off(Some(pos(10, 1)))])).is_empty());
    assert_eq!(
        tickets(&desk.looked(Some(OURS), pos(10, 1))),
        [(1, pos(10, 1))],
        "it was there: an earlier try"
    );
    desk.stamps();
}

#[test]
fn an_unknown_append_is_sent_again_with_the_same_number_before_the_stamp() {
    for error in [
        Error::Timeout,
        Error::Unreachable { sent: true },
        Error::Unreachable { sent: false },
        Error::Overloaded,
    ] {
        let mut desk = Desk::open();
        desk.push("a", 1);
        desk.answer(Done::Appended(Err(error)));
        desk.push("later", 2);
        assert!(tickets(&desk.looked(Some(OURS), pos(10, 0))).is_empty());
        assert_eq!(ids(&desk.append().1), [(1, 1, vec!["a".into()])]);
        desk.log.doubt();
        assert!(tickets(&desk.looked(Some(OURS), pos(10, 0))).is_empty());
        assert_eq!(tickets(&desk.log_all()), [(1, pos(10, 1))]);
        desk.stamps();
        assert_eq!(ids(&desk.append().1), [(2, 2, vec!["later".into()])]);
    }
}

#[test]
fn an_ok_that_arrives_while_unsure_is_ignored() {
    let mut desk = Desk::open();
    desk.push("a", 1);
    let (turn, _) = desk.append();
    desk.log.doubt();
    let outs = desk.log.done(turn, Done::Appended(Ok(Appended::Done(vec![Spot::Logged]))), desk.now);
    assert!(outs.is_empty(), "{outs:?}");
    assert!(matches!(desk.order().task, Do::Look));
}

#[test]
fn a_look_that_finds_a_later_grant_stops_the_node() {
    for grant in [Grant { epoch: 11, nonce: 9 }, Grant { epoch: 10, nonce: 9 }] {
        let mut desk = Desk::open();
        desk.log.doubt();
        assert!(fenced(&desk.looked(Some(grant), pos(10, 0))), "{grant:?}");
    }
}

#[test]
fn a_lost_opening_is_raised() {
    for (grant, tail, floor) in [
        (None, Position::ZERO, 10),
        (Some(Grant { epoch: 9, nonce: 3 }), pos(9, 4), 10),
        (Some(OURS), pos(9, 4), 10),
    ] {
        let mut desk = Desk::open();
        desk.log.doubt();
        desk.looked(grant, tail);
        desk.raises(floor);
    }
}

#[test]
fn a_lost_tail_is_appended_again_from_the_ring_then_stamped() {
    let mut desk = Desk::open();
    for (n, data) in ["a", "b", "c"].into_iter().enumerate() {
        desk.push(data, n as u64);
        desk.log_all();
    }
    desk.log.doubt();
    desk.push("d", 3);
    assert!(tickets(&desk.looked(Some(OURS), pos(10, 1))).is_empty());
    assert_eq!(ids(&desk.append().1), [(2, 3, vec!["b".into(), "c".into()])], "grouped as it likes");
    desk.log.doubt();
    desk.looked(Some(OURS), pos(10, 1));
    assert!(tickets(&desk.log_all()).is_empty(), "receipts are given once");
    desk.stamps();
    assert_eq!(ids(&desk.append().1), [(4, 4, vec!["d".into()])]);
}

#[test]
fn a_tail_within_an_entry_is_continued_there() {
    let mut desk = Desk::open();
    for data in ["a", "b", "c"] {
        desk.push(data, 1);
    }
    desk.answer(Done::Appended(Err(Error::Timeout)));
    desk.looked(Some(OURS), pos(10, 0));
    let (turn, _) = desk.append();
    desk.log.done(turn, Done::Appended(Err(Error::Timeout)), desk.now);
    let outs = desk.looked(Some(OURS), pos(10, 2));
    assert_eq!(tickets(&outs), [(1, pos(10, 1)), (1, pos(10, 2))]);
    assert_eq!(ids(&desk.append().1), [(3, 3, vec!["c".into()])]);
}

#[test]
fn a_ring_that_does_not_reach_raises() {
    let mut desk = Desk::open();
    for n in 0..3 {
        desk.push(&"x".repeat(600), n);
        desk.log_all();
    }
    assert!(desk.log.next(desk.now).is_none());
    desk.log.doubt();
    desk.looked(Some(OURS), pos(10, 1));
    desk.raises(10);
}

#[test]
fn a_log_keeps_no_more_than_it_is_told_but_for_what_is_not_confirmed() {
    let mut desk = Desk::open();
    for n in 0..4 {
        desk.push(&n.to_string().repeat(200), n);
        desk.log_all();
    }
    assert_eq!(desk.log.ring_bytes(), 800);
    desk.log.remember(500, Duration::from_secs(30));
    assert!(desk.log.next(desk.now).is_none());
    assert_eq!(desk.log.ring_bytes(), 400, "the oldest go");
    desk.push(&"x".repeat(600), 9);
    let (turn, _) = desk.append();
    assert_eq!(desk.log.ring_bytes(), 1000, "what is not confirmed stays whatever the bound");
    desk.log.done(turn, Done::Appended(Ok(Appended::Done(vec![Spot::Logged]))), desk.now);
    desk.log.remember(1000, Duration::from_secs(2));
    desk.now = at(3_000);
    assert!(desk.log.next(desk.now).is_none());
    assert_eq!(desk.log.ring_bytes(), 0, "nor longer than it is told");
}

#[test]
fn an_opening_has_one_attempt_an_epoch() {
    for (result, floor) in [(Err(Error::Timeout), 10), (Ok(Opened::Fenced(77)), 77)] {
        let mut desk = Desk { log: Log::new(OURS, limits()), now: at(0) };
        desk.log.open([T]).unwrap();
        desk.answer(Done::Opened(result));
        desk.raises(floor);
    }
    let mut desk = Desk { log: Log::new(OURS, limits()), now: at(0) };
    desk.answer(Done::Opened(Err(Error::Overloaded)));
    desk.now = at(100);
    assert!(matches!(desk.order().task, Do::Open { grant: OURS, .. }), "it did not run: the same once more");
}

#[test]
fn a_store_that_lost_the_first_opening_is_not_given_a_later_one() {
    let mut desk = Desk::open();
    desk.log.open([Bytes::from_static(b"u")]).unwrap();
    desk.answer(Done::Opened(Ok(Opened::Lost)));
    let order = desk.order();
    assert!(matches!(order.task, Do::Raise { from: 1, floor: 10, .. }), "{order:?}");
    desk.log.done(order.turn, Done::Raised(Ok(Taken::Epochs(vec![Some(20)]))), desk.now);
    let Do::Open { grant, topics, stage } = desk.order().task else { panic!("all is opened anew") };
    assert_eq!((grant.epoch, topics.len()), (20, 2));
    assert!(matches!(stage, Stage::First { .. }));
}

#[test]
fn a_raise_is_repeated_as_the_same_take_until_it_is_answered() {
    let mut desk = Desk { log: Log::new(OURS, limits()), now: at(0) };
    desk.answer(Done::Opened(Err(Error::Timeout)));
    let Do::Raise { nonce, .. } = desk.log.next(desk.now).map(|o| o.task).unwrap() else { panic!() };
    desk.log.done(2, Done::Raised(Err(Error::Timeout)), desk.now);
    desk.now = at(100);
    let order = desk.order();
    assert!(matches!(order.task, Do::Raise { nonce: again, .. } if again == nonce));
    let outs = desk.log.done(order.turn, Done::Raised(Ok(Taken::Epochs(vec![Some(20)]))), desk.now);
    assert!(matches!(outs[..], [Out::Raised(grant)] if grant == Grant { epoch: 20, nonce }));
    assert!(matches!(desk.order().task, Do::Open { grant: Grant { epoch: 20, .. }, .. }));
}

#[test]
fn a_raise_that_is_refused_stops_the_node() {
    for taken in [Taken::Lost, Taken::Epochs(vec![None])] {
        let mut desk = Desk { log: Log::new(OURS, limits()), now: at(0) };
        desk.answer(Done::Opened(Err(Error::Timeout)));
        assert!(fenced(&desk.answer(Done::Raised(Ok(taken)))));
    }
}

/// Brings a desk with "a" acked, and "b" in doubt, under grant 20; the opening found `prev`.
fn raised(prev: Position) -> (Desk, Vec<Out>) {
    let mut desk = Desk::open();
    desk.push("a", 1);
    desk.log_all();
    desk.push("b", 2);
    desk.answer(Done::Appended(Err(Error::Timeout)));
    desk.push("c", 3);
    desk.looked(Some(Grant { epoch: 9, nonce: 3 }), pos(9, 9));
    desk.answer(Done::Raised(Ok(Taken::Epochs(vec![Some(20)]))));
    let outs = desk.answer(Done::Opened(Ok(opened(prev))));
    (desk, outs)
}

fn read(desk: &mut Desk, entries: Vec<(Position, LogEntry)>) -> Vec<Out> {
    let order = desk.order();
    assert!(matches!(order.task, Do::Read(..)), "{order:?}");
    let entries = entries.into_iter().map(|(id, entry)| Entry { id, entry: Payload::of(entry) }).collect();
    desk.log.done(order.turn, Done::Read(Ok(entries), SystemTime::now()), desk.now)
}

fn marker(prev: Position) -> LogEntry {
    let opening = plexus_proto::bus::EpochOpening { prev: prev.to_string(), ..Default::default() };
    LogEntry { opening: Some(opening), ..Default::default() }
}

#[test]
fn a_raise_renumbers_exactly_what_the_log_does_not_have() {
    for (prev, landed, renumbered) in [
        (pos(10, 2), vec![(2, pos(10, 2))], vec!["c"]),
        (pos(10, 1), vec![], vec!["b", "c"]),
        (pos(9, 9), vec![], vec!["a", "b", "c"]),
    ] {
        let (mut desk, outs) = raised(prev);
        assert_eq!(tickets(&outs), landed, "{prev}");
        read(&mut desk, Vec::new());
        let (_, entries) = desk.append();
        assert_eq!(
            ids(&entries),
            [(1, renumbered.len() as u64, renumbered.iter().map(|s| s.to_string()).collect())]
        );
    }
}

#[test]
fn an_epoch_between_is_read_before_anything_is_renumbered() {
    let (mut desk, outs) = raised(pos(15, 0));
    assert!(tickets(&outs).is_empty());
    let outs = read(&mut desk, vec![(pos(15, 0), marker(pos(10, 2)))]);
    assert_eq!(tickets(&outs), [(2, pos(10, 2))]);
    assert_eq!(ids(&desk.append().1), [(1, 1, vec!["c".into()])]);
}

#[test]
fn a_keyed_publish_waits_for_the_window_and_runs_once() {
    let name = Name { key: "k", ..Name::default() };
    let mut desk = Desk { log: Log::new(OURS, limits()), now: at(0) };
    assert_eq!(desk.log.seek(&T, name), Known::Wait);
    desk.answer(Done::Opened(Ok(opened(pos(9, 3)))));
    assert_eq!(desk.log.seek(&T, name), Known::Wait);
    let keyed = LogMessage { idempotency_key: "k".into(), ..message("old") };
    let old = LogEntry {
        epoch: 9,
        seq: 3,
        messages: vec![message("x"), keyed, message("y")],
        ..Default::default()
    };
    let outs = read(&mut desk, vec![(pos(9, 3), old)]);
    assert!(matches!(outs[..], [Out::Ready(_)]));
    assert!(
        matches!(desk.log.seek(&T, name), Known::Logged { position, id } if position == pos(9, 2) && id == "old")
    );
    assert_eq!(desk.log.seek(&T, Name { key: "other", ..name }), Known::New);
    let other = LogMessage { idempotency_key: "other".into(), ..message("new") };
    desk.log.push(&T, other, Some(7)).unwrap();
    assert_eq!(desk.log.seek(&T, Name { key: "other", ..name }), Known::Pending(7));
    desk.log_all();
    assert!(
        matches!(desk.log.seek(&T, Name { key: "other", ..name }), Known::Logged { position, .. } if position == pos(10, 1))
    );
}

#[test]
fn a_message_of_the_network_is_logged_once_across_owners() {
    let mut desk = Desk { log: Log::new(OURS, limits()), now: at(0) };
    desk.log.push(&T, message("x"), None).unwrap();
    desk.log.push(&T, message("z"), None).unwrap();
    desk.answer(Done::Opened(Ok(opened(pos(9, 1)))));
    let recent = LogMessage { received_at: Some(SystemTime::now().into()), ..message("x") };
    read(&mut desk, vec![(pos(9, 1), LogEntry { messages: vec![recent], ..Default::default() })]);
    assert_eq!(ids(&desk.append().1), [(1, 1, vec!["z".into()])]);
}

#[test]
fn what_waits_is_bounded_and_readers_are_told_by_the_next_entry() {
    let mut desk = Desk::open();
    desk.log.doubt();
    desk.push("own", 1);
    for n in 0..6 {
        desk.log.push(&T, message(&n.to_string()), None).unwrap();
    }
    let outs = desk.looked(Some(OURS), pos(10, 0));
    assert!(matches!(outs[..], [Out::Dropped(2)]), "{outs:?}");
    desk.stamps();
    let (_, entries) = desk.append();
    assert_eq!(ids(&entries)[0].2, ["own", "2", "3", "4", "5"]);
    assert_eq!(entries[0].entry.open::<LogEntry>().unwrap().dropped, 2);
    for n in 0..limits().own_messages_max {
        desk.push("own", n as u64);
    }
    assert_eq!(desk.log.push(&T, message("own"), Some(0)), Err(Refused::Full));
}

#[test]
fn an_entry_has_64_messages_and_one_mebibyte_and_a_larger_message_goes_alone() {
    let mut desk = Desk::open();
    for n in 0..65 {
        desk.push("x", n);
    }
    desk.push(&"y".repeat(2 << 20), 65);
    desk.push("z", 66);
    let mut sizes = Vec::new();
    for _ in 0..4 {
        let (turn, entries) = desk.append();
        sizes.push(entries[0].last + 1 - entries[0].first);
        desk.log.done(turn, Done::Appended(Ok(Appended::Done(vec![Spot::Logged]))), desk.now);
    }
    assert_eq!(sizes, [64, 1, 1, 1]);
}

#[test]
fn keep_is_the_number_of_newest_entries_within_messages_bytes_and_age() {
    let mut desk = Desk::open();
    desk.log.retain(&T, Retention { messages: 5, bytes: 10, age: Duration::from_secs(60) });
    let mut keeps = Vec::new();
    for (data, seconds) in [("xx", 0), ("xx", 0), ("xxxxxxx", 0), ("x", 50), ("x", 20)] {
        desk.now = desk.now.after(Duration::from_secs(seconds));
        while let Some(order) = desk.log.next(desk.now) {
            desk.log.done(order.turn, Done::Trimmed(Ok(true)), desk.now);
        }
        desk.push(data, 0);
        let (turn, entries) = desk.append();
        keeps.push(entries[0].keep);
        desk.log.done(turn, Done::Appended(Ok(Appended::Done(vec![Spot::Logged]))), desk.now);
    }
    assert_eq!(keeps, [2, 3, 2, 3, 2], "the opening counts as an entry");
    assert_eq!(desk.log.kept(&T), Kept { messages: 2, bytes: 2 });
}

#[test]
fn a_log_at_rest_is_trimmed_once_a_minute() {
    let mut desk = Desk::open();
    desk.log.retain(&T, Retention { messages: 5, bytes: 10, age: Duration::from_secs(30) });
    desk.push("x", 0);
    desk.log_all();
    assert_eq!(desk.log.wake(), Some(at(60_000)));
    desk.now = at(60_000);
    let order = desk.order();
    assert!(matches!(&order.task, Do::Trim(OURS, topic, 0) if *topic == T), "{order:?}");
    desk.log.done(order.turn, Done::Trimmed(Ok(true)), desk.now);
    desk.now = at(120_000);
    assert!(desk.log.next(desk.now).is_none(), "nothing to trim");
}

#[test]
fn nothing_older_is_trimmed_before_the_log_was_read() {
    let mut desk = Desk { log: Log::new(OURS, limits()), now: at(0) };
    desk.push("a", 1);
    desk.answer(Done::Opened(Ok(opened(pos(9, 64)))));
    let order = desk.order();
    let recent = |seq| {
        (
            pos(9, seq),
            LogEntry {
                messages: vec![LogMessage {
                    received_at: Some((SystemTime::now() - Duration::from_secs(200)).into()),
                    ..message("o")
                }],
                ..Default::default()
            },
        )
    };
    let page =
        (1..=64).rev().map(recent).map(|(id, entry)| Entry { id, entry: Payload::of(entry) }).collect();
    desk.log.done(order.turn, Done::Read(Ok(page), SystemTime::now()), desk.now);
    let order = desk.order();
    assert!(matches!(order.task, Do::Read(_, range) if range.until == Some(pos(9, 0))));
    assert!(desk.append().1[0].keep > 1_000_000);
    desk.log.done(order.turn, Done::Read(Ok(Vec::new()), SystemTime::now()), desk.now);
    desk.log.done(order.turn + 1, Done::Appended(Ok(Appended::Done(vec![Spot::Logged]))), desk.now);
    desk.push("b", 2);
    assert_eq!(desk.append().1[0].keep, 64 + 1 + 2);
}

#[test]
fn a_purge_keeps_the_tail_and_forgets_the_keys() {
    let mut desk = Desk::open();
    desk.log.push(&T, LogMessage { idempotency_key: "k".into(), ..message("a") }, Some(1)).unwrap();
    desk.log_all();
    assert!(desk.log.purge(&T));
    let order = desk.order();
    assert!(matches!(order.task, Do::Trim(_, _, 0)));
    let outs = desk.log.done(order.turn, Done::Trimmed(Ok(true)), desk.now);
    assert!(matches!(outs[..], [Out::Purged(_)]));
    assert_eq!(desk.log.top(&T), Some(pos(10, 1)));
    assert_eq!(desk.log.seek(&T, Name { key: "k", ..Name::default() }), Known::New);
}

#[test]
fn a_node_that_hands_over_finishes_its_appends_first() {
    let mut desk = Desk::open();
    desk.push("a", 1);
    desk.log.drain();
    assert_eq!(desk.log.push(&T, message("b"), None), Err(Refused::Ending));
    assert!(!desk.log.drained());
    desk.log_all();
    assert!(desk.log.drained());
}

#[test]
fn further_topics_are_opened_and_bounded() {
    let mut desk = Desk::open();
    desk.log.open([Bytes::from_static(b"u"), Bytes::from_static(b"v")]).unwrap();
    assert_eq!(desk.log.open([Bytes::from_static(b"w")]), Err(Refused::Logs));
    assert!(matches!(desk.order().task, Do::Open { topics, stage: Stage::Later, .. } if topics.len() == 2));
}
