//! Who may come in, and what they may do: off, or by API keys and tokens of an issuer. It knows no
//! capability: verbs and resources follow from the descriptor.
//!
//! - [`origin`] the origins a browser may call from
//! - [`token`] JWTs of an [`issuer`]; API keys are [`crate::key`]'s
//! - [`proof`] what vouches for both at one time; [`event_loop`] keeps it true
//! - [`ask`] the verb and the resources of a call
//! - [`gate`] the decision, before a service sees the call; it is [`crate::grant`]'s

pub(crate) mod ask;
mod event_loop;
pub(crate) mod gate;
mod issuer;
mod origin;
mod proof;
pub(crate) mod token;

pub(crate) use event_loop::EventLoop;

use crate::{caller::Caller, config, key, metrics::Metrics};
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Uri, header};
use issuer::Source;
use origin::Origins;
use plexus_bus::Bus;
use plexus_proto::{reason::Reason, v1};
use proof::{Proof, Store};
use std::{
    path::Path,
    sync::Arc,
    task::{Context, Poll},
    time::SystemTime,
};
use token::Tokens;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::WatchStream;

/// Uses of API keys that may wait to be written down; more are passed over.
const USES_MAX: usize = 1024;

/// What lets callers in; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Auth {
    origins: Origins,
    /// What vouches for credentials; `None`: auth is off and everybody is the anonymous caller.
    proof: Option<watch::Receiver<Arc<Proof>>>,
    /// Hears of API keys that are used, by their ids.
    uses: mpsc::Sender<String>,
}

/// Watches over the credentials behind a session or a stream.
pub(crate) struct Watch {
    changes: WatchStream<Arc<Proof>>,
}

impl Auth {
    /// Reads what vouches for credentials, and makes the loop that keeps it true. `local`: only this machine
    /// can reach the port. Without a bus there are no other keys than those of the file.
    pub(crate) fn new(
        config: &config::Config,
        local: bool,
        bus: Option<Bus>,
        metrics: Metrics,
    ) -> Result<(Self, Option<EventLoop>), String> {
        let origins = Origins::new(&config.origins, local);
        let (uses, used) = mpsc::channel(USES_MAX);
        let Some((proof, source, channel)) = read(&config.auth)? else {
            return Ok((Self { origins, proof: None, uses }, None));
        };
        let store = bus.is_none().then(Arc::<Store>::default);
        let (current, seen) = watch::channel(Arc::new(Proof { store, ..proof }));
        let channels = (channel, used);
        let event_loop = EventLoop::new(config.auth.clone(), bus, source, current, channels, metrics);
        Ok((Self { origins, proof: Some(seen), uses }, Some(event_loop)))
    }

    /// Tells whether the list names the origin.
    pub(crate) fn names(&self, origin: &[u8]) -> bool {
        self.origins.names(origin)
    }

