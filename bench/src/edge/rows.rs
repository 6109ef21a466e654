//! The rows of the edge.

use crate::table::{Goal, Line, line};

const HELLO: &str = "axum hello JSON, h1";
const LIBRARY: &str = "centrifuge (Go library)";
const SERVER: &str = "Centrifugo, Redis engine";
const WS: &str = "WebSocket";

const H2: &str = "HTTP/2 is most of what the hello, which is HTTP/1, does not have: frames, windows, header tables and a \
                  task for each call cost about as much as the hello itself. Behind it stand tonic's codec and its \
                  two buffers of 8 KiB, a body that is measured and timed, and the trunk's deadline, gate and counts.";
const CODEC: &str = "the request is read from JSON and the answer written as JSON by descriptor, about 5 µs together, so \
                     that no dialect knows a message; then the call crosses the trunk as a gRPC request in memory.";
const RUNTIME: &str = "the official runtime reads the request and writes the answer, about 8 µs more than a layer of our \
                       own took; it is kept because it passes its suite whole. The rest is as by REST.";
const FRAMES: &str =
    "a call has no head to read or to write, so what is left is the trunk, as a gRPC request in memory.";
const REST: &str = "not explained. No buffer is left and no timer but one; by their types the parts that stay are about \
                    15 allocations and some 3 KiB, and 3,000 readers of one process that came slowly took 3.4 KiB \
                    each (a single run). After a storm of connects it is twice as much, with another purge of the \
                    allocator too.";
const BEATS: &str = "four heartbeats a minute with position and sealed token, and two pings with their answers, are about \
                     nine writes or reads of the kernel, of 2 to 6 µs each; and after 15 s of rest nothing of a \
                     session is in any cache.";
const WRITES: &str = "each delivery is a write of its own, and the kernel alone takes 5.7 to 6.2 µs for one on loopback, \
                      where it carries the reader's side as well. The rest is the wake of the reader's task.";
const STREAM: &str = "over HTTP each delivery is a chunk or a frame of a body, which hyper writes and flushes, where a \
                      session writes its bytes itself.";
const TASKS: &str = "HTTP/2 has two tasks a reader: the stream's hands its frame to the connection's, which looks at its \
                     windows and writes. In bursts they share a wake, one at a time they do not.";
const HOPS: &str = "a message goes to the owner of its node first: publisher, gateway, Redis, worker, the log in Redis, \
                    gateway. Centrifugo writes the log from the server that heard the publisher, which is one process \
                    and one trip through Redis less. The 200 writes to readers that follow are the larger part.";
const DETECT: &str = "the kernel tells a closed socket at once; what is left is the wake of the task.";
const FROZEN: &str = "the time is that between two pings and for the answer to one.";
const SPREAD: &str =
    "closes are spread, so that clients do not all come back at once; ten are too few to be spread.";
const FILES: &str =
    "client and gateway are two processes of one machine, and its limit of open files is the client's too.";
const STORM: &str = "a connect is a TCP handshake, an HTTP request and a subscription, and the clients that make them run on \
                     the same two cores.";

/// Every line, in the order of the table.
pub(crate) const LINES: &[Line] = &[
    line(10, "call.grpc", "unary call of 200 B, gRPC", "µs", Goal::Times(1.8), HELLO, H2),
    line(10, "call.rest", "the same by REST", "µs", Goal::Times(2.5), HELLO, CODEC),
    line(10, "call.connect", "the same by Connect, JSON", "µs", Goal::Times(3.3), HELLO, RUNTIME),
    line(10, "call.ws", "the same by WebSocket, Protobuf", "µs", Goal::Times(2.1), HELLO, FRAMES),
    line(
        11,
        "reader.rss",
        "idle WebSocket with a subscription",
        "KiB",
        Goal::Both(3.0, 0.125),
        LIBRARY,
        REST,
    ),
    line(11, "reader.cpu", "the same, CPU", "µs/s", Goal::Both(1.8, 0.2), LIBRARY, BEATS),
    line(12, "fan.ws.one", "to 1,000 WebSockets, one at a time", "µs", Goal::Both(7.0, 0.5), LIBRARY, WRITES),
    line(12, "fan.ws.burst", "the same, bursts of 16", "µs", Goal::Both(1.7, 0.167), LIBRARY, WRITES),
    line(13, "fan.sse.one", "to 1,000 readers by SSE", "µs", Goal::Times(1.3), WS, STREAM),
    line(13, "fan.sse.burst", "the same, bursts of 16", "µs", Goal::Times(1.3), WS, STREAM),
    line(13, "fan.ndjson.one", "by NDJSON", "µs", Goal::Times(1.3), WS, STREAM),
    line(13, "fan.ndjson.burst", "the same, bursts of 16", "µs", Goal::Times(1.3), WS, STREAM),
    line(13, "fan.connect.one", "by Connect, Protobuf", "µs", Goal::Times(1.3), WS, STREAM),
    line(13, "fan.connect.burst", "the same, bursts of 16", "µs", Goal::Times(1.3), WS, STREAM),
    line(13, "fan.web.one", "by gRPC-Web", "µs", Goal::Times(1.3), WS, STREAM),
    line(13, "fan.web.burst", "the same, bursts of 16", "µs", Goal::Times(1.3), WS, STREAM),
    line(13, "fan.grpc.one", "by gRPC", "µs", Goal::Times(1.3), WS, TASKS),
    line(13, "fan.grpc.burst", "the same, bursts of 16", "µs", Goal::Times(1.3), WS, TASKS),
    line(14, "tail.p99", "publish to receive, 200 readers, p99", "ms", Goal::Times(0.7), SERVER, HOPS),
    line(14, "tail.p50", "the same, p50", "ms", Goal::None, SERVER, ""),
    line(14, "tail.share", "CPU of both cores meanwhile", "%", Goal::None, SERVER, ""),
    line(14, "tail.rate", "messages a second meanwhile", "/s", Goal::None, "", ""),
    line(15, "end.lost", "lost client noticed, slowest way", "ms", Goal::Most(10.0), "", DETECT),
    line(15, "end.frozen.ws", "frozen client, WebSocket", "s", Goal::Most(40.0), "", FROZEN),
    line(15, "end.frozen.grpc", "frozen client, gRPC", "s", Goal::Most(40.0), "", FROZEN),
    line(16, "end.first", "SIGTERM to the first close or GOAWAY", "ms", Goal::Most(50.0), "", SPREAD),
    line(16, "end.last", "to the last of ten clients", "ms", Goal::None, "", ""),
    line(17, "many.readers", "idle readers on one gateway", "", Goal::Least(10_000.0), "", FILES),
    line(17, "many.storm", "connects a second taken, 2,500 tried", "/s", Goal::Least(2_000.0), "", STORM),
];
