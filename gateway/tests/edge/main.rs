//! The edge over real sockets: one toy service behind it, spoken to in every dialect. What is promised
//! here holds for every service, because the edge knows none.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod auth;
mod client;
mod connections;
mod drain;
mod forwarders;
mod limits;
mod origins;
mod rate;
mod rest;
mod rpc;
mod streams;
mod tls;
mod toy;

use plexus_gateway::{
    config::Config,
    edge::{Edge, Served, Services},
    metrics::Metrics,
    resume::Tokens,
};
use plexus_proto::v1::topic_service_server::TopicServiceServer;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::{codec::CompressionEncoding, server::NamedService};

/// An edge that serves a [`toy::Toy`].
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    /// The port of its own for TLS.
    pub(crate) tls: Option<SocketAddr>,
    pub(crate) toy: toy::Toy,
    pub(crate) metrics: Metrics,
    pub(crate) stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config =
            Config { listen: "127.0.0.1:0".into(), drain: Duration::from_secs(5), ..Config::default() };
        change(&mut config);
        let (toy, metrics, stop) = (toy::Toy::default(), Metrics::default(), CancellationToken::new());
        let service = TopicServiceServer::new(toy.clone())
            .accept_compressed(CompressionEncoding::Gzip)
            .send_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(config.limits.message_bytes_max);
        let served = Served {
            routes: Services::default().add_service(service),
            services: vec![TopicServiceServer::<toy::Toy>::NAME],
            open: Vec::new(),
            bus: None,
            descriptors: Vec::new(),
            healthy: Arc::new(|| true),
            echo: false,
            tokens: Tokens::default(),
        };
        let edge = Edge::bind(&config, served, metrics.clone()).await.unwrap();
        let (addr, tls) = (edge.local_addr().unwrap(), edge.tls_addr().unwrap());
        Self { tls, toy, metrics, ..Self::of(addr, stop.clone(), edge.run(stop)) }
    }

    /// Anything that serves at an address.
    pub(crate) fn of(
        addr: SocketAddr,
        stop: CancellationToken,
        run: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(run);
        Self { addr, tls: None, toy: toy::Toy::default(), metrics: Metrics::default(), stop, tasks }
    }

    /// Waits until the edge has ended.
    pub(crate) async fn ended(&mut self) {
        self.tasks.join_next().await.unwrap().unwrap();
    }
}

/// Waits until something holds; fails after 5 s.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(5), wait).await.is_ok(), "never: {what}");
}
