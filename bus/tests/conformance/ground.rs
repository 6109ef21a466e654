//! What a case stands on: a store of its own with two handles to it, and the few words that all cases
//! use.

use crate::server::Server;
use bytes::Bytes;
use plexus_bus::{
    Append, Appended, Bus, Claim, Config, Error, Event, Grant, Incarnation, Key, Metrics, NodeName, Opened,
    Opening, Payload, Position, Range, Renewed, Spot, Stage, Subscription, Taken, Topic, When,
    embedded::Embedded,
};
use plexus_proto::bus as wire;
use prost::Message;
use std::{
    future::Future,
    io::Write,
    sync::{Arc, Once},
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout};

/// The carriers that the suite holds to its promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// Within the process.
    Embedded,
    /// The same, with everything encoded on the way.
    Strict,
    /// A real server.
    Redis,
}

/// One store, with two handles to it; for Redis each has connections of its own.
pub(crate) struct Ground {
    pub(crate) bus: Bus,
    pub(crate) other: Bus,
    carrier: Carrier,
    store: Store,
}

enum Store {
    Memory(Arc<Embedded>),
    Redis(Server),
}

/// Runs one case on a store of its own.
pub(crate) fn run<F: Future<Output = ()>>(carrier: Carrier, case: impl FnOnce(Ground) -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        match Ground::open(carrier, |_| ()).await {
            Some(ground) => Box::pin(case(ground)).await,
            None => untried(),
        }
    });
}

/// Says so once, past the capture of test output; where CI runs, it is a failure.
fn untried() {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        let _ = std::io::stderr().write_all(b"\nNOT TRIED: redis (there is no redis-server on the path)\n");
    });
    assert!(std::env::var("CI").is_err(), "CI tries every carrier");
}

impl Ground {
    async fn open(carrier: Carrier, change: impl FnOnce(&mut Config)) -> Option<Self> {
        let mut config = Config { strict: carrier == Carrier::Strict, ..Config::default() };
        change(&mut config);
        if carrier != Carrier::Redis {
            let metrics = Metrics::default();
            let port = Arc::new(Embedded::new(&config, metrics.clone()));
            let bus = Bus::over(port.clone(), &config, metrics);
            return Some(Self { other: bus.clone(), bus, carrier, store: Store::Memory(port) });
        }
        let server = Server::start().await?;
        config.url = server.url();
        let bus = Bus::open(&config).await.unwrap();
        let other = Bus::open(&config).await.unwrap();
        Some(Self { bus, other, carrier, store: Store::Redis(server) })
    }

    /// Begins anew, on an empty store and with another config.
    pub(crate) async fn anew(self, change: impl FnOnce(&mut Config)) -> Self {
        let carrier = self.carrier;
        drop(self);
        Self::open(carrier, change).await.expect("the first one started")
    }

    /// The server, in cases for Redis alone.
    pub(crate) fn server(&self) -> &Server {
        match &self.store {
            Store::Redis(server) => server,
            Store::Memory(_) => panic!("a case for Redis alone"),
        }
    }

    /// Whether this is a server.
    pub(crate) fn is_remote(&self) -> bool {
        matches!(self.store, Store::Redis(_))
    }

    /// The store answers nothing until [`Ground::resume`], or for ten seconds.
    pub(crate) async fn stand(&self) {
        match &self.store {
            Store::Memory(port) => port.stand(Duration::from_secs(10)).await.unwrap(),
            Store::Redis(server) => server.freeze(),
        }
    }

    /// The store goes on.
    pub(crate) async fn resume(&self) {
        match &self.store {
            Store::Memory(port) => port.resume(),
            Store::Redis(server) => server.thaw(),
        }
    }

    /// Breaks every connection once.
    pub(crate) async fn cut(&self) {
        match &self.store {
            Store::Memory(port) => port.restore().await.unwrap(),
            Store::Redis(server) => {
                for kind in ["pubsub", "normal"] {
                    server.say(&["CLIENT", "KILL", "TYPE", kind]).await.unwrap();
                }
            }
        }
    }

    /// A node whose record is written.
    pub(crate) async fn founded(&self, name: &str) -> NodeName {
        let node = node(name);
        let put = self.bus.put(Key::Record(node.clone()), Bytes::from_static(b"record"), When::Absent, None);
        assert_eq!(put.await, Ok(Some(1)));
        node
    }

    /// A node whose record is written, with an author of epoch 10 that opened these topics.
    pub(crate) async fn authored(&self, name: &str, topics: &[&str]) -> Author {
        let author = self.author(&self.founded(name).await, 10, 1);
        author.opened(topics).await;
        author
    }

    /// Somebody who writes a node's logs under a grant.
    pub(crate) fn author(&self, node: &NodeName, epoch: u64, nonce: u64) -> Author {
        Author { bus: self.bus.clone(), node: node.clone(), grant: Grant { epoch, nonce } }
    }

    /// A worker with a lease.
    pub(crate) async fn worker(&self, name: &str) -> Worker {
        let worker = Worker { bus: self.bus.clone(), inc: name.into() };
        worker.renewed(true).await.expect("a fresh lease is given");
        worker
    }
}

/// The first opening of a grant, without a sweep.
pub(crate) const FIRST: Stage = Stage::First { sweep: false };
/// The same with one.
pub(crate) const SWEEP: Stage = Stage::First { sweep: true };

/// Who writes a node's logs.
#[derive(Clone)]
pub(crate) struct Author {
    pub(crate) bus: Bus,
    pub(crate) node: NodeName,
    pub(crate) grant: Grant,
}

