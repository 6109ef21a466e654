//! A collector of traces: takes what is exported over OTLP and keeps it to be looked at.

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
};
use std::{collections::BTreeMap, net::SocketAddr};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tonic::{Request, Response, Status};

/// A span as it was exported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// `service.name` of the process.
    pub service: String,
    /// Everything else the process says of itself.
    pub resource: BTreeMap<String, String>,
    /// Its name.
    pub name: String,
    /// Its trace in hexadecimal.
    pub trace: String,
    /// Its id in hexadecimal.
    pub id: String,
    /// The span it is a child of; empty: none.
    pub parent: String,
}

/// A running collector; dropping it ends it.
pub struct Collector {
    /// Where it listens.
    pub address: SocketAddr,
    spans: watch::Receiver<Vec<Span>>,
    text: watch::Receiver<String>,
    _task: JoinSet<()>,
}

struct Sink(watch::Sender<Vec<Span>>, watch::Sender<String>);

impl Collector {
    /// Starts one on a free loopback port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, spans) = watch::channel(Vec::new());
        let (writer, text) = watch::channel(String::new());
        let service = TowerToHyperService::new(TraceServiceServer::new(Sink(sender, writer)));
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                connections.spawn(async move {
                    let server = auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        Self { address, spans, text, _task: task }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The spans of a trace so far.
    pub fn trace(&self, trace: &str) -> Vec<Span> {
        self.spans.borrow().iter().filter(|s| s.trace == trace).cloned().collect()
    }

    /// Everything that was exported so far, as text.
    pub fn text(&self) -> String {
        self.text.borrow().clone()
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Span> {
        self.spans.borrow().clone()
    }
}

#[tonic::async_trait]
impl TraceService for Sink {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.1.send_modify(|text| text.push_str(&format!("{request:?}\n")));
        for batch in request.into_inner().resource_spans {
            let mut resource = texts(batch.resource.unwrap_or_default().attributes);
            let service = resource.remove("service.name").unwrap_or_default();
            let spans = batch.scope_spans.into_iter().flat_map(|s| s.spans).map(|span| Span {
                service: service.clone(),
                resource: resource.clone(),
                name: span.name,
                trace: data_encoding::HEXLOWER.encode(&span.trace_id),
                id: data_encoding::HEXLOWER.encode(&span.span_id),
                parent: data_encoding::HEXLOWER.encode(&span.parent_span_id),
            });
            self.0.send_modify(|all| all.extend(spans));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value| match value {
        Value::StringValue(text) => Some(text),
        _ => None,
    };
    attributes.into_iter().filter_map(|a| Some((a.key, text(a.value?.value?)?))).collect()
}
