//! Kept values with revisions, over keys.lua; a node's state is fenced and lives in log.lua.

use super::{
    Redis, names,
    value::{self, Args},
};
use crate::{
    Error, Grant, Key, NodeName, Value as Kept, When,
    port::{Answer, Keys},
};
use bytes::Bytes;
use fred::types::Value;
use std::time::Duration;

/// Names of one page of a list.
const PAGE: u64 = 256;

fn condition(when: When) -> Bytes {
    match when {
        When::Always => Bytes::from_static(b"always"),
        When::Absent => Bytes::from_static(b"absent"),
        When::Revision(revision) => revision.to_string().into(),
    }
}

fn kept(answer: Value) -> Result<Option<Kept>, Error> {
    let [revision, data] = value::some(answer)?;
    let Some(revision) = value::maybe(revision)? else { return Ok(None) };
    Ok(Some(Kept { revision: value::digits(&revision)?, data: value::bytes(data)? }))
}

impl Redis {
    async fn kept(&self, key: Bytes) -> Result<Option<Kept>, Error> {
        kept(self.run("HMGET", Args::new(3).bytes(key).text("r").text("d")).await?)
    }
}

impl Keys for Redis {
    fn get(&self, key: Key) -> Answer<'_, Option<Kept>> {
        Box::pin(async move { self.kept(names::value(&key)).await })
    }

    fn put(&self, key: Key, data: Bytes, when: When, ttl: Option<Duration>) -> Answer<'_, Option<u64>> {
        Box::pin(async move {
            let at = names::value(&key);
            let ttl = ttl.map_or(0, |ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX >> 12).max(1));
            let answer = self
                .call(|| {
                    let args = Args::of("plx1_put", at.clone(), 5).bytes(condition(when)).number(ttl);
                    let args = args.bytes(data.clone());
                    match &key {
                        Key::Record(_) => args.text("record"),
                        Key::Sealed(_) => args.text("sealed"),
                        Key::Named(name) => args.text("named").bytes(name.as_bytes().to_vec()),
                    }
                })
                .await?;
            match answer {
                Value::Null => Ok(None),
                revision => value::number(revision).map(Some),
            }
        })
    }

    fn delete(&self, key: Key, when: When) -> Answer<'_, bool> {
        Box::pin(async move {
            let at = names::value(&key);
            let answer = self
                .call(|| {
                    let args = Args::of("plx1_delete", at.clone(), 2).bytes(condition(when));
                    match &key {
                        Key::Named(name) => args.bytes(name.as_bytes().to_vec()),
                        _ => args,
                    }
                })
                .await?;
            value::yes(answer)
        })
    }

    fn list(&self, prefix: String) -> Answer<'_, Vec<(String, Kept)>> {
        Box::pin(async move {
            let (prefix, mut after, mut out) = (Bytes::from(prefix), Bytes::new(), Vec::new());
            loop {
                let page = self.call(|| {
                    let args = Args::of("plx1_list", Bytes::from_static(names::INDEX.as_bytes()), 3);
                    args.bytes(prefix.clone()).bytes(after.clone()).number(PAGE)
                });
                let mut words = value::list(page.await?)?.into_iter();
                let last = value::bytes(words.next().unwrap_or(Value::Null))?;
                while let (Some(name), Some(revision), Some(data)) =
                    (words.next(), words.next(), words.next())
                {
                    let kept = Kept { revision: value::number(revision)?, data: value::bytes(data)? };
                    out.push((value::text(name)?, kept));
                }
                if last.is_empty() {
                    return Ok(out);
                }
                after = last;
            }
        })
    }

    fn put_state<'a>(&'a self, node: &'a NodeName, grant: Grant, state: Bytes) -> Answer<'a, bool> {
        Box::pin(async move {
            let key = names::node(node, "f");
            let args = || {
                let args = Args::of("plx1_state", key.clone(), 3);
                args.number(grant.epoch).number(grant.nonce).bytes(state.clone())
            };
            value::yes(self.call(args).await?)
        })
    }

    fn get_state<'a>(&'a self, node: &'a NodeName) -> Answer<'a, (Option<Kept>, Option<Bytes>)> {
        Box::pin(async move {
            let record = self.kept(names::node(node, "d"));
            let state = self.run("HGET", Args::new(2).bytes(names::node(node, "x")).text("d"));
            let (record, state) = futures::future::try_join(record, state).await?;
            Ok((record, value::maybe(state)?))
        })
    }
}
