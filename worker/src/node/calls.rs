//! Calls to the node: what comes off its subject and what goes back. Reads each call into a typed
//! request by one table, answers repeats from the window, counts the credit of streams, and queues
//! answers for a task of the loop to send. Decides nothing about the node itself, and never waits.

use super::{
    answers::{Answer, Answers, Content, Known},
    peers::Ask,
};
use crate::{Refusal, clock::Now, refuse};
use plexus_bus::{
    Body, Call, CallId, Envelope, Error, Frame, GatewayId, Incarnation, Outcome, Payload, Topic,
};
use plexus_proto::{bus as wire, reason::Reason, v1};
use sha2::{Digest, Sha256};
use std::{
    collections::{HashMap, VecDeque},
    time::SystemTime,
};
use tracing::Span;

/// Answers handed to the carrier in one go.
const BATCH: usize = 64;
/// Outputs of one stream that may wait for credit.
const OUTPUTS: usize = 256;

/// A request to the node.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    /// `TopicService/ListTopics`.
    ListTopics(v1::ListTopicsRequest),
    /// `TopicService/GetTopic`.
    GetTopic(v1::GetTopicRequest),
    /// `TopicService/ListTopicPeers`.
    ListTopicPeers(v1::ListTopicPeersRequest),
    /// `TopicService/Publish`.
    Publish(Box<v1::PublishRequest>),
    /// `Owner/Join`: a gateway has readers.
    Join(wire::Interest),
    /// `Owner/Refresh`: the record has at least this revision.
    Refresh(u64),
    /// `Owner/Purge`: forget what the topic's log holds.
    Purge(Topic),
    /// PeerService, and what NodeService asks about the swarm.
    Peers(Ask),
}

impl Request {
    /// Reads a call by its method.
    fn read(call: &Call) -> Result<Self, Refusal> {
        fn typed<M: Frame>(call: &Call, wrap: fn(M) -> Request) -> Result<Request, Refusal> {
            match call.payload.clone().take::<M>() {
                Ok(request) => Ok(wrap(request)),
                Err(error) => {
                    Err(refuse(Reason::FieldInvalid, format!("the request cannot be read: {error}")))
                }
            }
        }
        match call.method.as_ref() {
            "plexus.v1.TopicService/Publish" => typed(call, |m| Self::Publish(Box::new(m))),
            "plexus.v1.TopicService/ListTopics" => typed(call, Self::ListTopics),
            "plexus.v1.TopicService/GetTopic" => typed(call, Self::GetTopic),
            "plexus.v1.TopicService/ListTopicPeers" => typed(call, Self::ListTopicPeers),
            "plexus.v1.NodeService/GetIdentity" => Ok(Self::Peers(Ask::Identity)),
            "plexus.v1.NodeService/ListBootstrap" => Ok(Self::Peers(Ask::Bootstrap)),
            "plexus.v1.PeerService/ListPeers" => typed(call, |m| Self::Peers(Ask::List(m))),
            "plexus.v1.PeerService/CountPeers" => Ok(Self::Peers(Ask::Count)),
            "plexus.v1.PeerService/GetPeer" => typed(call, |m| Self::Peers(Ask::Get(m))),
            "plexus.v1.PeerService/Connect" => typed(call, |m| Self::Peers(Ask::Connect(m))),
            "plexus.v1.PeerService/Disconnect" => typed(call, |m| Self::Peers(Ask::Disconnect(m))),
            "plexus.v1.PeerService/Ping" => typed(call, |m| Self::Peers(Ask::Ping(m))),
            "plexus.v1.PeerService/ListBlocks" => typed(call, |m| Self::Peers(Ask::Blocks(m))),
            "plexus.bus.v1.Owner/Join" => typed(call, Self::Join),
            "plexus.bus.v1.Owner/Refresh" => {
                let bytes = call.payload.to_bytes();
                let revision = <[u8; 8]>::try_from(&bytes[..]).map(u64::from_be_bytes);
                revision
                    .map(Self::Refresh)
                    .map_err(|_| refuse(Reason::FieldInvalid, "a revision has 8 bytes"))
            }
            "plexus.bus.v1.Owner/Purge" => Ok(Self::Purge(call.payload.to_bytes())),
            other => Err(refuse(Reason::WorkerTooOld, format!("this worker does not know {other}"))),
        }
    }

