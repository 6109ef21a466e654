//! Bootstrap addresses: how each fares, and dialling them again, ever more slowly, while the node is
//! alone.

use super::{book::Book, split};
use crate::{clock::Moment, swarm::Behaviour};
use libp2p::{
    Multiaddr, PeerId, Swarm,
    swarm::{
        DialError,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use plexus_proto::v1::{BootstrapList, bootstrap_list};
use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

const WAIT_MIN: Duration = Duration::from_secs(2);
const WAIT_MAX: Duration = Duration::from_secs(60);

/// The addresses of the spec, 64 at most, in its order.
#[derive(Default)]
pub(super) struct Bootstrap {
    entries: Vec<Entry>,
    wait: Duration,
    /// When to dial next; absent: not alone.
    due: Option<Moment>,
}

struct Entry {
    text: String,
    peer: PeerId,
    address: Multiaddr,
    last_success: Option<SystemTime>,
    last_error: String,
}

impl Bootstrap {
    /// Takes the spec's list; what stays keeps its history.
    pub(super) fn set(&mut self, addresses: &[String]) {
        let mut before = std::mem::take(&mut self.entries);
        for text in addresses {
            if let Some(at) = before.iter().position(|entry| entry.text == *text) {
                self.entries.push(before.swap_remove(at));
            } else if let Some((peer, address)) = text.parse().ok().and_then(split) {
                let text = text.clone();
                self.entries.push(Entry {
                    text,
                    peer,
                    address,
                    last_success: None,
                    last_error: String::new(),
                });
            }
        }
    }

    pub(super) fn list(&self, book: &Book) -> BootstrapList {
        let connected = |peer: &PeerId| book.get(peer).is_some_and(|known| !known.links.is_empty());
        let entry = |entry: &Entry| bootstrap_list::Entry {
            address: entry.text.clone(),
            connected: connected(&entry.peer),
            last_success_at: entry.last_success.map(Into::into),
            last_error: entry.last_error.clone(),
        };
        BootstrapList { entries: self.entries.iter().map(entry).collect() }
    }

    pub(super) fn worked(&mut self, peer: &PeerId, at: SystemTime) {
        for entry in self.entries.iter_mut().filter(|entry| entry.peer == *peer) {
            entry.last_success = Some(at);
            entry.last_error.clear();
        }
    }

    pub(super) fn failed(&mut self, peer: &PeerId, error: &DialError) {
        for entry in self.entries.iter_mut().filter(|entry| entry.peer == *peer) {
            // One sentence for closed, filtered and silent, as for a caller's own dials.
            entry.last_error = match error {
                DialError::WrongPeerId { .. } => "another peer answered".into(),
                DialError::Denied { .. } => "not allowed by the guard, the blocks or the limits".into(),
                _ => "no answer".into(),
            };
        }
    }

    /// The node has peers.
    pub(super) fn rest(&mut self) {
        self.due = None;
    }

    /// The node is alone: dials when it is time. The loop itself dials once at the start.
    pub(super) fn dial(&mut self, swarm: &mut Swarm<Behaviour>, now: Moment) {
        let Some(due) = self.due else {
            self.wait = WAIT_MIN;
            self.due = Some(now.after(self.wait));
            return;
        };
        if due > now {
            return;
        }
        self.wait = (self.wait * 2).min(WAIT_MAX);
        self.due = Some(now.after(self.wait));
        let mut peers: BTreeMap<PeerId, Vec<Multiaddr>> = BTreeMap::new();
        for entry in &self.entries {
            peers.entry(entry.peer).or_default().push(entry.address.clone());
        }
        for (peer, addresses) in peers {
            let options = DialOpts::peer_id(peer)
                .addresses(addresses)
                .condition(PeerCondition::DisconnectedAndNotDialing)
                .build();
            if let Err(error) = swarm.dial(options) {
                tracing::debug!(%peer, %error, "bootstrap dial refused");
            }
        }
    }
}
