//! Paths, fields and problems.

use crate::Server;
use http::StatusCode;
use serde_json::json;

const JSON: (&str, &str) = ("content-type", "application/json");
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

#[tokio::test]
async fn a_body_path_and_query_become_one_request() {
    let server = Server::start().await;
    let path = "/v1/nodes/n1/topics/a%2Fb/messages";
    let answer = server.send("POST", path, &[JSON], r#"{"text":"hi","minPeers":2,"level":"LOGGED"}"#).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.json(), json!({ "position": "1-1", "topic": "a/b", "peers": 2, "level": "LOGGED" }));
    let list = server.get("/v1/topics/a%2Fb/messages?pageSize=10").await.json();
    assert_eq!(list["messages"][0]["data"], "aGk=");
}

#[tokio::test]
async fn what_curl_sends_is_the_payload_itself() {
    let server = Server::start().await;
    let path = "/v1/topics/demo/messages?minPeers=3&requestId=r1";
    for kind in [FORM, ("content-type", "text/plain; charset=utf-8"), ("content-type", "image/png")] {
        let answer = server.send("POST", path, &[kind], "hello").await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        assert_eq!((&answer.json()["peers"], &answer.json()["id"]), (&json!(3), &json!("r1")));
    }
    let messages = server.get("/v1/topics/demo/messages").await.json();
    assert_eq!(messages["messages"][2]["data"], "aGVsbG8=");
    let empty = server.send("POST", "/v1/topics/demo/messages", &[FORM], "").await;
    assert_eq!(empty.status, StatusCode::OK);
}

#[tokio::test]
async fn a_refusal_is_a_problem_that_names_what_is_wrong() {
    let server = Server::start().await;
    let messages = "/v1/topics/demo/messages";
    for (verb, path, header, body, status, reason, field) in [
        ("GET", "/v1/nope", JSON, "", 404, "ROUTE_NOT_FOUND", ""),
        ("GET", "/nope", JSON, "", 404, "ROUTE_NOT_FOUND", ""),
        ("GET", "/v1/topics/%ff", JSON, "", 400, "BAD_PATH", "topic"),
        ("GET", "/v1/topics?nope=1", JSON, "", 400, "UNKNOWN_PARAMETER", "nope"),
        ("GET", "/v1/topics?pageSize=1&pageSize=2", JSON, "", 400, "REPEATED_PARAMETER", "pageSize"),
        ("GET", "/v1/topics?pageSize=x", JSON, "", 400, "FIELD_INVALID", "pageSize"),
        ("DELETE", messages, JSON, "", 405, "METHOD_NOT_ALLOWED", ""),
        ("POST", messages, JSON, r#"{"txt":"a"}"#, 400, "UNKNOWN_FIELD", "txt"),
        ("POST", messages, JSON, r#"{"text":"#, 400, "BAD_JSON", "text"),
        ("POST", messages, JSON, r#"{"topic":"other"}"#, 400, "REPEATED_PARAMETER", "topic"),
        ("POST", "/v1/topics/demo/messages?text=a", JSON, "{}", 400, "UNKNOWN_PARAMETER", "text"),
        ("PUT", "/v1/topics/demo", FORM, "a=b", 415, "UNSUPPORTED_MEDIA_TYPE", "content-type"),
        ("POST", "/v1/topics/bad/messages", JSON, "{}", 400, "BAD_TOPIC", "topic"),
        ("GET", "/v1/topics/missing", JSON, "", 404, "TOPIC_NOT_FOUND", ""),
        ("GET", "/v1/topics", ("accept", "image/png"), "", 406, "NOT_ACCEPTABLE", ""),
        ("GET", "/v1/topics", ("accept", "text/event-stream"), "", 406, "NOT_ACCEPTABLE", ""),
        ("PUT", "/v1/topics/demo", ("if-match", "\"e0\""), "", 412, "ETAG_MISMATCH", ""),
    ] {
        let answer = server.send(verb, path, &[header], body).await;
        assert_eq!(answer.header("content-type"), "application/problem+json", "{path} {answer:?}");
        let problem = answer.json();
        assert_eq!(
            (answer.status.as_u16(), &problem["reason"]),
            (status, &json!(reason)),
            "{verb} {path} {problem}"
        );
        assert_eq!((&problem["status"], &problem["domain"]), (&json!(status), &json!("plexus")));
        let violation = problem["violations"][0]["field"].as_str().unwrap_or_default();
        assert_eq!(violation, field, "{problem}");
    }
}

#[tokio::test]
async fn a_problem_carries_the_whole_error() {
    let server = Server::start().await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [JSON, ("traceparent", trace)];
    let answer = server.send("POST", "/v1/topics/full/messages", &headers, "{}").await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (429, "2"));
    let problem = answer.json();
    assert_eq!(problem["code"], "resource_exhausted");
    assert_eq!(problem["metadata"]["peers"], "3");
    assert_eq!(problem["retryAfter"], "1.500s");
    assert_eq!(problem["traceparent"], trace);
    assert_eq!(problem["type"], "urn:plexus:error:QUEUES_FULL");
}

#[tokio::test]
async fn headers_that_every_client_knows_are_fields() {
    let server = Server::start().await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [JSON, ("idempotency-key", "k1"), ("traceparent", trace)];
    let answer = server.send("POST", "/v1/topics/demo/messages", &headers, "{}").await.json();
    assert_eq!((&answer["id"], &answer["traceparent"]), (&json!("k1"), &json!(trace)));

    let topic = server.get("/v1/topics/demo").await;
    assert_eq!(
        (topic.header("etag"), &topic.json()["retainedMessages"]),
        ("\"e1\"", &json!("1152921504606846976"))
    );
    let same = server.send("GET", "/v1/topics/demo", &[("if-none-match", "\"e1\"")], "").await;
    assert_eq!((same.status, same.body.len()), (StatusCode::NOT_MODIFIED, 0));
    let put =
        server.send("PUT", "/v1/topics/demo", &[JSON, ("if-match", "W/\"e1\"")], r#"{"policy":{}}"#).await;
    assert_eq!((put.status, put.header("etag")), (StatusCode::OK, "\"e2\""));
    let lost = server.send("POST", "/v1/topics/demo/messages", &[JSON, ("if-match", "\"e1\"")], "{}").await;
    assert_eq!(lost.json()["reason"], "UNKNOWN_PARAMETER");
}

#[tokio::test]
async fn a_path_says_what_it_takes() {
    let server = Server::start().await;
    let options = server.send("OPTIONS", "/v1/topics/demo/messages", &[], "").await;
    assert_eq!((options.status.as_u16(), options.header("allow")), (204, "GET, HEAD, POST, OPTIONS"));
    let wrong = server.send("DELETE", "/v1/topics/demo/messages", &[], "").await;
    assert_eq!((wrong.status.as_u16(), wrong.header("allow")), (405, "GET, HEAD, POST, OPTIONS"));
    for mut connection in [server.http1().await, server.http2().await] {
        let head = connection.send(&server, "HEAD", "/v1/topics/demo", &[], "").await;
        assert_eq!((head.status.as_u16(), head.body.len(), head.header("etag")), (200, 0, "\"e1\""));
    }
}

#[tokio::test]
async fn the_document_describes_what_is_served_and_nothing_else() {
    let server = Server::start().await;
    assert_eq!(server.get("/").await.json()["openapi"], "/openapi.json");
    let document = server.get("/openapi.json").await.json();
    assert_eq!(document["openapi"], "3.1.0");
    let messages = &document["paths"]["/v1/topics/{topic}/messages"];
    let content = messages["get"]["responses"]["200"]["content"].as_object().unwrap();
    let types: Vec<&str> = content.keys().map(String::as_str).collect();
    assert_eq!(types, ["application/json", "application/x-ndjson", "text/event-stream"]);
    assert!(messages["post"]["requestBody"]["content"]["text/plain"].is_object());
    let parameters = messages["get"]["parameters"].as_array().unwrap();
    for name in ["after", "slowReader", "filter.authors", "pageSize"] {
        assert_eq!(parameters.iter().filter(|p| p["name"] == name).count(), 1, "{name}");
    }
    assert!(!messages["post"]["description"].as_str().unwrap().is_empty());
    assert!(document["paths"]["/v1/nodes"].is_null(), "the toy serves no nodes");
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let text = document.to_string();
    for reference in text.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(schemas.contains_key(name), "{name}");
    }
}
