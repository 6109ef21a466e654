//! Decides: nothing acknowledged is lost in silence, nothing comes twice, everything is in order, a position
//! names one message, and every place that is passed over is told as a gap (delivery.md, protocol.md §8).

use super::{Ack, History, Position, Reader, Seen};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What is allowed beside what always holds.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Whether gaps may be told at all: not where the store lost nothing.
    pub gaps: bool,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the fields are who, what and where")]
pub enum Fault {
    /// A receipt said so, and the reader was neither given it nor told.
    Lost { reader: String, text: String, position: Position },
    /// The same message came again.
    Doubled { reader: String, text: String, first: Position, again: Position },
    /// A position came that lies before where the reader was.
    Disorder { reader: String, at: Position, came: Position },
    /// Numbers were passed over without a gap.
    Hole { reader: String, at: Position, came: Position },
    /// It came somewhere else than its receipt says.
    Misplaced { reader: String, text: String, receipt: Position, came: Position },
    /// One position names two messages.
    Conflict { position: Position, one: String, other: String },
    /// Nobody published it.
    Invented { reader: String, text: String, position: Position },
    /// A gap where none may be.
    Gap { reader: String, after: Position, until: Position, reason: String },
    /// A producer's later message stands before its earlier one.
    Shuffled { producer: String, earlier: Position, later: Position },
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Receipts.
    pub acked: usize,
    /// Messages that readers got, all together.
    pub delivered: usize,
    /// Readers.
    pub readers: usize,
    /// Messages with a receipt that a reader did not get, and was told so.
    pub told: usize,
    /// Gaps by reason, over all readers.
    pub gaps: BTreeMap<String, usize>,
    /// What went wrong.
    pub faults: BTreeSet<Fault>,
}

impl Verdict {
    /// Adds what came of another topic.
    pub fn add(&mut self, other: Self) {
        self.acked += other.acked;
        self.delivered += other.delivered;
        self.readers += other.readers;
        self.told += other.told;
        for (reason, count) in other.gaps {
            *self.gaps.entry(reason).or_default() += count;
        }
        self.faults.extend(other.faults);
    }

    /// Messages that were lost in silence.
    pub fn lost(&self) -> usize {
        self.faults.iter().filter(|fault| matches!(fault, Fault::Lost { .. })).count()
    }

    /// Messages that came twice, or out of order.
    pub fn repeated(&self) -> usize {
        let again = |f: &&Fault| matches!(f, Fault::Doubled { .. } | Fault::Disorder { .. });
        self.faults.iter().filter(again).count()
    }
}

/// Compares what was promised with what was told.
pub fn check(history: &History, terms: Terms) -> Verdict {
    let mut verdict =
        Verdict { acked: history.acks.len(), readers: history.readers.len(), ..Verdict::default() };
    let tried: BTreeSet<&str> = history.tried.iter().map(String::as_str).collect();
    let mut told = BTreeSet::new();
    for reader in &history.readers {
        let walk = Walk::along(reader, &tried, terms, &mut verdict);
        walk.against(&history.acks, &mut verdict, &mut told);
    }
    verdict.told = told.len();
    conflicts(history, &mut verdict);
    shuffles(&history.acks, &mut verdict);
    verdict
}

/// A gap that one reader was told.
struct Told {
    /// How much the reader had seen before.
    index: usize,
    after: Position,
    until: Position,
    /// Whether the log went back: what was seen beyond `after` may be withdrawn, and come again.
    back: bool,
}

impl Told {
    /// Whether a message that never came is told by this.
    fn covers(&self, position: Position) -> bool {
        let within = position <= self.until || (self.back && position.epoch <= self.until.epoch);
        self.after < position && within
    }
}

/// What one reader was told, once over.
struct Walk<'a> {
    reader: &'a Reader,
    /// Where each text came, in order: how much had been seen before, and where it stood.
    places: HashMap<&'a str, Vec<(usize, Position)>>,
    gaps: Vec<Told>,
}

