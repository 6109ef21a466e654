//! One connection: its bytes become HTTP, and its requests go to the app with a note of whose they are.

use super::{
    age::{Ages, Life, live},
    crowd::{Crowd, Full, Place},
    drain::Drain,
    flood::untaken::{self, Answer},
    forwarders::Forwarders,
    opening::{Opened, Opening},
    wire::{Pace, Slot, Wire},
};
use crate::{config::Limits, holdings::Holdings, metrics::Metrics};
use axum::body::Body;
use http::{Extensions, HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use std::{convert::Infallible, error::Error, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::TcpStream, sync::OwnedSemaphorePermit};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::{Service, ServiceExt};

/// Bytes that the kernel takes of a connection before it can send them; what is on its way is not counted.
const UNSENT_BYTES: u32 = 256 << 10;

/// Who the client is: the other end of the connection, or whom a trusted forwarder named, then maybe
/// without a port. In every request's extensions.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// What all connections share.
pub(crate) struct Connections<S> {
    /// What requests go to.
    app: S,
    /// How HTTP is spoken.
    http: Builder<Tasks>,
    /// Who may say who the client is.
    forwarders: Arc<Forwarders>,
    /// How many connections each address has.
    crowd: Crowd,
    /// What connections are held to.
    limits: Limits,
    /// How everything ends.
    drain: Drain,
    /// What is counted.
    metrics: Metrics,
}

/// An accepted socket.
pub(crate) struct Accepted {
    /// Its bytes.
    pub(crate) socket: TcpStream,
    /// The other end.
    pub(crate) peer: SocketAddr,
    /// Its place among the connections.
    pub(crate) slot: OwnedSemaphorePermit,
}

impl<S> Connections<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    /// Serves `app`.
    pub(crate) fn new(
        app: S,
        forwarders: Arc<Forwarders>,
        limits: Limits,
        drain: Drain,
        metrics: Metrics,
    ) -> Self {
        let crowd = Crowd::new(limits.connections_per_address_max, metrics.crowded.clone());
        Self { app, http: http(&limits, &drain), forwarders, crowd, limits, drain, metrics }
    }

    /// Serves a connection until it ends, in a task that the drain waits for.
    pub(crate) fn serve(self: &Arc<Self>, accepted: Accepted, opening: &Opening) {
        let Accepted { socket, peer, slot } = accepted;
        // These fail only on a socket that is gone already; the connection then says so itself.
        let _ = socket.set_nodelay(true);
        let options = socket2::SockRef::from(&socket);
        let _ = options.set_tcp_user_timeout(Some(self.limits.write_timeout));
        // What a client does not read waits here, in what is bounded, and not in the kernel.
        let _ = options.set_tcp_notsent_lowat(UNSENT_BYTES);
        self.metrics.accepted.inc();
        let Ok(place) = self.enter(peer) else { return };
        let cut = self.drain.cut.clone();
        if opening.is_none(peer.ip()) {
            let connection = self.speak(Opened::plain(socket, peer), (slot, place));
            self.drain
                .tasks
                .spawn(async move { told(peer, cut.run_until_cancelled_owned(connection).await) });
            return;
        }
        let (me, opening) = (self.clone(), opening.clone());
        self.drain.tasks.spawn(async move {
            // Nothing was asked yet, so a drain need not wait for it. Boxed: a handshake's state is large and
            // would stay as room in the task of the connection.
            let opened = Box::pin(opening.open(socket, peer, &me.limits, &me.metrics));
            let opened = me.drain.stop.run_until_cancelled(opened).await.flatten();
            drop(opening);
            let Some(opened) = opened else { return };
            // A forwarder has no place for itself, so there is one for whom it names.
            let Ok(place) = place.map_or_else(|| me.enter(opened.peer), |place| Ok(Some(place))) else {
                return;
            };
            let connection = me.speak(opened, (slot, place));
            drop(me);
            told(peer, cut.run_until_cancelled_owned(connection).await);
        });
    }

    /// Counts a connection in; an error where it is to be closed.
    fn enter(&self, peer: SocketAddr) -> Result<Option<Place>, Full> {
        self.crowd.enter(self.forwarders.counted(peer.ip()))
    }

    /// Makes HTTP of bytes.
    fn speak(
        &self,
        opened: Opened,
        slot: Slot,
    ) -> impl Future<Output = Result<(), Box<dyn Error + Send + Sync>>> + Send + use<S> {
        let Opened { bytes, peer, certificate } = opened;
        let (pace, life) = (Pace::default(), Arc::new(Life::default()));
        let crowded = slot.1.as_ref().and_then(Place::crowded);
        let wire = Wire::new(bytes, pace.clone(), &self.limits, slot, self.metrics.connections.clone());
        let (app, forwarders, crowd) = (self.app.clone(), self.forwarders.clone(), self.crowd.clone());
        let (ages, stop) = (self.ages(), self.drain.stop.clone());
        let (spoken, holdings) = (life.clone(), Holdings::default());
        let service = service_fn(move |request: Request<Incoming>| {
            let (app, pace, life) = (app.clone(), pace.clone(), spoken.clone());
            let (certificate, mut crowded) = (certificate.clone(), crowded.clone());
            let ends = crowded.is_some();
            let client = forwarders.client(peer, request.headers());
            let (mut kept, mut holds) = (None, holdings.clone());
            if client.ip() != peer.ip() {
                (kept, crowded) = crowd.share(forwarders.counted(client.ip()));
                holds = Holdings::default();
            }
            async move {
                let (head, open) = (pace.begin(), life.begin());
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(Peer(client));
                request.extensions_mut().insert(holds);
                note(request.extensions_mut(), certificate);
                note(request.extensions_mut(), crowded);
                note(request.extensions_mut(), kept);
                let many = request.version() == Version::HTTP_2;
                note(request.extensions_mut(), many.then(|| life.many()));
                let mut response = app.oneshot(request).await?;
                if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                    head.end();
                    if ends {
                        life.end();
                        let close = (!many).then(|| HeaderValue::from_static("close"));
                        response.headers_mut().extend(close.map(|close| (header::CONNECTION, close)));
                    }
                }
                Ok::<_, Infallible>(response.map(|body| Answer::new(body, open)))
            }
        });
        let connection = self.http.serve_connection_with_upgrades(TokioIo::new(wire), service);
        live(connection.into_owned(), life, ages, stop)
    }

    fn ages(&self) -> Ages {
        let limits = &self.limits;
        Ages { max: limits.connection_age_max, idle: limits.idle_timeout, grace: limits.connection_grace }
    }
}

