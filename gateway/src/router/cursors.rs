//! How a reader comes to move with its topic: it begins, reads the log by itself at its own pace, and
//! attaches where it meets the topic's reader. The "client cursor" of protocol.md P22.

use super::{
    Failure, frames,
    place::{Place, Told},
    subscriptions::{Cursor, Order, READS_MAX, RETRY, Subscriptions},
    topic::{Attached, Resuming, Topic},
};
use plexus_proto::{
    reason::Reason,
    text::{self, After},
    v1::{self, subscription_event::gap},
};
use std::time::Instant;

impl Subscriptions {
    /// Takes one reader as far as it can go on one of its topics.
    pub(super) fn advance(&mut self, id: u64, slot: usize, now: Instant) {
        let Some(reading) = self.readers.get_mut(&id) else { return };
        let Some((t, cursor)) = reading.cursors.get_mut(slot) else { return };
        let Some(topic) = self.topics.get_mut(t) else { return };
        if let Cursor::Starting { after, reread } = cursor {
            let Some(facts) = topic.ready(now) else { return self.ask_for(id, slot, now) };
            let (at, settled) = (topic.reader.place(), topic.reader.settled());
            let place = match *after {
                After::End => settled.then_some(at),
                After::Start => Some(Place::new(facts.start.or(facts.top).unwrap_or_default())),
                After::Position(p) if p == at.at && settled => Some(at),
                After::Position(p) if p > at.at && !*reread => {
                    *reread = true;
                    topic.reader.reread();
                    let t = *t;
                    return self.pull(t, now);
                }
                After::Position(p) if p > at.at && !settled => None,
                After::Position(p) => Some(Place::new(p)),
            };
            let Some(place) = place else { return };
            let valid = !matches!(after, After::Position(_)) || settled && place.at == at.at;
            *cursor = Cursor::Resuming(Box::new(Resuming { valid, ..Resuming::new(place) }));
        }
        self.resume(id, slot, now);
    }

    /// A reader waits for the ends of the log, which may have grown old meanwhile.
    fn ask_for(&mut self, id: u64, slot: usize, now: Instant) {
        if let Some((t, _)) = self.readers.get(&id).and_then(|r| r.cursors.get(slot)) {
            let t = *t;
            self.ask(t, now);
        }
    }

    pub(super) fn resume(&mut self, id: u64, slot: usize, now: Instant) {
        let Some(reading) = self.readers.get_mut(&id) else { return };
        let accepted = reading.answer.is_none();
        let Some((t, Cursor::Resuming(resuming))) = reading.cursors.get_mut(slot) else { return };
        let Some(topic) = self.topics.get_mut(t) else { return };
        let to = Attached {
            id,
            slot,
            feed: reading.feed.clone(),
            view: reading.view,
            filter: reading.filter.clone(),
            patient: reading.patient,
        };
        if !resuming.said && resuming.valid {
            match begin(topic, resuming, &to, reading.strict) {
                Ok(()) => {}
                Err(failure) => return self.fail(id, failure, now),
            }
        }
        let flushed = resuming.flush(topic.t, &to);
        let at = topic.reader.place();
        let meets = flushed && resuming.said && resuming.place.at == at.at && topic.reader.settled();
        if !flushed {
            let _ = to.feed.rested(); // or it would not tell when there is room
        } else if meets && accepted && to.feed.rested() {
            topic.coming.retain(|c| *c != (id, slot));
            topic.attached.push(to);
            reading.cursors[slot].1 = Cursor::Attached;
        } else if !meets {
            self.read_for(id, slot, now);
        }
        self.accept(id, now);
    }

    /// Reads on for one reader, unless it must wait.
    fn read_for(&mut self, id: u64, slot: usize, now: Instant) {
        let Some(reading) = self.readers.get_mut(&id) else { return };
        let feed = &reading.feed;
        let Some((t, Cursor::Resuming(resuming))) = reading.cursors.get_mut(slot) else { return };
        let Some(topic) = self.topics.get_mut(t) else { return };
        if resuming.asking {
            return;
        }
        if resuming.retry.is_some_and(|at| at > now) {
            self.timed.insert((id, slot));
            return;
        }
        if resuming.at_tail && resuming.place.at > topic.reader.place().at {
            // The log is ahead of what this gateway heard: everybody reads.
            topic.reader.reread();
            resuming.at_tail = false;
            resuming.retry = Some(now + RETRY);
            self.timed.insert((id, slot));
            let t = *t;
            return self.pull(t, now);
        }
        if !feed.rested() {
            return;
        }
        resuming.asking = true;
        resuming.retry = None;
        self.queued.push_back((id, slot));
        self.next_read();
    }

    /// Lets reads begin that wait their turn.
    pub(super) fn next_read(&mut self) {
        while self.reads < READS_MAX
            && let Some((id, slot)) = self.queued.pop_front()
        {
            let cursor = self.readers.get(&id).and_then(|r| r.cursors.get(slot));
            let Some((t, Cursor::Resuming(resuming))) = cursor else { continue };
            let Some(topic) = self.topics.get(t) else { continue };
            self.reads += 1;
            self.orders.push(Order::ReadFor {
                id,
                slot,
                node: topic.node.clone(),
                topic: topic.name.clone(),
                place: resuming.place,
                limit: resuming.limit,
            });
        }
    }

    /// Hands the stream over once every topic has begun.
    fn accept(&mut self, id: u64, now: Instant) {
        let Some(reading) = self.readers.get_mut(&id) else { return };
        let strict = reading.strict;
        let begun = |(_, cursor): &(u32, Cursor)| match cursor {
            Cursor::Starting { .. } => false,
            Cursor::Resuming(resuming) => resuming.said || !strict,
            Cursor::Attached | Cursor::Ended => true,
        };
        if !reading.cursors.iter().all(begun) {
            return;
        }
        if let Some((answer, queue)) = reading.answer.take().map(|waits| *waits) {
            let slots = reading.cursors.len();
            let _ = answer.send(Ok(queue)); // where nobody waits, the queue tells that it is gone
            (0..slots).for_each(|slot| self.resume(id, slot, now));
        }
    }
}

/// Says where a topic begins for a reader, or refuses where it must not begin with a gap.
fn begin(topic: &Topic, resuming: &mut Resuming, to: &Attached, strict: bool) -> Result<(), Failure> {
    let facts = topic.facts.map(|(_, facts)| facts).unwrap_or_default();
    let gap = match resuming.told.front() {
        Some(Told::Gap(gap)) => Some(*gap),
        _ => None,
    };
    if let Some(gap) = gap
        && strict
    {
        let (reason, message) = match gap.reason {
            gap::Reason::Trimmed => (Reason::PositionTrimmed, "is older than what is kept"),
            gap::Reason::UnknownEpoch => (Reason::UnknownEpoch, "is of an epoch that the log never had"),
            _ => (Reason::PositionAhead, "is ahead of the log, which was rewound"),
        };
        let text = text::bytes_to_text(&topic.name);
        let error =
            v1::Error::new(reason, format!("position {} of topic {text:?} {message}", resuming.asked));
        let oldest = facts.oldest.or(facts.start).unwrap_or(gap.until);
        return Err(Box::new(error.with("oldest", oldest).with("topic", text)));
    }
    let at = gap.map_or(resuming.asked, |gap| gap.until);
    let start = topic.start(text::bytes_to_text(&topic.name), at, gap.is_none(), facts);
    to.feed.start(to.slot, at, frames::event(start, Some(at)));
    resuming.said = true;
    Ok(())
}
