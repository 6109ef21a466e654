//! What the runtimes are given. Its own refusals have no reason, so that a call with one request is
//! read whole here, measured and unpacked, within its deadline. What is refused becomes a request of the
//! same dialect that reaches the bridge for certain, which then tells the refusal.

use super::{
    body,
    desc::{Kind, Method, Registry},
    envelope::{self, Measured, Packing},
    guard, limits,
};
use crate::error;
use axum::body::Body;
use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method as Verb, Request, Uri, header, request::Parts};
use http_body::Body as _;
use percent_encoding::percent_decode_str;
use plexus_proto::{reason::Reason, v1};
use tokio::time::Instant;
use tonic::{Code, Status};

/// Where requests go that are refused, whatever they ask for.
const REFUSED_CALL: &str = "/-/Call";
const REFUSED_GET: &str = "/-/Call?connect=v1&encoding=json&message=%7B%7D";
pub(crate) const REFUSED_STREAM: &str = "/-/Stream";

const VERSION: HeaderName = HeaderName::from_static("connect-protocol-version");
const TIMEOUT: &str = "connect-timeout-ms";

/// Base64 of a GET, with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// In a request's extensions: it was refused, and its dialect must say so.
#[derive(Clone, Debug)]
pub(crate) struct Refused(pub(crate) Status);

/// In a request's extensions: when the call must be over. The time begins before its body is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Until(pub(crate) Instant);

/// Reads a request as far as the runtime would refuse it without a reason; its messages have `most` bytes.
pub(crate) async fn take(request: Request<Body>, registry: &Registry, most: usize) -> Request<Body> {
    let (mut head, body) = request.into_parts();
    let taken = match head.extensions.remove::<Refused>() {
        Some(Refused(refusal)) => Err(refusal),
        None => read(&mut head, body, registry, most).await,
    };
    match taken {
        Ok(body) => Request::from_parts(head, body),
        Err(refusal) => stand_in(head, Refused(refusal)),
    }
}

async fn read(head: &mut Parts, body: Body, registry: &Registry, most: usize) -> Result<Body, Status> {
    let path = head.uri.path();
    let Some(method) = registry.method(path) else { return Err(registry.missing(path)) };
    let refuse = |error: Box<v1::Error>| method.refusal(&error);
    let until = deadline(&head.headers).map_err(refuse)?;
    if let Some(until) = until {
        head.extensions.insert(Until(until));
    }
    if head.method == Verb::GET && method.safe {
        return by_query(head.uri.query().unwrap_or_default(), method, most).await.map(|()| body);
    }
    let media = Media::read(&head.headers);
    let Some(encoding) = media.encoding().filter(|_| head.method == Verb::POST) else { return Ok(body) };
    media.check(&head.headers, method.kind).map_err(refuse)?;
    let packing = Packing::read(&head.headers, encoding);
    let packing = packing.map_err(|error| error::coded(&error, Code::Unimplemented, method.told))?;
    if !method.kind.takes_one() {
        return Ok(body);
    }
    let size = envelope::PREFIX + most;
    if body.size_hint().lower() > size as u64 {
        return Err(method.refusal(&guard::too_large(most)));
    }
    let reading = async {
        if media == Media::Message {
            let message = guard::message(body, most, method.told).await?;
            return packing.unpack(message, most).await.map_err(refuse);
        }
        let measured = Body::new(Measured::new(body, most, method, packing.clone()));
        let body = guard::message(measured, size, method.told).await?;
        envelope::open(body, &packing, most).await.map_err(refuse)
    };
    let message = match until {
        Some(until) => tokio::time::timeout_at(until, reading).await,
        None => Ok(reading.await),
    };
    let message = message.unwrap_or_else(|_| Err(method.refusal(&limits::expired())))?;
    Ok(Body::from(media.write(&mut head.headers, message)))
}

/// Unpacks the message of a native gRPC call that takes one, as tonic would do it at one go.
pub(crate) async fn unpacked(
    request: Request<Body>,
    method: &Method,
    packing: &Packing,
    most: usize,
) -> Result<Request<Body>, Status> {
    if !packing.is_gzip() || !method.kind.takes_one() {
        return Ok(request);
    }
    let (mut head, body) = request.into_parts();
    let reading = async {
        let body = guard::message(body, envelope::PREFIX + most, method.told).await?;
        envelope::open(body, packing, most).await.map_err(|error| method.refusal(&error))
    };
    let message = match deadline(&head.headers).ok().flatten() {
        Some(until) => tokio::time::timeout_at(until, reading).await,
        None => Ok(reading.await),
    };
    let message = message.unwrap_or_else(|_| Err(method.refusal(&limits::expired())))?;
    head.headers.remove("grpc-encoding");
    Ok(Request::from_parts(head, Body::from(super::trunk::prefixed(&message))))
}

