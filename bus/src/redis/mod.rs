//! Port over Redis.
#![allow(unused_imports, missing_docs)]
use crate::{port::*, subscription::Subscription, *};
use bytes::Bytes;
use futures::future::BoxFuture;
use std::time::Duration;
pub struct Redis;
impl Redis {
    pub async fn connect(_config: &Config, _metrics: Metrics) -> Result<Self, Error> {
        Ok(Self)
    }
}
impl Live for Redis {
    fn publish(&self, _subject: Subject, _frame: Payload) -> Answer<'_, usize> {
        Box::pin(async { Err(Error::Unsupported("do this yet")) })
    }
    fn subscribe(&self, _subject: Subject, _queue: usize) -> Answer<'_, Subscription> {
        Box::pin(async { Err(Error::Unsupported("do this yet")) })
    }
}
impl History for Redis {
    fn open<'a>(
        &'a self,
        _node: &'a NodeName,
        _grant: Grant,
        _topics: &'a [Topic],
        _marker: Bytes,
        _sweep: bool,
    ) -> Answer<'a, Opened> {
        Box::pin(async { Err(Error::Unsupported("do this yet")) })
    }
    fn append<'a>(
        &'a self,
        _node: &'a NodeName,
        _grant: Grant,
        _entries: Vec<Append>,
    ) -> Answer<'a, Appended> {
        Box::pin(async { Err(Error::Unsupported("do this yet")) })
    }
    fn look<'a>(&'a self, _node: &'a NodeName) -> Answer<'a, Look> {
        Box::pin(async { Err(Error::Unsupported("do this yet")) })
    }
    fn stamp<'a>(&'a self, _node: &'a NodeName, _grant: Grant, _era: Era) -> Answer<'a, bool> {
        Box::pin(async { Err(Error::Unsupported("do this yet")) })
    }
    fn tops<'a>(&'a self, _wanted: &'a [(NodeName, Topic)]) -> Answer<'a, Vec<Option<Position>>> {
        Box::pin(async { Err(Error::Unsupported("do this yet")) })
    }
    fn read<'a>(&'a self, _node: &'a NodeName, _topic: &'a Topic, _range: Range) -> Answer<'a, Vec<Entry>> {
        Box::pin(async { Err(Error::Unsupported("do this yet")) })
    }
    fn extent<'a>(&'a self, _node: &'a NodeName, _topic: &'a Topic) -> Answer<'a, Option<Extent>> {
        Box::pin(async { Err(Error::Unsupported("do this yet")) })
    }
    fn trim<'a>(
        &'a self,
        _node: &'a NodeName,
        _grant: Grant,
        _topic: &'a Topic,
        _keep: u64,
    ) -> Answer<'a, bool> {
        Box::pin(async { Err(Error::Unsupported("do this yet")) })
    }
    fn replicate<'a>(
        &'a self,
        _node: &'a NodeName,
        _replicas: u32,
        _disk: bool,
        _timeout: Duration,
    ) -> Answer<'a, u32> {
        Box::pin(async { Err(Error::Unsupported("do this yet")) })
    }
    fn erase<'a>(&'a self, _node: &'a NodeName, _grant: Grant) -> Answer<'a, bool> {
        Box::pin(async { Err(Error::Unsupported("do this yet")) })
    }
}
impl Ownership for Redis {
    fn renew<'a>(&'a self, _worker: &'a Incarnation, _fresh: bool) -> Answer<'a, Renewed> {
        Box::pin(async { Err(Error::Unsupported("do this yet")) })
    }
    fn take<'a>(&'a self, _worker: &'a Incarnation, _nonce: u64, _claims: &'a [Claim]) -> Answer<'a, Taken> {
        Box::pin(async { Err(Error::Unsupported("do this yet")) })
    }
    fn release<'a>(&'a self, _worker: &'a Incarnation, _nodes: &'a [(NodeName, u64)]) -> Answer<'a, usize> {
        Box::pin(async { Err(Error::Unsupported("do this yet")) })
    }
    fn retire<'a>(&'a self, _worker: &'a Incarnation) -> Answer<'a, ()> {
        Box::pin(async { Err(Error::Unsupported("do this yet")) })
    }
    fn owned<'a>(&'a self, _worker: &'a Incarnation) -> Answer<'a, Owned> {
        Box::pin(async { Err(Error::Unsupported("do this yet")) })
    }
    fn owners(&self) -> Answer<'_, Vec<(NodeName, Owner)>> {
        Box::pin(async { Err(Error::Unsupported("do this yet")) })
    }
    fn owner<'a>(&'a self, _node: &'a NodeName) -> Answer<'a, Option<Owner>> {
        Box::pin(async { Err(Error::Unsupported("do this yet")) })
    }
    fn workers(&self) -> Answer<'_, Vec<Incarnation>> {
        Box::pin(async { Err(Error::Unsupported("do this yet")) })
    }
    fn enlist<'a>(&'a self, _node: &'a NodeName, _peer: &'a [u8]) -> Answer<'a, Enlisted> {
        Box::pin(async { Err(Error::Unsupported("do this yet")) })
    }
    fn strike<'a>(
        &'a self,
        _worker: &'a Incarnation,
        _node: &'a NodeName,
        _epoch: u64,
        _peer: &'a [u8],
    ) -> Answer<'a, bool> {
        Box::pin(async { Err(Error::Unsupported("do this yet")) })
    }
    fn find<'a>(&'a self, _peer: &'a [u8]) -> Answer<'a, Option<NodeName>> {
        Box::pin(async { Err(Error::Unsupported("do this yet")) })
    }
    fn attend<'a>(&'a self, _gateway: &'a GatewayId) -> Answer<'a, ()> {
        Box::pin(async { Err(Error::Unsupported("do this yet")) })
    }
    fn attending<'a>(&'a self, _gateways: &'a [GatewayId]) -> Answer<'a, Vec<bool>> {
        Box::pin(async { Err(Error::Unsupported("do this yet")) })
    }
    fn want<'a>(
        &'a self,
        _node: &'a NodeName,
        _gateway: &'a GatewayId,
        _readers: &'a [(Topic, u32)],
    ) -> Answer<'a, ()> {
        Box::pin(async { Err(Error::Unsupported("do this yet")) })
    }
    fn wanted<'a>(&'a self, _node: &'a NodeName) -> Answer<'a, Vec<(GatewayId, Topic, u32)>> {
        Box::pin(async { Err(Error::Unsupported("do this yet")) })
    }
}
impl Keys for Redis {
    fn get(&self, _key: Key) -> Answer<'_, Option<Value>> {
        Box::pin(async { Err(Error::Unsupported("do this yet")) })
    }
    fn put(&self, _key: Key, _data: Bytes, _when: When, _ttl: Option<Duration>) -> Answer<'_, Option<u64>> {
        Box::pin(async { Err(Error::Unsupported("do this yet")) })
    }
    fn delete(&self, _key: Key, _when: When) -> Answer<'_, bool> {
        Box::pin(async { Err(Error::Unsupported("do this yet")) })
    }
    fn list(&self, _prefix: String) -> Answer<'_, Vec<(String, Value)>> {
        Box::pin(async { Err(Error::Unsupported("do this yet")) })
    }
    fn put_state<'a>(&'a self, _node: &'a NodeName, _grant: Grant, _state: Bytes) -> Answer<'a, bool> {
        Box::pin(async { Err(Error::Unsupported("do this yet")) })
    }
    fn get_state<'a>(&'a self, _node: &'a NodeName) -> Answer<'a, (Option<Value>, Option<Bytes>)> {
        Box::pin(async { Err(Error::Unsupported("do this yet")) })
    }
}
impl Port for Redis {
    fn healthy(&self) -> bool {
        true
    }
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}
