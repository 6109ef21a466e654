//! TLS on the port, spoken by a real client with certificates made for the occasion.

use crate::{Server, client::Connection, eventually};
use plexus_gateway::{
    config::{ClientCertificates, Config},
    metrics::{ByOutcome, ByReload, Handshake, Reload},
};
use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName},
    version::{TLS12, TLS13},
};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

const TEXT: (&str, &str) = ("content-type", "text/plain");
const MESSAGES: &str = "/v1/topics/demo/messages";
const BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

/// A certificate and its key.
struct Identity(Certificate, KeyPair);

impl Identity {
    /// An authority that signs itself.
    fn authority() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(params.self_signed(&key).unwrap(), key)
    }

    /// A certificate for this machine.
    fn sign(&self) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".into()]).unwrap();
        Self(params.signed_by(&key, &self.0, &self.1).unwrap(), key)
    }
}

/// Certificates in files that go with it.
struct Files(PathBuf);

impl Files {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("plexus-tls-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, identity: &Identity) {
        self.put("cert.pem", identity.0.pem());
        self.put("key.pem", identity.1.serialize_pem());
    }

    /// Puts a whole file in the place of another.
    fn put(&self, name: &str, text: String) {
        std::fs::write(self.path("new"), text).unwrap();
        std::fs::rename(self.path("new"), self.path(name)).unwrap();
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(Path::new(&self.0));
    }
}

/// An edge with TLS and the authority behind it.
async fn server(change: impl FnOnce(&mut Config, &Files)) -> (Server, Identity, Files) {
    let (authority, files) = (Identity::authority(), Files::new());
    files.write(&authority.sign());
    let server = Server::with(|c| {
        c.tls.certificate = Some(files.path("cert.pem"));
        c.tls.key = Some(files.path("key.pem"));
        c.tls.reload_interval = Duration::from_millis(20);
        change(c, &files);
    });
    (server.await, authority, files)
}

/// A client that trusts the authority and maybe has a certificate.
fn client(
    trusts: &Identity,
    shows: Option<&Identity>,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&str],
) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(trusts.0.der().clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match shows {
        None => builder.with_no_client_auth(),
        Some(Identity(certificate, key)) => {
            let key = PrivatePkcs8KeyDer::from(key.serialize_der());
            builder.with_client_auth_cert(vec![certificate.der().clone()], key.into()).unwrap()
        }
    };
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

async fn dial(addr: SocketAddr, client: &TlsConnector) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(addr).await.unwrap();
    client.connect(ServerName::try_from("localhost").unwrap(), socket).await
}

