//! The one port: an accept loop with the limits that `axum::serve` lacks. A slot is taken before the
//! accept, so that over the cap peers wait in the backlog instead of costing memory. It knows HTTP and
//! nothing of what is served.

use super::{
    drain::Drain,
    wire::{Pace, Wire},
};
use crate::{config::Limits, metrics::Metrics, pulse::Beat};
use axum::body::Body;
use http::{Request, Response, StatusCode};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
};
use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Interval, MissedTickBehavior},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::{Service, ServiceExt};

/// Pause after an accept that failed: the process is out of descriptors, and trying at once only spins.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Time between two turns of the loop where nobody comes.
const TICK: Duration = Duration::from_secs(1);

/// Time to let go of what was cut.
const CUT_PAUSE: Duration = Duration::from_secs(1);

/// Who is at the other end of the connection; in every request's extensions.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// The port and its loop.
pub(crate) struct Listener<S> {
    /// Where connections come from.
    socket: TcpListener,
    /// What requests go to.
    app: S,
    /// How HTTP is spoken.
    http: Builder<Tasks>,
    /// What connections are held to.
    limits: Limits,
    /// One permit a connection, upgraded ones too.
    slots: Arc<Semaphore>,
    /// Tells connections to finish.
    graceful: GracefulShutdown,
    /// How everything ends.
    drain: Drain,
    /// What is counted.
    metrics: Metrics,
    /// No accept before this.
    rest_until: Instant,
    clock: Interval,
    /// That the loop turns.
    beat: Beat,
}

/// What the loop waits for.
enum Input {
    Accepted(TcpStream, SocketAddr, OwnedSemaphorePermit),
    Failed(io::Error),
    Tick,
}

impl<S> Listener<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    /// Serves `app` on a bound socket.
    pub(crate) fn new(socket: TcpListener, app: S, limits: Limits, drain: Drain, metrics: Metrics) -> Self {
        let mut clock = tokio::time::interval(TICK);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            socket,
            app,
            http: http(&limits, &drain),
            slots: Arc::new(Semaphore::new(limits.connections_max)),
            limits,
            graceful: GracefulShutdown::new(),
            drain,
            metrics,
            rest_until: Instant::now(),
            clock,
            beat: Beat::new(),
        }
    }

    /// Says where it listens.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// That the loop turns.
    pub(crate) fn beat(&self) -> Beat {
        self.beat.clone()
    }

    /// Accepts until `stop`, then drains.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        while let Some(input) = self.next(&stop).await {
            self.beat.beat();
            self.apply(input);
        }
        self.beat.end();
        self.close().await;
    }

    async fn next(&mut self, stop: &CancellationToken) -> Option<Input> {
        let accept = async {
            tokio::time::sleep_until(self.rest_until).await;
            let slot = self.slots.clone().acquire_owned().await.expect("the slots are never closed");
            match self.socket.accept().await {
                Ok((socket, peer)) => Input::Accepted(socket, peer, slot),
                Err(error) => Input::Failed(error),
            }
        };
        tokio::select! {
            () = stop.cancelled() => None,
            _ = self.clock.tick() => Some(Input::Tick),
            input = accept => Some(input),
        }
    }

    fn apply(&mut self, input: Input) {
        match input {
            Input::Accepted(socket, peer, slot) => self.serve(socket, peer, slot),
            Input::Failed(error) => {
                tracing::warn!(%error, "accept failed");
                self.rest_until = Instant::now() + ACCEPT_PAUSE;
            }
            Input::Tick => {}
        }
    }

    fn serve(&self, socket: TcpStream, peer: SocketAddr, slot: OwnedSemaphorePermit) {
        // Both fail only on a socket that is gone already; the connection then says so itself.
        let _ = socket.set_nodelay(true);
        let _ = socket2::SockRef::from(&socket).set_tcp_user_timeout(Some(self.limits.write_timeout));
        self.metrics.accepted.inc();
        let pace = Pace::default();
        let wire = Wire::new(socket, pace.clone(), &self.limits, slot, self.metrics.connections.clone());
        let app = self.app.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let (app, pace) = (app.clone(), pace.clone());
            async move {
                let head = pace.begin();
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(Peer(peer));
                let response = app.oneshot(request).await?;
                if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                    head.end();
                }
                Ok::<_, Infallible>(response)
            }
        });
        let connection = self.http.serve_connection_with_upgrades(TokioIo::new(wire), service).into_owned();
        let connection = self.graceful.watch(connection);
        let cut = self.drain.cut.clone();
        self.drain.tasks.spawn(async move {
            if let Some(Err(error)) = cut.run_until_cancelled_owned(connection).await {
                tracing::debug!(%peer, %error, "connection failed");
            }
        });
    }

    /// Ends streams and sessions, waits for what is open, and cuts what is left after the window.
    async fn close(self) {
        drop(self.socket);
        self.drain.stop.cancel();
        self.drain.tasks.close();
        let finish = async { tokio::join!(self.graceful.shutdown(), self.drain.tasks.wait()) };
        if tokio::time::timeout(self.drain.window, finish).await.is_err() {
            tracing::warn!(
                connections = self.drain.tasks.len(),
                "the drain took too long, connections are cut"
            );
            self.drain.cut.cancel();
            let _ = tokio::time::timeout(CUT_PAUSE, self.drain.tasks.wait()).await;
        }
    }
}

fn http(limits: &Limits, drain: &Drain) -> Builder<Tasks> {
    let mut http = Builder::new(Tasks { tasks: drain.tasks.clone(), cut: drain.cut.clone() });
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

/// Where hyper's own tasks go: each has an owner that waits for it.
#[derive(Clone)]
struct Tasks {
    tasks: TaskTracker,
    cut: CancellationToken,
}

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        self.tasks.spawn(self.cut.clone().run_until_cancelled_owned(task));
    }
}
