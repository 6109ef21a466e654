//! Health and metrics for every role, on a port of its own: `/livez` (loops tick; never depends on the
//! bus), `/readyz` (the bus answers and nothing drains), `/metrics` (OpenMetrics text).

use anyhow::Context;
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::registry::Registry;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// One part of the process that can say how it is.
pub(crate) trait Part: Send + Sync {
    /// Its name in answers.
    fn name(&self) -> &'static str;
    /// Whether its loops tick.
    fn alive(&self) -> bool;
    /// Whether it can take work.
    fn ready(&self) -> bool;
}

/// What the admin port shows.
pub(crate) struct Admin {
    /// Every counter of the process.
    pub(crate) registry: Registry,
    /// The parts that run.
    pub(crate) parts: Vec<Box<dyn Part>>,
    /// Cancelled the moment a drain begins.
    pub(crate) draining: CancellationToken,
}

impl Admin {
    /// Serves until `stop`.
    pub(crate) async fn run(self, listen: String, stop: CancellationToken) -> anyhow::Result<()> {
        if listen.is_empty() {
            stop.cancelled().await;
            return Ok(());
        }
        let listener = TcpListener::bind(&listen).await.with_context(|| format!("admin.listen: {listen}"))?;
        tracing::info!(listen = %listener.local_addr()?, "health and metrics");
        let app = Router::new()
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(Arc::new(self));
        axum::serve(listener, app).with_graceful_shutdown(async move { stop.cancelled().await }).await?;
        Ok(())
    }
}

async fn livez(State(admin): State<Arc<Admin>>) -> Response {
    verdict(admin.parts.iter().filter(|p| !p.alive()).map(|p| p.name()).collect())
}

async fn readyz(State(admin): State<Arc<Admin>>) -> Response {
    let mut waits: Vec<_> = admin.parts.iter().filter(|p| !p.ready()).map(|p| p.name()).collect();
    if admin.draining.is_cancelled() {
        waits.push("draining");
    }
    verdict(waits)
}

fn verdict(bad: Vec<&'static str>) -> Response {
    if bad.is_empty() {
        (StatusCode::OK, "ok\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("not ok: {}\n", bad.join(", "))).into_response()
    }
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &admin.registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "metrics cannot be encoded");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
