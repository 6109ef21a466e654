//! How the gateway leaves: one token, the tasks that outlive a connection's HTTP, and a spread, so that
//! clients do not come back all at once. Every stream and session holds a [`Leave`].

use super::{age::Aged, crowd::Kept};
use http::Extensions;
use plexus_proto::{reason::Reason, v1};
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};
use tokio::time::Sleep;
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFutureOwned},
    task::TaskTracker,
};

/// Streams that may be closed in one second of a drain.
const CLOSES_PER_SECOND: usize = 2_000;
/// A few streams end at once: a spread that is shorter is none.
const SPREAD_MIN: Duration = Duration::from_millis(20);

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
    count: Arc<Count>,
}

#[derive(Debug, Default)]
struct Count {
    /// Whether it began: `stop` says it to who waits, this to who looks.
    going: AtomicBool,
    /// Streams and sessions.
    open: AtomicUsize,
}

impl Drain {
    /// Makes the end of a gateway that leaves within `window`.
    pub(crate) fn new(window: Duration) -> Self {
        Self {
            stop: CancellationToken::new(),
            cut: CancellationToken::new(),
            window,
            tasks: TaskTracker::new(),
            count: Arc::default(),
        }
    }

    /// Begins.
    pub(crate) fn begin(&self) {
        self.count.going.store(true, Ordering::Release);
        self.stop.cancel();
        self.tasks.close();
    }

    /// Counts one stream or session until it is dropped. It also leaves when its connection has aged.
    pub(crate) fn enter(&self, request: &Extensions) -> Leave {
        let aged = request.get::<Aged>().map(|Aged(aged, _)| aged.clone());
        self.count.open.fetch_add(1, Ordering::Relaxed);
        let wait = |token: CancellationToken| Box::pin(token.cancelled_owned());
        let step = Step::Waits(wait(self.stop.clone()), aged.clone().map(wait));
        let (count, window) = (self.count.clone(), self.window);
        Leave { step, waker: None, aged, window, count, _kept: request.get().cloned() }
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
    step: Step,
    /// Who is woken when it is ready.
    waker: Option<Waker>,
    /// The age of its connection, where that ends it.
    aged: Option<CancellationToken>,
    /// Longest drain.
    window: Duration,
    count: Arc<Count>,
    /// The place of its holder among the connections of its address.
    _kept: Option<Kept>,
}

type Cancelled = Pin<Box<WaitForCancellationFutureOwned>>;

enum Step {
    /// The gateway stays, and the connection is young.
    Waits(Cancelled, Option<Cancelled>),
    /// The gateway goes, and this one waits for its turn.
    Spread(Pin<Box<Sleep>>),
    Over,
}

impl Leave {
    fn poll_step(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut self.step {
                Step::Waits(stop, aged) => {
                    if stop.as_mut().poll(context).is_pending() {
                        let aged = aged.as_mut().map(|aged| aged.as_mut().poll(context));
                        ready!(aged.unwrap_or(Poll::Pending));
                        break;
                    }
                    let open = self.count.open.load(Ordering::Relaxed) as u32;
                    let spread = Duration::from_secs(1) * open / CLOSES_PER_SECOND as u32;
                    if spread <= SPREAD_MIN {
                        break;
                    }
                    // Many take half the window at most, so that all can be flushed.
                    let wait = spread.min(self.window / 2).mul_f64(rand::random_range(0.0..1.0));
                    self.step = Step::Spread(Box::pin(tokio::time::sleep(wait)));
                }
                Step::Spread(sleep) => {
                    ready!(sleep.as_mut().poll(context));
                    break;
                }
                Step::Over => return Poll::Pending,
            }
        }
        self.step = Step::Over;
        Poll::Ready(())
    }
}

impl Future for Leave {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // Looked at for every message of a stream, where the token would lock what all streams share.
        let waits = self.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker()));
        let aged = self.aged.as_ref().is_some_and(CancellationToken::is_cancelled);
        if waits && !aged && !self.count.going.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        self.waker = Some(context.waker().clone());
        self.poll_step(context)
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.count.open.fetch_sub(1, Ordering::Relaxed);
    }
}
