//! The sole owner of live subscriptions. It keeps who listens to which channel, hands frames over,
//! asks Redis for a channel when the first listener comes and lets it go after the last, and asks for
//! all of them again on every new connection. Handles talk to it through a bounded queue; it never
//! waits for a listener and never reads a frame.

use super::fault;
use crate::{
    Error, Event, Metrics, Payload,
    subscription::{Feed, Subscription, channel},
};
use fred::{
    bytes_utils::Str,
    clients::Client,
    interfaces::{ClientLike, EventInterface, PubsubInterface},
    types::{ClusterHash, CustomCommand, Message, Value, config::Server},
};
use futures::future::try_join_all;
use prometheus_client::metrics::counter::Counter;
use std::{
    collections::{HashMap, hash_map::Entry},
    time::Duration,
};
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    task::{AbortHandle, JoinSet},
    time::{Interval, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Channels asked for at once after a reconnect; below the bound of the connection's own queue.
const BATCH: usize = 256;

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

/// The loop.
pub(super) struct EventLoop {
    client: Client,
    asks: mpsc::Receiver<Ask>,
    messages: broadcast::Receiver<Message>,
    reconnects: broadcast::Receiver<Server>,
    /// Who listens where.
    places: HashMap<Str, Place>,
    /// Listeners in all places.
    count: usize,
    max: usize,
    /// False from a reconnect until Redis has all channels again.
    whole: watch::Sender<bool>,
    /// The work that asks for all channels again, under the number of its connection.
    restoring: Option<AbortHandle>,
    connection: u64,
    work: JoinSet<Done>,
    clock: Interval,
    metrics: Metrics,
}

/// One channel.
struct Place {
    state: State,
    feeds: Vec<Feed>,
    /// Listeners that are not answered yet.
    waiting: Vec<(Feed, Answer)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Redis was asked for it.
    Joining,
    /// Redis has it.
    Held,
    /// Redis was asked to let it go.
    Leaving,
}

enum Input {
    Ask(Ask),
    Message(Message),
    Lagged(u64),
    Reconnected,
    Done(Done),
    Tick,
}

enum Done {
    Joined {
        channel: Str,
        result: Result<(), Error>,
    },
    Left {
        channel: Str,
    },
    Restored {
        connection: u64,
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

    /// Tells whether Redis has every channel on the present connection.
    pub(super) fn whole(&self) -> bool {
        *self.whole.borrow()
    }
}

impl EventLoop {
    /// Makes the handle and the loop.
    pub(super) fn new(client: Client, queue: usize, max: usize, metrics: Metrics) -> (Listeners, Self) {
        let (asks_tx, asks) = mpsc::channel(queue);
        let (whole, whole_rx) = watch::channel(true);
        let mut clock = interval(Duration::from_secs(1));
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let lagged = metrics.lagged.clone();
        let (messages, reconnects) = (client.message_rx(), client.reconnect_rx());
        let this = Self {
            client,
            asks,
            messages,
            reconnects,
            places: HashMap::new(),
            count: 0,
            max,
            whole,
            restoring: None,
            connection: 0,
            work: JoinSet::new(),
            clock,
            metrics,
        };
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
        use broadcast::error::RecvError::Lagged;
        tokio::select! {
            () = stop.cancelled() => None,
            Some(done) = self.work.join_next() => Some(Input::Done(done.unwrap_or(Done::Aborted))),
            Ok(_) | Err(Lagged(_)) = self.reconnects.recv() => Some(Input::Reconnected),
            Some(ask) = self.asks.recv() => Some(Input::Ask(ask)),
            message = self.messages.recv() => match message {
                Ok(message) => Some(Input::Message(message)),
                Err(Lagged(lost)) => Some(Input::Lagged(lost)),
                Err(broadcast::error::RecvError::Closed) => None,
            },
            _ = self.clock.tick() => Some(Input::Tick),
        }
    }

    fn apply(&mut self, input: Input) {
        match input {
            Input::Message(message) => self.deliver(message),
            Input::Ask(Ask::Join { channel, feed, done }) => self.join(channel, feed, done),
            Input::Ask(Ask::Leave { channel }) => self.sweep(&channel),
            Input::Lagged(lost) => {
                warn!(lost, "frames were lost before they were read");
                self.metrics.lagged.inc_by(lost);
                self.tell(&Event::Lagged(lost));
            }
            Input::Reconnected => {
                self.connection += 1;
                self.restore();
            }
            Input::Done(done) => self.done(done),
            Input::Tick => self.tick(),
        }
    }

    fn deliver(&mut self, message: Message) {
        let Some(place) = self.places.get_mut(&message.channel) else {
            // Redis has a channel that nobody here listens to: what a failed answer left behind.
            self.leave(message.channel);
            return;
        };
        let bytes = match message.value {
            Value::String(text) => text.into_inner(),
            Value::Bytes(bytes) => bytes,
            _ => return,
        };
        let payload = Payload::encoded(bytes);
        // Redis counts us among those who heard it before its answer has come through here: whoever
        // waits for that answer gets it as well, or the sender would wait in vain.
        let joining = place.waiting.iter().filter(|_| place.state == State::Joining).map(|(feed, _)| feed);
        let mut closed = false;
        for feed in place.feeds.iter().chain(joining) {
            closed |= !feed.offer(Event::Frame(payload.clone()));
        }
        if closed {
            self.sweep(&message.channel);
        }
    }

    fn join(&mut self, channel: Str, feed: Feed, done: Answer) {
        if self.count >= self.max {
            let _ = done.send(Err(Error::Overloaded));
            return;
        }
        self.count += 1;
        let place = match self.places.entry(channel.clone()) {
            Entry::Occupied(place) => place.into_mut(),
            Entry::Vacant(vacant) => {
                let place = Place { state: State::Joining, feeds: Vec::new(), waiting: Vec::new() };
                ask_for(&mut self.work, self.client.clone(), channel);
                vacant.insert(place)
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
        let before = place.feeds.len() + place.waiting.len();
        place.feeds.retain(Feed::is_open);
        place.waiting.retain(|(feed, _)| feed.is_open());
        self.count -= before - place.feeds.len() - place.waiting.len();
        if place.state == State::Held && place.feeds.is_empty() {
            self.leave(channel.clone());
        }
    }

    fn leave(&mut self, channel: Str) {
        let place = self.places.entry(channel.clone()).or_insert_with(|| Place {
            state: State::Leaving,
            feeds: Vec::new(),
            waiting: Vec::new(),
        });
        place.state = State::Leaving;
        let client = self.client.clone();
        self.work.spawn(async move {
            // Lost with the connection it is as good as done: only listened channels are asked for again.
            if let Err(fault) = client.sunsubscribe(channel.clone()).await {
                debug!(%fault, "a channel could not be let go");
            }
            Done::Left { channel }
        });
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Joined { channel, result } => self.joined(&channel, result),
            Done::Left { channel } => {
                let Some(place) = self.places.get_mut(&channel) else { return };
                if place.waiting.is_empty() {
                    self.places.remove(&channel);
                } else {
                    place.state = State::Joining;
                    ask_for(&mut self.work, self.client.clone(), channel);
                }
            }
            Done::Restored { connection, result } if connection == self.connection => {
                self.restoring = None;
                match result {
                    Ok(()) => self.restored(),
                    Err(error) => warn!(%error, "subscriptions could not be restored yet"),
                }
            }
            Done::Restored { .. } | Done::Aborted => {}
        }
    }

    fn joined(&mut self, channel: &Str, result: Result<(), Error>) {
        let Some(place) = self.places.get_mut(channel) else { return };
        let waiting = std::mem::take(&mut place.waiting);
        match result {
            Ok(()) => {
                place.state = State::Held;
                for (feed, done) in waiting {
                    place.feeds.push(feed);
                    let _ = done.send(Ok(()));
                }
                self.sweep(channel);
            }
            Err(error) => {
                self.count -= waiting.len();
                for (_, done) in waiting {
                    let _ = done.send(Err(error.clone()));
                }
                // It may have reached Redis all the same.
                self.leave(channel.clone());
            }
        }
    }

    /// Asks for all channels again, on a new connection.
    fn restore(&mut self) {
        self.whole.send_replace(false);
        if let Some(older) = self.restoring.take() {
            older.abort();
        }
        let mine = self.places.iter().filter(|(_, place)| place.state != State::Leaving);
        let channels: Vec<Str> = mine.map(|(channel, _)| channel.clone()).collect();
        let (client, connection) = (self.client.clone(), self.connection);
        self.restoring = Some(self.work.spawn(async move {
            let result = ask_for_all(&client, &channels).await;
            Done::Restored { connection, result }
        }));
    }

    fn restored(&mut self) {
        info!(channels = self.places.len(), "subscriptions restored");
        self.whole.send_replace(true);
        self.tell(&Event::Restored);
    }

    fn tell(&self, event: &Event) {
        for feed in self.places.values().flat_map(|place| &place.feeds) {
            feed.offer(event.clone());
        }
    }

    /// Finds listeners whose leaving was not told, and tries again what failed.
    fn tick(&mut self) {
        let left = |place: &Place| {
            place.feeds.iter().chain(place.waiting.iter().map(|(feed, _)| feed)).any(|feed| !feed.is_open())
        };
        let stale: Vec<Str> =
            self.places.iter().filter(|(_, place)| left(place)).map(|(channel, _)| channel.clone()).collect();
        for channel in stale {
            self.sweep(&channel);
        }
        if !self.whole() && self.restoring.is_none() && self.client.is_connected() {
            self.restore();
        }
    }

    fn whole(&self) -> bool {
        *self.whole.borrow()
    }
}

fn ask_for(work: &mut JoinSet<Done>, client: Client, channel: Str) {
    work.spawn(async move {
        let result = ask_for_all(&client, std::slice::from_ref(&channel)).await;
        Done::Joined { channel, result }
    });
}

/// Asks for channels and puts a PING behind them: when that is answered, Redis has them all. Each goes
/// as a command of its own, since the client library reads one answer per command.
async fn ask_for_all(client: &Client, channels: &[Str]) -> Result<(), Error> {
    let read = |fault| fault::read(&fault);
    for batch in channels.chunks(BATCH) {
        try_join_all(batch.iter().map(|channel| client.ssubscribe(channel.clone()))).await.map_err(read)?;
    }
    let ping = CustomCommand::new_static("PING", ClusterHash::FirstKey, false);
    client.custom::<Value, _>(ping, Vec::<Value>::new()).await.map(|_| ()).map_err(read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fred::types::{Builder, MessageKind};
    use futures::FutureExt;

    #[tokio::test]
    async fn a_frame_that_comes_before_the_answer_to_its_listener_is_not_lost() {
        let client = Builder::default_centralized().build().unwrap();
        let (_listeners, mut this) = EventLoop::new(client, 4, 4, Metrics::default());
        let (feed, mut subscription) = channel(4, || {});
        let (done, mut answer) = oneshot::channel();
        this.apply(Input::Ask(Ask::Join { channel: "c".into(), feed, done }));
        let (channel, value) = (Str::from("c"), Value::String("x".into()));
        let server = Server::new("127.0.0.1", 1);
        this.apply(Input::Message(Message { channel, value, kind: MessageKind::SMessage, server }));
        assert!(answer.try_recv().is_err(), "Redis has not answered");
        let heard = subscription.recv().now_or_never().flatten();
        assert!(matches!(heard, Some(Event::Frame(_))), "{heard:?}");
    }
}
