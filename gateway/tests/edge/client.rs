//! A client with no opinions: a connection, requests, and what came back.

use crate::Server;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use std::time::Duration;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinSet,
};

/// One answer, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|v| v.to_str().unwrap()).unwrap_or_default()
    }
}

/// A connection of either version.
pub(crate) enum Connection {
    One(http1::SendRequest<Full<Bytes>>, #[expect(dead_code, reason = "ends with it")] JoinSet<()>),
    Two(http2::SendRequest<Full<Bytes>>, #[expect(dead_code, reason = "ends with it")] JoinSet<()>),
}

impl Server {
    pub(crate) async fn http1(&self) -> Connection {
        Connection::one(TcpStream::connect(self.addr).await.unwrap()).await
    }

    pub(crate) async fn http2(&self) -> Connection {
        Connection::two(TcpStream::connect(self.addr).await.unwrap()).await
    }

    /// Sends one request on a connection of its own.
    pub(crate) async fn send(
        &self,
        verb: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        self.http1().await.send(self, verb, path, headers, body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    /// Begins a stream and gives its head and its body.
    pub(crate) async fn open(&self, path: &str, headers: &[(&str, &str)]) -> (Connection, Reader) {
        let mut connection = self.http1().await;
        let response = connection.begin(self, "GET", path, headers, "").await;
        (connection, Reader::new(response))
    }
}

impl Connection {
    /// HTTP/1 over any bytes.
    pub(crate) async fn one(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (send, connection) = http1::handshake(TokioIo::new(io)).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { drop(connection.await) });
        Self::One(send, tasks)
    }

    /// HTTP/2 over any bytes.
    pub(crate) async fn two(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (send, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { drop(connection.await) });
        Self::Two(send, tasks)
    }

    pub(crate) async fn begin(
        &mut self,
        server: &Server,
        verb: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Response<Incoming> {
        let host = server.addr.to_string();
        let target = match self {
            Self::One(..) => path.to_owned(),
            Self::Two(..) => format!("http://{host}{path}"),
        };
        let mut request = Request::builder().method(verb).uri(target);
        if matches!(self, Self::One(..)) {
            request = request.header("host", host);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        match self {
            Self::One(send, _) => send.send_request(request).await.unwrap(),
            Self::Two(send, _) => send.send_request(request).await.unwrap(),
        }
    }

    pub(crate) async fn send(
        &mut self,
        server: &Server,
        verb: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let (parts, body) = self.begin(server, verb, path, headers, body).await.into_parts();
        let whole = tokio::time::timeout(Duration::from_secs(5), body.collect()).await.unwrap().unwrap();
        let trailers = whole.trailers().cloned().unwrap_or_default();
        Answer { status: parts.status, headers: parts.headers, body: whole.to_bytes(), trailers }
    }
}

/// A stream of text, block by block.
pub(crate) struct Reader {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Incoming,
    text: String,
}

impl Reader {
    pub(crate) fn new(response: Response<Incoming>) -> Self {
        let (parts, body) = response.into_parts();
        Self { status: parts.status, headers: parts.headers, body, text: String::new() }
    }

    /// The next piece that ends in `end`, without it; `None` at the end of the stream.
    pub(crate) async fn until(&mut self, end: &str) -> Option<String> {
        loop {
            if let Some((piece, rest)) = self.text.split_once(end) {
                let (piece, rest) = (piece.to_owned(), rest.to_owned());
                self.text = rest;
                return Some(piece);
            }
            let frame = tokio::time::timeout(Duration::from_secs(5), self.body.frame())
                .await
                .expect("a stream stood still");
            match frame {
                Some(Ok(frame)) => self.text.push_str(std::str::from_utf8(frame.data_ref()?).unwrap()),
                _ => return None,
            }
        }
    }

    /// The next server-sent event: its name, id and data; comments are skipped.
    pub(crate) async fn event(&mut self) -> Option<(String, String, Value)> {
        loop {
            let block = self.until("\n\n").await?;
            let field = |name: &str| {
                let line = block.lines().find_map(|l| l.strip_prefix(name));
                line.unwrap_or_default().trim_start().to_owned()
            };
            let data = field("data:");
            if !data.is_empty() {
                return Some((field("event:"), field("id:"), serde_json::from_str(&data).unwrap()));
            }
        }
    }

    /// The next line of JSON; empty lines are skipped.
    pub(crate) async fn line(&mut self) -> Option<Value> {
        loop {
            let line = self.until("\n").await?;
            if !line.is_empty() {
                return Some(serde_json::from_str(&line).unwrap());
            }
        }
    }
}
