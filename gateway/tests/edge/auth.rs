//! Who may do what: one table of callers, verbs and resources through the dialects, which must agree.

use crate::{Server, client::Answer};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use plexus_gateway::{
    config::{Config, Mode},
    grant::Written,
    key::{self, File},
};
use plexus_proto::v1;
use prost::Message as _;
use serde_json::{Value, json};
use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest},
};

/// A file of keys that goes with the test.
pub(crate) struct Keys(PathBuf);

impl Drop for Keys {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// Starts an edge that knows keys of these verbs and resources, and gives their secrets.
async fn guarded(keys: &[(&str, &str)], expires: Option<String>) -> (Server, Vec<String>, Keys) {
    guarded_with(keys, expires, |_| {}).await
}

/// The same with a config that is changed further.
pub(crate) async fn guarded_with(
    keys: &[(&str, &str)],
    expires: Option<String>,
    change: impl FnOnce(&mut Config),
) -> (Server, Vec<String>, Keys) {
    let made = keys.iter().map(|(verbs, resources)| {
        let grants = vec![Written { verbs: words(verbs), resources: words(resources) }];
        key::make("default", grants, expires.clone()).unwrap()
    });
    let (secrets, keys): (Vec<_>, Vec<_>) = made.map(|m| (m.secret, m.line)).unzip();
    let path = std::env::temp_dir().join(format!("plexus-keys-{}-{}.toml", std::process::id(), keys[0].id));
    std::fs::write(&path, toml::to_string(&File { keys }).unwrap()).unwrap();
    let server = Server::with(|config| {
        config.auth.mode = Mode::On;
        config.auth.keys = path.to_str().unwrap().into();
        config.limits.session_pong_timeout = Duration::from_secs(1);
        change(config);
    })
    .await;
    (server, secrets, Keys(path))
}

/// The dialects that one request and one answer can be told in here.
const DIALECTS: [&str; 5] = ["rest", "connect", "grpc", "grpc-web", "websocket"];

/// A WebSocket session in JSON.
pub(crate) struct Session(WebSocketStream<TcpStream>);

impl Session {
    pub(crate) async fn open(server: &Server) -> Self {
        let socket = TcpStream::connect(server.addr).await.unwrap();
        let request = format!("ws://{}/v1/ws", server.addr).into_client_request().unwrap();
        Self(client_async(request, socket).await.unwrap().0)
    }

    async fn ask(&mut self, frame: Value) -> Value {
        self.0.send(Message::Text(frame.to_string().into())).await.unwrap();
        self.hear().await
    }

    /// The next frame, or the code of the close.
    pub(crate) async fn hear(&mut self) -> Value {
        let next = tokio::time::timeout(Duration::from_secs(10), self.0.next());
        match next.await.unwrap().unwrap().unwrap() {
            Message::Text(text) => serde_json::from_str(&text).unwrap(),
            Message::Close(close) => u16::from(close.unwrap().code).into(),
            other => panic!("{other:?}"),
        }
    }

