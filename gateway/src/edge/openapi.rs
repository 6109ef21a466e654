//! The OpenAPI 3.1 document of what is served, from the same descriptor: paths, parameters, headers,
//! answers and the errors that a comment names.

use super::{
    body::RAW,
    convention::{CONDITIONS, CURSORS, REQUEST_ID, TAGS},
    desc::{Kind as Streams, Method, Registry, Rule},
    schema::{self, Schemas, Side},
    sse::Form,
};
use http::Method as Verb;
use plexus_proto::reason::{self, Reason, Row};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Errors that every call may have; a comment does not repeat them.
const COMMON: [Reason; 14] = [
    Reason::FieldInvalid,
    Reason::BadDeadline,
    Reason::BadPath,
    Reason::UnknownParameter,
    Reason::RepeatedParameter,
    Reason::NotAcceptable,
    Reason::OriginNotAllowed,
    Reason::NotAllowed,
    Reason::HeadersTooLarge,
    Reason::RateLimited,
    Reason::Overloaded,
    Reason::Draining,
    Reason::BusUnavailable,
    Reason::DeadlineExceeded,
];

/// Errors of every call that brings a body.
const OF_BODIES: [Reason; 4] =
    [Reason::BadJson, Reason::UnknownField, Reason::MessageTooLarge, Reason::UnsupportedMediaType];

const ABOUT: &str = "\
Every operation is one rpc, alike on every dialect. JSON is canonical protobuf JSON: 64-bit integers are \
strings, bytes are base64, fields with their default value are left out, `null` is a default.

A path with `text/event-stream` or `application/x-ndjson` among its answers streams when `accept` names one \
of them: each event, or each line, is one JSON object.

A call is over after 30 s, a stream has no end of its own; `connect-timeout-ms` (milliseconds) or \
`grpc-timeout` (`5S`, `250m`) set another deadline.

The same calls work over gRPC, gRPC-Web and Connect, and on WebSocket sessions, which are described by \
[/asyncapi.json](/asyncapi.json).";

/// Writes the document.
pub(crate) fn document(registry: &Registry) -> Value {
    let mut schemas = Schemas::default();
    let problem = problem(registry, &mut schemas);
    schemas.keep("Problem", problem);
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    let mut tags: BTreeMap<String, Value> = BTreeMap::new();
    for method in registry.methods().iter().filter(|m| m.kind.takes_one()) {
        for (index, rule) in method.rules.iter().enumerate() {
            let new = operation(method, rule, index, &mut schemas);
            let verb = rule.verb.as_ref().unwrap_or(&Verb::GET).as_str().to_ascii_lowercase();
            let path = paths.entry(plain(&rule.template)).or_default();
            match path.get_mut(&verb) {
                Some(old) => merge(old, new),
                None => drop(path.insert(verb, new)),
            }
            let service = method.desc.parent_service();
            let text = schema::comment(&service.parent_file(), service.path());
            tags.insert(service.name().into(), json!({ "name": service.name(), "description": text }));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Plexus",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "tags": tags.into_values().collect::<Vec<_>>(),
        "paths": paths,
        "components": {
            "schemas": schemas.into_inner(),
            "parameters": headers(),
            "headers": rates(),
            "responses": { "Problem": {
                "description": "Any other error.",
                "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } },
            } },
        },
    })
}

/// A template as OpenAPI writes it: variables without their patterns.
fn plain(template: &str) -> String {
    let mut out = String::new();
    for (index, part) in template.split('{').enumerate() {
        match part.split_once('}') {
            Some((variable, rest)) if index > 0 => {
                let name = variable.split('=').next().unwrap_or(variable);
                out.push_str(&format!("{{{name}}}{rest}"));
            }
            _ => out.push_str(part),
        }
    }
    out
}

fn variables(template: &str) -> Vec<&str> {
    template.split('{').skip(1).filter_map(|part| part.split(['}', '=']).next()).collect()
}

