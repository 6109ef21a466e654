//! Servers of others: the centrifuge library (`bench/rivals/centrifuge`) and Centrifugo, as `tools/rivals`
//! builds them. Where they are not built, their rows stand alone.

use super::OTHER_CORE;
use crate::proc;
use anyhow::{Context, Result};
use plexus_tests::redis::free_port;
use serde_json::{Value, json};
use std::{net::SocketAddr, path::PathBuf, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Where `tools/rivals` puts what it builds.
fn built(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("rivals/bin").join(name);
    if !path.is_file() {
        eprintln!("NOT MEASURED: {name} is not built; `tools/rivals` builds it");
        return None;
    }
    Some(path)
}

/// A program that takes commands as lines and answers each with one line of JSON.
pub(crate) struct Server {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Starts the centrifuge library; `None`: it is not built.
    pub(crate) async fn centrifuge() -> Result<Option<Self>> {
        let Some(path) = built("centrifuge") else { return Ok(None) };
        Self::start(Command::new(path), None).await.map(Some)
    }

    /// Starts a server of this same binary.
    pub(crate) async fn own(words: &[&str], core: usize) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("edge").args(words).env("TOKIO_WORKER_THREADS", "1");
        Self::start(command, Some(core)).await
    }

    async fn start(mut command: Command, core: Option<usize>) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("a server")?;
        let input = child.stdin.take().context("its input")?;
        let mut output = BufReader::new(child.stdout.take().context("its output")?).lines();
        let said: Value = serde_json::from_str(&output.next_line().await?.context("it ended")?)?;
        let address = said["address"].as_str().context("an address")?.parse()?;
        if core.is_some() {
            proc::pin(child.id().context("it ended")?, core)?;
        }
        Ok(Self { child, input, output, address })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> Result<u32> {
        self.child.id().context("the server ended")
    }

    /// Publishes so many messages, one after another.
    pub(crate) async fn publish(&mut self, count: usize, bytes: usize) -> Result<()> {
        self.input.write_all(format!("publish {count} {bytes}\n").as_bytes()).await?;
        self.output.next_line().await?.context("the server ended")?;
        Ok(())
    }
}

/// Centrifugo with its Redis engine, and a history like ours.
pub(crate) struct Centrifugo {
    child: Child,
    folder: PathBuf,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

impl Centrifugo {
    /// Starts it; `None`: it is not built.
    pub(crate) async fn start(redis: &str) -> Result<Option<Self>> {
        let Some(path) = built("centrifugo") else { return Ok(None) };
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let config = json!({
            "http_server": { "address": "127.0.0.1", "port": address.port().to_string() },
            "client": { "insecure": true, "allow_anonymous_connect_without_token": true },
            "engine": { "type": "redis", "redis": { "address": redis } },
            "channel": { "without_namespace": {
                "allow_subscribe_for_client": true, "allow_subscribe_for_anonymous": true,
                "allow_publish_for_client": true, "allow_publish_for_anonymous": true,
                "history_size": 100, "history_ttl": "300s",
                "force_positioning": true, "force_recovery": true,
            } },
            "log": { "level": "error" },
        });
        let folder = std::env::temp_dir().join(format!("plexus-bench-{}", address.port()));
        std::fs::create_dir_all(&folder)?;
        let file = folder.join("config.json");
        std::fs::write(&file, config.to_string())?;
        let mut command = Command::new(path);
        command.arg("--config").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let child = command.spawn().context("centrifugo")?;
        let end = tokio::time::Instant::now() + PATIENCE;
        while super::connect(address).await.is_err() {
            anyhow::ensure!(tokio::time::Instant::now() < end, "centrifugo does not listen");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(Some(Self { child, folder, address }))
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> Result<u32> {
        self.child.id().context("centrifugo ended")
    }
}

impl Drop for Centrifugo {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Keeps this process off the core of what is measured, until it is dropped.
pub(crate) struct Aside;

impl Aside {
    /// Moves it.
    pub(crate) fn step() -> Result<Self> {
        anyhow::ensure!(proc::cores() > 1, "two cores are needed");
        proc::pin(std::process::id(), Some(OTHER_CORE))?;
        Ok(Self)
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        let _ = proc::pin(std::process::id(), None);
    }
}
