//! Port over Redis, 7.0 or later: one server, one behind Sentinel, or a Cluster ([`shards`]). To each
//! server there are three connections: commands, subscriptions, and one that may wait in the server.
//! Decisions that must be one step are functions in the server ([`history`] and log.lua, [`ownership`] and
//! ownership.lua, [`keys`] and keys.lua); live subjects are sharded channels, kept by one loop
//! ([`event_loop`]); every connection has a watch ([`link`]). Nothing here repeats a call by itself but where
//! a server said that it did not run it, and nothing looks inside a frame.
//!
//! Functions and libraries carry the version in every name (`plx1_…`), are loaded by whoever connects,
//! and run late without harm. A change of meaning takes a new version, so that two releases can share a
//! server.
//!
//! docs/redis.md is the one place that lists keys and channels, and says what users, TLS, a Cluster and slots
//! that move are about.

mod address;
mod event_loop;
mod fault;
mod history;
mod inspect;
mod keys;
mod link;
mod names;
mod ownership;
mod shards;
mod sources;
mod value;

pub use inspect::{Inspection, inspect};

use crate::{
    Config, Error, Metrics, Payload, Port, Subject, Subscription,
    port::{Answer, Live},
};
use event_loop::{EventLoop, Listeners};
use futures::future::BoxFuture;
use shards::{Opener, Shards};
use std::fmt;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use value::Args;

/// Refuses an address that cannot be one.
pub(crate) fn check(url: &str) -> Result<(), Error> {
    address::Place::parse(url).map(drop)
}

/// The carrier over Redis.
pub struct Redis {
    shards: Shards,
    listeners: Listeners,
    tasks: TaskTracker,
    stop: CancellationToken,
    _stops: DropGuard,
}

impl Redis {
    /// Connects, loads the functions, and starts the loops. Fails where a server cannot be reached,
    /// refuses, or is no primary.
    pub async fn connect(config: &Config, metrics: Metrics) -> Result<Self, Error> {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let stops = stop.clone().drop_guard();
        let opener = Opener {
            config: config.clone(),
            metrics: metrics.clone(),
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        let (shards, charting) = Shards::open(opener).await?;
        let (listeners, listening) =
            EventLoop::new(shards.clone(), config.subscription_queue, config.subscriptions_max, metrics);
        tasks.spawn(charting.run(stop.clone()));
        tasks.spawn(listening.run(stop.clone()));
        tasks.close();
        Ok(Self { shards, listeners, tasks, stop, _stops: stops })
    }

    /// Calls a function.
    async fn call(&self, args: impl Fn() -> Args) -> Result<fred::types::Value, Error> {
        if self.stop.is_cancelled() {
            return Err(Error::Closed);
        }
        self.shards.call("FCALL", args).await
    }

    /// Calls a function that writes nothing, which takes no right to write.
    async fn ask(&self, args: impl Fn() -> Args) -> Result<fred::types::Value, Error> {
        if self.stop.is_cancelled() {
            return Err(Error::Closed);
        }
        self.shards.call("FCALL_RO", args).await
    }

    /// Runs a command whose first argument is its key.
    async fn run(&self, command: &'static str, args: Args) -> Result<fred::types::Value, Error> {
        if self.stop.is_cancelled() {
            return Err(Error::Closed);
        }
        self.shards.run(command, args).await
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("healthy", &self.healthy()).finish_non_exhaustive()
    }
}

impl Port for Redis {
    fn healthy(&self) -> bool {
        let map = self.shards.map();
        let up = map.shards.iter().all(|shard| shard.commands.is_up() && shard.live.is_up());
        up && map.complete() && self.listeners.whole()
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
            let channel = names::channel(&subject);
            self.shards.at(channel.as_bytes())?.live.ready()?;
            self.listeners.subscribe(channel, queue).await
        })
    }
}
