//! What waits for one reader: bounded in messages and bytes, with the reader's own policy for when it
//! runs over. The loop feeds it and never waits; the reader's dialect takes from it. A channel like
//! any other: the lock is held for a few moves of memory and never across a wait.

mod pen;

pub(crate) use pen::Pen;

use super::{
    Failure, Metrics, frames,
    notes::{Note, Notes},
    place::Gap,
};
use crate::{
    frame::{Delivery, Frame},
    resume,
};
use futures::Stream;
use plexus_bus::{Position, Topic};
use plexus_proto::{
    reason::Reason,
    v1::{
        self,
        subscription_event::{End, Event, end, gap},
    },
};
use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

/// When a slow reader may come back.
const SLOW_RETRY: Duration = Duration::from_secs(1);

/// What happens when a reader falls behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Ends it; it resumes where it was.
    Disconnect,
    /// Drops what waits longest.
    DropOldest,
    /// Keeps only the newest of each topic.
    Latest,
}

/// Bounds and wishes of a reader.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
    /// Gaps that may wait; over it the reader ends as slow, whatever its policy.
    pub(crate) gaps: usize,
    pub(crate) policy: Policy,
    /// Ends after so many messages; 0: never.
    pub(crate) limit: u32,
    /// Longest silence.
    pub(crate) heartbeat: Duration,
    /// Says with each frame where the reader goes on, where the frame itself cannot.
    pub(crate) ids: bool,
}

enum Kind {
    Message(usize),
    Start,
    Gap,
    End(end::Reason),
}

struct Item {
    slot: usize,
    at: Option<Position>,
    kind: Kind,
    frame: Option<Arc<Frame>>,
}

/// One topic of the subscription.
struct Slot {
    t: u32,
    topic: Topic,
    /// The topic's short name, for tokens that are written with every frame.
    mark: [u8; 8],
    /// How far the loop has come, filtered messages included.
    reached: Position,
    /// How far the reader has come.
    taken: Position,
    /// Items in the queue.
    waiting: usize,
    /// The reader has its `start`.
    started: bool,
    ended: bool,
    /// Dropped and not yet told: up to where, and how many.
    lost: Option<(Position, u64)>,
}

impl Slot {
    /// How far the reader is. Where nothing waits, what was filtered counts as read.
    fn at(&self) -> Position {
        if self.waiting == 0 && self.lost.is_none() { self.reached } else { self.taken }
    }
}

struct State {
    terms: Terms,
    pen: Pen,
    metrics: Arc<Metrics>,
    slots: Vec<Slot>,
    items: VecDeque<Item>,
    messages: usize,
    bytes: usize,
    gaps: usize,
    delivered: u32,
    /// Where the topic of the last frame stood before it: the frame may not have reached the reader.
    before: Option<Before>,
    /// The loop wants to know when there is room.
    hungry: bool,
    /// Ends the stream once the queue is empty.
    failed: Option<Failure>,
    finished: bool,
    /// When the reader last took something.
    last: Instant,
    /// It has been long ago.
    silent: bool,
    waker: Option<Waker>,
}

#[derive(Clone, Copy)]
struct Before {
    slot: usize,
    taken: Position,
    started: bool,
    /// The frame is a message, which counts for the limit.
    message: bool,
}

/// The loop's end.
#[derive(Clone)]
pub(crate) struct Feed(Arc<Mutex<State>>);

/// The reader's end: a stream of frames.
pub(crate) struct Queue {
    id: u64,
    state: Arc<Mutex<State>>,
    notes: Notes,
}

