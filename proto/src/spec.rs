//! What a node may be told to be: every bound that nodes.proto and topics.proto state, and what is
//! not built yet. Pure, so that the worker that creates a node and the gateway that changes one
//! refuse the same things with the same words. A switch that would do nothing is refused with
//! `FEATURE_OFF` and never passed over.

use crate::{
    address,
    reason::Reason,
    text,
    v1::{
        self, Error, TopicPolicy, key,
        node_spec::{
            DialPolicy, Gossip, Kad, Limits, PlacementRule, Protocols, Relay, gossip, kad, protocols, relay,
        },
        topic_policy::Preset,
    },
};
use prost_types::Duration;
use std::{collections::HashMap, fmt::Display, net::IpAddr, ops::RangeInclusive};

type Checked = Result<(), Box<Error>>;

/// Topics a node keeps by default; many peers ignore a node with over 100.
pub const TOPICS_MAX: u32 = 90;
/// Largest payload of a message.
pub const MESSAGE_BYTES_MAX: u32 = 1 << 20;

const DAY: i64 = 24 * 3600;

/// Checks the id of a node: `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`.
pub fn check_id(id: &str) -> Checked {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let edges = id.bytes().next().is_some_and(plain) && id.bytes().last().is_some_and(plain);
    if edges && id.len() <= 63 && id.bytes().all(|b| plain(b) || b == b'-') {
        Ok(())
    } else {
        wrong("id", "1 to 63 characters of `a-z`, `0-9` and `-`, with no `-` at either end")
    }
}

/// Checks a `request_id`; empty is none.
pub fn check_request_id(id: &str) -> Checked {
    if id.len() <= 128 && id.bytes().all(|b| (0x20..0x7f).contains(&b)) {
        Ok(())
    } else {
        wrong("requestId", "1 to 128 printable characters")
    }
}

