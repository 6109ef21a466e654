//! Requests that are never whole, lengths that lie and bodies that grow, on HTTP/1 and HTTP/2 alike.

use super::{PATIENCE, cell, long, rows, wire::Wrong};
use crate::dialects::rpc::{BASE64, Failure};
use base64::Engine;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures::{StreamExt, stream};
use http::{HeaderMap, Request, Version};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use plexus_tests::{Cluster, Http};
use serde_json::{Value, json};
use std::{io, net::SocketAddr};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

type Answer = (u16, HeaderMap, HeaderMap, Bytes);
type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The content type and the path of a dialect.
const KINDS: [(&str, &str, &str); 6] = [
    ("grpc", "application/grpc", "/plexus.v1.TopicService/GetTopic"),
    ("web", "application/grpc-web+proto", "/plexus.v1.TopicService/GetTopic"),
    ("stream", "application/connect+json", "/plexus.v1.TopicService/Subscribe"),
    ("unary", "application/json", "/plexus.v1.TopicService/GetTopic"),
    ("raw", "text/plain", "/v1/topics/t/messages"),
    ("rest", "application/json", "/v1/topics/t/messages"),
];

/// Writes out a body: hexadecimal, `gzip:N` for N bytes that are packed, `packed:N` for such a message in an
/// envelope, `full:N` for one that is not packed.
fn bytes(text: &str) -> Vec<u8> {
    let gzip = |count: &str| {
        let mut packer = GzEncoder::new(Vec::new(), Compression::best());
        io::copy(&mut io::Read::take(io::repeat(b' '), count.parse().unwrap()), &mut packer).unwrap();
        packer.finish().unwrap()
    };
    let word = |word: &str| match word.split_once(':') {
        Some(("gzip", count)) => gzip(count),
        Some(("full", count)) => {
            let count = count.parse::<u32>().unwrap();
            [&[0], &count.to_be_bytes()[..], &vec![b' '; count as usize]].concat()
        }
        Some(("packed", count)) => {
            let packed = gzip(count);
            [&[1], &u32::try_from(packed.len()).unwrap().to_be_bytes()[..], &packed].concat()
        }
        _ => data_encoding::HEXLOWER.decode(word.as_bytes()).unwrap_or_else(|e| panic!("{word}: {e}")),
    };
    cell(text).unwrap_or_default().split(' ').filter(|w| !w.is_empty()).flat_map(word).collect()
}

/// A body that ends as a row says: `end`, `cut`, or `wait` for ever.
fn body(bytes: Vec<u8>, end: &str) -> Body {
    let first = stream::iter((!bytes.is_empty()).then(|| Ok(Frame::data(Bytes::from(bytes)))));
    let rest = match end {
        "end" => stream::empty().boxed(),
        // A moment later, so that what is there has been sent.
        "cut" => stream::once(async {
            tokio::task::yield_now().await;
            Err(io::Error::other("the client is gone"))
        })
        .boxed(),
        "wait" => stream::pending().boxed(),
        other => panic!("{other}"),
    };
    StreamBody::new(first.chain(rest)).boxed_unsync()
}

/// Sends a request and answers status, headers, trailers and body.
async fn send(address: SocketAddr, version: Version, request: Request<Body>) -> Result<Answer, &'static str> {
    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let mut tasks = JoinSet::new();
    let answer = async {
        let response = if version == Version::HTTP_2 {
            let (mut send, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tasks.spawn(async move { drop(connection.await) });
            send.send_request(request).await.ok()?
        } else {
            let (mut send, connection) = http1::handshake(io).await.unwrap();
            tasks.spawn(async move { drop(connection.await) });
            send.send_request(request).await.ok()?
        };
        let (head, body) = response.into_parts();
        let body = body.collect().await.ok()?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        Some((head.status.as_u16(), head.headers, trailers, body.to_bytes()))
    };
    timeout(PATIENCE, answer).await.map_err(|_| "hangs")?.ok_or("nothing")
}

/// What an answer says: its code, its reason, and the field or the limit.
fn told(kind: &str, answer: Result<Answer, &str>) -> String {
    let (status, headers, trailers, body) = match answer {
        Ok(answer) => answer,
        Err(text) => return text.into(),
    };
    let failure = match kind {
        "grpc" | "web" => {
            let text = |name: &str| {
                let value = trailers.get(name).or_else(|| headers.get(name)).map(|v| v.to_str().unwrap());
                value.map(ToOwned::to_owned).or_else(|| in_body(&body, name)).unwrap_or_default()
            };
            let code = text("grpc-status");
            if code.is_empty() {
                return format!("HTTP {status}");
            }
            match code.parse().unwrap() {
                0 => return "ok".into(),
                code => Failure::of_status(code, &BASE64.decode(text("grpc-status-details-bin")).unwrap()),
            }
        }
        "stream" => match body.iter().position(|b| *b == b'{') {
            Some(at) => connect(&serde_json::from_slice::<Value>(&body[at..]).unwrap()["error"]),
            None => return format!("HTTP {status}"),
        },
        _ if status == 200 => return "ok".into(),
        "unary" => connect(&serde_json::from_slice(&body).unwrap()),
        _ => Failure::of_json(&serde_json::from_slice(&body).unwrap()),
    };
    let reason = if failure.reason.is_empty() { "-" } else { &failure.reason };
    let limit = failure.metadata.iter().find(|(name, _)| name == "limit").map(|(_, value)| value);
    let detail = failure.fields.first().or(limit).map(|detail| format!(" {detail}")).unwrap_or_default();
    format!("{} {reason}{detail}", failure.code)
}

