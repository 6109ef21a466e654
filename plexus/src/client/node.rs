//! `plexus node`.

use super::{Failure, Target, list, output};
use clap::Subcommand;
use plexus_proto::v1::{
    AddBootstrapRequest, BootstrapList, CreateNodeRequest, DeleteNodeRequest, ExplainPlacementRequest,
    GetIdentityRequest, GetNodeRequest, ListBootstrapRequest, ListNodesRequest, MoveNodeRequest, Node,
    NodeSpec, RemoveBootstrapRequest, RestartNodeRequest, StartNodeRequest, StopNodeRequest,
    UpdateNodeRequest, WatchNodesRequest, placement::Candidate,
};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};

/// Hosted nodes.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Create a node.
    #[command(after_help = "Examples:
  plexus node create alpha
  plexus node create alpha --listen /ip4/127.0.0.1/tcp/4001
  plexus node create alpha --spec @spec.json")]
    Create {
        /// Its id: lower-case letters, digits and hyphens.
        id: String,
        /// Its spec as JSON, or `@file`; as in the API.
        #[arg(long)]
        spec: Option<String>,
        /// Multiaddrs to listen on.
        #[arg(long)]
        listen: Vec<String>,
        /// Multiaddrs with /p2p/ to dial at start.
        #[arg(long)]
        bootstrap: Vec<String>,
        #[command(flatten)]
        target: Target,
    },
    /// List the nodes.
    #[command(after_help = "Examples:
  plexus node ls
  plexus node ls --json")]
    Ls(Target),
    /// Show one node.
    #[command(after_help = "Examples:
  plexus node show alpha")]
    Show(Named),
    /// Change the spec: only the fields that are given.
    #[command(after_help = "Examples:
  plexus node set alpha '{\"listenAddresses\": [\"/ip4/127.0.0.1/tcp/4001\"]}'
  plexus node set alpha @spec.json")]
    Set {
        /// The node.
        id: String,
        /// The fields as JSON, or `@file`.
        spec: String,
        #[command(flatten)]
        target: Target,
    },
    /// Stop and remove a node with all it has.
    #[command(after_help = "Examples:
  plexus node rm alpha")]
    Rm(Named),
    /// Start a stopped node.
    #[command(after_help = "Examples:
  plexus node start alpha")]
    Start(Named),
    /// Stop a node and keep what it has.
    #[command(after_help = "Examples:
  plexus node stop alpha")]
    Stop(Named),
    /// Build the swarm anew; lifts a quarantine.
    #[command(after_help = "Examples:
  plexus node restart alpha")]
    Restart(Named),
    /// Follow the nodes: each as it is, then every change.
    #[command(after_help = "Examples:
  plexus node watch
  plexus node watch --json")]
    Watch(Target),
    /// Show who the node is to the network.
    #[command(after_help = "Examples:
  plexus node id default")]
    Id(Named),
    /// Move the node to another worker; calls wait meanwhile.
    #[command(after_help = "Examples:
  plexus node move alpha
  plexus node move alpha --to worker-1")]
    Move {
        /// The node: its id or PeerId.
        id: String,
        /// The worker; without: the best other one.
        #[arg(long, default_value = "")]
        to: String,
        #[command(flatten)]
        target: Target,
    },
    /// Say why the node is where it is: who may have it, and whom it prefers.
    #[command(after_help = "Examples:
  plexus node where alpha
  plexus node where alpha --json")]
    Where(Named),
    /// Bootstrap addresses.
    #[command(subcommand)]
    Bootstrap(Bootstrap),
}

/// One node.
#[derive(clap::Args)]
pub(crate) struct Named {
    /// The node: its id or PeerId.
    id: String,
    #[command(flatten)]
    target: Target,
}

/// Bootstrap addresses of a node.
#[derive(Subcommand)]
pub(crate) enum Bootstrap {
    /// List them and how each fares.
    #[command(after_help = "Examples:
  plexus node bootstrap ls
  plexus node bootstrap ls --node alpha")]
    Ls(Target),
    /// Add addresses and dial them.
    #[command(after_help = "Examples:
  plexus node bootstrap add /ip4/127.0.0.1/tcp/4001/p2p/12D3KooWGRUfVqgmGFSbgZRpwWQBEyWjjWTu1KDLi7q6WCRGHLoX")]
    Add {
        /// Multiaddrs with /p2p/.
        #[arg(required = true)]
        addresses: Vec<String>,
        #[command(flatten)]
        target: Target,
    },
    /// Remove addresses.
    #[command(after_help = "Examples:
  plexus node bootstrap rm --all")]
    Rm {
        /// Multiaddrs as listed.
        addresses: Vec<String>,
        /// Remove every one.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        target: Target,
    },
}

