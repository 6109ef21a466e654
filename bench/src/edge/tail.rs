//! Row 14: how long a message takes from a publisher to 200 readers, with a log and over Redis, beside
//! Centrifugo with its Redis engine and a history. The load is the same for both: that which takes 30 % of
//! two cores in the rival's processes, or in ours where there is no rival.

use super::{
    MARK, connect,
    crowd::{Place, read_to},
    dialect::{Dialect, ws},
    payload,
    rival::Centrifugo,
};
use crate::{
    client, clock,
    fleet::{Fleet, TOPIC},
    proc::{Watch, micros},
    sheet::Sheet,
};
use anyhow::{Context, Result, bail};
use bytes::{Buf, BytesMut};
use plexus_tests::redis;
use serde_json::json;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

const READERS: usize = 200;
const BYTES: usize = 256;
/// Share of the two cores.
const SHARE: f64 = 0.3;
const CORES: f64 = 2.0;
/// Messages a second by which the load is found.
const TRIED: f64 = 60.0;
const TRY: Duration = Duration::from_millis(1_500);
const WARM: Duration = Duration::from_millis(500);
const DURING: Duration = Duration::from_secs(4);

/// One run.
pub(crate) async fn run(sheet: &mut Sheet) -> Result<()> {
    let server = redis::Server::start();
    let rival = Centrifugo::start(&server.url()).await?;
    let mut rate = None;
    if let Some(rival) = &rival {
        let place = Place { dialect: Dialect::Rival, address: rival.address, node: "", topic: TOPIC };
        let pids = [rival.pid()?, server.pid()];
        let found = find(place, &pids).await?;
        let (took, share) = load(place, &pids, found, DURING).await?;
        sheet.baseline("tail.p50", clock::quantile(&took, 0.5) / 1e3);
        sheet.baseline("tail.p99", clock::quantile(&took, 0.99) / 1e3);
        sheet.baseline("tail.share", share * 100.0);
        rate = Some(found);
    }
    drop((rival, server));
    let fleet = Fleet::apart(&[]).await;
    let spec = json!({ "listenAddresses": ["/ip4/127.0.0.1/tcp/0"], "topics": [{ "topic": TOPIC }] });
    fleet.grow(0, 1, &spec).await?;
    let address = fleet.gateway.address;
    let place = Place { dialect: Dialect::WebSocket, address, node: "n0", topic: TOPIC };
    let redis = fleet.redis.as_ref().context("there is Redis")?.pid();
    let pids = [fleet.gateway.pid(), fleet.host(), redis];
    let rate = match rate {
        Some(rate) => rate,
        None => find(place, &pids).await?,
    };
    let (took, share) = load(place, &pids, rate, DURING).await?;
    sheet.measure("tail.p50", clock::quantile(&took, 0.5) / 1e3);
    sheet.measure("tail.p99", clock::quantile(&took, 0.99) / 1e3);
    sheet.measure("tail.share", share * 100.0);
    sheet.measure("tail.rate", rate);
    Ok(())
}

/// Finds the rate that takes the share.
async fn find(place: Place, pids: &[u32]) -> Result<f64> {
    let (_, share) = load(place, pids, TRIED, TRY).await?;
    Ok((TRIED * SHARE / share).min(1_000.0))
}

/// Publishes at a rate; answers how long each message took to each reader, in µs, and the share of the
/// cores that the processes used.
async fn load(place: Place, pids: &[u32], rate: f64, during: Duration) -> Result<(Vec<f64>, f64)> {
    let counts = Arc::new(AtomicBool::new(false));
    let mut readers = JoinSet::new();
    for _ in 0..READERS {
        let socket = place.open().await?;
        readers.spawn(read(socket, Arc::clone(&counts), place.dialect));
    }
    let mut publisher = JoinSet::new();
    publisher.spawn(publish(place, rate));
    let whole = async {
        sleep(WARM).await;
        counts.store(true, Ordering::Relaxed);
        let watch = Watch::begin(pids)?;
        sleep(during).await;
        counts.store(false, Ordering::Relaxed);
        let (elapsed, used) = watch.end()?;
        anyhow::Ok(micros(used.iter().sum()) / micros(elapsed) / CORES)
    };
    let share = tokio::select! {
        share = whole => share?,
        Some(ended) = publisher.join_next() => bail!("the publisher ended: {ended:?}"),
    };
    publisher.shutdown().await;
    // Readers end by themselves when nothing comes any more.
    let mut took = Vec::new();
    while let Some(read) = readers.join_next().await {
        took.extend(read??);
    }
    Ok((took, share))
}

