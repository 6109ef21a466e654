//! What the node says of itself: its state beside the record, written when something changed, every
//! 5 s at most and at the end. The next owner reads it to begin where this one stopped.

use super::{event_loop::EventLoop, start::Muted, work};
use crate::clock::{Moment, Now};
use libp2p::{Multiaddr, PeerId, core::ConnectedPoint, multiaddr::Protocol, swarm::ConnectionId};
use plexus_proto::{
    bus::NodeState,
    v1::{
        self, node_status,
        node_status::{Condition, State, condition::Grade},
        reachability::Verdict,
    },
};
use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

/// Between two writes.
const INTERVAL: Duration = Duration::from_secs(5);
/// The first state waits so long for the addresses of listeners.
const SETTLED: Duration = Duration::from_millis(300);
/// Failures are forgotten after so much health.
const HEALTH: Duration = Duration::from_secs(60);
/// Addresses kept for the next owner.
const PEERS: usize = 32;

/// What is remembered between two writes.
pub(super) struct Status {
    /// When this owner took the node.
    owned_at: SystemTime,
    /// When the swarm was built.
    started: Now,
    /// Failures in a row before this start.
    failures: u32,
    /// What went wrong last.
    last_error: Option<node_status::LastError>,
    /// Addresses to listen on.
    pub(super) listens: usize,
    /// Why one of them failed.
    pub(super) listen_error: Option<String>,
    /// Open connections: the peer, its address, whether it came in.
    connections: HashMap<ConnectionId, (PeerId, Multiaddr, bool)>,
    /// Since when each condition has its grade.
    since: HashMap<&'static str, (Grade, SystemTime)>,
    /// What was written last, without its time.
    written: Option<NodeState>,
    written_at: Moment,
    /// Whether a write is under way.
    writing: bool,
}

impl Status {
    /// Begins with what the former owner wrote.
    pub(super) fn new(former: &NodeState, now: Now) -> Self {
        Self {
            owned_at: now.wall,
            started: now,
            failures: former.failures,
            last_error: former.status.as_ref().and_then(|status| status.last_error.clone()),
            listens: 0,
            listen_error: None,
            connections: HashMap::new(),
            since: HashMap::new(),
            written: None,
            written_at: Moment::PAST,
            writing: false,
        }
    }

    /// The swarm is a new one.
    pub(super) fn rebuilt(&mut self, now: Now) {
        self.started = now;
        self.listens = 0;
        self.listen_error = None;
        self.connections.clear();
    }

    /// Notes a connection.
    pub(super) fn connected(&mut self, id: ConnectionId, peer: PeerId, endpoint: &ConnectedPoint) {
        let incoming = endpoint.is_listener();
        self.connections.insert(id, (peer, endpoint.get_remote_address().clone(), incoming));
    }

    /// Notes its end.
    pub(super) fn closed(&mut self, id: ConnectionId) {
        self.connections.remove(&id);
    }

    /// Notes what went wrong.
    pub(super) fn failed(&mut self, reason: plexus_proto::reason::Reason, message: String, now: Now) {
        let (at, reason) = (Some(now.wall.into()), reason.as_str_name().to_owned());
        self.last_error = Some(node_status::LastError { at, reason, message });
    }

    /// A write ended; one that failed is tried again.
    pub(super) fn wrote(&mut self, done: bool) {
        self.writing = false;
        if !done {
            self.written = None;
        }
    }

    /// Addresses that the next owner dials at once: of peers that this node could dial itself, first.
    fn peers(&self) -> Vec<String> {
        let mut all: Vec<_> = self.connections.values().filter(|(.., incoming)| !incoming).collect();
        all.sort_by_key(|(peer, address, _)| (*peer, address.to_string()));
        all.dedup_by_key(|(peer, ..)| *peer);
        all.into_iter().take(PEERS).map(|(peer, address, _)| with_peer(address, *peer)).collect()
    }
}

impl EventLoop {
    /// Writes the state where it changed and the last write is long enough ago.
    pub(super) fn write_state(&mut self, now: Now) {
        if self.status.writing || !self.is_due(now) {
            return;
        }
        let mut state = self.state(State::Running, now);
        self.status.written_at = now.moment;
        if self.status.written.as_ref() == Some(&state) {
            return;
        }
        self.status.written = Some(state.clone());
        self.status.writing = true;
        stamp(&mut state, now);
        let (bus, name, grant) = (self.bus.clone(), self.name.clone(), self.log.grant());
        self.work.spawn(work::state(bus, name, grant, state));
    }

    /// The first write waits a moment for addresses; one that failed is tried again with the others.
    fn is_due(&self, now: Now) -> bool {
        if self.status.written_at > Moment::PAST {
            return now.moment.since(self.status.written_at) >= INTERVAL;
        }
        let listeners = self.swarm.see().map_or(0, |swarm| swarm.listeners().count());
        listeners >= self.status.listens || now.moment.since(self.status.started.moment) >= SETTLED
    }

