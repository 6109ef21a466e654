//! Noise, or TLS with peers that prefer it, as one upgrade. TLS makes its certificate when a link
//! first asks for it, so that a node that never does carries none.

use futures::{FutureExt, TryFutureExt, future::BoxFuture, future::Either};
use libp2p::{
    PeerId,
    core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo},
    identity::Keypair,
    noise, tls,
};
use std::io;

const NOISE: &str = "/noise";
const TLS: &str = "/tls/1.0.0";

/// Both ways to secure a link; a dialler proposes noise first, at half the cost of TLS.
#[derive(Clone)]
pub(super) struct Secure {
    key: Keypair,
    noise: noise::Config,
}

impl Secure {
    pub(super) fn new(key: &Keypair) -> io::Result<Self> {
        Ok(Self { key: key.clone(), noise: noise::Config::new(key).map_err(io::Error::other)? })
    }

    fn tls(&self) -> io::Result<tls::Config> {
        tls::Config::new(&self.key).map_err(io::Error::other)
    }
}

impl UpgradeInfo for Secure {
    type Info = &'static str;
    type InfoIter = [&'static str; 2];

    fn protocol_info(&self) -> Self::InfoIter {
        [NOISE, TLS]
    }
}

type Link<C> = Either<noise::Output<C>, tls::TlsStream<C>>;

fn noise_link<C>((peer, link): (PeerId, noise::Output<C>)) -> (PeerId, Link<C>) {
    (peer, Either::Left(link))
}

fn tls_link<C>((peer, link): (PeerId, tls::TlsStream<C>)) -> (PeerId, Link<C>) {
    (peer, Either::Right(link))
}

impl<C> InboundConnectionUpgrade<C> for Secure
where
    C: futures::AsyncRead + futures::AsyncWrite + Send + Unpin + 'static,
{
    type Output = (PeerId, Link<C>);
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Output>>;

    fn upgrade_inbound(self, link: C, info: &'static str) -> Self::Future {
        if info == NOISE {
            return self
                .noise
                .upgrade_inbound(link, info)
                .map_ok(noise_link)
                .map_err(io::Error::other)
                .boxed();
        }
        match self.tls() {
            Ok(tls) => tls.upgrade_inbound(link, info).map_ok(tls_link).map_err(io::Error::other).boxed(),
            Err(e) => std::future::ready(Err(e)).boxed(),
        }
    }
}

impl<C> OutboundConnectionUpgrade<C> for Secure
where
    C: futures::AsyncRead + futures::AsyncWrite + Send + Unpin + 'static,
{
    type Output = (PeerId, Link<C>);
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Output>>;

    fn upgrade_outbound(self, link: C, info: &'static str) -> Self::Future {
        if info == NOISE {
            return self
                .noise
                .upgrade_outbound(link, info)
                .map_ok(noise_link)
                .map_err(io::Error::other)
                .boxed();
        }
        match self.tls() {
            Ok(tls) => tls.upgrade_outbound(link, info).map_ok(tls_link).map_err(io::Error::other).boxed(),
            Err(e) => std::future::ready(Err(e)).boxed(),
        }
    }
}
