//! One channel: who listens, and how far Redis is with it (pure).

use super::{Answer, ShardId};
use crate::{Error, Event, Payload, subscription::Feed};

/// One channel.
pub(super) struct Place {
    pub(super) state: State,
    /// The server that has its slot.
    pub(super) at: Option<ShardId>,
    pub(super) feeds: Vec<Feed>,
    /// Listeners that are not answered yet.
    pub(super) waiting: Vec<(Feed, Answer)>,
}

/// How far Redis is with a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Redis was asked for it.
    Joining,
    /// Redis has it.
    Held,
    /// Redis had it on another connection or at another server, or never; it has to be asked again.
    Stale,
    /// Redis was asked to let it go.
    Leaving,
}

impl Place {
    pub(super) fn new(at: Option<ShardId>) -> Self {
        Self { state: State::Joining, at, feeds: Vec::new(), waiting: Vec::new() }
    }

    /// Tells whether nobody means to stay.
    pub(super) fn is_empty(&self) -> bool {
        !self.feeds.iter().any(Feed::is_open) && self.waiting.is_empty()
    }

    /// Hands a frame over; true where a listener has gone.
    pub(super) fn deliver(&self, payload: &Payload) -> bool {
        // Redis counts us among those who heard it before its answer has come through here: whoever
        // waits for that answer gets it as well, or the sender would wait in vain.
        let counted = matches!(self.state, State::Joining | State::Stale);
        let waiting = self.waiting.iter().filter(|_| counted).map(|(feed, _)| feed);
        let mut closed = false;
        for feed in self.feeds.iter().chain(waiting) {
            closed |= !feed.offer(Event::Frame(payload.clone()));
        }
        closed
    }

    /// Tells those that Redis had it for.
    pub(super) fn tell(&self, event: &Event) {
        for feed in &self.feeds {
            feed.offer(event.clone());
        }
    }

    /// Redis has it.
    pub(super) fn hold(&mut self) {
        self.state = State::Held;
        for (feed, done) in self.waiting.drain(..) {
            self.feeds.push(feed);
            let _ = done.send(Ok(()));
        }
    }

    /// Redis does not take it; answers how many waited.
    pub(super) fn fail(&mut self, error: &Error) -> usize {
        let waiting = std::mem::take(&mut self.waiting);
        let count = waiting.len();
        for (_, done) in waiting {
            let _ = done.send(Err(error.clone()));
        }
        count
    }

    /// Tells whether a listener has gone.
    pub(super) fn has_gone(&self) -> bool {
        self.feeds.iter().chain(self.waiting.iter().map(|(feed, _)| feed)).any(|feed| !feed.is_open())
    }

    /// Forgets listeners that have gone; answers how many. Those that are leaving hear on until Redis has let
    /// the channel go, which it does after the last: it counts them among those who heard a frame.
    pub(super) fn sweep(&mut self) -> usize {
        let before = self.feeds.len() + self.waiting.len();
        self.waiting.retain(|(feed, _)| feed.is_open());
        self.feeds.retain(|feed| !feed.is_closed());
        if !self.is_empty() {
            self.feeds.retain(Feed::is_open);
        }
        before - self.feeds.len() - self.waiting.len()
    }

    /// Ends those that were leaving: Redis has let the channel go. Answers how many.
    pub(super) fn dismiss(&mut self) -> usize {
        std::mem::take(&mut self.feeds).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subscription::channel;
    use futures::FutureExt;
    use tokio::sync::oneshot;

    #[test]
    fn a_frame_that_comes_before_the_answer_to_its_listener_is_not_lost() {
        let mut place = Place::new(Some(1));
        let (feed, mut subscription) = channel(4, || {});
        let (done, mut answer) = oneshot::channel();
        place.waiting.push((feed, done));
        assert!(!place.deliver(&Payload::encoded("x")));
        assert!(answer.try_recv().is_err(), "Redis has not answered");
        let heard = subscription.recv().now_or_never().flatten();
        assert!(matches!(heard, Some(Event::Frame(_))), "{heard:?}");
        place.hold();
        assert_eq!(answer.try_recv(), Ok(Ok(())));
    }

    #[test]
    fn one_that_leaves_hears_on_until_redis_has_let_the_channel_go_or_others_stay() {
        let mut place = Place::new(Some(1));
        let (feed, mut leaving) = channel(4, || {});
        place.feeds.push(feed);
        leaving.leave();
        assert!(place.has_gone() && place.is_empty());
        assert_eq!(place.sweep(), 0);
        place.state = State::Leaving;
        place.deliver(&Payload::encoded("x"));
        assert_eq!(place.dismiss(), 1);
        assert!(matches!(leaving.recv().now_or_never(), Some(Some(Event::Frame(_)))));
        assert!(matches!(leaving.recv().now_or_never(), Some(None)), "and then the end");

        let (one, mut leaving) = channel(4, || {});
        let (other, _stays) = channel(4, || {});
        place.feeds.extend([one, other]);
        leaving.leave();
        assert_eq!(place.sweep(), 1);
        assert!(matches!(leaving.recv().now_or_never(), Some(None)));
        assert!(!place.is_empty());
    }

    #[test]
    fn whoever_waits_for_a_channel_that_fails_is_told_and_forgotten() {
        let mut place = Place::new(None);
        let (feed, _subscription) = channel(4, || {});
        let (done, mut answer) = oneshot::channel();
        place.waiting.push((feed, done));
        assert_eq!(place.fail(&Error::Timeout), 1);
        assert_eq!(answer.try_recv(), Ok(Err(Error::Timeout)));
        assert!(place.is_empty());
    }
}
