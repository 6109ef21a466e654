//! API keys: how one looks, and what is kept of those that are known, in a file or in the store. A key is
//! 256 random bits behind its id, with a checksum, so that a scanner can tell one from noise:
//! `plx_[A-Za-z0-9_-]{59}`. It is shown once, when it is made; what is kept is its SHA-256, which 256
//! random bits need nothing slower than.

use crate::{
    caller::Caller,
    grant::{Grants, Written},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use plexus_bus::NodeName;
use plexus_proto::{
    bus::{ApiKeyRecord, Principal, principal::Kind},
    reason::Reason,
    v1,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    fmt,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};
use subtle::ConstantTimeEq;

/// What every key begins with.
pub const PREFIX: &str = "plx_";

/// What the subjects of keys begin with.
pub(crate) const SUBJECT: &str = "key:";
/// Bytes of a key's id.
const ID: usize = 8;
/// Bytes of its secret.
const SECRET: usize = 32;
/// Bytes of its checksum.
const CHECK: usize = 4;
/// Keys of a file at most.
const KEYS_MAX: usize = 10_000;

/// A new key.
pub struct Made {
    /// The key itself: nobody can show it again.
    pub secret: String,
    /// What is kept of it.
    pub line: Line,
}

/// A file of keys, in TOML.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    /// The keys.
    pub keys: Vec<Line>,
}

/// A key as the file has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Its id, the first 8 of its bytes in hexadecimal; not secret.
    pub id: String,
    /// SHA-256 of the key, in hexadecimal.
    pub sha256: String,
    /// Whose it is.
    pub namespace: String,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// When it ends, such as `2027-01-01T00:00:00Z`; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// What it may do.
    pub grants: Vec<Written>,
}

/// The keys that are known, by id.
#[derive(Default, PartialEq)]
pub(crate) struct Keys(HashMap<String, Known>);

#[derive(PartialEq)]
struct Known {
    digest: [u8; 32],
    caller: Caller,
    used: Used,
}

/// The minute in which a key was last used here, since 1970; says nothing of what the key is.
#[derive(Default)]
struct Used(AtomicU64);

impl PartialEq for Used {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// Shows how many, and nothing of any.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

/// Makes a key of a namespace; the error names what is wrong.
pub fn make(namespace: &str, grants: Vec<Written>, expires: Option<String>) -> Result<Made, String> {
    let random: [u8; ID + SECRET] = rand::random();
    let secret = spell(&random);
    let line = Line {
        id: hex(&random[..ID]),
        sha256: hex(&digest(&secret)),
        namespace: namespace.into(),
        created: Some(humantime::format_rfc3339_seconds(SystemTime::now()).to_string()),
        expires,
        grants,
    };
    Known::read(&line)?;
    Ok(Made { secret, line })
}

/// Makes a key with all else as given; the error names what is wrong. The record has no secret.
pub(crate) fn record(key: v1::ApiKey) -> Result<(String, ApiKeyRecord), String> {
    let random: [u8; ID + SECRET] = rand::random();
    let secret = spell(&random);
    let key = v1::ApiKey { api_key: hex(&random[..ID]), secret: String::new(), ..key };
    let record = ApiKeyRecord { key: Some(key), sha256: digest(&secret).to_vec().into() };
    Known::kept(&record)?;
    Ok((secret, record))
}

/// Tells whether a text can be a key's id.
pub(crate) fn is_id(text: &str) -> bool {
    text.len() == 2 * ID && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// The subject of the caller behind a key.
pub(crate) fn subject(id: &str) -> String {
    format!("{SUBJECT}{id}")
}

impl Keys {
    /// Reads a file of keys; the error names the key and what is wrong with it, never what it is.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        let at = |error: String| format!("{}: {error}", path.display());
        let text = std::fs::read(path).map_err(|e| at(e.to_string()))?;
        Self::parse(&text).map_err(at)
    }

    /// Reads what such a file holds.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(text).map_err(|_| "no UTF-8")?;
        let file: File = toml::from_str(text).map_err(|e| e.message().to_owned())?;
        Self::read(&file)
    }

    /// Takes what the store holds, and leaves out what cannot be read.
    pub(crate) fn kept(records: &[ApiKeyRecord]) -> Self {
        let known = |record: &ApiKeyRecord| match Known::kept(record) {
            Ok(known) => Some((known.caller.principal.token_id.clone(), known)),
            Err(error) => {
                tracing::warn!(error, "an API key of the store cannot be read and is left out");
                None
            }
        };
        Self(records.iter().filter_map(known).collect())
    }

