//! libp2p's own counters of one swarm: a [`Recorder`] sits beside it and sees each event once. All
//! swarms of the process share one set of counters, which cost an atomic step a message and a short
//! lock a connection.
//!
//! Labels stay closed sets. libp2p labels by the protocols of an address, and a peer may send any
//! address; here each becomes one of a few [`plain`] ones before it is counted. Gossipsub's counters by
//! topic are left off for the same reason.

use super::BehaviourEvent;
use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    core::{ConnectedPoint, Endpoint, multihash::Multihash, transport::PortUse},
    identify,
    metrics::{Metrics, Recorder as _, Registry},
    multiaddr::Protocol,
    swarm::{ConnectionError, ConnectionId, SwarmEvent},
};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, Ipv6Addr},
    sync::{Arc, OnceLock},
};

/// The code of SHA-256 in multihashes.
const SHA2_256: u64 = 0x12;
/// The protocols of a peer that libp2p counts apart.
const KNOWN: [&str; 4] = ["/ipfs/id/1.0.0", "/ipfs/id/push/1.0.0", "/ipfs/kad/1.0.0", "/ipfs/ping/1.0.0"];

/// What is told in place of what a swarm said.
type Told = SwarmEvent<BehaviourEvent>;

/// libp2p's counters of the whole process; clones share them. They count nothing before they are
/// registered.
#[derive(Clone, Default)]
pub struct Counters(Arc<OnceLock<Metrics>>);

impl std::fmt::Debug for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Counters(registered: {})", self.0.get().is_some())
    }
}

impl Counters {
    /// Registers them under `libp2p_…`; the first registry keeps them.
    pub(crate) fn register(&self, registry: &mut Registry) {
        self.0.get_or_init(|| Metrics::new(registry));
    }
}

/// What one swarm has told. What it held is counted as closed when this is dropped, as the swarm itself
/// says nothing when it goes.
pub(crate) struct Recorder {
    counters: Counters,
    own: PeerId,
    open: HashMap<ConnectionId, (PeerId, ConnectedPoint)>,
}

impl Recorder {
    /// Begins for the swarm of that peer.
    pub(crate) fn new(counters: Counters, own: PeerId) -> Self {
        Self { counters, own, open: HashMap::new() }
    }

    /// Counts an event.
    pub(crate) fn record(&mut self, event: &SwarmEvent<BehaviourEvent>) {
        let Some(metrics) = self.counters.0.get() else { return };
        match event {
            SwarmEvent::Behaviour(event) => self.protocol(metrics, event),
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                num_established,
                established_in,
                ..
            } => {
                let endpoint = plain_endpoint(endpoint);
                metrics.record(&Told::ConnectionEstablished {
                    peer_id: *peer_id,
                    connection_id: *connection_id,
                    endpoint: endpoint.clone(),
                    num_established: *num_established,
                    concurrent_dial_errors: None,
                    established_in: *established_in,
                });
                self.open.insert(*connection_id, (*peer_id, endpoint));
            }
            SwarmEvent::ConnectionClosed { connection_id, num_established, cause, .. } => {
                if let Some((peer, endpoint)) = self.open.remove(connection_id) {
                    let cause = cause.as_ref().map(|cause| match cause {
                        ConnectionError::IO(_) => ConnectionError::IO(io::ErrorKind::Other.into()),
                        ConnectionError::KeepAliveTimeout => ConnectionError::KeepAliveTimeout,
                    });
                    self.close(metrics, *connection_id, peer, endpoint, *num_established, cause);
                }
            }
            SwarmEvent::NewExternalAddrCandidate { address } => {
                metrics.record(&Told::NewExternalAddrCandidate { address: plain(address) });
            }
            SwarmEvent::ExternalAddrConfirmed { address } => {
                metrics.record(&Told::ExternalAddrConfirmed { address: plain(address) });
            }
            SwarmEvent::ExternalAddrExpired { address } => {
                metrics.record(&Told::ExternalAddrExpired { address: plain(address) });
            }
            // Addresses of the others are those of our own sockets.
            event => metrics.record(event),
        }
    }

    fn protocol(&self, metrics: &Metrics, event: &BehaviourEvent) {
        match event {
            BehaviourEvent::Gossip(event) => metrics.record(event),
            BehaviourEvent::Ping(event) => metrics.record(event),
            BehaviourEvent::Kad(event) => metrics.record(event),
            BehaviourEvent::Identify(identify::Event::Received { connection_id, peer_id, info }) => {
                // This is remembered until the peer goes, so there is nothing of the peer's choice in it.
                let info = identify::Info {
                    public_key: info.public_key.clone(),
                    protocol_version: String::new(),
                    agent_version: String::new(),
                    listen_addrs: Vec::new(),
                    protocols: known(&info.protocols),
                    observed_addr: plain(&info.observed_addr),
                    signed_peer_record: None,
                };
                let (connection_id, peer_id) = (*connection_id, self.link(peer_id));
                metrics.record(&identify::Event::Received { connection_id, peer_id, info });
            }
            BehaviourEvent::Identify(event) => metrics.record(event),
            BehaviourEvent::Probe(_) => {}
        }
    }

    fn close(
        &self,
        metrics: &Metrics,
        connection_id: ConnectionId,
        peer: PeerId,
        endpoint: ConnectedPoint,
        num_established: u32,
        cause: Option<ConnectionError>,
    ) {
        let peer_id = self.link(&peer);
        metrics.record(&Told::ConnectionClosed { peer_id, connection_id, endpoint, num_established, cause });
    }

    /// Names the link to a peer: two nodes of the process may have the same one, and each counts.
    fn link(&self, peer: &PeerId) -> PeerId {
        let digest = Sha256::new().chain_update(self.own.to_bytes()).chain_update(peer.to_bytes()).finalize();
        let hash = Multihash::wrap(SHA2_256, &digest).expect("a digest of 32 bytes fits");
        PeerId::from_multihash(hash).expect("SHA-256 is a hash for PeerIds")
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let open = std::mem::take(&mut self.open);
        if let Some(metrics) = self.counters.0.get() {
            for (connection, (peer, endpoint)) in open {
                self.close(metrics, connection, peer, endpoint, 0, None);
            }
        }
    }
}

