//! Frames of a WebSocket as they come: what they cost, and since when the client is in the middle of a
//! message. The library shows whole messages alone.

use super::{Allowance, slow};
use crate::config::Limits;
use std::time::{Duration, Instant};

/// The most bytes before a frame's payload: two, the length, the mask.
const HEAD: usize = 14;

/// A fragment that is smaller carries next to nothing. Suites and clients send messages in pieces of 64 bytes.
const FRAGMENT_MIN: u64 = 64;

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
const CONTROL: u8 = 0x08;
const OPCODE: u8 = 0x0f;

/// Reads on in the frames of one session, however they are cut.
#[derive(Debug)]
pub(crate) struct Frames {
    allowance: Allowance,
    head: [u8; HEAD],
    have: u8,
    skip: u64,
    /// Whether more fragments of a message must come.
    fragments: bool,
    /// Since when the client is in the middle of something, and how much of it came.
    since: Option<(Instant, usize)>,
}

impl Frames {
    /// After the handshake.
    pub(crate) fn new(limits: &Limits) -> Self {
        let allowance = Allowance::new(limits.empty_frames_a_second, Instant::now());
        Self { allowance, head: [0; HEAD], have: 0, skip: 0, fragments: false, since: None }
    }

    /// Reads on; false where the client sent too much that is nothing.
    pub(crate) fn read(&mut self, mut bytes: &[u8]) -> bool {
        let mut cost = 0u32;
        if let Some((_, came)) = &mut self.since {
            *came = came.saturating_add(bytes.len());
        }
        while !bytes.is_empty() {
            let need = self.need();
            if self.have < need {
                self.head[usize::from(self.have)] = bytes[0];
                self.have += 1;
                bytes = &bytes[1..];
                if self.have < self.need() {
                    continue;
                }
                self.skip = self.len();
                cost = cost.saturating_add(self.cost());
            }
            let skip = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
            bytes = &bytes[skip..];
            self.skip -= skip as u64;
            if self.skip == 0 {
                self.have = 0;
                // Control frames may come between the fragments of a message.
                if self.head[0] & CONTROL == 0 {
                    self.fragments = self.head[0] & FIN == 0;
                    if !self.fragments {
                        self.since = None;
                    }
                }
            }
        }
        if self.have == 0 && !self.fragments {
            self.since = None;
        } else if self.since.is_none() {
            self.since = Some((Instant::now(), 0));
        }
        cost == 0 || self.allowance.take(cost, Instant::now)
    }

    /// Notes what was written at once.
    pub(crate) fn wrote(&mut self, bytes: usize) {
        self.allowance.wrote(bytes);
    }

    /// Tells whether the client is in the middle of a message.
    pub(crate) fn is_amid(&self) -> bool {
        self.since.is_some()
    }

    /// Tells whether the client has begun a message that does not come. Asked so seldom that who would be
    /// late before the next time is late already.
    pub(crate) fn is_late(&self, now: Instant, limits: &Limits, seldom: Duration) -> bool {
        let timeout = limits.body_timeout.saturating_sub(seldom);
        self.since.is_some_and(|(since, came)| now.duration_since(since) > slow::patience(timeout, came))
    }

    /// How many bytes the head has, as far as it is known.
    fn need(&self) -> u8 {
        if self.have < 2 {
            return 2;
        }
        let length = match self.head[1] & !MASKED {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + if self.head[1] & MASKED == 0 { 0 } else { 4 }
    }

    fn len(&self) -> u64 {
        match self.head[1] & !MASKED {
            126 => u64::from(u16::from_be_bytes([self.head[2], self.head[3]])),
            127 => {
                let [_, _, len @ .., _, _, _, _] = self.head;
                u64::from_be_bytes(len)
            }
            len => u64::from(len),
        }
    }

    fn cost(&self) -> u32 {
        let (fin, opcode) = (self.head[0] & FIN != 0, self.head[0] & OPCODE);
        let fragment = opcode == 0 || !fin;
        u32::from(opcode & CONTROL != 0 || (fragment && self.skip < FRAGMENT_MIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(first: u8, len: usize) -> Vec<u8> {
        let mut out = vec![first];
        match len {
            0..126 => out.push(MASKED | len as u8),
            126..65536 => {
                out.push(MASKED | 126);
                out.extend((len as u16).to_be_bytes());
            }
            _ => {
                out.push(MASKED | 127);
                out.extend((len as u64).to_be_bytes());
            }
        }
        out.extend([1, 2, 3, 4]);
        out.resize(out.len() + len, 7);
        out
    }

    fn limits(frames: u32) -> Limits {
        Limits { empty_frames_a_second: frames, body_timeout: Duration::from_secs(10), ..Limits::default() }
    }

    proptest! {
        #[test]
        fn frames_cost_the_same_however_they_are_cut(
            sizes in prop::collection::vec(prop_oneof![0usize..300, 65_000usize..66_000], 0..8),
            kinds in prop::collection::vec(prop_oneof![Just(0x00u8), Just(0x80), Just(0x02), Just(0x82), Just(0x89)], 8),
            step in 1usize..500,
        ) {
            let bytes: Vec<u8> = sizes.iter().zip(&kinds).flat_map(|(len, kind)| frame(*kind, *len)).collect();
            let (mut whole, mut cut) = (Frames::new(&limits(1_000)), Frames::new(&limits(1_000)));
            prop_assert!(whole.read(&bytes));
            for part in bytes.chunks(step) {
                prop_assert!(cut.read(part));
            }
            prop_assert_eq!(whole.allowance.left, cut.allowance.left);
            prop_assert_eq!(whole.since.is_some(), cut.since.is_some());
        }
    }

    #[test]
    fn messages_are_free_and_pings_and_crumbs_are_not() {
        let floods = |frame: &[u8]| {
            let mut frames = Frames::new(&limits(5));
            // As many at once as two seconds allow for, and one more.
            (0..11).any(|_| !frames.read(frame))
        };
        assert!(!floods(&frame(0x81, 5)) && !floods(&frame(0x02, 1000)));
        assert!(floods(&frame(0x89, 0)) && floods(&frame(0x8a, 5)));
        assert!(floods(&frame(0x00, 0)) && floods(&frame(0x01, 5)));
    }

    #[test]
    fn a_message_that_does_not_come_is_late_and_silence_between_messages_is_not() {
        let (limits, mut frames) = (limits(100), Frames::new(&limits(100)));
        let (later, zero) = (|| Instant::now() + Duration::from_secs(11), Duration::ZERO);
        assert!(frames.read(&frame(0x82, 300)) && !frames.is_late(later(), &limits, zero));
        assert!(frames.read(&frame(0x02, 300)) && frames.is_late(later(), &limits, zero));
        assert!(
            frames.read(&frame(0x89, 0)) && frames.is_late(later(), &limits, zero),
            "a ping ends no message"
        );
        assert!(frames.read(&frame(0x80, 300)) && !frames.is_late(later(), &limits, zero));
        assert!(frames.read(&frame(0x82, 300)[..5]) && frames.is_late(later(), &limits, zero));
        assert!(!frames.is_late(Instant::now(), &limits, zero));
        assert!(frames.is_late(later() - Duration::from_secs(4), &limits, Duration::from_secs(5)));
    }
}
