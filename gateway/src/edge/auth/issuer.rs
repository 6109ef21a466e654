//! Where the keys of an issuer come from: a file, or an address that is asked now and then. An answer is
//! bounded in time and size, a redirect is no answer, and plain HTTP is for this machine alone.

use super::token::KEYS_BYTES_MAX;
use crate::config;
use bytes::Bytes;
use http::{Request, Uri, header, uri::Scheme};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer, pki_types::pem::PemObject};
use std::{path::Path, sync::Arc, time::Duration};

/// How long an answer may take, from the name's resolution to its last byte.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where to read the keys.
#[derive(Clone)]
pub(super) enum Source {
    /// A file, which is looked at often.
    File(Arc<Path>),
    /// An address, which is asked rarely.
    Address(Uri, Box<Asking>),
}

type Asking = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

impl Source {
    /// Reads where they are; the error says what is wrong with it.
    pub(super) fn new(config: &config::Jwt) -> Result<Self, String> {
        if !config.keys.contains("://") {
            return Ok(Self::File(Path::new(&config.keys).into()));
        }
        let uri: Uri = config.keys.parse().map_err(|_| "jwt.keys: no address".to_owned())?;
        let plain = uri.scheme() == Some(&Scheme::HTTP) && uri.host().is_some_and(is_loopback);
        if uri.host().is_none() || !(plain || uri.scheme() == Some(&Scheme::HTTPS)) {
            return Err("jwt.keys: an address begins with https://, http:// is for this machine alone".into());
        }
        let tls = trust(config.ca.as_deref()).map_err(|e| format!("jwt.ca: {e}"))?;
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector.build());
        Ok(Self::Address(uri, Box::new(client)))
    }

    /// Tells whether somebody else is asked.
    pub(super) fn is_far(&self) -> bool {
        matches!(self, Self::Address(..))
    }

    /// Reads the keys as they are written.
    pub(super) async fn read(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::File(path) => {
                let at = |e: &dyn std::fmt::Display| format!("jwt.keys: {}: {e}", path.display());
                let path = path.clone();
                let text = tokio::task::spawn_blocking(move || std::fs::read(path)).await;
                let text = text.map_err(|e| at(&e))?.map_err(|e| at(&e))?;
                if text.len() > KEYS_BYTES_MAX {
                    return Err(at(&format!("more than {KEYS_BYTES_MAX} bytes")));
                }
                Ok(text)
            }
            Self::Address(uri, client) => {
                let asked = tokio::time::timeout(TIMEOUT, ask(uri, client)).await;
                asked.unwrap_or_else(|_| Err(format!("no answer in {TIMEOUT:?}")))
            }
        }
    }
}

async fn ask(uri: &Uri, client: &Asking) -> Result<Vec<u8>, String> {
    let request = Request::get(uri).header(header::ACCEPT, "application/json").body(Empty::new());
    let request = request.map_err(|e| e.to_string())?;
    let answer = client.request(request).await.map_err(|e| e.to_string())?;
    if answer.status() != http::StatusCode::OK {
        return Err(format!("the answer is {}", answer.status()));
    }
    let body = Limited::new(answer.into_body(), KEYS_BYTES_MAX).collect().await;
    let body = body.map_err(|_| format!("the answer breaks off or has more than {KEYS_BYTES_MAX} bytes"))?;
    Ok(body.to_bytes().into())
}

/// Trusts the authorities of a file, else the public ones.
fn trust(ca: Option<&Path>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            let at = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
            for certificate in CertificateDer::pem_file_iter(path).map_err(|e| at(&e))? {
                roots.add(certificate.map_err(|e| at(&e))?).map_err(|e| at(&e))?;
            }
            if roots.is_empty() {
                return Err(at(&"no certificate in PEM"));
            }
        }
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|e| e.to_string())?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_over_tls_or_from_this_machine() {
        let read = |keys: &str| Source::new(&config::Jwt { keys: keys.into(), ..Default::default() });
        for good in [
            "https://id.example/keys",
            "http://127.0.0.1:9000/keys",
            "http://[::1]/keys",
            "http://localhost/",
        ] {
            assert!(read(good).unwrap().is_far(), "{good}");
        }
        assert!(!read("/etc/plexus/keys.json").unwrap().is_far());
        for bad in ["http://id.example/keys", "ftp://127.0.0.1/", "https://", "http://127.0.0.1.example/"] {
            assert!(read(bad).err().unwrap().starts_with("jwt.keys: "), "{bad}");
        }
    }
}
