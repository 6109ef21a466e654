//! How often a caller may call: token buckets by client address, by caller and by namespace, which the
//! trunk asks once a call, whatever the dialect. What is remembered of each is one number, in a table
//! with a bound; keys are kept as hashes under a secret of this process.

use super::{connection::Peer, forwarders::Forwarders};
use crate::{
    caller::Caller,
    config,
    metrics::{Bucket, ByBucket, Metrics},
};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Response, header};
use plexus_proto::{bus::principal::Kind, reason::Reason, v1};
use prometheus_client::metrics::counter::Counter;
use smallvec::SmallVec;
use std::{
    collections::HashMap,
    fmt::Write,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Time between two sweeps of a table that grows, and of one that is full.
const SWEEP: Duration = Duration::from_secs(60);
const SWEEP_FULL: Duration = Duration::from_secs(1);

/// The buckets; cheap to clone.
#[derive(Clone)]
pub(crate) struct Rates(Arc<Parts>);

struct Parts {
    address: Option<Table>,
    caller: Option<Table>,
    namespace: Option<Table>,
    forwarders: Arc<Forwarders>,
    hasher: RandomState,
    metrics: Metrics,
}

/// What an answer says about the rate in its head, as draft-ietf-httpapi-ratelimit-headers-11 has it; in a
/// response's extensions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told(pub(crate) HeaderMap);

impl Told {
    /// Writes it into the head of the response that carries it.
    pub(crate) fn write<B>(mut response: Response<B>) -> Response<B> {
        if let Some(Self(told)) = response.extensions_mut().remove() {
            response.headers_mut().extend(told);
        }
        response
    }
}

/// A call that may be made, and what its buckets hold still.
#[derive(Default)]
pub(crate) struct Standing(SmallVec<[(Bucket, Quota, u32); 3]>);

/// A call too many.
pub(crate) struct Limited {
    /// Why, and when to come back.
    pub(crate) error: v1::Error,
    /// The same as headers.
    pub(crate) told: Told,
}

impl Rates {
    /// Makes the buckets, all full.
    pub(crate) fn new(config: &config::Rate, forwarders: Arc<Forwarders>, metrics: Metrics) -> Self {
        let table = |per_second, burst| {
            let quota = Quota::new(per_second, burst)?;
            Some(Table::new(quota, config.entries_max, metrics.rate_overflow.clone()))
        };
        Self(Arc::new(Parts {
            address: table(config.address_per_second, config.address_burst),
            caller: table(config.caller_per_second, config.caller_burst),
            namespace: table(config.namespace_per_second, config.namespace_burst),
            forwarders,
            hasher: RandomState::new(),
            metrics,
        }))
    }

    /// Takes one call out of every bucket of whoever makes it: the address first, so that nobody spends what
    /// belongs to a namespace without a share of his own.
    pub(crate) fn take(&self, extensions: &Extensions) -> Result<Standing, Box<Limited>> {
        let mut standing = Standing::default();
        self.address(extensions, &mut standing)?;
        // Everybody is the same anonymous caller, who has no share of his own.
        if let Some(caller) = extensions.get::<Caller>()
            && caller.principal.kind != Kind::Anonymous as i32
        {
            let (namespace, principal) = (&caller.namespace, &caller.principal);
            let key = (namespace, principal.kind, &principal.subject);
            self.one(Bucket::Caller, &self.0.caller, key, &mut standing)?;
            self.one(Bucket::Namespace, &self.0.namespace, namespace, &mut standing)?;
        }
        Ok(standing)
    }

    /// Counts a request that was refused before it became a call, for its address alone.
    pub(crate) fn attempt(&self, extensions: &Extensions) -> Result<(), Box<Limited>> {
        self.address(extensions, &mut Standing::default())
    }

    fn address(&self, extensions: &Extensions, standing: &mut Standing) -> Result<(), Box<Limited>> {
        let peer = extensions.get::<Peer>().and_then(|Peer(peer)| self.0.forwarders.counted(peer.ip()));
        match peer {
            Some(address) => self.one(Bucket::Address, &self.0.address, address, standing),
            None => Ok(()),
        }
    }

    fn one(
        &self,
        bucket: Bucket,
        table: &Option<Table>,
        key: impl std::hash::Hash,
        standing: &mut Standing,
    ) -> Result<(), Box<Limited>> {
        let Some(table) = table else { return Ok(()) };
        match table.take(self.0.hasher.hash_one(key)) {
            Ok(left) => {
                standing.0.push((bucket, table.quota, left));
                Ok(())
            }
            Err(wait) => {
                self.0.metrics.rate_limited.get_or_create(&ByBucket { bucket }).inc();
                Err(Box::new(Limited::new(bucket, table.quota, wait)))
            }
        }
    }
}

impl Standing {
    /// What the head of the answer says.
    pub(crate) fn told(&self) -> Option<Told> {
        let (mut policy, mut left) = (String::new(), String::new());
        for (bucket, quota, remaining) in &self.0 {
            let spent = quota.burst.saturating_sub(*remaining);
            write_item(&mut policy, &mut left, *bucket, *quota, *remaining, quota.interval * spent);
        }
        (!self.0.is_empty()).then(|| Told(headers(policy, left)))
    }
}

impl Limited {
    fn new(bucket: Bucket, quota: Quota, wait: Duration) -> Self {
        let (mut policy, mut left) = (String::new(), String::new());
        write_item(&mut policy, &mut left, bucket, quota, 0, wait);
        let mut told = headers(policy, left);
        told.insert(header::RETRY_AFTER, whole(wait).into());
        let most = (1.0 / quota.interval.as_secs_f64()).round();
        let text = format!("too many calls of this {}: {most} a second", bucket.name());
        let error = v1::Error::new(Reason::RateLimited, text).with("bucket", bucket.name());
        Self { error: error.with("limit", most).retry_after(wait), told: Told(told) }
    }
}

/// Adds a bucket to both lists: its policy, and what is left of it for how long.
fn write_item(
    policy: &mut String,
    left: &mut String,
    bucket: Bucket,
    quota: Quota,
    remaining: u32,
    t: Duration,
) {
    let (name, comma) = (bucket.name(), if policy.is_empty() { "" } else { ", " });
    let (most, window) = (quota.burst, whole(quota.window()));
    let _ = write!(policy, "{comma}\"{name}\";q={most};w={window}");
    let _ = write!(left, "{comma}\"{name}\";r={remaining};t={}", whole(t));
}

fn headers(policy: String, left: String) -> HeaderMap {
    let value = |text| HeaderValue::try_from(text).expect("names and numbers are a header");
    HeaderMap::from_iter([(RATE_LIMIT_POLICY, value(policy)), (RATE_LIMIT, value(left))])
}

/// Whole seconds, never fewer, and at least one where there is any time at all.
fn whole(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// How a bucket fills: so much at once, one more after each interval. The generic cell rate algorithm, which
/// remembers of a bucket only when it is full again; times count from the table's beginning.
#[derive(Clone, Copy, Debug)]
struct Quota {
    burst: u32,
    interval: Duration,
}

impl Quota {
    /// None where there is no limit.
    fn new(per_second: u32, burst: u32) -> Option<Self> {
        (per_second > 0 && burst > 0).then(|| Self { burst, interval: Duration::from_secs(1) / per_second })
    }

    /// Time that an empty bucket takes to fill.
    fn window(self) -> Duration {
        self.interval * self.burst
    }

    /// Takes one call out of a bucket that is full at `full_at`: how many are left and when it is full then, or
    /// how long until there is one.
    fn take(self, full_at: Duration, now: Duration) -> Result<(u32, Duration), Duration> {
        let next = full_at.max(now) + self.interval;
        let room = (now + self.window()).checked_sub(next).ok_or_else(|| next - now - self.window())?;
        let left = room.as_nanos() / self.interval.as_nanos();
        Ok((u32::try_from(left).unwrap_or(u32::MAX), next))
    }
}

/// Buckets of one kind.
struct Table {
    quota: Quota,
    entries: Mutex<Entries>,
    entries_max: usize,
    began: Instant,
    /// Calls that found the table full.
    overflow: Counter,
}

/// What is remembered of the buckets. One that is full again is forgotten.
#[derive(Default)]
struct Entries {
    /// When each bucket is full again.
    known: HashMap<u64, Duration>,
    /// The same of the one bucket of those for whom there was no room.
    rest: Duration,
    swept: Duration,
}

impl Table {
    fn new(quota: Quota, entries_max: usize, overflow: Counter) -> Self {
        Self { quota, entries: Mutex::default(), entries_max, began: Instant::now(), overflow }
    }

    /// Takes one call out of a bucket: how many are left, or how long until there is one.
    fn take(&self, key: u64) -> Result<u32, Duration> {
        let mut entries = self.entries.lock().expect("nobody panics while holding it");
        entries.take(self, key, self.began.elapsed())
    }
}

impl Entries {
    fn take(&mut self, table: &Table, key: u64, now: Duration) -> Result<u32, Duration> {
        let full_at = match self.known.get_mut(&key) {
            Some(full_at) => full_at,
            None => self.room(table, key, now),
        };
        let (left, next) = table.quota.take(*full_at, now)?;
        *full_at = next;
        Ok(left)
    }

    /// The place of a new bucket: its own, or the one that is shared.
    fn room(&mut self, table: &Table, key: u64, now: Duration) -> &mut Duration {
        let pause = if self.known.len() < table.entries_max { SWEEP } else { SWEEP_FULL };
        if now.saturating_sub(self.swept) >= pause {
            self.known.retain(|_, full_at| *full_at > now);
            self.swept = now;
        }
        if self.known.len() < table.entries_max {
            return self.known.entry(key).or_default();
        }
        table.overflow.inc();
        &mut self.rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A table whose time is told.
    struct Scene(Table, Duration);

    impl Scene {
        fn new(per_second: u32, burst: u32, entries_max: usize) -> Self {
            let quota = Quota::new(per_second, burst).unwrap();
            Self(Table::new(quota, entries_max, Counter::default()), Duration::ZERO)
        }

        fn take(&mut self, key: u64) -> Result<u32, Duration> {
            self.0.entries.lock().unwrap().take(&self.0, key, self.1)
        }

        fn wait(&mut self, ms: u64) {
            self.1 += Duration::from_millis(ms);
        }
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_one_call_at_a_time() {
        let mut scene = Scene::new(10, 3, 9);
        let left: Vec<_> = (0..3).map(|_| scene.take(1).unwrap()).collect();
        assert_eq!(left, [2, 1, 0]);
        assert_eq!(scene.take(1), Err(Duration::from_millis(100)));
        assert_eq!(scene.take(2), Ok(2), "another has a bucket of his own");
        scene.wait(40);
        assert_eq!(scene.take(1), Err(Duration::from_millis(60)));
        scene.wait(60);
        assert_eq!(scene.take(1), Ok(0));
        scene.wait(9_000);
        assert_eq!(scene.take(1), Ok(2), "a bucket holds no more than its burst");
    }

    #[test]
    fn those_beyond_the_table_share_one_bucket_until_there_is_room() {
        let mut scene = Scene::new(1, 2, 2);
        assert_eq!((scene.take(1), scene.take(2)), (Ok(1), Ok(1)));
        assert_eq!((scene.take(3), scene.take(4)), (Ok(1), Ok(0)), "they share");
        assert!(scene.take(5).is_err());
        assert_eq!(scene.take(1), Ok(0), "who was known before is not hurt");
        scene.wait(3_000);
        assert_eq!((scene.take(5), scene.take(5)), (Ok(1), Ok(0)), "full buckets were forgotten");
        assert_eq!(scene.take(6), Ok(1));
    }

    #[test]
    fn an_answer_says_what_is_left_and_a_refusal_when_to_come_back() {
        let quota = Quota::new(10, 45).unwrap();
        let standing = [(Bucket::Address, quota, 44), (Bucket::Caller, quota, 10)];
        let Told(told) = Standing(standing.into_iter().collect()).told().unwrap();
        assert_eq!(told["ratelimit-policy"], "\"address\";q=45;w=5, \"caller\";q=45;w=5");
        assert_eq!(told["ratelimit"], "\"address\";r=44;t=1, \"caller\";r=10;t=4");
        assert!(Standing::default().told().is_none());
        let limited = Limited::new(Bucket::Namespace, quota, Duration::from_millis(1100));
        assert_eq!(limited.told.0["ratelimit"], "\"namespace\";r=0;t=2");
        assert_eq!(limited.told.0["retry-after"], "2");
        assert!(limited.error.is(Reason::RateLimited));
        let facts = &limited.error.metadata;
        assert_eq!((&*facts["bucket"], &*facts["limit"]), ("namespace", "10"));
    }

    proptest! {
        #[test]
        fn no_table_grows_over_its_bound_and_no_bucket_gives_more_than_it_got(
            takes in proptest::collection::vec((0u64..9, 0u64..400), 1..200), entries_max in 1usize..6,
        ) {
            let mut scene = Scene::new(10, 3, entries_max);
            let (mut time, mut given) = (0, HashMap::<u64, u64>::new());
            for (key, pause) in takes {
                scene.wait(pause);
                time += pause;
                if scene.take(key).is_ok() {
                    *given.entry(key).or_default() += 1;
                }
                prop_assert!(scene.0.entries.lock().unwrap().known.len() <= entries_max);
            }
            // A bucket is forgotten only when it is full; who came to the shared one may get one of its own.
            prop_assert!(given.values().all(|n| *n <= 2 * 3 + time / 100));
        }
    }
}
