//! The connection without hyper. After an HTTP/1.1 upgrade the socket itself comes back, so no boxed
//! I/O and no read buffer of hyper stay behind an idle session; a stream of HTTP/2 cannot be taken out
//! of its connection and stays boxed. Messages are read by tungstenite, whose state is there only while a
//! message comes; frames of the session are written as the outbox has them, and never amid one of
//! tungstenite's own, which answer pings and closes.

use super::{
    super::{flood::websocket::Frames, wire::Wire},
    outbox::Outbox,
};
use crate::config::Limits;
use bytes::Bytes;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::{rt::TokioIo, server::conn::auto::upgrade::downcast};
use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::{
    Error, Message,
    error::ProtocolError,
    protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext},
};

/// Bytes read at once.
const READ_BYTES: usize = 4 << 10;
/// Bytes of answers to pings that may wait; the next answers take the place of the last.
const ANSWERS_BYTES: usize = 1 << 10;

/// Bytes of answers to pings that are held back while there is more to read.
const HELD_BYTES_MAX: usize = 4 << 10;

/// Waits for the upgrade; `None` where the client went away.
pub(super) async fn take(upgrade: OnUpgrade, limits: &Limits) -> Option<Socket> {
    let (bytes, read) = Beneath::take(upgrade.await.ok()?);
    let mut frames = Frames::new(limits);
    if !frames.read(&read) {
        return None;
    }
    let io = Io { bytes, frames, amid: false, owes: false, held: Vec::new() };
    let most = limits.message_bytes_max;
    let from =
        |read: Bytes| WebSocketContext::from_partially_read(read.to_vec(), Role::Server, Some(config(most)));
    let reader = (!read.is_empty()).then(|| Box::new(from(read)));
    Some(Socket { io, reader, most, closing: false, ended: false })
}

fn config(most: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(ANSWERS_BYTES)
        .max_message_size(Some(most))
        .max_frame_size(Some(most))
}

/// A session's socket.
pub(super) struct Socket {
    io: Io,
    /// Reads messages, and answers pings and closes. It holds buffers, so a session at rest has none.
    reader: Option<Box<WebSocketContext>>,
    /// Bytes of a message at most.
    most: usize,
    /// Either side has said that it closes.
    closing: bool,
    ended: bool,
}