async fn publish(place: Place, rate: f64) -> Result<()> {
    let mut ticks = interval(Duration::from_secs_f64(1.0 / rate));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    if place.dialect == Dialect::WebSocket {
        let (mut speaks, mut hears) = client::session(place.address).await?;
        let speak = async {
            for id in 1.. {
                ticks.tick().await;
                speaks.publish(id, place.node, place.topic, payload(BYTES)).await?;
                speaks.flush().await?;
            }
            anyhow::Ok(())
        };
        let hear = async {
            loop {
                hears.hear().await?;
            }
        };
        return tokio::select! { done = speak => done, done = hear => done };
    }
    let mut socket = connect(place.address).await?;
    socket.write_all(&place.dialect.opens().unwrap_or_default()).await?;
    read_to(&mut socket, b"\r\n\r\n").await?;
    let connect = [4, 8, 1, 0x22, 0];
    socket.write_all(&ws(&connect)).await?;
    let (mut hears, mut speaks) = socket.into_split();
    let speak = async {
        for id in 2.. {
            ticks.tick().await;
            speaks.write_all(&rival_publish(id, place.topic)).await?;
        }
        anyhow::Ok(())
    };
    let hear = async {
        let mut rest = [0; 4096];
        while hears.read(&mut rest).await? > 0 {}
        bail!("the rival closed the publisher's connection")
    };
    tokio::select! { done = speak => done, done = hear => done }
}

/// A publish of the rival's protocol.
fn rival_publish(id: u32, topic: &str) -> Vec<u8> {
    let field = |out: &mut Vec<u8>, tag: u8, bytes: &[u8]| {
        out.push(tag);
        prost::encoding::encode_varint(bytes.len() as u64, out);
        out.extend_from_slice(bytes);
    };
    let (mut request, mut command, mut out) = (Vec::new(), vec![8], Vec::new());
    field(&mut request, 0x0a, topic.as_bytes());
    field(&mut request, 0x12, &payload(BYTES));
    prost::encoding::encode_varint(id.into(), &mut command);
    field(&mut command, 0x3a, &request);
    prost::encoding::encode_varint(command.len() as u64, &mut out);
    out.extend_from_slice(&command);
    ws(&out)
}

/// Reads messages until nothing comes for a while; answers the ages of those that count.
async fn read(mut socket: TcpStream, counts: Arc<AtomicBool>, dialect: Dialect) -> Result<Vec<f64>> {
    let (mut buffer, mut took) = (BytesMut::with_capacity(8 << 10), Vec::new());
    loop {
        let read = tokio::time::timeout(Duration::from_millis(1_000), socket.read_buf(&mut buffer)).await;
        match read {
            Ok(Ok(1..)) => {}
            Ok(ended) => bail!("a reader's connection ended: {dialect:?}, {ended:?}"),
            Err(_) if took.is_empty() => bail!("nothing arrives"),
            Err(_) => return Ok(took),
        }
        while let Some(end) = buffer.windows(MARK.len()).position(|bytes| bytes == MARK) {
            let message = (end + MARK.len()).checked_sub(BYTES).context("a whole message")?;
            if counts.load(Ordering::Relaxed) {
                took.extend(clock::age(&buffer[message..]).map(micros));
            }
            buffer.advance(end + MARK.len());
        }
    }
}
