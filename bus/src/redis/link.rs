//! One connection and the watch over it. The watch asks every connection for a sign of life, tells
//! whether it is up, and has it made anew when it is silent: the client library's own detector does
//! not see a stopped server under traffic. A new connection counts as up after it was greeted: it
//! leads to a primary, whose era is known, and the functions are loaded.

use super::{
    fault,
    value::{self, Args},
};
use crate::{Config, Era, Error, Metrics, Refusal};
use fred::{
    clients::Client,
    interfaces::{ClientLike, EventInterface},
    prelude::{Error as Fault, Options},
    types::{
        Builder, ClusterHash, ConnectHandle, CustomCommand, Value,
        config::{Config as Address, ReconnectPolicy, Server},
    },
};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Semaphore, SemaphorePermit, broadcast, mpsc, watch},
    task::JoinSet,
    time::{Interval, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

/// The function libraries, each with its version in every name.
const LIBRARIES: [&str; 3] =
    [include_str!("log.lua"), include_str!("ownership.lua"), include_str!("keys.lua")];

/// A handle to one connection; cheap to clone.
#[derive(Clone)]
pub(super) struct Link {
    client: Client,
    /// The era of the primary it leads to, or why it is down.
    up: watch::Receiver<Result<Era, Error>>,
    /// Tells the watch that something is wrong with the server at the other end.
    suspect: mpsc::Sender<()>,
    /// Held by whoever lets the connection wait in the server.
    turn: Arc<Semaphore>,
    /// Whether this process may load the functions.
    loads: bool,
    /// Places for calls under way: the library bounds only those it has not yet written.
    places: Arc<Semaphore>,
}

/// The watch over one connection.
pub(super) struct Watch {
    client: Client,
    config: Config,
    metrics: Metrics,
    duty: Duty,
    up: watch::Sender<Result<Era, Error>>,
    suspects: mpsc::Receiver<()>,
    errors: broadcast::Receiver<(Fault, Option<Server>)>,
    reconnects: broadcast::Receiver<Server>,
    clock: Interval,
    /// The client library's own task; it ends on faults that it deems final.
    driver: ConnectHandle,
    /// Rises with each connection; an older probe says nothing of a newer one.
    connection: u64,
    probing: bool,
    forcing: bool,
    /// Whether it was made anew since the last tick; once is enough.
    forced: bool,
    turn: Arc<Semaphore>,
    work: JoinSet<Done>,
}

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Duty {
    /// Everything but what follows; loads the functions.
    Commands,
    /// Subscriptions.
    Live,
    /// Waits in the server, which holds up all that comes behind: it is not probed meanwhile.
    Waiting,
}

enum Input {
    Tick,
    Lost(Option<Error>),
    Back,
    Suspect,
    Done(Done),
}

enum Done {
    Alive { connection: u64, result: Result<Option<Era>, Error> },
    Forced,
}

impl Link {
    /// Connects, greets, and answers the handle and the watch to be run.
    pub(super) async fn connect(
        address: Address,
        config: &Config,
        duty: Duty,
        metrics: Metrics,
    ) -> Result<(Self, Watch), Error> {
        let client = build(address, config, duty)?;
        let driver = client.init().await.map_err(|fault| fault::connecting(&fault))?;
        let (errors, reconnects) = (client.error_rx(), client.reconnect_rx());
        let loads = config.loads_functions && duty != Duty::Live;
        let era = greet(&client, loads).await?;
        let (up, up_rx) = watch::channel(Ok(era));
        let (suspect, suspects) = mpsc::channel(1);
        let mut clock = interval(config.probe_interval);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let turn = Arc::new(Semaphore::new(1));
        let places = Arc::new(Semaphore::new(config.commands_max.max(1)));
        let link = Self { client: client.clone(), up: up_rx, suspect, turn: turn.clone(), loads, places };
        let watch = Watch {
            client,
            config: config.clone(),
            metrics,
            duty,
            up,
            suspects,
            errors,
            reconnects,
            clock,
            driver,
            connection: 0,
            probing: false,
            forcing: false,
            forced: false,
            turn,
            work: JoinSet::new(),
        };
        Ok((link, watch))
    }

    /// Tells whether it was answering a moment ago.
    pub(super) fn is_up(&self) -> bool {
        self.up.borrow().is_ok()
    }

    /// The era of the primary it leads to.
    pub(super) fn era(&self) -> Option<Era> {
        self.up.borrow().clone().ok()
    }

    /// Says why it is down, where it is.
    pub(super) fn ready(&self) -> Result<(), Error> {
        self.up.borrow().as_ref().map(drop).map_err(Error::clone)
    }

    /// Takes the turn to wait in the server, where nobody else does within `limit`.
    pub(super) async fn turn(&self, limit: Duration) -> Result<SemaphorePermit<'_>, Error> {
        let turn = tokio::time::timeout(limit, self.turn.acquire()).await.map_err(|_| Error::Timeout)?;
        turn.map_err(|_| Error::Closed)
    }

    /// The client, for what only it can do.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Runs a command.
    pub(super) async fn run(&self, command: &'static str, args: Args) -> Result<Value, Error> {
        let _place = self.place()?;
        self.client.custom(custom(command), args.0).await.map_err(|fault| self.judge(&fault))
    }

    /// Runs a command that waits in the server for up to `limit`.
    pub(super) async fn wait(
        &self,
        command: &'static str,
        args: Args,
        limit: Duration,
    ) -> Result<Value, Error> {
        let _place = self.place()?;
        let options = Options { timeout: Some(limit), ..Options::default() };
        let client = self.client.with_options(&options);
        client.custom(custom(command), args.0).await.map_err(|fault| self.judge(&fault))
    }

    /// Calls a function. A server that does not know it has not run it, so it is loaded and called
    /// once more, where this process may load it.
    pub(super) async fn call(
        &self,
        command: &'static str,
        args: Args,
        again: impl Fn() -> Args,
    ) -> Result<Value, Error> {
        let _place = self.place()?;
        match self.client.custom(custom(command), args.0).await {
            Err(fault) if self.loads && fault::lacks_function(&fault) => {
                load(&self.client).await.map_err(|fault| self.judge(&fault))?;
                self.client.custom(custom(command), again().0).await.map_err(|fault| self.judge(&fault))
            }
            other => other.map_err(|fault| self.judge(&fault)),
        }
    }

    /// A place for a call, where it is up and not all are taken.
    fn place(&self) -> Result<SemaphorePermit<'_>, Error> {
        self.ready()?;
        self.places.try_acquire().map_err(|_| Error::Overloaded)
    }

    fn judge(&self, fault: &Fault) -> Error {
        let error = fault::read(fault);
        if error == Error::Refused(Refusal::ReadOnly) {
            // One sign in the queue is enough.
            let _ = self.suspect.try_send(());
        }
        error
    }
}

