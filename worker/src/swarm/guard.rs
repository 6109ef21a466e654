//! Where no dial may go.
//!
//! Clients and peers make our machines dial, so every address is judged before a packet leaves: once
//! as it is given ([`Guard::check`], also for early refusals of the API), and again in the transport
//! below name resolution, where only addresses remain and exactly the judged one is dialled. No
//! origin goes around it: API, bootstrap, identify, Kademlia and peer exchange end in the same
//! transport.
//!
//! [`ranges`](super::ranges) is the table of addresses. The rules only grow stricter from worker to
//! spec; development (`allow_private`) lifts loopback, private ranges, ports and names, no more.

use super::{
    blocks::{self, net},
    ranges,
};
use crate::Error;
use arc_swap::ArcSwap;
use ipnet::IpNet;
use libp2p::{
    Multiaddr, Transport,
    core::transport::{DialOpts, ListenerId, TransportError, TransportEvent},
    multiaddr::Protocol,
    swarm::DialError,
};
use plexus_proto::v1::node_spec::DialPolicy;
use prometheus_client::metrics::counter::Counter;
use std::{
    error, fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

/// Why an address is not dialled. The names are stable: errors carry them as `rule`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Rule {
    /// The node dials nothing.
    Outgoing,
    /// The node dials no addresses learned from peers.
    Learned,
    /// Not the shape of an address we dial: `/ip…|dns…/tcp[/tls][/ws]` or `/…/udp/quic-v1`.
    Protocol,
    /// A name of the local machine or network, or a number in disguise.
    Name,
    /// A port of services that are no peers.
    Port,
    /// Not among the ports of the spec.
    PortNotListed,
    /// 127.0.0.0/8, `::1`.
    Loopback,
    /// 10/8, 172.16/12, 192.168/16.
    Private,
    /// 100.64.0.0/10, behind carriers' NAT.
    SharedAddress,
    /// 169.254/16, `fe80::/10` and the old site-local `fec0::/10`.
    LinkLocal,
    /// Services of cloud hosts that hand out credentials.
    Metadata,
    /// `fc00::/7`.
    UniqueLocal,
    /// IPv4 within IPv6: mapped, translated or compatible.
    Mapped,
    /// `64:ff9b::/96`, `64:ff9b:1::/48`: reaches any IPv4 address through a translator.
    Nat64,
    /// `2002::/16` and its relays, 192.88.99.0/24.
    SixToFour,
    /// `2001::/32`.
    Teredo,
    /// To many.
    Multicast,
    /// 0.0.0.0/8, `::`.
    Unspecified,
    /// To all.
    Broadcast,
    /// Set aside for measurements.
    Benchmarking,
    /// Set aside for examples.
    Documentation,
    /// Not assigned to anybody.
    Reserved,
    /// An address that this node listens on.
    OwnAddress,
    /// In a blocked range.
    Blocked,
    /// In `spec.dial.deny`.
    Denied,
    /// Not in `spec.dial.allow`.
    NotAllowed,
}

impl Rule {
    /// The stable name, for `metadata.rule`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Outgoing => "outgoing",
            Self::Learned => "learned",
            Self::Protocol => "protocol",
            Self::Name => "name",
            Self::Port => "port",
            Self::PortNotListed => "port_not_listed",
            Self::Loopback => "loopback",
            Self::Private => "private",
            Self::SharedAddress => "shared_address",
            Self::LinkLocal => "link_local",
            Self::Metadata => "metadata",
            Self::UniqueLocal => "unique_local",
            Self::Mapped => "mapped",
            Self::Nat64 => "nat64",
            Self::SixToFour => "six_to_four",
            Self::Teredo => "teredo",
            Self::Multicast => "multicast",
            Self::Unspecified => "unspecified",
            Self::Broadcast => "broadcast",
            Self::Benchmarking => "benchmarking",
            Self::Documentation => "documentation",
            Self::Reserved => "reserved",
            Self::OwnAddress => "own_address",
            Self::Blocked => "blocked",
            Self::Denied => "denied",
            Self::NotAllowed => "not_allowed",
        }
    }

    /// Finds the rule that stopped a dial, if one did.
    pub fn of(error: &DialError) -> Option<Self> {
        match error {
            DialError::Denied { cause } => rule_in(cause),
            DialError::Transport(tried) => tried.iter().find_map(|(_, error)| match error {
                TransportError::Other(error) => rule_in(error),
                TransportError::MultiaddrNotSupported(_) => Some(Self::Protocol),
            }),
            _ => None,
        }
    }

    /// Whether development lifts it.
    const fn is_private(self) -> bool {
        matches!(
            self,
            Self::Loopback | Self::Private | Self::SharedAddress | Self::LinkLocal | Self::UniqueLocal
        )
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The error of a dial that the guard stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the address is not dialled by rule {0}")]
pub struct Refused(pub Rule);

/// Walks to the refusal within an error. `io::Error` hides what it wraps from `source`.
fn rule_in(error: &(dyn error::Error + 'static)) -> Option<Rule> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(Refused(rule)) = error.downcast_ref() {
            return Some(*rule);
        }
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// The rules of one node. Clones share what changes while it runs.
#[derive(Clone)]
pub struct Guard(Arc<Rules>);

struct Rules {
    private: bool,
    outgoing: bool,
    learned: bool,
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
    ports: Vec<u16>,
    blocks: blocks::List,
    own: ArcSwap<Vec<(ListenerId, SocketAddr)>>,
}

/// Where an address is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// As given: names may still be in it.
    Given,
    /// Below name resolution; `web` below WebSocket, which took its part of the address off.
    Resolved { web: bool },
}

/// What an address means to dial.
struct Target<'a> {
    host: Host<'a>,
    /// None where only `/dnsaddr` knows.
    port: Option<u16>,
    web: bool,
}

