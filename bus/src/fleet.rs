//! What the fleet says of itself, under names of the store: a card of each worker and each gateway, and which
//! workers shall give their nodes away. A card ends by itself where it is not shown again, a worker's as soon
//! as its lease would; an order stays until it is lifted.
//!
//! Words to one worker go to all of them. They are hints: a lost one costs time, and the record decides.

use crate::{Body, Bus, Call, CallId, Envelope, Error, Frame, Key, NodeName, Payload, Subject, When};
use bytes::Bytes;
use plexus_proto::{
    bus::{OwnerChange, Principal, WorkerCard},
    v1,
};
use prost::Message;
use std::time::Duration;

/// Says that a worker shall take a node as soon as it is free. The request is an [`OwnerChange`].
pub const EXPECT: &str = "plexus.bus.v1.Host/Expect";
/// Says that an order for a worker changed. The request is an [`OwnerChange`] without a node.
pub const ORDERS: &str = "plexus.bus.v1.Host/Orders";
const WORKERS: &str = "fleet/worker/";
const DRAINS: &str = "fleet/drain/";
const GATEWAYS: &str = "fleet/gateway/";
/// Life of a worker's card, that of its lease.
pub const WORKER_CARD: Duration = Duration::from_secs(6);
/// Life of a gateway's card, that of its lease.
pub const GATEWAY_CARD: Duration = Duration::from_secs(15);

impl Bus {
    /// Shows a worker's card.
    pub async fn show_worker(&self, card: &WorkerCard) -> Result<(), Error> {
        let worker = card.worker.as_ref().map(|worker| worker.worker.as_str()).unwrap_or_default();
        self.show(WORKERS, worker, card.encode_to_vec().into(), WORKER_CARD).await
    }

    /// Takes a worker's card away.
    pub async fn hide_worker(&self, worker: &str) -> Result<(), Error> {
        self.delete(name(WORKERS, worker), When::Always).await.map(|_| ())
    }

    /// Reads the cards of all workers, by id.
    pub async fn workers_shown(&self) -> Result<Vec<WorkerCard>, Error> {
        self.shown(WORKERS).await
    }

    /// Shows a gateway's card.
    pub async fn show_gateway(&self, card: &v1::Gateway) -> Result<(), Error> {
        self.show(GATEWAYS, &card.gateway, card.encode_to_vec().into(), GATEWAY_CARD).await
    }

    /// Takes a gateway's card away.
    pub async fn hide_gateway(&self, gateway: &str) -> Result<(), Error> {
        self.delete(name(GATEWAYS, gateway), When::Always).await.map(|_| ())
    }

    /// Reads the cards of all gateways, by id.
    pub async fn gateways_shown(&self) -> Result<Vec<v1::Gateway>, Error> {
        self.shown(GATEWAYS).await
    }

    /// Orders a worker to give its nodes away, also when it comes again under this id.
    pub async fn order_drain(&self, order: &v1::DrainWorkerRequest) -> Result<(), Error> {
        let at = name(DRAINS, &order.worker);
        self.put(at, order.encode_to_vec().into(), When::Always, None).await?;
        self.say(ORDERS, &order.worker, None).await
    }

    /// Lifts such an order; none is success.
    pub async fn lift_drain(&self, worker: &str) -> Result<(), Error> {
        self.delete(name(DRAINS, worker), When::Always).await?;
        self.say(ORDERS, worker, None).await
    }

    /// Reads whether a worker shall give its nodes away.
    pub async fn drain_ordered(&self, worker: &str) -> Result<Option<v1::DrainWorkerRequest>, Error> {
        let kept = self.get(name(DRAINS, worker)).await?;
        kept.map(|value| v1::DrainWorkerRequest::from_bytes(value.data)).transpose()
    }

    /// Says that a node will be free, and that `worker` shall take it.
    pub async fn expect(&self, worker: &str, node: &NodeName) -> Result<(), Error> {
        self.say(EXPECT, worker, Some(node)).await
    }

    async fn say(&self, method: &str, worker: &str, node: Option<&NodeName>) -> Result<(), Error> {
        let word = OwnerChange {
            namespace: node.map(|node| node.namespace().to_owned()).unwrap_or_default(),
            node: node.map(|node| node.node().to_owned()).unwrap_or_default(),
            worker: worker.into(),
            epoch: 0,
        };
        let call = Call {
            method: method.into(),
            payload: Payload::of(word),
            node: None,
            namespace: "".into(),
            reply_to: "".into(),
            deadline: None,
            caller: Principal::default(),
            idempotency_key: String::new(),
            epoch_seen: 0,
            attempt: 0,
            idempotent: true,
            credit: 0,
        };
        let envelope = Envelope {
            id: CallId::now_v7(),
            sequence: 0,
            traceparent: String::new(),
            tracestate: String::new(),
            epoch: 0,
            body: Body::Call(Box::new(call)),
        };
        self.publish(Subject::Anyone, Payload::of(envelope)).await.map(|_| ())
    }

    async fn show(&self, kind: &str, id: &str, card: Bytes, ttl: Duration) -> Result<(), Error> {
        self.put(name(kind, id), card, When::Always, Some(ttl)).await.map(|_| ())
    }

    async fn shown<T: Message + Default>(&self, kind: &str) -> Result<Vec<T>, Error> {
        let kept = self.list(kind).await?;
        // What a newer version writes is read as far as it is known; what is no card is left out.
        Ok(kept.into_iter().filter_map(|(_, value)| T::decode(value.data).ok()).collect())
    }
}

fn name(kind: &str, id: &str) -> Key {
    Key::Named(format!("{kind}{id}").into())
}

/// Resident memory of this process; 0 where it cannot be told.
pub fn memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok());
    kilobytes.unwrap_or_default() * 1024
}
