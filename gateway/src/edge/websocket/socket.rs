//! The connection without hyper. After an HTTP/1.1 upgrade the socket itself comes back, so no boxed
//! I/O and no read buffer of hyper stay behind an idle session; a stream of HTTP/2 cannot be taken out
//! of its connection and stays boxed.

use super::super::{flood::websocket::Frames, wire::Wire};
use crate::config::Limits;
use bytes::Bytes;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::{rt::TokioIo, server::conn::auto::upgrade::downcast};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::protocol::{Role, WebSocketConfig},
};

/// A session's socket.
pub(super) type Socket = WebSocketStream<Io>;

/// Bytes read at once: the default of 128 KiB would be allocated for every idle session.
const READ_BYTES: usize = 1 << 10;

/// Waits for the upgrade; `None` where the client went away.
pub(super) async fn take(upgrade: OnUpgrade, limits: &Limits) -> Option<Socket> {
    let (bytes, read) = Beneath::take(upgrade.await.ok()?);
    let mut frames = Frames::new(limits);
    if !frames.read(&read) {
        return None;
    }
    let io = Io { bytes, frames };
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(limits.session_batch_bytes)
        .max_write_buffer_size(
            limits.session_buffer_max + limits.session_batch_bytes + limits.message_bytes_max,
        )
        .max_message_size(Some(limits.message_bytes_max))
        .max_frame_size(Some(limits.message_bytes_max));
    Some(WebSocketStream::from_partially_read(io, read.to_vec(), Role::Server, Some(config)).await)
}

/// The bytes beneath, and the frames in them.
pub(super) struct Io {
    bytes: Beneath,
    frames: Frames,
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
}

impl Io {
    /// Tells whether the client is in the middle of a message.
    pub(super) fn is_amid(&self) -> bool {
        self.frames.is_amid()
    }

    /// Tells whether the client has begun a message that does not come.
    pub(super) fn is_late(&self, limits: &Limits, seldom: Duration) -> bool {
        self.frames.is_late(Instant::now(), limits, seldom)
    }
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (me, before) = (self.get_mut(), buffer.filled().len());
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
        let written = match &mut me.bytes {
            Beneath::Wire(io) => Pin::new(io).poll_write(context, bytes),
            Beneath::Stream(io) => Pin::new(io).poll_write(context, bytes),
        };
        if let Poll::Ready(Ok(n)) = written {
            me.frames.wrote(n);
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().bytes {
            Beneath::Wire(io) => Pin::new(io).poll_flush(context),
            Beneath::Stream(io) => Pin::new(io).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().bytes {
            Beneath::Wire(io) => Pin::new(io).poll_shutdown(context),
            Beneath::Stream(io) => Pin::new(io).poll_shutdown(context),
        }
    }
}
