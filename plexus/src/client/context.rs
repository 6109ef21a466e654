//! `plexus context`: gateways by name, in a file of the user's own.

use super::{Failure, output};
use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, io::Write, path::PathBuf};

/// Gateways by name.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Remember a gateway; the first one becomes the current one.
    #[command(after_help = "Examples:
  plexus context add local --url http://127.0.0.1:8080
  plexus context add prod --url https://plexus.example --token-file /run/secrets/plexus
  plexus context add inside --url https://plexus.internal --ca-file ca.pem --cert-file me.pem --key-file me.key")]
    Add(Add),
    /// Make a context the current one.
    #[command(after_help = "Examples:
  plexus context use prod")]
    Use {
        /// The context.
        name: String,
    },
    /// List the contexts; `*` marks the current one.
    #[command(after_help = "Examples:
  plexus context ls
  plexus context ls --json")]
    Ls {
        /// Print JSON, one object a line.
        #[arg(long)]
        json: bool,
    },
    /// Forget a context.
    #[command(after_help = "Examples:
  plexus context rm local")]
    Rm {
        /// The context.
        name: String,
    },
}

/// A context to remember.
#[derive(Args)]
pub(crate) struct Add {
    /// Its name: letters, digits, `-`, `_` and `.`.
    name: String,
    /// The gateway, such as `http://127.0.0.1:8080`.
    #[arg(long)]
    url: String,
    /// A file with the token to show; read at each use.
    #[arg(long)]
    token_file: Option<PathBuf>,
    /// A PEM file with the authorities that sign the gateway's certificate.
    #[arg(long)]
    ca_file: Option<PathBuf>,
    /// A PEM file with the certificate to show, for a gateway that asks for one.
    #[arg(long, requires = "key_file")]
    cert_file: Option<PathBuf>,
    /// A PEM file with the private key of that certificate.
    #[arg(long, requires = "cert_file")]
    key_file: Option<PathBuf>,
}

/// Everything that is remembered.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Contexts {
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<String>,
    contexts: BTreeMap<String, Context>,
}

/// One gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Context {
    pub(super) url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) token_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ca_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cert_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) key_file: Option<PathBuf>,
}

impl Contexts {
    /// Reads the file; one that is not there is empty.
    pub(super) fn load() -> anyhow::Result<Self> {
        let path = file()?;
        match std::fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).with_context(|| format!("{} is not valid", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("{} cannot be read", path.display())),
        }
    }

    /// Writes the file whole or not at all.
    fn save(&self) -> anyhow::Result<()> {
        let path = file()?;
        let folder = path.parent().context("the file has no folder")?;
        let text = toml::to_string_pretty(self)?;
        let fresh = path.with_extension(format!("{}.tmp", std::process::id()));
        let write = || {
            std::fs::create_dir_all(folder)?;
            std::fs::File::create(&fresh)?.write_all(text.as_bytes())?;
            std::fs::rename(&fresh, &path)
        };
        write().with_context(|| format!("{} cannot be written", path.display()))
    }

    /// The context of that name; without one the current context, if there is any.
    pub(super) fn get(&self, name: Option<&str>) -> anyhow::Result<Option<&Context>> {
        let Some(name) = name.or(self.current.as_deref()) else { return Ok(None) };
        self.contexts.get(name).map(Some).ok_or_else(|| missing(name))
    }

    fn add(&mut self, add: Add) -> anyhow::Result<()> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if add.name.is_empty() || add.name.len() > 64 || !add.name.chars().all(plain) {
            return Err(Failure::usage("the name has 1 to 64 letters, digits, `-`, `_` and `.`"));
        }
        super::check_url(&add.url)?;
        let Add { name, url, token_file, ca_file, cert_file, key_file } = add;
        self.contexts.insert(name.clone(), Context { url, token_file, ca_file, cert_file, key_file });
        self.current.get_or_insert(name);
        Ok(())
    }

    fn choose(&mut self, name: String) -> anyhow::Result<()> {
        if !self.contexts.contains_key(&name) {
            return Err(missing(&name));
        }
        self.current = Some(name);
        Ok(())
    }

    fn remove(&mut self, name: &str) -> anyhow::Result<()> {
        self.contexts.remove(name).ok_or_else(|| missing(name))?;
        self.current.take_if(|current| current == name);
        Ok(())
    }
}

impl Command {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let mut contexts = Contexts::load()?;
        match self {
            Self::Ls { json } => return ls(&contexts, json),
            Self::Add(add) => contexts.add(add)?,
            Self::Use { name } => contexts.choose(name)?,
            Self::Rm { name } => contexts.remove(&name)?,
        }
        contexts.save()
    }
}

fn ls(contexts: &Contexts, json: bool) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for (name, context) in &contexts.contexts {
        let current = contexts.current.as_ref() == Some(name);
        let token = context.token_file.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        if json {
            output::line(&serde_json::json!({
                "name": name, "current": current, "url": context.url, "tokenFile": token,
            }))?;
        }
        rows.push(vec![
            if current { "*".into() } else { String::new() },
            name.clone(),
            context.url.clone(),
            token,
        ]);
    }
    if json { Ok(()) } else { output::table(&["", "NAME", "URL", "TOKEN FILE"], &rows) }
}

fn file() -> anyhow::Result<PathBuf> {
    crate::config::contexts_file().context("neither XDG_CONFIG_HOME nor HOME is set")
}

fn missing(name: &str) -> anyhow::Error {
    Failure::missing(format!("there is no context {name:?}; `plexus context ls` lists them"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(name: &str, url: &str) -> Add {
        Add {
            name: name.into(),
            url: url.into(),
            token_file: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
        }
    }

    #[test]
    fn the_first_context_is_the_current_one_until_another_is_chosen_or_it_is_removed() {
        let mut contexts = Contexts::default();
        assert_eq!(contexts.get(None).unwrap(), None);
        contexts.add(add("a", "http://a:1")).unwrap();
        contexts.add(add("b", "http://b:1")).unwrap();
        let url = |c: &Contexts, name: Option<&str>| c.get(name).unwrap().unwrap().url.clone();
        assert_eq!(url(&contexts, None), "http://a:1");
        assert_eq!(url(&contexts, Some("b")), "http://b:1");
        contexts.choose("b".into()).unwrap();
        assert_eq!(url(&contexts, None), "http://b:1");
        let text = toml::to_string_pretty(&contexts).unwrap();
        assert_eq!(toml::from_str::<Contexts>(&text).unwrap(), contexts);
        contexts.remove("b").unwrap();
        assert_eq!(contexts.get(None).unwrap(), None);
        for unknown in [contexts.get(Some("b")).map(drop), contexts.choose("b".into()), contexts.remove("b")]
        {
            assert_eq!(unknown.unwrap_err().downcast::<Failure>().unwrap().code, crate::cli::NOT_FOUND);
        }
    }

    #[test]
    fn what_is_no_name_or_no_url_is_refused() {
        for (name, url) in
            [("", "http://a"), ("a b", "http://a"), ("a", "a:8080"), ("a", "ftp://a"), ("a", "")]
        {
            let refused = Contexts::default().add(add(name, url)).unwrap_err();
            assert_eq!(refused.downcast::<Failure>().unwrap().code, crate::cli::USAGE, "{name} {url}");
        }
    }
}
