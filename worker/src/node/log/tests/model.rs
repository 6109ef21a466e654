//! Random walks: a store that loses replies, runs commands late, fails over to a replica that missed
//! writes, and lets another owner in. The invariants are those of protocol.md §9, and the mutations
//! named there make these tests fail.

use super::super::*;
use crate::clock::Moment;
use plexus_bus::{Append, Appended, Entry, Error, Look, Opened, Opening, Payload, Spot, Stage, Taken};
use plexus_proto::bus::{EpochOpening, LogMessage};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, HashMap},
    time::SystemTime,
};

const TOPICS: [Topic; 2] = [Bytes::from_static(b"t"), Bytes::from_static(b"u")];

/// The node's slot, as the scripts of §2 see it.
#[derive(Clone, Default)]
struct Slot {
    grant: Option<Grant>,
    stamped: u64,
    doubt: bool,
    logs: BTreeMap<Topic, Vec<(Position, Arc<LogEntry>)>>,
}

impl Slot {
    fn tail(&self, topic: &Topic) -> Position {
        self.logs.get(topic).and_then(|log| log.last()).map_or(Position::ZERO, |(id, _)| *id)
    }
}

/// A store: its slot, replicas that lag, and what was ever told of it.
struct Store {
    slot: Slot,
    era: u64,
    /// Earlier states, oldest first; a replica may have any of them.
    replicas: Vec<Slot>,
    /// Grant of the node in the control slot.
    owner: Grant,
    /// Every payload that a position ever had (I2), and every `prev` of an opening.
    payloads: HashMap<(Grant, Topic, u64), Bytes>,
    prevs: HashMap<(Grant, Topic), Position>,
}

impl Store {
    fn new() -> Self {
        let owner = Grant { epoch: 100, nonce: 1 };
        Self {
            slot: Slot::default(),
            era: 1,
            replicas: vec![Slot::default()],
            owner,
            payloads: HashMap::new(),
            prevs: HashMap::new(),
        }
    }

    fn run(&mut self, task: Do) -> Done {
        let done = match task {
            Do::Open { grant, topics, stage } => Done::Opened(Ok(self.open(grant, &topics, stage))),
            Do::Append(grant, entries) => Done::Appended(Ok(self.append(grant, &entries))),
            Do::Look => {
                let tails =
                    self.slot.logs.keys().map(|topic| (topic.clone(), self.slot.tail(topic))).collect();
                Done::Looked(Ok(Look {
                    era: era(self.era),
                    grant: self.slot.grant,
                    stamped: Some(era(self.slot.stamped)),
                    tails,
                }))
            }
            Do::Stamp(grant, at) => {
                let holds = self.slot.grant == Some(grant) && at == era(self.era);
                if holds {
                    self.slot.stamped = self.era;
                }
                Done::Stamped(Ok(holds))
            }
            Do::Raise { from, floor, nonce } => {
                if self.owner.nonce == from {
                    self.owner = Grant { epoch: self.owner.epoch.max(floor) + 5, nonce };
                }
                let epoch = (self.owner.nonce == nonce).then_some(self.owner.epoch);
                Done::Raised(Ok(Taken::Epochs(vec![epoch])))
            }
            Do::Trim(grant, ..) => Done::Trimmed(Ok(self.slot.grant == Some(grant))),
            Do::Read(topic, range) => {
                let log = self.slot.logs.get(&topic).map(Vec::as_slice).unwrap_or_default();
                let below = log.iter().rev().filter(|(id, _)| range.until.is_none_or(|until| *id <= until));
                let page = below
                    .take(range.limit)
                    .map(|(id, entry)| Entry { id: *id, entry: Payload::shared(entry.clone()) });
                Done::Read(Ok(page.collect()), SystemTime::now())
            }
        };
        self.replicas.push(self.slot.clone());
        done
    }

