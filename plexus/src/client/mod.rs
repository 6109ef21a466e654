//! The client: one file a noun. It speaks gRPC to a gateway and knows nothing of nodes or the bus.

mod context;
pub(crate) mod fleet;
pub(crate) mod hint;
pub(crate) mod list;
mod messages;
mod node;
pub(crate) mod output;
mod peer;
mod revoke;
mod selftest;
mod target;
mod topic;
mod version;

pub(crate) use target::Target;

use crate::cli;
use clap::Subcommand;
use plexus_proto::v1;
use std::fmt;
use tonic::{Code, Status};

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
    /// Revoke tokens and API keys before they end.
    Revoke(revoke::Revoke),
    /// Revocations in force.
    #[command(subcommand)]
    Revocation(revoke::Command),
    /// Show the version.
    Version(version::Version),
    /// Gateways by name.
    #[command(subcommand)]
    Context(context::Command),
    /// Try a running gateway out: create, follow, publish, receive, read back, clean up.
    Selftest(selftest::Selftest),
}

/// A failure of the client itself.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code.
    code: u8,
    message: String,
}

impl Failure {
    fn error(code: u8, message: impl Into<String>) -> anyhow::Error {
        anyhow::Error::new(Self { code, message: message.into() })
    }

    /// The command was wrong.
    fn usage(message: impl Into<String>) -> anyhow::Error {
        Self::error(cli::USAGE, message)
    }

    /// Something is not there.
    fn missing(message: impl Into<String>) -> anyhow::Error {
        Self::error(cli::NOT_FOUND, message)
    }

    /// It took too long.
    fn late(message: impl Into<String>) -> anyhow::Error {
        Self::error(cli::UNAVAILABLE, message)
    }

    /// Ctrl-C.
    fn interrupted() -> anyhow::Error {
        Self::error(cli::INTERRUPTED, "interrupted")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Reads a time of the command line.
pub(crate) fn time(text: &str) -> anyhow::Result<prost_types::Timestamp> {
    let read = humantime::parse_rfc3339_weak(text);
    let read = read.map_err(|_| Failure::usage(format!("{text:?} is no time such as 2027-01-01T00:00:00Z")));
    Ok(read?.into())
}

/// Refuses what is no address of a gateway.
fn check_url(url: &str) -> anyhow::Result<()> {
    let known = url.parse::<hyper::Uri>().ok().filter(|uri| uri.authority().is_some());
    match known.and_then(|uri| uri.scheme_str().map(ToOwned::to_owned)).as_deref() {
        Some("http" | "https") => Ok(()),
        _ => Err(Failure::usage(format!("{url:?} is no address such as http://127.0.0.1:8080"))),
    }
}

/// Runs a command. Ctrl-C ends it at once; `selftest` cleans up first.
pub(crate) async fn run(command: Command) -> anyhow::Result<()> {
    let command = match command {
        Command::Selftest(selftest) => return selftest.run().await,
        other => other,
    };
    let work = async {
        match command {
            Command::Publish(publish) => publish.run().await,
            Command::Subscribe(subscribe) => subscribe.run().await,
            Command::Topic(command) => command.run().await,
            Command::Node(command) => command.run().await,
            Command::Peer(command) => command.run().await,
            Command::Revoke(revoke) => revoke.run().await,
            Command::Revocation(command) => command.run().await,
            Command::Version(version) => version.run().await,
            Command::Context(command) => command.run(),
            Command::Selftest(selftest) => selftest.run().await,
        }
    };
    until_interrupted(Box::pin(work)).await
}

/// Does something that Ctrl-C ends.
async fn until_interrupted(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::select! {
        result = work => result,
        _ = tokio::signal::ctrl_c() => Err(Failure::interrupted()),
    }
}

/// One sentence and the stable reason, with what is wrong field by field.
pub(crate) fn explain(error: &anyhow::Error) -> String {
    let Some(status) = error.downcast_ref::<Status>() else { return format!("{error:#}") };
    let error = plexus_gateway::error::from_status(status);
    let mut text = format!("{} ({})", error.message, error.reason);
    for violation in error.violations.iter().filter(|v| !error.message.starts_with(&v.field)) {
        text.push_str(&format!("\n  {}: {}", violation.field, violation.description));
    }
    text
}

/// The same as JSON, in the form of the API.
pub(crate) fn explain_json(error: &anyhow::Error) -> serde_json::Value {
    let told = error.downcast_ref::<Status>().map(plexus_gateway::error::from_status);
    let told = told.unwrap_or_else(|| v1::Error { message: format!("{error:#}"), ..Default::default() });
    output::value("Error", &told).unwrap_or_else(|_| serde_json::json!({"message": told.message}))
}

/// Tells whether the call got no answer at all, so that the way to the gateway may be the wrong one.
pub(crate) fn is_unheard(error: &anyhow::Error) -> bool {
    error.chain().any(|e| e.is::<tonic::transport::Error>())
}

/// The exit code of a failure.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return failure.code;
    }
    match error.downcast_ref::<Status>().map(Status::code) {
        Some(Code::InvalidArgument) => cli::USAGE,
        Some(Code::NotFound) => cli::NOT_FOUND,
        Some(Code::Unavailable | Code::DeadlineExceeded) => cli::UNAVAILABLE,
        Some(_) if is_unheard(error) => cli::UNAVAILABLE,
        Some(_) => cli::FAILED,
        None if is_unheard(error) => cli::UNAVAILABLE,
        None => cli::FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_its_exit_code() {
        let status = |code| anyhow::Error::new(Status::new(code, "x"));
        for (error, code) in [
            (status(Code::InvalidArgument), 2),
            (status(Code::NotFound), 3),
            (status(Code::Unavailable), 4),
            (status(Code::DeadlineExceeded), 4),
            (status(Code::FailedPrecondition), 1),
            (status(Code::AlreadyExists), 1),
            (status(Code::Internal), 1),
            (anyhow::anyhow!("x"), 1),
            (Failure::usage("x"), 2),
            (Failure::missing("x"), 3),
            (Failure::late("x"), 4),
            (Failure::interrupted(), 130),
        ] {
            assert_eq!(exit_code(&error), code, "{error:?}");
        }
    }

    #[test]
    fn an_error_is_told_with_its_reason_in_words_and_in_json() {
        let error = v1::Error::new(plexus_proto::reason::Reason::NodeNotFound, "there is no node \"x\"");
        let error = anyhow::Error::new(plexus_gateway::error::status(&error));
        assert_eq!(explain(&error), "there is no node \"x\" (NODE_NOT_FOUND)");
        assert_eq!(explain_json(&error)["reason"], "NODE_NOT_FOUND");
        assert_eq!(
            explain_json(&anyhow::anyhow!("why").context("what")),
            serde_json::json!({"message": "what: why"})
        );
    }
}
