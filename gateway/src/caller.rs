//! Who asks. Every dialect puts a [`Caller`] into the request's extensions before a service sees it;
//! with auth off it is always [`Caller::anonymous`].

use crate::grant::Grants;
use plexus_proto::bus::{Principal, principal::Kind};
use std::{
    sync::{Arc, LazyLock},
    time::SystemTime,
};

/// An authorised caller.
#[derive(Clone, Debug, PartialEq)]
pub struct Caller {
    /// The namespace that owns everything it can see.
    pub namespace: Arc<str>,
    /// As its credentials name it.
    pub principal: Arc<Principal>,
    /// What it may do there.
    pub grants: Arc<Grants>,
    /// When its credentials were made, if they say so.
    pub issued_at: Option<SystemTime>,
    /// When its credentials end; `None`: never.
    pub expires_at: Option<SystemTime>,
    /// The thumbprint of the issuer's key that signed them, where one did.
    pub signed_by: Option<Arc<str>>,
}

impl Caller {
    /// The caller of a gateway without auth: namespace `default`, where it may do everything.
    pub fn anonymous() -> Self {
        // One for all: it comes with every request, and stays with every session.
        static ANONYMOUS: LazyLock<Caller> = LazyLock::new(|| {
            let principal = Principal { kind: Kind::Anonymous as i32, ..Principal::default() };
            Caller::new("default", Grants::all().into(), principal, None)
        });
        ANONYMOUS.clone()
    }

    /// Makes a caller from what its credentials say.
    pub(crate) fn new(
        namespace: &str,
        grants: Arc<Grants>,
        principal: Principal,
        expires_at: Option<SystemTime>,
    ) -> Self {
        let principal = Principal { expires_at: expires_at.map(Into::into), ..principal };
        let (namespace, principal) = (namespace.into(), principal.into());
        Self { namespace, principal, grants, issued_at: None, expires_at, signed_by: None }
    }

    /// The same, within a session of its own: a WebSocket or a stream.
    pub(crate) fn within(&self, session: &str) -> Self {
        let principal = Principal { session: session.into(), ..Principal::clone(&self.principal) };
        Self { principal: principal.into(), ..self.clone() }
    }

    /// Tells whether its credentials have ended.
    pub(crate) fn is_expired(&self, now: SystemTime) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// Tells whether newer credentials are the same caller's.
    pub(crate) fn is_same(&self, newer: &Self) -> bool {
        let kind = |caller: &Self| caller.principal.kind;
        (&self.namespace, kind(self)) == (&newer.namespace, kind(newer))
            && self.principal.subject == newer.principal.subject
    }
}

/// When the caller stops waiting, on this process' clock; in a request's extensions where the dialect
/// was told a deadline, or by default.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(pub std::time::Instant);
