//! Measures the product beside raw baselines and writes `docs/performance.md` (`make bench`).
//!
//! Read in this order: [`table`] has the rows and their goals, [`sheet`] what was measured, [`report`]
//! writes both down. [`fleet`] runs the product in processes of its own, [`raw`] is the baseline, a child
//! of this same binary, [`client`] an ordinary client, [`proc`] what the kernel counts. Then a file per
//! group of rows: [`idle`] 1 to 3, [`hop`] 4 and 5, [`saturated`] 6 and 7, [`store`] 8, [`rehome`] 9, and
//! [`edge`] 10 to 17. [`attacks`] is a run of its own (`make attacks`).

mod attacks;
mod client;
mod clock;
mod edge;
mod fleet;
mod hop;
mod idle;
mod proc;
mod raw;
mod rehome;
mod report;
mod saturated;
mod sheet;
mod store;
mod table;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use futures::FutureExt;
use sheet::Sheet;
use std::{
    panic::AssertUnwindSafe,
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::time::timeout;

// The allocator of the product.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measures every row of the table of goals, with its baseline beside it, in one run.
#[derive(Debug, Parser)]
#[command(name = "plexus-bench")]
struct Cli {
    /// How often each row is measured; those of the edge three times at most.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Only these rows, such as `1,4`; rows that are measured together come together.
    #[arg(long, value_delimiter = ',')]
    only: Vec<u8>,
    /// Writes the document there; without it the table is printed.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Measures nothing: takes what former runs printed, such as after a sentence was changed.
    #[arg(long)]
    from: Option<PathBuf>,
    /// Stands in the document beside the machine.
    #[arg(long, default_value = "")]
    note: String,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// The baseline, as a child of the runner.
    #[command(subcommand, hide = true)]
    Raw(raw::Raw),
    /// Attacks a gateway and measures its other clients meanwhile (`make attacks`).
    Attacks(attacks::Cli),
    /// One attack, as a child of the runner.
    #[command(hide = true)]
    Raid(attacks::Raid),
    /// A server of the edge's rows, as a child of the runner.
    #[command(subcommand, hide = true)]
    Edge(edge::child::Child),
}

/// Rows that are measured together.
#[derive(Clone, Copy)]
enum Group {
    Idle,
    Embedded,
    Apart,
    Saturated,
    Store,
    Rehome,
    Calls,
    Readers,
    Fanout,
    Tail,
    Ends,
}

const GROUPS: [(Group, &str, &[u8]); 11] = [
    (Group::Store, "row 8", &[8]),
    (Group::Rehome, "row 9", &[9]),
    (Group::Saturated, "rows 6 and 7", &[6, 7]),
    (Group::Embedded, "row 4", &[4]),
    (Group::Apart, "row 5", &[5]),
    (Group::Idle, "rows 1 to 3", &[1, 2, 3]),
    (Group::Calls, "row 10", &[10]),
    (Group::Fanout, "rows 12 and 13", &[12, 13]),
    (Group::Tail, "row 14", &[14]),
    (Group::Ends, "rows 15 and 16", &[15, 16]),
    (Group::Readers, "rows 11 and 17", &[11, 15, 17]),
];

/// The first row of the edge.
const EDGE: u8 = 10;
/// How often the edge is measured at most: its rows take minutes, and their CPU hardly varies.
const EDGE_RUNS: usize = 3;

/// Longest time of one run of a group; a run that takes longer has failed.
const RUN_MAX: Duration = Duration::from_secs(180);

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.role {
        Some(Role::Raw(what)) => return Box::pin(raw::run(what)).await,
        Some(Role::Attacks(what)) => return Box::pin(attacks::run(what)).await,
        Some(Role::Raid(what)) => return Box::pin(attacks::raid(what)).await,
        Some(Role::Edge(what)) => return Box::pin(edge::child::run(what)).await,
        None => {}
    }
    ensure!(cli.out.is_none() || cli.only.is_empty(), "--out needs every row");
    if cfg!(debug_assertions) {
        eprintln!("this is a debug build: `make bench` builds what is worth measuring");
    }
    proc::raise_files(idle::FILES)?;
    let (mut sheet, started) = (Sheet::default(), Instant::now());
    let write = |sheet: &Sheet| match &cli.out {
        Some(path) => std::fs::write(path, report::document(sheet, &cli.note)?).context("the document"),
        None => Ok(()),
    };
    if let Some(path) = &cli.from {
        sheet.read(&std::fs::read_to_string(path)?);
        write(&sheet)?;
    }
    for run in 1..=if cli.from.is_some() { 0 } else { cli.runs } {
        for (group, name, rows) in GROUPS {
            let wanted = cli.only.is_empty() || rows.iter().any(|row| cli.only.contains(row));
            if wanted && (run <= EDGE_RUNS || rows.iter().any(|row| *row < EDGE)) {
                eprintln!("run {run} of {}, {name}, {:.0} s", cli.runs, started.elapsed().as_secs_f64());
                measure(group, name, &mut sheet).await;
            }
        }
        // After each run, so that one that is cut short leaves what it has.
        write(&sheet)?;
    }
    print!("{}", report::measured(&sheet)?);
    ensure!(sheet.failures.is_empty(), "{} runs failed: {:?}", sheet.failures.len(), sheet.failures);
    Ok(())
}

/// Runs a group, and once more where that fails: a port that was free may be taken.
async fn measure(group: Group, name: &'static str, sheet: &mut Sheet) {
    for last in [false, true] {
        let mut fresh = Sheet::default();
        let run = timeout(RUN_MAX, AssertUnwindSafe(run(group, &mut fresh)).catch_unwind());
        let failure = match run.await {
            Ok(Ok(Ok(()))) => return sheet.add(fresh),
            Ok(Ok(Err(error))) => format!("{error:#}"),
            Ok(Err(_)) => "the harness gave up".into(),
            Err(_) => format!("not within {RUN_MAX:?}"),
        };
        eprintln!("failed: {failure}");
        if last {
            sheet.failures.push((name, failure));
        }
    }
}

async fn run(group: Group, sheet: &mut Sheet) -> Result<()> {
    match group {
        Group::Idle => Box::pin(idle::run(sheet)).await,
        Group::Embedded => Box::pin(hop::embedded(sheet)).await,
        Group::Apart => Box::pin(hop::apart(sheet)).await,
        Group::Saturated => Box::pin(saturated::run(sheet)).await,
        Group::Store => Box::pin(store::run(sheet)).await,
        Group::Rehome => Box::pin(rehome::run(sheet)).await,
        Group::Calls => Box::pin(edge::calls::run(sheet)).await,
        Group::Readers => Box::pin(edge::idle::run(sheet)).await,
        Group::Fanout => Box::pin(edge::fanout::run(sheet)).await,
        Group::Tail => Box::pin(edge::tail::run(sheet)).await,
        Group::Ends => Box::pin(edge::ends::run(sheet)).await,
    }
}
