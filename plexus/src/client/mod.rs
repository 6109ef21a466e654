//! The client: one file a noun. It speaks gRPC to a gateway and knows nothing of nodes or the bus.

mod messages;
mod node;
mod output;
mod peer;
mod topic;

use anyhow::Context;
use clap::{Args, Subcommand};
use plexus_proto::v1::{
    node_service_client::NodeServiceClient, peer_service_client::PeerServiceClient,
    topic_service_client::TopicServiceClient,
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

/// What a client may do.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Publish a message to a topic; prints the receipt.
    #[command(name = "pub")]
    Publish(messages::Publish),
    /// Follow topics: what arrives, or what is retained after a position.
    #[command(name = "sub")]
    Subscribe(messages::Subscribe),
    /// Topics as a node sees them.
    #[command(subcommand)]
    Topic(topic::Command),
    /// Hosted nodes.
    #[command(subcommand)]
    Node(node::Command),
    /// Remote peers.
    #[command(subcommand)]
    Peer(peer::Command),
}

/// Where to, and how to answer.
#[derive(Args, Clone)]
pub(crate) struct Target {
    /// The gateway.
    #[arg(long, env = "PLEXUS_URL", default_value = "http://127.0.0.1:8080", global = true)]
    url: String,
    /// The node: its id or PeerId.
    #[arg(long, short, default_value = "default", global = true)]
    node: String,
    /// Print JSON, one object a line.
    #[arg(long, global = true)]
    json: bool,
    /// How long to wait, such as `10s`.
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration, global = true)]
    timeout: std::time::Duration,
}

impl Target {
    async fn channel(&self) -> anyhow::Result<Channel> {
        let endpoint =
            Endpoint::from_shared(self.url.clone()).with_context(|| format!("{:?} is no URL", self.url))?;
        let endpoint = endpoint.connect_timeout(self.timeout.min(std::time::Duration::from_secs(5)));
        endpoint
            .connect()
            .await
            .with_context(|| format!("no gateway answers at {} (is `plexus up` running?)", self.url))
    }

    async fn nodes(&self) -> anyhow::Result<NodeServiceClient<Channel>> {
        Ok(NodeServiceClient::new(self.channel().await?))
    }

    async fn peers(&self) -> anyhow::Result<PeerServiceClient<Channel>> {
        Ok(PeerServiceClient::new(self.channel().await?))
    }

    async fn topics(&self) -> anyhow::Result<TopicServiceClient<Channel>> {
        let client = TopicServiceClient::new(self.channel().await?);
        Ok(client.max_decoding_message_size(8 << 20).max_encoding_message_size(2 << 20))
    }

    /// A unary request with the deadline.
    fn ask<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.set_timeout(self.timeout);
        request
    }
}

/// Runs a command and answers its exit code.
pub(crate) async fn run(command: Command) -> u8 {
    let work = async {
        match command {
            Command::Publish(publish) => publish.run().await,
            Command::Subscribe(subscribe) => subscribe.run().await,
            Command::Topic(command) => command.run().await,
            Command::Node(command) => command.run().await,
            Command::Peer(command) => command.run().await,
        }
    };
    let result = tokio::select! {
        result = work => result,
        _ = tokio::signal::ctrl_c() => return 130,
    };
    match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("plexus: {}", explain(&error));
            exit_code(&error)
        }
    }
}

/// One sentence and the stable reason, with what is wrong field by field.
fn explain(error: &anyhow::Error) -> String {
    let Some(status) = error.downcast_ref::<Status>() else { return format!("{error:#}") };
    let error = plexus_gateway::error::from_status(status);
    let mut text = format!("{} ({})", error.message, error.reason);
    for violation in error.violations.iter().filter(|v| !error.message.starts_with(&v.field)) {
        text.push_str(&format!("\n  {}: {}", violation.field, violation.description));
    }
    text
}

fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<Status>().map(Status::code) {
        Some(Code::InvalidArgument) => 2,
        Some(Code::NotFound) => 3,
        Some(Code::Unavailable | Code::DeadlineExceeded) => 4,
        Some(_) => crate::cli::FAILED,
        None if error.chain().any(|e| e.is::<tonic::transport::Error>()) => 4,
        None => crate::cli::FAILED,
    }
}
