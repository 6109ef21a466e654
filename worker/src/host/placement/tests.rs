use super::*;
use plexus_bus::Grant;
use plexus_proto::v1::{Node, NodeSpec, NodeStatus, node_spec::PlacementRule};
use proptest::prelude::*;

fn at(ms: u64) -> Moment {
    Moment::at(Duration::from_millis(ms))
}

fn name(node: &str) -> NodeName {
    NodeName::new("ns", node).unwrap()
}

fn inc(pod: &str) -> Incarnation {
    format!("{pod}.1").into()
}

fn owner(worker: Option<&str>) -> Owner {
    Owner { worker: worker.map(inc), grant: Grant { epoch: 7, nonce: 1 } }
}

fn view(pod: &str) -> Placement {
    Placement::new(pod, &config::Config::default())
}

/// Surveys, and reads every record asked for as one without wishes.
fn claims(view: &mut Placement, ms: u64) -> Vec<NodeName> {
    let plan = view.step(at(ms), true, true);
    for node in &plan.read {
        view.learned(node, Ok(Some(Rule { weight: 1, ..Rule::default() })), at(ms));
    }
    [plan.claim, view.step(at(ms), false, true).claim].concat()
}

fn record(change: impl FnOnce(&mut NodeRecord, &mut NodeSpec)) -> NodeRecord {
    let (mut record, mut spec) = (NodeRecord::default(), NodeSpec::default());
    change(&mut record, &mut spec);
    record.node = Some(Node { spec: Some(spec), ..Default::default() });
    record
}

/// The pods `a`, `b` and `c`, the first choice for the node first.
fn by_choice(node: &NodeName) -> [&'static str; 3] {
    let mut pods = ["a", "b", "c"];
    pods.sort_by(|a, b| Rule::default().compare(node.as_str(), &seat(b), &seat(a)));
    pods
}

fn seat(pod: &str) -> Seat {
    Seat { worker: pod.into(), capacity: 2000, ..Seat::default() }
}

#[test]
fn the_first_choice_claims_at_once_and_the_others_later() {
    let node = name("n");
    let [first, second, _] = by_choice(&node);
    for (pod, early) in [(first, vec![node.clone()]), (second, vec![])] {
        let mut view = view(pod);
        view.survey(vec![(node.clone(), owner(None))], ["a", "b", "c"].map(inc).into(), at(0));
        assert_eq!(claims(&mut view, 0), early, "{pod}");
        assert!(claims(&mut view, 999).is_empty());
        assert_eq!(claims(&mut view, 1000).len() + early.len(), 1);
    }
}

#[test]
fn nothing_is_claimed_before_it_is_known_who_lives() {
    let mut view = view("a");
    view.owned(&name("n"), None, at(0));
    assert_eq!(view.step(at(9000), true, true), Plan::default());
}

#[test]
fn a_node_of_an_expired_lease_is_left_to_its_last_worker_first() {
    let node = name("n");
    let [first, second, last] = by_choice(&node);
    let expired = || vec![(node.clone(), Owner { worker: Some(format!("{last}.0").into()), ..owner(None) })];
    let when = |pod: &str| {
        let mut view = view(pod);
        view.survey(expired(), ["a", "b", "c"].map(inc).into(), at(0));
        (0..30).map(|i| i * 100).find(|ms| !claims(&mut view, *ms).is_empty())
    };
    assert_eq!(when(last), Some(0), "it comes back");
    assert_eq!(when(first), Some(1000));
    assert_eq!(when(second), Some(2000));
}

#[test]
fn a_node_given_back_by_a_draining_worker_is_taken_at_once_by_the_next_choice() {
    let node = name("n");
    let [first, second, third] = by_choice(&node);
    for (pod, when) in [(second, 0), (third, 1000)] {
        let mut view = view(pod);
        view.survey(vec![(node.clone(), owner(Some(first)))], ["a", "b", "c"].map(inc).into(), at(0));
        assert!(claims(&mut view, 5000).is_empty(), "an owned node is not taken");
        view.announced(&node, None, at(6000));
        assert_eq!(claims(&mut view, 6000 + when), std::slice::from_ref(&node), "{pod}");
    }
}

#[test]
fn a_node_given_back_after_a_fence_is_left_to_its_worker_for_a_while() {
    let node = name("n");
    let [first, second, _] = by_choice(&node);
    let mut view = view(second);
    view.survey(vec![(node.clone(), owner(Some(first)))], ["a", "b", "c"].map(inc).into(), at(0));
    let again: Incarnation = format!("{first}.2").into();
    view.lives([vec![again], ["a", "b", "c"].map(inc).into()].concat(), at(100));
    view.announced(&node, None, at(200));
    assert!(claims(&mut view, 1199).is_empty());
    assert!(claims(&mut view, 2199).is_empty(), "not its first choice either");
    assert_eq!(claims(&mut view, 2200), [node]);
}

