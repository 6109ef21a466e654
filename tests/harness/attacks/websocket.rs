//! Attacks within a WebSocket session.

use super::{Attack, FAST, Reads, SLOWLY};

/// Frames of one step of a flood.
const BATCH: usize = 100;

/// The topic whose slow readers nobody waits for.
const FOLLOW: &str = r#"{"id":1,"call":"TopicService.Subscribe","params":{"topic":"attacked"}}"#;

const fn flood(name: &'static str, what: &'static str, script: fn(usize, u64, &str) -> Vec<u8>) -> Attack {
    Attack { name, what, connections: 20, every: FAST, reads: Reads::All, tls: false, ends: true, script }
}

pub(super) const ATTACKS: [Attack; 5] = [
    flood(
        "ws-fragments",
        "WebSocket: a message of empty fragments without an end",
        |_, step, host| match step {
            0 => [handshake(host), frame(0x01, b"{")].concat(),
            _ => frame(0x00, b"").repeat(BATCH),
        },
    ),
    flood("ws-pings", "WebSocket: pings, each to be answered", |_, step, host| match step {
        0 => handshake(host),
        _ => frame(0x89, b"x").repeat(BATCH),
    }),
    flood("ws-huge", "WebSocket: a frame of 2^62 bytes is announced", |_, step, host| match step {
        0 => [handshake(host), vec![0x81, 0xff], (1u64 << 62).to_be_bytes().to_vec(), vec![0; 4]].concat(),
        _ => vec![b'x'; 10],
    }),
    Attack {
        connections: 1_000,
        every: SLOWLY,
        ..flood("ws-crumbs", "WebSocket: a frame that comes by one byte a second", |_, step, host| match step
        {
            0 => [handshake(host), vec![0x81, 0xfe, 0x40, 0, 0, 0, 0, 0]].concat(),
            _ => b"x".to_vec(),
        })
    },
    Attack {
        connections: 100,
        every: SLOWLY,
        reads: Reads::Drip,
        // The gateway lets go; who does not read is not told.
        ends: false,
        ..flood(
            "ws-slow-readers",
            "WebSocket: a topic is followed, 10 messages of 16 KB a second, one byte a second read",
            |n, step, host| match (n, step) {
                (_, 0) => [handshake(host), frame(0x81, FOLLOW.as_bytes())].concat(),
                // One of them makes sure that there is something to read.
                (0, step) => (0..10).flat_map(|i| frame(0x81, &publish(step * 10 + i))).collect(),
                _ => Vec::new(),
            },
        )
    },
];

fn publish(id: u64) -> Vec<u8> {
    let text = "x".repeat(16_000);
    let (id, topic) = (id + 1, "attacked");
    format!(r#"{{"id":{id},"call":"TopicService.Publish","params":{{"topic":"{topic}","text":"{text}"}}}}"#)
        .into()
}

fn handshake(host: &str) -> Vec<u8> {
    format!(
        "GET /v1/ws HTTP/1.1\r\nhost: {host}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into()
}

/// One frame of a client, masked by nothing but zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        len @ 0..126 => out.push(0x80 | len as u8),
        len => {
            out.push(0x80 | 126);
            out.extend((len as u16).to_be_bytes());
        }
    }
    out.extend([0; 4]);
    out.extend(payload);
    out
}
