//! Remote peers: asked of the owner, save for the block list, which is part of the record.

use super::{Call, Context, Service, check_key, known, page, read_peer, respond, wrong};
use crate::{error, router::Failure};
use futures::{StreamExt, stream::BoxStream};
use plexus_bus::Payload;
use plexus_proto::{address, bus::NodeRecord, reason::Reason, spec, text, v1};
use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};
use tonic::{Request, Response, Status};

/// Blocks of a node at most.
const BLOCKS_MAX: usize = 10_000;
/// Longest time that a dial or a ping may take.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

#[tonic::async_trait]
impl v1::peer_service_server::PeerService for Service {
    async fn list_peers(
        &self,
        request: Request<v1::ListPeersRequest>,
    ) -> Result<Response<v1::ListPeersResponse>, Status> {
        let context = self.context(&request);
        let request = request.into_inner();
        let answer = async {
            page::size(request.page_size)?;
            known::<v1::peer::State>("state", request.state)?;
            known::<v1::connection::Direction>("direction", request.direction)?;
            known::<v1::peer::View>("view", request.view)?;
            if !request.topic.is_empty() {
                super::read_topic("topic", &request.topic)?;
            }
            let node = self.node(&context, &request.node).await?;
            self.ask(&context, &node, Call::new("plexus.v1.PeerService/ListPeers", request)).await
        };
        respond(answer.await)
    }

    async fn count_peers(
        &self,
        request: Request<v1::CountPeersRequest>,
    ) -> Result<Response<v1::CountPeersResponse>, Status> {
        let context = self.context(&request);
        let request = request.into_inner();
        let answer = async {
            let node = self.node(&context, &request.node).await?;
            self.ask(&context, &node, Call::new("plexus.v1.PeerService/CountPeers", request)).await
        };
        respond(answer.await)
    }

    async fn get_peer(&self, request: Request<v1::GetPeerRequest>) -> Result<Response<v1::Peer>, Status> {
        let context = self.context(&request);
        let request = request.into_inner();
        let answer = async {
            read_peer("peer", &request.peer)?;
            known::<v1::get_peer_request::Identify>("identify", request.identify)?;
            let node = self.node(&context, &request.node).await?;
            self.ask(&context, &node, Call::new("plexus.v1.PeerService/GetPeer", request)).await
        };
        respond(answer.await)
    }

    async fn connect(&self, request: Request<v1::ConnectRequest>) -> Result<Response<v1::Peer>, Status> {
        let context = self.context(&request);
        let request = request.into_inner();
        let answer = async {
            check_key(&request.request_id)?;
            read_peer_or_address("peer", &request.peer)?;
            if request.addresses.len() > 16 {
                return wrong("addresses", "at most 16 multiaddrs");
            }
            for (i, text) in request.addresses.iter().enumerate() {
                read_address(&format!("addresses[{i}]"), text)?;
            }
            check_span("timeout", request.timeout.as_ref(), Duration::ZERO, TIMEOUT_MAX)?;
            let node = self.node(&context, &request.node).await?;
            let key = request.request_id.clone();
            self.ask(&context, &node, Call::keyed("plexus.v1.PeerService/Connect", request, &key)).await
        };
        respond(answer.await)
    }

    async fn disconnect(
        &self,
        request: Request<v1::DisconnectRequest>,
    ) -> Result<Response<v1::DisconnectResponse>, Status> {
        let context = self.context(&request);
        let request = request.into_inner();
        let answer = async {
            check_key(&request.request_id)?;
            read_peer_or_address("peer", &request.peer)?;
            if !request.address.is_empty() {
                read_address("address", &request.address)?;
            }
            let node = self.node(&context, &request.node).await?;
            let key = request.request_id.clone();
            self.ask(&context, &node, Call::keyed("plexus.v1.PeerService/Disconnect", request, &key)).await
        };
        respond(answer.await)
    }

    type PingStream = BoxStream<'static, Result<v1::PingResponse, Status>>;

    async fn ping(&self, request: Request<v1::PingRequest>) -> Result<Response<Self::PingStream>, Status> {
        let context = self.open_context(&request);
        respond(self.begin_ping(&context, request.into_inner()).await)
    }

