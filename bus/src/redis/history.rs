//! Logs of a node's topics, over log.lua. What must be one step under a grant is a function there;
//! plain reads are plain commands.

use super::{
    Redis, names,
    shards::Wanted,
    value::{self, Args},
};
use crate::{
    Append, Appended, Entry, Era, Error, Extent, Grant, Look, NodeName, Opened, Opening, Payload, Position,
    Range, Spot, Stage, Topic,
    port::{Answer, History},
};
use bytes::Bytes;
use fred::types::Value;
use futures::future::try_join_all;
use std::{collections::HashMap, time::Duration};

/// Nodes asked at once; below the bound of the connection's own queue.
const BATCH: usize = 256;

impl Redis {
    /// Calls a function of log.lua.
    async fn log(&self, function: &'static str, node: &NodeName, args: &[Bytes]) -> Result<Value, Error> {
        let key = names::node(node, "f");
        self.call(|| args.iter().cloned().fold(Args::of(function, key.clone(), args.len()), Args::bytes))
            .await
    }

    /// Calls a function of log.lua that writes nothing.
    async fn seen(&self, function: &'static str, node: &NodeName, args: &[Bytes]) -> Result<Value, Error> {
        let key = names::node(node, "f");
        self.ask(|| args.iter().cloned().fold(Args::of(function, key.clone(), args.len()), Args::bytes)).await
    }

    async fn tails(&self, node: &NodeName, topics: &[&Topic]) -> Result<Vec<Option<Position>>, Error> {
        let mut args = Args::new(1 + topics.len()).bytes(names::node(node, "f"));
        for topic in topics {
            args.push([b"t:", topic.as_ref()].concat());
        }
        let tails = value::list(self.run("HMGET", args).await?)?;
        if tails.len() != topics.len() {
            return Err(Error::Unreadable("expected a tail per topic".into()));
        }
        tails.into_iter().map(|tail| value::maybe(tail)?.map(|tail| value::spot(&tail)).transpose()).collect()
    }
}

fn words<const N: usize>(grant: Grant, more: [Bytes; N]) -> Vec<Bytes> {
    let mut out = vec![decimal(grant.epoch), decimal(grant.nonce)];
    out.extend(more);
    out
}

fn decimal(number: u64) -> Bytes {
    number.to_string().into()
}

impl History for Redis {
    fn open<'a>(
        &'a self,
        node: &'a NodeName,
        grant: Grant,
        topics: &'a [Topic],
        marker: Bytes,
        stage: Stage,
    ) -> Answer<'a, Opened> {
        Box::pin(async move {
            let stage = match stage {
                Stage::First { sweep } => sweep.into(),
                Stage::Later => 2,
            };
            let mut args = words(grant, [decimal(stage), marker]);
            args.extend(topics.iter().cloned());
            opened(self.log("plx1_open", node, &args).await?)
        })
    }

    fn append<'a>(&'a self, node: &'a NodeName, grant: Grant, entries: Vec<Append>) -> Answer<'a, Appended> {
        Box::pin(async move {
            let mut args = words(grant, []);
            args.reserve(entries.len() * 5);
            for append in &entries {
                let first = append
                    .first
                    .checked_sub(1)
                    .ok_or_else(|| Error::Invalid("messages count from 1".into()))?;
                args.extend([
                    append.topic.clone(),
                    Position::new(grant.epoch, first).to_string().into(),
                    Position::new(grant.epoch, append.last).to_string().into(),
                    decimal(append.keep),
                    append.entry.to_bytes(),
                ]);
            }
            let answer = self.log("plx1_append", node, &args).await?;
            if matches!(answer, Value::Null) {
                return Ok(Appended::Fenced);
            }
            let spots: Vec<Spot> = value::list(answer)?.into_iter().map(became).collect::<Result<_, _>>()?;
            if spots.len() != entries.len() {
                return Err(Error::Unreadable("expected a word per entry".into()));
            }
            Ok(Appended::Done(spots))
        })
    }

    fn look<'a>(&'a self, node: &'a NodeName) -> Answer<'a, Look> {
        Box::pin(async move { look(self.seen("plx1_look", node, &[]).await?) })
    }

    fn stamp<'a>(&'a self, node: &'a NodeName, grant: Grant, era: Era) -> Answer<'a, bool> {
        Box::pin(async move {
            let era = Bytes::copy_from_slice(era.as_bytes());
            value::yes(self.log("plx1_stamp", node, &words(grant, [era])).await?)
        })
    }

    fn tops<'a>(&'a self, wanted: &'a [(NodeName, Topic)]) -> Answer<'a, Vec<Option<Position>>> {
        Box::pin(async move {
            let mut nodes: HashMap<&NodeName, Vec<usize>> = HashMap::new();
            for (at, (node, _)) in wanted.iter().enumerate() {
                nodes.entry(node).or_default().push(at);
            }
            let nodes: Vec<(&NodeName, Vec<usize>)> = nodes.into_iter().collect();
            let mut out = vec![None; wanted.len()];
            for batch in nodes.chunks(BATCH) {
                let asked = batch.iter().map(|(node, places)| async move {
                    let topics: Vec<&Topic> = places.iter().map(|at| &wanted[*at].1).collect();
                    self.tails(node, &topics).await
                });
                for ((_, places), tails) in batch.iter().zip(try_join_all(asked).await?) {
                    for (at, tail) in places.iter().zip(tails) {
                        out[*at] = tail;
                    }
                }
            }
            Ok(out)
        })
    }

    fn read<'a>(&'a self, node: &'a NodeName, topic: &'a Topic, range: Range) -> Answer<'a, Vec<Entry>> {
        Box::pin(async move {
            if range.limit == 0 || range.until.is_some_and(|until| until < range.from) {
                return Ok(Vec::new());
            }
            let from = range.from.to_string();
            let until = range.until.map_or_else(|| "+".into(), |until| until.to_string());
            let args = Args::new(5).bytes(names::log(node, topic));
            let limit = range.limit as u64;
            let answer = if range.newest_first {
                self.run("XREVRANGE", args.bytes(until).bytes(from).text("COUNT").number(limit)).await?
            } else {
                self.run("XRANGE", args.bytes(from).bytes(until).text("COUNT").number(limit)).await?
            };
            value::list(answer)?.into_iter().map(entry).collect()
        })
    }

    fn extent<'a>(&'a self, node: &'a NodeName, topic: &'a Topic) -> Answer<'a, Option<Extent>> {
        Box::pin(async move {
            let answer = self.seen("plx1_extent", node, std::slice::from_ref(topic)).await?;
            if matches!(answer, Value::Null) {
                return Ok(None);
            }
            let [top, entries, oldest] = value::some(answer)?;
            let oldest = Some(value::bytes(oldest)?).filter(|oldest| !oldest.is_empty());
            let oldest = oldest.map(|oldest| value::spot(&oldest)).transpose()?;
            Ok(Some(Extent { oldest, top: value::position(top)?, entries: value::number(entries)? }))
        })
    }

    fn trim<'a>(&'a self, node: &'a NodeName, grant: Grant, topic: &'a Topic, keep: u64) -> Answer<'a, bool> {
        Box::pin(async move {
            value::yes(self.log("plx1_trim", node, &words(grant, [topic.clone(), decimal(keep)])).await?)
        })
    }

    fn replicate<'a>(
        &'a self,
        node: &'a NodeName,
        replicas: u32,
        disk: bool,
        timeout: Duration,
    ) -> Answer<'a, u32> {
        Box::pin(async move {
            if replicas == 0 && !disk {
                return Ok(0);
            }
            let key = names::node(node, "f");
            let shard = self.shards.at(&key)?;
            shard.waiting.wait(Wanted { replicas, disk }, key, timeout).await
        })
    }

    fn erase<'a>(&'a self, node: &'a NodeName, grant: Grant) -> Answer<'a, bool> {
        Box::pin(async move { value::yes(self.log("plx1_erase", node, &words(grant, [])).await?) })
    }
}

