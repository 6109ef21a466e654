//! One error, its faces. The only place where codes become HTTP, gRPC and close codes: everything
//! follows from the table in `plexus_proto::reason`.

use plexus_proto::{
    reason::{self, Reason},
    v1,
};
use prost::Message as _;
use std::collections::HashMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Makes the gRPC status of an error: `google.rpc.Status` with ErrorInfo, BadRequest and RetryInfo.
pub fn status(error: &v1::Error) -> Status {
    with_code(error, code(error))
}

/// Makes the status of a refusal for which the specifications of gRPC and Connect want another code than the
/// table has for its reason: UNIMPLEMENTED for a packing that is not read, and for more or fewer messages than a
/// method takes; INTERNAL for a message that is packed without a word of how.
pub(crate) fn coded(error: &v1::Error, code: Code, told: bool) -> Status {
    if told { with_code(error, code) } else { Status::new(code, error.message.clone()) }
}

fn with_code(error: &v1::Error, code: Code) -> Status {
    let mut details = ErrorDetails::new();
    let metadata: HashMap<String, String> = error.metadata.clone();
    details.set_error_info(error.reason.clone(), "plexus", metadata);
    for violation in &error.violations {
        details.add_bad_request_violation(violation.field.clone(), violation.description.clone());
    }
    if let Some(wait) = error.retry_after.and_then(|d| std::time::Duration::try_from(d).ok()) {
        details.set_retry_info(Some(wait));
    }
    Status::with_error_details(code, error.message.clone(), details)
}

/// Makes the status of a refusal; its details are words of the contract, and only told to who speaks it.
pub fn refusal(error: &v1::Error, told: bool) -> Status {
    if told { status(error) } else { Status::new(code(error), error.message.clone()) }
}

/// Reads an error back from a status, whoever made it: ours by its details, tonic's own by its code.
pub fn from_status(status: &Status) -> v1::Error {
    let details = status.get_error_details();
    let reason = details
        .error_info()
        .map(|i| i.reason.clone())
        .unwrap_or_else(|| by_code(status.code()).as_str_name().into());
    v1::Error {
        code: code_text(status.code()).into(),
        message: status.message().to_owned(),
        reason,
        domain: "plexus".into(),
        metadata: details.error_info().map(|i| i.metadata.clone()).unwrap_or_default(),
        violations: details
            .bad_request()
            .map(|b| &b.field_violations[..])
            .unwrap_or_default()
            .iter()
            .map(|v| v1::error::Violation { field: v.field.clone(), description: v.description.clone() })
            .collect(),
        retry_after: details
            .retry_info()
            .and_then(|r| r.retry_delay)
            .and_then(|d| prost_types::Duration::try_from(d).ok()),
        traceparent: String::new(),
    }
}

/// The HTTP status of a REST answer: the reason first (405, 413, 415 … have no gRPC code), then the code.
pub fn http_status(error: &v1::Error) -> http::StatusCode {
    let row = reason::by_name(&error.reason).unwrap_or_else(|| by_code(code(error)).row());
    http::StatusCode::from_u16(row.http).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR)
}

/// The WebSocket close code of an error that ends a session; 3004 where it has none of its own.
pub fn close_code(error: &v1::Error) -> u16 {
    reason::by_name(&error.reason).map(|r| r.close).filter(|c| *c != 0).unwrap_or(3004)
}

/// The canonical code of an error: by its reason, else by its code's name.
pub fn code(error: &v1::Error) -> Code {
    match reason::by_name(&error.reason) {
        Some(row) => Code::from_i32(row.code as i32),
        None => (0..17).map(Code::from_i32).find(|c| code_text(*c) == error.code).unwrap_or(Code::Unknown),
    }
}

/// Spells a code as Connect does.
pub fn code_text(code: Code) -> &'static str {
    reason::REASONS
        .iter()
        .find(|r| r.code as i32 == code as i32)
        .map_or(if code == Code::Ok { "ok" } else { "unknown" }, |r| r.code.as_str())
}

/// The reason that stands for a code that came without one.
fn by_code(code: Code) -> Reason {
    match code {
        Code::Cancelled => Reason::Cancelled,
        Code::InvalidArgument => Reason::FieldInvalid,
        Code::DeadlineExceeded => Reason::DeadlineExceeded,
        Code::NotFound => Reason::RouteNotFound,
        Code::PermissionDenied => Reason::NotAllowed,
        Code::ResourceExhausted => Reason::Overloaded,
        Code::Unimplemented => Reason::MethodNotFound,
        Code::Internal => Reason::Internal,
        Code::Unavailable => Reason::Draining,
        Code::DataLoss => Reason::LogDiverged,
        Code::Unauthenticated => Reason::TokenMissing,
        _ => Reason::Unspecified,
    }
}

/// The `google.rpc` details of a status, for dialects that carry them one by one.
pub fn any_details(status: &Status) -> Vec<prost_types::Any> {
    tonic_types::pb::Status::decode(status.details()).map(|s| s.details).unwrap_or_default()
}
