//! TLS both ways, and credentials and addresses that change while the bus is in use.

use crate::{
    frame, node,
    server::{Cluster, Server, eventually, free_port},
};
use bytes::Bytes;
use plexus_bus::{
    Bus, Config, Error, Event, Key, Payload, Refusal, Subject, Tls, When,
    metrics::{Metrics, ReloadLabels},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// A folder with an authority and what it signed, gone with the test.
struct Papers(PathBuf);

impl Papers {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("plexus-papers-{}-{}", std::process::id(), free_port()));
        std::fs::create_dir_all(&dir).unwrap();
        let this = Self(dir);
        this.authority("ca", &["127.0.0.1", "localhost"]);
        this
    }

    /// Makes an authority, a server of these names and a client.
    fn authority(&self, name: &str, names: &[&str]) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap();
        self.write(&format!("{name}.crt"), &authority.pem());
        for (kind, names, purpose) in [
            ("server", names, ExtendedKeyUsagePurpose::ServerAuth),
            ("client", &["client"][..], ExtendedKeyUsagePurpose::ClientAuth),
        ] {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            let mut params = CertificateParams::new(names).unwrap();
            // Servers of a cluster are clients of each other.
            params.extended_key_usages = vec![purpose, ExtendedKeyUsagePurpose::ClientAuth];
            let own = KeyPair::generate().unwrap();
            let signed = params.signed_by(&own, &authority, &key).unwrap();
            self.write(&format!("{name}-{kind}.crt"), &signed.pem());
            self.write(&format!("{name}-{kind}.key"), &own.serialize_pem());
        }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        std::fs::write(self.0.join(name), text).unwrap();
        self.0.join(name)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// What a server of this authority is started with.
    fn server(&self, authority: &str) -> Vec<String> {
        let own = |what| self.path(&format!("{authority}-server.{what}"));
        let words = ["--tls-ca-cert-file", &self.path("ca.crt"), "--tls-auth-clients", "yes", "--port", "0"];
        let mut words = words.map(str::to_owned).to_vec();
        words.extend(["--tls-cert-file".into(), own("crt"), "--tls-key-file".into(), own("key")]);
        words
    }

    /// What redis-cli takes.
    fn cli(&self) -> Vec<String> {
        let (ca, crt, key) = (self.path("ca.crt"), self.path("ca-client.crt"), self.path("ca-client.key"));
        ["--tls".into(), "--cacert".into(), ca, "--cert".into(), crt, "--key".into(), key].to_vec()
    }

    fn tls(&self) -> Tls {
        Tls {
            ca_file: Some(self.0.join("ca.crt")),
            certificate_file: Some(self.0.join("ca-client.crt")),
            key_file: Some(self.0.join("ca-client.key")),
        }
    }
}

