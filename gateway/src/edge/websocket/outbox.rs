//! Frames that wait to be written: their bytes, and whether they wait too long. Pure.

use std::{collections::VecDeque, time::Duration};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

/// What waits.
#[derive(Default)]
pub(super) struct Outbox {
    frames: VecDeque<Message>,
    bytes: usize,
    /// The socket holds bytes that were not flushed.
    unflushed: bool,
    /// When the socket took no more, and how many of the bytes that waited then are left. Only one such
    /// moment is kept, and the next begins when its bytes are gone: who reads, however slowly, moves it on.
    mark: Option<(Instant, usize)>,
}

impl Outbox {
    /// Adds a frame.
    pub(super) fn push(&mut self, frame: Message) {
        self.bytes += frame.len();
        self.frames.push_back(frame);
    }

    /// Takes the next frame for the socket.
    pub(super) fn pop(&mut self) -> Option<Message> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.len();
        self.unflushed = true;
        if let Some((_, left)) = &mut self.mark {
            *left = left.saturating_sub(frame.len());
            if *left == 0 {
                self.mark = None;
            }
        }
        Some(frame)
    }

    /// The socket takes no more for now.
    pub(super) fn stuck(&mut self) {
        // One more than waits: the frames before are still on their way when the last of these is taken.
        let bytes = self.bytes + 1;
        self.mark.get_or_insert_with(|| (Instant::now(), bytes));
    }

    /// Tells whether bytes wait since the socket took no more.
    pub(super) fn is_stuck(&self) -> bool {
        self.mark.is_some()
    }

    /// All that was taken is written. An idle session keeps nothing.
    pub(super) fn flushed(&mut self) {
        *self = Self::default();
    }

    /// Tells whether frames wait.
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Tells whether the socket was given bytes and not flushed.
    pub(super) fn is_unflushed(&self) -> bool {
        self.unflushed
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Tells whether bytes have waited longer than that.
    pub(super) fn is_late(&self, now: Instant, most: Duration) -> bool {
        self.mark.is_some_and(|(since, _)| now.saturating_duration_since(since) > most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_secs(30);

    fn outbox(frames: usize) -> Outbox {
        let mut outbox = Outbox::default();
        (0..frames).for_each(|_| outbox.push(Message::Text("0123456789".into())));
        outbox
    }

    #[test]
    fn bytes_that_stand_still_are_late_and_those_that_move_are_not() {
        let (mut outbox, later) = (outbox(4), |seconds| Instant::now() + Duration::from_secs(seconds));
        assert!(!outbox.is_late(later(99), MOST), "nothing has waited yet");
        outbox.stuck();
        assert!(!outbox.is_late(later(29), MOST));
        assert!(outbox.is_late(later(31), MOST));
        (0..3).for_each(|_| drop(outbox.pop()));
        outbox.stuck();
        assert!(outbox.is_late(later(31), MOST), "one of those is left");
        outbox.push(Message::Text("0123456789".into()));
        (0..2).for_each(|_| drop(outbox.pop()));
        assert!(!outbox.is_late(later(99), MOST), "they are gone, and what came since counts anew");
    }

    #[test]
    fn what_the_socket_holds_may_be_late_as_well() {
        let mut outbox = outbox(1);
        outbox.pop();
        assert!(outbox.is_empty() && outbox.is_unflushed());
        outbox.stuck();
        assert!(outbox.is_late(Instant::now() + MOST * 2, MOST));
        outbox.flushed();
        assert!(!outbox.is_late(Instant::now() + MOST * 2, MOST) && !outbox.is_unflushed());
    }
}
