//! JSON schemas of messages, from the descriptor; comments become descriptions. What an answer holds is
//! written in one way; what a request may hold is wider, because the canonical mapping also reads null
//! for a default, text for a number and a number for the name of an enum.

use prost_reflect::{
    EnumDescriptor, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor, Value as Field,
};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Who writes the JSON.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    /// We do.
    Answer,
    /// A client does.
    Request,
}

/// What a field is marked as by `google.api.field_behavior`.
const REQUIRED: i32 = 2;
const OUTPUT_ONLY: i32 = 3;
const INPUT_ONLY: i32 = 4;

/// Everything that has a name of its own.
#[derive(Default)]
pub(crate) struct Schemas(BTreeMap<String, Value>);

impl Schemas {
    /// Gives out what was collected.
    pub(crate) fn into_inner(self) -> BTreeMap<String, Value> {
        self.0
    }

    /// Keeps a schema under a name and refers to it.
    pub(crate) fn keep(&mut self, name: &str, schema: Value) -> Value {
        self.0.insert(name.into(), schema);
        reference(name)
    }

    /// Describes a message under its own name.
    pub(crate) fn message(&mut self, desc: &MessageDescriptor, side: Side) -> Value {
        if let Some(schema) = well_known(desc) {
            return schema;
        }
        let mut name = name(desc);
        if side == Side::Request && !name.ends_with("Request") {
            name.push_str(".Input");
        }
        if !self.0.contains_key(&name) {
            // Holds the place, for messages that contain themselves.
            self.0.insert(name.clone(), Value::Null);
            let schema = self.object(desc, side, &[]);
            self.0.insert(name.clone(), schema);
        }
        reference(&name)
    }

    /// Describes a message in place, without some of its fields.
    pub(crate) fn object(&mut self, desc: &MessageDescriptor, side: Side, without: &[&str]) -> Value {
        let (mut properties, mut required) = (Map::new(), Vec::new());
        for field in desc.fields().filter(|f| !without.contains(&f.name())) {
            let mut schema = self.field(&field, side);
            let text = comment(&desc.parent_file(), field.path());
            if let Some(schema) = schema.as_object_mut() {
                schema.insert("description".into(), text.into());
                match side {
                    Side::Request if behaves(&field, OUTPUT_ONLY) => {
                        schema.insert("readOnly".into(), true.into())
                    }
                    Side::Answer if behaves(&field, INPUT_ONLY) => {
                        schema.insert("writeOnly".into(), true.into())
                    }
                    _ => None,
                };
            }
            if side == Side::Request && behaves(&field, REQUIRED) {
                required.push(field.json_name().to_owned());
            }
            properties.insert(field.json_name().to_owned(), schema);
        }
        let mut schema = json!({
            "type": "object",
            "description": comment(&desc.parent_file(), desc.path()),
            "properties": properties,
            "additionalProperties": false,
        });
        if !required.is_empty() {
            schema["required"] = required.into();
        }
        exclude(&mut schema, desc, without);
        schema
    }

    /// Describes a field with all its values.
    pub(crate) fn field(&mut self, field: &FieldDescriptor, side: Side) -> Value {
        let request = side == Side::Request;
        let many = |kind: &str| if request { json!([kind, "null"]) } else { json!(kind) };
        if let (true, Kind::Message(entry)) = (field.is_map(), field.kind()) {
            let value = self.one(&entry.map_entry_value_field(), side);
            return json!({ "type": many("object"), "additionalProperties": value });
        }
        let one = self.one(field, side);
        if field.is_list() {
            let mut list = json!({ "type": many("array"), "items": one });
            if request && behaves(field, REQUIRED) {
                list = json!({ "type": "array", "items": list["items"], "minItems": 1 });
            }
            return list;
        }
        match (request, behaves(field, REQUIRED)) {
            (true, false) => nullable(one),
            _ => one,
        }
    }