fn opened(answer: Value) -> Result<Opened, Error> {
    let mut words = value::list(answer)?.into_iter();
    let first = value::bytes(words.next().unwrap_or(Value::Null))?;
    if first == "LOST" {
        return Ok(Opened::Lost);
    }
    if first == "FENCED" {
        return Ok(Opened::Fenced(value::number(words.next().unwrap_or(Value::Null))?));
    }
    let mut openings = Vec::with_capacity(words.len() / 3);
    while let (Some(topic), Some(prev), Some(sure)) = (words.next(), words.next(), words.next()) {
        openings.push(Opening {
            topic: value::bytes(topic)?,
            prev: value::position(prev)?,
            sure: value::yes(sure)?,
        });
    }
    Ok(Opened::Done(openings))
}

fn became(word: Value) -> Result<Spot, Error> {
    match word {
        Value::Integer(1) => Ok(Spot::Logged),
        other => {
            let tail = value::bytes(other)?;
            Ok(Spot::Off(if tail.is_empty() { None } else { Some(value::spot(&tail)?) }))
        }
    }
}

fn look(answer: Value) -> Result<Look, Error> {
    let [era, fence] = value::some(answer)?;
    let (mut epoch, mut nonce, mut stamped, mut tails) = (0, None, None, Vec::new());
    for (field, data) in value::pairs(fence)? {
        match field.as_ref() {
            b"e" => epoch = value::number(data)?,
            // Empty where the fence was made with the record and never opened.
            b"n" => nonce = Some(value::bytes(data)?).filter(|nonce| !nonce.is_empty()),
            b"era" => stamped = Some(value::text(data)?.into()),
            other if other.starts_with(b"t:") => tails.push((field.slice(2..), value::position(data)?)),
            _ => {}
        }
    }
    tails.sort_unstable();
    let grant =
        nonce.map(|nonce| Ok::<_, Error>(Grant { epoch, nonce: value::digits(&nonce)? })).transpose()?;
    Ok(Look { era: value::text(era)?.into(), grant, stamped, tails })
}

fn entry(answer: Value) -> Result<Entry, Error> {
    let [id, fields] = value::some(answer)?;
    let data = value::pairs(fields)?.into_iter().find(|(name, _)| name == "d");
    let (_, data) = data.ok_or_else(|| Error::Unreadable("expected an entry with data".into()))?;
    Ok(Entry { id: value::position(id)?, entry: Payload::encoded(value::bytes(data)?) })
}
