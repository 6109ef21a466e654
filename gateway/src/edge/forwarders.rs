//! Who may say who the client is: load balancers and proxies in front of the gateway, named by address.
//! Nobody else is believed. The decisions are pure: bytes and headers in, an address out.

use crate::config::{self, ForwardedHeader};
use http::{HeaderMap, HeaderName, header};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What a PROXY protocol v2 header begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of its fixed part.
pub(crate) const PROXY_HEAD: usize = 16;
/// Bytes of addresses and extensions that are read at most.
const PROXY_BODY_MAX: usize = 2048;

/// Who is believed, and in which words.
#[derive(Debug)]
pub(crate) struct Forwarders {
    proxy: Vec<IpNet>,
    trusted: Vec<IpNet>,
    header: ForwardedHeader,
}

impl Forwarders {
    /// Reads the lists, and refuses by name what is no address or network.
    pub(crate) fn new(config: &config::Forwarders) -> Result<Self, crate::Error> {
        Ok(Self {
            proxy: networks("forwarders.proxy_protocol", &config.proxy_protocol)?,
            trusted: networks("forwarders.trusted", &config.trusted)?,
            header: config.header,
        })
    }

    /// Tells whether connections from there begin with a PROXY header.
    pub(crate) fn speaks_proxy(&self, peer: IpAddr) -> bool {
        holds(&self.proxy, peer)
    }

    /// Tells whose connections and calls an address counts for, if anybody's: an IPv6 client has a whole /64.
    /// Private addresses count only once forwarders are named, because until then one of them may be a
    /// balancer that nobody told us of; a forwarder itself never does.
    pub(crate) fn counted(&self, address: IpAddr) -> Option<IpAddr> {
        let (named, address) = (self.proxy.iter().chain(&self.trusted), address.to_canonical());
        let counts = match named.clone().next() {
            Some(_) => !named.clone().any(|network| network.contains(&address)),
            None => is_public(address),
        };
        counts.then_some(match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(six) => Ipv6Addr::from_bits(six.to_bits() >> 64 << 64).into(),
        })
    }

    /// Finds the client of a request: the peer, unless it is trusted to name another one.
    pub(crate) fn client(&self, peer: SocketAddr, headers: &HeaderMap) -> SocketAddr {
        if !holds(&self.trusted, peer.ip()) {
            return peer;
        }
        let name = match self.header {
            ForwardedHeader::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
            ForwardedHeader::Forwarded => header::FORWARDED,
        };
        let mut client = peer;
        // The nearest hop wrote last. What stands before an address that is not trusted is that one's claim.
        for line in headers.get_all(name).iter().rev() {
            let Ok(line) = line.to_str() else { return client };
            for hop in line.rsplit(',') {
                let Some(address) = self.hop(hop.trim()) else { return client };
                client = address;
                if !holds(&self.trusted, address.ip()) {
                    return client;
                }
            }
        }
        client
    }

    /// The address in one element of the header; none where it is hidden or unreadable.
    fn hop(&self, hop: &str) -> Option<SocketAddr> {
        match self.header {
            ForwardedHeader::XForwardedFor => address(hop),
            ForwardedHeader::Forwarded => {
                let mut pairs = hop.split(';').filter_map(|pair| pair.split_once('='));
                let (_, node) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
                address(node.trim().trim_matches('"'))
            }
        }
    }
}

/// The start of a PROXY header: what follows, and how much of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ProxyHead {
    /// Whether it names a client; the forwarder also connects for itself, to see whether we live.
    named: bool,
    family: u8,
    /// Bytes that follow.
    pub(crate) rest: usize,
}

impl ProxyHead {
    /// Reads the fixed part; none where it is no PROXY protocol v2 over a stream.
    pub(crate) fn parse(bytes: &[u8; PROXY_HEAD]) -> Option<Self> {
        let (signature, [command, family, high, low]) = bytes.split_first_chunk::<12>()? else { return None };
        let rest = usize::from(u16::from_be_bytes([*high, *low]));
        let named = match command {
            0x20 => false,
            0x21 => true,
            _ => return None,
        };
        // Unspecified, TCP over IPv4 and IPv6, and a stream of a Unix socket: no datagrams.
        let known = matches!(family, 0x00 | 0x11 | 0x21 | 0x31);
        (signature == SIGNATURE && rest <= PROXY_BODY_MAX && (known || !named)).then_some(Self {
            named,
            family: *family,
            rest,
        })
    }

