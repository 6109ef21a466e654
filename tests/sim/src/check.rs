//! What must hold (protocol.md §9, I1 to I9). It sees every append, every act of a swarm, every receipt
//! and all that readers are told, and judges at once where it can, else at the end of a walk.

use crate::net::Us;
use plexus_bus::{Append, Grant, NodeName, Position, Topic};
use plexus_proto::{
    bus::LogEntry,
    v1::{
        SubscriptionEvent,
        message::Payload,
        subscription_event::{Event, Gap, gap::Reason},
    },
};
use prost::Message as _;
use std::collections::{BTreeMap, HashMap, HashSet};

/// A topic of a node.
pub(crate) type Place = (NodeName, Topic);

/// A message with a receipt.
struct Acked {
    place: usize,
    at: Position,
    /// The run of the node that gave it.
    run: u64,
}

/// What one reader was told of one topic.
#[derive(Default)]
struct Stream {
    /// Where it began.
    begin: Option<Position>,
    at: Position,
    /// It was told that it does not go on where it was.
    broken: bool,
    /// Messages that it holds, and where.
    holds: HashMap<u64, Position>,
    /// The same by position, and all that ever were.
    places: HashMap<Position, u64>,
    ever: HashSet<u64>,
    gaps: Vec<(Position, Position, Reason)>,
}

/// A reader.
struct Reader {
    node: NodeName,
    topics: Vec<Topic>,
    streams: Vec<Stream>,
    /// By the number of its gateway.
    slots: HashMap<u32, usize>,
}

/// The judge.
#[derive(Default)]
pub(crate) struct Check {
    /// The first thing that is wrong.
    pub(crate) wrong: Option<String>,
    /// Grants of each node, in the order in which they first acted.
    acted: HashMap<NodeName, Vec<Grant>>,
    /// The payload of each position, under its grant.
    payloads: HashMap<(usize, Grant, u64), u64>,
    places: Vec<Place>,
    /// Tails as last written; for planted bugs.
    tails: BTreeMap<usize, Position>,
    receipts: HashMap<u64, u64>,
    /// Messages that were in a log at some time.
    logged: HashSet<u64>,
    acked: BTreeMap<u64, Acked>,
    readers: Vec<Reader>,
    /// The store may have lost something.
    pub(crate) lossy: bool,
    /// Topics retain all that a walk can say.
    pub(crate) whole: bool,
    /// Messages of peers that were dropped, for which readers are told a gap.
    dropped: u64,
    /// Messages that came from peers.
    heard: HashSet<u64>,
    pub(crate) delivered: u64,
    pub(crate) gaps: u64,
    pub(crate) appended: u64,
    pub(crate) refused: u64,
}

/// The end of a walk, as the store has it.
pub(crate) struct End {
    /// Runs of nodes that still live.
    pub(crate) runs: HashSet<u64>,
    /// Messages of each topic, in order.
    pub(crate) logs: Vec<(Place, Vec<(Position, u64)>)>,
}

impl Check {
    pub(crate) fn fail(&mut self, what: impl FnOnce() -> String) {
        if self.wrong.is_none() {
            self.wrong = Some(what());
        }
    }

    fn place(&mut self, node: &NodeName, topic: &Topic) -> usize {
        let at = self.places.iter().position(|(n, t)| n == node && t == topic);
        at.unwrap_or_else(|| {
            self.places.push((node.clone(), topic.clone()));
            self.places.len() - 1
        })
    }

    /// I1: a swarm acts under a grant.
    pub(crate) fn acts(&mut self, node: &NodeName, grant: Grant) {
        let acted = match self.acted.get_mut(node) {
            Some(acted) => acted,
            None => self.acted.entry(node.clone()).or_default(),
        };
        if acted.last() == Some(&grant) {
            return;
        }
        if acted.contains(&grant) {
            let newer = acted.last().copied();
            return self.fail(|| format!("I1: {node} acts under {grant:?} after {newer:?} acted"));
        }
        acted.push(grant);
    }

