//! Resume tokens: where subscriptions go on, topic by topic, on any gateway. A token is base64url of a
//! version byte, a seal and what it says: the minute of issue, then per subscription what begins it again
//! (a session's; else nothing), and per topic its name, epoch and sequence. The seal is an HMAC over that and
//! the caller, by a key that the gateways of a bus share, so that nobody else can make a token, and nobody
//! but its caller can use it. Another layout takes another version; a gateway refuses those it does not know.

use crate::caller::Caller;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::{Buf, BufMut, Bytes};
use plexus_bus::{Bus, Error, Key, Position, Topic, When};
use plexus_proto::{bus::Principal, reason::Reason, v1};
use prost::encoding::{decode_varint, encode_varint};
use ring::hmac;
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

const VERSION: u8 = 2;
const VALID_MINUTES: u64 = 24 * 60;
/// Bytes of the seal: half of the HMAC, as RFC 2104 allows.
const SEAL_BYTES: usize = 16;
/// Topics of one token at most.
const TOPICS_MAX: usize = 65_536;
/// Where the gateways of a bus keep the key that the first of them made.
const SHARED: &str = "gateway/resume-key";
const KEY_BYTES: usize = 32;
/// When a token may be shown again to a gateway that has no key yet.
const UNTIL_KNOWN: Duration = Duration::from_secs(1);

/// Makes and reads tokens; cheap to clone. Without a key, until the bus has answered, it does neither.
#[derive(Clone, Debug, Default)]
pub struct Tokens(Arc<OnceLock<hmac::Key>>);

/// Whose a token is.
#[derive(Clone, Debug)]
pub(crate) struct Bearer {
    namespace: Arc<str>,
    principal: Arc<Principal>,
}

/// What a token says while it is written.
pub(crate) struct Draft(Vec<u8>);

/// One subscription of a token.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Former {
    /// What begins it again, as its session wrote it; empty: nothing.
    pub(crate) again: Bytes,
    /// Where each topic goes on.
    pub(crate) places: Vec<(Name, Position)>,
}

/// A topic as a token names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// By its bytes.
    Full(Topic),
    /// By its mark, where the request names it again.
    Mark([u8; 8]),
}

impl Name {
    /// Tells whether it is this topic.
    pub(crate) fn is(&self, topic: &Topic) -> bool {
        match self {
            Self::Full(name) => name == topic,
            Self::Mark(seen) => *seen == mark(topic),
        }
    }
}

/// The short name of a topic.
pub(crate) fn mark(topic: &Topic) -> [u8; 8] {
    *Sha256::digest(topic).first_chunk().expect("a digest has 32 bytes")
}

impl From<&Caller> for Bearer {
    fn from(caller: &Caller) -> Self {
        Self { namespace: caller.namespace.clone(), principal: caller.principal.clone() }
    }
}

impl Draft {
    /// Begins.
    pub(crate) fn new(now: SystemTime) -> Self {
        let mut bytes = Vec::with_capacity(64);
        encode_varint(minutes(now), &mut bytes);
        Self(bytes)
    }

    /// Adds a subscription.
    pub(crate) fn add(&mut self, again: &[u8], places: &[(Name, Position)]) {
        let bytes = &mut self.0;
        encode_varint(again.len() as u64, bytes);
        bytes.put_slice(again);
        encode_varint(places.len() as u64, bytes);
        for (name, at) in places {
            match name {
                Name::Full(topic) => {
                    encode_varint(topic.len() as u64, bytes);
                    bytes.put_slice(topic);
                }
                Name::Mark(mark) => {
                    bytes.put_u8(0); // No topic is empty.
                    bytes.put_slice(mark);
                }
            }
            encode_varint(at.epoch, bytes);
            encode_varint(at.seq, bytes);
        }
    }
}

