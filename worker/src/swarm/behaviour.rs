//! The protocols a node speaks, in one behaviour. What the spec leaves out is a `Toggle` that is off
//! and costs nothing.

use super::{Plan, blocks, duration, gossip, guard::Guard, probe};
use crate::Error;
use libp2p::{
    StreamProtocol,
    connection_limits::{self, ConnectionLimits},
    gossipsub, identify,
    kad::{
        self,
        store::{MemoryStore, MemoryStoreConfig},
    },
    ping,
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
};
use plexus_proto::v1::node_spec::{self, kad::Mode};
use std::{convert::Infallible, num::NonZeroUsize, time::Duration};

/// Largest packet of Kademlia. Other implementations send more than the 16 KiB of the crate's
/// default (interop.md D.2).
const KAD_PACKET_BYTES_MAX: usize = 1 << 20;
/// What Kademlia keeps for others. The largest IPNS record has 10 KiB.
const KAD_STORE: MemoryStoreConfig = MemoryStoreConfig {
    max_records: 1024,
    max_value_bytes: 10 << 10,
    max_providers_per_key: 20,
    max_provided_keys: 1024,
};

/// What a node speaks.
#[derive(NetworkBehaviour)]
#[behaviour(prelude = "libp2p::swarm::derive_prelude", to_swarm = "BehaviourEvent")]
pub struct Behaviour {
    /// Bounds of connections.
    pub limits: connection_limits::Behaviour,
    /// Who is kept out, and the guard.
    pub blocks: blocks::Behaviour,
    /// Topics.
    pub gossip: Toggle<gossip::Awake>,
    /// Who we are, who they are.
    pub identify: Toggle<identify::Behaviour>,
    /// Whether they are there.
    pub ping: Toggle<ping::Behaviour>,
    /// Finding peers and records.
    pub kad: Toggle<kad::Behaviour<MemoryStore>>,
    /// Questions to one peer, at the moment they are asked.
    pub probe: probe::Behaviour,
}

/// What the protocols tell.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "moved once, from the swarm to the loop")]
pub enum BehaviourEvent {
    /// A message, a subscription, or a peer that is too slow.
    Gossip(gossipsub::Event),
    /// Who a peer is.
    Identify(identify::Event),
    /// A round trip, or none.
    Ping(ping::Event),
    /// Progress of a query, or of the routing table.
    Kad(kad::Event),
    /// The end of a question.
    Probe(probe::Event),
}

impl From<probe::Event> for BehaviourEvent {
    fn from(event: probe::Event) -> Self {
        Self::Probe(event)
    }
}

impl From<gossipsub::Event> for BehaviourEvent {
    fn from(event: gossipsub::Event) -> Self {
        Self::Gossip(event)
    }
}

impl From<identify::Event> for BehaviourEvent {
    fn from(event: identify::Event) -> Self {
        Self::Identify(event)
    }
}

impl From<ping::Event> for BehaviourEvent {
    fn from(event: ping::Event) -> Self {
        Self::Ping(event)
    }
}

impl From<kad::Event> for BehaviourEvent {
    fn from(event: kad::Event) -> Self {
        Self::Kad(event)
    }
}

impl From<Infallible> for BehaviourEvent {
    fn from(event: Infallible) -> Self {
        match event {}
    }
}

pub(super) fn build(
    plan: &Plan<'_>,
    guard: Guard,
    blocks: blocks::List,
) -> Result<(Behaviour, gossip::Ids), Error> {
    let protocols = plan.protocols();
    let (gossip, ids) = match protocols.gossipsub.unwrap_or(true) {
        true => gossip::build(plan).map(|(gossip, ids)| (Some(gossip), ids))?,
        false => (None, gossip::Ids::off()),
    };
    let behaviour = Behaviour {
        limits: connection_limits::Behaviour::new(limits(plan)),
        blocks: blocks::Behaviour::new(blocks, guard),
        gossip: gossip.into(),
        identify: protocols.identify.unwrap_or(true).then(|| identify(plan)).into(),
        ping: protocols.ping.unwrap_or(true).then(|| ping::Behaviour::new(ping())).into(),
        kad: kad(plan)?.into(),
        probe: probe::Behaviour::default(),
    };
    Ok((behaviour, ids))
}

