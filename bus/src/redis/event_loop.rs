//! The sole owner of live subscriptions. It keeps who listens to which channel, hands frames over,
//! asks Redis for a channel when the first listener comes and lets it go after the last. On every new
//! connection, and where a channel's slot has moved to another server, it asks for it again and tells the
//! listeners, who may have missed something. Handles talk to it through a bounded queue; it never waits for
//! a listener and never reads a frame.

mod desk;
mod place;

use super::{
    fault,
    shards::{Map, Shards},
};
use crate::{
    Error, Event, Metrics, Payload, Refusal,
    subscription::{Feed, Subscription, channel},
};
use desk::{Desk, Heard, ask_for_all, let_go};
use fred::{
    bytes_utils::Str,
    types::{Message, Value},
};
use futures::{
    FutureExt, StreamExt,
    stream::{BoxStream, SelectAll},
};
use place::{Place, State};
use prometheus_client::metrics::counter::Counter;
use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Interval, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// What failed is tried again so often.
const AGAIN: Duration = Duration::from_millis(250);
/// Every so many of those, listeners are sought whose leaving was not told.
const SWEEP: u32 = 4;
/// Frames that may lie before an answer at most: what the connection keeps for us.
const CATCH_UP: usize = 8192;

/// The handle: subscribes.
#[derive(Clone)]
pub(super) struct Listeners {
    asks: mpsc::Sender<Ask>,
    whole: watch::Receiver<bool>,
    lagged: Counter,
}

enum Ask {
    /// A listener comes; answered once Redis has it.
    Join { channel: Str, feed: Feed, done: Answer },
    /// A listener of this channel has gone.
    Leave { channel: Str },
}

type Answer = oneshot::Sender<Result<(), Error>>;
type ShardId = u64;

/// The loop.
pub(super) struct EventLoop {
    shards: Shards,
    map: watch::Receiver<Arc<Map>>,
    /// The servers that we listen to.
    desks: HashMap<ShardId, Desk>,
    heard: SelectAll<BoxStream<'static, (ShardId, Heard)>>,
    asks: mpsc::Receiver<Ask>,
    /// Who listens where.
    places: HashMap<Str, Place>,
    /// Channels to be asked for again: those of places that are [`State::Stale`].
    stale: HashSet<Str>,
    /// Listeners in all places.
    count: usize,
    max: usize,
    /// Whether the servers have all channels.
    whole: watch::Sender<bool>,
    work: JoinSet<Done>,
    clock: Interval,
    beats: u32,
    metrics: Metrics,
}

enum Input {
    Ask(Ask),
    Heard(ShardId, Heard),
    Map,
    Done(Done),
    Tick,
}

enum Done {
    Joined {
        channel: Str,
        shard: ShardId,
        result: Result<(), Error>,
    },
    Left {
        channel: Str,
    },
    Restored {
        shard: ShardId,
        connection: u64,
        channels: Vec<Str>,
        result: Result<(), Error>,
    },
    /// Ended early because a newer connection took its place.
    Aborted,
}

impl Listeners {
    /// Subscribes; answers once Redis has it.
    pub(super) async fn subscribe(&self, name: String, queue: usize) -> Result<Subscription, Error> {
        let name = Str::from(name);
        let (asks, gone) = (self.asks.clone(), name.clone());
        let (feed, subscription) = channel(queue, move || {
            // Where the queue is full, the loop's own round finds the closed feed.
            let _ = asks.try_send(Ask::Leave { channel: gone });
        });
        let feed = feed.counting(self.lagged.clone());
        let (done, answer) = oneshot::channel();
        self.asks.try_send(Ask::Join { channel: name, feed, done }).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => Error::Overloaded,
            mpsc::error::TrySendError::Closed(_) => Error::Closed,
        })?;
        answer.await.unwrap_or(Err(Error::Closed))?;
        Ok(subscription)
    }

    /// Tells whether the servers have every channel on their present connections.
    pub(super) fn whole(&self) -> bool {
        *self.whole.borrow()
    }
}

impl EventLoop {
    /// Makes the handle and the loop.
    pub(super) fn new(shards: Shards, queue: usize, max: usize, metrics: Metrics) -> (Listeners, Self) {
        let (asks_tx, asks) = mpsc::channel(queue);
        let (whole, whole_rx) = watch::channel(true);
        let mut clock = interval(AGAIN);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let lagged = metrics.lagged.clone();
        let mut this = Self {
            map: shards.watch(),
            shards,
            desks: HashMap::new(),
            heard: SelectAll::new(),
            asks,
            places: HashMap::new(),
            stale: HashSet::new(),
            count: 0,
            max,
            whole,
            work: JoinSet::new(),
            clock,
            beats: 0,
            metrics,
        };
        this.follow();
        (Listeners { asks: asks_tx, whole: whole_rx, lagged }, this)
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        while let Some(input) = self.next(&stop).await {
            self.apply(input);
        }
        // What is dropped here ends every subscription.
        self.work.shutdown().await;
    }

