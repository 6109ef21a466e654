//! Many readers of one topic, each on a connection of its own, that do nothing but count what they read.

use super::{MARK, connect, dialect::Dialect, dialect::ws};
use anyhow::{Context, Result, bail, ensure};
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Notify, Semaphore},
    task::JoinSet,
    time::{interval, sleep, timeout},
};

/// Longest time for anything.
const PATIENCE: Duration = Duration::from_secs(30);
/// Connections that are opened at once where no pace is given.
const AT_ONCE: usize = 64;
/// Bytes of a connection's begin.
const BEGIN_BYTES: usize = 2048;
/// Bytes read at once.
const READ_BYTES: usize = 8 << 10;

/// Where readers read.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// How they speak.
    pub(crate) dialect: Dialect,
    /// Whom to.
    pub(crate) address: SocketAddr,
    /// The node whose topic they follow.
    pub(crate) node: &'static str,
    /// The topic.
    pub(crate) topic: &'static str,
}

impl Place {
    /// Opens a reader, and waits until its subscription has begun.
    pub(crate) async fn open(self) -> Result<TcpStream> {
        timeout(PATIENCE, self.subscribe()).await.context("a subscription does not begin")?
    }

    async fn subscribe(self) -> Result<TcpStream> {
        let mut socket = connect(self.address).await?;
        if let Some(opens) = self.dialect.opens() {
            socket.write_all(&opens).await?;
            let head = read_to(&mut socket, b"\r\n\r\n").await?;
            ensure!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        }
        socket.write_all(&self.dialect.subscribes(self.node, self.topic)).await?;
        read_to(&mut socket, self.dialect.begun()).await?;
        Ok(socket)
    }
}

/// Reads until these bytes have come.
pub(crate) async fn read_to(socket: &mut TcpStream, end: &[u8]) -> Result<Vec<u8>> {
    let mut read = Vec::with_capacity(256);
    while !read.windows(end.len()).any(|bytes| bytes == end) {
        let size = socket.read_buf(&mut read).await?;
        let is_end = size == 0 || read.len() > BEGIN_BYTES;
        ensure!(!is_end, "not what was asked for: {}", String::from_utf8_lossy(&read));
    }
    Ok(read)
}

/// What all readers have read.
#[derive(Default)]
struct Seen {
    open: AtomicUsize,
    messages: AtomicU64,
    target: AtomicU64,
    changed: Notify,
}

/// The readers.
pub(crate) struct Crowd {
    tasks: JoinSet<Result<()>>,
    seen: Arc<Seen>,
}

impl Crowd {
    /// Opens so many, at this pace a second where one is given.
    pub(crate) async fn gather(place: Place, count: usize, pace: Option<usize>) -> Result<Self> {
        let mut crowd = Self { tasks: JoinSet::new(), seen: Arc::default() };
        crowd.add(place, count, pace).await?;
        Ok(crowd)
    }

    /// Opens more.
    pub(crate) async fn add(&mut self, place: Place, count: usize, pace: Option<usize>) -> Result<()> {
        let whole = self.seen.open.load(SeqCst) + count;
        let doors = Arc::new(Semaphore::new(if pace.is_some() { count } else { AT_ONCE }));
        let mut ticks = interval(Duration::from_millis(10));
        let mut left = count;
        while left > 0 {
            let step = pace.map_or(left, |pace| (pace / 100).min(left));
            left -= step;
            for _ in 0..step {
                let (seen, doors) = (Arc::clone(&self.seen), Arc::clone(&doors));
                self.tasks.spawn(async move {
                    let door = doors.acquire().await?;
                    let socket = place.open().await?;
                    drop(door);
                    seen.open.fetch_add(1, SeqCst);
                    seen.changed.notify_one();
                    read(socket, place.dialect, &seen).await
                });
            }
            if pace.is_some() {
                ticks.tick().await;
            }
        }
        self.until(|seen| seen.open.load(SeqCst) >= whole).await
    }

    /// Waits until so many messages more were read than now, all readers together.
    pub(crate) async fn read(&mut self, more: u64, publish: impl Future<Output = Result<()>>) -> Result<()> {
        let target = self.seen.messages.load(SeqCst) + more;
        self.seen.target.store(target, SeqCst);
        publish.await?;
        self.until(|seen| seen.messages.load(SeqCst) >= target).await
    }

    async fn until(&mut self, done: impl Fn(&Seen) -> bool) -> Result<()> {
        let patience = sleep(PATIENCE);
        tokio::pin!(patience);
        while !done(&self.seen) {
            tokio::select! {
                () = self.seen.changed.notified() => {}
                Some(ended) = self.tasks.join_next() => bail!("a reader ended: {ended:?}"),
                () = &mut patience => {
                    let (open, read) = (self.seen.open.load(SeqCst), self.seen.messages.load(SeqCst));
                    bail!("not within {PATIENCE:?}: {open} are open, {read} messages were read");
                }
            }
        }
        Ok(())
    }

    /// Fails if a reader has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.tasks.try_join_next() {
            Some(ended) => bail!("a reader ended: {ended:?}"),
            None => Ok(()),
        }
    }
}

async fn read(mut socket: TcpStream, dialect: Dialect, seen: &Seen) -> Result<()> {
    let mut half = false;
    loop {
        socket.readable().await?;
        let (count, answer) = match take(&socket, dialect, &mut half) {
            Ok(taken) => taken,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.into()),
        };
        if count > 0 && seen.messages.fetch_add(count, SeqCst) + count >= seen.target.load(SeqCst) {
            seen.changed.notify_one();
        }
        if let Some(answer) = answer {
            socket.write_all(&answer).await?;
        }
    }
}

/// Reads what is there: how many marks it has, and what answers a ping. Not async, so that its buffer is no
/// part of the task.
fn take(socket: &TcpStream, dialect: Dialect, half: &mut bool) -> io::Result<(u64, Option<Vec<u8>>)> {
    let mut buffer = [0; READ_BYTES];
    let size = socket.try_read(&mut buffer)?;
    if size == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let read = &buffer[..size];
    let mut count = 0;
    for byte in read {
        let mark = *byte == MARK[0];
        count += u64::from(mark && *half);
        *half = mark && !*half;
    }
    Ok((count, pong(dialect, read)))
}

/// The answer to what is nothing but a ping.
fn pong(dialect: Dialect, read: &[u8]) -> Option<Vec<u8>> {
    match (dialect, read) {
        // A session's field `ping`, answered as `pong`.
        (Dialect::WebSocket, [0x82, _, 0x58, number @ ..]) => Some(ws(&[&[0x60], number].concat())),
        (Dialect::Rival, [0x82, 1, 0]) => Some(ws(&[0])),
        (Dialect::Grpc, [0, 0, 8, 6, 0, ..]) => {
            let mut answer = read.to_vec();
            answer[4] = 1;
            Some(answer)
        }
        _ => None,
    }
}
