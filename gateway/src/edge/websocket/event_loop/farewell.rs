//! How a session ends: why, in which words, and how its streams go on elsewhere.

use super::{super::calls::Calls, EventLoop};
use crate::{
    caller::Caller,
    error,
    resume::{Bearer, Draft},
};
use plexus_proto::{
    reason::Reason,
    v1::{self, SessionFrame, session_frame},
};
use std::{
    future::poll_fn,
    ops::Range,
    time::{Duration, SystemTime},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::{
    Error, Utf8Bytes,
    error::ProtocolError,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

/// How long a close may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the close of a client may take that answers nothing.
const FROZEN_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes of a frame too large that are read and dropped, so that its sender hears why.
const HEAR_OUT_BYTES: usize = 4 << 20;

/// When a client may come back that nothing else is told.
const RETRY_MS: Range<u64> = 100..1_000;

/// Why a session ends.
pub(super) enum End {
    /// The client is gone.
    Gone,
    /// The client closed and waits for our close.
    Left,
    /// We end it, and say so.
    Close(Box<v1::Error>, u16),
    /// What came is no WebSocket; the code says so, as a frame would not be understood either.
    Broken(CloseCode),
}

impl EventLoop {
    /// Says why, closes the WebSocket with the same code, and waits shortly for the client's close.
    pub(super) async fn close(mut self: Box<Self>, end: End) {
        let (error, code) = match end {
            End::Gone => return,
            End::Left => {
                // The answer to a close is written while reading on.
                let farewell = async {
                    // What is begun is written to its end: nothing can be said amid a frame.
                    if self.outbox.is_begun() {
                        poll_fn(|context| self.poll_write(context)).await?;
                    }
                    while let Some(Ok(_)) = self.socket.next().await {}
                    Ok::<_, Error>(())
                };
                let _ = tokio::time::timeout(CLOSE_TIMEOUT, farewell).await;
                return;
            }
            End::Broken(code) => {
                return self.part(CloseFrame { code, reason: Utf8Bytes::default() }, CLOSE_TIMEOUT).await;
            }
            End::Close(error, code) => (error, code),
        };
        let wait = error.retry_after.as_ref().and_then(|d| Duration::try_from(*d).ok());
        // Nobody who may come back does so at the same moment as all others.
        let wait = wait.unwrap_or_else(|| match code {
            3000..3500 => Duration::from_millis(rand::random_range(RETRY_MS)),
            _ => Duration::ZERO,
        });
        let resume = self.resume();
        let close = session_frame::Close {
            code: code.into(),
            reason: error.reason.clone(),
            message: error.message.clone(),
            retry_after_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
            resume,
            ..session_frame::Close::default()
        };
        let kind = Some(session_frame::Kind::Close(close));
        let message =
            self.form.session(self.trunk.registry(), &SessionFrame { kind, ..SessionFrame::default() });
        self.say(message);
        // Who reads slowly takes what waits as slowly, and the close comes after it.
        let slow = error.is(Reason::SlowReader);
        let within = match slow {
            true => self.trunk.limits().write_timeout.max(CLOSE_TIMEOUT),
            // Who answered no ping will hardly answer a close.
            false if self.pinged.is_some() => FROZEN_TIMEOUT,
            false => CLOSE_TIMEOUT,
        };
        tracing::debug!(session = &*self.session, code, reason = error.reason, "session closed");
        self.part(CloseFrame { code: CloseCode::from(code), reason: error.reason.into() }, within).await;
    }

    /// Draws up the token by which another session takes up the streams of this one; empty: there are none,
    /// or too many.
    fn resume(&self) -> String {
        let mut seats: Vec<_> =
            self.open.iter().filter_map(|(id, open)| Some((*id, open.seat.as_ref()?))).collect();
        let caller = self.extensions.get::<Caller>().filter(|_| !seats.is_empty());
        let Some(caller) = caller else { return String::new() };
        seats.sort_by_key(|(id, _)| *id);
        let mut draft = Draft::new(SystemTime::now());
        seats.iter().for_each(|(_, seat)| seat.draw(&mut draft));
        let token = self.trunk.tokens().seal(draft, &Bearer::from(caller));
        let most = self.trunk.limits().session_resume_bytes_max;
        if token.len() > most { String::new() } else { token }
    }

    /// Writes what waits and the close, and waits for the client's.
    async fn part(mut self: Box<Self>, close: CloseFrame, within: Duration) {
        self.calls = Calls::default();
        self.open.clear();
        let farewell = async {
            poll_fn(|context| self.poll_write(context)).await?;
            self.socket.close(close).await?;
            while let Some(Ok(_)) = self.socket.next().await {}
            self.hear_out().await;
            Ok::<_, Error>(())
        };
        let _ = tokio::time::timeout(within, farewell).await;
    }

    /// Takes what is still on its way: a socket closed with unread bytes is reset, and a reset overtakes
    /// the close frame. After a frame too large tungstenite reads no more, so this reads beneath it.
    async fn hear_out(&mut self) {
        let (io, mut rest) = (self.socket.beneath(), vec![0; 4 << 10]);
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

/// Tells a client that is gone from one that speaks no WebSocket.
pub(super) fn broken(error: &Error) -> End {
    match error {
        Error::Utf8(_) => End::Broken(CloseCode::Invalid),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => End::Gone,
        Error::Protocol(_) => End::Broken(CloseCode::Protocol),
        _ => End::Gone,
    }
}

pub(super) fn closing(error: v1::Error) -> End {
    let code = error::close_code(&error);
    End::Close(Box::new(error), code)
}

/// A session whose bytes nobody reads.
pub(super) fn slow(most: Duration) -> End {
    let wait = Duration::from_millis(1_000 + rand::random_range(RETRY_MS));
    let text = format!("bytes of the session waited longer than {most:?} to be read");
    closing(v1::Error::new(Reason::SlowReader, text).retry_after(wait))
}
