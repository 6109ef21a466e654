//! What one scenario measured, and whether its promise was kept.

use crate::{load::Ledger, scenario::Run};
use plexus_tests::history::{Terms, Verdict};
use std::time::Duration;

/// Findings that are printed of a run at most.
const FINDINGS: usize = 5;

/// What came of one run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// What was measured, in words.
    pub(crate) facts: Vec<String>,
    /// What was promised and not kept.
    pub(crate) failures: Vec<String>,
}

impl Report {
    /// Says what was measured.
    pub(crate) fn fact(&mut self, fact: impl Into<String>) {
        self.facts.push(fact.into());
    }

    /// Says what was measured, which must be so.
    pub(crate) fn require(&mut self, holds: bool, what: impl Into<String>) {
        let what = what.into();
        if !holds {
            self.failures.push(what.clone());
        }
        self.facts.push(what);
    }

    /// Says what was measured, which must be so where times are judged: on a machine that is quiet.
    pub(crate) fn timed(&mut self, run: Run, holds: bool, what: impl Into<String>) {
        self.require(holds || !run.full, what);
    }

    /// Says what the checker found.
    pub(crate) fn judge(&mut self, ledger: &Ledger, terms: Terms) -> Verdict {
        let verdict = ledger.verdict(terms);
        let gaps: Vec<String> = verdict.gaps.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
        let gaps = if gaps.is_empty() { "no gap".into() } else { format!("gaps: {}", gaps.join(", ")) };
        self.fact(format!(
            "{} acked, {} readers got {}: {} lost silently, {} repeated or out of order, {gaps}",
            verdict.acked,
            verdict.readers,
            verdict.delivered,
            verdict.lost(),
            verdict.repeated(),
        ));
        if terms.gaps {
            self.fact(format!("{} told as missing", verdict.told));
        }
        if !verdict.faults.is_empty() {
            let some: Vec<String> =
                verdict.faults.iter().take(FINDINGS).map(|fault| format!("{fault:?}")).collect();
            self.failures.push(format!("{} faults, such as {}", verdict.faults.len(), some.join("; ")));
        }
        let breaks: Vec<_> =
            ledger.0.iter().flat_map(|e| &e.readers).flat_map(|followed| &followed.breaks).take(4).collect();
        if !breaks.is_empty() && !verdict.faults.is_empty() {
            self.failures.push(format!("readers came again for {breaks:?}"));
        }
        verdict
    }

    /// Whether the promise was kept.
    pub(crate) fn is_kept(&self) -> bool {
        self.failures.is_empty()
    }
}

/// Median, 99th percentile and greatest of sorted times.
pub(crate) fn spread(times: &[Duration]) -> String {
    let at = |share: f64| {
        let index = ((times.len() as f64 * share).ceil() as usize).clamp(1, times.len()) - 1;
        seconds(times[index])
    };
    if times.is_empty() {
        return "never".into();
    }
    format!("p50 {}, p99 {}, most {}", at(0.5), at(0.99), seconds(times[times.len() - 1]))
}

/// Seconds, short.
pub(crate) fn seconds(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 1.0 { format!("{:.0} ms", seconds * 1e3) } else { format!("{seconds:.1} s") }
}
