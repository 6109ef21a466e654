//! The `plexus` binary as processes of their own, for what must really die.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::{Http, eventually, redis::free_port};

/// A running `plexus`; dropping it kills it.
pub struct Plexus {
    child: Child,
    /// Its one port (gateways and `up`).
    pub address: SocketAddr,
    /// Its admin port.
    pub admin: SocketAddr,
}

/// Where the binary is: beside this one, or beside the folder of the test binaries; built before them by
/// `make test` and `make bench`.
pub fn binary() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let found =
        own.ancestors().skip(1).take(2).map(|folder| folder.join("plexus")).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("plexus is not built beside {}: `make test` builds it", own.display()))
}

impl Plexus {
    /// Starts a role over a bus, on free ports, and waits until it is ready.
    pub async fn start(role: &str, bus: &str, settings: &[(&str, &str)]) -> Self {
        let (port, admin) = (free_port(), free_port());
        let mut command = Command::new(binary());
        command.args([role, "--bus", bus]);
        command.args(["--listen", &format!("127.0.0.1:{port}"), "--admin", &format!("127.0.0.1:{admin}")]);
        command.envs(settings.iter().copied());
        if std::env::var("PLEXUS__LOG").is_err() {
            command.env("PLEXUS__LOG", "warn");
        }
        Self::ready(command.stdout(Stdio::null()).spawn().unwrap(), port, admin).await
    }

    /// Waits until a process is ready.
    async fn ready(child: Child, port: u16, admin: u16) -> Self {
        let plexus = Self {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            admin: SocketAddr::from(([127, 0, 0, 1], admin)),
        };
        let health = Http::new(plexus.admin);
        eventually(Duration::from_secs(20), || async {
            let answer = health.get("/readyz").await?;
            anyhow::ensure!(answer.status == 200, "{}", String::from_utf8_lossy(&answer.body));
            Ok(())
        })
        .await;
        plexus
    }

    /// Starts a role within this process' bus that logs everything it can into a file.
    pub async fn logged(log: &std::path::Path, settings: &[(&str, &str)]) -> Self {
        let (port, admin) = (free_port(), free_port());
        let (out, err) = (std::fs::File::create(log).unwrap(), std::fs::File::options());
        let err = { err }.append(true).open(log).unwrap();
        let mut command = Command::new(binary());
        command.args(["up", "--listen", &format!("127.0.0.1:{port}")]);
        command.args(["--admin", &format!("127.0.0.1:{admin}")]);
        command.envs(settings.iter().copied()).env("PLEXUS__LOG", "trace,h2=trace");
        Self::ready(command.stdout(out).stderr(err).spawn().unwrap(), port, admin).await
    }

    /// Starts a worker of a fleet whose nodes may use loopback.
    pub async fn worker(bus: &str, id: &str) -> Self {
        Self::worker_with(bus, id, &[]).await
    }

    /// The same with settings of its own.
    pub async fn worker_with(bus: &str, id: &str, more: &[(&str, &str)]) -> Self {
        let key = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
        let settings = [
            ("PLEXUS__WORKER__ID", id),
            ("PLEXUS__WORKER__ALLOW_PRIVATE_ADDRESSES", "true"),
            ("PLEXUS__WORKER__KEYS__KEY", key),
        ];
        Self::start("worker", bus, &[&settings, more].concat()).await
    }

    /// Starts a gateway of a fleet.
    pub async fn gateway(bus: &str) -> Self {
        Self::start("gateway", bus, &[]).await
    }

    /// A client of its one port.
    pub fn client(&self) -> Http {
        Http::new(self.address)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGKILL and waits for the end.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM and answers the exit code.
    pub fn terminate(mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Plexus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
