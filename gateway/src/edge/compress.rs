//! Answers as gzip, for who asks for it. What is whole is packed as a whole; of a stream every chunk is
//! flushed, so that nothing waits for more. Server-sent events stay as they are: every browser says that
//! it takes gzip, and each stream would keep a dictionary of its own.

use super::{negotiate, sse::Form};
use axum::body::Body;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use std::{
    io::Write,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes below which packing costs more than it saves.
const LEAST: u64 = 1024;
/// Bytes of a stream that are gathered at most before they are sent.
const CHUNK: usize = 32 << 10;

/// Packs answers.
#[derive(Clone)]
pub(crate) struct Compress {
    /// One permit a stream, because each keeps some 300 KB while it is open.
    streams: Arc<Semaphore>,
}

impl Compress {
    /// Packs so many streams at once, and others not at all.
    pub(crate) fn new(streams_max: usize) -> Self {
        Self { streams: Arc::new(Semaphore::new(streams_max)) }
    }

    /// Packs an answer if its client takes that and it is worth it.
    pub(crate) async fn answer(&self, takes: bool, mut response: Response<Body>) -> Response<Body> {
        if !is_text(response.headers()) || response.status() == StatusCode::NOT_MODIFIED {
            return response;
        }
        vary(response.headers_mut());
        if !takes {
            return response;
        }
        match response.body().size_hint().exact() {
            Some(size) if size < LEAST => response,
            Some(_) => whole(response).await,
            None => match self.streams.clone().try_acquire_owned() {
                Ok(slot) => packed(response.map(|body| Body::new(Stream::new(body, slot)))),
                Err(_) => response,
            },
        }
    }
}

/// Reads `accept-encoding`.
pub(crate) fn takes(headers: &HeaderMap) -> bool {
    negotiate::gzip(headers)
}

fn is_text(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let texts = ["application/json", "application/problem+json", Form::Ndjson.media_type(), "text/html"];
    !headers.contains_key(header::CONTENT_ENCODING) && texts.iter().any(|t| kind.starts_with(t))
}

fn vary(headers: &mut HeaderMap) {
    headers.append(header::VARY, HeaderValue::from_static("accept-encoding"));
}

fn packed(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    // Other bytes than those that the tag stands for.
    let weak =
        headers.get(header::ETAG).and_then(|tag| tag.to_str().ok()).filter(|tag| !tag.starts_with("W/"));
    if let Some(weak) = weak.and_then(|tag| HeaderValue::try_from(format!("W/{tag}")).ok()) {
        headers.insert(header::ETAG, weak);
    }
    response
}

async fn whole(response: Response<Body>) -> Response<Body> {
    let (parts, body) = response.into_parts();
    // Its size is known because it is all there; it cannot fail.
    let bytes = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 2), Compression::fast());
    match encoder.write_all(&bytes).and_then(|()| encoder.finish()) {
        Ok(out) => packed(Response::from_parts(parts, Body::from(out))),
        Err(_) => Response::from_parts(parts, Body::from(bytes)),
    }
}

/// A stream, packed chunk by chunk.
struct Stream {
    inner: Body,
    /// `None` after the end.
    encoder: Option<GzEncoder<Vec<u8>>>,
    /// Whether something was written since the last flush.
    waiting: bool,
    _slot: OwnedSemaphorePermit,
}

impl Stream {
    fn new(inner: Body, slot: OwnedSemaphorePermit) -> Self {
        let encoder = Some(GzEncoder::new(Vec::new(), Compression::fast()));
        Self { inner, encoder, waiting: false, _slot: slot }
    }

    /// Hands out what is packed, up to the last byte that was written.
    fn flush(&mut self) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(encoder) = self.encoder.as_mut() else { return Poll::Ready(None) };
        self.waiting = false;
        match encoder.flush() {
            Ok(()) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(encoder.get_mut()).into())))),
            Err(e) => Poll::Ready(Some(Err(axum::Error::new(e)))),
        }
    }
}

impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        loop {
            if self.encoder.is_none() {
                return Poll::Ready(None);
            }
            let frame = match Pin::new(&mut self.inner).poll_frame(context) {
                // Nothing more now: nothing may wait either.
                Poll::Pending if self.waiting => return self.flush(),
                other => ready!(other),
            };
            let data = match frame {
                None => {
                    let tail = self.encoder.take().map(GzEncoder::finish);
                    return Poll::Ready(
                        tail.map(|t| t.map(|t| Frame::data(t.into())).map_err(axum::Error::new)),
                    );
                }
                Some(Err(e)) => {
                    self.encoder = None;
                    return Poll::Ready(Some(Err(e)));
                }
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            };
            self.waiting = true;
            let Some(encoder) = self.encoder.as_mut() else { return Poll::Ready(None) };
            if let Err(e) = encoder.write_all(&data) {
                return Poll::Ready(Some(Err(axum::Error::new(e))));
            }
            if encoder.get_ref().len() >= CHUNK {
                return self.flush();
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{FutureExt, channel::mpsc};
    use http_body_util::StreamBody;
    use std::io::Read;

    fn response(kind: &'static str, body: Body) -> Response<Body> {
        let mut response = Response::new(body);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        response.headers_mut().insert(header::ETAG, HeaderValue::from_static("\"1\""));
        response
    }

    fn unpacked(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        // What a stream has sent so far ends without an end.
        let _ = flate2::read::GzDecoder::new(bytes).read_to_end(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[tokio::test]
    async fn what_is_worth_it_is_packed_for_who_takes_it() {
        let compress = Compress::new(0);
        let (long, short) = ("x".repeat(2000), "x".to_owned());
        for (kind, text, takes, packs) in [
            ("application/json", &long, true, true),
            ("application/problem+json", &long, true, true),
            ("text/html; charset=utf-8", &long, true, true),
            ("application/json", &long, false, false),
            ("application/json", &short, true, false),
            ("text/event-stream", &long, true, false),
            ("application/grpc", &long, true, false),
            ("application/proto", &long, true, false),
        ] {
            let answer = compress.answer(takes, response(kind, Body::from(text.clone()))).await;
            assert_eq!(answer.headers().contains_key(header::CONTENT_ENCODING), packs, "{kind}");
            assert_eq!(answer.headers()[header::ETAG], if packs { "W/\"1\"" } else { "\"1\"" });
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(
                if packs { unpacked(&body) } else { String::from_utf8(body.to_vec()).unwrap() },
                *text
            );
        }
    }

    #[tokio::test]
    async fn of_a_packed_stream_nothing_waits_and_no_more_are_packed_than_may_be() {
        let compress = Compress::new(1);
        let (sender, receiver) = mpsc::unbounded::<Result<Frame<Bytes>, axum::Error>>();
        let lines = |body| response(Form::Ndjson.media_type(), body);
        let first = compress.answer(true, lines(Body::new(StreamBody::new(receiver)))).await;
        let (_open, other) = mpsc::unbounded::<Result<Frame<Bytes>, axum::Error>>();
        let second = compress.answer(true, lines(Body::new(StreamBody::new(other)))).await;
        assert!(!second.headers().contains_key(header::CONTENT_ENCODING));
        let (mut body, mut seen) = (first.into_body(), Vec::new());
        for text in ["one\n", "two\n"] {
            sender.unbounded_send(Ok(Frame::data(text.into()))).unwrap();
            let frame = body.frame().now_or_never().expect("it is there at once").unwrap().unwrap();
            seen.extend_from_slice(frame.data_ref().unwrap());
            assert!(unpacked(&seen).ends_with(text));
            assert!(body.frame().now_or_never().is_none());
        }
        drop(sender);
        seen.extend_from_slice(&body.collect().await.unwrap().to_bytes());
        let mut whole = String::new();
        flate2::read::GzDecoder::new(&seen[..]).read_to_string(&mut whole).unwrap();
        assert_eq!(whole, "one\ntwo\n");
        let third = compress
            .answer(
                true,
                lines(Body::new(StreamBody::new(
                    futures::stream::empty::<Result<Frame<Bytes>, axum::Error>>(),
                ))),
            )
            .await;
        assert!(third.headers().contains_key(header::CONTENT_ENCODING));
    }
}
