//! The node's record while it runs: read again when it changed, applied in place where that can be
//! done, by a new swarm where it cannot.

use super::{Note, event_loop::EventLoop, start};
use crate::{clock::Now, refuse};
use plexus_bus::{Error, Frame, Payload, Value};
use plexus_proto::{bus::NodeRecord, reason::Reason};

impl EventLoop {
    pub(super) fn record_read(&mut self, result: Result<Option<Value>, Error>, now: Now) {
        self.reading = false;
        match result {
            Ok(Some(value)) if value.revision > self.revision => match NodeRecord::from_bytes(value.data) {
                Ok(record) => self.adopt(record, value.revision, now),
                Err(error) => tracing::error!(node = %self.name, %error, "the record cannot be read"),
            },
            Ok(Some(_)) => {}
            Ok(None) => self.tell(Note::Unwanted),
            Err(error) => tracing::debug!(node = %self.name, %error, "the record was not read"),
        }
        let refreshes = std::mem::take(&mut self.waits.refreshes);
        for (call, revision) in refreshes {
            if self.revision >= revision {
                self.calls.answer(call, Ok(Payload::default()), now);
            } else {
                self.waits.refreshes.push((call, revision));
            }
        }
    }

    fn adopt(&mut self, record: NodeRecord, revision: u64, now: Now) {
        let former = std::mem::replace(&mut self.record, record);
        self.revision = revision;
        let spec = self.spec();
        if self.record.deleting || spec.stopped() || self.record.generation != former.generation {
            return self.tell(Note::Unwanted);
        }
        self.following.set_record(&self.record);
        self.apply_policies();
        self.open_kept(now);
        self.moved = true;
        if self.swarm.see().is_none() {
            return;
        }
        let old = former.node.and_then(|node| node.spec).unwrap_or_default();
        if start::fixed(&old) != start::fixed(&spec) {
            return self.rebuild(now);
        }
        self.peers.set_record(&self.record, self.swarm.act());
        let new: Vec<String> =
            spec.bootstrap.iter().filter(|a| !old.bootstrap.contains(a)).cloned().collect();
        self.dial(new.iter());
    }

    /// Builds the swarm anew in place; a spec that cannot be built leaves the former one running.
    pub(super) fn rebuild(&mut self, now: Now) {
        self.known = self.connected_addresses();
        match self.build(now) {
            Ok(()) => {
                for call in std::mem::take(&mut self.asking) {
                    let message = "the node's swarm was built anew; read first, then ask again";
                    self.calls.answer(call, Err(refuse(Reason::OwnerChanged, message)), now);
                }
            }
            Err(error) => {
                tracing::warn!(node = %self.name, %error, "the changed spec cannot be run");
                self.status.failed(Reason::FieldInvalid, error.to_string(), now);
            }
        }
        self.step_waiting(None, now);
    }
}