    async fn block(&self, request: Request<v1::BlockRequest>) -> Result<Response<v1::BlockEntry>, Status> {
        let context = self.context(&request);
        let request = request.get_ref();
        let act = self.add_block(&context, request);
        respond(self.once(&context, "Block", &request.request_id, request, act).await)
    }

    async fn unblock(
        &self,
        request: Request<v1::UnblockRequest>,
    ) -> Result<Response<v1::UnblockResponse>, Status> {
        let context = self.context(&request);
        let request = request.get_ref();
        let act = self.remove_block(&context, request);
        respond(self.once(&context, "Unblock", &request.request_id, request, act).await)
    }

    async fn list_blocks(
        &self,
        request: Request<v1::ListBlocksRequest>,
    ) -> Result<Response<v1::ListBlocksResponse>, Status> {
        let context = self.context(&request);
        let request = request.into_inner();
        let answer = async {
            page::size(request.page_size)?;
            let node = self.node(&context, &request.node).await?;
            self.ask(&context, &node, Call::new("plexus.v1.PeerService/ListBlocks", request)).await
        };
        respond(answer.await)
    }
}

impl Service {
    async fn begin_ping(
        &self,
        context: &Context,
        request: v1::PingRequest,
    ) -> Result<BoxStream<'static, Result<v1::PingResponse, Status>>, Failure> {
        read_peer_or_address("peer", &request.peer)?;
        if request.count > 1000 {
            return wrong("count", "1 to 1000; 0 means 10");
        }
        check_span("interval", request.interval.as_ref(), Duration::from_millis(100), TIMEOUT_MAX)?;
        check_span("timeout", request.timeout.as_ref(), Duration::ZERO, TIMEOUT_MAX)?;
        let node = self.node(context, &request.node).await?;
        if node.node() == super::DEFAULT {
            self.record(context, &node).await?; // it is made on first use
        }
        let payload = Payload::of(request);
        let asked = self.request(context, Some(node), "plexus.v1.PeerService/Ping", payload, "", true);
        let answers = self.router.stream(asked)?;
        let read =
            |answer: Result<Payload, Failure>| answer.and_then(super::open).map_err(|e| error::status(&e));
        Ok(answers.map(read).boxed())
    }

    async fn add_block(
        &self,
        context: &Context,
        request: &v1::BlockRequest,
    ) -> Result<v1::BlockEntry, Failure> {
        let entry = read_block(&request.entry)?;
        if request.comment.chars().count() > 200 {
            return wrong("comment", "at most 200 characters");
        }
        let ttl = match request.ttl.map(Duration::try_from) {
            None => None,
            Some(Ok(ttl)) if !ttl.is_zero() => Some(ttl),
            Some(_) => return wrong("ttl", "more than 0"),
        };
        let node = self.node(context, &request.node).await?;
        let now = SystemTime::now();
        let block = v1::BlockEntry {
            entry,
            comment: request.comment.clone(),
            created_at: Some(now.into()),
            expires_at: ttl.and_then(|ttl| now.checked_add(ttl)).map(Into::into),
            hits: 0,
        };
        let edit = |record: &mut NodeRecord| {
            record.blocks.retain(|b| b.entry != block.entry && !expired(b, now));
            if record.blocks.len() >= BLOCKS_MAX {
                return wrong("entry", format!("a node has at most {BLOCKS_MAX} blocks"));
            }
            record.blocks.push(block.clone());
            Ok(true)
        };
        let held = self.change(context, &node, edit).await?;
        self.settle_blocks(context, &node, held.revision).await?;
        Ok(block)
    }

    async fn remove_block(
        &self,
        context: &Context,
        request: &v1::UnblockRequest,
    ) -> Result<v1::UnblockResponse, Failure> {
        let entry = read_block(&request.entry)?;
        let node = self.node(context, &request.node).await?;
        let edit = |record: &mut NodeRecord| {
            let before = record.blocks.len();
            record.blocks.retain(|b| b.entry != entry);
            Ok(record.blocks.len() != before)
        };
        let held = self.change(context, &node, edit).await?;
        self.settle_blocks(context, &node, held.revision).await?;
        Ok(v1::UnblockResponse {})
    }

    /// Waits until the running node blocks by the new list; one that does not run needs no wait.
    async fn settle_blocks(
        &self,
        context: &Context,
        node: &plexus_bus::NodeName,
        revision: u64,
    ) -> Result<(), Failure> {
        match self.refresh(context, node, revision).await {
            Err(error) if !runs_not(&error) => Err(error),
            _ => Ok(()),
        }
    }
}

