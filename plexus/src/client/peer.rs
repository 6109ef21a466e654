//! `plexus peer`.

use super::{Target, list, output};
use clap::Subcommand;
use plexus_proto::v1::{
    BlockRequest, ConnectRequest, DisconnectRequest, GetPeerRequest, ListBlocksRequest, ListPeersRequest,
    Peer, PingRequest, UnblockRequest, peer, ping_response::Event,
};

/// Remote peers as a node sees them.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// List peers, connected ones by default.
    #[command(after_help = "Examples:
  plexus peer ls
  plexus peer ls --known --json")]
    Ls {
        /// Also peers that are only known.
        #[arg(long)]
        known: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Show one peer.
    #[command(after_help = "Examples:
  plexus peer show 12D3KooWGRUfVqgmGFSbgZRpwWQBEyWjjWTu1KDLi7q6WCRGHLoX")]
    Show {
        /// Its PeerId.
        peer: String,
        #[command(flatten)]
        target: Target,
    },
    /// Connect to a peer.
    #[command(after_help = "Examples:
  plexus peer connect /ip4/127.0.0.1/tcp/4001/p2p/12D3KooWGRUfVqgmGFSbgZRpwWQBEyWjjWTu1KDLi7q6WCRGHLoX")]
    Connect {
        /// Its PeerId, or a multiaddr that ends in /p2p/ and one.
        peer: String,
        /// Further multiaddrs to try.
        addresses: Vec<String>,
        #[command(flatten)]
        target: Target,
    },
    /// Close all connections to a peer.
    #[command(after_help = "Examples:
  plexus peer disconnect 12D3KooWGRUfVqgmGFSbgZRpwWQBEyWjjWTu1KDLi7q6WCRGHLoX")]
    Disconnect {
        /// Its PeerId.
        peer: String,
        #[command(flatten)]
        target: Target,
    },
    /// Measure round trips.
    #[command(after_help = "Examples:
  plexus peer ping 12D3KooWGRUfVqgmGFSbgZRpwWQBEyWjjWTu1KDLi7q6WCRGHLoX --count 10")]
    Ping {
        /// Its PeerId.
        peer: String,
        /// How many.
        #[arg(long, short, default_value_t = 4)]
        count: u32,
        #[command(flatten)]
        target: Target,
    },
    /// Block a peer or an address range, both ways.
    #[command(after_help = "Examples:
  plexus peer block 203.0.113.0/24")]
    Block {
        /// A PeerId, an IP address or a CIDR.
        entry: String,
        #[command(flatten)]
        target: Target,
    },
    /// Lift a block.
    #[command(after_help = "Examples:
  plexus peer unblock 203.0.113.0/24")]
    Unblock {
        /// The entry as listed.
        entry: String,
        #[command(flatten)]
        target: Target,
    },
    /// List blocks.
    #[command(after_help = "Examples:
  plexus peer blocks")]
    Blocks(Target),
}

impl Command {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Ls { known, target } => ls(known, target).await,
            Self::Show { peer, target } => {
                let request = GetPeerRequest { node: target.node.clone(), peer, ..Default::default() };
                show(&target, &target.peers().await?.get_peer(target.ask(request)).await?.into_inner())
            }
            Self::Connect { peer, addresses, target } => {
                let node = target.node.clone();
                let request = ConnectRequest { node, peer, addresses, ..Default::default() };
                show(&target, &target.peers().await?.connect(target.ask(request)).await?.into_inner())
            }
            Self::Disconnect { peer, target } => {
                let request = DisconnectRequest { node: target.node.clone(), peer, ..Default::default() };
                let answer = target.peers().await?.disconnect(target.ask(request)).await?.into_inner();
                if target.json {
                    return output::json("DisconnectResponse", &answer);
                }
                output::facts(&[("closed", answer.closed.to_string())])
            }
            Self::Ping { peer, count, target } => ping(peer, count, target).await,
            Self::Block { entry, target } => {
                let request = BlockRequest { node: target.node.clone(), entry, ..Default::default() };
                let entry = target.peers().await?.block(target.ask(request)).await?.into_inner();
                if target.json { output::json("BlockEntry", &entry) } else { Ok(()) }
            }
            Self::Unblock { entry, target } => {
                let request = UnblockRequest { node: target.node.clone(), entry, ..Default::default() };
                target.peers().await?.unblock(target.ask(request)).await?;
                target.done()
            }
            Self::Blocks(target) => blocks(target).await,
        }
    }
}

