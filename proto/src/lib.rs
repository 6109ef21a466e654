//! The language: the public contract `plexus.v1`, the envelope `plexus.bus.v1`, and how its words
//! are spelled. Everything here is generated from the `.proto` files or follows from their comments;
//! nothing here does I/O.
//!
//! - [`v1`] public requests, answers and events; with feature `rpc` also the tonic services
//! - [`bus`] what travels between gateway and worker, and what the log holds
//! - [`reason`] the one table of errors
//! - [`spec`] what a node may be told to be; [`address`] multiaddrs as text
//! - [`placement`] which worker a node belongs to
//! - [`pin`] how pins of topics are marked and dated
//! - [`text`] how topics, positions and PeerIds are written

pub mod address;
pub mod pin;
pub mod placement;
pub mod reason;
pub mod spec;
pub mod text;

#[allow(missing_docs, unreachable_pub, clippy::all, rustdoc::all, reason = "generated")]
mod plexus {
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/plexus.v1.rs"));
    }
    pub mod bus {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/plexus.bus.v1.rs"));
        }
    }
}

pub use plexus::bus::v1 as bus;
pub use plexus::v1;

/// The encoded `FileDescriptorSet` of the contract, with imports and comments.
pub const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));
