//! One log: what waits for a number, what was numbered and may have to be appended again (the ring),
//! and what the log retains. It decides nothing about the node; `writer` does.

use super::{
    Kept, Retention,
    numbered::{Confirmed, ENTRY_BYTES_MAX, ENTRY_MESSAGES_MAX, Numbered, confirm},
    window::Window,
};
use crate::clock::Moment;
use plexus_bus::{Grant, Position};
use plexus_proto::bus::LogMessage;
use std::{collections::VecDeque, mem, time::Duration};

/// Keeps everything: said while the owner does not know yet what a log holds.
const KEEP_ALL: u64 = 1 << 40;

/// Where a waiting message comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A caller, who waits under this ticket.
    Own(u64),
    /// The network; may be dropped.
    Network,
    /// Numbered under an earlier grant, and not in the log.
    Carried,
}

/// A message without a number.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) message: LogMessage,
    pub(super) source: Source,
    /// Order over all topics of the node.
    pub(super) arrival: u64,
}

/// An entry that the log retains.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) id: Position,
    pub(super) messages: u64,
    pub(super) bytes: u64,
    /// Milliseconds since boot; below 0: earlier.
    pub(super) at_ms: i64,
}

/// What was numbered under an earlier grant, until it is known how much of it the log has.
#[derive(Debug)]
pub(super) struct Past {
    pub(super) grant: Grant,
    pub(super) acked: u64,
    pub(super) ring: VecDeque<Numbered>,
}

/// How far the retained log was read for the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// Not before the opening (P12).
    Closed,
    /// Newest first, next at or before this; `recent`: the last two minutes are known.
    Until { next: Position, recent: bool },
    /// All of it.
    Done,
}

/// One log.
#[derive(Debug)]
pub(super) struct Log {
    /// Opened under the present grant.
    pub(super) open: bool,
    /// In the writer's queue of logs with something to number.
    pub(super) queued: bool,
    /// Waits for its numbers, oldest first.
    pub(super) waiting: VecDeque<Waiting>,
    /// Messages of the network dropped since the last entry.
    pub(super) dropped: u64,
    /// Numbered entries, the unconfirmed ones and those kept to append again.
    pub(super) ring: VecDeque<Numbered>,
    /// Highest number given.
    pub(super) last: u64,
    /// Entries of earlier grants that the log has, kept to be carried over after another failover.
    pub(super) kept: VecDeque<Numbered>,
    /// What the log has, as last seen.
    pub(super) tail: u64,
    /// What receipts were given for.
    pub(super) acked: u64,
    /// Numbered under an earlier grant and not decided.
    pub(super) past: Option<Past>,
    /// Repeats.
    pub(super) window: Window,
    /// How far it was read.
    pub(super) reading: Reading,
    /// A purge is asked for.
    pub(super) purge: bool,
    retention: Retention,
    rows: VecDeque<Row>,
    messages: u64,
    bytes: u64,
    /// Entries at or before this are to be trimmed, known or not.
    cut: Option<Position>,
    /// The store may keep more than `rows`.
    loose: bool,
}

impl Log {
    pub(super) fn new(retention: Retention) -> Self {
        Self {
            open: false,
            queued: false,
            waiting: VecDeque::new(),
            dropped: 0,
            ring: VecDeque::new(),
            kept: VecDeque::new(),
            last: 0,
            tail: 0,
            acked: 0,
            past: None,
            window: Window::default(),
            reading: Reading::Closed,
            purge: false,
            retention,
            rows: VecDeque::new(),
            messages: 0,
            bytes: 0,
            cut: None,
            loose: false,
        }
    }

    /// Whether messages may be numbered: open, nothing of the past undecided, recent ids known.
    pub(super) fn numbers(&self) -> bool {
        let recent = matches!(self.reading, Reading::Done | Reading::Until { recent: true, .. });
        self.open && self.past.is_none() && recent
    }

    /// Whether everything numbered is confirmed and nothing waits.
    pub(super) fn rests(&self) -> bool {
        self.waiting.is_empty() && self.acked == self.last && self.past.is_none()
    }

