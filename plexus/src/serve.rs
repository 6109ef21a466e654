//! Runs a role: config → telemetry → bus → sides → drain. The only code that knows what a role is.

use crate::{
    admin::{Admin, Part},
    config::{Config, Role},
    telemetry::Telemetry,
};
use anyhow::Context;
use plexus_bus::Bus;
use plexus_gateway::Gateway;
use plexus_worker::Worker;
use prometheus_client::registry::Registry;
use tokio::{signal::unix, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// Runs until a signal, then drains. A second signal ends at once.
pub(crate) async fn run(role: Role, config: Config) -> anyhow::Result<()> {
    config.check(role)?;
    let telemetry = Telemetry::start(&config, role)?;
    let result = sides(role, config).await;
    telemetry.flush();
    result
}

async fn sides(role: Role, config: Config) -> anyhow::Result<()> {
    let bus = Bus::open(&config.bus).await.context("bus.url")?;
    let mut registry = Registry::default();
    bus.metrics().register(&mut registry);
    let mut parts: Vec<Box<dyn Part>> = vec![Box::new(BusPart(bus.clone()))];
    let stops = Stops::default();
    let (mut clients, mut nodes) = (JoinSet::new(), JoinSet::new());
    if role.worker() {
        let worker = Worker::new(config.worker.clone(), bus.clone())?;
        worker.metrics().register(&mut registry);
        parts.push(Box::new(WorkerPart(worker.ready())));
        warn_of_development(&config);
        nodes.spawn(worker.run(stops.nodes.clone()));
    }
    if role.gateway() {
        let gateway = Gateway::bind(config.gateway.clone(), bus.clone()).await.context("gateway.listen")?;
        gateway.metrics().register(&mut registry);
        tracing::info!(listen = %gateway.local_addr()?, "the one port: REST, gRPC, gRPC-Web, Connect, WebSocket, SSE");
        clients.spawn(gateway.run(stops.clients.clone()));
    }
    let mut admin = JoinSet::new();
    let admin_part = Admin { registry, parts, draining: stops.draining.clone() };
    admin.spawn(admin_part.run(config.admin.listen.clone(), stops.admin.clone()));
    let ended = tokio::select! {
        signal = stop_signal() => signal.map(|()| "signal"),
        Some(_) = clients.join_next() => Err(anyhow::anyhow!("the gateway ended by itself")),
        Some(_) = nodes.join_next() => Err(anyhow::anyhow!("the worker ended by itself")),
        Some(result) = admin.join_next() => match result { Ok(Err(error)) => Err(error), _ => Err(anyhow::anyhow!("the admin port ended by itself")) },
    };
    tracing::info!("draining; a second signal ends at once");
    let drain = drain(&stops, &mut clients, &mut nodes, &bus);
    tokio::select! {
        () = drain => tracing::info!("done"),
        _ = stop_signal() => tracing::warn!("ended by a second signal"),
    }
    stops.admin.cancel();
    ended.map(drop)
}

/// Not ready, stop accepting, finish calls, close clients, then release nodes and leases, then flush
/// the bus.
async fn drain(stops: &Stops, clients: &mut JoinSet<()>, nodes: &mut JoinSet<()>, bus: &Bus) {
    stops.draining.cancel();
    stops.clients.cancel();
    while clients.join_next().await.is_some() {}
    stops.nodes.cancel();
    while nodes.join_next().await.is_some() {}
    bus.close().await;
}

#[derive(Default)]
struct Stops {
    draining: CancellationToken,
    clients: CancellationToken,
    nodes: CancellationToken,
    admin: CancellationToken,
}

async fn stop_signal() -> anyhow::Result<()> {
    let mut term = unix::signal(unix::SignalKind::terminate())?;
    let mut int = unix::signal(unix::SignalKind::interrupt())?;
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}

fn warn_of_development(config: &Config) {
    if config.worker.allow_private_addresses {
        tracing::warn!("development mode: nodes may dial and listen on loopback and private ranges");
    }
    let keys = &config.worker.keys;
    if keys.generate && keys.file.is_none() && keys.key.is_none() {
        tracing::warn!(
            "development mode: the key-encryption key was made for this process; identities do not outlive it"
        );
    }
}

struct BusPart(Bus);

impl Part for BusPart {
    fn name(&self) -> &'static str {
        "bus"
    }

    fn alive(&self) -> bool {
        true
    }

    fn ready(&self) -> bool {
        self.0.healthy()
    }
}

struct WorkerPart(plexus_worker::Ready);

impl Part for WorkerPart {
    fn name(&self) -> &'static str {
        "worker"
    }

    fn alive(&self) -> bool {
        true
    }

    fn ready(&self) -> bool {
        self.0.is_ready()
    }
}
