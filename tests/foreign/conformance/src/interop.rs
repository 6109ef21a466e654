//! `TestService` of gRPC's interop suite: answers of the sizes and with the outcome that are asked for.

use futures::{StreamExt, stream, stream::BoxStream};
use http::{HeaderMap, HeaderName};
use plexus_gateway::edge::Trailers;
use std::time::Duration;
use testing::{
    test_service_server::{TestService, TestServiceServer},
    *,
};
use tonic::{Code, Request, Response, Status, Streaming, metadata::MetadataMap, server::NamedService};

/// The suite's messages.
#[expect(unreachable_pub, reason = "generated")]
mod testing {
    tonic::include_proto!("grpc.testing");
}

/// The service's full name.
pub(crate) const NAME: &str = TestServiceServer::<Interop>::NAME;

/// Bytes of an answer at most.
const ANSWER_MAX: i32 = 1 << 20;
/// Metadata that comes back, ahead of the answer and behind it.
const LEADING: &str = "x-grpc-test-echo-initial";
const TRAILING: &str = "x-grpc-test-echo-trailing-bin";

/// The service.
pub(crate) fn server() -> TestServiceServer<Interop> {
    TestServiceServer::new(Interop)
}

pub(crate) struct Interop;

fn payload(size: i32) -> Result<Option<Payload>, Status> {
    match size {
        0..=ANSWER_MAX => Ok(Some(Payload { body: vec![0; size as usize].into() })),
        _ => Err(Status::invalid_argument(format!("an answer of {size} bytes"))),
    }
}

fn outcome(asked: Option<EchoStatus>) -> Result<(), Status> {
    match asked {
        Some(asked) if asked.code != 0 => Err(Status::new(Code::from_i32(asked.code), asked.message)),
        _ => Ok(()),
    }
}

/// Gives the caller's own metadata back with the answer.
fn echo<T>(metadata: &MetadataMap, body: T) -> Response<T> {
    let mut response = Response::new(body);
    if let Some(value) = metadata.get(LEADING) {
        response.metadata_mut().insert(LEADING, value.clone());
    }
    if let Some(value) = metadata.as_ref().get(TRAILING) {
        let name = HeaderName::from_static(TRAILING);
        response.extensions_mut().insert(Trailers(HeaderMap::from_iter([(name, value.clone())])));
    }
    response
}

/// The answers to one request, one after the other.
fn answers(
    request: StreamingOutputCallRequest,
) -> BoxStream<'static, Result<StreamingOutputCallResponse, Status>> {
    let end = stream::iter(outcome(request.response_status).err().map(Err));
    let answers = stream::iter(request.response_parameters).then(|asked| async move {
        tokio::time::sleep(Duration::from_micros(asked.interval_us.max(0) as u64)).await;
        Ok(StreamingOutputCallResponse { payload: payload(asked.size)? })
    });
    answers.chain(end).boxed()
}

#[tonic::async_trait]
impl TestService for Interop {
    async fn empty_call(&self, request: Request<Empty>) -> Result<Response<Empty>, Status> {
        Ok(echo(request.metadata(), Empty {}))
    }

    async fn unary_call(&self, request: Request<SimpleRequest>) -> Result<Response<SimpleResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        outcome(request.response_status)?;
        Ok(echo(&metadata, SimpleResponse { payload: payload(request.response_size)? }))
    }

    type StreamingOutputCallStream = BoxStream<'static, Result<StreamingOutputCallResponse, Status>>;

    async fn streaming_output_call(
        &self,
        request: Request<StreamingOutputCallRequest>,
    ) -> Result<Response<Self::StreamingOutputCallStream>, Status> {
        let (metadata, _, request) = request.into_parts();
        Ok(echo(&metadata, answers(request)))
    }

    async fn streaming_input_call(
        &self,
        request: Request<Streaming<StreamingInputCallRequest>>,
    ) -> Result<Response<StreamingInputCallResponse>, Status> {
        let (metadata, _, mut requests) = request.into_parts();
        let mut aggregated_payload_size = 0;
        while let Some(request) = requests.message().await? {
            aggregated_payload_size += request.payload.map_or(0, |p| p.body.len() as i32);
        }
        Ok(echo(&metadata, StreamingInputCallResponse { aggregated_payload_size }))
    }

    type FullDuplexCallStream = BoxStream<'static, Result<StreamingOutputCallResponse, Status>>;

    async fn full_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<Self::FullDuplexCallStream>, Status> {
        let (metadata, _, requests) = request.into_parts();
        let all = requests.flat_map(|request| match request {
            Ok(request) => answers(request),
            Err(status) => stream::iter([Err(status)]).boxed(),
        });
        // A failure ends the call, whatever else is asked for.
        let all = all.scan(false, |ended, answer| {
            let go_on = !std::mem::replace(ended, answer.is_err());
            std::future::ready(go_on.then_some(answer))
        });
        Ok(echo(&metadata, all.boxed()))
    }

    async fn unimplemented_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Err(Status::unimplemented("nobody implements it"))
    }
}
