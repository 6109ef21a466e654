//! How requests about peers are read.

use crate::{
    Refusal,
    clock::Moment,
    node::peers::book::without_peer,
    refuse,
    swarm::guard::{Guard, Rule},
};
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use plexus_proto::{reason::Reason, text, v1};
use std::time::Duration;

/// How long a peer is waited for, unless said otherwise.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest that may be said.
pub(super) const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Addresses of one request.
const ADDRESSES_MAX: usize = 16;

/// Reads a PeerId in any text form, or a multiaddr that ends in one.
pub(super) fn peer_at(text: &str) -> Result<(PeerId, Option<Multiaddr>), Refusal> {
    if !text.starts_with('/') {
        return Ok((peer(text)?, None));
    }
    match target(text) {
        Some((peer, address)) => Ok((peer, Some(address))),
        None => {
            Err(refuse(Reason::BadMultiaddr, "the peer is not a multiaddr that ends in /p2p/ and a PeerId"))
        }
    }
}

pub(super) fn peer(text: &str) -> Result<PeerId, Refusal> {
    if let Some((peer, _)) = target(text) {
        return Ok(peer);
    }
    let bad = || refuse(Reason::BadPeerId, "the peer is not a PeerId in any text form");
    let bytes = text::peer_id_from_text(text).map_err(|_| bad())?;
    PeerId::from_bytes(&bytes).map_err(|_| bad())
}

pub(super) fn address(text: &str) -> Result<Multiaddr, Refusal> {
    text.parse().map_err(|_| refuse(Reason::BadMultiaddr, format!("{text:?} is not a multiaddr")))
}

/// Reads an address that ends in `/p2p/…`.
pub(super) fn target(text: &str) -> Option<(PeerId, Multiaddr)> {
    let address: Multiaddr = text.parse().ok()?;
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some((peer, without_peer(address))),
        _ => None,
    }
}

/// Reads addresses of one peer, with or without `/p2p/…` at their end.
pub(super) fn addresses(
    texts: &[String],
    peer: &PeerId,
    own: Option<Multiaddr>,
) -> Result<Vec<Multiaddr>, Refusal> {
    if texts.len() > ADDRESSES_MAX {
        return Err(Box::new(v1::Error::field("addresses", format!("at most {ADDRESSES_MAX}"))));
    }
    let one = |text: &String| {
        let address = address(text)?;
        match address.iter().last() {
            Some(Protocol::P2p(other)) if other != *peer => {
                Err(Box::new(v1::Error::field("addresses", format!("{text} is of another peer"))))
            }
            _ => Ok(without_peer(address)),
        }
    };
    own.into_iter().map(Ok).chain(texts.iter().map(one)).collect()
}

/// Leaves the addresses that the guard lets through; refuses where it lets none.
pub(super) fn allowed(addresses: Vec<Multiaddr>, guard: &Guard) -> Result<Vec<Multiaddr>, Refusal> {
    let mut refused = None;
    let allowed: Vec<Multiaddr> = addresses
        .into_iter()
        .filter(|address| match guard.check(address) {
            Ok(()) => true,
            Err(rule) => {
                refused.get_or_insert(rule);
                false
            }
        })
        .collect();
    match refused.filter(|_| allowed.is_empty()) {
        Some(rule) => Err(by_rule(rule)),
        None => Ok(allowed),
    }
}

/// What a caller is told of a rule that stopped a dial.
pub(super) fn by_rule(rule: Rule) -> Refusal {
    match rule {
        Rule::Blocked => refuse(Reason::PeerBlocked, "the node's block list names the peer or its address"),
        rule => Box::new(
            v1::Error::new(Reason::AddressNotAllowed, format!("the address is not dialled by rule {rule}"))
                .with("rule", rule),
        ),
    }
}

pub(super) fn duration(
    field: &str,
    asked: Option<prost_types::Duration>,
    default: Duration,
    least: Duration,
    most: Duration,
) -> Result<Duration, Refusal> {
    let Some(asked) = asked else { return Ok(default) };
    let read = Duration::try_from(asked).ok().filter(|asked| (least..=most).contains(asked));
    match read {
        Some(asked) if !asked.is_zero() => Ok(asked),
        Some(_) => Ok(default),
        None => Err(Box::new(v1::Error::field(field, format!("{least:?} to {most:?}")))),
    }
}

/// The earlier of the caller's deadline and ours.
pub(super) fn within(until: Option<Moment>, ours: Moment) -> Moment {
    until.map_or(ours, |until| until.min(ours))
}
