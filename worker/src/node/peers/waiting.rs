//! Calls that wait for a peer: for a connection, for its word on who it is, for its pongs. Each has one
//! step under way, and an end.

use super::{Peers, Ready, ping::Run, read};
use crate::{
    Refusal,
    clock::Moment,
    refuse,
    swarm::{
        Behaviour,
        guard::Rule,
        probe::{self, Failure, What},
    },
};
use libp2p::{
    Multiaddr, PeerId, Swarm, connection_limits, kad,
    swarm::{
        ConnectionId, DialError,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use plexus_bus::{CallId, Payload};
use plexus_proto::{reason::Reason, v1};
use std::time::Duration;

/// A call.
pub(super) struct Waiting {
    pub(super) call: CallId,
    peer: PeerId,
    goal: Goal,
    step: Step,
    /// The end, whatever happens.
    until: Moment,
    /// Only a connection of its own will do.
    pub(super) force_new: bool,
}

/// What the caller wants of the peer.
pub(super) enum Goal {
    /// A connection.
    Connect,
    /// Its word on who it is.
    Identify,
    /// Pongs.
    Ping(Run),
}

/// What is under way.
enum Step {
    /// Nothing yet.
    New,
    /// A dial.
    Dialing(ConnectionId),
    /// Routing is asked where the peer is.
    Seeking(kad::QueryId),
    /// A question to the peer.
    Asked(probe::Id),
    /// The pause before the next ping.
    Pausing(Moment),
}

impl Waiting {
    pub(super) fn new(call: CallId, peer: PeerId, goal: Goal, until: Moment) -> Self {
        Self { call, peer, goal, step: Step::New, until, force_new: false }
    }

    pub(super) fn wake(&self) -> Moment {
        match self.step {
            Step::Pausing(next) => next.min(self.until),
            _ => self.until,
        }
    }

    /// Why it ended without what it waited for.
    fn late(&self) -> Refusal {
        match self.step {
            Step::Asked(_) => refuse(Reason::PeerTimeout, "the peer did not answer in time"),
            _ => unreachable(),
        }
    }
}

/// One text for every way in which a dial fails: which ports are open is nobody's business.
fn unreachable() -> Refusal {
    refuse(Reason::PeerUnreachable, "no address of the peer answered")
}

fn not_found() -> Refusal {
    refuse(Reason::PeerNotFound, "no address of the peer is known, and no route to it was found")
}

fn why(error: &DialError) -> Refusal {
    match (Rule::of(error), error) {
        (Some(rule), _) => read::by_rule(rule),
        (None, DialError::LocalPeerId { .. }) => Box::new(v1::Error::field("peer", "the node itself")),
        (None, DialError::NoAddresses) => not_found(),
        (None, DialError::Denied { cause })
            if cause.downcast_ref::<connection_limits::Exceeded>().is_some() =>
        {
            refuse(Reason::ConnectionLimit, "the node has as many connections as it may")
        }
        _ => unreachable(),
    }
}

/// The ways of a waiting call, each step by what the swarm tells.
impl Peers {
    /// Goes on at once where the peer is connected, else dials it.
    pub(super) fn begin(
        &mut self,
        swarm: &mut Swarm<Behaviour>,
        mut waiting: Waiting,
        addresses: Vec<Multiaddr>,
        now: Moment,
    ) -> Result<(), Refusal> {
        if swarm.is_connected(&waiting.peer) && !waiting.force_new {
            self.proceed(swarm, waiting, now);
            return Ok(());
        }
        if self.spec.dial.as_ref().and_then(|dial| dial.outgoing) == Some(false) {
            let error = v1::Error::new(Reason::FeatureOff, "the node does not dial");
            return Err(Box::new(error.with("setting", "spec.dial.outgoing")));
        }
        if !self.dials.take(now) {
            let error =
                v1::Error::new(Reason::DialRateLimited, "the node was asked for too many dials this second");
            return Err(Box::new(error.retry_after(Duration::from_secs(1))));
        }
        waiting.step = self.dial(swarm, waiting.peer, addresses, now)?;
        self.waiting.push(waiting);
        Ok(())
    }

    /// Dials by the addresses given, else by those known, else asks routing.
    fn dial(
        &mut self,
        swarm: &mut Swarm<Behaviour>,
        peer: PeerId,
        addresses: Vec<Multiaddr>,
        now: Moment,
    ) -> Result<Step, Refusal> {
        let options = DialOpts::peer_id(peer).condition(PeerCondition::Always);
        let options = match addresses.is_empty() {
            true => {
                let known = self.book.get(&peer).map(|entry| entry.addresses.clone()).unwrap_or_default();
                options.addresses(known).extend_addresses_through_behaviour().build()
            }
            false => options.addresses(addresses).build(),
        };
        let id = options.connection_id();
        match swarm.dial(options) {
            Ok(()) => {
                self.book.entry(peer, now).dials.insert(id);
                Ok(Step::Dialing(id))
            }
            Err(DialError::NoAddresses) => match swarm.behaviour_mut().kad.as_mut() {
                Some(kad) => Ok(Step::Seeking(kad.get_closest_peers(peer))),
                None => Err(not_found()),
            },
            Err(error) => Err(why(&error)),
        }
    }

    /// The peer is connected.
    fn proceed(&mut self, swarm: &mut Swarm<Behaviour>, mut waiting: Waiting, now: Moment) {
        let left = waiting.until.since(now);
        match &waiting.goal {
            Goal::Connect => self.finish(waiting.call, self.show(swarm, &waiting.peer)),
            Goal::Identify => match swarm.behaviour_mut().probe.ask(waiting.peer, What::Identity, left) {
                Some(id) => {
                    waiting.step = Step::Asked(id);
                    self.waiting.push(waiting);
                }
                None => self.finish(waiting.call, Err(unreachable())),
            },
            Goal::Ping(_) => self.send_ping(swarm, waiting, now),
        }
    }

    pub(super) fn on_connected(
        &mut self,
        swarm: &mut Swarm<Behaviour>,
        peer: PeerId,
        id: ConnectionId,
        now: Moment,
    ) {
        let due = |waiting: &mut Waiting| match waiting.step {
            Step::Dialing(own) => own == id || waiting.peer == peer && !waiting.force_new,
            Step::Seeking(_) => waiting.peer == peer && !waiting.force_new,
            _ => false,
        };
        for waiting in self.waiting.extract_if(.., due).collect::<Vec<_>>() {
            self.proceed(swarm, waiting, now);
        }
    }

    pub(super) fn on_dial_failed(
        &mut self,
        swarm: &mut Swarm<Behaviour>,
        id: ConnectionId,
        error: &DialError,
        now: Moment,
    ) {
        let due = |waiting: &mut Waiting| matches!(waiting.step, Step::Dialing(own) if own == id);
        for waiting in self.waiting.extract_if(.., due).collect::<Vec<_>>() {
            // The peer may have dialled us meanwhile.
            if swarm.is_connected(&waiting.peer) && !waiting.force_new {
                self.proceed(swarm, waiting, now);
            } else {
                self.finish(waiting.call, Err(why(error)));
            }
        }
    }

    pub(super) fn on_sought(
        &mut self,
        swarm: &mut Swarm<Behaviour>,
        id: kad::QueryId,
        result: &kad::GetClosestPeersResult,
        now: Moment,
    ) {
        let found = match result {
            Ok(found) => &found.peers,
            Err(kad::GetClosestPeersError::Timeout { peers, .. }) => peers,
        };
        let due = |waiting: &mut Waiting| matches!(waiting.step, Step::Seeking(own) if own == id);
        for mut waiting in self.waiting.extract_if(.., due).collect::<Vec<_>>() {
            let addresses =
                found.iter().find(|info| info.peer_id == waiting.peer).map(|info| info.addrs.clone());
            let guard = swarm.behaviour().blocks.guard();
            let step = match addresses.filter(|addresses| !addresses.is_empty()) {
                Some(addresses) => read::allowed(addresses, guard)
                    .and_then(|addresses| self.dial(swarm, waiting.peer, addresses, now)),
                None => Err(not_found()),
            };
            match step {
                Ok(step) => {
                    waiting.step = step;
                    self.waiting.push(waiting);
                }
                Err(refusal) => self.finish(waiting.call, Err(refusal)),
            }
        }
    }

    pub(super) fn on_answered(&mut self, swarm: &mut Swarm<Behaviour>, event: &probe::Event, now: Moment) {
        let due = |waiting: &mut Waiting| matches!(waiting.step, Step::Asked(own) if own == event.id);
        for waiting in self.waiting.extract_if(.., due).collect::<Vec<_>>() {
            if matches!(waiting.goal, Goal::Ping(_)) {
                self.ponged(swarm, waiting, event, now);
                continue;
            }
            let answer = match event.result {
                Ok(_) => self.show(swarm, &waiting.peer),
                Err(Failure::Timeout) => Err(waiting.late()),
                Err(Failure::Unsupported) => Err(unsupported()),
                Err(Failure::Lost | Failure::Busy) => Err(unreachable()),
            };
            self.finish(waiting.call, answer);
        }
    }

    fn ponged(&mut self, swarm: &mut Swarm<Behaviour>, waiting: Waiting, event: &probe::Event, now: Moment) {
        let result = match &event.result {
            Ok(probe::Answer::Pong(rtt)) => Ok(*rtt),
            Ok(probe::Answer::Identity(_)) | Err(Failure::Lost) => Err(Reason::PeerUnreachable),
            Err(Failure::Timeout) => Err(Reason::PeerTimeout),
            Err(Failure::Busy) => Err(Reason::Overloaded),
            Err(Failure::Unsupported) => return self.finish(waiting.call, Err(unsupported())),
        };
        self.pong(swarm, waiting, result, now);
    }

    /// Tells what came of a ping; then a pause, or the end of the run.
    fn pong(
        &mut self,
        swarm: &mut Swarm<Behaviour>,
        mut waiting: Waiting,
        result: Result<Duration, Reason>,
        now: Moment,
    ) {
        let Goal::Ping(run) = &mut waiting.goal else { return };
        self.ready.push(Ready::Pong(waiting.call, run.pong(result)));
        match run.next() {
            Some(next) => {
                waiting.step = Step::Pausing(next.max(now));
                self.waiting.push(waiting);
            }
            None => {
                self.ready.push(Ready::Pong(waiting.call, run.summary()));
                self.finish(waiting.call, Ok(Payload::default()));
                self.release(swarm, waiting.peer);
            }
        }
    }

    fn send_ping(&mut self, swarm: &mut Swarm<Behaviour>, mut waiting: Waiting, now: Moment) {
        let Goal::Ping(run) = &mut waiting.goal else { return };
        run.send(now);
        match swarm.behaviour_mut().probe.ask(waiting.peer, What::Ping, run.timeout) {
            Some(id) => {
                waiting.step = Step::Asked(id);
                self.waiting.push(waiting);
            }
            None => self.pong(swarm, waiting, Err(Reason::PeerUnreachable), now),
        }
    }

    pub(super) fn send_pings(&mut self, swarm: &mut Swarm<Behaviour>, now: Moment) {
        let due = |waiting: &mut Waiting| matches!(waiting.step, Step::Pausing(next) if next <= now);
        for waiting in self.waiting.extract_if(.., due).collect::<Vec<_>>() {
            self.send_ping(swarm, waiting, now);
        }
    }

    pub(super) fn expire(&mut self, swarm: &mut Swarm<Behaviour>, now: Moment) {
        for waiting in self.waiting.extract_if(.., |waiting| waiting.until <= now).collect::<Vec<_>>() {
            self.finish(waiting.call, Err(waiting.late()));
            self.release(swarm, waiting.peer);
        }
    }

    /// Lets go of the stream of pings, unless another call pings the same peer.
    fn release(&mut self, swarm: &mut Swarm<Behaviour>, peer: PeerId) {
        let pings = |waiting: &Waiting| waiting.peer == peer && matches!(waiting.goal, Goal::Ping(_));
        if !self.waiting.iter().any(pings) {
            swarm.behaviour_mut().probe.release(peer);
        }
    }

    fn finish(&mut self, call: CallId, answer: Result<Payload, Refusal>) {
        self.ready.push(Ready::End(call, answer));
    }
}

fn unsupported() -> Refusal {
    refuse(Reason::ProtocolNotSupported, "the peer does not speak the protocol")
}

/// How many dials the API may ask for: so many at once, and so many more each second.
pub(super) struct Dials {
    per_second: u32,
    left: f64,
    at: Moment,
}

impl Dials {
    pub(super) fn new(per_second: u32) -> Self {
        Self { per_second, left: per_second.into(), at: Moment::PAST }
    }

    fn take(&mut self, now: Moment) -> bool {
        let most = f64::from(self.per_second);
        self.left = (self.left + now.since(self.at).as_secs_f64() * most).min(most);
        self.at = now;
        let may = self.left >= 1.0;
        if may {
            self.left -= 1.0;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_dials_are_asked_for_than_so_many_a_second() {
        let mut dials = Dials::new(10);
        let at = |ms| Moment::at(Duration::from_secs(100) + Duration::from_millis(ms));
        assert_eq!((0..50).filter(|_| dials.take(at(0))).count(), 10);
        assert_eq!((0..50).filter(|_| dials.take(at(500))).count(), 5);
    }
}