    /// I1, I2: an entry is in the log.
    pub(crate) fn appended(&mut self, node: &NodeName, grant: Grant, append: &Append) {
        if let Some(acted) = self.acted.get(node)
            && acted.last() != Some(&grant)
            && acted.contains(&grant)
        {
            self.fail(|| format!("I1: an append of {node} under {grant:?} after a newer grant acted"));
        }
        let place = self.place(node, &append.topic);
        let entry = append.entry.open::<LogEntry>().expect("entries are appended");
        let first = append.last + 1 - entry.messages.len() as u64;
        for (seq, message) in (first..).zip(&entry.messages) {
            self.appended += 1;
            let number = number(&message.data);
            self.logged.insert(number);
            let before = *self.payloads.entry((place, grant, seq)).or_insert(number);
            if before != number {
                self.fail(|| format!("I2: {}-{seq} was message {before} and is {number}", grant.epoch));
            }
        }
        self.tails.insert(place, Position::new(grant.epoch, append.last));
    }

    /// Where the tails of a node are, as far as it was seen.
    pub(crate) fn tails(&self, node: &NodeName) -> Vec<(Topic, Position)> {
        let of = |(place, at): (&usize, &Position)| {
            let (other, topic) = &self.places[*place];
            (other == node).then(|| (topic.clone(), *at))
        };
        self.tails.iter().filter_map(of).collect()
    }

    /// I9: an owner answers a publish.
    pub(crate) fn receipt(&mut self, number: u64, run: u64) {
        if !self.logged.contains(&number) {
            self.fail(|| format!("I9: message {number} is acknowledged, and no log ever had it"));
        }
        self.receipts.insert(number, run);
    }

    /// A client has its receipt.
    pub(crate) fn acked(&mut self, number: u64, node: &NodeName, topic: &Topic, at: Position) {
        let place = self.place(node, topic);
        let run = self.receipts.get(&number).copied().unwrap_or(0);
        self.acked.insert(number, Acked { place, at, run });
    }

    pub(crate) fn heard(&mut self, number: u64) {
        self.heard.insert(number);
    }

    pub(crate) fn dropped(&mut self, count: u64) {
        self.dropped += count;
    }

    /// A reader that was not there before.
    pub(crate) fn reader(&mut self, node: &NodeName, topics: &[Topic]) -> usize {
        let streams = topics.iter().map(|_| Stream::default()).collect();
        self.readers.push(Reader {
            node: node.clone(),
            topics: topics.to_vec(),
            streams,
            slots: HashMap::new(),
        });
        self.readers.len() - 1
    }

    /// Where a reader goes on; `None`: it has not begun.
    pub(crate) fn resumes(&self, reader: usize) -> Vec<Option<Position>> {
        self.readers[reader].streams.iter().map(|stream| stream.begin.map(|_| stream.at)).collect()
    }

    /// A reader is told something; true: its stream ends.
    pub(crate) fn told(&mut self, reader: usize, frame: &[u8]) -> bool {
        let event = SubscriptionEvent::decode(frame).ok().and_then(|event| event.event);
        match event {
            Some(Event::Start(start)) => {
                let at: Position = start.position.parse().expect("positions are spelled well");
                let Reader { topics, slots, streams, .. } = &mut self.readers[reader];
                let slot =
                    topics.iter().position(|t| t[..] == *start.topic.as_bytes()).expect("it was asked for");
                slots.insert(start.t, slot);
                let stream = &mut streams[slot];
                if stream.begin.is_none() {
                    (stream.begin, stream.at) = (Some(at), at);
                } else if start.recovered && at != stream.at {
                    let was = stream.at;
                    self.fail(|| format!("reader {reader} was at {was} and recovers at {at}"));
                } else {
                    stream.broken = !start.recovered;
                }
            }
            Some(Event::Message(message)) => {
                let at: Position = message.position.parse().expect("positions are spelled well");
                let Some(Payload::Data(data)) = message.payload else { return false };
                let slot = self.slot(reader, message.t);
                self.message(reader, slot, at, number(&data));
            }
            Some(Event::Gap(gap)) => {
                let slot = self.slot(reader, gap.t);
                self.gap(reader, slot, &gap);
            }
            Some(Event::End(_)) => return true,
            _ => {}
        }
        false
    }

