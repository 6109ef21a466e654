//! Tokens of an issuer: JWTs by RFC 8725. One issuer, one audience, a list of algorithms that all have
//! public keys, and the keys from one place; nothing that a token says of where its key is counts.

use crate::{
    caller::Caller,
    config,
    grant::{Grants, Written},
    key,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation,
    errors::{Error, ErrorKind},
    jwk::{Jwk, PublicKeyUse, ThumbprintHash},
};
use plexus_proto::{
    bus::{Principal, principal::Kind},
    reason::Reason,
    v1,
};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::sync::mpsc;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;

/// Keys of a file at most.
const KEYS_MAX: usize = 100;
/// Bytes of such a file, or of what the issuer answers, at most.
pub(super) const KEYS_BYTES_MAX: usize = 1 << 20;
/// Bytes of a token at most.
const TOKEN_BYTES_MAX: usize = 8 << 10;
/// Bytes of a subject at most.
const SUBJECT_BYTES_MAX: usize = 256;

/// The issuer whose tokens are taken.
pub(super) struct Tokens {
    keys: Known,
    /// Who looks whether there are other keys by now.
    unknown: Option<mpsc::Sender<()>>,
    algorithms: Vec<Algorithm>,
    types: Vec<String>,
    issuer: String,
    audience: String,
    leeway: Duration,
    /// How far ahead the end of a token may be.
    lifetime_max: Duration,
}

/// The keys of an issuer.
enum Known {
    /// They could not be had yet.
    None,
    /// One, whatever a token calls it.
    Sole(Key),
    /// As many as the issuer names.
    Named(HashMap<String, Key>),
}

struct Key {
    /// The algorithm that the key is for, if it says so.
    algorithm: Option<String>,
    key: DecodingKey,
    /// Tells it from others, whatever it is called (RFC 7638).
    print: Arc<str>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({:?})", self.issuer)
    }
}

/// The head of a token, as far as it counts.
#[derive(Deserialize)]
struct Head {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    /// What must be understood, of which nothing is.
    crit: Option<Value>,
}

/// What a token claims. `aud` and `nbf` are looked at where the signature is.
#[derive(Deserialize)]
struct Claims {
    /// One, not a list of which one is right.
    iss: String,
    sub: String,
    exp: f64,
    iat: Option<f64>,
    #[serde(default)]
    jti: String,
    plexus: Plexus,
}

/// What it may do here.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plexus {
    namespace: String,
    grants: Vec<Written>,
}

/// A set of keys, each to be read by itself.
#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

/// Refuses a token; what is said tells nothing of a key.
fn invalid(text: &str) -> Box<v1::Error> {
    Box::new(v1::Error::new(Reason::TokenInvalid, format!("the token {text}")))
}

impl Tokens {
    /// Takes the keys of the issuer: a JSON Web Key Set, or one public key in PEM. `unknown` hears of tokens
    /// that name a key which is not among them.
    pub(super) fn read(
        config: &config::Jwt,
        text: &[u8],
        unknown: Option<mpsc::Sender<()>>,
    ) -> Result<Self, String> {
        let keys = match text.trim_ascii_start().starts_with(b"-----") {
            true => Known::Sole(Key::pem(text)?),
            false => Known::Named(named(text)?),
        };
        Self::new(config, keys, unknown)
    }

    /// Knows no key yet.
    pub(super) fn none(config: &config::Jwt, unknown: mpsc::Sender<()>) -> Result<Self, String> {
        Self::new(config, Known::None, Some(unknown))
    }

    fn new(config: &config::Jwt, keys: Known, unknown: Option<mpsc::Sender<()>>) -> Result<Self, String> {
        Ok(Self {
            keys,
            unknown,
            algorithms: config.algorithms.iter().map(|a| algorithm(a)).collect::<Result<_, _>>()?,
            types: config.types.iter().map(|t| t.to_ascii_lowercase()).collect(),
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            leeway: config.leeway,
            lifetime_max: config.lifetime_max,
        })
    }

