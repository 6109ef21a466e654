//! The gateway: clients on one port, every dialect, the same services behind. It names no libp2p.
//!
//! The life of a call: [`edge`] turns words of any dialect into one gRPC request in memory, a service
//! ([`service`]) checks what it means, the [`router`] sends it over the bus and waits, and the answer
//! goes back the same way; streams come back as [`frame`]s that are encoded once for all readers.

pub mod caller;
pub mod config;
pub mod edge;
pub mod error;
pub mod frame;
pub mod metrics;
pub mod router;
pub mod service;
