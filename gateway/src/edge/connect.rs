//! Connect, gRPC-Web and gRPC with JSON: the official runtime speaks them, and every call of it becomes
//! a call of the trunk, message by message. It takes encoded bytes, so a shared answer is written as it is.

use super::{
    desc::{Kind, Method},
    guard, json, limits,
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
use http::{HeaderMap, Request, Uri, header};
use http_body::Body as _;
use plexus_proto::{reason::Reason, v1};
use std::sync::Arc;
use tonic::{Code, Status};
use tower::ServiceExt;

/// Where requests go that are refused, whatever they ask for.
const REFUSED_CALL: &str = "/-/Call";
const REFUSED_STREAM: &str = "/-/Stream";

/// In a request's extensions: it was refused before anything was read, and its dialect must say so.
#[derive(Clone, Debug)]
pub(crate) struct Refused(pub(crate) Status);

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
        // The runtime's own refusals carry no reason, so it takes more than a call may have. A body may hold
        // compressed or base64 text of a message.
        let size = 2 * trunk.limits().message_bytes_max;
        let limits = Limits::default().with_max_message_size(size).with_max_request_body_size(size);
        Self { runtime: ConnectRpcService::new(Bridge(trunk.clone())).with_limits(limits), trunk }
    }

    /// Answers a request.
    pub(crate) async fn handle(&self, mut request: Request<Body>) -> http::Response<Body> {
        if let Err(refusal) = self.check(&request) {
            let refused = request.extensions_mut().remove::<Refused>().unwrap_or(Refused(refusal));
            request = stand_in(request, refused);
        }
        match self.runtime.clone().oneshot(request).await {
            Ok(response) => response.map(Body::new),
            Err(never) => match never {},
        }
    }

    /// Finds what the runtime would refuse without a reason, or not miss.
    fn check(&self, request: &Request<Body>) -> Result<(), Status> {
        let (path, size) = (request.uri().path(), self.trunk.limits().message_bytes_max);
        let Some(method) = self.trunk.registry().method(path) else {
            return Err(self.trunk.registry().missing(path));
        };
        if request.body().size_hint().lower() > 2 * size as u64 {
            return Err(method.refusal(&guard::too_large(size)));
        }
        deadline(request.headers()).map_err(|refusal| method.refusal(&refusal))
    }
}

/// A request in the same dialect that reaches the bridge for certain, which then tells the refusal.
fn stand_in(request: Request<Body>, refused: Refused) -> Request<Body> {
    let kind = request.headers().get(header::CONTENT_TYPE).map_or(&b""[..], |k| k.as_bytes());
    let enveloped = kind.starts_with(b"application/grpc") || kind.starts_with(b"application/connect+");
    let streams = kind.starts_with(b"application/connect+");
    let body = if enveloped { Body::from(&[0; 5][..]) } else { Body::empty() };
    let mut request = request.map(|_| body);
    for name in ["content-length", "content-encoding", "connect-content-encoding", "grpc-encoding"] {
        request.headers_mut().remove(name);
    }
    if request.method() == http::Method::POST {
        *request.uri_mut() = Uri::from_static(if streams { REFUSED_STREAM } else { REFUSED_CALL });
    }
    request.extensions_mut().insert(refused);
    request
}

/// Checks the deadline, which the runtime would not miss if it cannot be read.
fn deadline(headers: &HeaderMap) -> Result<(), Box<v1::Error>> {
    let zero = limits::grpc_timeout(headers)?.is_some_and(|t| t.is_zero());
    let Some(text) = headers.get("connect-timeout-ms").map(|v| v.as_bytes()) else {
        return if zero { Err(Box::new(limits::expired())) } else { Ok(()) };
    };
    if text.is_empty() || text.len() > 10 || !text.iter().all(u8::is_ascii_digit) {
        return Err(Box::new(v1::Error::new(Reason::BadDeadline, "connect-timeout-ms: 1 to 10 digits")));
    }
    if text.iter().all(|d| *d == b'0') { Err(Box::new(limits::expired())) } else { Ok(()) }
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
        let timeout = context.time_remaining();
        async move {
            if let Some(Refused(refusal)) = refused {
                return Err(up(&refusal));
            }
            let method = method?;
            let input = input(&method)?;
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

fn read(method: &Method, format: CodecFormat, message: Bytes, most: usize) -> Result<Bytes, ConnectError> {
    if message.len() > most {
        return Err(up(&method.refusal(&guard::too_large(most))));
    }
    match format {
        CodecFormat::Json => json::to_proto(&method.input, &message).map_err(|e| up(&method.refusal(&e))),
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

/// What the runtime found wrong with a request, for the service that reads it.
fn down(error: ConnectError) -> Status {
    Status::new(Code::from_i32(error.code.grpc_code() as i32), error.message.unwrap_or_default())
}

fn many(
    method: &Arc<Method>,
    format: CodecFormat,
    requests: dispatcher::RequestStream,
    most: usize,
) -> Input {
    let method = method.clone();
    let requests = requests.map(move |r| r.and_then(|bytes| read(&method, format, bytes, most)));
    Input::Many(requests.map(|r| r.map_err(down)).boxed())
}

impl Dispatcher for Bridge {
    fn lookup(&self, path: &str) -> Option<dispatcher::MethodDescriptor> {
        if path == &REFUSED_STREAM[1..] {
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
            Ok(Input::One(read(m, format, request.encoded()?, most)?))
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
        self.stream(path, &context, format, move |m| Ok(Input::One(read(m, format, request, most)?)))
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
