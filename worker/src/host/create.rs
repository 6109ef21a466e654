//! Makes nodes: `CreateNode`, which any worker may take (`Subject::Anyone`), so that a key is made and
//! sealed where keys belong. One worker wins each call by its id.
//!
//! The order is: sealed key, record, directory. A crash in between leaves a record that no directory
//! names; the next creation writes over it. While it goes on a lock with a TTL keeps a second
//! creation of the same name away, so that key and record always belong together.

use super::{identity::Seal, material};
use crate::{Refusal, refuse};
use bytes::Bytes;
use libp2p::identity::Keypair;
use plexus_bus::{
    Body, Bus, Call, CallId, Enlisted, Envelope, Frame, Incarnation, Key, NodeName, Outcome, Payload,
    Subject, When,
};
use plexus_proto::{
    bus::NodeRecord,
    reason::Reason,
    spec, text,
    v1::{self, CreateNodeRequest, Node, NodeSpec, NodeStatus, node_status::State},
};
use prost::Message;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::time;

/// The method that is answered here.
pub(crate) const METHOD: &str = "plexus.v1.NodeService/CreateNode";
/// How long a call id and a request id are remembered.
const MEMORY: Duration = Duration::from_secs(600);
/// How long a creation may take; the lock outlives it.
const TIME_MAX: Duration = Duration::from_secs(10);
const LOCK_TTL: Duration = Duration::from_secs(30);
const LOCK_RETRY: Duration = Duration::from_millis(25);

/// What a creation needs.
#[derive(Clone)]
pub(crate) struct Maker {
    /// The bus.
    pub(crate) bus: Bus,
    /// Seals the new key.
    pub(crate) seal: Arc<Seal>,
}

/// A node that is there now, and whether an earlier call made it.
struct Made {
    node: Node,
    repeated: bool,
}

impl Maker {
    /// Answers a call if this worker wins it. Tells which node it made.
    pub(crate) async fn answer(self, worker: Incarnation, id: CallId, call: Box<Call>) -> Option<NodeName> {
        let left = match call.deadline {
            Some(deadline) => deadline.duration_since(SystemTime::now()).ok()?.min(TIME_MAX),
            None => TIME_MAX,
        };
        let won = self.wins(&worker, id).await?;
        let result = match call.payload.open::<CreateNodeRequest>() {
            _ if call.method.as_ref() != METHOD && won => {
                let message = format!("{} is unknown to this worker", call.method);
                Err(refuse(Reason::WorkerTooOld, message))
            }
            _ if call.method.as_ref() != METHOD => return None,
            Err(error) => Err(refuse(Reason::FieldInvalid, error.to_string())),
            Ok(request) if won => self.within(left, &call.namespace, id, &request).await,
            Ok(request) if call.attempt > 0 => Ok(self.made_by(id, &call.namespace, &request.id).await?),
            Ok(_) => return None,
        };
        let name = result.as_ref().ok().filter(|made| !made.repeated).map(|made| made.node.id.clone());
        self.reply(id, &call, result).await;
        name.and_then(|name| NodeName::new(&call.namespace, &name).ok())
    }

    /// One worker does each call. `None`: another one has it, and this call is no repeat.
    async fn wins(&self, worker: &Incarnation, id: CallId) -> Option<bool> {
        let key = Key::Named(format!("call/{id}").into());
        let mine = Bytes::copy_from_slice(worker.as_bytes());
        match self.bus.put(key.clone(), mine.clone(), When::Absent, Some(MEMORY)).await {
            Ok(Some(_)) => Some(true),
            Ok(None) => Some(false),
            // It may have run: the key tells whose it is.
            Err(_) => match self.bus.get(key).await {
                Ok(Some(value)) => Some(value.data == mine),
                _ => None,
            },
        }
    }

    /// Finds the node that an earlier sending of the same call made.
    async fn made_by(&self, id: CallId, namespace: &str, node: &str) -> Option<Made> {
        let name = NodeName::new(namespace, node).ok()?;
        self.bus.owner(&name).await.ok()??;
        let (record, revision) = self.record(&name).await.ok()??;
        let same = record.created_by.as_ref() == id.as_bytes();
        same.then(|| Made { node: answer_of(&record, revision), repeated: true })
    }

    async fn within(
        &self,
        left: Duration,
        namespace: &str,
        id: CallId,
        request: &CreateNodeRequest,
    ) -> Result<Made, Refusal> {
        match time::timeout(left, self.create(namespace, id, request)).await {
            Ok(result) => result,
            Err(_) => Err(refuse(Reason::DeadlineExceeded, "the node was not created in time")),
        }
    }

