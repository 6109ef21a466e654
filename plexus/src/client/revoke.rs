//! `plexus revoke` and `plexus revocation`: credentials that end before their time.

use super::{Failure, Target, list, output, time};
use clap::{Args, Subcommand};
use plexus_proto::v1::{DeleteRevocationRequest, ListRevocationsRequest, Revocation, RevokeRequest};

/// What to revoke; what is not given is any.
#[derive(Args)]
#[command(after_help = "Examples:
  plexus revoke --token 7f3a
  plexus revoke --subject ann --comment 'left the company'
  plexus revoke --namespace team --issued-before 2026-11-25T12:00:00Z
An API key is `--token` and its id. Sessions end within 2 s, on every gateway.")]
pub(crate) struct Revoke {
    /// The token with this id (`jti`), or the API key with this one.
    #[arg(long, default_value = "")]
    token: String,
    /// Every token of this subject.
    #[arg(long, default_value = "")]
    subject: String,
    /// Only what was issued before this time.
    #[arg(long)]
    issued_before: Option<String>,
    /// Whose tokens; without: the caller's own namespace.
    #[arg(long, default_value = "")]
    namespace: String,
    /// Why.
    #[arg(long, default_value = "")]
    comment: String,
    /// When it may be forgotten; without: when every token it may mean has ended.
    #[arg(long)]
    expires: Option<String>,
    #[command(flatten)]
    target: Target,
}

/// Revocations in force.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// List revocations in force.
    #[command(after_help = "Examples:
  plexus revocation ls
  plexus revocation ls --json")]
    Ls {
        /// Only of this namespace.
        #[arg(long, default_value = "")]
        namespace: String,
        #[command(flatten)]
        target: Target,
    },
    /// Lift a revocation.
    #[command(after_help = "Examples:
  plexus revocation rm 01938f7b2c4e7d5a9b1c3d5e7f901234")]
    Rm {
        /// Its id.
        id: String,
        #[command(flatten)]
        target: Target,
    },
}

impl Revoke {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Self { token, subject, issued_before, namespace, comment, expires, target } = self;
        if token.is_empty() && subject.is_empty() && issued_before.is_none() {
            return Err(Failure::usage("at least one of --token, --subject and --issued-before"));
        }
        let request = RevokeRequest {
            namespace,
            token_id: token,
            subject,
            issued_before: issued_before.as_deref().map(time).transpose()?,
            comment,
            expires_at: expires.as_deref().map(time).transpose()?,
            ..Default::default()
        };
        let made = target.admin().await?.revoke(target.ask(request)).await?.into_inner();
        match target.json {
            true => output::json("Revocation", &made),
            false => output::write(format!("{}\n", made.revocation).as_bytes()),
        }
    }
}

impl Command {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Ls { namespace, target } => ls(namespace, target).await,
            Self::Rm { id, target } => {
                let request = DeleteRevocationRequest { revocation: id, ..Default::default() };
                target.admin().await?.delete_revocation(target.ask(request)).await?;
                target.done()
            }
        }
    }
}

async fn ls(namespace: String, target: Target) -> anyhow::Result<()> {
    let mut client = target.admin().await?;
    let ask = async |page_token| {
        let namespace = namespace.clone();
        let request = ListRevocationsRequest { namespace, page_size: list::PAGE, page_token };
        let page = client.list_revocations(target.ask(request)).await?.into_inner();
        Ok((page.revocations, page.next_page_token))
    };
    let heading = ["REVOCATION", "NAMESPACE", "TOKEN", "SUBJECT", "ISSUED BEFORE", "EXPIRES", "COMMENT"];
    list::print(&target, "Revocation", &heading, row, ask).await
}

fn row(revocation: &Revocation) -> Vec<String> {
    vec![
        revocation.revocation.clone(),
        revocation.namespace.clone(),
        revocation.token_id.clone(),
        revocation.subject.clone(),
        output::date(revocation.issued_before),
        output::date(revocation.expires_at),
        revocation.comment.clone(),
    ]
}
