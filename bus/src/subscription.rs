//! The receiving end of a live subject: a bounded queue that tells what it had to drop.

use crate::Payload;
use prometheus_client::metrics::counter::Counter;
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};
use tokio::sync::mpsc;

/// What a subscriber hears.
#[derive(Clone, Debug)]
pub enum Event {
    /// A frame, in the order of its sender.
    Frame(Payload),
    /// So many frames were dropped just here, because the queue was full.
    Lagged(u64),
    /// The carrier lost its connection and subscribed again: anything may have been missed.
    Restored,
}

/// A live subscription; dropping it ends it.
#[derive(Debug)]
pub struct Subscription {
    queue: mpsc::Receiver<Event>,
    lag: Arc<AtomicU64>,
    leaving: Arc<AtomicBool>,
    end: Option<DropGuard>,
}

/// The sending end, kept by the carrier.
#[derive(Debug, Clone)]
pub(crate) struct Feed {
    queue: mpsc::Sender<Event>,
    lag: Arc<AtomicU64>,
    leaving: Arc<AtomicBool>,
    lagged: Option<Counter>,
}

/// Runs when the subscription is dropped.
pub(crate) struct DropGuard(pub(crate) Option<Box<dyn FnOnce() + Send + Sync>>);

impl Drop for DropGuard {
    fn drop(&mut self) {
        if let Some(end) = self.0.take() {
            end();
        }
    }
}

impl std::fmt::Debug for DropGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DropGuard")
    }
}

/// Makes both ends of a subscription; `end` runs when the receiving one is dropped.
pub(crate) fn channel(queue: usize, end: impl FnOnce() + Send + Sync + 'static) -> (Feed, Subscription) {
    let (tx, rx) = mpsc::channel(queue.max(1));
    let lag = Arc::new(AtomicU64::new(0));
    let leaving = Arc::new(AtomicBool::new(false));
    let feed = Feed { queue: tx, lag: lag.clone(), leaving: leaving.clone(), lagged: None };
    (feed, Subscription { queue: rx, lag, leaving, end: Some(DropGuard(Some(Box::new(end)))) })
}

impl Feed {
    /// Counts what it drops there too.
    pub(crate) fn counting(self, lagged: Counter) -> Self {
        Self { lagged: Some(lagged), ..self }
    }

    /// Hands an event over without waiting; a full queue counts it as lag. False: nobody listens.
    pub(crate) fn offer(&self, event: Event) -> bool {
        match self.queue.try_send(event) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.lag.fetch_add(1, Ordering::Relaxed);
                if let Some(lagged) = &self.lagged {
                    lagged.inc();
                }
                true
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }

    /// Tells whether anybody listens, and means to go on.
    pub(crate) fn is_open(&self) -> bool {
        !self.is_closed() && !self.leaving.load(Ordering::Relaxed)
    }

    /// Tells whether nobody would read what is handed over.
    pub(crate) fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }
}

impl Subscription {
    /// Asks the carrier to let go, and may be read on: what it counted as heard here still comes, then the
    /// end. Who drops a subscription instead loses what is on its way.
    pub fn leave(&mut self) {
        self.leaving.store(true, Ordering::Relaxed);
        drop(self.end.take());
    }

    /// Waits for the next event; `None` once the carrier is closed, or has let
    /// go. Cancel-safe. Lag is told as soon
    /// as it is known, before the frames still queued: order of delivery stays, what is missing lies
    /// somewhere after the last frame heard.
    pub async fn recv(&mut self) -> Option<Event> {
        std::future::poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Takes what is ready, up to `most` events, after waiting for the first. Cancel-safe. Answers how
    /// many were added; 0 once the carrier is closed.
    pub async fn recv_many(&mut self, events: &mut Vec<Event>, most: usize) -> usize {
        let Some(first) = self.recv().await else { return 0 };
        events.push(first);
        let mut n = 1;
        while n < most {
            match self.queue.try_recv() {
                Ok(event) => events.push(event),
                Err(_) => break,
            }
            n += 1;
        }
        n
    }

    /// Polls for the next event.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let lag = self.lag.swap(0, Ordering::Relaxed);
        if lag > 0 {
            return Poll::Ready(Some(Event::Lagged(lag)));
        }
        self.queue.poll_recv(cx)
    }
}

impl futures::Stream for Subscription {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.poll_recv(cx)
    }
}