#[test]
fn a_worker_takes_its_nodes_back_after_a_fence() {
    let node = name("n");
    let mut view = view("a");
    view.survey(vec![(node.clone(), owner(None))], vec![inc("a")], at(0));
    assert_eq!(claims(&mut view, 0), std::slice::from_ref(&node));
    view.fenced(&inc("a"));
    assert_eq!(view.load(), 0);
    view.survey(vec![(node.clone(), owner(Some("a")))], vec!["a.1".into(), "a.2".into(), inc("b")], at(10));
    assert!(claims(&mut view, 10).is_empty(), "the old lease still lives");
    view.announced(&node, None, at(20));
    assert_eq!(claims(&mut view, 20), [node]);
}

#[test]
fn a_dead_worker_is_noticed_without_a_survey() {
    let node = name("n");
    let mut view = view("a");
    view.survey(vec![(node.clone(), owner(Some("b")))], vec![inc("a"), inc("b")], at(0));
    assert!(!view.lives(vec![inc("b"), inc("a")], at(1)));
    assert!(view.lives(vec![inc("a")], at(500)));
    assert!(claims(&mut view, 1499).is_empty());
    assert_eq!(claims(&mut view, 1500), [node]);
}

#[test]
fn a_refused_node_is_asked_for_again_after_a_while() {
    let node = name("n");
    let mut view = view("a");
    view.survey(vec![(node.clone(), owner(None))], vec![inc("a")], at(0));
    assert_eq!(claims(&mut view, 0), std::slice::from_ref(&node));
    assert!(claims(&mut view, 1).is_empty(), "under way");
    view.refused(&node, at(10));
    assert!(claims(&mut view, 1009).is_empty());
    assert_eq!(claims(&mut view, 1010), [node]);
}

#[test]
fn what_a_record_wishes() {
    let state = |generation: u64| {
        let status = NodeStatus { state: State::Quarantined as i32, ..Default::default() };
        NodeState { status: Some(status), generation, ..Default::default() }
    };
    assert!(rule(None, None).is_some(), "a node without a record is taken to be buried");
    assert!(rule(Some(&record(|_, _| {})), None).is_some());
    assert!(rule(Some(&record(|_, s| s.stopped = Some(true))), None).is_none());
    let deleting = record(|r, s| (r.deleting, s.stopped) = (true, Some(true)));
    assert!(rule(Some(&deleting), None).is_some());
    assert!(rule(Some(&record(|r, _| r.generation = 3)), Some(&state(3))).is_none(), "quarantined");
    assert!(rule(Some(&record(|r, _| r.generation = 4)), Some(&state(3))).is_some(), "restarted");
    assert!(rule(Some(&record(|r, _| (r.generation, r.deleting) = (3, true))), Some(&state(3))).is_some());
}

#[test]
fn an_unwanted_node_is_read_again_after_a_hint() {
    let node = name("n");
    let mut view = view("a");
    view.survey(vec![(node.clone(), owner(None))], vec![inc("a")], at(0));
    assert_eq!(view.step(at(0), true, true).read, std::slice::from_ref(&node));
    view.learned(&node, Ok(None), at(0));
    assert_eq!(view.step(at(1), true, true), Plan::default());
    view.changed(&node);
    assert_eq!(view.step(at(2), true, true).read, std::slice::from_ref(&node));
    // A hint while it is being read makes the answer too old.
    view.changed(&node);
    view.learned(&node, Ok(None), at(3));
    assert_eq!(view.step(at(4), true, true).read, [node]);
}

#[test]
fn labels_weights_and_neighbours_are_respected() {
    let rules = |spec: NodeSpec| rule(Some(&record(|_, s| *s = spec)), None).unwrap();
    let rule = |p: PlacementRule| rules(NodeSpec { placement: Some(p), ..Default::default() });
    let gpu: HashMap<String, String> = [("zone".to_owned(), "x".to_owned())].into();
    let elsewhere = rule(PlacementRule { worker_labels: gpu, ..Default::default() });
    let heavy = rule(PlacementRule { weight: 9, ..Default::default() });
    let team: HashMap<String, String> = [("team".to_owned(), "t".to_owned())].into();
    let apart = PlacementRule { avoid_nodes: "team=t".into(), ..Default::default() };
    let pair = rules(NodeSpec { labels: team, placement: Some(apart), ..Default::default() });
    let config = config::Config { nodes_max: 10, ..Default::default() };
    let took = |wishes: &[(&str, &Rule)]| {
        let mut view = Placement::new("a", &config);
        view.survey(wishes.iter().map(|(n, _)| (name(n), owner(None))).collect(), vec![inc("a")], at(0));
        view.step(at(0), true, true);
        for (node, rule) in wishes {
            view.learned(&name(node), Ok(Some((*rule).clone())), at(0));
        }
        view.step(at(0), true, true).claim
    };
    assert_eq!(took(&[("a", &elsewhere), ("b", &pair)]), [name("b")], "labels of the worker");
    assert_eq!(took(&[("a", &heavy), ("b", &heavy), ("c", &pair)]), [name("a"), name("c")], "capacity");
    assert_eq!(took(&[("a", &pair), ("b", &pair)]), [name("a")], "neighbours");
}

