//! Entries whose messages are numbered: cut, joined and confirmed. A number and its payload are final
//! within an epoch, how they are grouped is not.

use super::topic::{Row, at_ms};
use crate::clock::Moment;
use plexus_bus::{Grant, Position};
use plexus_proto::bus::{LogEntry, LogMessage};
use std::{collections::VecDeque, sync::Arc, time::Duration};

/// Messages of an entry at most.
pub(super) const ENTRY_MESSAGES_MAX: usize = 64;
/// Payload bytes of an entry at most; a larger message goes alone.
pub(super) const ENTRY_BYTES_MAX: usize = 1 << 20;
/// An entry whose messages are numbered.
#[derive(Debug)]
pub(super) struct Numbered {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) bytes: usize,
    pub(super) entry: Arc<LogEntry>,
    /// Sequences and tickets of those who wait.
    pub(super) tickets: Vec<(u64, u64)>,
}

/// Messages that turned out to be in the log.
pub(super) struct Confirmed {
    pub(super) first: Position,
    pub(super) entry: Arc<LogEntry>,
    pub(super) tickets: Vec<(u64, Position)>,
}

impl Numbered {
    pub(super) fn new(
        grant: Grant,
        last: u64,
        messages: Vec<LogMessage>,
        tickets: Vec<(u64, u64)>,
        dropped: u64,
    ) -> Self {
        let bytes = messages.iter().map(|m| m.data.len()).sum();
        let first = last + 1 - messages.len() as u64;
        let entry = LogEntry {
            epoch: grant.epoch,
            nonce: grant.nonce,
            seq: last,
            messages,
            dropped,
            ..Default::default()
        };
        Self { first, last, bytes, entry: Arc::new(entry), tickets }
    }

    /// Cuts the entry behind a sequence, if that is within it.
    pub(super) fn cut(self, grant: Grant, behind: u64) -> Vec<Self> {
        if behind < self.first || behind >= self.last {
            return vec![self];
        }
        let mut head = self.entry.messages.clone();
        let rest = head.split_off((behind + 1 - self.first) as usize);
        let (early, late) = self.tickets.into_iter().partition(|(seq, _)| *seq <= behind);
        let head = Self::new(grant, behind, head, early, self.entry.dropped);
        vec![head, Self::new(grant, self.last, rest, late, 0)]
    }

    /// Whether the next entry can be joined to this one. What was dropped is told before an entry.
    pub(super) fn takes(&self, next: &Self) -> bool {
        let messages = self.entry.messages.len() + next.entry.messages.len();
        next.entry.dropped == 0
            && messages <= ENTRY_MESSAGES_MAX
            && self.bytes + next.bytes <= ENTRY_BYTES_MAX
    }

    pub(super) fn merge(&mut self, grant: Grant, next: Self) {
        let messages = [&self.entry.messages[..], &next.entry.messages].concat();
        let tickets = [&self.tickets[..], &next.tickets].concat();
        *self = Self::new(grant, next.last, messages, tickets, self.entry.dropped);
    }

    pub(super) fn id(&self) -> Position {
        Position::new(self.entry.epoch, self.last)
    }

    pub(super) fn row(&self, grant: Grant, now: Moment) -> Row {
        Row {
            id: Position::new(grant.epoch, self.last),
            messages: self.entry.messages.len() as u64,
            bytes: self.bytes as u64,
            at_ms: at_ms(now, Duration::ZERO),
        }
    }
}

/// Takes out what lies in `(acked, upto]` of a ring.
pub(super) fn confirm(ring: &mut VecDeque<Numbered>, grant: Grant, acked: u64, upto: u64) -> Vec<Confirmed> {
    let mut out = Vec::new();
    if upto <= acked {
        return out;
    }
    let begin = ring.partition_point(|n| n.last <= acked);
    for n in ring.range_mut(begin..).take_while(|n| n.first <= upto) {
        let (from, to) = (n.first.max(acked + 1), n.last.min(upto));
        let whole = from == n.first && to == n.last;
        let entry = if whole { n.entry.clone() } else { Arc::new(part(&n.entry, n.first, from, to)) };
        let due = n.tickets.partition_point(|(seq, _)| *seq <= to);
        let tickets = n.tickets.drain(..due).map(|(seq, ticket)| (ticket, Position::new(grant.epoch, seq)));
        out.push(Confirmed { first: Position::new(grant.epoch, from), entry, tickets: tickets.collect() });
    }
    out
}

/// The messages `from..=to` of an entry that begins at `first`.
fn part(entry: &LogEntry, first: u64, from: u64, to: u64) -> LogEntry {
    let messages = entry.messages[(from - first) as usize..=(to - first) as usize].to_vec();
    LogEntry { epoch: entry.epoch, nonce: entry.nonce, seq: to, messages, ..Default::default() }
}
