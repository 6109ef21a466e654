//! A real redis-server that may die, come back on the same port, follow another, or stand still.

use anyhow::{Result, ensure};
use plexus_tests::{eventually, redis::free_port};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A running server, or one that was killed and may start again; dropping it ends it and forgets its data.
pub(crate) struct Store {
    child: Child,
    port: u16,
    dir: PathBuf,
    words: Vec<String>,
}

impl Store {
    /// Starts one that keeps nothing on disk, with these settings beside.
    pub(crate) async fn start(settings: &[&str]) -> Self {
        Self::start_on(free_port(), [&["--save", ""], settings].concat()).await
    }

    /// Starts one that writes its appends to disk, as Redis does by default.
    pub(crate) async fn durable() -> Self {
        Self::start(&["--appendonly", "yes", "--appendfsync", "everysec"]).await
    }

    /// Starts a Sentinel.
    pub(crate) async fn sentinel(config: &str) -> Self {
        let port = free_port();
        let file = folder(port).join("sentinel.conf");
        std::fs::create_dir_all(folder(port)).unwrap();
        std::fs::write(&file, config).unwrap();
        Self::start_on(port, vec![file.to_str().unwrap(), "--sentinel"]).await
    }

    async fn start_on(port: u16, words: Vec<&str>) -> Self {
        let dir = folder(port);
        std::fs::create_dir_all(&dir).unwrap();
        let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
        let store = Self { child: spawn(port, &dir, &words), port, dir, words };
        store.ready().await;
        store
    }

    /// Starts it again where it was, with what it kept on disk.
    pub(crate) async fn restart(&mut self) {
        self.child = spawn(self.port, &self.dir, &self.words);
        self.ready().await;
    }

    async fn ready(&self) {
        eventually(PATIENCE, || async {
            let answer = self.ask(&["PING"]);
            ensure!(answer == "PONG", "{answer}");
            Ok(())
        })
        .await;
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Asks it something and answers what it says.
    pub(crate) fn ask(&self, words: &[&str]) -> String {
        let port = self.port.to_string();
        let out = Command::new("redis-cli").args(["-p", &port]).args(words).output().unwrap();
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }

    /// A number of `INFO`.
    pub(crate) fn info(&self, field: &str) -> Result<u64> {
        let info = self.ask(&["INFO", "everything"]);
        let value = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        Ok(value.unwrap_or_default().trim().parse()?)
    }

    /// Waits until it follows its primary.
    pub(crate) async fn follows(&self) {
        eventually(PATIENCE, || async {
            let info = self.ask(&["INFO", "replication"]);
            ensure!(info.contains("master_link_status:up"), "{info}");
            Ok(())
        })
        .await;
    }

    /// Sends SIGKILL and waits for the end.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stands still.
    pub(crate) fn freeze(&self) {
        signal(self.child.id(), Signal::STOP);
    }

    /// Goes on.
    pub(crate) fn thaw(&self) {
        signal(self.child.id(), Signal::CONT);
    }
}

/// Sends a signal to a process of ours.
pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

fn folder(port: u16) -> PathBuf {
    std::env::temp_dir().join(format!("plexus-faults-{}-{port}", std::process::id()))
}

fn spawn(port: u16, dir: &std::path::Path, words: &[String]) -> Child {
    let port = port.to_string();
    let mut command = Command::new("redis-server");
    command.args(words).args(["--port", &port, "--bind", "127.0.0.1", "--dir"]).arg(dir);
    command.stdout(Stdio::null()).spawn().expect("redis-server is installed: `make prepare` does it")
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