/// Puts something into a request's extensions, if it is there.
fn note<T: Clone + Send + Sync + 'static>(extensions: &mut Extensions, what: Option<T>) {
    if let Some(what) = what {
        extensions.insert(what);
    }
}

/// Notes how a connection ended; none where it was cut.
fn told(peer: SocketAddr, ended: Option<Result<(), Box<dyn Error + Send + Sync>>>) {
    if let Some(Err(error)) = ended {
        tracing::debug!(%peer, %error, "connection failed");
    }
}

fn http(limits: &Limits, drain: &Drain) -> Builder<Tasks> {
    let (tasks, cut) = (drain.tasks.clone(), drain.cut.clone());
    let mut http = Builder::new(Tasks { tasks, cut, patience: limits.write_timeout });
    http.http1()
        .timer(TokioTimer::new())
        // hyper's timer runs between requests too, so it is the idle limit; heads are `Wire`'s.
        .header_read_timeout(limits.idle_timeout)
        // Above what the edge counts itself, so that it can say what was wrong.
        .max_headers(limits.headers_max + 28)
        .max_buf_size(64 << 10);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.ping_interval)
        .keep_alive_timeout(limits.ping_timeout)
        .max_concurrent_streams(limits.streams_max)
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(128)
        .max_header_list_size(2 * limits.header_bytes_max as u32)
        .adaptive_window(true)
        .max_send_buf_size(256 << 10)
        .enable_connect_protocol();
    http
}

/// Where hyper's own tasks go, the streams of HTTP/2: each has an owner that waits for it.
#[derive(Clone)]
struct Tasks {
    tasks: TaskTracker,
    cut: CancellationToken,
    /// How long a client may take nothing of an answer.
    patience: Duration,
}

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        let task = untaken::watch(task, self.patience);
        self.tasks.spawn(self.cut.clone().run_until_cancelled_owned(task));
    }
}
