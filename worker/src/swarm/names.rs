//! Names resolved above a transport, each once, and dialled by address.
//!
//! A resolver costs more memory than all else of a quiet node, and most nodes dial no names, so it is
//! made when the first name is dialled. The transport is shared with it: dialled by both, polled and
//! listened on only here.

use futures::{FutureExt, TryFutureExt, future::BoxFuture};
use libp2p::{
    Multiaddr, Transport,
    core::transport::{DialOpts, ListenerId, TransportError, TransportEvent},
    dns,
    multiaddr::Protocol,
};
use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

/// A transport that also dials names.
pub(super) struct Names<T> {
    inner: Shared<T>,
    resolver: Option<dns::tokio::Transport<Shared<T>>>,
}

impl<T> Names<T> {
    pub(super) fn new(inner: T) -> Self {
        Self { inner: Shared(Arc::new(Mutex::new(inner))), resolver: None }
    }
}

fn is_named(addr: &Multiaddr) -> bool {
    let name = |part| {
        matches!(part, Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_) | Protocol::Dnsaddr(_))
    };
    addr.iter().any(name)
}

impl<T> Transport for Names<T>
where
    T: Transport<Error = io::Error> + Send + Unpin + 'static,
    T::Output: 'static,
    T::Dial: Send + 'static,
{
    type Output = T::Output;
    type Error = io::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = BoxFuture<'static, io::Result<T::Output>>;

    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<io::Error>> {
        self.inner.get().listen_on(id, addr)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.get().remove_listener(id)
    }

    fn dial(&mut self, addr: Multiaddr, opts: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        if !is_named(&addr) {
            return self.inner.get().dial(addr, opts).map(FutureExt::boxed);
        }
        let resolver = match self.resolver.take() {
            Some(resolver) => resolver,
            None => dns::tokio::Transport::system(self.inner.clone()).map_err(TransportError::Other)?,
        };
        let dial = self.resolver.insert(resolver).dial(addr, opts);
        dial.map(|dial| dial.map_err(io::Error::other).boxed()).map_err(|error| error.map(io::Error::other))
    }

    fn poll(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        Pin::new(&mut *self.inner.get()).poll(cx)
    }
}

/// The transport below. No lock is held over a wait.
struct Shared<T>(Arc<Mutex<T>>);

impl<T> Shared<T> {
    fn get(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// As the resolver has it: only dialled.
impl<T: Transport> Transport for Shared<T> {
    type Output = T::Output;
    type Error = T::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = T::Dial;

    fn listen_on(&mut self, _: ListenerId, addr: Multiaddr) -> Result<(), TransportError<T::Error>> {
        Err(TransportError::MultiaddrNotSupported(addr))
    }

    fn remove_listener(&mut self, _: ListenerId) -> bool {
        false
    }

    fn dial(&mut self, addr: Multiaddr, opts: DialOpts) -> Result<T::Dial, TransportError<T::Error>> {
        self.get().dial(addr, opts)
    }

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<TransportEvent<T::ListenerUpgrade, T::Error>> {
        Poll::Pending
    }
}
