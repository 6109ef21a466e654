//! The life of the worker's lease (protocol.md P1–P3 and the table of §3). Pure: it is told the time
//! and what the bus answered, and says what follows. It never asks the bus and stops no node; the
//! event loop does both.

use crate::{clock::Moment, config};
use plexus_bus::{Incarnation, Renewed};
use std::{collections::VecDeque, time::Duration};

/// Incarnations whose nodes wait to be given back at most; the oldest is left to its TTL.
const FORMER_MAX: usize = 16;

/// One lease after another: a fence ends one, the next has a new incarnation.
#[derive(Debug)]
pub(crate) struct Lease {
    /// Name of the worker, the first half of every incarnation.
    id: String,
    renew_interval: Duration,
    term: Duration,
    incarnation: Incarnation,
    phase: Phase,
    /// Until when the worker may act.
    deadline: Moment,
    /// When the next renewal is due.
    next: Moment,
    /// A renewal was sent and not answered yet.
    under_way: bool,
    /// The worker is leaving: no lease follows this one.
    leaving: bool,
    /// Incarnations that ended by a fence and may still be in the record.
    former: VecDeque<Incarnation>,
}

/// Where the lease is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Begun and not confirmed; nothing may be taken.
    Fresh,
    /// Confirmed.
    Held,
    /// Over; swarms are being stopped.
    Fenced,
    /// Confirmed, and nodes are being handed over.
    Draining,
    /// Ended for good.
    Gone,
}

/// A renewal to send now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Renewal {
    /// Whose lease.
    pub(crate) incarnation: Incarnation,
    /// Whether it begins the lease.
    pub(crate) fresh: bool,
    /// When it was sent: the deadline counts from here.
    pub(crate) sent: Moment,
}

/// What an answer to a renewal changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing.
    None,
    /// The lease began.
    Begun,
    /// The lease goes on until its new deadline.
    Extended,
    /// The lease is over: stop every swarm, drop all grants.
    Fence,
}

impl Lease {
    /// Makes the first lease of a worker; a renewal is due at once.
    pub(crate) fn new(id: &str, terms: &config::Lease, now: Moment) -> Self {
        Self {
            id: id.into(),
            renew_interval: terms.renew_interval,
            term: terms.deadline,
            incarnation: config::incarnation(id),
            phase: Phase::Fresh,
            deadline: Moment::PAST,
            next: now,
            under_way: false,
            leaving: false,
            former: VecDeque::new(),
        }
    }

    /// The present incarnation.
    pub(crate) fn incarnation(&self) -> &Incarnation {
        &self.incarnation
    }

    /// The present phase.
    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Until when nodes may act.
    pub(crate) fn deadline(&self) -> Moment {
        self.deadline
    }

    /// Tells whether nodes may be taken.
    pub(crate) fn held(&self) -> bool {
        self.phase == Phase::Held
    }

    /// Tells whether the worker is leaving.
    pub(crate) fn leaving(&self) -> bool {
        self.leaving
    }

    /// Tells whether the deadline has passed, so that nothing else may be done before the fence.
    pub(crate) fn overdue(&self, now: Moment) -> bool {
        matches!(self.phase, Phase::Held | Phase::Draining) && now >= self.deadline
    }

    /// Says whether to send a renewal now. One is under way at a time; after a slow one the next goes
    /// at once.
    pub(crate) fn renewal(&mut self, now: Moment) -> Option<Renewal> {
        let renews = matches!(self.phase, Phase::Fresh | Phase::Held | Phase::Draining);
        if !renews || self.under_way || now < self.next {
            return None;
        }
        self.under_way = true;
        self.next = now.after(self.renew_interval);
        let fresh = self.phase == Phase::Fresh;
        Some(Renewal { incarnation: self.incarnation.clone(), fresh, sent: now })
    }

    /// Takes the answer to a renewal; `None`: it failed, or its outcome is unknown.
    pub(crate) fn answered(&mut self, renewal: &Renewal, answer: Option<&Renewed>, now: Moment) -> Step {
        if renewal.incarnation != self.incarnation {
            return Step::None;
        }
        self.under_way = false;
        let deadline = renewal.sent.after(self.term);
        match (self.phase, answer) {
            (Phase::Fresh, Some(Renewed::Held { .. })) if now < deadline => {
                self.phase = Phase::Held;
                self.deadline = deadline;
                Step::Begun
            }
            (Phase::Fresh, Some(Renewed::Lost)) => {
                self.renew_as_another(now);
                Step::None
            }
            (Phase::Held | Phase::Draining, _) if self.overdue(now) => self.fence(),
            (Phase::Held | Phase::Draining, Some(Renewed::Held { .. })) => {
                self.deadline = self.deadline.max(deadline);
                Step::Extended
            }
            (Phase::Held | Phase::Draining, Some(Renewed::Lost)) => self.fence(),
            _ => Step::None,
        }
    }

