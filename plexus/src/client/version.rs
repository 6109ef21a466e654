//! `plexus version`.

use super::{Target, output};
use clap::Args;
use plexus_proto::v1::{GetVersionRequest, Version as Told};

/// Which version this is, or a gateway.
#[derive(Args)]
#[command(after_help = "Examples:
  plexus version
  plexus version --server --json")]
pub(crate) struct Version {
    /// Ask the gateway for its own; it needs no credentials.
    #[arg(long)]
    server: bool,
    #[command(flatten)]
    target: Target,
}

impl Version {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Self { server, target } = self;
        let told = match server {
            true => {
                let request = target.ask(GetVersionRequest {});
                target.admin().await?.get_version(request).await?.into_inner()
            }
            false => Told { version: env!("CARGO_PKG_VERSION").into(), ..Told::default() },
        };
        if target.json {
            return output::json("Version", &told);
        }
        output::facts(&[
            ("version", told.version),
            ("commit", told.commit),
            ("libp2p", told.libp2p),
            ("api", told.api.join(" ")),
        ])
    }
}
