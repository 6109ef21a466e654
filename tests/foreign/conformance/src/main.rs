//! The gateway's own edge with the services of public suites on it: the same listener, guard, trunk and
//! dialects, other services. The Connect suite starts it once per kind of server and says what it wants
//! on stdin; `plexus-conformance ADDRESS [MESSAGE_BYTES_MAX]` serves the same to every other suite.

mod connect;
mod interop;

use anyhow::{Context, Result};
use connect::v1::{ServerCompatRequest, ServerCompatResponse, TlsCreds};
use plexus_gateway::{
    config::{ClientCertificates, Config, Tls},
    edge::{Edge, Served, Services},
    metrics::Metrics,
    resume::Tokens,
};
use prost::Message;
use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;

/// What is served, for every dialect and for reflection.
const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));

/// Bytes of a word on stdin at most.
const WORD_MAX: u32 = 1 << 20;

#[tokio::main]
async fn main() -> Result<()> {
    match std::env::args().nth(1) {
        Some(listen) => {
            let message_bytes_max = std::env::args().nth(2).map_or(Ok(0), |max| max.parse())?;
            serve(config(listen, message_bytes_max), |at| Ok(writeln!(io::stdout(), "{at}")?)).await
        }
        None => {
            let asked = ServerCompatRequest::decode(&*read(io::stdin())?)?;
            let mut config = config("127.0.0.1:0".into(), asked.message_receive_limit);
            let creds = asked.server_creds.filter(|_| asked.use_tls).unwrap_or_default();
            let pem_cert = creds.cert.clone();
            let files = asked.use_tls.then(|| Files::new(&creds, &asked.client_tls_cert)).transpose()?;
            config.tls = files.as_ref().map(Files::tls).unwrap_or_default();
            serve(config, |at| {
                let (host, port) = (at.ip().to_string(), at.port().into());
                write(io::stdout(), &ServerCompatResponse { host, port, pem_cert })
            })
            .await
        }
    }
}

/// What the suite gives for TLS, in files that go with it: a gateway reads nothing else.
struct Files {
    folder: PathBuf,
    /// Whether there are clients with certificates.
    asks: bool,
}

impl Files {
    fn new(creds: &TlsCreds, client: &[u8]) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("plexus-conformance-{}", std::process::id()));
        std::fs::create_dir(&folder)?;
        let files = Self { folder, asks: !client.is_empty() };
        for (name, pem) in [("cert.pem", &creds.cert[..]), ("key.pem", &creds.key), ("ca.pem", client)] {
            std::fs::write(files.folder.join(name), pem)?;
        }
        Ok(files)
    }

    fn tls(&self) -> Tls {
        let path = |name| Some(self.folder.join(name));
        let asks = ClientCertificates::Require;
        Tls {
            certificate: path("cert.pem"),
            key: path("key.pem"),
            client_certificates: if self.asks { asks } else { ClientCertificates::Off },
            client_ca: path("ca.pem").filter(|_| self.asks),
            ..Tls::default()
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The defaults, but for where to listen and how large a message may be.
fn config(listen: String, message_bytes_max: u32) -> Config {
    let mut config = Config { listen, drain: Duration::from_secs(1), ..Config::default() };
    // A call that brings no deadline gets one that no call of a suite asks for.
    config.limits.call_timeout = connect::NO_DEADLINE;
    config.limits.call_timeout_max = connect::NO_DEADLINE;
    if message_bytes_max > 0 {
        config.limits.message_bytes_max = message_bytes_max as usize;
        config.limits.body_bytes_max = message_bytes_max as usize;
    }
    config
}

async fn serve(config: Config, tell: impl FnOnce(SocketAddr) -> Result<()>) -> Result<()> {
    let most = config.limits.message_bytes_max;
    // As the gateway sets up its own.
    macro_rules! served {
        ($server:expr) => {
            $server
                .max_decoding_message_size(most)
                .accept_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Gzip)
        };
    }
    let routes =
        Services::default().add_service(served!(connect::server())).add_service(served!(interop::server()));
    let served = Served {
        routes,
        services: vec![connect::NAME, interop::NAME],
        open: Vec::new(),
        bus: None,
        descriptors: vec![DESCRIPTOR],
        healthy: Arc::new(|| true),
        echo: true,
        tokens: Tokens::default(),
    };
    let edge = Edge::bind(&config, served, Metrics::default()).await?;
    tell(edge.local_addr()?)?;
    let stop = CancellationToken::new();
    let mut end = signal(SignalKind::terminate())?;
    let wait = async {
        end.recv().await;
        stop.cancel();
    };
    tokio::join!(edge.run(stop.clone()), wait);
    Ok(())
}

/// Reads one message behind the four bytes of its length.
fn read(mut input: impl Read) -> Result<Vec<u8>> {
    let mut len = [0; 4];
    input.read_exact(&mut len).context("stdin brings no request of the suite")?;
    let len = u32::from_be_bytes(len);
    anyhow::ensure!(len <= WORD_MAX, "a request of {len} bytes");
    let mut word = vec![0; len as usize];
    input.read_exact(&mut word)?;
    Ok(word)
}

fn write(mut output: impl Write, message: &impl Message) -> Result<()> {
    let word = message.encode_to_vec();
    output.write_all(&(word.len() as u32).to_be_bytes())?;
    output.write_all(&word)?;
    Ok(output.flush()?)
}
