//! The worker: hosts libp2p nodes. [`host`] decides which nodes live here, each [`node`] is one
//! identity with one task and one swarm, [`swarm`] assembles libp2p. It names no axum.

pub mod clock;
mod config;
mod error;
pub mod host;
mod metrics;
pub mod node;
mod pulse;
pub mod swarm;

pub use config::{Config, incarnation};
pub use error::{Error, Refusal, refuse};
pub use metrics::Metrics;
pub use pulse::{Alive, Pulse};

use host::Seal;
use plexus_bus::Bus;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A worker, ready to run.
pub struct Worker {
    config: Arc<Config>,
    id: String,
    seal: Seal,
    bus: Bus,
    metrics: Metrics,
    ready: watch::Sender<bool>,
    alive: Alive,
}

/// Tells whether a worker may host nodes; cheap to clone, and outlives the worker.
#[derive(Clone, Debug)]
pub struct Ready(watch::Receiver<bool>);

impl Ready {
    /// Tells whether the worker holds its lease and is not draining.
    pub fn is_ready(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until the worker is ready; false: it ended before. Cancel-safe.
    pub async fn wait(&mut self) -> bool {
        self.0.wait_for(|ready| *ready).await.is_ok()
    }
}

impl Worker {
    /// Checks the config and reads the key-encryption key. Nothing happens before [`Worker::run`].
    pub fn new(config: Config, bus: Bus) -> Result<Self, Error> {
        let id = config.name()?;
        let seal = Seal::load(&config.keys)?;
        let metrics = Metrics::default();
        let (ready, alive) = (watch::Sender::new(false), Alive::default());
        Ok(Self { config: Arc::new(config), id, seal, bus, metrics, ready, alive })
    }

    /// The counters, to be registered once.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// A handle that tells whether the worker may host nodes.
    pub fn ready(&self) -> Ready {
        Ready(self.ready.subscribe())
    }

    /// A handle that tells whether the loops turn.
    pub fn alive(&self) -> Alive {
        self.alive.clone()
    }

