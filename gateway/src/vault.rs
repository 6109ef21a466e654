//! What the store holds of who may come in: API keys and revocations, under names of its own. Services
//! write it, the edge reads it; neither asks for it during a call.

use plexus_bus::{Bus, Error, Key};
use plexus_proto::{bus::ApiKeyRecord, v1::Revocation};
use prost::Message;

/// What all these names begin with; a hint of another name is none of ours.
pub(crate) const PREFIX: &str = "auth/";
const KEYS: &str = "auth/key/";
const REVOCATIONS: &str = "auth/revocation/";

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
