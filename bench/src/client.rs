//! What an ordinary client does, as cheaply as it can: a WebSocket session with many calls under way, and
//! one kept-alive HTTP connection.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use plexus_proto::v1::{
    PublishRequest, SessionFrame, SubscribeRequest, SubscriptionEvent, message, publish_request::Payload,
    session_frame::Kind, subscription_event::Event,
};
use prost::Message as _;
use std::net::SocketAddr;
use tokio::{net::TcpStream, task::JoinSet};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest},
};

type Socket = WebSocketStream<TcpStream>;

/// The half of a session that speaks.
pub(crate) struct Speaker(SplitSink<Socket, Message>);

/// The half of a session that hears.
pub(crate) struct Listener(SplitStream<Socket>);

/// What a session says.
pub(crate) enum Heard {
    /// The answer of a call with one answer.
    Result,
    /// A stream begins.
    Start,
    /// A message of a stream.
    Message(Bytes),
    /// Anything else.
    Other,
}

/// Opens a session in Protobuf.
pub(crate) async fn session(address: SocketAddr) -> Result<(Speaker, Listener)> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let mut request = format!("ws://{address}/v1/ws").into_client_request()?;
    request.headers_mut().insert("sec-websocket-protocol", "plexus.v1.proto".parse()?);
    let (socket, _) = client_async(request, socket).await?;
    let (speaker, listener) = socket.split();
    Ok((Speaker(speaker), Listener(listener)))
}

impl Speaker {
    /// Puts a publish into the socket's buffer; [`Speaker::flush`] sends it.
    pub(crate) async fn publish(&mut self, id: u32, node: &str, topic: &str, data: Vec<u8>) -> Result<()> {
        let request = PublishRequest {
            node: node.into(),
            topic: topic.into(),
            payload: Some(Payload::Data(data.into())),
            ..PublishRequest::default()
        };
        self.call(id, "TopicService.Publish", request.encode_to_vec()).await
    }

    /// Follows a topic.
    pub(crate) async fn subscribe(&mut self, id: u32, node: &str, topic: &str) -> Result<()> {
        let request = SubscribeRequest {
            node: node.into(),
            topic: topic.into(),
            queue_messages: 4096,
            queue_bytes: 4 << 20,
            ..SubscribeRequest::default()
        };
        self.call(id, "TopicService.Subscribe", request.encode_to_vec()).await?;
        self.flush().await
    }

    /// Shows that this end lives; who only listens is asked for it otherwise.
    pub(crate) async fn ping(&mut self) -> Result<()> {
        let frame = SessionFrame { kind: Some(Kind::Ping(1)), ..SessionFrame::default() };
        Ok(self.0.send(Message::Binary(frame.encode_to_vec().into())).await?)
    }

    /// Sends what is buffered.
    pub(crate) async fn flush(&mut self) -> Result<()> {
        Ok(self.0.flush().await?)
    }

    async fn call(&mut self, id: u32, method: &str, params: Vec<u8>) -> Result<()> {
        let kind = Some(Kind::Call(method.into()));
        let frame = SessionFrame { id, kind, params: params.into(), ..SessionFrame::default() };
        Ok(self.0.feed(Message::Binary(frame.encode_to_vec().into())).await?)
    }
}

impl Listener {
    /// Waits for what the session says next; an error of a call is an error.
    pub(crate) async fn hear(&mut self) -> Result<Heard> {
        let message = self.0.next().await.context("the session ended")??;
        let Message::Binary(bytes) = message else { return Ok(Heard::Other) };
        match SessionFrame::decode(bytes)?.kind {
            Some(Kind::Result(_)) => Ok(Heard::Result),
            Some(Kind::Event(event)) => match SubscriptionEvent::decode(event)?.event {
                Some(Event::Message(message)) => match message.payload {
                    Some(message::Payload::Data(data)) => Ok(Heard::Message(data)),
                    other => bail!("not bytes: {other:?}"),
                },
                Some(Event::Start(_)) => Ok(Heard::Start),
                Some(Event::Gap(gap)) => bail!("a gap: {gap:?}"),
                Some(Event::End(end)) => bail!("the stream ended: {end:?}"),
                _ => Ok(Heard::Other),
            },
            Some(Kind::Error(error)) => bail!("{}: {}", error.reason, error.message),
            Some(Kind::Close(close)) => bail!("closed: {}", close.reason),
            _ => Ok(Heard::Other),
        }
    }

    /// Waits until the stream begins.
    pub(crate) async fn started(&mut self) -> Result<()> {
        loop {
            if let Heard::Start = self.hear().await? {
                return Ok(());
            }
        }
    }
}

/// One kept-alive HTTP connection.
pub(crate) struct Kept {
    address: SocketAddr,
    sender: SendRequest<Full<Bytes>>,
    _connection: JoinSet<()>,
}

impl Kept {
    /// Opens one.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let _ = connection.await;
        });
        Ok(Self { address, sender, _connection: tasks })
    }

    /// Publishes bytes as they are, and waits for the receipt.
    pub(crate) async fn publish(&mut self, path: &str, data: Vec<u8>) -> Result<()> {
        let request = http::Request::post(path)
            .header("host", self.address.to_string())
            .header("content-type", "text/plain")
            .body(Full::new(data.into()))?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if !status.is_success() {
            bail!("{status}: {}", String::from_utf8_lossy(&body));
        }
        Ok(())
    }
}