/// The node does not run now: it takes a change in when it does.
pub(super) fn runs_not(error: &v1::Error) -> bool {
    [Reason::NodeStopped, Reason::NodeQuarantined, Reason::NoOwner].iter().any(|reason| error.is(*reason))
}

fn expired(block: &v1::BlockEntry, now: SystemTime) -> bool {
    block.expires_at.and_then(|at| SystemTime::try_from(at).ok()).is_some_and(|at| at <= now)
}

/// Reads what to block, as ListBlocks shows it: a PeerId in base58btc or a CIDR.
fn read_block(spelled: &str) -> Result<String, Failure> {
    if let Ok(ip) = spelled.parse::<IpAddr>() {
        return Ok(format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 }));
    }
    if let Some((ip, bits)) = spelled.split_once('/').filter(|_| spec::is_cidr(spelled)) {
        let ip: IpAddr = ip.parse().or_else(|_| wrong("entry", "a CIDR"))?;
        return Ok(format!("{ip}/{}", bits.trim_start_matches('0').parse::<u8>().unwrap_or(0)));
    }
    if spelled.contains(['/', '.', ':']) {
        return wrong("entry", "a PeerId, an IP address or a CIDR");
    }
    Ok(text::peer_id_to_text(&read_peer("entry", spelled)?))
}

/// Reads a multiaddr.
fn read_address<'a>(field: &str, spelled: &'a str) -> Result<Vec<address::Part<'a>>, Failure> {
    address::parse(spelled).map_err(|error| {
        let message = error.to_string();
        Box::new(
            v1::Error::new(Reason::BadMultiaddr, format!("{field}: {message}")).violation(field, message),
        )
    })
}

/// Reads a PeerId, or a multiaddr that ends in one.
fn read_peer_or_address(field: &str, spelled: &str) -> Result<(), Failure> {
    if !spelled.starts_with('/') {
        return read_peer(field, spelled).map(|_| ());
    }
    match address::peer(&read_address(field, spelled)?) {
        Some(_) => Ok(()),
        None => {
            let wanted = "a multiaddr here ends in `/p2p/<PeerId>`";
            Err(Box::new(
                v1::Error::new(Reason::BadPeerId, format!("{field}: {wanted}")).violation(field, wanted),
            ))
        }
    }
}

/// Checks a duration that may be absent.
pub(super) fn check_span(
    field: &str,
    span: Option<&prost_types::Duration>,
    least: Duration,
    most: Duration,
) -> Result<Option<Duration>, Failure> {
    match span.map(|span| Duration::try_from(*span)) {
        None => Ok(None),
        Some(Ok(span)) if (least..=most).contains(&span) => Ok(Some(span)),
        Some(_) => wrong(field, format!("{least:?} to {most:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_one_spelling() {
        let peer = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA";
        let cid = text::peer_id_to_cid(&text::peer_id_from_text(peer).unwrap(), text::Base::Base32Lower);
        for (given, kept) in [
            ("10.0.0.1", "10.0.0.1/32"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("::1", "::1/128"),
            ("2001:DB8::/32", "2001:db8::/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            (peer, peer),
            (&cid, peer),
        ] {
            assert_eq!(read_block(given).unwrap(), kept, "{given}");
        }
        for (bad, reason) in [
            ("10.0.0.0/33", Reason::FieldInvalid),
            ("10.0.0", Reason::FieldInvalid),
            ("", Reason::BadPeerId),
            ("bob", Reason::BadPeerId),
        ] {
            assert!(read_block(bad).unwrap_err().is(reason), "{bad}");
        }
    }
}
