//! Private keys: sealed at rest, opened only by the owner, so that a node has the same PeerId after a
//! move. A key is bound to its namespace, node, PeerId and layout by the additional data of
//! XChaCha20-Poly1305, so that no stored key can be put in the place of another. Making and reading
//! keys is in [`super::material`].

use crate::{Error, config};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use data_encoding::{BASE64, BASE64_NOPAD, BASE64URL_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};
use libp2p::identity::Keypair;
use plexus_bus::NodeName;
use plexus_proto::bus::SealedKey;
use secrecy::{ExposeSecret, SecretBox};
use sha2::{Digest, Sha256};
use std::fmt;
use zeroize::Zeroizing;

/// Layout and cipher that are written.
const VERSION: u32 = 1;
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;

/// The key-encryption key of this deployment.
pub(crate) struct Seal {
    key: SecretBox<[u8; KEY_BYTES]>,
    /// First 8 bytes of its SHA-256, hexadecimal: tells which key sealed, and nothing more.
    id: String,
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seal").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Seal {
    /// Reads the key-encryption key from where the config says it is.
    pub(crate) fn load(keys: &config::Keys) -> Result<Self, Error> {
        let bad = |place: &str| Error::Config(format!("{place}: is not 32 bytes in base64 or hexadecimal"));
        if let Some(path) = &keys.file {
            let text = std::fs::read_to_string(path)
                .map_err(|e| Error::Config(format!("keys.file: {} cannot be read: {e}", path.display())))?;
            return Self::parse(&Zeroizing::new(text)).ok_or_else(|| bad("keys.file"));
        }
        if let Some(text) = &keys.key {
            return Self::parse(text).ok_or_else(|| bad("keys.key"));
        }
        if keys.generate {
            tracing::warn!(
                "development mode: the key-encryption key was made for this process, and identities do not outlive it"
            );
            return Ok(Self::new(rand::random()));
        }
        Err(Error::Config(
            "keys: there is no key-encryption key; set keys.file, keys.key or keys.generate".into(),
        ))
    }

    fn new(key: [u8; KEY_BYTES]) -> Self {
        let id = HEXLOWER.encode(&Sha256::digest(key)[..8]);
        Self { key: SecretBox::new(Box::new(key)), id }
    }

    fn parse(text: &str) -> Option<Self> {
        let text = text.trim().as_bytes();
        [HEXLOWER_PERMISSIVE, BASE64, BASE64_NOPAD, BASE64URL_NOPAD]
            .iter()
            .filter_map(|spelling| spelling.decode(text).ok().map(Zeroizing::new))
            .find_map(|bytes| <[u8; KEY_BYTES]>::try_from(bytes.as_slice()).ok())
            .map(Self::new)
    }

    /// Seals the key of a node.
    pub(crate) fn seal(&self, node: &NodeName, key: &Keypair) -> Result<SealedKey, Error> {
        let plain = Zeroizing::new(key.to_protobuf_encoding().map_err(|e| Error::Config(e.to_string()))?);
        let peer = key.public().to_peer_id().to_bytes();
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let aad = bound_to(node, &peer, VERSION);
        let sealed = self
            .cipher()
            .encrypt(&XNonce::from(nonce), Payload { msg: &plain, aad: &aad })
            .map_err(|_| Error::Unsealable(node.to_string()))?;
        Ok(SealedKey {
            version: VERSION,
            kek: self.id.clone(),
            nonce: nonce.to_vec().into(),
            sealed: sealed.into(),
            peer_id: peer.into(),
        })
    }

    /// Opens the key of a node; fails for a key that was sealed otherwise, for another node, or for
    /// another PeerId.
    pub(crate) fn open(&self, node: &NodeName, sealed: &SealedKey) -> Result<Keypair, Error> {
        self.opened(node, sealed).ok_or_else(|| Error::Unsealable(node.to_string()))
    }

    fn opened(&self, node: &NodeName, sealed: &SealedKey) -> Option<Keypair> {
        if sealed.version != VERSION || sealed.kek != self.id {
            return None;
        }
        let nonce = <[u8; NONCE_BYTES]>::try_from(sealed.nonce.as_ref()).ok()?;
        let aad = bound_to(node, &sealed.peer_id, sealed.version);
        let payload = Payload { msg: &sealed.sealed, aad: &aad };
        let plain = Zeroizing::new(self.cipher().decrypt(&XNonce::from(nonce), payload).ok()?);
        let key = Keypair::from_protobuf_encoding(&plain).ok()?;
        (key.public().to_peer_id().to_bytes() == sealed.peer_id.as_ref()).then_some(key)
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(self.key.expose_secret().into())
    }
}