    /// Tells whether a key of this id is known.
    pub(crate) fn has(&self, secret: &str) -> bool {
        id(secret).is_some_and(|id| self.0.contains_key(&id))
    }

    /// Tells whether the key behind a caller is still there and says the same of it.
    pub(crate) fn stand(&self, caller: &Caller) -> bool {
        let known = self.0.get(&caller.principal.token_id);
        known.is_some_and(|known| known.caller.is_same(caller) && known.caller.grants == caller.grants)
    }

    /// Notes a use of the key behind a caller; tells whether it is the first one in this minute.
    pub(crate) fn uses(&self, caller: &Caller, now: SystemTime) -> bool {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let minute = since.as_secs() / 60;
        let known = self.0.get(&caller.principal.token_id);
        known.is_some_and(|known| known.used.0.swap(minute, Ordering::Relaxed) != minute)
    }

    pub(crate) fn read(file: &File) -> Result<Self, String> {
        if file.keys.len() > KEYS_MAX {
            return Err(format!("at most {KEYS_MAX} keys"));
        }
        let mut keys = HashMap::new();
        for line in &file.keys {
            let known = Known::read(line).map_err(|e| format!("key {:?}: {e}", line.id))?;
            if keys.insert(line.id.clone(), known).is_some() {
                return Err(format!("key {:?} is there twice", line.id));
            }
        }
        Ok(Self(keys))
    }

    /// Finds whose a key is. What is told of a key that is not known is the same whatever is wrong.
    pub(crate) fn caller(&self, secret: &str, now: SystemTime) -> Result<Caller, Box<v1::Error>> {
        let invalid = || Box::new(v1::Error::new(Reason::TokenInvalid, "the API key is not known"));
        let id = id(secret).ok_or_else(invalid)?;
        let known = self.0.get(&id);
        let digest = digest(secret);
        let same = digest.ct_eq(known.map_or(&[0; 32], |known| &known.digest));
        let known = known.filter(|_| same.into()).ok_or_else(invalid)?;
        if known.caller.is_expired(now) {
            return Err(Box::new(v1::Error::new(Reason::TokenExpired, "the API key has ended")));
        }
        Ok(known.caller.clone())
    }
}

impl Known {
    fn read(line: &Line) -> Result<Self, String> {
        let time = |name: &str, text: &Option<String>| {
            let read = text.as_deref().map(humantime::parse_rfc3339_weak).transpose();
            read.map_err(|_| format!("{name}: a time such as 2027-01-01T00:00:00Z"))
        };
        let (created, expires) = (time("created", &line.created)?, time("expires", &line.expires)?);
        let digest = unhex(&line.sha256).ok_or("sha256: 64 digits of hexadecimal")?;
        Self::new(&line.id, digest, &line.namespace, &line.grants, (created, expires))
    }

    fn kept(record: &ApiKeyRecord) -> Result<Self, String> {
        let key = record.key.as_ref().ok_or("there is none")?;
        let digest = record.sha256[..].try_into().map_err(|_| "sha256: 32 bytes")?;
        let time = |name: &str, at: Option<prost_types::Timestamp>| {
            at.map(SystemTime::try_from).transpose().map_err(|_| format!("{name}: no time"))
        };
        let times = (time("created_at", key.created_at)?, time("expires_at", key.expires_at)?);
        let written =
            |grant: &v1::Grant| Written { verbs: grant.verbs.clone(), resources: grant.resources.clone() };
        let grants: Vec<_> = key.grants.iter().map(written).collect();
        Self::new(&key.api_key, digest, &key.namespace, &grants, times)
    }

    fn new(
        id: &str,
        digest: [u8; 32],
        namespace: &str,
        grants: &[Written],
        (created, expires): (Option<SystemTime>, Option<SystemTime>),
    ) -> Result<Self, String> {
        if !is_id(id) {
            return Err(format!("id: {} digits of hexadecimal", 2 * ID));
        }
        check_namespace(namespace)?;
        let grants = Grants::read(grants)?;
        let principal = Principal {
            subject: subject(id),
            kind: Kind::ApiKey as i32,
            token_id: id.into(),
            ..Principal::default()
        };
        let caller =
            Caller { issued_at: created, ..Caller::new(namespace, grants.into(), principal, expires) };
        Ok(Self { digest, caller, used: Used::default() })
    }
}

/// Refuses what cannot name a namespace.
pub(crate) fn check_namespace(namespace: &str) -> Result<(), String> {
    let named = NodeName::new(namespace, "n").map(|_| ());
    named.map_err(|_| "namespace: 1 to 63 of a-z, 0-9 and -".into())
}

