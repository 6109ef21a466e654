//! Leases of workers, grants of nodes, the directory (protocol.md P1–P7).

use crate::ground::{Ground, Worker, eventually, frame, node};
use plexus_bus::{Bus, Claim, Enlisted, Grant, NodeName, Owner, Subject, Subscription, Taken};
use plexus_proto::bus as wire;
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, sleep_until};

/// Above every clock, and far below 2^53.
const AHEAD: u64 = 5_000_000_000_000_000;

fn claim(node: &NodeName, floor: u64, from: Option<u64>) -> Claim {
    Claim { node: node.clone(), floor, from }
}

async fn owner(bus: &Bus, node: &NodeName) -> (Option<String>, u64) {
    let owner = bus.owner(node).await.unwrap().expect("the directory knows the node");
    (owner.worker.map(|w| w.to_string()), owner.grant.epoch)
}

async fn change(told: &mut Subscription) -> (String, String, u64) {
    let change: wire::OwnerChange = frame(told).await.take().unwrap();
    (format!("{}/{}", change.namespace, change.node), change.worker, change.epoch)
}

/// Sleeps until so long after the beginning: the promise is about time itself.
async fn reach(begin: Instant, after: f32) {
    sleep_until(begin + Duration::from_secs_f32(after)).await;
}

pub(crate) async fn a_free_node_is_taken_above_the_clock(ground: Ground) {
    let worker = ground.worker("w.1").await;
    let before = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros() as u64;
    let epoch = worker.take(&node("a"), 7).await.unwrap();
    assert!(epoch >= before - 1_000_000, "{epoch} {before}");
    assert!(epoch < 1 << 53);
    let expected = Owner { worker: Some(worker.inc.clone()), grant: Grant { epoch, nonce: 7 } };
    assert_eq!(ground.other.owner(&node("a")).await, Ok(Some(expected)));
    let owned = ground.other.owned(&worker.inc).await.unwrap();
    assert_eq!((owned.changes, owned.nodes), (1, vec![(node("a"), Grant { epoch, nonce: 7 })]));
}

pub(crate) async fn a_held_node_is_not_taken(ground: Ground) {
    let (one, two) = (ground.worker("w.1").await, ground.worker("w.2").await);
    let epoch = one.take(&node("a"), 7).await.unwrap();
    assert_eq!(two.take(&node("a"), 8).await, None);
    assert_eq!(two.take(&node("a"), 7).await, None, "nor under the same nonce");
    assert_eq!(owner(&ground.bus, &node("a")).await, (Some("w.1".into()), epoch));
    assert_eq!(ground.bus.owned(&two.inc).await.unwrap(), Default::default());
}

pub(crate) async fn the_same_take_again_answers_the_same_epoch(ground: Ground) {
    let worker = ground.worker("w.1").await;
    let epoch = worker.take(&node("a"), 7).await;
    assert!(epoch.is_some());
    assert_eq!(worker.take(&node("a"), 7).await, epoch);
    assert_eq!(worker.renewed(false).await, Some(1), "nothing changed");
}

pub(crate) async fn a_holder_cannot_take_under_another_nonce(ground: Ground) {
    let worker = ground.worker("w.1").await;
    worker.take(&node("a"), 7).await.unwrap();
    assert_eq!(worker.take(&node("a"), 8).await, None);
    assert_eq!(ground.bus.owner(&node("a")).await.unwrap().unwrap().grant.nonce, 7);
}