    async fn show(&mut self, token: &str) -> Value {
        self.ask(json!({"auth": {"token": token}})).await
    }
}

/// Calls Publish or GetTopic and says the code of the answer.
async fn verdict(server: &Server, dialect: &str, token: Option<&str>, verb: &str, topic: &str) -> String {
    let bearer = token.map(|t| format!("Bearer {t}"));
    let mut headers: Vec<(&str, &str)> = bearer.iter().map(|b| ("authorization", b.as_str())).collect();
    let path = format!("/plexus.v1.TopicService/{verb}");
    let json = match verb {
        "Publish" => serde_json::json!({"topic": topic, "text": "x"}),
        _ => serde_json::json!({"topic": topic}),
    };
    let message = match verb {
        "Publish" => v1::PublishRequest { topic: topic.into(), ..Default::default() }.encode_to_vec(),
        _ => v1::GetTopicRequest { topic: topic.into(), ..Default::default() }.encode_to_vec(),
    };
    let framed: Bytes = [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat().into();
    match dialect {
        "rest" if verb == "Publish" => {
            headers.push(("content-type", "application/json"));
            let path = format!("/v1/topics/{topic}/messages");
            told(&server.send("POST", &path, &headers, r#"{"text":"x"}"#).await)
        }
        "rest" => told(&server.send("GET", &format!("/v1/topics/{topic}"), &headers, "").await),
        "connect" => {
            headers.push(("content-type", "application/json"));
            told(&server.send("POST", &path, &headers, json.to_string()).await)
        }
        "websocket" => {
            let mut session = Session::open(server).await;
            if let Some(token) = token
                && let close @ Value::Object(_) = &session.show(token).await["close"]
            {
                assert_eq!(close["reason"], "TOKEN_INVALID");
                return "unauthenticated".into();
            }
            let call = json!({"id": 1, "call": format!("TopicService.{verb}"), "params": json});
            let answer = session.ask(call).await;
            answer["error"]["code"].as_str().unwrap_or("ok").into()
        }
        "grpc" => {
            headers.extend([("content-type", "application/grpc"), ("te", "trailers")]);
            status(&server.http2().await.send(server, "POST", &path, &headers, framed).await)
        }
        _ => {
            headers.push(("content-type", "application/grpc-web+proto"));
            status(&server.send("POST", &path, &headers, framed).await)
        }
    }
}

fn told(answer: &Answer) -> String {
    if answer.status.is_success() {
        return "ok".into();
    }
    let asks = answer.header("www-authenticate").starts_with("Bearer realm=");
    assert_eq!(asks, answer.status == 401, "{answer:?}");
    answer.json()["code"].as_str().unwrap_or_default().into()
}

fn status(answer: &Answer) -> String {
    let body = String::from_utf8_lossy(&answer.body);
    let web =
        body.split("grpc-status:").nth(1).map(|rest| rest.trim().chars().take_while(char::is_ascii_digit));
    let header = [&answer.headers, &answer.trailers].into_iter().find_map(|h| h.get("grpc-status"));
    let code = header.map(|v| v.to_str().unwrap().to_owned()).or_else(|| web.map(Iterator::collect));
    match code.as_deref() {
        Some("0") => "ok".into(),
        Some("7") => "permission_denied".into(),
        Some("16") => "unauthenticated".into(),
        other => format!("{other:?}"),
    }
}

#[tokio::test]
async fn every_dialect_gives_the_same_verdict() {
    let grants = [
        ("*", "**"),
        ("read", "nodes/default/topics/demo.*"),
        ("Publish", "nodes/*/topics/demo.a"),
        ("write", "nodes/other"),
        ("GetTopic Publish", "nodes/default/topics/demo.b nodes/default/topics/other"),
    ];
    let (server, secrets, _keys) = guarded(&grants, None).await;
    let stranger = key::make("default", vec![Written { verbs: words("*"), resources: words("**") }], None);
    let stranger = stranger.unwrap().secret;
    let may = |who: usize, verb: &str, topic: &str| match who {
        0 => true,
        1 => verb == "GetTopic" && topic.starts_with("demo."),
        2 => verb == "Publish" && topic == "demo.a",
        4 => ["demo.b", "other"].contains(&topic),
        _ => false,
    };
    let mut rows = 0;
    for verb in ["Publish", "GetTopic"] {
        for topic in ["demo.a", "demo.b", "demo.c", "other"] {
            for dialect in DIALECTS {
                for (who, secret) in secrets.iter().enumerate() {
                    let wanted = if may(who, verb, topic) { "ok" } else { "permission_denied" };
                    let got = verdict(&server, dialect, Some(secret), verb, topic).await;
                    assert_eq!(got, wanted, "{dialect} {:?} {verb} {topic}", grants[who]);
                    rows += 1;
                }
                for token in [None, Some("plx_nonsense"), Some("a.b.c"), Some(&*stranger)] {
                    let got = verdict(&server, dialect, token, verb, topic).await;
                    assert_eq!(got, "unauthenticated", "{dialect} {verb} {topic}");
                    rows += 1;
                }
            }
        }
    }
    assert_eq!(rows, 360);
}

#[tokio::test]
async fn a_refusal_does_not_tell_whether_the_thing_is_there() {
    let (server, secrets, _keys) = guarded(&[("read", "nodes/default/topics/mine")], None).await;
    let bearer = format!("Bearer {}", secrets[0]);
    let ask = async |topic: &str| {
        let path = format!("/v1/topics/{topic}");
        let answer = server.send("GET", &path, &[("authorization", &bearer)], "").await;
        (answer.status, answer.json()["detail"].as_str().unwrap().replace(topic, "…"))
    };
    // The toy has every topic but `missing`.
    let there = ask("there").await;
    assert_eq!(there.0, 403);
    assert_eq!(there, ask("missing").await);
}

#[tokio::test]
async fn what_only_describes_is_there_for_everybody() {
    let (server, _, _keys) = guarded(&[("*", "**")], None).await;
    for path in ["/", "/openapi.json", "/asyncapi.json", "/docs"] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    for path in ["/v1/topics", "/v1/nothing", "/nothing"] {
        let answer = server.get(path).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("www-authenticate")),
            (401, "Bearer realm=\"plexus\"")
        );
        assert_eq!(answer.json()["reason"], "TOKEN_MISSING", "{path}");
    }
    let headers = [("content-type", "application/json")];
    let health = server.send("POST", "/grpc.health.v1.Health/Check", &headers, "{}").await;
    assert_eq!(health.status, 200, "{health:?}");
}

#[tokio::test]
async fn a_session_has_one_caller_whose_credentials_can_be_renewed() {
    let (server, secrets, _keys) = guarded(&[("read", "**"), ("*", "**")], None).await;
    let publish =
        |id| json!({"id": id, "call": "TopicService.Publish", "params": {"topic": "a", "text": "x"}});
    let mut session = Session::open(&server).await;
    assert_eq!(session.ask(publish(1)).await["error"]["reason"], "TOKEN_MISSING");
    let shown = session.show(&secrets[0]).await;
    assert_eq!(shown["authenticated"]["namespace"], "default", "{shown}");
    let id = shown["authenticated"]["session"].as_str().expect("a session has an id").to_owned();
    assert_eq!(session.ask(publish(2)).await["error"]["reason"], "NOT_ALLOWED");
    assert_eq!(
        session.show(&secrets[0]).await["authenticated"]["session"],
        *id,
        "also with fresh credentials"
    );
    assert_eq!(session.show(&secrets[1]).await["close"]["reason"], "TOKEN_INVALID");
    assert_eq!(session.hear().await, 3500);
}

#[tokio::test]
async fn a_session_closes_with_the_credentials_behind_it() {
    let ends = SystemTime::now() + Duration::from_secs(2);
    let ends = humantime::format_rfc3339_millis(ends).to_string();
    let (server, secrets, _keys) = guarded(&[("*", "**")], Some(ends)).await;
    let mut session = Session::open(&server).await;
    assert!(session.show(&secrets[0]).await["authenticated"]["expiresAt"].is_string());
    assert_eq!(session.hear().await["close"]["reason"], "TOKEN_EXPIRED");
    assert_eq!(session.hear().await, 3005);
}

#[tokio::test]
async fn a_stream_ends_with_the_credentials_behind_it() {
    let ends = SystemTime::now() + Duration::from_secs(2);
    let ends = humantime::format_rfc3339_millis(ends).to_string();
    let (server, secrets, _keys) = guarded(&[("*", "**")], Some(ends)).await;
    let bearer = format!("Bearer {}", secrets[0]);
    let headers = [("authorization", &*bearer), ("accept", "application/x-ndjson")];
    let answer = server.send("GET", "/v1/topics/demo/messages", &headers, "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(String::from_utf8_lossy(&answer.body).contains("TOKEN_EXPIRED"), "{answer:?}");
    let late = server.send("GET", "/v1/topics/demo", &headers[..1], "").await;
    assert_eq!((late.status.as_u16(), &late.json()["reason"]), (401, &"TOKEN_EXPIRED".into()));
}
