//! One call of a session, as a stream of what happens to it: answers, then its end. It goes through the
//! trunk like a call of any dialect.

use super::{
    super::{
        bind,
        desc::{Kind, Method},
        json,
        trunk::{Call, Input, Reply, Trunk},
    },
    failure,
    form::{Begin, Form},
};
use crate::metrics::Dialect;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http::{Extensions, HeaderMap, HeaderValue};
use plexus_proto::{reason::Reason, v1};
use prost::Message as _;
use prost_reflect::DynamicMessage;
use std::{sync::Arc, time::Duration};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

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
}

/// Checks what begins a call.
pub(super) fn prepare(
    trunk: &Trunk,
    form: Form,
    begin: &Begin,
    headers: &HeaderMap,
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
    let mut headers = headers.clone();
    for (name, value) in [("traceparent", &begin.traceparent), ("tracestate", &begin.tracestate)] {
        if let Some(value) = HeaderValue::from_str(value).ok().filter(|v| !v.is_empty()) {
            headers.insert(name, value);
        }
    }
    let first = request(form, &method, begin)?;
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
    let extensions = extensions.clone();
    let call =
        Call { dialect: Dialect::Websocket, method: method.clone(), headers, extensions, timeout, input };
    let credit = (begin.window > 0).then(|| Arc::new(Semaphore::new(begin.window as usize)));
    Ok(Prepared { method, call, form, inputs, credit })
}

/// The encoded request. A `request_id` of the frame fills the field of that name, as the header
/// `Idempotency-Key` does in REST.
fn request(form: Form, method: &Method, begin: &Begin) -> Result<Bytes, Box<v1::Error>> {
    let plain = begin.request_id.is_empty();
    match form {
        Form::Proto if plain => Ok(begin.params.clone()),
        Form::Json if plain => json::to_proto(&method.input, &begin.params),
        _ => {
            let mut message = match form {
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

    /// Runs the call. Dropping the stream cancels it.
    pub(super) fn run(self, trunk: Trunk) -> impl Stream<Item = Happening> + Send {
        let headers = self.call.headers.clone();
        let run = Run { trunk, form: self.form, method: self.method, headers, credit: self.credit };
        stream::unfold(Step::Begin(Box::new(run), Box::new(self.call)), |step| async move {
            match step {
                Step::Begin(run, call) => Some(run.begin(*call).await),
                Step::Open(run, reply) => Some(run.go_on(reply).await),
                Step::Over => None,
            }
        })
        .boxed()
    }
}

enum Step {
    Begin(Box<Run>, Box<Call>),
    Open(Box<Run>, Box<Reply>),
    Over,
}

struct Run {
    trunk: Trunk,
    form: Form,
    method: Arc<Method>,
    headers: HeaderMap,
    credit: Option<Arc<Semaphore>>,
}

impl Run {
    async fn begin(self: Box<Self>, call: Call) -> (Happening, Step) {
        let reply = self.trunk.call(call).await;
        if self.method.kind.streams() {
            return self.go_on(Box::new(reply)).await;
        }
        let happening = match reply.only().await {
            Ok((answer, _)) => self.answer(&answer, self.method.kind == Kind::Unary),
            Err((status, _)) => Happening::Failed(Box::new(failure(&status, &self.headers))),
        };
        (happening, Step::Over)
    }

    async fn go_on(self: Box<Self>, mut reply: Box<Reply>) -> (Happening, Step) {
        if let Some(answer) = reply.next().await {
            // Only events cost credit: the end of a call comes without.
            if let Some(credit) = &self.credit
                // Fails only once closed, and it never is.
                && let Ok(permit) = credit.acquire().await
            {
                permit.forget();
            }
            return match self.answer(&answer, false) {
                failed @ Happening::Failed(_) => (failed, Step::Over),
                answer => (answer, Step::Open(self, reply)),
            };
        }
        let happening = match reply.finish().await.0 {
            Ok(()) => Happening::End,
            Err(status) => Happening::Failed(Box::new(failure(&status, &self.headers))),
        };
        (happening, Step::Over)
    }

    fn answer(&self, answer: &super::super::trunk::Answer, only: bool) -> Happening {
        match self.form {
            Form::Proto => Happening::Answer(answer.proto(), only),
            Form::Json => match answer.json(&self.method.output) {
                Ok(json) => Happening::Answer(json, only),
                Err(error) => Happening::Failed(error),
            },
        }
    }
}
