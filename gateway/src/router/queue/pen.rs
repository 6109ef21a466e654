//! The words in which a reader's queue says where the reader goes on. Pure.

use super::{Queue, Slot, State, frames, lock};
use crate::{
    frame::{Again, Cursor, Delivery, Seat},
    resume::{self, Bearer, Draft, Name, Tokens},
};
use plexus_bus::Position;
use plexus_proto::v1::subscription_event::{Event, Heartbeat};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, Weak},
};

/// Writes the reader's tokens.
#[derive(Clone)]
pub(crate) struct Pen {
    pub(crate) tokens: Tokens,
    pub(crate) bearer: Bearer,
    /// The reader's place in a session, if it has one.
    pub(crate) seat: Option<Arc<Seat>>,
    /// The request itself names the topics, and does so again when it is repeated.
    pub(crate) named: bool,
}

impl State {
    fn open(&self) -> impl Iterator<Item = (&Slot, Position)> {
        self.slots.iter().filter(|s| !s.ended && s.started).map(|s| (s, s.at()))
    }

    /// Where the reader goes on, with the topics' names in full; empty: nowhere.
    pub(super) fn token(&self) -> String {
        let places: Vec<_> = self.open().map(|(s, at)| (Name::Full(s.topic.clone()), at)).collect();
        self.write(&places)
    }

    /// The same beside every frame: short where the reader names the topics again when it comes back.
    pub(super) fn id(&self) -> String {
        if !self.pen.named {
            return self.token();
        }
        self.short(|s| s.mark)
    }

    fn short(&self, mark: impl Fn(&Slot) -> [u8; 8]) -> String {
        let places: Vec<_> = self.open().map(|(s, at)| (Name::Mark(mark(s)), at)).collect();
        self.write(&places)
    }

    fn write(&self, places: &[(Name, Position)]) -> String {
        if places.is_empty() {
            return String::new();
        }
        let again = self.pen.seat.as_ref().map(|seat| seat.again(self.left())).unwrap_or_default();
        self.pen.tokens.write(&self.pen.bearer, &again, places)
    }

    /// Messages that are left of the limit, if there is one.
    fn left(&self) -> Option<u32> {
        (self.terms.limit > 0).then(|| self.terms.limit.saturating_sub(self.delivered))
    }

    /// Says that the reader's stream lives, and where it is.
    pub(super) fn heartbeat(&mut self) -> Delivery {
        self.before = None;
        // A reader at rest keeps no room for what may come.
        self.items = VecDeque::new();
        let positions = self.open().map(|(s, at)| (s.t, at.to_string())).collect();
        let heartbeat = Heartbeat { positions, resume: self.token() };
        Delivery { frame: frames::event(Event::Heartbeat(heartbeat), None), resume: None }
    }
}

impl Queue {
    /// Takes its place in the session, if it has one.
    pub(crate) fn sit(&self) {
        let seat = lock(&self.state).pen.seat.clone();
        if let Some(seat) = seat {
            let cursor: Weak<Mutex<State>> = Arc::downgrade(&self.state);
            seat.take(cursor);
        }
    }
}

impl Cursor for Mutex<State> {
    fn draw(&self, draft: &mut Draft, again: &Again, held: bool) {
        let state = lock(self);
        let before = state.before.filter(|_| held);
        let held = u32::from(before.is_some_and(|before| before.message));
        let again = again(state.left().map(|left| left + held));
        let places = state.slots.iter().enumerate().filter(|(_, s)| !s.ended).filter_map(|(i, s)| {
            let at = match before.filter(|before| before.slot == i) {
                Some(before) => before.started.then_some(before.taken),
                None => s.started.then(|| s.at()),
            };
            at.map(|at| (Name::Full(s.topic.clone()), at))
        });
        draft.add(&again, &places.collect::<Vec<_>>());
    }

    fn resume(&self, most: usize) -> String {
        let state = lock(self);
        let mut token = state.token();
        if token.len() > most && state.pen.named {
            token = state.short(|s| resume::mark(&s.topic));
        }
        if token.len() > most { String::new() } else { token }
    }
}