    /// Finds whose a token is.
    pub(super) fn caller(&self, token: &str, now: SystemTime) -> Result<Caller, Box<v1::Error>> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(invalid(&format!("has more than {TOKEN_BYTES_MAX} bytes")));
        }
        let (algorithm, key) = self.key(token)?;
        let mut validation = Validation::new(algorithm);
        validation.leeway = self.leeway.as_secs();
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let claims = jsonwebtoken::decode::<Claims>(token, &key.key, &validation).map_err(|e| refused(&e))?;
        let caller = self.admit(claims.claims, now)?;
        Ok(Caller { signed_by: Some(key.print.clone()), ..caller })
    }

    /// Tells whether the issuer still has the key by which a caller came in.
    pub(super) fn stand(&self, caller: &Caller) -> bool {
        let Some(print) = &caller.signed_by else { return true };
        match &self.keys {
            Known::None => true,
            Known::Sole(key) => key.print == *print,
            Known::Named(keys) => keys.values().any(|key| key.print == *print),
        }
    }

    /// Finds the key that a token names, which must be for the algorithm that it names.
    fn key(&self, token: &str) -> Result<(Algorithm, &Key), Box<v1::Error>> {
        let head = token.split('.').next().unwrap_or_default();
        let head = URL_SAFE_NO_PAD.decode(head).ok();
        let head: Option<Head> = head.and_then(|head| serde_json::from_slice(&head).ok());
        let head = head.ok_or_else(|| invalid("is neither an API key nor a JWT"))?;
        if head.crit.is_some() {
            return Err(invalid("has critical headers, of which none is understood"));
        }
        let typ = head.typ.unwrap_or_default().to_ascii_lowercase();
        let typ = typ.strip_prefix("application/").unwrap_or(&typ);
        if !self.types.iter().any(|t| t == typ) {
            return Err(invalid("is of a type that is not taken"));
        }
        let algorithm = algorithm(&head.alg).ok().filter(|a| self.algorithms.contains(a));
        let algorithm = algorithm.ok_or_else(|| invalid("is signed by an algorithm that is not taken"))?;
        let key = match (&self.keys, head.kid) {
            (Known::None, _) => {
                self.ask();
                return Err(unready());
            }
            (Known::Sole(key), _) => Some(key),
            (Known::Named(keys), Some(id)) => keys.get(&id).or_else(|| {
                self.ask();
                None
            }),
            (Known::Named(_), None) => None,
        };
        let key = key.ok_or_else(|| invalid("names no key of the issuer"))?;
        match &key.algorithm {
            Some(only) if *only != head.alg => Err(invalid("names a key of another algorithm")),
            _ => Ok((algorithm, key)),
        }
    }

    /// Asks for the keys that the issuer has by now; one request at a time is enough.
    fn ask(&self) {
        if let Some(unknown) = &self.unknown {
            let _ = unknown.try_send(());
        }
    }

    fn admit(&self, claims: Claims, now: SystemTime) -> Result<Caller, Box<v1::Error>> {
        if claims.iss != self.issuer {
            return Err(invalid("is of another issuer"));
        }
        if claims.sub.is_empty() || claims.sub.len() > SUBJECT_BYTES_MAX {
            return Err(invalid(&format!("has a sub that has not 1 to {SUBJECT_BYTES_MAX} bytes")));
        }
        let ends = time(claims.exp).and_then(|ends| ends.checked_add(self.leeway));
        let ends = ends.ok_or_else(|| invalid("has an exp that is no time"))?;
        if ends <= now {
            return Err(expired());
        }
        if ends.duration_since(now).is_ok_and(|left| left > self.lifetime_max + self.leeway) {
            return Err(invalid("lives longer than gateway.auth.jwt.lifetime_max"));
        }
        let issued = claims.iat.map(|at| time(at).ok_or_else(|| invalid("has an iat that is no time")));
        let issued_at = issued.transpose()?;
        if issued_at.is_some_and(|at| at > now + self.leeway) {
            return Err(invalid("was issued in the future"));
        }
        if claims.jti.len() > SUBJECT_BYTES_MAX {
            return Err(invalid(&format!("has a jti of more than {SUBJECT_BYTES_MAX} bytes")));
        }
        if claims.sub.starts_with(key::SUBJECT) {
            return Err(invalid("has the sub of an API key"));
        }
        key::check_namespace(&claims.plexus.namespace).map_err(|e| invalid(&format!("claims plexus.{e}")))?;
        let grants = Grants::read(&claims.plexus.grants)
            .map_err(|e| invalid(&format!("claims plexus.grants: {e}")))?;
        let principal = Principal {
            subject: claims.sub,
            kind: Kind::Jwt as i32,
            token_id: claims.jti,
            ..Principal::default()
        };
        let caller = Caller::new(&claims.plexus.namespace, Arc::new(grants), principal, Some(ends));
        Ok(Caller { issued_at, ..caller })
    }
}

