//! Arguments of calls and the reading of answers. Whatever does not have the expected shape is
//! [`Error::Unreadable`].

use crate::{Error, Position};
use bytes::Bytes;
use fred::types::Value;

/// The arguments of one command.
#[derive(Clone)]
pub(super) struct Args(pub(super) Vec<Value>);

impl Args {
    /// Begins with room for `more` arguments.
    pub(super) fn new(more: usize) -> Self {
        Self(Vec::with_capacity(more))
    }

    /// Begins an `FCALL` of one key.
    pub(super) fn of(function: &'static str, key: impl Into<Bytes>, more: usize) -> Self {
        Self::new(3 + more).text(function).text("1").bytes(key)
    }

    /// The argument that is the key.
    pub(super) fn key(&self, at: usize) -> &[u8] {
        match self.0.get(at) {
            Some(Value::Bytes(bytes)) => bytes,
            _ => &[],
        }
    }

    /// Adds a fixed word.
    pub(super) fn text(mut self, word: &'static str) -> Self {
        self.0.push(Value::Bytes(Bytes::from_static(word.as_bytes())));
        self
    }

    /// Adds bytes.
    pub(super) fn bytes(mut self, bytes: impl Into<Bytes>) -> Self {
        self.push(bytes);
        self
    }

    /// Adds a number, in decimal.
    pub(super) fn number(self, number: u64) -> Self {
        self.bytes(number.to_string())
    }

    /// Adds bytes in place.
    pub(super) fn push(&mut self, bytes: impl Into<Bytes>) {
        self.0.push(Value::Bytes(bytes.into()));
    }
}

fn unreadable(what: &str) -> Error {
    Error::Unreadable(format!("expected {what}"))
}

/// Reads an array.
pub(super) fn list(value: Value) -> Result<Vec<Value>, Error> {
    match value {
        Value::Array(values) => Ok(values),
        _ => Err(unreadable("a list")),
    }
}

/// Reads an array of a known length.
pub(super) fn some<const N: usize>(value: Value) -> Result<[Value; N], Error> {
    list(value)?.try_into().map_err(|_| unreadable("a list of another length"))
}

/// Reads bytes.
pub(super) fn bytes(value: Value) -> Result<Bytes, Error> {
    match value {
        Value::String(text) => Ok(text.into_inner()),
        Value::Bytes(bytes) => Ok(bytes),
        _ => Err(unreadable("bytes")),
    }
}

/// Reads bytes that may be absent.
pub(super) fn maybe(value: Value) -> Result<Option<Bytes>, Error> {
    match value {
        Value::Null => Ok(None),
        other => bytes(other).map(Some),
    }
}

/// Reads text.
pub(super) fn text(value: Value) -> Result<String, Error> {
    String::from_utf8(bytes(value)?.into()).map_err(|_| unreadable("text"))
}

/// Reads a number, also one written as text.
pub(super) fn number(value: Value) -> Result<u64, Error> {
    match value {
        Value::Integer(number) => u64::try_from(number).map_err(|_| unreadable("a number from 0")),
        other => digits(&bytes(other)?),
    }
}

/// Reads decimal digits.
pub(super) fn digits(bytes: &[u8]) -> Result<u64, Error> {
    std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).ok_or_else(|| unreadable("a number"))
}

/// Reads a yes or no.
pub(super) fn yes(value: Value) -> Result<bool, Error> {
    Ok(number(value)? != 0)
}

/// Reads a position.
pub(super) fn position(value: Value) -> Result<Position, Error> {
    spot(&bytes(value)?)
}

/// Reads the text of a position.
pub(super) fn spot(bytes: &[u8]) -> Result<Position, Error> {
    let text = std::str::from_utf8(bytes).map_err(|_| unreadable("a position"))?;
    text.parse().map_err(|_| unreadable("a position"))
}

/// Reads a hash as a whole: RESP3 answers a map, a script answers pairs.
pub(super) fn pairs(value: Value) -> Result<Vec<(Bytes, Value)>, Error> {
    match value {
        Value::Map(map) => {
            Ok(map.inner().into_iter().map(|(key, value)| (key.into_bytes(), value)).collect())
        }
        Value::Null => Ok(Vec::new()),
        other => {
            let mut flat = list(other)?.into_iter();
            let mut out = Vec::with_capacity(flat.len() / 2);
            while let (Some(key), Some(value)) = (flat.next(), flat.next()) {
                out.push((bytes(key)?, value));
            }
            Ok(out)
        }
    }
}
