//! The open calls of a session. Most sessions follow one stream, so the call that spoke last is polled as
//! it is; only the others stand in a set, which costs an allocation whenever one of them speaks.

use super::call::Happening;
use futures::{
    StreamExt,
    stream::{BoxStream, FuturesUnordered, StreamFuture},
};
use std::task::{Context, Poll};

/// A call with its id.
type Call = BoxStream<'static, (u32, Happening)>;

/// What one call may say before the others are asked.
const TURN: usize = 32;

/// Calls, and what happens to them.
#[derive(Default)]
pub(super) struct Calls {
    /// The call that spoke last.
    last: Option<Call>,
    /// What it said in a row.
    said: usize,
    /// Not there while there are none: even an empty set is an allocation.
    others: Option<FuturesUnordered<StreamFuture<Call>>>,
}

impl Calls {
    /// Adds a call.
    pub(super) fn push(&mut self, call: Call) {
        match self.last {
            None => self.last = Some(call),
            Some(_) => self.aside(call),
        }
    }

    fn aside(&mut self, call: Call) {
        self.others.get_or_insert_default().push(call.into_future());
    }

    /// What happens next; pending also where there is no call.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<(u32, Happening)> {
        loop {
            let others_first = self.said >= TURN && self.others.is_some();
            if let Some(last) = self.last.as_mut().filter(|_| !others_first) {
                match last.poll_next_unpin(context) {
                    Poll::Ready(Some(happening)) => {
                        self.said += 1;
                        return Poll::Ready(happening);
                    }
                    Poll::Ready(None) => self.last = None,
                    Poll::Pending => {}
                }
            }
            match self.others.as_mut().map(|others| others.poll_next_unpin(context)) {
                Some(Poll::Ready(Some((None, _)))) => {}
                Some(Poll::Ready(Some((Some(happening), call)))) => {
                    if let Some(before) = self.last.replace(call) {
                        self.aside(before);
                    }
                    self.said = 1;
                    return Poll::Ready(happening);
                }
                Some(Poll::Ready(None)) => self.others = None,
                // The others have nothing to say, so the last one goes on.
                Some(Poll::Pending) if others_first => self.said = 0,
                None | Some(Poll::Pending) => return Poll::Pending,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{FutureExt, future::poll_fn, stream};

    fn next(calls: &mut Calls) -> Option<u32> {
        poll_fn(|context| calls.poll_next(context)).now_or_never().map(|(id, _)| id)
    }

    fn says(id: u32, times: usize) -> Call {
        stream::iter((0..times).map(move |_| (id, Happening::End))).chain(stream::pending()).boxed()
    }

    #[test]
    fn a_call_that_always_speaks_lets_the_others_speak() {
        let mut calls = Calls::default();
        calls.push(says(1, usize::MAX));
        calls.push(says(2, 3));
        let said: Vec<_> = (0..4 * TURN).filter_map(|_| next(&mut calls)).collect();
        assert_eq!(said.iter().filter(|id| **id == 2).count(), 3);
        assert_eq!(said.len(), 4 * TURN);
    }

    #[test]
    fn every_call_is_heard_to_its_end_and_then_let_go() {
        let mut calls = Calls::default();
        assert_eq!(next(&mut calls), None);
        for id in 1..=5 {
            calls.push(stream::iter((0..40).map(move |_| (id, Happening::End))).boxed());
        }
        let said: Vec<_> = std::iter::from_fn(|| next(&mut calls)).collect();
        assert!((1..=5).all(|id| said.iter().filter(|said| **said == id).count() == 40));
        assert!(calls.last.is_none() && calls.others.is_none());
    }
}
