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
    /// At most this, and at most so many times the baseline.
    Both(f64, f64),
    /// At least this.
    Least(f64),
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
            Self::Both(most, times) => format!("≤ {most} {unit}, ≤ {times} × baseline"),
            Self::Least(least) => format!("≥ {least} {unit}"),
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
            Self::Both(most, times) => Some(measured <= most && measured <= beside? * times),
            Self::Least(least) => Some(measured >= least),
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

/// Makes a line.
pub(crate) const fn line(
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

const NODE: &str = "the swarm alone is most of it; the rest is the node's loop with its writer, windows and book of \
                    peers, and its subscription to the bus.";
const KAD: &str = "a raw swarm with kad has most of it: kad allocates 256 buckets of 20 places at once; the rest is as \
                   without kad.";
const WAKES: &str = "a message passes the client's sockets, the router, the bus, the owner, its log before it is \
                     gossiped, and the receiver's log and router: about a dozen tasks where the raw hop has four, at \
                     20 to 50 µs a wake on cores that had gone idle.";
const TRIPS: &str = "three round trips to Redis, each as long as the bare one, stand one after another (the call, the \
                     append before the gossip, the receiver's append), beside the wakes of row 4.";
const JSON: &str = "as over WebSocket; in addition each publish is a request of its own with headers to read and \
                    write, and each event JSON.";
const TRUNK: &str = "the profile is flat: each call crosses the trunk as an HTTP request in memory, whose futures of \
                     some KB are moved about (memmove is the largest entry, 10 %), and is a command and an answer of \
                     the Redis client.";
const COMMANDS: &str = "the call and its receipt are a PUBLISH each, with a delivery each; only appends share their \
                        entries.";
const CALLS: &str = "the socket and the reply cost both sides the same; our function makes four calls of Redis (read \
                     the fence, XADD, keep the tail, SPUBLISH) where the script makes six.";

/// Every table, by its heading.
pub(crate) const TABLES: [(&str, &[Line]); 2] =
    [("Nodes and messages", LINES), ("Edge", crate::edge::rows::LINES)];

/// The lines of nodes and messages, in the order of the table.
const LINES: &[Line] = &[
    line(1, "idle.rss", "hosted node, idle, no peers", "KiB", Goal::Most(40.0), RAW, NODE),
    line(1, "idle.cpu", "the same, CPU", "µs/s", Goal::Most(25.0), RAW, NODE),
    line(1, "kad.rss", "with kad as a client", "KiB", Goal::Most(160.0), RAW, KAD),
    line(1, "kad.cpu", "the same, CPU", "µs/s", Goal::None, RAW, ""),
    line(1, "idle.go", "one go-libp2p process with pubsub, idle", "MiB", Goal::None, "", ""),
    line(2, "many.rss", "2,000 nodes with 2 peers each", "MiB", Goal::Most(600.0), "", ""),
    line(2, "many.cpu", "the same, idle, of one core", "%", Goal::Most(25.0), "", ""),
    line(3, "end.rss", "connection end (TCP)", "KiB", Goal::Most(80.0), RAW, ""),
    line(4, "hop.ws.p50", "embedded, WebSocket, p50", "ms", Goal::Above(0.3), HOP, WAKES),
    line(4, "hop.ws.p99", "embedded, WebSocket, p99", "ms", Goal::Above(1.0), HOP, WAKES),
    line(4, "hop.sse.p50", "embedded, POST and SSE, p50", "ms", Goal::Above(0.3), HOP, JSON),
    line(4, "hop.sse.p99", "embedded, POST and SSE, p99", "ms", Goal::Above(1.0), HOP, JSON),
    line(5, "redis.ws.p50", "over Redis, WebSocket, p50", "ms", Goal::Above(0.8), HOP, TRIPS),
    line(5, "redis.ws.p99", "over Redis, WebSocket, p99", "ms", Goal::Above(2.0), HOP, TRIPS),
    line(5, "redis.sse.p50", "over Redis, POST and SSE, p50", "ms", Goal::Above(0.8), HOP, JSON),
    line(5, "redis.sse.p99", "over Redis, POST and SSE, p99", "ms", Goal::Above(2.0), HOP, JSON),
    line(5, "redis.trip.p50", "a bare fred round trip, p50", "ms", Goal::None, "", ""),
    line(5, "redis.trip.p99", "a bare fred round trip, p99", "ms", Goal::None, "", ""),
    line(6, "full.gateway", "gateway, CPU per message", "µs", Goal::Most(30.0), "", TRUNK),
    line(6, "full.worker", "worker, CPU per message", "µs", Goal::Above(40.0), CORE, ""),
    line(6, "full.redis", "Redis, CPU per message", "µs", Goal::Most(12.0), "", COMMANDS),
    line(6, "full.client", "the client, CPU per message", "µs", Goal::None, "", ""),
    line(7, "full.rate", "messages a second, signed, 256 B", "/s", Goal::Share(0.6), CORE, ""),
    line(8, "store.alone", "Redis per logged publish, alone", "µs", Goal::Times(0.7), RIVAL, CALLS),
    line(8, "store.burst", "the same, bursts of 16", "µs", Goal::Times(0.15), RIVAL, CALLS),
    line(9, "rehome", "clean release to first gossip", "ms", Goal::Most(100.0), "", ""),
];