pub(super) fn custom(command: &'static str) -> CustomCommand {
    CustomCommand::new_static(command, ClusterHash::FirstKey, false)
}

/// Its settings: the library's defaults wait for ever, and its queue has no bound.
pub(super) fn build(mut address: Address, config: &Config, duty: Duty) -> Result<Client, Error> {
    address.version = fred::types::RespVersion::RESP3;
    address.fail_fast = true;
    // A little before the caller's own limit, so that a command that waits unsent dies with it.
    let timeout = config.call_timeout.mul_f32(0.95);
    let mut builder = Builder::from_config(address);
    builder
        .with_performance_config(|p| {
            p.default_command_timeout = timeout;
            p.broadcast_channel_capacity = if duty == Duty::Live { 8192 } else { 64 };
        })
        .with_connection_config(|c| {
            c.max_command_attempts = 1;
            c.max_command_buffer_len = config.commands_max;
            c.tcp.nodelay = Some(true);
            c.connection_timeout = config.connect_timeout;
            c.internal_command_timeout = config.connect_timeout;
        })
        .set_policy(ReconnectPolicy::new_exponential(0, 50, 1000, 2));
    builder.build().map_err(|_| Error::Invalid("url: cannot be used".into()))
}

/// Loads the functions.
async fn load(client: &Client) -> Result<(), Fault> {
    for library in LIBRARIES {
        let args = Args::new(3).text("LOAD").text("REPLACE").text(library);
        client.custom::<Value, _>(custom("FUNCTION"), args.0).await?;
    }
    Ok(())
}

/// Asks a new connection who is at the other end, and answers its era.
async fn greet(client: &Client, loads: bool) -> Result<Era, Error> {
    let read = |fault: Fault| fault::read(&fault);
    let info: Value =
        client.custom(custom("INFO"), Args::new(1).text("replication").0).await.map_err(read)?;
    let info = value::text(info)?;
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    if field("role") != Some("master") {
        return Err(Error::Refused(Refusal::ReadOnly));
    }
    if loads {
        load(client).await.map_err(read)?;
    }
    let era = field("master_replid").ok_or_else(|| Error::Unreadable("a primary without an id".into()))?;
    Ok(era.into())
}

impl Watch {
    pub(super) async fn run(mut self, stop: CancellationToken) {
        while let Some(input) = self.next(&stop).await {
            self.apply(input);
        }
        self.close().await;
    }

