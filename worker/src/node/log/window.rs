//! The window in which repeats are known (P12, P16, P17): keys and producer numbers of what one log
//! retains, and the ids of messages that the node logged in the last two minutes.

use super::{Known, Name};
use crate::clock::Moment;
use bytes::Bytes;
use plexus_bus::Position;
use plexus_proto::bus::LogMessage;
use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// Named messages of one log that are known at most; then the oldest are forgotten, though retained.
const NAMES_MAX: usize = 100_000;
/// Ids of the last two minutes that are known at most.
const SEEN_MAX: usize = 1 << 16;
/// How long an id is known.
pub(super) const SEEN_FOR: Duration = Duration::from_secs(120);

/// Keys and producer numbers of one log.
#[derive(Debug, Default)]
pub(super) struct Window {
    keys: HashMap<Box<str>, State>,
    producers: HashMap<Box<str>, BTreeMap<u64, State>>,
    /// What is logged, oldest first, with its names.
    logged: VecDeque<(Position, Names)>,
}

#[derive(Clone, Debug)]
enum State {
    Pending(u64),
    /// It was in the log, and goes there again.
    Carried,
    Logged {
        position: Position,
        id: Bytes,
    },
}

#[derive(Debug)]
struct Names {
    key: Option<Box<str>>,
    producer: Option<(Box<str>, u64)>,
}

impl Window {
    /// Tells what is known of a publish by its names; the key decides before the number.
    pub(super) fn seek(&self, name: Name<'_>) -> Known {
        if let Some(state) = self.keys.get(name.key) {
            return state.known();
        }
        match self.producers.get(name.producer) {
            Some(numbers) => match numbers.get(&name.seq) {
                Some(state) => state.known(),
                None if numbers.last_key_value().is_some_and(|(last, _)| *last > name.seq) => Known::Stale,
                None => Known::New,
            },
            None => Known::New,
        }
    }

    /// Notes a message that waits for its number.
    pub(super) fn begin(&mut self, message: &LogMessage, ticket: u64) {
        self.note(message, || State::Pending(ticket));
    }

    /// Notes a message that was in the log and goes there again under a new grant.
    pub(super) fn carry(&mut self, message: &LogMessage) {
        self.note(message, || State::Carried);
    }

    /// Notes a message that is in the log; true where somebody may wait for it without its ticket.
    pub(super) fn logged(&mut self, position: Position, message: &LogMessage) -> bool {
        let carried = !Name::of(message).is_empty() && self.seek(Name::of(message)) == Known::Wait;
        let names = self.note(message, || State::Logged { position, id: message.id.clone() });
        if let Some(names) = names {
            self.logged.push_back((position, names));
            while self.logged.len() > NAMES_MAX {
                self.drop_oldest();
            }
        }
        carried
    }

    /// Notes an older message that was read. A newer one of the same name stays.
    pub(super) fn found(&mut self, position: Position, message: &LogMessage) {
        let known = self.seek(Name::of(message));
        if self.logged.len() >= NAMES_MAX || !matches!(known, Known::New | Known::Stale) {
            return;
        }
        let names = self.note(message, || State::Logged { position, id: message.id.clone() });
        if let Some(names) = names {
            self.logged.push_front((position, names));
        }
    }

    /// Forgets what is at or before a position: the log does not retain it any more.
    pub(super) fn forget(&mut self, upto: Position) {
        while self.logged.front().is_some_and(|(position, _)| *position <= upto) {
            self.drop_oldest();
        }
    }

    /// Forgets all that is logged; what waits is still known.
    pub(super) fn reset(&mut self) {
        while !self.logged.is_empty() {
            self.drop_oldest();
        }
    }

    fn note(&mut self, message: &LogMessage, state: impl Fn() -> State) -> Option<Names> {
        let name = Name::of(message);
        let key = (!name.key.is_empty()).then(|| Box::from(name.key));
        let producer = (!name.producer.is_empty()).then(|| (Box::from(name.producer), name.seq));
        if let Some(key) = &key {
            self.keys.insert(Box::clone(key), state());
        }
        if let Some((producer, seq)) = &producer {
            self.producers.entry(Box::clone(producer)).or_default().insert(*seq, state());
        }
        (key.is_some() || producer.is_some()).then_some(Names { key, producer })
    }

    fn drop_oldest(&mut self) {
        let Some((position, names)) = self.logged.pop_front() else { return };
        let is_it = |state: &State| matches!(state, State::Logged { position: p, .. } if *p == position);
        if let Some(key) = names.key.filter(|key| self.keys.get(key).is_some_and(is_it)) {
            self.keys.remove(&key);
        }
        let Some((producer, seq)) = names.producer else { return };
        let Some(numbers) = self.producers.get_mut(&producer) else { return };
        if numbers.get(&seq).is_some_and(is_it) {
            numbers.remove(&seq);
        }
        if numbers.is_empty() {
            self.producers.remove(&producer);
        }
    }
}

