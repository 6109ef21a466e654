//! The whole config: every component's, joined. Defaults of the role, then a file, then the
//! environment (`PLEXUS__GATEWAY__LISTEN=…`), then flags. Unknown keys are refused. Only this file
//! reads the environment.

use anyhow::{Context, anyhow};
use config::{Environment, File, FileFormat};
use serde::{Deserialize, Serialize};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// Which parts a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Role {
    /// Gateway and worker in one process.
    Up,
    /// The gateway alone.
    Gateway,
    /// The worker alone.
    Worker,
}

impl Role {
    /// Tells whether a gateway runs.
    pub(crate) fn gateway(self) -> bool {
        self != Self::Worker
    }

    /// Tells whether a worker runs.
    pub(crate) fn worker(self) -> bool {
        self != Self::Gateway
    }

    /// Its name on the command line and in traces.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Gateway => "gateway",
            Self::Worker => "worker",
        }
    }
}

/// Everything a process may be told.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// What is logged: a level, or directives such as `info,plexus_worker=debug`.
    pub(crate) log: String,
    /// How it is logged.
    pub(crate) log_format: LogFormat,
    /// How processes reach each other.
    pub(crate) bus: plexus_bus::Config,
    /// The gateway.
    pub(crate) gateway: plexus_gateway::config::Config,
    /// The worker.
    pub(crate) worker: plexus_worker::Config,
    /// Health and metrics.
    pub(crate) admin: Admin,
    /// Traces.
    pub(crate) telemetry: Telemetry,
}

/// How lines of the log look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Health and metrics, on a port of their own.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Admin {
    /// `host:port`; port 0 takes any and prints it; empty: no such port.
    pub(crate) listen: String,
    /// How long a loop may stand still before `/livez` says so; at least 5 s.
    #[serde(with = "humantime_serde")]
    pub(crate) stuck_after: Duration,
}

/// Traces.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Telemetry {
    /// OTLP endpoint over gRPC, such as `http://localhost:4317`; empty: no traces.
    pub(crate) otlp_endpoint: String,
    /// Share of new traces that are kept, 0 to 1; a caller's own decision wins.
    pub(crate) sample_ratio: f64,
    /// Spans that may wait to be sent; more are dropped and told in the log.
    pub(crate) spans_max: usize,
    /// Time between two sends.
    #[serde(with = "humantime_serde")]
    pub(crate) send_interval: Duration,
    /// Time one send may take, and the last one at shutdown.
    #[serde(with = "humantime_serde")]
    pub(crate) send_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            log: "info".into(),
            log_format: LogFormat::Text,
            bus: plexus_bus::Config::default(),
            gateway: plexus_gateway::config::Config::default(),
            worker: plexus_worker::Config::default(),
            admin: Admin::default(),
            telemetry: Telemetry::default(),
        }
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            otlp_endpoint: String::new(),
            sample_ratio: 1.0,
            spans_max: 2048,
            send_interval: Duration::from_secs(2),
            send_timeout: Duration::from_secs(3),
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: "127.0.0.1:8081".into(), stuck_after: Duration::from_secs(10) }
    }
}

impl Config {
    /// The defaults of a role: `up` is for development on one machine, the others are for a fleet.
    pub(crate) fn of(role: Role) -> Self {
        let mut config = Self::default();
        match role {
            Role::Up => {
                config.worker.allow_private_addresses = true;
                config.worker.keys.generate = true;
                config.worker.node.listen_addresses =
                    vec!["/ip4/127.0.0.1/tcp/0".into(), "/ip4/127.0.0.1/udp/0/quic-v1".into()];
            }
            Role::Gateway | Role::Worker => {
                config.gateway.listen = "[::]:8080".into();
                config.admin.listen = "[::]:8081".into();
                config.log_format = LogFormat::Json;
            }
        }
        config
    }

    /// Joins the defaults of the role, the file and the environment.
    pub(crate) fn load(role: Role, file: Option<&Path>) -> anyhow::Result<Self> {
        Self::join(role, file, Environment::default())
    }