impl Author {
    /// The opening entry as its owner encodes it.
    pub(crate) fn marker(&self) -> wire::LogEntry {
        let opening = wire::EpochOpening { worker: "pod.1".into(), ..Default::default() };
        let Grant { epoch, nonce } = self.grant;
        wire::LogEntry { epoch, nonce, opening: Some(opening), ..Default::default() }
    }

    pub(crate) async fn open(&self, topics: &[&str], stage: Stage) -> Result<Opened, Error> {
        let topics: Vec<Topic> = topics.iter().map(|t| topic(t)).collect();
        self.bus.open_logs(&self.node, self.grant, &topics, self.marker().encode_to_vec().into(), stage).await
    }

    /// Opens for the first time, by topic.
    pub(crate) async fn opened(&self, topics: &[&str]) -> Vec<Opening> {
        by_topic(self.open(topics, FIRST).await)
    }

    /// Opens further topics.
    pub(crate) async fn opened_later(&self, topics: &[&str]) -> Vec<Opening> {
        by_topic(self.open(topics, Stage::Later).await)
    }

    /// An entry of messages `first` to `last`.
    pub(crate) fn entry(&self, first: u64, last: u64) -> wire::LogEntry {
        let message = |n: u64| wire::LogMessage {
            id: Bytes::copy_from_slice(&n.to_be_bytes()),
            data: format!("message {n} of {}", self.grant.nonce).into(),
            ..Default::default()
        };
        let Grant { epoch, nonce } = self.grant;
        let messages = (first..=last).map(message).collect();
        wire::LogEntry { epoch, nonce, seq: last, messages, ..Default::default() }
    }

    pub(crate) fn append_of(&self, at: &str, first: u64, last: u64) -> Append {
        let entry = Payload::of(self.entry(first, last));
        Append { topic: topic(at), first, last, keep: 1_000_000, entry }
    }

    pub(crate) async fn append(&self, topic: &str, first: u64, last: u64) -> Appended {
        self.bus.append(&self.node, self.grant, vec![self.append_of(topic, first, last)]).await.unwrap()
    }

    /// Appends what must be accepted.
    pub(crate) async fn write(&self, topic: &str, first: u64, last: u64) {
        assert_eq!(self.append(topic, first, last).await, logged(), "{topic} {first}..{last}");
    }

    /// The ids that the log holds.
    pub(crate) async fn ids(&self, at: &str) -> Vec<Position> {
        let read = self.bus.read(&self.node, &topic(at), all()).await.unwrap();
        read.into_iter().map(|entry| entry.id).collect()
    }
}

/// A worker with a lease.
pub(crate) struct Worker {
    pub(crate) bus: Bus,
    pub(crate) inc: Incarnation,
}

impl Worker {
    /// Renews; answers its change count, `None` where the lease is lost.
    pub(crate) async fn renewed(&self, fresh: bool) -> Option<u64> {
        match self.bus.renew(&self.inc, fresh).await.unwrap() {
            Renewed::Held { changes, .. } => Some(changes),
            Renewed::Lost => None,
        }
    }

    /// Takes one node; `None` where it is not free.
    pub(crate) async fn take(&self, node: &NodeName, nonce: u64) -> Option<u64> {
        self.claim(nonce, Claim { node: node.clone(), floor: 0, from: None }).await
    }

    pub(crate) async fn claim(&self, nonce: u64, claim: Claim) -> Option<u64> {
        match self.bus.take(&self.inc, nonce, &[claim]).await.unwrap() {
            Taken::Epochs(epochs) => epochs[0],
            Taken::Lost => panic!("{} has no lease", self.inc),
        }
    }

    pub(crate) async fn release(&self, node: &NodeName, epoch: u64) -> usize {
        self.bus.release(&self.inc, &[(node.clone(), epoch)]).await.unwrap()
    }
}

pub(crate) fn node(name: &str) -> NodeName {
    NodeName::new("default", name).unwrap()
}

pub(crate) fn topic(name: &str) -> Topic {
    Bytes::copy_from_slice(name.as_bytes())
}

pub(crate) fn at(epoch: u64, seq: u64) -> Position {
    Position::new(epoch, seq)
}

/// The whole log.
pub(crate) fn all() -> Range {
    Range { from: Position::ZERO, until: None, limit: 10_000, newest_first: false }
}

pub(crate) fn logged() -> Appended {
    Appended::Done(vec![Spot::Logged])
}

pub(crate) fn off(tail: Option<Position>) -> Appended {
    Appended::Done(vec![Spot::Off(tail)])
}

/// The openings by topic, of an `open` that must succeed.
pub(crate) fn by_topic(opened: Result<Opened, Error>) -> Vec<Opening> {
    match opened.unwrap() {
        Opened::Done(mut openings) => {
            openings.sort_by(|a, b| a.topic.cmp(&b.topic));
            openings
        }
        refused => panic!("{refused:?}"),
    }
}

/// The next event, which must come soon.
pub(crate) async fn event(subscription: &mut Subscription) -> Event {
    timeout(Duration::from_secs(5), subscription.recv())
        .await
        .expect("an event")
        .expect("an open subscription")
}

/// The next event, which must be a frame.
pub(crate) async fn frame(subscription: &mut Subscription) -> Payload {
    match event(subscription).await {
        Event::Frame(frame) => frame,
        other => panic!("{other:?} in place of a frame"),
    }
}

/// The next frame, a text.
pub(crate) async fn text(subscription: &mut Subscription) -> String {
    frame(subscription).await.take().unwrap()
}

/// The next frame, an entry.
pub(crate) async fn entry(subscription: &mut Subscription) -> wire::LogEntry {
    frame(subscription).await.take().unwrap()
}

/// Asks until there is an answer.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut probe: impl FnMut() -> F,
) -> T {
    let patience = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < patience, "never: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}