/// Checks a whole spec. Fields are named from `spec.` on.
pub fn check(spec: &v1::NodeSpec) -> Checked {
    labels("spec.labels", &spec.labels)?;
    if let Some(key) = &spec.key {
        key_type(key.r#type)?;
    }
    addresses(spec)?;
    if let Some(protocols) = &spec.protocols {
        protocols_of(protocols)?;
    }
    let gossip = spec.gossip.unwrap_or_default();
    gossip_of(&gossip)?;
    topics(spec, &gossip)?;
    if let Some(limits) = &spec.limits {
        limits_of(limits)?;
    }
    if let Some(kad) = &spec.kad {
        kad_of(kad)?;
    }
    if let Some(relay) = &spec.relay {
        relay_of(relay)?;
    }
    if let Some(dial) = &spec.dial {
        dial_of(dial)?;
    }
    if let Some(placement) = &spec.placement {
        placement_of(placement)?;
    }
    if spec.agent_version.chars().count() > 64 || spec.agent_version.chars().any(char::is_control) {
        return wrong("spec.agentVersion", "at most 64 printable characters");
    }
    off_if(spec.private_network.is_some(), "spec.privateNetwork", "private networks")
}

/// Checks the policy of a topic; `field` is its path, such as `policy`.
pub fn check_policy(field: &str, policy: &TopicPolicy) -> Checked {
    known::<Preset>(&format!("{field}.preset"), policy.preset)?;
    known::<v1::topic_policy::Durability>(&format!("{field}.durability"), policy.durability)?;
    if let Some(retention) = &policy.retention {
        between(&format!("{field}.retention.messages"), retention.messages.unwrap_or(1), 0..=1_000_000)?;
        span(&format!("{field}.retention.age"), retention.age.as_ref(), 1_000..=30 * DAY * 1000)?;
    }
    span(&format!("{field}.ttl"), policy.ttl.as_ref(), 10_000..=30 * DAY * 1000)?;
    off_if(policy.score.is_some(), &format!("{field}.score"), "scoring weights of a topic")?;
    let Some(validation) = &policy.validation else { return Ok(()) };
    let field = format!("{field}.validation");
    known::<v1::validation::Mode>(&format!("{field}.mode"), validation.mode)?;
    let upcall = validation.mode == v1::validation::Mode::Upcall as i32;
    off_if(upcall, &format!("{field}.mode"), "validation by a client")?;
    span(&format!("{field}.timeout"), validation.timeout.as_ref(), 10..=2_000)?;
    between(&format!("{field}.messageBytesMax"), validation.message_bytes_max, 0..=MESSAGE_BYTES_MAX)?;
    at_most(&format!("{field}.authors"), validation.authors.len(), 1_000)?;
    for (i, author) in validation.authors.iter().enumerate() {
        if text::peer_id_from_text(author).is_err() {
            let (field, what) = (format!("{field}.authors[{i}]"), text::Error::PeerId.to_string());
            return Err(Box::new(
                Error::new(Reason::BadPeerId, format!("{field}: {what}")).violation(field, what),
            ));
        }
    }
    Ok(())
}

/// Checks addresses to dial at start: multiaddrs with `/p2p/`, at most 64.
pub fn check_bootstrap(field: &str, list: &[String]) -> Checked {
    at_most(field, list.len(), 64)?;
    for (i, text) in list.iter().enumerate() {
        let parts = multiaddr(&format!("{field}[{i}]"), text)?;
        if address::peer(&parts).is_none() {
            return bad_address(&format!("{field}[{i}]"), "it must end in `/p2p/<PeerId>`");
        }
    }
    Ok(())
}

/// The signature that a preset wants of messages; `None`: either will do.
pub fn signs(preset: Preset) -> Option<bool> {
    match preset {
        Preset::Unspecified | Preset::Go | Preset::Js | Preset::Rust => Some(true),
        Preset::Waku | Preset::Eth2 => Some(false),
        Preset::Sha256 => None,
    }
}

fn key_type(kind: i32) -> Checked {
    known::<key::Type>("spec.key.type", kind)?;
    off_if(kind == key::Type::Rsa as i32, "spec.key.type", "RSA keys, which cannot author gossip messages,")?;
    off_if(kind == key::Type::Ecdsa as i32, "spec.key.type", "ECDSA keys")
}

fn addresses(spec: &v1::NodeSpec) -> Checked {
    at_most("spec.listenAddresses", spec.listen_addresses.len(), 16)?;
    for (i, text) in spec.listen_addresses.iter().enumerate() {
        listen(&format!("spec.listenAddresses[{i}]"), text)?;
    }
    at_most("spec.announceAddresses", spec.announce_addresses.len(), 16)?;
    for (i, text) in spec.announce_addresses.iter().enumerate() {
        multiaddr(&format!("spec.announceAddresses[{i}]"), text)?;
    }
    check_bootstrap("spec.bootstrap", &spec.bootstrap)
}

/// TCP, QUIC v1 and WebSocket can be listened on; the others exist, but not here yet.
fn listen(field: &str, text: &str) -> Checked {
    let parts = multiaddr(field, text)?;
    let names: Vec<&str> = parts.iter().map(|p| p.protocol).collect();
    match names.as_slice() {
        ["memory"]
        | ["ip4" | "ip6", "tcp"]
        | ["ip4" | "ip6", "udp", "quic-v1"]
        | ["ip4" | "ip6", "tcp", "ws"] => Ok(()),
        other => {
            let unbuilt = ["p2p-circuit", "webrtc-direct", "webrtc", "webtransport", "wss", "tls", "quic"];
            match other.iter().find(|name| unbuilt.contains(name)) {
                Some(name) => off(field, &format!("listening on `/{name}`")),
                None => bad_address(
                    field,
                    "listens on `/tcp`, `/udp/…/quic-v1` or `/tcp/…/ws` of an `/ip4` or `/ip6`",
                ),
            }
        }
    }
}

fn protocols_of(p: &Protocols) -> Checked {
    for (i, transport) in p.transports.iter().enumerate() {
        let field = format!("spec.protocols.transports[{i}]");
        match protocols::Transport::try_from(*transport) {
            Ok(protocols::Transport::Tcp | protocols::Transport::Quic | protocols::Transport::Ws) => {}
            Ok(protocols::Transport::WebrtcDirect) => return off(&field, "WebRTC"),
            Ok(protocols::Transport::Relay) => return off(&field, "relaying"),
            Ok(protocols::Transport::Unspecified) | Err(_) => return wrong(field, "one of TCP, QUIC and WS"),
        }
    }
    off_if(p.floodsub == Some(true), "spec.protocols.floodsub", "floodsub")?;
    off_if(p.autonat == Some(true), "spec.protocols.autonat", "AutoNAT")?;
    off_if(p.dcutr == Some(true), "spec.protocols.dcutr", "hole punching")?;
    off_if(p.rendezvous == Some(true), "spec.protocols.rendezvous", "rendezvous")?;
    off_if(p.mdns == Some(true), "spec.protocols.mdns", "mDNS")
}

fn gossip_of(g: &Gossip) -> Checked {
    let preset = known::<Preset>("spec.gossip.preset", g.preset)?;
    let policy = known::<gossip::SignPolicy>("spec.gossip.signPolicy", g.sign_policy)?;
    if !agree(policy, preset) {
        return conflict("spec.gossip.signPolicy", "it contradicts the preset of the node");
    }
    between("spec.gossip.messageBytesMax", g.message_bytes_max, 0..=MESSAGE_BYTES_MAX)?;
    between("spec.gossip.topicsMax", g.topics_max, 0..=1000)?;
    span("spec.gossip.heartbeatInterval", g.heartbeat_interval.as_ref(), 100..=10_000)?;
    let Some(mesh) = &g.mesh else { return Ok(()) };
    let or = |given: u32, default: u32| if given == 0 { default } else { given };
    let (d, low, high) = (or(mesh.d, 6), or(mesh.d_low, 5), or(mesh.d_high, 12));
    for (field, value) in [("d", d), ("dLow", low), ("dHigh", high), ("dLazy", or(mesh.d_lazy, 6))] {
        between(&format!("spec.gossip.mesh.{field}"), value, 1..=64)?;
    }
    if low <= d && d <= high { Ok(()) } else { wrong("spec.gossip.mesh", "dLow ≤ d ≤ dHigh") }
}

fn agree(policy: gossip::SignPolicy, preset: Preset) -> bool {
    match policy {
        gossip::SignPolicy::StrictSign => signs(preset) != Some(false),
        gossip::SignPolicy::StrictNoSign => preset == Preset::Unspecified || signs(preset) != Some(true),
        gossip::SignPolicy::Unspecified | gossip::SignPolicy::Lax => true,
    }
}

/// The sign policy that a node has: what it says, else what its preset needs.
pub fn sign_policy(g: &Gossip) -> gossip::SignPolicy {
    match gossip::SignPolicy::try_from(g.sign_policy).unwrap_or_default() {
        gossip::SignPolicy::Unspecified if signs(preset_of(g)) == Some(false) => {
            gossip::SignPolicy::StrictNoSign
        }
        gossip::SignPolicy::Unspecified => gossip::SignPolicy::StrictSign,
        policy => policy,
    }
}

fn preset_of(g: &Gossip) -> Preset {
    Preset::try_from(g.preset).unwrap_or_default()
}

fn topics(spec: &v1::NodeSpec, g: &Gossip) -> Checked {
    let most = if g.topics_max == 0 { TOPICS_MAX } else { g.topics_max };
    if spec.topics.len() > most as usize {
        let error = Error::new(Reason::TopicLimit, format!("spec.topics: at most {most} topics"));
        return Err(Box::new(error.with("limit", most).violation("spec.topics", format!("at most {most}"))));
    }
    let mut seen = std::collections::HashSet::new();
    for (i, pinned) in spec.topics.iter().enumerate() {
        let field = format!("spec.topics[{i}]");
        let Ok(topic) = text::topic_from_text(&pinned.topic) else {
            let message = text::Error::Topic.to_string();
            let error = Error::new(Reason::BadTopic, format!("{field}.topic: {message}"));
            return Err(Box::new(error.violation(format!("{field}.topic"), message)));
        };
        if !seen.insert(topic) {
            return wrong(format!("{field}.topic"), "each topic once");
        }
        if let Some(policy) = &pinned.policy {
            check_policy(&format!("{field}.policy"), policy)?;
            check_sign_policy(&format!("{field}.policy"), policy, g)?;
        }
    }
    Ok(())
}

/// Checks that the preset of a topic can live with the sign policy of its node.
pub fn check_sign_policy(field: &str, policy: &TopicPolicy, g: &Gossip) -> Checked {
    let preset = Preset::try_from(policy.preset).unwrap_or_default();
    if preset == Preset::Unspecified || agree(sign_policy(g), preset) {
        Ok(())
    } else {
        conflict(&format!("{field}.preset"), "it needs another sign policy than the node has")
    }
}

fn limits_of(l: &Limits) -> Checked {
    let counts = [
        ("connectionsMax", l.connections_max),
        ("connectionsPerPeerMax", l.connections_per_peer_max),
        ("pendingIncomingMax", l.pending_incoming_max),
        ("pendingOutgoingMax", l.pending_outgoing_max),
        ("streamsPerConnectionMax", l.streams_per_connection_max),
    ];
    for (field, value) in counts {
        between(&format!("spec.limits.{field}"), value, 0..=65_535)?;
    }
    span("spec.limits.idleTimeout", l.idle_timeout.as_ref(), 0..=DAY * 1000)?;
    off_if(l.memory_bytes_max > 0, "spec.limits.memoryBytesMax", "a bound on memory")?;
    off_if(
        l.bandwidth_bytes_per_second_max > 0,
        "spec.limits.bandwidthBytesPerSecondMax",
        "a bound on bandwidth",
    )?;
    off_if(l.connections_low > 0, "spec.limits.connectionsLow", "trimming of connections")
}

fn kad_of(k: &Kad) -> Checked {
    known::<kad::Mode>("spec.kad.mode", k.mode)?;
    at_most("spec.kad.protocols", k.protocols.len(), 8)?;
    for (i, protocol) in k.protocols.iter().enumerate() {
        if !protocol.starts_with('/') || protocol.len() > 140 || protocol.chars().any(char::is_control) {
            return wrong(
                format!("spec.kad.protocols[{i}]"),
                "a protocol id: `/` and at most 140 characters",
            );
        }
    }
    between("spec.kad.replication", k.replication, 0..=100)?;
    between("spec.kad.parallelism", k.parallelism, 0..=100)?;
    span("spec.kad.queryTimeout", k.query_timeout.as_ref(), 1_000..=600_000)?;
    span("spec.kad.recordTtl", k.record_ttl.as_ref(), 60_000..=30 * DAY * 1000)?;
    span("spec.kad.republishInterval", k.republish_interval.as_ref(), 60_000..=30 * DAY * 1000)?;
    off_if(
        !k.validators.is_empty(),
        "spec.kad.validators",
        "records of other namespaces than `pk` and `ipns`",
    )
}

fn relay_of(r: &Relay) -> Checked {
    let mode = known::<relay::Mode>("spec.relay.mode", r.mode)?;
    off_if(matches!(mode, relay::Mode::Client | relay::Mode::Server), "spec.relay.mode", "relaying")?;
    off_if(!r.relays.is_empty(), "spec.relay.relays", "relaying")?;
    let serves = r.reservations_max > 0 || r.circuits_max > 0 || r.circuit_bytes_max > 0;
    off_if(serves || r.circuit_duration_max.is_some(), "spec.relay", "serving as a relay")
}

fn dial_of(d: &DialPolicy) -> Checked {
    for (name, list) in [("allow", &d.allow), ("deny", &d.deny)] {
        at_most(&format!("spec.dial.{name}"), list.len(), 64)?;
        for (i, cidr) in list.iter().enumerate() {
            if !is_cidr(cidr) {
                return wrong(
                    format!("spec.dial.{name}[{i}]"),
                    "a CIDR such as `203.0.113.0/24` or `2001:db8::/32`",
                );
            }
        }
    }
    at_most("spec.dial.ports", d.ports.len(), 64)?;
    for (i, port) in d.ports.iter().enumerate() {
        between(&format!("spec.dial.ports[{i}]"), *port, 1..=65_535)?;
    }
    between("spec.dial.dialsPerSecond", d.dials_per_second, 0..=10)?;
    span("spec.dial.timeout", d.timeout.as_ref(), 1..=60_000)
}

fn placement_of(p: &PlacementRule) -> Checked {
    labels("spec.placement.workerLabels", &p.worker_labels)?;
    between("spec.placement.weight", p.weight, 0..=1000)?;
    let pair =
        p.avoid_nodes.split_once('=').is_some_and(|(key, value)| !key.is_empty() && value.len() <= 255);
    if p.avoid_nodes.is_empty() || pair { Ok(()) } else { wrong("spec.placement.avoidNodes", "`key=value`") }
}

fn labels(field: &str, labels: &HashMap<String, String>) -> Checked {
    at_most(field, labels.len(), 32)?;
    let fits = |(key, value): (&String, &String)| {
        (1..=63).contains(&key.chars().count()) && value.chars().count() <= 255
    };
    if labels.iter().all(fits) {
        Ok(())
    } else {
        wrong(field, "keys of 1 to 63 and values of up to 255 characters")
    }
}

/// Tells whether the text is an address and the length of a prefix.
pub fn is_cidr(text: &str) -> bool {
    let Some((ip, bits)) = text.split_once('/') else { return false };
    let most = match ip.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.bytes().all(|b| b.is_ascii_digit()) && bits.parse::<u8>().is_ok_and(|bits| bits <= most)
}

fn multiaddr<'a>(field: &str, text: &'a str) -> Result<Vec<address::Part<'a>>, Box<Error>> {
    address::parse(text).or_else(|error| bad_address(field, &error.to_string()))
}