    /// Describes one value of a field.
    fn one(&mut self, field: &FieldDescriptor, side: Side) -> Value {
        match field.kind() {
            Kind::Message(desc) => self.message(&desc, side),
            Kind::Enum(desc) if side == Side::Request => {
                let numbers = desc.values().map(|v| json!(v.number())).collect::<Vec<_>>();
                json!({ "anyOf": [values(&desc), { "enum": numbers }] })
            }
            Kind::Enum(desc) => values(&desc),
            _ => scalar(field, side),
        }
    }
}

/// Describes a field of which one value is written as the text of a path or a query.
pub(crate) fn text(field: &FieldDescriptor) -> Value {
    let one = match field.kind() {
        Kind::Message(desc) => well_known(&desc).unwrap_or(json!({ "type": "string" })),
        Kind::Enum(desc) => values(&desc),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => json!({ "type": "integer", "format": "int64" }),
        Kind::Uint64 | Kind::Fixed64 => json!({ "type": "integer", "format": "uint64", "minimum": 0 }),
        _ => scalar(field, Side::Answer),
    };
    if field.is_list() { json!({ "type": "array", "items": one }) } else { bound(field, one) }
}

/// Tells whether a field is marked so.
pub(crate) fn is_required(field: &FieldDescriptor) -> bool {
    behaves(field, REQUIRED)
}

/// The comment of what stands at `path` of a file.
pub(crate) fn comment(file: &FileDescriptor, path: &[i32]) -> String {
    let info = file.file_descriptor_proto().source_code_info.as_ref();
    let location = info.and_then(|s| s.location.iter().find(|l| l.path == path));
    let lines = location.map(|l| l.leading_comments()).unwrap_or_default().lines();
    lines.map(|l| l.strip_prefix(' ').unwrap_or(l)).collect::<Vec<_>>().join("\n").trim().to_owned()
}

/// Types whose JSON is not an object of their fields.
pub(crate) fn well_known(desc: &MessageDescriptor) -> Option<Value> {
    Some(match desc.full_name() {
        "google.protobuf.Timestamp" => json!({ "type": "string", "format": "date-time" }),
        "google.protobuf.Duration" => {
            json!({ "type": "string", "pattern": r"^-?[0-9]{1,11}(\.[0-9]{1,9})?s$", "examples": ["2.5s"] })
        }
        "google.protobuf.FieldMask" => {
            json!({ "type": "string", "pattern": r"^([a-zA-Z0-9.]+(,[a-zA-Z0-9.]+)*)?$" })
        }
        "google.protobuf.Struct" => json!({ "type": "object", "additionalProperties": true }),
        "google.protobuf.Value" => json!({}),
        "google.protobuf.Any" => json!({
            "type": "object", "properties": { "@type": { "type": "string" } }, "additionalProperties": true,
        }),
        _ => return None,
    })
}

