//! TLS by rustls: what the port is, read from files. A handle gives each new connection the settings of
//! the moment; [`event_loop`] owns them and looks whether the files have changed. Connections that are
//! open keep what they began with.

mod event_loop;

pub(crate) use event_loop::EventLoop;

use crate::{
    Error,
    config::{ClientCertificates, Tls as Config},
    metrics::Handshake,
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};
use sha2::{Digest, Sha256};
use std::{io, path::Path, sync::Arc};
use tokio::{net::TcpStream, sync::watch};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// What is offered by ALPN, the best first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Bytes of one file at most.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The settings of the moment.
#[derive(Clone)]
pub(crate) struct Tls(watch::Receiver<Arc<ServerConfig>>);

impl Tls {
    /// Reads the files and begins to watch them; none where TLS is off.
    pub(crate) fn new(
        config: &Config,
        metrics: crate::metrics::Metrics,
    ) -> Result<Option<(Self, EventLoop)>, Error> {
        let Some(files) = Files::read(config).map_err(Error::Config)? else { return Ok(None) };
        let server = files.server(config.client_certificates).map_err(Error::Config)?;
        let (sender, receiver) = watch::channel(server);
        Ok(Some((Self(receiver), EventLoop::new(config.clone(), sender, files.digest, metrics))))
    }

    /// Shakes hands; tells in one word why not.
    pub(crate) async fn accept(&self, socket: TcpStream) -> Result<TlsStream<TcpStream>, Handshake> {
        let server = self.0.borrow().clone();
        TlsAcceptor::from(server).accept(socket).await.map_err(|error| {
            tracing::debug!(%error, "handshake failed");
            why(&error)
        })
    }
}

/// Refuses what could not be served.
pub(crate) fn check(config: &Config) -> Result<(), Error> {
    let files = Files::read(config).map_err(Error::Config)?;
    files.map_or(Ok(()), |f| f.server(config.client_certificates).map(drop).map_err(Error::Config))
}

/// What the files held when they were read.
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    authorities: Option<Vec<u8>>,
    /// Of all of them.
    digest: [u8; 32],
}

impl Files {
    /// Reads them; none where TLS is off. Refuses half of a config by the key that is missing.
    fn read(config: &Config) -> Result<Option<Self>, String> {
        let asks = config.client_certificates != ClientCertificates::Off;
        let (certificate, key) = match (&config.certificate, &config.key) {
            (Some(certificate), Some(key)) => (certificate, key),
            (Some(_), None) => return Err("tls.key: is missing beside tls.certificate".into()),
            (None, Some(_)) => return Err("tls.certificate: is missing beside tls.key".into()),
            (None, None) if asks || config.plaintext || config.listen.is_some() => {
                return Err("tls.certificate: is missing, without it there is no TLS".into());
            }
            (None, None) => return Ok(None),
        };
        let authorities = match (asks, &config.client_ca) {
            (true, Some(path)) => Some(read("tls.client_ca", path)?),
            (true, None) => return Err("tls.client_ca: is missing beside tls.client_certificates".into()),
            (false, Some(_)) => {
                return Err("tls.client_ca: is of no use while tls.client_certificates is off".into());
            }
            (false, None) => None,
        };
        let (certificate, key) = (read("tls.certificate", certificate)?, read("tls.key", key)?);
        let mut digest = Sha256::new();
        for file in [&certificate, &key].into_iter().chain(&authorities) {
            digest.update((file.len() as u64).to_be_bytes());
            digest.update(file);
        }
        Ok(Some(Self { certificate, key, authorities, digest: digest.finalize().into() }))
    }

    /// Makes the settings. What is said of a key never holds a part of it.
    fn server(&self, clients: ClientCertificates) -> Result<Arc<ServerConfig>, String> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|e| format!("tls: {e}"))?;
        let builder = match &self.authorities {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                for authority in certificates("tls.client_ca", pem)? {
                    roots.add(authority).map_err(|e| format!("tls.client_ca: {e}"))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier = match clients {
                    ClientCertificates::Require => verifier,
                    _ => verifier.allow_unauthenticated(),
                };
                builder
                    .with_client_cert_verifier(verifier.build().map_err(|e| format!("tls.client_ca: {e}"))?)
            }
        };
        let chain = certificates("tls.certificate", &self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| "tls.key: holds no private key in PEM (PKCS#8, PKCS#1 or SEC1)")?;
        let mut server = builder.with_single_cert(chain, key).map_err(|e| match e {
            rustls::Error::InconsistentKeys(_) => "tls.key: is not the key of tls.certificate".to_owned(),
            e => format!("tls.certificate: cannot be used with its key: {e}"),
        })?;
        server.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        Ok(Arc::new(server))
    }
}

fn read(key: &str, path: &Path) -> Result<Vec<u8>, String> {
    let bad = |why: String| format!("{key}: {} cannot be read: {why}", path.display());
    let size = std::fs::metadata(path).map_err(|e| bad(e.to_string()))?.len();
    if size > FILE_BYTES_MAX {
        return Err(bad(format!("it is over {FILE_BYTES_MAX} bytes")));
    }
    std::fs::read(path).map_err(|e| bad(e.to_string()))
}

fn certificates(key: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    read.ok().filter(|all| !all.is_empty()).ok_or_else(|| format!("{key}: holds no certificates in PEM"))
}

/// Sorts a handshake's error into the few that are counted.
fn why(error: &io::Error) -> Handshake {
    let Some(error) = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) else {
        return Handshake::Gone;
    };
    match error {
        rustls::Error::NoCertificatesPresented => Handshake::NoCertificate,
        rustls::Error::InvalidCertificate(_) => Handshake::BadCertificate,
        rustls::Error::PeerIncompatible(_) | rustls::Error::NoApplicationProtocol => Handshake::Incompatible,
        rustls::Error::AlertReceived(_) => Handshake::Refused,
        _ => Handshake::Malformed,
    }
}
