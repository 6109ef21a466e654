//! How often callers may call: whose bucket it is, and what is told.

use crate::{Server, auth::guarded_with, client::Answer};
use plexus_gateway::{
    config::Config,
    metrics::{Bucket, ByBucket},
};
use serde_json::json;

/// Two calls at once, then one a second.
fn two_at_once(config: &mut Config) {
    // With forwarders named, loopback counts as well.
    config.forwarders.trusted = vec!["192.0.2.0/24".into()];
    (config.rate.address_per_second, config.rate.address_burst) = (1, 2);
}

/// Calls until it is too often; gives how many calls went well and the refusal.
async fn until_refused(
    server: &Server,
    headers: impl Fn(usize) -> Vec<(&'static str, String)>,
) -> (usize, Answer) {
    for n in 0..50 {
        let headers = headers(n);
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = server.send("GET", "/v1/topics/demo", &headers, "").await;
        if answer.status != 200 {
            return (n, answer);
        }
    }
    panic!("never refused");
}

fn limited(server: &Server, bucket: Bucket) -> u64 {
    server.metrics.rate_limited.get_or_create(&ByBucket { bucket }).get()
}

#[tokio::test]
async fn an_answer_says_how_often_its_caller_may_call() {
    let server = Server::with(|c| {
        two_at_once(c);
        c.origins = vec!["https://app.example".into()];
    })
    .await;
    let answer = server.send("GET", "/v1/topics/demo", &[("origin", "https://app.example")], "").await;
    assert_eq!(answer.header("ratelimit-policy"), "\"address\";q=2;w=2");
    assert_eq!(answer.header("ratelimit"), "\"address\";r=1;t=1");
    for name in ["ratelimit", "ratelimit-policy", "retry-after"] {
        assert!(answer.header("access-control-expose-headers").contains(name), "a page may read {name}");
    }
    let (_, refused) = until_refused(&server, |_| Vec::new()).await;
    let problem = refused.json();
    assert_eq!((refused.status.as_u16(), &problem["reason"]), (429, &json!("RATE_LIMITED")));
    assert_eq!(problem["metadata"], json!({ "bucket": "address", "limit": "1" }));
    assert_eq!((refused.header("retry-after"), refused.header("ratelimit")), ("1", "\"address\";r=0;t=1"));
    assert_eq!(limited(&server, Bucket::Address), 1);
    let stream = server.open("/v1/topics/demo/messages", &[("accept", "text/event-stream")]).await.1;
    assert!(stream.headers.contains_key("ratelimit"), "a stream says it as well: {:?}", stream.headers);
}

#[tokio::test]
async fn a_request_without_good_credentials_counts_as_well() {
    let (server, ..) = guarded_with(&[("*", "**")], None, two_at_once).await;
    let wrong = |_| vec![("authorization", "Bearer plx_guess".into())];
    let mut seen = Vec::new();
    for _ in 0..50 {
        seen.push(until_refused(&server, wrong).await.1.status.as_u16());
        if seen.last() == Some(&429) {
            break;
        }
    }
    assert_eq!((seen[0], seen[1], seen.last()), (401, 401, Some(&429)));
}

#[tokio::test]
async fn a_developer_on_this_machine_is_not_counted() {
    let server = Server::with(|c| (c.rate.address_per_second, c.rate.address_burst) = (1, 1)).await;
    for _ in 0..5 {
        let answer = server.get("/v1/topics/demo").await;
        assert_eq!((answer.status.as_u16(), answer.header("ratelimit")), (200, ""));
    }
}

#[tokio::test]
async fn a_header_of_nobody_that_is_trusted_changes_no_bucket() {
    let server = Server::with(two_at_once).await;
    let spoofed = |n| {
        vec![("x-forwarded-for", format!("198.51.100.{n}")), ("forwarded", format!("for=198.51.100.{n}"))]
    };
    assert_eq!(until_refused(&server, spoofed).await.1.status, 429);
}

#[tokio::test]
async fn behind_a_forwarder_every_client_has_a_bucket_of_its_own() {
    let server = Server::with(|c| {
        two_at_once(c);
        c.forwarders.trusted = vec!["127.0.0.1".into()];
    })
    .await;
    // What the client claims stands on the left; the forwarder writes on the right.
    let one = |n| vec![("x-forwarded-for", format!("203.0.113.{n}, 198.51.100.1"))];
    assert_eq!(until_refused(&server, one).await.1.status, 429);
    let other = [("x-forwarded-for", "198.51.100.1, 198.51.100.2")];
    assert_eq!(server.send("GET", "/v1/topics/demo", &other, "").await.status, 200);
    for _ in 0..5 {
        assert_eq!(server.get("/v1/topics/demo").await.status, 200, "the forwarder itself is not counted");
    }
}

#[tokio::test]
async fn a_key_has_a_share_of_its_namespace() {
    let change = |c: &mut Config| {
        (c.rate.caller_per_second, c.rate.caller_burst) = (1, 2);
        (c.rate.namespace_per_second, c.rate.namespace_burst) = (1, 20);
    };
    let (server, secrets, _keys) =
        guarded_with(&[("*", "**"), ("*", "nodes"), ("*", "**")], None, change).await;
    let by = |key: usize| {
        let bearer = format!("Bearer {}", secrets[key]);
        move |_| vec![("authorization", bearer.clone())]
    };
    let (went, refused) = until_refused(&server, by(0)).await;
    assert!(went >= 2);
    assert_eq!(refused.json()["metadata"]["bucket"], "caller");
    let (went, refused) = until_refused(&server, by(1)).await;
    assert!(went >= 2, "another key has calls of its own");
    assert_eq!(refused.json()["metadata"]["bucket"], "caller");
    assert!(limited(&server, Bucket::Caller) >= 2);
    let together = |c: &mut Config| (c.rate.namespace_per_second, c.rate.namespace_burst) = (1, 3);
    let (server, secrets, _keys) =
        guarded_with(&[("*", "**"), ("*", "nodes"), ("*", "**")], None, together).await;
    let by = |n: usize| vec![("authorization", format!("Bearer {}", secrets[2 * (n % 2)]))];
    let (went, refused) = until_refused(&server, by).await;
    assert!(went >= 3);
    assert_eq!(refused.json()["metadata"], json!({ "bucket": "namespace", "limit": "1" }));
    assert_eq!(limited(&server, Bucket::Namespace), 1);
}
