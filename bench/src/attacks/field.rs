//! Two gateways as their users run them, with TLS on a port of its own, and the processes that attack one
//! of them.

use anyhow::{Context, Result, ensure};
use plexus_tests::{
    Http,
    attacks::{Attack, Target, Toll},
    process::Plexus,
    redis::free_port,
};
use serde_json::{Value, json};
use std::{net::SocketAddr, path::PathBuf, process::Stdio, time::Duration};
use tokio::process::Command;

/// The two gateways.
pub(super) struct Field {
    /// The one with honest clients.
    pub(super) gateway: Plexus,
    tls: SocketAddr,
    other: Plexus,
    other_tls: SocketAddr,
    _files: Files,
}

/// A certificate in files that go with it.
struct Files(PathBuf);

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Field {
    /// Starts both.
    pub(super) async fn lay() -> Result<Self> {
        let files = Files(std::env::temp_dir().join(format!("plexus-attacks-{}", std::process::id())));
        std::fs::create_dir_all(&files.0)?;
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
        std::fs::write(files.0.join("certificate.pem"), made.cert.pem())?;
        std::fs::write(files.0.join("key.pem"), made.key_pair.serialize_pem())?;
        let (gateway, tls) = start(&files).await;
        let (other, other_tls) = start(&files).await;
        Ok(Self { gateway, tls, other, other_tls, _files: files })
    }

    /// The gateway with the honest clients, or the other.
    pub(super) fn target(&self, other: bool) -> Target {
        match other {
            true => Target { plain: self.other.address, tls: self.other_tls },
            false => Target { plain: self.gateway.address, tls: self.tls },
        }
    }

    /// Connections that the gateway with the honest clients has now.
    pub(super) async fn connections(&self) -> Result<u64> {
        let answer = Http::new(self.gateway.admin).get("/metrics").await?;
        let text = String::from_utf8(answer.body.to_vec())?;
        let line = text.lines().find_map(|line| line.strip_prefix("plexus_gateway_connections "));
        Ok(line.context("the gauge of connections")?.trim().parse()?)
    }
}

async fn start(files: &Files) -> (Plexus, SocketAddr) {
    let listen = format!("127.0.0.1:{}", free_port());
    let [certificate, key] =
        ["certificate.pem", "key.pem"].map(|name| files.0.join(name).display().to_string());
    let settings = [
        ("PLEXUS__GATEWAY__TLS__CERTIFICATE", &*certificate),
        ("PLEXUS__GATEWAY__TLS__KEY", &key),
        ("PLEXUS__GATEWAY__TLS__LISTEN", &listen),
    ];
    let plexus = Plexus::start("up", "memory:", &settings).await;
    (plexus, listen.parse().expect("it was written as an address"))
}

/// Attacks from a process of its own, which yields to everybody.
pub(super) async fn attack(attack: Attack, target: Target, during: Duration) -> Result<Toll> {
    let output = Command::new("nice")
        .args(["-n", "19"])
        .arg(std::env::current_exe()?)
        .args(["raid", attack.name, "--plain", &target.plain.to_string(), "--tls", &target.tls.to_string()])
        .args(["--seconds", &during.as_secs().max(1).to_string()])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?
        .wait_with_output()
        .await?;
    ensure!(output.status.success(), "{}: {}", attack.name, output.status);
    read(&serde_json::from_slice(&output.stdout)?).context("a toll")
}

/// Writes a toll as the parent reads it.
pub(super) fn write(toll: &Toll) -> Value {
    let Toll { opened, cut, refused, sent, longest, longest_cut } = toll;
    let [longest, longest_cut] = [longest, longest_cut].map(|time| time.as_secs_f64());
    json!([opened, cut, refused, sent, longest, longest_cut])
}

fn read(value: &Value) -> Option<Toll> {
    let count = |n: usize| value[n].as_u64();
    let time = |n: usize| value[n].as_f64().map(Duration::from_secs_f64);
    Some(Toll {
        opened: count(0)?,
        cut: count(1)?,
        refused: count(2)?,
        sent: count(3)?,
        longest: time(4)?,
        longest_cut: time(5)?,
    })
}
