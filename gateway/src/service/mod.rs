//! What each call means. A service checks a request, finds its node, and asks the router or the bus;
//! it knows no dialect and holds no state.
//!
//! [`nodes`], [`peers`] and [`topics`] are the capabilities, [`admin`], [`fleet`] and [`moves`] are for operators. [`records`] changes what the store holds
//! of a node, [`status`] tells what a node is, [`mask`] what an update changes; [`reading`] turns a
//! subscription into the router's terms, [`history`] reads logs back, [`watch`] follows nodes, [`page`]
//! cuts lists.

mod admin;
mod fleet;
mod history;
mod mask;
mod moves;
mod nodes;
pub(crate) mod page;
mod peers;
mod reading;
mod records;
mod status;
mod topics;
pub(crate) mod watch;

use crate::{
    caller::{Caller, Deadline},
    config,
    edge::Services,
    error,
    holdings::{Hold, Holdings},
    router::{Failure, Request as Asked, Router},
};
use futures::{Stream, StreamExt, stream::BoxStream};
use plexus_bus::{Frame, NodeName, Payload, Trace};
use plexus_proto::{
    reason::Reason,
    spec, text,
    v1::{
        self, admin_service_server::AdminServiceServer, node_service_server::NodeServiceServer,
        peer_service_server::PeerServiceServer, topic_service_server::TopicServiceServer,
    },
};
use std::{
    collections::HashSet,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};
use tonic::{Request, Response, Status, codec::CompressionEncoding, server::NamedService};
use watch::Watching;

/// The node that paths without a node mean; it is made on first use.
const DEFAULT: &str = "default";
/// The answer leaves this much before the caller's deadline, so that the reason arrives, not the
/// dialect's own timeout.
const MARGIN: Duration = Duration::from_millis(100);

/// What every service holds.
#[derive(Clone)]
pub(crate) struct Service {
    router: Router,
    watching: Watching,
    limits: Arc<config::Limits>,
    auth: Arc<config::Auth>,
}

/// Makes the services, and tells their names.
pub(crate) fn routes(
    router: Router,
    watching: Watching,
    config: &config::Config,
) -> (Services, Vec<&'static str>) {
    let limits = Arc::new(config.limits.clone());
    let size = limits.message_bytes_max;
    let service = Service { router, watching, limits, auth: Arc::new(config.auth.clone()) };
    // The generated servers share no trait that could say this once.
    macro_rules! served {
        ($server:ident) => {
            $server::new(service.clone())
                .max_decoding_message_size(size)
                .accept_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Gzip)
        };
    }
    let routes = Services::default()
        .add_service(served!(AdminServiceServer))
        .add_service(served!(NodeServiceServer))
        .add_service(served!(PeerServiceServer))
        .add_service(served!(TopicServiceServer));
    (routes, names())
}

/// The full names of the services: `plexus.v1.NodeService`, ….
fn names() -> Vec<&'static str> {
    vec![
        AdminServiceServer::<Service>::NAME,
        NodeServiceServer::<Service>::NAME,
        PeerServiceServer::<Service>::NAME,
        TopicServiceServer::<Service>::NAME,
    ]
}

/// The methods that need no credentials.
pub(crate) fn for_all() -> Vec<&'static str> {
    vec![admin::VERSION]
}

/// Who asks, until when, and as part of what.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    caller: Caller,
    /// When to answer at the latest; `None`: a stream without end.
    deadline: Option<Instant>,
    trace: Trace,
}

impl Context {
    /// The same, but for at most so long.
    fn within(&self, limit: Duration) -> Self {
        let limit = Instant::now() + limit;
        let deadline = Some(self.deadline.map_or(limit, |at| at.min(limit)));
        Self { deadline, ..self.clone() }
    }
}

/// What the connection of a request holds.
fn holdings<T>(request: &Request<T>) -> Holdings {
    request.extensions().get().cloned().unwrap_or_default()
}

/// A stream that keeps what it holds until it ends.
fn held<T: 'static>(stream: impl Stream<Item = T> + Send + 'static, hold: Hold) -> BoxStream<'static, T> {
    stream
        .map(move |next| {
            let _held = &hold;
            next
        })
        .boxed()
}

impl Service {
    /// Reads the context of a unary call.
    fn context<T>(&self, request: &Request<T>) -> Context {
        let context = self.open_context(request);
        let now = Instant::now();
        let at = context.deadline.unwrap_or(now + self.limits.call_timeout);
        let left = at.saturating_duration_since(now);
        Context { deadline: Some(at - MARGIN.min(left / 4)), ..context }
    }

    /// Reads the context of a stream, which may have no end.
    fn open_context<T>(&self, request: &Request<T>) -> Context {
        let extensions = request.extensions();
        let word =
            |name: &str| request.metadata().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
        Context {
            caller: extensions.get().cloned().unwrap_or_else(Caller::anonymous),
            deadline: extensions.get::<Deadline>().map(|d| d.0),
            trace: Trace::new(word("traceparent"), word("tracestate")),
        }
    }

    /// Finds the node that a field names: by id, by PeerId, or `default` where it is empty.
    async fn node(&self, context: &Context, field: &str) -> Result<NodeName, Failure> {
        let namespace = &*context.caller.namespace;
        let id = if field.is_empty() { DEFAULT } else { field };
        if let Ok(name) = NodeName::new(namespace, id) {
            return Ok(name);
        }
        // Grants name nodes by their ids, and were judged by what the request says.
        if !context.caller.grants.is_all() {
            return Err(Box::new(v1::Error::field(
                "node",
                "an id: only a caller that may do everything names it by a PeerId",
            )));
        }
        let peer = text::peer_id_from_text(field).map_err(|_| {
            let wanted = "an id of `a-z`, `0-9` and `-`, or a PeerId in any text form";
            Box::new(v1::Error::field("node", wanted))
        })?;
        let found = self.router.bus().find(&peer).await.map_err(|e| crate::router::unavailable(&e))?;
        found.filter(|name| name.namespace() == namespace).ok_or_else(|| not_found(field))
    }

