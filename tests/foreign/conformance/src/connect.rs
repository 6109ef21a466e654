//! `ConformanceService` of the Connect suite: it does what the request says and tells what it saw.

use futures::{StreamExt, stream, stream::BoxStream};
use http::{HeaderMap, HeaderName, HeaderValue};
use plexus_gateway::{caller::Deadline, edge::Trailers};
use prost::{Message, Name};
use prost_types::Any;
use std::time::{Duration, Instant};
use tonic::{
    Code, Extensions, Request, Response, Status, Streaming, metadata::MetadataMap, server::NamedService,
};
use tonic_types::pb;
use v1::{
    conformance_payload::RequestInfo, conformance_service_server::ConformanceServiceServer,
    unary_response_definition::Response as Asked, *,
};

/// The suite's messages.
#[expect(unreachable_pub, reason = "generated")]
#[allow(dead_code, reason = "generated; rustc does not count an expectation of it as fulfilled")]
pub(crate) mod v1 {
    tonic::include_proto!("connectrpc.conformance.v1");
}

/// The service's full name.
pub(crate) const NAME: &str = ConformanceServiceServer::<Conformance>::NAME;

/// Deadline of calls that bring none; the suite asks for seconds.
pub(crate) const NO_DEADLINE: Duration = Duration::from_secs(300);

/// The service.
pub(crate) fn server() -> ConformanceServiceServer<Conformance> {
    ConformanceServiceServer::new(Conformance)
}

pub(crate) struct Conformance;

type Answers<T> = BoxStream<'static, Result<T, Status>>;

/// What was seen of a call before its messages.
struct Seen {
    headers: Vec<Header>,
    timeout_ms: Option<i64>,
}

impl Seen {
    fn new(metadata: &MetadataMap, extensions: &Extensions) -> Self {
        let metadata = metadata.clone().into_headers();
        let values = |name| metadata.get_all(name).iter().map(text).collect();
        let headers =
            metadata.keys().map(|name| Header { name: name.to_string(), value: values(name) }).collect();
        let left = extensions.get::<Deadline>().map(|d| d.0.saturating_duration_since(Instant::now()));
        let timeout_ms = left.filter(|left| *left < NO_DEADLINE / 2).map(|left| left.as_millis() as i64);
        Self { headers, timeout_ms }
    }

    fn info(self, requests: Vec<Any>) -> RequestInfo {
        RequestInfo {
            request_headers: self.headers,
            timeout_ms: self.timeout_ms,
            requests,
            connect_get_info: None,
        }
    }
}

/// A header's value as it is; the suite sends no others than ASCII.
fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: format!("type.googleapis.com/{}", M::full_name()), value: message.encode_to_vec() }
}

fn headers(pairs: &[Header]) -> HeaderMap {
    let pairs = pairs.iter().flat_map(|h| h.value.iter().map(|v| (&h.name, v)));
    pairs
        .filter_map(|(name, value)| {
            Some((name.parse::<HeaderName>().ok()?, value.parse::<HeaderValue>().ok()?))
        })
        .collect()
}

/// The outcome that is asked for; what was seen goes along where no answer could tell it.
fn failure(error: &Error, seen: Option<RequestInfo>, metadata: HeaderMap) -> Status {
    let mut details = error.details.clone();
    details.extend(seen.map(|info| any(&info)));
    let message = error.message.clone().unwrap_or_default();
    let status = pb::Status { code: error.code, message: message.clone(), details };
    let details = status.encode_to_vec().into();
    let metadata = MetadataMap::from_headers(metadata);
    Status::with_details_and_metadata(Code::from_i32(error.code), message, details, metadata)
}

/// The one answer that is asked for.
async fn one<T>(
    asked: Option<UnaryResponseDefinition>,
    seen: RequestInfo,
    answer: impl FnOnce(ConformancePayload) -> T,
) -> Result<Response<T>, Status> {
    let asked = asked.unwrap_or_default();
    let (leading, trailing) = (headers(&asked.response_headers), headers(&asked.response_trailers));
    tokio::time::sleep(Duration::from_millis(asked.response_delay_ms.into())).await;
    let data = match asked.response {
        Some(Asked::Error(error)) => {
            // A status has only one bag of metadata, and the suite knows that.
            let metadata = leading.into_iter().chain(trailing);
            return Err(failure(&error, Some(seen), collect(metadata)));
        }
        Some(Asked::ResponseData(data)) => data,
        None => Default::default(),
    };
    Ok(response(answer(ConformancePayload { data, request_info: Some(seen) }), leading, trailing))
}

fn collect(metadata: impl Iterator<Item = (Option<HeaderName>, HeaderValue)>) -> HeaderMap {
    let mut map = HeaderMap::new();
    let mut last = None;
    for (name, value) in metadata {
        last = name.or(last);
        map.extend(last.clone().map(|name| (name, value)));
    }
    map
}

fn response<T>(body: T, leading: HeaderMap, trailing: HeaderMap) -> Response<T> {
    let mut response = Response::from_parts(MetadataMap::from_headers(leading), body, Extensions::default());
    response.extensions_mut().insert(Trailers(trailing));
    response
}

