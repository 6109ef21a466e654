//! A gossipsub whose heartbeat does not fall asleep.

use super::{Gossipsub, score::topic as topic_score};
use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    gossipsub::{self, IdentTopic, SubscriptionError},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
    },
};
use plexus_proto::v1;
use std::{
    ops::{Deref, DerefMut},
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::time::{Interval, MissedTickBehavior};

/// The heartbeat of a node without peers.
const ALONE_HEARTBEAT: Duration = Duration::from_secs(5);

/// Gossipsub whose heartbeat goes on.
///
/// The crate polls its timers, resets those that are due and returns without polling them again, so
/// that nothing wakes it any more. Here a poll that ends pending is repeated, which arms them. While
/// no peer is connected the timers are not armed at all, and one slow tick drives them.
pub struct Awake {
    inner: Gossipsub,
    peers: usize,
    /// Something happened since the last poll that ended pending.
    touched: bool,
    slow: Interval,
}

impl Awake {
    pub(super) fn new(inner: Gossipsub, heartbeat: Duration) -> Self {
        let mut slow = tokio::time::interval(heartbeat.max(ALONE_HEARTBEAT));
        slow.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { inner, peers: 0, touched: true, slow }
    }

    /// Follows a topic and scores its peers; `Ok(false)` if it is followed already.
    pub fn follow(
        &mut self,
        topic: &IdentTopic,
        score: Option<&v1::ScoreParams>,
    ) -> Result<bool, SubscriptionError> {
        // Fails where scoring is off.
        let _ = self.inner.set_topic_params(topic.clone(), topic_score(score));
        self.touched = true;
        self.inner.subscribe(topic)
    }

    /// Follows a topic with the default scores; hides gossipsub's own, which would score nothing.
    pub fn subscribe(&mut self, topic: &IdentTopic) -> Result<bool, SubscriptionError> {
        self.follow(topic, None)
    }

    fn poll_alone(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<gossipsub::Event, THandlerInEvent<Gossipsub>>> {
        while self.slow.poll_tick(cx).is_ready() {
            self.touched = true;
        }
        if !self.touched {
            return Poll::Pending;
        }
        let event = self.inner.poll(&mut Context::from_waker(Waker::noop()));
        self.touched = event.is_ready();
        event
    }
}

impl Deref for Awake {
    type Target = Gossipsub;

    fn deref(&self) -> &Gossipsub {
        &self.inner
    }
}

impl DerefMut for Awake {
    fn deref_mut(&mut self) -> &mut Gossipsub {
        self.touched = true;
        &mut self.inner
    }
}

impl NetworkBehaviour for Awake {
    type ConnectionHandler = <Gossipsub as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = gossipsub::Event;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner.handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner.handle_pending_outbound_connection(id, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_outbound_connection(id, peer, addr, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.touched = true;
        match &event {
            FromSwarm::ConnectionEstablished(e) if e.other_established == 0 => self.peers += 1,
            FromSwarm::ConnectionClosed(e) if e.remaining_established == 0 => {
                self.peers = self.peers.saturating_sub(1);
            }
            _ => {}
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.touched = true;
        self.inner.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if self.peers == 0 {
            return self.poll_alone(cx);
        }
        match self.inner.poll(cx) {
            Poll::Pending => self.inner.poll(cx),
            ready => ready,
        }
    }
}
