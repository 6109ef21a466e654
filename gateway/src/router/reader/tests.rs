use super::*;
use crate::router::place::{Edge, Gap, before, id_of};
use plexus_proto::{
    bus::{EpochOpening, LogMessage},
    v1::subscription_event::gap::Reason,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const NONCE: u64 = 7;
const PATIENCE: Duration = Duration::from_secs(2);

pub(in crate::router) fn p(epoch: u64, seq: u64) -> Position {
    Position::new(epoch, seq)
}

pub(in crate::router) fn data(epoch: u64, first: u64, last: u64) -> Arc<LogEntry> {
    written(epoch, first, last, NONCE, 0)
}

pub(in crate::router) fn written(epoch: u64, first: u64, last: u64, nonce: u64, mark: u64) -> Arc<LogEntry> {
    let message = |_| LogMessage { data: mark.to_string().into(), ..LogMessage::default() };
    Arc::new(LogEntry {
        epoch,
        seq: last,
        nonce,
        messages: (first..=last).map(message).collect(),
        ..LogEntry::default()
    })
}

pub(in crate::router) fn open(epoch: u64, prev: Position, sure: bool) -> Arc<LogEntry> {
    let prev = if prev == Position::ZERO { String::new() } else { prev.to_string() };
    let opening = EpochOpening { prev, sure, ..EpochOpening::default() };
    Arc::new(LogEntry { epoch, nonce: NONCE, opening: Some(opening), ..LogEntry::default() })
}

/// Live at 5-3, under the known nonce.
fn live_at(at: Position, now: Instant) -> Reader {
    let mut reader = Reader::new(PATIENCE, now);
    assert!(reader.begin(Place { at, nonce: NONCE }, now).is_empty());
    reader
}

#[test]
fn p21_holds_row_by_row_for_live_entries() {
    #[derive(Debug, PartialEq)]
    enum Does {
        Delivers(u64),
        Moves,
        Drops,
        Repairs,
    }
    let foreign = written(5, 4, 4, NONCE + 1, 0);
    let table = [
        ("the next one", data(5, 4, 4), Does::Delivers(3)),
        ("several at once", data(5, 4, 9), Does::Delivers(3)),
        ("half of it known", data(5, 2, 5), Does::Delivers(3)),
        ("all of it known", data(5, 1, 3), Does::Drops),
        ("an older one", data(5, 1, 1), Does::Drops),
        ("its own opening", open(5, p(4, 9), true), Does::Drops),
        ("an older epoch", data(4, 9, 9), Does::Drops),
        ("an older epoch's opening", open(4, p(3, 1), true), Does::Drops),
        ("a hole", data(5, 5, 5), Does::Repairs),
        ("the next epoch, sure", open(6, p(5, 3), true), Does::Moves),
        ("the next epoch, not sure", open(6, p(5, 3), false), Does::Repairs),
        ("an opening behind us", open(6, p(5, 2), true), Does::Repairs),
        ("an opening before us", open(6, p(5, 4), true), Does::Repairs),
        ("an opening of an empty log", open(6, Position::ZERO, true), Does::Repairs),
        ("a newer epoch without its opening", data(6, 1, 1), Does::Repairs),
        ("our epoch under another grant", foreign, Does::Repairs),
    ];
    for (name, entry, does) in table {
        let now = Instant::now();
        let mut reader = live_at(p(5, 3), now);
        let told = reader.live(entry.clone(), now);
        let asks = reader.ask(now);
        let done = match told {
            Some(Told::Entry { after, .. }) => Does::Delivers(after),
            Some(Told::Moved(at)) if at == id_of(&entry) => Does::Moves,
            None if asks.is_some() => Does::Repairs,
            None => Does::Drops,
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(done, does, "{name}");
        if let Some(ask) = asks {
            assert_eq!(ask.place.at, p(5, 3), "{name}: a repair reads from the place, included");
        }
    }
}

/// What a real log would answer to a read from `from`.
pub(in crate::router) fn look(
    log: &[Arc<LogEntry>],
    tail: Option<Position>,
    place: Place,
    limit: usize,
) -> Found {
    let entries: Vec<_> = log.iter().filter(|e| id_of(e) >= place.at).take(limit).cloned().collect();
    let full = entries.len() >= limit;
    let touches = entries.first().is_some_and(|e| place.touches(e));
    let edge = (!touches).then(|| Edge {
        start: log.first().map(|e| before(e)),
        top: tail,
        before: log.iter().rfind(|e| id_of(e) <= place.at).map(|e| (id_of(e), e.nonce)),
    });
    Found { entries, full, edge }
}

/// A reader that reads a log from a place on for as long as it has patience, and the gaps it tells.
fn read_on(at: Position, log: &[Arc<LogEntry>], tail: Position) -> (Reader, Vec<Gap>) {
    let start = Instant::now();
    let (mut reader, mut gaps) = (live_at(at, start), Vec::new());
    reader.reread();
    for step in 0..8 {
        let now = start + PATIENCE * step;
        while let Some(ask) = reader.ask(now) {
            for told in reader.found(ask.ticket, Some(look(log, Some(tail), ask.place, 2)), now) {
                if let Told::Gap(gap) = told {
                    gaps.push(gap);
                }
            }
        }
    }
    (reader, gaps)
}

#[test]
fn p22_holds_row_by_row_for_reads() {
    use Reason::{Rewound, Trimmed, UnknownEpoch};
    let gap = |after, until, reason| Some(Gap { after, until, reason });
    let at = p(5, 3);
    let table = [
        ("it goes on", vec![data(5, 3, 3), data(5, 4, 4)], p(5, 4), None, p(5, 4)),
        ("it goes on inside an entry", vec![data(5, 1, 6)], p(5, 6), None, p(5, 6)),
        ("it goes on in the next epoch", vec![data(5, 3, 3), open(6, at, true)], p(6, 0), None, p(6, 0)),
        ("nothing new", vec![data(5, 3, 3)], at, None, at),
        ("all of it trimmed, nothing new", vec![], at, None, at),
        ("trimmed", vec![data(5, 7, 8)], p(5, 8), gap(at, p(5, 6), Trimmed), p(5, 8)),
        (
            "trimmed beyond an epoch",
            vec![open(6, p(5, 9), true)],
            p(6, 0),
            gap(at, p(6, 0), Trimmed),
            p(6, 0),
        ),
        // Found by the simulator: seed 10, walk 55.
        (
            "begun anew, and what was before may be lost",
            vec![open(6, p(0, 0), false), data(6, 1, 3)],
            p(6, 3),
            gap(p(0, 0), p(6, 0), Rewound),
            p(6, 3),
        ),
        ("all of it trimmed", vec![], p(5, 9), gap(at, p(5, 9), Trimmed), p(5, 9)),
        ("not sure", vec![data(5, 3, 3), open(6, at, false)], p(6, 0), gap(at, p(6, 0), Rewound), p(6, 0)),
        (
            "went back",
            vec![data(5, 1, 1), open(6, p(5, 1), true)],
            p(6, 0),
            gap(p(5, 1), p(6, 0), Rewound),
            p(6, 0),
        ),
        ("shorter, for good", vec![data(5, 1, 2)], p(5, 2), gap(p(5, 2), p(5, 2), Rewound), p(5, 2)),
        (
            "another epoch",
            vec![open(4, p(3, 1), true), data(4, 1, 2)],
            p(4, 2),
            gap(p(0, 0), p(4, 0), UnknownEpoch),
            p(4, 2),
        ),
        (
            "between epochs",
            vec![data(4, 1, 1), open(6, p(4, 1), true)],
            p(6, 0),
            gap(p(0, 0), p(4, 0), UnknownEpoch),
            p(6, 0),
        ),
        (
            "before its opening",
            vec![open(6, p(4, 1), true)],
            p(6, 0),
            gap(p(0, 0), p(6, 0), UnknownEpoch),
            p(6, 0),
        ),
        (
            "another grant",
            vec![written(5, 3, 4, 8, 0)],
            p(5, 4),
            gap(p(0, 0), p(5, 2), UnknownEpoch),
            p(5, 4),
        ),
    ];
    for (name, log, tail, expected, end) in table {
        let (reader, gaps) = read_on(at, &log, tail);
        assert_eq!(gaps, Vec::from_iter(expected), "{name}");
        assert!(reader.calm(), "{name}");
        assert_eq!(reader.place().at, end, "{name}");
    }
}

#[test]
fn a_log_that_is_gone_is_told_as_an_unknown_epoch() {
    let now = Instant::now();
    let mut reader = live_at(p(5, 3), now);
    reader.reread();
    let ask = reader.ask(now).unwrap();
    let told = reader.found(ask.ticket, Some(look(&[], None, ask.place, 9)), now);
    let expected = Gap { after: p(0, 0), until: p(0, 0), reason: Reason::UnknownEpoch };
    assert!(matches!(told[..], [Told::Gap(gap)] if gap == expected));
}

#[test]
fn a_shorter_log_is_given_time_to_grow_again() {
    let now = Instant::now();
    let mut reader = live_at(p(5, 3), now);
    let mut log = vec![data(5, 1, 1)];
    reader.reread();
    let ask = reader.ask(now).unwrap();
    assert!(reader.found(ask.ticket, Some(look(&log, Some(p(5, 1)), ask.place, 9)), now).is_empty());
    assert!(reader.ask(now + PATIENCE / 2).is_none(), "it waits");
    // The owner appends the same again: no gap, and nothing twice.
    log.push(data(5, 2, 4));
    assert!(reader.live(log[1].clone(), now + PATIENCE / 2).is_none());
    let ask = reader.ask(now + PATIENCE / 2).unwrap();
    let told = reader.found(ask.ticket, Some(look(&log, Some(p(5, 4)), ask.place, 9)), now + PATIENCE / 2);
    assert!(matches!(told[..], [Told::Entry { after: 3, .. }]), "{told:?}");
    assert!(reader.calm());
}

#[test]
fn a_silent_topic_has_its_tail_compared_by_epoch_and_sequence() {
    let now = Instant::now();
    let every = Duration::from_secs(5);
    for (top, suspicious) in
        [(p(5, 3), false), (p(5, 4), true), (p(5, 2), true), (p(6, 3), true), (p(4, 3), true)]
    {
        let mut reader = live_at(p(5, 3), now);
        assert_eq!(reader.due(now + every / 2, every), None);
        let ticket = reader.due(now + every, every).expect("silence");
        assert_eq!(reader.due(now + every, every), None, "once per interval");
        reader.compare(ticket, Some(top));
        assert_eq!(reader.ask(now).is_some(), suspicious, "{top}");
    }
    let mut reader = live_at(p(5, 3), now);
    reader.doubt();
    assert!(reader.due(now, every).is_some(), "after a lag it is compared at once");
}

#[test]
fn a_read_is_no_evidence_once_the_place_moved() {
    let now = Instant::now();
    let every = Duration::from_secs(5);
    let mut reader = live_at(p(5, 3), now);
    let ticket = reader.due(now + every, every).unwrap();
    assert!(reader.live(data(5, 4, 4), now + every).is_some());
    reader.compare(ticket, Some(p(5, 3)));
    assert!(reader.ask(now + every).is_none(), "the tail was read before 5-4 came");

    reader.reread();
    let stale = reader.ask(now).unwrap();
    reader.begin(Place { at: p(5, 9), nonce: NONCE }, now);
    reader.reread();
    assert!(
        reader
            .found(stale.ticket, Some(look(&[data(5, 4, 4)], Some(p(5, 4)), stale.place, 9)), now)
            .is_empty()
    );
    assert_eq!(reader.place().at, p(5, 9));
    assert!(reader.ask(now).is_some(), "it reads again");
}

#[test]
fn what_comes_during_a_read_follows_it() {
    let now = Instant::now();
    let mut reader = live_at(p(5, 3), now);
    let log: Vec<_> = (1..=9).map(|n| data(5, n, n)).collect();
    assert!(reader.live(log[5].clone(), now).is_none(), "a hole");
    let ask = reader.ask(now).unwrap();
    assert!(reader.live(log[6].clone(), now).is_none() && reader.live(log[7].clone(), now).is_none());
    let told = reader.found(ask.ticket, Some(look(&log[..7], Some(p(5, 7)), ask.place, 99)), now);
    let seqs: Vec<u64> =
        told.iter().map(|t| if let Told::Entry { entry, .. } = t { entry.seq } else { 0 }).collect();
    assert_eq!(seqs, [4, 5, 6, 7, 8]);
    assert!(reader.calm());
}

#[test]
fn what_was_said_live_and_never_logged_is_read_for_once() {
    let now = Instant::now();
    let mut reader = live_at(p(5, 3), now);
    let log = [data(5, 3, 3)];
    assert!(reader.live(open(9, p(5, 8), true), now).is_none());
    let ask = reader.ask(now).unwrap();
    assert!(reader.live(data(9, 1, 1), now).is_none(), "this one came after the read was sent");
    assert!(reader.found(ask.ticket, Some(look(&log, Some(p(5, 3)), ask.place, 9)), now).is_empty());
    let ask = reader.ask(now).expect("so it reads once more");
    assert!(reader.found(ask.ticket, Some(look(&log, Some(p(5, 3)), ask.place, 9)), now).is_empty());
    assert!(reader.calm() && reader.ask(now).is_none());
    assert!(reader.due(now, Duration::from_secs(5)).is_some(), "and compares the tail soon");
}

/// A log with its owner, its store's accidents, and what was published on its live subject.
#[derive(Default)]
pub(in crate::router) struct Model {
    pub(in crate::router) log: Vec<Arc<LogEntry>>,
    pub(in crate::router) tail: Option<Position>,
    pub(in crate::router) epoch: u64,
    pub(in crate::router) used: BTreeSet<u64>,
    pub(in crate::router) nonce: u64,
    /// Next payload, never used twice.
    pub(in crate::router) mark: u64,
    /// Entries that a living owner still has, to append again.
    pub(in crate::router) ring: Vec<Arc<LogEntry>>,
    /// All that was ever logged and not withdrawn: position to payload.
    pub(in crate::router) live: Vec<Arc<LogEntry>>,
}

#[derive(Clone, Debug)]
enum Deed {
    Append(u8),
    Open {
        again: bool,
    },
    Trim(u8),
    /// A failover loses the last entries; a living owner appends them again.
    Lose {
        entries: u8,
        owner_lives: bool,
    },
    Deliver(u8),
    DropLive(u8),
    Read,
    Compare,
}

impl Model {
    pub(in crate::router) fn open(&mut self, sure: bool, nonce: u64) {
        // Never the same epoch twice: that two grants are equal by chance is not promised against.
        self.epoch += 1;
        while !self.used.insert(self.epoch) {
            self.epoch += 1;
        }
        self.nonce = nonce;
        let mut entry = Arc::unwrap_or_clone(open(self.epoch, self.tail.unwrap_or_default(), sure));
        entry.nonce = nonce;
        self.put(Arc::new(entry));
        self.ring.clear();
    }

    /// Leaves room below each epoch for one that comes later and is smaller.
    pub(in crate::router) fn open_above(&mut self, sure: bool, nonce: u64) {
        self.epoch += 9;
        self.open(sure, nonce);
    }

    pub(in crate::router) fn append(&mut self, messages: u64) {
        if self.tail.is_none() {
            self.open_above(true, NONCE);
        }
        self.mark += 1;
        let first = self.tail.unwrap().seq + 1;
        let entry = written(self.epoch, first, first + messages - 1, self.nonce, self.mark);
        self.ring.push(entry.clone());
        self.put(entry);
    }

    pub(in crate::router) fn put(&mut self, entry: Arc<LogEntry>) {
        self.tail = Some(id_of(&entry));
        self.log.push(entry.clone());
        self.live.push(entry);
    }

    pub(in crate::router) fn lose(&mut self, entries: usize, owner_lives: bool) {
        let keep = self.log.len().saturating_sub(entries);
        if keep == self.log.len() || keep == 0 {
            return;
        }
        self.log.truncate(keep);
        self.tail = self.log.last().map(|e| id_of(e));
        let tail = self.tail.unwrap();
        let lost: Vec<_> = self.ring.iter().filter(|e| id_of(e) > tail).cloned().collect();
        let whole = lost.first().is_some_and(|e| before(e) == tail);
        if owner_lives && whole {
            lost.into_iter().for_each(|e| self.put(e));
        } else {
            // A new owner, or this one under a new grant: it cannot know what is gone.
            // With the opening its grant may be gone too, and epochs go back.
            if tail.epoch < self.epoch && entries.is_multiple_of(2) {
                self.epoch = tail.epoch;
            }
            self.open(false, NONCE + 1000 + self.mark);
        }
    }
}

/// A reader that remembers what it was told, and complains.
#[derive(Default)]
struct Witness {
    at: Position,
    seen: BTreeMap<Position, String>,
    gaps: Vec<Gap>,
}

impl Witness {
    fn hear(&mut self, told: Vec<Told>) -> Result<(), TestCaseError> {
        for told in told {
            match told {
                Told::Moved(at) => {
                    prop_assert!(at > self.at, "order: {at} after {}", self.at);
                    self.at = at;
                }
                Told::Gap(gap) => {
                    self.at = gap.until;
                    self.gaps.push(gap);
                    // What was seen beyond `after` may be withdrawn and come again.
                    self.seen.retain(|at, _| *at <= gap.after);
                }
                Told::Entry { entry, after } => {
                    prop_assert_eq!((self.at.epoch, self.at.seq), (entry.epoch, after), "continuity");
                    for (seq, message) in
                        super::super::frames::numbered(&entry).filter(|(seq, _)| *seq > after)
                    {
                        let at = p(entry.epoch, seq);
                        let text = String::from_utf8_lossy(&message.data).into_owned();
                        prop_assert!(self.seen.insert(at, text).is_none(), "{} twice without a gap", at);
                    }
                    self.at = id_of(&entry);
                }
            }
        }
        Ok(())
    }
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let deed = prop_oneof![
        6 => (1..4u8).prop_map(Deed::Append),
        1 => any::<bool>().prop_map(|again| Deed::Open { again }),
        1 => (1..5u8).prop_map(Deed::Trim),
        1 => (1..6u8, any::<bool>()).prop_map(|(entries, owner_lives)| Deed::Lose { entries, owner_lives }),
        4 => (1..5u8).prop_map(Deed::Deliver),
        1 => (1..5u8).prop_map(Deed::DropLive),
        3 => Just(Deed::Read),
        2 => Just(Deed::Compare),
    ];
    proptest::collection::vec(deed, 1..80)
}

fn answer(
    reader: &mut Reader,
    model: &Model,
    now: Instant,
    witness: &mut Witness,
) -> Result<(), TestCaseError> {
    if let Some(ask) = reader.ask(now) {
        let found = look(&model.log, model.tail, ask.place, 3);
        witness.hear(reader.found(ask.ticket, Some(found), now))?;
    }
    Ok(())
}

fn run(deeds: Vec<Deed>) -> Result<(Model, Witness), TestCaseError> {
    let mut now = Instant::now();
    let (mut model, mut witness) = (Model::default(), Witness::default());
    let mut reader = live_at(Position::ZERO, now);
    let every = Duration::from_secs(5);
    for deed in deeds {
        now += Duration::from_millis(300);
        match deed {
            Deed::Append(n) => model.append(u64::from(n)),
            Deed::Open { again } => model.open_above(true, if again { NONCE } else { NONCE + model.mark }),
            Deed::Trim(n) => {
                let n = usize::from(n).min(model.log.len());
                model.log.drain(..n);
            }
            Deed::Lose { entries, owner_lives } => model.lose(usize::from(entries), owner_lives),
            Deed::Deliver(n) => {
                for entry in model.live.drain(..usize::from(n).min(model.live.len())) {
                    witness.hear(reader.live(entry, now).into_iter().collect())?;
                }
            }
            Deed::DropLive(n) => drop(model.live.drain(..usize::from(n).min(model.live.len()))),
            Deed::Read => answer(&mut reader, &model, now, &mut witness)?,
            Deed::Compare => {
                if let Some(ticket) = reader.due(now, every) {
                    reader.compare(ticket, model.tail);
                }
            }
        }
    }
    model.live.clear();
    // Quiet: two idle checks and all reads they ask for end at the tail.
    for _ in 0..200 {
        now += every;
        answer(&mut reader, &model, now, &mut witness)?;
        if let Some(ticket) = reader.due(now, every) {
            reader.compare(ticket, model.tail);
        }
    }
    prop_assert_eq!(reader.place().at, model.tail.unwrap_or_default(), "the reader ends at the tail");
    Ok((model, witness))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn nothing_is_lost_in_silence_and_nothing_comes_twice(deeds in deeds()) {
        let (model, witness) = run(deeds)?;
        for entry in &model.log {
            for (seq, message) in super::super::frames::numbered(entry) {
                let at = p(entry.epoch, seq);
                let told = witness.gaps.iter().any(|g| g.after < at && at <= g.until);
                let text = String::from_utf8_lossy(&message.data).into_owned();
                prop_assert!(told || witness.seen.get(&at) == Some(&text), "{} is {:?}, not {}", at, witness.seen.get(&at), text);
            }
        }
    }

    #[test]
    fn a_store_that_loses_nothing_makes_no_gap(deeds in deeds()) {
        let harmless = |d: &Deed| !matches!(d, Deed::Lose { .. } | Deed::Trim(_));
        let (_, witness) = run(deeds.into_iter().filter(harmless).collect())?;
        prop_assert!(witness.gaps.is_empty(), "{:?}", witness.gaps);
    }
}
