//! What the fleet says of itself, under names of the store: a card of each worker and each gateway. A card
//! ends by itself where it is not shown again, a worker's as soon as its lease would.

use crate::{Bus, Error, Key, When};
use bytes::Bytes;
use plexus_proto::{bus::WorkerCard, v1};
use prost::Message;
use std::time::Duration;

const WORKERS: &str = "fleet/worker/";
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
