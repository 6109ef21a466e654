//! Word from those who wait to the loop. Each has one place here, whatever it says and however often, so
//! there are never more than calls and readers: nothing is lost, and nothing grows while the loop is busy.
//! The lock is held for a few moves of memory and never across a wait.

use plexus_bus::CallId;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// One word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// A reader's queue has room again.
    Drained(u64),
    /// A reader is gone.
    Left(u64),
    /// A caller is gone.
    CallGone(CallId),
    /// The caller of a stream took so many bytes.
    Took(CallId, u32),
}

/// Both ends; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notes(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    said: Mutex<Said>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Said {
    readers: HashMap<u64, Note>,
    calls: HashMap<CallId, Note>,
}

impl Notes {
    /// Says a word. It takes the place of what the same one said before: who is gone needs nothing else,
    /// and bytes add up.
    pub(crate) fn say(&self, note: Note) {
        self.lock().add(note);
        self.0.wake.notify_one();
    }

    /// Waits until something was said and takes all of it. Cancel-safe.
    pub(crate) async fn heard(&self) -> Vec<Note> {
        loop {
            let notes = self.take();
            if !notes.is_empty() {
                return notes;
            }
            self.0.wake.notified().await;
        }
    }

    /// Takes all that was said.
    pub(crate) fn take(&self) -> Vec<Note> {
        let said = std::mem::take(&mut *self.lock());
        said.readers.into_values().chain(said.calls.into_values()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Said> {
        self.0.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Said {
    fn add(&mut self, note: Note) {
        match note {
            Note::Drained(id) => drop(self.readers.entry(id).or_insert(note)),
            Note::Left(id) => drop(self.readers.insert(id, note)),
            Note::CallGone(id) => drop(self.calls.insert(id, note)),
            Note::Took(id, bytes) => {
                if let Note::Took(_, sum) = self.calls.entry(id).or_insert(Note::Took(id, 0)) {
                    *sum = sum.saturating_add(bytes);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn who_waits_has_one_place_whatever_it_says() {
        let (notes, call) = (Notes::default(), CallId::now_v7());
        for _ in 0..1000 {
            notes.say(Note::Drained(1));
            notes.say(Note::Took(call, 3));
        }
        assert_eq!(notes.take(), [Note::Drained(1), Note::Took(call, 3000)], "bytes add up");
        notes.say(Note::Left(1));
        notes.say(Note::Drained(1));
        notes.say(Note::CallGone(call));
        notes.say(Note::Took(call, 3));
        assert_eq!(notes.take(), [Note::Left(1), Note::CallGone(call)], "who is gone needs nothing else");
        assert_eq!(notes.take(), []);
    }

    #[tokio::test]
    async fn the_loop_wakes_for_a_word_said_before_and_one_said_meanwhile() {
        let notes = Notes::default();
        notes.say(Note::Left(1));
        assert_eq!(notes.heard().await, [Note::Left(1)]);
        assert_eq!(notes.heard().now_or_never(), None);
        let (heard, ()) = tokio::join!(notes.heard(), async {
            tokio::task::yield_now().await;
            notes.say(Note::Left(2));
        });
        assert_eq!(heard, [Note::Left(2)]);
    }
}
