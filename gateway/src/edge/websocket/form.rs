//! Frames of a session in both forms: one JSON object in a text frame, or one `SessionFrame` in a
//! binary frame. Pure.

use super::{
    super::{desc::Registry, json},
    outbox::Outbox,
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use plexus_proto::{
    reason::Reason,
    v1::{self, SessionFrame, session_frame::Kind},
};
use prost::{
    DecodeError, Message as _,
    encoding::{DecodeContext, decode_key, encode_varint, skip_field},
};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;
use std::borrow::Cow;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

/// Subprotocol of JSON, also without any.
pub(super) const JSON: &str = "plexus.v1.json";
/// Subprotocol of Protobuf.
pub(super) const PROTO: &str = "plexus.v1.proto";

/// The fields of a frame of which it has exactly one.
const KINDS: std::ops::RangeInclusive<u32> = 2..=16;

/// Bytes before an answer in Protobuf at most: the id, a key and a length.
const HEAD: usize = 24;

/// How a session writes its frames.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) enum Form {
    /// Text frames of JSON.
    #[default]
    Json,
    /// Binary frames of Protobuf.
    Proto,
}

/// A frame from the client.
#[derive(Debug, PartialEq)]
pub(super) enum Frame {
    /// Begins a call.
    Call(u32, Begin),
    /// One more request, in the session's form.
    Input(u32, Bytes),
    /// No more requests.
    Done(u32),
    /// Ends a call.
    Cancel(u32),
    /// Events the server may send in addition.
    Credit(u32, u32),
    /// Asks for a pong.
    Ping(u32),
    /// Any sign of life.
    Pong,
    /// Credentials: a token.
    Auth(Token),
    /// Takes up a former session by its token.
    Resume(Token),
}

/// A token, which is shown to nobody.
#[derive(PartialEq)]
pub(super) struct Token(pub(super) String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

/// What begins a call.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Begin {
    /// The method, `Service.Method` or with the package in front.
    pub(super) call: String,
    /// The request; empty: an empty one.
    pub(super) params: Bytes,
    /// The form of the request.
    pub(super) form: Form,
    /// Its deadline in milliseconds; 0: none asked for.
    pub(super) timeout_ms: u32,
    /// Events the server may send before it needs credit; 0: no window.
    pub(super) window: u32,
    /// The W3C trace it belongs to.
    pub(super) traceparent: String,
    /// Vendor part of the trace.
    pub(super) tracestate: String,
    /// Makes a repeat safe.
    pub(super) request_id: String,
}

/// The JSON of a frame. Unknown fields are passed over: a client may be newer.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Text<'a> {
    #[serde(default)]
    id: u32,
    #[serde(borrow)]
    call: Option<Cow<'a, str>>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    done: Option<bool>,
    cancel: Option<bool>,
    credit: Option<u32>,
    ping: Option<u32>,
    pong: Option<u32>,
    #[serde(borrow)]
    auth: Option<Credentials<'a>>,
    #[serde(borrow)]
    resume: Option<Credentials<'a>>,
    // What only the server says; counted, so that both forms refuse it beside another.
    result: Option<IgnoredAny>,
    event: Option<IgnoredAny>,
    end: Option<IgnoredAny>,
    error: Option<IgnoredAny>,
    authenticated: Option<IgnoredAny>,
    close: Option<IgnoredAny>,
    #[serde(default, alias = "timeout_ms")]
    timeout_ms: u32,
    #[serde(default)]
    window: u32,
    #[serde(default, borrow)]
    traceparent: Cow<'a, str>,
    #[serde(default, borrow)]
    tracestate: Cow<'a, str>,
    #[serde(default, borrow, alias = "request_id")]
    request_id: Cow<'a, str>,
}

/// What `auth` and `resume` hold.
#[derive(Deserialize)]
struct Credentials<'a> {
    #[serde(default, borrow)]
    token: Cow<'a, str>,
}

impl Text<'_> {
    /// How many of the fields are set of which a frame has exactly one.
    fn kinds(&self) -> usize {
        let theirs = [
            self.call.is_some(),
            self.input.is_some(),
            self.done.is_some(),
            self.cancel.is_some(),
            self.credit.is_some(),
            self.ping.is_some(),
            self.pong.is_some(),
            self.auth.is_some(),
            self.resume.is_some(),
        ];
        let ours =
            [&self.result, &self.event, &self.end, &self.error, &self.authenticated, &self.close].into_iter();
        theirs.into_iter().chain(ours.map(Option::is_some)).filter(|set| *set).count()
    }
}