#[test]
fn a_node_is_taken_at_once_by_the_first_that_may_have_it() {
    let node = name("n");
    let [first, second, _] = by_choice(&node);
    let barred = [Seat { draining: true, ..seat(first) }, Seat { load: 2000, ..seat(first) }];
    for seat in barred {
        let mut view = view(second);
        view.survey(vec![(node.clone(), owner(None))], ["a", "b", "c"].map(inc).into(), at(0));
        assert!(claims(&mut view, 0).is_empty());
        view.told(vec![seat.clone()]);
        assert_eq!(claims(&mut view, 1), std::slice::from_ref(&node), "{seat:?}");
    }
}

#[test]
fn a_promised_node_is_taken_at_once_by_whom_it_was_promised_and_late_by_others() {
    let node = name("n");
    let [first, second, third] = by_choice(&node);
    let when = |pod: &str, giver: &str| {
        let mut view = view(pod);
        view.survey(vec![(node.clone(), owner(Some(giver)))], ["a", "b", "c"].map(inc).into(), at(0));
        view.promised(&node, third);
        view.announced(&node, None, at(100));
        (0..60).map(|i| 100 + i * 100).find(|ms| !claims(&mut view, *ms).is_empty())
    };
    assert_eq!(when(third, second), Some(100));
    assert_eq!(when(first, second), Some(2100), "where the promise came to nothing");
    assert_eq!(when(second, first), Some(2100), "the best of the others");
    assert_eq!(when(first, first), Some(3100), "who gave it, last");
}

#[test]
fn who_gave_a_node_away_takes_it_back_only_where_nobody_else_does() {
    let node = name("n");
    let mut view = view("a");
    view.survey(vec![(node.clone(), owner(None))], vec![inc("a"), inc("b")], at(0));
    assert_eq!([claims(&mut view, 0), claims(&mut view, 1000)].concat(), std::slice::from_ref(&node));
    view.promised(&node, "b");
    view.left(&node, &inc("a"), at(60_000));
    view.announced(&node, None, at(60_001));
    assert!(claims(&mut view, 62_999).is_empty(), "it is promised");
    assert_eq!(claims(&mut view, 64_000), [node]);
}

#[test]
fn a_batch_is_bounded() {
    let mut view = view("a");
    let nodes = (0..200).map(|i| (name(&format!("n{i}")), owner(None))).collect();
    view.survey(nodes, vec![inc("a")], at(0));
    assert_eq!(claims(&mut view, 0).len(), 64);
    assert_eq!(claims(&mut view, 1).len(), 64);
}

proptest! {
    /// Every node has exactly one first choice, and a worker that leaves moves only its own nodes.
    #[test]
    fn preference_is_unique_and_moves_little(pods in proptest::collection::btree_set("[a-z]{1,6}", 2..8), id in "[a-z]{1,8}") {
        let node = name(&id);
        let pods: Vec<String> = pods.into_iter().collect();
        let first = |pods: &[String]| {
            let best = pods.iter().max_by(|a, b| Rule::default().compare(node.as_str(), &seat(a), &seat(b)));
            best.unwrap().clone()
        };
        let eager: Vec<&String> = pods.iter().filter(|pod| {
            let mut view = view(pod);
            view.survey(vec![(node.clone(), owner(None))], pods.iter().map(|p| inc(p)).collect(), at(0));
            !claims(&mut view, 0).is_empty()
        }).collect();
        let choice = first(&pods);
        prop_assert_eq!(eager, vec![&choice]);
        let gone = pods[pods.len() / 2].clone();
        let rest: Vec<String> = pods.iter().filter(|p| **p != gone).cloned().collect();
        if first(&pods) != gone {
            prop_assert_eq!(first(&rest), first(&pods));
        }
    }

    /// Whatever happens, the load is within the capacity and is what the claims weigh.
    #[test]
    fn capacity_holds(ops in proptest::collection::vec((0u8..6, 0usize..20, 1u64..5), 1..200)) {
        let config = config::Config { nodes_max: 12, ..Default::default() };
        let mut view = Placement::new("a", &config);
        let mut mine: BTreeMap<NodeName, u64> = BTreeMap::new();
        view.survey((0..20).map(|i| (name(&format!("n{i}")), owner(None))).collect(), vec![inc("a")], at(0));
        for (i, (op, n, weight)) in ops.into_iter().enumerate() {
            let (node, now) = (name(&format!("n{n}")), at(i as u64 * 700));
            match op {
                0 | 1 => {
                    let plan = view.step(now, true, true);
                    for read in plan.read {
                        view.learned(&read, Ok(Some(Rule { weight, ..Rule::default() })), now);
                    }
                    for claim in plan.claim {
                        let weight = view.here[&claim].weight;
                        prop_assert!(mine.insert(claim, weight).is_none(), "taken twice");
                    }
                }
                2 => { mine.remove(&node); view.left(&node, &inc("a"), now); }
                3 => { mine.remove(&node); view.refused(&node, now); }
                4 => view.announced(&node, (weight > 2).then(|| inc("b")), now),
                _ => view.changed(&node),
            }
            prop_assert!(view.load() <= 12);
            prop_assert_eq!(view.load(), mine.values().sum::<u64>());
        }
    }
}