    fn join(role: Role, file: Option<&Path>, environment: Environment) -> anyhow::Result<Self> {
        let mut builder = config::Config::builder().add_source(config::Config::try_from(&Self::of(role))?);
        if let Some(path) = file {
            builder = builder.add_source(File::from(path).format(FileFormat::Toml));
        }
        let environment =
            environment.prefix("PLEXUS").prefix_separator("__").separator("__").try_parsing(true);
        let joined = builder.add_source(environment).build().context("the config cannot be read")?;
        joined.try_deserialize().context("the config is not valid")
    }

    /// Refuses what the role could not start with: what each of its parts refuses, and what cannot work
    /// together. Names the key.
    pub(crate) fn check(&self, role: Role) -> anyhow::Result<()> {
        crate::telemetry::filter(&self.log)?;
        self.telemetry.check()?;
        self.bus.check().map_err(|e| anyhow!("bus.{e}"))?;
        if role != Role::Up && self.bus.embedded() {
            anyhow::bail!(
                "bus.url: `plexus {}` reaches the other side over Redis: give --bus redis://host:port, or run `plexus up`",
                role.as_str()
            );
        }
        if role.gateway() {
            self.gateway.check().map_err(|e| anyhow!("gateway.{e}"))?;
        }
        if role.worker() {
            self.worker.check().map_err(|e| anyhow!("worker.{e}"))?;
        }
        self.admin.check()?;
        if role.gateway() && self.admin.listen == self.gateway.listen && !self.admin.listen.ends_with(":0") {
            anyhow::bail!("admin.listen: must differ from gateway.listen");
        }
        let tls = self.gateway.tls.listen.as_deref();
        if role.gateway() && tls == Some(&self.admin.listen) && !self.admin.listen.ends_with(":0") {
            anyhow::bail!("admin.listen: must differ from gateway.tls.listen");
        }
        Ok(())
    }

    /// The config as TOML, with secrets masked.
    pub(crate) fn print(&self) -> anyhow::Result<String> {
        let mut shown = self.clone();
        shown.bus.url = mask(&shown.bus.url);
        shown.gateway.resume.key = shown.gateway.resume.key.map(|_| "***".into());
        shown.worker.keys.key = shown.worker.keys.key.map(|_| "***".into());
        Ok(toml::to_string_pretty(&shown)?)
    }
}

impl Admin {
    fn check(&self) -> anyhow::Result<()> {
        let (host, port) = self.listen.rsplit_once(':').unwrap_or_default();
        let fits = self.listen.is_empty() || (!host.is_empty() && port.parse::<u16>().is_ok());
        anyhow::ensure!(fits, "admin.listen: {:?} is neither host:port nor empty", self.listen);
        anyhow::ensure!(self.stuck_after >= Duration::from_secs(5), "admin.stuck_after: must be at least 5s");
        Ok(())
    }
}

impl Telemetry {
    fn check(&self) -> anyhow::Result<()> {
        let endpoint = &self.otlp_endpoint;
        let reached = endpoint.strip_prefix("http://").is_some_and(|rest| !rest.is_empty());
        anyhow::ensure!(
            endpoint.is_empty() || (reached && endpoint.parse::<hyper::Uri>().is_ok()),
            "telemetry.otlp_endpoint: {endpoint:?} is no address such as http://localhost:4317; TLS ends at a collector beside the process"
        );
        anyhow::ensure!((0.0..=1.0).contains(&self.sample_ratio), "telemetry.sample_ratio: must be 0 to 1");
        anyhow::ensure!(self.spans_max > 0, "telemetry.spans_max: must be above 0");
        anyhow::ensure!(!self.send_interval.is_zero(), "telemetry.send_interval: must be above 0");
        anyhow::ensure!(!self.send_timeout.is_zero(), "telemetry.send_timeout: must be above 0");
        Ok(())
    }
}

/// What the environment says to a client.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClientEnvironment {
    /// `PLEXUS_URL`: the gateway.
    pub(crate) url: Option<String>,
    /// `PLEXUS_CONTEXT`: a gateway by name.
    pub(crate) context: Option<String>,
    /// `PLEXUS_TOKEN`: what is shown to it.
    pub(crate) token: Option<String>,
    /// `PLEXUS_CA`: a file with the authorities that sign its certificate.
    pub(crate) ca: Option<PathBuf>,
    /// `PLEXUS_CERT`: a file with the client's own certificate.
    pub(crate) cert: Option<PathBuf>,
    /// `PLEXUS_KEY`: a file with its private key.
    pub(crate) key: Option<PathBuf>,
}

