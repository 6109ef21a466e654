//! Servers that are children of this binary: the gateway's own edge with a service that answers at once, so
//! that a call costs the edge alone; and axum with nothing but one handler.

use anyhow::Result;
use axum::{Router, routing::get};
use clap::Subcommand;
use futures::stream::Empty;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use plexus_gateway::{
    config::Config,
    edge::{Edge, Served, Services},
    metrics::Metrics,
};
use plexus_proto::v1::{
    self,
    topic_service_server::{TopicService, TopicServiceServer},
};
use serde_json::json;
use std::{io::Write, net::SocketAddr, sync::Arc};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, server::NamedService};

/// What a child serves.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Child {
    /// The edge.
    Serve,
    /// axum's hello.
    Hello,
}

/// Runs as a child, until it is killed.
pub(crate) async fn run(what: Child) -> Result<()> {
    match what {
        Child::Serve => serve().await,
        Child::Hello => hello().await,
    }
}

fn say(address: SocketAddr) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{}", json!({ "address": address.to_string() }))?;
    Ok(out.flush()?)
}

async fn serve() -> Result<()> {
    let config = Config { listen: "127.0.0.1:0".into(), ..Config::default() };
    let served = Served {
        routes: Services::default().add_service(TopicServiceServer::new(AtOnce)),
        services: vec![TopicServiceServer::<AtOnce>::NAME],
        descriptors: Vec::new(),
        healthy: Arc::new(|| true),
        bus: None,
        open: Vec::new(),
        echo: false,
        tokens: Default::default(),
    };
    let edge = Edge::bind(&config, served, Metrics::default()).await?;
    say(edge.local_addr()?)?;
    edge.run(CancellationToken::new()).await;
    Ok(())
}

/// As `axum::serve` does it.
async fn hello() -> Result<()> {
    let answer = || async {
        let body = json!({ "message": super::dialect::publish_json("hello") });
        ([("content-type", "application/json")], body.to_string())
    };
    let app = Router::new().route("/hello", get(answer));
    let socket = TcpListener::bind("127.0.0.1:0").await?;
    say(socket.local_addr()?)?;
    let mut tasks = JoinSet::new();
    loop {
        let (connection, _) = socket.accept().await?;
        let service = TowerToHyperService::new(app.clone());
        tasks.spawn(async move {
            let http = Builder::new(TokioExecutor::new());
            let _ = http.serve_connection_with_upgrades(TokioIo::new(connection), service).await;
        });
    }
}

/// The topics of the contract, where only publishing is there: its receipt is made up on the spot.
struct AtOnce;

fn absent<T>() -> Result<T, Status> {
    Err(Status::unimplemented("only publishing is measured"))
}

#[tonic::async_trait]
impl TopicService for AtOnce {
    async fn publish(&self, request: Request<v1::PublishRequest>) -> Result<Response<v1::Receipt>, Status> {
        let request = request.into_inner();
        Ok(Response::new(v1::Receipt {
            topic: request.topic,
            position: "1-1".into(),
            id: "Zm9ydHktdHdvIGJ5dGVzIGFzIGEgbWVzc2FnZSBpZA".into(),
            level: v1::receipt::Level::Logged as i32,
            peers: 3,
            accepted_at: Some(prost_types::Timestamp { seconds: 1_764_000_000, nanos: 123_456_789 }),
            updated_at: Some(prost_types::Timestamp { seconds: 1_764_000_000, nanos: 123_456_789 }),
            ..v1::Receipt::default()
        }))
    }

    type SubscribeStream = Empty<Result<v1::SubscriptionEvent, Status>>;

    async fn subscribe(
        &self,
        _: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        absent()
    }

    async fn list_topics(
        &self,
        _: Request<v1::ListTopicsRequest>,
    ) -> Result<Response<v1::ListTopicsResponse>, Status> {
        absent()
    }

    async fn get_topic(&self, _: Request<v1::GetTopicRequest>) -> Result<Response<v1::Topic>, Status> {
        absent()
    }

    async fn list_topic_peers(
        &self,
        _: Request<v1::ListTopicPeersRequest>,
    ) -> Result<Response<v1::ListTopicPeersResponse>, Status> {
        absent()
    }

    async fn pin_topic(&self, _: Request<v1::PinTopicRequest>) -> Result<Response<v1::Topic>, Status> {
        absent()
    }

    async fn unpin_topic(
        &self,
        _: Request<v1::UnpinTopicRequest>,
    ) -> Result<Response<v1::UnpinTopicResponse>, Status> {
        absent()
    }

    async fn list_messages(
        &self,
        _: Request<v1::ListMessagesRequest>,
    ) -> Result<Response<v1::ListMessagesResponse>, Status> {
        absent()
    }
}