/// What a sealed key belongs to; each part has its length before it, so that none can reach into
/// the next.
fn bound_to(node: &NodeName, peer: &[u8], version: u32) -> Vec<u8> {
    let mut aad = Vec::with_capacity(128);
    for part in [node.namespace().as_bytes(), node.node().as_bytes(), peer, &version.to_be_bytes()] {
        aad.extend_from_slice(&(part.len() as u64).to_be_bytes());
        aad.extend_from_slice(part);
    }
    aad
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(namespace: &str, node: &str) -> NodeName {
        NodeName::new(namespace, node).unwrap()
    }

    fn unsealable(seal: &Seal, node: &NodeName, sealed: &SealedKey) -> bool {
        matches!(seal.open(node, sealed), Err(Error::Unsealable(_)))
    }

    #[test]
    fn a_sealed_key_opens_to_the_same_peer_id() {
        let seal = Seal::new([7; 32]);
        for key in [Keypair::generate_ed25519(), Keypair::generate_secp256k1()] {
            let sealed = seal.seal(&name("ns", "a"), &key).unwrap();
            let opened = seal.open(&name("ns", "a"), &sealed).unwrap();
            assert_eq!(opened.public().to_peer_id(), key.public().to_peer_id());
            assert_eq!(sealed.peer_id.as_ref(), key.public().to_peer_id().to_bytes());
        }
    }

    #[test]
    fn a_key_of_another_node_namespace_or_peer_does_not_open() {
        let seal = Seal::new([7; 32]);
        let (a, b) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        let sealed_a = seal.seal(&name("ns", "a"), &a).unwrap();
        let sealed_b = seal.seal(&name("ns", "b"), &b).unwrap();
        assert!(unsealable(&seal, &name("ns", "b"), &sealed_a), "another node");
        assert!(unsealable(&seal, &name("other", "a"), &sealed_a), "another namespace");
        // `ns/a` and `n/sa` have the same letters; the lengths keep them apart.
        assert!(unsealable(&seal, &name("n", "sa"), &sealed_a), "parts run together");
        let swapped =
            SealedKey { sealed: sealed_b.sealed.clone(), nonce: sealed_b.nonce.clone(), ..sealed_a.clone() };
        assert!(unsealable(&seal, &name("ns", "a"), &swapped), "swapped ciphertext");
        let renamed = SealedKey { peer_id: sealed_b.peer_id.clone(), ..sealed_a.clone() };
        assert!(unsealable(&seal, &name("ns", "a"), &renamed), "another PeerId");
        for broken in [
            SealedKey { version: 2, ..sealed_a.clone() },
            SealedKey { nonce: vec![0; 12].into(), ..sealed_a.clone() },
            SealedKey { sealed: sealed_a.sealed.slice(..20), ..sealed_a.clone() },
            SealedKey::default(),
        ] {
            assert!(unsealable(&seal, &name("ns", "a"), &broken), "{broken:?}");
        }
    }

    #[test]
    fn another_key_encryption_key_does_not_open() {
        let sealed = Seal::new([7; 32]).seal(&name("ns", "a"), &Keypair::generate_ed25519()).unwrap();
        let other = Seal::new([8; 32]);
        assert!(unsealable(&other, &name("ns", "a"), &sealed));
        let claimed = SealedKey { kek: other.id.clone(), ..sealed };
        assert!(unsealable(&other, &name("ns", "a"), &claimed), "whatever the key is said to be");
    }

    #[test]
    fn two_seals_of_one_key_differ() {
        let (seal, key) = (Seal::new([7; 32]), Keypair::generate_ed25519());
        let [one, two] = [0, 1].map(|_| seal.seal(&name("ns", "a"), &key).unwrap());
        assert_ne!(one.nonce, two.nonce);
        assert_ne!(one.sealed, two.sealed);
    }

    #[test]
    fn no_secret_shows_in_debug() {
        let key = [0xabu8; 32];
        let text = format!("{:?}", Seal::new(key));
        assert!(!text.contains("171") && !text.contains("abab"), "{text}");
        let keys = config::Keys { key: Some(HEXLOWER.encode(&key)), ..Default::default() };
        assert!(!format!("{keys:?}").contains("abab"), "{keys:?}");
    }

    #[test]
    fn the_key_is_read_in_both_spellings_and_from_a_file() {
        let id = Seal::new([0xab; 32]).id;
        let hex = HEXLOWER.encode(&[0xab; 32]);
        let file = std::env::temp_dir().join(format!("plexus-kek-{}", std::process::id()));
        std::fs::write(&file, format!("{hex}\n")).unwrap();
        let from = |keys: config::Keys| Seal::load(&keys).unwrap().id;
        assert_eq!(from(config::Keys { key: Some(hex.to_uppercase()), ..Default::default() }), id);
        assert_eq!(from(config::Keys { key: Some(BASE64.encode(&[0xab; 32])), ..Default::default() }), id);
        assert_eq!(from(config::Keys { file: Some(file.clone()), ..Default::default() }), id);
        std::fs::remove_file(file).unwrap();
        for bad in ["", "abcd", &"zz".repeat(32)] {
            assert!(
                Seal::load(&config::Keys { key: Some(bad.into()), ..Default::default() }).is_err(),
                "{bad}"
            );
        }
        assert!(Seal::load(&config::Keys::default()).is_err(), "no key is made unless asked");
        assert!(Seal::load(&config::Keys { generate: true, ..Default::default() }).is_ok());
    }
}
