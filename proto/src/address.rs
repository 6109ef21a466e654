//! Multiaddrs as text: enough of their grammar to say early what is wrong, without libp2p. Gateways
//! check specs with it; a worker parses what passed once more before it dials or listens.
//! <https://github.com/multiformats/multiaddr>

use crate::text;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Longest multiaddr in characters.
pub const CHARS_MAX: usize = 1024;

/// One component: a protocol and its value, empty where it has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// Name of the protocol, such as `tcp`.
    pub protocol: &'a str,
    /// Its value, such as `4001`.
    pub value: &'a str,
}

/// What was wrong with an address: one phrase for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

/// Splits a multiaddr into its parts and checks each value.
pub fn parse(text: &str) -> Result<Vec<Part<'_>>, Error> {
    let rest = text.strip_prefix('/').ok_or_else(|| Error("a multiaddr begins with `/`".into()))?;
    if text.len() > CHARS_MAX {
        return Err(Error(format!("a multiaddr has at most {CHARS_MAX} characters")));
    }
    let mut words = rest.trim_end_matches('/').split('/');
    let mut parts = Vec::new();
    while let Some(protocol) = words.next() {
        let value = if takes_value(protocol)? {
            words.next().ok_or_else(|| Error(format!("`/{protocol}` needs a value")))?
        } else {
            ""
        };
        if !is_value(protocol, value) {
            return Err(Error(format!("`{value}` is no value of `/{protocol}`")));
        }
        parts.push(Part { protocol, value });
    }
    Ok(parts)
}

fn takes_value(protocol: &str) -> Result<bool, Error> {
    match protocol {
        "ip4" | "ip6" | "ip6zone" | "dns" | "dns4" | "dns6" | "dnsaddr" | "tcp" | "udp" | "p2p" | "ipfs"
        | "certhash" | "sni" | "memory" => Ok(true),
        "quic" | "quic-v1" | "ws" | "wss" | "tls" | "noise" | "webrtc" | "webrtc-direct" | "webtransport"
        | "p2p-circuit" | "http" | "https" => Ok(false),
        other => Err(Error(format!("`{other}` is no protocol of multiaddrs known here"))),
    }
}

fn is_value(protocol: &str, value: &str) -> bool {
    match protocol {
        "ip4" => value.parse::<Ipv4Addr>().is_ok(),
        "ip6" => value.parse::<Ipv6Addr>().is_ok(),
        "tcp" | "udp" => value.parse::<u16>().is_ok() && !value.starts_with('+'),
        "memory" => value.parse::<u64>().is_ok(),
        "p2p" | "ipfs" => text::peer_id_from_text(value).is_ok(),
        "dns" | "dns4" | "dns6" | "dnsaddr" | "sni" => is_host(value),
        "ip6zone" | "certhash" => !value.is_empty() && value.len() <= 255,
        _ => true,
    }
}

fn is_host(name: &str) -> bool {
    let label = |part: &str| {
        (1..=63).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    name.len() <= 253 && name.strip_suffix('.').unwrap_or(name).split('.').all(label)
}

/// The PeerId (multihash bytes) at the end of an address; behind a relay the far one.
pub fn peer(parts: &[Part<'_>]) -> Option<bytes::Bytes> {
    match parts.last() {
        Some(Part { protocol: "p2p" | "ipfs", value }) => text::peer_id_from_text(value).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA";

    #[test]
    fn addresses_in_use_are_read() {
        for good in [
            "/ip4/127.0.0.1/tcp/0",
            "/ip6/::1/udp/4001/quic-v1",
            "/dns4/bootstrap.libp2p.io/tcp/443/wss",
            "/dns/a_b.example./tcp/80/ws",
            "/memory/7",
            &format!("/dnsaddr/bootstrap.libp2p.io/p2p/{PEER}"),
            &format!("/ip4/1.2.3.4/tcp/4001/p2p/{PEER}/p2p-circuit/p2p/{PEER}"),
        ] {
            assert!(parse(good).is_ok(), "{good}: {:?}", parse(good));
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in [
            "",
            "/",
            "ip4/1.2.3.4",
            "/ip4",
            "/ip4/1.2.3",
            "/ip4/1.2.3.4/tcp",
            "/ip4/1.2.3.4/tcp/65536",
            "/ip4/1.2.3.4/tcp/+1",
            "/ip6/g::1",
            "/dns4//tcp/1",
            "/dns4/a..b/tcp/1",
            "/p2p/zzz",
            "/tcp/x",
            "/gopher/1",
            "/ip4/1.2.3.4//tcp/1",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_peer_is_the_last_one() {
        assert!(peer(&parse(&format!("/ip4/1.2.3.4/tcp/1/p2p/{PEER}")).unwrap()).is_some());
        assert!(peer(&parse("/ip4/1.2.3.4/tcp/1").unwrap()).is_none());
        assert!(peer(&parse(&format!("/ip4/1.2.3.4/tcp/1/p2p/{PEER}/p2p-circuit")).unwrap()).is_none());
    }
}
