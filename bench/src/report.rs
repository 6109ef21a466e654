//! Writes `docs/performance.md`.

use crate::{
    sheet::{Runs, Sheet},
    table::{Line, TABLES},
};
use anyhow::Result;
use std::{fmt::Write, process::Command, time::SystemTime};

const HEAD: &str = "# Performance

Written by `make bench`; do not edit. One run of the table measures every row on one machine, the baseline beside it
with the same binary, allocator and flags. A row has the median of its runs and, in brackets, the least and the
most; the verdict compares medians. CPU is what the kernel's scheduler counted for a process. Trust the ratios more
than the numbers: they hold on other machines.
";

/// How each row is measured.
const HOW: &str = include_str!("how.md");

/// The whole document.
pub(crate) fn document(sheet: &Sheet, note: &str) -> Result<String> {
    let mut out = HEAD.to_owned();
    write!(out, "\n## Where and when\n\n{}\n", machine(note))?;
    for (heading, lines) in TABLES {
        write!(out, "## {heading}\n\n{}\n", table(sheet, lines, true)?)?;
    }
    write!(out, "{}{HOW}", misses(sheet)?)?;
    Ok(out)
}

/// What was measured, as one table.
pub(crate) fn measured(sheet: &Sheet) -> Result<String> {
    Ok(TABLES
        .map(|(_, lines)| table(sheet, lines, false))
        .into_iter()
        .collect::<Result<Vec<_>>>()?
        .join("\n"))
}

/// One table: every line, or only those that were measured.
fn table(sheet: &Sheet, lines: &[Line], whole: bool) -> Result<String> {
    let mut out = String::from(
        "| # | What | Goal | Measured | Beside it | Baseline | Ratio | Verdict |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for line in lines.iter().filter(|line| whole || sheet.measured(line.name).is_some()) {
        let Line { row, what, unit, beside, .. } = line;
        let goal = line.goal.words(unit);
        let measured = sheet.measured(line.name);
        let base = sheet.beside(line.name);
        let ratio = match (&measured, &base) {
            (Some(measured), Some(base)) => format!("{:.2}", measured.median() / base.median()),
            _ => String::new(),
        };
        let verdict = match (&measured, line.kept(sheet)) {
            (None, _) => "not measured",
            (_, Some(true)) => "met",
            (_, Some(false)) => "**missed**",
            (_, None) => "–",
        };
        let (measured, base) = (cell(measured.as_ref(), unit), cell(base.as_ref(), unit));
        writeln!(out, "| {row} | {what} | {goal} | {measured} | {beside} | {base} | {ratio} | {verdict} |")?;
    }
    Ok(out)
}

fn cell(runs: Option<&Runs<'_>>, unit: &str) -> String {
    runs.map_or_else(String::new, |runs| {
        let (least, most) = runs.spread();
        format!("{} {unit} ({}–{}; {})", round(runs.median()), round(least), round(most), runs.count())
    })
}

/// Three digits that mean something.
fn round(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn misses(sheet: &Sheet) -> Result<String> {
    let mut out = String::new();
    for line in TABLES.iter().flat_map(|(_, lines)| *lines).filter(|line| line.kept(sheet) == Some(false)) {
        let why = if line.why.is_empty() { "not looked into yet." } else { line.why };
        writeln!(out, "- Row {}, {}: {why}", line.row, line.what)?;
    }
    for (group, failure) in &sheet.failures {
        writeln!(out, "- {group}: a run failed: {failure}")?;
    }
    Ok(if out.is_empty() { out } else { format!("## Where the time goes in what was missed\n\n{out}\n") })
}

/// Where and when.
pub(crate) fn machine(note: &str) -> String {
    let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    let memory: u64 =
        read("/proc/meminfo").split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    let date = humantime::format_rfc3339_seconds(SystemTime::now());
    let rows = [
        ("Date", date.to_string()),
        (
            "Machine",
            format!(
                "{} cores, {}, {} GiB, Linux {}",
                crate::proc::cores(),
                model.trim_matches([' ', '\t', ':']),
                memory >> 20,
                read("/proc/sys/kernel/osrelease").trim()
            ),
        ),
        (
            "Plexus",
            format!(
                "{}, commit {}",
                env!("CARGO_PKG_VERSION"),
                said("git", &["describe", "--always", "--dirty"])
            ),
        ),
        ("Rust", format!("{}, {profile} profile", said("rustc", &["--version"]))),
        ("Libraries", versions(&["libp2p", "libp2p-gossipsub", "fred", "tokio"])),
        ("Redis", said("redis-server", &["--version"]).split(" sha=").next().unwrap_or_default().to_owned()),
    ];
    let rows = rows.map(|(name, value)| format!("| {name} | {value} |\n")).concat();
    let note = if note.is_empty() { String::new() } else { format!("\n{note}\n") };
    format!("| | |\n|---|---|\n{rows}{note}")
}

fn said(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.ok().filter(|text| !text.is_empty()).unwrap_or_else(|| "unknown".into())
}

/// Versions as the lock file has them.
fn versions(names: &[&str]) -> String {
    let lock = include_str!("../../Cargo.lock");
    let version = |name: &str| {
        let (_, rest) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
        Some(format!("{name} {}", rest.split('"').next()?))
    };
    names.iter().filter_map(|name| version(name)).collect::<Vec<_>>().join(", ")
}
