//! The fleet as operators see it: workers, gateways, and why a node is where it is. Read from what each
//! process says of itself and from the record of who owns what; nobody is asked.

use super::{Context, Service, known, not_found, page::Page, unavailable};
use crate::router::Failure;
use plexus_bus::{NodeName, Owner};
use plexus_proto::{
    bus::{NodeRecord, WorkerCard},
    placement::{self, Bar, Rule, Seat},
    reason::Reason,
    v1::{self, placement::Candidate, worker::State},
};
use std::{cmp::Reverse, collections::BTreeMap};

impl Service {
    pub(super) async fn workers(
        &self,
        context: &Context,
        request: &v1::ListWorkersRequest,
    ) -> Result<v1::ListWorkersResponse, Failure> {
        self.operates(context)?;
        let state: State = known("state", request.state)?;
        let page = Page::read(request.page_size, &request.page_token, &request.state.to_be_bytes())?;
        let all = self.fleet().await?;
        let wanted = all.into_iter().filter(|w| state == State::Unspecified || w.state() == state);
        let (workers, next_page_token) = page.cut(wanted.map(|w| (w.worker.clone(), w)).collect());
        Ok(v1::ListWorkersResponse { workers, next_page_token })
    }

    pub(super) async fn worker(&self, context: &Context, id: &str) -> Result<v1::Worker, Failure> {
        self.operates(context)?;
        self.fleet().await?.into_iter().find(|w| w.worker == id).ok_or_else(|| no_worker(id))
    }

    pub(super) async fn gateways(
        &self,
        context: &Context,
        request: &v1::ListGatewaysRequest,
    ) -> Result<v1::ListGatewaysResponse, Failure> {
        self.operates(context)?;
        let page = Page::read(request.page_size, &request.page_token, b"gateways")?;
        let all = self.router.bus().gateways_shown().await.map_err(unavailable)?;
        let (gateways, next_page_token) = page.cut(all.into_iter().map(|g| (g.gateway.clone(), g)).collect());
        Ok(v1::ListGatewaysResponse { gateways, next_page_token })
    }

    pub(super) async fn explain(&self, context: &Context, node: &str) -> Result<v1::Placement, Failure> {
        let node = self.node(context, node).await?;
        let record = self.record(context, &node).await?.record;
        let bus = self.router.bus();
        let (cards, owner) = tokio::try_join!(bus.workers_shown(), bus.owner(&node)).map_err(unavailable)?;
        let owner = owner.ok_or_else(|| not_found(node.node()))?;
        Ok(explained(&node, &record, &owner, &cards))
    }

    pub(super) async fn fleet(&self) -> Result<Vec<v1::Worker>, Failure> {
        let bus = self.router.bus();
        let (cards, owners) = tokio::try_join!(bus.workers_shown(), bus.owners()).map_err(unavailable)?;
        Ok(counted(cards, &owners))
    }

    /// Refuses whoever is no operator.
    pub(super) fn operates(&self, context: &Context) -> Result<(), Failure> {
        if *context.caller.namespace == *self.auth.operators {
            return Ok(());
        }
        let text = "only callers of the operators' namespace (gateway.auth.operators) see and move the fleet";
        Err(Box::new(v1::Error::new(Reason::NotAllowed, text)))
    }
}

pub(super) fn no_worker(id: &str) -> Failure {
    let text = format!("there is no worker {id:?}");
    Box::new(v1::Error::new(Reason::WorkerNotFound, text).with("worker", id))
}

/// The id of the worker in an incarnation `<id>.<nonce>`.
pub(super) fn id(incarnation: &str) -> &str {
    incarnation.rsplit_once('.').map_or(incarnation, |(id, _)| id)
}

/// The workers, by id, with what the record says that they own. Who owns nodes and shows no card is lost.
fn counted(cards: Vec<WorkerCard>, owners: &[(NodeName, Owner)]) -> Vec<v1::Worker> {
    let mut owned: BTreeMap<&str, u32> = BTreeMap::new();
    for worker in owners.iter().filter_map(|(_, owner)| owner.worker.as_deref()) {
        *owned.entry(id(worker)).or_default() += 1;
    }
    let mut workers: BTreeMap<String, v1::Worker> = BTreeMap::new();
    for worker in cards.into_iter().filter_map(|card| card.worker) {
        let nodes = owned.remove(worker.worker.as_str()).unwrap_or_default();
        workers.insert(worker.worker.clone(), v1::Worker { nodes, ..worker });
    }
    for (worker, nodes) in owned {
        let lost =
            v1::Worker { worker: worker.into(), state: State::Lost as i32, nodes, ..Default::default() };
        workers.insert(worker.into(), lost);
    }
    workers.into_values().collect()
}