/// A message's name in the document: without the package that everything is in.
fn name(desc: &MessageDescriptor) -> String {
    let package = format!("{}.", desc.package_name());
    desc.full_name().strip_prefix(&package).unwrap_or(desc.full_name()).to_owned()
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn values(desc: &EnumDescriptor) -> Value {
    json!({ "type": "string", "enum": desc.values().map(|v| v.name().to_owned()).collect::<Vec<_>>() })
}

fn scalar(field: &FieldDescriptor, side: Side) -> Value {
    let request = side == Side::Request;
    let number = |kind: &str| if request { json!([kind, "string"]) } else { json!(kind) };
    let long = || if request { json!(["string", "integer"]) } else { json!("string") };
    let schema = match field.kind() {
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Bytes => json!({
            "type": "string",
            "contentEncoding": "base64",
            "pattern": "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}(==)?|[A-Za-z0-9+/]{3}=?)?$",
        }),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => json!({
            "type": number("integer"), "format": "int32", "minimum": i32::MIN, "maximum": i32::MAX,
            "pattern": "^-?[0-9]{1,9}$",
        }),
        Kind::Uint32 | Kind::Fixed32 => json!({
            "type": number("integer"), "minimum": 0, "maximum": u32::MAX, "pattern": "^[0-9]{1,9}$",
        }),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => json!({
            "type": long(), "format": "int64", "minimum": i64::MIN, "maximum": i64::MAX,
            "pattern": "^-?[0-9]{1,18}$",
        }),
        Kind::Uint64 | Kind::Fixed64 => json!({
            "type": long(), "format": "uint64", "minimum": 0, "maximum": u64::MAX, "pattern": "^[0-9]{1,20}$",
        }),
        Kind::Float | Kind::Double => json!({
            "type": number("number"), "format": "double",
            "pattern": r"^(-?[0-9]+(\.[0-9]+)?|-?Infinity|NaN)$",
        }),
        _ => json!({ "type": "string" }),
    };
    let mut schema = bound(field, schema);
    // A key that no type of the schema looks at would only mislead.
    let (kind, map) = (schema["type"].clone(), schema.as_object_mut());
    let is = |name: &str| kind == name || kind.as_array().is_some_and(|k| k.contains(&json!(name)));
    if let Some(map) = map {
        map.retain(|key, _| key != "pattern" || is("string"));
        map.retain(|key, _| !matches!(key.as_str(), "minimum" | "maximum") || is("integer"));
    }
    schema
}

/// Adds the bounds that the conventions of the contract set for a field of every method.
fn bound(field: &FieldDescriptor, mut schema: Value) -> Value {
    match field.name() {
        "page_size" => schema["minimum"] = 0.into(),
        "request_id" => schema["pattern"] = "^[ -~]{0,128}$".into(),
        _ if behaves(field, REQUIRED) && schema["type"] == "string" => schema["minLength"] = 1.into(),
        _ => {}
    }
    schema
}

/// Lets a schema be null as well: a field's default.
fn nullable(schema: Value) -> Value {
    let nothing = json!({ "type": "null" });
    match schema.get("type") {
        Some(Value::String(one)) if schema.get("enum").is_none() => {
            let kinds = json!([one, "null"]);
            with(schema, "type", kinds)
        }
        Some(Value::Array(many)) => {
            let kinds = many.iter().cloned().chain([json!("null")]).collect::<Vec<_>>();
            with(schema, "type", kinds.into())
        }
        _ if schema.get("anyOf").is_some() => {
            let mut schema = schema;
            if let Some(any) = schema["anyOf"].as_array_mut() {
                any.push(nothing);
            }
            schema
        }
        _ => json!({ "anyOf": [schema, nothing] }),
    }
}

fn with(mut schema: Value, key: &str, value: Value) -> Value {
    schema[key] = value;
    schema
}

/// Says that of the fields of a oneof only one may be there.
fn exclude(schema: &mut Value, desc: &MessageDescriptor, without: &[&str]) {
    let mut pairs = Vec::new();
    for oneof in desc.oneofs().filter(|o| !o.is_synthetic()) {
        let names: Vec<_> = oneof
            .fields()
            .filter(|f| !without.contains(&f.name()))
            .map(|f| f.json_name().to_owned())
            .collect();
        if names.len() == desc.fields().len() {
            schema["maxProperties"] = 1.into();
            return;
        }
        for (index, one) in names.iter().enumerate() {
            pairs.extend(names[index + 1..].iter().map(|other| json!({ "required": [one, other] })));
        }
    }
    if !pairs.is_empty() {
        schema["not"] = json!({ "anyOf": pairs });
    }
}

fn behaves(field: &FieldDescriptor, as_what: i32) -> bool {
    let Some(extension) = field.parent_pool().get_extension_by_name("google.api.field_behavior") else {
        return false;
    };
    let options = field.options();
    let marks = options.get_extension(&extension);
    marks.as_list().is_some_and(|marks| marks.contains(&Field::EnumNumber(as_what)))
}