/// Spells random bytes as a key, with their checksum.
fn spell(random: &[u8]) -> String {
    let bytes = [random, &check(random)].concat();
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
}

fn check(random: &[u8]) -> [u8; CHECK] {
    let sum = Sha256::new().chain_update(PREFIX).chain_update(random).finalize();
    *sum.first_chunk().expect("a digest is longer than a checksum")
}

/// The id of what looks like a key.
fn id(secret: &str) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD.decode(secret.strip_prefix(PREFIX)?).ok()?;
    let (random, sum) = bytes.split_at_checked(ID + SECRET)?;
    (sum == check(random)).then(|| hex(&random[..ID]))
}

fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret).into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn everything() -> Vec<Written> {
        vec![Written { verbs: vec!["*".into()], resources: vec!["**".into()] }]
    }

    #[test]
    fn a_key_opens_its_namespace_and_is_kept_only_as_a_digest() {
        let made = make("team", everything(), None).unwrap();
        assert_eq!(made.secret.len(), PREFIX.len() + 59);
        let file = File { keys: vec![made.line] };
        let text = toml::to_string(&file).unwrap();
        assert!(!text.contains(&made.secret[PREFIX.len()..][..30]), "{text}");
        let keys = Keys::read(&toml::from_str(&text).unwrap()).unwrap();
        let caller = keys.caller(&made.secret, SystemTime::now()).unwrap();
        assert_eq!(&*caller.namespace, "team");
        assert!(caller.grants.is_all());
        assert!(!format!("{keys:?} {caller:?}").contains(&made.secret));
    }

    #[test]
    fn a_key_that_is_not_known_is_refused_alike_whatever_is_wrong() {
        let made = make("team", everything(), None).unwrap();
        let other = make("team", everything(), None).unwrap();
        let keys = Keys::read(&File { keys: vec![made.line.clone()] }).unwrap();
        let mut guessed = [0; ID + SECRET];
        for (i, byte) in guessed[..ID].iter_mut().enumerate() {
            *byte = u8::from_str_radix(&made.line.id[2 * i..2 * i + 2], 16).unwrap();
        }
        let mut typo = made.secret.clone();
        typo.pop();
        let shouted = made.secret.to_ascii_uppercase();
        for bad in [&other.secret, &spell(&guessed), &typo, &shouted, PREFIX, ""] {
            let error = keys.caller(bad, SystemTime::now()).unwrap_err();
            assert_eq!((&*error.reason, &*error.message), ("TOKEN_INVALID", "the API key is not known"));
        }
    }

    #[test]
    fn a_use_is_told_once_a_minute() {
        let made = make("team", everything(), None).unwrap();
        let keys = Keys::read(&File { keys: vec![made.line] }).unwrap();
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let caller = keys.caller(&made.secret, at(600)).unwrap();
        let told = [600, 601, 659, 660, 661].map(|seconds| keys.uses(&caller, at(seconds)));
        assert_eq!(told, [true, false, false, true, false]);
        assert!(!Keys::default().uses(&caller, at(600)));
    }

    #[test]
    fn a_key_ends_when_its_line_says() {
        let made = make("team", everything(), Some("2027-01-01T00:00:00Z".into())).unwrap();
        let keys = Keys::read(&File { keys: vec![made.line] }).unwrap();
        let end = humantime::parse_rfc3339("2027-01-01T00:00:00Z").unwrap();
        assert!(keys.caller(&made.secret, end - Duration::from_secs(1)).is_ok());
        assert!(keys.caller(&made.secret, end).unwrap_err().is(Reason::TokenExpired));
    }

    #[test]
    fn a_line_that_cannot_be_read_is_refused_by_its_field() {
        type Change = fn(&mut Line);
        let changes: [(&str, Change); 6] = [
            ("id", |l| l.id = "x".into()),
            ("sha256", |l| l.sha256 = "é".repeat(32)),
            ("sha256", |l| l.sha256.push('0')),
            ("namespace", |l| l.namespace = "Not one".into()),
            ("expires", |l| l.expires = Some("tomorrow".into())),
            ("verbs", |l| l.grants[0].verbs.clear()),
        ];
        for (field, change) in changes {
            let mut line = make("team", everything(), None).unwrap().line;
            change(&mut line);
            let error = Keys::read(&File { keys: vec![line] }).unwrap_err();
            assert!(error.contains(field), "{field}: {error}");
        }
        let line = make("team", everything(), None).unwrap().line;
        assert!(Keys::read(&File { keys: vec![line.clone(), line] }).unwrap_err().contains("twice"));
    }
}
