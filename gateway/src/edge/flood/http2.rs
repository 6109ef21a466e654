//! Frames of HTTP/2 as they come: what they cost, and whether the client is in the middle of one that the
//! gateway must wait for. Payloads are passed over.

/// Bytes before each frame's payload.
const HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// A reset costs more than itself: the call that it ends had begun.
const RESET_COST: u32 = 4;

/// Reads on in the frames of one connection, however they are cut.
#[derive(Debug)]
pub(crate) struct Frames {
    head: [u8; HEAD],
    have: usize,
    skip: usize,
    /// Whether more of a head of a request must come; at first, whether the settings must.
    wanted: bool,
}

/// What was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    /// What it costs.
    pub(crate) cost: u32,
    /// Whether the client came to the end of something.
    pub(crate) ended: bool,
    /// Whether it is in the middle of something else than a body.
    pub(crate) amid: bool,
}

impl Frames {
    /// After the preface.
    pub(crate) fn new() -> Self {
        Self { head: [0; HEAD], have: 0, skip: 0, wanted: true }
    }

    /// Reads on.
    pub(crate) fn read(&mut self, mut bytes: &[u8]) -> Seen {
        let (mut cost, mut ended) = (0u32, false);
        while !bytes.is_empty() {
            if self.have < HEAD {
                let take = bytes.len().min(HEAD - self.have);
                self.head[self.have..self.have + take].copy_from_slice(&bytes[..take]);
                self.have += take;
                bytes = &bytes[take..];
                if self.have < HEAD {
                    break;
                }
                let [a, b, c, ..] = self.head;
                self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
                cost = cost.saturating_add(self.cost());
            }
            let skip = bytes.len().min(self.skip);
            bytes = &bytes[skip..];
            self.skip -= skip;
            if self.skip == 0 {
                self.have = 0;
                self.wanted = self.leaves_wanting();
                ended |= !self.wanted;
            }
        }
        let whole = self.have == 0 || (self.have == HEAD && self.head[3] == DATA);
        Seen { cost, ended, amid: self.wanted || !whole }
    }

    /// Content is free; whether it comes too slowly or in too small pieces is seen elsewhere.
    fn cost(&self) -> u32 {
        let [.., kind, flags, _, _, _, _] = self.head;
        match kind {
            DATA if flags & PADDED == 0 && (self.skip > 0 || flags & END_STREAM != 0) => 0,
            RESET => RESET_COST,
            _ => 1,
        }
    }

    fn leaves_wanting(&self) -> bool {
        let [.., kind, flags, _, _, _, _] = self.head;
        match kind {
            HEADERS | CONTINUATION => flags & END_HEADERS == 0,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(len: usize, kind: u8, flags: u8) -> Vec<u8> {
        let [_, a, b, c] = (len as u32).to_be_bytes();
        [&[a, b, c, kind, flags, 0, 0, 0, 1][..], &vec![7; len]].concat()
    }

    proptest! {
        #[test]
        fn frames_cost_the_same_however_they_are_cut(
            frames in prop::collection::vec((0usize..40, 0u8..11, any::<u8>()), 0..20),
            step in 1usize..60,
        ) {
            let bytes: Vec<u8> = frames.iter().flat_map(|(len, kind, flags)| frame(*len, *kind, *flags)).collect();
            let whole = Frames::new().read(&bytes);
            let mut cut = Frames::new();
            let seen: Vec<_> = bytes.chunks(step).map(|part| cut.read(part)).collect();
            prop_assert_eq!(whole.cost, seen.iter().map(|s| s.cost).sum::<u32>());
            prop_assert_eq!(whole.ended, seen.iter().any(|s| s.ended));
            prop_assert_eq!(whole.amid, seen.last().is_none_or(|s| s.amid));
        }
    }

    #[test]
    fn what_carries_nothing_costs_and_what_carries_something_is_free() {
        for (len, kind, flags, cost) in [
            (20, DATA, 0, 0),
            (0, DATA, END_STREAM, 0),
            (0, DATA, 0, 1),
            (20, DATA, PADDED, 1),
            (20, HEADERS, END_HEADERS, 1),
            (4, RESET, 0, RESET_COST),
            (0, 4, 0, 1),
            (8, 6, 0, 1),
            (4, 8, 0, 1),
            (0, CONTINUATION, 0, 1),
            (9, 77, 0, 1),
        ] {
            assert_eq!(Frames::new().read(&frame(len, kind, flags)).cost, cost, "{kind} {flags}");
        }
    }

    #[test]
    fn a_head_that_is_not_whole_keeps_the_gateway_waiting_and_a_body_does_not() {
        let mut frames = Frames::new();
        let mut seen = |bytes: &[u8]| {
            let Seen { ended, amid, .. } = frames.read(bytes);
            (ended, amid)
        };
        assert_eq!(seen(&[]), (false, true), "the settings are to come");
        assert_eq!(seen(&frame(0, 4, 0)), (true, false));
        assert_eq!(seen(&frame(20, HEADERS, 0)), (false, true));
        assert_eq!(seen(&frame(20, CONTINUATION, 0)), (false, true));
        assert_eq!(seen(&frame(20, CONTINUATION, END_HEADERS)), (true, false));
        assert_eq!(seen(&frame(8, 6, 0)[..12]), (false, true));
        assert_eq!(seen(&[0; 5]), (true, false));
        assert_eq!(seen(&frame(20, DATA, 0)[..12]), (false, false));
    }
}
