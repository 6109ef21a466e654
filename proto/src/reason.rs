//! The one table of errors, printed at build time from the comments of
//! `Error.Reason` in `common.proto`: code, HTTP status, WebSocket close code, and whether to try again.

pub use crate::v1::error::Reason;
use crate::v1::{Error, error::Violation};

/// A canonical code, numbered as in google.rpc.Code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Code {
    /// The caller gave up.
    Cancelled = 1,
    /// No reason was given.
    Unknown = 2,
    /// The request is wrong in itself.
    InvalidArgument = 3,
    /// Too late.
    DeadlineExceeded = 4,
    /// The thing is not there.
    NotFound = 5,
    /// The thing is there already.
    AlreadyExists = 6,
    /// The caller may not.
    PermissionDenied = 7,
    /// A limit is reached.
    ResourceExhausted = 8,
    /// The system is not in the state for it.
    FailedPrecondition = 9,
    /// Somebody else was faster.
    Aborted = 10,
    /// Past the end of what is kept.
    OutOfRange = 11,
    /// Not built, or not here.
    Unimplemented = 12,
    /// A defect of ours.
    Internal = 13,
    /// Away for now.
    Unavailable = 14,
    /// Data is gone or unreadable.
    DataLoss = 15,
    /// Nobody vouches for the caller.
    Unauthenticated = 16,
}

impl Code {
    /// Spells the code as Connect and [`Error::code`] do: `not_found`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "canceled",
            Self::Unknown => "unknown",
            Self::InvalidArgument => "invalid_argument",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::PermissionDenied => "permission_denied",
            Self::ResourceExhausted => "resource_exhausted",
            Self::FailedPrecondition => "failed_precondition",
            Self::Aborted => "aborted",
            Self::OutOfRange => "out_of_range",
            Self::Unimplemented => "unimplemented",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
            Self::DataLoss => "data_loss",
            Self::Unauthenticated => "unauthenticated",
        }
    }
}

/// Whether the same call may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// Later, after `retry_after` or with back-off.
    Retry,
    /// After reading the state again.
    Reread,
    /// Never: it fails again.
    Final,
}

/// A reason and what follows from it.
#[derive(Debug)]
pub struct Row {
    /// The reason.
    pub reason: Reason,
    /// Its stable name.
    pub name: &'static str,
    /// Its canonical code.
    pub code: Code,
    /// Its HTTP status.
    pub http: u16,
    /// The WebSocket close code where it ends a session, else 0.
    pub close: u16,
    /// Whether to try again.
    pub again: Again,
    /// One sentence.
    pub meaning: &'static str,
}

/// Every reason, in the order of the contract.
pub static REASONS: &[Row] = include!(concat!(env!("OUT_DIR"), "/reasons.rs"));

impl Reason {
    /// Finds the row of the reason.
    pub fn row(self) -> &'static Row {
        REASONS.iter().find(|r| r.reason == self).expect("the table is printed from the same enum")
    }
}

/// Finds the row of a reason by its stable name; `None` for one that a newer peer knows.
pub fn by_name(name: &str) -> Option<&'static Row> {
    REASONS.iter().find(|r| r.name == name)
}

/// Bytes of a sentence for people at most: it may quote what it refuses, which may be of any size.
const SENTENCE_BYTES_MAX: usize = 1024;

/// Cuts a sentence that is too long, and shows that it was.
fn short(text: impl Into<String>) -> String {
    let mut text = text.into();
    if text.len() > SENTENCE_BYTES_MAX {
        text.truncate(text.floor_char_boundary(SENTENCE_BYTES_MAX));
        text.push('…');
    }
    text
}

impl Error {
    /// Makes an error with the code of its reason. `message` is one sentence for people.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        let row = reason.row();
        Self {
            code: row.code.as_str().into(),
            message: short(message),
            reason: row.name.into(),
            domain: "plexus".into(),
            ..Self::default()
        }
    }

    /// Makes `FIELD_INVALID` for one field: `field` in lowerCamelCase, `description` with the bound.
    pub fn field(field: impl Into<String>, description: impl Into<String>) -> Self {
        let (field, description) = (short(field), short(description));
        let mut error = Self::new(Reason::FieldInvalid, format!("{field}: {description}"));
        error.violations.push(Violation { field, description });
        error
    }

    /// Adds what is wrong with a field, keeping the reason.
    #[must_use]
    pub fn violation(mut self, field: impl Into<String>, description: impl Into<String>) -> Self {
        self.violations.push(Violation { field: short(field), description: short(description) });
        self
    }

    /// Adds a fact that belongs to the reason.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.metadata.insert(key.into(), value.to_string());
        self
    }

    /// Says when a repeat may succeed.
    #[must_use]
    pub fn retry_after(mut self, wait: std::time::Duration) -> Self {
        self.retry_after = prost_types::Duration::try_from(wait).ok();
        self
    }

    /// Tells whether the error has this reason.
    pub fn is(&self, reason: Reason) -> bool {
        self.reason == reason.as_str_name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_row() {
        assert!(REASONS.len() > 90);
        for row in REASONS {
            assert_eq!(row.reason.as_str_name(), row.name);
            assert!((400..600).contains(&row.http), "{}", row.name);
        }
        assert_eq!(Reason::SlowReader.row().close, 3008);
        assert_eq!(Reason::EtagMismatch.row().http, 412);
        assert_eq!(Reason::NodeNotFound.row().code, Code::NotFound);
    }

    #[test]
    fn an_error_quotes_what_it_refuses_only_so_far() {
        let (long, bytes) = ("é".repeat(1 << 20), SENTENCE_BYTES_MAX + '…'.len_utf8());
        let error = Error::field(&long, &long).violation(&long, "short");
        let texts = error.violations.iter().flat_map(|v| [&v.field, &v.description]);
        assert!(texts.chain([&error.message]).all(|text| text.len() <= bytes));
        assert_eq!(error.violations[1].description, "short");
        assert!(error.message.starts_with('é') && error.message.ends_with('…'));
    }
}
