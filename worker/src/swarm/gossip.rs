//! Gossipsub kept awake, set to hold our promises, with ids known before they are used.
//!
//! [`build`] makes one behaviour per node. [`Awake`] is gossipsub with a heartbeat that does not fall
//! asleep and rests while there are no peers. [`Ids`] belongs to the node loop, which reserves the id
//! of a message, puts it in the log, and only then publishes.

use super::{Plan, duration, preset};
use crate::Error;
use arc_swap::ArcSwap;
use bytes::Bytes;
use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    gossipsub::{
        self, AllowAllSubscriptionFilter, ConfigBuilder, IdentTopic, IdentityTransform,
        MaxCountSubscriptionFilter, MessageAuthenticity, MessageId, PeerScoreParams, PeerScoreThresholds,
        SubscriptionError, TopicHash, TopicScoreParams, ValidationMode, Version, score_parameter_decay,
    },
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
    },
};
use plexus_bus::Topic;
use plexus_proto::v1::{
    self,
    node_spec::{self, gossip::SignPolicy},
    topic_policy::Preset,
};
use std::{
    collections::HashMap,
    ops::{Deref, DerefMut},
    sync::{Arc, OnceLock},
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::time::{Interval, MissedTickBehavior};

/// Room for what is around a payload. The crate compares its read buffer, which runs up to 8 KiB
/// ahead, with the limit (interop.md D.0).
const FRAME_BYTES: usize = 64 << 10;
/// The crate's 16 KiB stops gossip on busy topics.
const CONTROL_BYTES_MAX: usize = 1 << 20;
/// Topics taken from one peer; the crate's 100 makes a peer with 101 invisible.
const PEER_TOPICS_MAX: usize = 1024;
/// As go and js, so that late copies are still known.
const DUPLICATES_KEPT: Duration = Duration::from_secs(120);
/// Heartbeats that messages can be asked for; late requests miss at the crate's 5.
const HISTORY_LEN: usize = 10;
/// Messages that may wait for one peer.
const QUEUE_LEN_MAX: usize = 1024;
/// The heartbeat of a node without peers.
const ALONE_HEARTBEAT: Duration = Duration::from_secs(5);
/// The topic of the publish that tells the first sequence number. Nobody follows it.
const PRIMING_TOPIC: &str = "";

/// Gossipsub with our filter of subscriptions.
pub type Gossipsub =
    gossipsub::Behaviour<IdentityTransform, MaxCountSubscriptionFilter<AllowAllSubscriptionFilter>>;

/// Writes a topic as gossipsub has it; none if it is no UTF-8, which the crate cannot carry.
pub fn topic(topic: &[u8]) -> Option<IdentTopic> {
    std::str::from_utf8(topic).ok().map(IdentTopic::new)
}

/// Answers the largest payload that a node takes.
pub fn message_bytes_max(spec: &v1::NodeSpec, config: &crate::config::Node) -> usize {
    let gossip = spec.gossip.unwrap_or_default();
    let asked = usize::try_from(gossip.message_bytes_max).ok().filter(|asked| *asked > 0);
    let most = asked.or(preset::message_bytes_max(gossip.preset())).unwrap_or(config.message_bytes_max);
    most.min(config.message_bytes_max)
}

pub(super) fn build(plan: &Plan<'_>) -> Result<(Awake, Ids), Error> {
    let spec = plan.spec.gossip.unwrap_or_default();
    let shared = Arc::new(Shared { default: spec.preset(), ..Shared::default() });
    let config = config(plan, &spec, Arc::clone(&shared))?;
    let heartbeat = config.heartbeat_interval();
    let policy = sign_policy(&spec);
    let author = match policy {
        SignPolicy::StrictNoSign => MessageAuthenticity::Anonymous,
        _ => MessageAuthenticity::Signed(plan.key.clone()),
    };
    let filter = MaxCountSubscriptionFilter {
        filter: AllowAllSubscriptionFilter {},
        max_subscribed_topics: PEER_TOPICS_MAX,
        max_subscriptions_per_request: PEER_TOPICS_MAX,
    };
    let mut gossip = Gossipsub::new_with_subscription_filter(author, config, filter).map_err(failed)?;
    if spec.scoring.unwrap_or(true) {
        gossip.with_peer_score(peer_score(plan.allow_private), thresholds()).map_err(failed)?;
    }
    // Fails for want of peers, after the id function has seen the first number.
    let _ = gossip.publish(TopicHash::from_raw(PRIMING_TOPIC), Vec::new());
    let author = (policy != SignPolicy::StrictNoSign).then(|| plan.key.public().to_peer_id());
    let last = shared.primed.get().copied().flatten();
    Ok((Awake::new(gossip, heartbeat), Ids { shared, author, last }))
}

fn failed(e: impl std::fmt::Display) -> Error {
    Error::Swarm(format!("gossipsub: {e}"))
}

fn sign_policy(spec: &node_spec::Gossip) -> SignPolicy {
    match spec.sign_policy() {
        SignPolicy::Unspecified => preset::sign_policy(spec.preset()),
        asked => asked,
    }
}

fn config(plan: &Plan<'_>, spec: &node_spec::Gossip, ids: Arc<Shared>) -> Result<gossipsub::Config, Error> {
    let mode = match sign_policy(spec) {
        SignPolicy::StrictNoSign => ValidationMode::Anonymous,
        SignPolicy::Lax => ValidationMode::Permissive,
        _ => ValidationMode::Strict,
    };
    let heartbeat = duration(spec.heartbeat_interval).or(preset::heartbeat(spec.preset()));
    let mut builder = ConfigBuilder::default();
    builder
        .max_transmit_size(message_bytes_max(plan.spec, plan.config) + FRAME_BYTES)
        .max_control_message_size(CONTROL_BYTES_MAX)
        .heartbeat_initial_delay(Duration::from_millis(100))
        .heartbeat_interval(
            heartbeat
                .unwrap_or(plan.config.heartbeat_interval)
                .clamp(Duration::from_millis(100), Duration::from_secs(10)),
        )
        .duplicate_cache_time(DUPLICATES_KEPT)
        .history_length(HISTORY_LEN)
        .connection_handler_queue_len(QUEUE_LEN_MAX)
        .flood_publish(spec.flood_publish.unwrap_or(true))
        .validate_messages()
        .validation_mode(mode)
        .message_id_fn(move |message| ids.see(message));
    mesh(&mut builder, &spec.mesh.unwrap_or_default())?;
    if let Some(protocol) = preset::protocol(spec.preset()) {
        builder.protocol_id(protocol, Version::V1_1);
    }
    if plan.protocols().floodsub.unwrap_or(false) {
        builder.support_floodsub();
    }
    builder.build().map_err(failed)
}

/// Sets the degrees. The crate checks them only for topics that are configured apart.
fn mesh(builder: &mut ConfigBuilder, mesh: &node_spec::gossip::Mesh) -> Result<(), Error> {
    let or = |asked: u32, default: usize| match usize::try_from(asked) {
        Ok(asked) if asked > 0 => asked,
        _ => default,
    };
    let d = or(mesh.d, 6);
    let (low, high) = (or(mesh.d_low, d.min(5)), or(mesh.d_high, d.max(12)));
    if low > d || d > high {
        return Err(failed("degrees of the mesh must be d_low ≤ d ≤ d_high"));
    }
    let outbound = (d / 2).min(low.saturating_sub(1)).min(2);
    builder
        .mesh_n(d)
        .mesh_n_low(low)
        .mesh_n_high(high)
        .mesh_outbound_min(outbound)
        .gossip_lazy(or(mesh.d_lazy, 6));
    Ok(())
}

/// The published thresholds.
fn thresholds() -> PeerScoreThresholds {
    PeerScoreThresholds {
        gossip_threshold: -10.0,
        publish_threshold: -50.0,
        graylist_threshold: -80.0,
        accept_px_threshold: 100.0,
        opportunistic_graft_threshold: 1.0,
    }
}

/// Scores of peers over all topics. Where private addresses are allowed many peers share one address
/// by nature, so sharing one is no fault there.
fn peer_score(allow_private: bool) -> PeerScoreParams {
    PeerScoreParams {
        topic_score_cap: 50.0,
        ip_colocation_factor_weight: if allow_private { 0.0 } else { -5.0 },
        behaviour_penalty_weight: -10.0,
        behaviour_penalty_threshold: 6.0,
        behaviour_penalty_decay: score_parameter_decay(Duration::from_secs(60)),
        ..PeerScoreParams::default()
    }
}

/// Scores of peers on a topic. The crate's defaults punish mesh peers of quiet topics and forgive
/// invalid messages for time spent in the mesh; these do neither. Three invalid messages within
/// minutes are below the graylist.
fn topic_score(asked: Option<&v1::ScoreParams>) -> TopicScoreParams {
    let or =
        |value: Option<f64>, default: f64| value.filter(|v| v.is_finite() && *v != 0.0).unwrap_or(default);
    TopicScoreParams {
        topic_weight: or(asked.map(|a| a.topic_weight), 1.0).max(0.0),
        time_in_mesh_weight: 0.01,
        time_in_mesh_quantum: Duration::from_secs(1),
        time_in_mesh_cap: 300.0,
        first_message_deliveries_weight: or(asked.map(|a| a.first_message_deliveries_weight), 0.5).max(0.0),
        first_message_deliveries_decay: score_parameter_decay(Duration::from_secs(60)),
        first_message_deliveries_cap: 20.0,
        mesh_message_deliveries_weight: or(asked.map(|a| a.mesh_message_deliveries_weight), 0.0).min(0.0),
        mesh_failure_penalty_weight: 0.0,
        invalid_message_deliveries_weight: or(asked.map(|a| a.invalid_message_deliveries_weight), -20.0)
            .min(0.0),
        invalid_message_deliveries_decay: score_parameter_decay(Duration::from_secs(600)),
        ..TopicScoreParams::default()
    }
}

/// What the id function and [`Ids`] both see.
#[derive(Default)]
struct Shared {
    default: Preset,
    presets: ArcSwap<HashMap<TopicHash, Preset>>,
    /// Number of the priming publish, the first that the id function ever saw.
    primed: OnceLock<Option<u64>>,
}

impl Shared {
    fn see(&self, message: &gossipsub::Message) -> MessageId {
        let seqno = message.sequence_number;
        self.primed.get_or_init(|| seqno);
        let preset = self.preset(&message.topic);
        preset::message_id(preset, message.source.as_ref(), seqno, message.topic.as_str(), &message.data)
            .into()
    }

    fn preset(&self, topic: &TopicHash) -> Preset {
        self.presets.load().get(topic).copied().unwrap_or(self.default)
    }
}

/// Knows the sequence number and the id of the next message before it is published.
///
/// The crate begins at the wall clock in nanoseconds and counts each publish that passes its size
/// check, also a failed one. So each [`reserve`](Self::reserve) must be followed by one publish, in
/// the same order, of a payload within the limit.
pub struct Ids {
    shared: Arc<Shared>,
    author: Option<PeerId>,
    last: Option<u64>,
}

impl Ids {
    /// The ids of a node without gossipsub.
    pub(super) fn off() -> Self {
        Self { shared: Arc::default(), author: None, last: None }
    }

    /// Answers the sequence number and the id of the next publish. Without signatures there is no
    /// number.
    pub fn reserve(&mut self, topic: &Topic, data: &[u8]) -> (Option<u64>, Bytes) {
        self.last = self.last.map(|last| last + 1);
        let topic = String::from_utf8_lossy(topic);
        let preset = self.shared.preset(&TopicHash::from_raw(topic.as_ref()));
        (self.last, preset::message_id(preset, self.author.as_ref(), self.last, &topic, data).into())
    }

    /// Answers the last number that was used; 0 without signatures. It goes into `NodeState.seqno`.
    pub fn last(&self) -> u64 {
        self.last.unwrap_or(0)
    }

    /// Answers how far the clock of this worker is behind the last number that a former owner logged.
    /// Peers that check numbers ignore what is not above it: build the swarm again when that time has
    /// passed, and over 30 s publish nothing and say so.
    pub fn behind(&self, floor: u64) -> Option<Duration> {
        let last = self.last?;
        (last <= floor).then(|| Duration::from_nanos(floor - last))
    }

    /// Sets how ids on a topic are made; unspecified: as the node's.
    pub fn set_preset(&mut self, topic: &Topic, preset: Preset) {
        let topic = TopicHash::from_raw(String::from_utf8_lossy(topic));
        let mut presets = HashMap::clone(&self.shared.presets.load());
        match preset {
            Preset::Unspecified => presets.remove(&topic),
            other => presets.insert(topic, other),
        };
        self.shared.presets.store(Arc::new(presets));
    }
}

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
    fn new(inner: Gossipsub, heartbeat: Duration) -> Self {
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
