//! Owns what TLS is made of, and looks from time to time whether the files hold something else. What
//! cannot be used is told once and changes nothing: a certificate and its key are rarely replaced at once.

use super::Files;
use crate::{
    config,
    metrics::{ByReload, Metrics, Reload},
};
use rustls::ServerConfig;
use std::sync::Arc;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Interval, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

/// The loop.
pub(crate) struct EventLoop {
    /// Where the files are.
    config: config::Tls,
    /// What new connections get.
    current: watch::Sender<Arc<ServerConfig>>,
    /// The files that were looked at last; none where they could not be read.
    seen: Option<[u8; 32]>,
    /// The look under way, one at most.
    work: JoinSet<Look>,
    clock: Interval,
    /// What is counted.
    metrics: Metrics,
}

/// What one look at the files gave.
type Look = Result<Option<Files>, String>;

enum Input {
    Tick,
    Read(Look),
}

impl EventLoop {
    pub(super) fn new(
        config: config::Tls,
        current: watch::Sender<Arc<ServerConfig>>,
        seen: [u8; 32],
        metrics: Metrics,
    ) -> Self {
        let mut clock = tokio::time::interval(config.reload_interval);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { config, current, seen: Some(seen), work: JoinSet::new(), clock, metrics }
    }

    /// Looks until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        while let Some(input) = self.next(&stop).await {
            self.apply(input);
        }
    }

    async fn next(&mut self, stop: &CancellationToken) -> Option<Input> {
        tokio::select! {
            () = stop.cancelled() => None,
            Some(look) = self.work.join_next() => Some(Input::Read(look.expect("a look does not panic"))),
            _ = self.clock.tick() => Some(Input::Tick),
        }
    }

    fn apply(&mut self, input: Input) {
        match input {
            Input::Tick if self.work.is_empty() => {
                let config = self.config.clone();
                self.work.spawn_blocking(move || Files::read(&config));
            }
            Input::Tick | Input::Read(Ok(None)) => {}
            Input::Read(Ok(Some(files))) => self.take(&files),
            Input::Read(Err(error)) => {
                // Told when it begins, not at every look.
                if self.seen.take().is_some() {
                    self.refuse(&error);
                }
            }
        }
    }

    fn take(&mut self, files: &Files) {
        if self.seen == Some(files.digest) {
            return;
        }
        self.seen = Some(files.digest);
        match files.server(self.config.client_certificates) {
            Ok(server) => {
                self.current.send_replace(server);
                self.metrics.certificates.get_or_create(&ByReload { outcome: Reload::Taken }).inc();
                tracing::info!("new connections get the changed certificate");
            }
            Err(error) => self.refuse(&error),
        }
    }

    fn refuse(&self, error: &str) {
        self.metrics.certificates.get_or_create(&ByReload { outcome: Reload::Refused }).inc();
        tracing::warn!(error, "the changed certificate cannot be used, the one before still holds");
    }
}
