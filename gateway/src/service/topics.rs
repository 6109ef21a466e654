//! Topics: publishing and looking are asked of the owner, reading back and following are done here.

use super::{
    Call, Context, Service, check_key, held, holdings, known, page,
    peers::{check_span, runs_not},
    read_topic,
    records::{check_etag, touch},
    respond, wrong,
};
use crate::{
    error,
    frame::{Frames, Seat, Shared, TakesFrames},
    holdings::{Holdings, What},
    resume::Bearer,
    router::{Failure, queue::Pen},
};
use futures::{StreamExt, stream, stream::BoxStream};
use plexus_bus::{NodeName, Payload, Topic};
use plexus_proto::{bus::NodeRecord, pin, reason::Reason, spec, text, v1};
use prost::Message;
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};
use tonic::{Request, Response, Status};

const PUBLISH: &str = "plexus.v1.TopicService/Publish";

#[tonic::async_trait]
impl v1::topic_service_server::TopicService for Service {
    async fn list_topics(
        &self,
        request: Request<v1::ListTopicsRequest>,
    ) -> Result<Response<v1::ListTopicsResponse>, Status> {
        let context = self.context(&request);
        let request = request.into_inner();
        let answer = async {
            page::size(request.page_size)?;
            let node = self.node(&context, &request.node).await?;
            self.ask(&context, &node, Call::new("plexus.v1.TopicService/ListTopics", request)).await
        };
        respond(answer.await)
    }

    async fn get_topic(&self, request: Request<v1::GetTopicRequest>) -> Result<Response<v1::Topic>, Status> {
        let context = self.context(&request);
        let request = request.into_inner();
        let answer = async {
            read_topic("topic", &request.topic)?;
            let node = self.node(&context, &request.node).await?;
            self.ask(&context, &node, Call::new("plexus.v1.TopicService/GetTopic", request)).await
        };
        respond(answer.await)
    }

    async fn list_topic_peers(
        &self,
        request: Request<v1::ListTopicPeersRequest>,
    ) -> Result<Response<v1::ListTopicPeersResponse>, Status> {
        let context = self.context(&request);
        let request = request.into_inner();
        let answer = async {
            page::size(request.page_size)?;
            known::<v1::topic_peer::Role>("role", request.role)?;
            read_topic("topic", &request.topic)?;
            let node = self.node(&context, &request.node).await?;
            self.ask(&context, &node, Call::new("plexus.v1.TopicService/ListTopicPeers", request)).await
        };
        respond(answer.await)
    }

    async fn pin_topic(&self, request: Request<v1::PinTopicRequest>) -> Result<Response<v1::Topic>, Status> {
        let context = self.context(&request);
        let request = request.get_ref();
        let act = self.pin(&context, request);
        respond(self.once(&context, "PinTopic", &request.request_id, request, act).await)
    }

    async fn unpin_topic(
        &self,
        request: Request<v1::UnpinTopicRequest>,
    ) -> Result<Response<v1::UnpinTopicResponse>, Status> {
        let context = self.context(&request);
        let request = request.get_ref();
        let act = self.unpin(&context, request);
        respond(self.once(&context, "UnpinTopic", &request.request_id, request, act).await)
    }

    async fn publish(&self, request: Request<v1::PublishRequest>) -> Result<Response<v1::Receipt>, Status> {
        let context = self.context(&request);
        let request = request.into_inner();
        let answer = async {
            self.check_publish(&request)?;
            let node = self.node(&context, &request.node).await?;
            let key = request.request_id.clone();
            // The log keeps the producer's numbers: a repeat is told apart as with a request id.
            let safe = request.producer_seq.is_some();
            self.ask(&context, &node, Call { safe, ..Call::keyed(PUBLISH, request, &key) }).await
        };
        respond(answer.await)
    }

    type SubscribeStream = BoxStream<'static, Result<v1::SubscriptionEvent, Status>>;

    async fn subscribe(
        &self,
        request: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let context = self.open_context(&request);
        let holdings = holdings(&request);
        let takes = request.extensions().get::<TakesFrames>().copied();
        let seat = request.extensions().get::<Arc<Seat>>().cloned();
        let ids = takes.is_some_and(|takes| takes.ids);
        let frames = match self.follow(&context, request.into_inner(), ids, (seat, &holdings)).await {
            Ok(frames) => frames,
            Err(failure) => return Err(error::status(&failure)),
        };
        Ok(if takes.is_some() { shared(frames) } else { Response::new(plain(frames)) })
    }

