//! Tokens that take up subscriptions.

use serde::{Deserialize, Serialize};

/// Tokens that take up subscriptions, on any gateway that has the same key.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Resume {
    /// The key that seals them, 32 characters or more; without it the gateways of a bus share one that the
    /// first of them makes. Masked in `config print`.
    pub key: Option<String>,
}

impl Resume {
    /// Refuses a key that can be guessed.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        match &self.key {
            Some(key) if key.len() < 32 => Err("resume.key: at least 32 characters"),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Debug for Resume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resume").field("key", &self.key.as_ref().map(|_| "[masked]")).finish()
    }
}
