//! A connection's bytes, and what hyper lacks: a peer must send something soon, a request's head must be
//! whole soon after its first byte, and what is sent must not be nothing all the time. The slot of the
//! connection lives here, because hyper's connection ends at an upgrade and the slot must not.

use super::{
    crowd::Place,
    flood::{Allowance, http2::Frames},
};
use crate::config::Limits;
use prometheus_client::metrics::gauge::Gauge;
use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::Sleep,
};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

/// Bytes as they came, or out of TLS, whose state is too large for those who have none.
pub(crate) type Bytes = Either<TcpStream, Box<TlsStream<TcpStream>>>;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// In every first line of HTTP/1. A peer that does not say so speaks something else, and could not read
/// an answer.
const VERSION: &[u8] = b" HTTP/";

/// Where an HTTP/1 connection is in its requests: odd while one is being answered. A WebSocket stays odd.
#[derive(Clone, Default)]
pub(crate) struct Pace(Arc<AtomicU32>);

impl Pace {
    /// A head is whole.
    pub(crate) fn begin(&self) -> Head {
        self.0.fetch_or(1, Ordering::Relaxed);
        Head(self.clone())
    }

    fn now(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A request that is being answered.
pub(crate) struct Head(Pace);

impl Head {
    /// The answer has begun; the next head may come.
    pub(crate) fn end(self) {
        // HTTP/2 answers many at once, but there nobody reads the pace.
        self.0.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// One connection.
pub(crate) struct Wire {
    bytes: Bytes,
    pace: Pace,
    spoken: Spoken,
    timer: Option<Timer>,
    head_timeout: Duration,
    /// None until HTTP/2 is spoken.
    http2: Option<Box<(Frames, Allowance)>>,
    frames_a_second: u32,
    _held: Held,
}

/// The end of the client's time. A pace that is given and gone on makes it void.
struct Timer(Pin<Box<Sleep>>, Option<u32>);

impl Timer {
    fn new(wait: Duration, pace: Option<u32>) -> Self {
        Self(Box::pin(tokio::time::sleep(wait)), pace)
    }
}

/// What a connection holds until it is gone.
struct Held(Gauge, #[expect(dead_code, reason = "held, not read")] Slot);

/// The place of a connection among all, and among those of its address.
pub(crate) type Slot = (OwnedSemaphorePermit, Option<Place>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// What the first bytes say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spoken {
    /// As many bytes as given are those of HTTP/2's preface.
    Preface(usize),
    /// A first line, in which as many bytes as given of a version were seen last; nothing yet but empty lines.
    Line(Option<usize>),
    Http1,
    Http2,
}

impl Wire {
    /// Takes a connection that is about to speak HTTP.
    pub(crate) fn new(bytes: Bytes, pace: Pace, limits: &Limits, slot: Slot, open: Gauge) -> Self {
        open.inc();
        let timer = Some(Timer::new(limits.first_byte_timeout, Some(pace.now())));
        Self {
            bytes,
            pace,
            spoken: Spoken::Preface(0),
            timer,
            head_timeout: limits.head_timeout,
            http2: None,
            frames_a_second: limits.empty_frames_a_second,
            _held: Held(open, slot),
        }
    }

    fn note(&mut self, mut new: &[u8]) -> io::Result<()> {
        let first = self.spoken == Spoken::Preface(0);
        self.spoken = match self.spoken {
            Spoken::Preface(seen) => {
                let n = new.len().min(PREFACE.len() - seen);
                match seen + n {
                    _ if new[..n] != PREFACE[seen..seen + n] => {
                        line(line(Spoken::Line(None), &PREFACE[..seen])?, new)?
                    }
                    all if all == PREFACE.len() => {
                        let allowance = Allowance::new(self.frames_a_second, Instant::now());
                        self.http2 = Some(Box::new((Frames::new(), allowance)));
                        self.timer = None;
                        new = &new[n..];
                        Spoken::Http2
                    }
                    part => Spoken::Preface(part),
                }
            }
            spoken => line(spoken, new)?,
        };
        if self.http2.is_some() {
            return self.note_frames(new);
        }
        let now = self.pace.now();
        if new.is_empty() {
            self.timer = None;
        } else if first || (self.timer.is_none() && now.is_multiple_of(2)) {
            self.timer = Some(Timer::new(self.head_timeout, Some(now)));
        }
        Ok(())
    }

    /// Heads of HTTP/2 have their time too, and what carries nothing is counted.
    fn note_frames(&mut self, new: &[u8]) -> io::Result<()> {
        let Some(http2) = &mut self.http2 else { return Ok(()) };
        let (frames, allowance) = &mut **http2;
        let seen = frames.read(new);
        if seen.ended || !seen.amid {
            self.timer = None;
        }
        if seen.amid && self.timer.is_none() {
            self.timer = Some(Timer::new(self.head_timeout, None));
        }
        if seen.cost > 0 && !allowance.take(seen.cost, Instant::now) {
            tracing::debug!("a flood of frames without content");
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        Ok(())
    }

    /// Notes what was written at once.
    fn wrote(&mut self, written: &Poll<io::Result<usize>>) {
        if let (Some(http2), Poll::Ready(Ok(n))) = (&mut self.http2, written) {
            http2.1.wrote(*n);
        }
    }

    /// Fails when the answer is to no HTTP. hyper answers as soon as a first line cannot be one, which may be
    /// before it is whole: then the rest is read here, and nobody misses it. Within TLS such a peer could
    /// read an answer, so there it gets hyper's.
    fn answer(&mut self) -> io::Result<()> {
        let Either::Left(socket) = &self.bytes else { return Ok(()) };
        let mut rest = [0; 256];
        while let Spoken::Line(_) = self.spoken {
            match socket.try_read(&mut rest) {
                Ok(n @ 1..) => self.spoken = line(self.spoken, &rest[..n])?,
                _ => break,
            }
        }
        Ok(())
    }

    /// Fails when a timer has run out; one that a whole head has overtaken is dropped.
    fn late(&mut self, context: &mut Context<'_>) -> bool {
        if self.timer.as_ref().and_then(|Timer(_, at)| *at).is_some_and(|at| at != self.pace.now()) {
            self.timer = None;
        }
        self.timer.as_mut().is_some_and(|Timer(sleep, _)| sleep.as_mut().poll(context).is_ready())
    }
}

/// Reads on in a first line, which ends without a version where no HTTP is spoken.
fn line(spoken: Spoken, new: &[u8]) -> io::Result<Spoken> {
    let Spoken::Line(mut seen) = spoken else { return Ok(spoken) };
    for byte in new {
        seen = match (byte, seen) {
            (b'\r' | b'\n', None) => None,
            (b'\n', Some(_)) => return Err(io::ErrorKind::InvalidData.into()),
            (byte, Some(n)) if *byte == VERSION[n] => Some(n + 1),
            (byte, _) => Some(usize::from(*byte == VERSION[0])),
        };
        if seen == Some(VERSION.len()) {
            return Ok(Spoken::Http1);
        }
    }
    Ok(Spoken::Line(seen))
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.bytes).poll_read(context, buffer);
        match &read {
            Poll::Ready(Ok(())) => self.note(&buffer.filled()[before..])?,
            Poll::Ready(Err(_)) => {}
            Poll::Pending if self.late(context) => return Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => {}
        }
        // A peer that drips bytes is always ready: the timer must be looked at then as well.
        if read.is_ready() && self.late(context) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.answer()?;
        let written = Pin::new(&mut self.bytes).poll_write(context, bytes);
        self.wrote(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.answer()?;
        let written = Pin::new(&mut self.bytes).poll_write_vectored(context, bytes);
        self.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.bytes.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spoken(text: &[u8], step: usize) -> Option<Spoken> {
        text.chunks(step).try_fold(Spoken::Line(None), line).ok()
    }

    #[test]
    fn a_first_line_without_a_version_is_no_http_however_it_is_cut() {
        for step in 1..40 {
            assert!(spoken(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", step) == Some(Spoken::Http1), "{step}");
            assert!(spoken(b"\r\n\r\nGET / HTTP/1.0\r\n", step) == Some(Spoken::Http1), "{step}");
            assert!(spoken(b"GET /a  HTTP HTTP/1.1\r\n", step) == Some(Spoken::Http1), "{step}");
            assert!(spoken(b"INVALID CONNECTION PREFACE\r\n\r\n", step).is_none(), "{step}");
            assert!(spoken(b"GET /\r\nX: HTTP/1.1\r\n", step).is_none(), "{step}");
            assert!(spoken(b"GET / HT", step) == Some(Spoken::Line(Some(3))), "{step}");
        }
    }
}
