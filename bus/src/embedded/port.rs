//! The handle as a [`Port`]: each method is one function of the tables.

use super::{
    Embedded,
    history::Slot,
    ownership::Seed,
    tables::{self, Tables},
};
use crate::{
    port::{
        Answer, Append, Appended, Claim, Enlisted, Entry, Extent, History, Keys, Live, Look, Opened, Owned,
        Owner, Ownership, Port, Range, Renewed, Stage, Taken, Value, When,
    },
    *,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use std::time::Duration;

impl Port for Embedded {
    fn healthy(&self) -> bool {
        !self.deeds.is_closed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.stop.cancel();
        Box::pin(self.tasks.wait())
    }
}

impl Embedded {
    fn carried(&self, frame: Payload) -> Payload {
        if self.strict { frame.flatten() } else { frame }
    }

    /// Asks something of a node's slot, if it has one.
    fn of_slot<T: Default + Send + 'static>(
        &self,
        node: &NodeName,
        function: impl FnOnce(&Slot) -> T + Send + 'static,
    ) -> Answer<'_, T> {
        let node = node.clone();
        Box::pin(self.ask(move |tables| tables.slot(&node).map(function).unwrap_or_default()))
    }
}

impl Live for Embedded {
    fn publish(&self, subject: Subject, frame: Payload) -> Answer<'_, usize> {
        let frame = self.carried(frame);
        Box::pin(self.ask(move |tables| tables.live.publish(&subject, frame)))
    }

    fn subscribe(&self, subject: Subject, queue: usize) -> Answer<'_, Subscription> {
        // Weak, so that a subscription does not keep a bus alive whose handles are gone.
        let deeds = self.deeds.downgrade();
        let left = subject.clone();
        let end = move || {
            if let Some(deeds) = deeds.upgrade() {
                // Where the queue is full, the sweep finds it.
                let _ = deeds.try_send(Box::new(move |tables: &mut Tables| tables.live.prune(&left)));
            }
        };
        Box::pin(async move { self.ask(move |tables| tables.live.subscribe(subject, queue, end)).await? })
    }
}

impl History for Embedded {
    fn open<'a>(
        &'a self,
        node: &'a NodeName,
        grant: Grant,
        topics: &'a [Topic],
        marker: Bytes,
        stage: Stage,
    ) -> Answer<'a, Opened> {
        let (node, topics) = (node.clone(), topics.to_vec());
        Box::pin(async move {
            let marker = tables::marker(marker)?;
            self.ask(move |tables| tables.open(&node, grant, &topics, &marker, stage)).await?
        })
    }

    fn append<'a>(
        &'a self,
        node: &'a NodeName,
        grant: Grant,
        mut entries: Vec<Append>,
    ) -> Answer<'a, Appended> {
        if self.strict {
            entries.iter_mut().for_each(|append| append.entry = std::mem::take(&mut append.entry).flatten());
        }
        let node = node.clone();
        Box::pin(self.ask(move |tables| tables.append(&node, grant, entries)))
    }

    fn look<'a>(&'a self, node: &'a NodeName) -> Answer<'a, Look> {
        let node = node.clone();
        Box::pin(self.ask(move |tables| match tables.slot(&node) {
            Some(slot) => slot.look(tables.era()),
            None => Slot::default().look(tables.era()),
        }))
    }

    fn stamp<'a>(&'a self, node: &'a NodeName, grant: Grant, era: Era) -> Answer<'a, bool> {
        let node = node.clone();
        Box::pin(self.ask(move |tables| {
            *tables.era() == era && tables.slot_mut(&node).is_some_and(|slot| slot.stamp(grant, &era))
        }))
    }

    fn tops<'a>(&'a self, wanted: &'a [(NodeName, Topic)]) -> Answer<'a, Vec<Option<Position>>> {
        let wanted = wanted.to_vec();
        Box::pin(self.ask(move |tables| {
            wanted.iter().map(|(node, topic)| tables.slot(node).and_then(|slot| slot.top(topic))).collect()
        }))
    }

    fn read<'a>(&'a self, node: &'a NodeName, topic: &'a Topic, range: Range) -> Answer<'a, Vec<Entry>> {
        let topic = topic.clone();
        self.of_slot(node, move |slot| slot.read(&topic, range))
    }

    fn extent<'a>(&'a self, node: &'a NodeName, topic: &'a Topic) -> Answer<'a, Option<Extent>> {
        let topic = topic.clone();
        self.of_slot(node, move |slot| slot.extent(&topic))
    }

    fn trim<'a>(&'a self, node: &'a NodeName, grant: Grant, topic: &'a Topic, keep: u64) -> Answer<'a, bool> {
        let (node, topic) = (node.clone(), topic.clone());
        Box::pin(
            self.ask(move |tables| tables.slot_mut(&node).is_some_and(|slot| slot.trim(grant, &topic, keep))),
        )
    }

    fn replicate<'a>(&'a self, _: &'a NodeName, _: u32, _: bool, _: Duration) -> Answer<'a, u32> {
        Box::pin(async { Err(Error::Unsupported("wait for replicas or a disk")) })
    }

    fn erase<'a>(&'a self, node: &'a NodeName, grant: Grant) -> Answer<'a, bool> {
        let node = node.clone();
        Box::pin(self.ask(move |tables| tables.erase(&node, grant)))
    }
}

impl Ownership for Embedded {
    fn renew<'a>(&'a self, worker: &'a Incarnation, fresh: bool) -> Answer<'a, Renewed> {
        let worker = worker.clone();
        Box::pin(self.ask(move |tables| {
            let (era, now) = (tables.era().clone(), tables.now());
            tables.control.renew(&worker, fresh, &era, now)
        }))
    }

