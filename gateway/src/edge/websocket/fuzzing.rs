//! The sessions' part of [`crate::fuzzing`].

use super::form::{Begin, Form, Frame};
use crate::fuzzing::refused;
use bytes::Bytes;
use plexus_proto::v1::{SessionFrame, session_frame::Kind};
use prost::Message as _;
use serde_json::{Value, json};

/// Frames of a client in either form: what is read of Protobuf is read of the same in JSON.
pub(crate) fn frame(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    match Form::Json.read(&bytes) {
        Ok(Frame::Call(_, Begin { params, .. }) | Frame::Input(_, params)) if !params.is_empty() => {
            assert!(serde_json::from_slice::<&serde_json::value::RawValue>(&params).is_ok(), "{params:?}");
        }
        Ok(_) => {}
        Err(error) => refused(&error),
    }
    let read = match Form::Proto.read(&bytes) {
        Ok(read) => read,
        Err(error) => return refused(&error),
    };
    let frame = SessionFrame::decode(bytes).expect("it was read before");
    let Some(text) = spell(frame) else { return };
    let mut spelled = Form::Json.read(&text.into()).expect("the same in JSON");
    // Requests are in the session's form.
    if let (Frame::Call(_, read), Frame::Call(_, spelled)) = (&read, &mut spelled) {
        (spelled.params, spelled.form) = (read.params.clone(), read.form);
    }
    assert_eq!(spelled, read);
}

fn spell(frame: SessionFrame) -> Option<String> {
    let value: Value = match frame.kind? {
        Kind::Call(call) => json!({
            "id": frame.id, "call": call, "params": {}, "timeoutMs": frame.timeout_ms,
            "window": frame.window, "traceparent": frame.traceparent, "tracestate": frame.tracestate,
            "requestId": frame.request_id,
        }),
        Kind::Done(done) => json!({"id": frame.id, "done": done}),
        Kind::Cancel(cancel) => json!({"id": frame.id, "cancel": cancel}),
        Kind::Credit(credit) => json!({"id": frame.id, "credit": credit}),
        Kind::Ping(ping) => json!({"ping": ping}),
        Kind::Pong(pong) => json!({"pong": pong}),
        Kind::Auth(auth) => json!({"auth": {"token": auth.token}}),
        Kind::Resume(former) => json!({"resume": {"token": former.token}}),
        _ => return None,
    };
    Some(value.to_string())
}
