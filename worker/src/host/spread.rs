//! Which nodes to give to other workers: those that an operator moved, those of a worker that shall give its
//! nodes away, and those that would leave each worker with its share. Pure; a wrong view costs a move, never
//! two owners, as a node is given back before anybody can take it (protocol.md P7).
//!
//! - Only what somebody else may have is given away.
//! - A worker's share is the nodes by its part of the capacity, and an eighth more. A node goes to the worker
//!   that it prefers above this one if that has less than its share; once no node can, a worker that has more
//!   gives some to the best of the others. So nodes come to rest: a move leads to a preferred worker, or out of a full one.
//! - To spread, nodes move only while nobody came or went and the store has been the same for a while: a
//!   restart, and the grace after a failover (P4), move nothing that way.

use super::placement::Rule;
use crate::{clock::Moment, config};
use plexus_bus::{Era, NodeName};
use plexus_proto::placement::Seat;
use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

/// Time between looks where there was nothing to do.
const LOOK: Duration = Duration::from_secs(1);
/// Time between looks at the nodes while there is.
const STEP: Duration = Duration::from_millis(100);

/// What is being given away, and how fast.
#[derive(Debug)]
pub(crate) struct Spread {
    moves_per_second: u32,
    settle: Duration,
    /// Nodes on their way to other workers.
    given: BTreeMap<NodeName, String>,
    /// The others, and the era, since `since`.
    others: Vec<(String, u64, bool)>,
    era: Option<Era>,
    since: Moment,
    /// Nodes that may go now, which grow with time up to those of a second.
    allowance: f64,
    reckoned: Moment,
    next: Moment,
}

/// What one worker sees.
#[derive(Debug)]
pub(crate) struct View<'a> {
    /// This worker.
    pub(crate) own: &'a Seat,
    /// The others that live and say what they are.
    pub(crate) others: Vec<&'a Seat>,
    /// How many nodes each worker owns.
    pub(crate) counts: HashMap<&'a str, usize>,
    /// Nodes that are here and not going, and since when they run.
    pub(crate) nodes: Vec<(&'a NodeName, &'a Rule, Moment)>,
    /// Those that are going.
    pub(crate) going: HashSet<&'a NodeName>,
    /// So many nodes a second shall go, whoever is left.
    pub(crate) drain: Option<u32>,
    /// The store.
    pub(crate) era: Option<Era>,
}

/// A node, and who shall have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gift {
    pub(crate) node: NodeName,
    pub(crate) to: String,
}

impl Spread {
    pub(crate) fn new(config: &config::Balance, now: Moment) -> Self {
        Self {
            moves_per_second: config.moves_per_second,
            settle: config.settle,
            given: BTreeMap::new(),
            others: Vec::new(),
            era: None,
            since: now,
            allowance: 0.0,
            reckoned: now,
            next: now,
        }
    }

    /// Tells whether it is time to look.
    pub(crate) fn is_due(&self, now: Moment) -> bool {
        self.next <= now
    }

    /// Hears that there may be something to give.
    pub(crate) fn hurry(&mut self) {
        self.next = Moment::PAST;
    }

    /// Says what to give away now.
    pub(crate) fn step(&mut self, view: View<'_>, now: Moment) -> Vec<Gift> {
        self.settle(&view, now);
        self.given.retain(|node, _| view.going.contains(node));
        let rate = view.drain.unwrap_or(self.moves_per_second);
        let earned = now.since(self.reckoned).as_secs_f64() * f64::from(rate);
        self.allowance = (self.allowance + earned).min(f64::from(rate.max(1)));
        self.reckoned = now;
        let mut scales = Scales::new(&view, &self.given);
        let mut gifts = self.ordered(&view, &mut scales);
        if view.drain.is_none() && self.moves_per_second > 0 && now.since(self.since) >= self.settle {
            let rested = view.nodes.iter().filter(|(.., running)| now.since(*running) >= self.settle);
            // Its neighbours there are not known, and a refusal would only send it back.
            let nodes = rested.filter(|(_, rule, _)| rule.avoid.is_none());
            let nodes: Vec<_> = nodes.map(|(node, rule, _)| (*node, *rule)).collect();
            gifts.extend(self.pass(&nodes, &mut scales, Scales::preferred));
            if gifts.is_empty() && self.given.is_empty() {
                gifts = self.pass(&nodes, &mut scales, Scales::spare);
            }
        }
        let busy = view.drain.is_some() || !gifts.is_empty() || !self.given.is_empty();
        self.next = now.after(if busy { STEP } else { LOOK });
        gifts
    }

