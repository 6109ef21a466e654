//! Who is believed about the client's address, over real sockets.

use crate::{Server, client::Connection, eventually};
use plexus_gateway::{
    config::ForwardedHeader,
    metrics::{ByOutcome, Handshake},
};
use std::{net::IpAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const TEXT: (&str, &str) = ("content-type", "text/plain");
const MESSAGES: &str = "/v1/topics/demo/messages";

/// A PROXY protocol v2 header of 198.51.100.1, with an extension behind it.
fn proxy() -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x10".to_vec();
    header.extend([198, 51, 100, 1, 127, 0, 0, 1, 0x12, 0x67, 0x1f, 0x90]);
    header.extend([4, 0, 1, 0]);
    header
}

async fn dial(server: &Server, first: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(server.addr).await.unwrap();
    socket.write_all(first).await.unwrap();
    socket
}

/// Who the service saw last.
fn client(server: &Server) -> String {
    server.toy.clients.lock().unwrap().last().map(|(ip, _)| IpAddr::to_string(ip)).unwrap_or_default()
}

async fn is_closed(mut socket: TcpStream) -> bool {
    let _ = socket.write_all(b"GET /v1/topics HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let read = timeout(Duration::from_secs(5), socket.read(&mut [0; 1])).await.expect("an end");
    !matches!(read, Ok(1))
}

#[tokio::test]
async fn a_forwarder_that_is_named_says_who_the_client_is() {
    let server = Server::with(|c| c.forwarders.proxy_protocol = vec!["127.0.0.0/8".into()]).await;
    let mut one = Connection::one(dial(&server, &proxy()).await).await;
    assert_eq!(one.send(&server, "POST", MESSAGES, &[TEXT], "x").await.status, 200);
    assert_eq!(client(&server), "198.51.100.1");
    let mut two = Connection::two(dial(&server, &proxy()).await).await;
    assert_eq!(two.send(&server, "POST", MESSAGES, &[TEXT], "x").await.status, 200);
    assert_eq!(client(&server), "198.51.100.1");
    // It also looks by itself whether the gateway lives.
    let own = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
    let mut own = Connection::one(dial(&server, own).await).await;
    assert_eq!(own.send(&server, "POST", MESSAGES, &[TEXT], "x").await.status, 200);
    assert_eq!(client(&server), "127.0.0.1");
}

#[tokio::test]
async fn a_forwarders_connection_without_a_good_header_is_closed() {
    let server = Server::with(|c| {
        c.forwarders.proxy_protocol = vec!["127.0.0.1".into()];
        c.limits.first_byte_timeout = Duration::from_millis(300);
    })
    .await;
    let mut datagram = proxy();
    datagram[13] = 0x12;
    let mut short = proxy();
    short[15] = 4;
    let bad: [&[u8]; 4] = [b"", b"PROXY TCP4 198.51.100.1 127.0.0.1 1 2\r\n", &datagram, &short];
    for first in bad {
        assert!(is_closed(dial(&server, first).await).await, "{first:?}");
    }
    let count = |outcome| server.metrics.handshakes.get_or_create(&ByOutcome { outcome }).get();
    eventually("they are counted", || count(Handshake::ProxyHeader) == 4).await;
    let mut socket = dial(&server, &proxy()[..20]).await;
    let read = timeout(Duration::from_secs(5), socket.read(&mut [0; 1])).await.expect("an end");
    assert!(!matches!(read, Ok(1)));
    eventually("the slow one is counted", || count(Handshake::Timeout) == 1).await;
}

#[tokio::test]
async fn nobody_else_is_believed() {
    let server = Server::with(|c| {
        c.forwarders.proxy_protocol = vec!["192.0.2.0/24".into()];
        c.forwarders.trusted = vec!["192.0.2.0/24".into()];
    })
    .await;
    assert!(is_closed(dial(&server, &proxy()).await).await);
    let claims = [TEXT, ("x-forwarded-for", "198.51.100.1"), ("forwarded", "for=198.51.100.1")];
    for mut connection in [server.http1().await, server.http2().await] {
        assert_eq!(connection.send(&server, "POST", MESSAGES, &claims, "x").await.status, 200);
        assert_eq!(client(&server), "127.0.0.1");
    }
}

#[tokio::test]
async fn a_trusted_proxy_names_the_client_in_the_one_header_that_was_agreed() {
    for (header, wanted) in
        [(ForwardedHeader::XForwardedFor, "198.51.100.1"), (ForwardedHeader::Forwarded, "2001:db8::1")]
    {
        let server = Server::with(|c| {
            c.forwarders.trusted = vec!["127.0.0.1".into()];
            c.forwarders.header = header;
        })
        .await;
        let claims = [
            TEXT,
            ("x-forwarded-for", "203.0.113.1, 198.51.100.1"),
            ("forwarded", "for=203.0.113.1, for=\"[2001:db8::1]:4711\";proto=https"),
        ];
        assert_eq!(server.send("POST", MESSAGES, &claims, "x").await.status, 200);
        assert_eq!(client(&server), wanted);
    }
}
