//! A place in a log, and how it moves: what an entry or a page means to whoever stands there. Pure.
//! protocol.md P21 and P22 are the normative text; each branch below is one of their rows.

use plexus_bus::Position;
use plexus_proto::{
    bus::{EpochOpening, LogEntry},
    v1::subscription_event::gap::Reason,
};
use std::sync::Arc;

/// The position of an entry: that of its last message.
pub(crate) fn id_of(entry: &LogEntry) -> Position {
    Position::new(entry.epoch, entry.seq)
}

/// The position before the first message of an entry; an opening has none and stands before itself.
pub(crate) fn before(entry: &LogEntry) -> Position {
    Position::new(entry.epoch, entry.seq.saturating_sub(entry.messages.len() as u64))
}

/// A hole that cannot be filled: messages in `(after, until]`, and any seen beyond `after`, may be
/// missing or withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) after: Position,
    pub(crate) until: Position,
    pub(crate) reason: Reason,
}

/// What readers are told, in order.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    /// The messages of this entry with a higher sequence than `after`.
    Entry { entry: Arc<LogEntry>, after: u64 },
    /// Nothing to deliver, but this is the position now.
    Moved(Position),
    /// A hole.
    Gap(Gap),
}

/// Where the log begins and ends; read only where a page does not continue by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Edge {
    /// The position before the oldest entry kept; `None`: nothing is kept.
    pub(crate) start: Option<Position>,
    /// The tail; `None`: there is no log.
    pub(crate) top: Option<Position>,
    /// The last entry at or before the position asked for, and its nonce.
    pub(crate) before: Option<(Position, u64)>,
}

/// What a read found from a position on, that position included.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    pub(crate) entries: Vec<Arc<LogEntry>>,
    /// The page was full: more may follow.
    pub(crate) full: bool,
    pub(crate) edge: Option<Edge>,
}

/// How a page ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Walked {
    /// At the tail.
    Tail,
    /// At the position where it was to stop.
    Met,
    /// Somewhere before the tail: read on.
    More,
    /// The log ends before the place, and its owner may append the rest again.
    Wait,
    /// The log changed between two looks: read again.
    Again,
}

/// What P21 says of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Deliver,
    Silent,
    Drop,
    Break,
}

/// A place in a log and the grant it belongs to; moves by P21 and P22 alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) at: Position,
    /// Nonce of the grant that wrote `at.epoch`; 0: not known.
    pub(crate) nonce: u64,
}

impl Place {
    pub(crate) fn new(at: Position) -> Self {
        Self { at, nonce: 0 }
    }

    /// Tells whether a page that begins with this entry goes on from here without a look at the edge.
    pub(crate) fn touches(&self, entry: &LogEntry) -> bool {
        self.step(entry, false) != Step::Break || self.told_by(entry).is_some()
    }

    /// Tells whether the entry names our epoch but another grant (P6).
    fn foreign(&self, epoch: u64, nonce: u64) -> bool {
        epoch == self.at.epoch && self.nonce != 0 && nonce != 0 && nonce != self.nonce
    }

    /// P21.
    pub(super) fn step(&self, entry: &LogEntry, live: bool) -> Step {
        let (p, id) = (self.at, id_of(entry));
        if self.foreign(entry.epoch, entry.nonce) {
            return Step::Break;
        }
        if id.epoch == p.epoch && id.seq <= p.seq || live && id.epoch < p.epoch {
            return Step::Drop;
        }
        match &entry.opening {
            Some(opening) if opening.sure && prev(opening) == Some(p) => Step::Silent,
            None if id.epoch == p.epoch && before(entry).seq <= p.seq => Step::Deliver,
            _ => Step::Break,
        }
    }

    /// The gap that an opening tells by itself: it follows us, and cannot say what was between.
    fn told_by(&self, entry: &LogEntry) -> Option<Gap> {
        let unsure =
            prev(entry.opening.as_ref()?) == Some(self.at) && !self.foreign(entry.epoch, entry.nonce);
        unsure.then(|| gap(self.at, id_of(entry), Reason::Rewound))
    }

