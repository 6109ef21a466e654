//! What stands between a process and its Redis, and misbehaves when told: bytes wait, drip, come late, are cut
//! off in the middle, or the connection is reset. Nothing is ever changed or made up.

use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

/// Bytes that one direction holds at most; then the sender waits, as behind a full network.
const HELD_MAX: usize = 1 << 20;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the process to Redis.
    Out,
    /// From Redis to the process.
    Back,
}

/// How it behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    /// As if it were not there.
    #[default]
    Pass,
    /// Both ways stand still, and nobody is told: a partition. What was sent arrives when it heals.
    Hold,
    /// Commands arrive and run, answers stand still.
    HoldBack,
    /// New connections are reset.
    Refuse,
    /// Every piece comes late by up to so much.
    Late(Duration),
    /// So many bytes a second, each way.
    Drip(usize),
    /// Passes so many bytes of answers on each connection, then resets it in the middle.
    Truncate(usize),
}

/// A running proxy; dropping it cuts everything.
pub(crate) struct Proxy {
    port: u16,
    mode: watch::Sender<Mode>,
    target: watch::Sender<u16>,
    /// Cancelled to reset what is open; replaced by the next.
    cut: watch::Sender<CancellationToken>,
    _tasks: JoinSet<()>,
}

/// What one direction of a connection needs to know.
#[derive(Clone)]
struct Terms {
    mode: watch::Receiver<Mode>,
    cut: CancellationToken,
    seed: u64,
}

impl Proxy {
    /// Starts one before a port of this host.
    pub(crate) async fn before(target: u16, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mode, _) = watch::channel(Mode::Pass);
        let (target, targets) = watch::channel(target);
        let (cut, cuts) = watch::channel(CancellationToken::new());
        let terms = move |mode| (mode, cuts.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, targets, terms(mode.subscribe()), seed));
        Self { port, mode, target, cut, _tasks: tasks }
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Behaves so from now on.
    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Leads new connections elsewhere, and resets those that are open.
    pub(crate) fn lead(&self, port: u16) {
        self.target.send_replace(port);
        self.reset();
    }

    /// Resets every open connection.
    pub(crate) fn reset(&self) {
        self.cut.send_replace(CancellationToken::new()).cancel();
    }
}

async fn accept(
    listener: TcpListener,
    target: watch::Receiver<u16>,
    (mode, cut): (watch::Receiver<Mode>, watch::Receiver<CancellationToken>),
    seed: u64,
) {
    let mut connections = JoinSet::new();
    let mut made = 0;
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            Ok((client, _)) = listener.accept() => {
                if *mode.borrow() == Mode::Refuse {
                    reset(client);
                    continue;
                }
                made += 1;
                let terms = Terms { mode: mode.clone(), cut: cut.borrow().clone(), seed: seed ^ made };
                connections.spawn(connect(client, *target.borrow(), terms));
            }
        }
    }
}

/// Ends a connection as a dead host's successor does, not by a good-bye.
fn reset(stream: TcpStream) {
    let _ = stream.set_zero_linger();
}

async fn connect(client: TcpStream, port: u16, terms: Terms) {
    let target = SocketAddr::from(([127, 0, 0, 1], port));
    let Ok(server) = TcpStream::connect(target).await else { return reset(client) };
    for stream in [&client, &server] {
        let _ = stream.set_nodelay(true);
    }
    let ((client_read, mut client_write), (server_read, mut server_write)) =
        (client.into_split(), server.into_split());
    let (mut out, mut back) =
        (Pump::new(client_read, Way::Out, &terms), Pump::new(server_read, Way::Back, &terms));
    let is_cut = tokio::select! {
        () = terms.cut.cancelled() => true,
        cut = async { tokio::join!(out.run(&mut server_write), back.run(&mut client_write)) } => cut.0 || cut.1,
    };
    if is_cut {
        for (read, write) in [(out.from, client_write), (back.from, server_write)] {
            if let Ok(stream) = read.reunite(write) {
                reset(stream);
            }
        }
    }
}

/// One direction of one connection.
struct Pump {
    from: OwnedReadHalf,
    way: Way,
    mode: watch::Receiver<Mode>,
    rng: StdRng,
    /// Taken off the sender's hands, not yet handed on.
    held: Vec<u8>,
    passed: usize,
}

impl Pump {
    fn new(from: OwnedReadHalf, way: Way, terms: &Terms) -> Self {
        let rng = StdRng::seed_from_u64(terms.seed);
        Self { from, way, mode: terms.mode.clone(), rng, held: Vec::new(), passed: 0 }
    }

    /// Hands on until the sender is done; true: the connection is to be reset.
    async fn run(&mut self, to: &mut OwnedWriteHalf) -> bool {
        let mut piece = vec![0; 16 << 10];
        let mut open = true;
        loop {
            let waits = self.waits();
            if !waits && !self.held.is_empty() {
                match self.pass(to).await {
                    Ok(true) => return true,
                    Ok(false) => continue,
                    Err(_) => return true,
                }
            }
            // A partition hides also that the sender went away.
            if !open && !waits {
                return to.shutdown().await.is_err();
            }
            tokio::select! {
                changed = self.mode.changed() => if changed.is_err() { return true },
                read = self.from.read(&mut piece), if open && self.held.len() < HELD_MAX => match read {
                    Ok(0) => open = false,
                    Ok(count) => self.held.extend_from_slice(&piece[..count]),
                    Err(_) if self.waits() => open = false,
                    Err(_) => return true,
                },
            }
        }
    }

    fn waits(&self) -> bool {
        match *self.mode.borrow() {
            Mode::Hold => true,
            Mode::HoldBack => self.way == Way::Back,
            _ => false,
        }
    }

    /// Hands on some of what is held; true: cut in the middle.
    async fn pass(&mut self, to: &mut OwnedWriteHalf) -> std::io::Result<bool> {
        let mode = *self.mode.borrow();
        let mut count = self.held.len();
        match mode {
            Mode::Late(most) => sleep(most.mul_f64(self.rng.random())).await,
            Mode::Drip(per_second) => {
                count = count.min((per_second / 20).max(1));
                sleep(Duration::from_millis(50)).await;
            }
            Mode::Truncate(most) if self.way == Way::Back => count = count.min(most - self.passed.min(most)),
            _ => {}
        }
        to.write_all(&self.held[..count]).await?;
        self.held.drain(..count);
        self.passed += count;
        Ok(matches!(mode, Mode::Truncate(most) if self.way == Way::Back && self.passed >= most))
    }
}
