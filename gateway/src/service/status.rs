//! What a node is, told from its record, its owner and what the owner last wrote. Pure.

use plexus_bus::Owner;
use plexus_proto::{
    bus::{NodeRecord, NodeState},
    v1::{Node, NodeStatus, node_status::State},
};

/// The node as it is answered.
pub(super) fn node(record: NodeRecord, written: Option<NodeState>, owner: Option<&Owner>) -> Node {
    let mut node = record.node.clone().unwrap_or_default();
    node.revision = node.revision.max(1);
    node.etag = node.revision.to_string();
    node.status = Some(status(&record, written, owner));
    if let Some(private) = node.spec.as_mut().and_then(|s| s.private_network.as_mut()) {
        private.psk.clear(); // never answered back
    }
    node
}

fn status(record: &NodeRecord, written: Option<NodeState>, owner: Option<&Owner>) -> NodeStatus {
    let generation = written.as_ref().map_or(0, |w| w.generation);
    let mut status = written.and_then(|w| w.status).unwrap_or_default();
    let worker = owner.and_then(|o| o.worker.as_deref());
    let epoch = owner.map_or(0, |o| o.grant.epoch);
    let fresh = worker.is_some() && status.epoch == epoch;
    let stopped = record.node.as_ref().and_then(|n| n.spec.as_ref()).is_some_and(|s| s.stopped());
    let quarantined = status.state() == State::Quarantined && generation >= record.generation;
    let state = match worker {
        _ if record.deleting => State::Deleting,
        Some(_) if stopped => State::Stopping,
        None if stopped => State::Stopped,
        _ if quarantined => State::Quarantined,
        Some(_) if fresh && status.state() != State::Unspecified => status.state(),
        Some(_) => State::Starting,
        None if status.epoch > 0 => State::Moving,
        None => State::Pending,
    };
    if !fresh {
        status.addresses.clear();
        (status.peers, status.topics, status.reachability) = (None, 0, 0);
        status.conditions.clear();
    }
    status.state = state as i32;
    // The incarnation's nonce is ours; the worker's id is its name.
    let name = |incarnation: &str| incarnation.rsplit_once('.').map_or(incarnation, |(id, _)| id).to_owned();
    status.worker = worker.map(name).unwrap_or_default();
    status.epoch = epoch.max(if worker.is_none() { status.epoch } else { 0 });
    status.restarts = record.generation as u32;
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use plexus_bus::Grant;
    use plexus_proto::v1::{Node, NodeSpec};

    #[test]
    fn a_state_follows_from_record_owner_and_what_was_written() {
        let record = |stopped, deleting, generation| NodeRecord {
            node: Some(Node {
                spec: Some(NodeSpec { stopped: Some(stopped), ..NodeSpec::default() }),
                ..Node::default()
            }),
            deleting,
            generation,
            ..NodeRecord::default()
        };
        let written = |state: State, epoch| {
            let status = NodeStatus { state: state as i32, epoch, topics: 3, ..NodeStatus::default() };
            Some(NodeState { status: Some(status), generation: 1, ..NodeState::default() })
        };
        let owner = |worker: Option<&str>, epoch| Owner {
            worker: worker.map(Into::into),
            grant: Grant { epoch, nonce: 1 },
        };
        let (held, free, new) = (owner(Some("w1.abc"), 9), owner(None, 9), owner(None, 0));
        let plain = || record(false, false, 1);
        let table = [
            ("never taken", plain(), None, &new, State::Pending),
            ("taken", plain(), None, &held, State::Starting),
            ("lives", plain(), written(State::Running, 9), &held, State::Running),
            ("taken by another", plain(), written(State::Running, 8), &held, State::Starting),
            ("released", plain(), written(State::Running, 9), &free, State::Moving),
            ("to be stopped", record(true, false, 1), written(State::Running, 9), &held, State::Stopping),
            ("stopped", record(true, false, 1), written(State::Running, 9), &free, State::Stopped),
            ("failed", plain(), written(State::Quarantined, 9), &free, State::Quarantined),
            ("restarted", record(false, false, 2), written(State::Quarantined, 9), &free, State::Moving),
            ("being removed", record(false, true, 1), written(State::Running, 9), &held, State::Deleting),
        ];
        for (name, record, written, owner, state) in table {
            let status = node(record, written, Some(owner)).status.unwrap();
            assert_eq!(status.state(), state, "{name}");
            assert_eq!(status.worker, if owner.worker.is_some() { "w1" } else { "" }, "{name}");
            assert_eq!(
                status.topics > 0,
                state == State::Running || name == "to be stopped" || name == "being removed",
                "{name}"
            );
        }
    }
}