    /// Numbers the next entry. `fresh` tells whether a message of the network was not logged lately;
    /// `took` hears of every message that waits no longer.
    pub(super) fn number(
        &mut self,
        grant: Grant,
        now: Moment,
        mut fresh: impl FnMut(&LogMessage, Source) -> bool,
        mut took: impl FnMut(Source, usize),
    ) -> Option<usize> {
        let (mut messages, mut tickets, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some(next) = self.waiting.front() {
            let len = next.message.data.len();
            let full = messages.len() == ENTRY_MESSAGES_MAX || bytes + len > ENTRY_BYTES_MAX;
            if full && !messages.is_empty() {
                break;
            }
            let Some(Waiting { message, source, .. }) = self.waiting.pop_front() else { break };
            took(source, len);
            if !fresh(&message, source) {
                continue;
            }
            self.last += 1;
            if let Source::Own(ticket) = source {
                tickets.push((self.last, ticket));
            }
            bytes += len;
            messages.push(message);
        }
        if messages.is_empty() {
            return None;
        }
        let dropped = mem::take(&mut self.dropped);
        let numbered = Numbered::new(grant, self.last, messages, tickets, dropped);
        self.retain_row(numbered.row(grant, now), now);
        self.ring.push_back(numbered);
        Some(bytes)
    }

    /// The entry that continues the log's tail.
    pub(super) fn unsent(&self) -> Option<&Numbered> {
        let behind = self.ring.partition_point(|n| n.last <= self.tail);
        self.ring.get(behind).filter(|n| n.first == self.tail + 1)
    }

    /// Whether everything after the tail can be appended again.
    pub(super) fn reaches(&self) -> bool {
        self.tail == self.last || self.ring.iter().any(|n| n.first <= self.tail + 1 && self.tail < n.last)
    }

    /// Groups what is after the tail anew (P14): the same numbers and payloads in fewer entries, from
    /// exactly the tail on, also where that lies within an entry.
    pub(super) fn regroup(&mut self, grant: Grant, now: Moment) {
        let behind = self.ring.partition_point(|n| n.last <= self.tail);
        let mut rest = self.ring.split_off(behind);
        if rest.len() <= 1 && rest.front().is_none_or(|n| n.first == self.tail + 1) {
            self.ring.append(&mut rest);
            return;
        }
        while self.rows.back().is_some_and(|r| r.id > Position::new(grant.epoch, self.tail)) {
            self.pop_row_back();
        }
        let mut groups: Vec<Numbered> = Vec::new();
        for old in rest.into_iter().flat_map(|old| old.cut(grant, self.tail)) {
            match groups.last_mut().filter(|group| group.first > self.tail && group.takes(&old)) {
                Some(group) => group.merge(grant, old),
                None => groups.push(old),
            }
        }
        for group in groups {
            self.retain_row(group.row(grant, now), now);
            self.ring.push_back(group);
        }
    }

    /// Confirms what the log has up to a sequence.
    pub(super) fn confirm(&mut self, grant: Grant, upto: u64) -> Vec<Confirmed> {
        self.tail = upto;
        let confirmed = confirm(&mut self.ring, grant, self.acked, upto);
        self.acked = self.acked.max(upto);
        confirmed
    }

    /// Forgets entries kept to append again, up to a position; answers their bytes.
    pub(super) fn forget(&mut self, upto: Position) -> usize {
        let gone = |ring: &mut VecDeque<Numbered>| {
            let at = ring.partition_point(|n| n.id() <= upto);
            ring.drain(..at).map(|n| n.bytes).sum::<usize>()
        };
        gone(&mut self.kept) + gone(&mut self.ring)
    }

    /// Payload bytes of the ring.
    pub(super) fn ring_bytes(&self) -> usize {
        let past = self.past.iter().flat_map(|past| &past.ring);
        self.kept.iter().chain(past).chain(&self.ring).map(|n| n.bytes).sum()
    }

    /// Prepares for a new grant: what is numbered becomes the past, repeats are read anew (P12).
    pub(super) fn lay_aside(&mut self, grant: Grant) {
        let ring = mem::take(&mut self.ring);
        if self.open && self.past.is_none() && (!ring.is_empty() || !self.kept.is_empty()) {
            self.past = Some(Past { grant, acked: self.acked, ring });
        }
        (self.last, self.tail, self.acked) = (0, 0, 0);
        self.open = false;
        self.window.reset();
        self.reading = Reading::Closed;
        (self.messages, self.bytes, self.cut) = (0, 0, None);
        self.rows.clear();
    }

    /// Notes the opening, and that the log was at `prev` before.
    pub(super) fn opened(&mut self, grant: Grant, prev: Position, now: Moment) {
        self.open = true;
        self.retain_row(
            Row {
                id: Position::new(grant.epoch, 0),
                messages: 0,
                bytes: 0,
                at_ms: at_ms(now, Duration::ZERO),
            },
            now,
        );
        self.reading = match prev {
            Position::ZERO => Reading::Done,
            next => Reading::Until { next, recent: false },
        };
    }

    /// Whether a position that the log had before its opening decides the past: it is of the past's
    /// own epoch, or an earlier one.
    pub(super) fn decides(&self, before: Position) -> bool {
        self.past.as_ref().is_some_and(|past| before.epoch <= past.grant.epoch)
    }

    /// Decides the past: confirms what landed, and puts in front of what waits all that the log, which
    /// had its tail at `before`, does not have.
    pub(super) fn settle(&mut self, before: Position) -> Vec<Confirmed> {
        let Some(mut past) = self.past.take() else { return Vec::new() };
        let landed = if before.epoch == past.grant.epoch { before.seq } else { 0 };
        let confirmed = confirm(&mut past.ring, past.grant, past.acked, landed);
        let mut known = mem::take(&mut self.kept);
        known.append(&mut past.ring);
        for old in known.iter().rev() {
            self.carry(old, before);
        }
        self.kept = known.into_iter().take_while(|n| n.id() <= before).collect();
        confirmed
    }

    /// Lets the messages of an entry after a position wait again, before all others.
    fn carry(&mut self, old: &Numbered, after: Position) {
        if old.id() <= after {
            return;
        }
        let at = |seq| Position::new(old.entry.epoch, seq);
        for (i, message) in old.entry.messages.iter().enumerate().rev() {
            let seq = old.first + i as u64;
            if at(seq) <= after {
                return;
            }
            let ticket = old.tickets.iter().find(|(s, _)| *s == seq).map(|(_, ticket)| *ticket);
            let source = ticket.map_or(Source::Carried, Source::Own);
            if source == Source::Carried {
                self.window.carry(message);
            }
            self.waiting.push_front(Waiting { message: message.clone(), source, arrival: 0 });
        }
        self.dropped += old.entry.dropped;
    }
}

/// Retention.
impl Log {
    pub(super) fn set_retention(&mut self, retention: Retention) {
        self.retention = retention;
    }