    /// Hosts nodes until `stop`, then hands each over and ends the lease; at most [`Config::drain`].
    pub async fn run(self, stop: CancellationToken) {
        let spawn: host::Spawn =
            Arc::new(|start, stop| Box::pin(node::event_loop::EventLoop::new(start).run(stop)));
        let Self { config, id, seal, bus, metrics, ready, alive } = self;
        let probes = host::Probes { ready, alive };
        host::EventLoop::new(config, &id, bus, seal, metrics, probes, spawn).run(stop).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use plexus_bus::{
        Body, Call, CallId, Envelope, Event, Frame, NodeName, Outcome, Payload, Subject, Subscription,
    };
    use plexus_proto::{
        bus::NodeState,
        text,
        v1::{CreateNodeRequest, ListTopicsRequest, ListTopicsResponse, Node, node_status::State},
    };
    use std::time::{Duration, Instant};
    use tokio::task::JoinSet;

    const LIMIT: Duration = Duration::from_secs(20);

    async fn eventually<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
        let end = Instant::now() + LIMIT;
        while !check().await {
            assert!(Instant::now() < end, "never: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A caller in the place of a gateway.
    struct Caller {
        bus: Bus,
        replies: Subscription,
    }

    impl Caller {
        async fn call(&mut self, method: &str, node: Option<&NodeName>, payload: Payload) -> Bytes {
            let call = Call {
                method: method.into(),
                payload,
                node: node.cloned(),
                namespace: "default".into(),
                reply_to: "g".into(),
                deadline: None,
                caller: Default::default(),
                idempotency_key: String::new(),
                epoch_seen: 0,
                attempt: 0,
                idempotent: false,
                credit: 0,
            };
            let envelope = Envelope {
                id: CallId::now_v7(),
                sequence: 0,
                traceparent: String::new(),
                tracestate: String::new(),
                epoch: 0,
                body: Body::Call(Box::new(call)),
            };
            let subject = node.map_or(Subject::Anyone, |node| Subject::Calls(node.clone()));
            let sent = || self.bus.publish(subject.clone(), Payload::of(envelope.clone()));
            eventually("somebody listens", || async { sent().await.unwrap() > 0 }).await;
            loop {
                let event = tokio::time::timeout(LIMIT, self.replies.recv()).await.expect("an answer comes");
                let Some(Event::Frame(frame)) = event else { panic!("{event:?}") };
                if let Body::Outcome(Outcome { result, .. }) = frame.take::<Envelope>().unwrap().body {
                    return result.unwrap().to_bytes();
                }
            }
        }
    }

    async fn state(bus: &Bus, node: &NodeName) -> State {
        let (_, state) = bus.get_state(node).await.unwrap();
        let state = state.map(|bytes| NodeState::from_bytes(bytes).unwrap()).unwrap_or_default();
        state.status.unwrap_or_default().state()
    }

    #[tokio::test]
    async fn a_worker_brings_up_the_node_it_made_and_leaves_nothing_behind() {
        let bus = Bus::open(&plexus_bus::Config { strict: true, ..Default::default() }).await.unwrap();
        let keys = config::Keys { generate: true, ..Default::default() };
        let config = Config { id: "w".into(), keys, allow_private_addresses: true, ..Default::default() };
        let worker = Worker::new(config, bus.clone()).unwrap();
        let (mut ready, stop, mut tasks) = (worker.ready(), CancellationToken::new(), JoinSet::new());
        assert!(!ready.is_ready());
        tasks.spawn(Box::pin(worker.run(stop.clone())));
        assert!(ready.wait().await);
        let replies = bus.subscribe(Subject::Replies("g".into())).await.unwrap();
        let mut caller = Caller { bus: bus.clone(), replies };
        let request = CreateNodeRequest { id: "n".into(), ..Default::default() };
        let made = Node::from_bytes(
            caller.call("plexus.v1.NodeService/CreateNode", None, Payload::of(request)).await,
        )
        .unwrap();
        let name = NodeName::new("default", "n").unwrap();
        let peer = text::peer_id_from_text(&made.peer_id).unwrap();
        assert_eq!(bus.find(&peer).await.unwrap(), Some(name.clone()));
        let method = "plexus.v1.TopicService/ListTopics";
        let answer = caller.call(method, Some(&name), Payload::of(ListTopicsRequest::default())).await;
        assert!(ListTopicsResponse::from_bytes(answer).unwrap().topics.is_empty());
        eventually("its state says so", || async { state(&bus, &name).await == State::Running }).await;
        stop.cancel();
        tokio::time::timeout(LIMIT, tasks.join_next()).await.expect("it leaves").unwrap().unwrap();
        assert!(!ready.is_ready());
        assert!(bus.owner(&name).await.unwrap().unwrap().worker.is_none());
        assert!(bus.workers().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_config_that_cannot_hold_a_lease_is_refused() {
        let bus = Bus::open(&plexus_bus::Config::default()).await.unwrap();
        let keys = config::Keys { generate: true, ..Default::default() };
        let fits = Config { id: "pod-1.zone".into(), keys, ..Default::default() };
        let lease = |renew: u64, deadline: u64| config::Lease {
            renew_interval: Duration::from_secs(renew),
            deadline: Duration::from_secs(deadline),
            ..Default::default()
        };
        for bad in [
            Config { id: "a b".into(), ..fits.clone() },
            Config { id: "a".repeat(201), ..fits.clone() },
            Config { lease: lease(3, 4), ..fits.clone() },
            Config { lease: lease(0, 4), ..fits.clone() },
            Config { lease: lease(1, 6), ..fits.clone() },
            Config { nodes_max: 0, ..fits.clone() },
            Config { node: config::Node { commands_max: 0, ..Default::default() }, ..fits.clone() },
            Config {
                node: config::Node { listen_addresses: vec!["127.0.0.1:4001".into()], ..Default::default() },
                ..fits.clone()
            },
            Config { keys: config::Keys::default(), ..fits.clone() },
        ] {
            let refused = Worker::new(bad.clone(), bus.clone()).is_err();
            assert!(refused && bad.check().is_err(), "{bad:?}");
        }
        assert!(fits.check().is_ok() && Worker::new(fits, bus.clone()).is_ok());
        assert!(
            Worker::new(
                Config { keys: config::Keys { generate: true, ..Default::default() }, ..Default::default() },
                bus
            )
            .is_ok()
        );
    }
}