    /// Reads who the client is from what follows; the peer where nobody is named, none where it is cut short.
    pub(crate) fn client(&self, peer: SocketAddr, rest: &[u8]) -> Option<SocketAddr> {
        if !self.named {
            return Some(peer);
        }
        let port = |at: usize| Some(u16::from_be_bytes(*rest.get(at..)?.first_chunk::<2>()?));
        let address: SocketAddr = match self.family {
            0x11 => {
                // Both addresses and both ports must be there, though only the client's are read.
                port(10)?;
                (Ipv4Addr::from(*rest.first_chunk::<4>()?), port(8)?).into()
            }
            0x21 => {
                port(34)?;
                (Ipv6Addr::from(*rest.first_chunk::<16>()?), port(32)?).into()
            }
            _ => return Some(peer),
        };
        Some(canonical(address))
    }
}

/// Spells an IPv4 address that came over an IPv6 socket as what it is.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn networks(key: &str, texts: &[String]) -> Result<Vec<IpNet>, crate::Error> {
    let read = |text: &String| {
        let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        net.map_err(|_| {
            crate::Error::Config(format!("{key}: {text:?} is no address or network such as 10.0.0.0/8"))
        })
    };
    texts.iter().map(read).collect()
}

fn holds(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

/// Tells whether an address is one of the internet, and no network's own.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(four) => {
            let shared = four.octets()[0] == 100 && four.octets()[1] & 0xc0 == 64;
            !(shared
                || four.is_private()
                || four.is_loopback()
                || four.is_link_local()
                || four.is_unspecified())
        }
        IpAddr::V6(six) => {
            !(six.is_loopback()
                || six.is_unspecified()
                || six.is_unique_local()
                || six.is_unicast_link_local())
        }
    }
}

