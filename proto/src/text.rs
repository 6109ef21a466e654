//! How bytes, positions and PeerIds are spelled (common.proto, "Conventions"). Both spellings of a
//! topic or key are read everywhere; one is written.

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use std::{fmt, str::FromStr};

/// Longest topic in bytes.
pub const TOPIC_BYTES_MAX: usize = 1024;

/// What was wrong with a spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a topic.
    #[error("a topic has 1 to 1024 bytes, as text or as `~` and base64url without padding")]
    Topic,
    /// Not a position.
    #[error("a position is `<epoch>-<seq>`, `$` or `0`")]
    Position,
    /// Not a PeerId.
    #[error("a PeerId is base58btc (12D3KooW…, Qm…) or a CIDv1 of libp2p-key (bafz…, k51…)")]
    PeerId,
}

/// Writes bytes as text where they are UTF-8 without control characters and without a leading `~`,
/// else as `~` and base64url.
pub fn bytes_to_text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.starts_with('~') && !text.chars().any(char::is_control) => text.to_owned(),
        _ => format!("~{}", BASE64URL_NOPAD.encode(bytes)),
    }
}

/// Reads either spelling of bytes.
pub fn bytes_from_text(text: &str) -> Option<Bytes> {
    match text.strip_prefix('~') {
        Some(encoded) => BASE64URL_NOPAD.decode(encoded.as_bytes()).ok().map(Bytes::from),
        None => Some(Bytes::copy_from_slice(text.as_bytes())),
    }
}

/// Reads either spelling of a topic, 1 to 1024 bytes.
pub fn topic_from_text(text: &str) -> Result<Bytes, Error> {
    bytes_from_text(text)
        .filter(|topic| !topic.is_empty() && topic.len() <= TOPIC_BYTES_MAX)
        .ok_or(Error::Topic)
}

/// A place in a log: the epoch of an owner's grant and the sequence in it, ordered by both.
/// `0-0` is before everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Epoch of the owner's grant, below 2^53.
    pub epoch: u64,
    /// Sequence in the epoch; 0 is the opening entry itself.
    pub seq: u64,
}

impl Position {
    /// Before everything.
    pub const ZERO: Self = Self { epoch: 0, seq: 0 };

    /// Makes a position.
    pub const fn new(epoch: u64, seq: u64) -> Self {
        Self { epoch, seq }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.seq)
    }
}

impl FromStr for Position {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let number = |part: &str| {
            let plain = part.len() <= 20 && part.bytes().all(|b| b.is_ascii_digit());
            plain.then(|| part.parse().ok()).flatten().ok_or(Error::Position)
        };
        let (epoch, seq) = text.split_once('-').ok_or(Error::Position)?;
        Ok(Self { epoch: number(epoch)?, seq: number(seq)? })
    }
}

/// Where a reader asks to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// `$`: after everything that is there.
    End,
    /// `0`: at the oldest that is kept.
    Start,
    /// After this position.
    Position(Position),
}

impl FromStr for After {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "$" => Ok(Self::End),
            "0" => Ok(Self::Start),
            other => other.parse().map(Self::Position),
        }
    }
}

/// Writes the multihash bytes of a PeerId as base58btc.
pub fn peer_id_to_text(multihash: &[u8]) -> String {
    multibase::Base::Base58Btc.encode(multihash)
}

/// Reads a PeerId in any text form (base58btc; CIDv1 `libp2p-key` in base32 or base36) as its
/// multihash bytes. <https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md>
pub fn peer_id_from_text(text: &str) -> Result<Bytes, Error> {
    if text.len() > 128 {
        return Err(Error::PeerId);
    }
    let multihash = if text.starts_with('1') || text.starts_with("Qm") {
        multibase::Base::Base58Btc.decode(text).map_err(|_| Error::PeerId)?
    } else {
        let (_, cid) = multibase::decode(text).map_err(|_| Error::PeerId)?;
        match cid.strip_prefix(&[0x01, 0x72]) {
            Some(rest) => rest.to_vec(),
            None => return Err(Error::PeerId),
        }
    };
    let sound = match multihash.as_slice() {
        [0x00, len, rest @ ..] => usize::from(*len) == rest.len() && rest.len() <= 42 && !rest.is_empty(),
        [0x12, 0x20, rest @ ..] => rest.len() == 32,
        _ => false,
    };
    if sound { Ok(multihash.into()) } else { Err(Error::PeerId) }
}

/// Writes the multihash bytes of a PeerId as a CIDv1 in the given base.
pub fn peer_id_to_cid(multihash: &[u8], base: multibase::Base) -> String {
    let mut cid = vec![0x01, 0x72];
    cid.extend_from_slice(multihash);
    multibase::encode(base, cid)
}

pub use multibase::Base;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_peer_id_is_read_in_every_form() {
        let base58 = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA";
        let bytes = peer_id_from_text(base58).unwrap();
        assert_eq!(peer_id_to_text(&bytes), base58);
        for base in [Base::Base32Lower, Base::Base36Lower] {
            assert_eq!(peer_id_from_text(&peer_id_to_cid(&bytes, base)).unwrap(), bytes);
        }
        for bad in ["", "1", "Qm", "12D3KooW", "zzz", "bafy", "k51", "0OIl", &"1".repeat(200)] {
            assert_eq!(peer_id_from_text(bad), Err(Error::PeerId), "{bad}");
        }
    }

    #[test]
    fn positions_that_are_none_are_refused() {
        for bad in ["", "1", "-", "1-", "-1", "a-1", "1-1-1", "+1-1", "1-+1", "99999999999999999999999-1"] {
            assert!(bad.parse::<Position>().is_err(), "{bad}");
        }
        assert_eq!("3-17".parse(), Ok(Position::new(3, 17)));
        assert_eq!("$".parse(), Ok(After::End));
    }

    proptest! {
        #[test]
        fn a_topic_survives_its_spelling(topic in proptest::collection::vec(any::<u8>(), 1..200)) {
            prop_assert_eq!(&topic_from_text(&bytes_to_text(&topic)).unwrap()[..], &topic[..]);
            let tilde = format!("~{}", BASE64URL_NOPAD.encode(&topic));
            prop_assert_eq!(&topic_from_text(&tilde).unwrap()[..], &topic[..]);
        }
    }
}