    /// Asks a node's owner; makes node `default` where it is asked for and not there yet.
    async fn ask<Q: Frame, A: Frame>(
        &self,
        context: &Context,
        node: &NodeName,
        call: Call<Q>,
    ) -> Result<A, Failure> {
        let payload = Payload::of(call.request);
        let asked = |payload: Payload| {
            self.request(context, Some(node.clone()), call.method, payload, &call.key, call.safe)
        };
        let answer = match self.router.call(asked(payload.clone())).await {
            Err(error) if absent(node, &error) => {
                self.make_default(context).await?;
                self.router.call(asked(payload)).await
            }
            answer => answer,
        };
        open(answer?)
    }

    fn request(
        &self,
        context: &Context,
        node: Option<NodeName>,
        method: &'static str,
        payload: Payload,
        key: &str,
        safe: bool,
    ) -> Asked {
        Asked {
            method,
            payload,
            node,
            namespace: context.caller.namespace.clone(),
            caller: context.caller.principal.clone(),
            deadline: context.deadline,
            idempotency_key: key.to_owned(),
            idempotent: safe || idempotent(method),
            trace: context.trace.clone(),
        }
    }

    /// Makes node `default`, unless somebody is faster.
    async fn make_default(&self, context: &Context) -> Result<(), Failure> {
        let request = v1::CreateNodeRequest { id: DEFAULT.into(), ..v1::CreateNodeRequest::default() };
        let payload = Payload::of(request);
        match self.router.call(self.request(context, None, nodes::CREATE, payload, "", true)).await {
            Err(error) if !error.is(Reason::NodeExists) => Err(error),
            _ => Ok(()),
        }
    }
}

/// A call to an owner.
struct Call<Q> {
    method: &'static str,
    request: Q,
    /// The caller's `request_id`.
    key: String,
    /// It may be repeated although the contract does not say so of the method.
    safe: bool,
}

impl<Q> Call<Q> {
    fn new(method: &'static str, request: Q) -> Self {
        Self { method, request, key: String::new(), safe: false }
    }

    fn keyed(method: &'static str, request: Q, key: &str) -> Self {
        Self { key: key.to_owned(), ..Self::new(method, request) }
    }
}

/// Methods that the contract calls free of side effects or idempotent.
fn idempotent(method: &str) -> bool {
    static METHODS: LazyLock<HashSet<String>> = LazyLock::new(|| {
        let set: prost_types::FileDescriptorSet =
            prost::Message::decode(plexus_proto::DESCRIPTOR).expect("the build wrote this descriptor");
        let mut methods: HashSet<String> = HashSet::new();
        for file in &set.file {
            for service in &file.service {
                let safe = |m: &&prost_types::MethodDescriptorProto| {
                    m.options.as_ref().is_some_and(|o| o.idempotency_level.is_some_and(|level| level > 0))
                };
                let full = |m: &prost_types::MethodDescriptorProto| {
                    format!("{}.{}/{}", file.package(), service.name(), m.name())
                };
                methods.extend(service.method.iter().filter(safe).map(full));
            }
        }
        methods
    });
    METHODS.contains(method) || method.starts_with("plexus.bus.v1.Owner/")
}

/// Node `default` that is not there yet.
fn absent(node: &NodeName, error: &v1::Error) -> bool {
    node.node() == DEFAULT && error.is(Reason::NodeNotFound)
}

fn not_found(node: &str) -> Failure {
    Box::new(v1::Error::new(Reason::NodeNotFound, format!("there is no node {node:?}")).with("node", node))
}

/// Reads an answer of the other side.
fn open<A: Frame>(payload: Payload) -> Result<A, Failure> {
    payload.take().map_err(|error| Box::new(v1::Error::new(Reason::Internal, error.to_string())))
}

/// Checks a `request_id`; empty is none.
fn check_key(id: &str) -> Result<(), Failure> {
    spec::check_request_id(id)
}

/// Reads a topic.
fn read_topic(field: &str, spelled: &str) -> Result<plexus_bus::Topic, Failure> {
    text::topic_from_text(spelled).map_err(|error| {
        Box::new(
            v1::Error::new(Reason::BadTopic, format!("{field}: {error}")).violation(field, error.to_string()),
        )
    })
}

/// Reads a PeerId.
fn read_peer(field: &str, spelled: &str) -> Result<bytes::Bytes, Failure> {
    text::peer_id_from_text(spelled).map_err(|error| {
        Box::new(
            v1::Error::new(Reason::BadPeerId, format!("{field}: {error}"))
                .violation(field, error.to_string()),
        )
    })
}

/// Reads an enum. A number that it does not have is refused, not taken for none.
fn known<E: TryFrom<i32>>(field: &str, value: i32) -> Result<E, Failure> {
    E::try_from(value).or_else(|_| wrong(field, format!("{value} is no value of this enum")))
}

fn wrong<T>(field: impl Into<String>, wanted: impl Into<String>) -> Result<T, Failure> {
    Err(Box::new(v1::Error::field(field, wanted)))
}

/// Puts an answer into the form of the trunk.
fn respond<T>(result: Result<T, Failure>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|failure| error::status(&failure))
}

fn unavailable(cause: plexus_bus::Error) -> Failure {
    crate::router::unavailable(&cause)
}

#[cfg(test)]
mod tests;