impl Tokens {
    /// Takes a secret of its own, where one is given.
    pub(crate) fn new(secret: Option<&str>) -> Self {
        let tokens = Self::default();
        if let Some(secret) = secret {
            tokens.keep(secret.as_bytes());
        }
        tokens
    }

    fn keep(&self, secret: &[u8]) {
        let _ = self.0.set(hmac::Key::new(hmac::HMAC_SHA256, secret)); // The first one stays.
    }

    /// Takes the key that the gateways of the bus share; the first of them makes it.
    pub(crate) async fn share(&self, bus: &Bus) -> Result<(), Error> {
        let name = || Key::Named(SHARED.into());
        while self.0.get().is_none() {
            match bus.get(name()).await? {
                Some(value) => self.keep(&value.data),
                None => {
                    let fresh: [u8; KEY_BYTES] = rand::random();
                    // Where another was faster, its key is read in the next round.
                    bus.put(name(), Bytes::copy_from_slice(&fresh), When::Absent, None).await?;
                }
            }
        }
        Ok(())
    }

    /// Writes a token; empty without a key.
    pub(crate) fn seal(&self, draft: Draft, bearer: &Bearer) -> String {
        let Some(key) = self.0.get() else { return String::new() };
        let mut bytes = Vec::with_capacity(1 + SEAL_BYTES + draft.0.len());
        bytes.put_u8(VERSION);
        bytes.put_slice(&seal(key, bearer, &draft.0));
        bytes.put_slice(&draft.0);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Writes a token of one subscription.
    pub(crate) fn write(&self, bearer: &Bearer, again: &[u8], places: &[(Name, Position)]) -> String {
        let mut draft = Draft::new(SystemTime::now());
        draft.add(again, places);
        self.seal(draft, bearer)
    }

    /// What is told of a token that could not be read, in the words of the field it came in. Before the bus has
    /// answered none can be, and a later try may go well.
    pub(crate) fn refusal(&self, field: &str, wanted: &str) -> Box<v1::Error> {
        if self.0.get().is_none() {
            let text = format!("{field}: the bus has not told this gateway yet what seals tokens");
            return Box::new(v1::Error::new(Reason::BusUnavailable, text).retry_after(UNTIL_KNOWN));
        }
        let error = v1::Error::new(Reason::BadResumeToken, format!("{field}: {wanted}"));
        Box::new(error.violation(field, wanted))
    }

    /// Reads a token; `None`: not ours, another caller's, or expired.
    pub(crate) fn read(&self, bearer: &Bearer, token: &str, now: SystemTime) -> Option<Vec<Former>> {
        let key = self.0.get()?;
        let mut bytes = Bytes::from(URL_SAFE_NO_PAD.decode(token).ok()?);
        if bytes.len() < 1 + SEAL_BYTES || bytes.get_u8() != VERSION {
            return None;
        }
        let shown = bytes.split_to(SEAL_BYTES);
        let ours = seal(key, bearer, &bytes);
        if !bool::from(subtle::ConstantTimeEq::ct_eq(&shown[..], &ours[..])) {
            return None;
        }
        said(bytes, now)
    }
}

/// Reads what a token says beneath its seal.
pub(crate) fn said(mut bytes: Bytes, now: SystemTime) -> Option<Vec<Former>> {
    let issued = decode_varint(&mut bytes).ok()?;
    if minutes(now).saturating_sub(issued) > VALID_MINUTES {
        return None;
    }
    let (mut formers, mut topics) = (Vec::new(), 0);
    while bytes.has_remaining() {
        let former = former(&mut bytes)?;
        topics += former.places.len();
        if topics > TOPICS_MAX {
            return None;
        }
        formers.push(former);
    }
    Some(formers)
}

/// Where each topic goes on, over all subscriptions of a token: of two words the earlier counts.
pub(crate) fn places(formers: Vec<Former>) -> Vec<(Name, Position)> {
    let mut places: Vec<(Name, Position)> = Vec::new();
    let mut known: HashMap<Vec<u8>, usize> = HashMap::new();
    for (name, at) in formers.into_iter().flat_map(|former| former.places) {
        let key = match &name {
            Name::Full(topic) => [&b"f"[..], topic].concat(),
            Name::Mark(mark) => [&b"m"[..], mark].concat(),
        };
        match known.get(&key) {
            Some(&i) => places[i].1 = places[i].1.min(at),
            None => {
                known.insert(key, places.len());
                places.push((name, at));
            }
        }
    }
    places
}

fn former(bytes: &mut Bytes) -> Option<Former> {
    let again = take(bytes)?;
    let count = decode_varint(bytes).ok()?;
    let mut places = Vec::new();
    for _ in 0..count {
        let topic = take(bytes)?;
        let name = match topic.len() {
            0 if bytes.len() >= 8 => Name::Mark(*bytes.split_to(8).first_chunk()?),
            1..=plexus_proto::text::TOPIC_BYTES_MAX => Name::Full(topic),
            _ => return None,
        };
        let (epoch, seq) = (decode_varint(bytes).ok()?, decode_varint(bytes).ok()?);
        places.push((name, Position::new(epoch, seq)));
    }
    Some(Former { again, places })
}

fn take(bytes: &mut Bytes) -> Option<Bytes> {
    let len = usize::try_from(decode_varint(bytes).ok()?).ok()?;
    (len <= bytes.len()).then(|| bytes.split_to(len))
}

/// What the fuzz target of names does with a token whose seal is good: read, written and read again it is the
/// same.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn again(bytes: &[u8]) {
    let now = SystemTime::UNIX_EPOCH;
    if let Some(formers) = said(Bytes::copy_from_slice(bytes), now) {
        let mut draft = Draft::new(now);
        formers.iter().for_each(|former| draft.add(&former.again, &former.places));
        assert_eq!(said(draft.0.into(), now), Some(formers));
    }
}

