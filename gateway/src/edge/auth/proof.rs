//! What vouches for credentials, at one time: keys of the file, what the store holds, keys of the issuer.
//! Pure; [`super::event_loop`] replaces it when something changes.

use super::token::Tokens;
use crate::{caller::Caller, key, revoked::Revoked, vault::Kept};
use plexus_proto::{bus::principal::Kind, reason::Reason, v1};
use std::{sync::Arc, time::SystemTime};

/// What vouches for credentials.
#[derive(Clone, Debug)]
pub(super) struct Proof {
    /// API keys of the file.
    pub(super) file: Arc<key::Keys>,
    /// What the store holds; `None`: not known yet, and then nobody comes in, because what is revoked is
    /// not known either.
    pub(super) store: Option<Arc<Store>>,
    /// Tokens of the issuer, if there is one.
    pub(super) tokens: Option<Arc<Tokens>>,
}

/// What the store holds.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Store {
    keys: key::Keys,
    revoked: Revoked,
}

impl Store {
    pub(super) fn new(kept: &Kept) -> Self {
        Self { keys: key::Keys::kept(&kept.keys), revoked: Revoked::new(&kept.revocations) }
    }
}

impl Proof {
    /// Finds whose credentials these are.
    pub(super) fn vouch(&self, token: &str, now: SystemTime) -> Result<Caller, Box<v1::Error>> {
        let store = self.store.as_ref().ok_or_else(unready)?;
        let caller = match &self.tokens {
            Some(tokens) if !token.starts_with(key::PREFIX) => tokens.caller(token, now),
            _ if self.file.has(token) => self.file.caller(token, now),
            _ => store.keys.caller(token, now),
        }?;
        if store.revoked.has(&caller, now) { Err(Box::new(revoked())) } else { Ok(caller) }
    }

    /// Notes that a caller came in by a key of the store; tells whether it is the first time in this minute.
    pub(super) fn uses(&self, caller: &Caller, now: SystemTime) -> bool {
        let by_key = caller.principal.kind == Kind::ApiKey as i32 && !self.file.stand(caller);
        by_key && self.store.as_ref().is_some_and(|store| store.keys.uses(caller, now))
    }

    /// Tells whether credentials that were good still are, their end aside.
    pub(super) fn stand(&self, caller: &Caller, now: SystemTime) -> bool {
        let Some(store) = &self.store else { return true };
        let there = match Kind::try_from(caller.principal.kind) {
            Ok(Kind::ApiKey) => self.file.stand(caller) || store.keys.stand(caller),
            _ => self.tokens.as_ref().is_none_or(|tokens| tokens.stand(caller)),
        };
        there && !store.revoked.has(caller, now)
    }
}

/// What is told of credentials that were withdrawn.
pub(super) fn revoked() -> v1::Error {
    v1::Error::new(Reason::TokenRevoked, "the credentials were revoked")
}

fn unready() -> Box<v1::Error> {
    Box::new(v1::Error::new(Reason::BusUnavailable, "what is revoked is not known yet"))
}
