//! What a gateway may be told.

use crate::{
    Error,
    edge::{forwarders, tls},
};
use serde::{Deserialize, Serialize};
use std::{path::PathBuf, time::Duration};

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
    /// Bounds of the router: calls and readers.
    pub router: Router,
    /// Longest drain at shutdown.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
}

/// TLS: 1.2 and 1.3, ALPN `h2` and `http/1.1`. Off without a certificate.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// A PEM file with the certificate and the rest of its chain; turns TLS on.
    pub certificate: Option<PathBuf>,
    /// A PEM file with its private key.
    pub key: Option<PathBuf>,
    /// A port of its own for TLS, `host:port`; without it `listen` speaks TLS.
    pub listen: Option<String>,
    /// Whether `listen` also answers clients without TLS, told apart by their first byte.
    pub plaintext: bool,
    /// Certificates of clients: `off`; `request`, where one may come and must then be good; `require`.
    pub client_certificates: ClientCertificates,
    /// A PEM file with the authorities that sign certificates of clients.
    pub client_ca: Option<PathBuf>,
    /// Time between two looks at the files; changed ones hold for new connections.
    #[serde(with = "humantime_serde")]
    pub reload_interval: Duration,
}

/// What is asked of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// No certificate.
    Off,
    /// One that is good, or none.
    Request,
    /// One that is good.
    Require,
}

/// Who stands before the gateway and may say who the client is. Nobody by default.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Forwarders {
    /// Addresses and networks (`10.0.0.0/8`) whose connections begin with a PROXY protocol v2 header; one
    /// without it is closed.
    pub proxy_protocol: Vec<String>,
    /// Addresses and networks whose requests say in `header` who the client is.
    pub trusted: Vec<String>,
    /// The one header that they write: `x-forwarded-for` or `forwarded`.
    pub header: ForwardedHeader,
}

/// The header in which a forwarder says who the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded`, RFC 7239.
    Forwarded,
}

/// Who may come in.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// `off`: everybody may do everything in namespace `default`. `on`: by API key or token alone.
    pub mode: Mode,
    /// File of API keys, as `plexus key` writes them; empty: none. Read once at start.
    pub keys: String,
    /// Tokens of an issuer.
    pub jwt: Jwt,
}

/// Whether credentials are needed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// No.
    #[default]
    Off,
    /// For every call.
    On,
}

/// Tokens of an issuer: JWTs by RFC 8725.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Jwt {
    /// What `iss` must be; empty: no tokens are taken.
    pub issuer: String,
    /// What `aud` must name.
    pub audience: String,
    /// File of the issuer's public keys, a JSON Web Key Set. Read once at start.
    pub keys: String,
    /// Algorithms that are taken; none with a shared secret.
    pub algorithms: Vec<String>,
    /// Types that are taken, as `typ` names them.
    pub types: Vec<String>,
    /// How far clocks may differ, at most 30 s.
    #[serde(with = "humantime_serde")]
    pub leeway: Duration,
}

/// Bounds on connections and requests.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections at most; over it new ones wait to be accepted.
    pub connections_max: usize,
    /// Time until the first byte of a connection.
    #[serde(with = "humantime_serde")]
    pub first_byte_timeout: Duration,
    /// Time for a TLS handshake, from its first byte.
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
    /// Time for a request head, from its first byte.
    #[serde(with = "humantime_serde")]
    pub head_timeout: Duration,
    /// Idle time of an HTTP/1 connection.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// Time a write may stand still.
    #[serde(with = "humantime_serde")]
    pub write_timeout: Duration,
    /// HTTP/2 streams of one connection at once.
    pub streams_max: u32,
    /// Time between HTTP/2 pings.
    #[serde(with = "humantime_serde")]
    pub ping_interval: Duration,
    /// Time an HTTP/2 ping may take.
    #[serde(with = "humantime_serde")]
    pub ping_timeout: Duration,
    /// Bytes of a request's headers.
    pub header_bytes_max: usize,
    /// Headers of a request.
    pub headers_max: usize,
    /// Bytes of a JSON or raw request, also after decompression.
    pub body_bytes_max: usize,
    /// Bytes of a binary request: one payload of the size above and its envelope.
    pub message_bytes_max: usize,
    /// Deadline of a unary call that brings none.
    #[serde(with = "humantime_serde")]
    pub call_timeout: Duration,
    /// Longest deadline of a unary call.
    #[serde(with = "humantime_serde")]
    pub call_timeout_max: Duration,
    /// Silence after which a text stream says that it lives.
    #[serde(with = "humantime_serde")]
    pub heartbeat_interval: Duration,
    /// Streams that are packed by gzip at once; more go out as they are. Each keeps about 300 KB.
    pub compressed_streams_max: usize,
    /// Calls open on one WebSocket session.
    pub session_calls_max: usize,
    /// Bytes that may wait to be written on one WebSocket session.
    pub session_buffer_max: usize,
    /// Silence after which a WebSocket session is pinged, and how long its answer may take.
    #[serde(with = "humantime_serde")]
    pub session_ping_interval: Duration,
    /// How long the answer to such a ping may take.
    #[serde(with = "humantime_serde")]
    pub session_pong_timeout: Duration,
}