/// The seal of what a token says, for one caller. Every part goes in with its length.
fn seal(key: &hmac::Key, bearer: &Bearer, said: &[u8]) -> [u8; SEAL_BYTES] {
    let mut context = hmac::Context::with_key(key);
    let kind = bearer.principal.kind.to_be_bytes();
    for part in [bearer.namespace.as_bytes(), &kind, bearer.principal.subject.as_bytes(), said] {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    *context.sign().as_ref().first_chunk().expect("an HMAC has 32 bytes")
}

fn minutes(now: SystemTime) -> u64 {
    now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs() / 60
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tokens() -> Tokens {
        Tokens::new(Some("a secret of thirty-two characters"))
    }

    fn bearer(namespace: &str, subject: &str) -> Bearer {
        let principal = Principal { subject: subject.into(), ..Principal::default() };
        Bearer { namespace: namespace.into(), principal: principal.into() }
    }

    fn one() -> (Bearer, Vec<(Name, Position)>) {
        (bearer("n", "s"), vec![(Name::Full(Topic::from_static(b"demo")), Position::new(7, 9))])
    }

    proptest! {
        #[test]
        fn a_token_says_where_every_topic_was(former in proptest::collection::vec((
            proptest::collection::vec(any::<u8>(), 0..30),
            proptest::collection::vec((proptest::collection::vec(any::<u8>(), 1..40), any::<u64>(), any::<u64>()), 0..9),
        ), 0..4)) {
            let now = SystemTime::now();
            let former: Vec<Former> = former.into_iter().map(|(again, places)| Former {
                again: again.into(),
                places: places.into_iter().map(|(t, e, s)| (Name::Full(t.into()), Position::new(e, s))).collect(),
            }).collect();
            let mut draft = Draft::new(now);
            former.iter().for_each(|f| draft.add(&f.again, &f.places));
            let (tokens, bearer) = (tokens(), one().0);
            let token = tokens.seal(draft, &bearer);
            prop_assert_eq!(tokens.read(&bearer, &token, now), Some(former));
            let later = now + Duration::from_secs(25 * 3600);
            prop_assert_eq!(tokens.read(&bearer, &token, later), None);
        }

        #[test]
        fn what_is_no_token_is_refused(junk in "[A-Za-z0-9_-]{0,80}") {
            prop_assert_eq!(tokens().read(&one().0, &junk, SystemTime::now()), None);
        }

        #[test]
        fn a_token_with_one_bit_changed_is_refused(at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let (bearer, places) = one();
            let mut bytes = URL_SAFE_NO_PAD.decode(tokens().write(&bearer, b"again", &places)).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(tokens().read(&bearer, &URL_SAFE_NO_PAD.encode(bytes), SystemTime::now()), None);
        }
    }

    #[test]
    fn a_token_is_good_for_its_caller_and_the_gateways_of_its_key() {
        let (whose, places) = one();
        let (token, now) = (tokens().write(&whose, b"", &places), SystemTime::now());
        assert!(tokens().read(&whose, &token, now).is_some());
        for other in [bearer("n", "t"), bearer("m", "s"), bearer("ns", ""), bearer("", "ns")] {
            assert_eq!(tokens().read(&other, &token, now), None, "{other:?}");
        }
        let mut kind = whose.clone();
        kind.principal = Principal { kind: 2, ..(*whose.principal).clone() }.into();
        assert_eq!(tokens().read(&kind, &token, now), None);
        let mut session = whose.clone();
        session.principal = Principal { session: "another".into(), ..(*whose.principal).clone() }.into();
        assert!(tokens().read(&session, &token, now).is_some(), "sessions come and go");
        assert_eq!(Tokens::new(Some("another secret")).read(&whose, &token, now), None);
        assert_eq!(Tokens::default().read(&whose, &token, now), None);
        assert_eq!(Tokens::default().write(&whose, b"", &places), "");
        assert!(Tokens::default().refusal("resume", "x").is(Reason::BusUnavailable), "which passes");
        assert!(tokens().refusal("resume", "x").is(Reason::BadResumeToken));
    }

    #[test]
    fn a_token_cut_short_is_refused() {
        let (bearer, places) = one();
        let token = tokens().write(&bearer, b"x", &places);
        for end in 0..token.len() {
            assert_eq!(tokens().read(&bearer, &token[..end], SystemTime::now()), None, "{end}");
        }
    }

    #[test]
    fn a_topic_is_known_by_its_mark_where_the_request_names_it() {
        let (bearer, topic) = (one().0, Topic::from_static(b"demo"));
        let token = tokens().write(&bearer, b"", &[(Name::Mark(mark(&topic)), Position::new(1, 2))]);
        let read = places(tokens().read(&bearer, &token, SystemTime::now()).unwrap());
        assert!(read[0].0.is(&topic) && !read[0].0.is(&Topic::from_static(b"other")));
    }

    #[test]
    fn of_two_words_about_a_topic_the_earlier_counts() {
        let name = || Name::Full(Topic::from_static(b"demo"));
        let former = |seq| Former { again: Bytes::new(), places: vec![(name(), Position::new(7, seq))] };
        assert_eq!(places(vec![former(5), former(3), former(4)]), [(name(), Position::new(7, 3))]);
    }

    #[tokio::test]
    async fn gateways_of_one_bus_read_each_others_tokens() {
        let bus =
            Bus::open(&plexus_bus::Config { url: "memory:".into(), ..Default::default() }).await.unwrap();
        let (first, second) = (Tokens::default(), Tokens::default());
        let (a, b) = tokio::join!(first.share(&bus), second.share(&bus));
        a.and(b).unwrap();
        let (bearer, places) = one();
        let token = first.write(&bearer, b"", &places);
        assert!(second.read(&bearer, &token, SystemTime::now()).is_some());
    }
}
