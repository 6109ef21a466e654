use super::*;
use ipnet::{Ipv4Net, Ipv6Net};
use plexus_proto::v1;
use proptest::prelude::*;
use std::{collections::HashSet, net::Ipv4Addr, net::Ipv6Addr};

/// One spelling a line, after the rule that stops it; `-` passes.
const ROWS: &str = include_str!("rows.txt");

fn guard(policy: DialPolicy, allow_private: bool) -> Guard {
    Guard::new(Some(&policy), allow_private, blocks::List::default()).unwrap()
}

fn fleet() -> Guard {
    guard(DialPolicy::default(), false)
}

fn addr(text: &str) -> Multiaddr {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn named(result: Result<(), Rule>) -> &'static str {
    result.err().map_or("-", Rule::as_str)
}

#[test]
fn every_spelling_meets_its_rule() {
    let guard = fleet();
    let rows: Vec<_> =
        ROWS.lines().filter_map(|row| row.split_once(' ')).map(|(rule, text)| (rule, text.trim())).collect();
    let wrong: Vec<_> = rows
        .iter()
        .map(|(rule, text)| (*rule, named(guard.check(&addr(text))), *text))
        .filter(|(expected, got, _)| expected != got)
        .collect();
    assert!(wrong.is_empty(), "expected, got: {wrong:#?}");
    assert!(
        rows.len() >= 400 && rows.iter().filter(|(rule, _)| *rule == "-").count() >= 70,
        "{}",
        rows.len()
    );
    let rules: HashSet<_> = rows.iter().map(|(rule, _)| rule).collect();
    assert_eq!(rules.len(), 20, "a row for each rule of the table, and for passing: {rules:?}");
}

#[test]
fn below_name_resolution_the_same_rows_hold_and_no_name_passes() {
    let guard = fleet();
    for (rule, text) in ROWS.lines().filter_map(|row| row.split_once(' ')) {
        let addr = addr(text.trim());
        let got = named(guard.judge(&addr, Stage::Resolved { web: false }));
        match addr.iter().next() {
            Some(Protocol::Ip4(_) | Protocol::Ip6(_)) => assert_eq!(got, rule, "{text}"),
            _ => assert_eq!(got, "protocol", "{text}"),
        }
    }
}

#[test]
fn development_lifts_private_ranges_ports_and_names_and_nothing_else() {
    let guard = guard(DialPolicy::default(), true);
    for (rule, text) in ROWS.lines().filter_map(|row| row.split_once(' ')) {
        let text = text.trim();
        let lifted = matches!(
            rule,
            "loopback" | "private" | "shared_address" | "link_local" | "unique_local" | "name" | "port"
        ) && !text.contains("/tcp/0")
            && !text.contains("/udp/0/")
            || text.starts_with("/memory/");
        let expected = if lifted { "-" } else { rule };
        assert_eq!(named(guard.check(&addr(text))), expected, "{text}");
    }
}

#[test]
fn a_policy_narrows_and_never_widens() {
    let ranges = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let allow =
        guard(DialPolicy { allow: ranges(&["8.8.0.0/16", "10.0.0.0/8"]), ..Default::default() }, false);
    let deny = guard(DialPolicy { deny: ranges(&["8.8.8.8", "2a01::/16"]), ..Default::default() }, false);
    let both = guard(
        DialPolicy { allow: ranges(&["8.0.0.0/8"]), deny: ranges(&["8.8.8.0/24"]), ..Default::default() },
        false,
    );
    let ports = guard(DialPolicy { ports: vec![443, 4001, 22, 6379], ..Default::default() }, false);
    let off = guard(DialPolicy { outgoing: Some(false), ..Default::default() }, true);
    let rows = [
        (&allow, "/ip4/8.8.4.4/tcp/4001", "-"),
        (&allow, "/ip4/9.9.9.9/tcp/4001", "not_allowed"),
        (&allow, "/ip4/10.0.0.1/tcp/4001", "private"),
        (&allow, "/ip6/2a01::1/tcp/4001", "not_allowed"),
        (&deny, "/ip4/8.8.8.8/tcp/4001", "denied"),
        (&deny, "/ip4/8.8.8.9/tcp/4001", "-"),
        (&deny, "/ip6/2a01::1/udp/4001/quic-v1", "denied"),
        (&both, "/ip4/8.8.8.8/tcp/4001", "denied"),
        (&both, "/ip4/8.8.9.8/tcp/4001", "-"),
        (&ports, "/ip4/8.8.8.8/tcp/4001", "-"),
        (&ports, "/ip4/8.8.8.8/tcp/443", "-"),
        (&ports, "/ip4/8.8.8.8/tcp/4002", "port_not_listed"),
        (&ports, "/ip4/8.8.8.8/tcp/22", "port"),
        (&ports, "/ip4/8.8.8.8/tcp/6379", "port"),
        (&ports, "/ip4/127.0.0.1/tcp/4001", "loopback"),
        (&off, "/ip4/8.8.8.8/tcp/4001", "outgoing"),
        (&off, "/memory/1", "outgoing"),
    ];
    for (guard, text, expected) in rows {
        assert_eq!(named(guard.check(&addr(text))), expected, "{text}");
    }
}

