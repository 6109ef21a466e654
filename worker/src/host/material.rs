//! Making keys, and reading those that are imported: libp2p's protobuf and PKCS#8 PEM. RSA is
//! refused: such keys cannot author gossip messages and cannot be written back as protobuf.

use crate::{Refusal, refuse};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use libp2p::identity::{Keypair, secp256k1};
use plexus_proto::{
    reason::Reason,
    v1::{PrivateKey, key, private_key::Form},
};
use zeroize::Zeroizing;

/// Longest key material that is read.
const BYTES_MAX: usize = 16 << 10;

const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const SECP256K1: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x0a];

/// Makes a key of the kind asked for.
pub(crate) fn generate(kind: key::Type) -> Result<Keypair, Refusal> {
    match kind {
        key::Type::Unspecified | key::Type::Ed25519 => Ok(Keypair::generate_ed25519()),
        key::Type::Secp256k1 => Ok(Keypair::generate_secp256k1()),
        key::Type::Ecdsa | key::Type::Rsa => {
            let error =
                refuse(Reason::FeatureOff, "spec.key.type: keys of this kind cannot be made in this version");
            Err(Box::new(error.with("setting", "spec.key.type")))
        }
    }
}

/// Reads a key to import.
pub(crate) fn import(key: &PrivateKey) -> Result<Keypair, Refusal> {
    match &key.form {
        Some(Form::Protobuf(bytes)) if bytes.len() <= BYTES_MAX => protobuf(bytes),
        Some(Form::Pem(text)) if text.len() <= BYTES_MAX => pem(text),
        Some(Form::Age(_)) => {
            let error =
                refuse(Reason::FeatureOff, "key.age: keys encrypted by age cannot be read in this version");
            let error = error.with("setting", "key.age");
            Err(Box::new(error.violation("key.age", "keys encrypted by age cannot be read in this version")))
        }
        Some(_) => bad(format!("at most {BYTES_MAX} bytes of key material")),
        None => bad("the key needs `protobuf` or `pem`"),
    }
}

fn protobuf(bytes: &[u8]) -> Result<Keypair, Refusal> {
    let bytes = Zeroizing::new(bytes.to_vec());
    match Keypair::from_protobuf_encoding(&bytes) {
        Ok(key) if key.to_protobuf_encoding().is_ok() => Ok(key),
        Ok(_) => bad("RSA keys cannot author gossip messages; use Ed25519 or secp256k1"),
        Err(_) => bad("not the libp2p protobuf of an Ed25519 or secp256k1 key"),
    }
}

fn pem(text: &str) -> Result<Keypair, Refusal> {
    let body = text
        .trim()
        .strip_prefix("-----BEGIN PRIVATE KEY-----")
        .and_then(|rest| rest.strip_suffix("-----END PRIVATE KEY-----"))
        .map(|body| Zeroizing::new(body.split_ascii_whitespace().collect::<String>()));
    let der = body.and_then(|body| STANDARD.decode(body.as_bytes()).ok()).map(Zeroizing::new);
    match der.as_ref().and_then(|der| pkcs8(der)) {
        Some(key) => Ok(key),
        None => bad("not the PKCS#8 PEM of an Ed25519 or secp256k1 key"),
    }
}

/// Reads `PrivateKeyInfo` of RFC 5958: version, algorithm, and the key in an octet string.
fn pkcs8(der: &[u8]) -> Option<Keypair> {
    let (info, _) = field(der, 0x30)?;
    let (_version, rest) = field(info, 0x02)?;
    let (algorithm, rest) = field(rest, 0x30)?;
    let (secret, _) = field(rest, 0x04)?;
    let (kind, parameters) = field(algorithm, 0x06)?;
    if kind == ED25519 {
        let (seed, _) = field(secret, 0x04)?;
        return Keypair::ed25519_from_bytes(Zeroizing::new(seed.to_vec())).ok();
    }
    let (curve, _) = field(parameters, 0x06)?;
    if kind != EC || curve != SECP256K1 {
        return None;
    }
    let (key, _) = field(secret, 0x30)?;
    let (_version, rest) = field(key, 0x02)?;
    let (scalar, _) = field(rest, 0x04)?;
    let secret = secp256k1::SecretKey::try_from_bytes(Zeroizing::new(scalar.to_vec())).ok()?;
    Some(secp256k1::Keypair::from(secret).into())
}

