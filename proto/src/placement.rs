//! Where a node belongs: which workers may have it, and which of those it prefers. Pure. Workers decide by
//! it, gateways explain by it; it is the same on every machine, so that those who see the same agree.
//!
//! A node prefers workers by rendezvous hashing, weighted by capacity: when a worker comes or goes, only the
//! nodes that prefer it move. A node that an operator moved prefers that worker above all.

use crate::{
    bus::WorkerCard,
    v1::{NodeSpec, worker::State},
};
use std::{cmp::Ordering, collections::BTreeMap};

/// What a node says about its place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Capacity that it takes.
    pub weight: u64,
    /// Its own labels, which others may avoid.
    pub labels: BTreeMap<String, String>,
    /// Labels that its worker must have.
    pub worker_labels: BTreeMap<String, String>,
    /// A label of nodes that it will not share a worker with.
    pub avoid: Option<(String, String)>,
    /// The worker that an operator moved it to.
    pub home: Option<String>,
}

/// A worker, as far as placement looks at it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seat {
    /// Its id.
    pub worker: String,
    /// Weight of the nodes that it may own.
    pub capacity: u64,
    /// Weight of those that it owns.
    pub load: u64,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// It gives nodes away and takes none.
    pub draining: bool,
}

/// Why a worker may not have a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bar {
    /// It gives nodes away.
    Draining,
    /// It lacks a label that the node wants.
    Labels,
    /// It has no room.
    Room,
}

impl Rule {
    /// Reads what a spec says; `home` is where an operator moved the node.
    pub fn of(spec: &NodeSpec, home: &str) -> Self {
        let placement = spec.placement.clone().unwrap_or_default();
        let pair = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        Self {
            weight: u64::from(placement.weight.max(1)),
            labels: spec.labels.clone().into_iter().collect(),
            worker_labels: placement.worker_labels.into_iter().collect(),
            avoid: placement.avoid_nodes.split_once('=').map(pair),
            home: (!home.is_empty()).then(|| home.to_owned()),
        }
    }

    /// Tells whether a worker with these labels will do.
    pub fn fits(&self, labels: &BTreeMap<String, String>) -> bool {
        self.worker_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// What keeps a worker from having the node; `owns`: it has it already, so that its room counts.
    pub fn bar(&self, seat: &Seat, owns: bool) -> Option<Bar> {
        if seat.draining {
            Some(Bar::Draining)
        } else if !self.fits(&seat.labels) {
            Some(Bar::Labels)
        } else if !owns && seat.load.saturating_add(self.weight) > seat.capacity {
            Some(Bar::Room)
        } else {
            None
        }
    }

    /// Compares two workers by how much the node prefers them: the better is the greater. Their names
    /// break a tie.
    pub fn compare(&self, node: &str, a: &Seat, b: &Seat) -> Ordering {
        let key = |seat: &Seat| (self.home.as_ref() == Some(&seat.worker), pull(seat, node));
        let ((home_a, pull_a), (home_b, pull_b)) = (key(a), key(b));
        home_a.cmp(&home_b).then(pull_a.total_cmp(&pull_b)).then_with(|| a.worker.cmp(&b.worker))
    }
}

impl Seat {
    /// Reads what a worker says of itself; `None`: it says nothing.
    pub fn of(card: &WorkerCard) -> Option<Self> {
        let worker = card.worker.as_ref()?;
        Some(Self {
            worker: worker.worker.clone(),
            capacity: worker.capacity.into(),
            load: card.load,
            labels: worker.labels.clone().into_iter().collect(),
            draining: worker.state() == State::Draining,
        })
    }

