//! A real Redis server for one test: on a free loopback port, without persistence, gone with its
//! [`Server`], and also when the test process dies.

use std::{
    io,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

/// A running `redis-server`.
pub(crate) struct Server {
    port: u16,
    pid: String,
    dir: PathBuf,
    /// A shell that kills the server once its standard input is closed.
    keeper: Child,
}

impl Server {
    /// Starts one; `None` where there is no `redis-server` on the path.
    pub(crate) async fn start() -> Option<Self> {
        let known = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status();
        known.ok().filter(|status| status.success())?;
        for _ in 0..5 {
            if let Some(server) = Self::try_start().await {
                return Some(server);
            }
        }
        panic!("redis-server does not start");
    }

    async fn try_start() -> Option<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let dir = std::env::temp_dir().join(format!("plexus-bus-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&dir).unwrap();
        let keeper = Command::new("sh")
            .args(["-c", "redis-server \"$@\" & read -r _; kill -9 $!", "sh"])
            .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "no"])
            .args(["--enable-debug-command", "local", "--dir", dir.to_str().unwrap()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = Self { port, pid: String::new(), dir, keeper };
        let patience = Instant::now() + Duration::from_secs(5);
        while Instant::now() < patience {
            if let Ok(info) = server.say(&["INFO", "server"]).await {
                server.pid = info.lines().find_map(|l| l.strip_prefix("process_id:"))?.trim().to_owned();
                let told = server.say(&["CONFIG", "GET", "dir"]).await.ok()?;
                // Else somebody else got the port first.
                return told.ends_with(server.dir.file_name()?.to_str()?).then_some(server);
            }
            sleep(Duration::from_millis(10)).await;
        }
        None
    }

    /// Where it listens, for [`plexus_bus::Config::url`].
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Sends one command on a connection of its own; the answer's strings, one a line.
    pub(crate) async fn say(&self, command: &[&str]) -> io::Result<String> {
        let said = async {
            let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", self.port)).await?);
            let mut bytes = format!("*{}\r\n", command.len());
            for word in command {
                bytes += &format!("${}\r\n{word}\r\n", word.len());
            }
            stream.write_all(bytes.as_bytes()).await?;
            answer(&mut stream).await
        };
        timeout(Duration::from_secs(2), said).await?
    }

    /// Gives it another replication id: what a promotion or a restart shows to the scripts.
    pub(crate) async fn turn_era(&self) {
        assert_eq!(self.say(&["DEBUG", "CHANGE-REPL-ID"]).await.unwrap(), "OK");
    }

    /// Stops it, as a machine that stands still.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    /// Ends it at once.
    pub(crate) fn kill(&self) {
        self.signal("-KILL");
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.pid]).stderr(Stdio::null()).status();
        assert!(status.unwrap().success(), "kill {signal} {}", self.pid);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

async fn answer(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut out = Vec::new();
    let mut pending = 1;
    while pending > 0 {
        pending -= 1;
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (kind, rest) = line.trim_end().split_at(1);
        match kind {
            "-" => return Err(io::Error::other(rest.to_owned())),
            "*" => pending += rest.parse::<usize>().unwrap_or(0),
            "$" if rest != "-1" => {
                let mut bytes = vec![0; rest.parse::<usize>().map_err(io::Error::other)? + 2];
                stream.read_exact(&mut bytes).await?;
                out.push(String::from_utf8_lossy(&bytes).trim_end().to_owned());
            }
            _ => out.push(rest.to_owned()),
        }
    }
    Ok(out.join("\n"))
}
