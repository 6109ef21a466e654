//! An answer of a stream, encoded once per form and shared by every reader of every dialect: a
//! fan-out costs each reader one atomic increment. Services make frames, dialects write them.

use crate::resume::Draft;
use bytes::Bytes;
use futures::{Stream, stream::BoxStream};
use plexus_proto::v1;
use prost_reflect::MessageDescriptor;
use std::sync::{
    Arc, Mutex, OnceLock, Weak,
    atomic::{AtomicBool, Ordering},
};

/// One answer, shared.
#[derive(Debug)]
pub struct Frame {
    proto: Bytes,
    json: OnceLock<Bytes>,
    id: Option<Box<str>>,
}

impl Frame {
    /// Takes an encoded answer. `id` is where a reader goes on after it (SSE `id:`), where it has one.
    pub fn new(proto: Bytes, id: Option<Box<str>>) -> Self {
        Self { proto, json: OnceLock::new(), id }
    }

    /// The encoded answer.
    pub fn proto(&self) -> &Bytes {
        &self.proto
    }

    /// Where a reader goes on after it.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The answer as JSON, made on first use by `encode`.
    pub fn json<E>(
        &self,
        output: &MessageDescriptor,
        encode: impl FnOnce(&MessageDescriptor, &Bytes) -> Result<Bytes, E>,
    ) -> Result<Bytes, E> {
        if let Some(json) = self.json.get() {
            return Ok(json.clone());
        }
        let json = encode(output, &self.proto)?;
        Ok(self.json.get_or_init(|| json).clone())
    }
}

/// A frame on its way to one reader.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The shared answer.
    pub frame: Arc<Frame>,
    /// Where this reader goes on, if that differs from the frame's own id (several topics) and somebody
    /// writes it.
    pub resume: Option<Arc<str>>,
}

impl Delivery {
    /// Where this reader goes on after it.
    pub fn id(&self) -> Option<&str> {
        self.resume.as_deref().or_else(|| self.frame.id())
    }
}

/// In a request's extensions: the caller can take frames.
#[derive(Clone, Copy, Debug)]
pub struct TakesFrames {
    /// It writes after each where the reader goes on; with several topics that costs a token.
    pub ids: bool,
}

/// In a request's extensions: the stream has a place, which is known when it ends before its time. In a
/// session another session can take it up.
pub(crate) struct Seat {
    again: Again,
    /// Where the stream goes on; its service sets it.
    cursor: OnceLock<Weak<dyn Cursor>>,
    /// The last answer that was taken has not reached the session: it waits for credit.
    held: AtomicBool,
}

/// Writes what begins a call again, as its session reads it; of no session: nothing. The number is how many
/// messages are left of the limit that it was asked for, if it was.
pub(crate) type Again = Box<dyn Fn(Option<u32>) -> Vec<u8> + Send + Sync>;

/// A stream that knows at any time where it goes on.
pub(crate) trait Cursor: Send + Sync {
    /// Adds the stream to a token. With `held` its last answer was not delivered.
    fn draw(&self, draft: &mut Draft, again: &Again, held: bool);

    /// Says where the stream goes on, in `most` bytes at most; empty: nowhere, or not so short.
    fn resume(&self, most: usize) -> String;
}

impl Seat {
    /// Makes the place of a call.
    pub(crate) fn new(again: Again) -> Self {
        Self { again, cursor: OnceLock::new(), held: AtomicBool::new(false) }
    }

    /// What begins the call again.
    pub(crate) fn again(&self, left: Option<u32>) -> Vec<u8> {
        (self.again)(left)
    }

    /// Puts a stream there. It must not own the place, or neither would ever go.
    pub(crate) fn take(&self, cursor: Weak<dyn Cursor>) {
        let _ = self.cursor.set(cursor); // A call has one stream.
    }

    /// Notes whether an answer waits for credit.
    pub(crate) fn hold(&self, held: bool) {
        self.held.store(held, Ordering::Relaxed);
    }

    /// Says where the stream goes on, in `most` bytes at most; empty: nowhere, or not so short.
    pub(crate) fn resume(&self, most: usize) -> String {
        self.cursor.get().and_then(Weak::upgrade).map(|cursor| cursor.resume(most)).unwrap_or_default()
    }

    /// Adds the stream to a token; one that has not begun, as it was asked for.
    pub(crate) fn draw(&self, draft: &mut Draft) {
        match self.cursor.get().and_then(Weak::upgrade) {
            Some(cursor) => cursor.draw(draft, &self.again, self.held.load(Ordering::Relaxed)),
            None => draft.add(&self.again(None), &[]),
        }
    }
}

/// In a response's extensions: here they are, and the body stays silent until its deadline or the
/// server's end. A caller without [`TakesFrames`] gets the plain stream.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<Option<Frames>>>);

/// A stream of frames; an error ends it.
pub type Frames = BoxStream<'static, Result<Delivery, Box<v1::Error>>>;

impl Shared {
    /// Offers a stream to whoever takes it first.
    pub fn new(frames: impl Stream<Item = Result<Delivery, Box<v1::Error>>> + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Some(Box::pin(frames)))))
    }

    /// Takes the stream; once.
    pub fn take(&self) -> Option<Frames> {
        self.0.lock().ok()?.take()
    }
}
