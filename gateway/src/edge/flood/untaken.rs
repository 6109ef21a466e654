//! Answers of HTTP/2 that their client does not take. A client may leave a window shut and keep the
//! connection alive, so each stream has a timer of its own, which runs while a piece of its answer waits.
//! Pieces are small, because the library below keeps a whole one for a window of a single byte.

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use pin_project_lite::pin_project;
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{task::futures::TaskLocalFuture, time::Sleep};

/// Bytes of a piece: those of a frame.
const PIECE: usize = 16 << 10;

tokio::task_local! {
    static TURN: Turn;
}

/// How far a stream's answer is: odd while a piece was given out and the next was not asked for.
#[derive(Clone, Default)]
struct Turn(Arc<AtomicU32>);

impl Turn {
    fn asked(&self, gave: bool) {
        // Nobody else writes it: a stream has one task.
        let next = (self.0.load(Ordering::Relaxed) | 1).wrapping_add(1 + u32::from(gave));
        self.0.store(next, Ordering::Relaxed);
    }

    fn now(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

pin_project! {
    /// The task of a stream.
    pub(crate) struct Watched<F> {
        #[pin]
        task: TaskLocalFuture<Turn, F>,
        turn: Turn,
        patience: Duration,
        // Only while a piece waits, and since which turn.
        timer: Option<(Pin<Box<Sleep>>, u32)>,
    }
}

/// Watches the task of a stream; it ends with none where its client took nothing for so long.
pub(crate) fn watch<F: Future>(task: F, patience: Duration) -> Watched<F> {
    let turn = Turn::default();
    Watched { task: TURN.scope(turn.clone(), task), turn, patience, timer: None }
}

impl<F: Future> Future for Watched<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let me = self.project();
        if let Poll::Ready(output) = me.task.poll(context) {
            return Poll::Ready(Some(output));
        }
        let now = me.turn.now();
        if now.is_multiple_of(2) {
            *me.timer = None;
            return Poll::Pending;
        }
        if me.timer.as_ref().is_none_or(|(_, since)| *since != now) {
            *me.timer = Some((Box::pin(tokio::time::sleep(*me.patience)), now));
        }
        if let Some((timer, _)) = me.timer {
            ready!(timer.as_mut().poll(context));
        }
        tracing::debug!("an answer is not taken");
        Poll::Ready(None)
    }
}

/// The body of an answer, in pieces where its stream is watched.
pub(crate) struct Answer<O> {
    inner: Body,
    rest: Bytes,
    turn: Option<Turn>,
    _open: O,
}

impl<O> Answer<O> {
    /// Takes the body of an answer to the stream whose task this is, and what is held until its end.
    pub(crate) fn new(inner: Body, open: O) -> Self {
        Self { inner, rest: Bytes::new(), turn: TURN.try_with(Clone::clone).ok(), _open: open }
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
            match frame.map(|f| f.map(Frame::into_data)) {
                Some(Ok(Ok(data))) if data.len() > PIECE => self.rest = data,
                Some(Ok(Ok(data))) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let piece = self.rest.split_to(PIECE.min(self.rest.len()));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

impl<O: Unpin> http_body::Body for Answer<O> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.turn.is_none() {
            return Pin::new(&mut self.inner).poll_frame(context);
        }
        let frame = self.poll_piece(context);
        if let Some(turn) = &self.turn {
            turn.asked(matches!(frame, Poll::Ready(Some(_))));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // Only asked before the first piece.
        if self.rest.is_empty() { self.inner.size_hint() } else { SizeHint::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use std::{future::poll_fn, task::Waker};

    /// The state that a task leaves behind after its body was polled so often.
    async fn after(polls: usize, body: Body) -> (u32, Vec<usize>) {
        let turn = Turn::default();
        let take = async {
            let (mut answer, mut sizes) = (Answer::new(body, ()), Vec::new());
            for _ in 0..polls {
                let mut context = Context::from_waker(Waker::noop());
                if let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut answer).poll_frame(&mut context) {
                    sizes.push(frame.into_data().unwrap().len());
                }
            }
            sizes
        };
        let sizes = TURN.scope(turn.clone(), take).await;
        (turn.now() % 2, sizes)
    }

    #[tokio::test]
    async fn a_large_answer_is_given_in_pieces_and_each_must_be_taken() {
        let large = || Body::from(vec![7; PIECE + 5]);
        assert_eq!(after(1, large()).await, (1, vec![PIECE]));
        assert_eq!(after(2, large()).await, (1, vec![PIECE, 5]));
        assert_eq!(after(3, large()).await, (0, vec![PIECE, 5]), "its end waits for nobody");
        let silent = Body::new(http_body_util::StreamBody::new(futures::stream::pending::<
            Result<Frame<Bytes>, axum::Error>,
        >()));
        assert_eq!(after(1, silent).await, (0, vec![]), "silence of ours is nothing to take");
        let whole = Answer::new(large(), ()).collect().await.unwrap().to_bytes();
        assert_eq!(whole.len(), PIECE + 5, "nobody watches");
    }

    #[tokio::test]
    async fn a_task_ends_whose_answer_is_not_taken() {
        let patience = Duration::from_millis(5);
        let stuck = async {
            let mut answer = Answer::new(Body::from("x"), ());
            let _ = answer.frame().await;
            std::future::pending::<()>().await;
        };
        assert_eq!(watch(stuck, patience).await, None);
        let mut quiet = Box::pin(watch(std::future::pending::<()>(), patience));
        let waits = poll_fn(|context| Poll::Ready(quiet.as_mut().poll(context).is_pending()));
        assert!(waits.await);
        assert!(tokio::time::timeout(patience * 10, &mut quiet).await.is_err());
        assert_eq!(watch(async { 5 }, patience).await, Some(5));
    }
}
