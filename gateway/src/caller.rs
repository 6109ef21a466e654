//! Who asks. Every dialect puts a [`Caller`] into the request's extensions before a service sees it;
//! with auth off it is always [`Caller::anonymous`].

use plexus_proto::bus::{Principal, principal::Kind};
use std::sync::Arc;

/// An authorised caller.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The namespace that owns everything it can see.
    pub namespace: Arc<str>,
    /// As its credentials name it.
    pub principal: Arc<Principal>,
}

impl Caller {
    /// The caller of a gateway without auth: namespace `default`.
    pub fn anonymous() -> Self {
        let principal = Principal { kind: Kind::Anonymous as i32, ..Principal::default() };
        Self { namespace: "default".into(), principal: principal.into() }
    }
}

/// When the caller stops waiting, on this process' clock; in a request's extensions where the dialect
/// was told a deadline, or by default.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(pub std::time::Instant);
