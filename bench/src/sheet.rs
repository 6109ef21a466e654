//! What was measured: by name, a value of each run, and beside it the baseline's.

use crate::clock::quantile;
use std::collections::BTreeMap;

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
    /// Adds what a run measured.
    pub(crate) fn measure(&mut self, name: &str, value: f64) {
        eprintln!("  {name} {value:.3}");
        self.measured.entry(name.to_owned()).or_default().push(value);
    }

    /// Adds what the same run measured of the baseline.
    pub(crate) fn baseline(&mut self, name: &str, value: f64) {
        eprintln!("  {name} {value:.3} (baseline)");
        self.baseline.entry(name.to_owned()).or_default().push(value);
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
