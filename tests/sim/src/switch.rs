//! Which planted bug is awake, and what some of them have to remember.

use plexus_bus::{Opening, Position, Topic};
use std::{
    cell::RefCell,
    sync::atomic::{AtomicU32, Ordering},
};

static AWAKE: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// Where the tails were when the node began.
    static KNEW: RefCell<Vec<(Topic, Position)>> = const { RefCell::new(Vec::new()) };
    /// Tails that openings found, and what was known of them.
    static SLIPPED: RefCell<Vec<(Position, Position)>> = const { RefCell::new(Vec::new()) };
}

/// Wakes one bug; 0: none.
pub(crate) fn wake(number: u32) {
    AWAKE.store(number, Ordering::Relaxed);
}

/// Tells whether this bug is awake.
#[inline]
pub(crate) fn on(number: u32) -> bool {
    AWAKE.load(Ordering::Relaxed) == number
}

/// Remembers what an owner could know of the tails before its opening.
pub(crate) fn knew(tails: &[(Topic, Position)]) {
    KNEW.set(tails.to_vec());
}

/// The openings, with tails that were read before the script.
pub(crate) fn read_before(openings: &[Opening]) -> &'static Vec<Opening> {
    Box::leak(Box::new(
        openings.iter().map(|opening| Opening { prev: known(opening), ..opening.clone() }).collect(),
    ))
}

fn known(opening: &Opening) -> Position {
    KNEW.with_borrow(|tails| {
        tails.iter().find(|(topic, _)| *topic == opening.topic).map_or(Position::ZERO, |(_, at)| *at)
    })
}

/// Remembers which tails had moved when the opening ran.
pub(crate) fn opened(openings: &[Opening]) {
    SLIPPED.with_borrow_mut(|slipped| {
        slipped.extend(openings.iter().map(|opening| (opening.prev, known(opening))))
    });
}

/// Where the log ended when the window was read too early.
pub(crate) fn slipped_after(prev: Position) -> Position {
    SLIPPED.with_borrow(|slipped| {
        slipped.iter().rev().find(|(at, _)| *at == prev).map_or(prev, |(_, known)| *known)
    })
}