impl State {
    fn known(&self) -> Known {
        match self {
            Self::Pending(ticket) => Known::Pending(*ticket),
            Self::Carried => Known::Wait,
            Self::Logged { position, id } => Known::Logged { position: *position, id: id.clone() },
        }
    }
}

impl<'a> Name<'a> {
    /// The names of a message.
    pub(super) fn of(message: &'a LogMessage) -> Self {
        Self { key: &message.idempotency_key, producer: &message.producer, seq: message.producer_seq }
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.key.is_empty() && self.producer.is_empty()
    }
}

/// Ids of messages that the node logged lately, so that re-homing logs none twice.
#[derive(Debug, Default)]
pub(super) struct Seen {
    hasher: RandomState,
    ids: HashSet<u64>,
    order: VecDeque<(u64, Moment)>,
}

impl Seen {
    /// Notes an id; false where it was known.
    pub(super) fn insert(&mut self, topic: &[u8], id: &[u8], now: Moment) -> bool {
        while self
            .order
            .front()
            .is_some_and(|(_, at)| self.order.len() >= SEEN_MAX || now.since(*at) > SEEN_FOR)
        {
            if let Some((hash, _)) = self.order.pop_front() {
                self.ids.remove(&hash);
            }
        }
        let hash = self.hasher.hash_one((topic, id));
        let new = self.ids.insert(hash);
        if new {
            self.order.push_back((hash, now));
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(key: &str, producer: &str, seq: u64) -> LogMessage {
        LogMessage {
            idempotency_key: key.into(),
            producer: producer.into(),
            producer_seq: seq,
            ..Default::default()
        }
    }

    fn at(seq: u64) -> Position {
        Position::new(7, seq)
    }

    fn numbered(producer: &str, seq: u64) -> Name<'_> {
        Name { producer, seq, ..Name::default() }
    }

    fn keyed(key: &str) -> Name<'_> {
        Name { key, ..Name::default() }
    }

    #[test]
    fn a_key_runs_once_while_its_message_is_retained() {
        let mut window = Window::default();
        assert_eq!(window.seek(keyed("a")), Known::New);
        window.begin(&message("a", "", 0), 5);
        assert_eq!(window.seek(keyed("a")), Known::Pending(5));
        window.logged(at(3), &message("a", "", 0));
        assert!(matches!(window.seek(keyed("a")), Known::Logged { position, .. } if position == at(3)));
        window.forget(at(2));
        assert!(matches!(window.seek(keyed("a")), Known::Logged { .. }));
        window.forget(at(3));
        assert_eq!(window.seek(keyed("a")), Known::New);
        assert_eq!(window.seek(Name::default()), Known::New);
    }

    #[test]
    fn a_number_below_the_last_is_stale_unless_it_is_known() {
        let mut window = Window::default();
        for seq in [0, 4, 9] {
            window.logged(at(seq + 1), &message("", "p", seq));
        }
        assert!(matches!(window.seek(numbered("p", 4)), Known::Logged { position, .. } if position == at(5)));
        assert!(matches!(window.seek(numbered("p", 0)), Known::Logged { .. }));
        assert_eq!(window.seek(numbered("p", 5)), Known::Stale);
        assert_eq!(window.seek(numbered("p", 10)), Known::New);
        assert_eq!(window.seek(numbered("q", 5)), Known::New);
    }

    #[test]
    fn what_is_read_newest_first_never_hides_what_is_newer() {
        let mut window = Window::default();
        window.begin(&message("waits", "", 0), 1);
        window.logged(at(9), &message("a", "p", 9));
        window.found(at(8), &message("a", "", 0));
        window.found(at(7), &message("waits", "", 0));
        window.found(at(6), &message("", "p", 2));
        assert!(matches!(window.seek(keyed("a")), Known::Logged { position, .. } if position == at(9)));
        assert_eq!(window.seek(keyed("waits")), Known::Pending(1));
        assert!(matches!(window.seek(numbered("p", 2)), Known::Logged { position, .. } if position == at(6)));
        window.reset();
        assert_eq!(window.seek(keyed("a")), Known::New);
        assert_eq!(window.seek(keyed("waits")), Known::Pending(1));
    }

    #[test]
    fn ids_are_known_for_two_minutes_and_within_a_bound() {
        let mut seen = Seen::default();
        let later = |s: u64| Moment::at(Duration::from_secs(1000 + s));
        assert!(seen.insert(b"t", b"id", later(0)));
        assert!(!seen.insert(b"t", b"id", later(119)));
        assert!(seen.insert(b"u", b"id", later(119)), "another topic is another message");
        assert!(seen.insert(b"t", b"id", later(121)));
        for n in 0..2 * SEEN_MAX as u64 {
            seen.insert(b"t", &n.to_be_bytes(), later(122));
        }
        assert!(seen.order.len() <= SEEN_MAX && seen.ids.len() <= SEEN_MAX);
    }
}
