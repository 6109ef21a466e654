//! What travels: a payload that is encoded only where it leaves the process, and the envelope of a
//! call in memory. The bus carries envelopes and never looks inside their payloads.

use crate::{Error, GatewayId, NodeName};
use bytes::Bytes;
use plexus_proto::{bus as wire, v1};
use std::{any::Any, fmt, sync::Arc, time::SystemTime};

/// A message that can travel.
pub trait Frame: Any + Send + Sync + Clone {
    /// Encodes it as it is on the wire.
    fn to_bytes(&self) -> Bytes;
    /// Tells about how many bytes that makes; never fewer than its payloads.
    fn size(&self) -> usize;
    /// Decodes it.
    fn from_bytes(bytes: Bytes) -> Result<Self, Error>;
}

impl<M: prost::Message + Default + Clone + 'static> Frame for M {
    fn to_bytes(&self) -> Bytes {
        self.encode_to_vec().into()
    }

    fn size(&self) -> usize {
        self.encoded_len()
    }

    fn from_bytes(bytes: Bytes) -> Result<Self, Error> {
        M::decode(bytes).map_err(|e| Error::Unreadable(e.to_string()))
    }
}

trait Held: Send + Sync {
    fn encode(&self) -> Bytes;
    fn encoded_size(&self) -> usize;
    fn any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

impl<F: Frame> Held for F {
    fn encode(&self) -> Bytes {
        self.to_bytes()
    }

    fn encoded_size(&self) -> usize {
        self.size()
    }

    fn any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

/// A message on its way: the thing itself within a process, its bytes between processes.
#[derive(Clone)]
pub struct Payload(Inner);

#[derive(Clone)]
enum Inner {
    Encoded(Bytes),
    Held(Arc<dyn Held>),
}

impl Payload {
    /// Takes a message as it is; nothing is encoded.
    pub fn of<F: Frame>(message: F) -> Self {
        Self(Inner::Held(Arc::new(message)))
    }

    /// Shares a message as it is; nothing is encoded or copied.
    pub fn shared<F: Frame>(message: Arc<F>) -> Self {
        Self(Inner::Held(message))
    }

    /// Takes an encoded message.
    pub fn encoded(bytes: impl Into<Bytes>) -> Self {
        Self(Inner::Encoded(bytes.into()))
    }

    /// Encodes the message unless it is encoded already.
    pub fn to_bytes(&self) -> Bytes {
        match &self.0 {
            Inner::Encoded(bytes) => bytes.clone(),
            Inner::Held(message) => message.encode(),
        }
    }

    /// Tells about how many bytes it has on the wire, without encoding it.
    pub fn size(&self) -> usize {
        match &self.0 {
            Inner::Encoded(bytes) => bytes.len(),
            Inner::Held(message) => message.encoded_size(),
        }
    }

    /// Leaves only bytes: what a carrier between processes does.
    #[must_use]
    pub fn flatten(self) -> Self {
        Self::encoded(self.to_bytes())
    }

    /// Reads the message, shared where it was never encoded.
    pub fn open<F: Frame>(&self) -> Result<Arc<F>, Error> {
        match &self.0 {
            Inner::Encoded(bytes) => F::from_bytes(bytes.clone()).map(Arc::new),
            Inner::Held(message) => match message.clone().any().downcast::<F>() {
                Ok(message) => Ok(message),
                Err(_) => F::from_bytes(message.encode()).map(Arc::new),
            },
        }
    }

