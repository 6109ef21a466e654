//! What the fuzz targets of the worker call, as in the gateway's module of this name: each takes any bytes
//! and panics where a promise does not hold. Never part of the program.

use crate::{
    config::Config,
    swarm::{
        blocks,
        guard::{Guard, Stage},
    },
};
use libp2p::{Multiaddr, multiaddr::Protocol};
use plexus_proto::{address, v1::node_spec::DialPolicy};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    sync::LazyLock,
};

/// A target: its name, as its corpus has it, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 2] = [("guard", guard), ("settings", settings)];

/// The guard of a node in a fleet.
static FLEET: LazyLock<Guard> = LazyLock::new(|| plain(false));
/// The same in development.
static DEVELOPMENT: LazyLock<Guard> = LazyLock::new(|| plain(true));

fn plain(private: bool) -> Guard {
    Guard::new(Some(&DialPolicy::default()), private, blocks::List::default()).expect("nothing is asked")
}

/// An address as text or as bytes: what is dialled is what the model lets pass.
fn guard(data: &[u8]) {
    let said = std::str::from_utf8(data).ok();
    let binary = Multiaddr::try_from(data.to_vec()).ok();
    let text: Option<Multiaddr> = said.and_then(|said| said.parse().ok());
    if let (Some(said), true) = (said, text.is_some()) {
        let _ = address::parse(said); // the gateway's own reading, before it comes here
    }
    for addr in text.iter().chain(&binary) {
        let given = FLEET.check(addr).is_ok();
        let resolved = FLEET.judge(addr, Stage::Resolved { web: false }).is_ok();
        assert!(!given || model(addr, false), "{addr} passes");
        assert!(!resolved || model(addr, true), "{addr} passes below name resolution");
        // Development lifts rules and adds none.
        let lifted = DEVELOPMENT.check(addr).is_ok();
        assert!(lifted || !given, "{addr}");
        let metadata = addr.iter().any(|part| matches!(part, Protocol::Ip4(ip) if is_metadata(ip)));
        assert!(!lifted || !metadata, "{addr} reaches metadata");
    }
}

fn is_metadata(ip: Ipv4Addr) -> bool {
    ip == Ipv4Addr::new(169, 254, 169, 254)
}

/// What may pass at most, told in the plainest way: part by part, wherever it stands.
fn model(addr: &Multiaddr, resolved: bool) -> bool {
    let mut web = resolved;
    let mut hosts = 0;
    for part in addr {
        let fits = match &part {
            Protocol::Ip4(ip) => is_public((*ip).into()),
            Protocol::Ip6(ip) => is_public((*ip).into()),
            Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) | Protocol::Dnsaddr(name) => {
                !resolved && is_public_name(name)
            }
            Protocol::Ws(_) | Protocol::Wss(_) => {
                web = true;
                true
            }
            Protocol::Tcp(_) | Protocol::Udp(_) | Protocol::QuicV1 | Protocol::Tls | Protocol::Sni(_) => true,
            Protocol::P2p(_) => true,
            _ => false,
        };
        if !fits {
            return false;
        }
        hosts += usize::from(!matches!(part, Protocol::P2p(_) | Protocol::Tls | Protocol::Sni(_)));
    }
    let ports = addr.iter().filter_map(|part| match part {
        Protocol::Tcp(port) | Protocol::Udp(port) => Some(port),
        _ => None,
    });
    hosts > 0 && ports.into_iter().all(|port| port > 1023 || (web && matches!(port, 80 | 443)))
}

/// Whether an address is on the public network, in words of the standard library and ranges it lacks.
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            !(ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_broadcast()
                || ip.is_documentation()
                || ip.is_multicast()
                || a == 0
                || a >= 240
                || (a, b) == (100, b & 63 | 64)
                || (a, b, c) == (192, 0, 0)
                || (a, b & 254) == (198, 18))
        }
        IpAddr::V6(ip) => {
            let [a, b, ..] = ip.segments();
            // Only 2000::/3 is given out, and of that neither Teredo, 6to4, nor what is for examples.
            a & 0xe000 == 0x2000
                && a != 0x2002
                && !(a == 0x2001 && (b < 0x200 || b == 0xdb8))
                && !(a == 0x3fff && b < 0x1000)
                && ip != Ipv6Addr::UNSPECIFIED
        }
    }
}

/// Whether a name may be one of the public network: it has a dot, no local ending, and is no number. A name
/// that is an address is one.
fn is_public_name(name: &str) -> bool {
    if let Ok(ip) = name.parse() {
        return is_public(ip);
    }
    let name = name.to_ascii_lowercase();
    let name = name.trim_end_matches('.');
    let last = name.rsplit('.').next().unwrap_or_default();
    let local = ["localhost", "local", "internal", "lan", "home", "corp", "arpa", "svc"];
    name.contains('.') && !local.contains(&last) && last.parse::<u32>().is_err() && !last.starts_with("0x")
}

/// A file of the worker's config.
fn settings(data: &[u8]) {
    let Ok(said) = std::str::from_utf8(data) else { return };
    let Ok(mut read) = toml::from_str::<Config>(said) else { return };
    let written = toml::to_string(&read).expect("what was read can be written");
    let again: Config = toml::from_str(&written).expect("what was written can be read");
    assert_eq!(format!("{read:?}"), format!("{again:?}"));
    // Files are not ours to open here.
    read.keys.file = read.keys.file.map(|_| PathBuf::new());
    if let Err(error) = read.check() {
        let error = error.to_string();
        assert!(error.contains(": "), "names its key: {error}");
    }
}
