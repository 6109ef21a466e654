//! Logs, OTLP traces and the one metrics registry.

use crate::config::{Config, LogFormat, Role};
use anyhow::Context;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracerProvider},
};
use tracing::Level;
use tracing_subscriber::{EnvFilter, Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

/// What must be flushed at the end.
pub(crate) struct Telemetry {
    traces: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Begins to log and trace.
    pub(crate) fn start(config: &Config, role: Role) -> anyhow::Result<Self> {
        let filter =
            EnvFilter::try_new(&config.log).with_context(|| format!("log: {:?} is no filter", config.log))?;
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
        Ok(Self { traces })
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
            .build()
            .with_context(|| format!("telemetry.otlp_endpoint: {:?}", telemetry.otlp_endpoint))?;
        let ratio = Sampler::TraceIdRatioBased(telemetry.sample_ratio.unwrap_or(1.0));
        let resource = Resource::builder()
            .with_service_name(format!("plexus-{}", role.as_str()))
            .with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(Sampler::ParentBased(Box::new(ratio)))
            .with_resource(resource)
            .build();
        Ok(Some(provider))
    }

    /// Sends what is left.
    pub(crate) fn flush(self) {
        if let Some(traces) = self.traces
            && let Err(error) = traces.shutdown_with_timeout(std::time::Duration::from_secs(3))
        {
            tracing::debug!(%error, "traces were not flushed");
        }
    }
}
