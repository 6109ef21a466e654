//! The table behind the guard: what each range of addresses, each port and each name is. Pure.

use super::guard::Rule;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Ports above 1023 of services that are no peers: container and cluster control, databases, caches,
/// queues, remote desktops.
const SERVICE_PORTS: [u16; 44] = [
    1433, 1521, 2049, 2181, 2375, 2376, 2379, 2380, 3128, 3306, 3389, 4222, 5432, 5672, 5900, 5984, 5985,
    5986, 6379, 6380, 6443, 7000, 7001, 8200, 8300, 8301, 8500, 8529, 9042, 9090, 9092, 9093, 9100, 9200,
    9300, 10250, 10255, 10256, 11211, 15672, 16379, 26379, 27017, 50070,
];

/// Ends of names that mean the local machine or network.
const LOCAL_NAMES: [&str; 12] = [
    "localhost",
    "localdomain",
    "local",
    "internal",
    "intranet",
    "lan",
    "home",
    "corp",
    "private",
    "svc",
    "arpa",
    "onion",
];

/// Finds the rule that forbids an address; none for public ones.
pub(super) fn rule(ip: IpAddr) -> Option<Rule> {
    match ip {
        IpAddr::V4(ip) => v4(ip),
        IpAddr::V6(ip) => v6(ip),
    }
}

fn v4(ip: Ipv4Addr) -> Option<Rule> {
    Some(match ip.octets() {
        // EC2 and most others, ECS, EKS, Alibaba, Oracle, Azure.
        [169, 254, 169, 254]
        | [169, 254, 170, 2 | 23]
        | [100, 100, 100, 200]
        | [192, 0, 0, 192]
        | [168, 63, 129, 16] => Rule::Metadata,
        [0, ..] => Rule::Unspecified,
        [127, ..] => Rule::Loopback,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Rule::Private,
        [100, 64..=127, ..] => Rule::SharedAddress,
        [169, 254, ..] => Rule::LinkLocal,
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Rule::Documentation,
        [192, 0, 0, _] => Rule::Reserved,
        [192, 88, 99, _] => Rule::SixToFour,
        [198, 18..=19, ..] => Rule::Benchmarking,
        [224..=239, ..] => Rule::Multicast,
        [255, 255, 255, 255] => Rule::Broadcast,
        [240..=255, ..] => Rule::Reserved,
        _ => return None,
    })
}

fn v6(ip: Ipv6Addr) -> Option<Rule> {
    Some(match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Rule::Unspecified,
        [0, 0, 0, 0, 0, 0, 0, 1] => Rule::Loopback,
        // Compatible, mapped, translated.
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => Rule::Mapped,
        [0x64, 0xff9b, 0, 0, 0, 0, ..] | [0x64, 0xff9b, 1, ..] => Rule::Nat64,
        [0x2001, 0, ..] => Rule::Teredo,
        [0x2001, 2, 0, ..] => Rule::Benchmarking,
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Rule::Documentation,
        [0x2001, 0..=0x1ff, ..] => Rule::Reserved,
        [0x2002, ..] => Rule::SixToFour,
        // EC2, Google.
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254] => Rule::Metadata,
        [0xfc00..=0xfdff, ..] => Rule::UniqueLocal,
        [0xfe80..=0xfeff, ..] => Rule::LinkLocal,
        [0xff00..=0xffff, ..] => Rule::Multicast,
        // Only 2000::/3 is given out.
        [0x2000..=0x3fff, ..] => return None,
        _ => Rule::Reserved,
    })
}

/// Tells whether peers may be behind the port.
pub(super) fn is_peer_port(port: u16) -> bool {
    port > 1023 && !SERVICE_PORTS.contains(&port)
}

/// Tells whether a WebSocket may be behind the port though it is a low one.
pub(super) fn is_web_port(port: u16) -> bool {
    matches!(port, 80 | 443)
}

/// Tells whether a name can be one of the public network: it has a dot, does not end as local names
/// do, and its last label is no number, which resolvers may read as an address.
pub(super) fn is_public_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let Some((rest, top)) = name.rsplit_once('.') else { return false };
    let local = LOCAL_NAMES.contains(&top) || name.ends_with("svc.cluster.local");
    let number = top.starts_with(|first: char| first.is_ascii_digit());
    !local && !number && !top.is_empty() && rest.split('.').all(|label| !label.is_empty())
}
