//! `plexus key`: API keys. A gateway makes and keeps them; the first one, for who is to be the operator, is
//! made without a gateway, into the file of `gateway.auth.keys`.

use crate::client::{self, Target, list, output};
use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use plexus_gateway::{
    grant::Written,
    key::{self, File},
};
use plexus_proto::v1::{ApiKey, CreateApiKeyRequest, DeleteApiKeyRequest, Grant, ListApiKeysRequest};
use std::{io::Write, path::PathBuf};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make an API key and show it once.
    #[command(after_help = "Examples:
  plexus key create --grant 'read,Publish=nodes/default/topics/demo.*'
  plexus key create --namespace team --grant '*=**' --expires 2027-01-01T00:00:00Z
  plexus key create --grant '*=**' --file keys.toml
  plexus key create --grant 'read=nodes/alpha' --file -
Without --file the gateway makes and keeps it. With --file none is asked: the file gets what a gateway
needs to know the key (gateway.auth.keys), `-` is standard output.")]
    Create(Create),
    /// List the API keys that gateways keep.
    #[command(after_help = "Examples:
  plexus key ls
  plexus key ls --namespace team --json")]
    Ls {
        /// Only of this namespace.
        #[arg(long, default_value = "")]
        namespace: String,
        #[command(flatten)]
        target: Target,
    },
    /// Remove an API key; its sessions end within 2 s.
    #[command(after_help = "Examples:
  plexus key rm 3f1c2a9b8d7e6f50")]
    Rm {
        /// Its id.
        id: String,
        #[command(flatten)]
        target: Target,
    },
}

/// What the key may do, and until when.
#[derive(Args)]
pub(crate) struct Create {
    /// Whose it is; without: the caller's own, in a file `default`.
    #[arg(long, default_value = "")]
    namespace: String,
    /// What it may do: verbs, `=`, patterns of resources; several of each with commas between.
    #[arg(long = "grant", required = true, value_parser = grant)]
    grants: Vec<Written>,
    /// When it ends, such as 2027-01-01T00:00:00Z; without: never.
    #[arg(long)]
    expires: Option<String>,
    /// What it is for.
    #[arg(long, default_value = "", conflicts_with = "file")]
    description: String,
    /// The file to add it to instead of asking a gateway.
    #[arg(long)]
    file: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
}

impl Command {
    /// Runs the command.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Create(create) => match create.file.clone() {
                Some(path) => create.write(&path),
                None => create.ask().await,
            },
            Self::Ls { namespace, target } => ls(namespace, target).await,
            Self::Rm { id, target } => {
                let request = DeleteApiKeyRequest { api_key: id, ..Default::default() };
                target.admin().await?.delete_api_key(target.ask(request)).await?;
                target.done()
            }
        }
    }
}

impl Create {
    fn write(self, path: &std::path::Path) -> anyhow::Result<()> {
        let namespace = if self.namespace.is_empty() { "default" } else { &self.namespace };
        let made = key::make(namespace, self.grants, self.expires).map_err(|e| anyhow!(e))?;
        let lines = toml::to_string(&File { keys: vec![made.line.clone()] })?;
        let printed = path.as_os_str() == "-";
        if !printed {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
            let written = file.and_then(|mut file| file.write_all(format!("\n{lines}").as_bytes()));
            written.with_context(|| format!("{} cannot be written", path.display()))?;
        }
        match (self.target.json, printed) {
            (true, _) => output::line(&serde_json::json!({"secret": made.secret, "key": made.line})),
            (false, true) => output::write(format!("{}\n\n{lines}", made.secret).as_bytes()),
            (false, false) => output::write(format!("{}\n", made.secret).as_bytes()),
        }
    }

    async fn ask(self) -> anyhow::Result<()> {
        let Self { namespace, grants, expires, description, target, .. } = self;
        let grants = grants.into_iter().map(|g| Grant { verbs: g.verbs, resources: g.resources }).collect();
        let expires_at = expires.as_deref().map(client::time).transpose()?;
        let request =
            CreateApiKeyRequest { namespace, description, grants, expires_at, ..Default::default() };
        let key = target.admin().await?.create_api_key(target.ask(request)).await?.into_inner();
        match target.json {
            true => output::json("ApiKey", &key),
            false => output::write(format!("{}\n", key.secret).as_bytes()),
        }
    }
}

async fn ls(namespace: String, target: Target) -> anyhow::Result<()> {
    let mut client = target.admin().await?;
    let ask = async |page_token| {
        let namespace = namespace.clone();
        let request = ListApiKeysRequest { namespace, page_size: list::PAGE, page_token };
        let page = client.list_api_keys(target.ask(request)).await?.into_inner();
        Ok((page.api_keys, page.next_page_token))
    };
    let heading = ["KEY", "NAMESPACE", "GRANTS", "CREATED", "LAST USED", "EXPIRES", "DESCRIPTION"];
    list::print(&target, "ApiKey", &heading, row, ask).await
}

fn row(key: &ApiKey) -> Vec<String> {
    let grant = |grant: &Grant| format!("{}={}", grant.verbs.join(","), grant.resources.join(","));
    let grants = key.grants.iter().map(grant).collect::<Vec<_>>().join(" ");
    vec![
        key.api_key.clone(),
        key.namespace.clone(),
        grants,
        output::ago(key.created_at),
        output::ago(key.last_used_at),
        output::date(key.expires_at),
        key.description.clone(),
    ]
}

/// Reads `verbs=patterns`.
fn grant(text: &str) -> Result<Written, String> {
    let (verbs, resources) = text.split_once('=').ok_or("verbs, =, and patterns of resources")?;
    let words = |text: &str| text.split(',').map(str::to_owned).collect();
    let written = Written { verbs: words(verbs), resources: words(resources) };
    plexus_gateway::grant::Grants::read(std::slice::from_ref(&written)).map(|_| written)
}
