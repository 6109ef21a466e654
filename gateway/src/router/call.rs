//! A call on its way into the loop, and the stream of answers on its way out.

use super::{
    Failure,
    notes::{Note, Notes},
    queue::Queue,
    subscriptions::Wish,
};
use futures::{Stream, stream::BoxStream};
use plexus_bus::{Call, CallId, GatewayId, NodeName, Payload, Trace};
use plexus_proto::{bus::Principal, reason::Reason, v1};
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Instant, SystemTime},
};
use tokio::sync::{mpsc, oneshot};

/// Answers of one stream that may wait for their caller.
pub(super) const OUTPUTS_MAX: usize = 1024;
/// Bytes of answers that an owner may send ahead.
const CREDIT: u32 = 256 << 10;

/// Answers of a streaming call; an error ends it.
pub type Answers = BoxStream<'static, Result<Payload, Failure>>;

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

/// What the handle asks of the loop.
pub(super) enum Command {
    Call { id: CallId, call: Box<Call>, trace: Trace, deadline: Option<Instant>, sink: Sink },
    Subscribe { wish: Box<Wish>, answer: oneshot::Sender<Result<Queue, Failure>> },
}

/// Where answers go.
pub(super) enum Sink {
    Unary(oneshot::Sender<Result<Payload, Failure>>),
    Stream(mpsc::Sender<Output>),
    /// The router's own: the owner joins a topic.
    Join(u32),
}

/// One word of a stream. A channel that closes without `End` fell behind.
pub(super) enum Output {
    Next(Payload),
    End(Result<(), Failure>),
}

impl Request {
    pub(super) fn command(self, id: CallId, gateway: &GatewayId, sink: Sink) -> Command {
        let left = self.deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let call = Call {
            method: self.method.into(),
            payload: self.payload,
            node: self.node,
            namespace: self.namespace,
            reply_to: gateway.clone(),
            deadline: left.map(|left| SystemTime::now() + left),
            caller: Arc::unwrap_or_clone(self.caller),
            idempotency_key: self.idempotency_key,
            epoch_seen: 0,
            attempt: 0,
            idempotent: self.idempotent,
            credit: if matches!(sink, Sink::Stream(_)) { CREDIT } else { 0 },
        };
        Command::Call { id, call: Box::new(call), trace: self.trace, deadline: self.deadline, sink }
    }
}

/// Tells the loop when a caller gave up.
pub(super) struct Guard {
    id: CallId,
    notes: Option<Notes>,
}

impl Guard {
    pub(super) fn new(id: CallId, notes: Notes) -> Self {
        Self { id, notes: Some(notes) }
    }

    /// The call is over.
    pub(super) fn disarm(&mut self) {
        self.notes = None;
    }

    fn took(&self, bytes: u32) {
        if let Some(notes) = &self.notes {
            notes.say(Note::Took(self.id, bytes));
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(notes) = &self.notes {
            notes.say(Note::CallGone(self.id));
        }
    }
}

/// The caller's end of a stream: takes answers and gives credit back.
pub(super) struct Outputs {
    answers: Option<mpsc::Receiver<Output>>,
    guard: Guard,
    taken: u32,
}

impl Outputs {
    pub(super) fn new(answers: mpsc::Receiver<Output>, guard: Guard) -> Self {
        Self { answers: Some(answers), guard, taken: 0 }
    }
}

impl Stream for Outputs {
    type Item = Result<Payload, Failure>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(answers) = &mut self.answers else { return Poll::Ready(None) };
        let next = ready!(answers.poll_recv(cx));
        let end = match next {
            Some(Output::Next(payload)) => {
                self.taken = self.taken.saturating_add(payload.to_bytes().len() as u32);
                if self.taken >= CREDIT / 2 {
                    let taken = std::mem::take(&mut self.taken);
                    self.guard.took(taken);
                }
                return Poll::Ready(Some(Ok(payload)));
            }
            Some(Output::End(result)) => result.err(),
            None => {
                let message = format!("the caller fell behind by more than {OUTPUTS_MAX} answers");
                Some(Box::new(v1::Error::new(Reason::Overloaded, message)))
            }
        };
        self.answers = None;
        self.guard.disarm();
        Poll::Ready(end.map(Err))
    }
}