enum Host<'a> {
    Ip(IpAddr),
    Name(std::borrow::Cow<'a, str>),
    Memory,
}

impl Guard {
    /// Reads the policy of a spec; a range or a port that is none is an error.
    pub fn new(
        policy: Option<&DialPolicy>,
        allow_private: bool,
        blocks: blocks::List,
    ) -> Result<Self, Error> {
        let none = DialPolicy::default();
        let policy = policy.unwrap_or(&none);
        let bad = |text: &dyn fmt::Display| Error::Swarm(format!("dial policy: {text} is no range or port"));
        let nets = |texts: &[String]| {
            texts.iter().map(|text| net(text).ok_or_else(|| bad(text))).collect::<Result<Vec<_>, _>>()
        };
        let ports = policy.ports.iter().map(|port| u16::try_from(*port).map_err(|_| bad(port)));
        Ok(Self(Arc::new(Rules {
            private: allow_private,
            outgoing: policy.outgoing.unwrap_or(true),
            learned: policy.learned.unwrap_or(true),
            allow: nets(&policy.allow)?,
            deny: nets(&policy.deny)?,
            ports: ports.collect::<Result<_, _>>()?,
            blocks,
            own: ArcSwap::default(),
        })))
    }

    /// Judges an address as a client or a peer gives it. A name may still turn out to be forbidden.
    pub fn check(&self, addr: &Multiaddr) -> Result<(), Rule> {
        self.judge(addr, Stage::Given)
    }

    /// Judges a dial as a whole. One that brings no addresses would use learned ones.
    pub(super) fn check_dial(&self, addresses: &[Multiaddr]) -> Result<(), Rule> {
        if !self.0.outgoing {
            return Err(Rule::Outgoing);
        }
        if !self.0.learned && addresses.is_empty() {
            return Err(Rule::Learned);
        }
        Ok(())
    }

    pub(super) fn judge(&self, addr: &Multiaddr, stage: Stage) -> Result<(), Rule> {
        if !self.0.outgoing {
            return Err(Rule::Outgoing);
        }
        let target = read(addr)?;
        let web = target.web || stage == Stage::Resolved { web: true };
        match target.host {
            Host::Memory if self.0.private => return Ok(()),
            Host::Memory => return Err(Rule::Protocol),
            Host::Name(_) if stage != Stage::Given => return Err(Rule::Protocol),
            Host::Name(name) => self.judge_name(&name, target.port)?,
            Host::Ip(ip) => self.judge_ip(ip, target.port)?,
        }
        target.port.map_or(Ok(()), |port| self.judge_port(port, web))
    }

    fn judge_name(&self, name: &str, port: Option<u16>) -> Result<(), Rule> {
        match name.parse() {
            Ok(ip) => self.judge_ip(ip, port),
            Err(_) if self.0.private || ranges::is_public_name(name) => Ok(()),
            Err(_) => Err(Rule::Name),
        }
    }

    fn judge_ip(&self, ip: IpAddr, port: Option<u16>) -> Result<(), Rule> {
        let rules = &self.0;
        match ranges::rule(ip) {
            Some(rule) if !(rules.private && rule.is_private()) => return Err(rule),
            _ => {}
        }
        let own = rules.own.load();
        if port.is_some_and(|port| own.iter().any(|(_, addr)| *addr == SocketAddr::new(ip, port))) {
            return Err(Rule::OwnAddress);
        }
        if rules.blocks.refuses(None, Some(&ip)) {
            return Err(Rule::Blocked);
        }
        if rules.deny.iter().any(|net| net.contains(&ip)) {
            return Err(Rule::Denied);
        }
        if !rules.allow.is_empty() && !rules.allow.iter().any(|net| net.contains(&ip)) {
            return Err(Rule::NotAllowed);
        }
        Ok(())
    }

