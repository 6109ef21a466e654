use super::*;
use crate::v1::{
    NodeSpec,
    node_spec::{self, PinnedTopic},
};

const PEER: &str = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA";

fn refused(change: impl FnOnce(&mut NodeSpec)) -> Error {
    let mut spec = NodeSpec::default();
    change(&mut spec);
    *check(&spec).unwrap_err()
}

fn assert_field(error: &Error, field: &str, bound: &str) {
    assert_eq!(error.violations.first().map(|v| v.field.as_str()), Some(field), "{error:?}");
    assert!(error.message.contains(bound), "{} lacks {bound}", error.message);
}

fn seconds(seconds: i64) -> Option<Duration> {
    Some(Duration { seconds, nanos: 0 })
}

#[test]
fn an_empty_spec_is_every_default() {
    assert!(check(&NodeSpec::default()).is_ok());
}

#[test]
fn a_full_spec_passes() {
    let spec = NodeSpec {
        labels: [("team".to_owned(), "a".to_owned())].into(),
        listen_addresses: vec![
            "/ip4/0.0.0.0/tcp/0".into(),
            "/ip6/::/udp/0/quic-v1".into(),
            "/ip4/0.0.0.0/tcp/0/ws".into(),
        ],
        bootstrap: vec![format!("/dnsaddr/bootstrap.libp2p.io/p2p/{PEER}")],
        protocols: Some(Protocols { transports: vec![1, 2, 3], floodsub: Some(false), ..Default::default() }),
        gossip: Some(Gossip {
            preset: Preset::Waku as i32,
            heartbeat_interval: seconds(1),
            ..Default::default()
        }),
        topics: vec![PinnedTopic { topic: "demo".into(), policy: Some(TopicPolicy::default()) }],
        limits: Some(Limits { connections_max: 100, idle_timeout: seconds(60), ..Default::default() }),
        kad: Some(Kad { mode: kad::Mode::Client as i32, ..Default::default() }),
        relay: Some(Relay { mode: relay::Mode::Off as i32, ..Default::default() }),
        dial: Some(DialPolicy { allow: vec!["10.0.0.0/8".into()], ports: vec![4001], ..Default::default() }),
        placement: Some(PlacementRule { avoid_nodes: "team=a".into(), weight: 3, ..Default::default() }),
        agent_version: "me/1".into(),
        ..Default::default()
    };
    assert_eq!(check(&spec), Ok(()));
}

#[test]
fn a_refusal_names_the_field_and_the_bound() {
    let one = |text: &str| vec![text.to_owned()];
    assert_field(
        &refused(|s| s.labels = (0..33).map(|i| (i.to_string(), String::new())).collect()),
        "spec.labels",
        "32",
    );
    assert_field(&refused(|s| s.labels = [("k".repeat(64), String::new())].into()), "spec.labels", "63");
    assert_field(&refused(|s| s.listen_addresses = vec![String::new(); 17]), "spec.listenAddresses", "16");
    assert_field(&refused(|s| s.listen_addresses = one("/ip4/1.2.3.4")), "spec.listenAddresses[0]", "tcp");
    assert_field(&refused(|s| s.bootstrap = one("/ip4/1.2.3.4/tcp/1")), "spec.bootstrap[0]", "/p2p/");
    let gossip = |g: Gossip| refused(|s| s.gossip = Some(g));
    assert_field(
        &gossip(Gossip { message_bytes_max: (1 << 20) + 1, ..Default::default() }),
        "spec.gossip.messageBytesMax",
        "1048576",
    );
    assert_field(&gossip(Gossip { topics_max: 1001, ..Default::default() }), "spec.gossip.topicsMax", "1000");
    assert_field(
        &gossip(Gossip { heartbeat_interval: seconds(11), ..Default::default() }),
        "spec.gossip.heartbeatInterval",
        "0.1 s to 10 s",
    );
    let mesh = node_spec::gossip::Mesh { d: 3, ..Default::default() };
    assert_field(&gossip(Gossip { mesh: Some(mesh), ..Default::default() }), "spec.gossip.mesh", "dLow");
    assert_field(&gossip(Gossip { preset: 99, ..Default::default() }), "spec.gossip.preset", "99");
    let dial = |d: DialPolicy| refused(|s| s.dial = Some(d));
    assert_field(
        &dial(DialPolicy { allow: one("10.0.0.0/33"), ..Default::default() }),
        "spec.dial.allow[0]",
        "CIDR",
    );
    assert_field(&dial(DialPolicy { ports: vec![0], ..Default::default() }), "spec.dial.ports[0]", "65535");
    assert_field(
        &dial(DialPolicy { timeout: seconds(61), ..Default::default() }),
        "spec.dial.timeout",
        "60 s",
    );
    assert_field(&refused(|s| s.agent_version = "a".repeat(65)), "spec.agentVersion", "64");
    let rule = PlacementRule { weight: 1001, ..Default::default() };
    assert_field(&refused(|s| s.placement = Some(rule)), "spec.placement.weight", "1000");
}

