//! Nodes that operators move: one to another worker, or all that a worker has. What shall be is written down;
//! the workers do it, and each node is given back before it is taken (protocol.md P7). Calls wait meanwhile.

use super::{Context, Service, fleet, not_found, unavailable, wrong};
use crate::router::Failure;
use plexus_bus::{NodeName, Owner};
use plexus_proto::{
    placement::{Rule, Seat},
    reason::Reason,
    v1::{self, worker::State},
};
use std::time::{Duration, Instant};

/// How long a move, or an order, is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time between looks.
const LOOK: Duration = Duration::from_millis(50);
/// Most nodes that a worker may be told to give away in a second.
const RATE_MAX: u32 = 100;

impl Service {
    pub(super) async fn move_away(
        &self,
        context: &Context,
        request: &v1::MoveNodeRequest,
    ) -> Result<v1::Node, Failure> {
        self.operates(context)?;
        let node = self.node(context, &request.node).await?;
        let spec = self.record(context, &node).await?.spec();
        let bus = self.router.bus();
        let (cards, owner) = tokio::try_join!(bus.workers_shown(), bus.owner(&node)).map_err(unavailable)?;
        let seats: Vec<Seat> = cards.iter().filter_map(Seat::of).collect();
        let owner = owner.ok_or_else(|| not_found(node.node()))?;
        let to = target(&node, &Rule::of(&spec, ""), &request.worker, at(&owner), &seats)?;
        let there = at(&owner) == to;
        self.change(context, &node, |record| {
            let changed = record.home != to;
            record.home.clone_from(&to);
            // Written although it says the same, where the owner has to look again.
            Ok(changed || !there)
        })
        .await?;
        if !there && !spec.stopped() {
            self.arrival(context, &node, &to).await?;
        }
        self.look(&node).await?.ok_or_else(|| not_found(node.node()))
    }

    /// Waits until a worker owns the node and runs it; not longer than the caller does.
    async fn arrival(&self, context: &Context, node: &NodeName, to: &str) -> Result<(), Failure> {
        let until = until(context);
        while Instant::now() < until {
            let seen = self.look(node).await?.and_then(|node| node.status).unwrap_or_default();
            if seen.worker == to && seen.state() != v1::node_status::State::Starting {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    pub(super) async fn drain_away(
        &self,
        context: &Context,
        request: &v1::DrainWorkerRequest,
    ) -> Result<v1::Worker, Failure> {
        self.operates(context)?;
        if request.nodes_per_second > RATE_MAX {
            return wrong("nodesPerSecond", format!("0 to {RATE_MAX}; 0 means 10"));
        }
        let (id, bus) = (&request.worker, self.router.bus());
        if request.undo {
            bus.lift_drain(id).await.map_err(unavailable)?;
        } else {
            let all = self.fleet().await?;
            let found = all.iter().any(|w| w.worker == *id && w.state() != State::Lost);
            if !found {
                return Err(fleet::no_worker(id));
            }
            if !all.iter().any(|w| w.worker != *id && w.state() == State::Ready) {
                let text = format!("no other worker takes nodes, so {id} keeps its own");
                return Err(Box::new(v1::Error::new(Reason::NoCandidate, text)));
            }
            bus.order_drain(request).await.map_err(unavailable)?;
        }
        let until = until(context);
        loop {
            let found = self.fleet().await?.into_iter().find(|w| w.worker == *id);
            let worker = found.filter(|w| w.state() != State::Lost).ok_or_else(|| fleet::no_worker(id))?;
            if (worker.state() == State::Draining) != request.undo || Instant::now() >= until {
                return Ok(worker);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn until(context: &Context) -> Instant {
    let most = Instant::now() + PATIENCE;
    context.deadline.map_or(most, |at| at.min(most))
}

/// The worker that owns a node; empty: nobody.
fn at(owner: &Owner) -> &str {
    owner.worker.as_deref().map(fleet::id).unwrap_or_default()
}

/// Where a node goes: to the worker that is named, else to the best other one.
fn target(node: &NodeName, rule: &Rule, named: &str, owner: &str, seats: &[Seat]) -> Result<String, Failure> {
    let none = |text: String| Box::new(v1::Error::new(Reason::NoCandidate, text).with("node", node.node()));
    if named.is_empty() {
        let others = seats.iter().filter(|seat| seat.worker != owner && rule.bar(seat, false).is_none());
        let best = others.max_by(|a, b| rule.compare(node.as_str(), a, b));
        let nobody = || none(format!("no other worker may have node {:?}", node.node()));
        return best.map(|seat| seat.worker.clone()).ok_or_else(nobody);
    }
    let seat = seats.iter().find(|seat| seat.worker == named).ok_or_else(|| fleet::no_worker(named))?;
    match rule.bar(seat, named == owner) {
        None => Ok(named.to_owned()),
        Some(bar) => Err(none(format!("{named} cannot have it: {}", fleet::barred(bar, rule)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_goes_to_the_worker_that_is_named_or_to_the_best_other() {
        let node = NodeName::new("ns", "n").unwrap();
        let seat = |worker: &str, load| Seat { worker: worker.into(), capacity: 10, load, ..Seat::default() };
        let seats = [seat("w1", 1), seat("w2", 1), seat("full", 10)];
        let rule = Rule { weight: 1, ..Rule::default() };
        let to = |named: &str, owner: &str, seats: &[Seat]| {
            target(&node, &rule, named, owner, seats).map_err(|error| error.reason)
        };
        assert_eq!(to("", "w1", &seats), Ok("w2".into()));
        assert_eq!(to("", "w2", &seats), Ok("w1".into()));
        assert_eq!(to("w2", "w1", &seats), Ok("w2".into()));
        assert_eq!(to("full", "full", &seats), Ok("full".into()), "it is there");
        assert_eq!(to("full", "w1", &seats), Err("NO_CANDIDATE".into()));
        assert_eq!(to("", "w1", &seats[..1]), Err("NO_CANDIDATE".into()));
        assert_eq!(to("gone", "w1", &seats), Err("WORKER_NOT_FOUND".into()));
    }
}
