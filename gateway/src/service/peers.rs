//! Remote peers.

use super::Service;
use futures::stream::BoxStream;
use plexus_proto::v1;
use tonic::{Request, Response, Status};

#[tonic::async_trait]
impl v1::peer_service_server::PeerService for Service {
    async fn list_peers(
        &self,
        _request: Request<v1::ListPeersRequest>,
    ) -> Result<Response<v1::ListPeersResponse>, Status> {
        Err(Status::unimplemented("not built yet"))
    }

    async fn count_peers(
        &self,
        _request: Request<v1::CountPeersRequest>,
    ) -> Result<Response<v1::CountPeersResponse>, Status> {
        Err(Status::unimplemented("not built yet"))
    }

    async fn get_peer(&self, _request: Request<v1::GetPeerRequest>) -> Result<Response<v1::Peer>, Status> {
        Err(Status::unimplemented("not built yet"))
    }

    async fn connect(&self, _request: Request<v1::ConnectRequest>) -> Result<Response<v1::Peer>, Status> {
        Err(Status::unimplemented("not built yet"))
    }

    async fn disconnect(
        &self,
        _request: Request<v1::DisconnectRequest>,
    ) -> Result<Response<v1::DisconnectResponse>, Status> {
        Err(Status::unimplemented("not built yet"))
    }

    type PingStream = BoxStream<'static, Result<v1::PingResponse, Status>>;

    async fn ping(&self, _request: Request<v1::PingRequest>) -> Result<Response<Self::PingStream>, Status> {
        Err(Status::unimplemented("not built yet"))
    }

    async fn block(&self, _request: Request<v1::BlockRequest>) -> Result<Response<v1::BlockEntry>, Status> {
        Err(Status::unimplemented("not built yet"))
    }

    async fn unblock(
        &self,
        _request: Request<v1::UnblockRequest>,
    ) -> Result<Response<v1::UnblockResponse>, Status> {
        Err(Status::unimplemented("not built yet"))
    }

    async fn list_blocks(
        &self,
        _request: Request<v1::ListBlocksRequest>,
    ) -> Result<Response<v1::ListBlocksResponse>, Status> {
        Err(Status::unimplemented("not built yet"))
    }
}
