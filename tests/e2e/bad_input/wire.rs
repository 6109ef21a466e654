//! What is no request at all, as far as it gets: text, heads, frames, bytes.

use super::{cell, long, rows};
use crate::dialects::{
    rpc::{BASE64, Failure},
    ws::{Heard, Session},
};
use base64::Engine;
use http::Version;
use plexus_tests::{Cluster, Http};
use serde_json::{Value, json};
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::tungstenite::Message;

/// Collects what differs, and shows all of it.
#[derive(Default)]
pub(super) struct Wrong(Vec<String>);

impl Wrong {
    pub(super) fn check(&mut self, what: &str, told: String, wanted: String) {
        if told != wanted {
            let what: String = what.chars().take(120).collect();
            self.0.push(format!("{what}: {told}, not {wanted}"));
        }
    }

    pub(super) fn none(self) {
        assert!(self.0.is_empty(), "{}:\n{}", self.0.len(), self.0.join("\n"));
    }
}

/// Both versions of HTTP.
const VERSIONS: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

/// Sends what a row says: `verb path`, headers, body.
async fn send(
    address: SocketAddr,
    version: Version,
    line: &str,
    headers: &str,
    body: &str,
) -> plexus_tests::Answer {
    let (verb, path) = line.split_once(' ').unwrap();
    let headers = long(cell(headers).unwrap_or_default());
    let pairs = headers.split(";;").filter_map(|pair| pair.split_once(':'));
    let pairs: Vec<_> = pairs.map(|(name, value)| (name.trim(), value.trim())).collect();
    let body = long(cell(body).unwrap_or_default());
    let (http, verb, path) = (Http::new(address), verb.parse().unwrap(), long(path));
    let sent = match version {
        Version::HTTP_2 => http.send_by_http2(verb, &path, &pairs, body).await,
        _ => http.send(verb, &path, &pairs, body).await,
    };
    sent.unwrap_or_else(|e| panic!("{version:?} {line}: {e:#}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_of_rest_is_refused_by_its_field() {
    let cluster = Cluster::one().await;
    let (http, mut wrong) = (cluster.client(), Wrong::default());
    http.post("/v1/nodes", &json!({"id": "taken"})).await.unwrap().ok().unwrap();
    http.post("/v1/topics/t/messages", &json!({"text": "x"})).await.unwrap().ok().unwrap();
    let cells = rows("http").into_iter().flat_map(|row| VERSIONS.map(|version| (version, row.clone())));
    for (version, row) in cells {
        let [line, headers, body, status, reason, field] = row[..] else { panic!("{row:?}") };
        let answer = send(http.address, version, line, headers, body).await;
        let mut told = format!("{}", answer.status.as_u16());
        if !answer.status.is_success() {
            let kind = answer.headers.get("content-type").map(|k| k.to_str().unwrap()).unwrap_or("no type");
            assert_eq!(kind, "application/problem+json", "{version:?} {row:?}");
            let problem = answer.json();
            assert_eq!(problem["status"], answer.status.as_u16(), "{problem}");
            assert_eq!(answer.headers.contains_key("allow"), answer.status == 405, "{version:?} {row:?}");
            let failure = Failure::of_json(&problem);
            let field = failure.fields.first().map_or("-", String::as_str);
            told = format!("{told} {} {field}", failure.reason);
        }
        let what = format!("{version:?} {line} {headers} {body}");
        wrong.check(&what, told, format!("{status} {reason} {field}"));
    }
    wrong.none();
}

#[tokio::test(flavor = "multi_thread")]
async fn text_that_is_no_json_of_the_request_is_refused_in_every_dialect_of_json() {
    let cluster = Cluster::one().await;
    let (address, mut wrong) = (cluster.gateways[0].0, Wrong::default());
    for row in rows("json") {
        let [text, rest, field, connect, session] = row[..] else { panic!("{row:?}") };
        let body = long(text);
        let kind = "content-type: application/json";
        let answer = send(address, Version::HTTP_11, "POST /v1/topics/j/messages", kind, text).await;
        let told = match answer.status.is_success() {
            true => "ok -".to_owned(),
            false => {
                let failure = Failure::of_json(&answer.json());
                format!("{} {}", failure.reason, failure.fields.first().map_or("-", String::as_str))
            }
        };
        wrong.check(&format!("REST {text}"), told, format!("{rest} {field}"));
        let answer =
            send(address, Version::HTTP_11, "POST /plexus.v1.TopicService/Publish", kind, text).await;
        let told =
            if answer.status.is_success() { "ok".into() } else { connect_error(&answer.json()).reason };
        wrong.check(&format!("Connect {text}"), told, connect.into());
        let mut socket = Session::open(address, None).await;
        let frame = format!(r#"{{"id":1,"call":"TopicService.Publish","params":{body}}}"#);
        socket.send(Message::Text(frame.into())).await;
        wrong.check(&format!("WebSocket {text}"), heard(socket).await, session.into());
    }
    wrong.none();
}

/// What a session says of a frame.
async fn heard(mut socket: Session) -> String {
    match socket.hear().await.1 {
        Heard::Failed(failure) => failure.reason,
        Heard::Answer(..) => "ok".into(),
        Heard::Close { code, .. } => format!("closed {code}"),
        Heard::Closed(code) => format!("closed {}", code.unwrap_or_default()),
        other => format!("{other:?}"),
    }
}

fn connect_error(error: &Value) -> Failure {
    let details = error["details"].as_array().cloned().unwrap_or_default();
    let details = details.iter().map(|d| {
        (d["type"].as_str().unwrap().to_owned(), BASE64.decode(d["value"].as_str().unwrap()).unwrap())
    });
    Failure::of_details(error["code"].as_str().unwrap_or("-"), details)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_call_of_connect_is_refused_as_its_specification_says() {
    let cluster = Cluster::one().await;
    let (address, mut wrong) = (cluster.gateways[0].0, Wrong::default());
    let cells = rows("rpc").into_iter().flat_map(|row| VERSIONS.map(|version| (version, row.clone())));
    for (version, row) in cells {
        let [line, headers, body, status, code, reason] = row[..] else { panic!("{row:?}") };
        let answer = send(address, version, line, headers, body).await;
        let error = serde_json::from_slice(&answer.body).unwrap_or_default();
        let failure = connect_error(&error);
        let told = format!("{} {} {}", answer.status.as_u16(), failure.code, or_none(&failure.reason));
        let what = format!("{version:?} {line} {headers} {body}");
        wrong.check(&what, told, format!("{status} {code} {reason}"));
    }
    wrong.none();
}

fn replace(bytes: &[u8], what: &[u8], with: &[u8]) -> Vec<u8> {
    match bytes.windows(what.len()).position(|window| window == what) {
        Some(at) => [&bytes[..at], with, &bytes[at + what.len()..]].concat(),
        None => bytes.to_vec(),
    }
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_http_are_refused_and_nothing_hides_in_them() {
    let cluster = Cluster::one().await;
    let (address, mut wrong) = (cluster.gateways[0].0, Wrong::default());
    for row in rows("raw") {
        let [what, bytes, statuses] = row[..] else { panic!("{row:?}") };
        let bytes =
            bytes.replace("\\r", "\r").replace("\\n", "\n").replace("\\0", "\0").replace("\\v", "\u{b}");
        let mut socket = TcpStream::connect(address).await.unwrap();
        let (bytes, ends) = bytes.strip_suffix("\\e").map_or((&bytes[..], false), |bytes| (bytes, true));
        // What is refused at once may be cut while it is still being sent.
        // One byte that is no text stands in the rows as it is written in Rust.
        let bytes = long(bytes).into_bytes();
        let bytes = replace(&bytes, b"\\xff", &[0xff]);
        let _ = socket.write_all(&bytes).await;
        if ends {
            let _ = socket.shutdown().await;
        }
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(super::PATIENCE, socket.read_to_end(&mut answer)).await.expect("an end");
        let text = String::from_utf8_lossy(&answer);
        let told: Vec<_> = text.split("HTTP/1.").skip(1).filter_map(|rest| rest.get(2..5)).collect();
        wrong.check(what, or_none(&told.join(" ")).to_owned(), statuses.into());
    }
    wrong.none();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_frame_of_a_session_is_refused() {
    let cluster = Cluster::one().await;
    let (address, mut wrong) = (cluster.gateways[0].0, Wrong::default());
    for row in rows("frames") {
        let [form, frame, answer] = row[..] else { panic!("{row:?}") };
        let mut socket = Session::open(address, Some(&format!("plexus.v1.{form}"))).await;
        let message = match form {
            "json" => Message::Text(long(frame).into()),
            _ => Message::Binary(data_encoding::HEXLOWER.decode(frame.as_bytes()).unwrap().into()),
        };
        socket.send(message).await;
        wrong.check(&format!("{form} {frame}"), heard(socket).await, answer.into());
    }
    wrong.none();
}
