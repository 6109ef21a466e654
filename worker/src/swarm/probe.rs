//! Questions to a connected peer at the moment they are asked: one ping, or who it is. The protocols
//! beside this one ping and identify by their own clocks; what a caller asks for is measured here.
//!
//! The node's loop asks by [`Behaviour::ask`] and hears [`Event`]s. Only the asking side is here:
//! peers are answered by `ping` and `identify`.

use futures::{
    AsyncReadExt, AsyncWriteExt, FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered,
};
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol,
    core::{
        Endpoint,
        transport::PortUse,
        upgrade::{DeniedUpgrade, ReadyUpgrade},
    },
    identify,
    identity::PublicKey,
    ping,
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, NotifyHandler, StreamUpgradeError, SubstreamProtocol, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
        handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedOutbound},
    },
};
use std::{
    collections::{HashMap, VecDeque},
    io,
    task::{Context, Poll},
    time::{Duration, Instant},
};

/// Questions under way on one connection; more are refused.
const ASKED_MAX: usize = 16;
/// Bytes of an identify message at most, all its parts together.
const IDENTITY_BYTES_MAX: u64 = 64 << 10;
/// Addresses and protocols taken of an identify message.
const LIST_MAX: usize = 256;

/// A number that tells the answers apart.
pub type Id = u64;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// One round trip of 32 bytes.
    Ping,
    /// Who it is.
    Identity,
}

/// What a peer says of itself.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its key; belongs to its PeerId.
    pub public_key: PublicKey,
    /// What it runs.
    pub agent_version: String,
    /// What identify says of the network.
    pub protocol_version: String,
    /// Where it listens.
    pub listen_addrs: Vec<Multiaddr>,
    /// Protocols that it speaks.
    pub protocols: Vec<String>,
}

/// An answer.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The time from the last byte sent to the last received.
    Pong(Duration),
    /// Who it is.
    Identity(Box<Identity>),
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Not in time.
    #[error("the peer did not answer in time")]
    Timeout,
    /// The peer does not speak the protocol.
    #[error("the peer does not speak the protocol")]
    Unsupported,
    /// The connection or the stream ended, or what came back was wrong.
    #[error("the peer ended the exchange")]
    Lost,
    /// Too much is being asked of the peer.
    #[error("too much is asked of the peer already")]
    Busy,
}

/// The end of a question.
#[derive(Debug)]
pub struct Event {
    /// Which.
    pub id: Id,
    /// Whom.
    pub peer: PeerId,
    /// What came back.
    pub result: Result<Answer, Failure>,
}

/// Asks peers.
#[derive(Default)]
pub struct Behaviour {
    connections: HashMap<PeerId, Vec<ConnectionId>>,
    asked: HashMap<Id, (PeerId, ConnectionId)>,
    queue: VecDeque<ToSwarm<Event, Command>>,
    last: Id,
}

impl Behaviour {
    /// Asks a peer over its oldest connection; `None` where there is none.
    pub fn ask(&mut self, peer: PeerId, what: What, timeout: Duration) -> Option<Id> {
        let connection = *self.connections.get(&peer)?.first()?;
        self.last += 1;
        let (id, until) = (self.last, Instant::now() + timeout);
        self.asked.insert(id, (peer, connection));
        self.tell(peer, connection, Command::Ask(Asked { id, what, until, again: false }));
        Some(id)
    }

    /// Lets go of the stream that pings of a peer are sent over.
    pub fn release(&mut self, peer: PeerId) {
        for connection in self.connections.get(&peer).cloned().unwrap_or_default() {
            self.tell(peer, connection, Command::Release);
        }
    }