impl Command {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Create { id, spec, listen, bootstrap, target } => {
                let mut spec = spec.map(|s| read_spec(&s)).transpose()?.unwrap_or_default();
                spec.listen_addresses.extend(listen);
                spec.bootstrap.extend(bootstrap);
                let request = CreateNodeRequest { id, spec: Some(spec), ..Default::default() };
                show(&target, &target.nodes().await?.create_node(target.ask(request)).await?.into_inner())
            }
            Self::Ls(target) => ls(target).await,
            Self::Show(Named { id, target }) => {
                let request = GetNodeRequest { node: id };
                show(&target, &target.nodes().await?.get_node(target.ask(request)).await?.into_inner())
            }
            Self::Set { id, spec, target } => {
                let request =
                    UpdateNodeRequest { node: id, spec: Some(read_spec(&spec)?), ..Default::default() };
                show(&target, &target.nodes().await?.update_node(target.ask(request)).await?.into_inner())
            }
            Self::Rm(Named { id, target }) => {
                let request = DeleteNodeRequest { node: id, ..Default::default() };
                target.nodes().await?.delete_node(target.ask(request)).await?;
                target.done()
            }
            Self::Start(Named { id, target }) => {
                let request = StartNodeRequest { node: id, ..Default::default() };
                show(&target, &target.nodes().await?.start_node(target.ask(request)).await?.into_inner())
            }
            Self::Stop(Named { id, target }) => {
                let request = StopNodeRequest { node: id, ..Default::default() };
                show(&target, &target.nodes().await?.stop_node(target.ask(request)).await?.into_inner())
            }
            Self::Restart(Named { id, target }) => {
                let request = RestartNodeRequest { node: id, ..Default::default() };
                show(&target, &target.nodes().await?.restart_node(target.ask(request)).await?.into_inner())
            }
            Self::Watch(target) => watch(target).await,
            Self::Id(named) => identity(named).await,
            Self::Move { id, to, target } => {
                let request = target.ask(MoveNodeRequest { node: id, worker: to, ..Default::default() });
                show(&target, &target.nodes().await?.move_node(request).await?.into_inner())
            }
            Self::Where(named) => whereabouts(named).await,
            Self::Bootstrap(command) => command.run().await,
        }
    }
}

impl Bootstrap {
    async fn run(self) -> anyhow::Result<()> {
        let (target, list) = match self {
            Self::Ls(target) => {
                let request = ListBootstrapRequest { node: target.node.clone() };
                let list = target.nodes().await?.list_bootstrap(target.ask(request)).await?;
                (target, list.into_inner())
            }
            Self::Add { addresses, target } => {
                let request =
                    AddBootstrapRequest { node: target.node.clone(), addresses, ..Default::default() };
                let list = target.nodes().await?.add_bootstrap(target.ask(request)).await?;
                (target, list.into_inner())
            }
            Self::Rm { addresses, all, target } => {
                let node = target.node.clone();
                let request = RemoveBootstrapRequest { node, addresses, all, ..Default::default() };
                let list = target.nodes().await?.remove_bootstrap(target.ask(request)).await?;
                (target, list.into_inner())
            }
        };
        show_bootstrap(&target, &list)
    }
}

fn show_bootstrap(target: &Target, list: &BootstrapList) -> anyhow::Result<()> {
    if target.json {
        return output::json("BootstrapList", list);
    }
    let rows: Vec<_> = list
        .entries
        .iter()
        .map(|e| {
            vec![
                e.address.clone(),
                e.connected.to_string(),
                output::ago(e.last_success_at),
                e.last_error.clone(),
            ]
        })
        .collect();
    output::table(&["ADDRESS", "CONNECTED", "LAST SUCCESS", "LAST ERROR"], &rows)
}

