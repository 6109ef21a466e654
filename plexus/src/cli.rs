//! The command line. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 unavailable or too late,
//! 130 interrupted.

use crate::{
    client::{
        self,
        fleet::{self, Fleet, Gateways, Workers},
    },
    config::{Config, Role},
    doctor::Doctor,
    key, serve,
};
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use std::path::PathBuf;

/// The command failed.
pub(crate) const FAILED: u8 = 1;
/// The command was wrong.
pub(crate) const USAGE: u8 = 2;
/// What it names is not there.
pub(crate) const NOT_FOUND: u8 = 3;
/// Nobody answers, or not in time.
pub(crate) const UNAVAILABLE: u8 = 4;
/// Ctrl-C, as shells have it.
pub(crate) const INTERRUPTED: u8 = 130;

/// A seat in a libp2p network for any client.
#[derive(Parser)]
#[command(name = "plexus", version, propagate_version = true, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  plexus up
  plexus sub demo
  plexus pub demo 'hello'
  plexus gateway --bus redis://redis:6379
  plexus worker --bus redis://redis:6379
  plexus selftest

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 unavailable or too late, 130 interrupted.
Clients talk to http://127.0.0.1:8080, or to what --url, --context, PLEXUS_URL, PLEXUS_CONTEXT or the current
context names.";

#[derive(Subcommand)]
enum Command {
    /// Run gateway and worker in one process, for development on one machine.
    #[command(after_help = "Examples:
  plexus up
  plexus up --listen 127.0.0.1:9090 --log debug
  plexus up --bus redis://127.0.0.1:6379
Ctrl-C or SIGTERM drains and exits with 0; a second one ends at once.")]
    Up(Serve),
    /// Run a gateway: clients on one port, nodes reached over Redis. Or ask about those that run.
    #[command(
        after_help = "Examples:
  plexus gateway --bus redis://redis:6379
  plexus gateway --config /etc/plexus.toml --listen '[::]:80'
SIGTERM or Ctrl-C drains and exits with 0; a second one ends at once.",
        args_conflicts_with_subcommands = true
    )]
    Gateway {
        #[command(flatten)]
        serve: Serve,
        #[command(subcommand)]
        ask: Option<Gateways>,
    },
    /// Run a worker: hosts nodes, reached over Redis. Or ask about those that run.
    #[command(
        after_help = "Examples:
  plexus worker --bus redis://redis:6379
  plexus worker --config /etc/plexus.toml
SIGTERM or Ctrl-C hands the nodes over and exits with 0; a second one ends at once.",
        args_conflicts_with_subcommands = true
    )]
    Worker {
        #[command(flatten)]
        serve: Serve,
        #[command(subcommand)]
        ask: Option<Workers>,
    },
    /// Show or check the config.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// API keys.
    #[command(subcommand)]
    Key(key::Command),
    /// Look at everything around the process that its promises rest on.
    Doctor(Doctor),
    /// Write a completion script to standard output.
    #[command(after_help = "Examples:
  plexus completion bash
  plexus completion zsh
  plexus completion fish
Bash: source <(plexus completion bash). Zsh: plexus completion zsh > \"${fpath[1]}/_plexus\".
Fish: plexus completion fish > ~/.config/fish/completions/plexus.fish")]
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
    #[command(flatten)]
    Client(client::Command),
}

/// How to run a role.
#[derive(Args)]
struct Serve {
    /// Config file (TOML). Beneath it the defaults, above it PLEXUS__… variables and these flags.
    #[arg(long, short, env = "PLEXUS_CONFIG")]
    config: Option<PathBuf>,
    /// The bus: `memory:` or `redis://host:port`.
    #[arg(long)]
    bus: Option<String>,
    /// Address of the one port, `host:port`.
    #[arg(long)]
    listen: Option<String>,
    /// Address of health and metrics, `host:port`.
    #[arg(long)]
    admin: Option<String>,
    /// What is logged, such as `info` or `info,plexus_worker=debug`.
    #[arg(long)]
    log: Option<String>,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Print the whole config as it takes effect, secrets masked.
    #[command(after_help = "Examples:
  plexus config print
  plexus config print plexus.toml --role gateway --json")]
    Print(ConfigArgs),
    /// Check a config file and the environment; refuses what a start would refuse.
    #[command(after_help = "Examples:
  plexus config check
  plexus config check plexus.toml --role worker")]
    Check(ConfigArgs),
}

