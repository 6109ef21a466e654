//! WebSocket sessions in both forms, frame by frame.

use super::{
    Answers, Client, Dialect,
    rpc::{Failure, Rpc},
};
use bytes::Bytes;
use futures::{SinkExt, StreamExt, stream};
use plexus_proto::v1::{self, SessionFrame, session_frame::Kind};
use prost::Message as _;
use serde_json::{Value, json};
use std::net::SocketAddr;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest},
};

/// One session.
pub(crate) struct Session {
    pub(crate) socket: WebSocketStream<TcpStream>,
    json: bool,
}

/// What begins a call beside its request.
#[derive(Clone, Default)]
pub(crate) struct Terms {
    pub(crate) timeout_ms: u32,
    pub(crate) window: u32,
    pub(crate) request_id: String,
}

/// What a session says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Heard {
    /// An answer of a call in the session's form; whether it is the only one.
    Answer(Bytes, bool),
    /// A stream ended; whether it was cancelled.
    End(bool),
    Failed(Failure),
    Ping(u32),
    Pong(u32),
    Close {
        code: u32,
        reason: String,
        retry_after_ms: u32,
        resume: String,
    },
    Other(String),
    /// The WebSocket closed with this code; `None`: without a close frame.
    Closed(Option<u16>),
}

impl Session {
    /// Opens one on a socket; without a subprotocol it speaks JSON.
    pub(crate) async fn on(socket: TcpStream, protocol: Option<&str>) -> Self {
        let address = socket.peer_addr().unwrap();
        socket.set_nodelay(true).unwrap();
        let mut request = format!("ws://{address}/v1/ws").into_client_request().unwrap();
        if let Some(protocol) = protocol {
            request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
        }
        let (socket, response) = client_async(request, socket).await.unwrap();
        let spoken = response.headers().get("sec-websocket-protocol").map(|p| p.to_str().unwrap());
        assert_eq!(spoken, protocol);
        Self { socket, json: protocol != Some("plexus.v1.proto") }
    }

    /// Opens one.
    pub(crate) async fn open(address: SocketAddr, protocol: Option<&str>) -> Self {
        Self::on(TcpStream::connect(address).await.unwrap(), protocol).await
    }

    /// Sends a message as it is.
    pub(crate) async fn send(&mut self, message: Message) {
        self.socket.send(message).await.unwrap();
    }

    /// Sends a frame of a JSON session.
    pub(crate) async fn say(&mut self, frame: Value) {
        self.send(Message::Text(frame.to_string().into())).await;
    }

    /// Shows credentials; a session that is closed for them has failed.
    pub(crate) async fn show(&mut self, token: &str) -> Result<(), Failure> {
        if self.json {
            self.say(json!({"auth": {"token": token}})).await;
        } else {
            let kind = Some(Kind::Auth(v1::session_frame::Auth { token: token.into() }));
            let frame = SessionFrame { kind, ..SessionFrame::default() };
            self.send(Message::Binary(frame.encode_to_vec().into())).await;
        }
        match self.hear().await {
            (0, Heard::Other(text)) if text.to_lowercase().contains("authenticated") => Ok(()),
            (0, Heard::Close { reason, .. }) => Err(closed(reason)),
            other => panic!("{other:?}"),
        }
    }

    /// Begins a call.
    pub(crate) async fn begin(&mut self, id: u32, rpc: &Rpc, request: &Value, terms: &Terms) {
        let call = rpc.name.replace('/', ".");
        let Terms { timeout_ms, window, request_id } = terms.clone();
        if self.json {
            let mut frame = json!({"id": id, "call": call, "params": request});
            let rest = json!({"timeoutMs": timeout_ms, "window": window, "requestId": request_id});
            let given = rest.as_object().unwrap().iter().filter(|(_, v)| **v != json!(0) && **v != json!(""));
            given.for_each(|(name, value)| frame[name] = value.clone());
            return self.say(frame).await;
        }
        let kind = Some(Kind::Call(format!("plexus.v1.{call}")));
        let params = rpc.encode(request).into();
        let frame =
            SessionFrame { id, kind, params, timeout_ms, window, request_id, ..SessionFrame::default() };
        self.send(Message::Binary(frame.encode_to_vec().into())).await;
    }

    /// Takes up a former session.
    pub(crate) async fn take_up(&mut self, token: &str) {
        if self.json {
            return self.say(json!({"resume": {"token": token}})).await;
        }
        let kind = Some(Kind::Resume(v1::session_frame::Resume { token: token.into() }));
        self.send(Message::Binary(SessionFrame { kind, ..SessionFrame::default() }.encode_to_vec().into()))
            .await;
    }

    /// Lets a call send so many more answers.
    pub(crate) async fn credit(&mut self, id: u32, count: u32) {
        if self.json {
            return self.say(json!({"id": id, "credit": count})).await;
        }
        let kind = Some(Kind::Credit(count));
        self.send(Message::Binary(
            SessionFrame { id, kind, ..SessionFrame::default() }.encode_to_vec().into(),
        ))
        .await;
    }

    /// The JSON of an answer in the session's form.
    pub(crate) fn json(&self, rpc: &Rpc, answer: &[u8]) -> Value {
        if self.json { serde_json::from_slice(answer).unwrap() } else { rpc.decode(answer) }
    }