    fn open(&mut self, grant: Grant, given: &[Topic], stage: Stage) -> Opened {
        let held = self.slot.grant.unwrap_or(Grant { epoch: 0, nonce: 0 });
        let largest =
            self.slot.logs.keys().map(|t| self.slot.tail(t).epoch).max().unwrap_or(0).max(held.epoch);
        if largest > grant.epoch || held.epoch == grant.epoch && held != grant {
            return Opened::Fenced(largest);
        }
        if stage == Stage::Later && self.slot.grant != Some(grant) {
            return Opened::Lost;
        }
        let sure = self.slot.grant.is_some() && self.slot.stamped == self.era;
        self.slot.doubt |= !sure;
        let topics: std::collections::BTreeSet<Topic> = self.slot.logs.keys().chain(given).cloned().collect();
        let mut openings = Vec::new();
        for topic in topics {
            let (prev, spot) = (self.slot.tail(&topic), Position::new(grant.epoch, 0));
            if prev < spot {
                let sure = sure && !(self.slot.doubt && prev == Position::ZERO);
                let opening = EpochOpening { prev: prev.to_string(), sure, ..Default::default() };
                let entry = LogEntry {
                    epoch: grant.epoch,
                    nonce: grant.nonce,
                    opening: Some(opening),
                    ..Default::default()
                };
                self.slot.logs.entry(topic.clone()).or_default().push((spot, Arc::new(entry)));
                let told = *self.prevs.entry((grant, topic.clone())).or_insert(prev);
                assert!(
                    told == prev || !sure,
                    "an opening that says something else says that it is not sure"
                );
                openings.push(Opening { topic, prev, sure });
            }
        }
        // A further opening under the same grant vouches for nothing: only a stamp does.
        if self.slot.grant != Some(grant) {
            (self.slot.grant, self.slot.stamped) = (Some(grant), self.era);
        }
        Opened::Done(openings)
    }

    fn append(&mut self, grant: Grant, entries: &[Append]) -> Appended {
        if self.slot.grant != Some(grant) {
            return Appended::Fenced;
        }
        let mut spots = Vec::new();
        for append in entries {
            let tail = self.slot.tail(&append.topic);
            if tail != Position::new(grant.epoch, append.first - 1) {
                spots.push(Spot::Off(Some(tail)));
                continue;
            }
            let entry = append.entry.open::<LogEntry>().unwrap();
            assert_eq!(append.last - append.first + 1, entry.messages.len() as u64);
            for (seq, message) in (append.first..).zip(&entry.messages) {
                let before =
                    self.payloads.entry((grant, append.topic.clone(), seq)).or_insert(message.data.clone());
                assert_eq!(*before, message.data, "I2: one payload per position");
            }
            let log = self.slot.logs.entry(append.topic.clone()).or_default();
            log.push((Position::new(grant.epoch, append.last), entry));
            spots.push(Spot::Logged);
        }
        Appended::Done(spots)
    }

    /// Promotes a replica that missed the last `missed` writes.
    fn fail_over(&mut self, missed: usize) {
        let kept = self.replicas.len().saturating_sub(missed).max(1);
        self.replicas.truncate(kept);
        self.slot = self.replicas.last().unwrap().clone();
        self.era += 1;
    }

    /// Where a payload is.
    fn find(&self, topic: &Topic, data: &Bytes) -> Vec<Position> {
        let log = self.slot.logs.get(topic).map(Vec::as_slice).unwrap_or_default();
        let within = |(id, entry): &(Position, Arc<LogEntry>)| {
            let first = id.seq + 1 - entry.messages.len() as u64;
            let hits = entry.messages.iter().enumerate().filter(|(_, m)| m.data == *data);
            hits.map(|(i, _)| Position::new(id.epoch, first + i as u64)).collect::<Vec<_>>()
        };
        log.iter().flat_map(within).collect()
    }

    /// Whether a reader that passed `at` is told by some opening that it may be gone (P22).
    fn reports(&self, topic: &Topic, at: Position) -> bool {
        let log = self.slot.logs.get(topic).map(Vec::as_slice).unwrap_or_default();
        let epoch_known = log.iter().any(|(id, _)| id.epoch == at.epoch);
        !epoch_known
            || log.iter().filter_map(|(id, entry)| Some((*id, entry.opening.as_ref()?))).any(
                |(id, opening)| {
                    let prev: Position = opening.prev.parse().unwrap();
                    id > at && (!opening.sure || prev.epoch == at.epoch && prev < at)
                },
            )
    }
}

fn era(n: u64) -> plexus_bus::Era {
    n.to_string().into()
}

/// A walk.
struct Walk {
    store: Store,
    log: Log,
    now: Moment,
    /// Sent and not answered, with the era of the sending.
    net: Vec<(Order, u64)>,
    /// Given up by the writer, and still to run.
    late: Vec<(Do, u64)>,
    pushed: u64,
    /// Tickets, topics and payloads, in order of pushing.
    own: Vec<(u64, Topic, Bytes)>,
    acked: BTreeMap<u64, Position>,
    fenced: bool,
    failovers: usize,
}

