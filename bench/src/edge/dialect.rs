//! What a client of each dialect sends, to the byte.

use super::h2;
use plexus_proto::v1::{PublishRequest, SessionFrame, SubscribeRequest, View, session_frame::Kind};
use prost::Message as _;

/// A way to speak to the gateway, or to the rival.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dialect {
    /// A session in Protobuf.
    WebSocket,
    /// Server-sent events.
    Sse,
    /// Lines of JSON.
    Ndjson,
    /// Connect over HTTP/1.1: calls in JSON, streams in Protobuf.
    Connect,
    /// gRPC-Web over HTTP/1.1.
    GrpcWeb,
    /// gRPC.
    Grpc,
    /// REST.
    Rest,
    /// The rival's protocol, in Protobuf.
    Rival,
}

const SERVICE: &str = "/plexus.v1.TopicService";

/// The request of an unary call: about 200 bytes.
pub(crate) fn publish(topic: &str) -> PublishRequest {
    use plexus_proto::v1::publish_request::Payload;
    let text = "A message of about the size that most have: a name, a value or two. ".repeat(3);
    PublishRequest {
        topic: topic.into(),
        payload: Some(Payload::Data(text.into_bytes()[..180].to_vec().into())),
        ..PublishRequest::default()
    }
}

/// The same as JSON.
pub(crate) fn publish_json(topic: &str) -> String {
    use plexus_proto::v1::publish_request::Payload;
    let Some(Payload::Data(data)) = publish(topic).payload else { return String::new() };
    format!(r#"{{"topic":"{topic}","text":"{}"}}"#, String::from_utf8_lossy(&data))
}

/// Five bytes before a message, as gRPC, gRPC-Web and Connect's streams have them.
pub(super) fn enveloped(message: &[u8]) -> Vec<u8> {
    [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat()
}

/// A request of HTTP/1.1.
pub(crate) fn http1(line: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    let head = format!("{line} HTTP/1.1\r\nhost: localhost\r\n{headers}{length}\r\n");
    [head.as_bytes(), body].concat()
}

/// A frame of a WebSocket client, masked by zero.
pub(crate) fn ws(message: &[u8]) -> Vec<u8> {
    let mut out = vec![0x82];
    match message.len() {
        size @ 0..126 => out.push(0x80 | size as u8),
        size => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(size as u16).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(message);
    out
}

/// A handshake.
pub(crate) fn handshake(path: &str, protocol: &str) -> Vec<u8> {
    let headers = format!(
        "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: {protocol}\r\n"
    );
    http1(&format!("GET {path}"), &headers, b"")
}

/// A call of a session.
pub(crate) fn session_call(id: u32, method: &str, params: Vec<u8>) -> Vec<u8> {
    let kind = Some(Kind::Call(format!("TopicService.{method}")));
    ws(&SessionFrame { id, kind, params: params.into(), ..SessionFrame::default() }.encode_to_vec())
}

impl Dialect {
    /// Its name in the sheet.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::WebSocket => "ws",
            Self::Sse => "sse",
            Self::Ndjson => "ndjson",
            Self::Connect => "connect",
            Self::GrpcWeb => "web",
            Self::Grpc => "grpc",
            Self::Rest => "rest",
            Self::Rival => "rival",
        }
    }

    /// What opens a WebSocket; the rest is sent once it is open.
    pub(crate) fn opens(self) -> Option<Vec<u8>> {
        match self {
            Self::WebSocket => Some(handshake("/v1/ws", "plexus.v1.proto")),
            Self::Rival => Some(handshake("/connection/websocket", "centrifuge-protobuf")),
            _ => None,
        }
    }

    /// What subscribes to the topic of a node.
    pub(crate) fn subscribes(self, node: &str, topic: &str) -> Vec<u8> {
        let request = |view: View| {
            let (node, topic) = (node.into(), topic.into());
            SubscribeRequest { node, topic, view: view as i32, ..SubscribeRequest::default() }.encode_to_vec()
        };
        let path = format!("{SERVICE}/Subscribe");
        let get = |accept: &str| {
            let nodes = if node.is_empty() { String::new() } else { format!("/nodes/{node}") };
            let line = format!("GET /v1{nodes}/topics/{topic}/messages?view=TEXT");
            http1(&line, &format!("accept: {accept}\r\n"), b"")
        };
        let post = |kind: &str| {
            let body = enveloped(&request(View::Bytes));
            http1(&format!("POST {path}"), &format!("content-type: {kind}\r\n"), &body)
        };
        match self {
            Self::WebSocket => session_call(1, "Subscribe", request(View::Bytes)),
            Self::Sse | Self::Rest => get("text/event-stream"),
            Self::Ndjson => get("application/x-ndjson"),
            Self::Connect => post("application/connect+proto"),
            Self::GrpcWeb => post("application/grpc-web+proto"),
            Self::Grpc => {
                let fields = h2::Fields::post(&path, "application/grpc");
                [h2::preface(), fields.call(1, &request(View::Bytes))].concat()
            }
            // `connect`, then `subscribe`, each behind its length.
            Self::Rival => {
                let connect = [8, 1, 0x22, 0];
                let channel = [&[0x0a, topic.len() as u8][..], topic.as_bytes()].concat();
                let subscribe = [&[8, 2, 0x2a, channel.len() as u8][..], &channel].concat();
                let words = [&connect[..], &subscribe].map(|w| [&[w.len() as u8][..], w].concat());
                ws(&words.concat())
            }
        }
    }

    /// What stands in the last answer that a subscription has at its begin.
    pub(crate) fn begun(self) -> &'static [u8] {
        match self {
            Self::Sse => b"event: start",
            Self::Ndjson => b"\"start\"",
            // The reply to the second command.
            Self::Rival => &[8, 2],
            // The topic's name, which no head has.
            _ => crate::fleet::TOPIC.as_bytes(),
        }
    }
}
