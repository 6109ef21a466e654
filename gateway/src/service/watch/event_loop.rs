//! Reads the nodes of each watched namespace once for all who watch it. Hints of the bus say when to look;
//! every few seconds it looks anyway, for hints may be lost. Watchers hear of the newest picture only, so a
//! slow one costs nothing and misses nothing but what was over before it looked.

use super::{Nodes, Picture};
use crate::{pulse::Beat, router::Failure, service::nodes};
use futures::{StreamExt, TryStreamExt, stream};
use plexus_bus::{Bus, Error, Event, NodeName, Subject, Subscription};
use plexus_proto::{bus::OwnerChange, reason::Reason, v1};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Interval, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

/// Time between looks at every node.
const LOOK: Duration = Duration::from_secs(5);
/// How long changes in quick succession are gathered.
const TICK: Duration = Duration::from_millis(50);
/// Nodes read at once.
const READS: usize = 16;
/// Namespaces watched at once on one gateway.
const NAMESPACES_MAX: usize = 1024;

/// Somebody begins to watch; the answer comes with a picture read after it was asked for.
pub(super) struct Command {
    pub(super) namespace: Arc<str>,
    pub(super) answer: Answer,
}

type Answer = oneshot::Sender<Result<watch::Receiver<Picture>, Failure>>;

/// Sole owner of what is known of nodes for those who watch.
pub(crate) struct EventLoop {
    bus: Bus,
    commands: mpsc::Receiver<Command>,
    /// Names of changed records, and changes of ownership, from the first watcher on.
    hints: Option<Hints>,
    opening: bool,
    namespaces: HashMap<Arc<str>, Namespace>,
    work: JoinSet<Done>,
    clock: Interval,
    beat: Beat,
}

struct Hints {
    records: Subscription,
    ownership: Subscription,
}

/// A namespace that somebody watches.
struct Namespace {
    picture: watch::Sender<Picture>,
    /// Who waits for the next read, and for the one under way.
    asked: Vec<Answer>,
    served: Vec<Answer>,
    reading: bool,
    /// Nodes that may have changed since the last read began.
    changed: HashSet<NodeName>,
    /// When to look at every node again.
    next: Instant,
}

enum Done {
    Opened(Result<Hints, Error>),
    All(Arc<str>, Result<Nodes, Failure>),
    Some(Arc<str>, Result<Vec<(NodeName, Option<v1::Node>)>, Failure>),
}

enum Input {
    Tick,
    Command(Command),
    Hint(Option<NodeName>),
    Done(Done),
}

impl EventLoop {
    pub(super) fn new(bus: Bus, commands: mpsc::Receiver<Command>) -> Self {
        let mut clock = tokio::time::interval(TICK);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (namespaces, work) = (HashMap::new(), JoinSet::new());
        Self { bus, commands, hints: None, opening: false, namespaces, work, clock, beat: Beat::new() }
    }

    /// That the loop turns.
    pub(crate) fn beat(&self) -> Beat {
        self.beat.clone()
    }