#[test]
fn a_policy_that_cannot_be_read_is_an_error() {
    for bad in ["", "8.8.8.8/33", "example.com", "12D3KooW", "::/129"] {
        for policy in [
            DialPolicy { allow: vec![bad.to_owned()], ..Default::default() },
            DialPolicy { deny: vec![bad.to_owned()], ..Default::default() },
        ] {
            assert!(Guard::new(Some(&policy), false, blocks::List::default()).is_err(), "{bad}");
        }
    }
    let port = DialPolicy { ports: vec![65536], ..Default::default() };
    assert!(Guard::new(Some(&port), false, blocks::List::default()).is_err());
}

#[test]
fn blocked_ranges_and_own_addresses_are_not_dialled() {
    let entry = v1::BlockEntry { entry: "8.8.8.0/24".to_owned(), ..Default::default() };
    let guard = Guard::new(None, false, blocks::List::new(&[entry]).unwrap()).unwrap();
    assert_eq!(named(guard.check(&addr("/ip4/8.8.8.8/tcp/4001"))), "blocked");
    assert_eq!(named(guard.check(&addr("/ip4/8.8.9.8/tcp/4001"))), "-");
    let (first, second) = (ListenerId::next(), ListenerId::next());
    let own = addr("/ip4/9.9.9.9/tcp/4001");
    guard.listens(first, &own);
    guard.listens(second, &addr("/ip4/9.9.9.9/udp/4002/quic-v1"));
    assert_eq!(named(guard.check(&own)), "own_address");
    assert_eq!(named(guard.check(&addr("/ip4/9.9.9.9/udp/4002/quic-v1"))), "own_address");
    assert_eq!(named(guard.check(&addr("/ip4/9.9.9.9/tcp/4003"))), "-");
    guard.listens_no_more(|id, _| id == first);
    assert_eq!(named(guard.check(&own)), "-");
    assert_eq!(named(guard.check(&addr("/ip4/9.9.9.9/udp/4002/quic-v1"))), "own_address");
}

#[test]
fn without_learned_addresses_a_dial_must_bring_its_own() {
    let guard = guard(DialPolicy { learned: Some(false), ..Default::default() }, false);
    assert_eq!(guard.check_dial(&[]), Err(Rule::Learned));
    assert_eq!(guard.check_dial(&[addr("/ip4/8.8.8.8/tcp/4001")]), Ok(()));
    assert_eq!(fleet().check_dial(&[]), Ok(()));
}

#[test]
fn rules_have_distinct_names() {
    let names: HashSet<_> = ALL.iter().map(|rule| rule.as_str()).collect();
    assert_eq!(names.len(), ALL.len());
    assert!(
        names
            .iter()
            .all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'))
    );
}

const ALL: [Rule; 26] = [
    Rule::Outgoing,
    Rule::Learned,
    Rule::Protocol,
    Rule::Name,
    Rule::Port,
    Rule::PortNotListed,
    Rule::Loopback,
    Rule::Private,
    Rule::SharedAddress,
    Rule::LinkLocal,
    Rule::Metadata,
    Rule::UniqueLocal,
    Rule::Mapped,
    Rule::Nat64,
    Rule::SixToFour,
    Rule::Teredo,
    Rule::Multicast,
    Rule::Unspecified,
    Rule::Broadcast,
    Rule::Benchmarking,
    Rule::Documentation,
    Rule::Reserved,
    Rule::OwnAddress,
    Rule::Blocked,
    Rule::Denied,
    Rule::NotAllowed,
];

/// The model: ranges as their registries write them, the longest match decides.
const MODEL_V4: &[(&str, Rule)] = &[
    ("0.0.0.0/8", Rule::Unspecified),
    ("10.0.0.0/8", Rule::Private),
    ("100.64.0.0/10", Rule::SharedAddress),
    ("100.100.100.200/32", Rule::Metadata),
    ("127.0.0.0/8", Rule::Loopback),
    ("168.63.129.16/32", Rule::Metadata),
    ("169.254.0.0/16", Rule::LinkLocal),
    ("169.254.169.254/32", Rule::Metadata),
    ("169.254.170.2/32", Rule::Metadata),
    ("169.254.170.23/32", Rule::Metadata),
    ("172.16.0.0/12", Rule::Private),
    ("192.0.0.0/24", Rule::Reserved),
    ("192.0.0.192/32", Rule::Metadata),
    ("192.0.2.0/24", Rule::Documentation),
    ("192.88.99.0/24", Rule::SixToFour),
    ("192.168.0.0/16", Rule::Private),
    ("198.18.0.0/15", Rule::Benchmarking),
    ("198.51.100.0/24", Rule::Documentation),
    ("203.0.113.0/24", Rule::Documentation),
    ("224.0.0.0/4", Rule::Multicast),
    ("240.0.0.0/4", Rule::Reserved),
    ("255.255.255.255/32", Rule::Broadcast),
];

