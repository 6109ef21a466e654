//! What it takes to be let in, from the config and the files it names. A change of any of them makes new
//! connections; nothing of it is ever told.

use super::address::Place;
use crate::{Config, Error};
use fred::types::config::{TlsConfig, TlsConnector};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use std::{path::Path, sync::Arc};

/// The contents at one moment.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Sources {
    url: String,
    password: Option<String>,
    ca: Option<Vec<u8>>,
    /// Certificate and key of this client.
    client: Option<(Vec<u8>, Vec<u8>)>,
}

impl Sources {
    /// Reads the files.
    pub(super) fn read(config: &Config) -> Result<Self, Error> {
        let tls = &config.tls;
        let text = |name, path: &Path| {
            let bytes = read(name, path)?;
            let text = String::from_utf8(bytes).map_err(|_| invalid(name, "is no text"))?;
            Ok::<_, Error>(text.trim().to_owned())
        };
        let url = match &config.url_file {
            Some(path) => text("url_file", path)?,
            None => config.url.clone(),
        };
        let password = config.password_file.as_deref().map(|path| text("password_file", path)).transpose()?;
        let ca = tls.ca_file.as_deref().map(|path| read("tls.ca_file", path)).transpose()?;
        let client = match (&tls.certificate_file, &tls.key_file) {
            (Some(certificate), Some(key)) => {
                Some((read("tls.certificate_file", certificate)?, read("tls.key_file", key)?))
            }
            _ => None,
        };
        Ok(Self { url, password, ca, client })
    }

    /// Makes a place of them.
    pub(super) fn place(&self) -> Result<Place, Error> {
        let mut place = Place::parse(&self.url)?;
        if let Some(password) = &self.password {
            if password.is_empty() {
                return Err(invalid("password_file", "is empty"));
            }
            place.set_password(password.clone());
        }
        if place.tls {
            place.set_tls(self.tls()?);
        } else if self.ca.is_some() || self.client.is_some() {
            return Err(invalid(
                "tls",
                "is set, but the address does not ask for TLS: it must begin with rediss",
            ));
        }
        Ok(place)
    }

    fn tls(&self) -> Result<TlsConfig, Error> {
        let mut roots = RootCertStore::empty();
        match &self.ca {
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Some(pem) => {
                for authority in certificates("tls.ca_file", pem)? {
                    roots.add(authority).map_err(|_| invalid("tls.ca_file", "holds no authority"))?;
                }
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|_| invalid("tls", "cannot be used"))?
            .with_root_certificates(roots);
        let config = match &self.client {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates("tls.certificate_file", certificate)?;
                let key = PrivateKeyDer::from_pem_slice(key)
                    .map_err(|_| invalid("tls.key_file", "holds no private key in PEM"))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|_| invalid("tls.key_file", "is not the key of the certificate"))?
            }
        };
        Ok(TlsConnector::from(config).into())
    }
}

fn certificates(name: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(some) if !some.is_empty() => Ok(some),
        _ => Err(invalid(name, "holds no certificate in PEM")),
    }
}

fn read(name: &str, path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|error| invalid(name, &format!("{}: {error}", path.display())))
}

fn invalid(name: &str, what: &str) -> Error {
    Error::Invalid(format!("{name}: {what}"))
}
