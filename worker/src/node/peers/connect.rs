//! Connections that callers ask for, and closing them.

use super::{Peers, Ready, book::without_peer, read_peer, split};
use crate::{
    Refusal,
    clock::Moment,
    refuse,
    swarm::{Behaviour, guard::Rule, probe::What},
};
use libp2p::{
    Multiaddr, PeerId, Swarm, connection_limits,
    swarm::{
        ConnectionId, DialError,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use plexus_bus::{CallId, Payload};
use plexus_proto::{
    reason::Reason,
    v1::{self, get_peer_request::Identify},
};
use std::time::Duration;

/// Addresses that one call may give.
const ADDRESSES_MAX: usize = 16;
/// Longest time a connection may take.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

type Answer = Result<Payload, Refusal>;

/// A call that waits for a connection, and maybe for the peer's word on itself.
pub(super) struct Pending {
    peer: PeerId,
    /// Its own dial; others of the same peer serve as well.
    dial: Option<ConnectionId>,
    /// Whether it wants to know who the peer is.
    identify: bool,
    /// When it is too late.
    pub(super) until: Moment,
}

impl Peers {
    pub(super) fn connect(
        &mut self,
        swarm: &mut Swarm<Behaviour>,
        call: CallId,
        request: &v1::ConnectRequest,
        until: Option<Moment>,
        now: Moment,
    ) -> Option<Answer> {
        let wanted = match wanted(swarm, request) {
            Ok(wanted) => wanted,
            Err(error) => return Some(Err(error)),
        };
        let (peer, addresses) = wanted;
        if self.is_connected(&peer) && !request.force_new {
            return Some(self.show(swarm, &peer));
        }
        let timeout = request.timeout.and_then(|t| Duration::try_from(t).ok()).unwrap_or(self.dial_timeout);
        let until = self.until(timeout, until, now);
        let dial = match self.dial(swarm, peer, addresses, request.force_new, now) {
            Ok(dial) => dial,
            Err(error) => return Some(Err(error)),
        };
        self.pending.insert(call, Pending { peer, dial, identify: false, until });
        None
    }

    /// Answers what is known of a peer, or asks it afresh.
    pub(super) fn get(
        &mut self,
        swarm: &mut Swarm<Behaviour>,
        call: CallId,
        request: &v1::GetPeerRequest,
        until: Option<Moment>,
        now: Moment,
    ) -> Option<Answer> {
        let peer = match read_peer(&request.peer) {
            Ok((peer, _)) => peer,
            Err(error) => return Some(Err(error)),
        };
        if request.identify() != Identify::Now {
            return Some(self.show(swarm, &peer));
        }
        let until = self.until(self.dial_timeout, until, now);
        let dial = if self.is_connected(&peer) {
            None
        } else {
            match self.dial(swarm, peer, Vec::new(), false, now) {
                Ok(dial) => dial,
                Err(error) => return Some(Err(error)),
            }
        };
        self.pending.insert(call, Pending { peer, dial, identify: true, until });
        if self.is_connected(&peer) {
            self.identify(swarm, call, &peer, now);
        }
        None
    }

    /// Closes all connections to a peer, or those over one address.
    pub(super) fn disconnect(
        &mut self,
        swarm: &mut Swarm<Behaviour>,
        request: &v1::DisconnectRequest,
    ) -> Answer {
        let (peer, _) = read_peer(&request.peer)?;
        let only = match request.address.as_str() {
            "" => None,
            text => {
                let bad = || refuse(Reason::BadMultiaddr, "address: not a multiaddr");
                Some(without_peer(text.parse().map_err(|_| bad())?))
            }
        };
        let links = self.book.get(&peer).map(|entry| entry.links.clone()).unwrap_or_default();
        let chosen = links.iter().filter(|link| only.as_ref().is_none_or(|only| link.address == *only));
        let closed = chosen.filter(|link| swarm.close_connection(link.id)).count();
        Ok(Payload::of(v1::DisconnectResponse { closed: u32::try_from(closed).unwrap_or(u32::MAX) }))
    }

    /// A connection came up: calls that wait for its peer go on.
    pub(super) fn connected(&mut self, swarm: &mut Swarm<Behaviour>, peer: &PeerId) {
        let calls: Vec<(CallId, bool)> = self
            .pending
            .iter()
            .filter(|(_, p)| p.peer == *peer)
            .map(|(call, p)| (*call, p.identify))
            .collect();
        for (call, identify) in calls {
            if identify {
                self.identify(swarm, call, peer, Moment::now());
            } else {
                self.pending.remove(&call);
                let answer = self.show(swarm, peer);
                self.ready.push(Ready::End(call, answer));
            }
        }
    }

    /// A dial failed: calls whose dial it was end, with one answer for closed, filtered and silent.
    pub(super) fn dial_failed(&mut self, peer: &PeerId, connection: ConnectionId, error: &DialError) {
        let ended =
            |pending: &Pending| pending.peer == *peer && pending.dial.is_none_or(|dial| dial == connection);
        let calls: Vec<CallId> =
            self.pending.iter().filter(|(_, p)| ended(p)).map(|(call, _)| *call).collect();
        for call in calls {
            self.pending.remove(&call);
            self.ready.push(Ready::End(call, Err(told(error))));
        }
        let pings: Vec<CallId> =
            self.pings.iter().filter(|(_, p)| p.waits_for(peer)).map(|(call, _)| *call).collect();
        for call in pings {
            self.pings.remove(&call);
            self.ready.push(Ready::End(call, Err(told(error))));
        }
    }

    /// Dials a peer, by the addresses given or those known.
    pub(super) fn dial(
        &mut self,
        swarm: &mut Swarm<Behaviour>,
        peer: PeerId,
        mut addresses: Vec<Multiaddr>,
        force: bool,
        now: Moment,
    ) -> Result<Option<ConnectionId>, Refusal> {
        if self.spec.dial.as_ref().and_then(|dial| dial.outgoing) == Some(false) {
            let error = v1::Error::new(Reason::FeatureOff, "the node does not dial (spec.dial.outgoing)");
            return Err(Box::new(error.with("setting", "spec.dial.outgoing")));
        }
        if addresses.is_empty() {
            addresses = self.book.get(&peer).map(|entry| entry.addresses.clone()).unwrap_or_default();
        }
        if addresses.is_empty() {
            return Err(refuse(
                Reason::PeerNotFound,
                "no address of the peer is known; give one in addresses",
            ));
        }
        self.spend(now)?;
        let condition = if force { PeerCondition::Always } else { PeerCondition::NotDialing };
        let options = DialOpts::peer_id(peer).addresses(addresses).condition(condition).build();
        let connection = options.connection_id();
        match swarm.dial(options) {
            Ok(()) => Ok(Some(connection)),
            Err(DialError::DialPeerConditionFalse(_)) => Ok(None),
            Err(error) => Err(told(&error)),
        }
    }

    /// Counts a dial against the node's rate, so that it is no port scanner.
    fn spend(&mut self, now: Moment) -> Result<(), Refusal> {
        while self.dialled.front().is_some_and(|at| now.since(*at) >= Duration::from_secs(1)) {
            self.dialled.pop_front();
        }
        if self.dialled.len() >= self.dials_per_second {
            let text = format!("more than {} dials in a second", self.dials_per_second);
            let error = v1::Error::new(Reason::DialRateLimited, text).retry_after(Duration::from_secs(1));
            return Err(Box::new(error.with("limit", self.dials_per_second)));
        }
        self.dialled.push_back(now);
        Ok(())
    }

    pub(super) fn is_connected(&self, peer: &PeerId) -> bool {
        self.book.get(peer).is_some_and(|entry| !entry.links.is_empty())
    }

    fn identify(&mut self, swarm: &mut Swarm<Behaviour>, call: CallId, peer: &PeerId, now: Moment) {
        let Some(left) = self.pending.get(&call).map(|pending| pending.until.since(now)) else { return };
        match swarm.behaviour_mut().probe.ask(*peer, What::Identity, left) {
            Some(id) => drop(self.asked.insert(id, call)),
            None => {
                self.pending.remove(&call);
                let error = refuse(Reason::PeerUnreachable, "the connection to the peer ended");
                self.ready.push(Ready::End(call, Err(error)));
            }
        }
    }

    pub(super) fn until(&self, timeout: Duration, until: Option<Moment>, now: Moment) -> Moment {
        let own = now.after(timeout.min(TIMEOUT_MAX));
        until.map_or(own, |until| until.min(own))
    }
}

/// Reads whom to connect to and where; what the guard refuses is told before anything is dialled.
fn wanted(
    swarm: &Swarm<Behaviour>,
    request: &v1::ConnectRequest,
) -> Result<(PeerId, Vec<Multiaddr>), Refusal> {
    let (peer, own) = read_peer(&request.peer)?;
    if peer == *swarm.local_peer_id() {
        return Err(Box::new(v1::Error::field("peer", "another peer: this is the node itself")));
    }
    if request.addresses.len() > ADDRESSES_MAX {
        return Err(Box::new(v1::Error::field("addresses", format!("at most {ADDRESSES_MAX}"))));
    }
    let mut addresses: Vec<Multiaddr> = own.into_iter().collect();
    for (n, text) in request.addresses.iter().enumerate() {
        let field = format!("addresses[{n}]");
        let bad = |why: &str| {
            let error = v1::Error::new(Reason::BadMultiaddr, format!("{field}: {why}"));
            Box::new(error.violation(field.clone(), why))
        };
        let address: Multiaddr = text.parse().map_err(|_| bad("not a multiaddr"))?;
        match split(address.clone()) {
            Some((other, _)) if other != peer => return Err(bad("it ends in another PeerId")),
            Some((_, address)) => addresses.push(address),
            None => addresses.push(address),
        }
    }
    let guard = swarm.behaviour().blocks.guard();
    for address in &addresses {
        guard.check(address).map_err(forbidden)?;
    }
    Ok((peer, addresses))
}

fn forbidden(rule: Rule) -> Refusal {
    let text = format!("the dial guard refuses the address: {rule}");
    Box::new(v1::Error::new(Reason::AddressNotAllowed, text).with("rule", rule.as_str()))
}

/// What a caller is told of a failed dial. Closed, filtered and silent ports look alike.
fn told(error: &DialError) -> Refusal {
    if let Some(rule) = Rule::of(error) {
        return forbidden(rule);
    }
    match error {
        DialError::Denied { cause } if cause.downcast_ref::<connection_limits::Exceeded>().is_some() => {
            refuse(Reason::ConnectionLimit, "the node has as many connections as it may")
        }
        DialError::Denied { .. } => {
            refuse(Reason::PeerBlocked, "the node's block list names the peer or its address")
        }
        _ => refuse(Reason::PeerUnreachable, "no address of the peer answered"),
    }
}
