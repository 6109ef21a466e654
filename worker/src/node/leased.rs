//! The swarm within its worker's lease (protocol.md P2). Polling a swarm is an effect, and a `select!`
//! polls it again without its preconditions, so the deadline is tested in front of the swarm's own
//! `poll`, and again before each effect. Knows nothing of what the swarm does.

use crate::{
    clock::Moment,
    swarm::{Behaviour, BehaviourEvent, Counters, Recorder},
};
use futures::Stream;
use libp2p::{Swarm, swarm::SwarmEvent};
use std::{
    pin::Pin,
    task::{Context, Poll},
};
use tokio::sync::watch;

/// Events handed over in one wake.
const EVENTS: usize = 64;

/// What a swarm tells.
pub(crate) type Event = SwarmEvent<BehaviourEvent>;

/// A swarm that stands still once the lease is over.
pub(crate) struct Leased {
    swarm: Option<(Swarm<Behaviour>, Recorder)>,
    counters: Counters,
    deadline: watch::Receiver<Moment>,
}

impl Leased {
    /// Begins without a swarm.
    pub(crate) fn new(deadline: watch::Receiver<Moment>, counters: Counters) -> Self {
        Self { swarm: None, counters, deadline }
    }

    /// Tells whether the lease holds at this very moment.
    pub(crate) fn holds(&self) -> bool {
        Moment::now() < self.deadline()
    }

    /// When the lease ends unless it is renewed.
    pub(crate) fn deadline(&self) -> Moment {
        *self.deadline.borrow()
    }

    /// Takes a swarm, in place of the former.
    pub(crate) fn put(&mut self, swarm: Swarm<Behaviour>) {
        let recorder = Recorder::new(self.counters.clone(), *swarm.local_peer_id());
        self.swarm = Some((swarm, recorder));
    }

    /// Drops the swarm.
    pub(crate) fn drop_swarm(&mut self) {
        self.swarm = None;
    }

    /// The swarm, to act with; `None` past the deadline or without one.
    pub(crate) fn act(&mut self) -> Option<&mut Swarm<Behaviour>> {
        if self.holds() { self.swarm.as_mut().map(|(swarm, _)| swarm) } else { None }
    }

    /// The swarm, to look at.
    pub(crate) fn see(&self) -> Option<&Swarm<Behaviour>> {
        self.swarm.as_ref().map(|(swarm, _)| swarm)
    }

    /// Waits for events, up to 64 that are ready together. `None`: the lease is over. Cancel-safe: an
    /// event that was polled is handed over in the same poll.
    pub(crate) async fn next(&mut self) -> Option<Vec<Event>> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Vec<Event>>> {
        let mut events = Vec::new();
        while events.len() < EVENTS {
            if !self.holds() {
                return Poll::Ready(None);
            }
            let Some((swarm, recorder)) = &mut self.swarm else { break };
            match Pin::new(swarm).poll_next(cx) {
                Poll::Ready(Some(event)) => {
                    recorder.record(&event);
                    events.push(event);
                }
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        if events.is_empty() { Poll::Pending } else { Poll::Ready(Some(events)) }
    }
}
