//! gRPC, gRPC-Web and Connect.

use crate::{Server, client::Answer};
use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use http::Uri;
use hyper_util::rt::{TokioExecutor, TokioIo};
use plexus_gateway::error;
use plexus_proto::{
    reason::Reason,
    v1::{self, topic_service_client::TopicServiceClient},
};
use prost::Message;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::{net::TcpStream, task::JoinSet};
use tonic::{Code, Request, body::Body};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::{ServiceExt, util::BoxCloneSyncService};

const PUBLISH: &str = "/plexus.v1.TopicService/Publish";
const SUBSCRIBE: &str = "/plexus.v1.TopicService/Subscribe";
const GET_TOPIC: &str = "/plexus.v1.TopicService/GetTopic";

type Channel = BoxCloneSyncService<http::Request<Body>, http::Response<hyper::body::Incoming>, hyper::Error>;

/// A gRPC channel, as far as tonic's clients need one.
async fn channel(server: &Server, tasks: &mut JoinSet<()>) -> (Channel, Uri) {
    let io = TokioIo::new(TcpStream::connect(server.addr).await.unwrap());
    let (send, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tasks.spawn(async move { drop(connection.await) });
    let service = tower::service_fn(move |request| send.clone().send_request(request));
    (
        BoxCloneSyncService::new(service.map_response(|r| r)),
        format!("http://{}", server.addr).parse().unwrap(),
    )
}

fn publish(topic: &str, text: &str) -> v1::PublishRequest {
    let payload = Some(v1::publish_request::Payload::Text(text.into()));
    v1::PublishRequest { topic: topic.into(), payload, ..v1::PublishRequest::default() }
}

fn enveloped(flags: u8, message: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(flags);
    out.put_u32(message.len() as u32);
    out.put_slice(message);
    out.freeze()
}

/// The envelopes of a body: flags and content.
fn envelopes(mut body: &[u8]) -> Vec<(u8, &[u8])> {
    let mut all = Vec::new();
    while let Some(([flags, len @ ..], rest)) = body.split_first_chunk::<5>() {
        let (content, rest) = rest.split_at(u32::from_be_bytes(*len) as usize);
        all.push((*flags, content));
        body = rest;
    }
    all
}

#[tokio::test]
async fn grpc_calls_and_streams() {
    let server = Server::start().await;
    let mut tasks = JoinSet::new();
    let (channel, origin) = channel(&server, &mut tasks).await;
    let mut client = TopicServiceClient::with_origin(channel, origin)
        .send_compressed(tonic::codec::CompressionEncoding::Gzip)
        .accept_compressed(tonic::codec::CompressionEncoding::Gzip);
    let receipt = client.publish(publish("demo", "hi")).await.unwrap().into_inner();
    assert_eq!(receipt.position, "1-1");
    let follow =
        v1::SubscribeRequest { topic: "demo".into(), after: "0".into(), limit: 1, ..Default::default() };
    let events: Vec<_> = client.subscribe(follow).await.unwrap().into_inner().collect().await;
    assert_eq!(events.len(), 3);
    assert!(events.iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_grpc_error_has_its_details() {
    let server = Server::start().await;
    let mut tasks = JoinSet::new();
    let (channel, origin) = channel(&server, &mut tasks).await;
    let mut client = TopicServiceClient::with_origin(channel, origin);
    let full = error::from_status(&client.publish(publish("full", "")).await.unwrap_err());
    assert!(full.is(Reason::QueuesFull));
    assert_eq!((full.metadata["peers"].as_str(), full.retry_after.unwrap().nanos), ("3", 500_000_000));
    let bad = error::from_status(&client.publish(publish("bad", "")).await.unwrap_err());
    assert_eq!((bad.code.as_str(), bad.violations[0].field.as_str()), ("invalid_argument", "topic"));
    let mut late = Request::new(publish("never", ""));
    late.set_timeout(Duration::from_millis(30));
    assert_eq!(client.publish(late).await.unwrap_err().code(), Code::DeadlineExceeded);
    let large = publish("demo", &"x".repeat(2 << 20));
    let large = client.publish(large).await.unwrap_err();
    assert!(error::from_status(&large).is(Reason::MessageTooLarge), "{large:?}");
    let unserved = client.list_topic_peers(v1::ListTopicPeersRequest::default()).await.unwrap_err();
    assert_eq!(unserved.code(), Code::Unimplemented);
}

#[tokio::test]
async fn health_and_reflection_are_served_beside() {
    use tonic_reflection::pb::{v1, v1alpha};
    let server = Server::start().await;
    let mut tasks = JoinSet::new();
    let (channel, origin) = channel(&server, &mut tasks).await;
    let mut health = HealthClient::with_origin(channel.clone(), origin.clone());
    for service in ["", "plexus.v1.TopicService"] {
        let answer = health.check(HealthCheckRequest { service: service.into() }).await.unwrap();
        assert_eq!(answer.into_inner().status, 1, "{service}");
    }
    let list = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(String::new())),
    };
    let mut client =
        v1::server_reflection_client::ServerReflectionClient::with_origin(channel.clone(), origin.clone());
    let mut answers =
        client.server_reflection_info(futures::stream::iter([list])).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let v1::server_reflection_response::MessageResponse::ListServicesResponse(list) = answer else {
        panic!("{answer:?}")
    };
    let names: Vec<_> = list.service.into_iter().map(|s| s.name).collect();
    assert_eq!(names, ["plexus.v1.TopicService", "grpc.health.v1.Health"]);
    let symbol = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
            "plexus.v1.TopicService".into(),
        )),
    };
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::with_origin(channel, origin);
    let mut answers =
        client.server_reflection_info(futures::stream::iter([symbol])).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().unwrap().message_response.is_some());
}