/// Bounds of the router.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Router {
    /// Requests that may wait for the router.
    pub queue: usize,
    /// Calls waiting for an answer at most.
    pub pending_max: usize,
    /// Readers at most.
    pub readers_max: usize,
    /// Topics with a reader at most.
    pub topics_max: usize,
    /// Topics of one subscription at most.
    pub subscription_topics_max: usize,
    /// Time without an answer after which a call that may be repeated is sent again.
    #[serde(with = "humantime_serde")]
    pub resend_after: Duration,
    /// Silence of a topic after which its tail is compared.
    #[serde(with = "humantime_serde")]
    pub check_interval: Duration,
    /// How long a reader waits for an owner to append again what a failover lost (P22).
    #[serde(with = "humantime_serde")]
    pub patience: Duration,
    /// How long interest outlives a topic's last reader (P23).
    #[serde(with = "humantime_serde")]
    pub linger: Duration,
    /// Time between renewals of this gateway's lease of 15 s.
    #[serde(with = "humantime_serde")]
    pub attend_interval: Duration,
    /// Entries read from a log at once.
    pub page_entries: usize,
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
        crate::edge::check_auth(self).map_err(Error::Config)?;
        let empty = self.limits.empty().or_else(|| self.router.empty());
        if let Some(name) = empty {
            return wrong(format!("{name}: must be above 0"));
        }
        if self.limits.call_timeout > self.limits.call_timeout_max {
            return wrong("limits.call_timeout: must not be above limits.call_timeout_max".into());
        }
        forwarders::Forwarders::new(&self.forwarders)?;
        self.tls.check(&self.listen)
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

impl Tls {
    /// Refuses what could not be served, the files included.
    fn check(&self, plain: &str) -> Result<(), Error> {
        let wrong = |text: &str| Err(Error::Config(text.into()));
        if self.reload_interval.is_zero() {
            return wrong("tls.reload_interval: must be above 0");
        }
        if let Some(listen) = &self.listen {
            address("tls.listen", listen)?;
            if listen == plain && !listen.ends_with(":0") {
                return wrong("tls.listen: must differ from listen; without it listen speaks TLS");
            }
            if self.plaintext {
                return wrong("tls.plaintext: with tls.listen there is no TLS on listen to stand beside");
            }
        }
        tls::check(self)
    }
}

impl Auth {
    /// Refuses what cannot let anybody in, by the name of its key. The files are read at start.
    fn check(&self) -> Result<(), String> {
        if self.mode == Mode::On && self.keys.is_empty() && self.jwt.issuer.is_empty() {
            return Err("mode: on needs auth.keys or auth.jwt.issuer".into());
        }
        if self.jwt.issuer.is_empty() {
            return Ok(());
        }
        let jwt = &self.jwt;
        match () {
            () if jwt.audience.is_empty() => Err("jwt.audience: must be set".into()),
            () if jwt.keys.is_empty() => Err("jwt.keys: must be set".into()),
            () if jwt.types.is_empty() => Err("jwt.types: at least one".into()),
            () if jwt.algorithms.is_empty() => Err("jwt.algorithms: at least one".into()),
            () if jwt.leeway > Duration::from_secs(30) => Err("jwt.leeway: at most 30s".into()),
            () => {
                let read =
                    |name: &String| crate::edge::algorithm(name).map_err(|e| format!("jwt.algorithms: {e}"));
                jwt.algorithms.iter().try_for_each(|name| read(name).map(drop))
            }
        }
    }
}