impl<'a> Walk<'a> {
    fn along(reader: &'a Reader, tried: &BTreeSet<&str>, terms: Terms, verdict: &mut Verdict) -> Self {
        let mut walk = Self { reader, places: HashMap::new(), gaps: Vec::new() };
        let mut at = reader.from;
        for (index, seen) in reader.seen.iter().enumerate() {
            match seen {
                Seen::Message { position, text } => {
                    verdict.delivered += 1;
                    if !tried.contains(text.as_str()) {
                        let (reader, text) = (reader.name.clone(), text.clone());
                        verdict.faults.insert(Fault::Invented { reader, text, position: *position });
                    }
                    verdict.faults.extend(walk.message(index, at, *position, text));
                    at = *position;
                }
                Seen::Gap { after, until, reason } => {
                    *verdict.gaps.entry(reason.clone()).or_default() += 1;
                    let back = ["REWOUND", "UNKNOWN_EPOCH"].contains(&reason.as_str());
                    walk.gaps.push(Told { index, after: *after, until: *until, back });
                    if !terms.gaps {
                        let (reader, reason) = (reader.name.clone(), reason.clone());
                        verdict.faults.insert(Fault::Gap { reader, after: *after, until: *until, reason });
                    }
                    at = *until;
                }
            }
        }
        walk
    }

    /// Takes the next message of a reader that is at `at`.
    fn message(&mut self, index: usize, at: Position, came: Position, text: &'a str) -> Option<Fault> {
        let earlier = self.places.entry(text).or_default();
        let first = earlier.last().copied();
        earlier.push((index, came));
        let reader = || self.reader.name.clone();
        if let Some((_, first)) = first.filter(|(seen, first)| !self.withdrawn(*seen, index, *first)) {
            return Some(Fault::Doubled { reader: reader(), text: text.into(), first, again: came });
        }
        if came <= at {
            return Some(Fault::Disorder { reader: reader(), at, came });
        }
        let next = if came.epoch == at.epoch { at.seq + 1 } else { 1 };
        (came.seq != next).then(|| Fault::Hole { reader: reader(), at, came })
    }

    /// Whether between these two sights the reader was told that the first may not stand.
    fn withdrawn(&self, first: usize, again: usize, position: Position) -> bool {
        let between = |gap: &&Told| gap.index > first && gap.index < again;
        self.gaps.iter().filter(between).any(|gap| gap.back && gap.after < position)
    }

    /// Looks for every receipt.
    fn against(&self, acks: &'a [Ack], verdict: &mut Verdict, told: &mut BTreeSet<&'a str>) {
        for ack in acks.iter().filter(|ack| ack.position > self.reader.from) {
            let covered = self.gaps.iter().any(|gap| gap.covers(ack.position));
            let places = self.places.get(ack.text.as_str());
            let fault = match places.and_then(|places| places.last()) {
                Some(_) if places.is_some_and(|p| p.iter().any(|(_, at)| *at == ack.position)) => continue,
                _ if covered => {
                    told.insert(&ack.text);
                    continue;
                }
                Some((_, came)) => Fault::Misplaced {
                    reader: self.reader.name.clone(),
                    text: ack.text.clone(),
                    receipt: ack.position,
                    came: *came,
                },
                None => Fault::Lost {
                    reader: self.reader.name.clone(),
                    text: ack.text.clone(),
                    position: ack.position,
                },
            };
            verdict.faults.insert(fault);
        }
    }
}

/// A position names one message, whoever says it; but what a reader was told to be withdrawn says nothing.
fn conflicts(history: &History, verdict: &mut Verdict) {
    let mut names: HashMap<Position, &str> = history.acks.iter().map(|a| (a.position, &*a.text)).collect();
    for reader in &history.readers {
        let back: Vec<Position> = reader.seen.iter().filter_map(went_back).collect();
        for seen in &reader.seen {
            let Seen::Message { position, text } = seen else { continue };
            if back.iter().any(|after| after < position) {
                continue;
            }
            let name = names.entry(*position).or_insert(text);
            if name != text {
                let (one, other) = ((*name).to_owned(), text.clone());
                verdict.faults.insert(Fault::Conflict { position: *position, one, other });
            }
        }
    }
}

fn went_back(seen: &Seen) -> Option<Position> {
    match seen {
        Seen::Gap { after, reason, .. } if reason != "TRIMMED" && reason != "SLOW" => Some(*after),
        _ => None,
    }
}

fn shuffles(acks: &[Ack], verdict: &mut Verdict) {
    let mut last: HashMap<&str, Position> = HashMap::new();
    for Ack { producer, position, .. } in acks {
        if let Some(earlier) = last.insert(producer, *position).filter(|earlier| earlier >= position) {
            let producer = producer.clone();
            verdict.faults.insert(Fault::Shuffled { producer, earlier, later: *position });
        }
    }
}
