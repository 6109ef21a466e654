//! Real Redis on free loopback ports, ended when dropped: a server of one's own ([`Server`]), or a [`Store`] in
//! the form that the run asks for.

mod names;
mod papers;
mod server;

use names::Names;
pub use papers::Papers;
pub use server::{Server, free_port};

use plexus_bus::{Config, Tls};
use std::time::{Duration, Instant};

/// How Redis is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One server, and no users.
    Standalone,
    /// A primary, two replicas and three Sentinels.
    Sentinel,
    /// Three primaries.
    Cluster,
    /// One server that speaks nothing but TLS and asks for client certificates.
    Tls,
}

impl Form {
    /// What `PLEXUS_TEST_REDIS` names: `standalone` (also by default), `sentinel`, `cluster` or `tls`.
    pub fn of_the_run() -> Self {
        match std::env::var("PLEXUS_TEST_REDIS").as_deref() {
            Ok("standalone") | Err(_) => Self::Standalone,
            Ok("sentinel") => Self::Sentinel,
            Ok("cluster") => Self::Cluster,
            Ok("tls") => Self::Tls,
            Ok(other) => panic!("PLEXUS_TEST_REDIS is standalone, sentinel, cluster or tls, not {other:?}"),
        }
    }
}

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A gateway.
    Gateway,
    /// A worker, or both sides in one process.
    Worker,
}

/// A running Redis, with the users of docs/redis.md in every form but the first.
pub struct Store {
    form: Form,
    servers: Vec<Server>,
    sentinels: Vec<Server>,
    papers: Option<Papers>,
}

/// The lines of docs/redis.md that make the users.
pub fn users() -> Vec<Vec<String>> {
    rules(|line| line.contains(" reset on "))
}

/// The line of docs/redis.md that lets a worker wait for the disk, where the server knows how.
fn disk_rule() -> Vec<Vec<String>> {
    rules(|line| line.ends_with(" +waitaof"))
}

fn rules(wanted: impl Fn(&str) -> bool) -> Vec<Vec<String>> {
    let text = page();
    let lines = text.lines().filter(|line| line.starts_with("ACL SETUSER ") && wanted(line));
    lines.map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

/// Tells whether the table of docs/redis.md has this key.
pub fn is_named(key: &str) -> bool {
    Names::of(&page()).has(key)
}

/// docs/redis.md.
fn page() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/redis.md")).unwrap()
}

impl Store {
    /// Starts it in the form of the run.
    pub fn start() -> Self {
        Self::of(Form::of_the_run())
    }

    /// Starts it in this form.
    pub fn of(form: Form) -> Self {
        let mut store = Self { form, servers: Vec::new(), sentinels: Vec::new(), papers: None };
        match form {
            Form::Standalone => store.servers.push(Server::start()),
            Form::Sentinel => store.start_sentinel(),
            Form::Cluster => store.start_cluster(),
            Form::Tls => store.start_tls(),
        }
        if form != Form::Standalone {
            store.add_users();
        }
        store
    }

    fn start_sentinel(&mut self) {
        self.servers.push(Server::start_with(&["--repl-diskless-sync-delay", "0"]));
        let primary = self.servers[0].port().to_string();
        for _ in 0..2 {
            self.servers.push(Server::start_with(&["--replicaof", "127.0.0.1", &primary]));
        }
        let config = format!(
            "sentinel monitor main 127.0.0.1 {primary} 2\nsentinel down-after-milliseconds main 3000\n\
             sentinel failover-timeout main 10000\n"
        );
        self.sentinels.extend((0..3).map(|_| Server::sentinel(&config)));
        until("the replicas follow", || {
            self.servers[1..].iter().all(|s| s.ask(&["INFO", "replication"]).contains("link_status:up"))
        });
    }

