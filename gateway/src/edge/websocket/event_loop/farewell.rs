//! The end of a session: what is still said, and how long its client has to hear it.

use super::{End, EventLoop};
use futures::{SinkExt, StreamExt};
use plexus_proto::v1::{SessionFrame, session_frame};
use std::{future::poll_fn, time::Duration};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::{
    Error, Message, Utf8Bytes,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

/// How long a close may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the close of a client may take that answers nothing.
const FROZEN_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes of a frame too large that are read and dropped, so that its sender hears why.
const HEAR_OUT_BYTES: usize = 4 << 20;

impl EventLoop {
    /// Says why, closes the WebSocket with the same code, and waits shortly for the client's close.
    pub(super) async fn close(mut self: Box<Self>, end: End) {
        let (error, code) = match end {
            End::Gone => return,
            End::Left => {
                // The answer to a close is written while reading on.
                let farewell = async { while let Some(Ok(_)) = self.socket.next().await {} };
                let _ = tokio::time::timeout(CLOSE_TIMEOUT, farewell).await;
                return;
            }
            End::Broken(code) => {
                let close = CloseFrame { code, reason: Utf8Bytes::default() };
                return self.part(close, CLOSE_TIMEOUT).await;
            }
            End::Close(error, code) => (error, code),
        };
        let wait = error.retry_after.as_ref().and_then(|d| Duration::try_from(*d).ok()).unwrap_or_default();
        let close = session_frame::Close {
            code: code.into(),
            reason: error.reason.clone(),
            message: error.message.clone(),
            retry_after_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
            ..session_frame::Close::default()
        };
        let kind = Some(session_frame::Kind::Close(close));
        let message =
            self.form.session(self.trunk.registry(), &SessionFrame { kind, ..SessionFrame::default() });
        self.say(message);
        // Who answered no ping will hardly answer a close.
        let patience = if self.pinged.is_some() { FROZEN_TIMEOUT } else { CLOSE_TIMEOUT };
        self.part(CloseFrame { code: CloseCode::from(code), reason: error.reason.into() }, patience).await;
    }

    /// Writes what waits and the close, and waits for the client's.
    async fn part(mut self: Box<Self>, close: CloseFrame, patience: Duration) {
        let farewell = async {
            poll_fn(|context| self.poll_write(context)).await?;
            self.socket.send(Message::Close(Some(close))).await?;
            while let Some(Ok(_)) = self.socket.next().await {}
            self.hear_out().await;
            Ok::<_, Error>(())
        };
        let _ = tokio::time::timeout(patience, farewell).await;
    }

    /// Takes what is still on its way: a socket closed with unread bytes is reset, and a reset overtakes
    /// the close frame. After a frame too large tungstenite reads no more, so this reads beneath it.
    async fn hear_out(&mut self) {
        let (io, mut rest) = (self.socket.get_mut(), vec![0; 4 << 10]);
        let _ = io.shutdown().await;
        let mut left = HEAR_OUT_BYTES;
        while let Ok(n @ 1..) = io.read(&mut rest).await {
            left = left.saturating_sub(n);
            if left == 0 {
                return;
            }
        }
    }
}