    async fn next(&mut self, stop: &CancellationToken) -> Option<Input> {
        tokio::select! {
            () = stop.cancelled() => None,
            Some(done) = self.work.join_next() => Some(Input::Done(done.unwrap_or(Done::Aborted))),
            Ok(()) = self.map.changed() => Some(Input::Map),
            Some(ask) = self.asks.recv() => Some(Input::Ask(ask)),
            Some((shard, heard)) = self.heard.next() => Some(Input::Heard(shard, heard)),
            _ = self.clock.tick() => Some(Input::Tick),
        }
    }

    fn apply(&mut self, input: Input) {
        match input {
            Input::Heard(shard, heard) => self.hear(shard, heard),
            Input::Map => self.follow(),
            Input::Ask(Ask::Join { channel, feed, done }) => self.join(channel, feed, done),
            Input::Ask(Ask::Leave { channel }) => self.sweep(&channel),
            Input::Done(done) => self.done(done),
            Input::Tick => self.tick(),
        }
    }

    fn hear(&mut self, shard: ShardId, heard: Heard) {
        match heard {
            Heard::Message(message) => self.deliver(shard, message),
            Heard::Lagged(lost) => {
                warn!(lost, "frames were lost before they were read");
                self.metrics.lagged.inc_by(lost);
                for place in self.places.values().filter(|place| place.at == Some(shard)) {
                    place.tell(&Event::Lagged(lost));
                }
            }
            Heard::Reconnected => self.reconnected(shard),
        }
    }

    /// Takes what came before an answer that is here already.
    fn catch_up(&mut self) {
        for _ in 0..CATCH_UP {
            let next = tokio::task::unconstrained(self.heard.next()).now_or_never();
            let Some(Some((shard, heard))) = next else { return };
            self.hear(shard, heard);
        }
    }

    fn deliver(&mut self, shard: ShardId, message: Message) {
        let Some(place) = self.places.get_mut(&message.channel) else {
            // Redis has a channel that nobody here listens to: what a failed answer left behind.
            self.places.insert(message.channel.clone(), Place::new(Some(shard)));
            self.leave(message.channel);
            return;
        };
        let bytes = match message.value {
            Value::String(text) => text.into_inner(),
            Value::Bytes(bytes) => bytes,
            _ => return,
        };
        if place.deliver(&Payload::encoded(bytes)) {
            self.sweep(&message.channel);
        }
    }

    fn join(&mut self, channel: Str, feed: Feed, done: Answer) {
        if self.count >= self.max {
            let _ = done.send(Err(Error::Overloaded));
            return;
        }
        self.count += 1;
        let at = self.shards.map().at(channel.as_bytes()).map(|shard| shard.id);
        let place = match self.places.entry(channel.clone()) {
            Entry::Occupied(place) => place.into_mut(),
            Entry::Vacant(vacant) => {
                let place = vacant.insert(Place::new(at));
                match at.and_then(|at| self.desks.get(&at)) {
                    Some(desk) => ask_for(&mut self.work, desk, at, channel),
                    None => {
                        place.state = State::Stale;
                        self.stale.insert(channel);
                    }
                }
                place
            }
        };
        if place.state == State::Held {
            place.feeds.push(feed);
            let _ = done.send(Ok(()));
        } else {
            place.waiting.push((feed, done));
        }
    }

    /// Forgets listeners that have gone, and the channel after the last.
    fn sweep(&mut self, channel: &Str) {
        let Some(place) = self.places.get_mut(channel) else { return };
        self.count -= place.sweep();
        if place.is_empty() && matches!(place.state, State::Held | State::Stale) {
            self.leave(channel.clone());
        }
    }

    fn leave(&mut self, channel: Str) {
        self.stale.remove(&channel);
        let Some(place) = self.places.get_mut(&channel) else { return };
        place.state = State::Leaving;
        let Some(desk) = place.at.and_then(|at| self.desks.get(&at)) else {
            self.left(channel);
            return;
        };
        let client = desk.client.clone();
        self.work.spawn(async move {
            // Lost with the connection it is as good as done: only listened channels are asked for again.
            if let Err(fault) = let_go(&client, channel.clone()).await {
                debug!(%fault, "a channel could not be let go");
            }
            Done::Left { channel }
        });
    }

    fn left(&mut self, channel: Str) {
        let Some(place) = self.places.get_mut(&channel) else { return };
        self.count -= place.dismiss();
        if place.waiting.is_empty() {
            self.places.remove(&channel);
            return;
        }
        place.at = self.shards.map().at(channel.as_bytes()).map(|shard| shard.id);
        match place.at.and_then(|at| self.desks.get(&at)) {
            Some(desk) => {
                place.state = State::Joining;
                ask_for(&mut self.work, desk, place.at, channel);
            }
            None => self.spoil(channel),
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Joined { channel, shard, result } => self.joined(&channel, shard, result),
            Done::Left { channel } => {
                self.catch_up();
                self.left(channel);
            }
            Done::Restored { shard, connection, channels, result } => {
                let Some(desk) = self.desks.get_mut(&shard) else { return };
                if desk.connection != connection {
                    return;
                }
                desk.restoring = None;
                match result {
                    Ok(()) => self.restored(shard, &channels),
                    Err(error) => {
                        self.shards.suspect();
                        warn!(%error, "subscriptions could not be restored yet");
                    }
                }
            }
            Done::Aborted => {}
        }
    }

