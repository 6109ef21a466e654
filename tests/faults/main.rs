//! Faults on real processes: gateways and workers of the `plexus` binary over real Redis servers, each behind a proxy
//! that cuts, holds and delays; signals that kill, freeze and end. Producers write down every receipt, readers every
//! event, and the checker of the harness decides (`plexus_tests::history`).
//!
//! Without words it runs the fixed list in its small form, as `make test` does; `make faults` runs all of it.

#![allow(clippy::unwrap_used, reason = "a run that cannot go on panics, and that is its result")]

mod delivery;
mod document;
mod gateways;
mod ground;
mod load;
mod owners;
mod proxy;
mod reader;
mod report;
mod scenario;
mod store;
mod stores;
mod workers;

use clap::Parser;
use document::Row;
use report::{Report, seconds};
use scenario::{Run, Scenario};
use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{
    task::{JoinError, JoinSet},
    time::timeout,
};

/// Longest that one scenario may take.
const LIMIT: Duration = Duration::from_secs(240);

/// Breaks real processes and checks what clients saw.
#[derive(Parser)]
#[command(name = "faults")]
struct Words {
    /// Lists the scenarios
    #[arg(long)]
    list: bool,
    /// Runs every scenario in its large form, not only the fixed list in its small one
    #[arg(long)]
    all: bool,
    /// Runs only these, in their large form
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Runs them in their small form
    #[arg(long)]
    small: bool,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds are run; 0: one, taken from the clock
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Scenarios at once; what is timed should be alone
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// The document whose table is written
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    let words = Words::parse();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    plexus_tests::log();
    runtime.block_on(run(words))
}

async fn run(words: Words) -> ExitCode {
    let all = scenario::all();
    if words.list {
        all.iter().for_each(|s| println!("{:<28} {:<10} {}", s.name, s.ids, s.promise));
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) = words.only.iter().find(|name| all.iter().all(|s| s.name != *name)) {
        eprintln!("no scenario is called {unknown:?}: --list has them");
        return ExitCode::FAILURE;
    }
    let full = !words.small && (words.all || !words.only.is_empty());
    let chosen = |s: &&&Scenario| match words.only.is_empty() {
        true => words.all || s.fixed,
        false => words.only.iter().any(|name| name == s.name),
    };
    let seeds = match words.seeds {
        0 => vec![by_chance()],
        count => (words.seed..words.seed + count).collect(),
    };
    let chosen: Vec<&Scenario> = all.iter().filter(chosen).copied().collect();
    let jobs = chosen.iter().flat_map(|s| seeds.iter().map(|&seed| (*s, Run { seed, full })));
    let rows = rows(jobs.collect(), words.jobs.max(1)).await;
    let broken = rows.iter().filter(|row| !row.report.is_kept()).count();
    println!("{} runs, {broken} broken promises", rows.len());
    if let Some(path) = &words.out {
        document::write(path, &all, &rows).expect("the document is written");
    }
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A seed that nobody chose.
fn by_chance() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (u64::from(now.subsec_nanos()) << 20) | (now.as_secs() & 0xf_ffff)
}

/// Runs them, so many at once, and says of each what came of it.
async fn rows(jobs: Vec<(&'static Scenario, Run)>, at_once: usize) -> Vec<Row<'static>> {
    let mut rows = Vec::new();
    let mut waiting = jobs.into_iter();
    let mut running = JoinSet::new();
    loop {
        while running.len() < at_once {
            let Some((scenario, run)) = waiting.next() else { break };
            running.spawn(one(scenario, run));
        }
        let Some(row) = running.join_next().await else { return rows };
        let row = row.expect("a run's panic is its result");
        tell(&row);
        rows.push(row);
    }
}

/// Runs one; a panic or too long a time is a broken promise.
async fn one(scenario: &'static Scenario, run: Run) -> Row<'static> {
    let began = Instant::now();
    let mut task = JoinSet::new();
    task.spawn((scenario.run)(run));
    let report = match timeout(LIMIT, task.join_next()).await {
        Err(_) => failed(format!("not within {}", seconds(LIMIT))),
        Ok(None) => failed("it did not run".into()),
        Ok(Some(Err(error))) => failed(said(error)),
        Ok(Some(Ok(Err(error)))) => failed(format!("{error:#}")),
        Ok(Some(Ok(Ok(report)))) => report,
    };
    Row { scenario, seed: run.seed, report, took: began.elapsed() }
}

fn failed(why: String) -> Report {
    Report { facts: Vec::new(), failures: vec![why] }
}

/// What a panic says.
fn said(error: JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else { return "it was cancelled".into() };
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default()
}

fn tell(row: &Row) {
    let kept = if row.report.is_kept() { "kept  " } else { "BROKEN" };
    println!("{kept} {} (seed {}, {})", row.scenario.name, row.seed, seconds(row.took));
    row.report.facts.iter().for_each(|fact| println!("         {fact}"));
    row.report.failures.iter().for_each(|failure| println!("     !!! {failure}"));
    if !row.report.is_kept() {
        println!("     again: make faults ONLY={} SEED={}", row.scenario.name, row.seed);
    }
}