const MODEL_V6: &[(&str, Option<Rule>)] = &[
    ("::/0", Some(Rule::Reserved)),
    ("2000::/3", None),
    ("::/96", Some(Rule::Mapped)),
    ("::/128", Some(Rule::Unspecified)),
    ("::1/128", Some(Rule::Loopback)),
    ("::ffff:0:0/96", Some(Rule::Mapped)),
    ("::ffff:0:0:0/96", Some(Rule::Mapped)),
    ("64:ff9b::/96", Some(Rule::Nat64)),
    ("64:ff9b:1::/48", Some(Rule::Nat64)),
    ("2001::/23", Some(Rule::Reserved)),
    ("2001::/32", Some(Rule::Teredo)),
    ("2001:2::/48", Some(Rule::Benchmarking)),
    ("2001:db8::/32", Some(Rule::Documentation)),
    ("2002::/16", Some(Rule::SixToFour)),
    ("3fff::/20", Some(Rule::Documentation)),
    ("fc00::/7", Some(Rule::UniqueLocal)),
    ("fd00:ec2::254/128", Some(Rule::Metadata)),
    ("fd20:ce::254/128", Some(Rule::Metadata)),
    ("fe80::/9", Some(Rule::LinkLocal)),
    ("ff00::/8", Some(Rule::Multicast)),
];

fn model_v4(ip: Ipv4Addr) -> Option<Rule> {
    let nets = MODEL_V4.iter().map(|(net, rule)| (net.parse::<Ipv4Net>().unwrap(), *rule));
    nets.filter(|(net, _)| net.contains(&ip)).max_by_key(|(net, _)| net.prefix_len()).map(|(_, rule)| rule)
}

fn model_v6(ip: Ipv6Addr) -> Option<Rule> {
    let nets = MODEL_V6.iter().map(|(net, rule)| (net.parse::<Ipv6Net>().unwrap(), *rule));
    nets.filter(|(net, _)| net.contains(&ip))
        .max_by_key(|(net, _)| net.prefix_len())
        .and_then(|(_, rule)| rule)
}

/// Addresses near the edges of the model's ranges, where mistakes are, and anywhere.
fn near_v4() -> impl Strategy<Value = Ipv4Addr> {
    let edge = (0..MODEL_V4.len(), any::<bool>(), -2i32..=2).prop_map(|(net, last, off)| {
        let net = MODEL_V4[net].0.parse::<Ipv4Net>().unwrap();
        let edge = u32::from(if last { net.broadcast() } else { net.network() });
        Ipv4Addr::from(edge.wrapping_add_signed(off))
    });
    prop_oneof![edge, any::<u32>().prop_map(Ipv4Addr::from)]
}

fn near_v6() -> impl Strategy<Value = Ipv6Addr> {
    let inside = (0..MODEL_V6.len(), any::<u128>(), any::<u8>()).prop_map(|(net, bits, shift)| {
        let net = MODEL_V6[net].0.parse::<Ipv6Net>().unwrap();
        let low = bits.checked_shr(u32::from(shift % 128)).unwrap_or(0) & u128::from(net.hostmask());
        Ipv6Addr::from(u128::from(net.network()) | low)
    });
    let edge = (0..MODEL_V6.len(), any::<bool>(), -2i128..=2).prop_map(|(net, last, off)| {
        let net = MODEL_V6[net].0.parse::<Ipv6Net>().unwrap();
        let edge = u128::from(if last { net.broadcast() } else { net.network() });
        Ipv6Addr::from(edge.wrapping_add_signed(off))
    });
    prop_oneof![inside, edge, any::<u128>().prop_map(Ipv6Addr::from)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn the_table_is_what_the_registries_say_for_ipv4(ip in near_v4()) {
        prop_assert_eq!(ranges::rule(ip.into()), model_v4(ip));
    }

    #[test]
    fn the_table_is_what_the_registries_say_for_ipv6(ip in near_v6()) {
        prop_assert_eq!(ranges::rule(ip.into()), model_v6(ip));
    }

    /// Transports read an address from its end; whatever ends in a forbidden one must not pass.
    #[test]
    fn nothing_before_a_forbidden_address_hides_it(
        head in proptest::collection::vec(0usize..PARTS.len(), 0..4),
        tail in proptest::collection::vec(0usize..PARTS.len(), 0..3),
    ) {
        let part = |at: &usize| PARTS[*at];
        let text: String = head.iter().map(part).chain(["/ip4/127.0.0.1/tcp/4001"]).chain(tail.iter().map(part)).collect();
        prop_assert!(fleet().check(&addr(&text)).is_err(), "{}", text);
    }
}

const PARTS: [&str; 10] = [
    "/ip4/8.8.8.8",
    "/tcp/4001",
    "/udp/4001",
    "/quic-v1",
    "/ws",
    "/tls",
    "/dns4/example.com",
    "/dnsaddr/example.com",
    "/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA",
    "/p2p-circuit",
];
