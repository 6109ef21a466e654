//! Bodies of requests that come in drips: each has a time to begin with, and a second more for every
//! piece that came. Bodies that are streams of calls are not held to it, as they rest as they like.

use crate::error;
use axum::body::Body;
use bytes::Bytes;
use http_body::Frame;
use plexus_proto::{reason::Reason, v1};
use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, Sleep};

/// Bytes for which a body gets a second more.
const BYTES_A_SECOND: usize = 1 << 10;

/// How long something may take of which so much came.
pub(crate) fn patience(timeout: Duration, came: usize) -> Duration {
    timeout + Duration::from_secs((came / BYTES_A_SECOND) as u64)
}

/// A body that fails when it does not come.
pub(crate) struct Slow {
    inner: Body,
    timeout: Duration,
    began: Instant,
    came: usize,
    /// Only where the body did not come at once.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Slow {
    /// Holds a body to its time.
    pub(crate) fn new(inner: Body, timeout: Duration) -> Self {
        Self { inner, timeout, began: Instant::now(), came: 0, timer: None }
    }

    fn is_late(&mut self, context: &mut Context<'_>) -> bool {
        let end = self.began + patience(self.timeout, self.came);
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        if timer.deadline() != end {
            timer.as_mut().reset(end);
        }
        timer.as_mut().poll(context).is_ready()
    }
}

impl http_body::Body for Slow {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            self.came = self.came.saturating_add(frame.data_ref().map_or(0, Bytes::len));
        }
        if frame.is_pending() && self.is_late(context) {
            let text = format!("the request's body did not come within {:?}", self.timeout);
            let error = v1::Error::new(Reason::DeadlineExceeded, text);
            return Poll::Ready(Some(Err(axum::Error::new(error::status(&error)))));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}