    fn take<'a>(&'a self, worker: &'a Incarnation, nonce: u64, claims: &'a [Claim]) -> Answer<'a, Taken> {
        let (worker, claims) = (worker.clone(), claims.to_vec());
        let random = rand::random_range(0..1 << 20);
        Box::pin(self.ask(move |tables| {
            let (seed, now) = (Seed { micros: tables.micros(), random }, tables.now());
            let (taken, changes) = tables.control.take(&worker, nonce, &claims, seed, now);
            tables.tell(changes);
            taken
        }))
    }

    fn release<'a>(&'a self, worker: &'a Incarnation, nodes: &'a [(NodeName, u64)]) -> Answer<'a, usize> {
        let (worker, nodes) = (worker.clone(), nodes.to_vec());
        Box::pin(self.ask(move |tables| {
            let changes = tables.control.release(&worker, &nodes);
            let released = changes.len();
            tables.tell(changes);
            released
        }))
    }

    fn retire<'a>(&'a self, worker: &'a Incarnation) -> Answer<'a, ()> {
        let worker = worker.clone();
        Box::pin(self.ask(move |tables| tables.control.retire(&worker)))
    }

    fn owned<'a>(&'a self, worker: &'a Incarnation) -> Answer<'a, Owned> {
        let worker = worker.clone();
        Box::pin(self.ask(move |tables| tables.control.owned(&worker)))
    }

    fn owners(&self) -> Answer<'_, Vec<(NodeName, Owner)>> {
        Box::pin(self.ask(|tables| tables.control.owners()))
    }

    fn owner<'a>(&'a self, node: &'a NodeName) -> Answer<'a, Option<Owner>> {
        let node = node.clone();
        Box::pin(self.ask(move |tables| tables.control.owner(&node)))
    }

    fn workers(&self) -> Answer<'_, Vec<Incarnation>> {
        Box::pin(self.ask(|tables| tables.control.workers(tables.now())))
    }

    fn enlist<'a>(&'a self, node: &'a NodeName, peer: &'a [u8]) -> Answer<'a, Enlisted> {
        let (node, peer) = (node.clone(), Bytes::copy_from_slice(peer));
        Box::pin(self.ask(move |tables| tables.control.enlist(&node, &peer)))
    }

    fn strike<'a>(
        &'a self,
        worker: &'a Incarnation,
        node: &'a NodeName,
        epoch: u64,
        peer: &'a [u8],
    ) -> Answer<'a, bool> {
        let (worker, node, peer) = (worker.clone(), node.clone(), Bytes::copy_from_slice(peer));
        Box::pin(self.ask(move |tables| {
            let struck = tables.control.strike(&worker, &node, epoch, &peer);
            let done = struck.is_some();
            tables.tell(struck);
            done
        }))
    }

    fn find<'a>(&'a self, peer: &'a [u8]) -> Answer<'a, Option<NodeName>> {
        let peer = Bytes::copy_from_slice(peer);
        Box::pin(self.ask(move |tables| tables.control.find(&peer)))
    }

    fn attend<'a>(&'a self, gateway: &'a GatewayId) -> Answer<'a, ()> {
        let gateway = gateway.clone();
        Box::pin(self.ask(move |tables| {
            let now = tables.now();
            tables.control.attend(&gateway, now);
        }))
    }

    fn attending<'a>(&'a self, gateways: &'a [GatewayId]) -> Answer<'a, Vec<bool>> {
        let gateways = gateways.to_vec();
        Box::pin(self.ask(move |tables| tables.control.attending(&gateways, tables.now())))
    }

    fn want<'a>(
        &'a self,
        node: &'a NodeName,
        gateway: &'a GatewayId,
        readers: &'a [(Topic, Option<u32>)],
    ) -> Answer<'a, ()> {
        let (node, gateway, readers) = (node.clone(), gateway.clone(), readers.to_vec());
        Box::pin(async move { self.ask(move |tables| tables.want(&node, &gateway, &readers)).await? })
    }

    fn wanted<'a>(&'a self, node: &'a NodeName) -> Answer<'a, Vec<(GatewayId, Topic, u32)>> {
        self.of_slot(node, Slot::wanted)
    }
}

impl Keys for Embedded {
    fn get(&self, key: Key) -> Answer<'_, Option<Value>> {
        Box::pin(self.ask(move |tables| tables.get(&key)))
    }

    fn put(&self, key: Key, data: Bytes, when: When, ttl: Option<Duration>) -> Answer<'_, Option<u64>> {
        Box::pin(async move { self.ask(move |tables| tables.put(key, data, when, ttl)).await? })
    }

    fn delete(&self, key: Key, when: When) -> Answer<'_, bool> {
        Box::pin(self.ask(move |tables| tables.delete(key, when)))
    }

    fn list(&self, prefix: String) -> Answer<'_, Vec<(String, Value)>> {
        Box::pin(self.ask(move |tables| tables.names.list(&prefix, tables.now())))
    }

    fn put_state<'a>(&'a self, node: &'a NodeName, grant: Grant, state: Bytes) -> Answer<'a, bool> {
        let node = node.clone();
        Box::pin(async move { self.ask(move |tables| tables.put_state(&node, grant, state)).await? })
    }

    fn get_state<'a>(&'a self, node: &'a NodeName) -> Answer<'a, (Option<Value>, Option<Bytes>)> {
        self.of_slot(node, |slot| (slot.record.clone(), slot.state()))
    }
}
