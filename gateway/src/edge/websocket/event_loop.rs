//! One socket, many calls. The loop owns the socket, the open calls and what waits to be written;
//! nobody else touches them. It reads only while there is room to answer, and takes answers only while
//! there is room to write, so a slow client slows itself alone. [`farewell`] is its end.

mod farewell;
mod former;

use super::{
    super::{
        auth,
        desc::Method,
        drain::{Drain, Leave},
        share::Share,
        trunk::Trunk,
    },
    Metadata,
    call::{self, Happening},
    calls::Calls,
    form::{Begin, Form, Frame},
    outbox::Outbox,
    socket::Socket,
    traced,
};
use crate::{caller::Caller, config::Limits, frame::Seat};
use bytes::Bytes;
use farewell::{End, broken, closing};
use futures::{
    StreamExt,
    future::BoxFuture,
    stream::{AbortHandle, abortable},
};
use http::Extensions;
use plexus_proto::{
    reason::Reason,
    v1::{self, SessionFrame, session_frame},
};
use smallvec::SmallVec;
use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, Sleep},
};
use tokio_tungstenite::tungstenite::{Error, Message};
use tonic::Status;

/// How long a session may take to show credentials.
const AUTH_TIMEOUT: Duration = Duration::from_secs(10);

/// Credit that a call may hold at most.
const CREDIT_MAX: usize = 1 << 20;

/// A session.
pub(super) struct EventLoop {
    /// The way into the services.
    trunk: Trunk,
    /// How frames are written.
    form: Form,
    /// Metadata of every call: the handshake's headers.
    headers: Metadata,
    /// The caller and what else came with the connection.
    extensions: Extensions,
    /// The session's id, by which messages and operators know it.
    session: Arc<str>,
    /// Looks whether the caller's credentials are withdrawn.
    watch: Option<Box<auth::Watch>>,
    /// The socket.
    socket: Socket,
    /// Frames that wait to be written. Bounded: nothing is taken while it is over `session_buffer_max`.
    outbox: Outbox,
    /// What happens to the open calls.
    calls: Calls,
    /// The open calls, `session_calls_max` at most.
    open: OpenCalls,
    /// Whether frames are given back as they came instead of being read.
    echo: bool,
    /// Ready when this gateway goes away.
    leave: Leave,
    /// Its place among the streams and sessions of its caller, once that is known.
    share: Option<Share>,
    /// When to look next whether the client is there and its credentials hold. One timer, which is moved
    /// only when it runs out.
    look: Pin<Box<Sleep>>,
    /// When it has to be known at the latest who the caller is.
    known_by: Instant,
    /// When the client was last heard.
    heard: Instant,
    /// When a ping was sent that is not answered yet.
    pinged: Option<Instant>,
    pings: u32,
}

/// Open calls by their ids. Most sessions have one, and none has many.
type OpenCalls = SmallVec<[(u32, Open); 1]>;

/// An open call.
struct Open {
    method: Arc<Method>,
    abort: AbortHandle,
    inputs: Option<mpsc::Sender<Result<Bytes, Status>>>,
    credit: Option<Arc<Semaphore>>,
    /// Where it goes on, if it can be taken up by another session.
    seat: Option<Arc<Seat>>,
}

enum Input {
    Frame(Message),
    Happened(u32, Happening),
    Tick,
    /// The credentials were withdrawn.
    Withdrawn(Box<v1::Error>),
    Leave,
    Lost(Option<Error>),
}

impl EventLoop {
    /// Takes a socket that has shaken hands.
    pub(super) fn new(
        trunk: Trunk,
        form: Form,
        headers: Metadata,
        mut extensions: Extensions,
        socket: Socket,
        echo: bool,
    ) -> Box<Self> {
        let session: Arc<str> = uuid::Uuid::now_v7().simple().to_string().into();
        if let Some(caller) = extensions.get_mut::<Caller>() {
            *caller = caller.within(&session);
        }
        let watch = trunk.auth().watch().map(Box::new);
        let leave = trunk.drain().enter(&extensions);
        let now = Instant::now();
        let look = Box::pin(tokio::time::sleep_until(now));
        let mut session = Box::new(Self {
            trunk,
            form,
            headers,
            extensions,
            session,
            watch,
            socket,
            outbox: Outbox::default(),
            calls: Calls::default(),
            open: OpenCalls::new(),
            echo,
            leave,
            share: None,
            look,
            known_by: now + AUTH_TIMEOUT,
            heard: now,
            pinged: None,
            pings: 0,
        });
        session.look_again();
        session
    }