    async fn reply(&self, id: CallId, call: &Call, result: Result<Made, Refusal>) {
        let from_window = result.as_ref().is_ok_and(|made| made.repeated);
        let result = result.map(|made| Payload::of(made.node));
        let envelope = Envelope {
            id,
            sequence: 0,
            traceparent: String::new(),
            tracestate: String::new(),
            epoch: 0,
            body: Body::Outcome(Outcome { result, from_window, moved: false }),
        };
        if let Err(error) =
            self.bus.publish(Subject::Replies(call.reply_to.clone()), Payload::of(envelope)).await
        {
            tracing::warn!(%error, "the answer to a creation was lost");
        }
    }

    async fn create(
        &self,
        namespace: &str,
        id: CallId,
        request: &CreateNodeRequest,
    ) -> Result<Made, Refusal> {
        spec::check_id(&request.id)?;
        spec::check_request_id(&request.request_id)?;
        let wanted = request.spec.clone().unwrap_or_default();
        spec::check(&wanted)?;
        let name = NodeName::new(namespace, &request.id)
            .map_err(|e| Box::new(v1::Error::field("id", e.to_string())))?;
        let key = match &request.key {
            Some(key) => material::import(key)?,
            None => material::generate(spec::wanted_key(&wanted))?,
        };
        if request.validate_only {
            return self.validated(&name, &key, wanted).await;
        }
        let repeat = self.is_repeat(namespace, request).await?;
        let lock = self.lock(&name).await?;
        let made = self.create_locked(&name, key, wanted, id, request, repeat).await;
        let unlocked = self.bus.delete(lock, When::Always).await;
        if let Err(error) = unlocked {
            tracing::debug!(%error, "a lock is left to its end");
        }
        made
    }

    /// Checks what only the directory knows, and answers the node as it would be.
    async fn validated(&self, name: &NodeName, key: &Keypair, wanted: NodeSpec) -> Result<Made, Refusal> {
        if self.bus.owner(name).await.map_err(unavailable)?.is_some() {
            return Err(exists(name));
        }
        let peer = key.public().to_peer_id().to_bytes();
        if self.bus.find(&peer).await.map_err(unavailable)?.is_some() {
            return Err(in_use());
        }
        let record = NodeRecord { node: Some(node_of(name, &peer, wanted)), ..Default::default() };
        Ok(Made { node: answer_of(&record, 0), repeated: false })
    }

    /// Remembers the request under its `request_id`; tells whether it came before. The same id with
    /// other content is refused.
    async fn is_repeat(&self, namespace: &str, request: &CreateNodeRequest) -> Result<bool, Refusal> {
        if request.request_id.is_empty() {
            return Ok(false);
        }
        let key = Key::Named(format!("request/{namespace}/CreateNode/{}", request.request_id).into());
        let digest = digest(request);
        if self
            .bus
            .put(key.clone(), digest.clone(), When::Absent, Some(MEMORY))
            .await
            .map_err(unavailable)?
            .is_some()
        {
            return Ok(false);
        }
        match self.bus.get(key).await.map_err(unavailable)? {
            Some(value) if value.data != digest => {
                Err(refuse(Reason::RequestIdReused, "requestId: it was used with other content"))
            }
            _ => Ok(true),
        }
    }

    async fn lock(&self, name: &NodeName) -> Result<Key, Refusal> {
        let key = Key::Named(format!("create/{name}").into());
        let mut retry = time::interval(LOCK_RETRY);
        loop {
            retry.tick().await;
            let put = self.bus.put(key.clone(), Bytes::new(), When::Absent, Some(LOCK_TTL)).await;
            if put.map_err(unavailable)?.is_some() {
                return Ok(key);
            }
        }
    }

