//! The id reserved is the id received.

use super::*;
use plexus_proto::v1::{
    node_spec::{Gossip, gossip::SignPolicy},
    topic_policy::Preset,
};

const PRESETS: [Preset; 6] =
    [Preset::Go, Preset::Js, Preset::Rust, Preset::Sha256, Preset::Waku, Preset::Eth2];

fn agrees(preset: Preset) -> v1::NodeSpec {
    let gossip = Gossip { preset: preset as i32, ..Default::default() };
    v1::NodeSpec { gossip: Some(gossip), ..Default::default() }
}

/// Publishes as a node does: reserve first, publish what was reserved.
fn publish(peer: &mut Peer, topic: &str, data: &[u8]) -> (Option<u64>, Vec<u8>) {
    let (seqno, id) = peer.ids.reserve(&topic.as_bytes().to_vec().into(), data);
    let published = peer.gossip().publish(gossipsub::TopicHash::from_raw(topic), data).unwrap();
    assert_eq!(published.0, id);
    (seqno, id.to_vec())
}

async fn pair(spec: &v1::NodeSpec, topic: &str) -> Vec<Peer> {
    let mut peers = vec![Peer::dev(spec.clone()), Peer::dev(spec.clone())];
    peers.iter_mut().for_each(|peer| peer.follow(topic));
    star(&mut peers).await;
    eventually(&mut peers, "a mesh", |peers| peers.iter().all(|peer| peer.mesh(topic) == 1)).await;
    peers
}

#[tokio::test]
async fn a_thousand_reserved_ids_are_the_ids_received_by_every_agreement() {
    for preset in PRESETS {
        let mut peers = pair(&agrees(preset), "t").await;
        let mut reserved = Vec::new();
        for batch in 0..20u32 {
            for n in 0..50 {
                reserved.push(publish(&mut peers[0], "t", &(batch * 50 + n).to_be_bytes()));
            }
            eventually(&mut peers, "all arrive", |peers| peers[1].messages().len() == reserved.len()).await;
        }
        let signed = !matches!(preset, Preset::Waku | Preset::Eth2);
        for ((id, message), (seqno, expected)) in peers[1].messages().iter().zip(&reserved) {
            assert_eq!((&id.0, message.sequence_number), (expected, *seqno), "{preset:?}");
            assert_eq!(message.sequence_number.is_some(), signed, "{preset:?}");
        }
        assert_eq!(peers[0].ids.last(), reserved.last().unwrap().0.unwrap_or(0));
    }
}

#[tokio::test]
async fn failed_publishes_count_and_a_topic_may_have_its_own_agreement() {
    let mut peers = pair(&agrees(Preset::Go), "t").await;
    let first = publish(&mut peers[0], "t", b"x").0.unwrap();
    let topic: plexus_bus::Topic = "nobody".into();
    let (second, id) = peers[0].ids.reserve(&topic, b"x");
    assert_eq!(second, Some(first + 1));
    assert_eq!(id.len(), 38 + 8);
    assert!(peers[0].gossip().publish(gossipsub::TopicHash::from_raw("nobody"), b"x").is_err());

    for peer in &mut peers {
        peer.ids.set_preset(&"t".into(), Preset::Sha256);
    }
    let (third, id) = publish(&mut peers[0], "t", b"y");
    assert_eq!((third, id.len()), (Some(first + 2), 32));
    eventually(&mut peers, "it arrives", |peers| peers[1].messages().len() == 2).await;
    assert_eq!(peers[1].messages()[1].0.0, id);
    // Its payload is its id now: the same again is a duplicate, and takes a number all the same.
    let (fourth, _) = peers[0].ids.reserve(&"t".into(), b"y");
    let again = peers[0].gossip().publish(gossipsub::TopicHash::from_raw("t"), b"y");
    assert!(matches!(again, Err(gossipsub::PublishError::Duplicate)), "{again:?}");
    for peer in &mut peers {
        peer.ids.set_preset(&"t".into(), Preset::Unspecified);
    }
    let (fifth, id) = publish(&mut peers[0], "t", b"y");
    assert_eq!((fourth, fifth, id.len()), (Some(first + 3), Some(first + 4), 38 + 8));
}

#[tokio::test]
async fn a_clock_behind_the_last_owner_is_told() {
    let peer = Peer::dev(v1::NodeSpec::default());
    let last = peer.ids.last();
    assert_eq!(peer.ids.behind(last - 1), None);
    assert_eq!(peer.ids.behind(last), Some(Duration::ZERO));
    assert_eq!(peer.ids.behind(last + 31_000_000_000), Some(Duration::from_secs(31)));
    assert_eq!(Peer::dev(agrees(Preset::Waku)).ids.behind(u64::MAX), None);
    // A later start is above an earlier one, however many it published.
    assert!(Peer::dev(v1::NodeSpec::default()).ids.last() > last);
}

#[tokio::test]
async fn a_sign_policy_is_the_whole_nodes() {
    let signs = |policy: SignPolicy| {
        let gossip = Gossip { sign_policy: policy as i32, ..Default::default() };
        v1::NodeSpec { gossip: Some(gossip), ..Default::default() }
    };
    // Who takes what from whom: strict ones only their like, lax ones from all.
    let policies = [SignPolicy::StrictSign, SignPolicy::StrictNoSign, SignPolicy::Lax];
    for (from, takers) in [(0, [true, false, true]), (1, [false, true, true]), (2, [true, false, true])] {
        for (to, takes) in takers.into_iter().enumerate() {
            let mut peers = [Peer::dev(signs(policies[from])), Peer::dev(signs(policies[to]))];
            peers.iter_mut().for_each(|peer| peer.follow("t"));
            star(&mut peers).await;
            eventually(&mut peers, "a mesh", |peers| peers.iter().all(|peer| peer.mesh("t") == 1)).await;
            publish(&mut peers[0], "t", b"x");
            // The refusal shows in the score, which falls below that of a good peer.
            let sender = peers[0].id();
            eventually(&mut peers, "taken or held against it", |peers| {
                let refused = peers[1].gossip().peer_score(&sender).is_some_and(|score| score < -10.0);
                !peers[1].messages().is_empty() || refused
            })
            .await;
            assert_eq!(!peers[1].messages().is_empty(), takes, "{:?} to {:?}", policies[from], policies[to]);
        }
    }
}