impl Drop for Papers {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn put(bus: &Bus) -> Result<Option<u64>, Error> {
    bus.put(Key::Sealed(node()), Bytes::new(), When::Always, None).await
}

#[tokio::test]
async fn tls_is_verified_both_ways() {
    let papers = Papers::new();
    let Some(server) = Server::start_tls(free_port(), &papers.server("ca"), papers.cli()) else { return };
    server.ready().await;
    let url = format!("rediss://127.0.0.1:{}", server.port);
    let open = |tls: Tls| {
        let url = url.clone();
        async move { Bus::open(&Config { url, tls, ..Config::default() }).await }
    };
    let bus = open(papers.tls()).await.unwrap();
    let mut live = bus.subscribe(Subject::Anyone).await.unwrap();
    assert_eq!(put(&bus).await, Ok(Some(1)));
    assert_eq!(bus.publish(Subject::Anyone, Payload::encoded("x")).await, Ok(1));
    assert!(matches!(frame(&mut live).await, Event::Frame(_)));

    let anonymous = Tls { certificate_file: None, key_file: None, ..papers.tls() };
    // In TLS 1.3 a server says so after the handshake, and may close before that is read.
    let untrusted = open(anonymous).await.err();
    let refused = Some(Error::Unreachable { sent: false });
    assert!(matches!(untrusted, Some(Error::Tls(_))) || untrusted == refused, "{untrusted:?}");
    let public = open(Tls { ca_file: None, ..papers.tls() }).await.err();
    assert!(matches!(&public, Some(Error::Tls(why)) if why.contains("UnknownIssuer")), "{public:?}");
    let half = open(Tls { key_file: None, ..papers.tls() }).await.err();
    assert!(matches!(half, Some(Error::Invalid(_))), "{half:?}");
    let plain = Config { url: url.replace("rediss", "redis"), tls: papers.tls(), ..Config::default() };
    let plain = Bus::open(&plain).await.err();
    assert!(matches!(&plain, Some(Error::Invalid(what)) if what.starts_with("tls: ")), "{plain:?}");

    // A server that goes by another name than that of the address.
    papers.authority("ca", &["redis.example"]);
    let other = Server::start_tls(free_port(), &papers.server("ca"), papers.cli()).unwrap();
    eventually("it listens", || async { std::net::TcpStream::connect(("127.0.0.1", other.port)).is_ok() })
        .await;
    let url = format!("rediss://127.0.0.1:{}", other.port);
    let named = Bus::open(&Config { url, tls: papers.tls(), ..Config::default() }).await.err();
    assert!(matches!(&named, Some(Error::Tls(why)) if why.contains("NotValidForName")), "{named:?}");
}

#[tokio::test]
async fn a_cluster_speaks_tls_too() {
    let papers = Papers::new();
    let Some(cluster) = Cluster::start_tls(&papers.server("ca"), papers.cli()).await else { return };
    let url = cluster.url().replace("redis-cluster", "rediss-cluster");
    let bus = Bus::open(&Config { url, tls: papers.tls(), ..Config::default() }).await.unwrap();
    assert_eq!(put(&bus).await, Ok(Some(1)));
    assert!(bus.healthy());
}

fn reloads(metrics: &Metrics, outcome: &'static str) -> u64 {
    metrics.reloads.get_or_create(&ReloadLabels { outcome }).get()
}

fn quickly(url_file: &Path, password_file: Option<PathBuf>) -> Config {
    let url_file = Some(url_file.to_owned());
    Config { url_file, password_file, reload_interval: Duration::from_millis(50), ..Config::default() }
}

#[tokio::test]
async fn a_changed_password_is_taken_without_a_restart() {
    let papers = Papers::new();
    let Some(server) = Server::start(free_port(), &[]) else { return };
    server.ready().await;
    server.ask(&["ACL", "SETUSER", "app", "on", ">one", "~*", "&*", "+@all"]);
    let url = papers.write("url", &format!("redis://app@127.0.0.1:{}\n", server.port));
    let password = papers.write("password", "one\n");
    let bus = Bus::open(&quickly(&url, Some(password))).await.unwrap();
    let mut live = bus.subscribe(Subject::Anyone).await.unwrap();

    // One that the server does not know yet changes nothing, and is told once.
    papers.write("password", "two");
    eventually("it is refused", || async { reloads(bus.metrics(), "refused") == 1 }).await;
    assert_eq!(put(&bus).await, Ok(Some(1)));
    server.ask(&["ACL", "SETUSER", "app", ">two"]);
    eventually("it is taken", || async { reloads(bus.metrics(), "taken") == 1 }).await;
    assert_eq!(reloads(bus.metrics(), "refused"), 1);
    assert!(matches!(frame(&mut live).await, Event::Restored));
    eventually("the older connections are closed", || async {
        server.ask(&["CLIENT", "LIST", "TYPE", "pubsub"]).lines().count() == 1
    })
    .await;
    server.ask(&["ACL", "SETUSER", "app", "<one"]);
    server.ask(&["CLIENT", "KILL", "USER", "app"]);
    eventually("the new one lets in", || async { put(&bus).await.is_ok() && bus.healthy() }).await;
    assert_eq!(bus.publish(Subject::Anyone, Payload::encoded("x")).await, Ok(1));

    papers.write("password", "three");
    eventually("it is refused", || async { reloads(bus.metrics(), "refused") == 2 }).await;
    let wrong = Bus::open(&quickly(&url, Some(papers.0.join("password")))).await.err();
    assert_eq!(wrong, Some(Error::Refused(Refusal::NoAuth)));
}

#[tokio::test]
async fn a_changed_address_is_followed() {
    let papers = Papers::new();
    let Some(one) = Server::start(free_port(), &[]) else { return };
    let two = Server::start(free_port(), &[]).unwrap();
    one.ready().await;
    two.ready().await;
    let url = papers.write("url", &format!("redis://127.0.0.1:{}", one.port));
    let bus = Bus::open(&quickly(&url, None)).await.unwrap();
    let mut live = bus.subscribe(Subject::Anyone).await.unwrap();
    put(&bus).await.unwrap();
    papers.write("url", "memory:");
    eventually("it is refused", || async { reloads(bus.metrics(), "refused") == 1 }).await;
    papers.write("url", &format!("redis://127.0.0.1:{}", two.port));
    eventually("it is taken", || async { reloads(bus.metrics(), "taken") == 1 }).await;
    assert!(matches!(frame(&mut live).await, Event::Restored));
    assert_eq!(put(&bus).await, Ok(Some(1)), "at the other server");
    assert_eq!(two.ask(&["DBSIZE"]), "1");
    assert_eq!(bus.publish(Subject::Anyone, Payload::encoded("x")).await, Ok(1));
}
