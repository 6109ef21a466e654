//! How long a connection lives. An HTTP/2 connection that has lived long enough takes no new streams, so
//! that a balancer can spread its client anew: its streams are told, and what is left is cut after a while.
//! A connection on which nothing is asked and nothing open for a while ends too.

use hyper_util::server::graceful::GracefulConnection;
use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// What a connection and its requests tell each other.
#[derive(Default)]
pub(crate) struct Life {
    /// Whether HTTP/2 is spoken: one request of HTTP/1 after the other needs no age.
    many: AtomicBool,
    /// Held by every request that is not answered to its end.
    open: Arc<()>,
    /// How many there were.
    begun: AtomicUsize,
    /// Cancelled when no more requests are to come.
    over: CancellationToken,
    /// Cancelled when it has aged: its streams end.
    aged: CancellationToken,
}

/// How often is looked within the time after which nobody uses a connection.
const LOOKS: u32 = 4;

/// In the extensions of an HTTP/2 request: cancelled when its connection has aged. A session within HTTP/2
/// keeps it, and with it the connection open.
#[derive(Clone, Debug)]
pub(crate) struct Aged(
    pub(crate) CancellationToken,
    #[expect(dead_code, reason = "held, not read")] pub(crate) Open,
);

/// Keeps a connection open.
#[derive(Clone, Debug)]
pub(crate) struct Open(#[expect(dead_code, reason = "held, not read")] Arc<()>);

impl Life {
    /// Notes that HTTP/2 is spoken, and gives what its streams wait for.
    pub(crate) fn many(&self) -> Aged {
        self.many.store(true, Ordering::Relaxed);
        Aged(self.aged.clone(), Open(self.open.clone()))
    }

    /// Notes a request; it is open until what this gives is gone.
    pub(crate) fn begin(&self) -> Open {
        self.begun.fetch_add(1, Ordering::Relaxed);
        Open(self.open.clone())
    }

    /// Waits until nothing was open for as long as that, or a little longer.
    async fn rests(&self, timeout: Duration) {
        let (mut before, mut quiet) = (0, 0);
        while quiet < LOOKS {
            tokio::time::sleep(timeout / LOOKS).await;
            let begun = self.begun.load(Ordering::Relaxed);
            quiet = if begun == before && Arc::strong_count(&self.open) == 1 { quiet + 1 } else { 0 };
            before = begun;
        }
    }

    /// Ends the connection once its open requests are answered.
    pub(crate) fn end(&self) {
        self.over.cancel();
    }

    async fn ages(&self, age: Duration) {
        tokio::time::sleep(age).await;
        if !self.many.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        self.aged.cancel();
    }
}

/// How old connections get, and how long they may rest.
#[derive(Clone, Copy)]
pub(crate) struct Ages {
    /// About this old.
    pub(crate) max: Duration,
    /// This long nothing may be open.
    pub(crate) idle: Duration,
    /// And this long they may take to end.
    pub(crate) grace: Duration,
}

/// Serves a connection until it ends by itself, has aged, is not used, or the gateway goes.
pub(crate) async fn live<C: GracefulConnection>(
    connection: C,
    life: Arc<Life>,
    ages: Ages,
    stop: CancellationToken,
) -> Result<(), C::Error> {
    let mut connection = pin!(connection);
    // Spread, so that connections that came together do not all come back together.
    let age = ages.max.mul_f64(rand::random_range(0.9..1.1));
    let patient = tokio::select! {
        done = connection.as_mut() => return done,
        () = stop.cancelled() => true,
        () = life.over.cancelled() => false,
        () = life.ages(age) => false,
        () = life.rests(ages.idle) => false,
    };
    connection.as_mut().graceful_shutdown();
    if patient {
        // The drain has a window of its own.
        return connection.await;
    }
    tokio::time::timeout(ages.grace, connection).await.unwrap_or(Ok(()))
}