/// How a request is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Media {
    /// The body is the message: a unary call of Connect.
    Message,
    /// Messages in envelopes: a stream of Connect.
    Stream,
    /// Messages in envelopes: gRPC and gRPC-Web.
    Grpc,
    /// Nothing that is read; the runtime says so in words of HTTP.
    Other,
}

impl Media {
    fn read(headers: &HeaderMap) -> Self {
        let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        let (kind, grpc) = match kind.strip_prefix("application/grpc") {
            Some(rest) => (rest.strip_prefix("-web").unwrap_or(rest), true),
            None => (kind, false),
        };
        match kind {
            "" | "+proto" | "+json" if grpc => Self::Grpc,
            "application/json" | "application/proto" => Self::Message,
            "application/connect+json" | "application/connect+proto" => Self::Stream,
            _ => Self::Other,
        }
    }

    /// The header that says how messages are packed; none where they are not read.
    fn encoding(self) -> Option<HeaderName> {
        match self {
            Self::Message => Some(header::CONTENT_ENCODING),
            Self::Stream => Some(HeaderName::from_static("connect-content-encoding")),
            Self::Grpc => Some(HeaderName::from_static("grpc-encoding")),
            Self::Other => None,
        }
    }

    /// Refuses what Connect has for calls of another kind, and in another version.
    fn check(self, headers: &HeaderMap, kind: Kind) -> Result<(), Box<v1::Error>> {
        let wanted = match (self, kind) {
            (Self::Message, Kind::Unary)
            | (Self::Stream, Kind::ServerStream | Kind::ClientStream | Kind::Bidi) => {
                return version(headers);
            }
            (Self::Message, _) => {
                "application/connect+json or application/connect+proto, as the call streams"
            }
            (Self::Stream, _) => "application/json or application/proto, as the call does not stream",
            (Self::Grpc | Self::Other, _) => return Ok(()),
        };
        let given = headers.get(header::CONTENT_TYPE).map(|kind| String::from_utf8_lossy(kind.as_bytes()));
        Err(body::unsupported(&header::CONTENT_TYPE, &given.unwrap_or_default(), wanted))
    }

    /// Writes a message as the runtime reads it, not packed.
    fn write(self, headers: &mut HeaderMap, message: Bytes) -> Bytes {
        headers.remove(header::CONTENT_LENGTH);
        headers.remove(header::TRANSFER_ENCODING);
        if self == Self::Message {
            headers.remove(header::CONTENT_ENCODING);
            return message;
        }
        super::trunk::prefixed(&message)
    }
}

/// Checks the version of Connect.
fn version(headers: &HeaderMap) -> Result<(), Box<v1::Error>> {
    match headers.get(&VERSION).map(|version| version.as_bytes()) {
        None | Some(b"1") => Ok(()),
        Some(_) => Err(Box::new(v1::Error::field(VERSION.as_str(), "it must be 1 here"))),
    }
}

/// Reads the deadline, which the runtime would not miss if it cannot be read.
fn deadline(headers: &HeaderMap) -> Result<Option<Instant>, Box<v1::Error>> {
    let mut asked = limits::grpc_timeout(headers)?;
    if let Some(text) = headers.get(TIMEOUT).map(|v| v.as_bytes()) {
        if text.is_empty() || text.len() > 10 || !text.iter().all(u8::is_ascii_digit) {
            return Err(Box::new(v1::Error::new(Reason::BadDeadline, format!("{TIMEOUT}: 1 to 10 digits"))));
        }
        let ms = text.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0'));
        asked = Some(std::time::Duration::from_millis(ms));
    }
    match asked {
        Some(asked) if asked.is_zero() => Err(Box::new(limits::expired())),
        asked => Ok(asked.and_then(|asked| Instant::now().checked_add(asked))),
    }
}

