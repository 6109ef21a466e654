//! Which pages may call: one table of origins through every dialect, and what a browser is told.

use crate::Server;
use http::HeaderMap;

const LISTED: &str = "https://app.example";

/// Origins, and whether their pages may call a gateway that lists [`LISTED`]; `HOST` is the gateway's own.
const ORIGINS: [(&str, bool); 24] = [
    (LISTED, true),
    ("https://APP.example", true),
    ("HTTPS://app.example", true),
    ("http://HOST", true),
    ("null", false),
    ("", false),
    ("*", false),
    ("file://", false),
    ("http://app.example", false),
    ("https://app.example:443", false),
    ("https://app.example:8443", false),
    ("https://app.example.", false),
    ("https://app.example/", false),
    ("https://app.example.evil.example", false),
    ("https://evil.example/https://app.example", false),
    ("https://evilapp.example", false),
    ("https://sub.app.example", false),
    ("https://app.example@evil.example", false),
    ("https://evil.example", false),
    ("https://xn--app.example", false),
    ("https://app.example, https://evil.example", false),
    ("http://HOST.evil.example", false),
    ("http://localhost:1", false),
    ("chrome-extension://abcdef", false),
];

type Header = (&'static str, &'static str);

/// A way in: a name, the verb, the path, headers, and a body.
type Way = (&'static str, &'static str, &'static str, Vec<Header>, Vec<u8>);

fn ways() -> Vec<Way> {
    let json = ("content-type", "application/json");
    let get = "/plexus.v1.TopicService/GetTopic";
    let message = [&[0, 0, 0, 0, 6][..], &[0x12, 4], b"demo"].concat();
    let stream = [&[0, 0, 0, 0, 19][..], br#"{"topic":"missing"}"#].concat();
    vec![
        ("REST", "GET", "/v1/topics/demo", vec![], vec![]),
        ("REST change", "POST", "/v1/topics/demo/messages", vec![json], br#"{"text":"x"}"#.to_vec()),
        ("HEAD", "HEAD", "/v1/topics/demo", vec![], vec![]),
        ("SSE", "HEAD", "/v1/topics/demo/messages", vec![("accept", "text/event-stream")], vec![]),
        ("NDJSON", "HEAD", "/v1/topics/demo/messages", vec![("accept", "application/x-ndjson")], vec![]),
        ("Connect", "POST", get, vec![json], br#"{"topic":"demo"}"#.to_vec()),
        (
            "Connect GET",
            "GET",
            "/plexus.v1.TopicService/GetTopic?connect=v1&encoding=json&message=%7B%22topic%22%3A%22demo%22%7D",
            vec![],
            vec![],
        ),
        (
            "Connect stream",
            "POST",
            "/plexus.v1.TopicService/Subscribe",
            vec![("content-type", "application/connect+json")],
            stream,
        ),
        ("gRPC-Web", "POST", get, vec![("content-type", "application/grpc-web+proto")], message.clone()),
        ("gRPC", "POST", get, vec![("content-type", "application/grpc"), ("te", "trailers")], message),
        ("documents", "GET", "/", vec![], vec![]),
        (
            "WebSocket",
            "GET",
            "/v1/ws",
            vec![
                ("connection", "upgrade"),
                ("upgrade", "websocket"),
                ("sec-websocket-version", "13"),
                ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ],
            vec![],
        ),
    ]
}

/// Whether the origin was refused, however the dialect says so.
fn refused(status: u16, headers: &HeaderMap, body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body);
    let grpc = headers.get("grpc-status").is_some_and(|s| s == "7");
    let message = headers.get("grpc-message").map(|m| m.to_str().unwrap().to_owned()).unwrap_or_default();
    status == 403
        || (grpc && message.replace("%20", " ").contains("may not call"))
        || text.contains("may not call")
}

#[tokio::test]
async fn every_dialect_lets_in_the_same_pages() {
    let server = Server::with(|c| c.origins = vec![LISTED.into()]).await;
    let host = server.addr.to_string();
    let mut rows = 0;
    for (origin, may) in ORIGINS {
        let origin = origin.replace("HOST", &host);
        for (name, verb, path, headers, body) in ways() {
            let origin = [("origin", origin.as_str())];
            let headers = [&headers[..], &origin].concat();
            let mut connection = match name {
                "gRPC" => server.http2().await,
                _ => server.http1().await,
            };
            let answer = match name {
                // What follows the head of an upgrade is no answer.
                "WebSocket" => {
                    let response = connection.begin(&server, verb, path, &headers, body).await;
                    (response.status().as_u16(), response.headers().clone(), Vec::new())
                }
                _ => {
                    let answer = connection.send(&server, verb, path, &headers, body).await;
                    let headers = if answer.trailers.is_empty() { answer.headers } else { answer.trailers };
                    (answer.status.as_u16(), headers, answer.body.to_vec())
                }
            };
            assert_eq!(refused(answer.0, &answer.1, &answer.2), !may, "{name} {:?}: {}", origin[0], answer.0);
            rows += 1;
        }
    }
    assert_eq!(rows, 24 * 12);
}

#[tokio::test]
async fn only_a_listed_page_of_another_origin_may_read_answers() {
    let server = Server::with(|c| c.origins = vec![LISTED.into()]).await;
    let host = server.addr.to_string();
    for (origin, may) in ORIGINS {
        let origin = origin.replace("HOST", &host);
        let listed = may && !origin.contains(&host);
        let asks = [
            ("origin", origin.as_str()),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,content-type,x-grpc-web"),
        ];
        let leave = server.send("OPTIONS", "/plexus.v1.TopicService/Publish", &asks, "").await;
        let read = server.send("GET", "/v1/topics/demo", &asks[..1], "").await;
        for answer in [&leave, &read] {
            let allowed = answer.header("access-control-allow-origin");
            assert_eq!(allowed, if listed { origin.as_str() } else { "" }, "{origin:?}");
            assert_eq!(answer.header("access-control-allow-credentials") == "true", listed, "{origin:?}");
            let varies =
                answer.headers.get_all("vary").iter().any(|v| v.to_str().unwrap().contains("origin"));
            assert!(varies || !listed, "{origin:?}: {answer:?}");
        }
        let allows = leave.header("access-control-allow-headers");
        assert_eq!(allows.contains("authorization"), listed, "{origin:?}: {allows}");
        assert_eq!(leave.header("access-control-max-age"), if listed { "7200" } else { "" });
        let exposed = read.header("access-control-expose-headers");
        for name in ["grpc-status", "grpc-message", "grpc-status-details-bin", "retry-after", "etag"] {
            assert_eq!(exposed.contains(name), listed, "{origin:?}: {exposed}");
        }
    }
}
