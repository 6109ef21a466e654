//! gRPC by tonic's own client, over messages by descriptor.

use super::{
    Answers, Client,
    rpc::{Failure, Rpc},
};
use bytes::BufMut;
use futures::{StreamExt, stream};
use prost::Message as _;
use prost_reflect::{DynamicMessage, MessageDescriptor};
use serde_json::Value;
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{BufferSettings, Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Endpoint,
};

/// Calls a method; compressed both ways where the message is worth it.
pub(crate) async fn open(client: &Client, rpc: &Rpc, request: &Value) -> Result<Answers, Failure> {
    let channel =
        Endpoint::from_shared(format!("http://{}", client.address)).unwrap().connect().await.unwrap();
    let mut grpc = Grpc::new(channel)
        .send_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Gzip);
    grpc.ready().await.unwrap();
    let mut message = Request::new(rpc.request(request));
    if let Some(deadline) = client.deadline {
        message.set_timeout(deadline);
    }
    if let Some(token) = client.token {
        message.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let path = rpc.path.parse().unwrap();
    let by_descriptor = ByDescriptor(rpc.output.clone());
    if !rpc.streams {
        let answer = grpc.unary(message, path, by_descriptor).await.map_err(|s| failure(&s))?;
        let json = rpc.answer(&answer.into_inner());
        return Ok(stream::iter([Ok(json)]).boxed());
    }
    let answers = grpc.server_streaming(message, path, by_descriptor).await.map_err(|s| failure(&s))?;
    let rpc = rpc.clone();
    let answers =
        answers.into_inner().map(move |answer| answer.map(|m| rpc.answer(&m)).map_err(|s| failure(&s)));
    Ok(answers.boxed())
}

fn failure(status: &Status) -> Failure {
    Failure::of_status(status.code() as i32, status.details())
}

#[derive(Clone)]
struct ByDescriptor(MessageDescriptor);

impl Codec for ByDescriptor {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        self.clone()
    }

    fn decoder(&mut self) -> Self {
        self.clone()
    }
}

impl Encoder for ByDescriptor {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, message: DynamicMessage, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&message.encode_to_vec());
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

impl Decoder for ByDescriptor {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        DynamicMessage::decode(self.0.clone(), bytes).map(Some).map_err(|e| Status::internal(e.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}
