//! Free keys: values with revisions, some of which expire.

use super::tables::{holds, next};
use crate::{Value, When};
use bytes::Bytes;
use std::{collections::BTreeMap, ops::Bound, sync::Arc};
use tokio::time::Instant;

/// The free keys by name.
#[derive(Default)]
pub(super) struct Names(BTreeMap<Arc<str>, Kept>);

struct Kept {
    value: Value,
    expires: Option<Instant>,
}

impl Kept {
    fn lives(&self, now: Instant) -> bool {
        self.expires.is_none_or(|end| now < end)
    }
}

impl Names {
    fn present(&self, name: &str, now: Instant) -> Option<&Value> {
        self.0.get(name).filter(|kept| kept.lives(now)).map(|kept| &kept.value)
    }

    pub(super) fn get(&self, name: &str, now: Instant) -> Option<Value> {
        self.present(name, now).cloned()
    }

    /// Writes a value where `when` holds; answers its revision.
    pub(super) fn put(
        &mut self,
        name: &Arc<str>,
        data: Bytes,
        when: When,
        expires: Option<Instant>,
        now: Instant,
    ) -> Option<u64> {
        let revision = next(self.present(name, now), when)?;
        self.0.insert(name.clone(), Kept { value: Value { revision, data }, expires });
        Some(revision)
    }

    /// Tells whether a name may be written: it is there, or there is room for it.
    pub(super) fn has_room(&mut self, name: &str, most: usize, now: Instant) -> bool {
        if self.0.len() >= most && !self.0.contains_key(name) {
            self.sweep(now);
        }
        self.0.len() < most || self.0.contains_key(name)
    }

    pub(super) fn delete(&mut self, name: &str, when: When, now: Instant) -> bool {
        let deletes = self.present(name, now).is_some_and(|value| holds(Some(value), when));
        if deletes {
            self.0.remove(name);
        }
        deletes
    }

    /// Lists what begins with `prefix`, by name.
    pub(super) fn list(&self, prefix: &str, now: Instant) -> Vec<(String, Value)> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let named = self.0.range::<str, _>(from).take_while(|(name, _)| name.starts_with(prefix));
        named
            .filter(|(_, kept)| kept.lives(now))
            .map(|(name, kept)| (name.to_string(), kept.value.clone()))
            .collect()
    }

    pub(super) fn sweep(&mut self, now: Instant) {
        self.0.retain(|_, kept| kept.lives(now));
    }
}