    /// Runs until `stop`; then every watcher hears that this gateway goes away.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        while let Some(input) = self.next(&stop).await {
            self.beat.beat();
            self.apply(input, Instant::now());
        }
        self.beat.end();
        self.work.shutdown().await;
    }

    async fn next(&mut self, stop: &CancellationToken) -> Option<Input> {
        tokio::select! {
            () = stop.cancelled() => None,
            _ = self.clock.tick() => Some(Input::Tick),
            Some(done) = self.work.join_next() => Some(Input::Done(done.expect("work does not panic"))),
            Some(command) = self.commands.recv() => Some(Input::Command(command)),
            hint = hear(&mut self.hints) => Some(Input::Hint(hint)),
        }
    }

    fn apply(&mut self, input: Input, now: Instant) {
        match input {
            Input::Tick => self.tick(now),
            Input::Command(command) => self.command(command, now),
            Input::Hint(Some(node)) => {
                if let Some(namespace) = self.namespaces.get_mut(node.namespace()) {
                    namespace.changed.insert(node);
                }
            }
            Input::Hint(None) => self.namespaces.values_mut().for_each(|namespace| namespace.next = now),
            Input::Done(Done::Opened(result)) => self.opened(result, now),
            Input::Done(Done::All(name, result)) => {
                if let Some(namespace) = self.namespaces.get_mut(&name) {
                    namespace.read(result);
                }
            }
            Input::Done(Done::Some(name, result)) => {
                if let Some(namespace) = self.namespaces.get_mut(&name) {
                    namespace.looked(result, now);
                }
            }
        }
    }

    fn command(&mut self, Command { namespace, answer }: Command, now: Instant) {
        if !self.namespaces.contains_key(&namespace) && self.namespaces.len() >= NAMESPACES_MAX {
            let message = format!("{NAMESPACES_MAX} namespaces are watched already");
            let _ = answer.send(Err(Box::new(v1::Error::new(Reason::Overloaded, message))));
            return;
        }
        let namespace = self.namespaces.entry(namespace).or_insert_with(|| Namespace::new(now));
        namespace.asked.push(answer);
        if self.hints.is_none() && !self.opening {
            self.opening = true;
            self.work.spawn(open(self.bus.clone()));
        }
        self.look();
    }

    fn opened(&mut self, result: Result<Hints, Error>, now: Instant) {
        self.opening = false;
        match result {
            Ok(hints) => {
                self.hints = Some(hints);
                self.namespaces.values_mut().for_each(|namespace| namespace.next = now);
                self.look();
            }
            Err(error) => {
                let failure = crate::router::unavailable(&error);
                for (_, namespace) in self.namespaces.drain() {
                    namespace.fail(&failure);
                }
            }
        }
    }

    fn tick(&mut self, now: Instant) {
        self.namespaces.retain(|_, namespace| namespace.is_watched());
        self.look();
        for (name, namespace) in &mut self.namespaces {
            if namespace.reading || self.hints.is_none() {
                continue;
            }
            if now >= namespace.next {
                namespace.begin(now);
                self.work.spawn(read(self.bus.clone(), name.clone()));
            } else if !namespace.changed.is_empty() {
                namespace.reading = true;
                let changed = std::mem::take(&mut namespace.changed);
                self.work.spawn(look(self.bus.clone(), name.clone(), changed));
            }
        }
    }

    /// Reads for those who wait; who comes during a read waits for the next, and all of them share it.
    fn look(&mut self) {
        for (name, namespace) in &mut self.namespaces {
            if self.hints.is_some() && !namespace.reading && !namespace.asked.is_empty() {
                namespace.begin(Instant::now());
                self.work.spawn(read(self.bus.clone(), name.clone()));
            }
        }
    }
}

impl Namespace {
    fn new(now: Instant) -> Self {
        Self {
            picture: watch::Sender::default(),
            asked: Vec::new(),
            served: Vec::new(),
            reading: false,
            changed: HashSet::new(),
            next: now,
        }
    }

    fn is_watched(&self) -> bool {
        self.picture.receiver_count() > 0 || !self.asked.is_empty() || !self.served.is_empty()
    }

    fn begin(&mut self, now: Instant) {
        self.reading = true;
        self.served = std::mem::take(&mut self.asked);
        self.changed.clear();
        self.next = now + LOOK;
    }

    /// Every node was read, or could not be: then it is tried again in time, and who began is refused.
    fn read(&mut self, result: Result<Nodes, Failure>) {
        self.reading = false;
        match result {
            Ok(mut nodes) => {
                let former = self.picture.borrow().clone();
                for (name, node) in &mut nodes {
                    // The same node is the same pointer: watchers need not compare it.
                    if let Some(same) = former.get(name).filter(|former| *former == node) {
                        *node = same.clone();
                    }
                }
                if nodes != *former {
                    self.picture.send_replace(Arc::new(nodes));
                }
                for answer in self.served.drain(..) {
                    let _ = answer.send(Ok(self.picture.subscribe()));
                }
            }
            Err(failure) => {
                for answer in self.served.drain(..) {
                    let _ = answer.send(Err(failure.clone()));
                }
            }
        }
    }

    /// Some nodes were read.
    fn looked(&mut self, result: Result<Vec<(NodeName, Option<v1::Node>)>, Failure>, now: Instant) {
        self.reading = false;
        let Ok(looked) = result else {
            self.next = now + TICK; // what changed is not known any more
            return;
        };
        let mut nodes = Nodes::clone(&self.picture.borrow());
        for (name, node) in looked {
            match node {
                Some(node) => nodes.insert(name, Arc::new(node)),
                None => nodes.remove(&name),
            };
        }
        if nodes != **self.picture.borrow() {
            self.picture.send_replace(Arc::new(nodes));
        }
    }

