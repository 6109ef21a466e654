//! What a call gives back: encoded answers, then its outcome. They come out of the gRPC body that the
//! service made, or from the frames that all readers of a stream share.

use super::{
    json,
    limits::{Trailers, Verdict},
    rate::Told,
    trunk::metadata,
};
use crate::{
    error,
    frame::{Delivery, Frames, Shared},
};
use axum::body::Body;
use bytes::{Buf, Bytes};
use futures::StreamExt;
use http::{HeaderMap, Response};
use http_body::Body as _;
use plexus_proto::{reason::Reason, v1};
use prost_reflect::MessageDescriptor;
use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
};
use tonic::{Code, Status};

/// Shared answers in a row after which the silent body is looked at all the same: it knows the deadline.
const ROW: u8 = 64;

/// One answer: the reader's own, or one that all readers share.
pub(crate) enum Answer {
    /// Made for this call.
    Own(Bytes),
    /// Shared with others.
    Shared(Delivery),
}

impl Answer {
    /// Where the reader goes on after it.
    pub(crate) fn id(&self) -> Option<&str> {
        match self {
            Self::Own(_) => None,
            Self::Shared(delivery) => delivery.id(),
        }
    }

    /// The encoded answer.
    pub(crate) fn proto(&self) -> Bytes {
        match self {
            Self::Own(proto) => proto.clone(),
            Self::Shared(delivery) => delivery.frame.proto().clone(),
        }
    }

    /// The answer as JSON, made once for all who share it.
    pub(crate) fn json(&self, output: &MessageDescriptor) -> Result<Bytes, Box<v1::Error>> {
        match self {
            Self::Own(proto) => json::from_proto(output, proto),
            Self::Shared(delivery) => delivery.frame.json(output, json::from_proto),
        }
    }
}

/// The answers of a call, then its outcome.
pub(crate) struct Reply {
    /// Leading metadata; boxed like all that most streams do not have.
    headers: Option<Box<HeaderMap>>,
    /// What the head of an answer says about the rate.
    told: Option<Box<Told>>,
    trailers: Option<Box<Trailers>>,
    verdict: Option<Verdict>,
    body: Body,
    shared: Option<Frames>,
    buffer: Bytes,
    outcome: Option<Box<(Status, HeaderMap)>>,
    /// Shared answers since the body was looked at.
    row: u8,
}

impl Reply {
    /// Reads a gRPC response.
    pub(crate) fn new(response: Response<Body>) -> Self {
        let (mut parts, body) = response.into_parts();
        let told = parts.extensions.remove::<Told>().map(Box::new);
        let shared = parts.extensions.get::<Shared>().and_then(Shared::take);
        let refused = Status::from_header_map(&parts.headers).filter(|s| s.code() != Code::Ok);
        let (headers, outcome) = match refused {
            Some(mut status) => {
                let trailers = metadata(&std::mem::take(status.metadata_mut()).into_headers());
                (None, Some(Box::new((status, trailers))))
            }
            None => (Some(Box::new(parts.headers)), None),
        };
        let (trailers, verdict) = (parts.extensions.remove().map(Box::new), parts.extensions.remove());
        Self { headers, told, trailers, verdict, body, shared, buffer: Bytes::new(), outcome, row: 0 }
    }

    /// Tells whether the call failed before any answer.
    pub(crate) fn is_refused(&self) -> bool {
        self.outcome.is_some()
    }

    /// Takes what the head of an answer says about the rate, for dialects that have no other metadata.
    pub(crate) fn told(&mut self) -> HeaderMap {
        self.told.take().map(|told| told.0).unwrap_or_default()
    }

    /// Takes the leading metadata.
    pub(crate) fn headers(&mut self) -> HeaderMap {
        let mut headers = self.headers.take().map(|headers| metadata(&headers)).unwrap_or_default();
        headers.extend(self.told());
        headers
    }

    /// The trailing metadata as far as it is known before the end.
    pub(crate) fn trailers(&self) -> HeaderMap {
        self.trailers.as_ref().map(|t| t.0.clone()).unwrap_or_default()
    }

