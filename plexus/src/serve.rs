//! Runs a role: config → telemetry → bus → sides → drain. The only code that knows what a role is.

use crate::{
    admin::{Admin, Part},
    config::{Config, Role},
    telemetry::Telemetry,
};
use anyhow::{Context, anyhow};
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
    telemetry.flush().await;
    result
}

async fn sides(role: Role, config: Config) -> anyhow::Result<()> {
    // Gateways may not: docs/redis.md, "Users".
    let bus = plexus_bus::Config { loads_functions: role.worker(), ..config.bus.clone() };
    let bus = Bus::open(&bus).await.context("bus.url")?;
    let mut process = Process::new(&bus);
    // The gateway first: a port that cannot be had must not leave nodes behind that were just taken.
    if role.gateway() {
        process.gateway(&config, &bus).await?;
    }
    if role.worker() {
        process.worker(&config, &bus)?;
    }
    let Process { admin, stops, mut clients, mut nodes } = process;
    let mut health = JoinSet::new();
    health.spawn(admin.run(config.admin.listen.clone(), stops.admin.clone()));
    let ended = tokio::select! {
        signal = stop_signal() => signal,
        Some(_) = clients.join_next() => Err(anyhow!("the gateway ended by itself")),
        Some(_) = nodes.join_next() => Err(anyhow!("the worker ended by itself")),
        Some(result) = health.join_next() => match result {
            Ok(Err(error)) => Err(error),
            _ => Err(anyhow!("the admin port ended by itself")),
        },
    };
    tracing::info!("draining; a second signal ends at once");
    tokio::select! {
        () = drain(&stops, &mut clients, &mut nodes, &bus) => tracing::info!("done"),
        _ = stop_signal() => tracing::warn!("ended by a second signal"),
    }
    stops.admin.cancel();
    ended
}

/// What a process is made of, side by side.
struct Process {
    /// What is shown of all sides.
    admin: Admin,
    stops: Stops,
    /// The gateway.
    clients: JoinSet<()>,
    /// The worker.
    nodes: JoinSet<()>,
}

#[derive(Default)]
struct Stops {
    draining: CancellationToken,
    clients: CancellationToken,
    nodes: CancellationToken,
    admin: CancellationToken,
}

impl Process {
    /// Begins with the bus, which both sides share. It has no loop that a restart would heal, so it is
    /// always alive; whether it answers decides who is ready.
    fn new(bus: &Bus) -> Self {
        let stops = Stops::default();
        let mut registry = Registry::default();
        bus.metrics().register(&mut registry);
        let answers = bus.clone();
        let part = Part::new("bus", || true, move || answers.healthy());
        let admin = Admin { registry, parts: vec![part], draining: stops.draining.clone() };
        Self { admin, stops, clients: JoinSet::new(), nodes: JoinSet::new() }
    }

    fn worker(&mut self, config: &Config, bus: &Bus) -> anyhow::Result<()> {
        let worker = Worker::new(config.worker.clone(), bus.clone())?;
        worker.metrics().register(&mut self.admin.registry);
        let (alive, ready, within) = (worker.alive(), worker.ready(), config.admin.stuck_after);
        self.admin.parts.push(Part::new("worker", move || alive.is_alive(within), move || ready.is_ready()));
        if config.worker.allow_private_addresses {
            tracing::warn!("development mode: nodes may dial and listen on loopback and private ranges");
        }
        self.nodes.spawn(worker.run(self.stops.nodes.clone()));
        Ok(())
    }

    async fn gateway(&mut self, config: &Config, bus: &Bus) -> anyhow::Result<()> {
        let gateway = Gateway::bind(config.gateway.clone(), bus.clone()).await.context("gateway.listen")?;
        gateway.metrics().register(&mut self.admin.registry);
        let (pulse, within) = (gateway.pulse(), config.admin.stuck_after);
        self.admin.parts.push(Part::new("gateway", move || pulse.alive(within), || true));
        tracing::info!(listen = %gateway.local_addr()?, "the one port: REST, gRPC, gRPC-Web, Connect, WebSocket, SSE");
        if let Some(listen) = gateway.tls_addr()? {
            tracing::info!(%listen, "the same with TLS");
        }
        self.clients.spawn(gateway.run(self.stops.clients.clone()));
        Ok(())
    }
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

async fn stop_signal() -> anyhow::Result<()> {
    let mut term = unix::signal(unix::SignalKind::terminate())?;
    let mut int = unix::signal(unix::SignalKind::interrupt())?;
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}
