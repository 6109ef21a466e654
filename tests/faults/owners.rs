//! Listens to changes of ownership where the store tells them, with the time of each.

use anyhow::{Context, Result};
use plexus_proto::bus::OwnerChange;
use prost::Message;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// A listener at work.
pub(crate) struct Owners {
    stop: CancellationToken,
    task: JoinSet<Vec<Change>>,
}

/// A node got another owner, or none.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) at: Instant,
    pub(crate) node: String,
    /// The incarnation; empty: nobody.
    pub(crate) worker: String,
}

impl Owners {
    /// Begins to listen.
    pub(crate) async fn listen(port: u16) -> Result<Self> {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).await?;
        socket.write_all(b"SSUBSCRIBE plx:{c}:own\r\n").await?;
        let stop = CancellationToken::new();
        let mut task = JoinSet::new();
        let stopped = stop.clone();
        task.spawn(async move {
            let mut changes = Vec::new();
            let _ = stopped.run_until_cancelled(collect(socket, &mut changes)).await;
            changes
        });
        Ok(Self { stop, task })
    }

    /// Ends, and answers what was told.
    pub(crate) async fn end(mut self) -> Vec<Change> {
        self.stop.cancel();
        self.task.join_next().await.expect("it runs").expect("it does not panic")
    }
}

async fn collect(socket: TcpStream, changes: &mut Vec<Change>) -> Result<()> {
    let mut socket = BufReader::new(socket);
    let mut parts: Vec<Vec<u8>> = Vec::new();
    loop {
        let mut line = String::new();
        anyhow::ensure!(socket.read_line(&mut line).await? > 0, "the server went away");
        match line.as_bytes()[0] {
            b'*' => parts.clear(),
            b'$' => {
                let mut part = vec![0; line[1..].trim().parse::<usize>()? + 2];
                socket.read_exact(&mut part).await?;
                part.truncate(part.len() - 2);
                parts.push(part);
            }
            _ => {}
        }
        if parts.len() == 3 && parts[0] == b"smessage" {
            let told = OwnerChange::decode(parts[2].as_slice()).context("a change")?;
            changes.push(Change { at: Instant::now(), node: told.node, worker: told.worker });
            parts.clear();
        }
    }
}

/// Per node: how long nobody owned it, from its release to the next take; sorted.
pub(crate) fn unowned(changes: &[Change]) -> Vec<Duration> {
    let mut since: BTreeMap<&str, Instant> = BTreeMap::new();
    let mut times = Vec::new();
    for change in changes {
        if change.worker.is_empty() {
            since.insert(&change.node, change.at);
        } else if let Some(released) = since.remove(change.node.as_str()) {
            times.push(change.at - released);
        }
    }
    times.sort();
    times
}
