//! `plexus worker` and `plexus gateway` where they are asked about: what the fleet is made of.

use super::{Target, output};
use clap::Subcommand;
use plexus_proto::v1::{
    DrainWorkerRequest, Gateway, GetWorkerRequest, ListGatewaysRequest, ListWorkersRequest, Worker,
    worker::State,
};

/// What runs nodes.
#[derive(Subcommand)]
pub(crate) enum Workers {
    /// List the workers.
    #[command(after_help = "Examples:
  plexus worker ls
  plexus worker ls --json")]
    Ls(Target),
    /// Show one worker.
    #[command(after_help = "Examples:
  plexus worker show worker-0")]
    Show {
        /// Its id.
        id: String,
        #[command(flatten)]
        target: Target,
    },
    /// Make a worker give its nodes away; it takes none until --undo.
    #[command(after_help = "Examples:
  plexus worker drain worker-0
  plexus worker drain worker-0 --nodes-per-second 50
  plexus worker drain worker-0 --undo")]
    Drain {
        /// Its id.
        id: String,
        /// Nodes that leave in a second, 1 to 100; 0 means 10.
        #[arg(long, default_value_t = 0)]
        nodes_per_second: u32,
        /// Let it take nodes again.
        #[arg(long, conflicts_with = "nodes_per_second")]
        undo: bool,
        #[command(flatten)]
        target: Target,
    },
}

/// What clients reach.
#[derive(Subcommand)]
pub(crate) enum Gateways {
    /// List the gateways.
    #[command(after_help = "Examples:
  plexus gateway ls
  plexus gateway ls --json")]
    Ls(Target),
}

impl Workers {
    async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Ls(target) => workers(target).await,
            Self::Show { id, target } => {
                let request = target.ask(GetWorkerRequest { worker: id });
                show(&target, &target.admin().await?.get_worker(request).await?.into_inner())
            }
            Self::Drain { id, nodes_per_second, undo, target } => {
                let request = DrainWorkerRequest { worker: id, nodes_per_second, undo, ..Default::default() };
                let request = target.ask(request);
                show(&target, &target.admin().await?.drain_worker(request).await?.into_inner())
            }
        }
    }
}

impl Gateways {
    async fn run(self) -> anyhow::Result<()> {
        let Self::Ls(target) = self;
        let mut client = target.admin().await?;
        let mut request = ListGatewaysRequest { page_size: 1000, ..Default::default() };
        let mut rows = Vec::new();
        loop {
            let page = client.list_gateways(target.ask(request.clone())).await?.into_inner();
            for gateway in &page.gateways {
                match target.json {
                    true => output::json("Gateway", gateway)?,
                    false => rows.push(gateway_row(gateway)),
                }
            }
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        if target.json {
            return Ok(());
        }
        output::table(&["GATEWAY", "READY", "CONNECTIONS", "SESSIONS", "TOPICS", "VERSION", "STARTED"], &rows)
    }
}

/// A question about workers or gateways, which Ctrl-C ends.
pub(crate) async fn run(command: Fleet) -> anyhow::Result<()> {
    super::until_interrupted(async {
        match command {
            Fleet::Workers(command) => command.run().await,
            Fleet::Gateways(command) => command.run().await,
        }
    })
    .await
}

/// What is asked about.
pub(crate) enum Fleet {
    /// Workers.
    Workers(Workers),
    /// Gateways.
    Gateways(Gateways),
}

async fn workers(target: Target) -> anyhow::Result<()> {
    let mut client = target.admin().await?;
    let mut request = ListWorkersRequest { page_size: 1000, ..Default::default() };
    let mut rows = Vec::new();
    loop {
        let page = client.list_workers(target.ask(request.clone())).await?.into_inner();
        for worker in &page.workers {
            match target.json {
                true => output::json("Worker", worker)?,
                false => rows.push(worker_row(worker)),
            }
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    if target.json {
        return Ok(());
    }
    output::table(&["WORKER", "STATE", "NODES", "CAPACITY", "CPU", "MEMORY", "VERSION", "STARTED"], &rows)
}

fn worker_row(worker: &Worker) -> Vec<String> {
    let told = worker.state() != State::Lost;
    let only = |text: String| if told { text } else { String::new() };
    vec![
        worker.worker.clone(),
        worker.state().as_str_name().into(),
        worker.nodes.to_string(),
        only(worker.capacity.to_string()),
        only(format!("{:.2}", worker.cpu)),
        only(megabytes(worker.memory_bytes)),
        worker.version.clone(),
        only(output::ago(worker.started_at)),
    ]
}

fn gateway_row(gateway: &Gateway) -> Vec<String> {
    let ready = match (gateway.draining, gateway.ready) {
        (true, _) => "draining",
        (false, true) => "yes",
        (false, false) => "no",
    };
    vec![
        gateway.gateway.clone(),
        ready.into(),
        gateway.connections.to_string(),
        gateway.sessions.to_string(),
        gateway.topics.to_string(),
        gateway.version.clone(),
        output::ago(gateway.started_at),
    ]
}

fn show(target: &Target, worker: &Worker) -> anyhow::Result<()> {
    if target.json {
        return output::json("Worker", worker);
    }
    let labels: Vec<String> = worker.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    output::facts(&[
        ("worker", worker.worker.clone()),
        ("state", worker.state().as_str_name().into()),
        ("nodes", worker.nodes.to_string()),
        ("capacity", worker.capacity.to_string()),
        ("labels", labels.join(" ")),
        ("cpu", format!("{:.2}", worker.cpu)),
        ("memory", megabytes(worker.memory_bytes)),
        ("version", worker.version.clone()),
        ("started", output::ago(worker.started_at)),
        ("lease until", output::date(worker.lease_until)),
    ])
}

fn megabytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}