    /// Waits for what it says next, and about which call.
    pub(crate) async fn hear(&mut self) -> (u32, Heard) {
        loop {
            match tokio::time::timeout(super::PATIENCE, self.socket.next())
                .await
                .expect("the session is silent")
            {
                Some(Ok(Message::Text(text))) if self.json => return read(&text),
                Some(Ok(Message::Binary(bytes))) if !self.json => return decode(&bytes),
                Some(Ok(Message::Close(frame))) => return (0, Heard::Closed(frame.map(|f| f.code.into()))),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(other)) => panic!("{other:?}"),
                Some(Err(Error::ConnectionClosed | Error::Protocol(_) | Error::Io(_))) | None => {
                    return (0, Heard::Closed(None));
                }
                Some(Err(error)) => panic!("{error}"),
            }
        }
    }

    /// Makes one call of a JSON session and answers its only answer.
    pub(crate) async fn ask(&mut self, id: u32, call: &str, params: Value) -> Result<Value, Failure> {
        self.say(json!({"id": id, "call": call, "params": params})).await;
        match self.hear().await {
            (of, Heard::Answer(json, true)) if of == id => Ok(serde_json::from_slice(&json).unwrap()),
            (of, Heard::Failed(failure)) if of == id => Err(failure),
            other => panic!("{call}: {other:?}"),
        }
    }
}

/// Calls a method on a session of its own.
pub(crate) async fn open(client: &Client, rpc: &Rpc, request: &Value) -> Result<Answers, Failure> {
    let json = client.dialect == Dialect::WebSocketJson;
    let protocol = if json { "plexus.v1.json" } else { "plexus.v1.proto" };
    let mut session = Session::open(client.address, Some(protocol)).await;
    if let Some(token) = client.token {
        session.show(token).await?;
    }
    let timeout_ms = client.deadline.map_or(0, |d| d.as_millis() as u32);
    session.begin(1, rpc, request, &Terms { timeout_ms, ..Terms::default() }).await;
    let (streams, rpc) = (rpc.streams, rpc.clone());
    let mut answers = stream::unfold(Some(session), move |session| {
        let rpc = rpc.clone();
        async move {
            let mut session = session?;
            let (id, heard) = session.hear().await;
            if let Heard::Close { reason, resume, .. } = heard {
                let mut failure = closed(reason);
                failure.metadata.push(("resume".into(), resume));
                return Some((Err(failure), None));
            }
            assert_eq!(id, 1, "{heard:?}");
            match heard {
                Heard::Answer(bytes, only) => {
                    assert_eq!(only, !rpc.streams);
                    let answer =
                        if json { serde_json::from_slice(&bytes).unwrap() } else { rpc.decode(&bytes) };
                    Some((Ok(answer), if only { None } else { Some(session) }))
                }
                Heard::End(false) => None,
                Heard::Failed(failure) => Some((Err(failure), None)),
                other => panic!("{other:?}"),
            }
        }
    })
    .boxed();
    if streams {
        return Ok(answers);
    }
    // A unary call that fails does so at once, as on the other dialects.
    match answers.next().await.expect("an answer") {
        Ok(answer) => Ok(stream::iter([Ok(answer)]).boxed()),
        Err(failure) => Err(failure),
    }
}

/// Why a session was closed.
fn closed(reason: String) -> Failure {
    let code = plexus_proto::reason::by_name(&reason).unwrap().code.as_str().to_owned();
    Failure { code, reason, fields: Vec::new(), metadata: Vec::new(), retry_after_ms: None }
}

fn read(text: &str) -> (u32, Heard) {
    let frame: Value = serde_json::from_str(text).unwrap();
    let id = frame["id"].as_u64().unwrap_or(0) as u32;
    let number = |value: &Value| value.as_u64().unwrap_or(0) as u32;
    // One of them, and nothing but it.
    let (kind, value) = frame.as_object().unwrap().iter().find(|(k, _)| *k != "id").unwrap();
    assert!(frame.as_object().unwrap().len() <= 2, "{text}");
    let heard = match kind.as_str() {
        "result" | "event" => Heard::Answer(value.to_string().into(), kind == "result"),
        "end" => Heard::End(value["cancelled"] == true),
        "error" => Heard::Failed(Failure::of_json(value)),
        "ping" => Heard::Ping(number(value)),
        "pong" => Heard::Pong(number(value)),
        "close" => Heard::Close {
            code: number(&value["code"]),
            reason: value["reason"].as_str().unwrap_or_default().into(),
            retry_after_ms: number(&value["retryAfterMs"]),
            resume: value["resume"].as_str().unwrap_or_default().into(),
        },
        _ => Heard::Other(text.into()),
    };
    (id, heard)
}

fn decode(bytes: &[u8]) -> (u32, Heard) {
    let frame = SessionFrame::decode(bytes).unwrap();
    let heard = match frame.kind.unwrap() {
        Kind::Result(bytes) => Heard::Answer(bytes, true),
        Kind::Event(bytes) => Heard::Answer(bytes, false),
        Kind::End(v1::session_frame::End { cancelled }) => Heard::End(cancelled),
        Kind::Error(error) => Heard::Failed(Failure::of_error(error)),
        Kind::Ping(number) => Heard::Ping(number),
        Kind::Pong(number) => Heard::Pong(number),
        Kind::Close(close) => Heard::Close {
            code: close.code,
            reason: close.reason,
            retry_after_ms: close.retry_after_ms,
            resume: close.resume,
        },
        other => Heard::Other(format!("{other:?}")),
    };
    (frame.id, heard)
}
