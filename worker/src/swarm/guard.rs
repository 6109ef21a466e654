//! Where no dial may go.
//!
//! Clients and peers make our machines dial, so every address is judged before a packet leaves: once
//! as it is given ([`Guard::check`], also for early refusals of the API), and again in the transport
//! below name resolution, where only addresses remain and exactly the judged one is dialled. No
//! origin goes around it: API, bootstrap, identify, Kademlia and peer exchange end in the same
//! transport.
//!
//! [`super::ranges`] is the table of addresses. The rules only grow stricter from worker to
//! spec; development (`allow_private`) lifts loopback, private ranges, ports and names, no more.

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod guarded;
mod rule;

pub(super) use guarded::Guarded;
pub use rule::{Refused, Rule};

use super::{
    blocks::{self, net},
    ranges,
};
use crate::Error;
use arc_swap::ArcSwap;
use ipnet::IpNet;
use libp2p::{Multiaddr, core::transport::ListenerId, multiaddr::Protocol};
use plexus_proto::v1::node_spec::DialPolicy;
use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

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
    Name(Cow<'a, str>),
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

#[cfg(test)]
mod tests;
