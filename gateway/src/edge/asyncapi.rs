//! The AsyncAPI 3 document of WebSocket sessions, from the same descriptor: the frame as the contract
//! describes it, and every call with its request and its answers.

use super::{
    desc::{Method, Registry},
    schema::{self, Schemas, Side},
    websocket,
};
use serde_json::{Map, Value, json};

/// The frame, and the fields of it that a client writes.
const FRAME: &str = "plexus.v1.SessionFrame";
/// Fields that hold a message of the method: in JSON it is in place, not base64.
const IN_PLACE: [&str; 4] = ["event", "input", "params", "result"];

/// The forms of a frame.
const PROTOCOLS: [&str; 2] = ["plexus.v1.json", "plexus.v1.proto"];

/// Writes the document.
pub(crate) fn document(registry: &Registry) -> Value {
    let mut schemas = Schemas::default();
    let mut messages = Map::new();
    let about = frame(registry, &mut schemas, &mut messages);
    for method in registry.methods().iter().filter(|m| !m.rules.is_empty()) {
        call(method, &mut schemas, &mut messages);
    }
    let refer = |word: fn(&str) -> bool| -> Vec<Value> {
        let names = messages.keys().filter(|name| word(name) || *name == "frame");
        names.map(|n| json!({ "$ref": format!("#/channels/session/messages/{n}") })).collect()
    };
    let (sent, heard) = (refer(|n| n.ends_with(".call")), refer(|n| !n.ends_with(".call")));
    let channel = json!({ "$ref": "#/channels/session" });
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Plexus sessions",
            "version": env!("CARGO_PKG_VERSION"),
            "description": about,
            "license": { "name": "Apache-2.0" },
        },
        "defaultContentType": "application/json",
        "channels": { "session": {
            "address": websocket::PATH,
            "title": "A session",
            "description": "One WebSocket: many calls and streams at once.",
            "bindings": { "ws": { "method": "GET", "bindingVersion": "0.1.0", "headers": {
                "type": "object",
                "properties": { "Sec-WebSocket-Protocol": { "type": "string", "enum": PROTOCOLS } },
            } } },
            "messages": messages,
        } },
        "operations": {
            "say": { "action": "receive", "channel": channel, "summary": "What a client says.", "messages": sent },
            "hear": { "action": "send", "channel": channel, "summary": "What the gateway says.", "messages": heard },
        },
        "components": { "schemas": schemas.into_inner() },
    })
}

/// Adds the frame as such, and tells what a session is.
fn frame(registry: &Registry, schemas: &mut Schemas, messages: &mut Map<String, Value>) -> String {
    let Some(frame) = registry.error().parent_pool().get_message_by_name(FRAME) else {
        return String::new();
    };
    let file = frame.parent_file();
    let mut described = schemas.object(&frame, Side::Answer, &[]);
    for name in IN_PLACE {
        described["properties"][name]["type"] = "object".into();
        for word in ["contentEncoding", "pattern"] {
            described["properties"][name].as_object_mut().map(|field| field.remove(word));
        }
    }
    described.as_object_mut().map(|frame| frame.remove("not"));
    let payload = schemas.keep("SessionFrame", described);
    messages
        .insert("frame".into(), json!({ "name": "SessionFrame", "title": "One frame", "payload": payload }));
    format!("{}\n\n{}", file_comment(&file), schema::comment(&file, frame.path()))
}

/// Adds the two frames of a call: how it is made, and how it is answered.
fn call(method: &Method, schemas: &mut Schemas, messages: &mut Map<String, Value>) {
    let name = format!("{}.{}", method.desc.parent_service().name(), method.desc.name());
    let text = schema::comment(&method.desc.parent_file(), method.desc.path());
    let title = text.split(". ").next().unwrap_or_default().replace('\n', " ");
    let params = schemas.message(&method.input, Side::Request);
    let answer = schemas.message(&method.output, Side::Answer);
    let id = json!({ "type": "integer", "minimum": 1, "maximum": u32::MAX });
    let call = json!({
        "type": "object",
        "required": ["id", "call"],
        "properties": { "id": id, "call": { "const": name }, "params": params },
    });
    let word = if method.kind.streams() { "event" } else { "result" };
    let answer =
        json!({ "type": "object", "required": ["id", word], "properties": { "id": id, word: answer } });
    messages.insert(
        format!("{name}.call"),
        json!({ "name": name, "title": title, "description": text, "payload": call }),
    );
    messages.insert(
        format!("{name}.{word}"),
        json!({ "name": format!("{name}.{word}"), "title": format!("Answers {name}"), "payload": answer }),
    );
}

/// The comment at the head of a file.
fn file_comment(file: &prost_reflect::FileDescriptor) -> String {
    // Field 12 of a file is its syntax, the first thing in it.
    schema::comment(file, &[12])
}