#[tokio::test]
async fn connect_calls_in_json_and_protobuf_on_both_versions() {
    let server = Server::start().await;
    for mut connection in [server.http1().await, server.http2().await] {
        let json = [("content-type", "application/json"), ("connect-protocol-version", "1")];
        let answer = connection
            .send(&server, "POST", PUBLISH, &json, r#"{"topic":"demo","text":"hi","newer":1}"#)
            .await;
        assert_eq!((answer.status.as_u16(), &answer.json()["topic"]), (200, &json!("demo")));
        let proto = [("content-type", "application/proto")];
        let body = publish("demo", "hi").encode_to_vec();
        let answer = connection.send(&server, "POST", PUBLISH, &proto, body).await;
        assert_eq!(v1::Receipt::decode(answer.body).unwrap().topic, "demo");
        let get = format!("{GET_TOPIC}?connect=v1&encoding=json&message=%7B%22topic%22%3A%22demo%22%7D");
        let answer = connection.send(&server, "GET", &get, &[], "").await;
        assert_eq!((answer.status.as_u16(), &answer.json()["etag"]), (200, &json!("e1")));
    }
}

#[tokio::test]
async fn connect_streams_in_json_and_protobuf() {
    let server = Server::start().await;
    server.toy_publish("one").await;
    let body = enveloped(0, br#"{"topic":"demo","after":"0","limit":1}"#);
    let answer = server.send("POST", SUBSCRIBE, &[("content-type", "application/connect+json")], body).await;
    let parts = envelopes(&answer.body);
    let events: Vec<Value> = parts.iter().map(|(_, json)| serde_json::from_slice(json).unwrap()).collect();
    assert_eq!(events[1]["message"]["position"], "1-1");
    assert_eq!(events[2]["end"]["reason"], "LIMIT");
    assert_eq!((parts[3].0, &events[3]), (2, &json!({})));
    let follow =
        v1::SubscribeRequest { topic: "demo".into(), after: "0".into(), limit: 1, ..Default::default() };
    let body = enveloped(0, &follow.encode_to_vec());
    let answer = server.send("POST", SUBSCRIBE, &[("content-type", "application/connect+proto")], body).await;
    let parts = envelopes(&answer.body);
    assert!(v1::SubscriptionEvent::decode(parts[1].1).unwrap().event.is_some());
    assert_eq!(parts[3].0, 2);
}

#[tokio::test]
async fn a_connect_error_has_its_details() {
    let server = Server::start().await;
    let json = ("content-type", "application/json");
    let answer = server.send("POST", PUBLISH, &[json], r#"{"topic":"full"}"#).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["code"]), (429, &json!("resource_exhausted")));
    let details = answer.json()["details"].clone();
    let kinds: Vec<&str> = details.as_array().unwrap().iter().map(|d| d["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["google.rpc.RetryInfo", "google.rpc.ErrorInfo"]);
    for (headers, body, code) in [
        (vec![json, ("connect-timeout-ms", "30")], r#"{"topic":"never"}"#, "deadline_exceeded"),
        (vec![json, ("connect-timeout-ms", "0")], r#"{"topic":"demo"}"#, "deadline_exceeded"),
        (vec![json, ("connect-timeout-ms", "soon")], r#"{"topic":"demo"}"#, "invalid_argument"),
        (vec![json], "{", "invalid_argument"),
        (vec![json, ("origin", "http://evil.example")], r#"{"topic":"demo"}"#, "permission_denied"),
    ] {
        let answer = server.send("POST", PUBLISH, &headers, body).await;
        assert_eq!(answer.json()["code"], code, "{headers:?} {answer:?}");
    }
    let stream = [("content-type", "application/connect+json")];
    let missing = server.send("POST", SUBSCRIBE, &stream, enveloped(0, br#"{"topic":"missing"}"#)).await;
    let (flags, end) = envelopes(&missing.body)[0];
    let end: Value = serde_json::from_slice(end).unwrap();
    assert_eq!((flags, &end["error"]["code"]), (2, &json!("not_found")));
}

#[tokio::test]
async fn a_wrong_word_on_a_method_path_says_which_are_right() {
    let server = Server::start().await;
    let wrong = server.send("POST", PUBLISH, &[("content-type", "text/plain")], "x").await;
    assert_eq!(wrong.status, 415);
    assert!(wrong.header("accept-post").contains("application/json"));
    let wrong = server.send("PUT", PUBLISH, &[("content-type", "application/json")], "{}").await;
    assert_eq!((wrong.status.as_u16(), wrong.header("allow")), (405, "POST"));
    let wrong = server.send("GET", PUBLISH, &[("content-type", "application/grpc")], "").await;
    assert_eq!((wrong.status.as_u16(), wrong.header("allow")), (405, "POST"));
    for path in ["/plexus.v1.TopicService/Nope", "/plexus.v1.Nope/Nope"] {
        let answer =
            server.send("POST", path, &[("content-type", "application/grpc")], enveloped(0, b"")).await;
        assert_eq!(answer.header("grpc-status"), "12", "{path}");
    }
}

#[tokio::test]
async fn grpc_web_calls_and_streams() {
    let server = Server::start().await;
    let web = [("content-type", "application/grpc-web+proto")];
    let body = enveloped(0, &publish("demo", "hi").encode_to_vec());
    let answer = server.send("POST", PUBLISH, &web, body.clone()).await;
    let parts = envelopes(&answer.body);
    assert_eq!(v1::Receipt::decode(parts[0].1).unwrap().position, "1-1");
    assert_eq!(web_status(&answer), "0");
    let body = enveloped(0, &publish("full", "").encode_to_vec());
    assert_eq!(web_status(&server.send("POST", PUBLISH, &web, body).await), "8");
    let follow =
        v1::SubscribeRequest { topic: "demo".into(), after: "0".into(), limit: 1, ..Default::default() };
    let answer = server.send("POST", SUBSCRIBE, &web, enveloped(0, &follow.encode_to_vec())).await;
    assert_eq!((envelopes(&answer.body).len(), web_status(&answer).as_str()), (4, "0"));
}

/// The status of a gRPC-Web answer, in its last envelope or its head.
fn web_status(answer: &Answer) -> String {
    let last =
        envelopes(&answer.body).last().filter(|(flags, _)| flags & 0x80 != 0).map(|(_, text)| text.to_vec());
    let text = String::from_utf8(last.unwrap_or_default()).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("grpc-status:"));
    line.map_or_else(|| answer.header("grpc-status").to_owned(), |l| l.trim().to_owned())
}

impl Server {
    async fn toy_publish(&self, text: &'static str) {
        let plain = ("content-type", "text/plain");
        assert_eq!(self.send("POST", "/v1/topics/demo/messages", &[plain], text).await.status, 200);
    }
}
