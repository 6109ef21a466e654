//! The rows: what is measured, what was promised, and where the time goes where the promise is not kept.

use crate::sheet::Sheet;

/// What was promised.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    /// At most this.
    Most(f64),
    /// At most so much above the baseline.
    Above(f64),
    /// At most so many times the baseline.
    Times(f64),
    /// At least so many times the baseline.
    Share(f64),
    /// Nothing; it stands beside the others.
    None,
}

/// One line of the table.
pub(crate) struct Line {
    /// The row of the table of goals.
    pub(crate) row: u8,
    /// The name in the sheet.
    pub(crate) name: &'static str,
    /// What is measured.
    pub(crate) what: &'static str,
    /// In which unit.
    pub(crate) unit: &'static str,
    /// What was promised.
    pub(crate) goal: Goal,
    /// What stands beside it; empty: nothing.
    pub(crate) beside: &'static str,
    /// Where the time or the memory goes, where the goal is missed.
    pub(crate) why: &'static str,
}

impl Goal {
    /// The promise in words.
    pub(crate) fn words(self, unit: &str) -> String {
        match self {
            Self::Most(most) => format!("≤ {most} {unit}"),
            Self::Above(most) => format!("≤ baseline + {most} {unit}"),
            Self::Times(most) => format!("≤ {most} × baseline"),
            Self::Share(least) => format!("≥ {least} × baseline"),
            Self::None => "–".into(),
        }
    }

    /// Whether it is kept; `None`: there is no goal, or something was not measured.
    fn kept(self, measured: f64, beside: Option<f64>) -> Option<bool> {
        match self {
            Self::Most(most) => Some(measured <= most),
            Self::Above(most) => Some(measured <= beside? + most),
            Self::Times(most) => Some(measured <= beside? * most),
            Self::Share(least) => Some(measured >= beside? * least),
            Self::None => None,
        }
    }
}

impl Line {
    /// Whether the medians keep the goal.
    pub(crate) fn kept(&self, sheet: &Sheet) -> Option<bool> {
        let beside = sheet.beside(self.name).map(|runs| runs.median());
        self.goal.kept(sheet.measured(self.name)?.median(), beside)
    }
}

const fn line(
    row: u8,
    name: &'static str,
    what: &'static str,
    unit: &'static str,
    goal: Goal,
    beside: &'static str,
    why: &'static str,
) -> Line {
    Line { row, name, what, unit, goal, beside, why }
}

const RAW: &str = "raw swarm, same behaviours";
const HOP: &str = "raw gossipsub hop";
const CORE: &str = "raw gossipsub, same core";
const RIVAL: &str = "Lua script per message";

/// Every line, in the order of the table.
pub(crate) const LINES: &[Line] = &[
    line(1, "idle.rss", "hosted node, idle, no peers", "KiB", Goal::Most(40.0), RAW, ""),
    line(1, "idle.cpu", "the same, CPU", "µs/s", Goal::Most(25.0), RAW, ""),
    line(1, "kad.rss", "with kad as a client", "KiB", Goal::Most(160.0), RAW, ""),
    line(1, "kad.cpu", "the same, CPU", "µs/s", Goal::None, RAW, ""),
    line(1, "idle.go", "one go-libp2p process with pubsub, idle", "MiB", Goal::None, "", ""),
    line(2, "many.rss", "2,000 nodes with 2 peers each", "MiB", Goal::Most(600.0), "", ""),
    line(2, "many.cpu", "the same, idle, of one core", "%", Goal::Most(25.0), "", ""),
    line(3, "end.rss", "connection end (TCP)", "KiB", Goal::Most(80.0), RAW, ""),
    line(4, "hop.ws.p50", "embedded, WebSocket, p50", "ms", Goal::Above(0.3), HOP, ""),
    line(4, "hop.ws.p99", "embedded, WebSocket, p99", "ms", Goal::Above(1.0), HOP, ""),
    line(4, "hop.sse.p50", "embedded, POST and SSE, p50", "ms", Goal::Above(0.3), HOP, ""),
    line(4, "hop.sse.p99", "embedded, POST and SSE, p99", "ms", Goal::Above(1.0), HOP, ""),
    line(5, "redis.ws.p50", "over Redis, WebSocket, p50", "ms", Goal::Above(0.8), HOP, ""),
    line(5, "redis.ws.p99", "over Redis, WebSocket, p99", "ms", Goal::Above(2.0), HOP, ""),
    line(5, "redis.sse.p50", "over Redis, POST and SSE, p50", "ms", Goal::Above(0.8), HOP, ""),
    line(5, "redis.sse.p99", "over Redis, POST and SSE, p99", "ms", Goal::Above(2.0), HOP, ""),
    line(5, "redis.trip.p50", "a bare fred round trip, p50", "ms", Goal::None, "", ""),
    line(5, "redis.trip.p99", "a bare fred round trip, p99", "ms", Goal::None, "", ""),
    line(6, "full.gateway", "gateway, CPU per message", "µs", Goal::Most(30.0), "", ""),
    line(6, "full.worker", "worker, CPU per message", "µs", Goal::Above(40.0), CORE, ""),
    line(6, "full.redis", "Redis, CPU per message", "µs", Goal::Most(12.0), "", ""),
    line(6, "full.client", "the client, CPU per message", "µs", Goal::None, "", ""),
    line(7, "full.rate", "messages a second, signed, 256 B", "/s", Goal::Share(0.6), CORE, ""),
    line(8, "store.alone", "Redis per logged publish, alone", "µs", Goal::Times(0.7), RIVAL, ""),
    line(8, "store.burst", "the same, bursts of 16", "µs", Goal::Times(0.15), RIVAL, ""),
    line(9, "rehome", "clean release to first gossip", "ms", Goal::Most(100.0), "", ""),
];
