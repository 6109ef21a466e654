//! A real redis-server on a free loopback port, ended when dropped.

use std::{
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Ports tried before a test gives up.
const PORTS: usize = 5;
/// Nothing is kept, unless a setting says otherwise.
const VOLATILE: [&str; 4] = ["--save", "", "--appendonly", "no"];

/// A running server.
pub struct Server {
    child: Child,
    port: u16,
    dir: PathBuf,
    /// What redis-cli needs to be let in.
    cli: Vec<String>,
}

impl Server {
    /// Starts one without persistence; on another port where the first was taken meanwhile.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one with settings of its own.
    pub fn start_with(settings: &[&str]) -> Self {
        let words = |port: &str, _: &Path| owned(&[&["--port", port], &VOLATILE[..], settings].concat());
        Self::tried(words, &[])
    }

    /// Starts one that speaks nothing but TLS; redis-cli is let in with the words of `cli`.
    pub(super) fn start_tls(settings: &[&str], cli: &[String]) -> Self {
        let words = |port: &str, _: &Path| {
            owned(&[&["--port", "0", "--tls-port", port], &VOLATILE[..], settings].concat())
        };
        Self::tried(words, cli)
    }

    /// Starts a Sentinel, which keeps what it learns in its own config.
    pub(super) fn sentinel(config: &str) -> Self {
        let words = |port: &str, dir: &Path| {
            let file = dir.join("sentinel.conf");
            std::fs::write(&file, config).unwrap();
            owned(&[file.to_str().unwrap(), "--sentinel", "--port", port])
        };
        Self::tried(words, &[])
    }

    fn tried(words: impl Fn(&str, &Path) -> Vec<String>, cli: &[String]) -> Self {
        let found = (0..PORTS).find_map(|_| {
            let port = free_port();
            let dir = std::env::temp_dir().join(format!("plexus-redis-{}-{port}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            Self::start_on(port, &words(&port.to_string(), &dir), dir, cli)
        });
        found.expect("redis-server finds a free port")
    }

    /// `None`: it ended, as somebody else has the port.
    fn start_on(port: u16, words: &[String], dir: PathBuf, cli: &[String]) -> Option<Self> {
        let mut command = Command::new("redis-server");
        command.args(words).args(["--bind", "127.0.0.1", "--dir"]).arg(&dir);
        let child = command
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed (the README says how the tests are run)");
        let mut server = Self { child, port, dir, cli: cli.to_vec() };
        let end = Instant::now() + Duration::from_secs(10);
        while !server.listens() {
            if server.child.try_wait().unwrap().is_some() {
                return None;
            }
            assert!(Instant::now() < end, "redis-server does not answer on port {port}");
            std::thread::yield_now();
        }
        server.is_ours().then_some(server)
    }

    /// Whether it is our own process that answers: another test may have had the port a moment before.
    fn is_ours(&self) -> bool {
        self.ask(&["INFO", "server"]).contains(&format!("process_id:{}\r", self.pid()))
    }

    /// Whether somebody else than ourselves answers: a connect to a free port of the ephemeral range can
    /// reach its own socket, and then takes the port from the server.
    fn listens(&self) -> bool {
        let socket = TcpStream::connect(("127.0.0.1", self.port));
        socket.is_ok_and(|s| s.local_addr().unwrap() != s.peer_addr().unwrap())
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Asks it by redis-cli.
    pub fn ask(&self, words: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &self.port.to_string()]).args(&self.cli).args(words);
        String::from_utf8_lossy(&command.output().unwrap().stdout).trim().to_owned()
    }

    /// Whether it is 7.2 or later.
    pub(super) fn knows_waitaof(&self) -> bool {
        self.ask(&["COMMAND", "INFO", "waitaof"]).contains("waitaof")
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// A port that nobody listens on at this moment.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