    fn start_cluster(&mut self) {
        for at in 0..3 {
            let bus = free_port().to_string();
            let settings =
                ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port", &bus];
            let server = Server::start_with(&settings);
            server.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &(at + 1).to_string()]);
            let (first, last) = (at * 16_384 / 3, (at + 1) * 16_384 / 3 - 1);
            server.ask(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
            if let Some(first) = self.servers.first() {
                first.ask(&["CLUSTER", "MEET", "127.0.0.1", &server.port().to_string(), &bus]);
            }
            self.servers.push(server);
        }
        until("all servers agree", || {
            self.servers.iter().all(|server| {
                let info = server.ask(&["CLUSTER", "INFO"]);
                info.contains("cluster_state:ok") && info.contains("cluster_size:3")
            })
        });
    }

    fn start_tls(&mut self) {
        let papers = Papers::new();
        let [ca, server, server_key, client, client_key] =
            ["ca.crt", "server.crt", "server.key", "client.crt", "client.key"].map(|name| papers.text(name));
        let settings = ["--tls-ca-cert-file", &ca, "--tls-cert-file", &server, "--tls-key-file", &server_key];
        let cli = ["--tls", "--cacert", &ca, "--cert", &client, "--key", &client_key].map(str::to_owned);
        self.servers.push(Server::start_tls(&settings, &cli));
        self.papers = Some(papers);
    }

    fn add_users(&self) {
        for server in &self.servers {
            let disk = disk_rule().into_iter().filter(|_| server.knows_waitaof());
            for line in users().into_iter().chain(disk) {
                let words: Vec<&str> = line.iter().map(String::as_str).collect();
                assert_eq!(server.ask(&words), "OK", "{line:?}");
            }
        }
    }

    /// How it is set up.
    pub fn form(&self) -> Form {
        self.form
    }

    /// Has it append to files from now on; false where a publish cannot wait for that, before Redis 7.2.
    pub fn use_disk(&self) -> bool {
        for server in self.servers.iter().filter(|server| server.knows_waitaof()) {
            server.ask(&["CONFIG", "SET", "appendonly", "yes"]);
            until("it has begun a file", || {
                let info = server.ask(&["INFO", "persistence"]);
                ["aof_enabled:1", "aof_rewrite_in_progress:0"].iter().all(|sign| info.contains(sign))
            });
        }
        self.servers[0].knows_waitaof()
    }

    /// Its URL for a role.
    pub fn url(&self, role: Role) -> String {
        let user = match (self.form, role) {
            (Form::Standalone, _) => "",
            (_, Role::Gateway) => "gateway:gateway-password@",
            (_, Role::Worker) => "worker:worker-password@",
        };
        let first = format!("{user}127.0.0.1:{}", self.servers[0].port());
        match self.form {
            Form::Standalone => format!("redis://{first}"),
            Form::Tls => format!("rediss://{first}"),
            Form::Cluster => format!("redis-cluster://{first}"),
            Form::Sentinel => {
                let [one, two, three] = [0, 1, 2].map(|at| self.sentinels[at].port());
                let others = format!("&node=127.0.0.1:{two}&node=127.0.0.1:{three}");
                format!("redis-sentinel://{user}127.0.0.1:{one}?sentinelServiceName=main{others}")
            }
        }
    }

    /// What a part in this process opens.
    pub fn config(&self, role: Role) -> Config {
        let tls = self.papers.as_ref().map_or_else(Tls::default, |papers| Tls {
            ca_file: Some(papers.path("ca.crt")),
            certificate_file: Some(papers.path("client.crt")),
            key_file: Some(papers.path("client.key")),
        });
        Config { url: self.url(role), tls, loads_functions: role == Role::Worker, ..Config::default() }
    }

    /// What a process needs in its environment beside the URL.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let Some(papers) = &self.papers else { return Vec::new() };
        vec![
            ("PLEXUS__BUS__TLS__CA_FILE", papers.text("ca.crt")),
            ("PLEXUS__BUS__TLS__CERTIFICATE_FILE", papers.text("client.crt")),
            ("PLEXUS__BUS__TLS__KEY_FILE", papers.text("client.key")),
        ]
    }

    /// Keys that the table of docs/redis.md does not name.
    pub fn unnamed(&self) -> Vec<String> {
        let names = Names::of(&page());
        let listed = self.servers.iter().map(|server| server.ask(&["--no-raw", "KEYS", "*"]));
        let listed: Vec<String> = listed.collect();
        // One a line, numbered and in quotes.
        let keys = listed.iter().flat_map(|keys| keys.lines()).filter_map(|line| line.split_once(") \""));
        let keys = keys.map(|(_, key)| key.strip_suffix('"').unwrap_or(key));
        keys.filter(|key| !names.has(key)).map(str::to_owned).collect()
    }

    /// What it refused to its users since it began.
    pub fn denied(&self) -> Vec<String> {
        self.servers.iter().map(|server| server.ask(&["ACL", "LOG"])).filter(|log| !log.is_empty()).collect()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        assert_eq!(self.unnamed(), [""; 0], "docs/redis.md does not name a key");
        assert_eq!(self.denied(), [""; 0], "a user did what it may not");
    }
}

#[expect(clippy::disallowed_methods, reason = "nothing else runs before Redis does")]
fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
