//! Deadlines and the end of streams, alike for every dialect: when a call must be over, and the body
//! that ends then. Sizes of requests are [`super::guard`]'s.

use super::{
    auth::{self, Watch},
    desc::Method,
    drain::{Drain, Leave},
    share::Share,
};
use crate::{
    caller::Caller,
    config::Limits,
    error,
    frame::Seat,
    metrics::{self, Dialect, Metrics},
};
use axum::body::Body;
use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use pin_project_lite::pin_project;
use plexus_proto::{reason::Reason, v1};
use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, Sleep};
use tonic::{Code, Status};

/// Bytes of the token in a failure at most: clients of gRPC take trailers of 8 KiB, which hold it twice in base64.
const RESUME_BYTES_MAX: usize = 4 << 10;

/// Trailing metadata of an answer that went well, in a response's extensions; tonic has no way to send it.
#[derive(Clone, Debug, Default)]
pub struct Trailers(pub HeaderMap);

/// Reads `grpc-timeout`. tonic ignores what it cannot read, and the call would have no deadline at all.
pub(crate) fn grpc_timeout(headers: &HeaderMap) -> Result<Option<Duration>, Box<v1::Error>> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let bad = || {
        Box::new(v1::Error::new(
            Reason::BadDeadline,
            "grpc-timeout: 1 to 8 digits and one of H, M, S, m, u, n",
        ))
    };
    let (unit, digits) = value.as_bytes().split_last().ok_or_else(bad)?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(bad());
    }
    let n = digits.iter().fold(0u64, |n, d| n * 10 + u64::from(d - b'0'));
    Ok(Some(match unit {
        b'H' => Duration::from_secs(n * 3600),
        b'M' => Duration::from_secs(n * 60),
        b'S' => Duration::from_secs(n),
        b'm' => Duration::from_millis(n),
        b'u' => Duration::from_micros(n),
        b'n' => Duration::from_nanos(n),
        _ => return Err(bad()),
    }))
}

