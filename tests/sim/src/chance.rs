//! All chance of a walk: the cores draw here what they draw from `rand` elsewhere, so that a seed decides
//! everything.

use std::{cell::RefCell, ops::Range};

/// A generator (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(n)) >> 64) as u64
    }

    /// Uniform in a range.
    pub(crate) fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.below(range.end - range.start)
    }

    /// True in so many of a thousand.
    pub(crate) fn once_in(&mut self, per_mille: u64) -> bool {
        per_mille > 0 && self.below(1000) < per_mille
    }

    /// How much a clock is off: not at all, a little, or a lot.
    pub(crate) fn skew(&mut self) -> i64 {
        let most = [0, 5_000_000, 100_000_000][self.below(3) as usize];
        self.below(2 * most + 1) as i64 - most as i64
    }

    /// From `least` to `most`, small values as likely as large ones.
    pub(crate) fn spread(&mut self, least: u64, most: u64) -> u64 {
        let low = 64 - least.max(1).leading_zeros();
        let high = 64 - most.max(1).leading_zeros();
        let bits = self.within(u64::from(low)..u64::from(high) + 1);
        self.within((1 << (bits - 1))..(1 << bits)).clamp(least, most)
    }
}

thread_local! {
    static DICE: RefCell<Dice> = const { RefCell::new(Dice(0)) };
}

/// Begins a walk.
pub(crate) fn seed(seed: u64) {
    DICE.with_borrow_mut(|dice| *dice = Dice::new(seed));
}

/// What can be drawn.
pub(crate) trait Drawn {
    fn drawn(dice: &mut Dice) -> Self;
}

impl Drawn for u64 {
    fn drawn(dice: &mut Dice) -> Self {
        dice.draw()
    }
}

impl<const N: usize> Drawn for [u8; N] {
    fn drawn(dice: &mut Dice) -> Self {
        std::array::from_fn(|_| dice.below(256) as u8)
    }
}

/// What the cores draw.
pub(crate) fn random<T: Drawn>() -> T {
    DICE.with_borrow_mut(T::drawn)
}

/// What the cores draw within a range.
pub(crate) fn random_range(range: Range<u64>) -> u64 {
    DICE.with_borrow_mut(|dice| dice.within(range))
}
