//! Resume tokens: where a subscription goes on, topic by topic, on any gateway. Base64url of a version
//! byte, the minute of issue, and per topic its bytes, epoch and sequence. Not signed: a token names
//! positions, and grants nothing that its bearer could not ask for by name. Another layout, a signed one,
//! takes another version; a gateway refuses versions that it does not know.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::{Buf, BufMut, Bytes};
use plexus_bus::{Position, Topic};
use prost::encoding::{decode_varint, encode_varint};
use std::time::{Duration, SystemTime};

const VERSION: u8 = 1;
const VALID_MINUTES: u64 = 24 * 60;
const TOPICS_MAX: u64 = 4096;

/// Writes a token.
pub(crate) fn write<'a>(
    places: impl ExactSizeIterator<Item = (&'a Topic, Position)>,
    now: SystemTime,
) -> String {
    let mut bytes = Vec::with_capacity(16 + places.len() * 40);
    bytes.put_u8(VERSION);
    encode_varint(minutes(now), &mut bytes);
    encode_varint(places.len() as u64, &mut bytes);
    for (topic, at) in places {
        encode_varint(topic.len() as u64, &mut bytes);
        bytes.put_slice(topic);
        encode_varint(at.epoch, &mut bytes);
        encode_varint(at.seq, &mut bytes);
    }
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads a token; `None`: not ours, or expired.
pub(crate) fn read(token: &str, now: SystemTime) -> Option<Vec<(Topic, Position)>> {
    let mut bytes = Bytes::from(URL_SAFE_NO_PAD.decode(token).ok()?);
    if !bytes.has_remaining() || bytes.get_u8() != VERSION {
        return None;
    }
    let issued = decode_varint(&mut bytes).ok()?;
    if minutes(now).saturating_sub(issued) > VALID_MINUTES {
        return None;
    }
    let topics = decode_varint(&mut bytes).ok().filter(|n| *n <= TOPICS_MAX)?;
    let mut places = Vec::new();
    for _ in 0..topics {
        let len = decode_varint(&mut bytes).ok()? as usize;
        if len == 0 || len > plexus_proto::text::TOPIC_BYTES_MAX || len > bytes.remaining() {
            return None;
        }
        let topic = bytes.split_to(len);
        let (epoch, seq) = (decode_varint(&mut bytes).ok()?, decode_varint(&mut bytes).ok()?);
        places.push((topic, Position::new(epoch, seq)));
    }
    (!bytes.has_remaining()).then_some(places)
}

fn minutes(now: SystemTime) -> u64 {
    now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs() / 60
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_token_says_where_every_topic_was(places in proptest::collection::vec(
            (proptest::collection::vec(any::<u8>(), 1..40), any::<u64>(), any::<u64>()), 0..20,
        )) {
            let now = SystemTime::now();
            let places: Vec<_> = places.into_iter().map(|(t, e, s)| (Topic::from(t), Position::new(e, s))).collect();
            let token = write(places.iter().map(|(t, p)| (t, *p)), now);
            prop_assert_eq!(read(&token, now), Some(places));
            let later = now + Duration::from_secs(25 * 3600);
            prop_assert_eq!(read(&token, later), None);
        }

        #[test]
        fn what_is_no_token_is_refused(junk in "[A-Za-z0-9_-]{0,60}") {
            let _ = read(&junk, SystemTime::now());
        }
    }

    #[test]
    fn a_token_of_a_version_not_known_is_refused() {
        let (now, topic) = (SystemTime::now(), Topic::from_static(b"demo"));
        let token = write([(&topic, Position::new(7, 9))].into_iter(), now);
        let mut bytes = URL_SAFE_NO_PAD.decode(token).unwrap();
        assert_eq!(bytes[0], 1);
        bytes[0] = 2;
        assert_eq!(read(&URL_SAFE_NO_PAD.encode(bytes), now), None);
    }

    #[test]
    fn a_token_cut_short_is_refused() {
        let now = SystemTime::now();
        let topic = Topic::from_static(b"demo");
        let token = write([(&topic, Position::new(7, 9))].into_iter(), now);
        for end in 0..token.len() {
            assert_eq!(read(&token[..end], now), None, "{end}");
        }
    }
}