#[test]
fn what_is_not_built_is_off_and_names_its_switch() {
    let off = |setting: &str, error: Error| {
        assert!(error.is(Reason::FeatureOff), "{setting}: {error:?}");
        assert_eq!(error.metadata.get("setting").map(String::as_str), Some(setting));
    };
    let protocols = |p: Protocols| refused(|s| s.protocols = Some(p));
    off("spec.protocols.mdns", protocols(Protocols { mdns: Some(true), ..Default::default() }));
    off("spec.protocols.autonat", protocols(Protocols { autonat: Some(true), ..Default::default() }));
    off("spec.protocols.dcutr", protocols(Protocols { dcutr: Some(true), ..Default::default() }));
    off("spec.protocols.rendezvous", protocols(Protocols { rendezvous: Some(true), ..Default::default() }));
    off("spec.protocols.floodsub", protocols(Protocols { floodsub: Some(true), ..Default::default() }));
    off("spec.protocols.transports[0]", protocols(Protocols { transports: vec![4], ..Default::default() }));
    off("spec.privateNetwork", refused(|s| s.private_network = Some(Default::default())));
    off(
        "spec.relay.mode",
        refused(|s| s.relay = Some(Relay { mode: relay::Mode::Server as i32, ..Default::default() })),
    );
    off(
        "spec.listenAddresses[0]",
        refused(|s| s.listen_addresses = vec!["/ip4/0.0.0.0/udp/0/webrtc-direct".into()]),
    );
    off("spec.key.type", refused(|s| s.key = Some(node_spec::KeySpec { r#type: key::Type::Rsa as i32 })));
    off(
        "spec.limits.memoryBytesMax",
        refused(|s| s.limits = Some(Limits { memory_bytes_max: 1, ..Default::default() })),
    );
}

#[test]
fn one_node_has_one_sign_policy() {
    let waku = TopicPolicy { preset: Preset::Waku as i32, ..Default::default() };
    let pinned = |g: Gossip| NodeSpec {
        gossip: Some(g),
        topics: vec![PinnedTopic { topic: "a".into(), policy: Some(waku.clone()) }],
        ..Default::default()
    };
    let signed = check(&pinned(Gossip::default())).unwrap_err();
    assert!(signed.is(Reason::SignPolicyConflict), "{signed:?}");
    let unsigned = Gossip { sign_policy: gossip::SignPolicy::StrictNoSign as i32, ..Default::default() };
    assert_eq!(check(&pinned(unsigned)), Ok(()));
    let both = Gossip {
        preset: Preset::Eth2 as i32,
        sign_policy: gossip::SignPolicy::StrictSign as i32,
        ..Default::default()
    };
    assert!(refused(|s| s.gossip = Some(both)).is(Reason::SignPolicyConflict));
}

#[test]
fn topics_are_bounded_and_each_is_pinned_once() {
    let topic = |name: String| PinnedTopic { topic: name, policy: None };
    assert!(refused(|s| s.topics = (0..91).map(|i| topic(i.to_string())).collect()).is(Reason::TopicLimit));
    assert!(refused(|s| s.topics = vec![topic(String::new())]).is(Reason::BadTopic));
    assert_field(
        &refused(|s| s.topics = vec![topic("a".into()), topic("~YQ".into())]),
        "spec.topics[1].topic",
        "once",
    );
}

#[test]
fn ids_and_request_ids_are_checked() {
    for good in ["a", "default", "a-1", &"a".repeat(63)] {
        assert!(check_id(good).is_ok(), "{good}");
    }
    for bad in ["", "-a", "a-", "A", "a/b", "é", &"a".repeat(64)] {
        assert!(check_id(bad).is_err(), "{bad}");
    }
    assert!(check_request_id("").is_ok());
    assert!(check_request_id("a\n").is_err());
    assert!(check_request_id(&"a".repeat(129)).is_err());
}
