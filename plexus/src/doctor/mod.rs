//! `plexus doctor`: looks at everything around the process that its promises rest on, and says what to do.
//! It asks and measures here; [`rules`] judges, and is pure.

mod rules;

use crate::{
    client::{Target, output},
    config::{Config, Role},
};
use anyhow::Context;
use clap::Args;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use plexus_proto::v1::ListNodesRequest;
use rules::{Finding, Verdict};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};
use tokio::{net::TcpStream, task::JoinSet};

/// Longest look at one thing.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most bytes of an answer of the admin port.
const ANSWER_MAX: usize = 64 << 10;

/// Looks for what is wrong.
#[derive(Args)]
#[command(after_help = "Examples:
  plexus doctor
  plexus doctor --config plexus.toml --role worker --bus redis://redis:6379
  plexus doctor --url http://plexus.example:8080 --admin '' --json
Looks at the config, Redis, the gateway, the admin port, the clocks and the limit of open files. The exit code
is 1 where something fails; warnings do not count.")]
pub(crate) struct Doctor {
    /// Config file (TOML), as the role would read it.
    #[arg(long, short, env = "PLEXUS_CONFIG")]
    config: Option<PathBuf>,
    /// Whose config.
    #[arg(long, value_enum, default_value = "up")]
    role: Role,
    /// The bus: `memory:` or `redis://host:port`; else what the config says.
    #[arg(long)]
    bus: Option<String>,
    /// Address of health and metrics; empty: do not look. Else what the config says.
    #[arg(long)]
    admin: Option<String>,
    #[command(flatten)]
    target: Target,
}

impl Doctor {
    /// Runs every check, and prints each as it is done.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let mut report = Report { json: self.target.json, failed: 0 };
        let role = self.role;
        let mut config = match Config::load(role, self.config.as_deref()) {
            Ok(config) => config,
            Err(error) => {
                report.tell(Finding::fail("config", format!("{error:#}"), ""))?;
                Config::of(role)
            }
        };
        config.bus.url = self.bus.unwrap_or(config.bus.url);
        config.admin.listen = self.admin.unwrap_or(config.admin.listen);
        report.tell(match config.check(role) {
            Ok(()) => Finding::ok("config", format!("fits `plexus {}`", role.as_str())),
            Err(error) => Finding::fail("config", format!("{error:#}"), "docs/configuration.md"),
        })?;
        report.tell(rules::files(open_files(), &config, role))?;
        for finding in redis(&config).await {
            report.tell(finding)?;
        }
        for finding in gateway(&self.target).await {
            report.tell(finding)?;
        }
        for finding in admin(&config.admin.listen).await {
            report.tell(finding)?;
        }
        anyhow::ensure!(report.failed == 0, "{} of the checks failed", report.failed);
        Ok(())
    }
}

struct Report {
    json: bool,
    failed: usize,
}

impl Report {
    fn tell(&mut self, finding: Finding) -> anyhow::Result<()> {
        self.failed += usize::from(finding.verdict == Verdict::Fail);
        let Finding { check, verdict, detail, hint } = finding;
        if self.json {
            let line = serde_json::json!({"check": check, "verdict": verdict.word(), "detail": detail, "hint": hint});
            return output::line(&line);
        }
        let mut text = format!("{:<4}  {check:<18}  {}\n", verdict.word(), output::printable(&detail));
        if !hint.is_empty() {
            text.push_str(&format!("{:26}{hint}\n", ""));
        }
        output::write(text.as_bytes())
    }
}

async fn redis(config: &Config) -> Vec<Finding> {
    if config.bus.embedded() {
        return vec![Finding::skip("redis", "the bus lives within the process")];
    }
    let looked = tokio::time::timeout(PATIENCE, plexus_bus::redis::inspect(&config.bus)).await;
    match looked {
        Ok(Ok(seen)) => rules::redis(&seen, SystemTime::now()),
        Ok(Err(error)) => vec![Finding::fail("redis", error.to_string(), "does bus.url lead to a primary?")],
        Err(_) => vec![Finding::fail(
            "redis",
            format!("silent for {PATIENCE:?}"),
            "does bus.url lead to a primary?",
        )],
    }
}

async fn gateway(target: &Target) -> Vec<Finding> {
    let url = match target.url() {
        Ok(url) => url,
        Err(error) => return vec![Finding::fail("gateway", format!("{error:#}"), "plexus context ls")],
    };
    let ask = async {
        let mut nodes = target.nodes().await?;
        let (began, sent) = (Instant::now(), SystemTime::now());
        let answer =
            nodes.list_nodes(target.ask(ListNodesRequest { page_size: 1, ..Default::default() })).await?;
        let date = answer.metadata().get("date").and_then(|date| date.to_str().ok()).map(ToOwned::to_owned);
        anyhow::Ok((began.elapsed(), sent, date))
    };
    match tokio::time::timeout(PATIENCE, ask).await {
        Ok(Ok((took, sent, date))) => {
            let reached =
                Finding::ok("gateway", format!("{url} answers in {:.1} ms", took.as_secs_f64() * 1e3));
            vec![reached, rules::date(date.as_deref(), sent)]
        }
        Ok(Err(error)) => {
            let text = crate::client::explain(&error);
            vec![Finding::fail("gateway", text, "is it running, and is --url right?")]
        }
        Err(_) => vec![Finding::fail("gateway", format!("{url} is silent for {PATIENCE:?}"), "")],
    }
}

async fn admin(listen: &str) -> Vec<Finding> {
    if listen.is_empty() {
        return vec![Finding::skip("admin", "not asked for")];
    }
    let mut findings = Vec::new();
    for (check, path) in [("admin.live", "/livez"), ("admin.ready", "/readyz")] {
        let looked = tokio::time::timeout(PATIENCE, get(listen, path)).await;
        findings.push(match looked {
            Ok(Ok((200, _))) => Finding::ok(check, format!("{listen}{path}")),
            Ok(Ok((status, text))) => Finding::fail(check, format!("{status}: {}", text.trim()), ""),
            Ok(Err(error)) => {
                Finding::fail(check, format!("{error:#}"), "--admin '' where it cannot be reached")
            }
            Err(_) => Finding::fail(check, format!("silent for {PATIENCE:?}"), ""),
        });
    }
    findings
}

/// Asks the admin port of this machine or another.
async fn get(listen: &str, path: &str) -> anyhow::Result<(u16, String)> {
    let mut address = tokio::net::lookup_host(listen).await.context(listen.to_owned())?;
    let address = address.next().with_context(|| format!("{listen} has no address"))?;
    let stream =
        TcpStream::connect(here(address)).await.with_context(|| format!("nobody answers at {listen}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let mut task = JoinSet::new();
    task.spawn(connection);
    let request = hyper::Request::get(path).header("host", listen).body(Empty::<bytes::Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
    let body = body.map_err(|_| anyhow::anyhow!("{path} does not end"))?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// Where a process that listens everywhere is reached from here.
fn here(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    address
}

/// Files and connections that this process may have open.
fn open_files() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}
