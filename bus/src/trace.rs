//! The trace that a call belongs to, as it rides in envelopes and log entries: W3C Trace Context
//! (<https://www.w3.org/TR/trace-context/>). Without an exporter the caller's own words pass through
//! unchanged, so that a client's trace reaches the log entry either way.

use opentelemetry::{global, propagation::Extractor, propagation::Injector, trace::TraceContextExt};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Longest `traceparent` and `tracestate` that are carried; longer ones are dropped as if absent.
const BYTES_MAX: usize = 512;

/// A trace context in its text form; empty: none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// `00-<trace>-<span>-<flags>`.
    pub parent: String,
    /// The vendors' part.
    pub state: String,
}

impl Trace {
    /// Takes what a client or the other side sent; what is malformed counts as absent.
    pub fn new(parent: &str, state: &str) -> Self {
        if !is_parent(parent) {
            return Self::default();
        }
        let state = if state.len() <= BYTES_MAX && state.is_ascii() { state } else { "" };
        Self { parent: parent.to_owned(), state: state.to_owned() }
    }

    /// Makes `span` a child of this trace, and answers the context to send on: the span's own where it
    /// is recorded, else this one.
    #[must_use]
    pub fn enter(self, span: &Span) -> Self {
        if span.is_disabled() {
            return self;
        }
        if !self.parent.is_empty() {
            let context = global::get_text_map_propagator(|p| p.extract(&self));
            // Fails only where no tracing layer takes it; then there is nothing to be a child of.
            let _ = span.set_parent(context);
        }
        let context = span.context();
        if !context.span().span_context().is_valid() {
            return self;
        }
        let mut own = Self::default();
        global::get_text_map_propagator(|p| p.inject_context(&context, &mut own));
        if own.parent.is_empty() { self } else { own }
    }
}

/// `00-` and 32, 16 and 2 lower-case hexadecimal digits; neither id all zero.
fn is_parent(text: &str) -> bool {
    let mut parts = text.split('-');
    let mut hex = |digits: usize| {
        parts
            .next()
            .filter(|p| p.len() == digits && p.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
    };
    let some = |part: &str| part.bytes().any(|b| b != b'0');
    let ok = hex(2).is_some_and(|v| v != "ff") && hex(32).is_some_and(some) && hex(16).is_some_and(some);
    ok && hex(2).is_some() && text.len() == 55
}

impl Extractor for Trace {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => Some(&self.parent),
            "tracestate" => Some(&self.state),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

impl Injector for Trace {
    fn set(&mut self, key: &str, value: String) {
        match key {
            "traceparent" => self.parent = value,
            "tracestate" => self.state = value,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_client_s_trace_passes_through_where_nothing_is_exported() {
        let trace = Trace::new(PARENT, "vendor=1").enter(&tracing::info_span!("bus.test"));
        assert_eq!((trace.parent.as_str(), trace.state.as_str()), (PARENT, "vendor=1"));
    }

    #[test]
    fn what_is_no_trace_counts_as_absent() {
        for bad in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nx: y",
        ] {
            assert_eq!(Trace::new(bad, "a=b"), Trace::default(), "{bad}");
        }
    }
}
