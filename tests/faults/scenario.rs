//! The list of faults: what is done, what is promised, and who measures it.

use crate::{delivery, gateways, report::Report, stores, workers};
use anyhow::Result;
use futures::future::BoxFuture;

/// One way in which things break.
pub(crate) struct Scenario {
    /// Its name, by which it is repeated.
    pub(crate) name: &'static str,
    /// Which faults of the list it is.
    pub(crate) ids: &'static str,
    /// What is promised.
    pub(crate) promise: &'static str,
    /// Whether `make test` runs it, in its small form.
    pub(crate) fixed: bool,
    /// Runs it.
    pub(crate) run: fn(Run) -> BoxFuture<'static, Result<Report>>,
}

/// How it is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// What chance depends on.
    pub(crate) seed: u64,
    /// Whether in its large form: more nodes, more clients, longer.
    pub(crate) full: bool,
}

impl Run {
    /// One of two numbers, by the form.
    pub(crate) fn either(self, small: usize, full: usize) -> usize {
        if self.full { full } else { small }
    }

    /// A moment within a span, by the seed: faults do not always come at the same place.
    pub(crate) fn moment(self, most_ms: u64) -> std::time::Duration {
        use rand::{Rng, SeedableRng};
        let mut rng = rand::rngs::StdRng::seed_from_u64(self.seed);
        std::time::Duration::from_millis(rng.random_range(0..=most_ms))
    }
}

/// Every scenario, in the order of the document.
pub(crate) fn all() -> Vec<&'static Scenario> {
    [workers::ALL, gateways::ALL, stores::ALL, delivery::ALL].into_iter().flatten().collect()
}
