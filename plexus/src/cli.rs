//! The command line. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 unavailable or too late.

use crate::{
    client,
    config::{Config, Role},
    serve,
};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// The command failed.
pub(crate) const FAILED: u8 = 1;

/// A seat in a libp2p network for any client.
#[derive(Parser)]
#[command(name = "plexus", version, propagate_version = true, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  plexus up                              gateway and worker on 127.0.0.1:8080
  plexus sub demo                        follow a topic
  plexus pub demo 'hello'                publish to it
  plexus gateway --bus redis://redis:6379
  plexus worker  --bus redis://redis:6379

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 unavailable or too late.
Clients talk to PLEXUS_URL (default http://127.0.0.1:8080).";

#[derive(Subcommand)]
enum Command {
    /// Run gateway and worker in one process, for development on one machine.
    Up(Serve),
    /// Run a gateway: clients on one port, nodes reached over Redis.
    Gateway(Serve),
    /// Run a worker: hosts nodes, reached over Redis.
    Worker(Serve),
    /// Show or check the config.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Write a completion script to standard output.
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
    Print(ConfigArgs),
    /// Check a config file and the environment; says what is wrong.
    Check(ConfigArgs),
}

#[derive(Args)]
struct ConfigArgs {
    /// Config file (TOML).
    file: Option<PathBuf>,
    /// Whose defaults.
    #[arg(long, value_enum, default_value = "up")]
    role: RoleName,
}

#[derive(Clone, Copy, ValueEnum)]
enum RoleName {
    Up,
    Gateway,
    Worker,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Up => Self::Up,
            RoleName::Gateway => Self::Gateway,
            RoleName::Worker => Self::Worker,
        }
    }
}

impl Cli {
    /// Runs the command and answers its exit code.
    pub(crate) async fn run(self) -> u8 {
        let result = match self.command {
            Command::Up(serve) => serve.run(Role::Up).await,
            Command::Gateway(serve) => serve.run(Role::Gateway).await,
            Command::Worker(serve) => serve.run(Role::Worker).await,
            Command::Config(command) => command.run(),
            Command::Completion { shell } => {
                clap_complete::generate(shell, &mut Self::command(), "plexus", &mut std::io::stdout());
                Ok(())
            }
            Command::Client(command) => return client::run(command).await,
        };
        match result {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("plexus: {error:#}");
                FAILED
            }
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
        serve::run(role, config).await
    }
}

impl ConfigCommand {
    fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Print(args) => {
                let config = Config::load(args.role.into(), args.file.as_deref())?;
                print!("{}", config.print()?);
            }
            Self::Check(args) => {
                let role = args.role.into();
                Config::load(role, args.file.as_deref())?.check(role)?;
                println!("ok");
            }
        }
        Ok(())
    }
}