/// Keeps the protocols that libp2p counts apart, and one for all others.
fn known(protocols: &[StreamProtocol]) -> Vec<StreamProtocol> {
    let known: Vec<_> =
        KNOWN.iter().filter(|known| protocols.iter().any(|told| told == *known)).copied().collect();
    let others = protocols.iter().any(|told| !KNOWN.iter().any(|known| told == known));
    known.into_iter().chain(others.then_some("/other")).map(StreamProtocol::new).collect()
}

fn plain_endpoint(endpoint: &ConnectedPoint) -> ConnectedPoint {
    match endpoint {
        ConnectedPoint::Dialer { address, .. } => ConnectedPoint::Dialer {
            address: plain(address),
            role_override: Endpoint::Dialer,
            port_use: PortUse::New,
        },
        ConnectedPoint::Listener { send_back_addr, .. } => {
            ConnectedPoint::Listener { local_addr: Multiaddr::empty(), send_back_addr: plain(send_back_addr) }
        }
    }
}

/// The kind of an address: a host, TCP or QUIC, and what is on top. There are 25, whatever is sent.
fn plain(address: &Multiaddr) -> Multiaddr {
    let has = |wanted: fn(&Protocol<'_>) -> bool| address.iter().any(|protocol| wanted(&protocol));
    let mut kind = Multiaddr::empty();
    match address.iter().next() {
        Some(Protocol::Ip4(_)) => kind.push(Protocol::Ip4(Ipv4Addr::UNSPECIFIED)),
        Some(Protocol::Ip6(_)) => kind.push(Protocol::Ip6(Ipv6Addr::UNSPECIFIED)),
        Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_) | Protocol::Dnsaddr(_)) => {
            kind.push(Protocol::Dns("".into()));
        }
        Some(Protocol::Memory(_)) => return kind.with(Protocol::Memory(0)),
        _ => return kind,
    }
    if has(|protocol| matches!(protocol, Protocol::QuicV1)) {
        kind = kind.with(Protocol::Udp(0)).with(Protocol::QuicV1);
    } else if has(|protocol| matches!(protocol, Protocol::Tcp(_))) {
        kind.push(Protocol::Tcp(0));
        if has(|protocol| matches!(protocol, Protocol::Wss(_) | Protocol::Tls)) {
            kind.push(Protocol::Wss("/".into()));
        } else if has(|protocol| matches!(protocol, Protocol::Ws(_))) {
            kind.push(Protocol::Ws("/".into()));
        }
    }
    if has(|protocol| matches!(protocol, Protocol::P2pCircuit)) {
        kind.push(Protocol::P2pCircuit);
    }
    kind
}

#[cfg(test)]
mod tests {
    use super::*;
    use libp2p::identity::Keypair;
    use proptest::prelude::*;
    use std::{collections::HashSet, num::NonZeroU32, time::Duration};

    fn opened(id: usize, peer: PeerId, address: &str) -> Told {
        Told::ConnectionEstablished {
            peer_id: peer,
            connection_id: ConnectionId::new_unchecked(id),
            endpoint: ConnectedPoint::Dialer {
                address: address.parse().unwrap(),
                role_override: Endpoint::Dialer,
                port_use: PortUse::Reuse,
            },
            num_established: NonZeroU32::MIN,
            concurrent_dial_errors: None,
            established_in: Duration::from_millis(1),
        }
    }