    /// Weight that it can still take.
    pub fn room(&self) -> u64 {
        self.capacity.saturating_sub(self.load)
    }
}

/// How much a node prefers a worker, from 0 to 1, among workers whose capacity is `mean` on average.
pub fn preference(seat: &Seat, node: &str, mean: f64) -> f64 {
    (pull(seat, node) * mean).exp()
}

/// The logarithm of a preference, up to a factor that is the same for all workers.
fn pull(seat: &Seat, node: &str) -> f64 {
    draw(&seat.worker, node).ln() / seat.capacity.max(1) as f64
}

/// A number above 0 and below 1 that only the two names decide (FNV-1a, then the finaliser of MurmurHash3).
fn draw(worker: &str, node: &str) -> f64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in worker.bytes().chain([0]).chain(node.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    ((hash ^ (hash >> 33)) >> 11) as f64 / (1u64 << 53) as f64 + f64::MIN_POSITIVE
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seat(worker: &str, capacity: u64) -> Seat {
        Seat { worker: worker.into(), capacity, ..Seat::default() }
    }

    fn first<'a>(seats: &'a [Seat], node: &str, rule: &Rule) -> &'a str {
        &seats.iter().max_by(|a, b| rule.compare(node, a, b)).unwrap().worker
    }

    #[test]
    fn nodes_spread_by_capacity() {
        let seats = [seat("a", 100), seat("b", 100), seat("c", 200)];
        let mut counts = BTreeMap::new();
        for n in 0..4000 {
            *counts.entry(first(&seats, &format!("ns/n{n}"), &Rule::default())).or_insert(0) += 1;
        }
        for (worker, wanted) in [("a", 1000), ("b", 1000), ("c", 2000)] {
            assert!((wanted - 150..wanted + 150).contains(&counts[worker]), "{counts:?}");
        }
    }

    #[test]
    fn a_node_prefers_where_an_operator_moved_it() {
        let seats = [seat("a", 100), seat("b", 100), seat("c", 1)];
        let home = |home: &str| Rule { home: Some(home.into()), ..Rule::default() };
        for wanted in ["a", "b", "c"] {
            assert_eq!(first(&seats, "ns/n", &home(wanted)), wanted);
        }
        assert_eq!(first(&seats, "ns/n", &home("gone")), first(&seats, "ns/n", &Rule::default()));
    }

    #[test]
    fn a_worker_is_barred_for_one_cause_that_is_told() {
        let labels = |zone: &str| BTreeMap::from([("zone".to_owned(), zone.to_owned())]);
        let rule = Rule { weight: 3, worker_labels: labels("x"), ..Rule::default() };
        let fit = Seat { labels: labels("x"), ..seat("a", 10) };
        let table = [
            (fit.clone(), false, None),
            (Seat { load: 7, ..fit.clone() }, false, None),
            (Seat { load: 8, ..fit.clone() }, false, Some(Bar::Room)),
            (Seat { load: 10, ..fit.clone() }, true, None),
            (Seat { labels: labels("y"), ..fit.clone() }, true, Some(Bar::Labels)),
            (Seat { draining: true, ..fit }, true, Some(Bar::Draining)),
        ];
        for (seat, owns, wanted) in table {
            assert_eq!(rule.bar(&seat, owns), wanted, "{seat:?}");
        }
    }

    proptest! {
        /// A worker that leaves moves only its own nodes, and one that comes takes them only for itself.
        #[test]
        fn only_the_nodes_of_a_worker_that_comes_or_goes_move(
            names in proptest::collection::btree_set("[a-z]{1,6}", 2..8),
            capacities in proptest::collection::vec(1u64..3000, 8),
            node in "[a-z]{1,8}",
        ) {
            let seats: Vec<Seat> = names.iter().zip(capacities).map(|(n, c)| seat(n, c)).collect();
            let (_, rest) = seats.split_first().unwrap();
            let (all, without) = (first(&seats, &node, &Rule::default()), first(rest, &node, &Rule::default()));
            prop_assert!(all == without || all == seats[0].worker);
            for seat in &seats {
                let preference = preference(seat, &node, 1000.0);
                prop_assert!((0.0..=1.0).contains(&preference), "{preference}");
            }
        }
    }
}
