//! The whole config: every component's, joined. Defaults of the role, then a file, then the
//! environment (`PLEXUS__GATEWAY__LISTEN=…`), then flags. Unknown keys are refused. Only this file
//! reads the environment.

use anyhow::Context;
use config::{Environment, File, FileFormat};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Which parts a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}

/// Traces.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Telemetry {
    /// OTLP endpoint over gRPC, such as `http://localhost:4317`; empty: no traces.
    pub(crate) otlp_endpoint: String,
    /// Share of new traces that are kept, 0 to 1; a caller's own decision wins. Absent: 1.
    pub(crate) sample_ratio: Option<f64>,
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

impl Default for Admin {
    fn default() -> Self {
        Self { listen: "127.0.0.1:8081".into() }
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

    /// Refuses what cannot work together.
    pub(crate) fn check(&self, role: Role) -> anyhow::Result<()> {
        if role != Role::Up && self.bus.embedded() {
            anyhow::bail!(
                "bus.url: `plexus {}` reaches the other side over Redis: give --bus redis://host:port, or run `plexus up`",
                role.as_str()
            );
        }
        let lease = &self.worker.lease;
        if lease.deadline >= std::time::Duration::from_secs(6) {
            anyhow::bail!("worker.lease.deadline: must be below the 6 s that a lease lives in the store");
        }
        if lease.renew_interval * 2 > lease.deadline {
            anyhow::bail!("worker.lease.renew_interval: must be at most half of worker.lease.deadline");
        }
        if let Some(ratio) = self.telemetry.sample_ratio
            && !(0.0..=1.0).contains(&ratio)
        {
            anyhow::bail!("telemetry.sample_ratio: must be 0 to 1");
        }
        Ok(())
    }

    /// The config as TOML, with secrets masked.
    pub(crate) fn print(&self) -> anyhow::Result<String> {
        let mut shown = self.clone();
        shown.bus.url = mask(&shown.bus.url);
        shown.worker.keys.key = shown.worker.keys.key.map(|_| "***".into());
        Ok(toml::to_string_pretty(&shown)?)
    }
}

/// Hides the password of a URL.
fn mask(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => {
            let user = url[scheme + 3..at].split(':').next().unwrap_or_default();
            format!("{}{user}:***{}", &url[..scheme + 3], &url[at..])
        }
        _ => url.to_owned(),
    }
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
        let text = config.print().unwrap();
        assert!(!text.contains("geheim"), "{text}");
        assert!(text.contains("redis://user:***@redis:6379/1"), "{text}");
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
    fn a_role_apart_needs_redis() {
        assert!(Config::of(Role::Up).check(Role::Up).is_ok());
        assert!(Config::of(Role::Worker).check(Role::Worker).is_err());
    }
}
