//! One topic that this gateway follows: its reader, the readers that move with it, and those that are
//! still on their way. Pure.

use super::{
    frames::{self, Filter, Sheet},
    place::{self, Gap, Place, Told},
    queue::Feed,
    reader::Reader,
};
use plexus_bus::{NodeName, Position};
use plexus_proto::{
    bus::LogEntry,
    v1::{
        View,
        subscription_event::{Event, Start, gap::Reason},
    },
};
use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

/// How long what was read of a log's ends is told to new readers.
const FRESH: Duration = Duration::from_secs(1);

/// The ends of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The position before the oldest entry kept; `None`: nothing is kept.
    pub(crate) start: Option<Position>,
    /// The oldest message kept; `None`: there is none.
    pub(crate) oldest: Option<Position>,
    /// The tail; `None`: there is no log.
    pub(crate) top: Option<Position>,
    /// Nonce of the grant that wrote the tail; 0: not known.
    pub(crate) nonce: u64,
}

/// Where following stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The live subject and the interest are under way.
    Following,
    /// Live entries come.
    Listening,
    /// Interest is being withdrawn; with `again` a reader came meanwhile.
    Leaving { again: bool },
}

/// A reader that moves with the topic's reader.
pub(crate) struct Attached {
    pub(crate) id: u64,
    pub(crate) slot: usize,
    pub(crate) feed: Feed,
    pub(crate) view: View,
    pub(crate) filter: Arc<Filter>,
    /// Reads the log itself rather than run over, while the topic's reader catches up.
    pub(crate) patient: bool,
}

/// A followed topic.
pub(crate) struct Topic {
    pub(crate) t: u32,
    pub(crate) node: NodeName,
    pub(crate) name: plexus_bus::Topic,
    pub(crate) phase: Phase,
    /// The owner has been asked to join and has not answered.
    pub(crate) joining: bool,
    pub(crate) joined: bool,
    pub(crate) reader: Reader,
    pub(crate) facts: Option<(Instant, Facts)>,
    /// The ends are being read.
    pub(crate) asking: bool,
    pub(crate) attached: Vec<Attached>,
    /// Readers on their way: id and slot.
    pub(crate) coming: Vec<(u64, usize)>,
    /// Since when nobody reads it.
    pub(crate) left: Option<Instant>,
    /// To be left once following has come to its end: interest that is being written cannot be withdrawn.
    pub(crate) unwanted: bool,
    /// Interest could not be withdrawn yet.
    pub(crate) stuck: bool,
    /// Readers as last written to the bus.
    pub(crate) counted: u32,
}

impl Topic {
    pub(crate) fn new(
        t: u32,
        node: NodeName,
        name: plexus_bus::Topic,
        patience: Duration,
        now: Instant,
    ) -> Self {
        Self {
            t,
            node,
            name,
            phase: Phase::Following,
            joining: false,
            joined: false,
            reader: Reader::new(patience, now),
            facts: None,
            asking: false,
            attached: Vec::new(),
            coming: Vec::new(),
            left: None,
            unwanted: false,
            stuck: false,
            counted: 1,
        }
    }

    /// Readers of the topic.
    pub(crate) fn readers(&self) -> u32 {
        (self.attached.len() + self.coming.len()) as u32
    }

    /// The ends of the log, if a new reader may begin.
    pub(crate) fn ready(&self, now: Instant) -> Option<Facts> {
        let (at, facts) = self.facts?;
        let fresh = now.saturating_duration_since(at) < FRESH;
        (self.phase == Phase::Listening && !self.joining && self.reader.began() && fresh).then_some(facts)
    }

    /// Tells whether the ends are to be read, and notes that they are.
    pub(crate) fn ask_facts(&mut self, now: Instant) -> bool {
        let wanted =
            !self.coming.is_empty() && self.phase == Phase::Listening && !self.joining && !self.asking;
        let stale = self.facts.is_none_or(|(at, _)| now.saturating_duration_since(at) >= FRESH);
        self.asking |= wanted && stale;
        wanted && stale
    }

    /// The event that begins the topic for a reader.
    pub(crate) fn start(&self, text: String, at: Position, recovered: bool, facts: Facts) -> Event {
        let top = self.reader.place().at.max(facts.top.unwrap_or_default());
        Event::Start(Start {
            topic: text,
            t: self.t,
            position: at.to_string(),
            oldest: facts.oldest.map(|p| p.to_string()).unwrap_or_default(),
            top: top.to_string(),
            recovered,
            joined: self.joined,
        })
    }

    /// Tells everybody attached; each entry is encoded once. During a repair readers whose queue is
    /// full are set aside, with the place from which they read on by themselves.
    pub(crate) fn deliver(&mut self, told: &Told, repair: bool) -> Vec<(u64, usize, Place)> {
        match told {
            Told::Moved(at) => self.attached.iter().for_each(|a| a.feed.pass(a.slot, *at)),
            Told::Gap(gap) => self.tell(*gap, None),
            Told::Entry { entry, after } => return self.deliver_entry(entry, *after, repair),
        }
        Vec::new()
    }

