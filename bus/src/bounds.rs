//! What no carrier is asked to carry: oversized frames, names that are too long, entries without a
//! place. [`crate::Bus`] tests it in front of the carrier, so both refuse the same.

use crate::{Append, Config, Error, Key, Payload, Subject, Topic};
use plexus_proto::text::TOPIC_BYTES_MAX;
use std::time::Duration;

/// Longest name of a free key in bytes.
pub const KEY_BYTES_MAX: usize = 512;

/// The bounds of one bus.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    frame_bytes_max: usize,
}

impl Bounds {
    pub(crate) fn new(config: &Config) -> Self {
        Self { frame_bytes_max: config.frame_bytes_max }
    }

    /// Refuses a frame that is too large.
    pub(crate) fn frame(&self, frame: &Payload) -> Result<(), Error> {
        self.bytes(frame.size())
    }

    /// Refuses so many bytes.
    pub(crate) fn bytes(&self, size: usize) -> Result<(), Error> {
        let most = self.frame_bytes_max;
        if size <= most { Ok(()) } else { Err(Error::Invalid(format!("{size} bytes, {most} at most"))) }
    }

    /// Refuses entries without a place in a log, before any of them is written.
    pub(crate) fn entries(&self, entries: &[Append]) -> Result<(), Error> {
        for Append { topic, first, last, keep, entry } in entries {
            topics([topic])?;
            if *first == 0 || first > last {
                return Err(Error::Invalid(format!("no entry holds messages {first} to {last}")));
            }
            if *keep == 0 {
                return Err(Error::Invalid("an entry keeps at least itself".into()));
            }
            self.frame(entry)?;
        }
        Ok(())
    }
}

/// Refuses what is no topic.
pub(crate) fn topics<'a>(topics: impl IntoIterator<Item = &'a Topic>) -> Result<(), Error> {
    match topics.into_iter().find(|t| t.is_empty() || t.len() > TOPIC_BYTES_MAX) {
        Some(topic) => Err(Error::Invalid(format!("a topic of {} bytes", topic.len()))),
        None => Ok(()),
    }
}

/// Refuses a subject of what is no topic.
pub(crate) fn subject(subject: &Subject) -> Result<(), Error> {
    match subject {
        Subject::Topic(_, topic) => topics([topic]),
        _ => Ok(()),
    }
}

/// Refuses a name that is too long, and a term on what lives as long as its node.
pub(crate) fn key(key: &Key, ttl: Option<Duration>) -> Result<(), Error> {
    match (key, ttl) {
        (Key::Named(name), _) if name.is_empty() || name.len() > KEY_BYTES_MAX => {
            Err(Error::Invalid(format!("a key of {} bytes, {KEY_BYTES_MAX} at most", name.len())))
        }
        (Key::Named(_), Some(ttl)) if ttl < Duration::from_millis(1) => {
            Err(Error::Invalid("a key lives a millisecond at least".into()))
        }
        (Key::Record(_) | Key::Sealed(_), Some(_)) => {
            Err(Error::Invalid("records and sealed keys live as long as their node".into()))
        }
        _ => Ok(()),
    }
}
