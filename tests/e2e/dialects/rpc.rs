//! Methods as the descriptor tells them, and failures as each dialect writes them. Read here from the
//! contract alone, never with the gateway's own code.

use base64::{alphabet, engine};
use http::Method as Verb;
use plexus_proto::v1;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor, Value as Field};
use serde_json::Value;
use std::sync::LazyLock;
use tonic_types::pb;

/// The contract.
pub(crate) static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(plexus_proto::DESCRIPTOR).unwrap());

/// The canonical codes as the contract spells them, by number.
const CODES: [&str; 17] = [
    "ok",
    "cancelled",
    "unknown",
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "internal",
    "unavailable",
    "data_loss",
    "unauthenticated",
];

/// Base64 as the dialects send it: with or without padding.
pub(crate) const BASE64: engine::GeneralPurpose = engine::GeneralPurpose::new(
    &alphabet::STANDARD,
    engine::GeneralPurposeConfig::new().with_decode_padding_mode(engine::DecodePaddingMode::Indifferent),
);

/// One method.
#[derive(Clone, Debug)]
pub(crate) struct Rpc {
    /// `TopicService/Publish`.
    pub(crate) name: String,
    /// `/plexus.v1.TopicService/Publish`.
    pub(crate) path: String,
    pub(crate) input: MessageDescriptor,
    pub(crate) output: MessageDescriptor,
    /// Whether it answers a stream.
    pub(crate) streams: bool,
    /// Whether it has no side effects.
    pub(crate) safe: bool,
    /// Its HTTP rules, the main one first.
    pub(crate) rules: Vec<Rule>,
}

/// One `google.api.http` binding.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) verb: Verb,
    pub(crate) template: String,
    pub(crate) has_body: bool,
}

impl Rpc {
    /// Every method of the contract.
    pub(crate) fn all() -> Vec<Self> {
        POOL.services().flat_map(|s| s.methods().map(Self::new).collect::<Vec<_>>()).collect()
    }

    /// The method `TopicService/Publish`.
    pub(crate) fn named(name: &str) -> Self {
        Self::all().into_iter().find(|r| r.name == name).unwrap_or_else(|| panic!("no method {name}"))
    }

    fn new(method: MethodDescriptor) -> Self {
        assert!(
            !method.is_client_streaming(),
            "{}: clients for many requests are to be written",
            method.name()
        );
        let service = method.parent_service();
        let level = method.options().get_field_by_name("idempotency_level").and_then(|v| v.as_enum_number());
        Self {
            name: format!("{}/{}", service.name(), method.name()),
            path: format!("/{}/{}", service.full_name(), method.name()),
            input: method.input(),
            output: method.output(),
            streams: method.is_server_streaming(),
            safe: level == Some(1),
            rules: rules(&method),
        }
    }

    /// The request of a JSON.
    pub(crate) fn request(&self, json: &Value) -> DynamicMessage {
        DynamicMessage::deserialize(self.input.clone(), json)
            .unwrap_or_else(|e| panic!("{}: {e}: {json}", self.name))
    }

    /// The encoded request of a JSON.
    pub(crate) fn encode(&self, json: &Value) -> Vec<u8> {
        self.request(json).encode_to_vec()
    }

    /// The JSON of an encoded answer.
    pub(crate) fn decode(&self, proto: &[u8]) -> Value {
        let message = DynamicMessage::decode(self.output.clone(), proto);
        self.answer(&message.unwrap_or_else(|e| panic!("{}: {e}", self.name)))
    }

    /// The JSON of an answer.
    pub(crate) fn answer(&self, message: &DynamicMessage) -> Value {
        serde_json::to_value(message).unwrap()
    }
}

fn rules(method: &MethodDescriptor) -> Vec<Rule> {
    let http = POOL.get_extension_by_name("google.api.http").unwrap();
    let options = method.options();
    assert!(options.has_extension(&http), "{} has no path", method.full_name());
    let main = options.get_extension(&http);
    let main = main.as_message().unwrap();
    let more = main.get_field_by_name("additional_bindings").unwrap();
    let more = more.as_list().unwrap().iter().filter_map(Field::as_message);
    std::iter::once(main).chain(more).map(rule).collect()
}

