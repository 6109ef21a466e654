//! Calls that wait for an answer: when each is sent, sent again, given up. Pure: the loop tells what
//! happened and does the [`Act`]s. protocol.md P19 is the normative text.

mod failures;
mod line;

pub(crate) use failures::{Standing, refusal, unavailable};

use super::Failure;
use failures::{changed, error};
use line::{Line, PAUSE, PAUSE_MAX};
use plexus_bus::{Body, Call, CallId, Envelope, Error, NodeName, Outcome, Payload, Ran, Trace};
use plexus_proto::reason::Reason;
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    mem,
    time::{Duration, Instant},
};

/// Nodes whose epoch is remembered.
const EPOCHS_MAX: usize = 65_536;
/// How long an answer may still be on its way when the owner changed.
const STRAGGLER: Duration = Duration::from_millis(250);

/// What the loop has to do. `S` is where answers go.
#[derive(Debug)]
pub(crate) enum Act<S> {
    /// Publish a call; tell [`Pending::sent`] who got it.
    Send(Box<Envelope>),
    /// Look at the record of a node that nobody listens for; tell [`Pending::looked`].
    Look(NodeName),
    /// Tell the owner to stop, or to go on.
    Tell(NodeName, Box<Envelope>),
    /// Hand over one answer of a stream; its payload.
    Output(CallId, Payload),
    /// Hand over the end of a call.
    Finish(S, Result<Payload, Failure>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// On its way to the bus.
    Sending,
    /// Nobody listened; sent again after a pause.
    Unowned,
    /// Somebody got it.
    Sent,
    /// The owner said that it has it.
    Taken,
    /// The owner changed; an answer may still come.
    Doubtful,
}

struct Waiting<S> {
    call: Call,
    trace: Trace,
    state: State,
    sink: S,
    deadline: Option<Instant>,
    wake: Option<Instant>,
    /// How long a call to any worker rests when nobody listens; doubles each time.
    pause: Duration,
    /// It may be sent again without knowing whether it ran.
    repeatable: bool,
    /// It was sent before.
    tried: bool,
    /// Highest epoch that answered.
    epoch: u64,
    /// Next number in its answers.
    sequence: u64,
    /// Part of a stream was handed over: it cannot begin anew.
    begun: bool,
    /// Nobody waits any more.
    gone: bool,
}

/// The calls of one node.
#[derive(Default)]
struct Node {
    calls: BTreeSet<CallId>,
    /// Those of them that wait for an owner.
    line: Line,
}

/// All pending calls.
pub(crate) struct Pending<S> {
    calls: HashMap<CallId, Waiting<S>>,
    /// When each call wants to be looked at.
    wakes: BTreeSet<(Instant, CallId)>,
    nodes: HashMap<NodeName, Node>,
    /// When the first call of a node's line wants to be sent.
    tries: BTreeSet<(Instant, NodeName)>,
    /// Nodes whose record is being read.
    looking: HashSet<NodeName>,
    /// Epoch of each node's last known owner; forgotten when there are too many.
    epochs: HashMap<NodeName, u64>,
    max: usize,
    resend_after: Duration,
    acts: Vec<Act<S>>,
}

impl<S> Pending<S> {
    pub(crate) fn new(max: usize, resend_after: Duration) -> Self {
        Self {
            calls: HashMap::new(),
            wakes: BTreeSet::new(),
            nodes: HashMap::new(),
            tries: BTreeSet::new(),
            looking: HashSet::new(),
            epochs: HashMap::new(),
            max,
            resend_after,
            acts: Vec::new(),
        }
    }

    /// What is to be done, in order.
    pub(crate) fn take(&mut self) -> Vec<Act<S>> {
        std::mem::take(&mut self.acts)
    }

    /// Tells whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.calls.len()
    }

    /// Finds where a call's answers go.
    pub(crate) fn sink(&mut self, id: CallId) -> Option<&mut S> {
        self.calls.get_mut(&id).map(|c| &mut c.sink)
    }