fn operation(method: &Method, rule: &Rule, index: usize, schemas: &mut Schemas) -> Value {
    let service = method.desc.parent_service();
    let suffix = if index == 0 { String::new() } else { format!("_{index}") };
    let id = format!("{}_{}{suffix}", service.name(), method.desc.name());
    let bound = variables(&rule.template);
    let text = schema::comment(&method.desc.parent_file(), method.desc.path());
    let mut operation = json!({
        "operationId": id,
        "tags": [service.name()],
        "summary": text.split(". ").next().unwrap_or_default().replace('\n', " ").trim_end_matches('.'),
        "description": text,
        "responses": responses(method, rule, &text, schemas),
    });
    let mut parameters = Vec::new();
    for field in bound.iter().filter_map(|name| method.input.get_field_by_name(name)) {
        let mut schema = schema::text(&field);
        schema["minLength"] = 1.into();
        let text = schema::comment(&method.input.parent_file(), field.path());
        parameters.push(
            json!({ "name": field.name(), "in": "path", "required": true, "schema": schema, "description": text }),
        );
    }
    let raw = raw(method, rule);
    if rule.body.is_empty() || raw.is_some() {
        let mut query = query(&method.input, &bound, raw.as_ref());
        if raw.is_some() {
            query.iter_mut().for_each(|p| only(p, "beside a body that is not JSON"));
        }
        parameters.extend(query);
    }
    parameters.extend(
        header_names(method).map(|name| json!({ "$ref": format!("#/components/parameters/{name}") })),
    );
    operation["parameters"] = parameters.into();
    if !rule.body.is_empty() {
        operation["requestBody"] = body(method, &id, &bound, raw.is_some(), schemas);
    }
    operation
}

/// The field that a body is which is not JSON.
fn raw(method: &Method, rule: &Rule) -> Option<FieldDescriptor> {
    let field = method.input.get_field_by_name(RAW)?;
    (!rule.body.is_empty() && matches!(field.kind(), Kind::Bytes) && !field.is_list()).then_some(field)
}

fn body(method: &Method, id: &str, bound: &[&str], raw: bool, schemas: &mut Schemas) -> Value {
    // What the path says is not said again.
    let object = schemas.object(&method.input, Side::Request, bound);
    let required = object.get("required").is_some();
    let schema = schemas.keep(&format!("{id}.Body"), object);
    let mut content = json!({ "application/json": { "schema": schema } });
    if raw {
        content["application/octet-stream"] = json!({ "schema": {} });
        content["text/plain"] = json!({ "schema": { "type": "string" } });
    }
    // An absent body is the empty request.
    json!({ "required": required && !raw, "content": content })
}

fn query(input: &MessageDescriptor, bound: &[&str], raw: Option<&FieldDescriptor>) -> Vec<Value> {
    let mut parameters = Vec::new();
    // Beside a raw body, what is in the same oneof has no place.
    let payload = |f: &FieldDescriptor| {
        raw.is_some_and(|r| r == f || f.containing_oneof().is_some_and(|o| r.containing_oneof() == Some(o)))
    };
    for field in input.fields().filter(|f| !(bound.contains(&f.name()) || f.is_map() || payload(f))) {
        match field.kind() {
            Kind::Message(inner) if schema::well_known(&inner).is_none() => {
                if field.is_list() {
                    continue; // Objects have no form in a query.
                }
                for part in inner.fields().filter(|f| !f.is_map()) {
                    let name = format!("{}.{}", field.json_name(), part.json_name());
                    parameters.push(parameter(name, &part, false));
                }
            }
            Kind::Message(inner) if inner.full_name() == "google.protobuf.Struct" => {}
            _ => {
                let required = raw.is_none() && schema::is_required(&field);
                parameters.push(parameter(field.json_name().to_owned(), &field, required));
            }
        }
    }
    parameters
}

fn parameter(name: String, field: &FieldDescriptor, required: bool) -> Value {
    let text = schema::comment(&field.parent_message().parent_file(), field.path());
    let mut parameter =
        json!({ "name": name, "in": "query", "schema": schema::text(field), "description": text });
    if required {
        parameter["required"] = true.into();
    }
    parameter
}