/// Takes one DER field of this tag; answers its content and what follows.
fn field(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81 => (usize::from(*rest.first()?), &rest[1..]),
        0x82 => (usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?])), &rest[2..]),
        _ => return None,
    };
    (found == tag).then(|| rest.split_at_checked(length)).flatten()
}

fn bad<T>(what: impl Into<String>) -> Result<T, Refusal> {
    let what = what.into();
    Err(Box::new(refuse(Reason::BadKey, format!("key: {what}")).violation("key", what)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use plexus_proto::text;
    use proptest::prelude::*;

    fn from_pem(text: &str) -> Result<Keypair, Refusal> {
        import(&PrivateKey { form: Some(Form::Pem(text.into())) })
    }

    fn from_protobuf(bytes: Vec<u8>) -> Result<Keypair, Refusal> {
        import(&PrivateKey { form: Some(Form::Protobuf(bytes.into())) })
    }

    // Made by `openssl genpkey -algorithm ed25519`; RFC 8410, section 10.3.
    const RFC8410: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
-----END PRIVATE KEY-----
";

    #[test]
    fn an_imported_key_keeps_its_peer_id() {
        for key in [Keypair::generate_ed25519(), Keypair::generate_secp256k1()] {
            let read = from_protobuf(key.to_protobuf_encoding().unwrap()).unwrap();
            assert_eq!(read.public().to_peer_id(), key.public().to_peer_id());
        }
        let key = from_pem(RFC8410).unwrap().try_into_ed25519().unwrap();
        let public = data_encoding::HEXLOWER.encode(&key.public().to_bytes());
        assert_eq!(public, "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1");
    }

    #[test]
    fn a_secp256k1_pem_is_read() {
        let mut der = vec![0x30, 0x42, 0x02, 0x01, 0x00, 0x30, 0x10, 0x06, 0x07];
        der.extend_from_slice(EC);
        der.extend_from_slice(&[0x06, 0x05]);
        der.extend_from_slice(SECP256K1);
        der.extend_from_slice(&[0x04, 0x2b, 0x30, 0x29, 0x02, 0x01, 0x01, 0x04, 0x20]);
        der.extend_from_slice(&[7; 32]);
        der.extend_from_slice(&[0xa0, 0x02, 0x05, 0x00]);
        let text =
            format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----", STANDARD.encode(&der));
        let key = from_pem(&text).unwrap().try_into_secp256k1().unwrap();
        assert_eq!(key.secret().to_bytes(), [7; 32]);
    }

    #[test]
    fn what_is_no_key_is_bad_and_the_error_holds_none_of_it() {
        for bad in ["", "x", "-----BEGIN PRIVATE KEY-----\n####\n-----END PRIVATE KEY-----", &RFC8410[..60]] {
            let error = from_pem(bad).unwrap_err();
            assert!(error.is(Reason::BadKey), "{bad}: {error:?}");
        }
        let error = from_protobuf(b"secret".to_vec()).unwrap_err();
        assert!(error.is(Reason::BadKey) && !error.message.contains("secret"));
        assert!(import(&PrivateKey { form: None }).unwrap_err().is(Reason::BadKey));
        assert!(
            import(&PrivateKey { form: Some(Form::Age(Default::default())) })
                .unwrap_err()
                .is(Reason::FeatureOff)
        );
        assert!(from_protobuf(vec![0; BYTES_MAX + 1]).unwrap_err().is(Reason::BadKey));
    }

    #[test]
    fn keys_that_cannot_author_are_not_made() {
        assert!(generate(key::Type::Rsa).unwrap_err().is(Reason::FeatureOff));
        let key = generate(key::Type::Unspecified).unwrap();
        assert!(text::peer_id_to_text(&key.public().to_peer_id().to_bytes()).starts_with("12D3KooW"));
        let key = generate(key::Type::Secp256k1).unwrap();
        assert!(text::peer_id_to_text(&key.public().to_peer_id().to_bytes()).starts_with("16Uiu2"));
    }

    proptest! {
        #[test]
        fn broken_key_material_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = from_protobuf(bytes.clone());
            let _ = pkcs8(&bytes);
            let text = format!("-----BEGIN PRIVATE KEY-----{}-----END PRIVATE KEY-----", STANDARD.encode(&bytes));
            let _ = from_pem(&text);
        }
    }
}
