//! Gateways and workers in this process, over the bus that the run asks for. Sockets outside are real.

use crate::{
    http::Http,
    redis::{Role, Store},
};
use plexus_bus::Bus;
use plexus_gateway::Gateway;
use plexus_worker::Worker;
use std::net::SocketAddr;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What carries between gateway and worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// In this process, nothing encoded.
    Memory,
    /// In this process, everything encoded.
    Strict,
    /// A real redis-server; every gateway and worker has connections of its own.
    Redis,
}

impl Ground {
    /// What `PLEXUS_TEST_BUS` names: `memory` (also by default), `strict` or `redis`.
    pub fn of_the_run() -> Self {
        match std::env::var("PLEXUS_TEST_BUS").as_deref() {
            Ok("redis") => Self::Redis,
            Ok("strict") => Self::Strict,
            Ok("memory") | Err(_) => Self::Memory,
            Ok(other) => panic!("PLEXUS_TEST_BUS is memory, strict or redis, not {other:?}"),
        }
    }
}

/// A running part; dropping it kills it, as `kill -9` would.
pub struct Side {
    /// Cancelled to drain it.
    pub stop: CancellationToken,
    /// What a gateway counts.
    pub metrics: plexus_gateway::metrics::Metrics,
    task: JoinSet<()>,
}

impl Side {
    fn spawn(run: impl FnOnce(CancellationToken) -> futures::future::BoxFuture<'static, ()>) -> Self {
        let stop = CancellationToken::new();
        let mut task = JoinSet::new();
        task.spawn(run(stop.clone()));
        Self { stop, metrics: Default::default(), task }
    }

    /// Drains it and waits for its end.
    pub async fn drain(mut self) {
        self.stop.cancel();
        while self.task.join_next().await.is_some() {}
    }

    /// Kills it without a word.
    pub async fn kill(mut self) {
        self.task.shutdown().await;
    }
}

/// A fleet.
pub struct Cluster {
    ground: Ground,
    store: Option<Store>,
    shared: Option<Bus>,
    /// The gateways with their addresses.
    pub gateways: Vec<(SocketAddr, Side)>,
    /// The workers.
    pub workers: Vec<Side>,
    workers_made: usize,
}

impl Cluster {
    /// Starts one gateway and one worker.
    pub async fn one() -> Self {
        Self::of(1, 1).await
    }

    /// Starts so many of each.
    pub async fn of(gateways: usize, workers: usize) -> Self {
        crate::log();
        let ground = Ground::of_the_run();
        let store = (ground == Ground::Redis).then(Store::start);
        let mut cluster =
            Self { ground, store, shared: None, gateways: Vec::new(), workers: Vec::new(), workers_made: 0 };
        for _ in 0..workers {
            cluster.add_worker().await;
        }
        for _ in 0..gateways {
            cluster.add_gateway().await;
        }
        cluster
    }

    /// A bus of its own for one process' part.
    pub async fn bus(&mut self, role: Role) -> Bus {
        if let Some(bus) = &self.shared {
            return bus.clone();
        }
        let config = match &self.store {
            Some(store) => store.config(role),
            None => plexus_bus::Config { strict: self.ground == Ground::Strict, ..Default::default() },
        };
        let bus = Bus::open(&config).await.unwrap();
        if self.ground != Ground::Redis {
            self.shared = Some(bus.clone());
        }
        bus
    }

    /// Adds a gateway on a free port.
    pub async fn add_gateway(&mut self) -> SocketAddr {
        self.add_gateway_with(|_| {}).await
    }

    /// Adds a gateway whose config is changed first.
    pub async fn add_gateway_with(
        &mut self,
        change: impl FnOnce(&mut plexus_gateway::config::Config),
    ) -> SocketAddr {
        let bus = self.bus(Role::Gateway).await;
        let mut config =
            plexus_gateway::config::Config { listen: "127.0.0.1:0".into(), ..Default::default() };
        change(&mut config);
        let gateway = Gateway::bind(config, bus).await.unwrap();
        let address = gateway.local_addr().unwrap();
        let metrics = gateway.metrics().clone();
        let side = Side { metrics, ..Side::spawn(|stop| Box::pin(gateway.run(stop))) };
        self.gateways.push((address, side));
        address
    }

    /// Adds a worker whose nodes may dial and listen on loopback.
    pub async fn add_worker(&mut self) {
        self.add_worker_with(|_| {}).await;
    }

    /// Adds a worker whose config is changed first.
    pub async fn add_worker_with(&mut self, change: impl FnOnce(&mut plexus_worker::Config)) {
        let bus = self.bus(Role::Worker).await;
        self.workers_made += 1;
        let mut config = plexus_worker::Config {
            id: format!("worker-{}", self.workers_made),
            allow_private_addresses: true,
            ..Default::default()
        };
        // One key for the fleet, as a fleet has.
        config.keys.key = Some("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f".into());
        config.node.listen_addresses =
            vec!["/ip4/127.0.0.1/tcp/0".into(), "/ip4/127.0.0.1/udp/0/quic-v1".into()];
        change(&mut config);
        let worker = Worker::new(config, bus).unwrap();
        self.workers.push(Side::spawn(|stop| Box::pin(worker.run(stop))));
    }

    /// A client of the first gateway.
    pub fn client(&self) -> Http {
        Http::new(self.gateways[0].0)
    }

    /// The Redis beneath; `None` within a process.
    pub fn store(&self) -> Option<&Store> {
        self.store.as_ref()
    }
}