#[derive(Args)]
struct ConfigArgs {
    /// Config file (TOML).
    #[arg(env = "PLEXUS_CONFIG")]
    file: Option<PathBuf>,
    /// Whose defaults.
    #[arg(long, value_enum, default_value = "up")]
    role: Role,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Reads the command line, runs the command and answers its exit code.
pub(crate) async fn run() -> u8 {
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match Box::pin(cli.command.run()).await {
        Ok(()) => 0,
        Err(error) => {
            let hint = hint(&matches, &error).await;
            if wants_json(&matches) {
                let mut told = client::explain_json(&error);
                if let (Some(hint), Some(message)) = (hint, told["message"].as_str()) {
                    told["message"] = format!("{message}; {hint}").into();
                }
                eprintln!("{told}");
            } else {
                eprintln!(
                    "plexus: {}{}",
                    client::explain(&error),
                    hint.map_or(String::new(), |h| format!("\n  {h}"))
                );
            }
            client::exit_code(&error)
        }
    }
}

/// Tells whether the command that was given has `--json` set.
fn wants_json(matches: &ArgMatches) -> bool {
    match matches.subcommand() {
        Some((_, inner)) => wants_json(inner),
        None => matches.try_get_one::<bool>("json").ok().flatten().copied().unwrap_or(false),
    }
}

/// Says more of a call that nobody answered.
async fn hint(matches: &ArgMatches, error: &anyhow::Error) -> Option<&'static str> {
    if !client::is_unheard(error) {
        return None;
    }
    let leaf = std::iter::successors(Some(matches), |m| m.subcommand().map(|(_, inner)| inner)).last()?;
    let target = client::Target::from_arg_matches(leaf).ok()?;
    client::hint::scheme(&target.url().ok()?).await
}

impl Command {
    async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Up(serve) => Box::pin(serve.run(Role::Up)).await,
            Self::Gateway { ask: Some(ask), .. } => fleet::run(Fleet::Gateways(ask)).await,
            Self::Worker { ask: Some(ask), .. } => fleet::run(Fleet::Workers(ask)).await,
            Self::Gateway { serve, .. } => Box::pin(serve.run(Role::Gateway)).await,
            Self::Worker { serve, .. } => Box::pin(serve.run(Role::Worker)).await,
            Self::Config(command) => command.run(),
            Self::Key(command) => command.run().await,
            Self::Doctor(doctor) => doctor.run().await,
            Self::Completion { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "plexus", &mut script);
                client::output::write(&script)
            }
            Self::Client(command) => Box::pin(client::run(command)).await,
        }
    }
}

impl Serve {
    async fn run(self, role: Role) -> anyhow::Result<()> {
        let mut config = Config::load(role, self.config.as_deref())?;
        if let Some(bus) = self.bus {
            config.bus.url = bus;
        }
        if let Some(listen) = self.listen {
            config.gateway.listen = listen;
        }
        if let Some(admin) = self.admin {
            config.admin.listen = admin;
        }
        if let Some(log) = self.log {
            config.log = log;
        }
        Box::pin(serve::run(role, config)).await
    }
}

impl ConfigCommand {
    fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Print(ConfigArgs { file, role, json }) => {
                let text = Config::load(role, file.as_deref())?.print()?;
                if json {
                    return client::output::line(&toml::from_str(&text)?);
                }
                client::output::write(text.as_bytes())
            }
            Self::Check(ConfigArgs { file, role, json }) => {
                Config::load(role, file.as_deref())?.check(role)?;
                if json {
                    return client::output::line(&serde_json::json!({"ok": true}));
                }
                client::output::write(b"ok\n")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every command without commands beneath it, by its words.
    fn leaves(command: &clap::Command, path: &str, all: &mut Vec<(String, clap::Command)>) {
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let path = format!("{path} {}", sub.get_name());
            if sub.has_subcommands() {
                leaves(sub, &path, all);
            } else {
                all.push((path, sub.clone()));
            }
        }
    }

    fn all() -> Vec<(String, clap::Command)> {
        let mut all = Vec::new();
        leaves(&Cli::command(), "plexus", &mut all);
        assert!(all.len() > 35, "{}", all.len());
        all
    }

    /// Splits a line as a shell would, as far as the examples need it.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut quoted) = (vec![String::new()], false);
        for c in line.chars() {
            match c {
                '\'' => quoted = !quoted,
                ' ' if !quoted => words.push(String::new()),
                c => words.last_mut().expect("there is one").push(c),
            }
        }
        words
    }

    #[test]
    fn the_commands_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples_that_are_understood() {
        for (path, command) in all() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let examples: Vec<_> = help.lines().filter_map(|line| line.strip_prefix("  ")).collect();
            assert!(help.starts_with("Examples:\n") && !examples.is_empty(), "{path} has no examples");
            for example in examples {
                let example = example.split_once("| ").map_or(example, |(_, piped)| piped);
                assert!(example.starts_with(&path), "{path}: {example}");
                let parsed = Cli::try_parse_from(words(example));
                assert!(
                    parsed.is_ok(),
                    "{example}: {}",
                    parsed.err().map(|e| e.to_string()).unwrap_or_default()
                );
            }
        }
    }

    #[test]
    fn every_command_is_documented() {
        let text = include_str!("../../docs/cli.md");
        for (path, _) in all() {
            assert!(text.contains(&format!("`{path}")), "docs/cli.md lacks `{path}`");
        }
    }

    #[test]
    fn every_client_command_prints_json_if_asked() {
        let without = ["plexus up", "plexus gateway", "plexus worker", "plexus completion"];
        // What changes the user's own file prints nothing.
        let silent = ["plexus context add", "plexus context use", "plexus context rm"];
        for (path, command) in all() {
            let mut command = command;
            command.build();
            let json = command.get_arguments().any(|a| a.get_id() == "json");
            let wanted = !without.contains(&path.as_str()) && !silent.contains(&path.as_str());
            assert_eq!(json, wanted, "{path}");
        }
    }
}
