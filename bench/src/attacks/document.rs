//! The section on attacks in docs/reliability.md, between its markers.

use super::{honest::Window, trial::Trial};
use crate::report;
use anyhow::{Context, Result};
use plexus_tests::attacks::{Attack, Toll};
use std::{fmt::Write, fs, path::Path};

const BEGIN: &str = "<!-- attacks: written by `make attacks`, do not edit -->\n";
const END: &str = "<!-- end of attacks -->";

/// Puts the section between the markers.
pub(super) fn write(path: &Path, section: &str) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let (before, rest) = text.split_once(BEGIN).with_context(|| format!("the marker {BEGIN:?}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("the marker {END:?}"))?;
    Ok(fs::write(path, format!("{before}{BEGIN}\n{section}\n{END}{after}"))?)
}

/// What was measured.
pub(super) fn section(alone: &Window, trials: &[Trial], seconds: u64, note: &str) -> String {
    let mut out = report::machine(note);
    let _ = write!(
        out,
        "\nHonest clients alone, p50 / p99: a call {}, a delivery {}. Each row's attacks lasted {seconds} s.\n\n\
         | Attacks, side by side | Opened; cut; cut after at most | Held at the end, 2 s later | p99 of a call × | p99 of \
         a delivery × | Memory, of that in the second half | CPU of the gateway | Kept |\n\
         |---|---|---|---|---|---|---|---|\n",
        pair(alone.call),
        pair(alone.delivery),
    );
    for trial in trials {
        let both = |cell: fn(&(Attack, Toll)) -> String| {
            trial.attacks.iter().map(cell).collect::<Vec<_>>().join("<br>")
        };
        let (call, delivery) = trial.ratios();
        let _ = writeln!(
            out,
            "| {} | {} | {}, {} | {call:.2} ({} ms) | {delivery:.2} ({} ms) | {}, {} MB | {:.0} ms/s | {} |",
            both(|(attack, _)| format!("`{}`", attack.name)),
            both(|(_, toll)| match toll.cut {
                0 => format!("{}; none", toll.opened),
                cut => format!("{}; {cut}; {:.1} s", toll.opened, toll.longest_cut.as_secs_f64()),
            }),
            trial.left.0,
            trial.left.1,
            millis(trial.under.call.1),
            millis(trial.under.delivery.1),
            mb(trial.growth.0),
            mb(trial.growth.1),
            trial.cpu,
            verdict(trial),
        );
    }
    out
}

fn verdict(trial: &Trial) -> String {
    match (trial.is_kept(), trial.under.failures) {
        (true, _) => "yes".into(),
        (false, 0) => "**no**".into(),
        (false, failures) => format!("**no**, {failures} honest failures"),
    }
}

fn pair((median, high): (f64, f64)) -> String {
    format!("{} / {} ms", millis(median), millis(high))
}

fn millis(us: f64) -> String {
    format!("{:.2}", us / 1e3)
}

fn mb(bytes: i64) -> String {
    format!("{:+.1}", bytes as f64 / 1e6)
}