    /// Takes the message out, without a copy where nobody else holds it.
    pub fn take<F: Frame>(self) -> Result<F, Error> {
        let message = self.open::<F>()?;
        drop(self);
        Ok(Arc::unwrap_or_clone(message))
    }
}

impl Default for Payload {
    fn default() -> Self {
        Self::encoded(Bytes::new())
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Inner::Encoded(bytes) => write!(f, "Payload({} bytes)", bytes.len()),
            Inner::Held(_) => f.write_str("Payload(held)"),
        }
    }
}

/// Id of a call: a UUIDv7, the same when the call is sent again.
pub type CallId = uuid::Uuid;

/// One message of a call, in either direction (envelope.proto `Envelope`).
#[derive(Clone, Debug)]
pub struct Envelope {
    /// Id of the call.
    pub id: CallId,
    /// Number of this message in its direction of the call, from 0.
    pub sequence: u64,
    /// W3C `traceparent` of the sender's span; empty: none.
    pub traceparent: String,
    /// W3C `tracestate`.
    pub tracestate: String,
    /// From a worker: epoch of its grant; else 0.
    pub epoch: u64,
    /// What it is.
    pub body: Body,
}

/// What an envelope carries.
#[derive(Clone, Debug)]
pub enum Body {
    /// Begins a call.
    Call(Box<Call>),
    /// One more request of a streaming call.
    Input {
        /// The request; absent with `done` alone.
        payload: Option<Payload>,
        /// No more follow.
        done: bool,
    },
    /// The owner has it.
    Taken {
        /// The owner's incarnation.
        worker: String,
    },
    /// One answer of a stream.
    Output(Payload),
    /// The end of the call.
    Outcome(Outcome),
    /// Allows the other side to send more.
    Credit {
        /// Payload bytes in addition.
        bytes: u32,
        /// Messages in addition.
        messages: u32,
    },
    /// The caller is gone or gave up; a reason's name.
    Cancel(String),
}

/// A call.
#[derive(Clone, Debug)]
pub struct Call {
    /// Full method name: `plexus.v1.TopicService/Publish`.
    pub method: Arc<str>,
    /// The request.
    pub payload: Payload,
    /// The node; `None`: any worker.
    pub node: Option<NodeName>,
    /// The namespace of the caller.
    pub namespace: Arc<str>,
    /// The gateway that waits.
    pub reply_to: GatewayId,
    /// After this nobody waits; absent: a stream without end.
    pub deadline: Option<SystemTime>,
    /// Who asks; already authorised.
    pub caller: wire::Principal,
    /// The caller's `request_id`; empty: the call's id alone tells repeats.
    pub idempotency_key: String,
    /// Highest owner's epoch the gateway knows.
    pub epoch_seen: u64,
    /// Rises with each sending.
    pub attempt: u32,
    /// Whether the gateway may send it again by itself.
    pub idempotent: bool,
    /// Bytes of output that the owner may send before more credit; 0: unary.
    pub credit: u32,
}

/// The end of a call.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The answer of a unary call, empty for a stream, or why it failed.
    pub result: Result<Payload, Box<v1::Error>>,
    /// Answers a repeat; nothing was done again.
    pub from_window: bool,
    /// The worker does not own the node: wait for the next owner and send again.
    pub moved: bool,
}

/// About what an envelope adds to its payload.
const ENVELOPE_BYTES: usize = 64;

impl Frame for Envelope {
    fn to_bytes(&self) -> Bytes {
        prost::Message::encode_to_vec(&self.to_wire()).into()
    }

    fn size(&self) -> usize {
        let body = match &self.body {
            Body::Call(call) => call.payload.size() + call.method.len() + call.idempotency_key.len(),
            Body::Input { payload, .. } => payload.as_ref().map_or(0, Payload::size),
            Body::Output(payload) => payload.size(),
            Body::Outcome(Outcome { result: Ok(payload), .. }) => payload.size(),
            Body::Outcome(Outcome { result: Err(error), .. }) => prost::Message::encoded_len(error.as_ref()),
            Body::Taken { .. } | Body::Credit { .. } | Body::Cancel(_) => 0,
        };
        ENVELOPE_BYTES + self.traceparent.len() + self.tracestate.len() + body
    }

    fn from_bytes(bytes: Bytes) -> Result<Self, Error> {
        Self::from_wire(wire::Envelope::from_bytes(bytes)?)
    }
}

