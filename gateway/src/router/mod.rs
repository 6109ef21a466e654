//! Who waits: calls until their answer, readers until their next message. [`Router`] is the handle
//! that services hold; its [`EventLoop`] is the sole owner of what waits. It talks to the bus only,
//! and never looks into a payload.

mod event_loop;

pub use event_loop::EventLoop;

use crate::{config, frame::Frames};
use futures::stream::BoxStream;
use plexus_bus::{Bus, GatewayId, NodeName, Payload};
use plexus_proto::{bus::Principal, v1};
use std::{sync::Arc, time::Instant};
use tokio::sync::mpsc;

/// A failed call, as the caller will see it.
pub type Failure = Box<v1::Error>;

/// Answers of a streaming call; an error ends it.
pub type Answers = BoxStream<'static, Result<Payload, Failure>>;

/// The handle; cheap to clone.
#[derive(Clone)]
pub struct Router {
    #[expect(dead_code, reason = "the loop comes next")]
    commands: mpsc::Sender<Command>,
    bus: Bus,
    gateway: GatewayId,
    #[expect(dead_code, reason = "the loop comes next")]
    config: Arc<config::Router>,
}

/// A call to make.
#[derive(Clone, Debug)]
pub struct Request {
    /// Full method name: `plexus.v1.TopicService/Publish`.
    pub method: &'static str,
    /// The request.
    pub payload: Payload,
    /// The node; `None`: any worker may take it.
    pub node: Option<NodeName>,
    /// The caller's namespace.
    pub namespace: Arc<str>,
    /// Who asks.
    pub caller: Arc<Principal>,
    /// When the caller stops waiting; `None`: a stream without end.
    pub deadline: Option<Instant>,
    /// The caller's `request_id`; empty: none.
    pub idempotency_key: String,
    /// Whether it may be sent again without asking.
    pub idempotent: bool,
    /// The trace it belongs to.
    pub trace: Trace,
}

/// A W3C trace context; empty: none.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// `traceparent`.
    pub parent: String,
    /// `tracestate`.
    pub state: String,
}

/// What the handle asks of the loop.
pub(crate) enum Command {}

impl Router {
    /// Makes the handle and its loop.
    pub fn new(bus: Bus, config: config::Router) -> (Self, EventLoop) {
        let (commands, queue) = mpsc::channel(config.queue);
        let gateway: GatewayId = format!("gw-{}", uuid::Uuid::new_v4().simple()).into();
        let router = Self { commands, bus, gateway, config: config.into() };
        (router, EventLoop::new(queue))
    }

    /// The bus, for what needs no owner: records, logs.
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// The id of this gateway on the bus.
    pub fn gateway(&self) -> &GatewayId {
        &self.gateway
    }

    /// Makes a unary call and waits for its answer, at most until its deadline.
    pub async fn call(&self, _request: Request) -> Result<Payload, Failure> {
        Err(Box::new(v1::Error::new(v1::error::Reason::MethodNotFound, "not built yet")))
    }

    /// Makes a streaming call; dropping the stream cancels it.
    pub async fn stream(&self, _request: Request) -> Result<Answers, Failure> {
        Err(Box::new(v1::Error::new(v1::error::Reason::MethodNotFound, "not built yet")))
    }

    /// Follows topics. Answers once every topic has begun.
    pub async fn subscribe(&self) -> Result<Frames, Failure> {
        Err(Box::new(v1::Error::new(v1::error::Reason::MethodNotFound, "not built yet")))
    }
}
