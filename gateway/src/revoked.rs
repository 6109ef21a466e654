//! Which credentials are revoked before their end. Pure: revocations as the store holds them, looked up by
//! what they name.

use crate::caller::Caller;
use plexus_proto::v1::Revocation;
use std::{collections::HashMap, time::SystemTime};

/// The revocations in force, by what they name most narrowly.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Revoked(HashMap<Named, Vec<Rule>>);

/// What a revocation names, in its namespace.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Named {
    Token(String, String),
    Subject(String, String),
    Every(String),
}

#[derive(Debug, PartialEq)]
struct Rule {
    /// Only this subject's; empty: any.
    subject: String,
    /// Only what was issued before; `None`: any.
    issued_before: Option<SystemTime>,
    /// When it is over; `None`: never.
    expires_at: Option<SystemTime>,
}

impl Revoked {
    /// Takes what the store holds.
    pub(crate) fn new(revocations: &[Revocation]) -> Self {
        let mut rules: HashMap<Named, Vec<Rule>> = HashMap::new();
        for revocation in revocations {
            let Revocation { namespace, token_id, subject, .. } = revocation.clone();
            let named = match (&*token_id, &*subject) {
                ("", "") => Named::Every(namespace),
                ("", _) => Named::Subject(namespace, subject.clone()),
                _ => Named::Token(namespace, token_id),
            };
            let time = |at: Option<prost_types::Timestamp>| at.and_then(|at| SystemTime::try_from(at).ok());
            let (issued_before, expires_at) = (time(revocation.issued_before), time(revocation.expires_at));
            rules.entry(named).or_default().push(Rule { subject, issued_before, expires_at });
        }
        Self(rules)
    }

    /// Tells whether a caller's credentials are revoked. Those that do not say when they were issued count
    /// as old.
    pub(crate) fn has(&self, caller: &Caller, now: SystemTime) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let (namespace, subject) = (caller.namespace.to_string(), caller.principal.subject.clone());
        let names = [
            Named::Token(namespace.clone(), caller.principal.token_id.clone()),
            Named::Subject(namespace.clone(), subject.clone()),
            Named::Every(namespace),
        ];
        let hits = |rule: &Rule| {
            (rule.subject.is_empty() || rule.subject == subject)
                && rule.issued_before.is_none_or(|before| caller.issued_at.is_none_or(|at| at < before))
                && rule.expires_at.is_none_or(|end| now < end)
        };
        names.iter().filter_map(|named| self.0.get(named)).flatten().any(hits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grant::Grants;
    use plexus_proto::bus::Principal;
    use std::time::Duration;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn caller(token: &str, subject: &str, issued_at: Option<u64>) -> Caller {
        let principal = Principal { subject: subject.into(), token_id: token.into(), ..Principal::default() };
        let caller = Caller::new("team", Grants::all().into(), principal, None);
        Caller { issued_at: issued_at.map(at), ..caller }
    }

    fn revokes(change: impl FnOnce(&mut Revocation), caller: &Caller) -> bool {
        let mut revocation = Revocation { namespace: "team".into(), ..Revocation::default() };
        change(&mut revocation);
        Revoked::new(&[revocation]).has(caller, at(1000))
    }

    #[test]
    fn what_a_revocation_leaves_open_is_any() {
        let ann = caller("7", "ann", Some(500));
        assert!(!Revoked::default().has(&ann, at(1000)));
        assert!(revokes(|_| {}, &ann));
        assert!(revokes(|r| r.token_id = "7".into(), &ann));
        assert!(!revokes(|r| r.token_id = "8".into(), &ann));
        assert!(revokes(|r| r.subject = "ann".into(), &ann));
        assert!(!revokes(|r| r.subject = "bob".into(), &ann));
        assert!(!revokes(|r| (r.token_id, r.subject) = ("7".into(), "bob".into()), &ann));
        assert!(revokes(|r| (r.token_id, r.subject) = ("7".into(), "ann".into()), &ann));
        assert!(!revokes(|r| r.namespace = "other".into(), &ann));
        assert!(revokes(|r| r.expires_at = Some(at(1001).into()), &ann));
        assert!(!revokes(|r| r.expires_at = Some(at(1000).into()), &ann));
    }

    #[test]
    fn what_was_issued_later_stays() {
        let before = |seconds| move |r: &mut Revocation| r.issued_before = Some(at(seconds).into());
        assert!(revokes(before(501), &caller("7", "ann", Some(500))));
        assert!(!revokes(before(500), &caller("7", "ann", Some(500))));
        assert!(revokes(before(500), &caller("7", "ann", None)));
        // A token without an id is not the one whose id is empty.
        assert!(!revokes(|r| r.subject = "bob".into(), &caller("", "ann", None)));
    }
}
