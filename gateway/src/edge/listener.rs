//! The one port: an accept loop with the limits that `axum::serve` lacks. A slot is taken before the
//! accept, so that over the cap peers wait in the backlog instead of costing memory. It knows HTTP and
//! nothing of what is served.

use super::{
    connection::{Accepted, Connections},
    drain::Drain,
    forwarders::Forwarders,
    opening::Opening,
    tls::Tls,
};
use crate::{config::Limits, metrics::Metrics, pulse::Beat};
use axum::body::Body;
use http::{Request, Response};
use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Interval, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;
use tower::Service;

/// Pause after an accept that failed: the process is out of descriptors, and trying at once only spins.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Time between two turns of the loop where nobody comes.
const TICK: Duration = Duration::from_secs(1);

/// Time to let go of what was cut.
const CUT_PAUSE: Duration = Duration::from_secs(1);

/// Where connections come from, and what they begin with.
pub(crate) struct Doors {
    /// The port.
    front: (TcpListener, Opening),
    /// The port of its own for TLS.
    secure: Option<(TcpListener, Opening)>,
}

impl Doors {
    /// One port, or a second one that speaks TLS alone; `plaintext`: the one port also does without.
    pub(crate) fn new(
        front: TcpListener,
        secure: Option<TcpListener>,
        forwarders: Arc<Forwarders>,
        tls: Option<Tls>,
        plaintext: bool,
    ) -> Self {
        let open = |tls, plaintext| Opening { forwarders: forwarders.clone(), tls, plaintext };
        match secure {
            None => Self { front: (front, open(tls, plaintext)), secure: None },
            Some(secure) => {
                Self { front: (front, open(None, true)), secure: Some((secure, open(tls, false))) }
            }
        }
    }

    /// Waits for a connection: whether it came by the port for TLS, and what it is.
    async fn accept(&self) -> (bool, io::Result<(TcpStream, SocketAddr)>) {
        let secure = async {
            match &self.secure {
                Some((socket, _)) => socket.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = self.front.0.accept() => (false, accepted),
            accepted = secure => (true, accepted),
        }
    }

    fn opening(&self, secure: bool) -> &Opening {
        match &self.secure {
            Some((_, opening)) if secure => opening,
            _ => &self.front.1,
        }
    }
}

/// The port and its loop.
pub(crate) struct Listener<S> {
    /// Where connections come from.
    doors: Doors,
    /// What becomes of them.
    connections: Arc<Connections<S>>,
    /// One permit a connection, upgraded ones too.
    slots: Arc<Semaphore>,
    /// How everything ends.
    drain: Drain,
    /// No accept before this.
    rest_until: Instant,
    clock: Interval,
    /// That the loop turns.
    beat: Beat,
}

/// What the loop waits for.
enum Input {
    Accepted { socket: TcpStream, peer: SocketAddr, slot: OwnedSemaphorePermit, secure: bool },
    Failed(io::Error),
    Tick,
}

impl<S> Listener<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    /// Serves `app` behind bound sockets.
    pub(crate) fn new(doors: Doors, app: S, limits: Limits, drain: Drain, metrics: Metrics) -> Self {
        let mut clock = tokio::time::interval(TICK);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let slots = Arc::new(Semaphore::new(limits.connections_max));
        let forwarders = doors.front.1.forwarders.clone();
        let connections = Connections::new(app, forwarders, limits, drain.clone(), metrics);
        Self {
            doors,
            connections: Arc::new(connections),
            slots,
            drain,
            rest_until: Instant::now(),
            clock,
            beat: Beat::new(),
        }
    }

    /// Says where it listens.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.doors.front.0.local_addr()
    }

    /// Says where it listens for TLS alone.
    pub(crate) fn tls_addr(&self) -> io::Result<Option<SocketAddr>> {
        self.doors.secure.as_ref().map(|(socket, _)| socket.local_addr()).transpose()
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
            match self.doors.accept().await {
                (secure, Ok((socket, peer))) => Input::Accepted { socket, peer, slot, secure },
                (_, Err(error)) => Input::Failed(error),
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
            Input::Accepted { socket, peer, slot, secure } => {
                self.connections.serve(Accepted { socket, peer, slot }, self.doors.opening(secure));
            }
            Input::Failed(error) => {
                tracing::warn!(%error, "accept failed");
                self.rest_until = Instant::now() + ACCEPT_PAUSE;
            }
            Input::Tick => {}
        }
    }

    /// Ends streams and sessions, waits for what is open, and cuts what is left after the window.
    async fn close(self) {
        drop(self.doors);
        self.drain.begin();
        if tokio::time::timeout(self.drain.window, self.drain.tasks.wait()).await.is_err() {
            tracing::warn!(
                connections = self.drain.tasks.len(),
                "the drain took too long, connections are cut"
            );
            self.drain.cut.cancel();
            let _ = tokio::time::timeout(CUT_PAUSE, self.drain.tasks.wait()).await;
        }
    }
}
