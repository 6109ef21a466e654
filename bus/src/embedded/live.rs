//! Who listens where. A frame is handed to every queue without waiting; a full queue counts it as lag.

use crate::{
    Error, Payload, Subject, Subscription,
    subscription::{Event, Feed, channel},
};
use prometheus_client::metrics::counter::Counter;
use std::collections::HashMap;

/// The live subjects that have listeners.
pub(super) struct Subjects {
    feeds: HashMap<Subject, Vec<Feed>>,
    count: usize,
    most: usize,
    lagged: Counter,
}

impl Subjects {
    pub(super) fn new(most: usize, lagged: Counter) -> Self {
        Self { feeds: HashMap::new(), count: 0, most, lagged }
    }

    /// Adds a listener; `end` runs when it leaves.
    pub(super) fn subscribe(
        &mut self,
        subject: Subject,
        queue: usize,
        end: impl FnOnce() + Send + Sync + 'static,
    ) -> Result<Subscription, Error> {
        if self.count >= self.most {
            self.sweep();
        }
        if self.count >= self.most {
            return Err(Error::Overloaded);
        }
        let (feed, subscription) = channel(queue, end);
        self.feeds.entry(subject).or_default().push(feed.counting(self.lagged.clone()));
        self.count += 1;
        Ok(subscription)
    }

    /// Hands a frame to everybody who listens; answers to how many.
    pub(super) fn publish(&mut self, subject: &Subject, frame: Payload) -> usize {
        let Some(feeds) = self.feeds.get_mut(subject) else { return 0 };
        let before = feeds.len();
        feeds.retain(|feed| feed.offer(Event::Frame(frame.clone())));
        let listening = feeds.len();
        self.count -= before - listening;
        if listening == 0 {
            self.feeds.remove(subject);
        }
        listening
    }

    /// Forgets listeners of a subject that have left.
    pub(super) fn prune(&mut self, subject: &Subject) {
        let Some(feeds) = self.feeds.get_mut(subject) else { return };
        let before = feeds.len();
        feeds.retain(Feed::is_open);
        self.count -= before - feeds.len();
        if feeds.is_empty() {
            self.feeds.remove(subject);
        }
    }

    /// Forgets all listeners that have left: those whose notice found the queue of calls full.
    pub(super) fn sweep(&mut self) {
        self.feeds.retain(|_, feeds| {
            feeds.retain(Feed::is_open);
            !feeds.is_empty()
        });
        self.count = self.feeds.values().map(Vec::len).sum();
    }

    /// Tells everybody that anything may have been missed.
    pub(super) fn restore(&mut self) {
        for feed in self.feeds.values().flatten() {
            feed.offer(Event::Restored);
        }
    }
}