    async fn list_messages(
        &self,
        request: Request<v1::ListMessagesRequest>,
    ) -> Result<Response<v1::ListMessagesResponse>, Status> {
        let context = self.context(&request);
        respond(self.history(&context, request.get_ref()).await)
    }
}

/// Offers frames to the dialect; the body stays silent.
fn shared(frames: Frames) -> Response<BoxStream<'static, Result<v1::SubscriptionEvent, Status>>> {
    let mut response = Response::new(stream::pending().boxed());
    response.extensions_mut().insert(Shared::new(frames));
    response
}

/// The plain stream, for native gRPC.
fn plain(frames: Frames) -> BoxStream<'static, Result<v1::SubscriptionEvent, Status>> {
    let event = |next: Result<crate::frame::Delivery, Failure>| match next {
        Ok(delivery) => v1::SubscriptionEvent::decode(delivery.frame.proto().clone())
            .map_err(|_| Status::internal("a frame of ours cannot be read")),
        Err(failure) => Err(error::status(&failure)),
    };
    frames.map(event).boxed()
}

impl Service {
    /// Follows topics; with `ids` each frame says where the reader goes on. `seat` is its place in a session.
    async fn follow(
        &self,
        context: &Context,
        request: v1::SubscribeRequest,
        ids: bool,
        (seat, holdings): (Option<Arc<Seat>>, &Holdings),
    ) -> Result<Frames, Failure> {
        let node = self.node(context, &request.node).await?;
        let (config, session) = (self.router.config(), own_session(context));
        let most = config.subscription_topics_max;
        let (tokens, bearer) = (self.router.tokens().clone(), Bearer::from(&context.caller));
        let pen = Pen { tokens, bearer, seat, named: false };
        let read = |request| {
            let mut wish = super::reading::read(request, node.clone(), most, &session, &pen)?;
            (wish.terms.ids, wish.terms.gaps) = (ids, config.subscription_gaps_max);
            Ok::<_, Failure>(wish)
        };
        let wish = read(&request)?;
        let hold = holdings.take(What::Topics, wish.topics.len(), most)?;
        let frames = match self.router.subscribe(wish).await {
            Err(failure) if super::absent(&node, &failure) => {
                self.make_default(context).await?;
                self.router.subscribe(read(&request)?).await?
            }
            frames => frames?,
        };
        Ok(held(frames, hold))
    }

    fn check_publish(&self, request: &v1::PublishRequest) -> Result<(), Failure> {
        use v1::publish_request::Payload;
        check_key(&request.request_id)?;
        read_topic("topic", &request.topic)?;
        let (field, bytes) = match &request.payload {
            Some(Payload::Data(data)) => ("data", data.len()),
            Some(Payload::Text(text)) => ("text", text.len()),
            None => ("data", 0),
        };
        let most = self.limits.body_bytes_max;
        if bytes > most {
            let wanted = format!("at most {most} bytes");
            let error = v1::Error::new(Reason::MessageTooLarge, format!("{field}: {bytes} bytes, {wanted}"));
            return Err(Box::new(error.violation(field, wanted).with("limit", most)));
        }
        if v1::receipt::Level::try_from(request.level).is_err() {
            return wrong("level", "ACCEPTED, LOGGED, REPLICATED or DURABLE");
        }
        if request.min_peers > 1000 {
            return wrong("minPeers", "0 to 1000");
        }
        check_span("timeout", request.timeout.as_ref(), Duration::ZERO, Duration::from_secs(60))?;
        if request.producer.chars().count() > 64 || request.producer.chars().any(char::is_control) {
            return wrong("producer", "1 to 64 printable characters");
        }
        if request.producer.is_empty() == request.producer_seq.is_some() {
            return wrong("producerSeq", "`producer` and `producerSeq` go together");
        }
        Ok(())
    }