/// The headers of answers that say how often one may call.
fn rates() -> Value {
    let header = |text: &str| json!({ "schema": { "type": "string" }, "description": text });
    json!({
        "RateLimit": header(
            "Per limit of the caller what is left, and the seconds until all of it is back: `\"address\";r=44;t=1`.",
        ),
        "RateLimitPolicy": header(
            "Per limit of the caller how many calls may come at once, and the seconds in which as many come back: \
             `\"address\";q=45;w=5`.",
        ),
    })
}

/// Adds them to an answer.
fn tell_rates(response: &mut Value) {
    for (name, part) in [("RateLimit", "RateLimit"), ("RateLimit-Policy", "RateLimitPolicy")] {
        response["headers"][name] = json!({ "$ref": format!("#/components/headers/{part}") });
    }
}

/// The headers that are conventions of every method that has what they are about.
fn headers() -> Value {
    let header = |name: &str, schema: Value, text: &str| json!({ "name": name, "in": "header", "schema": schema, "description": text });
    json!({
        "IdempotencyKey": header(
            "Idempotency-Key",
            json!({ "type": "string", "pattern": "^[!-~]([ -~]{0,128}[!-~])?$" }),
            "The field `requestId`: makes a repeat safe.",
        ),
        "IfMatch": header(
            "If-Match",
            json!({ "type": "string", "pattern": "^[!-+.-~]+$" }),
            "One entity tag, as `ETag` had it; refused with 412 and `ETAG_MISMATCH` where it is another now. `*`: any.",
        ),
        "IfNoneMatch": header(
            "If-None-Match",
            json!({ "type": "string" }),
            "Entity tags; answered with 304 where one of them still holds.",
        ),
        "LastEventId": header(
            "Last-Event-ID",
            json!({ "type": "string", "pattern": "^[!-~]*$" }),
            "On a stream: goes on after the event of this id, as EventSource asks for.",
        ),
    })
}

/// The headers that a method takes, by their names among the components.
fn header_names(method: &Method) -> impl Iterator<Item = &'static str> {
    let has =
        |of: &MessageDescriptor, names: &[&str]| names.iter().any(|n| of.get_field_by_name(n).is_some());
    let all = [
        ("IdempotencyKey", has(&method.input, &[REQUEST_ID])),
        ("IfMatch", !method.safe && has(&method.input, &CONDITIONS)),
        ("IfNoneMatch", method.safe && has(&method.output, &TAGS)),
        ("LastEventId", method.kind.streams() && has(&method.input, &CURSORS)),
    ];
    all.into_iter().filter(|(_, has)| *has).map(|(name, _)| name)
}

fn responses(method: &Method, rule: &Rule, text: &str, schemas: &mut Schemas) -> Value {
    let schema = schemas.message(&method.output, Side::Answer);
    let written = |form: Form| json!({ "schema": { "type": "string", "contentMediaType": form.media_type(), "contentSchema": schema } });
    let content = match method.kind {
        Streams::ServerStream => json!({
            Form::Sse.media_type(): written(Form::Sse),
            Form::Ndjson.media_type(): written(Form::Ndjson),
        }),
        _ => json!({ "application/json": { "schema": schema } }),
    };
    let mut ok = json!({ "description": "OK", "content": content });
    let mut all = json!({ "default": { "$ref": "#/components/responses/Problem" } });
    let tagged = TAGS.iter().any(|name| method.output.get_field_by_name(name).is_some());
    if tagged && !method.kind.streams() {
        let tag = json!({ "schema": { "type": "string" }, "description": "The answer's revision." });
        ok["headers"] = json!({ "ETag": tag });
        if method.safe {
            all["304"] = json!({ "description": "`If-None-Match` names what would be answered." });
        }
    }
    if method.kind.streams() {
        all["204"] = json!({ "description": "`Last-Event-ID` says that the stream ended: stay away." });
    }
    tell_rates(&mut ok);
    all["200"] = ok;
    for (status, rows) in errors(text, !rule.body.is_empty()) {
        all[status.to_string()] = refusal(status, &rows);
    }
    all
}