    /// Ends the lease: its deadline passed, or it is lost.
    pub(crate) fn fence(&mut self) -> Step {
        self.phase = Phase::Fenced;
        self.deadline = Moment::PAST;
        Step::Fence
    }

    /// Hears that every swarm is stopped after a fence: a lease under a new incarnation begins.
    pub(crate) fn stopped(&mut self, now: Moment) {
        if self.phase != Phase::Fenced {
            return;
        }
        if self.leaving {
            self.phase = Phase::Gone;
            return;
        }
        self.former.push_back(self.incarnation.clone());
        if self.former.len() > FORMER_MAX {
            self.former.pop_front();
        }
        self.phase = Phase::Fresh;
        self.renew_as_another(now);
    }

    /// Begins to leave. Without a confirmed lease there is nothing to hand over.
    pub(crate) fn drain(&mut self) {
        self.leaving = true;
        match self.phase {
            Phase::Held => self.phase = Phase::Draining,
            Phase::Fresh => self.phase = Phase::Gone,
            Phase::Draining | Phase::Fenced | Phase::Gone => {}
        }
    }

    /// Hears that every node is released and the lease retired.
    pub(crate) fn retired(&mut self) {
        self.phase = Phase::Gone;
        self.deadline = Moment::PAST;
    }

    /// The oldest fenced incarnation whose nodes have to be given back, once the bus answers again.
    pub(crate) fn former(&self) -> Option<&Incarnation> {
        self.held().then(|| self.former.front()).flatten()
    }

    /// Hears that the nodes of a fenced incarnation were given back.
    pub(crate) fn forgotten(&mut self, incarnation: &Incarnation) {
        self.former.retain(|former| former != incarnation);
    }