    /// What operators ordered: nodes that they moved, and all of a worker that shall have none.
    fn ordered(&mut self, view: &View<'_>, scales: &mut Scales<'_>) -> Vec<Gift> {
        let mut gifts = Vec::new();
        let mut left = Vec::new();
        for (node, rule, _) in &view.nodes {
            match scales.home(rule) {
                Some(home) => gifts.push(self.gift(node, rule, home, scales)),
                None => left.push((*node, *rule)),
            }
        }
        if view.drain.is_some() {
            gifts.extend(self.pass(&left, scales, |scales, node, rule| scales.best(node, rule, |_| true)));
        }
        gifts
    }

    /// Gives what `to` says, as fast as may be.
    fn pass<'a>(
        &mut self,
        nodes: &[(&NodeName, &Rule)],
        scales: &mut Scales<'a>,
        to: impl Fn(&Scales<'a>, &NodeName, &Rule) -> Option<String>,
    ) -> Vec<Gift> {
        let mut gifts = Vec::new();
        for (node, rule) in nodes {
            if self.allowance < 1.0 {
                break;
            }
            if self.given.contains_key(*node) {
                continue;
            }
            if let Some(to) = to(scales, node, rule) {
                self.allowance -= 1.0;
                gifts.push(self.gift(node, rule, to, scales));
            }
        }
        gifts
    }

    fn gift(&mut self, node: &NodeName, rule: &Rule, to: String, scales: &mut Scales<'_>) -> Gift {
        scales.shift(&to, rule);
        self.given.insert(node.clone(), to.clone());
        Gift { node: node.clone(), to }
    }

    /// Looks whether the fleet and the store are as before.
    fn settle(&mut self, view: &View<'_>, now: Moment) {
        let mut others: Vec<_> =
            view.others.iter().map(|seat| (seat.worker.clone(), seat.capacity, seat.draining)).collect();
        others.sort();
        if others != self.others || view.era != self.era {
            (self.others, self.era, self.since) = (others, view.era.clone(), now);
        }
    }
}

/// How the nodes are spread, with those on their way where they go.
struct Scales<'a> {
    own: &'a Seat,
    others: Vec<Seat>,
    counts: HashMap<String, usize>,
    /// Nodes in all, and capacity of all that take some.
    nodes: usize,
    capacity: u64,
}

impl<'a> Scales<'a> {
    fn new(view: &View<'a>, given: &BTreeMap<NodeName, String>) -> Self {
        let others: Vec<Seat> = view.others.iter().map(|seat| (*seat).clone()).collect();
        let taking = others.iter().filter(|seat| !seat.draining).map(|seat| seat.capacity);
        let capacity = view.own.capacity + taking.sum::<u64>();
        let counts: HashMap<String, usize> =
            view.counts.iter().map(|(worker, count)| ((*worker).to_owned(), *count)).collect();
        let nodes = counts.values().sum();
        let mut scales = Self { own: view.own, others, counts, nodes, capacity };
        let light = Rule { weight: 1, ..Rule::default() };
        given.values().for_each(|to| scales.shift(to, &light));
        scales
    }

    /// Nodes that a worker may have before others should have them.
    fn share(&self, seat: &Seat) -> usize {
        let even = self.nodes as f64 * seat.capacity as f64 / self.capacity.max(1) as f64;
        (even * 1.125).ceil() as usize
    }

    fn count(&self, worker: &str) -> usize {
        self.counts.get(worker).copied().unwrap_or_default()
    }

    /// Where an operator moved the node, if it is not here and can have it.
    fn home(&self, rule: &Rule) -> Option<String> {
        let home = rule.home.as_ref().filter(|home| **home != self.own.worker)?;
        let seat = self.others.iter().find(|seat| seat.worker == *home)?;
        rule.bar(seat, false).is_none().then(|| home.clone())
    }

    /// The best of the others that may have it.
    fn best(&self, node: &NodeName, rule: &Rule, fits: impl Fn(&Seat) -> bool) -> Option<String> {
        let others = self.others.iter().filter(|seat| rule.bar(seat, false).is_none() && fits(seat));
        let best = others.max_by(|a, b| rule.compare(node.as_str(), a, b))?;
        Some(best.worker.clone())
    }

    /// Who should have the node because it prefers them to this worker.
    fn preferred(&self, node: &NodeName, rule: &Rule) -> Option<String> {
        if rule.home.as_ref() == Some(&self.own.worker) {
            return None;
        }
        self.best(node, rule, |seat| {
            self.has_less(seat) && rule.compare(node.as_str(), seat, self.own) == Ordering::Greater
        })
    }