/// The errors that a comment names and those of every call, by status.
fn errors(text: &str, has_body: bool) -> BTreeMap<u16, Vec<&'static Row>> {
    let of_bodies = OF_BODIES.iter().filter(|_| has_body);
    let mut reasons: BTreeSet<&str> = COMMON.iter().chain(of_bodies).map(|r| r.row().name).collect();
    reasons.extend(text.split('`').skip(1).step_by(2).filter(|word| reason::by_name(word).is_some()));
    let mut by_status: BTreeMap<u16, Vec<&'static Row>> = BTreeMap::new();
    for row in reasons.into_iter().filter_map(reason::by_name) {
        by_status.entry(row.http).or_default().push(row);
    }
    by_status
}

fn refusal(status: u16, rows: &[&Row]) -> Value {
    let lines: Vec<_> = rows.iter().map(|row| format!("- `{}`: {}", row.name, row.meaning)).collect();
    let problem = json!({ "$ref": "#/components/schemas/Problem" });
    let mut response = json!({
        "description": lines.join("\n"),
        "content": { "application/problem+json": { "schema": problem } },
    });
    if matches!(status, 429 | 503) {
        let wait =
            json!({ "schema": { "type": "integer" }, "description": "Seconds until a repeat may succeed." });
        response["headers"] = json!({ "Retry-After": wait });
    }
    if status == 429 {
        tell_rates(&mut response);
    }
    response
}

/// Joins a list and its watch: they are one operation of OpenAPI, told apart by `accept`.
fn merge(old: &mut Value, new: Value) {
    let (watch, list) = match new["responses"]["200"]["content"].get("application/json") {
        Some(_) => (std::mem::replace(old, new), old),
        None => (new, old),
    };
    let text = |v: &Value| v["description"].as_str().unwrap_or_default().to_owned();
    list["description"] = format!("{}\n\nAs a stream: {}", text(list), text(&watch)).into();
    for place in ["/responses", "/responses/200/content"] {
        let more = watch.pointer(place).and_then(Value::as_object).cloned().unwrap_or_default();
        if let Some(into) = list.pointer_mut(place).and_then(Value::as_object_mut) {
            for (key, value) in more {
                into.entry(key).or_insert(value);
            }
        }
    }
    let taken = |of: &Value| of["parameters"].as_array().cloned().unwrap_or_default();
    let same = |a: &Value, b: &Value| a["name"] == b["name"] && a["in"] == b["in"] && a["$ref"] == b["$ref"];
    let (lists, watches) = (taken(list), taken(&watch));
    let mark = |mine: &[Value], other: &[Value], when: &str| -> Vec<Value> {
        let mut mine = mine.to_vec();
        let alone = |p: &Value| p["in"] == "query" && !other.iter().any(|o| same(o, p));
        mine.iter_mut().filter(|p| alone(p)).for_each(|p| only(p, when));
        mine
    };
    let mut parameters = mark(&lists, &watches, "as a list");
    let more = mark(&watches, &lists, "as a stream");
    parameters.extend(more.into_iter().filter(|p| !lists.iter().any(|l| same(l, p))));
    list["parameters"] = parameters.into();
}

/// Says when a parameter may be there, which OpenAPI has no words for.
fn only(parameter: &mut Value, when: &str) {
    let text = parameter["description"].as_str().unwrap_or_default();
    parameter["description"] = format!("{text} Only {when}.").into();
    parameter["x-plexus-only"] = when.into();
}

fn problem(registry: &Registry, schemas: &mut Schemas) -> Value {
    let error = registry.error();
    let mut problem = schemas.object(error, Side::Answer, &["message"]);
    let names = reason::REASONS.iter().map(|row| row.name).collect::<Vec<_>>();
    problem["description"] =
        "An RFC 9457 problem. Act on `reason`; an unknown one is handled by its `code`.".into();
    problem["properties"]["reason"]["examples"] = names.into();
    for (name, text) in [
        ("type", "`urn:plexus:error:` and the reason."),
        ("title", "What the reason means."),
        ("detail", "One sentence for people. It names the field and the limit; never parse it."),
    ] {
        problem["properties"][name] = json!({ "type": "string", "description": text });
    }
    problem["properties"]["status"] = json!({ "type": "integer", "description": "The HTTP status." });
    problem["required"] = json!(["type", "title", "status", "detail", "code", "reason", "domain"]);
    problem
}

#[cfg(test)]
mod tests;
