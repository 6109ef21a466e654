//! TLS on the port or on one of its own.

use super::address;
use crate::{Error, edge::tls};
use serde::{Deserialize, Serialize};
use std::{path::PathBuf, time::Duration};

/// TLS: 1.2 and 1.3, ALPN `h2` and `http/1.1`. Off without a certificate.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// A PEM file with the certificate and the rest of its chain; turns TLS on.
    pub certificate: Option<PathBuf>,
    /// A PEM file with its private key.
    pub key: Option<PathBuf>,
    /// A port of its own for TLS, `host:port`; without it `listen` speaks TLS.
    pub listen: Option<String>,
    /// Whether `listen` also answers clients without TLS, told apart by their first byte.
    pub plaintext: bool,
    /// Certificates of clients: `off`; `request`, where one may come and must then be good; `require`.
    pub client_certificates: ClientCertificates,
    /// A PEM file with the authorities that sign certificates of clients.
    pub client_ca: Option<PathBuf>,
    /// Time between two looks at the files; changed ones hold for new connections.
    #[serde(with = "humantime_serde")]
    pub reload_interval: Duration,
}

impl Tls {
    /// Refuses what could not be served, the files included.
    pub(super) fn check(&self, plain: &str) -> Result<(), Error> {
        let wrong = |text: &str| Err(Error::Config(text.into()));
        if self.reload_interval.is_zero() {
            return wrong("tls.reload_interval: must be above 0");
        }
        if let Some(listen) = &self.listen {
            address("tls.listen", listen)?;
            if listen == plain && !listen.ends_with(":0") {
                return wrong("tls.listen: must differ from listen; without it listen speaks TLS");
            }
            if self.plaintext {
                return wrong("tls.plaintext: with tls.listen there is no TLS on listen to stand beside");
            }
        }
        tls::check(self)
    }
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            certificate: None,
            key: None,
            listen: None,
            plaintext: false,
            client_certificates: ClientCertificates::Off,
            client_ca: None,
            reload_interval: Duration::from_secs(10),
        }
    }
}

/// What is asked of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// No certificate.
    Off,
    /// One that is good, or none.
    Request,
    /// One that is good.
    Require,
}
