//! One call of a session, as a stream of what happens to it: answers, then its end. It goes through the
//! trunk like a call of any dialect.

use super::{
    super::{
        bind,
        desc::{self, Method},
        json,
        reply::{Answer, Reply},
        trunk::{Call, Input, Trunk},
    },
    Metadata, boxed, failure,
    form::{Begin, Form},
};
use crate::{frame::Seat, metrics::Dialect};
use bytes::Bytes;
use futures::{FutureExt, Stream, future::BoxFuture};
use http::{Extensions, HeaderValue};
use plexus_proto::{
    reason::Reason,
    v1::{
        self, SessionFrame,
        session_frame::{self, Kind},
    },
};
use prost::Message as _;
use prost_reflect::{DynamicMessage, Value};
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::PollSemaphore;
use tonic::Status;

/// The field of a request that ends its stream after so many messages.
const LIMIT: &str = "limit";

/// Requests of a client-streaming call that may wait for its handler; more are refused.
pub(super) const INPUTS_MAX: usize = 32;

/// What happens to a call.
pub(super) enum Happening {
    /// An answer in the session's form; whether it is the only one.
    Answer(Bytes, bool),
    /// A stream ended without an error.
    End,
    /// It failed.
    Failed(Box<v1::Error>),
}

impl Happening {
    /// Tells whether nothing follows.
    pub(super) fn is_last(&self) -> bool {
        !matches!(self, Self::Answer(_, false))
    }
}

/// A call that is checked and ready to run.
pub(super) struct Prepared {
    method: Arc<Method>,
    call: Call,
    form: Form,
    /// Where further requests go, for calls that take many.
    pub(super) inputs: Option<mpsc::Sender<Result<Bytes, Status>>>,
    /// How many events may be sent; absent: no window.
    pub(super) credit: Option<Arc<Semaphore>>,
    /// Its place in the session, if another session can take it up.
    pub(super) seat: Option<Arc<Seat>>,
}

/// Checks what begins a call.
pub(super) fn prepare(
    trunk: &Trunk,
    form: Form,
    (id, begin): (u32, &Begin),
    headers: &Metadata,
    extensions: &Extensions,
) -> Result<Prepared, Box<v1::Error>> {
    let method = trunk.registry().call(&begin.call).cloned().ok_or_else(|| {
        Box::new(v1::Error::new(Reason::MethodNotFound, format!("call: no method {:?}", begin.call)))
    })?;
    let timeout_max = trunk.limits().call_timeout_max;
    let timeout = (begin.timeout_ms > 0).then(|| Duration::from_millis(begin.timeout_ms.into()));
    if timeout.is_some_and(|t| t > timeout_max) {
        let text = format!("0 to {} ms", timeout_max.as_millis());
        return Err(Box::new(
            v1::Error::new(Reason::BadDeadline, format!("timeoutMs: {text}")).violation("timeoutMs", text),
        ));
    }
    let mut headers = headers.as_deref().cloned().unwrap_or_default();
    for (name, value) in [("traceparent", &begin.traceparent), ("tracestate", &begin.tracestate)] {
        if let Some(value) = HeaderValue::from_str(value).ok().filter(|v| !v.is_empty()) {
            headers.insert(name, value);
        }
    }
    let first = request(&method, begin)?;
    let mut extensions = extensions.clone();
    let seat = seat(id, begin, &method, &first);
    if let Some(seat) = &seat {
        extensions.insert(seat.clone());
    }
    let (input, inputs) = if method.kind.takes_one() {
        (Input::One(first), None)
    } else {
        let (tx, rx) = mpsc::channel(INPUTS_MAX);
        // A call that takes many has its first request in `params`, if there is one.
        if !begin.params.is_empty() {
            tx.try_send(Ok(first)).expect("the channel is new and empty");
        }
        (Input::from(ReceiverStream::new(rx)), Some(tx))
    };
    let call =
        Call { dialect: Dialect::Websocket, method: method.clone(), headers, extensions, timeout, input };
    let credit = (begin.window > 0).then(|| Arc::new(Semaphore::new(begin.window as usize)));
    Ok(Prepared { method, call, form, inputs, credit, seat })
}