/// Why a node is where it is.
fn explained(node: &NodeName, record: &NodeRecord, owner: &Owner, cards: &[WorkerCard]) -> v1::Placement {
    let spec = record.node.as_ref().and_then(|node| node.spec.clone()).unwrap_or_default();
    let rule = Rule::of(&spec, &record.home);
    let worker = owner.worker.as_deref().map(id).unwrap_or_default();
    let mut seats: Vec<Seat> = cards.iter().filter_map(Seat::of).collect();
    let mean = seats.iter().map(|s| s.capacity as f64).sum::<f64>() / seats.len().max(1) as f64;
    let bar = |seat: &Seat| rule.bar(seat, seat.worker == worker);
    seats.sort_by(|a, b| rule.compare(node.as_str(), b, a));
    seats.sort_by_key(|seat| Reverse(bar(seat).is_none()));
    let first = seats.first().filter(|seat| bar(seat).is_none()).map(|seat| seat.worker.clone());
    let candidates = seats.iter().map(|seat| Candidate {
        worker: seat.worker.clone(),
        preference: placement::preference(seat, node.as_str(), mean),
        room: u32::try_from(seat.room()).unwrap_or(u32::MAX),
        eligible: bar(seat).is_none(),
        reason: match bar(seat) {
            Some(bar) => barred(bar, &rule),
            None if rule.home.as_ref() == Some(&seat.worker) => "an operator moved the node here".into(),
            None if first.as_ref() == Some(&seat.worker) => "the node prefers it".into(),
            None => String::new(),
        },
    });
    let summary = match (worker, first.as_deref()) {
        ("", None) => "nobody owns the node, and no worker that is there may have it".into(),
        ("", Some(first)) if spec.stopped() => {
            format!("the node is stopped; {first} would be the first to take it")
        }
        ("", Some(first)) => format!("nobody owns the node; {first} is the first to take it"),
        (worker, Some(first)) if worker == first => format!("{worker} owns the node, which prefers it"),
        (worker, Some(first)) => format!("{worker} owns the node, which would prefer {first}"),
        (worker, None) => format!("{worker} owns the node, and no worker that is there may have it"),
    };
    v1::Placement { worker: worker.into(), summary, candidates: candidates.collect() }
}

pub(super) fn barred(bar: Bar, rule: &Rule) -> String {
    match bar {
        Bar::Draining => "it gives its nodes away".into(),
        Bar::Room => format!("it has no room for a weight of {}", rule.weight),
        Bar::Labels => {
            let labels = rule.worker_labels.iter().map(|(key, value)| format!("{key}={value}"));
            format!("it lacks a label of {}", labels.collect::<Vec<_>>().join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plexus_bus::Grant;

    fn card(worker: &str, change: impl FnOnce(&mut v1::Worker)) -> WorkerCard {
        let mut worker = v1::Worker {
            worker: worker.into(),
            state: State::Ready as i32,
            capacity: 10,
            ..v1::Worker::default()
        };
        change(&mut worker);
        WorkerCard { worker: Some(worker), load: 0 }
    }

    fn owner(worker: Option<&str>) -> Owner {
        Owner { worker: worker.map(Into::into), grant: Grant { epoch: 1, nonce: 1 } }
    }

    fn name(node: &str) -> NodeName {
        NodeName::new("ns", node).unwrap()
    }

    #[test]
    fn workers_are_told_with_what_the_record_says_and_the_lost_ones_too() {
        let owners = [("a", Some("w1.1")), ("b", Some("w1.2")), ("c", Some("gone.3")), ("d", None)];
        let owners = owners.map(|(node, worker)| (name(node), owner(worker)));
        let told = counted(vec![card("w1", |w| w.nodes = 7), card("w2", |_| {})], &owners);
        let told: Vec<_> = told.iter().map(|w| (w.worker.as_str(), w.state(), w.nodes)).collect();
        let wanted = [("gone", State::Lost, 1), ("w1", State::Ready, 2), ("w2", State::Ready, 0)];
        assert_eq!(told, wanted);
    }

    #[test]
    fn a_placement_is_explained_by_who_may_have_the_node_and_whom_it_prefers() {
        let cards = || {
            vec![
                card("w1", |_| {}),
                card("w2", |w| w.state = State::Draining as i32),
                WorkerCard { load: 10, ..card("w3", |_| {}) },
                card("w4", |_| {}),
            ]
        };
        let record = |home: &str| NodeRecord { home: home.into(), ..NodeRecord::default() };
        let told = explained(&name("n"), &record("w4"), &owner(Some("w1.1")), &cards());
        let order: Vec<_> = told.candidates.iter().map(|c| (c.worker.as_str(), c.eligible)).collect();
        assert_eq!(order[..2], [("w4", true), ("w1", true)]);
        assert_eq!(told.candidates[0].reason, "an operator moved the node here");
        assert_eq!((told.worker.as_str(), told.candidates[0].room), ("w1", 10));
        assert_eq!(told.summary, "w1 owns the node, which would prefer w4");
        for candidate in &told.candidates[2..] {
            let wanted = match candidate.worker.as_str() {
                "w2" => "it gives its nodes away",
                _ => "it has no room for a weight of 1",
            };
            assert_eq!((candidate.reason.as_str(), candidate.eligible), (wanted, false));
        }
        let own = explained(&name("n"), &record(""), &owner(Some("w3.1")), &cards());
        assert!(own.candidates.iter().any(|c| c.worker == "w3" && c.eligible), "its room is its own");
        let none = explained(&name("n"), &record(""), &owner(None), &[]);
        assert_eq!(none.summary, "nobody owns the node, and no worker that is there may have it");
    }
}