    fn identified(id: usize, key: &Keypair, word: &str) -> Told {
        let info = identify::Info {
            public_key: key.public(),
            protocol_version: word.into(),
            agent_version: word.into(),
            listen_addrs: vec![format!("/dns4/{word}/tcp/1/http").parse().unwrap()],
            protocols: [format!("/{word}"), "/ipfs/ping/1.0.0".into()]
                .map(|name| StreamProtocol::try_from_owned(name).unwrap())
                .to_vec(),
            observed_addr: format!("/dns4/{word}/udp/1/quic-v1/webtransport").parse().unwrap(),
            signed_peer_record: None,
        };
        let (connection_id, peer_id) = (ConnectionId::new_unchecked(id), key.public().to_peer_id());
        Told::Behaviour(BehaviourEvent::Identify(identify::Event::Received { connection_id, peer_id, info }))
    }

    fn scrape(registry: &Registry) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
        text
    }

    #[test]
    fn no_peer_adds_a_label_of_its_choice() {
        let (counters, mut registry) = (Counters::default(), Registry::default());
        counters.register(&mut registry);
        let mut recorder = Recorder::new(counters, PeerId::random());
        let mut lines = 0;
        for i in 0..100 {
            let (key, word) = (Keypair::generate_ed25519(), format!("word{i}"));
            let peer = key.public().to_peer_id();
            let tail = format!("/p2p/{peer}").repeat(1 + i % 20);
            recorder.record(&opened(i, peer, &format!("/ip4/1.2.3.4/tcp/{i}{tail}")));
            recorder.record(&identified(i, &key, &word));
            let address = format!("/dns4/{word}/tcp/1{}", "/http".repeat(i)).parse().unwrap();
            recorder.record(&Told::NewExternalAddrCandidate { address });
            let text = scrape(&registry);
            assert!(!text.contains("word") && !text.contains(&peer.to_string()), "{text}");
            if i == 0 {
                lines = text.lines().count();
            }
            assert_eq!(text.lines().count(), lines, "{text}");
        }
        let text = scrape(&registry);
        assert!(text.contains(r#"remote_protocols{protocol="/ipfs/ping/1.0.0"} 100"#), "{text}");
        assert!(text.contains(r#"connections_established_total{role="Dialer",protocols="/ip4/tcp"} 100"#));
    }

    #[test]
    fn a_swarm_that_goes_leaves_nothing_behind() {
        let (counters, mut registry) = (Counters::default(), Registry::default());
        counters.register(&mut registry);
        let key = Keypair::generate_ed25519();
        let mut swarms = [0, 1].map(|i| {
            let mut recorder = Recorder::new(counters.clone(), PeerId::random());
            recorder.record(&opened(i, key.public().to_peer_id(), "/ip4/1.2.3.4/tcp/1"));
            recorder.record(&identified(i, &key, "x"));
            Some(recorder)
        });
        let held = |text: &str| {
            let line = text.lines().find(|line| line.contains(r#"{protocol="/ipfs/ping/1.0.0"}"#));
            line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
        };
        assert_eq!(held(&scrape(&registry)), 2, "two nodes hold the same peer");
        for left in [1, 0] {
            swarms[left] = None;
            let text = scrape(&registry);
            assert_eq!(held(&text), left, "{text}");
            let closed = format!(
                r#"connections_duration_seconds_count{{cause="",role="Dialer",protocols="/ip4/tcp"}} {}"#,
                2 - left
            );
            assert!(text.contains(&closed), "{text}");
        }
    }

    #[test]
    fn nothing_is_kept_before_somebody_reads_it() {
        let mut recorder = Recorder::new(Counters::default(), PeerId::random());
        recorder.record(&opened(0, PeerId::random(), "/ip4/1.2.3.4/tcp/1"));
        assert!(recorder.open.is_empty());
    }

    proptest! {
        #[test]
        fn every_address_is_of_one_of_a_few_kinds(parts in proptest::collection::vec(0..14usize, 0..8)) {
            const PARTS: [&str; 14] = [
                "/ip4/1.2.3.4", "/ip6/::1", "/dns/a", "/dns4/a", "/dnsaddr/a", "/memory/1", "/tcp/1", "/udp/1",
                "/quic-v1", "/ws", "/wss", "/tls", "/p2p-circuit", "/http",
            ];
            let kinds: HashSet<&str> = [
                "", "/memory", "/ip4", "/ip6", "/dns", "/tcp", "/udp", "/quic-v1", "/ws", "/wss", "/p2p-circuit",
            ].into();
            let address: String = parts.into_iter().map(|part| PARTS[part]).collect();
            let plain = plain(&address.parse().unwrap());
            let stack: Vec<&str> = plain.protocol_stack().collect();
            prop_assert!(stack.len() <= 4);
            prop_assert!(stack.iter().all(|tag| kinds.contains(format!("/{tag}").as_str())), "{plain}");
        }
    }
}
