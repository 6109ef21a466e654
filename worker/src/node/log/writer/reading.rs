//! Reading what a log retained before its opening (P12): the names for its window, the sizes for its
//! retention, and how much of what an earlier grant numbered is there.

use super::Log;
use crate::{
    clock::Moment,
    node::log::{
        Do, Order, Out,
        topic::{self, Reading, Row},
        window::{SEEN_FOR, Seen},
    },
};
use plexus_bus::{Entry, Error, Position, Range, Topic};
use plexus_proto::bus::LogEntry;
use std::time::{Duration, SystemTime};

/// Entries read at a time.
const PAGE: usize = 64;
/// Wait after a read failed.
const PAUSE: Duration = Duration::from_millis(250);

impl Log {
    pub(super) fn next_read(&mut self, now: Moment) -> Option<Order> {
        if self.read.is_some() || now < self.read_after {
            return None;
        }
        while let Some(topic) = self.unread.pop_front() {
            if let Some(Reading::Until { next, .. }) = self.topics.get(&topic).map(|log| log.reading) {
                self.turn += 1;
                self.read = Some((self.turn, topic.clone()));
                let range =
                    Range { from: Position::ZERO, until: Some(next), limit: PAGE, newest_first: true };
                return Some(Order { turn: self.turn, task: Do::Read(topic, range) });
            }
        }
        None
    }

    pub(super) fn on_read(
        &mut self,
        turn: u64,
        result: Result<Vec<Entry>, Error>,
        wall: SystemTime,
        now: Moment,
        outs: &mut Vec<Out>,
    ) {
        let Some((_, topic)) = self.read.take_if(|(t, _)| *t == turn) else { return };
        let Ok(entries) = result else {
            self.read_after = now.after(PAUSE);
            self.unread.push_back(topic);
            return;
        };
        let mut more = entries.len() == PAGE;
        let mut page = Page { wall, now, recent: false, tail: None, oldest: Position::ZERO };
        for entry in &entries {
            let Some(log) = self.topics.get_mut(&topic) else { return };
            if !page.take(&topic, log, &mut self.seen, entry) {
                more = false;
                break;
            }
        }
        let Some(log) = self.topics.get_mut(&topic) else { return };
        log.reading = match (more, log.reading) {
            (true, Reading::Until { recent, .. }) => {
                Reading::Until { next: just_before(page.oldest), recent: recent || page.recent }
            }
            _ => Reading::Done,
        };
        match page.tail.or((log.reading == Reading::Done).then_some(Position::ZERO)) {
            Some(before) if log.past.is_some() => self.settle(&topic, before, outs),
            _ => self.read_on(&topic, outs),
        }
    }
}

/// A page of a retained log, newest first.
struct Page {
    wall: SystemTime,
    now: Moment,
    /// It reaches back over two minutes.
    recent: bool,
    /// The newest position that decides the past.
    tail: Option<Position>,
    oldest: Position,
}

impl Page {
    /// Takes one entry into what the log knows; false where reading can end.
    fn take(&mut self, topic: &Topic, log: &mut topic::Log, seen: &mut Seen, read: &Entry) -> bool {
        self.oldest = read.id;
        let Ok(entry) = read.entry.open::<LogEntry>() else { return true };
        let prev = entry.opening.as_ref().and_then(|opening| opening.prev.parse().ok());
        let decides = |before: &Position| log.decides(*before);
        self.tail = self.tail.or_else(|| [Some(read.id), prev].into_iter().flatten().find(decides));
        let newest =
            entry.messages.last().and_then(|m| m.received_at).or(entry.opening.as_ref().and_then(|o| o.at));
        let at = newest.and_then(|at| SystemTime::try_from(at).ok()).unwrap_or(self.wall);
        let age = self.wall.duration_since(at).unwrap_or_default();
        let messages = entry.messages.len() as u64;
        let bytes = entry.messages.iter().map(|m| m.data.len() as u64).sum();
        if !log.found(Row { id: read.id, messages, bytes, at_ms: topic::at_ms(self.now, age) }, self.now) {
            return false;
        }
        self.recent |= age > SEEN_FOR;
        for (i, message) in entry.messages.iter().enumerate().rev() {
            let seq = (read.id.seq + 1 + i as u64).saturating_sub(messages);
            log.window.found(Position::new(read.id.epoch, seq), message);
            if age <= SEEN_FOR {
                seen.insert(topic, &message.id, self.now);
            }
        }
        true
    }
}

/// The largest position before one.
fn just_before(position: Position) -> Position {
    match position.seq {
        0 => Position::new(position.epoch.saturating_sub(1), u64::MAX),
        seq => Position::new(position.epoch, seq - 1),
    }
}
