//! Leases of workers, grants of nodes, the directory, and interest of gateways, over ownership.lua.

use super::{
    Redis, names,
    value::{self, Args},
};
use crate::{
    Claim, Enlisted, Error, GatewayId, Grant, Incarnation, NodeName, Owned, Owner, Renewed, Taken, Topic,
    port::{Answer, Ownership},
};
use bytes::Bytes;
use fred::types::Value;
use rand::Rng;

/// Life of a gateway's lease.
const GATEWAY_LEASE_MS: u64 = 15_000;

impl Redis {
    /// Calls a function of ownership.lua.
    async fn owning(&self, function: &'static str, args: &[Bytes]) -> Result<Value, Error> {
        let begin = || Args::of(function, Bytes::from_static(names::ERA.as_bytes()), args.len());
        self.call(|| args.iter().cloned().fold(begin(), Args::bytes)).await
    }
}

fn word(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn decimal(number: u64) -> Bytes {
    number.to_string().into()
}

impl Ownership for Redis {
    fn renew<'a>(&'a self, worker: &'a Incarnation, fresh: bool) -> Answer<'a, Renewed> {
        Box::pin(async move {
            let answer = self.owning("plx1_renew", &[word(worker), decimal(fresh.into())]).await?;
            if matches!(answer, Value::Null) {
                return Ok(Renewed::Lost);
            }
            let [era, changes, replicas] = value::some(answer)?;
            let replicas = u32::try_from(value::number(replicas)?).unwrap_or(u32::MAX);
            Ok(Renewed::Held { era: value::text(era)?.into(), changes: value::number(changes)?, replicas })
        })
    }

    fn take<'a>(&'a self, worker: &'a Incarnation, nonce: u64, claims: &'a [Claim]) -> Answer<'a, Taken> {
        Box::pin(async move {
            let spread = rand::rng().random_range(0..1u64 << 20);
            let mut args = vec![word(worker), decimal(nonce), decimal(spread)];
            for claim in claims {
                let from = claim.from.map(decimal).unwrap_or_default();
                args.extend([word(claim.node.as_str()), decimal(claim.floor), from]);
            }
            let answer = self.owning("plx1_take", &args).await?;
            if matches!(answer, Value::Null) {
                return Ok(Taken::Lost);
            }
            let epochs = value::list(answer)?.into_iter().map(|epoch| {
                let epoch = value::bytes(epoch)?;
                if epoch.is_empty() { Ok(None) } else { value::digits(&epoch).map(Some) }
            });
            Ok(Taken::Epochs(epochs.collect::<Result<_, Error>>()?))
        })
    }

    fn release<'a>(&'a self, worker: &'a Incarnation, nodes: &'a [(NodeName, u64)]) -> Answer<'a, usize> {
        Box::pin(async move {
            let mut args = vec![word(worker)];
            for (node, epoch) in nodes {
                args.extend([word(node.as_str()), decimal(*epoch)]);
            }
            let released = value::number(self.owning("plx1_release", &args).await?)?;
            Ok(usize::try_from(released).unwrap_or(usize::MAX))
        })
    }

    fn retire<'a>(&'a self, worker: &'a Incarnation) -> Answer<'a, ()> {
        Box::pin(async move { self.owning("plx1_retire", &[word(worker)]).await.map(|_| ()) })
    }

    fn owned<'a>(&'a self, worker: &'a Incarnation) -> Answer<'a, Owned> {
        Box::pin(async move {
            let answer = self.run("HGETALL", Args::new(1).bytes(names::owned(worker))).await?;
            let mut owned = Owned::default();
            for (field, data) in value::pairs(answer)? {
                if field == "#" {
                    owned.changes = value::number(data)?;
                } else {
                    let data = value::text(data)?;
                    let (epoch, nonce) = data.split_once('|').unwrap_or((&data, ""));
                    owned.nodes.push((name(&field)?, grant(epoch, nonce)?));
                }
            }
            owned.nodes.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            Ok(owned)
        })
    }

    fn owners(&self) -> Answer<'_, Vec<(NodeName, Owner)>> {
        Box::pin(async move {
            let answer = self.run("HGETALL", Args::new(1).text(names::OWNERS)).await?;
            let mut owners = Vec::new();
            for (node, record) in value::pairs(answer)? {
                owners.push((name(&node)?, owner(&value::text(record)?)?));
            }
            owners.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            Ok(owners)
        })
    }

    fn owner<'a>(&'a self, node: &'a NodeName) -> Answer<'a, Option<Owner>> {
        Box::pin(async move {
            let args = Args::new(2).text(names::OWNERS).bytes(word(node.as_str()));
            match self.run("HGET", args).await? {
                Value::Null => Ok(None),
                record => owner(&value::text(record)?).map(Some),
            }
        })
    }

    fn workers(&self) -> Answer<'_, Vec<Incarnation>> {
        Box::pin(async move {
            let answer = value::list(self.owning("plx1_workers", &[]).await?)?;
            let mut workers = answer
                .into_iter()
                .map(|worker| Ok(value::text(worker)?.into()))
                .collect::<Result<Vec<Incarnation>, Error>>()?;
            workers.sort_unstable();
            Ok(workers)
        })
    }

    fn enlist<'a>(&'a self, node: &'a NodeName, peer: &'a [u8]) -> Answer<'a, Enlisted> {
        Box::pin(async move {
            let args = [word(node.as_str()), Bytes::copy_from_slice(peer)];
            match value::bytes(self.owning("plx1_enlist", &args).await?)?.as_ref() {
                b"done" => Ok(Enlisted::Done),
                b"node" => Ok(Enlisted::NodeExists),
                b"peer" => Ok(Enlisted::PeerExists),
                _ => Err(Error::Unreadable("expected done, node or peer".into())),
            }
        })
    }

    fn strike<'a>(
        &'a self,
        worker: &'a Incarnation,
        node: &'a NodeName,
        epoch: u64,
        peer: &'a [u8],
    ) -> Answer<'a, bool> {
        Box::pin(async move {
            let args = [word(worker), word(node.as_str()), decimal(epoch), Bytes::copy_from_slice(peer)];
            value::yes(self.owning("plx1_strike", &args).await?)
        })
    }

    fn find<'a>(&'a self, peer: &'a [u8]) -> Answer<'a, Option<NodeName>> {
        Box::pin(async move {
            let args = Args::new(2).text(names::PEERS).bytes(Bytes::copy_from_slice(peer));
            value::maybe(self.run("HGET", args).await?)?.map(|node| name(&node)).transpose()
        })
    }

    fn attend<'a>(&'a self, gateway: &'a GatewayId) -> Answer<'a, ()> {
        Box::pin(async move {
            let args =
                Args::new(4).bytes(names::gateway(gateway)).text("1").text("PX").number(GATEWAY_LEASE_MS);
            self.run("SET", args).await.map(|_| ())
        })
    }

    fn attending<'a>(&'a self, gateways: &'a [GatewayId]) -> Answer<'a, Vec<bool>> {
        Box::pin(async move {
            if gateways.is_empty() {
                return Ok(Vec::new());
            }
            let mut args = Args::new(gateways.len());
            for gateway in gateways {
                args.push(names::gateway(gateway));
            }
            let leases = value::list(self.run("MGET", args).await?)?;
            Ok(leases.into_iter().map(|lease| !matches!(lease, Value::Null)).collect())
        })
    }

    fn want<'a>(
        &'a self,
        node: &'a NodeName,
        gateway: &'a GatewayId,
        readers: &'a [(Topic, Option<u32>)],
    ) -> Answer<'a, ()> {
        Box::pin(async move {
            let key = names::node(node, "i");
            let (mut set, mut unset) = (Args::new(readers.len() * 2 + 1), Args::new(readers.len() + 1));
            set.push(key.clone());
            unset.push(key);
            for (topic, readers) in readers {
                let field = [gateway.as_bytes(), b" ", topic].concat();
                match readers {
                    None => unset.push(field),
                    Some(readers) => {
                        set.push(field);
                        set.push(decimal((*readers).into()));
                    }
                }
            }
            if set.0.len() > 1 {
                self.run("HSET", set).await?;
            }
            if unset.0.len() > 1 {
                self.run("HDEL", unset).await?;
            }
            Ok(())
        })
    }

    fn wanted<'a>(&'a self, node: &'a NodeName) -> Answer<'a, Vec<(GatewayId, Topic, u32)>> {
        Box::pin(async move {
            let answer = self.run("HGETALL", Args::new(1).bytes(names::node(node, "i"))).await?;
            let mut wanted = Vec::new();
            for (field, readers) in value::pairs(answer)? {
                let at = field.iter().position(|byte| *byte == b' ');
                let at = at.ok_or_else(|| Error::Unreadable("expected a gateway and a topic".into()))?;
                let gateway = value::text(Value::Bytes(field.slice(..at)))?.into();
                let readers = u32::try_from(value::number(readers)?).unwrap_or(u32::MAX);
                wanted.push((gateway, field.slice(at + 1..), readers));
            }
            wanted.sort_unstable();
            Ok(wanted)
        })
    }
}

fn name(bytes: &[u8]) -> Result<NodeName, Error> {
    let text = std::str::from_utf8(bytes).map_err(|_| Error::Unreadable("expected a node".into()))?;
    NodeName::parse(text).map_err(|_| Error::Unreadable("expected a node".into()))
}

fn grant(epoch: &str, nonce: &str) -> Result<Grant, Error> {
    let nonce = if nonce.is_empty() { 0 } else { value::digits(nonce.as_bytes())? };
    Ok(Grant { epoch: value::digits(epoch.as_bytes())?, nonce })
}

fn owner(record: &str) -> Result<Owner, Error> {
    let mut parts = record.splitn(3, '|');
    let mut part = || parts.next().unwrap_or_default();
    let (worker, epoch, nonce) = (part(), part(), part());
    let worker = (!worker.is_empty()).then(|| worker.into());
    Ok(Owner { worker, grant: grant(epoch, nonce)? })
}