pub(crate) async fn one_take_answers_for_each_node(ground: Ground) {
    let (one, two) = (ground.worker("w.1").await, ground.worker("w.2").await);
    one.take(&node("b"), 7).await.unwrap();
    let claims: Vec<_> = ["a", "b", "c"].map(|name| claim(&node(name), 0, None)).into();
    let Taken::Epochs(epochs) = ground.bus.take(&two.inc, 8, &claims).await.unwrap() else { panic!("lost") };
    assert_eq!(epochs.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(two.renewed(false).await, Some(2));
}

pub(crate) async fn a_worker_without_a_lease_takes_nothing(ground: Ground) {
    let worker = Worker { bus: ground.bus.clone(), inc: "w.1".into() };
    let taken = ground.bus.take(&worker.inc, 7, &[claim(&node("a"), 0, None)]).await;
    assert_eq!(taken, Ok(Taken::Lost));
    assert_eq!(ground.bus.owner(&node("a")).await, Ok(None));
}

pub(crate) async fn a_lease_begins_only_fresh(ground: Ground) {
    let worker = Worker { bus: ground.bus.clone(), inc: "w.1".into() };
    assert_eq!(worker.renewed(false).await, None);
    assert_eq!(worker.renewed(true).await, Some(0));
    assert_eq!(worker.renewed(false).await, Some(0));
}

pub(crate) async fn a_grant_is_raised_above_its_floor(ground: Ground) {
    let worker = ground.worker("w.1").await;
    let first = worker.take(&node("a"), 7).await.unwrap();
    let raised = worker.claim(8, claim(&node("a"), AHEAD, Some(7))).await.unwrap();
    assert!(raised > AHEAD && first < AHEAD);
    let grant = Grant { epoch: raised, nonce: 8 };
    assert_eq!(ground.bus.owner(&node("a")).await.unwrap().unwrap().grant, grant);
    let owned = ground.bus.owned(&worker.inc).await.unwrap();
    assert_eq!((owned.changes, owned.nodes), (2, vec![(node("a"), grant)]));
}

pub(crate) async fn a_raise_without_a_floor_is_above_the_grant(ground: Ground) {
    let worker = ground.worker("w.1").await;
    let first = worker.claim(7, claim(&node("a"), AHEAD, None)).await.unwrap();
    let raised = worker.claim(8, claim(&node("a"), 0, Some(7))).await.unwrap();
    assert!(raised > first, "{raised} {first}");
}

pub(crate) async fn only_ones_own_grant_is_raised(ground: Ground) {
    let (one, two) = (ground.worker("w.1").await, ground.worker("w.2").await);
    let epoch = one.take(&node("a"), 7).await.unwrap();
    assert_eq!(two.claim(8, claim(&node("a"), 0, Some(7))).await, None, "another's");
    assert_eq!(one.claim(8, claim(&node("a"), 0, Some(6))).await, None, "an older one");
    assert_eq!(one.claim(8, claim(&node("free"), 0, Some(7))).await, None, "none");
    assert_eq!(owner(&ground.bus, &node("a")).await, (Some("w.1".into()), epoch));
}

pub(crate) async fn a_released_node_gets_a_larger_epoch(ground: Ground) {
    let (one, two) = (ground.worker("w.1").await, ground.worker("w.2").await);
    // Ahead of the clock, so that the last epoch alone can make it larger.
    let first = one.claim(7, claim(&node("a"), AHEAD, None)).await.unwrap();
    assert_eq!(one.release(&node("a"), first).await, 1);
    let nobody = Owner { worker: None, grant: Grant { epoch: first, nonce: 7 } };
    assert_eq!(ground.bus.owner(&node("a")).await, Ok(Some(nobody)));
    assert_eq!(ground.bus.owned(&one.inc).await.unwrap().nodes, []);
    let second = two.take(&node("a"), 8).await.unwrap();
    assert!(second > first, "{second} {first}");
}

pub(crate) async fn epochs_do_not_count_up_by_one(ground: Ground) {
    let worker = ground.worker("w.1").await;
    // Ahead of the clock, so that each raise begins from the last epoch.
    let mut last = worker.claim(0, claim(&node("a"), AHEAD, None)).await.unwrap();
    let mut steps = Vec::new();
    for nonce in 1..=4 {
        let epoch = worker.claim(nonce, claim(&node("a"), 0, Some(nonce - 1))).await.unwrap();
        steps.push(epoch - last);
        last = epoch;
    }
    // Four steps of one have a chance of 2^-80.
    assert!(steps.iter().any(|step| *step != 1), "{steps:?}");
    assert!(steps.iter().all(|step| (1..=(1 << 20) + 1).contains(step)), "{steps:?}");
}

pub(crate) async fn a_floor_is_not_exceeded_by_one(ground: Ground) {
    let worker = ground.worker("w.1").await;
    let mut steps = Vec::new();
    for (nonce, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
        let epoch = worker.claim(nonce as u64, claim(&node(name), AHEAD, None)).await.unwrap();
        steps.push(epoch - AHEAD);
    }
    assert!(steps.iter().any(|step| *step != steps[0]), "{steps:?}");
}

pub(crate) async fn only_the_owner_releases(ground: Ground) {
    let (one, two) = (ground.worker("w.1").await, ground.worker("w.2").await);
    let epoch = one.take(&node("a"), 7).await.unwrap();
    assert_eq!(two.release(&node("a"), epoch).await, 0, "another worker");
    assert_eq!(one.release(&node("a"), epoch - 1).await, 0, "an older grant");
    assert_eq!(one.release(&node("none"), epoch).await, 0, "another node");
    assert_eq!(owner(&ground.bus, &node("a")).await, (Some("w.1".into()), epoch));
    assert_eq!(one.renewed(false).await, Some(1));
    assert_eq!(two.renewed(false).await, Some(0));
}

pub(crate) async fn a_release_repeated_does_nothing(ground: Ground) {
    let (one, two) = (ground.worker("w.1").await, ground.worker("w.2").await);
    let first = one.take(&node("a"), 7).await.unwrap();
    assert_eq!(one.release(&node("a"), first).await, 1);
    assert_eq!(one.release(&node("a"), first).await, 0);
    let second = two.take(&node("a"), 8).await.unwrap();
    assert_eq!(one.release(&node("a"), first).await, 0);
    assert_eq!(owner(&ground.bus, &node("a")).await, (Some("w.2".into()), second));
}

pub(crate) async fn every_change_of_a_record_counts(ground: Ground) {
    let worker = ground.worker("w.1").await;
    let a = worker.take(&node("a"), 7).await.unwrap();
    worker.take(&node("b"), 7).await.unwrap();
    assert_eq!(worker.renewed(false).await, Some(2));
    worker.release(&node("a"), a).await;
    assert_eq!(worker.renewed(false).await, Some(3));
    assert_eq!(ground.bus.owned(&worker.inc).await.unwrap().changes, 3);
}

pub(crate) async fn owners_list_every_node(ground: Ground) {
    let worker = ground.worker("w.1").await;
    let a = worker.take(&node("a"), 7).await.unwrap();
    let b = worker.take(&node("b"), 7).await.unwrap();
    worker.release(&node("b"), b).await;
    ground.bus.enlist(&node("c"), b"peer").await.unwrap();
    let mut owners = ground.other.owners().await.unwrap();
    owners.sort_by(|x, y| x.0.cmp(&y.0));
    let of = |worker: Option<&Worker>, epoch, nonce| Owner {
        worker: worker.map(|w| w.inc.clone()),
        grant: Grant { epoch, nonce },
    };
    let expected =
        [(node("a"), of(Some(&worker), a, 7)), (node("b"), of(None, b, 7)), (node("c"), of(None, 0, 0))];
    assert_eq!(owners, expected);
    assert_eq!(ground.other.owner(&node("none")).await, Ok(None));
}

pub(crate) async fn takes_and_releases_are_told(ground: Ground) {
    let worker = ground.worker("w.1").await;
    let mut told = ground.other.subscribe(Subject::Ownership).await.unwrap();
    let first = worker.take(&node("a"), 7).await.unwrap();
    worker.take(&node("a"), 7).await.unwrap();
    let raised = worker.claim(8, claim(&node("a"), 0, Some(7))).await.unwrap();
    worker.release(&node("a"), first).await;
    worker.release(&node("a"), raised).await;
    let name = || "default/a".to_owned();
    assert_eq!(change(&mut told).await, (name(), "w.1".into(), first));
    assert_eq!(change(&mut told).await, (name(), "w.1".into(), raised), "not the repeat");
    assert_eq!(change(&mut told).await, (name(), String::new(), raised), "not what it no longer had");
}

pub(crate) async fn a_retired_worker_is_gone_at_once(ground: Ground) {
    let (one, two) = (ground.worker("w.1").await, ground.worker("w.2").await);
    let first = one.take(&node("a"), 7).await.unwrap();
    ground.bus.retire(&one.inc).await.unwrap();
    assert_eq!(ground.bus.workers().await, Ok(vec![two.inc.clone()]));
    assert_eq!(one.renewed(false).await, None);
    let second = two.take(&node("a"), 8).await.expect("nobody alive holds it");
    assert!(second > first);
}

pub(crate) async fn workers_are_those_alive(ground: Ground) {
    assert_eq!(ground.bus.workers().await, Ok(vec![]));
    ground.worker("w.1").await;
    ground.worker("w.2").await;
    let mut workers = ground.other.workers().await.unwrap();
    workers.sort();
    assert_eq!(workers, ["w.1".into(), "w.2".into()]);
}

pub(crate) async fn a_node_is_enlisted_once(ground: Ground) {
    let bus = &ground.bus;
    let peer = [0, 36, 8, 255];
    assert_eq!(bus.enlist(&node("a"), &peer).await, Ok(Enlisted::Done));
    assert_eq!(bus.enlist(&node("a"), &peer).await, Ok(Enlisted::Done), "the same again");
    assert_eq!(bus.enlist(&node("b"), &peer).await, Ok(Enlisted::PeerExists));
    assert_eq!(bus.enlist(&node("a"), b"other").await, Ok(Enlisted::NodeExists));
    assert_eq!(ground.other.find(&peer).await, Ok(Some(node("a"))));
    assert_eq!(ground.other.find(b"other").await, Ok(None));
    assert_eq!(owner(bus, &node("a")).await, (None, 0));
    assert_eq!(bus.owner(&node("b")).await, Ok(None));
}

pub(crate) async fn an_enlisted_node_stays_with_its_owner(ground: Ground) {
    let worker = ground.worker("w.1").await;
    ground.bus.enlist(&node("a"), b"peer").await.unwrap();
    let epoch = worker.take(&node("a"), 7).await.unwrap();
    assert_eq!(ground.bus.enlist(&node("a"), b"peer").await, Ok(Enlisted::Done));
    assert_eq!(owner(&ground.bus, &node("a")).await, (Some("w.1".into()), epoch));
}

pub(crate) async fn a_node_may_be_taken_before_it_is_enlisted(ground: Ground) {
    let worker = ground.worker("w.1").await;
    let epoch = worker.take(&node("a"), 7).await.unwrap();
    assert_eq!(ground.bus.enlist(&node("a"), b"peer").await, Ok(Enlisted::Done));
    assert_eq!(owner(&ground.bus, &node("a")).await, (Some("w.1".into()), epoch));
    assert_eq!(ground.bus.find(b"peer").await, Ok(Some(node("a"))));
}

pub(crate) async fn only_the_owner_strikes(ground: Ground) {
    let (one, two) = (ground.worker("w.1").await, ground.worker("w.2").await);
    ground.bus.enlist(&node("a"), b"peer").await.unwrap();
    let epoch = one.take(&node("a"), 7).await.unwrap();
    assert_eq!(ground.bus.strike(&two.inc, &node("a"), epoch, b"peer").await, Ok(false));
    assert_eq!(ground.bus.strike(&one.inc, &node("a"), epoch - 1, b"peer").await, Ok(false));
    assert_eq!(ground.bus.find(b"peer").await, Ok(Some(node("a"))));
    assert_eq!(owner(&ground.bus, &node("a")).await, (Some("w.1".into()), epoch));
}

pub(crate) async fn a_struck_node_is_free_to_be_enlisted_again(ground: Ground) {
    let worker = ground.worker("w.1").await;
    ground.bus.enlist(&node("a"), b"peer").await.unwrap();
    let epoch = worker.take(&node("a"), 7).await.unwrap();
    let mut told = ground.other.subscribe(Subject::Ownership).await.unwrap();
    assert_eq!(ground.bus.strike(&worker.inc, &node("a"), epoch, b"peer").await, Ok(true));
    assert_eq!(ground.bus.owner(&node("a")).await, Ok(None));
    assert_eq!(ground.bus.find(b"peer").await, Ok(None));
    let owned = ground.bus.owned(&worker.inc).await.unwrap();
    assert_eq!((owned.changes, owned.nodes), (2, vec![]));
    assert_eq!(change(&mut told).await, ("default/a".into(), String::new(), epoch));
    assert_eq!(ground.bus.enlist(&node("a"), b"other").await, Ok(Enlisted::Done));
    assert_eq!(ground.bus.enlist(&node("b"), b"peer").await, Ok(Enlisted::Done));
}

pub(crate) async fn a_gateway_attends(ground: Ground) {
    ground.bus.attend(&"gateway.2".into()).await.unwrap();
    let gateways = ["gateway.1".into(), "gateway.2".into(), "gateway.3".into()];
    assert_eq!(ground.other.attending(&gateways).await, Ok(vec![false, true, false]));
    assert_eq!(ground.other.attending(&[]).await, Ok(vec![]));
}

// What follows lasts as long as a lease.

pub(crate) async fn a_lease_lives_six_seconds_and_no_longer(ground: Ground) {
    let two = ground.worker("w.2").await;
    let begin = Instant::now();
    let one = ground.worker("w.1").await;
    one.take(&node("a"), 7).await.unwrap();
    reach(begin, 4.0).await;
    assert!(two.renewed(false).await.is_some());
    reach(begin, 5.5).await;
    assert_eq!(two.take(&node("a"), 8).await, None, "it still lives");
    let epoch = eventually("it is free", || async { two.take(&node("a"), 8).await }).await;
    assert!(begin.elapsed() >= Duration::from_millis(5900), "{:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_millis(7500), "{:?}", begin.elapsed());
    assert_eq!(owner(&ground.bus, &node("a")).await, (Some("w.2".into()), epoch));
}

pub(crate) async fn a_renewal_extends_a_lease(ground: Ground) {
    let begin = Instant::now();
    let one = ground.worker("w.1").await;
    one.take(&node("a"), 7).await.unwrap();
    reach(begin, 3.0).await;
    assert!(one.renewed(false).await.is_some());
    reach(begin, 8.0).await;
    assert_eq!(ground.worker("w.2").await.take(&node("a"), 8).await, None);
    assert!(one.renewed(false).await.is_some());
}

pub(crate) async fn an_expired_lease_is_lost(ground: Ground) {
    let begin = Instant::now();
    let worker = ground.worker("w.1").await;
    worker.take(&node("a"), 7).await.unwrap();
    reach(begin, 6.5).await;
    assert_eq!(ground.bus.workers().await, Ok(vec![]));
    let taken = ground.bus.take(&worker.inc, 8, &[claim(&node("b"), 0, None)]).await;
    assert_eq!(taken, Ok(Taken::Lost));
    assert_eq!(worker.renewed(false).await, None, "though nobody stole from it");
    assert!(ground.worker("w.2").await.take(&node("a"), 8).await.is_some());
}

pub(crate) async fn a_stolen_node_leaves_the_record_of_the_dead(ground: Ground) {
    let begin = Instant::now();
    let one = ground.worker("w.1").await;
    let stolen = one.claim(7, claim(&node("a"), AHEAD, None)).await.unwrap();
    one.take(&node("b"), 7).await.unwrap();
    reach(begin, 6.5).await;
    let two = ground.worker("w.2").await;
    let mut told = ground.other.subscribe(Subject::Ownership).await.unwrap();
    let epoch = two.take(&node("a"), 8).await.unwrap();
    assert!(epoch > stolen, "{epoch} {stolen}");
    let dead = ground.bus.owned(&one.inc).await.unwrap();
    let left: Vec<_> = dead.nodes.iter().map(|(node, _)| node.clone()).collect();
    assert_eq!((dead.changes, left), (3, vec![node("b")]));
    assert_eq!(ground.bus.owned(&two.inc).await.unwrap().changes, 1);
    assert_eq!(change(&mut told).await, ("default/a".into(), "w.2".into(), epoch));
    assert_eq!(one.release(&node("a"), stolen).await, 0);
    assert_eq!(ground.bus.strike(&one.inc, &node("a"), stolen, b"peer").await, Ok(false));
}

pub(crate) async fn a_gateway_attends_for_fifteen_seconds(ground: Ground) {
    let begin = Instant::now();
    let gateways = ["gateway.1".into(), "gateway.2".into()];
    for gateway in &gateways {
        ground.bus.attend(gateway).await.unwrap();
    }
    reach(begin, 5.0).await;
    ground.bus.attend(&gateways[1]).await.unwrap();
    reach(begin, 13.5).await;
    assert_eq!(ground.bus.attending(&gateways).await, Ok(vec![true, true]));
    reach(begin, 16.0).await;
    assert_eq!(ground.bus.attending(&gateways).await, Ok(vec![false, true]));
}