    fn renew_as_another(&mut self, now: Moment) {
        self.incarnation = config::incarnation(&self.id);
        self.deadline = Moment::PAST;
        self.under_way = false;
        self.next = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn at(ms: u64) -> Moment {
        Moment::at(Duration::from_millis(ms))
    }

    fn lease() -> Lease {
        Lease::new("w", &config::Lease::default(), at(0))
    }

    fn ok() -> Renewed {
        Renewed::Held { era: "e".into(), changes: 0, replicas: 0 }
    }

    fn held_since(ms: u64) -> Lease {
        let mut lease = lease();
        let renewal = lease.renewal(at(ms)).unwrap();
        assert_eq!(lease.answered(&renewal, Some(&ok()), at(ms + 1)), Step::Begun);
        lease
    }

    #[test]
    fn the_deadline_counts_from_the_send() {
        let mut lease = held_since(0);
        assert_eq!(lease.deadline(), at(4000));
        let renewal = lease.renewal(at(1000)).unwrap();
        assert!(!renewal.fresh);
        assert_eq!(lease.answered(&renewal, Some(&ok()), at(3900)), Step::Extended);
        assert_eq!(lease.deadline(), at(5000));
        assert!(!lease.overdue(at(4999)));
        assert!(lease.overdue(at(5000)));
    }

    #[test]
    fn an_answer_to_a_fresh_renewal_that_is_too_late_begins_nothing() {
        let mut lease = lease();
        let renewal = lease.renewal(at(0)).unwrap();
        assert_eq!(lease.answered(&renewal, Some(&ok()), at(4000)), Step::None);
        assert_eq!(lease.phase(), Phase::Fresh);
        assert!(lease.renewal(at(4000)).unwrap().fresh);
    }

    #[test]
    fn an_answer_after_the_deadline_does_not_revive() {
        let mut lease = held_since(0);
        let renewal = lease.renewal(at(3999)).unwrap();
        assert_eq!(lease.answered(&renewal, Some(&ok()), at(4001)), Step::Fence);
        assert_eq!(lease.phase(), Phase::Fenced);
        assert_eq!(lease.deadline(), Moment::PAST);
        assert_eq!(lease.renewal(at(9000)), None);
    }

    #[test]
    fn a_lost_lease_comes_back_under_another_name() {
        let mut lease = held_since(0);
        let old = lease.incarnation().clone();
        let renewal = lease.renewal(at(1000)).unwrap();
        assert_eq!(lease.answered(&renewal, Some(&Renewed::Lost), at(1001)), Step::Fence);
        lease.stopped(at(1100));
        assert_eq!(lease.phase(), Phase::Fresh);
        assert_ne!(lease.incarnation(), &old);
        assert_eq!(lease.former(), None, "nothing is released before the bus answers");
        // A late answer of the old incarnation changes nothing.
        assert_eq!(lease.answered(&renewal, Some(&ok()), at(1101)), Step::None);
        let renewal = lease.renewal(at(1102)).unwrap();
        assert!(renewal.fresh);
        assert_eq!(lease.answered(&renewal, Some(&ok()), at(1103)), Step::Begun);
        assert_eq!(lease.former(), Some(&old));
        lease.forgotten(&old);
        assert_eq!(lease.former(), None);
    }

    #[test]
    fn one_renewal_is_under_way_and_a_failed_one_is_sent_again() {
        let mut lease = held_since(0);
        assert_eq!(lease.renewal(at(999)), None);
        let renewal = lease.renewal(at(1000)).unwrap();
        assert_eq!(lease.renewal(at(2400)), None);
        assert_eq!(lease.answered(&renewal, None, at(2500)), Step::None);
        assert!(lease.renewal(at(2500)).is_some());
    }

    #[test]
    fn a_draining_worker_renews_and_past_its_deadline_it_is_fenced_for_good() {
        let mut lease = held_since(0);
        lease.drain();
        assert_eq!(lease.phase(), Phase::Draining);
        assert!(!lease.held());
        assert!(lease.renewal(at(1000)).is_some());
        assert!(lease.overdue(at(4000)));
        lease.fence();
        lease.stopped(at(4001));
        assert_eq!(lease.phase(), Phase::Gone);
    }

    #[test]
    fn a_worker_that_holds_nothing_leaves_at_once() {
        let mut lease = lease();
        lease.drain();
        assert_eq!(lease.phase(), Phase::Gone);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Wait(u64),
        /// The renewal runs in the store after the first delay, its answer arrives after the second.
        Run(bool),
        Answer(bool),
        Stopped,
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let op = prop_oneof![
            (1u64..3000).prop_map(Op::Wait),
            any::<bool>().prop_map(Op::Run),
            any::<bool>().prop_map(Op::Answer),
            Just(Op::Stopped),
        ];
        proptest::collection::vec(op, 1..200)
    }

    proptest! {
        /// While the worker may act, the store has not expired its lease: whatever is slow or lost.
        #[test]
        fn it_never_acts_on_an_expired_lease(ops in ops()) {
            let (mut lease, mut now, mut seen) = (lease(), 0u64, HashSet::new());
            let (mut expiry, mut holder) = (0u64, lease.incarnation().clone());
            let mut sent: Option<(Renewal, Option<Renewed>)> = None;
            seen.insert(holder.clone());
            for op in ops {
                if lease.overdue(at(now)) {
                    lease.fence();
                }
                if let Some(renewal) = lease.renewal(at(now)) {
                    sent = Some((renewal, None));
                }
                match op {
                    Op::Wait(ms) => now += ms,
                    Op::Run(true) => if let Some((renewal, answer @ None)) = &mut sent {
                        let alive = renewal.fresh || (holder == renewal.incarnation && now < expiry);
                        if alive {
                            (expiry, holder) = (now + 6000, renewal.incarnation.clone());
                        }
                        *answer = Some(if alive { ok() } else { Renewed::Lost });
                    },
                    Op::Run(false) => {}
                    Op::Answer(arrives) => if let Some((renewal, answer)) = sent.take() {
                        lease.answered(&renewal, answer.as_ref().filter(|_| arrives), at(now));
                    },
                    Op::Stopped => {
                        let before = lease.incarnation().clone();
                        lease.stopped(at(now));
                        if lease.incarnation() != &before {
                            prop_assert!(seen.insert(lease.incarnation().clone()), "an incarnation came again");
                        }
                    }
                }
                let acts = matches!(lease.phase(), Phase::Held | Phase::Draining) && !lease.overdue(at(now));
                if acts {
                    prop_assert!(&holder == lease.incarnation() && now < expiry, "acts at {now}, expired at {expiry}");
                }
            }
        }
    }
}
