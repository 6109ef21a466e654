//! Logs, OTLP traces and the one metrics registry.

use crate::config::{Config, LogFormat, Role};
use anyhow::Context;
use opentelemetry::{KeyValue, trace::TracerProvider};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider},
};
use std::time::Duration;
use tracing::Level;
use tracing_subscriber::{EnvFilter, Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

/// Spans sent at once.
const BATCH_MAX: usize = 512;

/// Reads what is to be logged.
pub(crate) fn filter(directives: &str) -> anyhow::Result<EnvFilter> {
    // The library of HTTP/2 has a line for every attacker; who names it in the filter sees them.
    let quiet = format!("h2=error,{directives}");
    let all = if directives.is_empty() { directives } else { &quiet };
    EnvFilter::try_new(all).with_context(|| format!("log: {directives:?} is no filter"))
}

/// What must be flushed at the end.
pub(crate) struct Telemetry {
    traces: Option<SdkTracerProvider>,
    timeout: Duration,
}

impl Telemetry {
    /// Begins to log and trace.
    pub(crate) fn start(config: &Config, role: Role) -> anyhow::Result<Self> {
        let filter = filter(&config.log)?;
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        let lines = match config.log_format {
            LogFormat::Text => {
                let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
                lines.with_ansi(colours).with_target(false).boxed()
            }
            LogFormat::Json => lines.json().flatten_event(true).boxed(),
        };
        let traces = Self::traces(config, role)?;
        // Our own spans, whatever is logged; not those of libp2p, which are one a poll.
        let ours =
            ["plexus", "plexus_bus", "plexus_gateway", "plexus_worker"].map(|name| (name, Level::DEBUG));
        let spans = traces.as_ref().map(|traces| {
            tracing_opentelemetry::layer()
                .with_tracer(traces.tracer("plexus"))
                .with_filter(Targets::new().with_targets(ours))
        });
        tracing_subscriber::registry().with(lines.with_filter(filter)).with(spans).try_init()?;
        Ok(Self { traces, timeout: config.telemetry.send_timeout })
    }

    fn traces(config: &Config, role: Role) -> anyhow::Result<Option<SdkTracerProvider>> {
        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
        let telemetry = &config.telemetry;
        if telemetry.otlp_endpoint.is_empty() {
            return Ok(None);
        }
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(&telemetry.otlp_endpoint)
            .with_timeout(telemetry.send_timeout)
            .build()
            .with_context(|| format!("telemetry.otlp_endpoint: {:?}", telemetry.otlp_endpoint))?;
        let ratio = Sampler::TraceIdRatioBased(telemetry.sample_ratio);
        // What a collector does not take in time is dropped: traces never hold up the work.
        let batch = BatchConfigBuilder::default()
            .with_max_queue_size(telemetry.spans_max)
            .with_max_export_batch_size(BATCH_MAX.min(telemetry.spans_max))
            .with_scheduled_delay(telemetry.send_interval)
            .build();
        let batches = BatchSpanProcessor::builder(exporter).with_batch_config(batch).build();
        let resource = Resource::builder()
            .with_service_name(format!("plexus-{}", role.as_str()))
            .with_attribute(KeyValue::new("service.namespace", "plexus"))
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("service.instance.id", instance(config)))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(batches)
            .with_sampler(Sampler::ParentBased(Box::new(ratio)))
            .with_resource(resource)
            .build();
        Ok(Some(provider))
    }

    /// Sends what is left, within [`crate::config::Telemetry::send_timeout`].
    pub(crate) async fn flush(self) {
        let Self { traces: Some(traces), timeout } = self else { return };
        // Waits for the thread that sends, whose connection lives on this runtime.
        let flushed = tokio::task::spawn_blocking(move || traces.shutdown_with_timeout(timeout)).await;
        if let Ok(Err(error)) = flushed {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

/// The name of this process among its like: the worker's id, else the host's name, and the process id.
fn instance(config: &Config) -> String {
    let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = if config.worker.id.is_empty() { host() } else { config.worker.id.clone() };
    format!("{}.{}", name.trim(), std::process::id())
}
