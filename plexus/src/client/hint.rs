//! A word more where a gateway cannot be spoken to: its port may speak TLS where the address says `http`, or
//! the reverse. Asked only once the call has failed.

use hyper::Uri;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Time for the whole look.
const PATIENCE: Duration = Duration::from_secs(2);
/// The begin of a TLS handshake, which a server of TLS refuses by a record of its own.
const HELLO: &[u8] = &[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0];
/// A request that a server without TLS answers.
const REQUEST: &[u8] = b"HEAD / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

/// Says what the scheme of the address should be, if it is the wrong one.
pub(crate) async fn scheme(url: &str) -> Option<&'static str> {
    let uri: Uri = url.parse().ok()?;
    let secure = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let look = async {
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
        let mut socket = TcpStream::connect((host, port)).await.ok()?;
        socket.write_all(if secure { REQUEST } else { HELLO }).await.ok()?;
        socket.read_u8().await.ok()
    };
    match (timeout(PATIENCE, look).await.ok()??, secure) {
        // An alert or a handshake; `HTTP/1.1`.
        (0x15 | 0x16, false) => Some("the port speaks TLS: try https://"),
        (b'H', true) => Some("the port speaks no TLS: try http://"),
        _ => None,
    }
}