/// Reads a spec in the API's JSON, from the text or from `@file`.
fn read_spec(text: &str) -> anyhow::Result<NodeSpec> {
    let text = match text.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path)
            .map_err(|e| Failure::usage(format!("{path} cannot be read: {e}")))?,
        None => text.to_owned(),
    };
    let pool = DescriptorPool::decode(plexus_proto::DESCRIPTOR)?;
    let descriptor = pool
        .get_message_by_name("plexus.v1.NodeSpec")
        .ok_or_else(|| anyhow::anyhow!("the contract has no NodeSpec"))?;
    let mut reader = serde_json::Deserializer::from_str(&text);
    let dynamic = DynamicMessage::deserialize(descriptor, &mut reader)
        .map_err(|e| Failure::usage(format!("the spec is not the JSON of a NodeSpec: {e}")))?;
    Ok(NodeSpec::decode(dynamic.encode_to_vec().as_slice())?)
}

fn row(node: &Node) -> Vec<String> {
    let status = node.status.clone().unwrap_or_default();
    vec![
        node.id.clone(),
        node.peer_id.clone(),
        status.state().as_str_name().into(),
        status.worker.clone(),
        status.peers.unwrap_or_default().connected.to_string(),
        status.topics.to_string(),
    ]
}

async fn ls(target: Target) -> anyhow::Result<()> {
    let mut client = target.nodes().await?;
    let ask = async |page_token| {
        let request = ListNodesRequest { page_size: list::PAGE, page_token, ..Default::default() };
        let page = client.list_nodes(target.ask(request)).await?.into_inner();
        Ok((page.nodes, page.next_page_token))
    };
    let heading = ["NODE", "PEER ID", "STATE", "WORKER", "PEERS", "TOPICS"];
    list::print(&target, "Node", &heading, row, ask).await
}

fn show(target: &Target, node: &Node) -> anyhow::Result<()> {
    if target.json {
        return output::json("Node", node);
    }
    let status = node.status.clone().unwrap_or_default();
    let error =
        status.last_error.as_ref().map(|e| format!("{} ({})", e.message, e.reason)).unwrap_or_default();
    output::facts(&[
        ("node", node.id.clone()),
        ("peer id", node.peer_id.clone()),
        ("state", status.state().as_str_name().into()),
        ("worker", status.worker.clone()),
        ("epoch", status.epoch.to_string()),
        ("addresses", status.addresses.join("\n           ")),
        ("peers", status.peers.unwrap_or_default().connected.to_string()),
        ("topics", status.topics.to_string()),
        ("created", output::ago(node.created_at)),
        ("last error", error),
    ])
}

async fn watch(target: Target) -> anyhow::Result<()> {
    let mut changes = target.nodes().await?.watch_nodes(WatchNodesRequest::default()).await?.into_inner();
    while let Some(change) = changes.message().await? {
        if target.json {
            output::json("WatchNodesResponse", &change)?;
        } else if let Some(node) = &change.node {
            output::write(format!("{}\n", row(node).join("  ")).as_bytes())?;
        }
    }
    Ok(())
}

async fn whereabouts(named: Named) -> anyhow::Result<()> {
    let Named { id, target } = named;
    let request = target.ask(ExplainPlacementRequest { node: id });
    let placement = target.nodes().await?.explain_placement(request).await?.into_inner();
    if target.json {
        return output::json("Placement", &placement);
    }
    output::write(format!("{}\n", placement.summary).as_bytes())?;
    let row = |candidate: &Candidate| {
        vec![
            candidate.worker.clone(),
            if candidate.eligible { "yes" } else { "no" }.into(),
            format!("{:.3}", candidate.preference),
            candidate.room.to_string(),
            candidate.reason.clone(),
        ]
    };
    let rows: Vec<_> = placement.candidates.iter().map(row).collect();
    output::table(&["WORKER", "MAY", "PREFERENCE", "ROOM", "WHY"], &rows)
}

async fn identity(named: Named) -> anyhow::Result<()> {
    let Named { id, target } = named;
    let identity =
        target.nodes().await?.get_identity(target.ask(GetIdentityRequest { node: id })).await?.into_inner();
    if target.json {
        return output::json("Identity", &identity);
    }
    output::facts(&[
        ("peer id", identity.peer_id.clone()),
        ("cid", identity.peer_id_cid.clone()),
        ("listens on", identity.listen_addresses.join("\n            ")),
        ("reached at", identity.external_addresses.join("\n            ")),
        ("protocols", identity.protocols.join("\n            ")),
        ("agent", identity.agent_version.clone()),
    ])
}
