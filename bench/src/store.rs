//! Row 8: what a logged publish costs Redis, beside the rival's way on the same server.
//!
//! The rival keeps a channel's history and publishes in one Lua script per message. [`RIVAL`] does what
//! Centrifugo's documented script does for a channel with history, written anew: read or set the epoch,
//! count the offset, keep both alive, add to the stream with an exact bound, keep it alive, publish the
//! payload with offset and epoch in front.

use crate::{
    proc::{Watch, micros},
    sheet::Sheet,
};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use fred::{
    prelude::{Builder, Client, ClientLike, Config, LuaInterface},
    types::RespVersion,
};
use futures::future::try_join_all;
use plexus_bus::{Append, Appended, Bus, Claim, Grant, Incarnation, NodeName, Payload, Spot, Stage, Taken};
use plexus_proto::bus::{LogEntry, LogMessage};
use plexus_tests::redis::Server;
use prost::Message as _;

const RIVAL: &str = "
local epoch = redis.call('HGET', KEYS[2], 'epoch')
if not epoch then
  epoch = ARGV[2]
  redis.call('HSET', KEYS[2], 'epoch', epoch)
end
local top = redis.call('HINCRBY', KEYS[2], 'top', 1)
redis.call('EXPIRE', KEYS[2], 2592000)
if top == 1 then redis.call('DEL', KEYS[1]) end
redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[3], top .. '-0', 'd', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('PUBLISH', ARGV[5], top .. ':' .. epoch .. ':' .. ARGV[1])
return { top, epoch }
";

const BYTES: usize = 256;
/// Publishers at once; each waits for its answer.
const LANES: usize = 16;
/// Rounds of each publisher.
const ROUNDS: u64 = 1_500;
/// Messages that are ready together.
const BURST: u64 = 16;
/// Messages kept, on either side.
const KEEP: u64 = 100;

/// One run.
pub(crate) async fn run(sheet: &mut Sheet) -> Result<()> {
    let server = Server::start();
    let bus = Bus::open(&plexus_bus::Config { url: server.url(), ..Default::default() }).await?;
    let lanes = open(&bus).await?;
    let mut config = Config::from_url(&server.url())?;
    config.version = RespVersion::RESP3;
    let client = Builder::from_config(config).build()?;
    client.init().await?;
    let script: String = client.script_load(RIVAL).await?;
    // Alone and in bursts; the first pass fills logs and caches.
    for (name, burst) in [("", 1), ("store.alone", 1), ("", BURST), ("store.burst", BURST)] {
        let watch = Watch::begin(&[server.pid()])?;
        try_join_all(lanes.iter().map(|lane| lane.rounds(&bus, burst))).await?;
        let ours = watch.end()?.1[0];
        let watch = Watch::begin(&[server.pid()])?;
        try_join_all((0..LANES).map(|lane| rival(&client, &script, lane, burst))).await?;
        let theirs = watch.end()?.1[0];
        if !name.is_empty() {
            sheet.measure(name, micros(ours) / messages(burst));
            sheet.baseline(name, micros(theirs) / messages(burst));
        }
    }
    client.quit().await?;
    bus.close().await;
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn messages(burst: u64) -> f64 {
    (LANES as u64 * ROUNDS * burst) as f64
}

/// A node with one open log.
struct Lane {
    node: NodeName,
    grant: Grant,
    next: std::cell::Cell<u64>,
}

async fn open(bus: &Bus) -> Result<Vec<Lane>> {
    let worker: Incarnation = "bench.0000000000000001".into();
    bus.renew(&worker, true).await?;
    let mut lanes = Vec::new();
    for lane in 0..LANES {
        let node = NodeName::new("bench", &format!("n{lane}"))?;
        bus.enlist(&node, node.as_str().as_bytes()).await?;
        let claim = Claim { node: node.clone(), floor: 0, from: None };
        let Taken::Epochs(epochs) = bus.take(&worker, 1, &[claim]).await? else {
            anyhow::bail!("the lease was lost")
        };
        let epoch = epochs.first().copied().flatten().context("the node is free")?;
        let grant = Grant { epoch, nonce: 1 };
        let first = Stage::First { sweep: false };
        bus.open_logs(&node, grant, &[Bytes::from_static(b"bench")], Bytes::new(), first).await?;
        lanes.push(Lane { node, grant, next: std::cell::Cell::new(1) });
    }
    Ok(lanes)
}

impl Lane {
    /// Appends what is ready in one entry, again and again; waits for each answer, as a node's writer does.
    async fn rounds(&self, bus: &Bus, burst: u64) -> Result<()> {
        let entry = self.entry(burst);
        for _ in 0..ROUNDS {
            let first = self.next.get();
            self.next.set(first + burst);
            let append = Append {
                topic: Bytes::from_static(b"bench"),
                first,
                last: first + burst - 1,
                keep: KEEP.div_ceil(burst),
                entry: Payload::encoded(entry.clone()),
            };
            let done = bus.append(&self.node, self.grant, vec![append]).await?;
            ensure!(done == Appended::Done(vec![Spot::Logged]), "{done:?}");
        }
        Ok(())
    }

    /// An entry of the size that a worker writes.
    fn entry(&self, burst: u64) -> Bytes {
        let message = LogMessage {
            id: vec![1; 46].into(),
            data: vec![b'.'; BYTES].into(),
            author: vec![2; 38].into(),
            seqno: Some(1 << 60),
            received_at: Some(std::time::SystemTime::now().into()),
            ..LogMessage::default()
        };
        let messages = (0..burst).map(|_| message.clone()).collect();
        let Grant { epoch, nonce } = self.grant;
        LogEntry { epoch, nonce, seq: burst, messages, ..LogEntry::default() }.encode_to_vec().into()
    }
}

/// One script per message; those that are ready together are sent together.
async fn rival(client: &Client, script: &str, lane: usize, burst: u64) -> Result<()> {
    let keys = vec![format!("rival.stream.{lane}"), format!("rival.meta.{lane}")];
    let words = [".".repeat(BYTES), "AbCd".into(), KEEP.to_string(), "300".into(), format!("rival.{lane}")];
    for _ in 0..ROUNDS {
        let ready = (0..burst).map(|_| client.evalsha::<(), _, _, _>(script, keys.clone(), words.to_vec()));
        try_join_all(ready).await?;
    }
    Ok(())
}