fn known<E: TryFrom<i32>>(field: &str, value: i32) -> Result<E, Box<Error>> {
    E::try_from(value).or_else(|_| wrong(field, format!("{value} is no value of this enum")))
}

fn between<T: PartialOrd + Display>(field: &str, value: T, range: RangeInclusive<T>) -> Checked {
    if range.contains(&value) {
        Ok(())
    } else {
        wrong(field, format!("{} to {}", range.start(), range.end()))
    }
}

fn at_most(field: &str, count: usize, most: usize) -> Checked {
    if count <= most { Ok(()) } else { wrong(field, format!("at most {most} entries, not {count}")) }
}

/// Checks a duration against bounds in milliseconds; an absent one is the default.
fn span(field: &str, value: Option<&Duration>, range: RangeInclusive<i64>) -> Checked {
    let Some(value) = value else { return Ok(()) };
    let millis = value.seconds.saturating_mul(1000).saturating_add(i64::from(value.nanos) / 1_000_000);
    if range.contains(&millis) {
        Ok(())
    } else {
        wrong(field, format!("{} s to {} s", *range.start() as f64 / 1000.0, *range.end() as f64 / 1000.0))
    }
}

fn wrong<T>(field: impl Into<String>, what: impl Into<String>) -> Result<T, Box<Error>> {
    Err(Box::new(Error::field(field, what)))
}

fn bad_address<T>(field: &str, what: &str) -> Result<T, Box<Error>> {
    Err(Box::new(Error::new(Reason::BadMultiaddr, format!("{field}: {what}")).violation(field, what)))
}

fn conflict(field: &str, what: &str) -> Checked {
    Err(Box::new(Error::new(Reason::SignPolicyConflict, format!("{field}: {what}")).violation(field, what)))
}

fn off_if(on: bool, field: &str, what: &str) -> Checked {
    if on { off(field, what) } else { Ok(()) }
}

fn off<T>(field: &str, what: &str) -> Result<T, Box<Error>> {
    let what = format!("{what} cannot be switched on in this version");
    let error = Error::new(Reason::FeatureOff, format!("{field}: {what}")).with("setting", field);
    Err(Box::new(error.violation(field, what)))
}

/// Names the kind of key that a spec asks to make.
pub fn wanted_key(spec: &v1::NodeSpec) -> key::Type {
    match spec.key.as_ref().map(|key| key.r#type()) {
        None | Some(key::Type::Unspecified) => key::Type::Ed25519,
        Some(kind) => kind,
    }
}

#[cfg(test)]
mod tests;
