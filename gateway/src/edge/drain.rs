//! How the gateway leaves: one token, the tasks that outlive a connection's HTTP, and a spread, so that
//! clients do not come back all at once. Every stream and session holds a [`Leave`].

use super::{age::Aged, crowd::Kept};
use futures::FutureExt;
use http::Extensions;
use plexus_proto::{reason::Reason, v1};
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Streams that may be closed in one second of a drain.
const CLOSES_PER_SECOND: usize = 2_000;

/// The end of the gateway, as everybody in the edge sees it.
#[derive(Clone, Debug)]
pub(crate) struct Drain {
    /// Cancelled when the drain begins.
    pub(crate) stop: CancellationToken,
    /// Cancelled when the drain took too long: what is still open is cut.
    pub(crate) cut: CancellationToken,
    /// Longest drain.
    pub(crate) window: Duration,
    /// Connections, sessions and whatever else must end before the gateway does.
    pub(crate) tasks: TaskTracker,
    /// Whether it began: `stop` says it to who waits, this to who looks.
    going: Arc<AtomicBool>,
    open: Arc<AtomicUsize>,
}

impl Drain {
    /// Makes the end of a gateway that leaves within `window`.
    pub(crate) fn new(window: Duration) -> Self {
        Self {
            stop: CancellationToken::new(),
            cut: CancellationToken::new(),
            window,
            tasks: TaskTracker::new(),
            going: Arc::default(),
            open: Arc::default(),
        }
    }

    /// Begins.
    pub(crate) fn begin(&self) {
        self.going.store(true, Ordering::Release);
        self.stop.cancel();
        self.tasks.close();
    }

    /// Counts one stream or session until it is dropped. It also leaves when its connection has aged.
    pub(crate) fn enter(&self, request: &Extensions) -> Leave {
        let aged = request.get::<Aged>().map(|Aged(aged, _)| aged.clone());
        let ages = aged.clone();
        self.open.fetch_add(1, Ordering::Relaxed);
        let (stop, open, window) = (self.stop.clone(), self.open.clone(), self.window);
        let wait = async move {
            match ages {
                None => stop.cancelled().await,
                Some(aged) => tokio::select! {
                    () = stop.cancelled() => {}
                    () = aged.cancelled() => return,
                },
            }
            let spread =
                Duration::from_secs(1) * open.load(Ordering::Relaxed) as u32 / CLOSES_PER_SECOND as u32;
            let share = rand::random_range(0.0..1.0);
            // A few streams end at once; many take half the window at most, so that all can be flushed.
            if spread > Duration::from_millis(20) {
                tokio::time::sleep(spread.min(window / 2).mul_f64(share)).await;
            }
        };
        let (going, open) = (self.going.clone(), self.open.clone());
        let kept = request.get().cloned();
        Leave { wait: Box::pin(wait.fuse()), waker: None, going, aged, open, _kept: kept }
    }

    /// Says to a client that this gateway goes away, and when to come back.
    pub(crate) fn error() -> v1::Error {
        let wait = Duration::from_millis(rand::random_range(100..1_000));
        let text = "this gateway or the connection is going away: come back, there is another one";
        v1::Error::new(Reason::Draining, text).retry_after(wait)
    }
}

/// Ready when its holder must end. Once ready it stays silent.
pub(crate) struct Leave {
    wait: Pin<Box<dyn futures::future::FusedFuture<Output = ()> + Send>>,
    /// Who is woken when it is ready.
    waker: Option<Waker>,
    going: Arc<AtomicBool>,
    /// The age of its connection, where that ends it.
    aged: Option<CancellationToken>,
    open: Arc<AtomicUsize>,
    /// The place of its holder among the connections of its address.
    _kept: Option<Kept>,
}

impl Future for Leave {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // Looked at for every message of a stream, where the token would lock what all streams share.
        let waits = self.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker()));
        let aged = self.aged.as_ref().is_some_and(CancellationToken::is_cancelled);
        if waits && !aged && !self.going.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        self.waker = Some(context.waker().clone());
        self.wait.as_mut().poll(context)
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}