    fn slot(&self, reader: usize, t: u32) -> usize {
        *self.readers[reader].slots.get(&t).expect("a topic starts before anything else")
    }

    /// I2, I4, I5.
    fn message(&mut self, reader: usize, slot: usize, at: Position, number: u64) {
        self.delivered += 1;
        let stream = &mut self.readers[reader].streams[slot];
        let was = stream.at;
        let before = stream.holds.insert(number, at);
        let other = stream.places.insert(at, number).filter(|other| *other != number);
        stream.ever.insert(number);
        stream.at = at;
        let broken = stream.broken;
        if at <= was {
            self.fail(|| format!("I4: reader {reader} gets {at} after {was}"));
        }
        if let Some(before) = before {
            self.fail(|| format!("I5: reader {reader} gets message {number} at {before} and at {at}"));
        }
        if let Some(other) = other {
            self.fail(|| format!("I2: reader {reader} saw {other} at {at}, and now {number}"));
        }
        if broken {
            self.fail(|| format!("reader {reader} does not go on where it was, and is told no gap"));
        }
    }

    /// I8, and what a gap takes back.
    fn gap(&mut self, reader: usize, slot: usize, gap: &Gap) {
        self.gaps += 1;
        let [after, until] =
            [&gap.after, &gap.until].map(|at| at.parse::<Position>().expect("positions are spelled well"));
        let stream = &mut self.readers[reader].streams[slot];
        stream.broken = false;
        stream.at = until;
        let reason = gap.reason();
        stream.gaps.push((after, until, reason));
        // What an owner logged again after a loss is told by its opening; a trim may take that away before the
        // reader comes, and then nothing says that what it holds comes again (docs/protocol.md §8).
        let unsaid = matches!(reason, Reason::Trimmed) && self.lossy && after.epoch != until.epoch;
        let after = if unsaid { Position::ZERO } else { after };
        if !matches!(reason, Reason::Unkept) {
            stream.holds.retain(|_, at| *at <= after);
            stream.places.retain(|at, _| *at <= after);
        }
        if matches!(reason, Reason::Trimmed) && self.whole {
            self.fail(|| {
                format!("I8: nothing was trimmed, and reader {reader} is told {reason:?} {after} -> {until}")
            });
        }
        let lost = matches!(reason, Reason::Rewound | Reason::UnknownEpoch);
        if lost && !self.lossy {
            self.fail(|| {
                format!("I8: nothing was lost, and reader {reader} is told {reason:?} {after} -> {until}")
            });
        }
        if matches!(reason, Reason::Unkept) && self.dropped == 0 {
            self.fail(|| format!("nothing was dropped, and reader {reader} is told so"));
        }
    }

    /// I3, I6, I7, I9: the walk has ended, and all had time to settle.
    pub(crate) fn end(&mut self, end: &End) {
        for (place, log) in &end.logs {
            let mut seen = HashMap::new();
            for (at, number) in log {
                if let Some(before) = seen.insert(*number, *at) {
                    self.fail(|| {
                        format!("I7: message {number} is logged at {before} and at {at} of {place:?}")
                    });
                }
            }
        }
        self.every_reader_has_the_log(end);
        if self.whole {
            self.readers_hold_what_is_logged(end);
            self.nothing_acknowledged_is_lost(end);
        }
    }

