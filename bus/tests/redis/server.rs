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
    /// What redis-cli needs to be let in.
    cli: Vec<String>,
}

impl Server {
    pub(crate) fn start(port: u16, more: &[&str]) -> Option<Self> {
        Self::spawn(port, &[&["--save", "", "--enable-debug-command", "local"], more].concat())
    }

    /// One that speaks nothing but TLS; redis-cli is let in with these words.
    pub(crate) fn start_tls(port: u16, more: &[String], cli: Vec<String>) -> Option<Self> {
        let at = port.to_string();
        let mut words = vec!["--save", "", "--tls-port", &at];
        words.extend(more.iter().map(String::as_str));
        let mut server = Self::spawn_at(None, port, &words)?;
        server.cli = cli;
        Some(server)
    }

    pub(crate) fn sentinel(port: u16, file: &std::path::Path) -> Option<Self> {
        Self::spawn(port, &[file.to_str().unwrap(), "--sentinel"])
    }

    fn spawn(port: u16, words: &[&str]) -> Option<Self> {
        Self::spawn_at(Some(port), port, words)
    }

    fn spawn_at(plain: Option<u16>, port: u16, words: &[&str]) -> Option<Self> {
        let dir = std::env::temp_dir().join(format!("plexus-bus-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let mut command = Command::new("redis-server");
        command.args(words).arg("--dir").arg(&dir);
        if let Some(plain) = plain {
            command.args(["--port", &plain.to_string()]);
        }
        let spawned = command.stdout(Stdio::null()).spawn();
        match spawned {
            Ok(child) => Some(Self { child, port, dir, cli: Vec::new() }),
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
        let out = Command::new("redis-cli")
            .args(["-p", &self.port.to_string()])
            .args(&self.cli)
            .args(words)
            .output()
            .unwrap();
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn bus_port(&self) -> String {
        self.ask(&["CONFIG", "GET", "cluster-port"]).lines().last().unwrap_or_default().to_owned()
    }

    pub(crate) async fn ready(&self) {
        let ours = format!("process_id:{}\r", self.child.id());
        eventually("our own server answers", || async { self.ask(&["INFO", "server"]).contains(&ours) })
            .await;
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

/// A Redis Cluster of one test: primaries, the first of them with a replica where asked for.
pub(crate) struct Cluster {
    pub(crate) servers: Vec<Server>,
}

/// What every server of a cluster is started with.
const CLUSTERED: [&str; 6] =
    ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-replica-validity-factor", "0"];

impl Cluster {
    pub(crate) async fn start(primaries: usize, replica: bool) -> Option<Self> {
        let servers = (0..primaries + usize::from(replica))
            .map(|_| {
                let bus = free_port().to_string();
                Server::start(free_port(), &[&CLUSTERED[..], &["--cluster-port", &bus]].concat())
            })
            .collect::<Option<Vec<_>>>()?;
        Some(Self::of(servers, primaries, replica).await)
    }

    /// Three primaries that speak nothing but TLS, among each other too.
    pub(crate) async fn start_tls(more: &[String], cli: Vec<String>) -> Option<Self> {
        let servers = (0..3)
            .map(|_| {
                let mut words: Vec<String> = CLUSTERED.map(str::to_owned).to_vec();
                words.extend(["--cluster-port".into(), free_port().to_string()]);
                words.extend(["--tls-cluster".into(), "yes".into()]);
                words.extend(more.iter().cloned());
                Server::start_tls(free_port(), &words, cli.clone())
            })
            .collect::<Option<Vec<_>>>()?;
        Some(Self::of(servers, 3, false).await)
    }

    async fn of(servers: Vec<Server>, primaries: usize, replica: bool) -> Self {
        for (at, server) in servers.iter().enumerate() {
            server.ready().await;
            server.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &(at + 1).to_string()]);
            if at < primaries {
                let first = (at * 16384 / primaries).to_string();
                let last = ((at + 1) * 16384 / primaries - 1).to_string();
                server.ask(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]);
            }
            let (port, bus) = (servers[0].port.to_string(), servers[0].bus_port());
            server.ask(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
        }
        let this = Self { servers };
        this.agrees(primaries).await;
        if replica {
            let id = this.servers[0].ask(&["CLUSTER", "MYID"]);
            let last = this.servers.last().unwrap();
            eventually("the replica knows its primary", || async {
                last.ask(&["CLUSTER", "REPLICATE", &id]) == "OK"
            })
            .await;
            eventually("the replica follows", || async {
                last.ask(&["INFO", "replication"]).contains("link_status:up")
                    && this.servers[1].ask(&["CLUSTER", "NODES"]).contains(" slave ")
            })
            .await;
        }
        this
    }

    async fn agrees(&self, primaries: usize) {
        eventually("all know each other", || async {
            self.servers.iter().all(|server| {
                let info = server.ask(&["CLUSTER", "INFO"]);
                info.contains("cluster_state:ok")
                    && info.contains(&format!("cluster_size:{primaries}"))
                    && info.contains(&format!("cluster_known_nodes:{}", self.servers.len()))
            })
        })
        .await;
    }

    pub(crate) fn url(&self) -> String {
        format!("redis-cluster://127.0.0.1:{}", self.servers[0].port)
    }

    pub(crate) fn slot(&self, key: &str) -> u16 {
        self.servers[0].ask(&["CLUSTER", "KEYSLOT", key]).parse().unwrap()
    }

    /// Moves one slot, key by key, as a shell would.
    pub(crate) fn move_slot(&self, slot: u16, from: usize, to: usize) -> Child {
        let (source, target) = (&self.servers[from], &self.servers[to]);
        let script = format!(
            "set -e; at() {{ redis-cli -p {0} \"$@\"; }}; to() {{ redis-cli -p {1} \"$@\"; }}
             source=$(at CLUSTER MYID); target=$(to CLUSTER MYID)
             to CLUSTER SETSLOT {slot} IMPORTING $source; at CLUSTER SETSLOT {slot} MIGRATING $target
             while key=$(at CLUSTER GETKEYSINSLOT {slot} 1) && [ -n \"$key\" ]; do
               at MIGRATE 127.0.0.1 {1} \"$key\" 0 2000; sleep 0.02; done
             to CLUSTER SETSLOT {slot} NODE $target; sleep 0.1; at CLUSTER SETSLOT {slot} NODE $target",
            source.port, target.port
        );
        Command::new("bash").args(["-c", &script]).stdout(Stdio::null()).spawn().unwrap()
    }

    /// Has redis-cli move slots, as an operator does.
    pub(crate) fn reshard(&self, from: usize, to: usize, slots: u16) -> Child {
        let id = |at: usize| self.servers[at].ask(&["CLUSTER", "MYID"]);
        Command::new("redis-cli")
            .args(["--cluster", "reshard", &format!("127.0.0.1:{}", self.servers[0].port)])
            .args(["--cluster-from", &id(from), "--cluster-to", &id(to)])
            .args(["--cluster-slots", &slots.to_string(), "--cluster-yes"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }
}
