//! How bytes travel: TCP, QUIC and WebSocket, and the memory transport in development, each behind
//! the guard. A transport is made when something first listens on it or dials by it, so that a node
//! pays only for what it uses.

use super::{
    Plan,
    guard::{Guard, Guarded, Stage},
    names::Names,
    security::Secure,
};
use crate::Error;
use futures::{AsyncRead, AsyncWrite};
use libp2p::{
    Multiaddr, PeerId, Transport,
    core::{
        muxing::StreamMuxerBox,
        transport::{
            Boxed, DialOpts, ListenerId, MemoryTransport, TransportError, TransportEvent,
            timeout::TransportTimeout,
        },
        upgrade::Version,
    },
    multiaddr::Protocol,
    quic, tcp, websocket, yamux,
};
use plexus_proto::v1::node_spec::protocols::Transport as Kind;
use std::{
    io,
    pin::Pin,
    sync::LazyLock,
    task::{Context, Poll},
};

/// Streams on one connection at most.
const STREAMS_MAX: u32 = 128;

/// The public roots for secure WebSocket, once for all nodes.
static WEB_TLS: LazyLock<websocket::tls::Config> = LazyLock::new(websocket::tls::Config::client);

type Link = (PeerId, StreamMuxerBox);

/// Builds the transports that the spec asks for.
pub(super) fn build(plan: &Plan<'_>, guard: &Guard) -> Result<Boxed<Link>, Error> {
    let secure = Secure::new(plan.key).map_err(|e| Error::Swarm(e.to_string()))?;
    let parts = Parts {
        secure,
        guard: guard.clone(),
        refused: plan.metrics.dials_refused.clone(),
        streams: streams(plan),
    };
    let kinds = kinds(plan)?;
    let mut net = Stack::default();
    for kind in &kinds {
        let parts = parts.clone();
        match kind {
            Kind::Tcp => net.push(is_tcp, move || Ok(parts.tcp())),
            Kind::Quic => {
                let key = plan.key.clone();
                net.push(is_quic, move || Ok(parts.quic(&key)));
            }
            _ => {}
        }
    }
    let mut all = Stack::default();
    if plan.allow_private {
        let parts = parts.clone();
        all.push(is_memory, move || Ok(parts.memory()));
    }
    if kinds.contains(&Kind::Ws) {
        let parts = parts.clone();
        all.push(is_web, move || Ok(parts.web()));
    }
    all.push(|_| true, move || Ok(Names::new(net).boxed()));
    let all = Guarded::new(all, guard, Stage::Given, &parts.refused);
    Ok(TransportTimeout::new(all, plan.dial_timeout()).boxed())
}

fn kinds(plan: &Plan<'_>) -> Result<Vec<Kind>, Error> {
    let asked: Vec<Kind> = plan.protocols().transports().collect();
    if asked.is_empty() {
        return Ok(vec![Kind::Tcp, Kind::Quic, Kind::Ws]);
    }
    match asked.iter().any(|kind| matches!(kind, Kind::Tcp | Kind::Quic | Kind::Ws)) {
        true => Ok(asked),
        false => Err(Error::Swarm("none of the transports is supported".to_owned())),
    }
}

fn streams(plan: &Plan<'_>) -> u32 {
    match plan.limits().streams_per_connection_max {
        0 => STREAMS_MAX,
        asked => asked.min(STREAMS_MAX),
    }
}

fn is_memory(addr: &Multiaddr) -> bool {
    matches!(addr.iter().next(), Some(Protocol::Memory(_)))
}

fn is_web(addr: &Multiaddr) -> bool {
    addr.iter().any(|part| matches!(part, Protocol::Ws(_) | Protocol::Wss(_)))
}

fn is_quic(addr: &Multiaddr) -> bool {
    addr.iter().any(|part| matches!(part, Protocol::Udp(_)))
}

fn is_tcp(addr: &Multiaddr) -> bool {
    addr.iter().any(|part| matches!(part, Protocol::Tcp(_))) && !is_web(addr)
}

/// What every transport is made of.
#[derive(Clone)]
struct Parts {
    secure: Secure,
    guard: Guard,
    refused: prometheus_client::metrics::counter::Counter,
    streams: u32,
}

impl Parts {
    fn guarded<T>(&self, inner: T, web: bool) -> Guarded<T> {
        Guarded::new(inner, &self.guard, Stage::Resolved { web }, &self.refused)
    }

    fn tcp(&self) -> Boxed<Link> {
        self.secured(self.guarded(tcp::tokio::Transport::new(tcp_config()), false))
    }

    fn web(&self) -> Boxed<Link> {
        let tcp = self.guarded(tcp::tokio::Transport::new(tcp_config()), true);
        let mut web = websocket::Config::new(Names::new(tcp));
        web.set_tls_config(WEB_TLS.clone());
        // A peer must not choose where we go next.
        web.set_max_redirects(0);
        self.secured(web)
    }

    fn quic(&self, key: &libp2p::identity::Keypair) -> Boxed<Link> {
        let mut config = quic::Config::new(key);
        config.max_concurrent_stream_limit = self.streams;
        let quic =
            quic::tokio::Transport::new(config).map(|(peer, link), _| (peer, StreamMuxerBox::new(link)));
        self.guarded(quic.boxed(), false).boxed()
    }

    fn memory(&self) -> Boxed<Link> {
        self.secured(MemoryTransport::default())
    }

