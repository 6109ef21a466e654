//! Health and metrics for every role, on a port of its own: `/livez` (loops turn; never depends on the
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

type Look = Box<dyn Fn() -> bool + Send + Sync>;

/// One part of the process that can say how it is.
pub(crate) struct Part {
    /// Its name in answers.
    name: &'static str,
    /// Whether its loops turn.
    alive: Look,
    /// Whether it can take work.
    ready: Look,
}

impl Part {
    /// A part that is looked at by `alive` and `ready`; neither may wait.
    pub(crate) fn new(
        name: &'static str,
        alive: impl Fn() -> bool + Send + Sync + 'static,
        ready: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        Self { name, alive: Box::new(alive), ready: Box::new(ready) }
    }
}

/// What the admin port shows.
pub(crate) struct Admin {
    /// Every counter of the process.
    pub(crate) registry: Registry,
    /// The parts that run.
    pub(crate) parts: Vec<Part>,
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
    // A drain ends by itself in bounded time: a restart would only cut it off.
    let draining = admin.draining.is_cancelled();
    verdict(admin.parts.iter().filter(|p| !draining && !(p.alive)()).map(|p| p.name).collect())
}

async fn readyz(State(admin): State<Arc<Admin>>) -> Response {
    let mut waits: Vec<_> = admin.parts.iter().filter(|p| !(p.ready)()).map(|p| p.name).collect();
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    /// Two parts, whose first turns and is ready as the flags say.
    fn admin() -> (Arc<Admin>, Arc<AtomicBool>, Arc<AtomicBool>) {
        let (turns, ready) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(true)));
        let (t, r) = (turns.clone(), ready.clone());
        let parts = vec![
            Part::new("worker", move || t.load(Relaxed), move || r.load(Relaxed)),
            Part::new("gateway", || true, || true),
        ];
        let admin = Admin { registry: Registry::default(), parts, draining: CancellationToken::new() };
        (Arc::new(admin), turns, ready)
    }

    async fn text(response: Response) -> (u16, String) {
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 1024).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_loop_that_stands_still_makes_the_process_not_live_and_is_named() {
        let (admin, turns, ready) = admin();
        let live = || async { text(livez(State(admin.clone())).await).await };
        assert_eq!(live().await, (200, "ok\n".into()));
        turns.store(false, Relaxed);
        assert_eq!(live().await, (503, "not ok: worker\n".into()));
        turns.store(true, Relaxed);
        ready.store(false, Relaxed);
        assert_eq!(live().await.0, 200, "what is not ready is not ill");
    }

    #[tokio::test]
    async fn a_drain_is_not_ready_and_not_ill() {
        let (admin, turns, ready) = admin();
        assert_eq!(text(readyz(State(admin.clone())).await).await, (200, "ok\n".into()));
        ready.store(false, Relaxed);
        assert_eq!(text(readyz(State(admin.clone())).await).await, (503, "not ok: worker\n".into()));
        admin.draining.cancel();
        turns.store(false, Relaxed);
        assert_eq!(text(readyz(State(admin.clone())).await).await.1, "not ok: worker, draining\n");
        assert_eq!(text(livez(State(admin)).await).await.0, 200);
    }
}