/// A trailer of gRPC-Web, which the last envelope holds.
fn in_body(body: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    let (_, rest) = text.split_once(&format!("{name}:"))?;
    Some(rest.lines().next()?.trim().to_owned())
}

fn connect(error: &Value) -> Failure {
    let details = error["details"].as_array().cloned().unwrap_or_default();
    let details = details.iter().map(|d| {
        (d["type"].as_str().unwrap().to_owned(), BASE64.decode(d["value"].as_str().unwrap()).unwrap())
    });
    Failure::of_details(error["code"].as_str().unwrap_or("-"), details)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_never_whole_ends_alike_on_both_versions_of_http() {
    let cluster = Cluster::one().await;
    let (http, mut wrong) = (cluster.client(), Wrong::default());
    http.post("/v1/topics/t/messages", &json!({"text": "x"})).await.unwrap().ok().unwrap();
    for row in rows("bodies") {
        let [kind, headers, content, end, wanted] = row[..] else { panic!("{row:?}") };
        let (_, media, path) = KINDS.iter().find(|(name, ..)| *name == kind).unwrap();
        // gRPC needs trailers, which HTTP/1 has not.
        let versions =
            if kind == "grpc" { &[Version::HTTP_2][..] } else { &[Version::HTTP_11, Version::HTTP_2] };
        for version in versions {
            let target = match *version {
                Version::HTTP_2 => format!("http://{}{path}", http.address),
                _ => (*path).to_owned(),
            };
            let mut request = Request::post(target).header("content-type", *media).header("te", "trailers");
            if *version == Version::HTTP_11 {
                request = request.header("host", "h");
            }
            for (name, value) in
                cell(headers).unwrap_or_default().split(";;").filter_map(|p| p.split_once(':'))
            {
                request = request.header(name.trim(), value.trim());
            }
            let answer = send(http.address, *version, request.body(body(bytes(content), end)).unwrap()).await;
            wrong.check(
                &format!("{version:?} {kind} {headers} {content} {end}"),
                told(kind, answer),
                wanted.into(),
            );
        }
    }
    wrong.none();
    http.get("/v1/topics/t").await.unwrap().ok().unwrap();
}

/// A WebSocket whose handshake is done.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

pub(crate) async fn upgraded(
    address: SocketAddr,
    version: Version,
    form: &str,
    tasks: &mut JoinSet<()>,
) -> Box<dyn Wire> {
    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let protocol = format!("plexus.v1.{form}");
    let request =
        Request::builder().header("sec-websocket-version", "13").header("sec-websocket-protocol", protocol);
    let empty = || http_body_util::Empty::<Bytes>::new();
    let response = if version == Version::HTTP_2 {
        let (mut send, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tasks.spawn(async move { drop(connection.await) });
        // What the server allows is known with its first frame.
        let warm = Request::get(format!("http://{address}/")).body(empty()).unwrap();
        send.send_request(warm).await.unwrap().into_body().collect().await.unwrap();
        let protocol = hyper::ext::Protocol::from_static("websocket");
        let request = request.method("CONNECT").uri(format!("http://{address}/v1/ws")).extension(protocol);
        send.send_request(request.body(empty()).unwrap()).await.unwrap()
    } else {
        let (mut send, connection) = http1::handshake(io).await.unwrap();
        tasks.spawn(async move { drop(connection.with_upgrades().await) });
        let request =
            request.uri("/v1/ws").header("host", address.to_string()).header("upgrade", "websocket");
        let request =
            request.header("connection", "upgrade").header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        send.send_request(request.body(empty()).unwrap()).await.unwrap()
    };
    Box::new(TokioIo::new(hyper::upgrade::on(response).await.unwrap()))
}

/// The code of the close frame that the server sends; `end`: it ends without one.
async fn closed(socket: &mut (dyn Wire + '_)) -> String {
    let mut read = async || -> io::Result<Option<u16>> {
        loop {
            let (first, len) = (socket.read_u8().await?, socket.read_u8().await?);
            let len = match len {
                126 => usize::from(socket.read_u16().await?),
                127 => socket.read_u64().await? as usize,
                len => usize::from(len),
            };
            let mut payload = vec![0; len];
            socket.read_exact(&mut payload).await?;
            if first & 0x0f == 8 {
                return Ok(payload.first_chunk().map(|code| u16::from_be_bytes(*code)));
            }
        }
    };
    match timeout(PATIENCE, read()).await {
        Ok(Ok(Some(code))) => code.to_string(),
        Ok(Ok(None)) => "no code".into(),
        Ok(Err(_)) => "end".into(),
        Err(_) => "hangs".into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_websocket_close_it_by_their_code_on_both_versions_of_http() {
    let cluster = Cluster::one().await;
    let (address, mut wrong) = (cluster.gateways[0].0, Wrong::default());
    for row in rows("sockets") {
        let [what, content, end, wanted] = row[..] else { panic!("{row:?}") };
        for version in [Version::HTTP_11, Version::HTTP_2] {
            for form in ["json", "proto"] {
                let mut tasks = JoinSet::new();
                let mut socket = upgraded(address, version, form, &mut tasks).await;
                socket.write_all(&bytes(&long(content))).await.unwrap();
                socket.flush().await.unwrap();
                let told = match end {
                    "cut" => {
                        drop(socket);
                        tasks.shutdown().await;
                        "gone".into()
                    }
                    "end" => {
                        let _ = socket.shutdown().await;
                        closed(&mut *socket).await
                    }
                    _ => closed(&mut *socket).await,
                };
                wrong.check(&format!("{version:?} {form} {what}"), told, wanted.into());
            }
        }
    }
    wrong.none();
    Http::new(address).get("/v1/topics").await.unwrap().ok().unwrap();
}