/// Reads what the environment says to a client; what is empty is not said.
pub(crate) fn client_environment() -> ClientEnvironment {
    let said = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    ClientEnvironment {
        url: said("PLEXUS_URL"),
        context: said("PLEXUS_CONTEXT"),
        token: said("PLEXUS_TOKEN"),
        ca: said("PLEXUS_CA").map(PathBuf::from),
        cert: said("PLEXUS_CERT").map(PathBuf::from),
        key: said("PLEXUS_KEY").map(PathBuf::from),
    }
}

/// Where the user's contexts are: `plexus/contexts.toml` in XDG_CONFIG_HOME, else in ~/.config.
pub(crate) fn contexts_file() -> Option<PathBuf> {
    let folder = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = folder("XDG_CONFIG_HOME").or_else(|| Some(folder("HOME")?.join(".config")))?;
    Some(config.join("plexus").join("contexts.toml"))
}

/// Hides the passwords of a URL.
fn mask(url: &str) -> String {
    let (url, more) = url.split_once('?').map_or((url, String::new()), |(url, query)| {
        let hide = |pair: &str| match pair.split_once('=') {
            Some((name, _)) if name.to_ascii_lowercase().contains("password") => format!("{name}=***"),
            _ => pair.to_owned(),
        };
        let pairs: Vec<String> = query.split('&').map(hide).collect();
        (url, format!("?{}", pairs.join("&")))
    });
    let url = match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => {
            let user = url[scheme + 3..at].split(':').next().unwrap_or_default();
            format!("{}{user}:***{}", &url[..scheme + 3], &url[at..])
        }
        _ => url.to_owned(),
    };
    url + &more
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        let pairs: HashMap<String, String> = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        Environment::default().source(Some(pairs))
    }

    #[test]
    fn the_environment_wins_over_the_file_and_the_file_over_the_defaults() {
        let file = std::env::temp_dir().join(format!("plexus-config-{}.toml", std::process::id()));
        std::fs::write(&file, "log = \"warn\"\n[gateway]\nlisten = \"127.0.0.1:1\"\n").unwrap();
        let set = environment(&[
            ("PLEXUS__GATEWAY__LISTEN", "127.0.0.1:2"),
            ("PLEXUS__GATEWAY__LIMITS__STREAMS_MAX", "7"),
            ("PLEXUS__WORKER__ID", "17"),
            ("PLEXUS__WORKER__ALLOW_PRIVATE_ADDRESSES", "false"),
            ("PLEXUS_PORT", "tcp://10.0.0.1:80"),
        ]);
        let config = Config::join(Role::Up, Some(&file), set).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(config.gateway.listen, "127.0.0.1:2");
        assert_eq!(config.gateway.limits.streams_max, 7);
        assert_eq!(config.worker.id, "17");
        assert!(!config.worker.allow_private_addresses);
        assert_eq!(config.log, "warn");
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let error =
            Config::join(Role::Up, None, environment(&[("PLEXUS__GATEWAY__LISTTEN", "x")])).unwrap_err();
        assert!(format!("{error:#}").contains("listten"), "{error:#}");
    }

    #[test]
    fn what_is_printed_is_read_back_and_shows_no_secret() {
        let mut config = Config::of(Role::Gateway);
        config.bus.url = "redis://user:geheim@redis:6379/1".into();
        config.worker.keys.key = Some("geheim".into());
        config.gateway.resume.key = Some("geheim".into());
        let text = config.print().unwrap();
        assert!(!text.contains("geheim"), "{text}");
        assert!(text.contains("redis://user:***@redis:6379/1"), "{text}");
        let url = "redis-sentinel://s:1?sentinelServiceName=m&sentinelPassword=geheim";
        assert_eq!(mask(url), "redis-sentinel://s:1?sentinelServiceName=m&sentinelPassword=***");
        let back: Config = toml::from_str(&text).unwrap();
        assert_eq!(back.gateway.listen, "[::]:8080");
    }

    #[test]
    fn the_shipped_file_equals_the_defaults() {
        let shipped = include_str!("../../deploy/plexus.toml");
        let read: toml::Table = toml::from_str(shipped).unwrap();
        let defaults: toml::Table =
            toml::from_str(&toml::to_string(&Config::of(Role::Gateway)).unwrap()).unwrap();
        assert_eq!(read, defaults, "run `plexus config print --role gateway > deploy/plexus.toml`");
    }

    #[test]
    fn what_the_fuzzers_found_in_files_of_a_part_is_no_file_that_breaks_the_whole() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus/config");
        let mut read = 0;
        for file in std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()) {
            for role in [Role::Up, Role::Gateway, Role::Worker] {
                let _ =
                    Config::join(role, Some(&file), environment(&[])).map(|config| config.print().unwrap());
            }
            read += 1;
        }
        assert!(read > 5, "the check reads the corpus");
    }

    /// What is said against a config by the check, and what by the part itself as it starts.
    async fn verdicts(role: Role, config: &Config) -> (Result<(), String>, Result<(), String>) {
        let said = config.check(role).map_err(|e| e.to_string());
        let start = async {
            let bus = if config.bus.embedded() {
                plexus_bus::Bus::open(&config.bus).await.map_err(|e| e.to_string())?
            } else {
                plexus_bus::Bus::open(&plexus_bus::Config::default()).await.map_err(|e| e.to_string())?
            };
            if role.worker() {
                plexus_worker::Worker::new(config.worker.clone(), bus.clone()).map_err(|e| e.to_string())?;
            }
            if role.gateway() {
                let gateway = config.gateway.clone();
                plexus_gateway::Gateway::bind(gateway, bus).await.map_err(|e| e.to_string())?;
            }
            Ok(())
        };
        (said, start.await)
    }

    #[tokio::test]
    async fn the_check_refuses_exactly_what_a_start_refuses_and_names_the_key() {
        type Change = fn(&mut Config);
        // The role, the change, and the key that is named; `None`: it starts.
        let rows: [(Role, Change, Option<&str>); 30] = [
            (Role::Up, |_| {}, None),
            (Role::Up, |c| c.worker.lease.deadline = Duration::from_secs(5), None),
            (
                Role::Up,
                |c| c.worker.lease.deadline = Duration::from_millis(5001),
                Some("worker.lease.deadline"),
            ),
            (
                Role::Up,
                |c| c.worker.lease.deadline = Duration::from_millis(5999),
                Some("worker.lease.deadline"),
            ),
            (Role::Up, |c| c.worker.lease.deadline = Duration::from_secs(6), Some("worker.lease.deadline")),
            (Role::Up, |c| c.worker.lease.deadline = Duration::from_secs(1), Some("worker.lease.deadline")),
            (Role::Up, |c| c.worker.lease.deadline = Duration::from_secs(2), None),
            (Role::Up, |c| c.worker.lease.renew_interval = Duration::ZERO, Some("worker.lease.deadline")),
            (Role::Up, |c| c.worker.lease.claims_max = 0, Some("worker.lease.claims_max")),
            (Role::Up, |c| c.worker.nodes_max = 0, Some("worker.nodes_max")),
            (Role::Up, |c| c.worker.id = "a b".into(), Some("worker.id")),
            (Role::Up, |c| c.worker.keys.generate = false, Some("worker.keys")),
            (Role::Up, |c| c.worker.keys.key = Some("short".into()), Some("worker.keys.key")),
            (Role::Up, |c| c.worker.keys.file = Some("/nowhere/kek".into()), Some("worker.keys.file")),
            (Role::Up, |c| c.worker.node.commands_max = 0, Some("worker.node.commands_max")),
            (
                Role::Up,
                |c| c.worker.node.listen_addresses = vec!["x".into()],
                Some("worker.node.listen_addresses"),
            ),
            (Role::Up, |c| c.bus.commands_max = 0, Some("bus.commands_max")),
            (Role::Up, |c| c.bus.call_timeout = Duration::ZERO, Some("bus.call_timeout")),
            (Role::Up, |c| c.gateway.listen = "8080".into(), Some("gateway.listen")),
            (Role::Up, |c| c.gateway.origins = vec!["x".into()], Some("gateway.origins")),
            (Role::Up, |c| c.gateway.router.queue = 0, Some("gateway.router.queue")),
            (Role::Up, |c| c.gateway.tls.certificate = Some("/nowhere".into()), Some("gateway.tls.key")),
            (
                Role::Up,
                |c| {
                    c.gateway.tls.certificate = Some("/nowhere/cert".into());
                    c.gateway.tls.key = Some("/nowhere/key".into())
                },
                Some("gateway.tls.certificate"),
            ),
            (
                Role::Up,
                |c| c.gateway.forwarders.trusted = vec!["x".into()],
                Some("gateway.forwarders.trusted"),
            ),
            (
                Role::Up,
                |c| c.gateway.limits.session_pong_timeout = Duration::ZERO,
                Some("gateway.limits.session_pong_timeout"),
            ),
            // What a role does not run is not asked.
            (Role::Gateway, |c| c.worker.nodes_max = 0, None),
            (Role::Gateway, |c| c.gateway.router.queue = 0, Some("gateway.router.queue")),
            (Role::Worker, |c| c.gateway.router.queue = 0, Some("worker.keys")),
            (
                Role::Worker,
                |c| {
                    c.gateway.router.queue = 0;
                    c.worker.keys.generate = true
                },
                None,
            ),
            (
                Role::Worker,
                |c| c.worker.lease.deadline = Duration::from_millis(5500),
                Some("worker.lease.deadline"),
            ),
        ];
        for (row, (role, change, key)) in rows.into_iter().enumerate() {
            let mut config = Config::of(role);
            config.gateway.listen = "127.0.0.1:0".into();
            if role != Role::Up {
                config.bus.url = "redis://127.0.0.1:6379".into();
            }
            change(&mut config);
            let (said, started) = verdicts(role, &config).await;
            assert_eq!(said.is_ok(), started.is_ok(), "row {row}: {said:?}, {started:?}");
            assert_eq!(said.is_ok(), key.is_none(), "row {row}: {said:?}");
            if let (Err(said), Some(key)) = (&said, key) {
                assert!(said.starts_with(&format!("{key}: ")), "row {row}: {said}");
            }
        }
    }

    #[test]
    fn what_only_the_program_knows_is_checked_as_well() {
        type Change = fn(&mut Config);
        let rows: [(Role, Change, &str); 12] = [
            (Role::Up, |c| c.admin.stuck_after = Duration::from_secs(4), "admin.stuck_after"),
            (Role::Worker, |c| c.bus.url = "memory:".into(), "bus.url"),
            (Role::Gateway, |c| c.bus.url = "memory:".into(), "bus.url"),
            (Role::Up, |c| c.bus.url = "https://redis:6379".into(), "bus.url"),
            (Role::Up, |c| c.log = "plexus=loud".into(), "log"),
            (Role::Up, |c| c.admin.listen = "8081".into(), "admin.listen"),
            (Role::Up, |c| c.admin.listen = c.gateway.listen.clone(), "admin.listen"),
            (Role::Up, |c| c.telemetry.otlp_endpoint = "localhost:4317".into(), "telemetry.otlp_endpoint"),
            (Role::Up, |c| c.telemetry.otlp_endpoint = "https://otel:4317".into(), "telemetry.otlp_endpoint"),
            (Role::Up, |c| c.telemetry.sample_ratio = 1.5, "telemetry.sample_ratio"),
            (Role::Up, |c| c.telemetry.sample_ratio = f64::NAN, "telemetry.sample_ratio"),
            (Role::Up, |c| c.telemetry.spans_max = 0, "telemetry.spans_max"),
        ];
        for (role, change, key) in rows {
            let mut config = Config::of(role);
            config.bus.url = if role == Role::Up { "memory:" } else { "redis://redis:6379" }.into();
            config.worker.keys.generate = true;
            assert!(config.check(role).is_ok(), "{:?}", config.check(role));
            change(&mut config);
            let said = config.check(role).unwrap_err().to_string();
            assert!(said.starts_with(&format!("{key}: ")), "{said}");
        }
    }
}