impl Limits {
    /// The first limit with which nothing could be served.
    fn empty(&self) -> Option<&'static str> {
        let empty = [
            ("limits.connections_max", self.connections_max == 0),
            ("limits.first_byte_timeout", self.first_byte_timeout.is_zero()),
            ("limits.handshake_timeout", self.handshake_timeout.is_zero()),
            ("limits.head_timeout", self.head_timeout.is_zero()),
            ("limits.idle_timeout", self.idle_timeout.is_zero()),
            ("limits.write_timeout", self.write_timeout.is_zero()),
            ("limits.streams_max", self.streams_max == 0),
            ("limits.ping_interval", self.ping_interval.is_zero()),
            ("limits.ping_timeout", self.ping_timeout.is_zero()),
            ("limits.header_bytes_max", self.header_bytes_max == 0),
            ("limits.headers_max", self.headers_max == 0),
            ("limits.body_bytes_max", self.body_bytes_max == 0),
            ("limits.message_bytes_max", self.message_bytes_max == 0),
            ("limits.call_timeout", self.call_timeout.is_zero()),
            ("limits.heartbeat_interval", self.heartbeat_interval.is_zero()),
            ("limits.session_calls_max", self.session_calls_max == 0),
            ("limits.session_buffer_max", self.session_buffer_max == 0),
            ("limits.session_ping_interval", self.session_ping_interval.is_zero()),
            ("limits.session_pong_timeout", self.session_pong_timeout.is_zero()),
        ];
        empty.iter().find(|(_, empty)| *empty).map(|(name, _)| *name)
    }
}

impl Router {
    /// The first bound with which nothing could be routed.
    fn empty(&self) -> Option<&'static str> {
        let empty = [
            ("router.queue", self.queue == 0),
            ("router.pending_max", self.pending_max == 0),
            ("router.readers_max", self.readers_max == 0),
            ("router.topics_max", self.topics_max == 0),
            ("router.subscription_topics_max", self.subscription_topics_max == 0),
            ("router.resend_after", self.resend_after.is_zero()),
            ("router.check_interval", self.check_interval.is_zero()),
            ("router.attend_interval", self.attend_interval.is_zero()),
            ("router.page_entries", self.page_entries == 0),
        ];
        empty.iter().find(|(_, empty)| *empty).map(|(name, _)| *name)
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
            router: Router::default(),
            drain: Duration::from_secs(45),
        }
    }
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            certificate: None,
            key: None,
            listen: None,
            plaintext: false,
            client_certificates: ClientCertificates::Off,
            client_ca: None,
            reload_interval: Duration::from_secs(10),
        }
    }
}

impl Default for Jwt {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            audience: String::new(),
            keys: String::new(),
            algorithms: vec!["ES256".into(), "EdDSA".into(), "RS256".into()],
            types: vec!["JWT".into(), "at+jwt".into()],
            leeway: Duration::from_secs(30),
        }
    }
}

impl Default for Forwarders {
    fn default() -> Self {
        Self { proxy_protocol: Vec::new(), trusted: Vec::new(), header: ForwardedHeader::XForwardedFor }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 20_000,
            first_byte_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(5),
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
            streams_max: 128,
            ping_interval: Duration::from_secs(20),
            ping_timeout: Duration::from_secs(10),
            header_bytes_max: 16 << 10,
            headers_max: 100,
            body_bytes_max: 1 << 20,
            message_bytes_max: (1 << 20) + (16 << 10),
            call_timeout: Duration::from_secs(30),
            call_timeout_max: Duration::from_secs(300),
            heartbeat_interval: Duration::from_secs(15),
            compressed_streams_max: 64,
            session_calls_max: 256,
            session_buffer_max: 1 << 20,
            session_ping_interval: Duration::from_secs(25),
            session_pong_timeout: Duration::from_secs(10),
        }
    }
}

impl Default for Router {
    fn default() -> Self {
        Self {
            queue: 4096,
            pending_max: 10_000,
            readers_max: 100_000,
            topics_max: 20_000,
            subscription_topics_max: 128,
            resend_after: Duration::from_secs(2),
            check_interval: Duration::from_secs(5),
            patience: Duration::from_secs(2),
            linger: Duration::from_secs(60),
            attend_interval: Duration::from_secs(5),
            page_entries: 256,
        }
    }
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
        let changes: [(&str, Change); 29] = [
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
            ("auth.jwt.leeway", |c| c.auth.jwt = Jwt { leeway: Duration::from_secs(31), ..issuer() }),
            ("auth.jwt.algorithms", |c| c.auth.jwt = Jwt { algorithms: vec!["HS256".into()], ..issuer() }),
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
