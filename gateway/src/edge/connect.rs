//! Connect, gRPC-Web and gRPC with JSON: the official runtime speaks them, and every call of it becomes
//! a call of the trunk, message by message. It takes encoded bytes, so a shared answer is written as it is.

use super::{
    desc::{Kind, Method},
    guard,
    intake::{self, Refused, Until},
    json, limits,
    reply::{Answer, Reply},
    trunk::{Call, Input, Trunk, metadata},
};
use crate::{error, metrics::Dialect};
use axum::body::Body;
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use bytes::Bytes;
use connectrpc::{
    CodecFormat, ConnectError, ConnectRpcService, Dispatcher, EncodedBody, EncodedStream, ErrorCode, Limits,
    Payload, RequestContext, Response, dispatcher, error::ErrorDetail,
};
use futures::{StreamExt, stream};
use http::Request;
use plexus_proto::v1;
use std::sync::Arc;
use tokio::time::Instant;
use tonic::Status;
use tower::ServiceExt;

/// The runtime over the trunk.
#[derive(Clone)]
pub(crate) struct Connect {
    trunk: Trunk,
    runtime: ConnectRpcService<Bridge>,
}

/// What the runtime calls.
struct Bridge(Trunk);

impl Connect {
    /// Puts the runtime in front of the trunk.
    pub(crate) fn new(trunk: Trunk) -> Self {
        // The runtime's own refusals carry no reason, so it takes more than a call may have.
        let size = 2 * trunk.limits().message_bytes_max;
        let limits = Limits::default().with_max_message_size(size).with_max_request_body_size(size);
        Self { runtime: ConnectRpcService::new(Bridge(trunk.clone())).with_limits(limits), trunk }
    }

    /// Answers a request.
    pub(crate) async fn handle(&self, request: Request<Body>) -> http::Response<Body> {
        let request =
            intake::take(request, self.trunk.registry(), self.trunk.limits().message_bytes_max).await;
        match self.runtime.clone().oneshot(request).await {
            Ok(response) => response.map(Body::new),
            Err(never) => match never {},
        }
    }
}

impl Bridge {
    /// Bytes of a message at most.
    fn most(&self) -> usize {
        self.0.limits().message_bytes_max
    }

    fn method(&self, path: &str) -> Result<Arc<Method>, ConnectError> {
        let found = self.0.registry().method(&format!("/{path}")).cloned();
        found.ok_or_else(|| up(&self.0.registry().missing(&format!("/{path}"))))
    }

    /// Makes the call; the future owns all it needs.
    fn call(
        &self,
        path: &str,
        context: &RequestContext,
        input: impl FnOnce(&Arc<Method>) -> Result<Input, ConnectError> + Send + 'static,
    ) -> impl Future<Output = Result<(Arc<Method>, Reply), ConnectError>> + Send + 'static {
        let (trunk, method) = (self.0.clone(), self.method(path));
        let refused = context.extensions().get::<Refused>().cloned();
        let (headers, extensions) = (metadata(context.headers()), context.extensions().clone());
        let until = extensions.get::<Until>().map(|Until(at)| *at);
        async move {
            if let Some(Refused(refusal)) = refused {
                return Err(up(&refusal));
            }
            let method = method?;
            let input = input(&method)?;
            let timeout = until.map(|at| at.saturating_duration_since(Instant::now()));
            let call = Call {
                dialect: Dialect::Connect,
                method: method.clone(),
                headers,
                extensions,
                timeout,
                input,
            };
            Ok((method, trunk.call(call).await))
        }
    }

    fn unary(
        &self,
        path: &str,
        context: &RequestContext,
        format: CodecFormat,
        input: impl FnOnce(&Arc<Method>) -> Result<Input, ConnectError> + Send + 'static,
    ) -> dispatcher::UnaryResult {
        let call = self.call(path, context, input);
        Box::pin(async move {
            let (method, mut reply) = call.await?;
            let headers = reply.headers();
            match reply.only().await {
                Ok((answer, trailers)) => {
                    let mut response = Response::new(write(&method, format, &answer)?);
                    response.headers = headers;
                    response.trailers = trailers;
                    Ok(response)
                }
                Err((status, trailers)) => Err(up(&status).with_headers(headers).with_trailers(trailers)),
            }
        })
    }

    fn stream(
        &self,
        path: &str,
        context: &RequestContext,
        format: CodecFormat,
        input: impl FnOnce(&Arc<Method>) -> Result<Input, ConnectError> + Send + 'static,
    ) -> dispatcher::StreamingResult {
        let call = self.call(path, context, input);
        Box::pin(async move {
            let (method, mut reply) = call.await?;
            if reply.is_refused() {
                let headers = reply.headers();
                let (outcome, trailers) = reply.finish().await;
                let status = outcome.err().unwrap_or_else(|| Status::unknown("refused without a reason"));
                return Err(up(&status).with_headers(headers).with_trailers(trailers));
            }
            let (headers, trailers) = (reply.headers(), reply.trailers());
            let answers = stream::unfold(Some(reply), move |reply| next(reply, method.clone(), format));
            let mut response: Response<EncodedStream> = Response::stream(answers);
            response.headers = headers;
            response.trailers = trailers;
            Ok(response)
        })
    }
}