async fn ls(known: bool, target: Target) -> anyhow::Result<()> {
    let state = if known { peer::State::Known } else { peer::State::Connected };
    let mut client = target.peers().await?;
    let ask = async |page_token| {
        let (node, state) = (target.node.clone(), state.into());
        let request =
            ListPeersRequest { node, state, page_size: list::PAGE, page_token, ..Default::default() };
        let page = client.list_peers(target.ask(request)).await?.into_inner();
        Ok((page.peers, page.next_page_token))
    };
    list::print(&target, "Peer", &["PEER", "ADDRESS", "LATENCY", "AGENT"], row, ask).await
}

fn row(peer: &Peer) -> Vec<String> {
    vec![
        peer.peer.clone(),
        peer.connections.first().map(|c| c.address.clone()).unwrap_or_default(),
        output::span(peer.latency.as_ref()),
        output::printable(&peer.agent_version),
    ]
}

fn show(target: &Target, peer: &Peer) -> anyhow::Result<()> {
    if target.json {
        return output::json("Peer", peer);
    }
    let connections: Vec<_> = peer.connections.iter().map(|c| c.address.clone()).collect();
    output::facts(&[
        ("peer", peer.peer.clone()),
        ("state", peer.state().as_str_name().into()),
        ("agent", output::printable(&peer.agent_version)),
        ("connections", connections.join("\n             ")),
        ("latency", output::span(peer.latency.as_ref())),
        ("protocols", output::printable(&peer.protocols.join(" "))),
        ("addresses", peer.addresses.join("\n             ")),
    ])
}

async fn ping(peer: String, count: u32, target: Target) -> anyhow::Result<()> {
    let request = PingRequest { node: target.node.clone(), peer, count, ..Default::default() };
    let mut answers = target.peers().await?.ping(request).await?.into_inner();
    while let Some(answer) = answers.message().await? {
        if target.json {
            output::json("PingResponse", &answer)?;
            continue;
        }
        match answer.event {
            Some(Event::Pong(pong)) if pong.reason.is_empty() => {
                output::write(format!("seq {}  {}\n", pong.seq, output::span(pong.rtt.as_ref())).as_bytes())?;
            }
            Some(Event::Pong(pong)) => {
                output::write(format!("seq {}  {}\n", pong.seq, pong.reason).as_bytes())?
            }
            Some(Event::Summary(sum)) => output::write(
                format!(
                    "{} of {} came back; min {}, avg {}, max {}\n",
                    sum.received,
                    sum.sent,
                    output::span(sum.min.as_ref()),
                    output::span(sum.avg.as_ref()),
                    output::span(sum.max.as_ref())
                )
                .as_bytes(),
            )?,
            None => {}
        }
    }
    Ok(())
}

async fn blocks(target: Target) -> anyhow::Result<()> {
    let request = ListBlocksRequest { node: target.node.clone(), page_size: 1000, ..Default::default() };
    let answer = target.peers().await?.list_blocks(target.ask(request)).await?.into_inner();
    if target.json {
        return answer.blocks.iter().try_for_each(|b| output::json("BlockEntry", b));
    }
    let rows: Vec<_> = answer
        .blocks
        .iter()
        .map(|b| {
            vec![
                b.entry.clone(),
                b.hits.to_string(),
                output::ago(b.created_at),
                output::printable(&b.comment),
            ]
        })
        .collect();
    output::table(&["ENTRY", "HITS", "SINCE", "COMMENT"], &rows)
}
