//! The rows of the edge.

use crate::table::{Goal, Line, line};

const HELLO: &str = "axum hello JSON, h1";
const LIBRARY: &str = "centrifuge (Go library)";
const SERVER: &str = "Centrifugo, Redis engine";
const WS: &str = "WebSocket";

/// Every line, in the order of the table.
pub(crate) const LINES: &[Line] = &[
    line(10, "call.grpc", "unary call of 200 B, gRPC", "µs", Goal::Times(1.8), HELLO, ""),
    line(10, "call.rest", "the same by REST", "µs", Goal::Times(2.5), HELLO, ""),
    line(10, "call.connect", "the same by Connect, JSON", "µs", Goal::Times(3.3), HELLO, ""),
    line(10, "call.ws", "the same by WebSocket, Protobuf", "µs", Goal::Times(2.1), HELLO, ""),
    line(11, "reader.rss", "idle WebSocket with a subscription", "KiB", Goal::Both(3.0, 0.125), LIBRARY, ""),
    line(11, "reader.cpu", "the same, CPU", "µs/s", Goal::Both(1.8, 0.2), LIBRARY, ""),
    line(12, "fan.ws.one", "to 1,000 WebSockets, one at a time", "µs", Goal::Both(7.0, 0.5), LIBRARY, ""),
    line(12, "fan.ws.burst", "the same, bursts of 16", "µs", Goal::Both(1.7, 0.167), LIBRARY, ""),
    line(13, "fan.sse.one", "to 1,000 readers by SSE", "µs", Goal::Times(1.3), WS, ""),
    line(13, "fan.sse.burst", "the same, bursts of 16", "µs", Goal::Times(1.3), WS, ""),
    line(13, "fan.ndjson.one", "by NDJSON", "µs", Goal::Times(1.3), WS, ""),
    line(13, "fan.ndjson.burst", "the same, bursts of 16", "µs", Goal::Times(1.3), WS, ""),
    line(13, "fan.connect.one", "by Connect, Protobuf", "µs", Goal::Times(1.3), WS, ""),
    line(13, "fan.connect.burst", "the same, bursts of 16", "µs", Goal::Times(1.3), WS, ""),
    line(13, "fan.web.one", "by gRPC-Web", "µs", Goal::Times(1.3), WS, ""),
    line(13, "fan.web.burst", "the same, bursts of 16", "µs", Goal::Times(1.3), WS, ""),
    line(13, "fan.grpc.one", "by gRPC", "µs", Goal::Times(1.3), WS, ""),
    line(13, "fan.grpc.burst", "the same, bursts of 16", "µs", Goal::Times(1.3), WS, ""),
    line(14, "tail.p99", "publish to receive, 200 readers, p99", "ms", Goal::Times(0.7), SERVER, ""),
    line(14, "tail.p50", "the same, p50", "ms", Goal::None, SERVER, ""),
    line(14, "tail.share", "CPU of both cores meanwhile", "%", Goal::None, SERVER, ""),
    line(14, "tail.rate", "messages a second meanwhile", "/s", Goal::None, "", ""),
    line(15, "end.lost", "lost client noticed, slowest way", "ms", Goal::Most(10.0), "", ""),
    line(15, "end.frozen.ws", "frozen client, WebSocket", "s", Goal::Most(40.0), "", ""),
    line(15, "end.frozen.grpc", "frozen client, gRPC", "s", Goal::Most(40.0), "", ""),
    line(16, "end.first", "SIGTERM to the first close or GOAWAY", "ms", Goal::Most(50.0), "", ""),
    line(16, "end.last", "to the last of ten clients", "ms", Goal::None, "", ""),
    line(17, "many.readers", "idle readers on one gateway", "", Goal::Least(10_000.0), "", ""),
    line(17, "many.storm", "connects a second taken, 2,500 tried", "/s", Goal::Least(2_000.0), "", ""),
];
