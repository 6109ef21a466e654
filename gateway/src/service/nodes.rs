//! Hosted nodes.

use super::Service;
use futures::stream::BoxStream;
use plexus_proto::v1;
use tonic::{Request, Response, Status};

#[tonic::async_trait]
impl v1::node_service_server::NodeService for Service {
    async fn create_node(
        &self,
        _request: Request<v1::CreateNodeRequest>,
    ) -> Result<Response<v1::Node>, Status> {
        Err(Status::unimplemented("not built yet"))
    }

    async fn get_node(&self, _request: Request<v1::GetNodeRequest>) -> Result<Response<v1::Node>, Status> {
        Err(Status::unimplemented("not built yet"))
    }

    async fn list_nodes(
        &self,
        _request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        Err(Status::unimplemented("not built yet"))
    }

    async fn update_node(
        &self,
        _request: Request<v1::UpdateNodeRequest>,
    ) -> Result<Response<v1::Node>, Status> {
        Err(Status::unimplemented("not built yet"))
    }

    async fn delete_node(
        &self,
        _request: Request<v1::DeleteNodeRequest>,
    ) -> Result<Response<v1::DeleteNodeResponse>, Status> {
        Err(Status::unimplemented("not built yet"))
    }

    async fn start_node(
        &self,
        _request: Request<v1::StartNodeRequest>,
    ) -> Result<Response<v1::Node>, Status> {
        Err(Status::unimplemented("not built yet"))
    }

    async fn stop_node(&self, _request: Request<v1::StopNodeRequest>) -> Result<Response<v1::Node>, Status> {
        Err(Status::unimplemented("not built yet"))
    }

    async fn restart_node(
        &self,
        _request: Request<v1::RestartNodeRequest>,
    ) -> Result<Response<v1::Node>, Status> {
        Err(Status::unimplemented("not built yet"))
    }

    type WatchNodesStream = BoxStream<'static, Result<v1::WatchNodesResponse, Status>>;

    async fn watch_nodes(
        &self,
        _request: Request<v1::WatchNodesRequest>,
    ) -> Result<Response<Self::WatchNodesStream>, Status> {
        Err(Status::unimplemented("not built yet"))
    }

    async fn get_identity(
        &self,
        _request: Request<v1::GetIdentityRequest>,
    ) -> Result<Response<v1::Identity>, Status> {
        Err(Status::unimplemented("not built yet"))
    }

    async fn list_bootstrap(
        &self,
        _request: Request<v1::ListBootstrapRequest>,
    ) -> Result<Response<v1::BootstrapList>, Status> {
        Err(Status::unimplemented("not built yet"))
    }

    async fn add_bootstrap(
        &self,
        _request: Request<v1::AddBootstrapRequest>,
    ) -> Result<Response<v1::BootstrapList>, Status> {
        Err(Status::unimplemented("not built yet"))
    }

    async fn remove_bootstrap(
        &self,
        _request: Request<v1::RemoveBootstrapRequest>,
    ) -> Result<Response<v1::BootstrapList>, Status> {
        Err(Status::unimplemented("not built yet"))
    }
}
