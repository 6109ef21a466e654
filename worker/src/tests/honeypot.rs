//! Listeners on addresses that a node of a fleet must not dial.

use libp2p::Multiaddr;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::{
    net::{TcpListener, UdpSocket},
    task::JoinSet,
};

/// Listeners on loopback, and how many connections and packets came.
pub(crate) struct Honeypot {
    v4: u16,
    v6: u16,
    hits: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Honeypot {
    pub(crate) async fn new() -> Self {
        let (hits, mut tasks) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
        let mut ports = Vec::new();
        // 0.0.0.0 takes 127.0.0.1, 127.0.0.2 and the private addresses of this machine alike.
        for host in ["0.0.0.0", "[::1]"] {
            let (tcp, udp) = loop {
                let tcp = TcpListener::bind(format!("{host}:0")).await.unwrap();
                let port = tcp.local_addr().unwrap().port();
                if let Ok(udp) = UdpSocket::bind(format!("{host}:{port}")).await {
                    break (tcp, udp);
                }
            };
            ports.push(tcp.local_addr().unwrap().port());
            let count = Arc::clone(&hits);
            tasks.spawn(async move {
                loop {
                    drop(tcp.accept().await.unwrap());
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
            let count = Arc::clone(&hits);
            tasks.spawn(async move {
                let mut packet = [0; 2048];
                loop {
                    udp.recv_from(&mut packet).await.unwrap();
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Self { v4: ports[0], v6: ports[1], hits, _tasks: tasks }
    }

    pub(crate) fn hits(&self) -> usize {
        self.hits.load(Ordering::Relaxed)
    }

    /// Spellings of the listeners.
    pub(crate) fn addresses(&self) -> Vec<Multiaddr> {
        let mut hosts: Vec<_> =
            ["127.0.0.1", "127.0.0.2", "0.0.0.0"].iter().map(|ip| (format!("/ip4/{ip}"), self.v4)).collect();
        hosts.extend(private_address().map(|ip| (format!("/ip4/{ip}"), self.v4)));
        hosts.push(("/ip6/::1".to_owned(), self.v6));
        hosts.push(("/ip6/::ffff:127.0.0.1".to_owned(), self.v4));
        hosts.push(("/dns4/localhost".to_owned(), self.v4));
        hosts.push(("/dns/127.0.0.1".to_owned(), self.v4));
        hosts.push(("/ip4/8.8.8.8/tcp/4001/ip4/127.0.0.1".to_owned(), self.v4));
        let ways = |(host, port): (String, u16)| {
            [
                format!("{host}/tcp/{port}"),
                format!("{host}/tcp/{port}/ws"),
                format!("{host}/tcp/{port}/wss"),
                format!("{host}/udp/{port}/quic-v1"),
            ]
        };
        hosts.into_iter().flat_map(ways).map(|text| text.parse().unwrap()).collect()
    }
}

/// The address that this machine would send from, if it has one.
fn private_address() -> Option<std::net::IpAddr> {
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    probe.connect("10.255.255.255:9").ok()?;
    probe.local_addr().ok().map(|addr| addr.ip()).filter(|ip| !ip.is_unspecified())
}
