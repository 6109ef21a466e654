//! Row 10: what an unary call of about 200 bytes costs the edge in each dialect, beside a hello of axum.
//! The same 16 connections, each with one call under way, keep the one core of the server busy.

use super::{
    ITS_CORE, connect, dialect,
    dialect::Dialect,
    h2,
    rival::{Aside, Server},
};
use crate::{
    proc::{Watch, micros},
    sheet::Sheet,
};
use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BytesMut};
use prost::Message as _;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

const CONNECTIONS: usize = 16;
const WARM: Duration = Duration::from_millis(500);
const DURING: Duration = Duration::from_secs(2);
const TOPIC: &str = "bench";

/// One run.
pub(crate) async fn run(sheet: &mut Sheet) -> Result<()> {
    let _aside = Aside::step()?;
    let hello = Server::own(&["hello"], ITS_CORE).await?;
    let base = flood(&hello, &Caller::Http(dialect::http1("GET /hello", "", b""))).await?;
    drop(hello);
    let edge = Server::own(&["serve"], ITS_CORE).await?;
    for what in [Dialect::Grpc, Dialect::Rest, Dialect::Connect, Dialect::WebSocket] {
        let name = format!("call.{}", what.name());
        sheet.measure(&name, flood(&edge, &Caller::new(what)?).await.context(what.name())?);
        sheet.baseline(&name, base);
    }
    Ok(())
}

/// A client that makes one call after another.
#[derive(Clone)]
enum Caller {
    /// The whole request.
    Http(Vec<u8>),
    /// The frame of the call.
    WebSocket(Vec<u8>),
    /// The message.
    Grpc(Vec<u8>),
}

impl Caller {
    fn new(what: Dialect) -> Result<Self> {
        let (proto, json) = (dialect::publish(TOPIC).encode_to_vec(), dialect::publish_json(TOPIC));
        let kind = "content-type: application/json\r\n";
        let connect = "content-type: application/json\r\nconnect-protocol-version: 1\r\n";
        let http = |line, headers| Self::Http(dialect::http1(line, headers, json.as_bytes()));
        Ok(match what {
            Dialect::Rest => http("POST /v1/topics/bench/messages", kind),
            Dialect::Connect => http("POST /plexus.v1.TopicService/Publish", connect),
            Dialect::WebSocket => Self::WebSocket(dialect::session_call(1, "Publish", proto)),
            Dialect::Grpc => Self::Grpc(proto),
            other => bail!("no calls by {other:?}"),
        })
    }

    /// Makes calls and counts them.
    async fn run(self, address: SocketAddr, count: &AtomicU64) -> Result<()> {
        let mut socket = connect(address).await?;
        let (mut read, mut data) = (BytesMut::with_capacity(4 << 10), false);
        if let Self::WebSocket(_) = self {
            socket.write_all(&Dialect::WebSocket.opens().unwrap_or_default()).await?;
            super::crowd::read_to(&mut socket, b"\r\n\r\n").await?;
        }
        let fields = h2::Fields::post("/plexus.v1.TopicService/Publish", "application/grpc");
        for stream in (1..).step_by(2) {
            match &self {
                Self::Http(request) | Self::WebSocket(request) => socket.write_all(request).await?,
                Self::Grpc(message) => {
                    let call = fields.call(stream, message);
                    let begin = if stream == 1 { h2::preface() } else { Vec::new() };
                    socket.write_all(&[begin, call].concat()).await?;
                }
            }
            while !self.take(&mut socket, &mut read, &mut data).await? {
                ensure!(socket.read_buf(&mut read).await? > 0, "the connection ended");
            }
            count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Takes an answer; false: it is not whole yet.
    async fn take(&self, socket: &mut TcpStream, read: &mut BytesMut, data: &mut bool) -> Result<bool> {
        match self {
            Self::Http(_) => http(read),
            Self::WebSocket(_) => frame(read),
            Self::Grpc(_) => {
                let said = h2::take(read, data);
                if !said.answer.is_empty() {
                    socket.write_all(&said.answer).await?;
                }
                ensure!(!said.refused, "the call was refused");
                Ok(said.ended)
            }
        }
    }
}

/// Takes a whole answer of HTTP/1.1.
fn http(read: &mut BytesMut) -> Result<bool> {
    const LENGTH: &[u8] = b"content-length: ";
    const LAST: &[u8] = b"\r\n0\r\n\r\n";
    let Some(head) = find(read, b"\r\n\r\n") else { return Ok(false) };
    ensure!(read.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(read));
    let whole = match find(&read[..head], LENGTH) {
        Some(length) => {
            let digits = read[length + LENGTH.len()..head].iter().take_while(|byte| byte.is_ascii_digit());
            head + 4 + digits.fold(0, |all, byte| all * 10 + usize::from(byte - b'0'))
        }
        // In chunks, of which the last is empty.
        None => match find(read, LAST) {
            Some(last) => last + LAST.len(),
            None => return Ok(false),
        },
    };
    let is_whole = read.len() >= whole;
    if is_whole {
        read.advance(whole);
    }
    Ok(is_whole)
}

/// Takes a frame, which must be the result of call 1.
fn frame(read: &mut BytesMut) -> Result<bool> {
    let (head, size) = match **read {
        [_, size @ 0..126, ..] => (2, usize::from(size)),
        [_, 126, high, low, ..] => (4, usize::from(u16::from_be_bytes([high, low]))),
        _ => return Ok(false),
    };
    if read.len() < head + size {
        return Ok(false);
    }
    ensure!(read[head..].starts_with(&[8, 1, 0x3a]), "no result: {:?}", String::from_utf8_lossy(read));
    read.advance(head + size);
    Ok(true)
}

fn find(read: &[u8], what: &[u8]) -> Option<usize> {
    read.windows(what.len()).position(|bytes| bytes == what)
}

/// CPU-µs of the server per call.
async fn flood(server: &Server, caller: &Caller) -> Result<f64> {
    let count = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (caller, count, address) = (caller.clone(), Arc::clone(&count), server.address);
        tasks.spawn(async move { caller.run(address, &count).await });
    }
    let whole = async {
        tokio::time::sleep(WARM).await;
        let (watch, before) = (Watch::begin(&[server.pid()?])?, count.load(Ordering::Relaxed));
        tokio::time::sleep(DURING).await;
        let (_, used) = watch.end()?;
        let calls = u32::try_from(count.load(Ordering::Relaxed) - before)?;
        anyhow::Ok(micros(used[0]) / f64::from(calls))
    };
    tokio::select! {
        whole = whole => whole,
        Some(ended) = tasks.join_next() => bail!("a client ended: {ended:?}"),
    }
}
