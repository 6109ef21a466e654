//! The way into the network: the bootstrap peers, how each fares, and new dials while the node is
//! alone, ever more seldom.

use crate::{
    clock::Moment,
    swarm::{Behaviour, guard::Rule},
};
use libp2p::{
    Multiaddr, PeerId, Swarm,
    core::ConnectedPoint,
    swarm::{
        DialError,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use plexus_proto::v1::{self, bootstrap_list};
use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use super::{book::without_peer, read::target};

/// Wait before a node that is alone dials again; doubles up to the longest.
const PAUSE: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// The bootstrap addresses.
pub(super) struct Bootstrap {
    entries: Vec<Entry>,
    outgoing: bool,
    pause: Duration,
    /// When to dial if still alone; `None`: not alone when last looked.
    next: Option<Moment>,
}

struct Entry {
    text: String,
    target: Option<(PeerId, Multiaddr)>,
    last_success_at: Option<SystemTime>,
    last_error: String,
}

impl Bootstrap {
    pub(super) fn new(spec: &v1::NodeSpec) -> Self {
        let mut this = Self { entries: Vec::new(), outgoing: true, pause: PAUSE, next: None };
        this.set(spec);
        this
    }

    /// Tells whether there is nobody to dial.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes the addresses of a spec; answers the new ones. Those that stay keep their record.
    pub(super) fn set(&mut self, spec: &v1::NodeSpec) -> Vec<(PeerId, Multiaddr)> {
        self.outgoing = spec.dial.as_ref().and_then(|dial| dial.outgoing).unwrap_or(true);
        let mut old = std::mem::take(&mut self.entries);
        let mut new = Vec::new();
        for text in &spec.bootstrap {
            let entry = match old.iter().position(|entry| entry.text == *text) {
                Some(at) => old.swap_remove(at),
                None => {
                    let target = target(text);
                    new.extend(target.clone());
                    Entry { text: text.clone(), target, last_success_at: None, last_error: String::new() }
                }
            };
            self.entries.push(entry);
        }
        new
    }

    pub(super) fn list(&self, swarm: &Swarm<Behaviour>) -> v1::BootstrapList {
        let show = |entry: &Entry| bootstrap_list::Entry {
            address: entry.text.clone(),
            connected: entry.target.as_ref().is_some_and(|(peer, _)| swarm.is_connected(peer)),
            last_success_at: entry.last_success_at.map(Into::into),
            last_error: entry.last_error.clone(),
        };
        v1::BootstrapList { entries: self.entries.iter().map(show).collect() }
    }

    pub(super) fn connected(&mut self, peer: &PeerId, endpoint: &ConnectedPoint, at: SystemTime) {
        let ConnectedPoint::Dialer { address, .. } = endpoint else { return };
        let address = without_peer(address.clone());
        for entry in self.of(peer) {
            if entry.target.as_ref().is_some_and(|(_, own)| *own == address) {
                entry.last_success_at = Some(at);
                entry.last_error.clear();
            }
        }
    }

    pub(super) fn failed(&mut self, peer: &PeerId, error: &DialError) {
        let tried: Vec<Multiaddr> = match error {
            DialError::Transport(tried) => {
                tried.iter().map(|(address, _)| without_peer(address.clone())).collect()
            }
            DialError::DialPeerConditionFalse(_) => return,
            _ => Vec::new(),
        };
        let why = match (Rule::of(error), error) {
            (Some(rule), _) => format!("not dialled by rule {rule}"),
            (None, DialError::WrongPeerId { obtained, .. }) => format!("{obtained} answers there"),
            (None, DialError::Denied { .. }) => "a limit of connections is reached".to_owned(),
            _ => "no answer".to_owned(),
        };
        for entry in self.of(peer) {
            let own = entry.target.as_ref().map(|(_, own)| own);
            if tried.is_empty() || own.is_some_and(|own| tried.contains(own)) {
                entry.last_error.clone_from(&why);
            }
        }
    }

    fn of(&mut self, peer: &PeerId) -> impl Iterator<Item = &mut Entry> {
        self.entries.iter_mut().filter(move |entry| entry.target.as_ref().is_some_and(|(own, _)| own == peer))
    }

    /// Dials all of them when the node was alone for a while.
    pub(super) fn tick(&mut self, swarm: &mut Swarm<Behaviour>, alone: bool, now: Moment) {
        if self.due(alone, now) {
            let targets: Vec<_> = self.entries.iter().filter_map(|entry| entry.target.clone()).collect();
            self.dial(swarm, &targets);
        }
    }

    fn due(&mut self, alone: bool, now: Moment) -> bool {
        if !alone {
            (self.pause, self.next) = (PAUSE, None);
            return false;
        }
        let due = *self.next.get_or_insert(now.after(self.pause)) <= now;
        if due {
            self.pause = (self.pause * 2).min(PAUSE_MAX);
            // Up to a quarter more, so that nodes that lost one peer do not come back as one.
            self.next = Some(now.after(self.pause + self.pause.mul_f64(rand::random::<f64>() / 4.0)));
        }
        due
    }

    pub(super) fn dial(&mut self, swarm: &mut Swarm<Behaviour>, targets: &[(PeerId, Multiaddr)]) {
        let mut peers: BTreeMap<PeerId, Vec<Multiaddr>> = BTreeMap::new();
        for (peer, address) in
            targets.iter().filter(|(peer, _)| peer != swarm.local_peer_id() && self.outgoing)
        {
            peers.entry(*peer).or_default().push(address.clone());
        }
        for (peer, addresses) in peers {
            if let Some(kad) = swarm.behaviour_mut().kad.as_mut() {
                for address in &addresses {
                    kad.add_address(&peer, address.clone());
                }
            }
            let options = DialOpts::peer_id(peer)
                .addresses(addresses)
                .condition(PeerCondition::DisconnectedAndNotDialing)
                .build();
            if let Err(error) = swarm.dial(options) {
                self.failed(&peer, &error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_alone_dials_ever_more_seldom_and_begins_anew_after_company() {
        let mut bootstrap = Bootstrap::new(&v1::NodeSpec::default());
        let mut dials = Vec::new();
        for second in 0..3600 {
            if bootstrap.due(true, Moment::at(Duration::from_secs(second))) {
                dials.push(second);
            }
        }
        assert_eq!(dials[0], PAUSE.as_secs());
        let waits: Vec<u64> = dials.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(waits[0] >= 10 && waits[0] <= 13, "{waits:?}");
        assert!(waits.last().is_some_and(|last| (300..=376).contains(last)), "{waits:?}");
        assert!(!bootstrap.due(false, Moment::at(Duration::from_secs(4000))));
        assert!(!bootstrap.due(true, Moment::at(Duration::from_secs(4001))));
        assert!(bootstrap.due(true, Moment::at(Duration::from_secs(4006))));
    }

    #[test]
    fn addresses_that_stay_keep_their_record() {
        let peer = PeerId::random();
        let text = |port: u16| format!("/ip4/1.2.3.4/tcp/{port}/p2p/{peer}");
        let spec = |ports: &[u16]| v1::NodeSpec {
            bootstrap: ports.iter().map(|p| text(*p)).collect(),
            ..Default::default()
        };
        let mut bootstrap = Bootstrap::new(&spec(&[1, 2]));
        bootstrap.failed(&peer, &DialError::Aborted);
        assert_eq!(bootstrap.set(&spec(&[3, 2])).len(), 1);
        let errors: Vec<&str> = bootstrap.entries.iter().map(|entry| entry.last_error.as_str()).collect();
        assert_eq!(errors, ["", "no answer"]);
    }
}
