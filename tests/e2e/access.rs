//! Keys and revocations of a fleet: made on one gateway, they hold on every other within 2 s, also for what is
//! open.

use crate::dialects::{
    Client, Dialect,
    rpc::Rpc,
    ws::{Heard, Session},
};
use futures::{StreamExt, future::join_all};
use plexus_gateway::{
    config::Mode,
    grant::Written,
    key::{self, File},
};
use plexus_tests::{
    Cluster, Http, eventually,
    issuer::{self, Issuer, Key, Mood},
};
use serde_json::{Value, json};
use std::{net::SocketAddr, path::PathBuf, time::Duration};

const PATIENCE: Duration = Duration::from_secs(20);

/// Gateways with auth on, an operator, and an issuer.
pub(crate) struct Guarded {
    pub(crate) cluster: Cluster,
    pub(crate) gateways: Vec<SocketAddr>,
    pub(crate) operator: &'static str,
    pub(crate) key: Key,
    pub(crate) issuer: Issuer,
    pub(crate) file: PathBuf,
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

/// A text that lives as long as the tests.
pub(crate) fn kept(text: impl Into<String>) -> &'static str {
    Box::leak(text.into().into_boxed_str())
}

pub(crate) fn grants(list: &[(&str, &str)]) -> Vec<Written> {
    let words = |text: &str| text.split(',').map(str::to_owned).collect();
    list.iter().map(|(verbs, of)| Written { verbs: words(verbs), resources: words(of) }).collect()
}

impl Guarded {
    pub(crate) async fn start(gateways: usize) -> Self {
        let made = key::make("default", grants(&[("*", "**")]), None).unwrap();
        let file = std::env::temp_dir().join(format!("plexus-{}-{}.toml", std::process::id(), made.line.id));
        std::fs::write(&file, toml::to_string(&File { keys: vec![made.line] }).unwrap()).unwrap();
        let key = Key::new("one");
        let issuer = Issuer::start(&[&key]).await;
        let mut cluster = Cluster::of(0, 1).await;
        let mut addresses = Vec::new();
        for _ in 0..gateways {
            let address = cluster.add_gateway_with(|config| {
                config.auth.mode = Mode::On;
                config.auth.keys = file.to_str().unwrap().into();
                config.auth.reload_interval = Duration::from_millis(100);
                config.auth.jwt.issuer = issuer::ISSUER.into();
                config.auth.jwt.audience = issuer::AUDIENCE.into();
                config.auth.jwt.keys = issuer.url();
                config.auth.jwt.refresh_interval = Duration::from_millis(300);
            });
            addresses.push(address.await);
        }
        Self { cluster, gateways: addresses, operator: kept(made.secret), key, issuer, file }
    }

    /// The operator at the first gateway.
    pub(crate) fn admin(&self) -> Http {
        Http::new(self.gateways[0]).with(self.operator)
    }

    /// A token of the issuer.
    pub(crate) fn token(&self, subject: &str, namespace: &str) -> &'static str {
        kept(self.key.token(&issuer::claims(subject, namespace)))
    }

    /// Makes an API key at the first gateway; its id and itself.
    pub(crate) async fn make(&self, body: Value) -> (String, &'static str) {
        let made = self.admin().post("/v1/admin/api-keys", &body).await.unwrap().ok().unwrap();
        (made["apiKey"].as_str().unwrap().into(), kept(made["secret"].as_str().unwrap()))
    }
}

/// What a call at a gateway comes to.
async fn reason(address: SocketAddr, token: &str) -> String {
    let answer = Http::new(address).with(token).get("/v1/nodes").await.unwrap();
    answer.json()["reason"].as_str().unwrap_or("ok").into()
}

async fn becomes(address: SocketAddr, token: &str, wanted: &str) {
    eventually(PATIENCE, || async {
        let got = reason(address, token).await;
        if got == wanted { Ok(()) } else { Err(got) }
    })
    .await;
}

