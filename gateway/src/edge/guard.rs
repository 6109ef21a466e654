//! Bodies of requests: what a gRPC stream may carry, and how a refused body is read on for a moment, so
//! that its sender gets the answer instead of a broken pipe. Never looks into a message.

use super::desc::Method;
use crate::error;
use axum::body::Body;
use bytes::{Buf, Bytes, BytesMut};
use http::{Request, Response, Version, header};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, Limited};
use pin_project_lite::pin_project;
use plexus_proto::{reason::Reason, v1};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::sync::oneshot;
use tonic::{Code, Status};

/// Bytes of a refused body that are read, at most.
const PATIENCE_BYTES: usize = 4 << 20;
/// Time that takes, at most.
const PATIENCE: Duration = Duration::from_secs(1);
/// Silence after which a refused sender is not worth the wait.
const PATIENCE_SILENCE: Duration = Duration::from_millis(100);

/// What is said of a request that is too large.
pub(crate) fn too_large(limit: usize) -> v1::Error {
    v1::Error::new(Reason::MessageTooLarge, format!("the request is over the limit of {limit} bytes"))
        .with("limit", limit)
}

/// Says why tonic itself refused a message, which it does without a reason: one that is too large only
/// once it is decompressed is found there, and one that is no message of its kind.
pub(crate) fn bare(status: &Status, limit: usize) -> Option<v1::Error> {
    let says = |text: &str| status.details().is_empty() && status.message().contains(text);
    match status.code() {
        Code::ResourceExhausted | Code::OutOfRange if says("limit") => Some(too_large(limit)),
        // tonic's INTERNAL would be a defect of ours.
        Code::Internal if says("failed to decode Protobuf message") => {
            Some(v1::Error::new(Reason::FieldInvalid, status.message()))
        }
        _ => None,
    }
}

/// Reads a whole body of at most `limit` bytes.
pub(crate) async fn read(body: Body, limit: usize) -> Result<Bytes, Box<v1::Error>> {
    match gather(Limited::new(body, limit)).await {
        Ok(bytes) => Ok(bytes),
        Err(e) if e.is::<http_body_util::LengthLimitError>() => Err(Box::new(too_large(limit))),
        Err(e) if status_in(&*e).is_some() => {
            Err(Box::new(status_in(&*e).map(error::from_status).unwrap_or_default()))
        }
        Err(e) if is_malformed(&*e) => {
            Err(Box::new(v1::Error::field("body", format!("its chunks cannot be read: {e}"))))
        }
        Err(e) => Err(Box::new(v1::Error::new(Reason::Cancelled, format!("the request broke off: {e}")))),
    }
}

/// Copies a body together as it comes: pieces that are kept until the end would hold on to the buffers that
/// they were read into, which are several times as large.
async fn gather(mut body: Limited<Body>) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
    let (mut first, mut all) = (Bytes::new(), BytesMut::new());
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if first.is_empty() && all.is_empty() {
            first = data;
            continue;
        }
        if all.is_empty() {
            all.extend_from_slice(&std::mem::take(&mut first));
        }
        all.extend_from_slice(&data);
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

/// Finds what the edge itself has to say of a body.
fn status_in<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Status> {
    let mut causes = std::iter::successors(Some(error), |e| e.source());
    causes.find_map(|e| e.downcast_ref::<Status>())
}

/// Tells a body that is written wrongly from one that did not come whole.
fn is_malformed(error: &(dyn std::error::Error + 'static)) -> bool {
    let causes = std::iter::successors(Some(error), |e| e.source());
    let mut kinds = causes.filter_map(|e| e.downcast_ref::<io::Error>()).map(io::Error::kind);
    kinds.any(|kind| matches!(kind, io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData))
}

pin_project! {
    /// A gRPC request whose messages are counted and measured. tonic would answer OUT_OF_RANGE to one that
    /// is too large, INTERNAL to none, and ignore a second.
    pub(crate) struct Measured {
        #[pin]
        inner: Body,
        ruler: Ruler,
        failed: bool,
    }
}

impl Measured {
    /// Holds a request to messages of `limit` bytes, and to exactly one if the method takes one.
    pub(crate) fn new(inner: Body, limit: usize, method: &Method) -> Self {
        Self::of(
            inner,
            Ruler { limit, single: method.kind.takes_one(), told: method.told, ..Ruler::default() },
        )
    }

    fn of(inner: Body, ruler: Ruler) -> Self {
        Self { inner, ruler, failed: false }
    }
}

/// Reads the five bytes before each message, however they are cut.
#[derive(Default)]
struct Ruler {
    limit: usize,
    single: bool,
    told: bool,
    seen: u32,
    prefix: [u8; 5],
    have: usize,
    skip: usize,
}

impl Ruler {
    fn measure(&mut self, mut data: Bytes) -> Result<(), Status> {
        while !data.is_empty() {
            let skip = data.len().min(self.skip);
            data.advance(skip);
            self.skip -= skip;
            let take = data.len().min(5 - self.have);
            self.prefix[self.have..self.have + take].copy_from_slice(&data[..take]);
            data.advance(take);
            self.have += take;
            if self.have == 5 {
                self.message()?;
            }
        }
        Ok(())
    }

    fn message(&mut self) -> Result<(), Status> {
        let [_, len @ ..] = self.prefix;
        self.have = 0;
        self.seen += 1;
        self.skip = u32::from_be_bytes(len) as usize;
        match () {
            () if self.skip > self.limit => Err(error::refusal(&too_large(self.limit), self.told)),
            () if self.single && self.seen > 1 => {
                Err(Status::unimplemented("the call takes exactly one message: got more"))
            }
            () => Ok(()),
        }
    }

    fn is_short(&self) -> bool {
        self.single && self.seen == 0
    }
}

impl http_body::Body for Measured {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let me = self.project();
        if *me.failed {
            return Poll::Ready(None);
        }
        let frame = ready!(me.inner.poll_frame(context));
        let result = match frame {
            None if me.ruler.is_short() => {
                Err(Status::unimplemented("the call takes exactly one message: got none"))
            }
            None => return Poll::Ready(None),
            Some(Err(e)) => Err(Status::from_error(e.into_inner())),
            Some(Ok(frame)) => {
                let data = frame.data_ref().cloned().unwrap_or_default();
                me.ruler.measure(data).map(|()| frame)
            }
        };
        *me.failed = result.is_err();
        Poll::Ready(Some(result))
    }

    fn is_end_stream(&self) -> bool {
        self.failed || (!self.ruler.is_short() && self.inner.is_end_stream())
    }
}

