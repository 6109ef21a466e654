//! What was measured: by name, a value of each run, and beside it the baseline's.

use crate::clock::quantile;
use std::collections::BTreeMap;

/// How a baseline's line ends.
const BASELINE: &str = " (baseline)";

/// Values of all runs.
#[derive(Default)]
pub(crate) struct Sheet {
    measured: BTreeMap<String, Vec<f64>>,
    baseline: BTreeMap<String, Vec<f64>>,
    /// What went wrong, by group.
    pub(crate) failures: Vec<(&'static str, String)>,
}

/// Several runs of one thing.
pub(crate) struct Runs<'a>(&'a [f64]);

impl Sheet {
    /// Notes what a run measured.
    pub(crate) fn measure(&mut self, name: &str, value: f64) {
        self.measured.entry(name.to_owned()).or_default().push(value);
    }

    /// Notes what the same run measured of the baseline.
    pub(crate) fn baseline(&mut self, name: &str, value: f64) {
        self.baseline.entry(name.to_owned()).or_default().push(value);
    }

    /// Prints what a run measured, and adds it.
    pub(crate) fn add(&mut self, run: Self) {
        for (all, values, mark) in
            [(&mut self.measured, run.measured, ""), (&mut self.baseline, run.baseline, BASELINE)]
        {
            for (name, values) in values {
                values.iter().for_each(|value| eprintln!("  {name} {value:.3}{mark}"));
                all.entry(name).or_default().extend(values);
            }
        }
    }

    /// Reads what [`Sheet::add`] printed; other lines are passed over.
    pub(crate) fn read(&mut self, text: &str) {
        for line in text.lines().filter_map(|line| line.strip_prefix("  ")) {
            let plain = line.trim_end_matches(BASELINE);
            let Some((name, value)) = plain.split_once(' ') else { continue };
            let Ok(value) = value.parse() else { continue };
            if plain == line { self.measure(name, value) } else { self.baseline(name, value) }
        }
    }

    /// What was measured.
    pub(crate) fn measured(&self, name: &str) -> Option<Runs<'_>> {
        self.measured.get(name).map(|values| Runs(values))
    }

    /// What the baseline measured.
    pub(crate) fn beside(&self, name: &str) -> Option<Runs<'_>> {
        self.baseline.get(name).map(|values| Runs(values))
    }
}

impl Runs<'_> {
    /// The median.
    pub(crate) fn median(&self) -> f64 {
        quantile(self.0, 0.5)
    }

    /// The least and the most.
    pub(crate) fn spread(&self) -> (f64, f64) {
        (quantile(self.0, 0.0), quantile(self.0, 1.0))
    }

    /// How many runs.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }
}
