//! The calls that wait for the owner of one node, in the order they were begun in. The first of them tries
//! whether somebody is there; the others follow once somebody is. Pure.

use plexus_bus::CallId;
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// First pause before a call is sent again that nobody took; doubles up to [`PAUSE_MAX`].
pub(super) const PAUSE: Duration = Duration::from_millis(50);
/// Longest such pause: the poll of P19.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The line of one node.
#[derive(Debug)]
pub(super) struct Line {
    /// Who waits. Ids are numbered in the order of their calls.
    waiting: BTreeSet<CallId>,
    /// Who is on its way to try.
    trying: Option<CallId>,
    /// When the next one tries.
    at: Option<Instant>,
    /// How long the next one rests; doubles each time that nobody is there.
    pause: Duration,
}

impl Default for Line {
    fn default() -> Self {
        Self { waiting: BTreeSet::new(), trying: None, at: None, pause: PAUSE }
    }
}

impl Line {
    /// Tells whether a new call goes straight to the owner.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.trying.is_none()
    }

    /// Takes a call in, at the place of its id.
    pub(super) fn join(&mut self, id: CallId) {
        self.waiting.insert(id);
    }

    /// Takes a call in that found nobody, and says when the next one tries.
    pub(super) fn fell(&mut self, id: CallId, now: Instant) -> Option<Instant> {
        if self.trying == Some(id) {
            self.trying = None;
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        } else if self.is_empty() {
            self.pause = PAUSE;
        }
        self.waiting.insert(id);
        match (self.at, self.trying) {
            (None, None) => self.due(now + self.pause),
            _ => None,
        }
    }

    /// Somebody may be there: the first tries now. Says when, if it is not on its way.
    pub(super) fn hurry(&mut self, now: Instant) -> Option<Instant> {
        self.pause = PAUSE;
        if self.waiting.is_empty() || self.trying.is_some() { None } else { self.due(now) }
    }

    fn due(&mut self, at: Instant) -> Option<Instant> {
        self.at = Some(at);
        self.at
    }

    /// The first call, on its way from now on, if this is the time it was to try at.
    pub(super) fn try_at(&mut self, at: Instant) -> Option<CallId> {
        if self.at != Some(at) {
            return None;
        }
        self.at = None;
        self.next()
    }

    /// The first call, on its way from now on, unless one is already.
    fn next(&mut self) -> Option<CallId> {
        if self.trying.is_none() {
            self.trying = self.waiting.pop_first();
            return self.trying;
        }
        None
    }

    /// The call that tries found somebody: all others, in their order.
    pub(super) fn open(&mut self, id: CallId) -> BTreeSet<CallId> {
        if self.trying != Some(id) {
            return BTreeSet::new();
        }
        *self = Self { waiting: std::mem::take(&mut self.waiting), ..Self::default() };
        std::mem::take(&mut self.waiting)
    }

    /// Forgets a call; where it was on its way, the next one tries in its place.
    pub(super) fn leave(&mut self, id: CallId) -> Option<CallId> {
        self.waiting.remove(&id);
        if self.trying != Some(id) {
            return None;
        }
        self.trying = None;
        self.at = None;
        self.next()
    }
}
