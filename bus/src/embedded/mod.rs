//! Port within a process: the functions of protocol.md §2 on the same tables, in one task (P24). The
//! era is random per process, there is no grace and no replica, and history dies with the process.
//!
//! [`Embedded`] is the handle; the loop owns the tables by value and nothing else touches them. Read
//! [`tables`] first, then [`live`], [`history`], [`ownership`] and [`keys`], which are pure: they take
//! the time and answer what to publish.

mod event_loop;
mod history;
mod keys;
mod live;
mod ownership;
mod port;
mod tables;

use crate::{Config, Error, Metrics};
use event_loop::{Deed, EventLoop};
use std::{sync::Arc, time::Duration};
use tables::Tables;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A bus within this process. It ends when closed, or when the last handle is dropped.
pub struct Embedded {
    /// Calls to the loop. Full: the call is refused as overloaded.
    deeds: mpsc::Sender<Deed>,
    /// Encodes whatever a carrier between processes would encode.
    strict: bool,
    /// Owns the loop's task.
    tasks: TaskTracker,
    /// Ends the loop.
    stop: CancellationToken,
    /// Ends a pause early.
    resume: Arc<Notify>,
}

impl Embedded {
    /// Starts an empty bus. Must be called within a tokio runtime.
    pub fn new(config: &Config, metrics: Metrics) -> Self {
        let (deeds, waiting) = mpsc::channel(config.commands_max.max(1));
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let tables = Tables::new(config, metrics);
        let resume = Arc::new(Notify::new());
        tasks.spawn(EventLoop::new(waiting, tables, resume.clone()).run(stop.clone()));
        tasks.close();
        Self { deeds, strict: config.strict, tasks, stop, resume }
    }

    /// Answers nothing until [`Embedded::resume`], but for so long at most, as a server that stands
    /// still. For tests.
    pub async fn stand(&self, pause: Duration) -> Result<(), Error> {
        self.ask(move |tables| tables.stand(pause)).await
    }

    /// Ends a pause. For tests.
    pub fn resume(&self) {
        self.resume.notify_one();
    }

    /// Tells every subscriber that its connection was restored, as after a reconnect. For tests.
    pub async fn restore(&self) -> Result<(), Error> {
        self.ask(|tables| tables.live.restore()).await
    }

    /// Has the loop run a function of the tables. A call is a closure over them: a request and an
    /// answer type for each would say nothing more.
    async fn ask<T: Send + 'static>(
        &self,
        function: impl FnOnce(&mut Tables) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        // Nobody may wait any more; the function has run all the same, as in a server.
        let deed: Deed = Box::new(move |tables| drop(answer.send(function(tables))));
        self.deeds.try_send(deed).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => Error::Overloaded,
            mpsc::error::TrySendError::Closed(_) => Error::Closed,
        })?;
        answered.await.map_err(|_| Error::Closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Subject,
        port::{History, Live, Port},
    };

    fn bus() -> (Embedded, Metrics) {
        let metrics = Metrics::default();
        (Embedded::new(&Config::default(), metrics.clone()), metrics)
    }

    #[tokio::test]
    async fn every_bus_has_an_era_of_its_own() {
        let node = crate::NodeName::parse("default/a").unwrap();
        let (one, two) = (bus().0, bus().0);
        assert_ne!(one.look(&node).await.unwrap().era, two.look(&node).await.unwrap().era);
    }

    #[tokio::test]
    async fn a_bus_ends_with_its_last_handle() {
        let (bus, metrics) = bus();
        let mut subscription = bus.subscribe(Subject::Records, 1).await.unwrap();
        assert_eq!(metrics.up.get(), 1);
        drop(bus);
        assert!(subscription.recv().await.is_none());
        assert_eq!(metrics.up.get(), 0);
    }

    #[tokio::test]
    async fn a_closed_bus_is_down() {
        let (bus, metrics) = bus();
        bus.close().await;
        assert!(!bus.healthy());
        assert_eq!(metrics.up.get(), 0);
    }
}
