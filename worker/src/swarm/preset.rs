//! The known agreements on message ids, and what each implies. Pure.
//!
//! Ids are only used by gossip control messages, so networks that disagree seem to work until
//! something is lost (interop.md D.1). Messages without an author or number have the hash of their
//! payload as id wherever the agreement needs both.

use super::snappy;
use libp2p::PeerId;
use plexus_proto::v1::{node_spec::gossip::SignPolicy, topic_policy::Preset};
use sha2::{Digest, Sha256};
use std::time::Duration;

/// Largest payload after decompression that eth2 allows.
const ETH2_BYTES_MAX: usize = 10 << 20;

/// Computes the id of a message. `preset` unspecified is GO.
pub fn message_id(
    preset: Preset,
    author: Option<&PeerId>,
    seqno: Option<u64>,
    topic: &str,
    data: &[u8],
) -> Vec<u8> {
    match (preset, author, seqno) {
        (Preset::Eth2, ..) => eth2(topic, data),
        (Preset::Js, Some(author), Some(seqno)) => {
            [js_key(&author.to_bytes()), &seqno.to_be_bytes()].concat()
        }
        (Preset::Rust, Some(author), Some(seqno)) => format!("{author}{seqno}").into_bytes(),
        (Preset::Go | Preset::Unspecified, Some(author), Some(seqno)) => {
            [author.to_bytes().as_slice(), &seqno.to_be_bytes()].concat()
        }
        _ => Sha256::digest(data).to_vec(),
    }
}

/// The public key that js-libp2p writes: what an identity multihash holds. A hashed key (RSA) cannot
/// be had back; such authors keep their multihash, which is unique as well.
fn js_key(author: &[u8]) -> &[u8] {
    match author {
        [0x00, _, key @ ..] => key,
        hashed => hashed,
    }
}

/// <https://github.com/ethereum/consensus-specs/blob/dev/specs/altair/p2p-interface.md>
fn eth2(topic: &str, data: &[u8]) -> Vec<u8> {
    let valid = snappy::decompress(data, ETH2_BYTES_MAX);
    let (domain, data) = match &valid {
        Some(plain) => ([1, 0, 0, 0], plain.as_slice()),
        None => ([0, 0, 0, 0], data),
    };
    let hash = Sha256::new()
        .chain_update(domain)
        .chain_update((topic.len() as u64).to_le_bytes())
        .chain_update(topic)
        .chain_update(data)
        .finalize();
    hash.as_slice().iter().take(20).copied().collect()
}

/// The sign policy of a node that asks for none.
pub(super) fn sign_policy(preset: Preset) -> SignPolicy {
    match preset {
        Preset::Waku | Preset::Eth2 => SignPolicy::StrictNoSign,
        _ => SignPolicy::StrictSign,
    }
}

/// The heartbeat, where the agreement has one.
pub(super) fn heartbeat(preset: Preset) -> Option<Duration> {
    (preset == Preset::Eth2).then_some(Duration::from_millis(700))
}

/// The one protocol id, where it is not gossipsub's own.
pub(crate) fn protocol(preset: Preset) -> Option<&'static str> {
    (preset == Preset::Waku).then_some("/vac/waku/relay/2.0.0")
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;
    use libp2p::identity::Keypair;

    fn author() -> PeerId {
        Keypair::ed25519_from_bytes([7; 32]).unwrap().public().to_peer_id()
    }

    #[test]
    fn each_agreement_has_its_own_id() {
        let (author, seqno) = (author(), 0x0102_0304_0506_0708);
        let id = |preset| message_id(preset, Some(&author), Some(seqno), "t", b"x");
        let number = [1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(id(Preset::Go), [&author.to_bytes()[..], &number].concat());
        assert_eq!(id(Preset::Unspecified), id(Preset::Go));
        let key = Keypair::ed25519_from_bytes([7; 32]).unwrap().public().encode_protobuf();
        assert_eq!(id(Preset::Js), [&key[..], &number].concat());
        assert_eq!(id(Preset::Rust), format!("{}72623859790382856", author.to_base58()).into_bytes());
        let hash = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";
        assert_eq!(HEXLOWER.encode(&id(Preset::Sha256)), hash);
        assert_eq!(id(Preset::Waku), id(Preset::Sha256));
    }

    #[test]
    fn an_author_with_a_hashed_key_is_known_by_the_hash() {
        let hashed = PeerId::from_bytes(&[&[0x12, 0x20][..], &[9; 32]].concat()).unwrap();
        let id = message_id(Preset::Js, Some(&hashed), Some(1), "t", b"x");
        assert_eq!(id, message_id(Preset::Go, Some(&hashed), Some(1), "t", b"x"));
        assert_eq!(id.len(), 34 + 8);
    }

    #[test]
    fn a_message_without_an_author_is_known_by_its_payload() {
        for preset in [Preset::Go, Preset::Js, Preset::Rust] {
            let of = |data| message_id(preset, None, None, "t", data);
            assert_eq!(of(b"x"), Sha256::digest(b"x").to_vec());
            assert_ne!(of(b"x"), of(b"y"));
        }
    }

    #[test]
    fn an_eth2_id_tells_what_decompresses_from_what_does_not() {
        let plain = |domain: &[u8], data: &[u8]| {
            let all = [domain, &[1, 0, 0, 0, 0, 0, 0, 0], b"t", data].concat();
            Sha256::digest(all)[..20].to_vec()
        };
        let compressed = [5, 4 << 2, b'h', b'e', b'l', b'l', b'o'];
        assert_eq!(message_id(Preset::Eth2, None, None, "t", &compressed), plain(&[1, 0, 0, 0], b"hello"));
        assert_eq!(message_id(Preset::Eth2, None, None, "t", b"hello"), plain(&[0; 4], b"hello"));
    }
}