impl Envelope {
    fn to_wire(&self) -> wire::Envelope {
        use wire::envelope::Body as W;
        let body = match self.body.clone() {
            Body::Call(call) => W::Call(call.into_wire()),
            Body::Input { payload, done } => {
                W::Input(wire::Input { payload: payload.map(|p| p.to_bytes()).unwrap_or_default(), done })
            }
            Body::Taken { worker } => W::Taken(wire::Taken { worker, subject: String::new() }),
            Body::Output(payload) => W::Output(wire::Output { payload: payload.to_bytes() }),
            Body::Outcome(outcome) => W::Outcome(outcome.into_wire()),
            Body::Credit { bytes, messages } => W::Credit(wire::Credit { bytes, messages }),
            Body::Cancel(reason) => W::Cancel(wire::Cancel { reason }),
        };
        wire::Envelope {
            id: Bytes::copy_from_slice(self.id.as_bytes()),
            sequence: self.sequence,
            traceparent: self.traceparent.clone(),
            tracestate: self.tracestate.clone(),
            epoch: self.epoch,
            body: Some(body),
        }
    }

    fn from_wire(envelope: wire::Envelope) -> Result<Self, Error> {
        use wire::envelope::Body as W;
        let bad = |what: &str| Error::Unreadable(format!("envelope without {what}"));
        let body = match envelope.body.ok_or_else(|| bad("a body"))? {
            W::Call(call) => Body::Call(Box::new(Call::from_wire(call)?)),
            W::Input(input) => Body::Input {
                payload: (!input.payload.is_empty() || !input.done).then(|| Payload::encoded(input.payload)),
                done: input.done,
            },
            W::Taken(taken) => Body::Taken { worker: taken.worker },
            W::Output(output) => Body::Output(Payload::encoded(output.payload)),
            W::Outcome(outcome) => Body::Outcome(Outcome::from_wire(outcome)),
            W::Credit(credit) => Body::Credit { bytes: credit.bytes, messages: credit.messages },
            W::Cancel(cancel) => Body::Cancel(cancel.reason),
        };
        Ok(Self {
            id: CallId::from_slice(&envelope.id).map_err(|_| bad("an id of 16 bytes"))?,
            sequence: envelope.sequence,
            traceparent: envelope.traceparent,
            tracestate: envelope.tracestate,
            epoch: envelope.epoch,
            body,
        })
    }
}

impl Call {
    fn into_wire(self) -> wire::Call {
        wire::Call {
            method: self.method.as_ref().into(),
            payload: self.payload.to_bytes(),
            namespace: self.namespace.as_ref().into(),
            node: self.node.as_ref().map(|n| n.node().to_owned()).unwrap_or_default(),
            reply_to: self.reply_to.as_ref().into(),
            deadline: self.deadline.map(Into::into),
            caller: Some(self.caller),
            idempotency_key: self.idempotency_key,
            epoch_seen: self.epoch_seen,
            attempt: self.attempt,
            idempotent: self.idempotent,
            streams: false,
            credit: self.credit,
        }
    }

    fn from_wire(call: wire::Call) -> Result<Self, Error> {
        let node = match call.node.as_str() {
            "" => None,
            node => Some(NodeName::new(&call.namespace, node)?),
        };
        let deadline = call.deadline.map(SystemTime::try_from).transpose();
        Ok(Self {
            method: call.method.into(),
            payload: Payload::encoded(call.payload),
            node,
            namespace: call.namespace.into(),
            reply_to: call.reply_to.into(),
            deadline: deadline.map_err(|_| Error::Unreadable("a deadline out of range".into()))?,
            caller: call.caller.unwrap_or_default(),
            idempotency_key: call.idempotency_key,
            epoch_seen: call.epoch_seen,
            attempt: call.attempt,
            idempotent: call.idempotent,
            credit: call.credit,
        })
    }
}

impl Outcome {
    fn into_wire(self) -> wire::Outcome {
        let (payload, error) = match self.result {
            Ok(payload) => (payload.to_bytes(), None),
            Err(error) => (Bytes::new(), Some(*error)),
        };
        wire::Outcome { payload, error, from_window: self.from_window, moved: self.moved }
    }

    fn from_wire(outcome: wire::Outcome) -> Self {
        let result = match outcome.error {
            Some(error) => Err(Box::new(error)),
            None => Ok(Payload::encoded(outcome.payload)),
        };
        Self { result, from_window: outcome.from_window, moved: outcome.moved }
    }
}