    async fn create_locked(
        &self,
        name: &NodeName,
        key: Keypair,
        wanted: NodeSpec,
        id: CallId,
        request: &CreateNodeRequest,
        repeat: bool,
    ) -> Result<Made, Refusal> {
        if self.bus.owner(name).await.map_err(unavailable)?.is_some() {
            let found = if repeat { self.record(name).await? } else { None };
            return match found {
                Some((record, revision)) if record.request_id == request.request_id => {
                    Ok(Made { node: answer_of(&record, revision), repeated: true })
                }
                _ => Err(exists(name)),
            };
        }
        let peer = key.public().to_peer_id().to_bytes();
        if request.key.is_some() && self.bus.find(&peer).await.map_err(unavailable)?.is_some() {
            return Err(in_use());
        }
        let sealed = self.seal.seal(name, &key).map_err(|e| refuse(Reason::BadKey, format!("key: {e}")))?;
        drop(key);
        let mut record = NodeRecord {
            node: Some(node_of(name, &peer, wanted)),
            created_by: Bytes::copy_from_slice(id.as_bytes()),
            request_id: request.request_id.clone(),
            ..Default::default()
        };
        record.date_pins(&NodeRecord::default(), SystemTime::now());
        self.put(Key::Sealed(name.clone()), sealed.to_bytes()).await?;
        let revision = self.put(Key::Record(name.clone()), record.to_bytes()).await?;
        self.enlist(name, &peer).await?;
        self.hint(name).await;
        Ok(Made { node: answer_of(&record, revision), repeated: false })
    }

    async fn put(&self, key: Key, data: Bytes) -> Result<u64, Refusal> {
        let revision = self.bus.put(key, data, When::Always, None).await.map_err(unavailable)?;
        Ok(revision.unwrap_or_default())
    }

    async fn enlist(&self, name: &NodeName, peer: &[u8]) -> Result<(), Refusal> {
        let enlisted = match self.bus.enlist(name, peer).await {
            // It may have run; the same again answers the same.
            Err(error) if error.outcome() == plexus_bus::Ran::Unknown => self.bus.enlist(name, peer).await,
            other => other,
        };
        match enlisted.map_err(unavailable)? {
            Enlisted::Done => Ok(()),
            Enlisted::NodeExists => Err(exists(name)),
            Enlisted::PeerExists => Err(in_use()),
        }
    }

    /// Tells everybody that there is a record to read; a lost hint costs only time.
    async fn hint(&self, name: &NodeName) {
        if let Err(error) = self.bus.publish(Subject::Records, Payload::of(name.to_string())).await {
            tracing::debug!(%error, "a hint was lost");
        }
    }

    async fn record(&self, name: &NodeName) -> Result<Option<(NodeRecord, u64)>, Refusal> {
        let Some(value) = self.bus.get(Key::Record(name.clone())).await.map_err(unavailable)? else {
            return Ok(None);
        };
        let record = NodeRecord::from_bytes(value.data).map_err(unavailable)?;
        Ok(Some((record, value.revision)))
    }
}

/// The part of a node that its record keeps.
fn node_of(name: &NodeName, peer: &[u8], spec: NodeSpec) -> Node {
    let now = Some(SystemTime::now().into());
    Node {
        id: name.node().into(),
        peer_id: text::peer_id_to_text(peer),
        spec: Some(spec),
        created_at: now,
        updated_at: now,
        ..Default::default()
    }
}

/// The node as it is answered: its record, its revision, and no owner yet.
fn answer_of(record: &NodeRecord, revision: u64) -> Node {
    let status = NodeStatus { state: State::Pending as i32, ..Default::default() };
    let etag = if revision > 0 { revision.to_string() } else { String::new() };
    Node { status: Some(status), revision, etag, ..record.node.clone().unwrap_or_default() }
}

/// A digest of what a request asks for. Maps have no order of their own, so they are sorted.
fn digest(request: &CreateNodeRequest) -> Bytes {
    let mut rest = request.clone();
    let mut maps: Vec<BTreeMap<String, String>> = Vec::new();
    if let Some(spec) = &mut rest.spec {
        maps.push(std::mem::take(&mut spec.labels).into_iter().collect());
        let placement = spec.placement.as_mut().map(|p| std::mem::take(&mut p.worker_labels));
        maps.push(placement.unwrap_or_default().into_iter().collect());
    }
    let mut hash = Sha256::new_with_prefix(rest.encode_to_vec());
    hash.update(format!("{maps:?}"));
    hash.finalize().to_vec().into()
}

fn exists(name: &NodeName) -> Refusal {
    let message = format!("a node `{}` exists", name.node());
    Box::new(refuse(Reason::NodeExists, message).with("node", name.node()))
}

fn in_use() -> Refusal {
    refuse(Reason::PeerIdInUse, "another hosted node already has this identity")
}

fn unavailable(error: plexus_bus::Error) -> Refusal {
    let reason = match error {
        plexus_bus::Error::Overloaded => Reason::Overloaded,
        _ => Reason::BusUnavailable,
    };
    Box::new(refuse(reason, error.to_string()).retry_after(Duration::from_secs(1)))
}

#[cfg(test)]
mod tests;
