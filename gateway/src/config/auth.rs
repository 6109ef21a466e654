//! Who may come in.

use serde::{Deserialize, Serialize};
use std::{path::PathBuf, time::Duration};

/// Who may come in.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// `off`: everybody may do everything in namespace `default`. `on`: by API key or token alone.
    pub mode: Mode,
    /// File of API keys, as `plexus key` writes them; empty: none.
    pub keys: String,
    /// Time between two looks at the files; changed ones hold at once.
    #[serde(with = "humantime_serde")]
    pub reload_interval: Duration,
    /// API keys at most that gateways keep in the store.
    pub keys_max: usize,
    /// Revocations at most.
    pub revocations_max: usize,
    /// Namespace whose callers, as far as their grants go, manage API keys and revocations of every
    /// namespace; empty: each namespace its own alone.
    pub operators: String,
    /// Tokens of an issuer.
    pub jwt: Jwt,
}

impl Auth {
    /// Refuses what cannot let anybody in, by the name of its key. The files are read at start.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.mode == Mode::On && self.keys.is_empty() && self.jwt.issuer.is_empty() {
            return Err("mode: on needs auth.keys or auth.jwt.issuer".into());
        }
        if self.reload_interval.is_zero() {
            return Err("reload_interval: must be above 0".into());
        }
        if self.keys_max == 0 || self.revocations_max == 0 {
            return Err("keys_max, auth.revocations_max: must be above 0".into());
        }
        if !self.operators.is_empty() {
            crate::key::check_namespace(&self.operators).map_err(|e| format!("operators: {e}"))?;
        }
        if self.jwt.issuer.is_empty() {
            return Ok(());
        }
        let jwt = &self.jwt;
        match () {
            () if jwt.refresh_interval.is_zero() => Err("jwt.refresh_interval: must be above 0".into()),
            () if jwt.lifetime_max.is_zero() => Err("jwt.lifetime_max: must be above 0".into()),
            () if jwt.audience.is_empty() => Err("jwt.audience: must be set".into()),
            () if jwt.keys.is_empty() => Err("jwt.keys: must be set".into()),
            () if jwt.types.is_empty() => Err("jwt.types: at least one".into()),
            () if jwt.algorithms.is_empty() => Err("jwt.algorithms: at least one".into()),
            () if jwt.leeway > Duration::from_secs(30) => Err("jwt.leeway: at most 30s".into()),
            () => {
                let read =
                    |name: &String| crate::edge::algorithm(name).map_err(|e| format!("jwt.algorithms: {e}"));
                jwt.algorithms.iter().try_for_each(|name| read(name).map(drop))
            }
        }
    }
}

/// Whether credentials are needed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// No.
    #[default]
    Off,
    /// For every call.
    On,
}

/// Tokens of an issuer: JWTs by RFC 8725.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Jwt {
    /// What `iss` must be; empty: no tokens are taken.
    pub issuer: String,
    /// What `aud` must name.
    pub audience: String,
    /// File of the issuer's public keys, a JSON Web Key Set or one key in PEM; or the `https://` address of
    /// such a set.
    pub keys: String,
    /// A PEM file with the authorities that sign the certificate of that address; else the public ones.
    pub ca: Option<PathBuf>,
    /// Time between two requests to that address.
    #[serde(with = "humantime_serde")]
    pub refresh_interval: Duration,
    /// Algorithms that are taken; none with a shared secret.
    pub algorithms: Vec<String>,
    /// Types that are taken, as `typ` names them.
    pub types: Vec<String>,
    /// How far clocks may differ, at most 30 s.
    #[serde(with = "humantime_serde")]
    pub leeway: Duration,
    /// How far ahead the end of a token may be. Revocations are kept as long.
    #[serde(with = "humantime_serde")]
    pub lifetime_max: Duration,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            mode: Mode::Off,
            keys: String::new(),
            reload_interval: Duration::from_secs(10),
            keys_max: 10_000,
            revocations_max: 10_000,
            operators: "default".into(),
            jwt: Jwt::default(),
        }
    }
}

impl Default for Jwt {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            audience: String::new(),
            keys: String::new(),
            algorithms: vec!["ES256".into(), "EdDSA".into(), "RS256".into()],
            types: vec!["JWT".into(), "at+jwt".into()],
            leeway: Duration::from_secs(30),
            ca: None,
            refresh_interval: Duration::from_secs(600),
            lifetime_max: Duration::from_secs(24 * 3600),
        }
    }
}
