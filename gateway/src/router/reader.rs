//! One topic as this gateway reads it: live entries, repairs from the log, gaps. Pure: the loop hands
//! in what it heard and read, and does what is asked; where it stands, and what that makes of an entry, is a
//! [`Place`]. protocol.md P20 is the normative text.

use super::place::{Found, Place, Step, Told, Walked};
use plexus_bus::Position;
use plexus_proto::bus::LogEntry;
use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

/// Live entries held while the log is read; what comes beyond is read as well.
const HELD_MAX: usize = 256;
/// Their payload bytes.
const HELD_BYTES_MAX: usize = 4 << 20;
/// Pause before a read is repeated that failed or contradicted itself.
const RETRY: Duration = Duration::from_millis(100);

/// A read to make: from the place on, included. The ticket comes back with what was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) place: Place,
    pub(crate) ticket: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Down,
    Reading,
    Live,
    Suspect,
}

/// The reader of one topic for everybody on this gateway.
#[derive(Debug)]
pub(crate) struct Reader {
    place: Place,
    state: State,
    /// Rises whenever the place moves: a read is evidence only while it stands (P22).
    moved: u64,
    /// A read is under way.
    asked: bool,
    /// No read before this.
    retry: Option<Instant>,
    /// Since when the log ends before the place.
    suspect: Option<Instant>,
    /// Live entries that wait for the read.
    held: VecDeque<Arc<LogEntry>>,
    held_bytes: usize,
    /// How many of them came before the read was sent: it answers for these.
    vouched: usize,
    /// Something came that is not held: read once more.
    missed: bool,
    /// When the place was last confirmed.
    heard: Instant,
    /// It may be behind: do not wait for silence.
    doubted: bool,
    patience: Duration,
}

impl Reader {
    /// A reader that has not begun: live entries are held until [`Self::begin`].
    pub(crate) fn new(patience: Duration, now: Instant) -> Self {
        Self {
            place: Place::new(Position::ZERO),
            state: State::Down,
            moved: 0,
            asked: false,
            retry: None,
            suspect: None,
            held: VecDeque::new(),
            held_bytes: 0,
            vouched: 0,
            missed: false,
            heard: now,
            doubted: false,
            patience,
        }
    }

    /// Where it is.
    pub(crate) fn place(&self) -> Place {
        self.place
    }

    /// Tells whether it has begun.
    pub(crate) fn began(&self) -> bool {
        self.state != State::Down
    }

    /// Tells whether it waits for nothing but live entries.
    pub(crate) fn calm(&self) -> bool {
        self.state == State::Live
    }

    /// Tells whether readers may attach: what it says is the end of the log as far as anybody knows.
    pub(crate) fn settled(&self) -> bool {
        matches!(self.state, State::Live | State::Suspect)
    }

    /// Begins at the tail that was read after the subscription stood.
    pub(crate) fn begin(&mut self, place: Place, now: Instant) -> Vec<Told> {
        let mut told = Vec::new();
        self.place = place;
        self.state = State::Live;
        self.moved += 1;
        self.confirm(now, &mut told);
        told
    }

    /// Hears a live entry.
    pub(crate) fn live(&mut self, entry: Arc<LogEntry>, now: Instant) -> Option<Told> {
        if self.state != State::Live {
            if self.state == State::Suspect {
                self.state = State::Reading; // the tail moved
            }
            self.hold(entry);
            return None;
        }
        match self.place.step(&entry, true) {
            Step::Drop => None,
            Step::Deliver | Step::Silent => {
                self.heard = now;
                self.moved += 1;
                Some(self.place.take(&entry))
            }
            Step::Break => {
                self.state = State::Reading;
                self.hold(entry);
                None
            }
        }
    }

