//! Frames that wait to be written, as they go out: their bytes, and whether they wait too long. Pure.

use bytes::{Buf, BufMut, BytesMut};
use std::time::Duration;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
/// The most bytes before a payload.
const HEAD: usize = 10;

/// What waits.
#[derive(Default)]
pub(super) struct Outbox {
    bytes: BytesMut,
    /// The socket was given bytes that were not flushed.
    unflushed: bool,
    /// When the socket took no more, and how many of the bytes that waited then are left. Only one such
    /// moment is kept, and the next begins when its bytes are gone: who reads, however slowly, moves it on.
    mark: Option<(Instant, usize)>,
}

impl Outbox {
    /// Adds a message.
    pub(super) fn push(&mut self, message: &Message) {
        match message {
            Message::Text(text) => self.frame(true, &[text.as_bytes()]),
            Message::Binary(bytes) => self.frame(false, &[bytes]),
            // Pings and closes are the socket's.
            _ => {}
        }
    }

    /// Adds a frame, of text or not, whose payload comes in parts.
    pub(super) fn frame(&mut self, text: bool, parts: &[&[u8]]) {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        self.bytes.reserve(HEAD + len);
        self.bytes.put_u8(if text { TEXT } else { BINARY });
        match (u8::try_from(len), u16::try_from(len)) {
            (Ok(len @ 0..126), _) => self.bytes.put_u8(len),
            (_, Ok(len)) => {
                self.bytes.put_u8(126);
                self.bytes.put_u16(len);
            }
            _ => {
                self.bytes.put_u8(127);
                self.bytes.put_u64(len as u64);
            }
        }
        parts.iter().for_each(|part| self.bytes.put_slice(part));
    }

    /// What waits, for the socket.
    pub(super) fn waiting(&self) -> &[u8] {
        &self.bytes
    }

    /// The socket took so much of it.
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.bytes.advance(bytes);
        self.unflushed = true;
        if let Some((_, left)) = &mut self.mark {
            *left = left.saturating_sub(bytes);
            if *left == 0 {
                self.mark = None;
            }
        }
    }

    /// The socket takes no more for now.
    pub(super) fn stuck(&mut self) {
        // One more than waits: the bytes before are still on their way when the last of these is taken.
        let bytes = self.bytes.len() + 1;
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

    /// Tells whether nothing waits, neither here nor beneath.
    pub(super) fn is_done(&self) -> bool {
        self.bytes.is_empty() && !self.unflushed
    }

    /// Tells whether a part of what waited is written, and the rest must follow.
    pub(super) fn is_begun(&self) -> bool {
        self.unflushed
    }

    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
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
        (0..frames).for_each(|_| outbox.push(&Message::Text("0123456789".into())));
        outbox
    }

    #[test]
    fn frames_stand_as_the_rfc_has_them() {
        for (len, head) in [
            (0, &[0x82, 0][..]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (65_535, &[0x82, 126, 255, 255]),
            (65_536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let (mut outbox, payload) = (Outbox::default(), vec![7; len]);
            outbox.frame(false, &[&payload[..len / 2], &payload[len / 2..]]);
            assert_eq!(outbox.waiting(), [head, &payload].concat(), "{len}");
        }
        assert_eq!(outbox(1).waiting(), b"\x81\x0a0123456789");
    }

    #[test]
    fn bytes_that_stand_still_are_late_and_those_that_move_are_not() {
        let (mut outbox, later) = (outbox(4), |seconds| Instant::now() + Duration::from_secs(seconds));
        assert!(!outbox.is_late(later(99), MOST), "nothing has waited yet");
        outbox.stuck();
        assert!(!outbox.is_late(later(29), MOST));
        assert!(outbox.is_late(later(31), MOST));
        outbox.wrote(47);
        outbox.stuck();
        assert!(outbox.is_late(later(31), MOST), "one of those is left");
        outbox.push(&Message::Text("0123456789".into()));
        outbox.wrote(2);
        assert!(!outbox.is_late(later(99), MOST), "they are gone, and what came since counts anew");
    }

    #[test]
    fn what_the_socket_holds_may_be_late_as_well() {
        let mut outbox = outbox(1);
        outbox.wrote(12);
        assert!(outbox.len() == 0 && !outbox.is_done());
        outbox.stuck();
        assert!(outbox.is_late(Instant::now() + MOST * 2, MOST));
        outbox.flushed();
        assert!(!outbox.is_late(Instant::now() + MOST * 2, MOST) && outbox.is_done());
    }
}
