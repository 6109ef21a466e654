//! The tokens' part of [`crate::fuzzing`].

use super::{Claims, Tokens};
use crate::{
    config,
    fuzzing::refused,
    key::{File, Keys},
};
use plexus_bus::NodeName;
use std::{
    sync::LazyLock,
    time::{Duration, SystemTime},
};

/// A public key of which nobody has the other half.
const JWKS: &str = r#"{"keys":[{"kid":"one","kty":"EC","crv":"P-256","alg":"ES256","use":"sig",
    "x":"eRrxaWnqu46XIZeebusT41zGS4_uZw31JQGE8rRvROg","y":"dGJ_FMCU1K_q9KMx_YGWNlsIWlWkhPwF_uVK7wX5ygc"}]}"#;

static CONFIG: LazyLock<config::Jwt> = LazyLock::new(|| config::Jwt {
    issuer: "https://id.example".into(),
    audience: "plexus".into(),
    ..config::Jwt::default()
});

static TOKENS: LazyLock<Tokens> =
    LazyLock::new(|| Tokens::read(&CONFIG, JWKS.as_bytes(), None).expect("it is a key"));

/// Credentials and what vouches for them: a token, its claims, a set of keys or one in PEM, a file of API keys.
pub(crate) fn token(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let Ok(said) = std::str::from_utf8(data) else { return };
    match kind % 4 {
        0 => refused(&TOKENS.caller(said, now).expect_err("nobody signed it")),
        1 => {
            let Ok(claims) = serde_json::from_str::<Claims>(said) else { return };
            match TOKENS.admit(claims, now) {
                Ok(caller) => {
                    assert!(NodeName::new(&caller.namespace, "n").is_ok());
                    assert!(
                        !caller.principal.subject.is_empty() && caller.expires_at.is_some_and(|at| at > now)
                    );
                }
                Err(error) => refused(&error),
            }
        }
        2 => drop(Tokens::read(&CONFIG, data, None)),
        _ => {
            let (key, file) = said.split_once('\n').unwrap_or((said, ""));
            let Ok(file) = toml::from_str::<File>(file) else { return };
            if let Ok(keys) = Keys::read(&file)
                && let Err(error) = keys.caller(key, now)
            {
                refused(&error);
            }
        }
    }
}