/// Reads an address with or without a port, IPv6 with or without brackets.
fn address(text: &str) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    let read = bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 0)).or_else(|_| text.parse());
    read.ok().map(canonical)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn forwarders(header: ForwardedHeader) -> Forwarders {
        let trusted = vec!["10.0.0.0/8".into(), "fd00::/8".into(), "192.0.2.1".into()];
        Forwarders::new(&config::Forwarders { proxy_protocol: Vec::new(), trusted, header }).unwrap()
    }

    fn client(header: ForwardedHeader, peer: &str, lines: &[(&'static str, &'static str)]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        forwarders(header).client(peer.parse().unwrap(), &headers).ip().to_string()
    }

    #[test]
    fn only_a_trusted_peer_may_name_the_client_and_only_in_the_header_that_was_agreed() {
        use ForwardedHeader::{Forwarded, XForwardedFor};
        const XFF: &str = "x-forwarded-for";
        const FWD: &str = "forwarded";
        type Row = (ForwardedHeader, &'static str, &'static [(&'static str, &'static str)], &'static str);
        let rows: [Row; 17] = [
            (XForwardedFor, "203.0.113.9:1", &[(XFF, "198.51.100.1")], "203.0.113.9"),
            (XForwardedFor, "10.0.0.1:1", &[(XFF, "198.51.100.1")], "198.51.100.1"),
            (XForwardedFor, "192.0.2.1:1", &[(XFF, "198.51.100.1")], "198.51.100.1"),
            (XForwardedFor, "[::ffff:10.0.0.1]:1", &[(XFF, "198.51.100.1")], "198.51.100.1"),
            (XForwardedFor, "10.0.0.1:1", &[], "10.0.0.1"),
            // A client's own claim stands before the address at which it was seen.
            (XForwardedFor, "10.0.0.1:1", &[(XFF, "127.0.0.1, 198.51.100.1")], "198.51.100.1"),
            (XForwardedFor, "10.0.0.1:1", &[(XFF, "127.0.0.1"), (XFF, "198.51.100.1")], "198.51.100.1"),
            (XForwardedFor, "10.0.0.1:1", &[(XFF, "198.51.100.1, 10.0.0.7")], "198.51.100.1"),
            (XForwardedFor, "10.0.0.1:1", &[(XFF, "10.0.0.8, 10.0.0.7")], "10.0.0.8"),
            (XForwardedFor, "10.0.0.1:1", &[(XFF, "198.51.100.1, junk, 10.0.0.7")], "10.0.0.7"),
            (XForwardedFor, "10.0.0.1:1", &[(XFF, "2001:db8::1")], "2001:db8::1"),
            (XForwardedFor, "10.0.0.1:1", &[(XFF, "198.51.100.1:4711")], "198.51.100.1"),
            (XForwardedFor, "10.0.0.1:1", &[(FWD, "for=198.51.100.1")], "10.0.0.1"),
            (Forwarded, "10.0.0.1:1", &[(XFF, "198.51.100.1")], "10.0.0.1"),
            (Forwarded, "10.0.0.1:1", &[(FWD, "proto=https;For=198.51.100.1;by=x")], "198.51.100.1"),
            (Forwarded, "[fd00::1]:1", &[(FWD, "for=unknown, for=\"[2001:db8::1]:4711\"")], "2001:db8::1"),
            (Forwarded, "10.0.0.1:1", &[(FWD, "for=198.51.100.1, for=_hidden")], "10.0.0.1"),
        ];
        for (row, (header, peer, lines, wanted)) in rows.into_iter().enumerate() {
            assert_eq!(client(header, peer, lines), wanted, "row {row}");
        }
    }

    /// A header of the given command and family, and what follows it.
    fn read(command: u8, family: u8, rest: &[u8]) -> Option<String> {
        let mut head = [0; PROXY_HEAD];
        head[..12].copy_from_slice(SIGNATURE);
        head[12..14].copy_from_slice(&[command, family]);
        head[14..].copy_from_slice(&u16::try_from(rest.len()).unwrap().to_be_bytes());
        let head = ProxyHead::parse(&head)?;
        assert_eq!(head.rest, rest.len());
        head.client("10.0.0.1:9".parse().unwrap(), rest).map(|a| a.to_string())
    }

    #[test]
    fn a_proxy_header_names_the_client_or_is_refused() {
        let four = [198, 51, 100, 1, 10, 0, 0, 1, 0x12, 0x67, 0x1f, 0x90];
        let six = [[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]; 2].concat();
        let six = [six, vec![0x12, 0x67, 0x1f, 0x90]].concat();
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 198, 51, 100, 1];
        let mapped = [mapped.to_vec(), vec![0; 16], vec![0x12, 0x67, 0, 0]].concat();
        let long = [four.to_vec(), vec![4; 100]].concat();
        let rows: [(u8, u8, &[u8], Option<&str>); 14] = [
            (0x21, 0x11, &four, Some("198.51.100.1:4711")),
            (0x21, 0x21, &six, Some("[2001:db8::1]:4711")),
            (0x21, 0x21, &mapped, Some("198.51.100.1:4711")),
            (0x21, 0x11, &long, Some("198.51.100.1:4711")),
            (0x21, 0x00, &[], Some("10.0.0.1:9")),
            (0x21, 0x31, &[0; 216], Some("10.0.0.1:9")),
            (0x20, 0x00, &[], Some("10.0.0.1:9")),
            (0x20, 0x12, &four, Some("10.0.0.1:9")),
            (0x21, 0x11, &four[..11], None),
            (0x21, 0x21, &four, None),
            (0x21, 0x12, &four, None),
            (0x22, 0x11, &four, None),
            (0x11, 0x11, &four, None),
            (0x21, 0x11, &[0; PROXY_BODY_MAX + 1], None),
        ];
        for (row, (command, family, rest, wanted)) in rows.into_iter().enumerate() {
            assert_eq!(read(command, family, rest).as_deref(), wanted, "row {row}");
        }
        assert_eq!(ProxyHead::parse(b"PROXY TCP4 1.2.3"), None, "version 1 is not spoken");
    }

    #[test]
    fn an_address_counts_where_it_is_public_or_forwarders_are_named() {
        let counted = |named: &[&str], address: &str| {
            let proxy_protocol = named.iter().map(|n| (*n).to_owned()).collect();
            let config = config::Forwarders { proxy_protocol, ..config::Forwarders::default() };
            let forwarders = Forwarders::new(&config).unwrap();
            forwarders.counted(address.parse().unwrap()).map(|a| a.to_string())
        };
        for own in
            ["127.0.0.1", "::1", "10.1.2.3", "192.168.0.1", "100.64.0.1", "169.254.1.1", "fd00::1", "fe80::1"]
        {
            assert_eq!(counted(&[], own), None, "{own}");
        }
        for (address, whose) in [
            ("198.51.100.1", "198.51.100.1"),
            ("::ffff:198.51.100.1", "198.51.100.1"),
            ("2001:db8:1:2:3::4", "2001:db8:1:2::"),
        ] {
            assert_eq!(counted(&[], address).as_deref(), Some(whose));
            assert_eq!(counted(&["10.0.0.0/8"], address).as_deref(), Some(whose));
        }
        assert_eq!(counted(&["10.0.0.0/8"], "10.1.2.3"), None, "the forwarder speaks for itself");
        assert_eq!(counted(&["10.0.0.0/8"], "192.168.0.1").as_deref(), Some("192.168.0.1"));
    }
}
