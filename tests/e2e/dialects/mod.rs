//! One API, every dialect: every method of the descriptor is called in every dialect of its kind, and one
//! story is told in each of them. The answers must be the same.
//!
//! The clients know no method: they take its descriptor and the request as JSON, and answer JSON.
//!
//! - [`rpc`] methods as the descriptor tells them, and failures as each dialect writes them
//! - [`rest`] REST, [`text`] server-sent events and NDJSON, [`connect`], [`grpc`], [`grpc_web`], [`ws`]
//! - [`rows`] every method once; [`scenario`] the story

pub(crate) mod connect;
pub(crate) mod grpc;
pub(crate) mod grpc_web;
pub(crate) mod rest;
mod rows;
pub(crate) mod rpc;
mod scenario;
pub(crate) mod text;
pub(crate) mod ws;

use futures::{StreamExt, stream::BoxStream};
use plexus_tests::Http;
use rpc::{Failure, Rpc};
use serde_json::Value;
use std::{net::SocketAddr, time::Duration};

/// How long an answer may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// One way to call a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Dialect {
    Rest,
    Sse,
    Ndjson,
    Grpc,
    GrpcWeb,
    ConnectJson,
    ConnectProto,
    ConnectGet,
    WebSocketJson,
    WebSocketProto,
}

impl Dialect {
    pub(crate) const ALL: [Self; 10] = [
        Self::Rest,
        Self::Sse,
        Self::Ndjson,
        Self::Grpc,
        Self::GrpcWeb,
        Self::ConnectJson,
        Self::ConnectProto,
        Self::ConnectGet,
        Self::WebSocketJson,
        Self::WebSocketProto,
    ];

    /// Tells whether a method of this kind can be called so.
    pub(crate) fn takes(self, rpc: &Rpc) -> bool {
        match self {
            Self::Rest => !rpc.streams,
            Self::Sse | Self::Ndjson => rpc.streams,
            Self::ConnectGet => !rpc.streams && rpc.safe,
            _ => true,
        }
    }
}

/// The answers of a call, then its end or its failure.
pub(crate) type Answers = BoxStream<'static, Result<Value, Failure>>;

/// A client of one gateway in one dialect.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
    pub(crate) dialect: Dialect,
    /// The deadline that calls bring, where the dialect has a word for it.
    pub(crate) deadline: Option<Duration>,
    /// The credentials that are shown.
    pub(crate) token: Option<&'static str>,
    /// Whether dialects of either version of HTTP speak HTTP/2.
    pub(crate) http2: bool,
}

impl Client {
    pub(crate) fn new(address: SocketAddr, dialect: Dialect) -> Self {
        Self { address, dialect, deadline: None, token: None, http2: false }
    }

    /// The same with HTTP alone.
    fn http(&self) -> Http {
        let http = Http { http2: self.http2, ..Http::new(self.address) };
        match self.token {
            Some(token) => http.with(token),
            None => http,
        }
    }

    /// Begins a call.
    pub(crate) async fn open(&self, rpc: &Rpc, request: &Value) -> Result<Answers, Failure> {
        let begun = async {
            match self.dialect {
                Dialect::Rest => rest::call(self, rpc, request).await,
                Dialect::Sse | Dialect::Ndjson => text::open(self, rpc, request).await,
                Dialect::Grpc => grpc::open(self, rpc, request).await,
                Dialect::GrpcWeb => grpc_web::open(self, rpc, request).await,
                Dialect::ConnectGet => connect::get(self, rpc, request).await,
                Dialect::ConnectJson | Dialect::ConnectProto => connect::post(self, rpc, request).await,
                Dialect::WebSocketJson | Dialect::WebSocketProto => ws::open(self, rpc, request).await,
            }
        };
        within(self, rpc, begun).await
    }

    /// Makes a call and takes so many answers at most.
    pub(crate) async fn call(&self, rpc: &Rpc, request: &Value, most: usize) -> Result<Vec<Value>, Failure> {
        let mut answers = self.open(rpc, request).await?;
        let mut taken = Vec::new();
        while taken.len() < most {
            match within(self, rpc, answers.next()).await {
                Some(answer) => taken.push(answer?),
                None => break,
            }
        }
        Ok(taken)
    }
}

/// Waits for something, and says what did not come.
async fn within<T>(client: &Client, rpc: &Rpc, wait: impl Future<Output = T>) -> T {
    let silent = |_| panic!("{} in {:?}: nothing for {PATIENCE:?}", rpc.name, client.dialect);
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(silent)
}

/// How one user speaks: calls in one dialect, streams in another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lane {
    pub(crate) name: &'static str,
    /// For calls without side effects.
    safe: Dialect,
    calls: Dialect,
    streams: Dialect,
}

impl Lane {
    /// Together they speak every dialect.
    pub(crate) const ALL: [Self; 8] = [
        Self::of("rest-sse", Dialect::Rest, Dialect::Rest, Dialect::Sse),
        Self::of("get-ndjson", Dialect::ConnectGet, Dialect::Rest, Dialect::Ndjson),
        Self::of("grpc", Dialect::Grpc, Dialect::Grpc, Dialect::Grpc),
        Self::of("grpc-web", Dialect::GrpcWeb, Dialect::GrpcWeb, Dialect::GrpcWeb),
        Self::of("connect-json", Dialect::ConnectJson, Dialect::ConnectJson, Dialect::ConnectJson),
        Self::of("connect-proto", Dialect::ConnectProto, Dialect::ConnectProto, Dialect::ConnectProto),
        Self::of("ws-json", Dialect::WebSocketJson, Dialect::WebSocketJson, Dialect::WebSocketJson),
        Self::of("ws-proto", Dialect::WebSocketProto, Dialect::WebSocketProto, Dialect::WebSocketProto),
    ];

    const fn of(name: &'static str, safe: Dialect, calls: Dialect, streams: Dialect) -> Self {
        Self { name, safe, calls, streams }
    }

    /// How it calls a method.
    pub(crate) fn dialect(&self, rpc: &Rpc) -> Dialect {
        match (rpc.streams, rpc.safe) {
            (true, _) => self.streams,
            (false, true) => self.safe,
            (false, false) => self.calls,
        }
    }
}