    /// Addresses of the connected peers that could be dialled.
    pub(super) fn connected_addresses(&self) -> Vec<String> {
        self.status.peers()
    }

    /// The last word of this owner.
    pub(super) fn last_state(&mut self, now: Now) -> NodeState {
        let life = match (self.record.deleting, self.spec().stopped()) {
            (true, _) => State::Deleting,
            (_, true) => State::Stopped,
            _ => State::Moving,
        };
        let mut state = self.state(life, now);
        if let Some(status) = &mut state.status {
            status.worker.clear();
            status.addresses.clear();
        }
        stamp(&mut state, now);
        state
    }

    fn state(&mut self, state: State, now: Now) -> NodeState {
        if now.moment.since(self.status.started.moment) >= HEALTH {
            self.status.failures = 0;
        }
        let counts = self.swarm.see().map(|swarm| self.peers.counts(swarm));
        let node = self.record.node.clone().unwrap_or_default();
        let status = v1::NodeStatus {
            state: state.into(),
            worker: self.worker.to_string(),
            epoch: self.log.grant().epoch,
            addresses: self.addresses(),
            reachability: Verdict::Unspecified.into(),
            peers: counts,
            topics: u32::try_from(self.following.joined()).unwrap_or(u32::MAX),
            last_error: self.status.last_error.clone(),
            started_at: Some(self.status.started.wall.into()),
            owned_at: Some(self.status.owned_at.into()),
            observed_at: None,
            restarts: u32::try_from(self.record.generation).unwrap_or(u32::MAX),
            observed_revision: node.revision,
            conditions: self.conditions(now),
        };
        NodeState {
            status: Some(status),
            seqno: self.seqno.max(self.ids.as_ref().map_or(0, crate::swarm::gossip::Ids::last)),
            peers: self.status.peers(),
            generation: self.record.generation,
            failures: self.status.failures,
        }
    }

    /// Where the node is reached, with `/p2p/`: what the spec announces, else what is confirmed and
    /// where it listens.
    pub(super) fn addresses(&self) -> Vec<String> {
        let Some(swarm) = self.swarm.see() else { return Vec::new() };
        let peer = *swarm.local_peer_id();
        let mut all: Vec<String> =
            swarm.external_addresses().map(|address| with_peer(address, peer)).collect();
        if self.spec().announce_addresses.is_empty() {
            all.extend(swarm.listeners().map(|address| with_peer(address, peer)));
        }
        all.sort();
        all.dedup();
        all
    }

    fn conditions(&mut self, now: Now) -> Vec<Condition> {
        let all = [
            ("listen", self.listen_grade()),
            ("bootstrap", self.bootstrap_grade()),
            ("gossip", self.gossip_grade()),
        ];
        let shown = all.into_iter().map(|(name, (grade, message))| {
            let since = self.status.since.entry(name).or_insert((grade, now.wall));
            if since.0 != grade {
                *since = (grade, now.wall);
            }
            Condition { name: name.into(), grade: grade.into(), message, since: Some(since.1.into()) }
        });
        shown.collect()
    }

    fn listen_grade(&self) -> (Grade, String) {
        let listeners = self.swarm.see().map_or(0, |swarm| swarm.listeners().count());
        match (&self.status.listen_error, self.status.listens, listeners) {
            (_, 0, _) => (Grade::Off, "no addresses to listen on".into()),
            (Some(error), _, 0) => (Grade::Failed, error.clone()),
            (Some(error), ..) => (Grade::Degraded, error.clone()),
            (None, ..) => (Grade::Ready, String::new()),
        }
    }

    fn bootstrap_grade(&self) -> (Grade, String) {
        let bootstrap = self.spec().bootstrap;
        let connected = self.swarm.see().map_or(0, |swarm| swarm.network_info().num_peers());
        match (bootstrap.is_empty(), connected) {
            (true, _) => (Grade::Off, String::new()),
            (false, 0) => (Grade::Degraded, "no peer is connected".into()),
            (false, _) => (Grade::Ready, String::new()),
        }
    }

    fn gossip_grade(&self) -> (Grade, String) {
        match self.muted {
            _ if !self.gossips() => (Grade::Off, String::new()),
            Some(Muted::Behind(behind)) => {
                let message = format!(
                    "the clock is {} s behind the last message; nothing is published",
                    behind.as_secs()
                );
                (Grade::Failed, message)
            }
            Some(Muted::Until(_)) => {
                (Grade::Degraded, "waits until the clock passes the last message".into())
            }
            None => (Grade::Ready, String::new()),
        }
    }
}

fn stamp(state: &mut NodeState, now: Now) {
    if let Some(status) = &mut state.status {
        status.observed_at = Some(now.wall.into());
    }
}

/// Writes an address with the peer it leads to.
pub(super) fn with_peer(address: &Multiaddr, peer: PeerId) -> String {
    match address.iter().last() {
        Some(Protocol::P2p(_)) => address.to_string(),
        _ => address.clone().with(Protocol::P2p(peer)).to_string(),
    }
}
