//! The edge's part of [`crate::fuzzing`].

pub(crate) use super::{auth::token::fuzzing::token, websocket::fuzzing::frame};

use super::{
    desc::{Kind, Registry},
    forwarders::{Forwarders, PROXY_HEAD, ProxyHead},
    json::{self, Unknown},
    rest,
    route::Routes,
};
use crate::{
    config::{self, ForwardedHeader},
    fuzzing::refused,
    grant::Part,
};
use axum::body::Body;
use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use plexus_proto::text;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, ReflectMessage, Value};
use std::{
    net::{IpAddr, SocketAddr},
    sync::LazyLock,
};

/// Bytes of a body at most.
const LIMIT: usize = 64 << 10;

/// The contract.
pub(crate) static REGISTRY: LazyLock<Registry> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(plexus_proto::DESCRIPTOR).expect("the contract is read");
    let services: Vec<_> = pool.services().filter(|s| s.package_name() == "plexus.v1").collect();
    let names: Vec<&str> = services.iter().map(|s| s.full_name()).collect();
    Registry::new(&[plexus_proto::DESCRIPTOR], &names, &[]).expect("the contract is served")
});

static ROUTES: LazyLock<Routes> = LazyLock::new(|| Routes::new(&REGISTRY).expect("its paths are read"));

/// The message that a byte names: a request or an answer.
fn message(which: u8) -> MessageDescriptor {
    let methods = REGISTRY.methods();
    let method = &methods[usize::from(which / 2) % methods.len()];
    if which.is_multiple_of(2) { method.input.clone() } else { method.output.clone() }
}

/// JSON → message → JSON, and bytes → JSON → bytes. What is strict agrees with what is lenient.
pub(crate) fn json(data: &[u8]) {
    let [form, which, data @ ..] = data else { return };
    let kind = message(*which);
    if form % 2 == 1 {
        let data = Bytes::copy_from_slice(data);
        // Times beyond what JSON can say are answers that nobody gives.
        let Ok(written) = json::from_proto(&kind, &data) else { return };
        let again = json::to_proto(&kind, &written).expect("what we write is read");
        let again = json::from_proto(&kind, &again).expect("it was written before");
        let plain = |json: &Bytes| serde_json::from_slice::<serde_json::Value>(json).expect("it is JSON");
        return assert_eq!(plain(&again), plain(&written));
    }
    let strict = json::read(&kind, data, Unknown::Refuse);
    let lenient = json::read(&kind, data, Unknown::Ignore);
    let read = match (strict, lenient) {
        (Ok(strict), Ok(lenient)) => {
            assert!(same(&strict, &lenient), "{strict:?} {lenient:?}");
            strict
        }
        (Err(error), Ok(lenient)) => {
            refused(&error);
            lenient
        }
        (_, Err(error)) => return refused(&error),
    };
    let encoded = Bytes::from(read.encode_to_vec());
    assert!(same(&DynamicMessage::decode(kind.clone(), encoded.clone()).expect("our own bytes"), &read));
    // A time out of its range is for the services to refuse.
    let Ok(written) = json::from_proto(&kind, &encoded) else { return };
    let again = json::read(&kind, &written, Unknown::Refuse).expect("what we write is read");
    assert!(same(&again, &read), "{again:?} {read:?}");
}

/// Whether two messages are equal on the wire; one that holds no number equals nothing.
fn same(one: &DynamicMessage, other: &DynamicMessage) -> bool {
    // A list that is there and empty is none.
    let plain = |message: &DynamicMessage| {
        DynamicMessage::decode(message.descriptor(), &message.encode_to_vec()[..]).expect("our own bytes")
    };
    let (one, other) = (plain(one), plain(other));
    one == other || one.ne(&one)
}

/// A request of REST: a verb and a target, headers, an empty line, a body.
pub(crate) fn rest(data: &[u8]) {
    let (head, body) = match data.windows(2).position(|pair| pair == b"\n\n") {
        Some(at) => (&data[..at], &data[at + 2..]),
        None => (data, &[][..]),
    };
    let mut lines = head.split(|b| *b == b'\n');
    let line = lines.next().unwrap_or_default();
    let Some(at) = line.iter().position(|b| *b == b' ') else { return };
    let mut request = Request::builder().method(&line[..at]).uri(&line[at + 1..]);
    for line in lines {
        let Some(at) = line.iter().position(|b| *b == b':') else { return };
        request = request.header(&line[..at], &line[at + 1..]);
    }
    let Ok(request) = request.body(()) else { return };
    let (parts, ()) = request.into_parts();
    let found = match ROUTES.find(&parts.method, parts.uri.path()) {
        Ok(found) => found,
        Err(error) => return refused(&error),
    };
    for (route, captures) in [found.unary, found.stream].into_iter().flatten() {
        let body = Body::from(Bytes::copy_from_slice(body));
        let read = rest::request(route, captures, &parts, body, LIMIT).now_or_never();
        match read.expect("all of it is there") {
            Ok(message) => {
                let encoded = message.encode_to_vec();
                let again =
                    DynamicMessage::decode(message.descriptor(), &encoded[..]).expect("our own bytes");
                assert!(same(&again, &message), "{again:?} {message:?}");
                // What the caller may is decided by what is read again.
                assert!(route.method.asks.resources(Some(&encoded.into())).is_ok());
            }
            Err(error) => refused(&error),
        }
    }
}