/// Makes both ends.
pub(crate) fn queue(
    id: u64,
    (terms, pen): (Terms, Pen),
    topics: Vec<(u32, Topic)>,
    notes: Notes,
    metrics: Arc<Metrics>,
) -> (Feed, Queue) {
    let short = terms.ids && pen.named;
    let slot = |(t, topic)| Slot {
        t,
        mark: if short { resume::mark(&topic) } else { [0; 8] },
        topic,
        reached: Position::ZERO,
        taken: Position::ZERO,
        waiting: 0,
        started: false,
        ended: false,
        lost: None,
    };
    let state = Arc::new(Mutex::new(State {
        terms,
        pen,
        metrics,
        slots: topics.into_iter().map(slot).collect(),
        items: VecDeque::new(),
        messages: 0,
        bytes: 0,
        gaps: 0,
        delivered: 0,
        before: None,
        hungry: false,
        failed: None,
        finished: false,
        last: Instant::now(),
        silent: false,
        waker: None,
    }));
    (Feed(state.clone()), Queue { id, state, notes })
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Feed {
    /// Hands a message over, by the reader's policy where the queue is full.
    pub(crate) fn message(&self, slot: usize, at: Position, bytes: usize, frame: Arc<Frame>) {
        let mut state = lock(&self.0);
        if state.failed.is_some() {
            return;
        }
        if state.make_room(slot, bytes) {
            state.messages += 1;
            state.bytes += bytes;
            state.push(Item { slot, at: Some(at), kind: Kind::Message(bytes), frame: Some(frame) });
        }
    }

    /// Begins a topic.
    pub(crate) fn start(&self, slot: usize, at: Position, frame: Arc<Frame>) {
        lock(&self.0).push(Item { slot, at: Some(at), kind: Kind::Start, frame: Some(frame) });
    }

    /// Tells of a gap, which is never dropped: a reader for whom too many wait is ended.
    pub(crate) fn gap(&self, slot: usize, gap: Gap, frame: Arc<Frame>) {
        let mut state = lock(&self.0);
        if state.failed.is_some() {
            return;
        }
        if state.gaps >= state.terms.gaps {
            let message = format!("the reader fell behind by more than {} gaps", state.terms.gaps);
            return state.slow(message);
        }
        state.gaps += 1;
        state.metrics.gap(gap.reason);
        let at = gap.until;
        state.push(Item { slot, at: Some(at), kind: Kind::Gap, frame: Some(frame) });
    }

    /// Moves the topic's position over messages that the reader does not want.
    pub(crate) fn pass(&self, slot: usize, at: Position) {
        lock(&self.0).slots[slot].reached = at;
    }

    /// Ends a topic; the last one ends the stream.
    pub(crate) fn end(&self, slot: usize, reason: end::Reason) {
        lock(&self.0).push(Item { slot, at: None, kind: Kind::End(reason), frame: None });
    }

    /// Ends the stream with an error, after what waits.
    pub(crate) fn fail(&self, failure: Failure) {
        let mut state = lock(&self.0);
        state.failed.get_or_insert(failure);
        state.wake();
    }

    /// Lets the reader hear that its stream lives, if it has heard nothing for long; answers when to look
    /// again.
    pub(crate) fn beat(&self, now: Instant) -> Instant {
        let mut state = lock(&self.0);
        let heartbeat = state.terms.heartbeat;
        if now < state.last + heartbeat {
            return state.last + heartbeat;
        }
        state.silent = true;
        state.wake();
        now + heartbeat
    }

    /// Tells whether a message of this size fits without the policy.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        lock(&self.0).has_room(bytes)
    }

    /// Tells whether the queue is at most half full; if not, the loop hears when it is.
    pub(crate) fn rested(&self) -> bool {
        let mut state = lock(&self.0);
        state.hungry = !state.rested();
        !state.hungry
    }
}

impl State {
    fn push(&mut self, item: Item) {
        let slot = &mut self.slots[item.slot];
        slot.waiting += 1;
        if let Some(at) = item.at {
            slot.reached = at;
        }
        self.items.push_back(item);
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.messages == 0 || self.messages < self.terms.messages && self.bytes + bytes <= self.terms.bytes
    }

    fn rested(&self) -> bool {
        self.messages * 2 <= self.terms.messages && self.bytes * 2 <= self.terms.bytes
    }

    /// Applies the policy; false: the message is not wanted any more.
    fn make_room(&mut self, slot: usize, bytes: usize) -> bool {
        match self.terms.policy {
            Policy::Disconnect if !self.has_room(bytes) => {
                let message = format!(
                    "the reader fell behind by more than {} messages or {} bytes",
                    self.terms.messages, self.terms.bytes
                );
                self.slow(message);
                return false;
            }
            Policy::Disconnect => {}
            Policy::DropOldest => {
                while !self.has_room(bytes) {
                    let oldest = self.items.iter().position(|i| matches!(i.kind, Kind::Message(_)));
                    self.drop_at(oldest.expect("a queue without room holds a message"));
                }
            }
            Policy::Latest => {
                let same = |i: &Item| i.slot == slot && matches!(i.kind, Kind::Message(_));
                if let Some(older) = self.items.iter().position(same) {
                    self.drop_at(older);
                }
            }
        }
        true
    }