    /// Refuses a page of a foreign origin.
    pub(crate) fn origin(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Box<v1::Error>> {
        self.origins.check(uri, headers)
    }

    /// Decides who asks, and takes the credentials out of the headers, so that nothing behind can tell
    /// them. `None`: none came.
    pub(crate) fn caller(&self, headers: &mut HeaderMap) -> Result<Option<Caller>, Box<v1::Error>> {
        if self.proof.is_none() {
            return Ok(Some(Caller::anonymous()));
        }
        let several = headers.get_all(header::AUTHORIZATION).iter().count() > 1;
        let Some(value) = headers.remove(header::AUTHORIZATION) else { return Ok(None) };
        let token = bearer(&value).filter(|_| !several);
        let wanted = "authorization: one header, Bearer and an API key or a token";
        let token = token.ok_or_else(|| Box::new(v1::Error::new(Reason::TokenInvalid, wanted)))?;
        self.vouch(token).map(Some)
    }

    /// Finds whose credentials these are. With auth off any are fine.
    pub(crate) fn vouch(&self, token: &str) -> Result<Caller, Box<v1::Error>> {
        let Some(proof) = &self.proof else { return Ok(Caller::anonymous()) };
        let (proof, now) = (proof.borrow().clone(), SystemTime::now());
        let caller = proof.vouch(token, now)?;
        if proof.uses(&caller, now) {
            // Where the loop does not keep up, the next minute's use is told.
            let _ = self.uses.try_send(caller.principal.token_id.clone());
        }
        Ok(caller)
    }

    /// Watches over credentials from now on; `None`: with auth off there are none.
    pub(crate) fn watch(&self) -> Option<Watch> {
        let proof = self.proof.as_ref()?;
        Some(Watch { changes: WatchStream::new(proof.clone()) })
    }
}

impl Watch {
    /// Ready when the credentials behind a caller were withdrawn. The first look is at how it is now.
    pub(crate) fn poll(&mut self, caller: Option<&Caller>, context: &mut Context<'_>) -> Poll<v1::Error> {
        while let Poll::Ready(Some(proof)) = self.changes.poll_next_unpin(context) {
            if caller.is_some_and(|caller| !proof.stand(caller, SystemTime::now())) {
                return Poll::Ready(proof::revoked());
            }
        }
        Poll::Pending
    }
}

/// What the looks at an unknown key are asked through.
type Channel = (mpsc::Sender<()>, mpsc::Receiver<()>);

/// Reads what the config names; `None`: auth is off.
fn read(auth: &config::Auth) -> Result<Option<(Proof, Option<Source>, Channel)>, String> {
    if auth.mode == config::Mode::Off {
        return Ok(None);
    }
    let channel = mpsc::channel(1);
    let file = match &*auth.keys {
        "" => key::Keys::default(),
        path => key::Keys::open(Path::new(path)).map_err(|e| format!("auth.keys: {e}"))?,
    };
    let (mut tokens, mut source) = (None, None);
    if !auth.jwt.issuer.is_empty() {
        let from = Source::new(&auth.jwt).map_err(|e| format!("auth.{e}"))?;
        let at = |e: String| format!("auth.jwt.keys: {e}");
        let read = match from.is_far() {
            true => Tokens::none(&auth.jwt, channel.0.clone()),
            false => std::fs::read(&auth.jwt.keys)
                .map_err(|e| format!("{}: {e}", auth.jwt.keys))
                .and_then(|text| Tokens::read(&auth.jwt, &text, None)),
        };
        tokens = Some(Arc::new(read.map_err(at)?));
        source = Some(from);
    }
    Ok(Some((Proof { file: Arc::new(file), store: None, tokens }, source, channel)))
}

/// Refuses files of keys that could not be used at start.
pub(crate) fn check(config: &config::Config) -> Result<(), String> {
    read(&config.auth).map(drop)
}

/// What is told of a call without credentials.
pub(crate) fn missing() -> Box<v1::Error> {
    let text = "credentials are needed: authorization: Bearer and an API key or a token";
    Box::new(v1::Error::new(Reason::TokenMissing, text))
}

/// What is told of a call or a session whose credentials ended.
pub(crate) fn expired() -> v1::Error {
    v1::Error::new(Reason::TokenExpired, "the credentials have ended: come back with fresh ones")
}

/// What HTTP says beside a refusal (RFC 6750); `None` where credentials would change nothing.
pub(crate) fn challenge(error: &v1::Error) -> Option<HeaderValue> {
    match () {
        () if error.is(Reason::TokenMissing) => Some(HeaderValue::from_static("Bearer realm=\"plexus\"")),
        () if [Reason::TokenInvalid, Reason::TokenExpired, Reason::TokenRevoked]
            .iter()
            .any(|r| error.is(*r)) =>
        {
            Some(HeaderValue::from_static("Bearer realm=\"plexus\", error=\"invalid_token\""))
        }
        () => None,
    }
}

fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(values: &[&'static str]) -> Result<Option<Caller>, String> {
        let store = Some(Arc::default());
        let proof = Arc::new(Proof { file: Arc::default(), store, tokens: None });
        let auth = Auth {
            origins: Origins::new(&[], false),
            proof: Some(watch::channel(proof).1),
            uses: mpsc::channel(1).0,
        };
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
        }
        let caller = auth.caller(&mut headers);
        assert!(headers.is_empty(), "credentials go no further");
        caller.map_err(|e| e.reason)
    }

    #[test]
    fn credentials_come_as_one_bearer_or_not_at_all() {
        assert!(asked(&[]).unwrap().is_none());
        for bad in
            ["", "Bearer", "Bearer ", "Basic YTpi", "plx_x", "Bearer plx_x", "bearer a.b.c", "Bearer a b"]
        {
            assert_eq!(asked(&[bad]).unwrap_err(), "TOKEN_INVALID", "{bad:?}");
        }
        assert_eq!(asked(&["Bearer a", "Bearer b"]).unwrap_err(), "TOKEN_INVALID");
    }

    #[test]
    fn a_refusal_for_lack_of_credentials_asks_for_them() {
        let says = |reason| challenge(&v1::Error::new(reason, "x")).map(|v| v.to_str().unwrap().to_owned());
        assert_eq!(says(Reason::TokenMissing).unwrap(), "Bearer realm=\"plexus\"");
        assert!(says(Reason::TokenExpired).unwrap().ends_with("error=\"invalid_token\""));
        assert_eq!(says(Reason::NotAllowed), None);
        assert_eq!(says(Reason::OriginNotAllowed), None);
    }
}