/// The place of a stream that says where it goes on: its request can be made again from there, for what is
/// left of its limit and of its time.
fn seat(id: u32, begin: &Begin, method: &Arc<Method>, request: &Bytes) -> Option<Arc<Seat>> {
    if !method.resumes {
        return None;
    }
    let (call, window, method, request) = (begin.call.clone(), begin.window, method.clone(), request.clone());
    let ends =
        (begin.timeout_ms > 0).then(|| Instant::now() + Duration::from_millis(begin.timeout_ms.into()));
    let again = move |left| {
        let time = ends.map(|ends| ends.saturating_duration_since(Instant::now()).as_millis().max(1));
        let kind = match left {
            Some(0) => Kind::End(session_frame::End { cancelled: false }),
            _ => Kind::Call(call.clone()),
        };
        let frame = SessionFrame {
            id,
            kind: Some(kind),
            params: limited(&method, &request, left),
            timeout_ms: time.map_or(0, |ms| u32::try_from(ms).unwrap_or(u32::MAX)),
            window,
            ..SessionFrame::default()
        };
        frame.encode_to_vec()
    };
    Some(Arc::new(Seat::new(Box::new(again))))
}

/// A request for so many messages; `None`: for as many as it asks for.
fn limited(method: &Method, request: &Bytes, left: Option<u32>) -> Bytes {
    let set = |left: u32| {
        let field = method.input.get_field_by_name(LIMIT)?;
        let mut message = DynamicMessage::decode(method.input.clone(), request.clone()).ok()?;
        message.set_field(&field, Value::U32(left));
        Some(message.encode_to_vec().into())
    };
    left.and_then(set).unwrap_or_else(|| request.clone())
}

/// The encoded request. A `request_id` of the frame fills the field of that name, as the header
/// `Idempotency-Key` does in REST.
fn request(method: &Method, begin: &Begin) -> Result<Bytes, Box<v1::Error>> {
    let plain = begin.request_id.is_empty();
    match begin.form {
        Form::Proto if plain => Ok(begin.params.clone()),
        Form::Json if plain => json::to_proto(&method.input, &begin.params),
        _ => {
            let mut message = match begin.form {
                Form::Json => json::read(&method.input, &begin.params, json::Unknown::Ignore)?,
                Form::Proto => DynamicMessage::decode(method.input.clone(), begin.params.clone())
                    .map_err(|e| Box::new(v1::Error::new(Reason::BadFrame, format!("params: {e}"))))?,
            };
            if let Some(field) = method.input.get_field_by_name("request_id")
                && !message.has_field(&field)
            {
                bind::set(&mut message, "request_id", &begin.request_id)?;
            }
            Ok(message.encode_to_vec().into())
        }
    }
}

/// One more request of a call that takes many.
pub(super) fn input(form: Form, method: &Method, bytes: Bytes) -> Result<Bytes, Status> {
    match form {
        Form::Proto => Ok(bytes),
        Form::Json => json::to_proto(&method.input, &bytes).map_err(|e| crate::error::status(&e)),
    }
}

impl Prepared {
    /// The method.
    pub(super) fn method(&self) -> Arc<Method> {
        self.method.clone()
    }

    /// Runs the call. Dropping it cancels the call.
    pub(super) fn run(self, trunk: Trunk) -> Running {
        let Self { method, call, form, credit, seat, .. } = self;
        let (headers, credit) = (boxed(call.headers.clone()), credit.map(PollSemaphore::new));
        let begin = async move { trunk.call(call).await }.boxed();
        Running { form, method, headers, credit, seat, step: Step::Begin(begin) }
    }
}

/// A call that runs: a stream of what happens to it. Polled by hand, as a reader of a busy topic comes by
/// here for every message.
pub(super) struct Running {
    form: Form,
    method: Arc<Method>,
    headers: Metadata,
    credit: Option<PollSemaphore>,
    seat: Option<Arc<Seat>>,
    step: Step,
}