/// Reads the deadline of a dialect without one of its own: `grpc-timeout`, else `connect-timeout-ms`.
pub(crate) fn asked(headers: &HeaderMap) -> Result<Option<Duration>, Box<v1::Error>> {
    let Some(value) = headers.get("connect-timeout-ms") else { return grpc_timeout(headers) };
    if headers.contains_key("grpc-timeout") {
        return grpc_timeout(headers);
    }
    let digits = value.as_bytes();
    if digits.is_empty() || digits.len() > 10 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Box::new(v1::Error::new(Reason::BadDeadline, "connect-timeout-ms: 1 to 10 digits")));
    }
    Ok(Some(Duration::from_millis(digits.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0')))))
}

/// Measures a head: hyper's own bounds lie behind these and cannot say what was wrong.
pub(crate) fn head(limits: &Limits, headers: &HeaderMap) -> Result<(), Box<v1::Error>> {
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if headers.len() <= limits.headers_max && bytes <= limits.header_bytes_max {
        return Ok(());
    }
    let (max, bytes_max) = (limits.headers_max, limits.header_bytes_max);
    Err(Box::new(v1::Error::new(
        Reason::HeadersTooLarge,
        format!("more than {bytes_max} bytes or {max} headers"),
    )))
}

/// Decides when a call must be over: one with one answer always has a deadline, a stream has the one
/// it asks for.
pub(crate) fn deadline(limits: &Limits, asked: Option<Duration>, streams: bool) -> Option<Instant> {
    let wait = match (asked, streams) {
        (asked, false) => Some(asked.unwrap_or(limits.call_timeout).min(limits.call_timeout_max)),
        (asked, true) => asked,
    };
    // A deadline that the clock cannot express is as good as none.
    wait.and_then(|wait| Instant::now().checked_add(wait))
}

/// What a caller is told whose deadline passed.
pub(crate) fn expired() -> v1::Error {
    v1::Error::new(Reason::DeadlineExceeded, "the deadline passed")
}

/// What a stream keeps until it ends, and what ends it before its time. Those of a session have none of it: a
/// session looks after its caller by itself, and leaves as a whole.
pub(crate) struct Stay {
    /// When its caller's credentials end.
    pub(crate) ends: Option<Instant>,
    /// Whose credentials may be withdrawn; none where there are no credentials.
    pub(crate) watched: Option<Box<(Caller, Watch)>>,
    /// The drain, and the age of its connection.
    pub(crate) leave: Leave,
    /// Where it goes on elsewhere, if it can.
    pub(crate) seat: Option<Arc<Seat>>,
    /// Its place among those of its caller.
    pub(crate) _share: Option<Share>,
}

impl Stay {
    /// Looks whether the credentials were withdrawn, and whether it is time to leave.
    fn poll(&mut self, context: &mut Context<'_>) -> (Option<v1::Error>, bool) {
        let leaves = Pin::new(&mut self.leave).poll(context).is_ready();
        let watched = self.watched.as_deref_mut();
        match watched.map(|(caller, watch)| watch.poll(Some(caller), context)) {
            Some(Poll::Ready(error)) => (Some(error), leaves),
            _ => (None, leaves),
        }
    }

    /// Says where the stream goes on, if it can.
    fn told(&self, error: v1::Error) -> v1::Error {
        let resume = self.seat.as_ref().map(|seat| seat.resume(RESUME_BYTES_MAX)).unwrap_or_default();
        if resume.is_empty() { error } else { error.with("resume", resume) }
    }
}

pin_project! {
    /// An answer that ends at its deadline or when the gateway leaves, with gRPC trailers that say so,
    /// and that is counted when it has ended.
    pub(crate) struct Bounded {
        #[pin]
        inner: Body,
        // Boxed, like all that most streams do not have.
        sleep: Option<Pin<Box<Sleep>>>,
        // Whether it ends because the credentials do, and not at its deadline.
        outlives: bool,
        stay: Option<Box<Stay>>,
        trailers: Option<Box<HeaderMap>>,
        ended: bool,
        tally: Tally,
    }
}

/// Counts a stream while it is open and how it ended.
pub(crate) struct Tally {
    /// Where to.
    pub(crate) metrics: Arc<Metrics>,
    /// How the client speaks.
    pub(crate) dialect: Dialect,
    /// The method; `None`: it is not in the contract, and its refusals do not tell the contract's reasons.
    pub(crate) method: Option<Arc<Method>>,
    /// How it ended; cancelled unless the answer ended by itself.
    pub(crate) verdict: Verdict,
}

/// How a stream ended, for whoever sees it first: the body by its trailers, or the reader of shared
/// answers by their end. In the response's extensions.
#[derive(Clone, Debug)]
pub(crate) struct Verdict(Arc<AtomicI32>);

impl Verdict {
    /// Holds until somebody says otherwise.
    pub(crate) fn cancelled() -> Self {
        Self(Arc::new(AtomicI32::new(Code::Cancelled as i32)))
    }

    /// Says how the stream ended.
    pub(crate) fn set(&self, code: Code) {
        self.0.store(code as i32, Ordering::Relaxed);
    }

    fn get(&self) -> Code {
        Code::from_i32(self.0.load(Ordering::Relaxed))
    }
}

impl Tally {
    /// Counts a call as ended.
    pub(crate) fn done(metrics: &Metrics, dialect: Dialect, method: Option<&Method>, code: Code) {
        let count = || {
            let (name, code) = (method.map_or("", Method::name), error::code_text(code));
            metrics.calls.get_or_create(&metrics::Call { dialect, method: name.to_owned(), code }).clone()
        };
        match method.filter(|_| code == Code::Ok) {
            Some(method) => method.well.get(dialect, count).inc(),
            None => count().inc(),
        };
    }

    fn open(&self) {
        self.metrics.streams.get_or_create(&metrics::ByDialect { dialect: self.dialect }).inc();
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.metrics.streams.get_or_create(&metrics::ByDialect { dialect: self.dialect }).dec();
        Self::done(&self.metrics, self.dialect, self.method.as_deref(), self.verdict.get());
    }
}

impl Bounded {
    /// Bounds a stream of answers: by its deadline, and by what it stays for.
    pub(crate) fn new(
        inner: Body,
        at: Option<Instant>,
        stay: Option<Box<Stay>>,
        trailers: Option<HeaderMap>,
        tally: Tally,
    ) -> Self {
        tally.open();
        let ends = stay.as_ref().and_then(|stay| stay.ends);
        Self {
            inner,
            sleep: at.into_iter().chain(ends).min().map(|at| Box::pin(tokio::time::sleep_until(at))),
            outlives: ends.is_some_and(|ends| at.is_none_or(|at| ends < at)),
            stay,
            trailers: trailers.map(Box::new),
            ended: false,
            tally,
        }
    }
}

/// A body that never says anything.
pub(crate) struct Silent;

impl http_body::Body for Silent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

impl http_body::Body for Bounded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut me = self.project();
        if *me.ended {
            return Poll::Ready(None);
        }
        let late = me.sleep.as_mut().is_some_and(|s| s.as_mut().poll(context).is_ready());
        let (withdrawn, leaves) = me.stay.as_mut().map(|stay| stay.poll(context)).unwrap_or_default();
        let end = match withdrawn {
            Some(error) => Some(error),
            None if late && *me.outlives => Some(auth::expired()),
            None if late => Some(expired()),
            None => leaves.then(Drain::error),
        };
        if let Some(error) = end {
            *me.ended = true;
            let error = match me.stay.take() {
                Some(stay) => stay.told(error),
                None => error,
            };
            me.inner.set(Body::empty()); // Drops the service's stream.
            let told = me.tally.method.as_ref().is_some_and(|m| m.told);
            let status = error::refusal(&error, told);
            me.tally.verdict.set(status.code());
            return Poll::Ready(Some(Ok(trailers(&status))));
        }
        let frame = std::task::ready!(me.inner.as_mut().poll_frame(context));
        Poll::Ready(frame.map(|f| {
            f.map(|f| match f.into_trailers() {
                Ok(mut map) => {
                    *me.ended = true;
                    me.tally.verdict.set(Status::from_header_map(&map).map_or(Code::Unknown, |s| s.code()));
                    map.extend(me.trailers.take().map(|trailers| *trailers).unwrap_or_default());
                    Frame::trailers(map)
                }
                Err(data) => data,
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

fn trailers(status: &Status) -> Frame<Bytes> {
    let mut map = HeaderMap::new();
    // The details are base64 already, the message is escaped: both always fit a header.
    let _ = status.add_header(&mut map);
    Frame::trailers(map)
}

pin_project! {
    /// An answer whose trailers carry more than tonic put there.
    pub(crate) struct Trailing {
        #[pin]
        inner: Body,
        trailers: Option<HeaderMap>,
    }
}

impl Trailing {
    /// Adds trailing metadata to a body.
    pub(crate) fn new(inner: Body, trailers: HeaderMap) -> Self {
        Self { inner, trailers: Some(trailers) }
    }
}

impl http_body::Body for Trailing {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let me = self.project();
        let frame = std::task::ready!(me.inner.poll_frame(context));
        Poll::Ready(frame.map(|f| {
            f.map(|f| match f.into_trailers() {
                Ok(mut map) => {
                    map.extend(me.trailers.take().unwrap_or_default());
                    Frame::trailers(map)
                }
                Err(data) => data,
            })
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn read(text: &'static str) -> Result<Option<Duration>, Box<v1::Error>> {
        grpc_timeout(&HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-timeout"),
            HeaderValue::from_static(text),
        )]))
    }

    #[test]
    fn a_deadline_that_cannot_be_read_is_refused_and_not_ignored() {
        assert_eq!(grpc_timeout(&HeaderMap::new()).unwrap(), None);
        assert_eq!(read("250m").unwrap(), Some(Duration::from_millis(250)));
        assert_eq!(read("99999999H").unwrap(), Some(Duration::from_secs(99_999_999 * 3600)));
        for bad in ["", "m", "1", "1x", "-1S", "123456789S", "1 S", "1.5S"] {
            assert!(read(bad).unwrap_err().is(Reason::BadDeadline), "{bad:?}");
        }
    }

    #[test]
    fn a_deadline_may_come_in_the_words_of_another_dialect() {
        let asked = |pairs: &[(&'static str, &'static str)]| {
            let pairs =
                pairs.iter().map(|(k, v)| (http::HeaderName::from_static(k), HeaderValue::from_static(v)));
            asked(&HeaderMap::from_iter(pairs)).map_err(|e| e.reason)
        };
        assert_eq!(asked(&[]), Ok(None));
        assert_eq!(asked(&[("connect-timeout-ms", "250")]), Ok(Some(Duration::from_millis(250))));
        assert_eq!(asked(&[("grpc-timeout", "2S")]), Ok(Some(Duration::from_secs(2))));
        assert_eq!(
            asked(&[("connect-timeout-ms", "1"), ("grpc-timeout", "2S")]),
            Ok(Some(Duration::from_secs(2)))
        );
        for bad in ["", "-1", "1.5", "1s", "12345678901", " 1"] {
            assert_eq!(asked(&[("connect-timeout-ms", bad)]), Err("BAD_DEADLINE".into()), "{bad:?}");
        }
    }

    #[test]
    fn only_a_stream_may_live_without_a_deadline() {
        let limits = Limits::default();
        assert!(deadline(&limits, None, true).is_none());
        assert!(deadline(&limits, None, false).unwrap() <= Instant::now() + limits.call_timeout);
        let long = deadline(&limits, Some(Duration::from_secs(9_999)), false).unwrap();
        assert!(long <= Instant::now() + limits.call_timeout_max);
    }
}