fn leaf(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

/// With TLS 1.3 a client is done before the server has judged it: only reading tells.
async fn is_closed(stream: std::io::Result<TlsStream<TcpStream>>) -> bool {
    let Ok(mut stream) = stream else { return true };
    let _ = stream.write_all(b"GET /v1/topics HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let read = timeout(Duration::from_secs(5), stream.read(&mut [0; 1])).await.expect("an end");
    !matches!(read, Ok(1))
}

async fn counted(server: &Server, outcome: Handshake) {
    let counter = || server.metrics.handshakes.get_or_create(&ByOutcome { outcome }).get();
    eventually(&format!("{outcome:?} is counted"), || counter() == 1).await;
}

async fn publishes(server: &Server, mut connection: Connection) {
    for text in ["one", "two"] {
        let answer = connection.send(server, "POST", MESSAGES, &[TEXT], text).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

#[tokio::test]
async fn both_versions_of_http_are_spoken_over_both_of_tls() {
    let (server, authority, _files) = server(|_, _| {}).await;
    for version in BOTH {
        for (alpn, wanted) in [
            (&["h2", "http/1.1"][..], Some("h2")),
            (&["http/1.1"], Some("http/1.1")),
            (&["http/1.1", "h2"], Some("h2")),
            (&[], None),
        ] {
            let stream = dial(server.addr, &client(&authority, None, &[version], alpn)).await.unwrap();
            let agreed = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
            assert_eq!(agreed.as_deref(), wanted.map(str::as_bytes), "{alpn:?}");
            match wanted {
                Some("h2") => publishes(&server, Connection::two(stream).await).await,
                _ => publishes(&server, Connection::one(stream).await).await,
            }
        }
        // Without ALPN a client may know that HTTP/2 is spoken.
        let stream = dial(server.addr, &client(&authority, None, &[version], &[])).await.unwrap();
        publishes(&server, Connection::two(stream).await).await;
    }
}

#[tokio::test]
async fn a_session_and_a_drain_work_over_tls() {
    let (mut server, authority, _files) = server(|_, _| {}).await;
    let mut stream = dial(server.addr, &client(&authority, None, &BOTH, &["http/1.1"])).await.unwrap();
    let handshake = "GET /v1/ws HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(handshake.as_bytes()).await.unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 101");
    // A connection that has not shaken hands keeps nobody.
    let _silent = TcpStream::connect(server.addr).await.unwrap();
    server.stop.cancel();
    let closed = async {
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains("DRAINING") {
            assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0, "it is told why");
        }
        stream.shutdown().await
    };
    timeout(Duration::from_secs(5), closed).await.expect("it is closed").unwrap();
    timeout(Duration::from_secs(4), server.ended()).await.expect("nothing keeps it");
}

#[tokio::test]
async fn without_leave_the_port_speaks_nothing_but_tls() {
    let (server, _, _files) = server(|_, _| {}).await;
    let mut socket = TcpStream::connect(server.addr).await.unwrap();
    socket.write_all(b"GET /v1/topics HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let read = timeout(Duration::from_secs(5), socket.read(&mut [0; 1])).await.expect("an end");
    assert!(!matches!(read, Ok(1)), "there is no answer");
    counted(&server, Handshake::Plaintext).await;
}

#[tokio::test]
async fn with_leave_the_first_byte_tells_tls_from_plaintext() {
    let (server, authority, _files) = server(|c, _| c.tls.plaintext = true).await;
    publishes(&server, server.http1().await).await;
    publishes(&server, server.http2().await).await;
    let stream = dial(server.addr, &client(&authority, None, &BOTH, &["h2"])).await.unwrap();
    publishes(&server, Connection::two(stream).await).await;
    counted(&server, Handshake::Done).await;
}

#[tokio::test]
async fn tls_may_have_a_port_of_its_own() {
    let (server, authority, _files) = server(|c, _| c.tls.listen = Some("127.0.0.1:0".into())).await;
    publishes(&server, server.http1().await).await;
    let tls = server.tls.unwrap();
    let stream = dial(tls, &client(&authority, None, &BOTH, &["h2"])).await.unwrap();
    publishes(&server, Connection::two(stream).await).await;
    assert!(dial(server.addr, &client(&authority, None, &BOTH, &["h2"])).await.is_err());
}

#[tokio::test]
async fn a_changed_certificate_holds_for_new_connections_and_open_ones_stay() {
    let (server, authority, files) = server(|_, _| {}).await;
    let one = ["http/1.1"];
    let stream = dial(server.addr, &client(&authority, None, &BOTH, &one)).await.unwrap();
    let old = leaf(&stream);
    let mut open = Connection::one(stream).await;
    assert_eq!(open.send(&server, "GET", "/v1/topics", &[], "").await.status, 200);

    // The certificate alone does not fit the key that is there: the one before still holds.
    let next = authority.sign();
    files.put("cert.pem", next.0.pem());
    let reloads = |outcome| server.metrics.certificates.get_or_create(&ByReload { outcome }).get();
    eventually("the half change is refused", || reloads(Reload::Refused) == 1).await;
    let stream = dial(server.addr, &client(&authority, None, &BOTH, &one)).await.unwrap();
    assert_eq!(leaf(&stream), old);

    files.put("key.pem", next.1.serialize_pem());
    eventually("the change is taken", || reloads(Reload::Taken) == 1).await;
    let stream = dial(server.addr, &client(&authority, None, &BOTH, &one)).await.unwrap();
    assert_eq!(leaf(&stream), *next.0.der());
    assert_eq!(open.send(&server, "GET", "/v1/topics", &[], "").await.status, 200);
    assert_eq!(reloads(Reload::Refused), 1, "what cannot be used is told once");
}

#[tokio::test]
async fn a_client_must_show_a_good_certificate_where_one_is_required() {
    let clients = Identity::authority();
    let pem = clients.0.pem();
    let (server, authority, _files) = server(|c, files| {
        files.put("ca.pem", pem);
        c.tls.client_ca = Some(files.path("ca.pem"));
        c.tls.client_certificates = ClientCertificates::Require;
    })
    .await;
    let alpn = ["http/1.1"];
    let none = dial(server.addr, &client(&authority, None, &BOTH, &alpn)).await;
    assert!(is_closed(none).await);
    counted(&server, Handshake::NoCertificate).await;
    let foreign = Identity::authority().sign();
    let bad = dial(server.addr, &client(&authority, Some(&foreign), &BOTH, &alpn)).await;
    assert!(is_closed(bad).await);
    counted(&server, Handshake::BadCertificate).await;
    let good = dial(server.addr, &client(&authority, Some(&clients.sign()), &BOTH, &alpn)).await.unwrap();
    publishes(&server, Connection::one(good).await).await;
    assert!(server.toy.clients.lock().unwrap().iter().all(|(_, certified)| *certified));
}

#[tokio::test]
async fn a_client_may_come_without_a_certificate_where_one_is_only_requested() {
    let clients = Identity::authority();
    let pem = clients.0.pem();
    let (server, authority, _files) = server(|c, files| {
        files.put("ca.pem", pem);
        c.tls.client_ca = Some(files.path("ca.pem"));
        c.tls.client_certificates = ClientCertificates::Request;
    })
    .await;
    let none = dial(server.addr, &client(&authority, None, &BOTH, &[])).await.unwrap();
    publishes(&server, Connection::one(none).await).await;
    let good = dial(server.addr, &client(&authority, Some(&clients.sign()), &BOTH, &[])).await.unwrap();
    publishes(&server, Connection::one(good).await).await;
    let seen: Vec<_> = server.toy.clients.lock().unwrap().iter().map(|(_, c)| *c).collect();
    assert_eq!(seen, [false, false, true, true]);
    let foreign = Identity::authority().sign();
    assert!(is_closed(dial(server.addr, &client(&authority, Some(&foreign), &BOTH, &[])).await).await);
}

#[tokio::test]
async fn a_handshake_that_fails_is_counted_by_why() {
    let (server, authority, _files) = server(|c, _| {
        c.limits.first_byte_timeout = Duration::from_millis(200);
        c.limits.handshake_timeout = Duration::from_millis(200);
    })
    .await;
    let stranger = Identity::authority();
    assert!(dial(server.addr, &client(&stranger, None, &BOTH, &[])).await.is_err());
    counted(&server, Handshake::Refused).await;
    assert!(dial(server.addr, &client(&authority, None, &BOTH, &["spdy/3"])).await.is_err());
    counted(&server, Handshake::Incompatible).await;
    for (bytes, outcome) in
        [(&b"\x16\x03\x01\x00\x05hello"[..], Handshake::Malformed), (b"\x16\x03\x01", Handshake::Timeout)]
    {
        let mut socket = TcpStream::connect(server.addr).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        let mut rest = Vec::new();
        let _ = timeout(Duration::from_secs(5), socket.read_to_end(&mut rest)).await.expect("an end");
        counted(&server, outcome).await;
    }
    drop(TcpStream::connect(server.addr).await.unwrap());
    counted(&server, Handshake::Gone).await;
    eventually("no connection is left", || server.metrics.connections.get() == 0).await;
}
