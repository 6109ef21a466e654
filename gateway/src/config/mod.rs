//! What a gateway may be told.
//!
//! - `tls` the port's certificate, `forwarders` who stands before it
//! - `auth` who may come in, `limits` what everybody is held to, `rate` how often
//! - `router` bounds of calls and readers, `resume` tokens that take them up

mod auth;
mod forwarders;
mod limits;
mod rate;
mod resume;
mod router;
mod tls;

pub use auth::{Auth, Jwt, Mode};
pub use forwarders::{ForwardedHeader, Forwarders};
pub use limits::Limits;
pub use rate::Rate;
pub use resume::Resume;
pub use router::Router;
pub use tls::{ClientCertificates, Tls};

use crate::{Error, edge};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A gateway.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The one port, `host:port`; port 0 takes any and prints it.
    pub listen: String,
    /// Origins whose pages may call, beside the own host: `https://app.example`.
    pub origins: Vec<String>,
    /// TLS on the port or on one of its own.
    pub tls: Tls,
    /// Who stands before the gateway and may say who the client is.
    pub forwarders: Forwarders,
    /// Who may come in.
    pub auth: Auth,
    /// Bounds on connections and requests.
    pub limits: Limits,
    /// How often callers may call.
    pub rate: Rate,
    /// Bounds of the router: calls and readers.
    pub router: Router,
    /// Tokens that take up subscriptions.
    pub resume: Resume,
    /// Longest drain at shutdown.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
}

impl Config {
    /// Checks what serde cannot. [`crate::Gateway::bind`] refuses the same.
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |text: String| Err(Error::Config(text));
        address("listen", &self.listen)?;
        let is_origin =
            |o: &String| o.parse::<http::Uri>().is_ok_and(|o| o.scheme().is_some() && o.path() == "/");
        if let Some(bad) = self.origins.iter().find(|o| o.ends_with('/') || !is_origin(o)) {
            return wrong(format!("origins: {bad:?} is not an origin such as https://app.example"));
        }
        self.auth.check().map_err(|e| Error::Config(format!("auth.{e}")))?;
        edge::check_auth(self).map_err(Error::Config)?;
        self.resume.check().map_err(|e| Error::Config(e.into()))?;
        let empty = self.limits.empty().or_else(|| self.rate.empty()).or_else(|| self.router.empty());
        if let Some(name) = empty {
            return wrong(format!("{name}: must be above 0"));
        }
        if self.limits.call_timeout > self.limits.call_timeout_max {
            return wrong("limits.call_timeout: must not be above limits.call_timeout_max".into());
        }
        edge::forwarders::Forwarders::new(&self.forwarders)?;
        self.tls.check(&self.listen)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".into(),
            origins: Vec::new(),
            tls: Tls::default(),
            forwarders: Forwarders::default(),
            auth: Auth::default(),
            limits: Limits::default(),
            rate: Rate::default(),
            router: Router::default(),
            resume: Resume::default(),
            drain: Duration::from_secs(45),
        }
    }
}

/// Refuses what is no address to listen on.
fn address(name: &str, listen: &str) -> Result<(), Error> {
    let (host, port) = listen.rsplit_once(':').unwrap_or_default();
    if host.is_empty() || port.parse::<u16>().is_err() {
        return Err(Error::Config(format!("{name}: {listen:?} is not host:port")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issuer() -> Jwt {
        let [issuer, audience, keys] = ["https://id.example", "plexus", "keys.json"].map(str::to_owned);
        Jwt { issuer, audience, keys, ..Jwt::default() }
    }

    #[test]
    fn a_config_that_could_serve_nobody_is_refused_by_the_name_of_its_key() {
        type Change = fn(&mut Config);
        let changes: [(&str, Change); 35] = [
            ("listen", |c| c.listen = "8080".into()),
            ("listen", |c| c.listen = "localhost:http".into()),
            ("listen", |c| c.listen = ":8080".into()),
            ("listen", |c| c.listen = "localhost:80800".into()),
            ("origins", |c| c.origins = vec!["app.example".into()]),
            ("origins", |c| c.origins = vec!["https://app.example/".into()]),
            ("auth.mode", |c| c.auth.mode = Mode::On),
            ("auth.jwt.audience", |c| c.auth.jwt = Jwt { audience: String::new(), ..issuer() }),
            ("auth.jwt.keys", |c| c.auth.jwt = Jwt { keys: String::new(), ..issuer() }),
            ("auth.jwt.types", |c| c.auth.jwt = Jwt { types: Vec::new(), ..issuer() }),
            ("auth.operators", |c| c.auth.operators = "Not one".into()),
            ("auth.jwt.lifetime_max", |c| c.auth.jwt = Jwt { lifetime_max: Duration::ZERO, ..issuer() }),
            ("auth.jwt.keys", |c| {
                let keys = "http://id.example/keys".into();
                (c.auth.mode, c.auth.jwt) = (Mode::On, Jwt { keys, ..issuer() });
            }),
            ("auth.jwt.leeway", |c| c.auth.jwt = Jwt { leeway: Duration::from_secs(31), ..issuer() }),
            ("auth.jwt.algorithms", |c| c.auth.jwt = Jwt { algorithms: vec!["HS256".into()], ..issuer() }),
            ("resume.key", |c| c.resume.key = Some("short".into())),
            ("limits.call_timeout", |c| c.limits.call_timeout = Duration::from_secs(301)),
            ("limits.streams_max", |c| c.limits.streams_max = 0),
            ("limits.session_pong_timeout", |c| c.limits.session_pong_timeout = Duration::ZERO),
            ("limits.handshake_timeout", |c| c.limits.handshake_timeout = Duration::ZERO),
            ("forwarders.trusted", |c| c.forwarders.trusted = vec!["10.0.0.0/33".into()]),
            ("forwarders.proxy_protocol", |c| c.forwarders.proxy_protocol = vec!["lb.example".into()]),
            ("tls.reload_interval", |c| c.tls.reload_interval = Duration::ZERO),
            ("tls.key", |c| c.tls.certificate = Some("cert.pem".into())),
            ("tls.certificate", |c| c.tls.key = Some("key.pem".into())),
            ("tls.certificate", |c| c.tls.listen = Some("127.0.0.1:8443".into())),
            ("tls.certificate", |c| c.tls.client_certificates = ClientCertificates::Require),
            ("tls.listen", |c| c.tls.listen = Some("8443".into())),
            ("tls.listen", |c| c.tls.listen = Some(c.listen.clone())),
            ("tls.plaintext", |c| {
                (c.tls.plaintext, c.tls.listen) = (true, Some("127.0.0.1:8443".into()));
            }),
            ("tls.certificate", |c| {
                (c.tls.certificate, c.tls.key) = (Some("/nowhere/cert".into()), Some("/nowhere/key".into()));
            }),
            ("rate.caller_burst", |c| c.rate.caller_burst = 0),
            ("rate.entries_max", |c| c.rate.entries_max = 0),
            ("router.queue", |c| c.router.queue = 0),
            ("router.attend_interval", |c| c.router.attend_interval = Duration::ZERO),
        ];
        for (name, change) in changes {
            let mut config = Config { origins: vec!["https://app.example".into()], ..Config::default() };
            assert!(config.check().is_ok());
            change(&mut config);
            let told = config.check().unwrap_err().to_string();
            assert!(told.starts_with(&format!("{name}: ")), "{told}");
        }
    }
}