    /// Takes its place among the streams and sessions of its caller, where that is known.
    pub(super) fn take_share(&mut self) -> Result<(), Box<v1::Error>> {
        if let (Some(caller), None) = (self.extensions.get::<Caller>(), &self.share) {
            self.share = self.trunk.shares().take(caller)?;
        }
        Ok(())
    }

    /// Serves until the client or the gateway goes.
    pub(super) async fn run(mut self: Box<Self>) {
        tracing::debug!(session = &*self.session, form = ?self.form, "session opened");
        let end = loop {
            let input = self.next().await;
            if let Err(end) = self.apply(input) {
                break end;
            }
        };
        self.finish(end).await;
    }

    /// Ends before it began, and says why.
    pub(super) async fn refuse(self: Box<Self>, error: Box<v1::Error>) {
        self.finish(closing(*error)).await;
    }

    /// Ends, and is cut where the drain takes too long: before, it is told to leave, and does. Boxed, so that
    /// a session that stays does not carry the size of its end.
    fn finish(self: Box<Self>, end: End) -> BoxFuture<'static, ()> {
        let cut = self.trunk.drain().cut.clone();
        Box::pin(async move { cut.run_until_cancelled(self.close(end)).await.unwrap_or_default() })
    }

    async fn next(&mut self) -> Input {
        poll_fn(|context| self.poll(context)).await
    }

    /// Answers first, up to a batch of bytes; then all is written at once; then the client is read.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Input> {
        if Pin::new(&mut self.leave).poll(context).is_ready() {
            return Poll::Ready(Input::Leave);
        }
        if let Some(watch) = &mut self.watch
            && let Poll::Ready(error) = watch.poll(self.extensions.get(), context)
        {
            return Poll::Ready(Input::Withdrawn(Box::new(error)));
        }
        loop {
            let batch = self.trunk.limits().session_batch_bytes;
            let takes = self.outbox.len() < batch && self.has_room();
            if takes && let Poll::Ready((id, happening)) = self.calls.poll_next(context) {
                return Poll::Ready(Input::Happened(id, happening));
            }
            if let Poll::Ready(Err(error)) = self.poll_write(context) {
                return Poll::Ready(Input::Lost(Some(error)));
            }
            if self.has_room() {
                match self.socket.poll_next(context) {
                    Poll::Ready(Some(Ok(message))) => return Poll::Ready(Input::Frame(message)),
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Input::Lost(Some(error))),
                    Poll::Ready(None) => return Poll::Ready(Input::Lost(None)),
                    Poll::Pending => self.hurry(),
                }
            }
            if self.look.as_mut().poll(context).is_ready() {
                return Poll::Ready(Input::Tick);
            }
            // Calls that were passed over are looked at once what waited is written; a socket that takes
            // nothing wakes us when it does.
            if takes || !self.outbox.is_done() {
                return Poll::Pending;
            }
        }
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let written = self.socket.poll_write(&mut self.outbox, context);
        if written.is_pending() {
            self.outbox.stuck();
            self.hurry();
        }
        written
    }

    fn has_room(&self) -> bool {
        self.outbox.len() < self.trunk.limits().session_buffer_max
    }

    fn say(&mut self, message: Message) {
        self.outbox.push(&message);
    }

    fn find(&mut self, id: u32) -> Option<&mut Open> {
        self.open.iter_mut().find(|(open, _)| *open == id).map(|(_, open)| open)
    }

    fn take(&mut self, id: u32) -> Option<Open> {
        let place = self.open.iter().position(|(open, _)| *open == id)?;
        Some(self.open.swap_remove(place).1)
    }

    fn fail(&mut self, id: u32, mut failure: Box<v1::Error>) {
        traced(&mut failure, &self.headers);
        let message = self.form.error(self.trunk.registry(), id, &failure);
        self.say(message);
    }

    fn apply(&mut self, input: Input) -> Result<(), End> {
        match input {
            Input::Happened(id, happening) => self.happened(id, happening),
            Input::Frame(message) => return self.frame(message),
            Input::Tick => {
                self.tick()?;
                self.look_again();
            }
            Input::Withdrawn(error) => return Err(closing(*error)),
            Input::Leave => return Err(closing(Drain::error())),
            Input::Lost(Some(Error::Capacity(_))) => {
                let max = self.trunk.limits().message_bytes_max;
                return Err(closing(v1::Error::new(
                    Reason::MessageTooLarge,
                    format!("a frame has {max} bytes at most"),
                )));
            }
            Input::Lost(Some(error)) => return Err(broken(&error)),
            Input::Lost(None) => return Err(End::Gone),
        }
        Ok(())
    }

    fn happened(&mut self, id: u32, happening: Happening) {
        if happening.is_last() && self.take(id).is_none() {
            return;
        }
        match happening {
            Happening::Answer(answer, only) => self.form.answer(&mut self.outbox, (id, only), &answer),
            Happening::End => self.say(self.form.end(id, false)),
            Happening::Failed(error) => self.fail(id, error),
        }
    }

    fn tick(&mut self) -> Result<(), End> {
        let (limits, now) = (self.trunk.limits(), Instant::now());
        match self.extensions.get::<Caller>() {
            None if now >= self.known_by => return Err(closing(*auth::missing())),
            Some(caller) if caller.is_expired(SystemTime::now()) => return Err(closing(auth::expired())),
            _ => {}
        }
        if self.socket.is_late(limits, seldom(limits)) {
            let text = format!("a message was begun and did not come within {:?}", limits.body_timeout);
            return Err(closing(v1::Error::new(Reason::DeadlineExceeded, text)));
        }
        if self.outbox.is_late(now, limits.write_timeout) {
            self.trunk.metrics().slow_sessions.inc();
            return Err(farewell::slow(limits.write_timeout));
        }
        match self.pinged {
            Some(at) if now - at >= limits.session_pong_timeout => {
                let text = format!("no answer to a ping in {:?}", limits.session_pong_timeout);
                return Err(closing(v1::Error::new(Reason::PongMissing, text)));
            }
            None if now - self.heard >= limits.session_ping_interval => {
                self.pings = self.pings.wrapping_add(1);
                self.pinged = Some(now);
                self.say(self.form.beat(true, self.pings));
            }
            _ => {}
        }
        Ok(())
    }

    /// Sets the timer to the next moment at which there may be something to do.
    fn look_again(&mut self) {
        let limits = self.trunk.limits();
        let silence = match self.pinged {
            Some(at) => at + limits.session_pong_timeout,
            None => self.heard + limits.session_ping_interval,
        };
        let caller = match self.extensions.get::<Caller>() {
            None => Some(self.known_by),
            Some(caller) => caller.expires_at.and_then(|at| {
                Instant::now().checked_add(at.duration_since(SystemTime::now()).unwrap_or_default())
            }),
        };
        self.look.as_mut().reset(caller.map_or(silence, |at| at.min(silence)));
        self.hurry();
    }

    /// Looks sooner while the client is in the middle of a message, or does not take what is said.
    fn hurry(&mut self) {
        if self.socket.is_amid() || self.outbox.is_stuck() {
            let soon = Instant::now() + seldom(self.trunk.limits());
            if self.look.deadline() > soon {
                self.look.as_mut().reset(soon);
            }
        }
    }

    fn frame(&mut self, message: Message) -> Result<(), End> {
        self.heard = Instant::now();
        self.pinged = None;
        let bytes = match (self.form, message) {
            (_, message @ (Message::Text(_) | Message::Binary(_))) if self.echo => {
                self.say(message);
                return Ok(());
            }
            (Form::Json, Message::Text(text)) => Bytes::from(text),
            (Form::Proto, Message::Binary(bytes)) => bytes,
            (_, Message::Text(_) | Message::Binary(_)) => {
                let text = "text frames carry plexus.v1.json, binary frames plexus.v1.proto";
                return Err(End::Close(Box::new(v1::Error::new(Reason::BadFrame, text)), 1003));
            }
            (_, Message::Close(_)) => return Err(End::Left),
            _ => return Ok(()),
        };
        match self.form.read(&bytes) {
            Ok(Frame::Auth(token)) => self.authenticate(&token.0),
            Ok(frame) => {
                self.obey(frame);
                Ok(())
            }
            Err(error) => {
                self.fail(0, error.clone());
                Err(closing(*error))
            }
        }
    }

    fn obey(&mut self, frame: Frame) {
        match frame {
            Frame::Call(id, begin) => {
                if let Err(error) = self.begin(id, &begin) {
                    self.fail(id, error);
                }
            }
            Frame::Input(id, input) => self.input(id, input),
            Frame::Done(id) => drop(self.find(id).and_then(|open| open.inputs.take())),
            Frame::Cancel(id) => {
                if let Some(open) = self.take(id) {
                    open.abort.abort();
                }
                self.say(self.form.end(id, true));
            }
            Frame::Credit(id, credit) => {
                if let Some(held) = self.find(id).and_then(|open| open.credit.as_ref()) {
                    held.add_permits(
                        (credit as usize).min(CREDIT_MAX.saturating_sub(held.available_permits())),
                    );
                }
            }
            Frame::Ping(number) => self.say(self.form.beat(false, number)),
            Frame::Pong | Frame::Auth(_) => {}
            Frame::Resume(token) => {
                if let Err(error) = self.take_up(&token.0) {
                    self.fail(0, error);
                }
            }
        }
    }

    fn begin(&mut self, id: u32, begin: &Begin) -> Result<(), Box<v1::Error>> {
        let max = self.trunk.limits().session_calls_max;
        if id == 0 {
            return Err(Box::new(v1::Error::field("id", "1 to 4294967295")));
        }
        if self.find(id).is_some() {
            return Err(Box::new(v1::Error::new(Reason::CallIdInUse, format!("id: call {id} is open"))));
        }
        if self.open.len() >= max {
            let error = v1::Error::new(Reason::CallLimit, format!("{max} calls are open, which is the most"));
            return Err(Box::new(error.with("limit", max)));
        }
        let prepared = call::prepare(&self.trunk, self.form, (id, begin), &self.headers, &self.extensions)?;
        let (method, inputs, credit) = (prepared.method(), prepared.inputs.clone(), prepared.credit.clone());
        let seat = prepared.seat.clone();
        let (run, abort) = abortable(prepared.run(self.trunk.clone()).map(move |happening| (id, happening)));
        self.open.push((id, Open { method, abort, inputs, credit, seat }));
        self.calls.push(run.boxed());
        Ok(())
    }

    fn input(&mut self, id: u32, bytes: Bytes) {
        let form = self.form;
        let Some(open) = self.find(id) else {
            return self.fail(
                id,
                Box::new(v1::Error::new(Reason::BadFrame, format!("input: call {id} is not open"))),
            );
        };
        let Some(inputs) = &open.inputs else {
            let text = format!("input: call {id} takes no more requests");
            return self.fail(id, Box::new(v1::Error::new(Reason::BadFrame, text)));
        };
        // The handler takes them one by one; a client that does not wait for it is refused.
        if inputs.try_send(call::input(form, &open.method, bytes)).is_err() {
            let text = format!("input: {} requests wait already", call::INPUTS_MAX);
            if let Some(open) = self.take(id) {
                open.abort.abort();
            }
            self.fail(id, Box::new(v1::Error::new(Reason::Overloaded, text)));
        }
    }

    /// Takes credentials: the first, or fresh ones of the same caller, whose calls go on. With auth off
    /// any are fine.
    fn authenticate(&mut self, token: &str) -> Result<(), End> {
        let caller = self.trunk.auth().vouch(token).map_err(|error| closing(*error))?.within(&self.session);
        if self.extensions.get::<Caller>().is_some_and(|before| !before.is_same(&caller)) {
            let text = "a session has one caller: open another for other credentials";
            return Err(closing(v1::Error::new(Reason::TokenInvalid, text)));
        }
        self.extensions.insert(caller.clone());
        self.take_share().map_err(|error| closing(*error))?;
        let answer = session_frame::Authenticated {
            session: caller.principal.session.clone(),
            subject: caller.principal.subject.clone(),
            namespace: caller.namespace.as_ref().into(),
            expires_at: caller.expires_at.map(Into::into),
        };
        let kind = Some(session_frame::Kind::Authenticated(answer));
        let message =
            self.form.session(self.trunk.registry(), &SessionFrame { kind, ..SessionFrame::default() });
        self.say(message);
        self.look_again();
        Ok(())
    }
}

/// Time between two looks at a client that is in the middle of a message, or takes none.
fn seldom(limits: &Limits) -> Duration {
    limits.session_pong_timeout / 2
}