    async fn pin(&self, context: &Context, request: &v1::PinTopicRequest) -> Result<v1::Topic, Failure> {
        let topic = read_topic("topic", &request.topic)?;
        let policy = request.policy.clone().unwrap_or_default();
        spec::check_policy("policy", &policy)?;
        let node = self.node(context, &request.node).await?;
        let edit = |record: &mut NodeRecord| {
            let node = record.node.get_or_insert_default();
            let spec = node.spec.get_or_insert_default();
            spec::check_sign_policy("policy", &policy, &spec.gossip.unwrap_or_default())?;
            let place = spec.topics.iter().position(|p| names(p, &topic));
            check_etag(&request.etag, &etag_of(place.map(|i| &spec.topics[i])))?;
            let pinned = v1::node_spec::PinnedTopic {
                topic: text::bytes_to_text(&topic),
                policy: Some(policy.clone()),
            };
            match place {
                // The same again renews it.
                Some(i) if spec.topics[i] == pinned => return Ok(record.renew_pin(&topic, SystemTime::now())),
                Some(i) => spec.topics[i] = pinned,
                None => spec.topics.push(pinned),
            }
            spec::check(spec)?;
            touch(node);
            Ok(true)
        };
        let held = self.change(context, &node, edit).await?;
        let read = async {
            self.refresh(context, &node, held.revision).await?;
            let request = v1::GetTopicRequest { node: node.node().to_owned(), topic: request.topic.clone() };
            self.ask(context, &node, Call::new("plexus.v1.TopicService/GetTopic", request)).await
        };
        match read.await {
            // Nobody runs the node: it joins when it is started.
            Err(error) if runs_not(&error) => Ok(v1::Topic {
                topic: text::bytes_to_text(&topic),
                pinned: true,
                etag: pin::etag(Some(&policy)),
                policy: Some(policy),
                ..v1::Topic::default()
            }),
            answer => answer,
        }
    }

    async fn unpin(
        &self,
        context: &Context,
        request: &v1::UnpinTopicRequest,
    ) -> Result<v1::UnpinTopicResponse, Failure> {
        let topic = read_topic("topic", &request.topic)?;
        let node = self.node(context, &request.node).await?;
        let edit = |record: &mut NodeRecord| {
            let node = record.node.get_or_insert_default();
            let spec = node.spec.get_or_insert_default();
            let place = spec.topics.iter().position(|p| names(p, &topic));
            check_etag(&request.etag, &etag_of(place.map(|i| &spec.topics[i])))?;
            let Some(place) = place else { return Ok(false) };
            spec.topics.remove(place);
            touch(node);
            Ok(true)
        };
        let held = self.change(context, &node, edit).await?;
        let refreshed = self.refresh(context, &node, held.revision).await;
        match refreshed {
            // Nobody runs the node: the pin is gone from its spec, but only an owner may purge.
            Err(error) if runs_not(&error) && !request.purge => return Ok(v1::UnpinTopicResponse {}),
            refreshed => refreshed?,
        }
        if request.purge {
            self.purge(context, &node, topic).await?;
        }
        Ok(v1::UnpinTopicResponse {})
    }

    async fn purge(&self, context: &Context, node: &NodeName, topic: Topic) -> Result<(), Failure> {
        let payload = Payload::encoded(topic);
        let asked = self.request(context, Some(node.clone()), "plexus.bus.v1.Owner/Purge", payload, "", true);
        match self.router.call(asked).await {
            Err(error) if !error.is(Reason::TopicNotFound) => Err(error),
            _ => Ok(()),
        }
    }
}

/// By what the owner marks messages that this caller published.
fn own_session(context: &Context) -> String {
    let principal = &context.caller.principal;
    if principal.session.is_empty() { principal.token_id.clone() } else { principal.session.clone() }
}

/// Tells whether a pin is of this topic, however it is spelled.
fn names(pinned: &v1::node_spec::PinnedTopic, topic: &Topic) -> bool {
    text::topic_from_text(&pinned.topic).is_ok_and(|pinned| pinned == topic)
}

/// Marks how a topic is kept, as its owner does.
fn etag_of(pinned: Option<&v1::node_spec::PinnedTopic>) -> String {
    pin::etag(pinned.map(|pinned| pinned.policy.clone().unwrap_or_default()).as_ref())
}