    fn tell(&mut self, peer_id: PeerId, connection: ConnectionId, event: Command) {
        self.queue.push_back(ToSwarm::NotifyHandler {
            peer_id,
            handler: NotifyHandler::One(connection),
            event,
        });
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::default())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::default())
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(e) => {
                self.connections.entry(e.peer_id).or_default().push(e.connection_id);
            }
            FromSwarm::ConnectionClosed(e) => {
                if let Some(all) = self.connections.get_mut(&e.peer_id) {
                    all.retain(|connection| *connection != e.connection_id);
                    if all.is_empty() {
                        self.connections.remove(&e.peer_id);
                    }
                }
                let lost = self.asked.extract_if(|_, (_, connection)| *connection == e.connection_id);
                let lost = lost.map(|(id, (peer, _))| Event { id, peer, result: Err(Failure::Lost) });
                self.queue.extend(lost.map(ToSwarm::GenerateEvent));
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        _: ConnectionId,
        (id, result): THandlerOutEvent<Self>,
    ) {
        if self.asked.remove(&id).is_none() {
            return;
        }
        let result = result.and_then(|answer| match &answer {
            Answer::Identity(identity) if identity.public_key.to_peer_id() != peer => Err(Failure::Lost),
            _ => Ok(answer),
        });
        self.queue.push_back(ToSwarm::GenerateEvent(Event { id, peer, result }));
    }

    // Whoever calls `ask` holds the swarm and polls it next, so no waker is kept.
    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.queue.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

/// What a connection is told.
#[derive(Debug)]
pub enum Command {
    /// Ask this.
    Ask(Asked),
    /// No more pings for now.
    Release,
}

/// A question on its way.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    id: Id,
    what: What,
    until: Instant,
    /// Asked once already, over a stream that the peer ended.
    again: bool,
}

impl Asked {
    fn protocol(&self) -> StreamProtocol {
        match self.what {
            What::Ping => ping::PROTOCOL_NAME,
            What::Identity => identify::PROTOCOL_NAME,
        }
    }

    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}

type Outcome = (Id, Result<Answer, Failure>);

enum Exchanged {
    Pong(Duration, Stream),
    Identity(Box<Identity>),
    Failed(Failure),
    /// The peer ended the stream: the same once more over a new one. Peers that serve one ping stream
    /// a connection drop ours where the regular pings begin one.
    Ended,
}

/// One connection's questions.
#[derive(Default)]
pub struct Handler {
    /// To be asked over a new stream.
    queue: VecDeque<Asked>,
    /// Over a stream.
    running: FuturesUnordered<BoxFuture<'static, (Asked, Exchanged)>>,
    /// Ended, not told.
    ended: VecDeque<Outcome>,
    /// Streams asked for.
    opening: usize,
    /// The stream of earlier pings. Some peers serve one ping stream a connection, so one is kept.
    stream: Option<Stream>,
}

impl Handler {
    fn ask(&mut self, asked: Asked) {
        if self.queue.len() + self.running.len() + self.opening >= ASKED_MAX {
            self.ended.push_back((asked.id, Err(Failure::Busy)));
            return;
        }
        match self.stream.take().filter(|_| asked.what == What::Ping) {
            Some(stream) => self.running.push(exchange(asked, stream).boxed()),
            None => self.queue.push_back(asked),
        }
    }

    fn exchanged(&mut self, asked: Asked, exchanged: Exchanged) {
        let result = match exchanged {
            Exchanged::Pong(rtt, stream) => {
                self.stream = Some(stream);
                Ok(Answer::Pong(rtt))
            }
            Exchanged::Identity(identity) => Ok(Answer::Identity(identity)),
            Exchanged::Failed(failure) => Err(failure),
            Exchanged::Ended => return self.queue.push_back(Asked { again: true, ..asked }),
        };
        self.ended.push_back((asked.id, result));
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Command;
    type ToBehaviour = Outcome;
    type InboundProtocol = DeniedUpgrade;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Asked;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, ()> {
        SubstreamProtocol::new(DeniedUpgrade, ())
    }

    fn connection_keep_alive(&self) -> bool {
        !self.queue.is_empty() || !self.running.is_empty() || self.opening > 0 || self.stream.is_some()
    }

    fn on_behaviour_event(&mut self, command: Command) {
        match command {
            Command::Ask(asked) => self.ask(asked),
            Command::Release => self.stream = None,
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Asked, Outcome>> {
        while let Poll::Ready(Some((asked, exchanged))) = self.running.poll_next_unpin(cx) {
            self.exchanged(asked, exchanged);
        }
        if let Some(outcome) = self.ended.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(outcome));
        }
        if let Some(asked) = self.queue.pop_front() {
            self.opening += 1;
            let upgrade = ReadyUpgrade::new(asked.protocol());
            let protocol = SubstreamProtocol::new(upgrade, asked).with_timeout(asked.left());
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        Poll::Pending
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<Self::InboundProtocol, Self::OutboundProtocol, (), Asked>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info }) => {
                self.opening -= 1;
                self.running.push(exchange(info, protocol).boxed());
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                self.opening -= 1;
                let failure = match error {
                    StreamUpgradeError::NegotiationFailed => Failure::Unsupported,
                    StreamUpgradeError::Timeout => Failure::Timeout,
                    StreamUpgradeError::Apply(never) => match never {},
                    StreamUpgradeError::Io(_) => Failure::Lost,
                };
                self.ended.push_back((info.id, Err(failure)));
            }
            _ => {}
        }
    }
}