    fn fail(self, failure: &Failure) {
        for answer in self.asked.into_iter().chain(self.served) {
            let _ = answer.send(Err(failure.clone()));
        }
    }
}

/// Waits for a hint; `None`: anything may have changed.
async fn hear(hints: &mut Option<Hints>) -> Option<NodeName> {
    let Some(Hints { records, ownership }) = hints else { return std::future::pending().await };
    tokio::select! {
        Some(event) = records.recv() => match event {
            Event::Frame(frame) => frame.open::<String>().ok().and_then(|name| NodeName::parse(&name).ok()),
            Event::Lagged(_) | Event::Restored => None,
        },
        Some(event) = ownership.recv() => match event {
            Event::Frame(frame) => {
                let change = frame.open::<OwnerChange>().ok()?;
                NodeName::new(&change.namespace, &change.node).ok()
            }
            Event::Lagged(_) | Event::Restored => None,
        },
        else => std::future::pending().await,
    }
}

async fn open(bus: Bus) -> Done {
    let both = async {
        let records = bus.subscribe(Subject::Records).await?;
        let ownership = bus.subscribe(Subject::Ownership).await?;
        Ok(Hints { records, ownership })
    };
    Done::Opened(both.await)
}

async fn read(bus: Bus, namespace: Arc<str>) -> Done {
    let all = async {
        let names = nodes::names(&bus, &namespace).await?;
        let found = looks(&bus, names).await?;
        Ok(found.into_iter().filter_map(|(name, node)| Some((name, Arc::new(node?)))).collect())
    };
    let result = all.await;
    Done::All(namespace, result)
}

async fn look(bus: Bus, namespace: Arc<str>, changed: HashSet<NodeName>) -> Done {
    Done::Some(namespace, looks(&bus, changed).await)
}

async fn looks(
    bus: &Bus,
    names: impl IntoIterator<Item = NodeName>,
) -> Result<Vec<(NodeName, Option<v1::Node>)>, Failure> {
    let look = |name: NodeName| async move {
        let node = nodes::look(bus, &name).await?;
        Ok((name, node))
    };
    stream::iter(names).map(look).buffered(READS).try_collect().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bus() -> Bus {
        let (config, metrics) = (plexus_bus::Config::default(), plexus_bus::Metrics::default());
        Bus::over(Arc::new(plexus_bus::embedded::Embedded::new(&config, metrics.clone())), &config, metrics)
    }

    async fn worked(watching: &mut EventLoop) {
        let done = watching.work.join_next().await.expect("something is under way").unwrap();
        watching.apply(Input::Done(done), Instant::now());
    }

    #[tokio::test]
    async fn whoever_watches_a_namespace_shares_its_reads() {
        let (_, commands) = mpsc::channel(1);
        let mut watching = EventLoop::new(bus(), commands);
        let begin = |watching: &mut EventLoop| {
            let (answer, waiting) = oneshot::channel();
            watching.apply(Input::Command(Command { namespace: "ns".into(), answer }), Instant::now());
            waiting
        };
        let first: Vec<_> = (0..100).map(|_| begin(&mut watching)).collect();
        assert_eq!(watching.work.len(), 1, "the hints are subscribed to once");
        worked(&mut watching).await;
        assert_eq!(watching.work.len(), 1, "and all wait for one read");
        let later: Vec<_> = (0..100).map(|_| begin(&mut watching)).collect();
        assert_eq!(watching.work.len(), 1, "who comes meanwhile waits for the next");
        worked(&mut watching).await;
        let mut watchers = Vec::new();
        for waiting in first {
            watchers.push(waiting.await.unwrap().unwrap());
        }
        watching.apply(Input::Tick, Instant::now());
        assert_eq!(watching.work.len(), 1);
        worked(&mut watching).await;
        for waiting in later {
            watchers.push(waiting.await.unwrap().unwrap());
        }
        let due = Instant::now() + LOOK;
        watching.apply(Input::Tick, due);
        assert_eq!(watching.work.len(), 1, "200 watchers cost one look in 5 s");
        worked(&mut watching).await;
        drop(watchers);
        watching.apply(Input::Tick, due + LOOK);
        assert!(watching.namespaces.is_empty() && watching.work.is_empty(), "and none when they are gone");
    }
}
