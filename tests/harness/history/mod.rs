//! What producers were promised and what readers were told, written down while things break; [`check`] decides
//! whether both agree. Pure: it knows no process and no clock.

mod check;

pub use check::{Fault, Terms, Verdict, check};

use anyhow::{Context, Result};
use std::{fmt, str::FromStr};

/// A position of a topic: the owner's epoch, and the number within it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// The owner's epoch.
    pub epoch: u64,
    /// The number within it.
    pub seq: u64,
}

impl Position {
    /// Makes one.
    pub const fn new(epoch: u64, seq: u64) -> Self {
        Self { epoch, seq }
    }
}

impl FromStr for Position {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "0" {
            return Ok(Self::default());
        }
        let (epoch, seq) = text.split_once('-').with_context(|| format!("{text:?} is no position"))?;
        Ok(Self { epoch: epoch.parse()?, seq: seq.parse()? })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.seq)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A receipt: this text stands at this position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Who published it; each waits for a receipt before it goes on.
    pub producer: String,
    /// What was published; no two publishes say the same.
    pub text: String,
    /// Where it stands.
    pub position: Position,
}

/// One thing that a reader was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A message.
    Message {
        /// Where it stands.
        position: Position,
        /// What it says.
        text: String,
    },
    /// Messages that this reader will not get.
    Gap {
        /// The last position before it.
        after: Position,
        /// Where reading goes on.
        until: Position,
        /// Why, by the name in the contract.
        reason: String,
    },
}

/// One reader, over all connections that it had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reader {
    /// What it is called in findings.
    pub name: String,
    /// After which position it began.
    pub from: Position,
    /// What it was told, in order.
    pub seen: Vec<Seen>,
}

impl Reader {
    /// Where it is: after what it was told last.
    pub fn position(&self) -> Position {
        match self.seen.last() {
            Some(Seen::Message { position, .. }) => *position,
            Some(Seen::Gap { until, .. }) => *until,
            None => self.from,
        }
    }
}

/// Everything about one topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Texts that somebody tried to publish, with or without success.
    pub tried: Vec<String>,
    /// Receipts, each producer's in the order in which it got them.
    pub acks: Vec<Ack>,
    /// Readers, all of which read to the end.
    pub readers: Vec<Reader>,
}
