//! Rows 15 and 16: how soon the gateway notices that a client is lost or frozen, and how soon clients hear
//! that the gateway goes.

use super::{
    crowd::Place,
    dialect::{Dialect, http1},
};
use crate::{fleet::TOPIC, sheet::Sheet};
use anyhow::{Context, Result, ensure};
use plexus_tests::process::Plexus;
use rustix::process::{Pid, Signal, kill_process};
use std::time::{Duration, Instant};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

const DIALECTS: [Dialect; 3] = [Dialect::WebSocket, Dialect::Sse, Dialect::Grpc];
/// How often each way of getting lost is tried.
const TRIES: usize = 7;
/// Time between two looks.
const LOOK: Duration = Duration::from_micros(200);
/// How long a node takes to listen, amply.
const REST: Duration = Duration::from_secs(2);
/// Longest wait for anything here.
const PATIENCE: Duration = Duration::from_secs(70);
/// Readers of each dialect that are told.
const TOLD: usize = 3;

/// One run.
pub(crate) async fn run(sheet: &mut Sheet) -> Result<()> {
    let gateway = started().await?;
    let mut worst: f64 = 0.0;
    for dialect in DIALECTS {
        for resets in [false, true] {
            let mut took = Vec::new();
            for _ in 0..TRIES {
                took.push(lost(&gateway, dialect, resets).await?);
            }
            worst = worst.max(crate::clock::quantile(&took, 0.5));
        }
    }
    sheet.measure("end.lost", worst);
    let (first, last) = told(gateway).await?;
    sheet.measure("end.first", first);
    sheet.measure("end.last", last);
    Ok(())
}

fn place(gateway: &Plexus, dialect: Dialect) -> Place {
    Place { dialect, address: gateway.address, node: "", topic: TOPIC }
}

/// Starts a gateway and makes its node, which opens files of its own.
async fn started() -> Result<Plexus> {
    let gateway = Plexus::start("up", "memory:", &[]).await;
    drop(place(&gateway, Dialect::WebSocket).open().await?);
    sleep(REST).await;
    Ok(gateway)
}

/// Open files of a process: a connection is one, and is gone when the process closes it.
fn files(gateway: &Plexus) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{}/fd", gateway.pid()))?.count())
}

/// Opens a reader and loses it; answers how many ms later the gateway has closed its connection.
async fn lost(gateway: &Plexus, dialect: Dialect, resets: bool) -> Result<f64> {
    let before = settled(gateway).await?;
    let socket = place(gateway, dialect).open().await?;
    ensure!(files(gateway)? > before, "a connection is a file");
    if resets {
        socket.set_zero_linger()?;
    }
    let started = Instant::now();
    drop(socket);
    gone(gateway, before, started, LOOK).await
}

/// How many files there are once their number stays the same.
async fn settled(gateway: &Plexus) -> Result<usize> {
    loop {
        let before = files(gateway)?;
        sleep(Duration::from_millis(30)).await;
        if files(gateway)? == before {
            return Ok(before);
        }
    }
}

async fn gone(gateway: &Plexus, before: usize, started: Instant, look: Duration) -> Result<f64> {
    while files(gateway)? > before {
        ensure!(started.elapsed() < PATIENCE, "a lost client is not noticed");
        sleep(look).await;
    }
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

/// How long clients stay, in seconds, that have frozen: they answer nothing and read nothing.
pub(crate) async fn frozen() -> Result<Vec<(&'static str, f64)>> {
    let mut all = JoinSet::new();
    for (name, dialect) in [("end.frozen.ws", Dialect::WebSocket), ("end.frozen.grpc", Dialect::Grpc)] {
        all.spawn(async move {
            let gateway = started().await?;
            let before = settled(&gateway).await?;
            let started = Instant::now();
            let socket = place(&gateway, dialect).open().await?;
            let took = gone(&gateway, before, started, Duration::from_millis(20)).await?;
            drop(socket);
            anyhow::Ok((name, took / 1e3))
        });
    }
    let mut took = Vec::new();
    while let Some(one) = all.join_next().await {
        took.push(one??);
    }
    Ok(took)
}

/// Sends SIGTERM; answers how many ms later the first client and the last heard of it.
async fn told(gateway: Plexus) -> Result<(f64, f64)> {
    let mut sockets = Vec::new();
    for dialect in DIALECTS {
        for _ in 0..TOLD {
            sockets.push(place(&gateway, dialect).open().await?);
        }
    }
    // One that waits for its next request.
    let mut kept = super::connect(gateway.address).await?;
    kept.write_all(&http1("GET /v1/topics", "", b"")).await?;
    sockets.push(kept);
    sleep(Duration::from_millis(300)).await;
    let mut all = JoinSet::new();
    for socket in sockets {
        drain(&socket)?;
        all.spawn(heard(socket));
    }
    let pid = Pid::from_raw(i32::try_from(gateway.pid())?).context("a process")?;
    let started = Instant::now();
    kill_process(pid, Signal::TERM)?;
    let mut took = Vec::new();
    while let Some(heard) = all.join_next().await {
        took.push((heard?? - started).as_secs_f64() * 1e3);
    }
    Ok((crate::clock::quantile(&took, 0.0), crate::clock::quantile(&took, 1.0)))
}

/// Reads away what came before.
fn drain(socket: &TcpStream) -> Result<()> {
    let mut rest = [0; 4096];
    loop {
        match socket.try_read(&mut rest) {
            Ok(size) => ensure!(size > 0, "the connection ended early"),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits until anything comes, or the end.
async fn heard(mut socket: TcpStream) -> Result<Instant> {
    let mut first = [0];
    let read = timeout(PATIENCE, socket.read(&mut first)).await.context("nothing is said")?;
    // A reset is an end as well.
    let _ = read;
    Ok(Instant::now())
}