    /// I3, I6: a reader has every message of the log, or was told.
    fn every_reader_has_the_log(&mut self, end: &End) {
        let mut wrong = None;
        for (number, reader) in self.readers.iter().enumerate() {
            for (topic, stream) in reader.topics.iter().zip(&reader.streams) {
                let Some(begin) = stream.begin else {
                    wrong.get_or_insert(format!("I6: reader {number} never began"));
                    continue;
                };
                let log = end.logs.iter().find(|(place, _)| *place == (reader.node.clone(), topic.clone()));
                for (at, message) in log.map(|(_, log)| &log[..]).unwrap_or_default() {
                    let told = |(after, until, _): &(Position, Position, Reason)| after < at && at <= until;
                    let has = stream.places.get(at) == Some(message) || *at <= begin;
                    if !has && !stream.gaps.iter().any(told) {
                        wrong.get_or_insert(format!(
                            "I3, I6: reader {number} misses message {message} at {at}; it is at {} since {begin}, gaps {:?}",
                            stream.at, stream.gaps
                        ));
                    }
                }
            }
        }
        if let Some(wrong) = wrong {
            self.fail(|| wrong);
        }
    }

    /// I2, I3: what a reader holds is in the log; else a gap took it back.
    fn readers_hold_what_is_logged(&mut self, end: &End) {
        let mut wrong = None;
        for (place, log) in &end.logs {
            let log: HashMap<Position, u64> = log.iter().copied().collect();
            for (number, reader) in self.readers.iter().enumerate().filter(|(_, it)| it.node == place.0) {
                let Some(slot) = reader.topics.iter().position(|topic| *topic == place.1) else { continue };
                let stream = &reader.streams[slot];
                let lost = stream.places.iter().filter(|(at, message)| log.get(at) != Some(message));
                let lost = lost.min();
                if let Some((at, message)) = lost {
                    wrong.get_or_insert(format!(
                        "I2, I3: reader {number} holds message {message} at {at}, where the log has {:?}; gaps {:?}",
                        log.get(at),
                        stream.gaps
                    ));
                }
            }
        }
        if let Some(wrong) = wrong {
            self.fail(|| wrong);
        }
    }

    fn nothing_acknowledged_is_lost(&mut self, end: &End) {
        let mut wrong = None;
        let logs: Vec<HashMap<u64, Position>> = self
            .places
            .iter()
            .map(|place| {
                let log = end.logs.iter().find(|(other, _)| other == place);
                log.map(|(_, log)| log.iter().map(|(at, number)| (*number, *at)).collect())
                    .unwrap_or_default()
            })
            .collect();
        for (number, acked) in &self.acked {
            let logged = logs[acked.place].get(number);
            if logged == Some(&acked.at) {
                continue;
            }
            if logged.is_none() && end.runs.contains(&acked.run) {
                let at = acked.at;
                wrong.get_or_insert(format!(
                    "I9: message {number} at {at} is not in the log, and its owner lives"
                ));
            }
            if !self.lossy {
                let at = acked.at;
                wrong.get_or_insert(format!(
                    "I3: message {number} at {at} is at {logged:?}, and nothing was lost"
                ));
            }
            let (node, topic) = &self.places[acked.place];
            for (reader, it) in self.readers.iter().enumerate().filter(|(_, it)| it.node == *node) {
                let Some(slot) = it.topics.iter().position(|t| t == topic) else { continue };
                let stream = &it.streams[slot];
                let after = stream.begin.is_some_and(|begin| acked.at > begin);
                let told = stream.gaps.iter().any(|(after, ..)| *after < acked.at);
                if after && !told && !stream.ever.contains(number) {
                    wrong.get_or_insert(format!(
                        "I3: message {number} was acknowledged at {} and is lost; reader {reader} is not told",
                        acked.at
                    ));
                }
            }
        }
        if let Some(wrong) = wrong {
            self.fail(|| wrong);
        }
    }

    /// How many were acknowledged.
    pub(crate) fn count(&self) -> usize {
        self.acked.len()
    }
}

/// The number that a payload is.
fn number(data: &[u8]) -> u64 {
    data.try_into().map(u64::from_be_bytes).unwrap_or(0)
}

/// Says when.
pub(crate) fn clock(at: Us) -> String {
    format!("{:>10.6}", at as f64 / 1e6)
}
