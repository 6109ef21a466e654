//! Shared answers of a native gRPC stream. tonic would decode and encode each for each reader; here they
//! are written as they are, and what is ready together is one piece. tonic's own body stays silent beneath
//! and says how the stream ends.

use super::limits::{Trailers, Verdict};
use crate::{
    error,
    frame::{Frames, Shared},
};
use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use http::{HeaderMap, Response};
use http_body::Frame;
use plexus_proto::v1;
use std::{
    pin::Pin,
    task::{Context, Poll},
};
use tonic::{Code, Status};

/// Bytes that are gathered into one piece.
const PIECE: usize = 32 << 10;

/// Writes the shared answers of a response, where it has them.
pub(crate) fn answer(response: Response<Body>) -> Response<Body> {
    let extensions = response.extensions();
    let Some(frames) = extensions.get::<Shared>().and_then(Shared::take) else { return response };
    let (verdict, trailers) = (extensions.get::<Verdict>().cloned(), extensions.get::<Trailers>().cloned());
    response.map(|silent| Body::new(Written { frames, silent, verdict, trailers, ended: None, over: false }))
}

struct Written {
    frames: Frames,
    /// Knows the deadline and the drain.
    silent: Body,
    verdict: Option<Verdict>,
    trailers: Option<Trailers>,
    /// How the frames ended, which is said after those that were ready.
    ended: Option<Result<(), Box<v1::Error>>>,
    over: bool,
}

impl Written {
    /// Takes what is ready, up to a piece.
    fn take(&mut self, context: &mut Context<'_>) -> Option<Bytes> {
        let mut piece = BytesMut::new();
        while self.ended.is_none() && piece.len() < PIECE {
            match self.frames.poll_next_unpin(context) {
                Poll::Ready(Some(Ok(delivery))) => put(&mut piece, delivery.frame.proto()),
                Poll::Ready(Some(Err(error))) => self.ended = Some(Err(error)),
                Poll::Ready(None) => self.ended = Some(Ok(())),
                Poll::Pending => break,
            }
        }
        (!piece.is_empty()).then(|| piece.freeze())
    }

    /// The outcome as trailers.
    fn outcome(&mut self, ended: Result<(), Box<v1::Error>>) -> Frame<Bytes> {
        self.over = true;
        let status = ended.map_or_else(|error| error::status(&error), |()| Status::ok(""));
        if let Some(verdict) = &self.verdict {
            verdict.set(status.code());
        }
        let mut map = HeaderMap::new();
        // The details are base64 already, the message is escaped: both always fit a header.
        let _ = status.add_header(&mut map);
        if status.code() == Code::Ok {
            map.extend(self.trailers.take().unwrap_or_default().0);
        }
        Frame::trailers(map)
    }
}

fn put(piece: &mut BytesMut, message: &Bytes) {
    piece.reserve(5 + message.len());
    piece.put_u8(0);
    piece.put_u32(message.len() as u32);
    piece.put_slice(message);
}

impl http_body::Body for Written {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.over {
            return Poll::Ready(None);
        }
        // First, so that a reader of a busy topic still ends in time; it is cheap, and comes once a piece.
        match Pin::new(&mut self.silent).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                self.over = true;
                return Poll::Ready(Some(Ok(frame)));
            }
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => {}
        }
        if let Some(piece) = self.take(context) {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match self.ended.take() {
            Some(ended) => Poll::Ready(Some(Ok(self.outcome(ended)))),
            None => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.over
    }
}
