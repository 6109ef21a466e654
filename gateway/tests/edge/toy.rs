//! A service in memory. Topics with a name of their own misbehave.

use futures::{StreamExt, stream, stream::BoxStream};
use plexus_gateway::{
    caller::{Caller, Deadline},
    edge::{ClientCertificate, Peer},
    error,
    frame::{Delivery, Frame, Shared, TakesFrames},
};
use plexus_proto::{
    reason::Reason,
    v1::{self, subscription_event::Event, topic_service_server::TopicService},
};
use prost::Message as _;
use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::broadcast;
use tonic::{Request, Response, Status};

/// The service.
#[derive(Clone)]
pub(crate) struct Toy {
    log: Arc<Mutex<Vec<v1::Message>>>,
    live: broadcast::Sender<v1::Message>,
    /// Readers that are there now.
    pub(crate) readers: Arc<AtomicUsize>,
    /// Calls that are being answered now.
    pub(crate) calls: Arc<AtomicUsize>,
    /// Who published, and whether with a certificate.
    pub(crate) clients: Arc<Mutex<Vec<(IpAddr, bool)>>>,
}

impl Default for Toy {
    fn default() -> Self {
        let live = broadcast::channel(1024).0;
        Self {
            log: Arc::default(),
            live,
            readers: Arc::default(),
            calls: Arc::default(),
            clients: Arc::default(),
        }
    }
}

/// Counts while it lives.
struct Present(Arc<AtomicUsize>);

impl Present {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count.clone())
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn refuse<T>(error: v1::Error) -> Result<T, Status> {
    Err(error::status(&error))
}

fn seq(position: &str) -> usize {
    position.split_once('-').and_then(|(_, seq)| seq.parse().ok()).unwrap_or(0)
}

#[tonic::async_trait]
impl TopicService for Toy {
    async fn publish(&self, request: Request<v1::PublishRequest>) -> Result<Response<v1::Receipt>, Status> {
        let _present = Present::new(&self.calls);
        assert!(request.extensions().get::<Caller>().is_some(), "every request has a caller");
        assert!(request.extensions().get::<Deadline>().is_some(), "a unary call has a deadline");
        let Peer(client) = request.extensions().get().expect("every request has a peer");
        let certified = request.extensions().get::<ClientCertificate>().is_some();
        self.clients.lock().unwrap().push((client.ip(), certified));
        let traceparent = request.metadata().get("traceparent").map(|t| t.to_str().unwrap().to_owned());
        let request = request.into_inner();
        match request.topic.as_str() {
            "bad" => {
                return refuse(v1::Error::new(Reason::BadTopic, "no").violation("topic", "not this one"));
            }
            "full" => {
                let error = v1::Error::new(Reason::QueuesFull, "full").with("peers", 3);
                return refuse(error.retry_after(Duration::from_millis(1500)));
            }
            "never" => std::future::pending().await,
            // Longer than a drain takes to begin, shorter than its window.
            "later" => tokio::time::sleep(Duration::from_millis(300)).await,
            _ => {}
        }
        let data = match request.payload {
            Some(v1::publish_request::Payload::Data(data)) => data,
            Some(v1::publish_request::Payload::Text(text)) => text.into(),
            None => Default::default(),
        };
        let mut log = self.log.lock().unwrap();
        let position = format!("1-{}", log.len() + 1);
        let message = v1::Message {
            position: position.clone(),
            topic: request.topic.clone(),
            payload: Some(v1::message::Payload::Data(data)),
            ..v1::Message::default()
        };
        log.push(message.clone());
        let _ = self.live.send(message);
        Ok(Response::new(v1::Receipt {
            position,
            topic: request.topic,
            id: request.request_id,
            level: request.level,
            peers: request.min_peers,
            traceparent: traceparent.unwrap_or_default(),
            ..v1::Receipt::default()
        }))
    }

    async fn get_topic(&self, request: Request<v1::GetTopicRequest>) -> Result<Response<v1::Topic>, Status> {
        let topic = request.into_inner().topic;
        if topic == "missing" {
            return refuse(v1::Error::new(Reason::TopicNotFound, "no such topic"));
        }
        Ok(Response::new(v1::Topic {
            topic,
            etag: "e1".into(),
            retained_messages: 1 << 60,
            ..v1::Topic::default()
        }))
    }