impl Form {
    /// The form of a subprotocol.
    pub(super) fn of(protocol: Option<&str>) -> Self {
        if protocol == Some(PROTO) { Self::Proto } else { Self::Json }
    }

    /// Reads a frame.
    pub(super) fn read(self, bytes: &Bytes) -> Result<Frame, Box<v1::Error>> {
        match self {
            Self::Json => text(bytes),
            Self::Proto => binary(bytes),
        }
    }

    /// Writes an answer under `result` or `event`: JSON in place, or the encoded message. It is copied once,
    /// as every reader of a busy topic comes by here for every message.
    pub(super) fn answer(self, outbox: &mut Outbox, (id, unary): (u32, bool), answer: &[u8]) {
        match self {
            Self::Json => {
                let (id, key) = (id.to_string(), if unary { "result" } else { "event" });
                let parts = [b"{\"id\":", id.as_bytes(), b",\"", key.as_bytes(), b"\":", answer, b"}"];
                outbox.frame(true, &parts);
            }
            Self::Proto => {
                let none = Bytes::new();
                let kind = Some(if unary { Kind::Result(none) } else { Kind::Event(none) });
                let frame = SessionFrame { id, kind, ..SessionFrame::default() };
                let (mut head, end) = ([0; HEAD], frame.encoded_len() - 1);
                frame.encode(&mut &mut head[..]).expect("an id and a key are shorter");
                // What stands last is how long the answer is.
                let mut rest = &mut head[end..];
                encode_varint(answer.len() as u64, &mut rest);
                let left = rest.len();
                outbox.frame(false, &[&head[..HEAD - left], answer]);
            }
        }
    }

