//! A real `redis-server` of one test.

use std::{
    future::Future,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A server of its own, killed with the test.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) port: u16,
    pub(crate) dir: PathBuf,
}

impl Server {
    pub(crate) fn start(port: u16, more: &[&str]) -> Option<Self> {
        Self::spawn(port, &[&["--save", "", "--enable-debug-command", "local"], more].concat())
    }

    pub(crate) fn sentinel(port: u16, file: &std::path::Path) -> Option<Self> {
        Self::spawn(port, &[file.to_str().unwrap(), "--sentinel"])
    }

    fn spawn(port: u16, words: &[&str]) -> Option<Self> {
        let dir = std::env::temp_dir().join(format!("plexus-bus-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let spawned = Command::new("redis-server")
            .args(words)
            .args(["--port", &port.to_string(), "--dir"])
            .arg(&dir)
            .stdout(Stdio::null())
            .spawn();
        match spawned {
            Ok(child) => Some(Self { child, port, dir }),
            Err(_) => {
                eprintln!("skipped: no redis-server on the path");
                None
            }
        }
    }

    pub(crate) fn signal(&self, signal: &str) {
        let done = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(done.success());
    }

    pub(crate) fn ask(&self, words: &[&str]) -> String {
        let out =
            Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(words).output().unwrap();
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) async fn ready(&self) {
        eventually("the server answers", || async { self.ask(&["PING"]) == "PONG" }).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A port that nobody listens on at this moment.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < Duration::from_secs(20), "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