    /// P22, for the first entry at or after the place where P21 does not hold; `None`: look again.
    fn judge(&self, entry: &LogEntry, edge: Option<Edge>) -> Option<Gap> {
        if let Some(gap) = self.told_by(entry) {
            return Some(gap);
        }
        let (p, edge) = (self.at, edge?);
        let unknown = gap(Position::ZERO, edge.start.unwrap_or(before(entry)), Reason::UnknownEpoch);
        let ours = edge.before.filter(|(last, _)| last.epoch == p.epoch);
        if self.foreign(entry.epoch, entry.nonce)
            || ours.is_some_and(|(last, nonce)| self.foreign(last.epoch, nonce))
        {
            return Some(unknown);
        }
        let sure = entry.opening.as_ref().is_some_and(|opening| opening.sure);
        let prev = entry.opening.as_ref().and_then(prev);
        if let Some(prev) = prev.filter(|prev| *prev < p && prev.epoch == p.epoch) {
            return Some(gap(prev, id_of(entry), Reason::Rewound));
        }
        Some(match edge.before {
            // An opening whose `prev` lies before us says that our epoch never was in this log.
            None => match prev {
                // The owner may log again, under another epoch, what we hold and the store lost.
                Some(Position::ZERO) if !sure => gap(Position::ZERO, id_of(entry), Reason::Rewound),
                Some(prev) if prev != Position::ZERO && prev < p => unknown,
                _ => gap(p, before(entry), Reason::Trimmed),
            },
            // Cannot be while appends test the tail; told nevertheless.
            Some((last, _)) if last.epoch == p.epoch => gap(last.min(p), before(entry), Reason::Rewound),
            Some(_) => unknown,
        })
    }

    /// P22, where nothing is at or after the place.
    fn judge_tail(&self, edge: Option<Edge>, patient: bool) -> Result<Option<Gap>, Walked> {
        let p = self.at;
        let edge = edge.ok_or(Walked::Again)?;
        let Some(top) = edge.top else {
            let lost = p != Position::ZERO;
            return Ok(lost.then(|| gap(Position::ZERO, Position::ZERO, Reason::UnknownEpoch)));
        };
        let foreign = edge.before.is_some_and(|(last, nonce)| self.foreign(last.epoch, nonce));
        if top == p && !foreign {
            return Ok(None);
        }
        if top > p {
            // Something was appended meanwhile, unless all of it is gone already.
            return if edge.start.is_none() {
                Ok(Some(gap(p, top, Reason::Trimmed)))
            } else {
                Err(Walked::Again)
            };
        }
        if top.epoch == p.epoch && !foreign {
            return if patient { Err(Walked::Wait) } else { Ok(Some(gap(top, top, Reason::Rewound))) };
        }
        Ok(Some(gap(Position::ZERO, edge.start.unwrap_or(top), Reason::UnknownEpoch)))
    }

    pub(super) fn take(&mut self, entry: &Arc<LogEntry>) -> Told {
        let same = entry.epoch == self.at.epoch;
        let after = if same { self.at.seq } else { before(entry).seq };
        (self.at, self.nonce) = (id_of(entry), entry.nonce);
        match entry.opening {
            Some(_) => Told::Moved(self.at),
            None => Told::Entry { entry: entry.clone(), after },
        }
    }

    fn jump(&mut self, gap: Gap, told: &mut Vec<Told>) {
        *self = Self::new(gap.until);
        told.push(Told::Gap(gap));
    }

    /// Walks over a page. `patient` waits where the owner may append again what was lost; `stop` ends
    /// the walk where another place is met.
    pub(crate) fn walk(
        &mut self,
        found: Found,
        patient: bool,
        stop: Option<Position>,
        told: &mut Vec<Told>,
    ) -> Walked {
        let mut edge = found.edge;
        if found.entries.is_empty() {
            return match self.judge_tail(edge, patient) {
                Err(walked) => walked,
                Ok(None) => Walked::Tail,
                Ok(Some(gap)) => {
                    self.jump(gap, told);
                    if gap.reason == Reason::UnknownEpoch { Walked::More } else { Walked::Tail }
                }
            };
        }
        for (i, entry) in found.entries.iter().enumerate() {
            if stop == Some(self.at) {
                return Walked::Met;
            }
            let mut step = self.step(entry, false);
            if step == Step::Break {
                let Some(gap) = self.judge(entry, edge.take().filter(|_| i == 0)) else {
                    return Walked::Again;
                };
                self.jump(gap, told);
                if gap.reason == Reason::UnknownEpoch {
                    return Walked::More;
                }
                step = self.step(entry, false);
            }
            match step {
                Step::Deliver | Step::Silent => told.push(self.take(entry)),
                Step::Drop if entry.epoch == self.at.epoch => self.nonce = entry.nonce,
                Step::Drop => {}
                Step::Break => return Walked::Again,
            }
        }
        if found.full { Walked::More } else { Walked::Tail }
    }
}

fn gap(after: Position, until: Position, reason: Reason) -> Gap {
    Gap { after, until, reason }
}

/// What an opening says came before; `None`: unreadable.
fn prev(opening: &EpochOpening) -> Option<Position> {
    if opening.prev.is_empty() { Some(Position::ZERO) } else { opening.prev.parse().ok() }
}