/// Reads a set of keys, and leaves out those for other purposes than ours.
fn named(text: &[u8]) -> Result<HashMap<String, Key>, String> {
    let set: Set = serde_json::from_slice(text).map_err(|_| "not a set of keys".to_owned())?;
    if set.keys.is_empty() || set.keys.len() > KEYS_MAX {
        return Err(format!("1 to {KEYS_MAX} keys"));
    }
    let (mut keys, mut unfit) = (HashMap::new(), None);
    for jwk in set.keys {
        match Key::read(jwk) {
            Ok((id, key)) => {
                if keys.insert(id.clone(), key).is_some() {
                    return Err(format!("key {id:?} is there twice"));
                }
            }
            Err(error) => unfit = Some(error),
        }
    }
    match unfit {
        Some(error) if keys.is_empty() => Err(format!("no key that can be used: {error}")),
        _ => Ok(keys),
    }
}

impl Key {
    fn read(jwk: Value) -> Result<(String, Self), String> {
        let jwk: Jwk = serde_json::from_value(jwk).map_err(|_| "a key is no JSON Web Key".to_owned())?;
        let id = jwk.common.key_id.clone().ok_or("a key has no kid")?;
        let at = |error: String| format!("key {id:?}: {error}");
        if jwk.common.public_key_use.as_ref().is_some_and(|purpose| *purpose != PublicKeyUse::Signature) {
            return Err(at("is not for signatures".into()));
        }
        let algorithm = jwk.common.key_algorithm.map(|a| a.to_string());
        if let Some(named) = &algorithm {
            self::algorithm(named).map_err(at)?;
        }
        if matches!(jwk.algorithm, jsonwebtoken::jwk::AlgorithmParameters::OctetKey(_)) {
            return Err(at("a shared secret is no public key".into()));
        }
        let key = DecodingKey::from_jwk(&jwk).map_err(|e| at(e.to_string()))?;
        let print = jwk.thumbprint(ThumbprintHash::SHA256).map_err(|e| at(e.to_string()))?;
        Ok((id, Self { algorithm, key, print: print.into() }))
    }

    /// Reads one public key in PEM, of whichever kind.
    fn pem(text: &[u8]) -> Result<Self, String> {
        if text.windows(11).filter(|w| w == b"-----BEGIN ").count() != 1 {
            return Err("one key in PEM; several are a JSON Web Key Set".into());
        }
        if text.windows(11).any(|w| w == b"PRIVATE KEY") {
            return Err("a private key: the gateway needs the public one alone".into());
        }
        let key = DecodingKey::from_ec_pem(text)
            .or_else(|_| DecodingKey::from_ed_pem(text))
            .or_else(|_| DecodingKey::from_rsa_pem(text))
            .map_err(|_| "no public key of EC, Ed25519 or RSA in PEM")?;
        let print = URL_SAFE_NO_PAD.encode(Sha256::digest(text.trim_ascii()));
        Ok(Self { algorithm: None, key, print: print.into() })
    }
}

/// A time of a claim, as seconds since 1970.
fn time(seconds: f64) -> Option<SystemTime> {
    let since = Duration::try_from_secs_f64(seconds).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(since)
}

fn unready() -> Box<v1::Error> {
    let error = v1::Error::new(Reason::Overloaded, "the keys of the issuer are not known yet");
    Box::new(error.retry_after(Duration::from_secs(1)))
}

/// Reads an algorithm. Those with a shared secret are none: who can check such a token can make one.
pub(crate) fn algorithm(name: &str) -> Result<Algorithm, String> {
    match name {
        "ES256" => Ok(Algorithm::ES256),
        "ES384" => Ok(Algorithm::ES384),
        "EdDSA" => Ok(Algorithm::EdDSA),
        "RS256" => Ok(Algorithm::RS256),
        "RS384" => Ok(Algorithm::RS384),
        "RS512" => Ok(Algorithm::RS512),
        "PS256" => Ok(Algorithm::PS256),
        "PS384" => Ok(Algorithm::PS384),
        "PS512" => Ok(Algorithm::PS512),
        _ => {
            Err(format!("{name:?} is none of ES256, ES384, EdDSA, RS256, RS384, RS512, PS256, PS384, PS512"))
        }
    }
}