/// The next answer of a stream, and the reply while there may be more.
async fn next(
    reply: Option<Reply>,
    method: Arc<Method>,
    format: CodecFormat,
) -> Option<(Result<EncodedBody, ConnectError>, Option<Reply>)> {
    let mut reply = reply?;
    match reply.next().await {
        Some(answer) => {
            let written = write(&method, format, &answer);
            let more = written.is_ok().then_some(reply);
            Some((written, more))
        }
        None => match reply.outcome() {
            (Ok(()), _) => None,
            (Err(status), trailers) => Some((Err(up(&status).with_trailers(trailers)), None)),
        },
    }
}

fn read(method: &Method, format: CodecFormat, message: Bytes, most: usize) -> Result<Bytes, Status> {
    if message.len() > most {
        return Err(method.refusal(&guard::too_large(most)));
    }
    match format {
        CodecFormat::Json => json::to_proto(&method.input, &message).map_err(|e| method.refusal(&e)),
        _ => Ok(message),
    }
}

fn write(method: &Method, format: CodecFormat, answer: &Answer) -> Result<EncodedBody, ConnectError> {
    let bytes = match format {
        CodecFormat::Json => answer.json(&method.output).map_err(|e| up(&method.refusal(&e)))?,
        _ => answer.proto(),
    };
    Ok(EncodedBody::from(bytes))
}

/// An outcome as the runtime writes it, with all its details.
fn up(status: &Status) -> ConnectError {
    let code = ErrorCode::from_grpc_code(status.code() as u32).unwrap_or(ErrorCode::Unknown);
    error::any_details(status).into_iter().fold(ConnectError::new(code, status.message()), |error, detail| {
        let name = detail.type_url.rsplit('/').next().unwrap_or_default();
        let value = Some(STANDARD_NO_PAD.encode(&detail.value));
        error.with_detail(ErrorDetail { type_url: name.into(), value, debug: None })
    })
}

/// What the runtime found wrong with one of many requests, for the service that reads them.
fn down(method: &Method, error: &ConnectError, most: usize) -> Status {
    let text = error.message.clone().unwrap_or_default();
    method.refusal(&match error.code {
        ErrorCode::ResourceExhausted => guard::too_large(most),
        ErrorCode::DeadlineExceeded => limits::expired(),
        _ => v1::Error::field("body", text),
    })
}

fn many(
    method: &Arc<Method>,
    format: CodecFormat,
    requests: dispatcher::RequestStream,
    most: usize,
) -> Input {
    let method = method.clone();
    let requests = requests.map(move |request| match request {
        Ok(message) => read(&method, format, message, most),
        Err(error) => Err(down(&method, &error, most)),
    });
    Input::Many(requests.boxed())
}

impl Dispatcher for Bridge {
    fn lookup(&self, path: &str) -> Option<dispatcher::MethodDescriptor> {
        if path == &intake::REFUSED_STREAM[1..] {
            return Some(dispatcher::MethodDescriptor::server_streaming());
        }
        // What is not there is a call without side effects, so that a GET of it is told so as well.
        let Ok(method) = self.method(path) else { return Some(dispatcher::MethodDescriptor::unary(true)) };
        Some(match method.kind {
            Kind::Unary => dispatcher::MethodDescriptor::unary(method.safe),
            Kind::ServerStream => dispatcher::MethodDescriptor::server_streaming(),
            Kind::ClientStream => dispatcher::MethodDescriptor::client_streaming(),
            Kind::Bidi => dispatcher::MethodDescriptor::bidi_streaming(),
        })
    }

    fn call_unary(
        &self,
        path: &str,
        context: RequestContext,
        request: Payload,
        format: CodecFormat,
    ) -> dispatcher::UnaryResult {
        let most = self.most();
        self.unary(path, &context, format, move |m| {
            Ok(Input::One(read(m, format, request.encoded()?, most).map_err(|e| up(&e))?))
        })
    }

    fn call_server_streaming(
        &self,
        path: &str,
        context: RequestContext,
        request: Bytes,
        format: CodecFormat,
    ) -> dispatcher::StreamingResult {
        let most = self.most();
        self.stream(path, &context, format, move |m| {
            Ok(Input::One(read(m, format, request, most).map_err(|e| up(&e))?))
        })
    }

    fn call_client_streaming(
        &self,
        path: &str,
        context: RequestContext,
        requests: dispatcher::RequestStream,
        format: CodecFormat,
    ) -> dispatcher::UnaryResult {
        let most = self.most();
        self.unary(path, &context, format, move |m| Ok(many(m, format, requests, most)))
    }

    fn call_bidi_streaming(
        &self,
        path: &str,
        context: RequestContext,
        requests: dispatcher::RequestStream,
        format: CodecFormat,
    ) -> dispatcher::StreamingResult {
        let most = self.most();
        self.stream(path, &context, format, move |m| Ok(many(m, format, requests, most)))
    }
}