    /// Writes the end of a stream.
    pub(super) fn end(self, id: u32, cancelled: bool) -> Message {
        match self {
            Self::Json if cancelled => json_frame(id, "end", br#"{"cancelled":true}"#),
            Self::Json => json_frame(id, "end", b"{}"),
            Self::Proto => proto_frame(id, Kind::End(v1::session_frame::End { cancelled })),
        }
    }

    /// Writes a failure; id 0: of a frame that belongs to no call.
    pub(super) fn error(self, registry: &Registry, id: u32, error: &v1::Error) -> Message {
        match self {
            Self::Json => json_frame(id, "error", &json::error(registry, error)),
            Self::Proto => proto_frame(id, Kind::Error(error.clone())),
        }
    }

    /// Writes a ping or a pong.
    pub(super) fn beat(self, ping: bool, number: u32) -> Message {
        match self {
            Self::Json => {
                let key = if ping { "ping" } else { "pong" };
                Message::Text(format!("{{\"{key}\":{number}}}").into())
            }
            Self::Proto if ping => proto_frame(0, Kind::Ping(number)),
            Self::Proto => proto_frame(0, Kind::Pong(number)),
        }
    }

    /// Writes a frame about the session itself, with its JSON by descriptor.
    pub(super) fn session(self, registry: &Registry, frame: &SessionFrame) -> Message {
        match self {
            Self::Proto => Message::Binary(frame.encode_to_vec().into()),
            Self::Json => {
                let json = registry
                    .error()
                    .parent_pool()
                    .get_message_by_name("plexus.v1.SessionFrame")
                    .and_then(|d| json::from_proto(&d, &frame.encode_to_vec().into()).ok());
                Message::Text(utf8(json.unwrap_or_else(|| Bytes::from_static(b"{}"))))
            }
        }
    }
}

fn bad(text: impl std::fmt::Display) -> Box<v1::Error> {
    Box::new(v1::Error::new(Reason::BadFrame, format!("not a session frame: {text}")))
}

fn text(bytes: &Bytes) -> Result<Frame, Box<v1::Error>> {
    let frame: Text<'_> = serde_json::from_slice(bytes).map_err(bad)?;
    let raw =
        |value: Option<&RawValue>| value.map(|v| bytes.slice_ref(v.get().as_bytes())).unwrap_or_default();
    if frame.kinds() > 1 {
        return Err(several());
    }
    let id = frame.id;
    Ok(match frame {
        Text { call: Some(call), .. } => Frame::Call(
            id,
            Begin {
                call: call.into_owned(),
                params: raw(frame.params),
                form: Form::Json,
                timeout_ms: frame.timeout_ms,
                window: frame.window,
                traceparent: frame.traceparent.into_owned(),
                tracestate: frame.tracestate.into_owned(),
                request_id: frame.request_id.into_owned(),
            },
        ),
        Text { input: Some(input), .. } => Frame::Input(id, raw(Some(input))),
        Text { done: Some(true), .. } => Frame::Done(id),
        Text { cancel: Some(true), .. } => Frame::Cancel(id),
        Text { credit: Some(credit), .. } => Frame::Credit(id, credit),
        Text { ping: Some(number), .. } => Frame::Ping(number),
        Text { pong: Some(_), .. } => Frame::Pong,
        Text { auth: Some(auth), .. } => Frame::Auth(Token(auth.token.into_owned())),
        Text { resume: Some(former), .. } => Frame::Resume(Token(former.token.into_owned())),
        _ => return Err(bad("none of call, input, done, cancel, credit, ping, pong, auth, resume is set")),
    })
}

fn several() -> Box<v1::Error> {
    bad("it has several of the fields of which a frame has one")
}

/// Counts the fields of `kind` as they were sent: of several a decoder would keep the last alone.
fn kinds(mut bytes: Bytes) -> Result<usize, DecodeError> {
    let mut kinds = 0;
    while bytes.has_remaining() {
        let (number, wire) = decode_key(&mut bytes)?;
        kinds += usize::from(KINDS.contains(&number));
        skip_field(wire, number, &mut bytes, DecodeContext::default())?;
    }
    Ok(kinds)
}

fn binary(bytes: &Bytes) -> Result<Frame, Box<v1::Error>> {
    let frame = SessionFrame::decode(bytes.clone()).map_err(bad)?;
    if kinds(bytes.clone()).map_err(bad)? > 1 {
        return Err(several());
    }
    let id = frame.id;
    Ok(match frame.kind {
        Some(Kind::Call(call)) => Frame::Call(
            id,
            Begin {
                call,
                params: frame.params,
                form: Form::Proto,
                timeout_ms: frame.timeout_ms,
                window: frame.window,
                traceparent: frame.traceparent,
                tracestate: frame.tracestate,
                request_id: frame.request_id,
            },
        ),
        Some(Kind::Input(input)) => Frame::Input(id, input),
        Some(Kind::Done(true)) => Frame::Done(id),
        Some(Kind::Cancel(true)) => Frame::Cancel(id),
        Some(Kind::Credit(credit)) => Frame::Credit(id, credit),
        Some(Kind::Ping(number)) => Frame::Ping(number),
        Some(Kind::Pong(_)) => Frame::Pong,
        Some(Kind::Auth(auth)) => Frame::Auth(Token(auth.token)),
        Some(Kind::Resume(former)) => Frame::Resume(Token(former.token)),
        _ => return Err(bad("its kind is none that a client sends")),
    })
}

fn json_frame(id: u32, key: &str, json: &[u8]) -> Message {
    let mut out = BytesMut::with_capacity(json.len() + key.len() + 24);
    out.put_slice(b"{\"id\":");
    out.put_slice(id.to_string().as_bytes());
    out.put_slice(b",\"");
    out.put_slice(key.as_bytes());
    out.put_slice(b"\":");
    out.put_slice(json);
    out.put_u8(b'}');
    Message::Text(utf8(out.freeze()))
}

fn proto_frame(id: u32, kind: Kind) -> Message {
    Message::Binary(SessionFrame { id, kind: Some(kind), ..SessionFrame::default() }.encode_to_vec().into())
}

fn utf8(json: Bytes) -> Utf8Bytes {
    json.try_into().expect("serde_json writes UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &'static str) -> Result<Frame, Box<v1::Error>> {
        Form::Json.read(&Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn a_call_is_read_with_its_request_in_place() {
        let frame =
            read(r#"{"id":7,"call":"A.B","params":{"x": [1]},"timeoutMs":5,"requestId":"r","new":1}"#);
        let Frame::Call(7, begin) = frame.unwrap() else { panic!("a call") };
        assert_eq!((begin.call.as_str(), &begin.params[..]), ("A.B", &br#"{"x": [1]}"#[..]));
        assert_eq!((begin.timeout_ms, begin.request_id.as_str()), (5, "r"));
        assert_eq!(read(r#"{"id":7,"cancel":true}"#), Ok(Frame::Cancel(7)));
        assert_eq!(read(r#"{"id":7,"done":true}"#), Ok(Frame::Done(7)));
        assert_eq!(read(r#"{"id":7,"credit":3}"#), Ok(Frame::Credit(7, 3)));
        assert_eq!(read(r#"{"ping":3}"#), Ok(Frame::Ping(3)));
        assert_eq!(read(r#"{"pong":3}"#), Ok(Frame::Pong));
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        for bad in
            ["", "{", "[]", "1", "{}", r#"{"id":1}"#, r#"{"id":-1,"cancel":true}"#, r#"{"id":1,"call":5}"#]
        {
            assert!(read(bad).unwrap_err().is(Reason::BadFrame), "{bad}");
        }
        let server_only =
            SessionFrame { id: 1, kind: Some(Kind::Result(Bytes::new())), ..Default::default() };
        assert!(Form::Proto.read(&server_only.encode_to_vec().into()).is_err());
    }

    #[test]
    fn a_frame_that_is_two_things_at_once_is_refused_in_both_forms() {
        for two in [
            r#"{"id":1,"call":"A.B","cancel":true}"#,
            r#"{"id":1,"call":"A.B","cancel":false}"#,
            r#"{"id":1,"done":true,"cancel":true}"#,
            r#"{"ping":1,"pong":1}"#,
            r#"{"id":1,"call":"A.B","result":{}}"#,
            r#"{"id":1,"call":"A.B","call":"A.B"}"#,
        ] {
            assert!(read(two).unwrap_err().is(Reason::BadFrame), "{two}");
        }
        assert!(matches!(read(r#"{"id":1,"call":"A.B","cancel":null}"#), Ok(Frame::Call(1, _))));
        let encoded = |kind| SessionFrame { kind: Some(kind), ..Default::default() }.encode_to_vec();
        let kinds = [
            Kind::Call("A.B".into()),
            Kind::Cancel(true),
            Kind::Done(true),
            Kind::Credit(1),
            Kind::Ping(1),
            Kind::Result(Bytes::new()),
        ];
        for (first, second) in kinds.iter().flat_map(|a| kinds.iter().map(move |b| (a, b))) {
            let both = [encoded(first.clone()), encoded(second.clone())].concat();
            assert!(Form::Proto.read(&both.into()).unwrap_err().is(Reason::BadFrame), "{first:?} {second:?}");
        }
    }

    #[test]
    fn the_fields_that_exclude_each_other_are_those_of_the_contract() {
        let pool = prost_reflect::DescriptorPool::decode(plexus_proto::DESCRIPTOR).unwrap();
        let frame = pool.get_message_by_name("plexus.v1.SessionFrame").unwrap();
        let kind = frame.oneofs().find(|o| o.name() == "kind").unwrap();
        let numbers: std::collections::BTreeSet<u32> = kind.fields().map(|f| f.number()).collect();
        assert_eq!(numbers, KINDS.collect());
    }

    #[test]
    fn both_forms_say_the_same() {
        let call = SessionFrame {
            id: 9,
            kind: Some(Kind::Call("A.B".into())),
            params: Bytes::from_static(b"x"),
            window: 2,
            ..Default::default()
        };
        let Frame::Call(9, begin) = Form::Proto.read(&call.encode_to_vec().into()).unwrap() else {
            panic!("a call")
        };
        assert_eq!((begin.call.as_str(), begin.window, &begin.params[..]), ("A.B", 2, &b"x"[..]));
        assert_eq!(Form::Json.end(9, true).to_text().unwrap(), r#"{"id":9,"end":{"cancelled":true}}"#);
        let answer = |form: Form, id, unary, answer: &[u8]| {
            let mut outbox = Outbox::default();
            form.answer(&mut outbox, (id, unary), answer);
            outbox.waiting().to_vec()
        };
        assert_eq!(answer(Form::Json, 9, false, b"{}"), b"\x81\x13{\"id\":9,\"event\":{}}");
        for (id, len) in [(0, 0), (1, 1), (9, 127), (300, 128), (u32::MAX, 70_000)] {
            let said = Bytes::from(vec![7; len]);
            for (unary, kind) in [(true, Kind::Result(said.clone())), (false, Kind::Event(said.clone()))] {
                let frame = SessionFrame { id, kind: Some(kind), ..Default::default() }.encode_to_vec();
                assert!(answer(Form::Proto, id, unary, &said).ends_with(&frame), "{id} {len}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let bytes = Bytes::from(bytes);
            let _ = Form::Json.read(&bytes);
            let _ = Form::Proto.read(&bytes);
        }
    }
}