fn expired() -> Box<v1::Error> {
    Box::new(v1::Error::new(Reason::TokenExpired, "the token has ended"))
}

/// Says what is wrong with a token whose key is known.
fn refused(error: &Error) -> Box<v1::Error> {
    match error.kind() {
        ErrorKind::ExpiredSignature => expired(),
        ErrorKind::ImmatureSignature => invalid("does not count yet"),
        ErrorKind::InvalidIssuer => invalid("is of another issuer"),
        ErrorKind::InvalidAudience => invalid("is for another audience"),
        ErrorKind::MissingRequiredClaim(claim) => invalid(&format!("has no {claim}")),
        ErrorKind::Json(_) => invalid("has claims that cannot be read"),
        _ => invalid("has no signature of the issuer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::STANDARD;
    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::json;

    /// A key made for this test, and for nothing else.
    const PRIVATE: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgnLMDT4tjxEQ5UGmuTAojuMRZecUL49oYZZ9jhwtHPrmhRANCAAR5GvFpaeq7jpchl55u6xPjXMZLj+5nDfUlAYTytG9E6HRifxTAlNSv6vSjMf2BljZbCFpVpIT8Bf7lSu8F+coH";
    const PUBLIC: &str = r#"{"keys":[{"kid":"one","kty":"EC","crv":"P-256","alg":"ES256","use":"sig",
        "x":"eRrxaWnqu46XIZeebusT41zGS4_uZw31JQGE8rRvROg","y":"dGJ_FMCU1K_q9KMx_YGWNlsIWlWkhPwF_uVK7wX5ygc"}]}"#;

    fn config() -> config::Jwt {
        config::Jwt {
            issuer: "https://id.example".into(),
            audience: "plexus".into(),
            ..config::Jwt::default()
        }
    }

    fn tokens() -> Tokens {
        Tokens::read(&config(), PUBLIC.as_bytes(), None).unwrap()
    }

    fn now() -> u64 {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
    }

    fn claims() -> Value {
        json!({
            "iss": "https://id.example", "aud": "plexus", "sub": "ann", "jti": "7", "exp": now() + 600,
            "plexus": {"namespace": "team", "grants": [{"verbs": ["read"], "resources": ["nodes/a"]}]},
        })
    }

    fn head() -> Header {
        Header { kid: Some("one".into()), typ: Some("JWT".into()), ..Header::new(Algorithm::ES256) }
    }

    fn sign(head: &Header, claims: &Value) -> String {
        let key = EncodingKey::from_ec_der(&STANDARD.decode(PRIVATE).unwrap());
        jsonwebtoken::encode(head, claims, &key).unwrap()
    }

    /// The reason why a token with other claims is refused; empty: it is taken.
    fn verdict(change: impl FnOnce(&mut Value)) -> String {
        let mut claims = claims();
        change(&mut claims);
        reason(&sign(&head(), &claims))
    }

    fn reason(token: &str) -> String {
        tokens().caller(token, SystemTime::now()).err().map(|e| e.reason).unwrap_or_default()
    }

    #[test]
    fn a_token_of_the_issuer_says_who_and_what() {
        let caller = tokens().caller(&sign(&head(), &claims()), SystemTime::now()).unwrap();
        assert_eq!((&*caller.namespace, &*caller.principal.subject), ("team", "ann"));
        assert_eq!(caller.principal.token_id, "7");
        assert!(!caller.grants.is_all());
        let left = caller.expires_at.unwrap().duration_since(SystemTime::now()).unwrap();
        assert!(left > Duration::from_secs(590) && left <= Duration::from_secs(630), "{left:?}");
    }

    #[test]
    fn hostile_claims_are_refused() {
        let (late, early) = (now() - 31, now() + 31);
        assert_eq!(verdict(|_| {}), "");
        assert_eq!(verdict(|c| c["aud"] = json!(["other", "plexus"])), "");
        assert_eq!(verdict(|c| c["nbf"] = json!(now() - 10)), "");
        assert_eq!(verdict(|c| c["exp"] = json!(late)), "TOKEN_EXPIRED");
        type Change = Box<dyn FnOnce(&mut Value)>;
        let changes: Vec<(&str, Change)> = vec![
            ("nbf", Box::new(move |c| c["nbf"] = json!(early + 60))),
            ("iss", Box::new(|c| c["iss"] = json!("https://id.example.evil"))),
            ("aud", Box::new(|c| c["aud"] = json!("plexus2"))),
            ("aud", Box::new(|c| c["aud"] = json!([]))),
            ("sub", Box::new(|c| c["sub"] = json!(""))),
            ("sub", Box::new(|c| c["sub"] = json!("x".repeat(257)))),
            ("sub", Box::new(|c| c["sub"] = json!(7))),
            ("exp", Box::new(|c| c["exp"] = json!("tomorrow"))),
            ("exp", Box::new(|c| c["exp"] = json!(null))),
            ("namespace", Box::new(|c| c["plexus"]["namespace"] = json!("a/b"))),
            ("namespace", Box::new(|c| c["plexus"]["namespace"] = json!(""))),
            ("grants", Box::new(|c| c["plexus"]["grants"] = json!([{"verbs": [], "resources": ["**"]}]))),
            ("grants", Box::new(|c| c["plexus"]["grants"] = json!("*"))),
            ("plexus", Box::new(|c| c["plexus"]["admin"] = json!(true))),
        ];
        for (name, change) in changes {
            assert_eq!(verdict(change), "TOKEN_INVALID", "{name}");
        }
        for name in ["iss", "aud", "sub", "exp", "plexus"] {
            let missing = verdict(|c| drop(c.as_object_mut().unwrap().remove(name)));
            assert_eq!(missing, "TOKEN_INVALID", "without {name}");
        }
    }

    #[test]
    fn hostile_heads_are_refused() {
        let good = sign(&head(), &claims());
        let (_, rest) = good.split_once('.').unwrap();
        let with = |head: &str| reason(&format!("{}.{rest}", URL_SAFE_NO_PAD.encode(head)));
        for head in [
            r#"{"alg":"none","typ":"JWT","kid":"one"}"#,
            r#"{"alg":"None","typ":"JWT","kid":"one"}"#,
            r#"{"alg":"HS256","typ":"JWT","kid":"one"}"#,
            r#"{"alg":"ES384","typ":"JWT","kid":"one"}"#,
            r#"{"alg":"RS256","typ":"JWT","kid":"one"}"#,
            r#"{"alg":"ES256","typ":"JWT","kid":"two"}"#,
            r#"{"alg":"ES256","typ":"JWT","kid":"../../one"}"#,
            r#"{"alg":"ES256","typ":"JWT"}"#,
            r#"{"alg":"ES256","kid":"one"}"#,
            r#"{"alg":"ES256","typ":"dpop+jwt","kid":"one"}"#,
            r#"{"alg":"ES256","typ":"JWT","kid":"one","crit":["b64"]}"#,
            r#"{"alg":"ES256","alg":"none","typ":"JWT","kid":"one"}"#,
            r#"{"alg":"ES256","typ":"JWT","kid":"one","jku":"https://evil.example/keys"}"#,
            r#"{"typ":"JWT","kid":"one"}"#,
            "{}",
            "[]",
            "",
        ] {
            assert_eq!(with(head), "TOKEN_INVALID", "{head}");
        }
        let unsigned = good.rsplit_once('.').unwrap().0;
        for bad in ["", ".", "..", "a.b.c", unsigned, &format!("{unsigned}."), &format!("{good}.x")] {
            assert_eq!(reason(bad), "TOKEN_INVALID", "{bad}");
        }
        assert_eq!(reason(&"x".repeat(TOKEN_BYTES_MAX + 1)), "TOKEN_INVALID");
        let mut other = claims();
        other["sub"] = json!("eve");
        let forged = sign(&head(), &other);
        let mixed = format!("{}.{}", forged.rsplit_once('.').unwrap().0, good.rsplit_once('.').unwrap().1);
        assert_eq!(reason(&mixed), "TOKEN_INVALID");
    }

    #[test]
    fn one_key_in_pem_counts_whatever_a_token_calls_it() {
        let (x, y) =
            ("eRrxaWnqu46XIZeebusT41zGS4_uZw31JQGE8rRvROg", "dGJ_FMCU1K_q9KMx_YGWNlsIWlWkhPwF_uVK7wX5ygc");
        let point = |part| URL_SAFE_NO_PAD.decode(part).unwrap();
        // SubjectPublicKeyInfo of P-256, and an uncompressed point.
        let head = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE";
        let der = [STANDARD.decode(head).unwrap(), point(x), point(y)].concat();
        let pem =
            |kind: &str| format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", STANDARD.encode(&der));
        let tokens = Tokens::read(&config(), pem("PUBLIC KEY").as_bytes(), None).unwrap();
        for kid in [None, Some("any".to_owned())] {
            let token = sign(&Header { kid, ..head_of_pem() }, &claims());
            assert!(tokens.caller(&token, SystemTime::now()).is_ok());
        }
        for alg in ["none", "RS256", "ES384"] {
            let token = sign(&head_of_pem(), &claims());
            let rest = token.split_once('.').unwrap().1;
            let head = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{alg}","typ":"JWT"}}"#));
            let error = tokens.caller(&format!("{head}.{rest}"), SystemTime::now()).unwrap_err();
            assert!(error.is(Reason::TokenInvalid), "{alg}");
        }
        let two = pem("PUBLIC KEY").repeat(2);
        for (bad, why) in
            [(&*two, "one key"), (&pem("PRIVATE KEY"), "private"), ("-----BEGIN X", "no public key")]
        {
            let error = Tokens::read(&config(), bad.as_bytes(), None).err().unwrap();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    fn head_of_pem() -> Header {
        Header { kid: None, ..head() }
    }

    #[test]
    fn keys_that_are_for_other_purposes_are_passed_over() {
        let mut set: Value = serde_json::from_str(PUBLIC).unwrap();
        let others = [
            json!({"kid": "enc", "kty": "RSA", "use": "enc", "alg": "RSA-OAEP", "n": "AQAB", "e": "AQAB"}),
            json!({"kid": "new", "kty": "AKP", "alg": "ML-DSA-65", "pub": "AQAB"}),
            json!({"kid": "oct", "kty": "oct", "k": "c2VjcmV0"}),
        ];
        set["keys"].as_array_mut().unwrap().extend(others);
        let tokens = Tokens::read(&config(), set.to_string().as_bytes(), None).unwrap();
        assert!(tokens.caller(&sign(&head(), &claims()), SystemTime::now()).is_ok());
    }

    #[test]
    fn keys_that_cannot_be_trusted_are_refused_at_the_start() {
        for (bad, why) in [
            (r#"{"keys":[]}"#, "1 to"),
            (r#"{"keys":[{"kty":"oct","kid":"a","k":"c2VjcmV0"}]}"#, "secret"),
            (
                r#"{"keys":[{"kty":"EC","crv":"P-256","x":"eRrxaWnqu46XIZeebusT41zGS4_uZw31JQGE8rRvROg","y":"dGJ_FMCU1K_q9KMx_YGWNlsIWlWkhPwF_uVK7wX5ygc"}]}"#,
                "no kid",
            ),
            ("[]", "not a set"),
        ] {
            let error = Tokens::read(&config(), bad.as_bytes(), None).err().unwrap();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn who_came_in_by_a_key_that_is_withdrawn_does_not_stand_whatever_the_next_one_is_called() {
        let before = tokens();
        let now = SystemTime::now();
        let caller = before.caller(&sign(&head(), &claims()), now).unwrap();
        assert!(before.stand(&caller));
        // The key of RFC 7517, A.1, by the name of ours.
        let other = r#"{"keys":[{"kid":"one","kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
            "y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}"#;
        let renamed = PUBLIC.replace("\"one\"", "\"two\"");
        let stands = |text: &str| Tokens::read(&config(), text.as_bytes(), None).unwrap().stand(&caller);
        assert!(stands(&renamed), "the same key by another name");
        assert!(!stands(other), "another key of the same name");
        let (ask, _) = mpsc::channel(1);
        assert!(Tokens::none(&config(), ask).unwrap().stand(&caller), "nothing is known yet");
    }
}