    async fn next(&mut self, stop: &CancellationToken) -> Option<Input> {
        tokio::select! {
            () = stop.cancelled() => None,
            Some(done) = self.work.join_next() => Some(Input::Done(done.expect("a probe does not panic"))),
            Some(()) = self.suspects.recv() => Some(Input::Suspect),
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) = self.reconnects.recv() => Some(Input::Back),
            lost = self.errors.recv() => match lost {
                Ok((fault, _)) => Some(Input::Lost(Some(fault::read(&fault)))),
                Err(broadcast::error::RecvError::Lagged(_)) => Some(Input::Lost(None)),
                Err(broadcast::error::RecvError::Closed) => None,
            },
            _ = self.clock.tick() => Some(Input::Tick),
        }
    }

    fn apply(&mut self, input: Input) {
        match input {
            Input::Tick => self.tick(),
            Input::Lost(error) => self.lost(error),
            Input::Back => {
                info!(duty = ?self.duty, "bus connection made anew");
                self.metrics.reconnects.inc();
                self.connection += 1;
                self.lost(None);
                self.probe();
            }
            Input::Suspect => {
                self.connection += 1;
                self.lost(None);
                self.probe();
            }
            Input::Done(Done::Forced) => self.forcing = false,
            Input::Done(Done::Alive { connection, result }) => {
                self.probing = false;
                if connection == self.connection { self.heard(result) } else { self.probe() }
            }
        }
    }

    fn tick(&mut self) {
        if self.driver.is_finished() {
            debug!(duty = ?self.duty, "bus client ended by itself; begun again");
            self.driver = self.client.connect();
        }
        self.forced = false;
        self.probe();
    }

    /// Asks for a sign of life; a connection that is not up is greeted.
    fn probe(&mut self) {
        if self.probing {
            return;
        }
        // Behind a command that waits in the server a probe would say nothing.
        let Ok(turn) = self.turn.clone().try_acquire_owned() else { return };
        self.probing = true;
        let (client, connection) = (self.client.clone(), self.connection);
        let loads = self.config.loads_functions && self.duty != Duty::Live;
        let up = self.up.borrow().is_ok();
        let (ping, greeting) = (self.config.probe_timeout, self.config.call_timeout);
        self.work.spawn(async move {
            let result = if up {
                let sign = client.custom::<Value, _>(custom("PING"), Vec::<Value>::new());
                tokio::time::timeout(ping, sign)
                    .await
                    .map(|sign| sign.map(|_| None).map_err(|f| fault::read(&f)))
            } else {
                tokio::time::timeout(greeting, greet(&client, loads)).await.map(|era| era.map(Some))
            };
            drop(turn);
            Done::Alive { connection, result: result.unwrap_or(Err(Error::Timeout)) }
        });
    }

    fn heard(&mut self, result: Result<Option<Era>, Error>) {
        match result {
            Ok(Some(era)) => self.set(Ok(era)),
            Ok(None) => {}
            // The connection is whole, the server not yet.
            Err(
                error @ Error::Refused(
                    Refusal::Loading | Refusal::NoReplicas | Refusal::Busy | Refusal::NoPermission,
                ),
            ) => self.lost(Some(error)),
            Err(error) => {
                self.force(&error);
                self.lost(Some(error));
            }
        }
    }

    /// It is down. A refusal says why; what else is known of a lost connection helps no caller.
    fn lost(&mut self, error: Option<Error>) {
        let why = error.filter(|error| matches!(error, Error::Refused(_)));
        if let Some(refusal) = &why {
            self.metrics.refused(refusal);
            if self.up.borrow().as_ref().err() != Some(refusal) {
                match refusal {
                    Error::Refused(word) if word.passes() => {
                        warn!(duty = ?self.duty, %refusal, "bus connection")
                    }
                    _ => error!(duty = ?self.duty, %refusal, "bus connection: this takes an operator"),
                }
            }
        }
        self.set(Err(why.unwrap_or(Error::Unreachable { sent: false })));
    }

    fn set(&mut self, state: Result<Era, Error>) {
        if self.up.borrow().is_ok() != state.is_ok() {
            info!(duty = ?self.duty, up = state.is_ok(), "bus connection");
        }
        let _ = self.up.send_replace(state);
    }

    /// Has the connection made anew. The library answers only when that is done, and does so by
    /// itself where it knows that the connection is gone.
    fn force(&mut self, error: &Error) {
        if self.forcing || self.forced || !self.client.is_connected() {
            return;
        }
        warn!(duty = ?self.duty, %error, "bus connection does not answer; it is made anew");
        (self.forcing, self.forced) = (true, true);
        let client = self.client.clone();
        self.work.spawn(async move {
            if let Err(fault) = client.force_reconnection().await {
                debug!(%fault, "bus connection could not be made anew");
            }
            Done::Forced
        });
    }

    async fn close(&mut self) {
        let _ = self.up.send_replace(Err(Error::Closed));
        self.work.shutdown().await;
        let _ = tokio::time::timeout(self.config.probe_timeout, self.client.quit()).await;
        self.driver.abort();
    }
}