    fn tell(&self, gap: Gap, skipped: Option<u64>) {
        let frame = frames::event(frames::gap(self.t, gap, skipped, false), Some(gap.until));
        self.attached.iter().for_each(|a| a.feed.gap(a.slot, gap, frame.clone()));
    }

    fn deliver_entry(&mut self, entry: &LogEntry, after: u64, repair: bool) -> Vec<(u64, usize, Place)> {
        if let Some((gap, skipped)) = dropped(entry, after) {
            self.tell(gap, Some(skipped));
        }
        let mut aside = Vec::new();
        let mut sheet = Sheet::new(self.t, entry);
        self.attached.retain(|a| {
            let stop = a.give(&mut sheet, entry, after, repair && a.patient);
            if let Some(seq) = stop {
                let place = Place { at: Position::new(entry.epoch, seq), nonce: entry.nonce };
                aside.push((a.id, a.slot, place));
            }
            stop.is_none()
        });
        self.coming.extend(aside.iter().map(|(id, slot, _)| (*id, *slot)));
        aside
    }
}

impl Attached {
    /// Gives the messages after `after`. With `patient` it stops where the queue is full, and answers
    /// how far it came.
    pub(crate) fn give(
        &self,
        sheet: &mut Sheet<'_>,
        entry: &LogEntry,
        after: u64,
        patient: bool,
    ) -> Option<u64> {
        let mut last = after;
        for (i, (seq, message)) in frames::numbered(entry).enumerate() {
            if seq <= after {
                continue;
            }
            let at = Position::new(entry.epoch, seq);
            if !self.filter.passes(message) {
                self.feed.pass(self.slot, at);
                last = seq;
                continue;
            }
            let frame = sheet.frame(i, self.view);
            let bytes = frame.proto().len();
            if patient && !self.feed.has_room(bytes) {
                return Some(last);
            }
            self.feed.message(self.slot, at, bytes, frame);
            last = seq;
        }
        None
    }
}

/// What the owner had to drop before an entry, for readers that have not seen part of it.
pub(crate) fn dropped(entry: &LogEntry, after: u64) -> Option<(Gap, u64)> {
    let before = place::before(entry);
    let told = entry.dropped > 0 && after <= before.seq;
    told.then_some((Gap { after: before, until: before, reason: Reason::Unkept }, entry.dropped))
}

/// A reader that reads the log by itself until it meets the topic's reader.
pub(crate) struct Resuming {
    /// Where it asked to begin.
    pub(crate) asked: Position,
    /// It has its `start`.
    pub(crate) said: bool,
    /// How far it read.
    pub(crate) place: Place,
    /// The place was found in the log.
    pub(crate) valid: bool,
    /// Read to the tail, and not moved since.
    pub(crate) at_tail: bool,
    /// Read, and not yet handed over.
    pub(crate) told: VecDeque<Told>,
    /// A read is under way.
    pub(crate) asking: bool,
    /// No read before this.
    pub(crate) retry: Option<Instant>,
    /// Since when the log ends before the place.
    pub(crate) suspect: Option<Instant>,
    /// Entries of the next page.
    pub(crate) limit: usize,
}

impl Resuming {
    pub(crate) fn new(place: Place) -> Self {
        Self {
            asked: place.at,
            said: false,
            place,
            valid: false,
            at_tail: false,
            told: VecDeque::new(),
            asking: false,
            retry: None,
            suspect: None,
            limit: 32,
        }
    }

    /// Hands over what was read, as far as there is room; true: all of it.
    pub(crate) fn flush(&mut self, t: u32, to: &Attached) -> bool {
        while let Some(told) = self.told.front_mut() {
            match told {
                Told::Moved(at) => to.feed.pass(to.slot, *at),
                Told::Gap(gap) => {
                    let frame = frames::event(frames::gap(t, *gap, None, false), Some(gap.until));
                    to.feed.gap(to.slot, *gap, frame);
                }
                Told::Entry { entry, after } => {
                    if let Some((gap, skipped)) = dropped(entry, *after) {
                        let frame = frames::event(frames::gap(t, gap, Some(skipped), false), Some(gap.until));
                        to.feed.gap(to.slot, gap, frame);
                    }
                    if let Some(stopped) = to.give(&mut Sheet::new(t, entry), entry, *after, true) {
                        *after = stopped;
                        return false;
                    }
                }
            }
            self.told.pop_front();
        }
        true
    }

    /// Adapts the next page to the bytes of this one.
    pub(crate) fn adapt(&mut self, bytes: usize, most: usize) {
        self.limit = match bytes {
            0..0x4_0000 => (self.limit * 2).min(most),
            0x4_0000..0x10_0000 => self.limit,
            _ => (self.limit / 2).max(1),
        };
    }
}