    async fn pin_topic(&self, request: Request<v1::PinTopicRequest>) -> Result<Response<v1::Topic>, Status> {
        let request = request.into_inner();
        if !request.etag.is_empty() && request.etag != "e1" {
            return refuse(v1::Error::new(Reason::EtagMismatch, "changed"));
        }
        let (topic, policy) = (request.topic, request.policy);
        Ok(Response::new(v1::Topic { topic, policy, etag: "e2".into(), ..v1::Topic::default() }))
    }

    type SubscribeStream = BoxStream<'static, Result<v1::SubscriptionEvent, Status>>;

    async fn subscribe(
        &self,
        request: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let shares = request.extensions().get::<TakesFrames>().is_some();
        let request = request.into_inner();
        if request.topic == "missing" {
            return refuse(v1::Error::new(Reason::TopicNotFound, "no such topic"));
        }
        let events = self.events(request);
        if !shares {
            return Ok(Response::new(events.map(|e| e.map_err(|e| error::status(&e))).boxed()));
        }
        let frames = events.map(|event| {
            let event = event?;
            let id = match &event.event {
                Some(Event::Message(message)) => Some(message.position.clone().into_boxed_str()),
                _ => None,
            };
            Ok(Delivery { frame: Arc::new(Frame::new(event.encode_to_vec().into(), id)), resume: None })
        });
        let mut response: Response<Self::SubscribeStream> = Response::new(stream::pending().boxed());
        response.extensions_mut().insert(Shared::new(frames));
        Ok(response)
    }

    async fn list_messages(
        &self,
        request: Request<v1::ListMessagesRequest>,
    ) -> Result<Response<v1::ListMessagesResponse>, Status> {
        let request = request.into_inner();
        let log = self.log.lock().unwrap();
        let messages = log.iter().filter(|m| m.topic == request.topic && request.page_size >= 0);
        let messages = messages.cloned().collect();
        Ok(Response::new(v1::ListMessagesResponse { messages, ..v1::ListMessagesResponse::default() }))
    }

    async fn list_topics(
        &self,
        _: Request<v1::ListTopicsRequest>,
    ) -> Result<Response<v1::ListTopicsResponse>, Status> {
        Ok(Response::new(v1::ListTopicsResponse::default()))
    }

    async fn list_topic_peers(
        &self,
        _: Request<v1::ListTopicPeersRequest>,
    ) -> Result<Response<v1::ListTopicPeersResponse>, Status> {
        Err(Status::unimplemented("not in the toy"))
    }

    async fn unpin_topic(
        &self,
        _: Request<v1::UnpinTopicRequest>,
    ) -> Result<Response<v1::UnpinTopicResponse>, Status> {
        Ok(Response::new(v1::UnpinTopicResponse::default()))
    }
}

impl Toy {
    /// A start, what is logged after the position, then what comes; `limit` messages at most, then an end.
    fn events(
        &self,
        request: v1::SubscribeRequest,
    ) -> impl futures::Stream<Item = Result<v1::SubscriptionEvent, Box<v1::Error>>> + Send + use<> {
        let present = Present::new(&self.readers);
        let after = if request.resume.is_empty() { &request.after } else { &request.resume };
        let after = seq(after);
        let log = self.log.lock().unwrap();
        let live = tokio_stream::wrappers::BroadcastStream::new(self.live.subscribe());
        let old: Vec<_> = log.iter().skip(after).cloned().map(Ok).collect();
        drop(log);
        let topic = request.topic.clone();
        let start = v1::subscription_event::Start { topic: topic.clone(), ..Default::default() };
        let start = stream::iter([Ok(Event::Start(start))]);
        let limit = if request.limit == 0 { usize::MAX } else { request.limit as usize };
        let messages = stream::iter(old)
            .chain(live)
            .filter_map(|m| async { m.ok() })
            .filter(move |m| std::future::ready(m.topic == topic))
            .map(move |m| {
                let _ = &present;
                if m.payload == Some(v1::message::Payload::Data("poison".into())) {
                    let wait = Duration::from_millis(700);
                    return Err(Box::new(v1::Error::new(Reason::Overloaded, "poisoned").retry_after(wait)));
                }
                Ok(Event::Message(m))
            })
            .take(limit);
        let reason = v1::subscription_event::end::Reason::Limit as i32;
        let end = v1::subscription_event::End { reason, ..Default::default() };
        let events = start.chain(messages).chain(stream::iter([Ok(Event::End(end))]));
        events.map(|e| e.map(|event| v1::SubscriptionEvent { event: Some(event) }))
    }
}
