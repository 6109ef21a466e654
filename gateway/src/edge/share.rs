//! How many streams and sessions each caller and each namespace has open. With auth off everybody is the same
//! caller, who has no share. Keys are kept as hashes under a secret of this process.

use crate::{
    caller::Caller,
    config::Limits,
    metrics::{Bucket, ByBucket, Metrics},
};
use plexus_proto::{bus::principal::Kind, reason::Reason, v1};
use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex},
    time::Duration,
};

/// The shares; cheap to clone. As many entries as streams and sessions that are open.
#[derive(Clone)]
pub(crate) struct Shares(Arc<Parts>);

struct Parts {
    caller: Table,
    namespace: Table,
    hasher: RandomState,
    metrics: Metrics,
}

/// The place of one stream or session, until it is dropped.
pub(crate) struct Share {
    of: Shares,
    caller: u64,
    namespace: u64,
}

impl Shares {
    /// Allows each caller and each namespace so many; 0: any number.
    pub(crate) fn new(limits: &Limits, metrics: Metrics) -> Self {
        let table = |most| Table { most, open: Mutex::default() };
        Self(Arc::new(Parts {
            caller: table(limits.open_per_caller_max),
            namespace: table(limits.open_per_namespace_max),
            hasher: RandomState::new(),
            metrics,
        }))
    }

    /// Takes a place for a stream or a session of a caller.
    pub(crate) fn take(&self, caller: &Caller) -> Result<Option<Share>, Box<v1::Error>> {
        let (namespace, principal) = (&caller.namespace, &caller.principal);
        if principal.kind == Kind::Anonymous as i32 {
            return Ok(None);
        }
        let Parts { caller: callers, namespace: namespaces, hasher, .. } = &*self.0;
        let caller = hasher.hash_one((namespace, principal.kind, &principal.subject));
        let namespace = hasher.hash_one(namespace);
        if !callers.enter(caller) {
            return Err(self.refused(Bucket::Caller, callers.most));
        }
        if !namespaces.enter(namespace) {
            callers.leave(caller);
            return Err(self.refused(Bucket::Namespace, namespaces.most));
        }
        Ok(Some(Share { of: self.clone(), caller, namespace }))
    }

    fn refused(&self, bucket: Bucket, most: usize) -> Box<v1::Error> {
        self.0.metrics.open_refused.get_or_create(&ByBucket { bucket }).inc();
        let text = format!("more than {most} streams and sessions of this {}", bucket.name());
        let wait = Duration::from_millis(rand::random_range(1_000..5_000));
        let error = v1::Error::new(Reason::ConnectionLimit, text).with("bucket", bucket.name());
        Box::new(error.with("limit", most).retry_after(wait))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.0.caller.leave(self.caller);
        self.of.0.namespace.leave(self.namespace);
    }
}

/// How many each has.
struct Table {
    most: usize,
    open: Mutex<HashMap<u64, usize>>,
}

impl Table {
    fn enter(&self, key: u64) -> bool {
        if self.most == 0 {
            return true;
        }
        let mut open = self.open.lock().expect("nobody panics while holding it");
        let count = open.entry(key).or_default();
        // One that is full has an entry already, so none is left behind.
        let fits = *count < self.most;
        *count += usize::from(fits);
        fits
    }

    fn leave(&self, key: u64) {
        let mut open = self.open.lock().expect("nobody panics while holding it");
        if let Some(count) = open.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                open.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grant::Grants;
    use plexus_proto::bus::Principal;

    fn caller(namespace: &str, subject: &str) -> Caller {
        let principal = Principal { subject: subject.into(), kind: Kind::Jwt as i32, ..Principal::default() };
        Caller::new(namespace, Grants::all().into(), principal, None)
    }

    fn shares(open_per_caller_max: usize, open_per_namespace_max: usize) -> Shares {
        let limits = Limits { open_per_caller_max, open_per_namespace_max, ..Limits::default() };
        Shares::new(&limits, Metrics::default())
    }

    #[test]
    fn callers_and_namespaces_have_places_of_their_own_and_give_them_back() {
        let shares = shares(2, 3);
        let take = |namespace, subject| {
            let taken = shares.take(&caller(namespace, subject));
            taken.map(Option::unwrap).map_err(|error| error.metadata["bucket"].clone())
        };
        let held = [take("n", "ann").unwrap(), take("n", "ann").unwrap()];
        assert_eq!(take("n", "ann").err().unwrap(), "caller");
        let bob = take("n", "bob").unwrap();
        assert_eq!(take("n", "bob").err().unwrap(), "namespace");
        assert!(take("m", "ann").is_ok(), "another namespace has its own");
        drop((held, bob));
        assert!(shares.0.caller.open.lock().unwrap().is_empty(), "who has none is forgotten");
        assert!(shares.0.namespace.open.lock().unwrap().is_empty());
        assert!(take("n", "bob").is_ok());
    }

    #[test]
    fn one_too_many_hears_when_to_come_back_and_nobody_counts_who_is_anonymous() {
        let shares = shares(1, 0);
        let _held = shares.take(&caller("n", "ann")).unwrap();
        let told = shares.take(&caller("n", "ann")).err().unwrap();
        assert!(told.is(Reason::ConnectionLimit) && told.retry_after.is_some());
        assert_eq!(told.metadata["limit"], "1");
        for _ in 0..3 {
            assert!(shares.take(&Caller::anonymous()).unwrap().is_none());
        }
    }
}
