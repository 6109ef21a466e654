//! What can go wrong in a worker.

use plexus_proto::{reason::Reason, v1};

/// An error of a worker.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The config cannot be used.
    #[error("{0}")]
    Config(String),
    /// The bus failed.
    #[error(transparent)]
    Bus(#[from] plexus_bus::Error),
    /// The swarm cannot be built.
    #[error("the swarm cannot be built: {0}")]
    Swarm(String),
    /// The stored key cannot be opened.
    #[error("the key of {0} cannot be opened with the configured key-encryption key")]
    Unsealable(String),
}

/// What a call to a node is answered with when it fails.
pub type Refusal = Box<v1::Error>;

/// Shortens `Box::new(v1::Error::new(…))`.
pub fn refuse(reason: Reason, message: impl Into<String>) -> Refusal {
    Box::new(v1::Error::new(reason, message))
}
