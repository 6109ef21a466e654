//! The guard within a transport.

use super::{
    Guard, Host, Stage, read,
    rule::{Carried, Refused},
};
use libp2p::{
    Multiaddr, Transport,
    core::transport::{DialOpts, ListenerId, TransportError, TransportEvent},
};
use prometheus_client::metrics::counter::Counter;
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

/// A transport that dials only what its guard lets pass, and tells the guard what it listens on.
pub(in crate::swarm) struct Guarded<T> {
    inner: T,
    guard: Guard,
    stage: Stage,
    refused: Counter,
}

impl<T> Guarded<T> {
    pub(in crate::swarm) fn new(inner: T, guard: &Guard, stage: Stage, refused: &Counter) -> Self {
        Self { inner, guard: guard.clone(), stage, refused: refused.clone() }
    }
}

impl<T: Transport<Error = io::Error> + Unpin> Transport for Guarded<T> {
    type Output = T::Output;
    type Error = io::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = T::Dial;

    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<io::Error>> {
        self.inner.listen_on(id, addr)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, addr: Multiaddr, opts: DialOpts) -> Result<T::Dial, TransportError<io::Error>> {
        if let Err(rule) = self.guard.judge(&addr, self.stage) {
            self.refused.inc();
            tracing::debug!(%addr, %rule, "dial refused");
            return Err(TransportError::Other(io::Error::other(Carried(Refused(rule)))));
        }
        self.inner.dial(addr, opts)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        let event = std::task::ready!(Pin::new(&mut self.inner).poll(cx));
        match &event {
            _ if self.stage == Stage::Given => {}
            TransportEvent::NewAddress { listener_id, listen_addr } => {
                self.guard.listens(*listener_id, listen_addr)
            }
            TransportEvent::AddressExpired { listener_id, listen_addr } => {
                let gone = read(listen_addr).ok();
                self.guard.listens_no_more(|id, own| {
                    id == *listener_id
                        && gone.as_ref().is_some_and(|gone| {
                            matches!(gone.host, Host::Ip(ip) if ip == own.ip())
                                && gone.port == Some(own.port())
                        })
                });
            }
            TransportEvent::ListenerClosed { listener_id, .. } => {
                self.guard.listens_no_more(|id, _| id == *listener_id);
            }
            _ => {}
        }
        Poll::Ready(event)
    }
}
