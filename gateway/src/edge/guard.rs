//! Bodies of requests: how they are read whole, and how a refused one is read on for a moment, so that its
//! sender gets the answer instead of a broken pipe. Never looks into a message.

use crate::error;
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{Request, Response, Version, header};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, Limited};
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
        Code::Internal if says("Error decompressing") => {
            Some(v1::Error::field("grpc-encoding", "the message is not packed as it says"))
        }
        Code::Internal if says("failed to decode Protobuf message") => {
            Some(v1::Error::new(Reason::FieldInvalid, status.message()))
        }
        _ => None,
    }
}

/// Reads a whole body of at most `limit` bytes.
pub(crate) async fn read(body: Body, limit: usize) -> Result<Bytes, Box<v1::Error>> {
    let all = gather(Limited::new(body, limit)).await;
    all.map_err(|e| Box::new(status_in(&*e).map_or_else(|| broken(&*e, limit), error::from_status)))
}

/// The same for a call: `told` says whether its refusals tell their reason.
pub(crate) async fn message(body: Body, limit: usize, told: bool) -> Result<Bytes, Status> {
    let all = gather(Limited::new(body, limit)).await;
    all.map_err(|e| status_in(&*e).cloned().unwrap_or_else(|| error::refusal(&broken(&*e, limit), told)))
}

/// Says why a body could not be read.
fn broken(error: &(dyn std::error::Error + 'static), limit: usize) -> v1::Error {
    if error.is::<http_body_util::LengthLimitError>() {
        return too_large(limit);
    }
    if is_malformed(error) {
        return v1::Error::field("body", format!("its chunks cannot be read: {error}"));
    }
    v1::Error::new(Reason::Cancelled, format!("the request broke off: {error}"))
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
