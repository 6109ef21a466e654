//! The servers that hold the keys, and which of them holds which. Alone or behind Sentinel there is one; in
//! a Cluster there are several, and slots move between them. One loop ([`event_loop`]) owns the map, asks the
//! servers for it and opens and closes connections; whoever calls reads the map.
//!
//! A server that does not have a slot, or is about to give it away, refuses before anything runs; then the
//! call goes to the next place within its deadline. Nothing else is ever sent twice. A slot that is being
//! moved is served by the server that still has it, as long as all its keys are there; what the protocol
//! calls ASK is never followed, since a script would find half of its keys.

mod event_loop;
mod slots;
mod waiting;

use super::{
    address::Place,
    link::{Duty, Link},
    value::Args,
};
use crate::{Config, Error, Metrics, Refusal};
use event_loop::EventLoop;
use fred::{
    types::{Value, config::Server},
    util::redis_keyslot,
};
use futures::future::try_join_all;
use slots::SLOTS;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
pub(super) use waiting::Wanted;
use waiting::{Rounds, Waiting};

/// The handle: finds the server of a key.
#[derive(Clone)]
pub(super) struct Shards {
    map: watch::Receiver<Arc<Map>>,
    /// Tells the loop that the map is old.
    old: mpsc::Sender<()>,
    /// How long a call may look for its server.
    patience: Duration,
}

/// Which server holds which key.
pub(super) struct Map {
    pub(super) shards: Vec<Arc<Shard>>,
    /// By slot: where in `shards`; none where there are no slots.
    slots: Option<Vec<Option<u16>>>,
}

/// One server, over three connections.
pub(super) struct Shard {
    /// Never used again, also not for the same server.
    pub(super) id: u64,
    /// Which of a cluster.
    server: Option<Server>,
    pub(super) commands: Link,
    pub(super) live: Link,
    pub(super) waiting: Waiting,
    /// Ends its connections with the last that use it.
    _stops: DropGuard,
}

/// What it takes to open a shard.
#[derive(Clone)]
pub(super) struct Opener {
    pub(super) config: Config,
    pub(super) metrics: Metrics,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
}

impl Map {
    /// The server of a key.
    pub(super) fn at(&self, key: &[u8]) -> Option<&Arc<Shard>> {
        match &self.slots {
            None => self.shards.first(),
            Some(slots) => {
                let slot = usize::from(redis_keyslot(key));
                self.shards.get(usize::from((*slots.get(slot)?)?))
            }
        }
    }

    /// Tells whether every key has a server.
    pub(super) fn complete(&self) -> bool {
        self.slots.as_ref().is_none_or(|slots| slots.iter().all(Option::is_some))
    }
}

impl Shards {
    /// Opens what the files and the config say.
    pub(super) async fn open(opener: Opener) -> Result<(Self, EventLoop), Error> {
        let (map, old, this) = EventLoop::open(opener.clone()).await?;
        let patience = opener.config.call_timeout.mul_f32(0.95);
        Ok((Self { map, old, patience }, this))
    }

    /// The present map.
    pub(super) fn map(&self) -> Arc<Map> {
        self.map.borrow().clone()
    }

    /// The map as it changes.
    pub(super) fn watch(&self) -> watch::Receiver<Arc<Map>> {
        self.map.clone()
    }

    /// Says that the map may be old; one in the queue is enough.
    pub(super) fn suspect(&self) {
        let _ = self.old.try_send(());
    }

    /// The server of a key.
    pub(super) fn at(&self, key: &[u8]) -> Result<Arc<Shard>, Error> {
        self.map.borrow().at(key).cloned().ok_or(Error::Unreachable { sent: false })
    }

    /// Calls a function at the server of its key; `command` is FCALL, or FCALL_RO of what does not write.
    pub(super) async fn call(&self, command: &'static str, args: impl Fn() -> Args) -> Result<Value, Error> {
        let mut way = Way::new(self);
        loop {
            let first = args();
            let shard = self.at(first.key(2))?;
            match shard.commands.call(command, first, &args).await {
                Err(Error::Refused(refusal)) if way.again(refusal).await => {}
                other => return other,
            }
        }
    }

    /// Runs a command at the server of its first argument.
    pub(super) async fn run(&self, command: &'static str, args: Args) -> Result<Value, Error> {
        let shard = self.at(args.key(0))?;
        if shard.server.is_none() {
            return shard.commands.run(command, args).await;
        }
        drop(shard);
        let mut way = Way::new(self);
        loop {
            let shard = self.at(args.key(0))?;
            match shard.commands.run(command, args.clone()).await {
                Err(Error::Refused(refusal)) if way.again(refusal).await => {}
                other => return other,
            }
        }
    }
}

/// The way of one call to the server that has its slot.
struct Way<'a> {
    shards: &'a Shards,
    end: Instant,
    pause: Duration,
}

impl<'a> Way<'a> {
    fn new(shards: &'a Shards) -> Self {
        Self { shards, end: Instant::now() + shards.patience, pause: Duration::from_millis(2) }
    }

    /// Waits where the call did not run because its slot is elsewhere or on its way, and time is left.
    async fn again(&mut self, refusal: Refusal) -> bool {
        if !matches!(refusal, Refusal::Moved | Refusal::Moving) || Instant::now() + self.pause >= self.end {
            return false;
        }
        let mut map = self.shards.map.clone();
        map.mark_unchanged();
        if refusal == Refusal::Moved {
            self.shards.suspect();
        }
        let _ = timeout(self.pause, map.changed()).await;
        self.pause = (self.pause * 2).min(Duration::from_millis(50));
        true
    }
}

impl Opener {
    /// Opens all there is at a place.
    async fn all(&self, place: &Place, servers: Option<Vec<Server>>) -> Result<Vec<Arc<Shard>>, Error> {
        match servers {
            None => Ok(vec![self.shard(place, None).await?]),
            Some(servers) => {
                try_join_all(servers.into_iter().map(|server| self.shard(place, Some(server)))).await
            }
        }
    }

    /// Opens one server.
    async fn shard(&self, place: &Place, server: Option<Server>) -> Result<Arc<Shard>, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let connect = |duty| {
            let address = place.client(server.as_ref());
            Link::connect(address, &self.config, duty, self.metrics.clone())
        };
        let (commands, commands_watch) = connect(Duty::Commands).await?;
        let (live, live_watch) = connect(Duty::Live).await?;
        let (waiting, waiting_watch) = connect(Duty::Waiting).await?;
        let stop = self.stop.child_token();
        for watch in [commands_watch, live_watch, waiting_watch] {
            self.tasks.spawn(watch.run(stop.clone()));
        }
        let queue = self.config.commands_max;
        let (waiting, rounds) = Rounds::new(waiting, commands.clone(), queue);
        self.tasks.spawn(rounds.run(stop.clone()));
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(Shard { id, server, commands, live, waiting, _stops: stop.drop_guard() }))
    }
}
