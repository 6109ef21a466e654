//! Round trips that callers ask for, one after the other, each measured at the moment it is due.

use super::{Peers, Ready, read_peer};
use crate::{
    Refusal,
    clock::Moment,
    swarm::{
        Behaviour,
        probe::{self, What},
    },
};
use libp2p::{PeerId, Swarm};
use plexus_bus::{CallId, Payload};
use plexus_proto::{
    reason::Reason,
    v1::{
        self,
        ping_response::{Event, Pong, Summary},
    },
};
use std::time::Duration;

const COUNT: u32 = 10;
const COUNT_MAX: u32 = 1000;
const INTERVAL: Duration = Duration::from_secs(1);
const INTERVAL_MIN: Duration = Duration::from_millis(100);
const TIMEOUT: Duration = Duration::from_secs(10);

/// A call that pings.
pub(super) struct Pinging {
    peer: PeerId,
    count: u32,
    interval: Duration,
    timeout: Duration,
    /// Where the next one is.
    step: Step,
    sent: u32,
    received: u32,
    min: Duration,
    max: Duration,
    sum: Duration,
}

enum Step {
    /// Waits for a connection, until then.
    Connecting(Moment),
    /// The next is due then.
    Due(Moment),
    /// One is on its way, sent then; it ends by itself.
    Asked(Moment),
}

impl Pinging {
    pub(super) fn wake(&self) -> Moment {
        match self.step {
            Step::Connecting(at) | Step::Due(at) => at,
            Step::Asked(at) => at.after(self.timeout + INTERVAL),
        }
    }

    pub(super) fn waits_for(&self, peer: &PeerId) -> bool {
        self.peer == *peer && matches!(self.step, Step::Connecting(_))
    }

    fn note(&mut self, result: &Result<probe::Answer, probe::Failure>) -> Pong {
        let mut pong = Pong { seq: self.sent, ..Pong::default() };
        match result {
            Ok(probe::Answer::Pong(rtt)) => {
                self.min = if self.received == 0 { *rtt } else { self.min.min(*rtt) };
                self.max = self.max.max(*rtt);
                self.sum += *rtt;
                self.received += 1;
                pong.rtt = (*rtt).try_into().ok();
            }
            Ok(probe::Answer::Identity(_)) => pong.reason = Reason::Internal.as_str_name().into(),
            Err(failure) => pong.reason = super::refusal(*failure).reason,
        }
        pong
    }

    fn summary(&self) -> Summary {
        let shown = |d: Duration| (self.received > 0).then(|| d.try_into().ok()).flatten();
        Summary {
            sent: self.sent,
            received: self.received,
            min: shown(self.min),
            avg: shown(self.sum / self.received.max(1)),
            max: shown(self.max),
        }
    }
}

impl Peers {
    pub(super) fn ping(
        &mut self,
        swarm: &mut Swarm<Behaviour>,
        call: CallId,
        request: &v1::PingRequest,
        until: Option<Moment>,
        now: Moment,
    ) -> Option<Result<Payload, Refusal>> {
        let peer = match read_peer(&request.peer) {
            Ok((peer, _)) => peer,
            Err(error) => return Some(Err(error)),
        };
        let span = |given: Option<prost_types::Duration>, absent| {
            given.and_then(|d| d.try_into().ok()).unwrap_or(absent)
        };
        let timeout = span(request.timeout, TIMEOUT);
        let step = if self.is_connected(&peer) {
            Step::Due(now)
        } else if let Err(error) = self.dial(swarm, peer, Vec::new(), false, now) {
            return Some(Err(error));
        } else {
            Step::Connecting(self.until(timeout, until, now))
        };
        let pinging = Pinging {
            peer,
            count: if request.count == 0 { COUNT } else { request.count.min(COUNT_MAX) },
            interval: span(request.interval, INTERVAL).max(INTERVAL_MIN),
            timeout,
            step,
            sent: 0,
            received: 0,
            min: Duration::ZERO,
            max: Duration::ZERO,
            sum: Duration::ZERO,
        };
        self.pings.insert(call, pinging);
        self.ping_now(swarm, now);
        None
    }

    /// Sends what is due, and ends what waited too long for a connection.
    pub(super) fn ping_now(&mut self, swarm: &mut Swarm<Behaviour>, now: Moment) {
        let calls: Vec<CallId> = self.pings.keys().copied().collect();
        for call in calls {
            let Some(pinging) = self.pings.get_mut(&call) else { continue };
            let connected = self.book.get(&pinging.peer).is_some_and(|entry| !entry.links.is_empty());
            match pinging.step {
                Step::Connecting(_) if connected => {}
                Step::Due(at) if at <= now => {}
                Step::Connecting(until) if until <= now => {
                    self.pings.remove(&call);
                    let error =
                        crate::refuse(Reason::PeerUnreachable, "no address of the peer answered in time");
                    self.ready.push(Ready::End(call, Err(error)));
                    continue;
                }
                _ => continue,
            }
            pinging.sent += 1;
            pinging.step = Step::Asked(now);
            let (peer, timeout) = (pinging.peer, pinging.timeout);
            match swarm.behaviour_mut().probe.ask(peer, What::Ping, timeout) {
                Some(id) => drop(self.asked.insert(id, call)),
                None => self.next_ping(swarm, call, &Err(probe::Failure::Lost), now),
            }
        }
    }

    pub(super) fn ponged(
        &mut self,
        swarm: &mut Swarm<Behaviour>,
        call: CallId,
        event: &probe::Event,
        now: Moment,
    ) {
        self.next_ping(swarm, call, &event.result, now);
    }

    fn next_ping(
        &mut self,
        swarm: &mut Swarm<Behaviour>,
        call: CallId,
        result: &Result<probe::Answer, probe::Failure>,
        now: Moment,
    ) {
        let Some(pinging) = self.pings.get_mut(&call) else { return };
        let sent = match pinging.step {
            Step::Asked(at) => at,
            _ => now,
        };
        let pong = pinging.note(result);
        self.ready.push(Ready::Pong(call, v1::PingResponse { event: Some(Event::Pong(pong)) }));
        if pinging.sent < pinging.count && !matches!(result, Err(probe::Failure::Unsupported)) {
            pinging.step = Step::Due(sent.after(pinging.interval).max(now));
            return;
        }
        let (summary, peer) = (pinging.summary(), pinging.peer);
        self.pings.remove(&call);
        if !self.pings.values().any(|other| other.peer == peer) {
            swarm.behaviour_mut().probe.release(peer);
        }
        self.ready.push(Ready::Pong(call, v1::PingResponse { event: Some(Event::Summary(summary)) }));
        self.ready.push(Ready::End(call, Ok(Payload::default())));
    }
}
