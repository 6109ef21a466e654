//! Attacks on a gateway while honest clients go on (`make attacks`). Each group of attacks runs first on
//! another gateway of the same machine, which shows what its own work costs the others, and then on the
//! gateway of the honest clients; the two are compared. The attackers are processes of their own that
//! yield to everybody (`nice 19`).
//!
//! - [`groups`] which attacks run next to each other
//! - [`field`] the two gateways, and the attackers' processes
//! - [`honest`] who must not notice
//! - [`trial`] one group from its beginning to its end
//! - [`document`] the table in docs/reliability.md

mod document;
mod field;
mod groups;
mod honest;
mod trial;

use anyhow::{Context, Result, ensure};
use clap::Args;
use field::Field;
use honest::Honest;
use plexus_tests::attacks::{self, Attack, Effort, Target};
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// Files that the largest attack needs on each side, with room.
const FILES: u64 = 4_000;

/// How long the honest are alone at first.
const ALONE: Duration = Duration::from_secs(15);

/// Attacks a gateway and measures its other clients meanwhile.
#[derive(Debug, Args)]
pub(crate) struct Cli {
    /// How long each group of attacks lasts; the run on the other gateway takes a quarter of it.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Only the groups with these attacks.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Writes the table between the markers of this document; without it, it is printed.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Stands beside the machine.
    #[arg(long, default_value = "")]
    note: String,
}

/// One attack, as a child of the runner.
#[derive(Debug, Args)]
pub(crate) struct Raid {
    name: String,
    #[arg(long)]
    plain: SocketAddr,
    #[arg(long)]
    tls: SocketAddr,
    #[arg(long)]
    seconds: u64,
}

/// Runs one attack and prints its toll.
pub(crate) async fn raid(cli: Raid) -> Result<()> {
    let attack = find(&cli.name)?;
    let target = Target { plain: cli.plain, tls: cli.tls };
    let during = Duration::from_secs(cli.seconds);
    let effort = Effort { connections: attack.connections, during, until_cut: None };
    println!("{}", field::write(&attacks::raid(attack, target, effort).await));
    Ok(())
}

/// Every attack for a moment at once, so that what a process needs once is not counted.
async fn warm(target: Target) {
    let effort = Effort { connections: 20, during: Duration::from_secs(3), until_cut: None };
    let raids = attacks::all().map(|attack| attacks::raid(attack, target, effort));
    futures::future::join_all(raids).await;
}

fn find(name: &str) -> Result<Attack> {
    attacks::all().find(|attack| attack.name == name).with_context(|| format!("no attack {name:?}"))
}

/// Runs every group.
pub(crate) async fn run(cli: Cli) -> Result<()> {
    if cfg!(debug_assertions) {
        eprintln!("this is a debug build: `make attacks` builds what is worth measuring");
    }
    let chosen = groups::chosen(&cli.only)?;
    crate::proc::raise_files(FILES)?;
    let field = Field::lay().await?;
    let mut honest = Honest::start(field.gateway.address).await?;
    warm(field.target(false)).await;
    honest.take()?;
    tokio::time::sleep(ALONE).await;
    let alone = honest.take()?;
    eprintln!("alone: {alone}");
    let mut trials = Vec::new();
    for group in chosen {
        let trial = trial::run(&field, &mut honest, group, Duration::from_secs(cli.seconds)).await?;
        eprintln!("{trial}");
        trials.push(trial);
        // After each, so that a run that is cut short leaves what it has.
        if let Some(path) = &cli.out {
            document::write(path, &document::section(&alone, &trials, cli.seconds, &cli.note))?;
        }
    }
    print!("{}", document::section(&alone, &trials, cli.seconds, &cli.note));
    let broken = trials.iter().filter(|trial| !trial.is_kept()).count();
    ensure!(broken == 0, "{broken} groups of attacks did harm");
    Ok(())
}