    /// Ends the reader, after what it has.
    fn slow(&mut self, message: String) {
        let slow = v1::Error::new(Reason::SlowReader, message).retry_after(SLOW_RETRY);
        self.failed = Some(Box::new(slow));
        self.metrics.slow.inc();
        self.wake();
    }

    fn drop_at(&mut self, index: usize) {
        let Some(item) = self.items.remove(index) else { return };
        self.took(&item);
        self.metrics.skipped.inc();
        let lost = &mut self.slots[item.slot].lost;
        let skipped = lost.map_or(0, |(_, skipped)| skipped) + 1;
        *lost = Some((item.at.unwrap_or_default(), skipped));
    }

    /// Counts an item out.
    fn took(&mut self, item: &Item) {
        self.slots[item.slot].waiting -= 1;
        match item.kind {
            Kind::Message(bytes) => {
                self.messages -= 1;
                self.bytes -= bytes;
            }
            Kind::Gap => self.gaps -= 1,
            Kind::Start | Kind::End(_) => {}
        }
    }

    /// The next thing to say; `None`: nothing now.
    fn pop(&mut self) -> Option<Result<Delivery, Failure>> {
        if self.finished {
            return None;
        }
        if let Some(told) = self.tell_lost() {
            return Some(Ok(told));
        }
        if self.terms.limit > 0 && self.delivered >= self.terms.limit {
            return Some(Ok(self.finish(0, end::Reason::Limit)));
        }
        let Some(item) = self.items.pop_front() else {
            let failure = self.failed.clone()?;
            self.finished = true;
            return Some(Err(Box::new((*failure).with("resume", self.token()))));
        };
        self.took(&item);
        let several = self.slots.len() > 1;
        let slot = &mut self.slots[item.slot];
        let message = matches!(item.kind, Kind::Message(_));
        self.before = Some(Before { slot: item.slot, taken: slot.taken, started: slot.started, message });
        if let Some(at) = item.at {
            slot.taken = at;
        }
        match item.kind {
            Kind::Message(_) => self.delivered += 1,
            Kind::Start => slot.started = true,
            Kind::Gap => {}
            Kind::End(reason) => {
                slot.ended = true;
                let t = slot.t;
                let last = self.slots.iter().all(|s| s.ended);
                return Some(Ok(if last {
                    self.finish(if several { t } else { 0 }, reason)
                } else {
                    self.end(t, reason)
                }));
            }
        }
        let frame = item.frame?;
        Some(Ok(self.delivery(frame)))
    }

    fn delivery(&self, frame: Arc<Frame>) -> Delivery {
        let resume = (self.terms.ids && self.slots.len() > 1).then(|| self.id().into());
        Delivery { frame, resume }
    }

    /// Says what the policy dropped, before anything that came later.
    fn tell_lost(&mut self) -> Option<Delivery> {
        let (i, slot) = self.slots.iter_mut().enumerate().find(|(_, s)| s.started && s.lost.is_some())?;
        let (until, skipped) = slot.lost.take()?;
        self.before = Some(Before { slot: i, taken: slot.taken, started: true, message: false });
        let gap = Gap { after: slot.taken, until, reason: gap::Reason::Slow };
        slot.taken = until;
        self.metrics.gap(gap.reason);
        let frame = frames::event(frames::gap(slot.t, gap, Some(skipped), true), Some(until));
        Some(self.delivery(frame))
    }

    fn finish(&mut self, t: u32, reason: end::Reason) -> Delivery {
        self.finished = true;
        self.before = None;
        self.items.clear();
        self.end(t, reason)
    }

    fn end(&self, t: u32, reason: end::Reason) -> Delivery {
        let end = End { t, reason: reason as i32, resume: self.token() };
        self.delivery(frames::event(Event::End(end), None))
    }
}

impl Stream for Queue {
    type Item = Result<Delivery, Failure>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let mut state = lock(&this.state);
        if let Some(next) = state.pop() {
            if state.hungry && state.rested() {
                state.hungry = false;
                this.notes.say(Note::Drained(this.id));
            }
            (state.last, state.silent) = (Instant::now(), false);
            return Poll::Ready(Some(next));
        }
        if state.finished {
            return Poll::Ready(None);
        }
        if std::mem::take(&mut state.silent) {
            state.last = Instant::now();
            return Poll::Ready(Some(Ok(state.heartbeat())));
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.notes.say(Note::Left(self.id));
    }
}

#[cfg(test)]
mod tests;
