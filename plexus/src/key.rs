//! `plexus key`: makes API keys. It needs no gateway: what a gateway reads is a file of digests.

use crate::client::output;
use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use plexus_gateway::{
    grant::Written,
    key::{self, File},
};
use std::{io::Write, path::PathBuf};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make an API key, show it once, and write what a gateway needs of it.
    #[command(after_help = "Examples:
  plexus key create --grant '*=**'
  plexus key create --namespace team --grant 'read,Publish=nodes/default/topics/demo.*'
  plexus key create --grant 'read=nodes/alpha' --expires 2027-01-01T00:00:00Z --file keys.toml
Without --file the lines for the file are printed beneath the key. A gateway reads the file of
gateway.auth.keys at its start.")]
    Create(Create),
}

/// What the key may do, and until when.
#[derive(Args)]
pub(crate) struct Create {
    /// Whose it is.
    #[arg(long, default_value = "default")]
    namespace: String,
    /// What it may do: verbs, `=`, patterns of resources; several of each with commas between.
    #[arg(long = "grant", required = true, value_parser = grant)]
    grants: Vec<Written>,
    /// When it ends, such as 2027-01-01T00:00:00Z; without: never.
    #[arg(long)]
    expires: Option<String>,
    /// The file to add it to.
    #[arg(long)]
    file: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Command {
    /// Runs the command.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let Self::Create(create) = self;
        let made = key::make(&create.namespace, create.grants, create.expires).map_err(|e| anyhow!(e))?;
        let lines = toml::to_string(&File { keys: vec![made.line.clone()] })?;
        if let Some(path) = &create.file {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
            let written = file.and_then(|mut file| file.write_all(format!("\n{lines}").as_bytes()));
            written.with_context(|| format!("{} cannot be written", path.display()))?;
        }
        if create.json {
            return output::line(&serde_json::json!({"secret": made.secret, "key": made.line}));
        }
        match create.file {
            Some(_) => output::write(format!("{}\n", made.secret).as_bytes()),
            None => output::write(format!("{}\n\n{lines}", made.secret).as_bytes()),
        }
    }
}

/// Reads `verbs=patterns`.
fn grant(text: &str) -> Result<Written, String> {
    let (verbs, resources) = text.split_once('=').ok_or("verbs, =, and patterns of resources")?;
    let words = |text: &str| text.split(',').map(str::to_owned).collect();
    let written = Written { verbs: words(verbs), resources: words(resources) };
    plexus_gateway::grant::Grants::read(std::slice::from_ref(&written)).map(|_| written)
}
