//! Who may do what: one table of callers, verbs and resources through every dialect, which must agree; tokens
//! that must not come in; and what a namespace hears of another. None of it depends on the bus.

use crate::{
    access::{Guarded, grants, kept},
    dialects::{Client, Dialect, rpc::Rpc},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::{StreamExt, stream};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use plexus_gateway::key::{self, File};
use plexus_tests::{
    Http, eventually,
    issuer::{self, Mood, claims, now, set},
};
use serde_json::{Value, json};
use std::{net::SocketAddr, time::Duration};

const PATIENCE: Duration = Duration::from_secs(20);
/// Calls of the tables at once.
const ABREAST: usize = 8;

/// Asks in one dialect: `ok`, or code and reason. What is refused for other causes than the caller is `ok`.
async fn verdict(client: Client, rpc: &Rpc, request: &Value) -> String {
    match client.call(rpc, request, 1).await {
        Ok(_) => "ok".into(),
        Err(f) if ["permission_denied", "unauthenticated", "unavailable"].contains(&&*f.code) => f.reason,
        Err(_) => "ok".into(),
    }
}

/// Asks in every dialect of the method's kind; all must agree. Answers how many there were.
async fn agreed(
    address: SocketAddr,
    token: Option<&'static str>,
    row: (&Rpc, &Value),
    wanted: &str,
) -> usize {
    let (rpc, request) = row;
    let mut asked = 0;
    for dialect in Dialect::ALL.into_iter().filter(|d| d.takes(rpc)) {
        let client = Client { token, ..Client::new(address, dialect) };
        let got = verdict(client, rpc, request).await;
        assert_eq!(got, wanted, "{dialect:?} {} {request} by {token:?}", rpc.name);
        asked += 1;
    }
    asked
}

/// Whether a caller with these grants may call a method on a resource, told without the code that decides it.
fn may(grants: &[(&str, &str)], verb: &str, safe: bool, resource: &str) -> bool {
    let verbs = |words: &str| {
        words.split(',').any(|w| w == "*" || w == verb || (w == "read" && safe) || (w == "write" && !safe))
    };
    let covers = |patterns: &str| patterns.split(',').any(|p| glob(p, resource));
    grants.iter().any(|(words, patterns)| verbs(words) && covers(patterns))
}

/// Tells whether a pattern without inner `**` covers a resource or what is above it.
fn glob(pattern: &str, resource: &str) -> bool {
    let part = |pattern: &str, part: &str| match pattern.split_once('*') {
        // A star of the resource is everything there is.
        _ if part == "*" => pattern == "*",
        Some((before, after)) => {
            part.len() >= before.len() + after.len() && part.starts_with(before) && part.ends_with(after)
        }
        None => pattern == part,
    };
    let (patterns, parts): (Vec<_>, Vec<_>) = (pattern.split('/').collect(), resource.split('/').collect());
    pattern == "**"
        || (patterns.len() <= parts.len() && patterns.iter().zip(&parts).all(|(pattern, p)| part(pattern, p)))
}

/// Methods, requests, and the resource that each names.
fn deeds() -> Vec<(Rpc, Value, String)> {
    let mut deeds = Vec::new();
    for topic in ["demo.a", "demo.b", "other", "deep/er é"] {
        let named = topic.replace('/', "%2F");
        for (method, beneath) in [
            ("TopicService/GetTopic", ""),
            ("TopicService/Publish", "/messages"),
            ("TopicService/ListMessages", "/messages"),
            ("TopicService/Subscribe", "/messages"),
            ("TopicService/ListTopicPeers", "/peers"),
        ] {
            let of = format!("nodes/default/topics/{named}{beneath}");
            deeds.push((Rpc::named(method), json!({"node": "default", "topic": topic}), of));
        }
    }
    let (nothing, alpha) = (json!({}), json!({"node": "alpha"}));
    for (method, request, of) in [
        ("TopicService/ListTopics", json!({"node": "default"}), "nodes/default/topics"),
        ("NodeService/GetNode", alpha.clone(), "nodes/alpha"),
        ("NodeService/ListNodes", nothing.clone(), "nodes"),
        ("NodeService/WatchNodes", nothing.clone(), "nodes"),
        ("PeerService/ListBlocks", alpha.clone(), "nodes/alpha/blocks"),
        ("AdminService/ListApiKeys", nothing.clone(), "admin/api-keys"),
        ("AdminService/ListWorkers", nothing.clone(), "admin/workers"),
        ("AdminService/GetWorker", json!({"worker": "w"}), "admin/workers/w"),
        ("AdminService/DrainWorker", json!({"worker": "w"}), "admin/workers/w"),
        ("AdminService/ListGateways", nothing.clone(), "admin/gateways"),
        ("NodeService/MoveNode", json!({"node": "alpha", "worker": "w"}), "nodes/alpha"),
        ("NodeService/ExplainPlacement", alpha.clone(), "nodes/alpha/placement"),
        ("AdminService/DeleteRevocation", json!({"revocation": "7"}), "admin/revocations/7"),
    ] {
        deeds.push((Rpc::named(method), request, of.into()));
    }
    deeds
}

#[tokio::test(flavor = "multi_thread")]
async fn every_dialect_gives_the_same_verdict() {
    let guarded = Guarded::start(1).await;
    let address = guarded.gateways[0];
    let rights: [&[(&str, &str)]; 9] = [
        &[("*", "**")],
        &[("read", "**")],
        &[("write", "nodes/default")],
        &[("read", "nodes/default/topics/demo.*")],
        &[("Publish", "nodes/*/topics/demo.a")],
        &[("GetTopic,Publish,Subscribe", "nodes/default/topics/demo.b,nodes/default/topics/other")],
        &[("read", "nodes/default/topics/deep%2F*"), ("*", "nodes/alpha/blocks")],
        &[("*", "admin")],
        &[("ListNodes,WatchNodes", "nodes"), ("GetNode", "nodes/al*")],
    ];
    let mut file = std::fs::read_to_string(&guarded.file).unwrap();
    let mut add = |rights: &[(&str, &str)], expires: Option<&str>| {
        let made = key::make("default", grants(rights), expires.map(str::to_owned)).unwrap();
        file.push_str(&toml::to_string(&File { keys: vec![made.line.clone()] }).unwrap());
        (made.line.id, kept(made.secret))
    };
    let callers = rights.map(|rights| (rights, add(rights, None).1));
    let expired = add(&[("*", "**")], Some("2020-01-01T00:00:00Z")).1;
    let (revoked_id, revoked) = add(&[("*", "**")], None);
    std::fs::write(&guarded.file, &file).unwrap();
    let admin = guarded.admin();
    admin.post("/v1/admin/revocations", &json!({"tokenId": revoked_id})).await.unwrap().ok().unwrap();
    admin.post("/v1/nodes", &json!({"id": "alpha"})).await.unwrap().ok().unwrap();
    admin.get("/v1/nodes/default").await.unwrap().ok().unwrap();
    eventually(PATIENCE, || async {
        let answer = Http::new(address).with(revoked).get("/v1/nodes").await.unwrap().json();
        if answer["reason"] == "TOKEN_REVOKED" { Ok(()) } else { Err(answer) }
    })
    .await;
    let unknown = kept(key::make("default", grants(&[("*", "**")]), None).unwrap().secret);
    let strangers = [
        (None, "TOKEN_MISSING"),
        (Some("plx_nonsense"), "TOKEN_INVALID"),
        (Some(unknown), "TOKEN_INVALID"),
        (Some(expired), "TOKEN_EXPIRED"),
        (Some(revoked), "TOKEN_REVOKED"),
    ];
    let (mut rows, deeds) = (Vec::new(), deeds());
    for (rpc, request, of) in &deeds {
        let verb = rpc.name.split_once('/').unwrap().1;
        for (rights, token) in callers {
            let wanted = if may(rights, verb, rpc.safe, of) { "ok" } else { "NOT_ALLOWED" };
            rows.push((Some(token), (rpc, request), wanted));
        }
        rows.extend(strangers.map(|(token, wanted)| (token, (rpc, request), wanted)));
    }
    assert!(rows.len() >= 300, "{}", rows.len());
    assert!(rows.iter().filter(|(.., wanted)| *wanted == "ok").count() > 60, "some may");
    let cells = stream::iter(rows).map(|(token, row, wanted)| agreed(address, token, row, wanted));
    let cells = cells.buffer_unordered(ABREAST).fold(0, async |sum, n| sum + n).await;
    assert!(cells > 2_500, "{cells} calls");
}

/// Tokens that must not come in, each with what is wrong with it.
type Hostile = Vec<(&'static str, String)>;

fn write(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// Heads of which none is good: the signature belongs to another one, and none may get so far.
fn hostile_heads(key: &issuer::Key) -> Hostile {
    let token = key.token(&claims("eve", "default"));
    let rest = token.split_once('.').unwrap().1;
    let heads = [
        ("alg none", r#"{"alg":"none","typ":"JWT","kid":"one"}"#),
        ("alg None", r#"{"alg":"None","typ":"JWT","kid":"one"}"#),
        ("alg empty", r#"{"alg":"","typ":"JWT","kid":"one"}"#),
        ("alg missing", r#"{"typ":"JWT","kid":"one"}"#),
        ("alg a list", r#"{"alg":["ES256"],"typ":"JWT","kid":"one"}"#),
        ("alg twice", r#"{"alg":"ES256","alg":"none","typ":"JWT","kid":"one"}"#),
        ("alg of another curve", r#"{"alg":"ES384","typ":"JWT","kid":"one"}"#),
        ("alg of another family", r#"{"alg":"RS256","typ":"JWT","kid":"one"}"#),
        ("alg PS256", r#"{"alg":"PS256","typ":"JWT","kid":"rsa"}"#),
        ("kid missing", r#"{"alg":"ES256","typ":"JWT"}"#),
        ("kid unknown", r#"{"alg":"ES256","typ":"JWT","kid":"two"}"#),
        ("kid a path", r#"{"alg":"ES256","typ":"JWT","kid":"../../../dev/null"}"#),
        ("kid SQL", r#"{"alg":"ES256","typ":"JWT","kid":"x' UNION SELECT 'key"}"#),
        ("kid a command", r#"{"alg":"ES256","typ":"JWT","kid":"|/bin/true"}"#),
        ("kid of an encryption key", r#"{"alg":"ES256","typ":"JWT","kid":"enc"}"#),
        ("typ missing", r#"{"alg":"ES256","kid":"one"}"#),
        ("typ of another kind", r#"{"alg":"ES256","typ":"logout+jwt","kid":"one"}"#),
        ("crit", r#"{"alg":"ES256","typ":"JWT","kid":"one","crit":["b64"],"b64":false}"#),
        ("jku", r#"{"alg":"ES256","typ":"JWT","kid":"evil","jku":"http://127.0.0.1:1/keys"}"#),
        ("x5u", r#"{"alg":"ES256","typ":"JWT","kid":"evil","x5u":"http://127.0.0.1:1/x"}"#),
        ("zip", r#"{"alg":"ES256","typ":"JWT","kid":"one","zip":"DEF"}"#),
        ("encrypted", r#"{"alg":"RSA-OAEP","enc":"A256GCM","typ":"JWT","kid":"rsa"}"#),
        ("head no object", "[]"),
        ("head no JSON", "{"),
    ];
    heads.map(|(name, text)| (name, format!("{}.{rest}", write(text)))).into()
}

/// Signatures of which none is the issuer's.
fn hostile_signatures(key: &issuer::Key) -> Hostile {
    let good = claims("eve", "default");
    let token = key.token(&good);
    let (head, rest) = token.split_once('.').unwrap();
    let (payload, signature) = rest.split_once('.').unwrap();
    let mut all = Hostile::new();
    let own = issuer::Key::new("one");
    let embedded = format!(r#"{{"alg":"ES256","typ":"JWT","kid":"evil","jwk":{}}}"#, own.jwk());
    all.push(("jwk embedded", format!("{}.{payload}.{signature}", write(&embedded))));
    all.push(("a key of the same name", own.token(&good)));
    all.push(("no signature", format!("{head}.{payload}.")));
    all.push(("no signature part", format!("{head}.{payload}")));
    all.push(("another signature", format!("{head}.{payload}.{}", write("x".repeat(64).as_str()))));
    all.push(("a signature of zeros", format!("{head}.{payload}.{}", URL_SAFE_NO_PAD.encode([0; 64]))));
    all.push(("a part more", format!("{token}.x")));
    let padded = format!("{head}.{payload}=.{signature}");
    all.push(("padding", padded));
    let mut other = good.clone();
    other["sub"] = json!("root");
    let forged = write(&other.to_string());
    all.push(("claims exchanged", format!("{head}.{forged}.{signature}")));
    // The public key as a shared secret.
    let pem = key.pem();
    for (name, secret) in [("HS256 by the EC key", pem.as_bytes()), ("HS256 by the RSA key", RSA.as_bytes())]
    {
        for kid in ["one", "rsa"] {
            let head =
                Header { kid: Some(kid.into()), typ: Some("JWT".into()), ..Header::new(Algorithm::HS256) };
            all.push((name, jsonwebtoken::encode(&head, &good, &EncodingKey::from_secret(secret)).unwrap()));
        }
    }
    let twice = format!("{},\"sub\":\"root\"}}", good.to_string().trim_end_matches('}').to_owned() + "}}");
    all.push(("claims twice", format!("{head}.{}.{signature}", write(&twice))));
    all.push(("huge", "x".repeat(9000)));
    all.push(("dots", ".".repeat(100)));
    all
}

/// Claims of which none is good, well signed.
fn hostile_claims(key: &issuer::Key) -> Hostile {
    let good = claims("eve", "default");
    let mut all = Hostile::new();
    let changes: Vec<(&str, &str, Value)> = vec![
        ("expired", "exp", json!(now() - 31)),
        ("exp as text", "exp", json!((now() + 600).to_string())),
        ("exp nothing", "exp", Value::Null),
        ("exp negative", "exp", json!(-1)),
        ("exp endless", "exp", json!(1e300)),
        ("exp too far", "exp", json!(now() + 10 * 24 * 3600)),
        ("nbf to come", "nbf", json!(now() + 120)),
        ("iat to come", "iat", json!(now() + 3600)),
        ("iss of another", "iss", json!("https://evil.example")),
        ("iss longer", "iss", json!(format!("{}.evil", issuer::ISSUER))),
        ("iss several", "iss", json!([issuer::ISSUER, "https://evil.example"])),
        ("aud of another", "aud", json!("somebody")),
        ("aud nobody", "aud", json!([])),
        ("sub empty", "sub", json!("")),
        ("sub long", "sub", json!("x".repeat(300))),
        ("sub a number", "sub", json!(7)),
        ("sub of an API key", "sub", json!("key:0123456789abcdef")),
        ("jti long", "jti", json!("x".repeat(300))),
        ("claims of ours unknown", "plexus", json!({"namespace": "default", "grants": [], "admin": true})),
        ("namespace missing", "plexus", json!({"grants": []})),
        ("namespace a path", "plexus", json!({"namespace": "default/../other", "grants": []})),
        ("grants as text", "plexus", json!({"namespace": "default", "grants": "*"})),
        (
            "grants broken",
            "plexus",
            json!({"namespace": "default", "grants": [{"verbs": [], "resources": ["**"]}]}),
        ),
    ];
    for (name, field, value) in changes {
        let mut claims = good.clone();
        claims[field] = value;
        all.push((name, key.token(&claims)));
    }
    for field in ["iss", "aud", "sub", "exp", "plexus"] {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().remove(field);
        all.push(("a claim missing", key.token(&claims)));
    }
    all
}

/// A public key that nobody has the private half of any more.
const RSA: &str = "-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAwWfE7xjg0x2hj5D7qO7L
3EmeKIiL5EOQVpwGcfAT+vNtBJU1rj18JvJvU1XtJ5tap/tqTcKlt9U3bFc0lr56
IjhSqVf6ajs8e5MO8g9pZvu/I4trOyYLJ0pxmFaV1PiTs49Lk+/UxmYSXkQMxy6R
9K8qYx9cyKyQeApBkTcu5g/u0rXVp3ZcRjUODPyA0HpblYQ33PuJhKxYjJ/wv9si
tF5tj/Cw1Ovw8EXgVqA5X6Rpzc3T6T4m/wbFAwUtxc53+rVVHA1GHwLs6cl9OmXs
7gHHS6PK6dKO9icaZZAc9wve6/DQZUnibjWcbJqFrShg/hZOKcAW1mvvCuFL75Di
bwIDAQAB
-----END PUBLIC KEY-----
";
/// The same as a JSON Web Key has it.
const MODULUS: &str = "wWfE7xjg0x2hj5D7qO7L3EmeKIiL5EOQVpwGcfAT-vNtBJU1rj18JvJvU1XtJ5tap_tqTcKlt9U3bFc0lr56IjhSqVf6ajs8e5MO8g9pZvu_I4trOyYLJ0pxmFaV1PiTs49Lk-_UxmYSXkQMxy6R9K8qYx9cyKyQeApBkTcu5g_u0rXVp3ZcRjUODPyA0HpblYQ33PuJhKxYjJ_wv9sitF5tj_Cw1Ovw8EXgVqA5X6Rpzc3T6T4m_wbFAwUtxc53-rVVHA1GHwLs6cl9OmXs7gHHS6PK6dKO9icaZZAc9wve6_DQZUnibjWcbJqFrShg_hZOKcAW1mvvCuFL75Dibw";

#[tokio::test(flavor = "multi_thread")]
async fn hostile_tokens_are_refused_alike_in_every_dialect() {
    let guarded = Guarded::start(1).await;
    let address = guarded.gateways[0];
    let rsa = |kid: &str, purpose: &str, alg: &str| json!({"kid": kid, "kty": "RSA", "use": purpose, "alg": alg, "n": MODULUS, "e": "AQAB"});
    let keys = [guarded.key.jwk(), rsa("rsa", "sig", "RS256"), rsa("enc", "enc", "RSA-OAEP")];
    guarded.issuer.set(Mood::Tells(json!({"keys": keys}).to_string().into()));
    let asked = guarded.issuer.asked();
    eventually(PATIENCE, || async { if guarded.issuer.asked() > asked + 1 { Ok(()) } else { Err(()) } })
        .await;
    let (get, follow) = (Rpc::named("NodeService/ListNodes"), Rpc::named("TopicService/Subscribe"));
    let topic = json!({"topic": "demo"});
    let good = guarded.token("ann", "default");
    agreed(address, Some(good), (&get, &json!({})), "ok").await;
    agreed(address, Some(good), (&follow, &topic), "ok").await;
    let key = &guarded.key;
    let hostile = [hostile_heads(key), hostile_signatures(key), hostile_claims(key)].concat();
    assert!(hostile.len() >= 40, "{}", hostile.len());
    let mut rows = Vec::new();
    for (name, token) in &hostile {
        let wanted = if *name == "expired" { "TOKEN_EXPIRED" } else { "TOKEN_INVALID" };
        let token = Some(kept(token.clone()));
        rows.push((token, (&get, json!({})), wanted));
        rows.push((token, (&follow, topic.clone()), wanted));
    }
    let nothing = json!({});
    let cells = stream::iter(rows).map(|(token, (rpc, request), wanted)| async move {
        agreed(address, token, (rpc, &request), wanted).await
    });
    let cells = cells.buffer_unordered(ABREAST).fold(0, async |sum, n| sum + n).await;
    assert!(cells > 900, "{cells} calls");
    agreed(address, Some(good), (&get, &nothing), "ok").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keys_of_an_issuer_are_kept_while_it_fails_and_follow_it_when_it_changes() {
    let guarded = Guarded::start(1).await;
    let address = guarded.gateways[0];
    let is = async |token: &str, wanted: &str| {
        eventually(PATIENCE, || async {
            let answer = Http::new(address).with(token).get("/v1/nodes").await.unwrap().json();
            let got = answer["reason"].as_str().unwrap_or("ok").to_owned();
            if got == wanted { Ok(()) } else { Err(got) }
        })
        .await;
    };
    let asked = async |more: usize| {
        let before = guarded.issuer.asked();
        eventually(PATIENCE, || async {
            let now = guarded.issuer.asked();
            if now >= before + more { Ok(()) } else { Err(now) }
        })
        .await;
    };
    let old = guarded.token("ann", "default");
    is(old, "ok").await;
    let key = issuer::Key::new("two");
    let new = key.token(&claims("ann", "default"));
    is(&new, "TOKEN_INVALID").await;
    let failures = [
        Mood::Fails(http::StatusCode::INTERNAL_SERVER_ERROR),
        Mood::Fails(http::StatusCode::FOUND),
        Mood::Tells("[]".into()),
        Mood::Tells(json!({"keys": [{"kty": "oct", "kid": "a", "k": "c2VjcmV0"}]}).to_string().into()),
        Mood::Tells(vec![b' '; 50 << 20].into()),
    ];
    for mood in failures {
        guarded.issuer.set(mood);
        asked(2).await;
        is(old, "ok").await;
    }
    guarded.issuer.set(Mood::Tells(set(&[&guarded.key, &key]).into()));
    is(&new, "ok").await;
    is(old, "ok").await;
    guarded.issuer.set(Mood::Tells(set(&[&key]).into()));
    is(old, "TOKEN_INVALID").await;
    // Silence delays nobody.
    guarded.issuer.set(Mood::Silent);
    asked(1).await;
    is(&new, "ok").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_starts_while_its_issuer_is_silent_and_says_that_it_does_not_know_yet() {
    let key = issuer::Key::new("one");
    let silent = issuer::Issuer::start(&[&key]).await;
    silent.set(Mood::Fails(http::StatusCode::SERVICE_UNAVAILABLE));
    let mut cluster = plexus_tests::Cluster::of(0, 1).await;
    let url = silent.url();
    let address = cluster.add_gateway_with(|config| {
        config.auth.mode = plexus_gateway::config::Mode::On;
        config.auth.jwt.issuer = issuer::ISSUER.into();
        config.auth.jwt.audience = issuer::AUDIENCE.into();
        config.auth.jwt.keys = url;
    });
    let address = address.await;
    let token = key.token(&claims("ann", "default"));
    let answer = Http::new(address).with(&*token).get("/v1/nodes").await.unwrap();
    assert_eq!(answer.status, 503, "{answer:?}");
    silent.set(Mood::Tells(set(&[&key]).into()));
    eventually(PATIENCE, || async { Http::new(address).with(&*token).get("/v1/nodes").await.unwrap().ok() })
        .await;
}

/// Calls that name something of another namespace, or of none.
fn asks((node, peer, key): (&str, &str, &str)) -> Vec<(&'static str, Value)> {
    vec![
        ("NodeService/GetNode", json!({"node": node})),
        ("NodeService/GetNode", json!({"node": peer})),
        ("NodeService/GetIdentity", json!({"node": node})),
        ("NodeService/UpdateNode", json!({"node": node, "spec": {"labels": {"a": "b"}}})),
        ("NodeService/StopNode", json!({"node": node})),
        ("NodeService/ExplainPlacement", json!({"node": node})),
        ("TopicService/GetTopic", json!({"node": node, "topic": "secret"})),
        ("TopicService/ListMessages", json!({"node": node, "topic": "secret"})),
        ("TopicService/Publish", json!({"node": node, "topic": "secret", "text": "x"})),
        ("TopicService/Subscribe", json!({"node": node, "topic": "secret"})),
        ("TopicService/Subscribe", json!({"node": peer, "topic": "secret"})),
        ("PeerService/ListPeers", json!({"node": node})),
        ("PeerService/ListBlocks", json!({"node": node})),
        ("AdminService/DeleteApiKey", json!({"api_key": key})),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_hears_nothing_of_another() {
    let guarded = Guarded::start(1).await;
    let address = guarded.gateways[0];
    let (ours, theirs) = (guarded.token("ann", "ours"), guarded.token("bob", "theirs"));
    let own = Http::new(address).with(theirs);
    let node = own.post("/v1/nodes", &json!({"id": "hidden"})).await.unwrap().ok().unwrap();
    let peer = node["peerId"].as_str().unwrap().to_owned();
    own.post("/v1/nodes/hidden/topics/secret/messages", &json!({"text": "x"})).await.unwrap().ok().unwrap();
    let (id, _) =
        guarded.make(json!({"namespace": "theirs", "grants": [{"verbs": ["*"], "resources": ["**"]}]})).await;
    let revoked = json!({"namespace": "theirs", "subject": "nobody"});
    let revoked = guarded.admin().post("/v1/admin/revocations", &revoked).await.unwrap().ok().unwrap();
    let revoked = revoked["revocation"].as_str().unwrap();
    // What is there in another namespace, and what is nowhere.
    let nowhere = ("absent", "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA", "0123456789abcdef");
    let there = ("hidden", &*peer, &*id);
    for ((method, foreign), (_, absent)) in asks(there).into_iter().zip(asks(nowhere)) {
        let rpc = Rpc::named(method);
        for dialect in Dialect::ALL.into_iter().filter(|d| d.takes(&rpc)) {
            let client = Client { token: Some(ours), ..Client::new(address, dialect) };
            let one = client.call(&rpc, &foreign, 1).await.expect_err("it is not there");
            let other = client.call(&rpc, &absent, 1).await.expect_err("it is nowhere");
            assert_eq!(one.told(), other.told(), "{method} in {dialect:?}");
            let names = |failure: &crate::dialects::rpc::Failure| {
                failure.metadata.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>()
            };
            assert_eq!(names(&one), names(&other), "{method} in {dialect:?}");
        }
    }
    // The words of the refusal are the same too.
    let outsider = Http::new(address).with(ours);
    for (there, nowhere) in [("hidden", "absent"), (&*peer, nowhere.1)] {
        let told = async |name: &str| {
            let answer = outsider.get(&format!("/v1/nodes/{name}")).await.unwrap();
            (answer.status, answer.json()["detail"].to_string().replace(name, "…"))
        };
        assert_eq!(told(there).await, told(nowhere).await);
    }
    // Lists, in every dialect, and lifting what belongs to others does nothing.
    for method in ["NodeService/ListNodes", "AdminService/ListApiKeys", "AdminService/ListRevocations"] {
        let rpc = Rpc::named(method);
        for dialect in Dialect::ALL.into_iter().filter(|d| d.takes(&rpc)) {
            let client = Client { token: Some(ours), ..Client::new(address, dialect) };
            let answer = client.call(&rpc, &json!({}), 1).await.unwrap().remove(0).to_string();
            for name in ["hidden", &peer, &id, revoked, "theirs"] {
                assert!(!answer.contains(name), "{method} in {dialect:?}: {answer}");
            }
        }
    }
    // The fleet is the operators' to see.
    for (method, request) in [
        ("AdminService/ListWorkers", json!({})),
        ("AdminService/GetWorker", json!({"worker": "worker-1"})),
        ("AdminService/DrainWorker", json!({"worker": "worker-1"})),
        ("AdminService/ListGateways", json!({})),
        ("NodeService/MoveNode", json!({"node": "hidden"})),
    ] {
        agreed(address, Some(ours), (&Rpc::named(method), &request), "NOT_ALLOWED").await;
    }
    outsider.delete(&format!("/v1/admin/revocations/{revoked}")).await.unwrap().ok().unwrap();
    let left = guarded.admin().get("/v1/admin/revocations").await.unwrap().ok().unwrap();
    assert_eq!(left["revocations"][0]["revocation"], revoked);
    // The same name is two nodes.
    outsider.post("/v1/nodes", &json!({"id": "hidden"})).await.unwrap().ok().unwrap();
    assert_ne!(outsider.get("/v1/nodes/hidden").await.unwrap().json()["peerId"], *peer);
}
