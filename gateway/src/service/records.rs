//! What the store holds of a node, changed by compare-and-set, and answers kept for repeats.

use super::{Context, Service, not_found, open, unavailable};
use crate::router::Failure;
use plexus_bus::{Frame, Key, NodeName, Payload, Subject, When};
use plexus_proto::{bus::NodeRecord, reason::Reason, v1};
use prost::Message;
use sha2::{Digest, Sha256};
use std::time::{Duration, SystemTime};

/// Attempts to write before somebody else's writes count as an overload.
const ATTEMPTS: usize = 16;
/// How long a repeat is answered alike.
const KEPT: Duration = Duration::from_secs(600);
/// How long a change waits for the owner to take it in.
const REFRESH: Duration = Duration::from_secs(5);

/// A record and the revision under which it was read or written.
pub(super) struct Held {
    pub(super) record: NodeRecord,
    pub(super) revision: u64,
}

impl Held {
    /// The spec, defaults where none is kept.
    pub(super) fn spec(&self) -> v1::NodeSpec {
        self.record.node.as_ref().and_then(|n| n.spec.clone()).unwrap_or_default()
    }
}

impl Service {
    /// Reads a record; makes node `default` where it is not there yet.
    pub(super) async fn record(&self, context: &Context, node: &NodeName) -> Result<Held, Failure> {
        match self.read_record(node).await? {
            None if node.node() == super::DEFAULT => {
                self.make_default(context).await?;
                self.read_record(node).await?.ok_or_else(|| not_found(node.node()))
            }
            held => held.ok_or_else(|| not_found(node.node())),
        }
    }

    /// Reads a record as it is.
    pub(super) async fn read_record(&self, node: &NodeName) -> Result<Option<Held>, Failure> {
        let value = self.router.bus().get(Key::Record(node.clone())).await.map_err(unavailable)?;
        let read = |value: plexus_bus::Value| {
            let record = open(Payload::encoded(value.data))?;
            Ok(Held { record, revision: value.revision })
        };
        value.map(read).transpose()
    }

    /// Changes a record. `edit` is asked again after somebody else's write; false: nothing to change.
    pub(super) async fn change(
        &self,
        context: &Context,
        node: &NodeName,
        mut edit: impl FnMut(&mut NodeRecord) -> Result<bool, Failure>,
    ) -> Result<Held, Failure> {
        for _ in 0..ATTEMPTS {
            let mut held = self.record(context, node).await?;
            if held.record.deleting {
                return Err(not_found(node.node()));
            }
            let before = held.record.clone();
            if !edit(&mut held.record)? {
                return Ok(held);
            }
            held.record.date_pins(&before, SystemTime::now());
            if let Some(held) = self.write_record(node, held).await? {
                return Ok(held);
            }
        }
        let message = format!("node {:?} is being changed by others all the time", node.node());
        Err(Box::new(v1::Error::new(Reason::Overloaded, message)))
    }

    /// Writes a record over the revision it was read at, and says so; `None`: somebody was faster.
    pub(super) async fn write_record(&self, node: &NodeName, held: Held) -> Result<Option<Held>, Failure> {
        let bus = self.router.bus();
        let when = When::Revision(held.revision);
        let written = bus.put(Key::Record(node.clone()), held.record.to_bytes(), when, None).await;
        let Some(revision) = written.map_err(unavailable)? else { return Ok(None) };
        // A hint only: whoever misses it looks every few seconds.
        let _ = bus.publish(Subject::Records, Payload::of(node.as_str().to_owned())).await;
        Ok(Some(Held { revision, ..held }))
    }

    /// Waits until the owner has taken in a revision; a node without an owner takes it in later.
    pub(super) async fn refresh(
        &self,
        context: &Context,
        node: &NodeName,
        revision: u64,
    ) -> Result<(), Failure> {
        let payload = Payload::encoded(revision.to_be_bytes().to_vec());
        let context = context.within(REFRESH);
        let asked =
            self.request(&context, Some(node.clone()), "plexus.bus.v1.Owner/Refresh", payload, "", true);
        self.router.call(asked).await.map(|_| ())
    }

    /// Answers a repeat of a mutation as the first time (`request_id`), else does it and remembers.
    pub(super) async fn once<Q: Message, A: Frame + Message + Default>(
        &self,
        context: &Context,
        method: &str,
        id: &str,
        request: &Q,
        act: impl Future<Output = Result<A, Failure>>,
    ) -> Result<A, Failure> {
        super::check_key(id)?;
        if id.is_empty() {
            return act.await;
        }
        let key = Key::Named(format!("once/{}/{method}/{id}", context.caller.namespace).into());
        let digest = Sha256::digest(request.encode_to_vec());
        let bus = self.router.bus();
        if let Some(kept) = bus.get(key.clone()).await.map_err(unavailable)? {
            return match kept.data.strip_prefix(&digest[..]) {
                Some(answer) => open(Payload::encoded(answer.to_vec())),
                None => {
                    let message = format!("request id {id:?} was used with other content");
                    Err(Box::new(v1::Error::new(Reason::RequestIdReused, message)))
                }
            };
        }
        let answer = act.await?;
        let kept = [&digest[..], &answer.encode_to_vec()].concat();
        // Without it a repeat would be done again, which every mutation here bears.
        let _ = bus.put(key, kept.into(), When::Absent, Some(KEPT)).await;
        Ok(answer)
    }
}

/// Notes that the spec changed.
pub(super) fn touch(node: &mut v1::Node) {
    node.revision = node.revision.max(1) + 1;
    node.updated_at = Some(SystemTime::now().into());
}

/// Refuses where the caller saw another revision; `*` is any, and `0` that of what is not there.
pub(super) fn check_etag(given: &str, current: &str) -> Result<(), Failure> {
    if given.is_empty() || given.trim_matches('"') == current || (given == "*" && current != "0") {
        return Ok(());
    }
    let error = v1::Error::new(Reason::EtagMismatch, format!("etag: it is {current:?} now"));
    Err(Box::new(error.with("etag", current)))
}
