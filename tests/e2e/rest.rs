//! REST as people expect it: what HTTP has words for is said in them.

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use http::Method as Verb;
use plexus_tests::{Answer, Cluster, Http};
use serde_json::{Value, json};
use std::io::{Read, Write};

/// Sends a request without a body.
async fn ask(http: &Http, verb: Verb, path: &str, headers: &[(&str, &str)]) -> Answer {
    http.send(verb, path, headers, "").await.unwrap()
}

fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.headers.get(name).map_or("", |v| v.to_str().unwrap())
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn unpacked(bytes: &[u8]) -> String {
    let mut out = String::new();
    GzDecoder::new(bytes).read_to_string(&mut out).unwrap();
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_is_read_and_changed_by_its_entity_tag() {
    let cluster = Cluster::one().await;
    let http = cluster.client();
    let made = http.post("/v1/nodes", &json!({"id": "tagged"})).await.unwrap();
    let (path, json) = ("/v1/nodes/tagged", ("content-type", "application/json"));
    let change = |tag: String, label: &'static str| {
        let http = &http;
        async move {
            let body = json!({"spec": {"labels": {"is": label}}}).to_string();
            http.send(Verb::PATCH, path, &[json, ("if-match", &tag)], body).await.unwrap()
        }
    };
    let first = header(&made, "etag").to_owned();
    assert!(first.starts_with('"') && made.json()["etag"] == first.trim_matches('"'), "{made:?}");
    let read = ask(&http, Verb::GET, path, &[]).await;
    assert_eq!(header(&read, "etag"), first);
    for (verb, name, tag, status) in [
        (Verb::GET, "if-none-match", first.clone(), 304),
        (Verb::GET, "if-none-match", format!("\"other\", W/{first}"), 304),
        (Verb::HEAD, "if-none-match", first.clone(), 304),
        (Verb::GET, "if-none-match", "\"other\"".into(), 200),
        (Verb::GET, "if-match", first.clone(), 200),
        (Verb::GET, "if-match", "*".into(), 200),
        (Verb::GET, "if-match", "\"other\"".into(), 412),
    ] {
        let answer = ask(&http, verb.clone(), path, &[(name, &tag)]).await;
        assert_eq!(answer.status, status, "{verb} {name}: {tag}");
        assert!(status != 304 || (answer.body.is_empty() && header(&answer, "etag") == first));
    }
    let changed = change(first.clone(), "one").await;
    assert_eq!(changed.status, 200, "{changed:?}");
    let second = header(&changed, "etag").to_owned();
    assert_ne!(second, first);
    let stale = change(first, "two").await;
    assert_eq!((stale.status.as_u16(), &stale.json()["reason"]), (412, &json!("ETAG_MISMATCH")));
    assert_eq!(stale.json()["metadata"]["etag"], second.trim_matches('"'));
    assert_eq!(change(format!("W/{second}"), "three").await.status, 200, "a proxy weakens what it packs");
    assert_eq!(change("*".into(), "four").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_path_says_what_it_takes() {
    let cluster = Cluster::one().await;
    let http = cluster.client();
    for (path, allow) in [
        ("/", "GET, HEAD, OPTIONS"),
        ("/openapi.json", "GET, HEAD, OPTIONS"),
        ("/docs", "GET, HEAD, OPTIONS"),
        ("/v1/nodes", "GET, HEAD, POST, OPTIONS"),
        ("/v1/nodes/default", "DELETE, GET, HEAD, PATCH, OPTIONS"),
        ("/v1/nodes/default:start", "POST, OPTIONS"),
        ("/v1/topics/t", "DELETE, GET, HEAD, PUT, OPTIONS"),
        ("/v1/topics/t/messages", "GET, HEAD, POST, OPTIONS"),
        ("/v1/peers/x:ping", "GET, HEAD, OPTIONS"),
    ] {
        let answer = ask(&http, Verb::OPTIONS, path, &[]).await;
        assert_eq!((answer.status.as_u16(), header(&answer, "allow")), (204, allow), "{path}");
        let refused = ask(&http, Verb::TRACE, path, &[]).await;
        assert_eq!((refused.status.as_u16(), header(&refused, "allow")), (405, allow), "{path}");
        assert_eq!(refused.json()["reason"], "METHOD_NOT_ALLOWED");
    }
    for path in ["/", "/openapi.json", "/docs", "/docs/rapidoc.js", "/v1/nodes", "/v1/topics/nowhere"] {
        let whole = ask(&http, Verb::GET, path, &[]).await;
        let head = ask(&http, Verb::HEAD, path, &[]).await;
        assert_eq!((head.status, head.body.len()), (whole.status, 0), "{path}");
        for name in ["content-type", "content-length", "etag"] {
            assert_eq!(header(&head, name), header(&whole, name), "{path}: {name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_and_answers_may_be_packed() {
    let cluster = Cluster::one().await;
    let http = cluster.client();
    let gzip = [("content-encoding", "gzip"), ("content-type", "text/plain")];
    let text = "packed ".repeat(500);
    let path = "/v1/topics/packed/messages";
    let sent = http.send(Verb::POST, path, &gzip, packed(text.as_bytes())).await.unwrap();
    assert_eq!(sent.status, 200, "{sent:?}");
    let json = [("content-encoding", "gzip"), ("content-type", "application/json")];
    let body = packed(json!({"text": "short"}).to_string().as_bytes());
    assert_eq!(http.send(Verb::POST, path, &json, body).await.unwrap().status, 200);
    for headers in [gzip, json] {
        let bomb = packed(&vec![b' '; 256 << 20]);
        let refused = http.send(Verb::POST, path, &headers, bomb).await.unwrap();
        assert_eq!((refused.status.as_u16(), &refused.json()["reason"]), (413, &json!("MESSAGE_TOO_LARGE")));
    }
    let foreign = [("content-encoding", "br"), ("content-type", "text/plain")];
    let refused = http.send(Verb::POST, path, &foreign, "x").await.unwrap();
    assert_eq!((refused.status.as_u16(), header(&refused, "accept-encoding")), (415, "gzip, identity"));
    let list = format!("{path}?view=TEXT");
    let answer = ask(&http, Verb::GET, &list, &[("accept-encoding", "br, gzip;q=0.5")]).await;
    assert_eq!(header(&answer, "content-encoding"), "gzip");
    let messages: Value = serde_json::from_str(&unpacked(&answer.body)).unwrap();
    assert_eq!(
        (&messages["messages"][0]["text"], &messages["messages"][1]["text"]),
        (&json!(text), &json!("short"))
    );
    let plain = ask(&http, Verb::GET, &list, &[("accept-encoding", "gzip;q=0")]).await;
    assert_eq!((header(&plain, "content-encoding"), plain.json()), ("", messages));
    let vary: Vec<_> = answer.headers.get_all("vary").iter().collect();
    assert_eq!(vary, ["accept", "accept-encoding"]);
    let mut events = http
        .lines(&format!("{path}?after=0"), &[("accept", "text/event-stream"), ("accept-encoding", "gzip")])
        .await
        .unwrap();
    assert!(!events.headers.contains_key("content-encoding"), "server-sent events are never packed");
    events.next("message").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_of_any_bytes_is_reached_by_its_path() {
    let cluster = Cluster::one().await;
    let http = cluster.client();
    // Gossipsub carries topics of UTF-8 alone; every byte of those that are one character.
    let topic: Vec<u8> = (0..=127).collect();
    let spelled = format!("~{}", data_encoding::BASE64URL_NOPAD.encode(&topic));
    let path = format!("/v1/topics/{spelled}/messages");
    let sent =
        http.send(Verb::POST, &path, &[("content-type", "application/octet-stream")], topic.clone()).await;
    assert_eq!(sent.unwrap().ok().unwrap()["topic"], spelled);
    let read = http.get(&path).await.unwrap().ok().unwrap();
    let data = data_encoding::BASE64.encode(&topic);
    assert_eq!((&read["messages"][0]["data"], read["messages"].as_array().unwrap().len()), (&json!(data), 1));
    // Any other byte is read as well, and refused for what it is.
    let bytes: Vec<u8> = (128..=255).collect();
    let spelled = format!("~{}", data_encoding::BASE64URL_NOPAD.encode(&bytes));
    let refused = http.post(&format!("/v1/topics/{spelled}/messages"), &json!({"text": "x"})).await.unwrap();
    let problem = refused.json();
    assert_eq!(
        (&problem["reason"], &problem["violations"][0]["field"]),
        (&json!("BAD_TOPIC"), &json!("topic"))
    );
    // Text is itself, however it is spelled in the path.
    for (spelled, name) in
        [("a%2Fb", "a/b"), ("~YS9i", "a/b"), ("a%3Ab", "a:b"), ("%C3%A9", "é"), ("a+b", "a+b")]
    {
        let sent = http.send(Verb::POST, &format!("/v1/topics/{spelled}/messages"), &[], "x").await.unwrap();
        let sent = sent.ok();
        assert!(sent.is_err(), "a body without a type is JSON: {sent:?}");
        let text = [("content-type", "text/plain")];
        let sent =
            http.send(Verb::POST, &format!("/v1/topics/{spelled}/messages"), &text, "x").await.unwrap();
        assert_eq!(sent.ok().unwrap()["topic"], name, "{spelled}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_a_listed_origin_may_call_and_no_other() {
    let mut cluster = Cluster::one().await;
    let listed = cluster.add_gateway_with(|config| config.origins = vec!["https://app.example".into()]).await;
    let http = Http::new(listed);
    let origin = ("origin", "https://app.example");
    let preflight = [
        origin,
        ("access-control-request-method", "PUT"),
        ("access-control-request-headers", "if-match, x-any"),
    ];
    let leave = ask(&http, Verb::OPTIONS, "/v1/topics/t", &preflight).await;
    assert!(leave.status.is_success());
    assert_eq!(header(&leave, "access-control-allow-origin"), origin.1);
    assert_eq!(header(&leave, "access-control-allow-credentials"), "true");
    assert_eq!(header(&leave, "access-control-allow-headers"), "if-match,x-any".replace(',', ", "));
    assert!(header(&leave, "access-control-allow-methods").contains("PUT"));
    assert!(!header(&leave, "access-control-max-age").is_empty());
    for path in ["/v1/nodes", "/v1/nope", "/openapi.json"] {
        let answer = ask(&http, Verb::GET, path, &[origin]).await;
        assert_eq!(header(&answer, "access-control-allow-origin"), origin.1, "{path}");
        let exposed = header(&answer, "access-control-expose-headers");
        for name in ["etag", "retry-after", "ratelimit", "grpc-status", "allow"] {
            assert!(exposed.split(',').any(|e| e.trim() == name), "{name} of {exposed}");
        }
        assert!(
            answer.headers.get_all("vary").iter().any(|v| v.to_str().unwrap().contains("origin")),
            "{path}"
        );
    }
    for other in ["https://app.example.evil", "http://app.example", "https://app.example:8443", "null"] {
        for verb in [Verb::GET, Verb::OPTIONS] {
            let refused =
                ask(&http, verb, "/v1/nodes", &[("origin", other), ("access-control-request-method", "GET")])
                    .await;
            assert_eq!(
                (refused.status.as_u16(), header(&refused, "access-control-allow-origin")),
                (403, ""),
                "{other}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reference_needs_nothing_but_this_port() {
    let cluster = Cluster::one().await;
    let http = cluster.client();
    let page = ask(&http, Verb::GET, "/docs", &[]).await;
    let text = String::from_utf8(page.body.to_vec()).unwrap();
    assert!(header(&page, "content-type").starts_with("text/html") && text.contains("/openapi.json"));
    assert!(!text.contains("://"), "it names no other host: {text}");
    assert!(header(&page, "content-security-policy").starts_with("default-src 'none'"));
    let named = text.split(['"', '\'']).filter(|word| word.starts_with('/') && word.len() > 1);
    for path in named {
        let part = ask(&http, Verb::GET, path, &[("accept-encoding", "gzip")]).await;
        assert_eq!(part.status, 200, "{path}");
        let again = ask(&http, Verb::GET, path, &[("if-none-match", header(&part, "etag"))]).await;
        assert_eq!((again.status.as_u16(), again.body.len()), (304, 0), "{path}");
    }
    let root = ask(&http, Verb::GET, "/", &[]).await.json();
    assert_eq!((&root["docs"], &root["asyncapi"]), (&json!("/docs"), &json!("/asyncapi.json")));
    let sessions = ask(&http, Verb::GET, "/asyncapi.json", &[]).await.json();
    assert_eq!(
        (&sessions["asyncapi"], &sessions["channels"]["session"]["address"]),
        (&json!("3.0.0"), &root["websocket"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_a_deadline_and_a_page_are_said_in_headers_and_parameters() {
    let cluster = Cluster::one().await;
    let http = cluster.client();
    let key = [("idempotency-key", "once"), ("content-type", "text/plain")];
    let path = "/v1/topics/once/messages";
    let mut receipts = Vec::new();
    for body in ["x", "x", "other"] {
        receipts.push(http.send(Verb::POST, path, &key, body).await.unwrap());
    }
    assert_eq!(receipts[0].json()["position"], receipts[1].json()["position"]);
    assert_eq!(
        (receipts[2].status.as_u16(), &receipts[2].json()["reason"]),
        (409, &json!("REQUEST_ID_REUSED"))
    );
    for deadline in [("connect-timeout-ms", "300"), ("grpc-timeout", "300m")] {
        let followed = ask(&http, Verb::GET, path, &[("accept", "application/x-ndjson"), deadline]).await;
        let text = String::from_utf8(followed.body.to_vec()).unwrap();
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(last["failure"]["reason"], "DEADLINE_EXCEEDED", "{text}");
    }
    for name in ["a", "b", "c"] {
        http.put(&format!("/v1/topics/page-{name}"), &json!({})).await.unwrap().ok().unwrap();
    }
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let page = http.get(&format!("/v1/topics?prefix=page-&pageSize=2&pageToken={token}")).await.unwrap();
        let page = page.ok().unwrap();
        seen.extend(
            page["topics"].as_array().unwrap().iter().map(|t| t["topic"].as_str().unwrap().to_owned()),
        );
        match page["nextPageToken"].as_str() {
            Some(next) => token = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(seen, ["page-a", "page-b", "page-c"]);
    let other = http.get(&format!("/v1/topics?prefix=other&pageToken={token}")).await.unwrap();
    assert_eq!((other.status.as_u16(), &other.json()["violations"][0]["field"]), (400, &json!("pageToken")));
}
