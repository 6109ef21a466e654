//! Port over Redis, 7.0 or later. Three connections: commands, subscriptions, and one that may wait in
//! the server. Decisions that must be one step are functions in the server ([`history`] and log.lua,
//! [`ownership`] and ownership.lua, [`keys`] and keys.lua); live subjects are sharded channels, kept by
//! one loop ([`event_loop`]); every connection has a watch ([`link`]). Nothing here repeats a call by
//! itself, and nothing looks inside a frame.
//!
//! Functions and libraries carry the version in every name (`plx1_…`), are loaded by whoever connects,
//! and run late without harm. A change of meaning takes a new version, so that two releases can share a
//! server.
//!
//! # Keys and channels
//!
//! `T` is a node's slot `{<namespace>/<node>}`, `c` the control slot. No function touches two slots.
//! Topics are their bytes in keys; in channels a topic beyond ASCII is hexadecimal.
//!
//! | Name | Type | Holds |
//! |---|---|---|
//! | `plx:T:f` | hash | the fence: `e`, `n` grant of the last opening; `era` last stamped; `doubt` ms at which an opening was last unsure, for an hour; `t:<topic>` tail |
//! | `plx:T:l:<topic>` | stream | the log; an entry is `d` = an encoded `LogEntry`, its id the position |
//! | `plx:T:i` | hash | interest: `<gateway> <topic>` = readers, 0 while it lingers |
//! | `plx:T:d` | hash | the node's record: `r` revision, `d` bytes |
//! | `plx:T:k` | hash | its sealed key: `r`, `d` |
//! | `plx:T:x` | hash | its state: `e`, `n` grant that wrote it, `d` bytes |
//! | `plx:T:s` | string | what is written before a `WAIT` |
//! | `plx:T:z` | string, 1 h | epoch that erased the node: no older grant acts on what is made after it |
//! | `plx:T:c` | channel | calls to the node |
//! | `plx:T:m:<topic>`, `plx:T:x:<hex>` | channel | live entries |
//! | `plx:{c}:era` | hash | `id` of the primary, `at` ms since when |
//! | `plx:{c}:w:<inc>` | string, 6 s | a worker's lease |
//! | `plx:{c}:W` | set | incarnations that had a lease |
//! | `plx:{c}:n` | hash | node = `<inc>\|<epoch>\|<nonce>`; no inc: nobody's |
//! | `plx:{c}:o:<inc>` | hash | node = `<epoch>\|<nonce>`; `#` = changes so far |
//! | `plx:{c}:p`, `plx:{c}:q` | hash | the directory: PeerId to node, node to PeerId |
//! | `plx:{c}:g:<gateway>` | string, 15 s | a gateway's lease |
//! | `plx:{c}:v:<name>` | hash | a free value: `r`, `d` |
//! | `plx:{c}:K`, `plx:{c}:X` | sorted set | names of free values, in order; those that expire, by ms |
//! | `plx:{c}:own` | channel | changes of ownership |
//! | `plx:{c}:a` | channel | calls that any worker may take |
//! | `plx:{c}:d`, `plx:{c}:k` | channel | hints: nodes whose record, free values that changed |
//! | `plx:{g:<gateway>}:r` | channel | answers to a gateway |
//!
//! A user needs `~plx:* &plx:* +@all -@dangerous +info`. Over Sentinel the address is
//! `redis-sentinel://host:26379?sentinelServiceName=name`; a Cluster is refused for now, since the client
//! library does not tell when a slot moves away under a subscription.

mod address;
mod event_loop;
mod fault;
mod history;
mod inspect;
mod keys;
mod link;
mod names;
mod ownership;
mod value;

pub use inspect::{Inspection, inspect};

use crate::{
    Config, Error, Metrics, Payload, Port, Subject, Subscription,
    port::{Answer, Live},
};
use event_loop::{EventLoop, Listeners};
use futures::future::BoxFuture;
use link::{Duty, Link};
use std::fmt;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use value::Args;

/// Refuses an address that cannot be one.
pub(crate) fn check(url: &str) -> Result<(), Error> {
    address::parse(url).map(drop)
}

/// The carrier over Redis.
pub struct Redis {
    commands: Link,
    live: Link,
    waiting: Link,
    listeners: Listeners,
    tasks: TaskTracker,
    stop: CancellationToken,
    _stops: DropGuard,
}

impl Redis {
    /// Connects, loads the functions, and starts the loops. Fails where the server cannot be reached,
    /// refuses, or is no primary.
    pub async fn connect(config: &Config, metrics: Metrics) -> Result<Self, Error> {
        let address = address::parse(&config.url)?;
        let connect = |duty| Link::connect(address.clone(), config, duty, metrics.clone());
        let (commands, commands_watch) = connect(Duty::Commands).await?;
        let (live, live_watch) = connect(Duty::Live).await?;
        let (waiting, waiting_watch) = connect(Duty::Waiting).await?;
        let client = live.client().clone();
        let (listeners, listening) =
            EventLoop::new(client, config.subscription_queue, config.subscriptions_max, metrics);

        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(listening.run(stop.clone()));
        for watch in [commands_watch, live_watch, waiting_watch] {
            tasks.spawn(watch.run(stop.clone()));
        }
        tasks.close();
        let stops = stop.clone().drop_guard();
        Ok(Self { commands, live, waiting, listeners, tasks, stop, _stops: stops })
    }

    /// Calls a function.
    async fn call(&self, args: impl Fn() -> Args) -> Result<fred::types::Value, Error> {
        if self.stop.is_cancelled() {
            return Err(Error::Closed);
        }
        self.commands.call(args).await
    }

    /// Runs a command.
    async fn run(&self, command: &'static str, args: Args) -> Result<fred::types::Value, Error> {
        if self.stop.is_cancelled() {
            return Err(Error::Closed);
        }
        self.commands.run(command, args).await
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("healthy", &self.healthy()).finish_non_exhaustive()
    }
}

impl Port for Redis {
    fn healthy(&self) -> bool {
        self.commands.is_up() && self.live.is_up() && self.listeners.whole()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.stop.cancel();
            self.tasks.wait().await;
        })
    }
}

impl Live for Redis {
    fn publish(&self, subject: Subject, frame: Payload) -> Answer<'_, usize> {
        Box::pin(async move {
            let args = Args::new(2).bytes(names::channel(&subject)).bytes(frame.to_bytes());
            let heard = value::number(self.run("SPUBLISH", args).await?)?;
            Ok(usize::try_from(heard).unwrap_or(usize::MAX))
        })
    }

    fn subscribe(&self, subject: Subject, queue: usize) -> Answer<'_, Subscription> {
        Box::pin(async move {
            if self.stop.is_cancelled() {
                return Err(Error::Closed);
            }
            if !self.live.is_up() {
                return Err(Error::Unreachable { sent: false });
            }
            self.listeners.subscribe(names::channel(&subject), queue).await
        })
    }
}
