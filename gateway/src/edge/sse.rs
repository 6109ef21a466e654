//! Streams of answers as text: server-sent events and lines of JSON. The head goes out at once, what is
//! ready together is written together, and silence is filled, so that proxies keep the connection and a
//! dead peer is found.

use super::{
    desc::Method,
    json, problem,
    reply::{Answer, Reply},
    trunk::Trunk,
};
use crate::error;
use axum::body::Body;
use bytes::Bytes;
use futures::{FutureExt, stream};
use http::{HeaderMap, HeaderValue, Response, header};
use http_body_util::StreamBody;
use plexus_proto::v1;
use std::{convert::Infallible, sync::Arc, time::Duration};

/// `Last-Event-ID` of a stream that ended by itself: EventSource reconnects all the same, and is then told
/// to stay away.
pub(crate) const ENDED: &str = "$end";

/// The event of a stream's end, and of a failure; EventSource fires `error` itself.
const END: &[u8] = b"end";
const FAILURE: &str = "failure";
/// An answer that only says that the stream lives; on SSE a comment does.
const HEARTBEAT: &[u8] = b"heartbeat";
/// Bytes that are gathered before they are written.
const CHUNK: usize = 32 << 10;

/// How a stream is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    /// `text/event-stream`.
    Sse,
    /// `application/x-ndjson`.
    Ndjson,
}

impl Form {
    /// Its media type.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Sse => "text/event-stream",
            Self::Ndjson => "application/x-ndjson",
        }
    }

    /// The head of such a stream.
    pub(crate) fn head(self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.media_type()));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        response
    }
}

/// A stream on its way to one reader.
struct Writer {
    trunk: Trunk,
    method: Arc<Method>,
    form: Form,
    silence: Duration,
    /// The request's headers, for the trace that a failure names.
    headers: HeaderMap,
    /// Whether the last event said that it is the last.
    said_end: bool,
    out: Vec<u8>,
}

/// Answers with the stream; its outcome comes as its last event.
pub(crate) fn response(
    trunk: Trunk,
    method: Arc<Method>,
    form: Form,
    headers: HeaderMap,
    mut reply: Reply,
) -> Response<Body> {
    // Metadata is not told, and need not be kept.
    drop(reply.headers());
    let silence = trunk.limits().heartbeat_interval;
    let mut writer = Writer { trunk, method, form, silence, headers, said_end: false, out: Vec::new() };
    if form == Form::Sse {
        writer.out.extend_from_slice(b": ok\n\n");
    }
    let chunks = stream::unfold((writer, Some(reply)), |(mut writer, reply)| async move {
        if writer.out.is_empty() {
            let reply = writer.fill(reply?).await;
            return Some((writer.take(), (writer, reply)));
        }
        Some((writer.take(), (writer, reply)))
    });
    form.head().map(|_| Body::new(StreamBody::new(chunks)))
}

impl Writer {
    fn take(&mut self) -> Result<http_body::Frame<Bytes>, Infallible> {
        Ok(http_body::Frame::data(std::mem::take(&mut self.out).into()))
    }

    /// Waits for answers and writes those that are ready; gives the reply back while there may be more.
    async fn fill(&mut self, mut reply: Reply) -> Option<Reply> {
        let Ok(mut answer) = tokio::time::timeout(self.silence, reply.next()).await else {
            self.out.extend_from_slice(if self.form == Form::Sse { b": ping\n\n" } else { b"\n" });
            return Some(reply);
        };
        loop {
            let Some(some) = answer else {
                let outcome = reply.outcome().0;
                self.end(outcome.err().map(|s| error::from_status(&s)));
                return None;
            };
            if let Err(failure) = self.event(&some) {
                self.end(Some(*failure));
                return None;
            }
            if self.out.len() >= CHUNK {
                return Some(reply);
            }
            // `next` is cancel-safe: what is not ready now comes with the next chunk.
            match reply.next().now_or_never() {
                Some(next) => answer = next,
                None => return Some(reply),
            }
        }
    }

    fn event(&mut self, answer: &Answer) -> Result<(), Box<v1::Error>> {
        let json = answer.json(&self.method.output)?;
        if self.form == Form::Ndjson {
            self.out.extend_from_slice(&json);
            self.out.push(b'\n');
            return Ok(());
        }
        let tagged = if self.method.tagged { json::untag(&json) } else { None };
        let (name, data) = tagged.unwrap_or((Bytes::new(), json));
        if name == HEARTBEAT {
            self.out.extend_from_slice(b": ping\n");
            self.id(answer.id());
            self.out.push(b'\n');
            return Ok(());
        }
        self.said_end = name == END;
        if !name.is_empty() {
            self.line(b"event: ", &name);
        }
        self.id(answer.id());
        self.line(b"data: ", &data);
        self.out.push(b'\n');
        Ok(())
    }

    fn end(&mut self, failure: Option<v1::Error>) {
        match (self.form, failure) {
            (form, Some(mut failure)) => {
                problem::trace(&mut failure, &self.headers);
                let json = json::error(self.trunk.registry(), &failure);
                if form == Form::Ndjson {
                    let line = [b"{\"", FAILURE.as_bytes(), b"\":", &json, b"}\n"].concat();
                    self.out.extend_from_slice(&line);
                    return;
                }
                self.line(b"event: ", FAILURE.as_bytes());
                if let Some(wait) = failure.retry_after.and_then(|d| Duration::try_from(d).ok()) {
                    self.line(b"retry: ", wait.as_millis().to_string().as_bytes());
                }
                self.line(b"data: ", &json);
                self.out.push(b'\n');
            }
            (Form::Sse, None) => {
                self.id(Some(ENDED));
                if !self.said_end {
                    self.line(b"event: ", END);
                    self.line(b"data: ", b"{}");
                }
                // Without data nothing is fired, but the id is taken.
                self.out.push(b'\n');
            }
            (Form::Ndjson, None) => {}
        }
    }

    fn id(&mut self, id: Option<&str>) {
        if let Some(id) = id {
            self.line(b"id: ", id.as_bytes());
        }
    }

    fn line(&mut self, name: &[u8], value: &[u8]) {
        self.out.extend_from_slice(name);
        self.out.extend_from_slice(value);
        self.out.push(b'\n');
    }
}