    /// Begins a call.
    pub(crate) fn begin(&mut self, id: CallId, call: Call, trace: Trace, sink: S, deadline: Option<Instant>) {
        if self.calls.len() >= self.max {
            let message = format!("{} calls wait for an answer already", self.max);
            return self.acts.push(Act::Finish(sink, Err(error(Reason::Overloaded, message))));
        }
        let mut waits = false;
        if let Some(node) = &call.node {
            let node = self.nodes.entry(node.clone()).or_default();
            node.calls.insert(id);
            // It must not overtake those that wait for the owner.
            waits = !node.line.is_empty();
        }
        let repeatable = call.idempotent || !call.idempotency_key.is_empty() || call.node.is_none();
        let waiting = Waiting {
            call,
            trace,
            state: State::Sending,
            sink,
            deadline,
            wake: None,
            pause: PAUSE,
            repeatable,
            tried: false,
            epoch: 0,
            sequence: 0,
            begun: false,
            gone: false,
        };
        self.calls.insert(id, waiting);
        if waits { self.wait(id) } else { self.send(id) }
    }

    /// The bus handed a call over to so many, or failed.
    pub(crate) fn sent(&mut self, id: CallId, attempt: u32, result: Result<usize, Error>, now: Instant) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        if call.gone {
            return self.cancel(id);
        }
        if call.call.attempt != attempt || call.state != State::Sending {
            return; // answered, or sent again, before the bus said so
        }
        match result {
            Ok(0) => self.nobody(id, now),
            Ok(_) => {
                self.rest(id, State::Sent, Some(now + self.resend_after));
                self.open(id);
            }
            Err(error) => {
                let failure = if error.outcome() == Ran::Unknown && !call.repeatable {
                    changed("the bus did not say whether the node got the call")
                } else {
                    unavailable(&error)
                };
                // Those behind it hear the same by themselves, and all at once.
                self.open(id);
                self.finish(id, Err(failure));
            }
        }
    }

    /// An answer came.
    pub(crate) fn reply(&mut self, envelope: Envelope, now: Instant) {
        let id = envelope.id;
        let Some(call) = self.calls.get_mut(&id) else { return };
        if envelope.epoch < call.epoch {
            return; // of an owner that is none any more
        }
        if envelope.epoch > call.epoch {
            (call.epoch, call.sequence) = (envelope.epoch, if call.begun { call.sequence } else { 0 });
        }
        if !matches!(&envelope.body, Body::Outcome(outcome) if outcome.moved) {
            self.open(id);
        }
        let Some(call) = self.calls.get_mut(&id) else { return };
        match envelope.body {
            Body::Taken { .. } => {
                call.sequence = call.sequence.max(envelope.sequence + 1);
                self.rest(id, State::Taken, None);
            }
            Body::Output(payload) => {
                if envelope.sequence < call.sequence {
                    return;
                }
                if envelope.sequence > call.sequence {
                    return self.finish(id, Err(changed("answers of the node were lost")));
                }
                call.sequence += 1;
                call.begun = true;
                self.rest(id, State::Taken, None);
                self.acts.push(Act::Output(id, payload));
            }
            Body::Outcome(outcome) => self.outcome(id, outcome, envelope.sequence, now),
            Body::Call(_) | Body::Input { .. } | Body::Credit { .. } | Body::Cancel(_) => {}
        }
    }

    fn outcome(&mut self, id: CallId, outcome: Outcome, sequence: u64, now: Instant) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        if outcome.moved {
            call.sequence = 0;
            return self.nobody(id, now);
        }
        if call.begun && sequence > call.sequence {
            return self.finish(id, Err(changed("answers of the node were lost")));
        }
        self.finish(id, outcome.result);
    }

    /// Nobody took the call: it rests, and the record says whether anybody ever will.
    fn nobody(&mut self, id: CallId, now: Instant) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let Some(node) = call.call.node.clone() else {
            let pause = call.pause;
            call.pause = (pause * 2).min(PAUSE_MAX);
            return self.rest(id, State::Unowned, Some(now + pause));
        };
        self.rest(id, State::Unowned, None);
        let line = &mut self.nodes.entry(node.clone()).or_default().line;
        if let Some(at) = line.fell(id, now) {
            self.tries.insert((at, node.clone()));
        }
        if self.looking.insert(node.clone()) {
            self.acts.push(Act::Look(node));
        }
    }

    /// Lets a call wait for its node's owner behind those before it.
    fn wait(&mut self, id: CallId) {
        self.rest(id, State::Unowned, None);
        if let Some(node) = self.calls.get(&id).and_then(|call| call.call.node.as_ref())
            && let Some(node) = self.nodes.get_mut(node)
        {
            node.line.join(id);
        }
    }

    /// Lets the first of a node's line try now.
    fn hurry(&mut self, node: &NodeName, now: Instant) {
        if let Some(at) = self.nodes.get_mut(node).and_then(|node| node.line.hurry(now)) {
            self.tries.insert((at, node.clone()));
        }
    }

    /// A call found somebody: if it tried for those behind it, they go as well.
    fn open(&mut self, id: CallId) {
        let node = self.calls.get(&id).and_then(|call| call.call.node.as_ref());
        let Some(node) = node.and_then(|node| self.nodes.get_mut(node)) else { return };
        for id in node.line.open(id) {
            self.send(id);
        }
    }

    /// A node has another owner, or none.
    pub(crate) fn owner(&mut self, node: &NodeName, owned: bool, epoch: u64, now: Instant) {
        let known = self.epochs.get(node).copied();
        if owned {
            if self.epochs.len() >= EPOCHS_MAX {
                self.epochs.clear();
            }
            self.epochs.insert(node.clone(), epoch);
        }
        let mut again = owned;
        let ids: Vec<CallId> = self.nodes.get(node).into_iter().flat_map(|n| &n.calls).copied().collect();
        for id in ids {
            let Some(call) = self.calls.get_mut(&id) else { continue };
            // The first owner ever heard of has the call already, if nobody else answered: word of it came late.
            let first = known.is_none() && call.epoch == 0;
            let same = owned && (first || known == Some(epoch) || call.epoch == epoch);
            match call.state {
                State::Sent | State::Taken if same => {}
                State::Sent | State::Taken if call.repeatable && !call.begun => {
                    self.wait(id);
                    again = true;
                }
                State::Sent | State::Taken => self.rest(id, State::Doubtful, Some(now + STRAGGLER)),
                State::Sending | State::Unowned | State::Doubtful => {}
            }
        }
        if again {
            self.hurry(node, now);
        }
    }

    /// Answers may have been lost: calls that may be sent again are.
    pub(crate) fn missed(&mut self, now: Instant) {
        let lost = |c: &Waiting<S>| matches!(c.state, State::Sent | State::Taken) && c.repeatable && !c.begun;
        let ids: Vec<CallId> = self.calls.iter().filter(|(_, c)| lost(c)).map(|(id, _)| *id).collect();
        for id in ids {
            match self.calls.get(&id).and_then(|call| call.call.node.clone()) {
                None => self.rest(id, State::Unowned, Some(now)),
                Some(node) => {
                    self.wait(id);
                    self.hurry(&node, now);
                }
            }
        }
    }

    /// The record of a node was read; `None`: it could not be.
    pub(crate) fn looked(&mut self, node: &NodeName, standing: Option<Standing>) {
        self.looking.remove(node);
        let Some(failure) = standing.and_then(|s| refusal(node, s)) else { return };
        let unowned = |c: &Waiting<S>| c.state == State::Unowned;
        let ids: Vec<CallId> = self.nodes.get(node).into_iter().flat_map(|n| &n.calls).copied().collect();
        for id in ids {
            if self.calls.get(&id).is_some_and(unowned) {
                self.finish(id, Err(failure.clone()));
            }
        }
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, now: Instant) {
        while let Some(&(at, id)) = self.wakes.first() {
            if at > now {
                break;
            }
            self.wakes.pop_first();
            self.due(id, now);
        }
        while let Some((at, node)) = self.tries.pop_first() {
            if at > now {
                self.tries.insert((at, node));
                break;
            }
            if let Some(id) = self.nodes.get_mut(&node).and_then(|node| node.line.try_at(at)) {
                self.send(id);
            }
        }
    }

    fn due(&mut self, id: CallId, now: Instant) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.wake = None;
        if call.deadline.is_some_and(|deadline| deadline <= now) {
            return self.expire(id);
        }
        match call.state {
            state @ (State::Sending | State::Taken) => self.rest(id, state, None),
            State::Unowned if call.call.node.is_none() => self.send(id),
            State::Unowned => self.rest(id, State::Unowned, None),
            State::Sent if call.repeatable && !call.begun => self.send(id),
            State::Sent | State::Doubtful => {
                self.finish(id, Err(changed("the node moved or fell silent during the call")));
            }
        }
    }

    fn expire(&mut self, id: CallId) {
        let Some(call) = self.calls.get(&id) else { return };
        let failure = match (call.state, &call.call.node) {
            (State::Unowned, Some(node)) => {
                error(Reason::NoOwner, format!("no worker owned node {:?} before the deadline", node.node()))
            }
            (State::Unowned, None) => error(Reason::NoOwner, "no worker was there before the deadline"),
            _ => error(Reason::DeadlineExceeded, "the deadline passed before the node answered"),
        };
        self.cancel_owner(id, Reason::DeadlineExceeded);
        self.finish(id, Err(failure));
    }

    /// The caller is gone.
    pub(crate) fn gone(&mut self, id: CallId) {
        match self.calls.get_mut(&id) {
            Some(call) if call.state == State::Sending => call.gone = true, // not to overtake the call
            Some(_) => self.cancel(id),
            None => {}
        }
    }

    /// The caller of a stream took so many bytes.
    pub(crate) fn credit(&mut self, id: CallId, bytes: u32) {
        self.tell(id, Body::Credit { bytes, messages: 0 });
    }

    /// Ends a call whose caller does not keep up.
    pub(crate) fn abandon(&mut self, id: CallId, failure: Failure) {
        self.cancel_owner(id, Reason::Overloaded);
        self.finish(id, Err(failure));
    }

    fn cancel(&mut self, id: CallId) {
        self.cancel_owner(id, Reason::Cancelled);
        self.forget(id);
    }

    fn cancel_owner(&mut self, id: CallId, reason: Reason) {
        self.tell(id, Body::Cancel(reason.as_str_name().into()));
    }

    fn tell(&mut self, id: CallId, body: Body) {
        let Some(call) = self.calls.get(&id) else { return };
        let Some(node) = call.call.node.clone() else { return };
        self.acts.push(Act::Tell(node, Box::new(envelope(id, &call.trace, body))));
    }

    fn send(&mut self, id: CallId) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let again = mem::replace(&mut call.tried, true);
        let epoch = call.call.node.as_ref().and_then(|n| self.epochs.get(n)).copied();
        call.call.attempt += u32::from(again);
        call.call.epoch_seen = epoch.unwrap_or(0);
        let sent = envelope(id, &call.trace, Body::Call(Box::new(call.call.clone())));
        self.acts.push(Act::Send(Box::new(sent)));
        self.rest(id, State::Sending, None);
    }

    /// Enters a state until `wake`, the deadline at most.
    fn rest(&mut self, id: CallId, state: State, wake: Option<Instant>) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.state = state;
        let wake = [wake, call.deadline].into_iter().flatten().min();
        if wake != call.wake {
            call.wake.map(|at| self.wakes.remove(&(at, id)));
            wake.map(|at| self.wakes.insert((at, id)));
            call.wake = wake;
        }
    }

    fn finish(&mut self, id: CallId, result: Result<Payload, Failure>) {
        if let Some(call) = self.forget(id) {
            self.acts.push(Act::Finish(call.sink, result));
        }
    }

    fn forget(&mut self, id: CallId) -> Option<Waiting<S>> {
        let call = self.calls.remove(&id)?;
        call.wake.map(|at| self.wakes.remove(&(at, id)));
        if let Some(node) = &call.call.node
            && let Some(of) = self.nodes.get_mut(node)
        {
            of.calls.remove(&id);
            let next = of.line.leave(id);
            if of.calls.is_empty() {
                self.nodes.remove(node);
            }
            if let Some(next) = next {
                self.send(next);
            }
        }
        Some(call)
    }
}

fn envelope(id: CallId, trace: &Trace, body: Body) -> Envelope {
    Envelope {
        id,
        sequence: 0,
        traceparent: trace.parent.clone(),
        tracestate: trace.state.clone(),
        epoch: 0,
        body,
    }
}

#[cfg(test)]
mod tests;