    /// Names it in traces.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::ListTopics(_) => "ListTopics",
            Self::GetTopic(_) => "GetTopic",
            Self::ListTopicPeers(_) => "ListTopicPeers",
            Self::Publish(_) => "Publish",
            Self::Join(_) => "Join",
            Self::Refresh(_) => "Refresh",
            Self::Purge(_) => "Purge",
            Self::Peers(_) => "peers",
        }
    }

    /// Tells whether doing it twice differs from doing it once; then its answer is kept.
    fn changes(&self) -> bool {
        matches!(self, Self::Publish(_) | Self::Peers(Ask::Connect(_) | Ask::Disconnect(_)))
    }

    /// The `request_id` by which the window tells repeats. A publish has a window of its own, in the
    /// log.
    fn key(&self) -> Option<String> {
        let (method, id) = match self {
            Self::Peers(Ask::Connect(request)) => ("connect", &request.request_id),
            Self::Peers(Ask::Disconnect(request)) => ("disconnect", &request.request_id),
            _ => return None,
        };
        (!id.is_empty()).then(|| format!("{method} {id}"))
    }

    /// Tells whether it may take over 100 ms, so that the caller is told at once who has it.
    fn is_slow(&self) -> bool {
        match self {
            Self::Publish(publish) => {
                publish.min_peers > 0 || publish.level > v1::receipt::Level::Logged as i32
            }
            Self::Peers(Ask::Connect(_) | Ask::Ping(_)) => true,
            Self::Peers(Ask::Get(request)) => request.identify != 0,
            _ => false,
        }
    }
}

/// What an envelope asks of the loop.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// Do this, then answer under the id.
    Run(CallId, Box<Asked>, Box<Request>),
    /// The caller of this open call is gone.
    Cancelled(CallId),
    /// Nothing: a repeat, too late, not for us, or answered already.
    Nothing,
}

/// What a capability may want to know of a call.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    /// After this nobody waits.
    pub(crate) deadline: Option<SystemTime>,
    /// W3C trace context of the call.
    pub(crate) traceparent: String,
    /// The vendors' part.
    pub(crate) tracestate: String,
    /// Who asks.
    pub(crate) caller: wire::Principal,
}

/// Open calls, their answers, and what is yet to be sent.
pub(crate) struct Calls {
    /// The owner, as told in `Taken`.
    worker: Incarnation,
    /// Epoch of the grant; stands in every answer.
    epoch: u64,
    /// Calls that will be answered.
    open: HashMap<CallId, Open>,
    /// Answers already given.
    answers: Answers,
    /// Envelopes to send, in order.
    queue: VecDeque<(GatewayId, Envelope)>,
    /// Whether a task is sending; one at a time keeps the order.
    sending: bool,
    /// Open calls at most; more are refused as overloaded.
    open_max: usize,
    /// Envelopes that may wait; the newest are dropped, and the caller asks again.
    queue_max: usize,
}

struct Open {
    reply_to: GatewayId,
    traceparent: String,
    tracestate: String,
    deadline: Option<SystemTime>,
    /// Number of the next envelope to the gateway.
    sequence: u64,
    /// Whether its answer is kept.
    changes: bool,
    /// Bytes that may be sent; below zero after an output larger than what was left.
    credit: i64,
    /// Outputs that wait for credit, with their sizes.
    outputs: VecDeque<(Payload, usize)>,
    /// The end of a stream whose outputs still wait.
    end: Option<Answer>,
    /// Lasts until the call is answered.
    span: Span,
}

impl Calls {
    /// Makes an empty set with at most `open_max` open calls and `answers_max` kept answers.
    pub(crate) fn new(worker: Incarnation, epoch: u64, open_max: usize, answers_max: usize) -> Self {
        Self {
            worker,
            epoch,
            open: HashMap::new(),
            answers: Answers::new(answers_max),
            queue: VecDeque::new(),
            sending: false,
            open_max: open_max.max(1),
            queue_max: open_max.max(1).saturating_mul(4),
        }
    }

    /// Goes on under another grant.
    pub(crate) fn set_epoch(&mut self, epoch: u64) {
        self.epoch = epoch;
    }

    /// Takes an envelope off the node's subject.
    pub(crate) fn take(&mut self, envelope: Envelope, now: Now) -> Incoming {
        let id = envelope.id;
        match envelope.body {
            Body::Call(call) => self.begin(id, *call, (envelope.traceparent, envelope.tracestate), now),
            Body::Credit { bytes, .. } => {
                self.credit(id, bytes, now);
                Incoming::Nothing
            }
            Body::Cancel(_) => match self.open.remove(&id) {
                Some(_) => {
                    self.answers.abandon(id);
                    Incoming::Cancelled(id)
                }
                None => Incoming::Nothing,
            },
            _ => Incoming::Nothing,
        }
    }

