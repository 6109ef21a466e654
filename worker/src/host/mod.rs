//! Place: which nodes live on this worker. The host holds the worker's lease, claims nodes, opens
//! their keys, runs each in a task of its own, and gives them back. It talks to the bus alone;
//! what a node does once it runs is in [`crate::node`].
//!
//! In reading order:
//! - `lease` the life of the lease: when to renew, when it is over (pure)
//! - `placement` which node to take (pure)
//! - `spread` which node to give to another worker (pure)
//! - `identity` and `material`: keys sealed at rest, made and imported
//! - `create` the making of a node, which any worker may do
//! - `card` what the worker says of itself
//! - `errands` every wait on the bus, so that the loop never waits
//! - `event_loop` the sole owner of all this; `control` is what it has to say about ownership,
//!   `nodes` what happens to each node, `fleet` what it has to do with other workers
//!
//! Whether gateways still live (protocol.md P23) is asked by each node itself, which alone knows
//! whose interest it serves; the host does not ask on its behalf.

mod card;
mod create;
mod errands;
mod event_loop;
mod identity;
mod lease;
mod material;
mod placement;
mod spread;

pub(crate) use event_loop::{EventLoop, Probes, Spawn};
pub(crate) use identity::Seal;