    fn secured<T>(&self, transport: T) -> Boxed<Link>
    where
        T: Transport + Send + Unpin + 'static,
        T::Output: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        T::Error: Send + Sync + 'static,
        T::Dial: Send + 'static,
        T::ListenerUpgrade: Send + 'static,
    {
        let mut mux = yamux::Config::default();
        mux.set_max_num_streams(usize::try_from(self.streams).unwrap_or(usize::MAX));
        transport
            .upgrade(Version::V1Lazy)
            .authenticate(self.secure.clone())
            .multiplex(mux)
            .map(|(peer, link), _| (peer, StreamMuxerBox::new(link)))
            .boxed()
    }
}

fn tcp_config() -> tcp::Config {
    tcp::Config::default().nodelay(true)
}

type Make = Box<dyn FnOnce() -> io::Result<Boxed<Link>> + Send>;

/// A transport that may not be there yet.
struct Late {
    wants: fn(&Multiaddr) -> bool,
    make: Option<Make>,
    made: Option<Boxed<Link>>,
}

impl Late {
    fn get(&mut self) -> io::Result<&mut Boxed<Link>> {
        if let Some(make) = self.make.take() {
            self.made = Some(make()?);
        }
        self.made.as_mut().ok_or_else(|| io::Error::other("the transport could not be made"))
    }
}

/// Transports in order; the first that wants an address has it.
#[derive(Default)]
struct Stack(Vec<Late>);

impl Stack {
    fn push(
        &mut self,
        wants: fn(&Multiaddr) -> bool,
        make: impl FnOnce() -> io::Result<Boxed<Link>> + Send + 'static,
    ) {
        self.0.push(Late { wants, make: Some(Box::new(make)), made: None });
    }

    fn pick(&mut self, addr: &Multiaddr) -> Result<&mut Boxed<Link>, TransportError<io::Error>> {
        match self.0.iter_mut().find(|late| (late.wants)(addr)) {
            Some(late) => late.get().map_err(TransportError::Other),
            None => Err(TransportError::MultiaddrNotSupported(addr.clone())),
        }
    }
}

impl Transport for Stack {
    type Output = Link;
    type Error = io::Error;
    type ListenerUpgrade = <Boxed<Link> as Transport>::ListenerUpgrade;
    type Dial = <Boxed<Link> as Transport>::Dial;

    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<io::Error>> {
        self.pick(&addr)?.listen_on(id, addr)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.0.iter_mut().filter_map(|late| late.made.as_mut()).any(|made| made.remove_listener(id))
    }

    fn dial(&mut self, addr: Multiaddr, opts: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        self.pick(&addr)?.dial(addr, opts)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        let made = self.0.iter_mut().filter_map(|late| late.made.as_mut());
        made.map(|made| Pin::new(made).poll(cx)).find(Poll::is_ready).unwrap_or(Poll::Pending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swarm::{blocks, guard::Rule};
    use libp2p::{core::transport::PortUse, identity::Keypair, swarm::DialError};
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };
    use tokio::{net::TcpListener, task::JoinSet};

    fn parts(allow_private: bool) -> Parts {
        let guard = Guard::new(None, allow_private, blocks::List::default()).unwrap();
        let secure = Secure::new(&Keypair::generate_ed25519()).unwrap();
        Parts { secure, guard, refused: Default::default(), streams: STREAMS_MAX }
    }

    /// The layers below the one that judges names.
    fn below_names(parts: &Parts) -> [Boxed<Link>; 2] {
        let mut net = Stack::default();
        let tcp = parts.clone();
        net.push(is_tcp, move || Ok(tcp.tcp()));
        [Names::new(net).boxed(), parts.web()]
    }

    async fn dial(transport: &mut Boxed<Link>, addr: &str) -> DialError {
        let opts = DialOpts { role: libp2p::core::Endpoint::Dialer, port_use: PortUse::New };
        let addr: Multiaddr = addr.parse().unwrap();
        let error = match transport.dial(addr.clone(), opts) {
            Ok(dial) => {
                TransportError::Other(dial.await.map(|_| ()).expect_err("nobody speaks libp2p there"))
            }
            Err(error) => error,
        };
        DialError::Transport(vec![(addr, error)])
    }

    /// A name may pass and then mean loopback, at once or at the second look. What it means is judged
    /// where it is dialled.
    #[tokio::test]
    async fn a_name_is_judged_by_what_it_resolves_to() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (hits, mut tasks) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
        let count = Arc::clone(&hits);
        tasks.spawn(async move {
            loop {
                drop(listener.accept().await.unwrap());
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let addresses = [format!("/dns4/localhost/tcp/{port}"), format!("/dns4/localhost/tcp/{port}/ws")];
        let fleet = parts(false);
        for (transport, addr) in below_names(&fleet).iter_mut().zip(&addresses) {
            assert_eq!(Rule::of(&dial(transport, addr).await), Some(Rule::Loopback), "{addr}");
        }
        assert_eq!((hits.load(Ordering::Relaxed), fleet.refused.get()), (0, 2));
        for (transport, addr) in below_names(&parts(true)).iter_mut().zip(&addresses) {
            assert_eq!(Rule::of(&dial(transport, addr).await), None, "{addr}");
        }
        while hits.load(Ordering::Relaxed) < 2 {
            tokio::task::yield_now().await;
        }
    }
}