    fn begin(&mut self, id: CallId, call: Call, trace: (String, String), now: Now) -> Incoming {
        if call.deadline.is_some_and(|deadline| deadline <= now.wall) {
            return Incoming::Nothing;
        }
        if let Some(open) = self.open.get_mut(&id) {
            // Sent again while under way: only the way back may have changed.
            open.reply_to = call.reply_to;
            return Incoming::Nothing;
        }
        let mut open = Open::new(&call, trace);
        if call.epoch_seen > self.epoch {
            let message = "the node has a newer owner";
            self.end(id, &mut open, Err(refuse(Reason::OwnerChanged, message)), false, true);
            return Incoming::Nothing;
        }
        if let Some(answer) = self.answers.call(id) {
            self.end(id, &mut open, answer, true, false);
            return Incoming::Nothing;
        }
        let request = match Request::read(&call) {
            Ok(_) if self.open.len() >= self.open_max => {
                Err(refuse(Reason::Overloaded, format!("{} calls to the node are open", self.open_max)))
            }
            read => read,
        };
        let request = match request {
            Ok(request) => request,
            Err(refusal) => {
                self.end(id, &mut open, Err(refusal), false, false);
                return Incoming::Nothing;
            }
        };
        self.admit(id, call, open, request)
    }

    fn admit(&mut self, id: CallId, call: Call, mut open: Open, request: Request) -> Incoming {
        let known = match request.key() {
            Some(key) => self.answers.keyed(id, &key, content(&call.payload)),
            None => Known::New,
        };
        match known {
            Known::Answered(answer) => self.end(id, &mut open, answer, true, false),
            Known::Reused(refusal) => self.end(id, &mut open, Err(refusal), false, false),
            Known::Pending => drop(self.open.insert(id, open)),
            Known::New => {
                open.changes = request.changes();
                let asked = Asked {
                    deadline: call.deadline,
                    traceparent: open.traceparent.clone(),
                    tracestate: open.tracestate.clone(),
                    caller: call.caller,
                };
                if request.is_slow() {
                    let worker = self.worker.to_string();
                    self.send(id, &mut open, Body::Taken { worker });
                }
                self.open.insert(id, open);
                return Incoming::Run(id, Box::new(asked), Box::new(request));
            }
        }
        Incoming::Nothing
    }

    /// Lets the span of a call last until it is answered.
    pub(crate) fn follow(&mut self, id: CallId, span: Span) {
        if let Some(open) = self.open.get_mut(&id) {
            open.span = span;
        }
    }

    /// Answers a call; for a stream, ends it. Without effect where nobody waits any more.
    pub(crate) fn answer(&mut self, id: CallId, answer: Answer, now: Now) {
        let open = self.open.remove(&id);
        let changes = open.as_ref().is_some_and(|open| open.changes);
        let waiting = if changes { self.answers.keep(id, &answer, now.moment) } else { Vec::new() };
        for other in waiting {
            if let Some(mut open) = self.open.remove(&other) {
                self.end(other, &mut open, answer.clone(), true, false);
            }
        }
        let Some(mut open) = open else { return };
        if open.outputs.is_empty() {
            self.end(id, &mut open, answer, false, false);
        } else {
            open.end = Some(answer);
            self.open.insert(id, open);
        }
    }

    /// Says that nothing was done and that the next owner should be asked.
    pub(crate) fn not_run(&mut self, id: CallId) {
        self.answers.abandon(id);
        if let Some(mut open) = self.open.remove(&id) {
            let refusal = refuse(Reason::OwnerChanged, "the node moves to another worker");
            self.end(id, &mut open, Err(refusal), false, true);
        }
    }