impl Walk {
    fn new() -> Self {
        let store = Store::new();
        let limits = Limits {
            backlog_messages_max: 8,
            backlog_bytes_max: 1000,
            own_messages_max: 1000,
            own_bytes_max: 1 << 20,
            ring_bytes_max: 1 << 20,
            ring_age_max: Duration::from_secs(30),
            logs_max: 10,
            retention: Retention { messages: 100_000, bytes: 1 << 30, age: Duration::from_secs(3600) },
        };
        let mut log = Log::new(store.owner, limits);
        log.open([TOPICS[0].clone()]).unwrap();
        let now = Moment::at(Duration::from_secs(1000));
        Self {
            store,
            log,
            now,
            net: Vec::new(),
            late: Vec::new(),
            pushed: 0,
            own: Vec::new(),
            acked: BTreeMap::new(),
            fenced: false,
            failovers: 0,
        }
    }

    fn push(&mut self, topic: &Topic, own: bool) {
        let ticket = self.pushed;
        let data = Bytes::from(format!("{ticket:06}"));
        let message = LogMessage { id: data.clone(), data: data.clone(), ..Default::default() };
        if self.log.push(topic, message, own.then_some(ticket)).is_ok() && own {
            self.own.push((ticket, topic.clone(), data));
        }
        self.pushed += 1;
    }

    fn pump(&mut self) {
        while let Some(order) = self.log.next(self.now) {
            assert!(self.net.iter().all(|(other, _)| other.turn != order.turn));
            self.net.push((order, self.store.era));
        }
    }

    fn hear(&mut self, turn: u64, done: Done) {
        let evident = matches!(done, Done::Appended(_) | Done::Looked(_));
        for out in self.log.done(turn, done, self.now) {
            match out {
                Out::Logged { topic, entry, first, tickets } => {
                    for (ticket, position) in tickets {
                        let data = &entry.messages[(position.seq - first.seq) as usize].data;
                        let there = self.store.find(&topic, data).contains(&position);
                        assert!(there || !evident, "I3: {data:?} is acknowledged and not in the log");
                        assert!(self.acked.insert(ticket, position).is_none(), "one receipt a ticket");
                    }
                }
                Out::Fenced => self.fenced = true,
                _ => {}
            }
        }
    }

    fn unknown(task: &Do, error: Error) -> Done {
        match task {
            Do::Open { .. } => Done::Opened(Err(error)),
            Do::Append(..) => Done::Appended(Err(error)),
            Do::Look => Done::Looked(Err(error)),
            Do::Stamp(..) => Done::Stamped(Err(error)),
            Do::Raise { .. } => Done::Raised(Err(error)),
            Do::Trim(..) => Done::Trimmed(Err(error)),
            Do::Read(..) => Done::Read(Err(error), SystemTime::now()),
        }
    }

    /// Runs a command. One on its way survives one failover, not two.
    fn run(&mut self, task: Do, sent: u64) -> Done {
        match self.store.era {
            era if era > sent + 1 => Self::unknown(&task, Error::Timeout),
            _ => self.store.run(task),
        }
    }

    fn step(&mut self, action: u8, choice: usize) {
        self.now = self.now.after(Duration::from_millis(20));
        self.pump();
        let picked = (!self.net.is_empty()).then(|| choice % self.net.len().max(1));
        match (action, picked) {
            (0..=24, _) => self.push(&TOPICS[choice % 8 / 7], !choice.is_multiple_of(3)),
            (25..=64, Some(at)) => {
                let (Order { turn, task }, sent) = self.net.remove(at);
                let done = self.run(task, sent);
                self.hear(turn, done);
            }
            // The reply is lost: it ran.
            (65..=70, Some(at)) => {
                let (Order { turn, task }, sent) = self.net.remove(at);
                self.run(task.clone(), sent);
                self.hear(turn, Self::unknown(&task, Error::Timeout));
            }
            // It is late: it runs after the writer gave up, or never.
            (71..=76, Some(at)) => {
                let (Order { turn, task }, sent) = self.net.remove(at);
                self.late.push((task.clone(), sent));
                self.hear(turn, Self::unknown(&task, Error::Timeout));
            }
            (77..=84, _) if !self.late.is_empty() => {
                let (task, sent) = self.late.remove(choice % self.late.len());
                self.run(task, sent);
            }
            (85..=87, Some(at)) => {
                let (Order { turn, task }, _) = self.net.remove(at);
                self.hear(turn, Self::unknown(&task, Error::Overloaded));
            }
            (88..=91, _) => self.log.doubt(),
            (92..=94, _) => {
                self.store.fail_over(choice % 6);
                self.failovers += 1;
                if !choice.is_multiple_of(4) {
                    self.log.doubt();
                }
            }
            _ => self.now = self.now.after(Duration::from_millis(choice as u64 % 3000)),
        }
    }

