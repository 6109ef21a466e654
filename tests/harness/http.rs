//! A small HTTP client: one connection a request, so that nothing is shared between tests.

use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use std::{net::SocketAddr, time::Duration};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};

const PATIENCE: Duration = Duration::from_secs(30);

/// A client of one address.
#[derive(Clone, Debug)]
pub struct Http {
    /// Where to.
    pub address: SocketAddr,
    /// What is shown with every request.
    pub token: Option<String>,
    /// Whether it speaks HTTP/2.
    pub http2: bool,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.body))
    }

    /// The JSON of a success; an error with status and body otherwise.
    pub fn ok(self) -> Result<Value> {
        if !self.status.is_success() {
            bail!("{}: {}", self.status, String::from_utf8_lossy(&self.body));
        }
        Ok(if self.body.is_empty() { Value::Null } else { self.json() })
    }
}

impl Http {
    /// Makes a client.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, token: None, http2: false }
    }

    /// Shows a token with every request.
    pub fn with(self, token: impl Into<String>) -> Self {
        Self { token: Some(token.into()), ..self }
    }

    /// Speaks HTTP/2.
    pub fn by_http2(self) -> Self {
        Self { http2: true, ..self }
    }

    /// Sends a request and reads the whole answer.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer> {
        let (parts, incoming, mut connection) = self.open(method, path, headers, body.into()).await?;
        let body = timeout(PATIENCE, incoming.collect()).await.context("the body does not end")??.to_bytes();
        connection.abort_all();
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }

    /// The same over HTTP/2.
    pub async fn send_by_http2(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer> {
        self.clone().by_http2().send(method, path, headers, body).await
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.send(Method::GET, path, &[], Bytes::new()).await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Result<Answer> {
        self.send(Method::DELETE, path, &[], Bytes::new()).await
    }

    /// POST of JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        self.send(Method::POST, path, &[("content-type", "application/json")], body.to_string()).await
    }

    /// PUT of JSON.
    pub async fn put(&self, path: &str, body: &Value) -> Result<Answer> {
        self.send(Method::PUT, path, &[("content-type", "application/json")], body.to_string()).await
    }

    /// Opens a stream and reads it line by line.
    pub async fn lines(&self, path: &str, headers: &[(&str, &str)]) -> Result<Lines> {
        let (parts, body, connection) = self.open(Method::GET, path, headers, Bytes::new()).await?;
        if !parts.status.is_success() {
            let body = body.collect().await?.to_bytes();
            bail!("{}: {}", parts.status, String::from_utf8_lossy(&body));
        }
        Ok(Lines::new(parts, body, connection))
    }

    /// Follows a path as server-sent events.
    pub async fn events(&self, path: &str, last_event_id: Option<&str>) -> Result<Lines> {
        let mut headers = vec![("accept", "text/event-stream")];
        headers.extend(last_event_id.map(|id| ("last-event-id", id)));
        self.lines(path, &headers).await
    }

    /// Sends a request and answers the head, the body to come, and the connection's task.
    pub async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<(http::response::Parts, Incoming, JoinSet<()>)> {
        let stream = TcpStream::connect(self.address).await?;
        self.open_on(stream, method, path, headers, body).await
    }

    /// The same on a socket that is connected already.
    pub async fn open_on(
        &self,
        stream: TcpStream,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<(http::response::Parts, Incoming, JoinSet<()>)> {
        stream.set_nodelay(true)?;
        let (stream, mut tasks) = (TokioIo::new(stream), JoinSet::new());
        let request = Request::builder().method(method);
        let mut request = match self.http2 {
            true => request.uri(format!("http://{}{path}", self.address)),
            false => request.uri(path).header("host", self.address.to_string()),
        };
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body))?;
        let response = if self.http2 {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await?;
            tasks.spawn(async move { drop(connection.await) });
            timeout(PATIENCE, sender.send_request(request)).await.context("no answer")??
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
            tasks.spawn(async move { drop(connection.await) });
            timeout(PATIENCE, sender.send_request(request)).await.context("no answer")??
        };
        let (parts, body) = response.into_parts();
        Ok((parts, body, tasks))
    }
}

/// A stream of text, line by line.
pub struct Lines {
    /// The head's headers.
    pub headers: HeaderMap,
    body: Incoming,
    rest: BytesMut,
    _connection: JoinSet<()>,
}

/// One server-sent event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its name.
    pub event: String,
    /// Where to go on.
    pub id: Option<String>,
    /// Its data.
    pub data: Value,
}

impl Lines {
    /// Reads a body line by line.
    pub fn new(head: http::response::Parts, body: Incoming, connection: JoinSet<()>) -> Self {
        Self { headers: head.headers, body, rest: BytesMut::new(), _connection: connection }
    }

    /// The next line; `None` at the end.
    pub async fn line(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line = self.rest.split_to(end + 1);
                return Ok(Some(String::from_utf8(line[..end].to_vec())?));
            }
            match timeout(PATIENCE, self.body.frame()).await.context("the stream is silent")? {
                Some(frame) => {
                    if let Some(data) = frame?.data_ref() {
                        self.rest.extend_from_slice(data);
                    }
                }
                None => return Ok(None),
            }
        }
    }

    /// The next non-empty line as JSON (NDJSON).
    pub async fn json(&mut self) -> Result<Option<Value>> {
        while let Some(line) = self.line().await? {
            if !line.trim().is_empty() {
                return Ok(Some(serde_json::from_str(&line)?));
            }
        }
        Ok(None)
    }

    /// The next server-sent event; comments are passed over.
    pub async fn event(&mut self) -> Result<Option<Event>> {
        let (mut name, mut id, mut data) = (String::new(), None, String::new());
        while let Some(line) = self.line().await? {
            let line = line.trim_end_matches('\r');
            if line.is_empty() {
                if data.is_empty() && name.is_empty() {
                    continue;
                }
                let data = if data.is_empty() { Value::Null } else { serde_json::from_str(&data)? };
                return Ok(Some(Event { event: name, id, data }));
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => name = value.into(),
                "id" => id = Some(value.into()),
                "data" => data.push_str(value),
                _ => {}
            }
        }
        Ok(None)
    }

    /// The next event of this name; an error if the stream ends or fails before.
    pub async fn next(&mut self, name: &str) -> Result<Event> {
        loop {
            match self.event().await? {
                Some(event) if event.event == name => return Ok(event),
                Some(event) if event.event == "failure" => bail!("failure: {}", event.data),
                Some(_) => {}
                None => bail!("the stream ended before {name:?}"),
            }
        }
    }
}
