//! The origins a browser may call from, on every dialect and whatever credentials come along: a page of a
//! foreign origin must not drive a node.

use http::{HeaderMap, Uri, header};
use plexus_proto::{reason::Reason, v1};
use std::sync::Arc;

/// The origins that may.
#[derive(Clone, Debug)]
pub(super) struct Origins {
    listed: Arc<[String]>,
    /// Whether only this machine can reach the port: then a name that is not this machine's is a trick.
    local: bool,
}

impl Origins {
    /// Lets browsers in only from the own host and those that are listed.
    pub(super) fn new(listed: &[String], local: bool) -> Self {
        Self { listed: listed.iter().map(|o| o.to_ascii_lowercase()).collect(), local }
    }

    /// Tells whether the list names the origin.
    pub(super) fn names(&self, origin: &[u8]) -> bool {
        self.listed.iter().any(|o| o.as_bytes().eq_ignore_ascii_case(origin))
    }

    /// Refuses a page of a foreign origin.
    pub(super) fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Box<v1::Error>> {
        let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
        if self.names(origin.as_bytes()) {
            return Ok(());
        }
        let host = uri.authority().map(|a| a.as_str().as_bytes());
        let host = host.or_else(|| headers.get(header::HOST).map(|h| h.as_bytes())).unwrap_or_default();
        let text = String::from_utf8_lossy(origin.as_bytes());
        let from = text.split_once("://").map_or("", |(_, from)| from);
        let own = !from.is_empty() && from.as_bytes().eq_ignore_ascii_case(host);
        if own && (!self.local || is_local(from)) {
            return Ok(());
        }
        let error =
            v1::Error::new(Reason::OriginNotAllowed, format!("pages of {text:?} may not call this gateway"));
        Err(Box::new(error.with("origin", text)))
    }
}

/// Tells whether a host, maybe with a port, can only be this machine.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.parse::<std::net::IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || name.to_ascii_lowercase().ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn allows(origins: &Origins, origin: &'static str, host: &'static str) -> bool {
        let headers = HeaderMap::from_iter([
            (header::ORIGIN, HeaderValue::from_static(origin)),
            (header::HOST, HeaderValue::from_static(host)),
        ]);
        origins.check(&Uri::from_static("/v1/nodes"), &headers).is_ok()
    }

    #[test]
    fn a_page_of_another_host_may_not_call() {
        let origins = Origins::new(&["https://App.example".into()], false);
        assert!(origins.check(&Uri::from_static("/"), &HeaderMap::new()).is_ok());
        assert!(allows(&origins, "http://plexus.example:8080", "plexus.example:8080"));
        assert!(allows(&origins, "https://app.example", "plexus.example:8080"));
        for bad in [
            "http://evil.example",
            "http://plexus.example:8081",
            "null",
            "",
            "http://",
            "plexus.example:8080",
        ] {
            assert!(!allows(&origins, bad, "plexus.example:8080"), "{bad}");
        }
    }

    #[test]
    fn a_name_that_was_bent_to_this_machine_is_foreign() {
        let origins = Origins::new(&[], true);
        assert!(allows(&origins, "http://localhost:8080", "localhost:8080"));
        assert!(allows(&origins, "http://127.0.0.1:8080", "127.0.0.1:8080"));
        assert!(allows(&origins, "http://[::1]:8080", "[::1]:8080"));
        assert!(!allows(&origins, "http://evil.example:8080", "evil.example:8080"));
    }
}
