//! Taking up a former session: every call of its token begins again under its old id.

use super::{
    super::{
        super::{auth, bind, convention::CURSORS},
        form::{Begin, Form},
    },
    EventLoop,
};
use crate::{
    caller::Caller,
    resume::{Bearer, Former},
};
use plexus_proto::{
    reason::Reason,
    v1::{self, SessionFrame, session_frame::Kind},
};
use prost::Message as _;
use prost_reflect::DynamicMessage;
use std::{collections::HashSet, time::SystemTime};

/// Where a token comes in.
const FIELD: &str = "resume.token";

impl EventLoop {
    /// Begins what the token says: all of it or, where an id is taken or there are too many, none.
    pub(super) fn take_up(&mut self, token: &str) -> Result<(), Box<v1::Error>> {
        let caller = self.extensions.get::<Caller>().ok_or_else(auth::missing)?;
        let bearer = Bearer::from(caller);
        let formers = self.trunk.tokens().read(&bearer, token, SystemTime::now());
        let formers = formers.ok_or_else(|| {
            self.trunk.tokens().refusal(FIELD, "a token that this caller got here in the last 24 h")
        })?;
        let calls = formers.iter().map(|former| self.call(&bearer, former)).collect::<Result<Vec<_>, _>>()?;
        let mut ids: HashSet<u32> = self.open.iter().map(|(id, _)| *id).collect();
        if let Some((id, _)) = calls.iter().find(|(id, _)| !ids.insert(*id)) {
            let text = format!("resume: call {id} of the former session is open in this one");
            return Err(Box::new(v1::Error::new(Reason::CallIdInUse, text)));
        }
        let max = self.trunk.limits().session_calls_max;
        if ids.len() > max {
            let text = format!("resume: at most {max} calls are open");
            return Err(Box::new(v1::Error::new(Reason::CallLimit, text).with("limit", max)));
        }
        for (id, begin) in calls {
            match begin.map(|begin| self.begin(id, &begin)) {
                Some(Ok(())) => {}
                Some(Err(error)) => self.fail(id, error),
                None => self.say(self.form.end(id, false)),
            }
        }
        Ok(())
    }

    /// The call that begins a stream again, from where it was; none for one that had said all it was asked for.
    fn call(&self, bearer: &Bearer, former: &Former) -> Result<(u32, Option<Begin>), Box<v1::Error>> {
        let none = || self.trunk.tokens().refusal(FIELD, "a token of a session; others go into a request");
        let frame = SessionFrame::decode(former.again.clone()).map_err(|_| none())?;
        let (id, call) = match (frame.id, frame.kind) {
            (id, Some(Kind::Call(call))) => (id, call),
            (id, Some(Kind::End(_))) => return Ok((id, None)),
            _ => return Err(none()),
        };
        let mut params = frame.params;
        if let (Some(method), false) = (self.trunk.registry().call(&call), former.places.is_empty()) {
            let mut request = DynamicMessage::decode(method.input.clone(), params).map_err(|_| none())?;
            let token = self.trunk.tokens().write(bearer, &[], &former.places);
            bind::set(&mut request, CURSORS[0], &token)?;
            params = request.encode_to_vec().into();
        }
        let (timeout_ms, window) = (frame.timeout_ms, frame.window);
        let begin = Begin { call, params, form: Form::Proto, timeout_ms, window, ..Begin::default() };
        Ok((id, Some(begin)))
    }
}
