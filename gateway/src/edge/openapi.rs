//! The OpenAPI 3.1 document of what is served, from the same descriptor; comments become descriptions.

use super::{
    desc::{Kind as Streams, Method, Registry, Rule},
    sse::Form,
};
use http::Method as Verb;
use prost_reflect::{EnumDescriptor, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Where everything that has a name of its own is described.
type Schemas = BTreeMap<String, Value>;

/// Writes the document.
pub(crate) fn document(registry: &Registry) -> Value {
    let mut schemas = Schemas::new();
    schemas.insert("Problem".into(), problem(registry, &mut schemas.clone()));
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for method in registry.methods().iter().filter(|m| m.kind.takes_one()) {
        for (index, rule) in method.rules.iter().enumerate() {
            let new = operation(method, rule, index, &mut schemas);
            let verb = rule.verb.as_ref().unwrap_or(&Verb::GET).as_str().to_ascii_lowercase();
            let path = paths.entry(plain(&rule.template)).or_default();
            match path.get_mut(&verb) {
                Some(old) => merge(old, new),
                None => drop(path.insert(verb, new)),
            }
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Plexus",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "JSON is canonical protobuf JSON: 64-bit integers are strings, bytes are base64, \
                defaults are left out, null is a default.",
        },
        "paths": paths,
        "components": { "schemas": schemas },
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
    let bound = variables(&rule.template);
    let text = comment(&method.desc.parent_file(), method.desc.path());
    let mut operation = json!({
        "operationId": format!("{}_{}{suffix}", service.name(), method.desc.name()),
        "tags": [service.name()],
        "summary": text.split(". ").next().unwrap_or_default().replace('\n', " "),
        "description": text,
        "responses": responses(method, schemas),
    });
    let mut parameters = Vec::new();
    for name in &bound {
        let field = method.input.get_field_by_name(name);
        let schema = field.map_or(json!({"type": "string"}), |f| one(&f, schemas));
        parameters.push(json!({ "name": name, "in": "path", "required": true, "schema": schema }));
    }
    let raw = raw(method, rule);
    if rule.body.is_empty() || raw {
        parameters.extend(query(&method.input, &bound, raw, schemas));
    }
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if !rule.body.is_empty() {
        let schema = message(&method.input, schemas);
        let mut content = json!({ "application/json": { "schema": schema } });
        if raw {
            content["application/octet-stream"] = json!({});
            content["text/plain"] = json!({ "schema": { "type": "string" } });
        }
        // An absent body is the empty request.
        operation["requestBody"] = json!({ "required": false, "content": content });
    }
    operation
}

/// Whether a body that is not JSON is a field of the request.
fn raw(method: &Method, rule: &Rule) -> bool {
    let field = method.input.get_field_by_name("data");
    !rule.body.is_empty() && field.is_some_and(|f| matches!(f.kind(), Kind::Bytes) && !f.is_list())
}

fn query(input: &MessageDescriptor, bound: &[&str], raw: bool, schemas: &mut Schemas) -> Vec<Value> {
    let mut parameters = Vec::new();
    for field in
        input.fields().filter(|f| !(bound.contains(&f.name()) || f.is_map() || raw && f.name() == "data"))
    {
        match field.kind() {
            Kind::Message(inner) if well_known(&inner).is_none() => {
                if field.is_list() {
                    continue; // Objects have no form in a query.
                }
                for part in inner.fields().filter(|f| !f.is_map()) {
                    let name = format!("{}.{}", field.json_name(), part.json_name());
                    parameters.push(parameter(name, &part, &inner, schemas));
                }
            }
            _ => parameters.push(parameter(field.json_name().to_owned(), &field, input, schemas)),
        }
    }
    parameters
}

fn parameter(name: String, field: &FieldDescriptor, of: &MessageDescriptor, schemas: &mut Schemas) -> Value {
    let description = comment(&of.parent_file(), field.path());
    json!({ "name": name, "in": "query", "schema": value(field, schemas), "description": description })
}

fn responses(method: &Method, schemas: &mut Schemas) -> Value {
    let schema = message(&method.output, schemas);
    let content = match method.kind {
        Streams::ServerStream => json!({
            Form::Sse.media_type(): { "schema": schema },
            Form::Ndjson.media_type(): { "schema": schema },
        }),
        _ => json!({ "application/json": { "schema": schema } }),
    };
    let problem = json!({ "$ref": "#/components/schemas/Problem" });
    json!({
        "200": { "description": "OK", "content": content },
        "default": { "description": "Error", "content": { "application/problem+json": { "schema": problem } } },
    })
}

/// Joins a list and its watch: they are one operation of OpenAPI, told apart by `accept`.
fn merge(old: &mut Value, new: Value) {
    let text = |v: &Value| v["description"].as_str().unwrap_or_default().to_owned();
    old["description"] = format!("{}\n\nAs a stream: {}", text(old), text(&new)).into();
    if let (Some(content), Some(more)) = (
        old.pointer_mut("/responses/200/content").and_then(Value::as_object_mut),
        new.pointer("/responses/200/content").and_then(Value::as_object),
    ) {
        content.extend(more.clone());
    }
    let more = new["parameters"].as_array().cloned().unwrap_or_default();
    let mut parameters = old["parameters"].as_array().cloned().unwrap_or_default();
    for parameter in more {
        if !parameters.iter().any(|p| p["name"] == parameter["name"] && p["in"] == parameter["in"]) {
            parameters.push(parameter);
        }
    }
    if !parameters.is_empty() {
        old["parameters"] = parameters.into();
    }
}

fn problem(registry: &Registry, schemas: &mut Schemas) -> Value {
    let mut properties = Map::new();
    for name in ["type", "title", "detail"] {
        properties.insert(name.into(), json!({ "type": "string" }));
    }
    properties.insert("status".into(), json!({ "type": "integer" }));
    for field in registry.error().fields().filter(|f| f.name() != "message" && f.name() != "violations") {
        properties.insert(field.json_name().into(), value(&field, schemas));
    }
    let violation = json!({ "type": "object", "properties": {
        "field": { "type": "string" }, "description": { "type": "string" },
    } });
    properties.insert("violations".into(), json!({ "type": "array", "items": violation }));
    json!({
        "type": "object",
        "description": "An RFC 9457 problem. Act on `reason`; an unknown one is handled by its `code`.",
        "required": ["type", "title", "status", "code", "reason"],
        "properties": properties,
    })
}

/// The comment of what stands at `path` of a file.
fn comment(file: &FileDescriptor, path: &[i32]) -> String {
    let info = file.file_descriptor_proto().source_code_info.as_ref();
    let location = info.and_then(|s| s.location.iter().find(|l| l.path == path));
    let lines = location.map(|l| l.leading_comments()).unwrap_or_default().lines();
    lines.map(|l| l.strip_prefix(' ').unwrap_or(l)).collect::<Vec<_>>().join("\n").trim().to_owned()
}

/// Types whose JSON is not an object of their fields.
fn well_known(desc: &MessageDescriptor) -> Option<Value> {
    Some(match desc.full_name() {
        "google.protobuf.Timestamp" => json!({ "type": "string", "format": "date-time" }),
        "google.protobuf.Duration" => json!({ "type": "string", "pattern": r"^-?\d+(\.\d{1,9})?s$" }),
        "google.protobuf.FieldMask" => json!({ "type": "string" }),
        "google.protobuf.Struct" => json!({ "type": "object", "additionalProperties": true }),
        "google.protobuf.Value" => json!({}),
        "google.protobuf.Any" => json!({
            "type": "object", "properties": { "@type": { "type": "string" } }, "additionalProperties": true,
        }),
        _ => return None,
    })
}

fn message(desc: &MessageDescriptor, schemas: &mut Schemas) -> Value {
    if let Some(schema) = well_known(desc) {
        return schema;
    }
    let name = desc.full_name().to_owned();
    if !schemas.contains_key(&name) {
        // Holds the place, for messages that contain themselves.
        schemas.insert(name.clone(), Value::Null);
        let mut properties = Map::new();
        for field in desc.fields() {
            let text = comment(&desc.parent_file(), field.path());
            let mut schema = value(&field, schemas);
            if let (false, Some(schema)) = (text.is_empty(), schema.as_object_mut()) {
                schema.insert("description".into(), text.into());
            }
            properties.insert(field.json_name().to_owned(), schema);
        }
        let schema = json!({
            "type": "object",
            "description": comment(&desc.parent_file(), desc.path()),
            "properties": properties,
            "additionalProperties": false,
        });
        schemas.insert(name.clone(), schema);
    }
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn values(desc: &EnumDescriptor) -> Value {
    json!({ "type": "string", "enum": desc.values().map(|v| v.name().to_owned()).collect::<Vec<_>>() })
}

/// A field with all its values.
fn value(field: &FieldDescriptor, schemas: &mut Schemas) -> Value {
    if let (true, Kind::Message(entry)) = (field.is_map(), field.kind()) {
        return json!({ "type": "object", "additionalProperties": value(&entry.map_entry_value_field(), schemas) });
    }
    let one = one(field, schemas);
    if field.is_list() { json!({ "type": "array", "items": one }) } else { one }
}

/// One value of a field.
fn one(field: &FieldDescriptor, schemas: &mut Schemas) -> Value {
    match field.kind() {
        Kind::String => json!({ "type": "string" }),
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Bytes => json!({ "type": "string", "format": "byte" }),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => json!({ "type": "integer", "format": "int32" }),
        Kind::Uint32 | Kind::Fixed32 => json!({ "type": "integer", "format": "int64", "minimum": 0 }),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => json!({ "type": "string", "format": "int64" }),
        Kind::Uint64 | Kind::Fixed64 => json!({ "type": "string", "format": "uint64" }),
        Kind::Float => json!({ "type": "number", "format": "float" }),
        Kind::Double => json!({ "type": "number", "format": "double" }),
        Kind::Enum(desc) => values(&desc),
        Kind::Message(desc) => message(&desc, schemas),
    }
}
