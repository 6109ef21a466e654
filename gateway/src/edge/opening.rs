//! What may come before HTTP: a forwarder's PROXY header, then TLS or not by the first byte. Whoever takes
//! too long or says something else is closed without an answer, and counted by why.

use super::{
    forwarders::{Forwarders, PROXY_HEAD, ProxyHead, canonical},
    tls::Tls,
    wire::Bytes,
};
use crate::{
    config::Limits,
    metrics::{ByOutcome, Handshake, Metrics},
};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};
use tokio_util::either::Either;

/// The first byte of every TLS connection: a handshake record.
const HANDSHAKE: u8 = 0x16;

/// The certificate that a client proved to hold the key of, in DER; in every request's extensions where
/// there is one.
#[derive(Clone, Debug)]
pub struct ClientCertificate(pub Arc<[u8]>);

/// What a port expects before HTTP.
#[derive(Clone)]
pub(crate) struct Opening {
    /// Who speaks the PROXY protocol.
    pub(crate) forwarders: Arc<Forwarders>,
    /// None: no TLS.
    pub(crate) tls: Option<Tls>,
    /// Whether TLS may be left out.
    pub(crate) plaintext: bool,
}

/// A connection about to speak HTTP.
pub(crate) struct Opened {
    /// Its bytes.
    pub(crate) bytes: Bytes,
    /// Who is at its other end, or who a forwarder says it is.
    pub(crate) peer: SocketAddr,
    /// The client's certificate.
    pub(crate) certificate: Option<ClientCertificate>,
}

impl Opened {
    /// A connection that speaks HTTP from its first byte.
    pub(crate) fn plain(socket: TcpStream, peer: SocketAddr) -> Self {
        Self { bytes: Either::Left(socket), peer: canonical(peer), certificate: None }
    }
}

impl Opening {
    /// Tells whether such a peer's first byte is HTTP's.
    pub(crate) fn is_none(&self, peer: IpAddr) -> bool {
        self.tls.is_none() && !self.forwarders.speaks_proxy(peer)
    }

    /// Reads what comes before HTTP; none where the connection is to be closed.
    pub(crate) async fn open(
        &self,
        socket: TcpStream,
        peer: SocketAddr,
        limits: &Limits,
        metrics: &Metrics,
    ) -> Option<Opened> {
        let opened = self.read(socket, peer, limits).await;
        let outcome = match &opened {
            Ok(Opened { bytes: Either::Left(_), .. }) => None,
            Ok(_) => Some(Handshake::Done),
            Err(outcome) => Some(*outcome),
        };
        if let Some(outcome) = outcome {
            metrics.handshakes.get_or_create(&ByOutcome { outcome }).inc();
            tracing::debug!(%peer, ?outcome, "the connection has begun");
        }
        opened.ok()
    }

    async fn read(
        &self,
        mut socket: TcpStream,
        mut peer: SocketAddr,
        limits: &Limits,
    ) -> Result<Opened, Handshake> {
        if self.forwarders.speaks_proxy(peer.ip()) {
            let read = timeout(limits.first_byte_timeout, proxy(&mut socket, peer)).await;
            peer = read.map_err(|_| Handshake::Timeout)??;
        }
        let Some(tls) = &self.tls else { return Ok(Opened::plain(socket, peer)) };
        let mut first = [0];
        match timeout(limits.first_byte_timeout, socket.peek(&mut first)).await {
            Err(_) => Err(Handshake::Timeout),
            Ok(Ok(1)) if first[0] != HANDSHAKE && self.plaintext => Ok(Opened::plain(socket, peer)),
            Ok(Ok(1)) if first[0] != HANDSHAKE => Err(Handshake::Plaintext),
            Ok(Ok(1)) => {
                let accept = timeout(limits.handshake_timeout, tls.accept(socket)).await;
                let stream = accept.map_err(|_| Handshake::Timeout)??;
                let certificates = stream.get_ref().1.peer_certificates();
                let certificate = certificates.and_then(|all| all.first());
                let certificate = certificate.map(|c| ClientCertificate(c.as_ref().into()));
                Ok(Opened { bytes: Either::Right(Box::new(stream)), peer: canonical(peer), certificate })
            }
            Ok(_) => Err(Handshake::Gone),
        }
    }
}

/// Reads a PROXY header and nothing beyond.
async fn proxy(socket: &mut TcpStream, peer: SocketAddr) -> Result<SocketAddr, Handshake> {
    let mut head = [0; PROXY_HEAD];
    socket.read_exact(&mut head).await.map_err(|_| Handshake::ProxyHeader)?;
    let head = ProxyHead::parse(&head).ok_or(Handshake::ProxyHeader)?;
    let mut rest = vec![0; head.rest];
    socket.read_exact(&mut rest).await.map_err(|_| Handshake::ProxyHeader)?;
    head.client(peer, &rest).ok_or(Handshake::ProxyHeader)
}