fn everything() -> Value {
    json!([{"verbs": ["*"], "resources": ["**"]}])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_one_gateway_opens_every_other_until_it_is_removed() {
    let guarded = Guarded::start(2).await;
    let (id, secret) = guarded.make(json!({"namespace": "team", "grants": everything()})).await;
    for address in &guarded.gateways {
        becomes(*address, secret, "ok").await;
    }
    let listed = guarded.admin().get("/v1/admin/api-keys?namespace=team").await.unwrap().ok().unwrap();
    assert_eq!(listed["apiKeys"][0]["apiKey"], *id);
    assert!(!listed.to_string().contains(secret) && listed["apiKeys"][0].get("secret").is_none());
    let path = format!("/v1/admin/api-keys/{id}");
    guarded.admin().delete(&path).await.unwrap().ok().unwrap();
    for address in &guarded.gateways {
        becomes(*address, secret, "TOKEN_INVALID").await;
    }
    let again = guarded.admin().delete(&path).await.unwrap();
    assert_eq!((again.status.as_u16(), &again.json()["reason"]), (404, &json!("API_KEY_NOT_FOUND")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_says_in_which_minute_it_was_last_used_on_any_gateway() {
    let guarded = Guarded::start(2).await;
    let (id, secret) = guarded.make(json!({"grants": everything()})).await;
    let key = || async {
        let listed = guarded.admin().get("/v1/admin/api-keys").await.unwrap().ok().unwrap();
        listed["apiKeys"].as_array().unwrap().iter().find(|key| key["apiKey"] == *id).unwrap().clone()
    };
    assert!(key().await.get("lastUsedAt").is_none(), "nobody used it");
    becomes(guarded.gateways[1], secret, "ok").await;
    let at = eventually(PATIENCE, || async {
        let key = key().await;
        key["lastUsedAt"].as_str().map(str::to_owned).ok_or(key)
    });
    let at = at.await;
    assert!(at.ends_with(":00Z"), "{at}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_shown_once_also_to_who_repeats_the_call() {
    let guarded = Guarded::start(1).await;
    let body = json!({"grants": everything(), "requestId": "r1", "description": "for the test"});
    let (id, secret) = guarded.make(body.clone()).await;
    assert!(secret.starts_with("plx_"));
    let again = guarded.admin().post("/v1/admin/api-keys", &body).await.unwrap().ok().unwrap();
    assert_eq!(again["apiKey"], *id);
    assert!(again.get("secret").is_none(), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_ends_what_is_open_on_every_gateway_and_in_every_dialect() {
    let mut guarded = Guarded::start(2).await;
    let (id, secret) = guarded.make(json!({"grants": everything()})).await;
    let (ann, bob) = (guarded.token("ann", "default"), guarded.token("bob", "default"));
    becomes(guarded.gateways[1], secret, "ok").await;
    let subscribe = Rpc::named("TopicService/Subscribe");
    let mut open = Vec::new();
    for (token, dies) in [(secret, true), (ann, true), (bob, false)] {
        for dialect in Dialect::ALL.into_iter().filter(|d| d.takes(&subscribe)) {
            let client = Client { token: Some(token), ..Client::new(guarded.gateways[1], dialect) };
            let mut answers = client.open(&subscribe, &json!({"topic": "demo"})).await.unwrap();
            answers.next().await.expect("a start").unwrap();
            open.push((answers, dialect, dies));
        }
    }
    assert_eq!(open.len(), 24);
    let mut session = Session::open(guarded.gateways[1], None).await;
    session.show(ann).await.unwrap();
    let admin = guarded.admin();
    let revoke = |body: Value| {
        let admin = admin.clone();
        async move { admin.post("/v1/admin/revocations", &body).await.unwrap().ok().unwrap() }
    };
    revoke(json!({"tokenId": id})).await;
    let of_ann = revoke(json!({"subject": "ann", "comment": "left"})).await;
    let ends = open.iter_mut().filter(|(_, _, dies)| *dies).map(|(answers, dialect, _)| async move {
        let end = tokio::time::timeout(PATIENCE, answers.next()).await.expect("it ends");
        let failure = end.expect("an end is told").unwrap_err();
        assert_eq!((&*failure.code, &*failure.reason), ("unauthenticated", "TOKEN_REVOKED"), "{dialect:?}");
    });
    join_all(ends).await;
    let close = session.hear().await.1;
    assert!(
        matches!(&close, Heard::Close { code: 3503, reason, .. } if reason == "TOKEN_REVOKED"),
        "{close:?}"
    );
    assert_eq!(session.hear().await.1, Heard::Closed(Some(3503)));
    for address in guarded.gateways.clone() {
        becomes(address, secret, "TOKEN_REVOKED").await;
        becomes(address, ann, "TOKEN_REVOKED").await;
        assert_eq!(reason(address, bob).await, "ok");
    }
    // Who was not meant reads on.
    let publish = Http::new(guarded.gateways[0]).with(bob);
    publish.post("/v1/topics/demo/messages", &json!({"text": "hello"})).await.unwrap().ok().unwrap();
    for (answers, dialect, _) in open.iter_mut().filter(|(_, _, dies)| !*dies) {
        let next = tokio::time::timeout(PATIENCE, answers.next()).await.expect("a message").unwrap();
        assert!(next.unwrap()["message"].is_object(), "{dialect:?}");
    }
    // A gateway that comes later knows, and what is lifted is lifted everywhere.
    let file = guarded.file.to_str().unwrap().to_owned();
    let url = guarded.issuer.url();
    let late = guarded.cluster.add_gateway_with(|config| {
        config.auth.mode = Mode::On;
        config.auth.keys = file;
        config.auth.jwt.issuer = issuer::ISSUER.into();
        config.auth.jwt.audience = issuer::AUDIENCE.into();
        config.auth.jwt.keys = url;
    });
    let late = late.await;
    assert_eq!(reason(late, ann).await, "TOKEN_REVOKED");
    let path = format!("/v1/admin/revocations/{}", of_ann["revocation"].as_str().unwrap());
    guarded.admin().delete(&path).await.unwrap().ok().unwrap();
    for address in [guarded.gateways[0], guarded.gateways[1], late] {
        becomes(address, ann, "ok").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_in_by_a_key_that_the_issuer_withdraws_ends_in_every_dialect() {
    let guarded = Guarded::start(1).await;
    let (address, other) = (guarded.gateways[0], Key::new("two"));
    let both = issuer::set(&[&guarded.key, &other]);
    guarded.issuer.set(Mood::Tells(both.into()));
    let ann = guarded.token("ann", "default");
    let bob = kept(other.token(&issuer::claims("bob", "default")));
    becomes(address, bob, "ok").await;
    let rpc = Rpc::named("TopicService/Subscribe");
    let mut open = Vec::new();
    for (token, dies) in [(ann, true), (bob, false)] {
        for dialect in Dialect::ALL.into_iter().filter(|d| d.takes(&rpc)) {
            let client = Client { token: Some(token), ..Client::new(address, dialect) };
            let mut answers = client.open(&rpc, &json!({"topic": "demo"})).await.unwrap();
            answers.next().await.expect("a start").unwrap();
            open.push((answers, dialect, dies));
        }
    }
    guarded.issuer.set(Mood::Tells(issuer::set(&[&other]).into()));
    for (answers, dialect, _) in open.iter_mut().filter(|(.., dies)| *dies) {
        let end = tokio::time::timeout(PATIENCE, answers.next()).await.expect("it ends");
        assert_eq!(end.expect("an end is told").unwrap_err().reason, "TOKEN_REVOKED", "{dialect:?}");
    }
    becomes(address, ann, "TOKEN_INVALID").await;
    let publish = Http::new(address).with(bob);
    publish.post("/v1/topics/demo/messages", &json!({"text": "hello"})).await.unwrap().ok().unwrap();
    for (answers, dialect, _) in open.iter_mut().filter(|(.., dies)| !*dies) {
        let next = tokio::time::timeout(PATIENCE, answers.next()).await.expect("a message").unwrap();
        assert!(next.unwrap()["message"].is_object(), "{dialect:?}");
    }
}

/// The block of code in the chapter of docs/security.md about issuers.
fn shown(language: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/security.md");
    let text = std::fs::read_to_string(path).unwrap();
    let chapter = text.split_once("### With an issuer").unwrap().1;
    let block = chapter.split_once(&format!("```{language}\n")).unwrap().1;
    block.split_once("```").unwrap().0.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_is_set_up_as_the_document_shows() {
    let key = Key::new("one");
    let issuer = Issuer::start(&[&key]).await;
    let config: toml::Table = toml::from_str(&shown("toml")).unwrap();
    let auth: plexus_gateway::config::Auth = config["gateway"]["auth"].clone().try_into().unwrap();
    assert_eq!((&*auth.jwt.issuer, &*auth.jwt.audience), (issuer::ISSUER, issuer::AUDIENCE));
    assert!(auth.jwt.keys.starts_with("https://"), "plain HTTP is for this machine alone");
    let mut cluster = Cluster::of(0, 1).await;
    let address = cluster.add_gateway_with(|config| {
        config.auth = auth;
        config.auth.jwt.keys = issuer.url();
    });
    let address = address.await;
    let mut claims = issuer::claims("ann", "team");
    let claim: Value = serde_json::from_str(&shown("json")).unwrap();
    claims["plexus"] = claim["plexus"].clone();
    let ann = kept(key.token(&claims));
    let asks = |path: &'static str| async move {
        let answer = Http::new(address).with(ann).get(path).await.unwrap();
        answer.json()["reason"].as_str().map(str::to_owned)
    };
    assert_eq!(asks("/v1/topics/demo.a?node=alpha").await.as_deref(), Some("NODE_NOT_FOUND"), "may look");
    assert_eq!(asks("/v1/topics/other?node=alpha").await.as_deref(), Some("NOT_ALLOWED"));
    let body = json!({"node": "alpha", "text": "x"});
    let published = Http::new(address).with(ann).post("/v1/topics/demo.a/messages", &body).await.unwrap();
    assert_eq!(published.json()["reason"], "NOT_ALLOWED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_of_keys_holds_without_a_restart() {
    let guarded = Guarded::start(1).await;
    let address = guarded.gateways[0];
    let before = std::fs::read_to_string(&guarded.file).unwrap();
    let made = key::make("team", grants(&[("read", "**")]), None).unwrap();
    let (secret, more) = (kept(made.secret), toml::to_string(&File { keys: vec![made.line] }).unwrap());
    assert_eq!(reason(address, secret).await, "TOKEN_INVALID");
    std::fs::write(&guarded.file, format!("{before}\n{more}")).unwrap();
    becomes(address, secret, "ok").await;
    let subscribe = Rpc::named("TopicService/Subscribe");
    let client = Client { token: Some(secret), ..Client::new(address, Dialect::Sse) };
    let mut answers = client.open(&subscribe, &json!({"topic": "demo"})).await.unwrap();
    // A file that cannot be used changes nothing.
    std::fs::write(&guarded.file, "[[keys]]\nid = 7").unwrap();
    assert_eq!(reason(address, secret).await, "ok");
    answers.next().await.expect("a start").unwrap();
    std::fs::write(&guarded.file, before).unwrap();
    becomes(address, secret, "TOKEN_INVALID").await;
    let end = tokio::time::timeout(PATIENCE, answers.next()).await.expect("it ends").unwrap();
    assert_eq!(end.unwrap_err().reason, "TOKEN_REVOKED");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_namespace_looks_after_its_own_keys_and_operators_after_all() {
    let guarded = Guarded::start(1).await;
    let address = guarded.gateways[0];
    let (ours, _) = guarded.make(json!({"namespace": "ours", "grants": everything()})).await;
    let (theirs, boss) = guarded.make(json!({"namespace": "theirs", "grants": everything()})).await;
    let limited = json!({"namespace": "theirs", "grants": [
        {"verbs": ["*"], "resources": ["admin", "nodes/a"]},
    ]});
    let (_, clerk) = guarded.make(limited).await;
    becomes(address, boss, "ok").await;
    becomes(address, clerk, "NOT_ALLOWED").await;
    let as_ = |token: &'static str| Http::new(address).with(token);
    let keys = as_(boss).get("/v1/admin/api-keys").await.unwrap().ok().unwrap();
    assert_eq!(keys["apiKeys"].as_array().unwrap().len(), 2, "{keys}");
    assert!(!keys.to_string().contains("ours"), "{keys}");
    // What belongs to others looks like what is not there.
    let foreign = as_(boss).delete(&format!("/v1/admin/api-keys/{ours}")).await.unwrap();
    let nothing = as_(boss).delete("/v1/admin/api-keys/0123456789abcdef").await.unwrap();
    let told =
        |answer: &plexus_tests::Answer, id: &str| (answer.status, answer.json().to_string().replace(id, "…"));
    assert_eq!(told(&foreign, &ours), told(&nothing, "0123456789abcdef"));
    for namespace in ["ours", "no-such-namespace"] {
        let body = json!({"namespace": namespace, "grants": everything()});
        let answer = as_(boss).post("/v1/admin/api-keys", &body).await.unwrap();
        assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (403, &json!("NOT_ALLOWED")));
    }
    // Nobody hands on more than they have.
    let more = as_(clerk).post("/v1/admin/api-keys", &json!({"grants": everything()})).await.unwrap();
    assert_eq!(more.json()["reason"], "NOT_ALLOWED");
    let other = json!({"grants": [{"verbs": ["read"], "resources": ["nodes/b"]}]});
    as_(clerk)
        .post(
            "/v1/admin/api-keys",
            &json!({"grants": [
                {"verbs": ["*"], "resources": ["nodes/a/topics/t"]}
            ]}),
        )
        .await
        .unwrap()
        .ok()
        .unwrap();
    assert_eq!(as_(clerk).post("/v1/admin/api-keys", &other).await.unwrap().json()["reason"], "NOT_ALLOWED");
    let keys = guarded.admin().get("/v1/admin/api-keys").await.unwrap().ok().unwrap();
    assert_eq!(keys["apiKeys"].as_array().unwrap().len(), 4, "operators see all");
    guarded.admin().delete(&format!("/v1/admin/api-keys/{theirs}")).await.unwrap().ok().unwrap();
    becomes(address, boss, "TOKEN_INVALID").await;
}