    /// Sends one answer of a stream, or keeps it until there is credit. False: nobody waits, or too
    /// many wait, and the stream should end.
    pub(crate) fn output<M: prost::Message + Default + Clone + 'static>(
        &mut self,
        id: CallId,
        message: M,
    ) -> bool {
        let size = message.encoded_len();
        let Some(mut open) = self.open.remove(&id) else { return false };
        let room = open.outputs.len() < OUTPUTS;
        if room {
            open.outputs.push_back((Payload::of(message), size));
            self.flow(id, &mut open);
        }
        self.open.insert(id, open);
        room
    }

    fn credit(&mut self, id: CallId, bytes: u32, now: Now) {
        let Some(mut open) = self.open.remove(&id) else { return };
        open.credit = open.credit.saturating_add(i64::from(bytes));
        self.flow(id, &mut open);
        let end = if open.outputs.is_empty() { open.end.take() } else { None };
        self.open.insert(id, open);
        if let Some(answer) = end {
            self.answer(id, answer, now);
        }
    }

    fn flow(&mut self, id: CallId, open: &mut Open) {
        while open.credit > 0 {
            let Some((payload, size)) = open.outputs.pop_front() else { break };
            open.credit -= i64::try_from(size).unwrap_or(i64::MAX);
            self.send(id, open, Body::Output(payload));
        }
    }

    fn end(&mut self, id: CallId, open: &mut Open, result: Answer, from_window: bool, moved: bool) {
        self.send(id, open, Body::Outcome(Outcome { result, from_window, moved }));
    }

    fn send(&mut self, id: CallId, open: &mut Open, body: Body) {
        let envelope = Envelope {
            id,
            sequence: open.sequence,
            traceparent: open.traceparent.clone(),
            tracestate: open.tracestate.clone(),
            epoch: self.epoch,
            body,
        };
        open.sequence += 1;
        if self.queue.len() < self.queue_max {
            self.queue.push_back((open.reply_to.clone(), envelope));
        } else {
            tracing::debug!("an answer was dropped: too many wait for the bus");
        }
    }

    /// Forgets answers past their time, and calls for which nobody waits; the latter are told.
    pub(crate) fn expire(&mut self, now: Now) -> Vec<CallId> {
        self.answers.expire(now.moment);
        let late = |open: &Open| open.deadline.is_some_and(|deadline| deadline <= now.wall);
        let gone: Vec<CallId> = self.open.iter().filter(|(_, open)| late(open)).map(|(id, _)| *id).collect();
        for id in &gone {
            self.open.remove(id);
            self.answers.abandon(*id);
        }
        gone
    }

    /// Takes what is to be sent now; `None` while a batch is under way or nothing waits.
    pub(crate) fn batch(&mut self) -> Option<Vec<(GatewayId, Envelope)>> {
        if self.sending || self.queue.is_empty() {
            return None;
        }
        self.sending = true;
        let most = self.queue.len().min(BATCH);
        Some(self.queue.drain(..most).collect())
    }

    /// Notes that the batch is sent.
    pub(crate) fn sent(&mut self) {
        self.sending = false;
    }

    /// Tells whether no call is open.
    pub(crate) fn is_quiet(&self) -> bool {
        self.open.is_empty()
    }

    /// Tells whether everything was sent.
    pub(crate) fn is_flushed(&self) -> bool {
        !self.sending && self.queue.is_empty()
    }
}

impl Open {
    fn new(call: &Call, (traceparent, tracestate): (String, String)) -> Self {
        Self {
            reply_to: call.reply_to.clone(),
            traceparent,
            tracestate,
            deadline: call.deadline,
            sequence: 0,
            changes: false,
            credit: i64::from(call.credit),
            outputs: VecDeque::new(),
            end: None,
            span: Span::none(),
        }
    }
}

/// Hashes a request, to tell repeats from mistakes.
fn content(payload: &Payload) -> Content {
    Sha256::digest(payload.to_bytes()).into()
}