fn rule(message: &DynamicMessage) -> Rule {
    let text = |name: &str| message.get_field_by_name(name).unwrap().as_str().unwrap().to_owned();
    let verb =
        ["get", "put", "post", "delete", "patch"].into_iter().find(|v| message.has_field_by_name(v)).unwrap();
    let body = text("body");
    assert!(body.is_empty() || body == "*", "a body is the request itself");
    Rule { verb: verb.to_uppercase().parse().unwrap(), template: text(verb), has_body: body == "*" }
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Failure {
    /// The canonical code.
    pub(crate) code: String,
    /// The stable reason.
    pub(crate) reason: String,
    /// The fields that are wrong.
    pub(crate) fields: Vec<String>,
    /// Facts.
    pub(crate) metadata: Vec<(String, String)>,
    /// Milliseconds after which it may be tried again.
    pub(crate) retry_after_ms: Option<u64>,
}

impl Failure {
    /// Reads the error that REST, SSE, NDJSON and JSON sessions write.
    pub(crate) fn of_json(json: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let violations = json["violations"].as_array().cloned().unwrap_or_default();
        let metadata = json["metadata"].as_object().cloned().unwrap_or_default();
        let wait = json["retryAfter"].as_str().and_then(|d| d.strip_suffix('s')?.parse::<f64>().ok());
        assert_eq!(json["domain"], "plexus", "{json}");
        Self {
            code: text(&json["code"]),
            reason: text(&json["reason"]),
            fields: violations.iter().map(|v| text(&v["field"])).collect(),
            metadata: sorted(metadata.iter().map(|(k, v)| (k.clone(), text(v)))),
            retry_after_ms: wait.map(|s| (s * 1000.0).round() as u64),
        }
    }

    /// Reads the error of a session in Protobuf.
    pub(crate) fn of_error(error: v1::Error) -> Self {
        assert_eq!(error.domain, "plexus", "{error:?}");
        Self {
            code: error.code,
            reason: error.reason,
            fields: error.violations.into_iter().map(|v| v.field).collect(),
            metadata: sorted(error.metadata),
            retry_after_ms: error.retry_after.map(millis),
        }
    }

    /// Reads the details of gRPC and gRPC-Web: an encoded `google.rpc.Status`.
    pub(crate) fn of_status(code: i32, details: &[u8]) -> Self {
        let status = pb::Status::decode(details).unwrap();
        assert!(status.code == code || details.is_empty(), "the details tell another code: {status:?}");
        let details = status.details.into_iter();
        Self::of_details(CODES[code as usize], details.map(|d| (d.type_url, d.value.to_vec())))
    }

    /// Reads the details of Connect, which come one by one.
    pub(crate) fn of_details(code: &str, details: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        let code = if code == "canceled" { "cancelled" } else { code };
        let (reason, fields, metadata) = Default::default();
        let mut failure = Self { code: code.into(), reason, fields, metadata, retry_after_ms: None };
        for (kind, value) in details {
            match kind.rsplit('/').next().unwrap() {
                "google.rpc.ErrorInfo" => {
                    let info = pb::ErrorInfo::decode(&value[..]).unwrap();
                    assert_eq!(info.domain, "plexus");
                    failure.reason = info.reason;
                    failure.metadata = sorted(info.metadata);
                }
                "google.rpc.BadRequest" => {
                    let bad = pb::BadRequest::decode(&value[..]).unwrap();
                    failure.fields = bad.field_violations.into_iter().map(|v| v.field).collect();
                }
                "google.rpc.RetryInfo" => {
                    let wait = pb::RetryInfo::decode(&value[..]).unwrap().retry_delay.unwrap();
                    failure.retry_after_ms = Some(millis(wait));
                }
                _ => {}
            }
        }
        failure
    }

    /// What must be alike in every dialect.
    pub(crate) fn told(&self) -> (&str, &str, &[String]) {
        (&self.code, &self.reason, &self.fields)
    }
}

fn sorted(pairs: impl IntoIterator<Item = (String, String)>) -> Vec<(String, String)> {
    let mut pairs: Vec<_> = pairs.into_iter().collect();
    pairs.sort();
    pairs
}

fn millis(wait: impl TryInto<std::time::Duration>) -> u64 {
    wait.try_into().ok().expect("a wait is not negative").as_millis() as u64
}