impl Socket {
    /// The next message; nothing follows an error.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Message, Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let next = match self.reader {
            Some(_) => self.read(&[], context),
            None => {
                let mut room = [const { MaybeUninit::uninit() }; READ_BYTES];
                let mut buffer = ReadBuf::uninit(&mut room);
                match ready!(Pin::new(&mut self.io).poll_read(context, &mut buffer)) {
                    Ok(()) if buffer.filled().is_empty() => {
                        Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))
                    }
                    Ok(()) => self.read(buffer.filled(), context),
                    Err(error) => Err(error.into()),
                }
            }
        };
        match next {
            Ok(message) => {
                self.closing |= matches!(message, Message::Close(_));
                Poll::Ready(Some(Ok(message)))
            }
            Err(error) if waits(&error) => {
                if !self.closing && !self.io.owes && !self.io.is_amid() {
                    self.reader = None;
                }
                Poll::Pending
            }
            Err(error) => {
                self.ended = true;
                let closed = matches!(error, Error::ConnectionClosed | Error::AlreadyClosed);
                Poll::Ready((!closed).then_some(Err(error)))
            }
        }
    }

    /// The same for who only waits.
    pub(super) async fn next(&mut self) -> Option<Result<Message, Error>> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// Writes what waits. Ready once all of it is on its way.
    pub(super) fn poll_write(
        &mut self,
        outbox: &mut Outbox,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Error>> {
        if outbox.is_done() {
            return Poll::Ready(Ok(()));
        }
        if !self.io.amid {
            ready!(self.io.poll_held(context))?;
            if self.io.owes {
                ready!(self.poll_answer(None, context))?;
            }
        }
        while !outbox.waiting().is_empty() {
            self.io.amid = true;
            match ready!(Pin::new(&mut self.io).poll_write(context, outbox.waiting()))? {
                0 => return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into())),
                written => outbox.wrote(written),
            }
        }
        self.io.amid = false;
        ready!(Pin::new(&mut self.io).poll_flush(context))?;
        outbox.flushed();
        Poll::Ready(Ok(()))
    }

    /// Says that it closes.
    pub(super) async fn close(&mut self, frame: CloseFrame) -> Result<(), Error> {
        let mut frame = Some(frame);
        self.closing = true;
        poll_fn(|context| self.poll_answer(frame.take(), context)).await
    }

    /// Tells whether the client is in the middle of a message.
    pub(super) fn is_amid(&self) -> bool {
        self.io.is_amid()
    }

    /// Tells whether the client has begun a message that does not come.
    pub(super) fn is_late(&self, limits: &Limits, seldom: Duration) -> bool {
        self.io.frames.is_late(Instant::now(), limits, seldom)
    }

    /// The bytes beneath.
    pub(super) fn beneath(&mut self) -> &mut Io {
        &mut self.io
    }

    fn read(&mut self, first: &[u8], context: &mut Context<'_>) -> Result<Message, Error> {
        let reader = reader(&mut self.reader, self.most);
        // The first read takes all of `first`: its buffer is as large.
        let holds = !self.closing;
        reader.read(&mut Bridge { io: &mut self.io, first, holds, context })
    }

    /// Writes what tungstenite has to answer, and a close where there is one.
    fn poll_answer(
        &mut self,
        close: Option<CloseFrame>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Error>> {
        let reader = reader(&mut self.reader, self.most);
        let mut bridge = Bridge { io: &mut self.io, first: &[], holds: false, context };
        let answered = match close {
            Some(close) => reader.close(&mut bridge, Some(close)),
            None => reader.flush(&mut bridge),
        };
        match answered {
            Ok(()) | Err(Error::ConnectionClosed) => Poll::Ready(Ok(())),
            Err(error) if waits(&error) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

fn reader(reader: &mut Option<Box<WebSocketContext>>, most: usize) -> &mut WebSocketContext {
    reader.get_or_insert_with(|| Box::new(WebSocketContext::new(Role::Server, Some(config(most)))))
}

fn waits(error: &Error) -> bool {
    matches!(error, Error::Io(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// The bytes beneath, as tungstenite reads and writes them.
struct Bridge<'a, 'b> {
    io: &'a mut Io,
    /// What was read already.
    first: &'a [u8],
    /// Whether what is written waits until there is no more to read.
    holds: bool,
    context: &'a mut Context<'b>,
}

impl Bridge<'_, '_> {
    fn write_held(&mut self) -> io::Result<()> {
        match self.io.poll_held(self.context) {
            Poll::Ready(written) => written,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl io::Read for Bridge<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.first.is_empty() {
            return self.first.read(buffer);
        }
        let mut buffer = ReadBuf::new(buffer);
        match Pin::new(&mut *self.io).poll_read(self.context, &mut buffer) {
            Poll::Ready(read) => read.map(|()| buffer.filled().len()),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl io::Write for Bridge<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.io.owes = true;
        // Whoever writes the frame that is under way is woken when there is room.
        if self.io.amid {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if self.holds && self.io.held.len() + bytes.len() <= HELD_BYTES_MAX {
            self.io.held.extend_from_slice(bytes);
            return Ok(bytes.len());
        }
        self.write_held()?;
        match Pin::new(&mut *self.io).poll_write(self.context, bytes) {
            Poll::Ready(written) => written,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Comes once all of tungstenite's is written.
    fn flush(&mut self) -> io::Result<()> {
        if self.holds {
            self.io.owes = false;
            return Ok(());
        }
        self.write_held()?;
        match Pin::new(&mut *self.io).poll_flush(self.context) {
            Poll::Ready(flushed) => {
                self.io.owes = false;
                flushed
            }
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

/// The bytes beneath, and the frames in them. While it is read, what the library answers to pings is held
/// back until there is no more to read: a call of the system for each would cost fifty times as much as the
/// ping.
pub(super) struct Io {
    bytes: Beneath,
    frames: Frames,
    /// Frames of the outbox are under way, the last maybe cut.
    amid: bool,
    /// tungstenite has something to write.
    owes: bool,
    /// Answers to pings, [`HELD_BYTES_MAX`] at most.
    held: Vec<u8>,
}

enum Beneath {
    /// The socket itself.
    Wire(Box<Wire>),
    /// A stream within an HTTP/2 connection.
    Stream(TokioIo<Upgraded>),
}

impl Beneath {
    fn take(upgraded: Upgraded) -> (Self, Bytes) {
        match downcast::<TokioIo<Wire>>(upgraded) {
            Ok(parts) => (Self::Wire(Box::new(parts.io.into_inner())), parts.read_buf),
            Err(upgraded) => (Self::Stream(TokioIo::new(upgraded)), Bytes::new()),
        }
    }

    fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Wire(io) => Pin::new(io).poll_write(context, bytes),
            Self::Stream(io) => Pin::new(io).poll_write(context, bytes),
        }
    }
}

impl Io {
    /// Writes what was held back.
    fn poll_held(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let written = ready!(self.bytes.poll_write(context, &self.held))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.frames.wrote(written);
            self.held.drain(..written);
        }
        self.held = Vec::new();
        Poll::Ready(Ok(()))
    }

    fn is_amid(&self) -> bool {
        self.frames.is_amid()
    }
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (me, before) = (self.get_mut(), buffer.filled().len());
        if !me.amid
            && let Poll::Ready(Err(error)) = me.poll_held(context)
        {
            return Poll::Ready(Err(error));
        }
        let read = match &mut me.bytes {
            Beneath::Wire(io) => Pin::new(io).poll_read(context, buffer),
            Beneath::Stream(io) => Pin::new(io).poll_read(context, buffer),
        };
        if read.is_ready() && !me.frames.read(&buffer.filled()[before..]) {
            return Poll::Ready(Err(io::ErrorKind::QuotaExceeded.into()));
        }
        read
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        let written = me.bytes.poll_write(context, bytes);
        if let Poll::Ready(Ok(n)) = written {
            me.frames.wrote(n);
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        match &mut me.bytes {
            Beneath::Wire(io) => Pin::new(io).poll_flush(context),
            Beneath::Stream(io) => Pin::new(io).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        ready!(me.poll_held(context))?;
        match &mut me.bytes {
            Beneath::Wire(io) => Pin::new(io).poll_shutdown(context),
            Beneath::Stream(io) => Pin::new(io).poll_shutdown(context),
        }
    }
}
