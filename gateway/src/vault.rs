//! What the store holds of who may come in: API keys and revocations, under names of its own. Services
//! write it, the edge reads it; neither asks for it during a call. When keys were last used is kept under other
//! names, so that a use is no change of a key: the edge writes it, services read it.

use plexus_bus::{Bus, Error, Key, When};
use plexus_proto::{bus::ApiKeyRecord, v1::Revocation};
use prost::Message;
use prost_types::Timestamp;
use std::{collections::HashMap, time::Duration};

/// What all these names begin with; a hint of another name is none of ours.
pub(crate) const PREFIX: &str = "auth/";
const KEYS: &str = "auth/key/";
const REVOCATIONS: &str = "auth/revocation/";
const USES: &str = "used/key/";
/// How long a use is remembered.
const REMEMBERED: Duration = Duration::from_secs(366 * 24 * 3600);

/// All of it at one time.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) keys: Vec<ApiKeyRecord>,
    pub(crate) revocations: Vec<Revocation>,
}

/// Where an API key is.
pub(crate) fn key(id: &str) -> Key {
    Key::Named(format!("{KEYS}{id}").into())
}

/// Where a revocation is.
pub(crate) fn revocation(id: &str) -> Key {
    Key::Named(format!("{REVOCATIONS}{id}").into())
}

/// Where it is kept when an API key was last used.
pub(crate) fn last_use(id: &str) -> Key {
    Key::Named(format!("{USES}{id}").into())
}

/// Writes that an API key was used.
pub(crate) async fn used(bus: &Bus, id: &str, at: Timestamp) -> Result<(), Error> {
    bus.put(last_use(id), at.encode_to_vec().into(), When::Always, Some(REMEMBERED)).await.map(drop)
}

/// Reads when API keys were last used, by their ids.
pub(crate) async fn uses(bus: &Bus) -> Result<HashMap<String, Timestamp>, Error> {
    let read = |(name, value): (String, plexus_bus::Value)| {
        Some((name.strip_prefix(USES)?.to_owned(), Timestamp::decode(value.data).ok()?))
    };
    Ok(bus.list(USES).await?.into_iter().filter_map(read).collect())
}

/// Reads every API key.
pub(crate) async fn keys(bus: &Bus) -> Result<Vec<ApiKeyRecord>, Error> {
    list(bus, KEYS).await
}

/// Reads every revocation.
pub(crate) async fn revocations(bus: &Bus) -> Result<Vec<Revocation>, Error> {
    list(bus, REVOCATIONS).await
}

/// Reads both.
pub(crate) async fn read(bus: &Bus) -> Result<Kept, Error> {
    let (keys, revocations) = futures::future::try_join(keys(bus), revocations(bus)).await?;
    Ok(Kept { keys, revocations })
}

async fn list<T: Message + Default>(bus: &Bus, prefix: &str) -> Result<Vec<T>, Error> {
    let listed = bus.list(prefix).await?;
    let read = |(name, value): (String, plexus_bus::Value)| match T::decode(value.data) {
        Ok(message) => Some(message),
        Err(_) => {
            tracing::warn!(name, "cannot be read and is left out");
            None
        }
    };
    Ok(listed.into_iter().filter_map(read).collect())
}