    /// Ends all faults and lets the writer finish.
    fn quiesce(&mut self) {
        self.log.doubt();
        let mut idle = 0;
        for _ in 0..4000 {
            self.now = self.now.after(Duration::from_millis(50));
            self.pump();
            // Longer than any pause of the writer.
            idle = if self.net.is_empty() && self.log.drained() { idle + 1 } else { 0 };
            if idle > 50 || self.fenced {
                return;
            }
            for (Order { turn, task }, sent) in std::mem::take(&mut self.net) {
                let done = self.run(task, sent);
                self.hear(turn, done);
            }
        }
        panic!("I6: the writer does not come to rest: {:?}", self.log);
    }

    /// Another owner takes over.
    fn take_over(&mut self) {
        let grant = Grant { epoch: self.store.owner.epoch.max(self.log.grant().epoch) + 1000, nonce: 999 };
        self.store.owner = grant;
        self.store.run(Do::Open { grant, topics: TOPICS.to_vec(), stage: Stage::First { sweep: false } });
    }

    fn check_log(&self) {
        for topic in &TOPICS {
            let mut last = None;
            for (_, entry) in self.store.slot.logs.get(topic).into_iter().flatten() {
                for message in &entry.messages {
                    assert!(last < Some(&message.data), "I4, I5: {:?} after {last:?}", message.data);
                    last = Some(&message.data);
                }
            }
        }
    }

    fn check_acked(&self, strict: bool) {
        for (ticket, topic, data) in &self.own {
            let Some(at) = self.acked.get(ticket) else { continue };
            let found = self.store.find(topic, data);
            let there = !found.is_empty();
            assert!(there || !strict, "I9: {data:?}, acked at {at}, is not in the log of its living owner");
            assert!(
                found.contains(at) || self.store.reports(topic, *at),
                "I3: {data:?}, acked at {at}, lost silently; {found:?}"
            );
        }
    }
}

/// The next order, which is the only one.
fn only(it: &mut Walk) -> (Order, u64) {
    it.pump();
    assert_eq!(it.net.len(), 1);
    it.net.remove(0)
}

#[test]
fn an_opening_given_up_that_runs_on_a_promoted_store_hides_no_loss() {
    let mut it = Walk::new();
    let run = |it: &mut Walk| {
        let (Order { turn, task }, sent) = only(it);
        let done = it.run(task, sent);
        it.hear(turn, done);
    };
    let (given_up, sent) = only(&mut it);
    it.hear(given_up.turn, Done::Opened(Err(Error::Timeout)));
    run(&mut it); // a higher grant
    run(&mut it); // its first opening
    it.push(&TOPICS[0], true);
    run(&mut it);
    assert_eq!(it.acked.len(), 1);
    // The promoted store knows neither the opening nor the message.
    it.store.fail_over(2);
    it.run(given_up.task, sent);
    it.log.open([TOPICS[1].clone()]).unwrap();
    run(&mut it);
    it.take_over();
    it.check_acked(false);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn what_a_living_owner_acknowledged_is_in_the_log_once_and_in_order(walk in proptest::collection::vec((0u8..100, 0usize..1000), 1..250)) {
        let mut it = Walk::new();
        for (action, choice) in walk {
            it.step(action, choice);
            if it.failovers > 1 {
                break;
            }
        }
        it.quiesce();
        it.check_log();
        // P13: an append that is refused stops the node, also where a failover lost its opening.
        prop_assert!(!it.fenced || it.failovers > 0, "nobody else was there");
        if it.fenced {
            it.take_over();
        }
        it.check_acked(!it.fenced);
        prop_assert!(it.fenced || it.acked.len() == it.own.len(), "I6: every publish is answered");
    }

    #[test]
    fn what_was_acknowledged_is_there_or_reported_after_any_crash(walk in proptest::collection::vec((0u8..100, 0usize..1000), 1..250)) {
        let mut it = Walk::new();
        for (action, choice) in walk {
            it.step(action, choice);
        }
        it.take_over();
        for (task, sent) in std::mem::take(&mut it.late) {
            it.run(task, sent);
        }
        it.check_log();
        it.check_acked(false);
        let before = it.store.slot.logs.clone();
        it.quiesce();
        prop_assert_eq!(before, it.store.slot.logs.clone(), "I1: nothing of an older grant");
        prop_assert!(it.fenced);
    }
}