    /// Waits for the next answer; `None` is the end, and [`Reply::outcome`] says which. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Answer> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// The same for who polls.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Answer>> {
        while self.outcome.is_none() {
            if let Some(message) = self.buffered() {
                return Poll::Ready(Some(Answer::Own(message)));
            }
            self.row = (self.row + 1) % ROW;
            if let Some(frames) = self.shared.as_mut().filter(|_| self.row > 0) {
                match frames.poll_next_unpin(context) {
                    Poll::Ready(Some(Ok(delivery))) => return Poll::Ready(Some(Answer::Shared(delivery))),
                    // Frames have no end of their own to say why: the silent body says it.
                    Poll::Ready(Some(Err(error))) => {
                        self.end(error::status(&error), HeaderMap::new());
                        break;
                    }
                    Poll::Ready(None) => {
                        self.end(Status::ok(""), self.trailers());
                        break;
                    }
                    Poll::Pending => {}
                }
            }
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(frame) => self.take(frame),
                // Frames were passed over.
                Poll::Pending if self.row == 0 && self.shared.is_some() => {}
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(None)
    }

    /// The outcome and the trailing metadata, after the last answer.
    pub(crate) fn outcome(self) -> (Result<(), Status>, HeaderMap) {
        match self.outcome.map(|outcome| *outcome) {
            Some((status, trailers)) if status.code() == Code::Ok => (Ok(()), trailers),
            Some((status, trailers)) => (Err(status), trailers),
            None => (Ok(()), HeaderMap::new()),
        }
    }

    /// Waits for the outcome, skipping answers that are left.
    pub(crate) async fn finish(mut self) -> (Result<(), Status>, HeaderMap) {
        while self.next().await.is_some() {}
        self.outcome()
    }

    /// Waits for the only answer of a unary call.
    pub(crate) async fn only(mut self) -> Result<(Answer, HeaderMap), (Status, HeaderMap)> {
        let answer = self.next().await;
        let more = answer.is_some() && self.next().await.is_some();
        let (outcome, trailers) = self.finish().await;
        match (outcome, answer) {
            (Err(status), _) => Err((status, trailers)),
            (Ok(()), Some(answer)) if !more => Ok((answer, trailers)),
            (Ok(()), _) => {
                let error = v1::Error::new(Reason::Internal, "the call gave not exactly one answer");
                Err((error::status(&error), trailers))
            }
        }
    }

    /// Shared answers ended; the silent body cannot know how.
    fn end(&mut self, status: Status, trailers: HeaderMap) {
        if let Some(verdict) = &self.verdict {
            verdict.set(status.code());
        }
        self.outcome = Some(Box::new((status, trailers)));
    }

    fn take(&mut self, frame: Option<Result<http_body::Frame<Bytes>, axum::Error>>) {
        let broken = |status: Status| Some(Box::new((status, HeaderMap::new())));
        match frame {
            None => {
                self.outcome = broken(error::status(&v1::Error::new(
                    Reason::Internal,
                    "the answer ended without an outcome",
                )))
            }
            Some(Err(e)) => self.outcome = broken(Status::from_error(e.into_inner())),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if self.buffer.is_empty() => self.buffer = data,
                Ok(data) => self.buffer = [&self.buffer[..], &data[..]].concat().into(),
                Err(frame) => {
                    let mut trailers = frame.into_trailers().unwrap_or_default();
                    let mut status = Status::from_header_map(&trailers)
                        .unwrap_or_else(|| Status::unknown("the answer has no outcome"));
                    status.metadata_mut().clear();
                    trailers = metadata(&trailers);
                    self.outcome = Some(Box::new((status, trailers)));
                }
            },
        }
    }

    fn buffered(&mut self) -> Option<Bytes> {
        let [_, len @ ..] = *self.buffer.first_chunk::<5>()?;
        let len = u32::from_be_bytes(len) as usize;
        if self.buffer.len() < 5 + len {
            return None;
        }
        self.buffer.advance(5);
        Some(self.buffer.split_to(len))
    }
}
