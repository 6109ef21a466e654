//! libp2p assembled: an identity, a spec and a config become a `Swarm`.
//!
//! The node loop calls [`build`] once per start, owns what comes back and is the only one to poll it.
//! In reading order: [`behaviour`] is what we speak, [`gossip`] keeps gossipsub awake and knows the
//! next message id before it is used, [`preset`] the known agreements on ids, [`transport`] how bytes
//! travel, [`guard`] where no dial may go, [`blocks`] who is kept out, `recorder` what is counted of it.
//!
//! Nothing here waits, logs on behalf of a caller, or knows of the bus.

pub mod behaviour;
pub mod blocks;
pub mod gossip;
pub mod guard;
mod names;
pub mod preset;
pub mod probe;
mod ranges;
mod recorder;
mod security;
mod snappy;
mod transport;

pub use behaviour::{Behaviour, BehaviourEvent};
pub use recorder::Counters;
pub(crate) use recorder::Recorder;

use crate::{Error, Metrics, config};
use guard::Guard;
use libp2p::{Swarm, identity::Keypair, swarm};
use plexus_proto::v1::{self, node_spec};
use std::time::Duration;

/// What a swarm is built from.
pub struct Plan<'a> {
    /// Who the node is.
    pub key: &'a Keypair,
    /// What it shall be.
    pub spec: &'a v1::NodeSpec,
    /// Who is kept out from the first moment on.
    pub blocks: &'a [v1::BlockEntry],
    /// Bounds and defaults.
    pub config: &'a config::Node,
    /// Development: lets it dial loopback and private ranges, any port, and the memory transport.
    pub allow_private: bool,
    /// Counts refused dials.
    pub metrics: &'a Metrics,
}

impl Plan<'_> {
    fn protocols(&self) -> node_spec::Protocols {
        self.spec.protocols.clone().unwrap_or_default()
    }

    fn limits(&self) -> node_spec::Limits {
        self.spec.limits.unwrap_or_default()
    }

    fn dial_timeout(&self) -> Duration {
        let asked = self.spec.dial.as_ref().and_then(|dial| dial.timeout);
        duration(asked)
            .unwrap_or(self.config.dial_timeout)
            .clamp(Duration::from_secs(1), Duration::from_secs(60))
    }
}

/// Builds a swarm that neither listens nor dials yet, and the ids of what it will publish. Call it
/// within a tokio runtime.
pub fn build(plan: &Plan<'_>) -> Result<(Swarm<Behaviour>, gossip::Ids), Error> {
    if plan.spec.private_network.is_some() {
        return Err(Error::Swarm("private networks are not supported".to_owned()));
    }
    let blocks = blocks::List::new(plan.blocks)?;
    let guard = Guard::new(plan.spec.dial.as_ref(), plan.allow_private, blocks.clone())?;
    let transport = transport::build(plan, &guard)?;
    let (behaviour, ids) = behaviour::build(plan, guard, blocks)?;
    let idle = duration(plan.limits().idle_timeout).unwrap_or(plan.config.idle_timeout);
    let config = swarm::Config::with_tokio_executor().with_idle_connection_timeout(idle);
    Ok((Swarm::new(transport, behaviour, plan.key.public().to_peer_id(), config), ids))
}

/// Reads a duration; none, negative and zero ones are absent.
fn duration(asked: Option<prost_types::Duration>) -> Option<Duration> {
    asked.and_then(|asked| Duration::try_from(asked).ok()).filter(|asked| !asked.is_zero())
}

#[cfg(test)]
mod tests;