/// A spec only narrows what the worker allows.
fn limits(plan: &Plan<'_>) -> ConnectionLimits {
    let narrow = |asked: u32, most: u32| Some(if asked == 0 { most } else { asked.min(most) });
    let (spec, config) = (plan.limits(), plan.config);
    ConnectionLimits::default()
        .with_max_established(narrow(spec.connections_max, config.connections_max))
        .with_max_established_per_peer(narrow(spec.connections_per_peer_max, config.connections_per_peer_max))
        .with_max_pending_incoming(narrow(spec.pending_incoming_max, config.pending_incoming_max))
        .with_max_pending_outgoing(narrow(spec.pending_outgoing_max, config.pending_outgoing_max))
}

fn identify(plan: &Plan<'_>) -> identify::Behaviour {
    let agent = match plan.spec.agent_version.as_str() {
        "" => concat!("plexus/", env!("CARGO_PKG_VERSION")).to_owned(),
        named => named.to_owned(),
    };
    let config = identify::Config::new("ipfs/0.1.0".to_owned(), plan.key.public())
        .with_agent_version(agent)
        .with_push_listen_addr_updates(true)
        .with_hide_listen_addrs(!plan.spec.announce_addresses.is_empty());
    identify::Behaviour::new(config)
}

fn ping() -> ping::Config {
    ping::Config::new().with_interval(Duration::from_secs(15)).with_timeout(Duration::from_secs(20))
}

fn kad(plan: &Plan<'_>) -> Result<Option<kad::Behaviour<MemoryStore>>, Error> {
    let spec = plan.spec.kad.clone().unwrap_or_default();
    let mode = match spec.mode() {
        Mode::Unspecified | Mode::Off => return Ok(None),
        Mode::Client => Some(kad::Mode::Client),
        Mode::Server => Some(kad::Mode::Server),
        Mode::Auto => None,
    };
    let id = plan.key.public().to_peer_id();
    let mut kad =
        kad::Behaviour::with_config(id, MemoryStore::with_config(id, KAD_STORE), kad_config(&spec)?);
    kad.set_mode(mode);
    Ok(Some(kad))
}

fn kad_config(spec: &node_spec::Kad) -> Result<kad::Config, Error> {
    let name = match spec.protocols.as_slice() {
        [] => "/ipfs/kad/1.0.0".to_owned(),
        [name] => name.clone(),
        _ => return Err(Error::Swarm("a node speaks one Kademlia protocol".to_owned())),
    };
    let name =
        StreamProtocol::try_from_owned(name).map_err(|e| Error::Swarm(format!("Kademlia protocol: {e}")))?;
    let count = |asked: u32, default: usize| {
        let asked = usize::try_from(asked).ok().and_then(NonZeroUsize::new);
        asked.or(NonZeroUsize::new(default)).unwrap_or(NonZeroUsize::MIN)
    };
    let mut config = kad::Config::new(name);
    config
        .set_max_packet_size(KAD_PACKET_BYTES_MAX)
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .disjoint_query_paths(true)
        .set_replication_factor(count(spec.replication, 20))
        .set_parallelism(count(spec.parallelism, 10))
        .set_query_timeout(duration(spec.query_timeout).unwrap_or(Duration::from_secs(60)))
        .set_record_ttl(Some(duration(spec.record_ttl).unwrap_or(Duration::from_secs(48 * 3600))));
    let republish = duration(spec.republish_interval).unwrap_or(Duration::from_secs(22 * 3600));
    config.set_publication_interval(Some(republish)).set_provider_publication_interval(Some(republish));
    Ok(config)
}