/// What a request asks for: no resource that it names is left out, however it is encoded.
pub(crate) fn resources(data: &[u8]) {
    let [which, data @ ..] = data else { return };
    let methods = REGISTRY.methods();
    let method = &methods[usize::from(*which) % methods.len()];
    let data = Bytes::copy_from_slice(data);
    let asked = method.asks.resources(Some(&data));
    let Ok(read) = DynamicMessage::decode(method.input.clone(), data) else { return };
    let (Ok(asked), Some(rule)) = (asked, method.rules.first()) else { return };
    let variables = rule.template.split('/').skip(2).enumerate().filter_map(|(at, piece)| {
        let name = piece.strip_prefix('{')?.split(['}', '=']).next()?;
        Some((at, name))
    });
    for (at, name) in variables {
        let texts = |name: &str| -> Vec<String> {
            let Some(field) = method.input.get_field_by_name(name) else { return Vec::new() };
            match read.get_field(&field).as_ref() {
                Value::String(text) => vec![text.clone()],
                Value::List(list) => list.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect(),
                _ => Vec::new(),
            }
        };
        let named = texts(name).into_iter().filter(|text| !text.is_empty());
        for text in named.chain(texts(&format!("{name}s"))) {
            let bytes = text::bytes_from_text(&text).unwrap_or_else(|| Bytes::from(text.clone()));
            let covers = |part: &Part| match part {
                Part::Every => true,
                Part::Named(name) => **name == *bytes,
            };
            assert!(asked.iter().any(|r| r.get(at).is_some_and(covers)), "{text:?}: {asked:?}");
        }
    }
    assert!(method.kind == Kind::ClientStream || !asked.is_empty());
}

/// What forwarders say of the client: a PROXY header, or lines of a header behind a byte that chooses who
/// says it and which header counts.
pub(crate) fn forwarders(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    match kind % 3 {
        0 => proxy(data),
        one => forwarded(one == 1, data),
    }
}

fn proxy(data: &[u8]) {
    let peer: SocketAddr = ([10, 0, 0, 1], 9).into();
    let Some((head, rest)) = data.split_first_chunk::<PROXY_HEAD>() else { return };
    let Some(read) = ProxyHead::parse(head) else { return };
    assert!(head.starts_with(b"\r\n\r\n\0\r\nQUIT\n") && read.rest <= 2048);
    let rest = &rest[..rest.len().min(read.rest)];
    let told = read.client(peer, rest);
    // By the specification: where the addresses stand, and how long they are.
    let port = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
    let wanted = match (head[12] & 0x0f, head[13]) {
        (0, _) => Some(peer),
        (_, 0x11) => (rest.len() >= 12).then(|| {
            let four: [u8; 4] = rest[..4].try_into().expect("four bytes");
            (IpAddr::from(four), port(8)).into()
        }),
        (_, 0x21) => (rest.len() >= 36).then(|| {
            let six: [u8; 16] = rest[..16].try_into().expect("sixteen bytes");
            (IpAddr::from(six).to_canonical(), port(32)).into()
        }),
        _ => Some(peer),
    };
    assert_eq!(told, wanted);
}

fn forwarded(standard: bool, data: &[u8]) {
    let Some((which, data)) = data.split_first() else { return };
    let header = if standard { ForwardedHeader::Forwarded } else { ForwardedHeader::XForwardedFor };
    let name = HeaderName::from_static(if standard { "forwarded" } else { "x-forwarded-for" });
    let is_trusted = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets()[0] == 10,
        IpAddr::V6(ip) => ip.octets()[0] == 0xfd,
    };
    let list = config::Forwarders {
        proxy_protocol: Vec::new(),
        trusted: vec!["10.0.0.0/8".into(), "fd00::/8".into()],
        header,
    };
    let forwarders = Forwarders::new(&list).expect("they are networks");
    let peer: SocketAddr =
        if which.is_multiple_of(2) { ([10, 0, 0, 1], 9).into() } else { ([203, 0, 113, 1], 9).into() };
    let mut headers = HeaderMap::new();
    for line in data.split(|b| *b == b'\n').take(32) {
        let Ok(value) = HeaderValue::from_bytes(line) else { return };
        headers.append(&name, value);
    }
    let told = forwarders.client(peer, &headers);
    if !is_trusted(peer.ip()) {
        return assert_eq!(told, peer);
    }
    // Who speaks through a stranger is not heard: what comes before one changes nothing.
    let stranger = HeaderValue::from_static(if standard { "for=198.51.100.1" } else { "198.51.100.1" });
    headers.append(&name, stranger);
    assert_eq!(forwarders.client(peer, &headers).ip(), IpAddr::from([198, 51, 100, 1]));
    assert_eq!(told.ip(), told.ip().to_canonical());
}