async fn exchange(asked: Asked, stream: Stream) -> (Asked, Exchanged) {
    let work = async {
        match asked.what {
            What::Ping => echo(stream).await.map(|(rtt, stream)| Exchanged::Pong(rtt, stream)),
            What::Identity => identity(stream).await.map(|identity| Exchanged::Identity(Box::new(identity))),
        }
    };
    let exchanged = match tokio::time::timeout(asked.left(), work).await {
        Ok(Ok(exchanged)) => exchanged,
        Ok(Err(_)) if !asked.again => Exchanged::Ended,
        Ok(Err(_)) => Exchanged::Failed(Failure::Lost),
        Err(_) => Exchanged::Failed(Failure::Timeout),
    };
    (asked, exchanged)
}

async fn echo(mut stream: Stream) -> io::Result<(Duration, Stream)> {
    let sent: [u8; 32] = rand::random();
    stream.write_all(&sent).await?;
    stream.flush().await?;
    let begun = Instant::now();
    let mut back = [0; 32];
    stream.read_exact(&mut back).await?;
    match back == sent {
        true => Ok((begun.elapsed(), stream)),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The identify message, as in <https://github.com/libp2p/specs/tree/master/identify>.
#[derive(Clone, PartialEq, prost::Message)]
struct Wire {
    #[prost(bytes = "vec", optional, tag = "1")]
    public_key: Option<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    listen_addrs: Vec<Vec<u8>>,
    #[prost(string, repeated, tag = "3")]
    protocols: Vec<String>,
    #[prost(string, optional, tag = "5")]
    protocol_version: Option<String>,
    #[prost(string, optional, tag = "6")]
    agent_version: Option<String>,
}

/// Reads all parts until the peer ends the stream: some send what does not fit as a second message.
async fn identity(mut stream: Stream) -> io::Result<Identity> {
    stream.close().await?;
    let mut bytes = Vec::new();
    stream.take(IDENTITY_BYTES_MAX).read_to_end(&mut bytes).await?;
    parse(&bytes)
}

fn parse(mut bytes: &[u8]) -> io::Result<Identity> {
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let mut wire = Wire::default();
    while !bytes.is_empty() {
        prost::Message::merge_length_delimited(&mut wire, &mut bytes).map_err(|_| bad())?;
    }
    let key = PublicKey::try_decode_protobuf(&wire.public_key.ok_or_else(bad)?).map_err(|_| bad())?;
    let addresses = wire.listen_addrs.into_iter().take(LIST_MAX);
    Ok(Identity {
        public_key: key,
        agent_version: wire.agent_version.unwrap_or_default(),
        protocol_version: wire.protocol_version.unwrap_or_default(),
        listen_addrs: addresses.filter_map(|bytes| Multiaddr::try_from(bytes).ok()).collect(),
        protocols: wire.protocols.into_iter().take(LIST_MAX).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[test]
    fn an_identity_in_two_parts_is_read_whole_and_rubbish_is_refused() {
        let key = libp2p::identity::Keypair::generate_ed25519().public();
        let one = Wire {
            public_key: Some(key.encode_protobuf()),
            agent_version: Some("a".into()),
            ..Default::default()
        };
        let two = Wire {
            protocols: vec!["/x".into()],
            listen_addrs: vec![vec![255], b"\x04\x7f\0\0\x01".to_vec()],
            ..Default::default()
        };
        let both = [one.encode_length_delimited_to_vec(), two.encode_length_delimited_to_vec()].concat();
        let identity = parse(&both).unwrap();
        assert_eq!((identity.public_key, identity.agent_version.as_str()), (key, "a"));
        assert_eq!((identity.protocols.len(), identity.listen_addrs.len()), (1, 1));
        assert!(parse(&both[..both.len() - 1]).is_err());
        assert!(parse(&two.encode_length_delimited_to_vec()).is_err());
    }
}
