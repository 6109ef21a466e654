//! Calls off the node's subject: each is read, named in its trace, and given to the capability that
//! knows what to do.

use super::{
    calls::{Asked, Incoming, Request},
    event_loop::EventLoop,
    peers::{Ask, Ready},
};
use crate::{
    clock::{Moment, Now},
    refuse,
};
use plexus_bus::{CallId, Envelope, Event as Heard, Trace};
use plexus_proto::reason::Reason;

impl EventLoop {
    pub(super) fn commands(&mut self, heard: Vec<Heard>, now: Now) {
        for event in heard {
            match event {
                Heard::Frame(frame) => match frame.take::<Envelope>() {
                    Ok(envelope) => self.command(envelope, now),
                    Err(error) => tracing::debug!(node = %self.name, %error, "a call cannot be read"),
                },
                // Calls may be lost; gateways send them again. The logs may have missed a failover.
                Heard::Lagged(count) => tracing::warn!(node = %self.name, count, "calls were dropped"),
                Heard::Restored => {
                    self.log.doubt();
                    self.surveyed = Moment::PAST;
                }
            }
        }
    }

    fn command(&mut self, envelope: Envelope, now: Now) {
        match self.calls.take(envelope, now) {
            Incoming::Run(call, mut asked, request) => {
                self.metrics.commands.inc();
                let span =
                    tracing::debug_span!("node.command", node = %self.name, %call, what = request.name());
                let trace = Trace::new(&asked.traceparent, &asked.tracestate).enter(&span);
                asked.traceparent = trace.parent;
                self.calls.follow(call, span.clone());
                let _in = span.entered();
                match *request {
                    Request::Publish(request) => self.publish(call, *asked, *request, now),
                    request @ (Request::ListTopics(_)
                    | Request::GetTopic(_)
                    | Request::ListTopicPeers(_)
                    | Request::Join(_)
                    | Request::Refresh(_)
                    | Request::Purge(_)) => self.topics(call, request, now),
                    Request::Peers(ask) => self.ask_peers(call, &asked, ask, now),
                }
            }
            Incoming::Cancelled(call) => self.cancelled(call),
            Incoming::Nothing => {}
        }
    }

    pub(super) fn cancelled(&mut self, call: CallId) {
        self.publishes.cancel(call);
        self.waits.cancel(call);
        self.peers.cancel(call);
        self.asking.remove(&call);
    }

    fn ask_peers(&mut self, call: CallId, asked: &Asked, ask: Ask, now: Now) {
        let left = asked.deadline.map(|deadline| deadline.duration_since(now.wall).unwrap_or_default());
        let until = left.map(|left| now.moment.after(left));
        let Some(swarm) = self.swarm.act() else { return self.calls.not_run(call) };
        match self.peers.ask(swarm, call, ask, until, now.moment, now.wall) {
            Some(answer) => self.calls.answer(call, answer, now),
            None => drop(self.asking.insert(call)),
        }
    }

    pub(super) fn serve_peers(&mut self, now: Now) {
        if self.peers.wake().is_some_and(|wake| wake <= now.moment)
            && let Some(swarm) = self.swarm.act()
        {
            self.peers.tick(swarm, now.moment);
        }
        for ready in self.peers.take_ready() {
            match ready {
                Ready::Pong(call, pong) => {
                    if !self.calls.output(call, pong) {
                        self.cancelled(call);
                        let message = "the caller takes the answers too slowly";
                        self.calls.answer(call, Err(refuse(Reason::SlowReader, message)), now);
                    }
                }
                Ready::End(call, answer) => {
                    self.asking.remove(&call);
                    self.calls.answer(call, answer, now);
                }
            }
        }
    }

    /// Calls that come while the node is handed over go to the next owner. The subject is let go at once, and
    /// heard until the carrier counts nobody here any more: a call that was counted as taken, and never
    /// answered, would have failed.
    pub(super) fn hand_back(&mut self, heard: Vec<Heard>, now: Now) {
        for event in heard {
            let Heard::Frame(frame) = event else { continue };
            let Ok(envelope) = frame.take::<Envelope>() else { continue };
            match self.calls.take(envelope, now) {
                Incoming::Run(call, ..) => self.calls.not_run(call),
                Incoming::Cancelled(call) => self.cancelled(call),
                Incoming::Nothing => {}
            }
        }
    }
}
