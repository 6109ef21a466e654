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
        Bus, Grant, Key, Memory, NodeName, Opened, Refusal, Stage, Subject, Topic, When,
        port::{History, Live, Port},
    };
    use tokio::time::Instant;

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

    /// A bus that holds little.
    async fn small(memory: Memory) -> Bus {
        Bus::open(&Config { memory, ..Config::default() }).await.unwrap()
    }

    const FULL: Error = Error::Refused(Refusal::OutOfMemory);

    #[tokio::test]
    async fn free_keys_are_bounded_and_those_that_are_there_go_on() {
        let bus = small(Memory { keys_max: 2, ..Memory::default() }).await;
        let put = |name: &str, ttl| bus.put(Key::Named(name.into()), "x".into(), When::Always, ttl);
        assert_eq!(put("a", None).await, Ok(Some(1)));
        assert_eq!(put("b", Some(Duration::from_millis(1))).await, Ok(Some(1)));
        assert_eq!(put("a", None).await, Ok(Some(2)), "what is there is written again");
        let end = Instant::now() + Duration::from_secs(10);
        while put("c", None).await == Err(FULL) {
            assert!(Instant::now() < end, "what ended makes room");
        }
        assert_eq!(put("d", None).await, Err(FULL));
        assert_eq!(bus.get(Key::Named("d".into())).await, Ok(None));
        assert_eq!(bus.delete(Key::Named("a".into()), When::Always).await, Ok(true));
        assert_eq!(put("d", None).await, Ok(Some(1)), "and what is removed");
    }

    #[tokio::test]
    async fn nodes_are_bounded() {
        let bus = small(Memory { nodes_max: 1, ..Memory::default() }).await;
        let [a, b] = ["default/a", "default/b"].map(|name| NodeName::parse(name).unwrap());
        let record = |node: &NodeName| bus.put(Key::Record(node.clone()), "x".into(), When::Always, None);
        assert_eq!(record(&a).await, Ok(Some(1)));
        assert_eq!(record(&b).await, Err(FULL));
        let grant = Grant { epoch: 1, nonce: 1 };
        assert_eq!(bus.put_state(&b, grant, "x".into()).await, Err(FULL));
        assert_eq!(bus.want(&b, &"g".into(), &[(Topic::from_static(b"t"), Some(1))]).await, Err(FULL));
        assert_eq!(record(&a).await, Ok(Some(2)));
        assert_eq!(bus.erase(&a, grant).await, Ok(true));
        assert_eq!(record(&b).await, Ok(Some(1)), "an erased node makes room");
    }

    #[tokio::test]
    async fn logs_and_interest_are_bounded_and_the_known_ones_open_at_all_times() {
        let bus = small(Memory { logs_max: 2, interest_max: 3, ..Memory::default() }).await;
        let node = NodeName::parse("default/a").unwrap();
        let want = |gateway: &str, topics: &[&'static str], readers| {
            let topics: Vec<_> =
                topics.iter().map(|topic| (Topic::from_static(topic.as_bytes()), readers)).collect();
            let (bus, node, gateway) = (bus.clone(), node.clone(), gateway.into());
            async move { bus.want(&node, &gateway, &topics).await }
        };
        assert_eq!(want("g", &["a", "b"], Some(1)).await, Ok(()));
        assert_eq!(want("g", &["a", "c"], Some(1)).await, Err(FULL), "a third log");
        assert_eq!(want("h", &["a"], Some(1)).await, Ok(()));
        assert_eq!(want("h", &["b"], Some(1)).await, Err(FULL), "a fourth interest");
        assert_eq!(want("g", &["a", "b"], Some(2)).await, Ok(()), "more readers of the same");
        let open = |epoch, topics: &[&'static str]| {
            let topics: Vec<_> = topics.iter().map(|topic| Topic::from_static(topic.as_bytes())).collect();
            let (bus, node, grant) = (bus.clone(), node.clone(), Grant { epoch, nonce: 1 });
            let first = Stage::First { sweep: false };
            async move { bus.open_logs(&node, grant, &topics, Default::default(), first).await }
        };
        assert_eq!(open(1, &["c"]).await, Err(FULL));
        assert!(matches!(open(1, &["a"]).await, Ok(Opened::Done(openings)) if openings.len() == 2));
        assert_eq!(want("g", &["a", "b"], None).await, Ok(()));
        assert_eq!(open(2, &["c"]).await, Err(FULL), "the logs are still there");
        assert!(matches!(open(2, &[]).await, Ok(Opened::Done(openings)) if openings.len() == 2));
        assert_eq!(bus.wanted(&node).await.map(|all| all.len()), Ok(1));
    }

    #[tokio::test]
    async fn a_closed_bus_is_down() {
        let (bus, metrics) = bus();
        bus.close().await;
        assert!(!bus.healthy());
        assert_eq!(metrics.up.get(), 0);
    }
}