    fn hold(&mut self, entry: Arc<LogEntry>) {
        let bytes: usize = entry.messages.iter().map(|m| m.data.len()).sum();
        if self.missed || self.held.len() >= HELD_MAX || self.held_bytes + bytes > HELD_BYTES_MAX {
            self.missed = true;
            return;
        }
        self.held_bytes += bytes;
        self.held.push_back(entry);
    }

    /// Reads the log before anything else is believed.
    pub(crate) fn reread(&mut self) {
        if self.state == State::Live {
            self.state = State::Reading;
        }
    }

    /// Something may have been missed: the tail is compared at the next occasion.
    pub(crate) fn doubt(&mut self) {
        match self.state {
            State::Live => self.doubted = true,
            _ => self.missed = true,
        }
    }

    /// Tells whether the tail is to be compared, and under which ticket.
    pub(crate) fn due(&mut self, now: Instant, interval: Duration) -> Option<u64> {
        let idle = self.doubted || now.saturating_duration_since(self.heard) >= interval;
        (idle && self.state == State::Live).then(|| {
            (self.heard, self.doubted) = (now, false);
            self.moved
        })
    }

    /// Compares the tail, epoch and sequence, with what the ticket saw.
    pub(crate) fn compare(&mut self, ticket: u64, top: Option<Position>) {
        if ticket == self.moved && self.state == State::Live && top.unwrap_or_default() != self.place.at {
            self.state = State::Reading;
        }
    }

    /// The read it wants, if any; one at a time.
    pub(crate) fn ask(&mut self, now: Instant) -> Option<Ask> {
        if self.state == State::Suspect && self.suspect.is_some_and(|since| now >= since + self.patience) {
            self.state = State::Reading;
        }
        let may = self.state == State::Reading && !self.asked && self.retry.is_none_or(|at| at <= now);
        may.then(|| {
            self.asked = true;
            self.retry = None;
            self.vouched = self.held.len();
            Ask { place: self.place, ticket: self.moved }
        })
    }

    /// Takes in what a read found; `None`: it failed.
    pub(crate) fn found(&mut self, ticket: u64, found: Option<Found>, now: Instant) -> Vec<Told> {
        let mut told = Vec::new();
        self.asked = false;
        let Some(found) = found else {
            self.retry = Some(now + RETRY);
            return told;
        };
        if ticket != self.moved || self.state != State::Reading {
            return told;
        }
        let patient = self.suspect.is_none_or(|since| now < since + self.patience);
        let walked = self.place.walk(found, patient, None, &mut told);
        if !told.is_empty() {
            self.moved += 1;
        }
        match walked {
            Walked::Tail | Walked::Met => {
                self.suspect = None;
                self.state = State::Live;
                self.confirm(now, &mut told);
            }
            Walked::More => {}
            Walked::Again => self.retry = Some(now + RETRY),
            Walked::Wait => self.wait(now),
        }
        told
    }

    fn wait(&mut self, now: Instant) {
        self.suspect.get_or_insert(now);
        self.state = State::Suspect;
        if !self.held.is_empty() || self.missed {
            self.forget();
            self.state = State::Reading; // the tail moved during the read
            self.retry = Some(now + RETRY);
        }
    }

    /// The log and the place agree: what was held follows.
    fn confirm(&mut self, now: Instant, told: &mut Vec<Told>) {
        self.heard = now;
        if self.missed {
            self.forget();
            self.state = State::Reading;
            return;
        }
        let held = std::mem::take(&mut self.held);
        let vouched = std::mem::take(&mut self.vouched);
        self.held_bytes = 0;
        for (i, entry) in held.into_iter().enumerate() {
            if i < vouched && self.place.step(&entry, true) == Step::Break {
                // It was said live and is not in the log: it never will be, or the tail will tell.
                self.doubted = true;
                continue;
            }
            told.extend(self.live(entry, now));
        }
    }

    fn forget(&mut self) {
        self.held.clear();
        (self.held_bytes, self.vouched) = (0, 0);
        self.missed = false;
    }
}

#[cfg(test)]
pub(super) mod tests;
