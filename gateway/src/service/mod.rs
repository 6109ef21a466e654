//! What each call means. A service checks a request, finds its node, and asks the router or the bus;
//! it knows no dialect and holds no state.

mod nodes;
mod peers;
mod topics;

use crate::{config, router::Router};
use plexus_proto::v1::{
    node_service_server::NodeServiceServer, peer_service_server::PeerServiceServer,
    topic_service_server::TopicServiceServer,
};
use std::sync::Arc;
use tonic::{server::NamedService, service::Routes};

/// What every service holds.
#[derive(Clone)]
pub(crate) struct Service {
    #[expect(dead_code, reason = "the calls come next")]
    router: Router,
    #[expect(dead_code, reason = "the calls come next")]
    limits: Arc<config::Limits>,
}

/// Makes the services, and tells their names.
pub fn routes(router: Router, limits: &config::Limits) -> (Routes, Vec<&'static str>) {
    let service = Service { router, limits: Arc::new(limits.clone()) };
    let size = limits.message_bytes_max;
    let routes = Routes::new(NodeServiceServer::new(service.clone()).max_decoding_message_size(size))
        .add_service(PeerServiceServer::new(service.clone()).max_decoding_message_size(size))
        .add_service(TopicServiceServer::new(service).max_decoding_message_size(size));
    (routes, names())
}

/// The full names of the services: `plexus.v1.NodeService`, ….
fn names() -> Vec<&'static str> {
    vec![
        NodeServiceServer::<Service>::NAME,
        PeerServiceServer::<Service>::NAME,
        TopicServiceServer::<Service>::NAME,
    ]
}
