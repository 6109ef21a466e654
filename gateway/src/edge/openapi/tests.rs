//! The documents hold together, and say what is served.

use super::*;
use crate::edge::{asyncapi, desc::tests::POOL};

fn registry() -> Registry {
    let services: Vec<_> = POOL.services().map(|s| s.full_name().to_owned()).collect();
    let names: Vec<&str> = services.iter().map(String::as_str).collect();
    Registry::new(&[plexus_proto::DESCRIPTOR], &names, &[]).unwrap()
}

/// Every reference of a document.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|v| references(v, found));
        }
        Value::Array(values) => values.iter().for_each(|v| references(v, found)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere() {
    for document in [document(&registry()), asyncapi::document(&registry())] {
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.len() > 50);
        for reference in found {
            let place = document.pointer(reference.strip_prefix('#').unwrap());
            assert!(place.is_some_and(|v| !v.is_null()), "{reference}");
        }
    }
}

#[test]
fn every_path_of_the_contract_is_an_operation_with_its_own_id_and_words() {
    let (registry, mut ids) = (registry(), BTreeSet::new());
    let document = document(&registry);
    for method in registry.methods() {
        for rule in &method.rules {
            let verb = rule.verb.as_ref().unwrap().as_str().to_ascii_lowercase();
            let operation = &document["paths"][plain(&rule.template)][verb];
            ids.insert(operation["operationId"].as_str().expect("an operation").to_owned());
            for word in ["summary", "description"] {
                assert!(operation[word].as_str().is_some_and(|t| !t.is_empty()), "{}: {word}", method.path);
            }
            let answers = &operation["responses"]["200"]["content"];
            let media = if method.kind.streams() { "text/event-stream" } else { "application/json" };
            assert!(answers[media].is_object(), "{}: {media}", method.path);
            for parameter in
                operation["parameters"].as_array().unwrap().iter().filter(|p| p["$ref"].is_null())
            {
                assert!(parameter["description"].as_str().is_some_and(|t| !t.is_empty()), "{parameter}");
            }
        }
    }
    let operations = document["paths"].as_object().unwrap().values().map(|p| p.as_object().unwrap().len());
    assert_eq!(ids.len(), operations.sum::<usize>());
}

#[test]
fn an_operation_says_its_errors_and_its_headers() {
    let document = document(&registry());
    let update = &document["paths"]["/v1/nodes/{node}"]["patch"];
    assert!(update["responses"]["412"]["description"].as_str().unwrap().contains("`ETAG_MISMATCH`"));
    assert!(update["responses"]["503"]["headers"]["Retry-After"].is_object());
    for status in ["200", "429"] {
        let headers = &update["responses"][status]["headers"];
        assert!(headers["RateLimit"].is_object() && headers["RateLimit-Policy"].is_object(), "{status}");
    }
    let names = |operation: &Value| {
        let list = operation["parameters"].as_array().unwrap().iter();
        list.filter_map(|p| p["$ref"].as_str()?.rsplit('/').next().map(str::to_owned)).collect::<Vec<_>>()
    };
    assert_eq!(names(update), ["IdempotencyKey", "IfMatch"]);
    let get = &document["paths"]["/v1/nodes/{node}"]["get"];
    assert_eq!(names(get), ["IfNoneMatch"]);
    assert!(get["responses"]["304"].is_object());
    let messages = &document["paths"]["/v1/topics/{topic}/messages"]["get"];
    assert_eq!(names(messages), ["LastEventId"]);
    let limit = messages["parameters"].as_array().unwrap().iter().find(|p| p["name"] == "limit").unwrap();
    assert_eq!(limit["x-plexus-only"], "as a stream");
}

#[test]
fn a_session_is_described_with_every_call() {
    let registry = registry();
    let document = asyncapi::document(&registry);
    let messages = document["channels"]["session"]["messages"].as_object().unwrap();
    let calls = messages.keys().filter(|name| name.ends_with(".call")).count();
    assert_eq!(calls, registry.methods().len());
    assert!(document["info"]["description"].as_str().unwrap().contains("WebSocket session"));
    assert_eq!(document["components"]["schemas"]["SessionFrame"]["properties"]["params"]["type"], "object");
}