    /// Who should have the node because this worker has too many.
    fn spare(&self, node: &NodeName, rule: &Rule) -> Option<String> {
        let over = self.count(&self.own.worker) > self.share(self.own);
        if !over || rule.home.as_ref() == Some(&self.own.worker) {
            return None;
        }
        self.best(node, rule, |seat| self.has_less(seat))
    }

    fn has_less(&self, seat: &Seat) -> bool {
        self.count(&seat.worker) < self.share(seat)
    }

    /// Counts a node as theirs.
    fn shift(&mut self, to: &str, rule: &Rule) {
        if let Some(count) = self.counts.get_mut(&self.own.worker) {
            *count = count.saturating_sub(1);
        }
        *self.counts.entry(to.to_owned()).or_default() += 1;
        if let Some(seat) = self.others.iter_mut().find(|seat| seat.worker == to) {
            seat.load += rule.weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SETTLE: Duration = Duration::from_secs(10);

    fn at(ms: u64) -> Moment {
        Moment::at(Duration::from_millis(ms))
    }

    fn name(n: usize) -> NodeName {
        NodeName::new("ns", &format!("n{n}")).unwrap()
    }

    /// A fleet that moves as it is told: who owns each node.
    struct World {
        seats: BTreeMap<String, Seat>,
        owners: BTreeMap<NodeName, String>,
        rules: BTreeMap<NodeName, Rule>,
        spreads: BTreeMap<String, Spread>,
        drains: BTreeMap<String, u32>,
        moves: usize,
        now: u64,
    }

    impl World {
        fn new(nodes: usize) -> Self {
            let mut world = Self {
                seats: BTreeMap::new(),
                owners: BTreeMap::new(),
                rules: BTreeMap::new(),
                spreads: BTreeMap::new(),
                drains: BTreeMap::new(),
                moves: 0,
                now: 0,
            };
            world.join("w1", 2000);
            for n in 0..nodes {
                world.owners.insert(name(n), "w1".into());
                world.rules.insert(name(n), Rule { weight: 1, ..Rule::default() });
            }
            world
        }

        fn join(&mut self, worker: &str, capacity: u64) {
            let seat = Seat { worker: worker.into(), capacity, ..Seat::default() };
            self.seats.insert(worker.into(), seat);
            let config = config::Balance { moves_per_second: 5, settle: SETTLE };
            self.spreads.insert(worker.into(), Spread::new(&config, at(self.now)));
        }

        fn counts(&self) -> BTreeMap<&str, usize> {
            let mut counts: BTreeMap<&str, usize> = self.seats.keys().map(|w| (w.as_str(), 0)).collect();
            self.owners.values().for_each(|owner| *counts.get_mut(owner.as_str()).unwrap() += 1);
            counts
        }

        /// One step of one worker; what it gives arrives at once.
        fn step(&mut self, worker: &str) {
            for (id, seat) in &mut self.seats {
                seat.load = self.owners.values().filter(|owner| *owner == id).count() as u64;
                seat.draining = self.drains.contains_key(id);
            }
            let mut spread = self.spreads.remove(worker).unwrap();
            let view = View {
                own: &self.seats[worker],
                others: self.seats.values().filter(|seat| seat.worker != worker).collect(),
                counts: self.counts().into_iter().collect(),
                nodes: self
                    .owners
                    .iter()
                    .filter(|(_, owner)| *owner == worker)
                    .map(|(node, _)| (node, &self.rules[node], at(0)))
                    .collect(),
                going: HashSet::new(),
                drain: self.drains.get(worker).copied(),
                era: None,
            };
            let gifts = spread.step(view, at(self.now));
            self.spreads.insert(worker.into(), spread);
            for gift in &gifts {
                assert!(!self.seats[&gift.to].draining && gift.to != worker, "{gift:?}");
                self.owners.insert(gift.node.clone(), gift.to.clone());
            }
            self.moves += gifts.len();
        }

        /// Runs for a time.
        fn run(&mut self, seconds: u64) {
            for _ in 0..seconds * 10 {
                self.now += 100;
                for worker in self.seats.keys().cloned().collect::<Vec<_>>() {
                    if self.spreads[&worker].is_due(at(self.now)) {
                        self.step(&worker);
                    }
                }
            }
        }
    }

    #[test]
    fn nodes_spread_as_workers_join_and_then_rest() {
        let mut world = World::new(100);
        world.run(60);
        assert_eq!(world.moves, 0, "alone");
        world.join("w2", 2000);
        world.run(9);
        assert_eq!(world.moves, 0, "not before the fleet has settled");
        world.run(60);
        assert!(world.counts().values().all(|n| (43..=57).contains(n)), "{:?}", world.counts());
        assert!(world.moves <= 57, "{}", world.moves);
        world.join("w3", 2000);
        world.join("w4", 2000);
        world.run(120);
        assert!(world.counts().values().all(|n| (15..=29).contains(n)), "{:?}", world.counts());
        let moves = world.moves;
        world.run(300);
        assert_eq!(world.moves, moves, "at rest");
    }

    #[test]
    fn a_larger_worker_gets_more() {
        let mut world = World::new(90);
        world.join("w2", 4000);
        world.run(120);
        assert!((55..=68).contains(&world.counts()["w2"]), "{:?}", world.counts());
    }

    #[test]
    fn nodes_move_no_faster_than_they_may() {
        let mut world = World::new(200);
        world.join("w2", 2000);
        world.run(10);
        let mut before = world.moves;
        for _ in 0..5 {
            world.run(1);
            assert!(world.moves - before <= 10, "{} in a second", world.moves - before);
            before = world.moves;
        }
        assert!(world.moves >= 20, "{}", world.moves);
    }

    #[test]
    fn a_drained_worker_gives_all_away_and_gets_them_back_after() {
        let mut world = World::new(40);
        world.join("w2", 2000);
        world.join("w3", 2000);
        world.run(60);
        let before = world.owners.clone();
        world.drains.insert("w2".into(), 20);
        world.run(5);
        assert_eq!(world.counts()["w2"], 0);
        world.drains.clear();
        world.run(60);
        let same = world.owners.iter().filter(|(node, owner)| before[*node] == **owner).count();
        assert!(same >= 30, "{same} of 40 are where they were");
    }

    #[test]
    fn what_nobody_else_may_have_stays() {
        let mut world = World::new(10);
        world.drains.insert("w1".into(), 20);
        world.run(20);
        world.join("w2", 3);
        world.run(20);
        assert_eq!(world.counts(), [("w1", 7), ("w2", 3)].into());
    }

    #[test]
    fn a_node_goes_where_an_operator_moved_it_at_once_and_stays() {
        let mut world = World::new(20);
        world.join("w2", 2000);
        world.run(60);
        for home in ["w1", "w2"] {
            let node = world.owners.iter().find(|(_, owner)| *owner != home).unwrap().0.clone();
            world.rules.get_mut(&node).unwrap().home = Some(home.into());
            world.spreads.values_mut().for_each(Spread::hurry);
            world.run(1);
            assert_eq!(world.owners[&node], home);
            world.run(120);
            assert_eq!(world.owners[&node], home);
        }
    }

    #[test]
    fn a_turn_of_the_store_stops_the_spreading_for_a_while() {
        let seats = ["w1", "w2"].map(|w| Seat { worker: w.into(), capacity: 10, ..Seat::default() });
        let nodes: Vec<NodeName> = (0..10).map(name).collect();
        let rule = Rule { weight: 1, ..Rule::default() };
        let config = config::Balance { moves_per_second: 100, settle: SETTLE };
        let mut spread = Spread::new(&config, at(0));
        let mut gifts = |era: &str, ms: u64| {
            let view = View {
                own: &seats[0],
                others: vec![&seats[1]],
                counts: [("w1", 10)].into(),
                nodes: nodes.iter().map(|node| (node, &rule, at(0))).collect(),
                going: HashSet::new(),
                drain: None,
                era: Some(era.into()),
            };
            spread.step(view, at(ms)).len()
        };
        assert_eq!(gifts("one", 0), 0);
        assert_eq!(gifts("two", 9_000), 0);
        assert_eq!(gifts("two", 18_000), 0);
        assert!(gifts("two", 19_001) > 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Whoever joins and whatever its size, the nodes come to rest, and nobody is over its share by more
        /// than what it takes to be the preferred one.
        #[test]
        fn nodes_come_to_rest(capacities in proptest::collection::vec(20u64..500, 1..5), nodes in 1usize..60) {
            let mut world = World::new(nodes);
            for (i, capacity) in capacities.into_iter().enumerate() {
                world.join(&format!("w{}", i + 2), capacity);
            }
            world.run(120);
            let moves = world.moves;
            world.run(60);
            prop_assert_eq!(world.moves, moves);
            let all: u64 = world.seats.values().map(|seat| seat.capacity).sum();
            for (worker, count) in world.counts() {
                let even = nodes as f64 * world.seats[worker].capacity as f64 / all as f64;
                prop_assert!(count as f64 <= (even * 1.125).ceil(), "{worker}: {count} of {even}");
            }
        }
    }
}
