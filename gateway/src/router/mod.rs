//! Who waits: calls until their answer, readers until their next message. [`Router`] is the handle
//! that services hold; its [`EventLoop`] is the sole owner of what waits. It talks to the bus only,
//! and never looks into a request.
//!
//! [`pending`] are calls, by protocol.md P19. [`reader`] is one topic's [`place`] in its log (P20–P22),
//! [`topic`] the readers that move with it, [`cursors`] how they come to, [`subscriptions`] all of them
//! and [`interest`] what that makes of nodes (P23), [`queue`] what waits for one reader, [`beats`] when it hears that
//! it lives, [`frames`] the words it hears. All
//! of these are pure. [`heard`] is what the loop listens to, [`notes`] what those who wait tell it, [`orders`]
//! how it does what is asked, [`jobs`] the slow work that it sends out, [`metrics`] what is counted.

mod beats;
mod call;
mod cursors;
mod event_loop;
pub(crate) mod frames;
mod heard;
mod interest;
mod jobs;
mod metrics;
mod notes;
mod orders;
mod pending;
pub(crate) mod place;
pub(crate) mod queue;
pub(crate) mod reader;
pub(crate) mod subscriptions;
mod topic;

pub use call::{Answers, Request};
pub use event_loop::EventLoop;
pub(crate) use jobs::{ends, page, read, standing};
pub use metrics::{ByBound, ByReason, Metrics};
pub(crate) use pending::{Standing, unavailable};
pub(crate) use subscriptions::draining;

use crate::{config, frame::Frames, resume::Tokens};
use call::{Command, Guard, Outputs};
use notes::Notes;
use plexus_bus::{Bus, CallId, GatewayId, Payload};
use plexus_proto::{reason::Reason, v1};
use std::sync::Arc;
use subscriptions::Wish;
use tokio::sync::{mpsc, oneshot};

/// A failed call, as the caller will see it.
pub type Failure = Box<v1::Error>;

/// The handle; cheap to clone.
#[derive(Clone)]
pub struct Router {
    commands: mpsc::Sender<Command>,
    notes: Notes,
    bus: Bus,
    gateway: GatewayId,
    config: Arc<config::Router>,
    tokens: Tokens,
    metrics: Arc<Metrics>,
}

impl Router {
    /// Makes the handle and its loop, which gives `tokens` the key of the bus where they have none.
    pub fn new(bus: Bus, config: config::Router, tokens: Tokens, metrics: Metrics) -> (Self, EventLoop) {
        let (commands, queue) = mpsc::channel(config.queue);
        let (notes, metrics) = (Notes::default(), Arc::new(metrics));
        let gateway: GatewayId = format!("gw-{}", uuid::Uuid::new_v4().simple()).into();
        let event_loop = EventLoop::new(
            bus.clone(),
            gateway.clone(),
            config.clone(),
            queue,
            notes.clone(),
            tokens.clone(),
            metrics.clone(),
        );
        (Self { commands, notes, bus, gateway, config: config.into(), tokens, metrics }, event_loop)
    }

    /// The bus, for what needs no owner: records, logs.
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// The id of this gateway on the bus.
    pub fn gateway(&self) -> &GatewayId {
        &self.gateway
    }

    /// Bounds.
    pub(crate) fn config(&self) -> &config::Router {
        &self.config
    }

    /// Makes and reads resume tokens.
    pub(crate) fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Makes a unary call and waits for its answer, at most until its deadline.
    pub async fn call(&self, request: Request) -> Result<Payload, Failure> {
        let (answer, waiting) = oneshot::channel();
        let id = CallId::now_v7();
        self.send(request.command(id, &self.gateway, call::Sink::Unary(answer)))?;
        let mut guard = Guard::new(id, self.notes.clone());
        let result = waiting.await;
        guard.disarm();
        result.unwrap_or_else(|_| Err(subscriptions::draining()))
    }

    /// Makes a streaming call; dropping the stream cancels it.
    pub fn stream(&self, request: Request) -> Result<Answers, Failure> {
        let (outputs, answers) = mpsc::channel(call::OUTPUTS_MAX);
        let id = CallId::now_v7();
        self.send(request.command(id, &self.gateway, call::Sink::Stream(outputs)))?;
        Ok(Box::pin(Outputs::new(answers, Guard::new(id, self.notes.clone()))))
    }

    /// Follows topics. Answers once every topic has begun.
    pub(crate) async fn subscribe(&self, wish: Wish) -> Result<Frames, Failure> {
        let (answer, waiting) = oneshot::channel();
        self.send(Command::Subscribe { wish: Box::new(wish), answer })?;
        match waiting.await {
            Ok(queue) => {
                let queue = queue?;
                queue.sit();
                Ok(Box::pin(queue))
            }
            Err(_) => Err(subscriptions::draining()),
        }
    }

    fn send(&self, command: Command) -> Result<(), Failure> {
        self.commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                self.metrics.refuse("queue");
                let message = format!("{} requests wait for the router already", self.config.queue);
                Box::new(v1::Error::new(Reason::Overloaded, message))
            }
            mpsc::error::TrySendError::Closed(_) => subscriptions::draining(),
        })
    }
}
