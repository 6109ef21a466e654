//! The simulator: the real pure cores of workers, gateways and the store under seeded faults. A seed is a
//! series of walks, each with its own processes, faults and clients (`plan`); `world` lets them happen,
//! `check` judges. A walk that fails is cut down to the faults that it needs, and told.

#[allow(dead_code, reason = "the build reads the rest of it")]
mod bugs;
mod chance;
mod check;
mod histories;
mod net;
mod plan;
mod switch;
mod world;

#[allow(dead_code, unused_imports, unreachable_pub, reason = "the cores are used in part")]
#[allow(unused_parens, reason = "the build adds some")]
#[allow(clippy::all, reason = "the cores are checked where they belong")]
mod cores {
    include!(concat!(env!("OUT_DIR"), "/cores.rs"));
}

use cores::{bus, gateway, worker};

use bugs::{BUGS, Bug};
use clap::{Parser, ValueEnum};
use histories::History;
use plan::Plan;
use std::{
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

/// Simulates workers, gateways and the store under faults.
#[derive(Parser)]
struct Args {
    /// Seeds to try.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Steps of each seed, at least.
    #[arg(long, default_value_t = 1_000_000)]
    steps: u64,
    /// Only this walk of the first seed, with a trace of everything.
    #[arg(long)]
    walk: Option<u64>,
    /// Only walks of this history.
    #[arg(long)]
    history: Option<History>,
    /// Wakes a planted bug: its number in protocol.md §9, times ten.
    #[arg(long, default_value_t = 0)]
    bug: u32,
    /// Tries every planted bug: each must be found within the seeds.
    #[arg(long)]
    bugs: bool,
}

/// What the walks of some seeds came to.
#[derive(Default)]
struct Sum {
    walks: u64,
    steps: u64,
    acked: u64,
    delivered: u64,
    gaps: u64,
    refused: u64,
    /// The first walk that failed: seed, number, and why.
    failed: Option<(u64, u64, String)>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    switch::wake(args.bug);
    if let Some(walk) = args.walk {
        return tell(&args, args.first, walk);
    }
    if args.bugs {
        return every_bug(&args);
    }
    let begun = Instant::now();
    let sum = search(&args, args.history);
    let (seconds, Sum { walks, steps, acked, delivered, gaps, refused, failed }) =
        (begun.elapsed().as_secs_f64(), sum);
    println!(
        "{} seeds, {walks} walks, {steps} steps in {seconds:.1} s ({:.0} a second); {acked} receipts, {delivered} \
         deliveries, {gaps} gaps told, {refused} calls refused",
        args.seeds,
        steps as f64 / seconds
    );
    match failed {
        None => ExitCode::SUCCESS,
        Some((seed, walk, why)) => {
            println!("seed {seed}, walk {walk}: {why}");
            tell(&args, seed, walk)
        }
    }
}

/// Walks until something fails, on every core.
fn search(args: &Args, history: Option<History>) -> Sum {
    let (next, stop, sum) = (AtomicU64::new(0), AtomicBool::new(false), Mutex::new(Sum::default()));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= args.seeds {
                        return;
                    }
                    let of = one_seed(args.first + seed, args.steps, history, &stop);
                    let mut sum = sum.lock().expect("nobody panics with it");
                    sum.add(of);
                    if sum.failed.is_some() {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    sum.into_inner().expect("nobody panics with it")
}

fn one_seed(seed: u64, steps: u64, history: Option<History>, stop: &AtomicBool) -> Sum {
    let mut sum = Sum::default();
    for walk in 0.. {
        if sum.steps >= steps || sum.failed.is_some() || stop.load(Ordering::Relaxed) {
            break;
        }
        let verdict = world::walk(&Plan::new(seed, walk, history), false);
        let failed = verdict.wrong.map(|(_, why)| (seed, walk, why));
        sum.add(Sum {
            walks: 1,
            steps: verdict.steps,
            acked: verdict.acked,
            delivered: verdict.delivered,
            gaps: verdict.gaps,
            refused: verdict.refused,
            failed,
        });
    }
    sum
}

impl Sum {
    fn add(&mut self, other: Self) {
        self.walks += other.walks;
        self.steps += other.steps;
        self.acked += other.acked;
        self.delivered += other.delivered;
        self.gaps += other.gaps;
        self.refused += other.refused;
        if self.failed.is_none() {
            self.failed = other.failed;
        }
    }
}

/// Cuts a walk down to the faults that it needs to fail, and tells it: all of it where it was asked for by
/// its number, else what happened and the last calls.
fn tell(args: &Args, seed: u64, walk: u64) -> ExitCode {
    let mut plan = Plan::new(seed, walk, args.history);
    let whole = plan.faults.len();
    if world::walk(&plan, false).wrong.is_none() {
        print!("{}", world::spell(&world::walk(&plan, true).trace));
        println!("seed {seed}, walk {walk}: nothing is wrong");
        return ExitCode::SUCCESS;
    }
    shrink(&mut plan);
    let mut verdict = world::walk(&plan, true);
    if args.walk.is_none() {
        world::shorten(&mut verdict.trace);
    }
    print!("{}", world::spell(&verdict.trace));
    println!("seed {seed}, walk {walk}, cut from {whole} faults to {}:\n{plan:#?}", plan.faults.len());
    if let Some((at, why)) = verdict.wrong {
        println!("{} {why}", check::clock(at));
    }
    println!("all of it: {}", repeat(seed, walk, args.history, args.bug));
    ExitCode::FAILURE
}

/// The command that walks once more.
fn repeat(seed: u64, walk: u64, history: Option<History>, bug: u32) -> String {
    let name = |history: History| history.to_possible_value().map(|value| value.get_name().to_owned());
    let history = history.and_then(name).map(|name| format!(" --history {name}")).unwrap_or_default();
    let bug = if bug > 0 { format!(" --bug {bug}") } else { String::new() };
    let program = std::env::args().next().unwrap_or_default();
    format!("{program} --first {seed} --walk {walk}{history}{bug}")
}

/// Tries the walk with less, again and again.
fn shrink(plan: &mut Plan) {
    let fails = |plan: &Plan| world::walk(plan, false).wrong.is_some();
    loop {
        let mut less: Vec<Plan> = (0..plan.faults.len())
            .map(|fault| {
                let mut less = plan.clone();
                less.faults.remove(fault);
                less
            })
            .collect();
        for edit in [
            |plan: &mut Plan| plan.readers = plan.readers.min(1),
            |plan: &mut Plan| plan.clients = plan.clients.min(1),
            |plan: &mut Plan| plan.nodes = 1,
            |plan: &mut Plan| plan.topics = 1,
        ] {
            let mut one = plan.clone();
            edit(&mut one);
            if format!("{one:?}") != format!("{plan:?}") {
                less.push(one);
            }
        }
        match less.into_iter().find(fails) {
            Some(less) => *plan = less,
            None => return,
        }
    }
}

/// Wakes one bug after the other; each is sought where it is said to be found.
fn every_bug(args: &Args) -> ExitCode {
    let mut missed = Vec::new();
    let all = Instant::now();
    for Bug { number, name, history, .. } in BUGS {
        switch::wake(*number);
        let history = (!history.is_empty())
            .then(|| History::from_str(history, false).expect("the list names histories that are there"));
        let begun = Instant::now();
        let sum = search(args, history);
        let (walks, seconds) = (sum.walks, begun.elapsed().as_secs_f64());
        match sum.failed {
            Some((seed, walk, why)) => {
                println!("{number:>3} {name}: found in {walks} walks, {seconds:.1} s: {why}");
                println!("    {}", repeat(seed, walk, history, *number));
            }
            None => {
                println!("{number:>3} {name}: NOT FOUND in {walks} walks, {seconds:.1} s");
                missed.push(*name);
            }
        }
    }
    println!("{} planted bugs in {:.1} s, not found: {missed:?}", BUGS.len(), all.elapsed().as_secs_f64());
    if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
