//! Topics.

use super::Service;
use futures::stream::BoxStream;
use plexus_proto::v1;
use tonic::{Request, Response, Status};

#[tonic::async_trait]
impl v1::topic_service_server::TopicService for Service {
    async fn list_topics(
        &self,
        _request: Request<v1::ListTopicsRequest>,
    ) -> Result<Response<v1::ListTopicsResponse>, Status> {
        Err(Status::unimplemented("not built yet"))
    }

    async fn get_topic(&self, _request: Request<v1::GetTopicRequest>) -> Result<Response<v1::Topic>, Status> {
        Err(Status::unimplemented("not built yet"))
    }

    async fn list_topic_peers(
        &self,
        _request: Request<v1::ListTopicPeersRequest>,
    ) -> Result<Response<v1::ListTopicPeersResponse>, Status> {
        Err(Status::unimplemented("not built yet"))
    }

    async fn pin_topic(&self, _request: Request<v1::PinTopicRequest>) -> Result<Response<v1::Topic>, Status> {
        Err(Status::unimplemented("not built yet"))
    }

    async fn unpin_topic(
        &self,
        _request: Request<v1::UnpinTopicRequest>,
    ) -> Result<Response<v1::UnpinTopicResponse>, Status> {
        Err(Status::unimplemented("not built yet"))
    }

    async fn publish(&self, _request: Request<v1::PublishRequest>) -> Result<Response<v1::Receipt>, Status> {
        Err(Status::unimplemented("not built yet"))
    }

    type SubscribeStream = BoxStream<'static, Result<v1::SubscriptionEvent, Status>>;

    async fn subscribe(
        &self,
        _request: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        Err(Status::unimplemented("not built yet"))
    }

    async fn list_messages(
        &self,
        _request: Request<v1::ListMessagesRequest>,
    ) -> Result<Response<v1::ListMessagesResponse>, Status> {
        Err(Status::unimplemented("not built yet"))
    }
}