    /// How many of the newest entries to keep with the next append.
    pub(super) fn keep(&self) -> u64 {
        let known = self.reading == Reading::Done || self.cut.is_some();
        if known { self.rows.len() as u64 } else { KEEP_ALL }
    }

    /// Lets go what is too old, and tells whether the store may hold more than `keep`.
    pub(super) fn loosened(&mut self, now: Moment) -> bool {
        self.expire(now, 0);
        let due = self.loose && self.open && self.keep() < KEEP_ALL && self.tail == self.last;
        self.loose &= !due;
        due
    }

    /// Forgets all that is retained.
    pub(super) fn purge(&mut self) {
        while self.pop_row_front() {}
        self.loose = false;
    }

    pub(super) fn kept(&self) -> Kept {
        Kept { messages: self.messages, bytes: self.bytes }
    }

    /// Adds an older entry that was read; false where it is past the retention, so reading can end.
    pub(super) fn found(&mut self, row: Row, now: Moment) -> bool {
        let old = self.cut.is_some_and(|cut| row.id <= cut);
        let fits = self.messages + row.messages <= self.retention.messages.max(1)
            && self.bytes + row.bytes <= self.retention.bytes
            && row.at_ms >= at_ms(now, self.retention.age);
        if old || !fits {
            self.cut = self.cut.max(Some(row.id));
            self.loose = true;
            return false;
        }
        self.messages += row.messages;
        self.bytes += row.bytes;
        self.rows.push_front(row);
        true
    }

    fn retain_row(&mut self, row: Row, now: Moment) {
        self.messages += row.messages;
        self.bytes += row.bytes;
        self.rows.push_back(row);
        self.expire(now, 1);
    }

    /// Lets go what is over a bound, but for the newest `spare` rows.
    fn expire(&mut self, now: Moment, spare: usize) {
        let oldest = at_ms(now, self.retention.age);
        while self.rows.len() > spare {
            let over = self.messages > self.retention.messages.max(1) || self.bytes > self.retention.bytes;
            let newest_alone = self.rows.iter().skip(1).all(|r| r.messages == 0);
            let aged = self.rows.front().is_some_and(|r| r.at_ms < oldest);
            if !(aged || over && !newest_alone) {
                break;
            }
            self.pop_row_front();
        }
    }

    fn pop_row_front(&mut self) -> bool {
        let Some(row) = self.rows.pop_front() else { return false };
        self.messages -= row.messages;
        self.bytes -= row.bytes;
        self.cut = self.cut.max(Some(row.id));
        self.window.forget(row.id);
        self.loose = true;
        true
    }

    fn pop_row_back(&mut self) {
        if let Some(row) = self.rows.pop_back() {
            self.messages -= row.messages;
            self.bytes -= row.bytes;
        }
    }
}

/// Milliseconds since boot, `ago` earlier.
pub(super) fn at_ms(now: Moment, ago: Duration) -> i64 {
    let ms = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
    ms(now.since(Moment::PAST)).saturating_sub(ms(ago))
}
