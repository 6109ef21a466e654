//! Gossipsub kept awake, set to hold our promises, with ids known before they are used.
//!
//! [`build`] makes one behaviour per node. [`Awake`] is gossipsub with a heartbeat that does not fall
//! asleep and rests while there are no peers. [`Ids`] belongs to the node loop, which reserves the id
//! of a message, puts it in the log, and only then publishes.

mod awake;
mod ids;
mod score;

pub use awake::Awake;
pub use ids::Ids;

use super::{Plan, duration, preset};
use crate::Error;
use ids::Shared;
use libp2p::gossipsub::{
    self, ConfigBuilder, IdentTopic, IdentityTransform, MaxCountSubscriptionFilter, MessageAuthenticity,
    TopicHash, TopicSubscriptionFilter, ValidationMode, Version,
};
use plexus_proto::{
    text::TOPIC_BYTES_MAX,
    v1::node_spec::{self, gossip::SignPolicy},
};
use std::{sync::Arc, time::Duration};

/// Room for what is around a payload. Smaller limits of a spec or a preset are the node's to hold, so
/// that every publish passes the crate's check and uses the number that was reserved. The crate compares its read buffer, which runs up to 8 KiB
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
/// The topic of the publish that tells the first sequence number. Nobody follows it.
const PRIMING_TOPIC: &str = "";

/// Gossipsub with our filter of subscriptions.
pub type Gossipsub = gossipsub::Behaviour<IdentityTransform, MaxCountSubscriptionFilter<Nameable>>;

/// Writes a topic as gossipsub has it; none if it is no UTF-8, which the crate cannot carry.
pub fn topic(topic: &[u8]) -> Option<IdentTopic> {
    std::str::from_utf8(topic).ok().map(IdentTopic::new)
}

/// Takes any topic that can be one of ours: 1 to 1024 bytes. Longer names would let a peer fill memory,
/// and the empty one is where publishes go that shall reach nobody.
#[derive(Default)]
pub struct Nameable;

impl TopicSubscriptionFilter for Nameable {
    fn can_subscribe(&mut self, topic: &TopicHash) -> bool {
        (1..=TOPIC_BYTES_MAX).contains(&topic.as_str().len())
    }
}

pub(super) fn build(plan: &Plan<'_>) -> Result<(Awake, Ids), Error> {
    let spec = plan.spec.gossip.unwrap_or_default();
    let shared = Arc::new(Shared::new(spec.preset()));
    let config = config(plan, &spec, Arc::clone(&shared))?;
    let heartbeat = config.heartbeat_interval();
    let policy = sign_policy(&spec);
    let author = match policy {
        SignPolicy::StrictNoSign => MessageAuthenticity::Anonymous,
        _ => MessageAuthenticity::Signed(plan.key.clone()),
    };
    let filter = MaxCountSubscriptionFilter {
        filter: Nameable,
        max_subscribed_topics: PEER_TOPICS_MAX,
        max_subscriptions_per_request: PEER_TOPICS_MAX,
    };
    let mut gossip = Gossipsub::new_with_subscription_filter(author, config, filter).map_err(failed)?;
    if spec.scoring.unwrap_or(true) {
        gossip.with_peer_score(score::peer(plan.allow_private), score::thresholds()).map_err(failed)?;
    }
    // Fails for want of peers, after the id function has seen the first number.
    let _ = gossip.publish(TopicHash::from_raw(PRIMING_TOPIC), Vec::new());
    let author = (policy != SignPolicy::StrictNoSign).then(|| plan.key.public().to_peer_id());
    Ok((Awake::new(gossip, heartbeat), Ids::new(shared, author)))
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
        .max_transmit_size(plan.config.message_bytes_max + FRAME_BYTES)
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
