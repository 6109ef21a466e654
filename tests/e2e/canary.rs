//! No secret in what a process tells of itself: canaries go through every dialect while it logs everything it
//! can, and are then looked for in its log, its metrics, its errors and its traces.

use crate::{
    access::{grants, kept},
    dialects::{Client, Dialect, rpc::Rpc},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use plexus_gateway::key::{self, File};
use plexus_tests::{
    Http, eventually,
    issuer::{self, Key, claims, now, set},
    otlp::Collector,
    process::Plexus,
};
use serde_json::json;
use std::{fmt::Write, net::SocketAddr, path::PathBuf, time::Duration};

const PATIENCE: Duration = Duration::from_secs(20);
const PAYLOAD: &str = "canary-payload-canary-payload";

/// Files that go with the test.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A secret in every spelling in which it might be told.
fn spellings(secret: &[u8]) -> Vec<String> {
    let hex = data_encoding::HEXLOWER.encode(secret);
    let list = secret.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
    let mut all = vec![hex.to_uppercase(), hex, list];
    // In base64 a text within another begins at one of three places; the ends depend on what is around.
    for shift in 0..3 {
        let text = STANDARD.encode([&vec![0; shift][..], secret].concat());
        let cut = &text[4..text.len() - 4];
        all.extend([cut.to_owned(), cut.replace('+', "-").replace('/', "_")]);
    }
    all.extend(String::from_utf8(secret.to_vec()));
    all
}

#[test]
fn a_secret_is_found_in_every_spelling() {
    let found = |text: &str| spellings(b"a secret of some length").iter().any(|s| text.contains(s));
    assert!(found("x a secret of some length y"));
    for before in ["", "x", "xy", "xyz"] {
        assert!(found(&STANDARD.encode(format!("{before}a secret of some length and more"))), "{before}");
    }
    assert!(found(&format!("{:?}", b"a secret of some length")));
    assert!(!found("a secret of none"));
}

/// Publishes, reads and follows with each token in every dialect, and answers what was refused.
async fn through_every_dialect(address: SocketAddr, tokens: &[&'static str]) -> String {
    let mut told = String::new();
    for rpc in
        ["TopicService/Publish", "TopicService/GetTopic", "TopicService/Subscribe", "NodeService/GetNode"]
    {
        let rpc = Rpc::named(rpc);
        for dialect in Dialect::ALL.into_iter().filter(|d| d.takes(&rpc)) {
            for token in tokens {
                let client = Client { token: Some(token), ..Client::new(address, dialect) };
                let request = match &*rpc.name {
                    "TopicService/Publish" => json!({"topic": "canary", "text": PAYLOAD}),
                    "NodeService/GetNode" => json!({"node": "absent"}),
                    _ => json!({"topic": "canary"}),
                };
                if let Err(failure) = client.call(&rpc, &request, 1).await {
                    writeln!(told, "{failure:?}").unwrap();
                }
            }
        }
    }
    told
}

/// Shows tokens where none belongs, and answers what is said to that.
async fn where_secrets_have_no_business(address: SocketAddr, tokens: &[&'static str]) -> String {
    let mut told = String::new();
    for token in tokens {
        let lost = [
            ("authorization", format!("Basic {token}")),
            ("cookie", format!("session={token}")),
            ("x-api-key", (*token).to_owned()),
        ];
        for (name, value) in lost {
            let headers = [(name, &*value)];
            let answer = Http::new(address).send(http::Method::GET, "/v1/nodes", &headers, "").await.unwrap();
            told += &String::from_utf8_lossy(&answer.body);
        }
    }
    told
}

/// The spans of calls, once both sides have told theirs.
async fn traces(collector: &Collector) -> String {
    eventually(PATIENCE, || async {
        let text = collector.text();
        if text.contains("gateway.call") && text.contains("node.command") {
            Ok(text)
        } else {
            Err(text.len())
        }
    })
    .await
}

/// A node's key on its way in, whole and broken, and an API key on its way out; and what was answered.
async fn keys_on_their_way(operator: &Http, told: &mut String) -> (Vec<u8>, Vec<u8>, &'static str) {
    let seed = libp2p::identity::Keypair::generate_ed25519().to_protobuf_encoding().unwrap();
    let body = json!({"id": "imported", "key": {"protobuf": STANDARD.encode(&seed)}});
    *told += &operator.post("/v1/nodes", &body).await.unwrap().ok().unwrap().to_string();
    let mut broken = seed.clone();
    broken[40] ^= 1;
    let body = json!({"id": "broken", "key": {"protobuf": STANDARD.encode(&broken)}});
    *told += &String::from_utf8_lossy(&operator.post("/v1/nodes", &body).await.unwrap().body);
    let body = json!({"grants": [{"verbs": ["*"], "resources": ["**"]}]});
    let shown = operator.post("/v1/admin/api-keys", &body).await.unwrap().ok().unwrap();
    (seed, broken, kept(shown["secret"].as_str().unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_canary_is_in_logs_metrics_errors_or_traces() {
    let folder = std::env::temp_dir().join(format!("plexus-canary-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let folder = Folder(folder);
    let path = |name: &str| folder.0.join(name).to_str().unwrap().to_owned();
    let (made, jwt) = (key::make("default", grants(&[("*", "**")]), None).unwrap(), Key::new("one"));
    let ended = key::make("default", grants(&[("*", "**")]), Some("2020-01-01T00:00:00Z".into())).unwrap();
    std::fs::write(path("keys.toml"), toml::to_string(&File { keys: vec![made.line, ended.line] }).unwrap())
        .unwrap();
    std::fs::write(path("keys.json"), set(&[&jwt])).unwrap();
    let sealing: [u8; 32] = std::array::from_fn(|i| (i * 37 + 11) as u8);
    let sealing = data_encoding::HEXLOWER.encode(&sealing);
    let collector = Collector::start().await;
    let (url, keys, jwks) = (collector.url(), path("keys.toml"), path("keys.json"));
    let settings = [
        ("PLEXUS__GATEWAY__AUTH__MODE", "on"),
        ("PLEXUS__GATEWAY__AUTH__KEYS", &*keys),
        ("PLEXUS__GATEWAY__AUTH__JWT__ISSUER", issuer::ISSUER),
        ("PLEXUS__GATEWAY__AUTH__JWT__AUDIENCE", issuer::AUDIENCE),
        ("PLEXUS__GATEWAY__AUTH__JWT__KEYS", &*jwks),
        ("PLEXUS__WORKER__KEYS__KEY", &*sealing),
        ("PLEXUS__TELEMETRY__OTLP_ENDPOINT", &*url),
    ];
    let log = folder.0.join("log");
    let plexus = Plexus::logged(&log, &settings).await;
    let operator = Http::new(plexus.address).with(&*made.secret);
    let mut told = String::new();
    let (seed, broken, shown) = keys_on_their_way(&operator, &mut told).await;

    let good = jwt.token(&claims("ann", "default"));
    let mut old = claims("ann", "default");
    old["exp"] = json!(now() - 100);
    let stranger = key::make("default", grants(&[("*", "**")]), None).unwrap().secret;
    let forged = Key::new("one").token(&claims("eve", "default"));
    let tokens = [made.secret, ended.secret, shown.into(), stranger, good, jwt.token(&old), forged];
    let tokens = tokens.map(kept);
    told += &through_every_dialect(plexus.address, &tokens).await;
    told += &where_secrets_have_no_business(plexus.address, &tokens).await;
    let metrics = Http::new(plexus.admin).get("/metrics").await.unwrap().body;
    let metrics = String::from_utf8(metrics.to_vec()).unwrap();
    let traces = traces(&collector).await;
    let log = {
        let ended = tokio::task::spawn_blocking(|| plexus.terminate());
        assert_eq!(ended.await.unwrap(), Some(0));
        std::fs::read_to_string(&log).unwrap()
    };
    assert!(log.contains("TRACE") && log.len() > 100_000, "it logs: {} bytes", log.len());

    let sealing = data_encoding::HEXLOWER.decode(sealing.as_bytes()).unwrap();
    let mut canaries: Vec<(String, Vec<u8>)> = vec![
        ("the sealing key".into(), sealing),
        ("a node's key".into(), seed[4..36].to_vec()),
        ("a broken node's key".into(), broken[4..36].to_vec()),
        ("a payload".into(), PAYLOAD.into()),
    ];
    let numbered = tokens.iter().enumerate();
    canaries.extend(numbered.map(|(i, token)| (format!("token {i}"), secret_of(token).into())));
    let places = [("log", &log), ("metrics", &metrics), ("errors", &told), ("traces", &traces)];
    for (place, text) in places {
        for (name, canary) in &canaries {
            is_nowhere(name, canary, place, text);
        }
    }
}

/// The part of a credential that is secret: what stands before it is an id or a head.
fn secret_of(token: &str) -> &str {
    match token.strip_prefix("plx_") {
        Some(random) => &random[12..],
        None => token.rsplit_once('.').unwrap().1,
    }
}

fn is_nowhere(name: &str, canary: &[u8], place: &str, text: &str) {
    for spelled in spellings(canary) {
        let at = text.find(&spelled);
        let around = at.map(|at| text[..at].chars().rev().take(200).collect::<String>());
        let around = around.map(|text| text.chars().rev().collect::<String>());
        assert!(at.is_none(), "{name} is in the {place}: after {around:?}");
    }
}