    fn joined(&mut self, channel: &Str, shard: ShardId, result: Result<(), Error>) {
        let Some(place) = self.places.get_mut(channel) else { return };
        if place.state != State::Joining || place.at != Some(shard) {
            return;
        }
        match result {
            Ok(()) => {
                place.hold();
                self.sweep(channel);
            }
            // It is asked for again where the slot went.
            Err(Error::Refused(Refusal::Moved | Refusal::Moving)) => {
                self.shards.suspect();
                self.spoil(channel.clone());
            }
            Err(error) => {
                self.count -= place.fail(&error);
                // It may have reached Redis all the same.
                self.leave(channel.clone());
            }
        }
    }

    /// The channel has to be asked for again.
    fn spoil(&mut self, channel: Str) {
        if let Some(place) = self.places.get_mut(&channel) {
            place.state = State::Stale;
            self.stale.insert(channel);
            self.set_whole();
        }
    }

    fn reconnected(&mut self, shard: ShardId) {
        let Some(desk) = self.desks.get_mut(&shard) else { return };
        desk.connection += 1;
        if let Some(older) = desk.restoring.take() {
            older.abort();
        }
        // Those on their way are asked for once more: their own answer may be of the older connection.
        for (channel, place) in self.places.iter_mut().filter(|(_, place)| place.at == Some(shard)) {
            if matches!(place.state, State::Held | State::Joining) {
                place.state = State::Stale;
                self.stale.insert(channel.clone());
            }
        }
        self.set_whole();
        self.restore(shard);
    }

    /// Takes the servers of the present map, and channels along to where their slots are.
    fn follow(&mut self) {
        let map = self.map.borrow_and_update().clone();
        for shard in &map.shards {
            self.desks.entry(shard.id).or_insert_with(|| {
                let desk = Desk::new(shard);
                self.heard.push(desk.listen(shard));
                desk
            });
        }
        self.desks.retain(|id, desk| {
            let stays = map.shards.iter().any(|shard| shard.id == *id);
            if !stays {
                desk.gone.cancel();
            }
            stays
        });
        for (channel, place) in &mut self.places {
            let at = map.at(channel.as_bytes()).map(|shard| shard.id);
            if place.state != State::Leaving && (place.at != at || at.is_none()) {
                place.at = at;
                place.state = State::Stale;
                self.stale.insert(channel.clone());
            }
        }
        self.set_whole();
        self.restore_all();
    }

    fn restore_all(&mut self) {
        let ids: Vec<ShardId> = self.desks.keys().copied().collect();
        ids.into_iter().for_each(|id| self.restore(id));
    }

    /// Asks a server for the channels that it should have.
    fn restore(&mut self, shard: ShardId) {
        let Some(desk) = self.desks.get_mut(&shard) else { return };
        if desk.restoring.is_some() {
            return;
        }
        let mine = |channel: &&Str| self.places.get(*channel).is_some_and(|place| place.at == Some(shard));
        let channels: Vec<Str> = self.stale.iter().filter(mine).cloned().collect();
        if channels.is_empty() {
            return;
        }
        let (client, connection) = (desk.client.clone(), desk.connection);
        desk.restoring = Some(self.work.spawn(async move {
            let result = ask_for_all(&client, &channels).await;
            Done::Restored { shard, connection, channels, result }
        }));
    }

    fn restored(&mut self, shard: ShardId, channels: &[Str]) {
        info!(channels = channels.len(), "subscriptions restored");
        for channel in channels {
            let Some(place) = self.places.get_mut(channel) else { continue };
            if place.state == State::Stale && place.at == Some(shard) {
                self.stale.remove(channel);
                place.tell(&Event::Restored);
                place.hold();
                self.sweep(channel);
            }
        }
        self.set_whole();
        // What became stale meanwhile.
        self.restore(shard);
    }

    fn set_whole(&self) {
        let whole = self.stale.is_empty();
        self.whole.send_if_modified(|was| std::mem::replace(was, whole) != whole);
    }

    /// Tries again what failed, and finds listeners whose leaving was not told.
    fn tick(&mut self) {
        self.beats = (self.beats + 1) % SWEEP;
        if self.beats == 0 {
            let stale = self.places.iter().filter(|(_, place)| place.has_gone());
            let stale: Vec<Str> = stale.map(|(channel, _)| channel.clone()).collect();
            for channel in stale {
                self.sweep(&channel);
            }
            self.set_whole();
        }
        if !self.stale.is_empty() {
            self.restore_all();
        }
    }
}

fn ask_for(work: &mut JoinSet<Done>, desk: &Desk, at: Option<ShardId>, channel: Str) {
    let (client, shard) = (desk.client.clone(), at.unwrap_or_default());
    work.spawn(async move {
        let result = ask_for_all(&client, std::slice::from_ref(&channel)).await;
        Done::Joined { channel, shard, result }
    });
}
