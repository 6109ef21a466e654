//! Runs an attack: so many connections at once, each opened again once it is ended, and a count of how
//! long they lived.

use super::{Attack, Reads, frames::Answers};
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout_at},
};

/// Pause before a connection that was cut is opened again.
const AGAIN: Duration = Duration::from_millis(200);

/// A buffer that drips; the kernel takes the least that it allows.
const DRIP_BYTES: u32 = 1;

/// Who is attacked.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its port.
    pub plain: SocketAddr,
    /// Its port for TLS.
    pub tls: SocketAddr,
}

/// How hard it is tried.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Connections at once.
    pub connections: usize,
    /// How long.
    pub during: Duration,
    /// Ends it sooner, once so many connections were cut.
    pub until_cut: Option<u64>,
}

/// What it came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Toll {
    /// Connections that were opened.
    pub opened: u64,
    /// Those of them that the gateway ended.
    pub cut: u64,
    /// Connections that were not taken.
    pub refused: u64,
    /// Bytes that were sent.
    pub sent: u64,
    /// The longest that one was open, ended or not.
    pub longest: Duration,
    /// The longest that one was open which was cut.
    pub longest_cut: Duration,
}

#[derive(Default)]
struct Counts {
    opened: AtomicU64,
    cut: AtomicU64,
    refused: AtomicU64,
    sent: AtomicU64,
    longest_ms: AtomicU64,
    longest_cut_ms: AtomicU64,
}

/// Attacks until the time is over.
pub async fn raid(attack: Attack, target: Target, effort: Effort) -> Toll {
    let end = Instant::now() + effort.during;
    let counts = Arc::new(Counts::default());
    let mut raiders = JoinSet::new();
    for n in 0..effort.connections {
        let counts = counts.clone();
        raiders.spawn(async move {
            // Not all in the same moment, or the backlog is what is attacked.
            sleep(Duration::from_millis(n as u64)).await;
            while Instant::now() < end {
                one(attack, n, target, end, &counts).await;
                sleep(AGAIN).await;
            }
        });
    }
    while Instant::now() < end && effort.until_cut.is_none_or(|cut| counts.cut.load(Relaxed) < cut) {
        sleep(Duration::from_millis(20)).await;
    }
    raiders.shutdown().await;
    let millis = |count: &AtomicU64| Duration::from_millis(count.load(Relaxed));
    Toll {
        opened: counts.opened.load(Relaxed),
        cut: counts.cut.load(Relaxed),
        refused: counts.refused.load(Relaxed),
        sent: counts.sent.load(Relaxed),
        longest: millis(&counts.longest_ms),
        longest_cut: millis(&counts.longest_cut_ms),
    }
}

/// One connection from its beginning to its end.
async fn one(attack: Attack, n: usize, target: Target, end: Instant, counts: &Counts) {
    let address = if attack.tls { target.tls } else { target.plain };
    let began = Instant::now();
    let socket = match timeout_at(end, connect(address, attack.reads)).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(_)) => {
            counts.refused.fetch_add(1, Relaxed);
            return;
        }
        Err(_) => return,
    };
    counts.opened.fetch_add(1, Relaxed);
    let host = address.to_string();
    let cut = tokio::select! {
        _ = live(attack, n, socket, &host, counts) => true,
        () = sleep_until(end) => false,
    };
    let lived = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    counts.longest_ms.fetch_max(lived, Relaxed);
    if cut {
        counts.cut.fetch_add(1, Relaxed);
        counts.longest_cut_ms.fetch_max(lived, Relaxed);
    }
}

async fn connect(address: SocketAddr, reads: Reads) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if reads == Reads::Drip {
        socket.set_recv_buffer_size(DRIP_BYTES)?;
    }
    let socket = socket.connect(address).await?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// Follows the script until the gateway has enough.
async fn live(
    attack: Attack,
    n: usize,
    mut socket: TcpStream,
    host: &str,
    counts: &Counts,
) -> io::Result<()> {
    let (mut read, mut write) = socket.split();
    let (mut steps, mut drips) = (interval(attack.every), interval(Duration::from_secs(1)));
    steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let drip = attack.reads == Reads::Drip;
    let (mut out, mut step, mut answers) = (Vec::new(), 0, Answers::default());
    let mut buffer = [0; 4 << 10];
    let mut byte = [0];
    loop {
        tokio::select! {
            got = read.read(&mut buffer), if !drip => match got? {
                0 => return Ok(()),
                n if attack.reads == Reads::Alive => out.extend(answers.read(&buffer[..n])),
                _ => {}
            },
            _ = drips.tick(), if drip => match read.try_read(&mut byte) {
                Ok(0) => return Ok(()),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            },
            sent = write.write(&out), if !out.is_empty() => {
                let sent = sent?;
                counts.sent.fetch_add(sent as u64, Relaxed);
                drop(out.drain(..sent));
            }
            _ = steps.tick(), if out.is_empty() => {
                out = (attack.script)(n, step, host);
                step += 1;
            }
        }
    }
}
