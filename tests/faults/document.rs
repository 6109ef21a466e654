//! The table of faults in docs/reliability.md, between its markers: a row for each scenario, of its last run.

use crate::scenario::Scenario;
use anyhow::{Context, Result};
use std::{collections::BTreeMap, fs, path::Path, process::Command, time::Duration};

const BEGIN: &str = "<!-- faults: written by `make faults`, do not edit -->\n";
const END: &str = "<!-- end of faults -->";
const HEAD: &str =
    "\n| Scenario | Faults | Promised | Measured | Kept | Seed | Of |\n|---|---|---|---|---|---|---|\n";

/// One run, as its row tells it.
pub(crate) struct Row<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) seed: u64,
    pub(crate) report: crate::report::Report,
    pub(crate) took: Duration,
}

impl Row<'_> {
    fn text(&self, seeds: &str, of: &str) -> String {
        let Scenario { name, ids, promise, .. } = self.scenario;
        let kept = if self.report.is_kept() { "yes".into() } else { format!("**no**: {}", self.failures()) };
        let measured = self.report.facts.join("; ").replace('|', "/");
        format!("| `{name}` | {ids} | {promise} | {measured} | {kept} | {seeds} | {of} |")
    }

    fn failures(&self) -> String {
        let text = self.report.failures.join("; ").replace(['|', '\n'], "/");
        text.chars().take(400).collect()
    }
}

/// Puts the rows of these runs in the place of those of the same scenarios; the order is that of `all`.
pub(crate) fn write(path: &Path, all: &[&Scenario], rows: &[Row]) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let (before, rest) = text.split_once(BEGIN).with_context(|| format!("the marker {BEGIN:?}"))?;
    let (former, after) = rest.split_once(END).with_context(|| format!("the marker {END:?}"))?;
    let mut lines: BTreeMap<String, String> =
        former.lines().filter_map(|line| Some((name(line)?, line.to_owned()))).collect();
    let of = stamp();
    for scenario in all {
        let of_it = || rows.iter().filter(|row| row.scenario.name == scenario.name);
        // The first that broke stands for all; else the last.
        let Some(row) = of_it().find(|row| !row.report.is_kept()).or_else(|| of_it().next_back()) else {
            continue;
        };
        let (first, last) = (of_it().map(|r| r.seed).min(), of_it().map(|r| r.seed).max());
        let seeds = match (row.report.is_kept(), first, last) {
            (true, Some(first), Some(last)) if first != last => format!("{first} to {last}"),
            _ => row.seed.to_string(),
        };
        lines.insert(scenario.name.to_owned(), row.text(&seeds, &of));
    }
    let lines: Vec<String> = all.iter().filter_map(|scenario| lines.remove(scenario.name)).collect();
    Ok(fs::write(path, format!("{before}{BEGIN}{HEAD}{}\n\n{END}{after}", lines.join("\n")))?)
}

/// The scenario of a row.
fn name(line: &str) -> Option<String> {
    Some(line.strip_prefix("| `")?.split('`').next()?.to_owned())
}

/// The day and the commit.
fn stamp() -> String {
    let said = |program: &str, words: &[&str]| {
        let output = Command::new(program).args(words).output();
        output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
    };
    let commit = said("git", &["describe", "--always", "--dirty"]);
    format!("{}, {commit}", said("date", &["-u", "+%F"]))
}
