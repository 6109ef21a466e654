//! The edge: rows 10 to 17. What a client costs the gateway in each dialect, beside axum alone, the
//! centrifuge library and Centrifugo.
//!
//! [`dialect`] writes what a client sends, to the byte, so that the client itself is cheap; [`h2`] its
//! HTTP/2. [`child`] has the servers that are children of this binary, [`rival`] those of others.
//! [`crowd`] is many readers at once. Then a file per group of rows: [`calls`] 10, [`idle`] 11 and 17,
//! [`fanout`] 12 and 13, [`tail`] 14, [`ends`] 15 and 16; [`rows`] has the rows themselves.

pub(crate) mod calls;
pub(crate) mod child;
mod crowd;
mod dialect;
pub(crate) mod ends;
pub(crate) mod fanout;
mod h2;
pub(crate) mod idle;
mod rival;
pub(crate) mod rows;
pub(crate) mod tail;

use std::net::SocketAddr;
use tokio::net::TcpStream;

/// The core of the gateway, or of its rival, where CPU is counted.
const ITS_CORE: usize = 1;
/// The core of everything else.
const OTHER_CORE: usize = 0;

/// What ends every payload, and is in nothing else that is read: readers count it.
const MARK: &[u8] = b"^^";

/// A message of so many bytes that says when it was made, and ends with [`MARK`].
fn payload(bytes: usize) -> Vec<u8> {
    let mut payload = crate::clock::payload(bytes);
    let at = payload.len() - MARK.len();
    payload[at..].copy_from_slice(MARK);
    payload
}

/// Opens a connection.
async fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    Ok(socket)
}