enum Step {
    /// The trunk is asked.
    Begin(BoxFuture<'static, Reply>),
    /// The only answer of a unary call is waited for.
    Only(BoxFuture<'static, Result<Answer, Status>>),
    /// Answers come. One that is there may wait for credit.
    Open(Box<Reply>, Option<Answer>),
    Over,
}

impl Stream for Running {
    type Item = Happening;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Happening>> {
        let me = &mut *self;
        loop {
            match &mut me.step {
                Step::Begin(begin) => {
                    let mut reply = ready!(begin.poll_unpin(context));
                    // Metadata is not told, and need not be kept.
                    drop(reply.headers());
                    me.step = if me.method.kind.streams() {
                        Step::Open(Box::new(reply), None)
                    } else {
                        let only = async { reply.only().await.map(|(a, _)| a).map_err(|(s, _)| s) };
                        Step::Only(only.boxed())
                    };
                }
                Step::Only(only) => {
                    let answer = ready!(only.poll_unpin(context));
                    me.step = Step::Over;
                    return Poll::Ready(Some(match answer {
                        Ok(answer) => me.answer(&answer, me.method.kind == desc::Kind::Unary),
                        Err(status) => Happening::Failed(Box::new(failure(&status, &me.headers))),
                    }));
                }
                Step::Open(reply, held) => {
                    if held.is_none() {
                        *held = ready!(reply.poll_next(context));
                    }
                    let Some(answer) = held.take() else { return Poll::Ready(Some(me.end())) };
                    // Only events cost credit: the end of a call comes without.
                    if let Some(credit) = &mut me.credit {
                        match credit.poll_acquire(context) {
                            // None once closed, and it never is.
                            Poll::Ready(permit) => permit.into_iter().for_each(|permit| permit.forget()),
                            Poll::Pending => {
                                *held = Some(answer);
                                me.hold(true);
                                return Poll::Pending;
                            }
                        }
                    }
                    me.hold(false);
                    let happening = me.answer(&answer, false);
                    if matches!(happening, Happening::Failed(_)) {
                        me.step = Step::Over;
                    }
                    return Poll::Ready(Some(happening));
                }
                Step::Over => return Poll::Ready(None),
            }
        }
    }
}

impl Running {
    /// How it ended, once there is no answer left.
    fn end(&mut self) -> Happening {
        let Step::Open(reply, _) = std::mem::replace(&mut self.step, Step::Over) else {
            return Happening::End;
        };
        match reply.outcome().0 {
            Ok(()) => Happening::End,
            Err(status) => Happening::Failed(Box::new(failure(&status, &self.headers))),
        }
    }

    /// Notes whether an answer was taken from its stream and waits here.
    fn hold(&self, held: bool) {
        if let Some(seat) = &self.seat {
            seat.hold(held);
        }
    }

    fn answer(&self, answer: &Answer, only: bool) -> Happening {
        match self.form {
            Form::Proto => Happening::Answer(answer.proto(), only),
            Form::Json => match answer.json(&self.method.output) {
                Ok(json) => Happening::Answer(json, only),
                Err(error) => Happening::Failed(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::desc::Registry;

    #[test]
    fn a_call_is_begun_again_for_what_is_left_of_its_limit_and_its_time() {
        let registry = Registry::new(&[plexus_proto::DESCRIPTOR], &["plexus.v1.TopicService"], &[]).unwrap();
        let method = registry.call("TopicService.Subscribe").unwrap();
        let request = v1::SubscribeRequest { topic: "a".into(), limit: 9, ..Default::default() };
        let request: Bytes = request.encode_to_vec().into();
        let begin = Begin { call: "TopicService.Subscribe".into(), timeout_ms: 5000, ..Begin::default() };
        let seat = seat(7, &begin, method, &request).unwrap();
        for (left, limit) in [(None, 9), (Some(4), 4)] {
            let frame = SessionFrame::decode(&*seat.again(left)).unwrap();
            let again = v1::SubscribeRequest::decode(frame.params).unwrap();
            assert_eq!((frame.id, again.topic.as_str(), again.limit), (7, "a", limit));
            assert!((1..=5000).contains(&frame.timeout_ms), "{}", frame.timeout_ms);
            assert_eq!(frame.kind, Some(Kind::Call(begin.call.clone())));
        }
        let over = SessionFrame::decode(&*seat.again(Some(0))).unwrap();
        assert!(matches!(over.kind, Some(Kind::End(_))), "{over:?}");
        let begin = Begin { timeout_ms: 0, ..begin };
        let seat = super::seat(7, &begin, method, &request).unwrap();
        assert_eq!(SessionFrame::decode(&*seat.again(None)).unwrap().timeout_ms, 0);
    }
}