/// Answers, then reads on a little if the request's body was not read: HTTP/1.1 would show its sender a
/// broken pipe, HTTP/2 a reset that overtakes the answer. gRPC clients know what an early answer is.
pub(crate) async fn patiently<F: Future<Output = Response<Body>>>(
    request: Request<Body>,
    answer: impl FnOnce(Request<Body>) -> F,
) -> Response<Body> {
    if request.body().is_end_stream() || (request.version() >= Version::HTTP_2 && is_native(&request)) {
        return answer(request).await;
    }
    let (left, mut unread) = oneshot::channel();
    let lent = request.map(|body| Body::new(Lent { body: Some(body), left: Some(left) }));
    let response = answer(lent).await;
    if let Ok(body) = unread.try_recv() {
        read_on(body).await;
    }
    response
}

fn is_native(request: &Request<Body>) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE).map_or(&b""[..], |v| v.as_bytes());
    kind.starts_with(b"application/grpc") && !kind.starts_with(b"application/grpc-web")
}

async fn read_on(body: Body) {
    let mut body = Limited::new(body, PATIENCE_BYTES);
    let reading =
        async { while let Ok(Some(Ok(_))) = tokio::time::timeout(PATIENCE_SILENCE, body.frame()).await {} };
    let _ = tokio::time::timeout(PATIENCE, reading).await;
}

/// A body that gives back what was not read of it.
struct Lent {
    body: Option<Body>,
    left: Option<oneshot::Sender<Body>>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(body), Some(left)) = (self.body.take(), self.left.take()) {
            // Nobody waits for it any more when the whole request was dropped.
            let _ = left.send(body);
        }
    }
}

impl http_body::Body for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(body) = self.body.as_mut() else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(context));
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(|b| b.is_end_stream())
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.as_ref().map(|b| b.size_hint()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use http_body_util::StreamBody;
    use proptest::prelude::*;

    /// Sends the bytes in pieces of `step` and says how it ended.
    fn measure(bytes: &[u8], step: usize, limit: usize, single: bool) -> Result<usize, tonic::Code> {
        let pieces: Vec<_> = bytes
            .chunks(step.max(1))
            .map(|c| Ok::<_, axum::Error>(Frame::data(Bytes::copy_from_slice(c))))
            .collect();
        let body = Body::new(StreamBody::new(futures::stream::iter(pieces)));
        let ruler = Ruler { limit, single, ..Ruler::default() };
        let all = Measured::of(body, ruler).collect().now_or_never().unwrap();
        all.map(|c| c.to_bytes().len()).map_err(|s| s.code())
    }

    fn message(len: usize) -> Vec<u8> {
        [&[0][..], &(len as u32).to_be_bytes(), &vec![7; len]].concat()
    }

    proptest! {
        #[test]
        fn the_size_of_a_message_is_seen_however_it_is_cut(len in 0usize..40, step in 1usize..50) {
            let fits = measure(&message(len), step, 20, true);
            prop_assert_eq!(fits, if len > 20 { Err(tonic::Code::ResourceExhausted) } else { Ok(len + 5) });
        }

        #[test]
        fn a_call_of_one_message_takes_exactly_one(count in 0usize..4, step in 1usize..50) {
            let bytes = message(3).repeat(count);
            let one = measure(&bytes, step, 20, true);
            prop_assert_eq!(one.is_ok(), count == 1);
            prop_assert_eq!(measure(&bytes, step, 20, false), Ok(8 * count));
        }
    }
}
