//! Attacks in HTTP/1.1.

use super::{Attack, FAST, Reads, SLOWLY};
use flate2::{Compression, write::GzEncoder};
use std::{io::Write, sync::LazyLock, time::Duration};

pub(super) const ATTACKS: [Attack; 6] = [
    Attack {
        name: "silence",
        what: "connections that say nothing",
        connections: 1_000,
        every: SLOWLY,
        reads: Reads::All,
        tls: false,
        ends: true,
        script: |_, _, _| Vec::new(),
    },
    Attack {
        name: "slow-heads",
        what: "slowloris: a header a second, and no end of them",
        connections: 1_000,
        every: SLOWLY,
        reads: Reads::All,
        tls: false,
        ends: true,
        script: |_, step, host| match step {
            0 => format!("GET /v1/topics HTTP/1.1\r\nhost: {host}\r\n").into(),
            step => format!("x-{step}: 1\r\n").into(),
        },
    },
    Attack {
        name: "slow-bodies",
        what: "a body of 1 MB that comes by one byte a second",
        connections: 1_000,
        every: SLOWLY,
        reads: Reads::All,
        tls: false,
        ends: true,
        script: |_, step, host| match step {
            0 => post(host, "content-type: text/plain\r\ncontent-length: 1000000\r\n"),
            _ => b"x".to_vec(),
        },
    },
    Attack {
        name: "slow-readers",
        what: "sixteen large answers asked for at once, one byte a second read",
        connections: 1_000,
        every: SLOWLY,
        reads: Reads::Drip,
        tls: false,
        // The gateway lets go; who does not read is not told.
        ends: false,
        script: |_, step, host| match step {
            0 => format!("GET /openapi.json HTTP/1.1\r\nhost: {host}\r\n\r\n").repeat(16).into(),
            _ => Vec::new(),
        },
    },
    Attack {
        name: "endless-bodies",
        what: "a chunked body without an end, 1 MB a second",
        connections: 10,
        every: FAST,
        reads: Reads::All,
        tls: false,
        ends: true,
        script: |_, step, host| match step {
            0 => post(host, "content-type: text/plain\r\ntransfer-encoding: chunked\r\n"),
            _ => [b"400\r\n", &[b'x'; 1024][..], b"\r\n"].concat().repeat(10),
        },
    },
    Attack {
        name: "gzip-bombs",
        what: "48 MB packed into 48 KB, in REST, Connect, gRPC-Web and Connect's streams",
        connections: 20,
        every: Duration::from_millis(200),
        reads: Reads::All,
        tls: false,
        // Each is answered with an error, and the next one may come.
        ends: false,
        script: bomb,
    },
];

fn post(host: &str, headers: &str) -> Vec<u8> {
    format!("POST /v1/topics/attacked/messages HTTP/1.1\r\nhost: {host}\r\n{headers}\r\n").into()
}

pub(super) static BOMB: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let zeros = vec![b'0'; 1 << 20];
    for _ in 0..48 {
        let _ = encoder.write_all(&zeros);
    }
    encoder.finish().unwrap_or_default()
});

fn bomb(n: usize, _: u64, host: &str) -> Vec<u8> {
    let (path, kind, encoding) = [
        ("/v1/topics/attacked/messages", "text/plain", "content-encoding: gzip"),
        ("/plexus.v1.TopicService/Publish", "application/proto", "content-encoding: gzip"),
        ("/plexus.v1.TopicService/Publish", "application/grpc-web+proto", "grpc-encoding: gzip"),
        ("/plexus.v1.TopicService/Subscribe", "application/connect+proto", "connect-content-encoding: gzip"),
    ][n % 4];
    let mut body = BOMB.clone();
    if n % 4 > 1 {
        let prefix = [&[1][..], &(body.len() as u32).to_be_bytes()].concat();
        body.splice(..0, prefix);
    }
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: {kind}\r\n{encoding}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), &body].concat()
}