/// Checks a call that is a GET: its message is in its query.
async fn by_query(query: &str, method: &Method, most: usize) -> Result<(), Status> {
    let value = |name: &str| {
        let mut pairs = query.rsplit('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(given, _)| *given == name).map(|(_, value)| value)
    };
    let refuse = |name: &str, text: &str| Err(method.refusal(&v1::Error::field(name, text)));
    if value("connect").is_some_and(|version| version != "v1") {
        return refuse("connect", "it must be v1 here");
    }
    if value("encoding").is_none() {
        return refuse("encoding", "it must be json or proto here");
    }
    let compression = HeaderName::from_static("compression");
    let given = value("compression").and_then(|value| value.parse().ok());
    let given = HeaderMap::from_iter(given.map(|value| (compression.clone(), value)));
    let packing =
        Packing::read(&given, compression).map_err(|e| error::coded(&e, Code::Unimplemented, method.told))?;
    let text = value("message").unwrap_or_default().replace('+', " ");
    let mut message: Vec<u8> = percent_decode_str(&text).collect();
    if value("base64") == Some("1") {
        let Ok(decoded) = BASE64.decode(&message) else { return refuse("message", "it is not base64url") };
        message = decoded;
    }
    let message = packing.unpack(message.into(), most).await.map_err(|e| method.refusal(&e))?;
    if message.len() > most { Err(method.refusal(&guard::too_large(most))) } else { Ok(()) }
}

/// A request in the same dialect that reaches the bridge for certain, which then tells the refusal.
fn stand_in(mut head: Parts, refused: Refused) -> Request<Body> {
    let kind = head.headers.get(header::CONTENT_TYPE).map_or(&b""[..], |k| k.as_bytes());
    let streams = kind.starts_with(b"application/connect+");
    let body = match streams || kind.starts_with(b"application/grpc") {
        true => Body::from(&[0; envelope::PREFIX][..]),
        false => Body::empty(),
    };
    for name in ["content-length", "content-encoding", "connect-content-encoding", "grpc-encoding"] {
        head.headers.remove(name);
    }
    for name in [VERSION.as_str(), TIMEOUT, "grpc-timeout"] {
        head.headers.remove(name);
    }
    match head.method {
        Verb::POST if streams => head.uri = Uri::from_static(REFUSED_STREAM),
        Verb::POST => head.uri = Uri::from_static(REFUSED_CALL),
        Verb::GET => head.uri = Uri::from_static(REFUSED_GET),
        _ => {}
    }
    head.extensions.insert(refused);
    Request::from_parts(head, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_of_a_call_begins_before_its_body_and_zero_is_over() {
        let read = |name: &'static str, value: &'static str| {
            deadline(&HeaderMap::from_iter([(HeaderName::from_static(name), value.parse().unwrap())]))
        };
        assert!(deadline(&HeaderMap::new()).unwrap().is_none());
        for (name, value) in [(TIMEOUT, "9000"), ("grpc-timeout", "9S")] {
            let left = read(name, value).unwrap().unwrap() - Instant::now();
            assert!(left.as_secs_f64() > 1.0, "{left:?}");
        }
        for (name, value) in [(TIMEOUT, "0"), ("grpc-timeout", "0m"), (TIMEOUT, "000")] {
            assert!(read(name, value).unwrap_err().is(Reason::DeadlineExceeded), "{name} {value}");
        }
        for (name, value) in [(TIMEOUT, "1s"), (TIMEOUT, "12345678901"), ("grpc-timeout", "1")] {
            assert!(read(name, value).unwrap_err().is(Reason::BadDeadline), "{name} {value}");
        }
    }

    #[test]
    fn the_type_of_a_request_says_how_it_is_written() {
        let read =
            |kind: &str| Media::read(&HeaderMap::from_iter([(header::CONTENT_TYPE, kind.parse().unwrap())]));
        for (kind, media) in [
            ("application/json; charset=utf-8", Media::Message),
            ("application/proto", Media::Message),
            ("application/connect+json", Media::Stream),
            ("application/grpc-web", Media::Grpc),
            ("application/grpc-web+proto", Media::Grpc),
            ("application/grpc+json", Media::Grpc),
            ("application/grpc-web-text", Media::Other),
            ("application/grpc+thrift", Media::Other),
            ("+json", Media::Other),
            ("text/plain", Media::Other),
        ] {
            assert_eq!(read(kind), media, "{kind}");
        }
    }
}