/// What a stream has left to say.
struct Script<T> {
    asked: StreamResponseDefinition,
    /// Answers given so far.
    given: usize,
    /// What was seen, until it is told.
    seen: Option<Seen>,
    /// Requests that no answer has told yet.
    requests: Vec<Any>,
    /// Requests that each call for one answer, while there are any.
    more: Option<Streaming<BidiStreamRequest>>,
    wrap: fn(ConformancePayload) -> T,
}

impl<T: Send + 'static> Script<T> {
    fn play(self) -> Response<Answers<T>> {
        let leading = headers(&self.asked.response_headers);
        let trailing = headers(&self.asked.response_trailers);
        // The end of one that fails is its status, which has the trailers.
        let trailers = if self.asked.error.is_some() { HeaderMap::new() } else { trailing };
        let answers = stream::unfold(Some(self), |script| async {
            let mut script = script?;
            match script.next().await {
                Ok(Some(answer)) => Some((Ok(answer), Some(script))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        });
        response(answers.boxed(), leading, trailers)
    }

    async fn next(&mut self) -> Result<Option<T>, Status> {
        // The first request is there already.
        if let Some(more) = self.more.as_mut().filter(|_| self.given > 0) {
            match more.message().await? {
                Some(request) => self.requests.push(any(&request)),
                None => self.more = None,
            }
        }
        let Some(data) = self.asked.response_data.get(self.given).cloned() else {
            return self.end().map(|()| None);
        };
        tokio::time::sleep(Duration::from_millis(self.asked.response_delay_ms.into())).await;
        self.given += 1;
        let requests = std::mem::take(&mut self.requests);
        let info = match self.seen.take() {
            Some(seen) => Some(seen.info(requests)),
            None if requests.is_empty() => None,
            None => Some(RequestInfo { requests, ..Default::default() }),
        };
        Ok(Some((self.wrap)(ConformancePayload { data, request_info: info })))
    }

    fn end(&mut self) -> Result<(), Status> {
        let Some(error) = &self.asked.error else { return Ok(()) };
        let requests = std::mem::take(&mut self.requests);
        let seen = self.seen.take().map(|seen| seen.info(requests));
        Err(failure(error, seen, headers(&self.asked.response_trailers)))
    }
}

#[tonic::async_trait]
impl conformance_service_server::ConformanceService for Conformance {
    async fn unary(&self, request: Request<UnaryRequest>) -> Result<Response<UnaryResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let seen = Seen::new(&metadata, &extensions).info(vec![any(&request)]);
        one(request.response_definition, seen, |payload| UnaryResponse { payload: Some(payload) }).await
    }

    async fn idempotent_unary(
        &self,
        request: Request<IdempotentUnaryRequest>,
    ) -> Result<Response<IdempotentUnaryResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let seen = Seen::new(&metadata, &extensions).info(vec![any(&request)]);
        let answer = |payload| IdempotentUnaryResponse { payload: Some(payload) };
        one(request.response_definition, seen, answer).await
    }

    async fn client_stream(
        &self,
        request: Request<Streaming<ClientStreamRequest>>,
    ) -> Result<Response<ClientStreamResponse>, Status> {
        let (metadata, extensions, mut requests) = request.into_parts();
        let seen = Seen::new(&metadata, &extensions);
        let (mut asked, mut all) = (None, Vec::new());
        while let Some(request) = requests.message().await? {
            all.push(any(&request));
            if all.len() == 1 {
                asked = request.response_definition;
            }
        }
        one(asked, seen.info(all), |payload| ClientStreamResponse { payload: Some(payload) }).await
    }

    type ServerStreamStream = Answers<ServerStreamResponse>;

    async fn server_stream(
        &self,
        request: Request<ServerStreamRequest>,
    ) -> Result<Response<Self::ServerStreamStream>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let seen = Some(Seen::new(&metadata, &extensions));
        let requests = vec![any(&request)];
        let asked = request.response_definition.unwrap_or_default();
        let wrap = |payload| ServerStreamResponse { payload: Some(payload) };
        Ok(Script { asked, given: 0, seen, requests, more: None, wrap }.play())
    }

    type BidiStreamStream = Answers<BidiStreamResponse>;

    async fn bidi_stream(
        &self,
        request: Request<Streaming<BidiStreamRequest>>,
    ) -> Result<Response<Self::BidiStreamStream>, Status> {
        let (metadata, extensions, mut more) = request.into_parts();
        let seen = Some(Seen::new(&metadata, &extensions));
        let first = more.message().await?;
        let mut requests: Vec<Any> = first.iter().map(any).collect();
        let BidiStreamRequest { response_definition, full_duplex, .. } = first.unwrap_or_default();
        while let Some(request) = if full_duplex { None } else { more.message().await? } {
            requests.push(any(&request));
        }
        let asked = response_definition.unwrap_or_default();
        let wrap = |payload| BidiStreamResponse { payload: Some(payload) };
        Ok(Script { asked, given: 0, seen, requests, more: full_duplex.then_some(more), wrap }.play())
    }

    async fn unimplemented(
        &self,
        _: Request<UnimplementedRequest>,
    ) -> Result<Response<UnimplementedResponse>, Status> {
        Err(Status::unimplemented("nobody implements it"))
    }
}