/// Says what went wrong on the bus in terms of a call.
pub(crate) fn bus_refusal(error: &Error) -> Refusal {
    match error {
        Error::Overloaded => refuse(Reason::Overloaded, "a queue to the bus is full"),
        Error::Unsupported(what) => refuse(Reason::LevelUnavailable, format!("this bus cannot {what}")),
        other => refuse(Reason::BusUnavailable, other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Moment;
    use std::time::Duration;

    fn now() -> Now {
        Now {
            moment: Moment::at(Duration::from_secs(100)),
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(100),
        }
    }

    fn calls() -> Calls {
        Calls::new("w.1".into(), 7, 2, 16)
    }

    fn call(method: &str, payload: Payload) -> Call {
        Call {
            method: method.into(),
            payload,
            node: None,
            namespace: "default".into(),
            reply_to: "g".into(),
            deadline: None,
            caller: wire::Principal::default(),
            idempotency_key: String::new(),
            epoch_seen: 0,
            attempt: 0,
            idempotent: true,
            credit: 0,
        }
    }

    fn envelope(id: u128, body: Body) -> Envelope {
        Envelope {
            id: CallId::from_u128(id),
            sequence: 0,
            traceparent: String::new(),
            tracestate: String::new(),
            epoch: 0,
            body,
        }
    }

    fn send(calls: &mut Calls, id: u128, call: Call) -> Incoming {
        calls.take(envelope(id, Body::Call(Box::new(call))), now())
    }

    fn replies(calls: &mut Calls) -> Vec<Envelope> {
        let batch = calls.batch().unwrap_or_default();
        calls.sent();
        batch.into_iter().map(|(_, envelope)| envelope).collect()
    }

    fn publish() -> Call {
        call("plexus.v1.TopicService/Publish", Payload::of(v1::PublishRequest::default()))
    }

    fn outcome(envelope: &Envelope) -> &Outcome {
        match &envelope.body {
            Body::Outcome(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_unknown_method_says_that_the_worker_is_too_old() {
        let mut calls = calls();
        assert!(matches!(send(&mut calls, 1, call("plexus.v9.X/Y", Payload::default())), Incoming::Nothing));
        let replies = replies(&mut calls);
        assert!(outcome(&replies[0]).result.as_ref().unwrap_err().is(Reason::WorkerTooOld));
    }

    #[test]
    fn a_zombie_does_nothing_and_says_so() {
        let mut calls = calls();
        let call = Call { epoch_seen: 8, ..publish() };
        assert!(matches!(send(&mut calls, 1, call), Incoming::Nothing));
        let replies = replies(&mut calls);
        assert!(outcome(&replies[0]).moved);
        assert_eq!(replies[0].epoch, 7);
    }

    #[test]
    fn a_call_sent_twice_runs_once_and_is_answered_twice() {
        let mut calls = calls();
        assert!(matches!(send(&mut calls, 1, publish()), Incoming::Run(..)));
        assert!(matches!(send(&mut calls, 1, publish()), Incoming::Nothing));
        calls.answer(CallId::from_u128(1), Ok(Payload::of(v1::Receipt::default())), now());
        assert!(matches!(send(&mut calls, 1, publish()), Incoming::Nothing));
        let replies = replies(&mut calls);
        assert_eq!(replies.len(), 2);
        assert!(!outcome(&replies[0]).from_window);
        assert!(outcome(&replies[1]).from_window);
    }

    #[test]
    fn a_late_call_is_dropped_unread() {
        let mut calls = calls();
        let late = Call { deadline: Some(SystemTime::UNIX_EPOCH), ..publish() };
        assert!(matches!(send(&mut calls, 1, late), Incoming::Nothing));
        assert!(calls.batch().is_none());
    }

    #[test]
    fn more_open_calls_than_allowed_are_refused() {
        let mut calls = calls();
        for id in 1..=2 {
            assert!(matches!(send(&mut calls, id, publish()), Incoming::Run(..)));
        }
        assert!(matches!(send(&mut calls, 3, publish()), Incoming::Nothing));
        let replies = replies(&mut calls);
        assert!(outcome(&replies[0]).result.as_ref().unwrap_err().is(Reason::Overloaded));
    }

    #[test]
    fn a_stream_stops_without_credit_and_ends_after_its_last_output() {
        let mut calls = calls();
        let ping =
            Call { credit: 1, ..call("plexus.v1.PeerService/Ping", Payload::of(v1::PingRequest::default())) };
        let Incoming::Run(id, ..) = send(&mut calls, 1, ping) else { panic!("refused") };
        let topic = |name: &str| v1::Topic { topic: name.into(), ..Default::default() };
        assert!(calls.output(id, topic("one")));
        assert!(calls.output(id, topic("two")));
        calls.answer(id, Ok(Payload::default()), now());
        let first = replies(&mut calls);
        assert!(matches!(first[0].body, Body::Taken { .. }));
        assert!(matches!(first[1].body, Body::Output(_)));
        assert_eq!(first.len(), 2);
        calls.take(envelope(1, Body::Credit { bytes: 100, messages: 0 }), now());
        let rest = replies(&mut calls);
        assert!(matches!(rest[0].body, Body::Output(_)));
        assert!(outcome(&rest[1]).result.is_ok());
        assert_eq!(rest[1].sequence, 3);
        assert!(!calls.output(id, topic("three")));
    }
}
