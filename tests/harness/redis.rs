//! A real redis-server on a free loopback port, ended when dropped.

use std::{
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Ports tried before a test gives up.
const PORTS: usize = 5;

/// A running server.
pub struct Server {
    child: Child,
    port: u16,
    dir: PathBuf,
}

impl Server {
    /// Starts one without persistence; on another port where the first was taken meanwhile.
    pub fn start() -> Self {
        (0..PORTS).find_map(|_| Self::start_on(free_port())).expect("redis-server finds a free port")
    }

    /// `None`: it ended, as somebody else has the port.
    fn start_on(port: u16) -> Option<Self> {
        let dir = std::env::temp_dir().join(format!("plexus-redis-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(&dir)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed (the README says how the tests are run)");
        let mut server = Self { child, port, dir };
        let end = Instant::now() + Duration::from_secs(10);
        while !server.listens() {
            if server.child.try_wait().unwrap().is_some() {
                return None;
            }
            assert!(Instant::now() < end, "redis-server does not answer on port {port}");
            std::thread::yield_now();
        }
        Some(server)
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

/// A port that nobody listens on at this moment.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
