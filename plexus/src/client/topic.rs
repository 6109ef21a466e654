//! `plexus topic`.

use super::{Target, list, output};
use clap::Subcommand;
use plexus_proto::v1::{
    GetTopicRequest, ListMessagesRequest, ListTopicPeersRequest, ListTopicsRequest, Message, PinTopicRequest,
    Topic, UnpinTopicRequest,
};

/// Topics as a node sees them.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// List the topics that the node follows or keeps.
    #[command(after_help = "Examples:
  plexus topic ls
  plexus topic ls --prefix eth2 --json")]
    Ls {
        /// Only names that begin so.
        #[arg(long, default_value = "")]
        prefix: String,
        #[command(flatten)]
        target: Target,
    },
    /// Show one topic.
    #[command(after_help = "Examples:
  plexus topic show demo")]
    Show {
        /// The topic.
        topic: String,
        #[command(flatten)]
        target: Target,
    },
    /// List the peers of a topic; `-` for all topics.
    #[command(after_help = "Examples:
  plexus topic peers demo
  plexus topic peers -")]
    Peers {
        /// The topic.
        topic: String,
        #[command(flatten)]
        target: Target,
    },
    /// Keep a topic joined without a reader.
    #[command(after_help = "Examples:
  plexus topic pin demo")]
    Pin {
        /// The topic.
        topic: String,
        #[command(flatten)]
        target: Target,
    },
    /// End the pin.
    #[command(after_help = "Examples:
  plexus topic unpin demo
  plexus topic unpin demo --purge")]
    Unpin {
        /// The topic.
        topic: String,
        /// Also remove what is retained.
        #[arg(long)]
        purge: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Read retained messages.
    #[command(after_help = "Examples:
  plexus topic log demo
  plexus topic log demo --after 3-17 --limit 100 --json")]
    Log {
        /// The topic.
        topic: String,
        /// Only after this position.
        #[arg(long, default_value = "")]
        after: String,
        /// Messages at most.
        #[arg(long, default_value_t = 50)]
        limit: i32,
        #[command(flatten)]
        target: Target,
    },
}

impl Command {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Ls { prefix, target } => ls(prefix, target).await,
            Self::Show { topic, target } => {
                let request = GetTopicRequest { node: target.node.clone(), topic };
                show(&target, &target.topics().await?.get_topic(target.ask(request)).await?.into_inner())
            }
            Self::Peers { topic, target } => peers(topic, target).await,
            Self::Pin { topic, target } => {
                let request = PinTopicRequest { node: target.node.clone(), topic, ..Default::default() };
                show(&target, &target.topics().await?.pin_topic(target.ask(request)).await?.into_inner())
            }
            Self::Unpin { topic, purge, target } => {
                let request =
                    UnpinTopicRequest { node: target.node.clone(), topic, purge, ..Default::default() };
                target.topics().await?.unpin_topic(target.ask(request)).await?;
                target.done()
            }
            Self::Log { topic, after, limit, target } => log(topic, after, limit, target).await,
        }
    }
}

async fn ls(prefix: String, target: Target) -> anyhow::Result<()> {
    let mut client = target.topics().await?;
    let ask = async |page_token| {
        let (node, prefix) = (target.node.clone(), prefix.clone());
        let request =
            ListTopicsRequest { node, prefix, page_size: list::PAGE, page_token, ..Default::default() };
        let page = client.list_topics(target.ask(request)).await?.into_inner();
        Ok((page.topics, page.next_page_token))
    };
    let heading = ["TOPIC", "POSITION", "RETAINED", "MESH/PEERS", "READERS", "PINNED"];
    list::print(&target, "Topic", &heading, row, ask).await
}

fn row(topic: &Topic) -> Vec<String> {
    vec![
        output::printable(&topic.topic),
        topic.position.clone(),
        topic.retained_messages.to_string(),
        format!("{}/{}", topic.mesh_peers, topic.peers),
        topic.readers.to_string(),
        if topic.pinned { "yes".into() } else { String::new() },
    ]
}

fn show(target: &Target, topic: &Topic) -> anyhow::Result<()> {
    if target.json {
        return output::json("Topic", topic);
    }
    let retained = topic.retained.as_ref();
    output::facts(&[
        ("topic", output::printable(&topic.topic)),
        ("position", topic.position.clone()),
        ("retained", topic.retained_messages.to_string()),
        ("after", retained.map(|r| r.after.clone()).unwrap_or_default()),
        ("bytes", topic.retained_bytes.to_string()),
        ("joined", topic.joined.to_string()),
        ("pinned", topic.pinned.to_string()),
        ("peers", topic.peers.to_string()),
        ("mesh peers", topic.mesh_peers.to_string()),
        ("readers", topic.readers.to_string()),
    ])
}

async fn peers(topic: String, target: Target) -> anyhow::Result<()> {
    let request =
        ListTopicPeersRequest { node: target.node.clone(), topic, page_size: 1000, ..Default::default() };
    let answer = target.topics().await?.list_topic_peers(target.ask(request)).await?.into_inner();
    if target.json {
        return answer.peers.iter().try_for_each(|p| output::json("TopicPeer", p));
    }
    let rows: Vec<_> = answer
        .peers
        .iter()
        .map(|p| {
            vec![p.peer.clone(), p.role().as_str_name().into(), format!("{:.1}", p.score), p.protocol.clone()]
        })
        .collect();
    output::table(&["PEER", "ROLE", "SCORE", "PROTOCOL"], &rows)
}

async fn log(topic: String, after: String, limit: i32, target: Target) -> anyhow::Result<()> {
    let mut client = target.topics().await?;
    let mut left = limit.max(1);
    let ask = async |page_token| {
        let (node, topic, after) = (target.node.clone(), topic.clone(), after.clone());
        let page_size = left.min(list::PAGE);
        let request = ListMessagesRequest { node, topic, after, page_size, page_token, ..Default::default() };
        let page = client.list_messages(target.ask(request)).await?.into_inner();
        left -= i32::try_from(page.messages.len()).unwrap_or(left);
        let next = if left > 0 { page.next_page_token } else { String::new() };
        Ok((page.messages, next))
    };
    let take = |message: Message| match target.json {
        true => output::json("Message", &message),
        false => output::write(format!("{}  {}\n", message.position, output::payload(&message)).as_bytes()),
    };
    list::each(ask, take).await
}