    fn judge_port(&self, port: u16, web: bool) -> Result<(), Rule> {
        let listed = self.0.ports.contains(&port);
        let open =
            self.0.private || ranges::is_peer_port(port) || (ranges::is_web_port(port) && (web || listed));
        match () {
            () if port == 0 || !open => Err(Rule::Port),
            () if !self.0.ports.is_empty() && !listed => Err(Rule::PortNotListed),
            () => Ok(()),
        }
    }

    fn listens(&self, id: ListenerId, addr: &Multiaddr) {
        if let Ok(Target { host: Host::Ip(ip), port: Some(port), .. }) = read(addr) {
            let mut own = self.0.own.load().to_vec();
            own.push((id, SocketAddr::new(ip, port)));
            self.0.own.store(Arc::new(own));
        }
    }

    fn listens_no_more(&self, gone: impl Fn(ListenerId, SocketAddr) -> bool) {
        let own = self.0.own.load();
        let left = own.iter().copied().filter(|(id, addr)| !gone(*id, *addr)).collect();
        self.0.own.store(Arc::new(left));
    }
}

/// Reads an address by its whole shape. Transports read it from the end and pass over what stands
/// before, so a prefix that looks harmless must not hide the part that is dialled.
fn read(addr: &Multiaddr) -> Result<Target<'_>, Rule> {
    let mut parts = addr.iter().peekable();
    let host = match parts.next() {
        Some(Protocol::Ip4(ip)) => Host::Ip(ip.into()),
        Some(Protocol::Ip6(ip)) => Host::Ip(ip.into()),
        Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)) => Host::Name(name),
        Some(Protocol::Dnsaddr(name)) => {
            return end(parts, Target { host: Host::Name(name), port: None, web: false });
        }
        Some(Protocol::Memory(_)) => {
            return end(parts, Target { host: Host::Memory, port: None, web: false });
        }
        _ => return Err(Rule::Protocol),
    };
    let (port, web) = match (parts.next(), parts.peek()) {
        (Some(Protocol::Udp(port)), Some(Protocol::QuicV1)) => (port, false),
        (Some(Protocol::Tcp(port)), None | Some(Protocol::P2p(_))) => (port, false),
        (Some(Protocol::Tcp(port)), Some(Protocol::Ws(_) | Protocol::Wss(_))) => (port, true),
        (Some(Protocol::Tcp(port)), Some(Protocol::Tls)) => {
            parts.next();
            parts.next_if(|part| matches!(part, Protocol::Sni(_)));
            match parts.peek() {
                Some(Protocol::Ws(_)) => (port, true),
                _ => return Err(Rule::Protocol),
            }
        }
        _ => return Err(Rule::Protocol),
    };
    parts.next_if(|part| !matches!(part, Protocol::P2p(_)));
    end(parts, Target { host, port: Some(port), web })
}

/// Nothing but a PeerId may follow.
fn end<'a>(mut parts: impl Iterator<Item = Protocol<'a>>, target: Target<'a>) -> Result<Target<'a>, Rule> {
    match (parts.next(), parts.next()) {
        (None | Some(Protocol::P2p(_)), None) => Ok(target),
        _ => Err(Rule::Protocol),
    }
}

/// A transport that dials only what its guard lets pass, and tells the guard what it listens on.
pub(super) struct Guarded<T> {
    inner: T,
    guard: Guard,
    stage: Stage,
    refused: Counter,
}

impl<T> Guarded<T> {
    pub(super) fn new(inner: T, guard: &Guard, stage: Stage, refused: &Counter) -> Self {
        Self { inner, guard: guard.clone(), stage, refused: refused.clone() }
    }
}

impl<T: Transport<Error = io::Error> + Unpin> Transport for Guarded<T> {
    type Output = T::Output;
    type Error = io::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = T::Dial;

    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<io::Error>> {
        self.inner.listen_on(id, addr)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, addr: Multiaddr, opts: DialOpts) -> Result<T::Dial, TransportError<io::Error>> {
        if let Err(rule) = self.guard.judge(&addr, self.stage) {
            self.refused.inc();
            tracing::debug!(%addr, %rule, "dial refused");
            return Err(TransportError::Other(io::Error::other(Refused(rule))));
        }
        self.inner.dial(addr, opts)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        let event = std::task::ready!(Pin::new(&mut self.inner).poll(cx));
        match &event {
            _ if self.stage == Stage::Given => {}
            TransportEvent::NewAddress { listener_id, listen_addr } => {
                self.guard.listens(*listener_id, listen_addr)
            }
            TransportEvent::AddressExpired { listener_id, listen_addr } => {
                let gone = read(listen_addr).ok();
                self.guard.listens_no_more(|id, own| {
                    id == *listener_id
                        && gone.as_ref().is_some_and(|gone| {
                            matches!(gone.host, Host::Ip(ip) if ip == own.ip())
                                && gone.port == Some(own.port())
                        })
                });
            }
            TransportEvent::ListenerClosed { listener_id, .. } => {
                self.guard.listens_no_more(|id, _| id == *listener_id);
            }
            _ => {}
        }
        Poll::Ready(event)
    }
}
