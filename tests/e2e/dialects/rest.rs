//! REST: the path and verb of the method's annotation, the rest of the request as body or query.

use super::{
    Answers, Client,
    rpc::{Failure, Rpc, Rule},
};
use futures::{FutureExt, StreamExt, stream};
use http::Method as Verb;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};

/// A request as REST sends it.
pub(crate) struct Sent {
    pub(crate) verb: Verb,
    pub(crate) path: String,
    pub(crate) body: Option<String>,
}

/// Calls a method and answers its only answer.
pub(crate) async fn call(client: &Client, rpc: &Rpc, request: &Value) -> Result<Answers, Failure> {
    let sent = write(rpc, request);
    let headers = [("content-type", "application/json")];
    let headers = if sent.body.is_some() { &headers[..] } else { &[] };
    let http = client.http();
    let answer = http.send(sent.verb, &sent.path, headers, sent.body.unwrap_or_default()).await.unwrap();
    if !answer.status.is_success() {
        assert_eq!(answer.headers["content-type"], "application/problem+json", "{answer:?}");
        let problem = answer.json();
        assert_eq!(problem["status"], answer.status.as_u16());
        return Err(Failure::of_json(&problem));
    }
    assert_eq!(answer.headers["content-type"], "application/json");
    let json = answer.json();
    Ok(stream::once(async { Ok(json) }.boxed()).boxed())
}

/// Puts a request into path, query and body, by the first rule whose variables it has.
pub(crate) fn write(rpc: &Rpc, request: &Value) -> Sent {
    let request = request.as_object().unwrap();
    let fits = |rule: &&Rule| variables(&rule.template).iter().all(|v| request.contains_key(*v));
    let rule =
        rpc.rules.iter().find(fits).unwrap_or_else(|| panic!("{} has no path for {request:?}", rpc.name));
    let (mut rest, mut path) = (request.clone(), rule.template.clone());
    for name in variables(&rule.template) {
        let value = rest.remove(name).unwrap();
        path = path.replace(&format!("{{{name}}}"), &escaped(value.as_str().unwrap()));
    }
    if rule.has_body {
        return Sent { verb: rule.verb.clone(), path, body: Some(Value::Object(rest).to_string()) };
    }
    let mut query = Vec::new();
    spread("", &rest, &mut query);
    if !query.is_empty() {
        path = format!("{path}?{}", query.join("&"));
    }
    Sent { verb: rule.verb.clone(), path, body: None }
}

fn variables(template: &str) -> Vec<&str> {
    template.split('{').skip(1).map(|part| part.split_once('}').unwrap().0).collect()
}

/// Fields of messages with a dot, repeated ones repeated.
fn spread(prefix: &str, fields: &Map<String, Value>, query: &mut Vec<String>) {
    for (name, value) in fields {
        let name = format!("{prefix}{name}");
        let mut add = |value: &Value| match value {
            Value::String(text) => query.push(format!("{name}={}", escaped(text))),
            other => query.push(format!("{name}={other}")),
        };
        match value {
            Value::Object(fields) => spread(&format!("{name}."), fields, query),
            Value::Array(values) => values.iter().for_each(add),
            value => add(value),
        }
    }
}

fn escaped(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}
