//! A worker: the real lease, control and placement, and the nodes that it hosts. Mirrors
//! `worker/src/host/event_loop.rs` and its parts, with simulated time in place of tasks.

mod hosting;

use super::{
    control::{Claimed, Control, Next},
    node::{Ended, Job as NodeJob, Kind, Node, Place},
};
use hosting::owned;

use crate::{
    net::{Answer, Ask, Heard, MS, Net, SEC, Said, TIMEOUT, Us, envelope},
    switch,
    worker::{
        clock::{Moment, Now},
        config::{self, Config},
        host::{
            lease::{Lease, Phase as LeasePhase, Renewal, Step},
            placement::{Placement, Rule},
        },
    },
};
use plexus_bus::{Claim, Era, Error, Grant, Incarnation, NodeName, Owned, Owner, Renewed, Subject, Topic};
use plexus_proto::bus::OwnerChange;
use std::{collections::BTreeMap, time::Duration};

/// How often it looks at the clock.
const TICK: Us = 50 * MS;
const LIVES_INTERVAL: Duration = Duration::from_millis(500);
const RETRY: Duration = Duration::from_secs(1);
const DRAIN: Duration = Duration::from_secs(45);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Loading,
    Raising,
    Running,
    Waiting { until: Moment },
    Releasing,
}

struct Hosted {
    grant: Grant,
    phase: Phase,
    /// A node ran under this grant, so that the next one needs a higher one.
    used: bool,
    leaving: bool,
    /// The record gave it to nobody while it was loaded.
    lost: bool,
    /// When it was loaded last.
    run: u64,
}

enum Job {
    Renewed(Renewal),
    Took(Incarnation, u64, Vec<Claim>),
    Released(Incarnation, Vec<(NodeName, u64)>),
    Compared(Incarnation),
    Retired(Incarnation),
    Forgot(Incarnation, Incarnation, u8),
    Owners,
    Surveyed(Vec<(NodeName, Owner)>),
    Lives,
    Loaded(Incarnation, NodeName, Grant),
    Subscribed,
    Node(u64, NodeName, NodeJob),
}

/// A worker process.
pub(crate) struct Worker {
    pub(crate) process: usize,
    pub(crate) life: u32,
    /// Its monotonic clock began so long before the walk, and its wall clock is so much off.
    offset: Us,
    skew: i64,
    config: Config,
    retention: u64,
    lease: Lease,
    control: Control,
    placement: Placement,
    hosted: BTreeMap<NodeName, Hosted>,
    pub(crate) nodes: BTreeMap<NodeName, Node>,
    jobs: BTreeMap<u64, (Us, Job)>,
    era: Option<Era>,
    survey_at: Moment,
    surveying: bool,
    lives_at: Moment,
    asking_lives: bool,
    forgetting: bool,
    forget_at: Moment,
    retiring: bool,
    drain_until: Option<Moment>,
    listens: bool,
    subscribing: bool,
    /// It has left, or was killed.
    pub(crate) gone: bool,
}

impl Worker {
    pub(crate) fn new(process: usize, life: u32, now: Us, retention: u64, net: &mut Net) -> Self {
        let offset = net.dice.within(1000 * SEC..100_000 * SEC);
        let skew = net.dice.below(4 * SEC) as i64 - 2 * SEC as i64;
        let config = Config { id: format!("w{process}"), ..Config::default() };
        let moment = Moment::at(Duration::from_micros(now + offset));
        Self {
            process,
            life,
            offset,
            skew,
            lease: Lease::new(&config.id, &config.lease, moment),
            placement: Placement::new(&config.id, &config),
            control: Control::default(),
            config,
            retention,
            hosted: BTreeMap::new(),
            nodes: BTreeMap::new(),
            jobs: BTreeMap::new(),
            era: None,
            survey_at: moment,
            surveying: false,
            lives_at: moment,
            asking_lives: false,
            forgetting: false,
            forget_at: moment,
            retiring: false,
            drain_until: None,
            listens: false,
            subscribing: false,
            gone: false,
        }
    }

    fn now(&self, net: &Net) -> Now {
        let wall = crate::bus::embedded::store::wall(net.now.saturating_add_signed(self.skew));
        Now { moment: Moment::at(Duration::from_micros(net.now + self.offset)), wall }
    }

    /// Whose lease it is.
    pub(crate) fn incarnation(&self) -> &Incarnation {
        self.lease.incarnation()
    }

    fn ask(&mut self, ask: Ask, job: Job, net: &mut Net) {
        let op = net.ask(self.process, self.life, ask);
        self.jobs.insert(op, (net.now, job));
    }

    /// First in every wake: the deadline (P2).
    fn wake(&mut self, net: &mut Net) -> Now {
        let now = self.now(net);
        if self.lease.overdue(now.moment) {
            self.fence(net);
        }
        now
    }

    pub(crate) fn tick(&mut self, net: &mut Net) -> Us {
        // What came while it stood still is handled before anything is tested.
        if !switch::on(110) {
            self.wake(net);
        }
        let now = self.now(net);
        while let Some((&op, (sent, _))) = self.jobs.first_key_value()
            && sent + TIMEOUT <= net.now
        {
            if let Some((_, job)) = self.jobs.remove(&op) {
                self.done(job, Err(Error::Timeout), now, net);
            }
        }
        self.each_node(net, |node, place, net| node.tick(place, net));
        if switch::on(110) {
            self.wake(net);
        }
        self.advance(now.moment, net);
        TICK + net.dice.below(2 * MS)
    }

    pub(crate) fn answered(&mut self, op: u64, answer: Answer, net: &mut Net) {
        let now = if switch::on(110) { self.now(net) } else { self.wake(net) };
        let Some((_, job)) = self.jobs.remove(&op) else { return };
        self.done(job, answer, now, net);
        self.advance(now.moment, net);
    }

    pub(crate) fn heard(&mut self, subject: &Subject, heard: Heard, net: &mut Net) {
        let now = if switch::on(110) { self.now(net) } else { self.wake(net) };
        match (subject, heard) {
            (Subject::Calls(node), Heard::Frame(frame)) => {
                if let Some(envelope) = envelope(frame) {
                    self.one_node(&node.clone(), net, |node, place, net| node.command(envelope, place, net));
                }
            }
            (Subject::Calls(node), Heard::Restored) => {
                self.one_node(&node.clone(), net, |node, _, _| node.restored());
            }
            (Subject::Ownership, Heard::Frame(frame)) => {
                let Ok(change) = frame.open::<OwnerChange>() else { return };
                let Ok(node) = NodeName::new(&change.namespace, &change.node) else { return };
                let worker = (!change.worker.is_empty()).then(|| Incarnation::from(change.worker.as_str()));
                self.placement.announced(&node, worker, now.moment);
            }
            (Subject::Ownership, _) => (self.survey_at, self.lives_at) = (now.moment, now.moment),
            _ => {}
        }
        self.advance(now.moment, net);
    }

    /// A peer sends one of the nodes a message.
    pub(crate) fn received(&mut self, node: &NodeName, topic: &Topic, number: u64, net: &mut Net) {
        if !switch::on(110) {
            self.wake(net);
        }
        self.one_node(node, net, |node, place, net| node.received(topic, number, place, net));
    }

    fn each_node(&mut self, net: &mut Net, mut with: impl FnMut(&mut Node, &Place<'_>, &mut Net)) {
        let names: Vec<NodeName> = self.nodes.keys().cloned().collect();
        for name in names {
            self.one_node(&name, net, &mut with);
        }
    }

    /// Lets a node do something, and does what it asks for.
    fn one_node(
        &mut self,
        name: &NodeName,
        net: &mut Net,
        with: impl FnOnce(&mut Node, &Place<'_>, &mut Net),
    ) {
        let now = self.now(net);
        let (process, life) = (self.process, self.life);
        let Some(node) = self.nodes.get_mut(name) else { return };
        // A node tests the deadline by itself.
        if now.moment >= self.lease.deadline() && !switch::on(90) && !switch::on(110) {
            node.ended = Some(Ended::Fenced);
        } else {
            let incarnation = self.lease.incarnation().clone();
            with(node, &Place { process, life, incarnation: &incarnation, now }, net);
        }
        let (run, jobs, raised, ended) =
            (node.run, std::mem::take(&mut node.jobs), node.raised.take(), node.ended);
        for (ask, job) in jobs {
            self.ask(ask, Job::Node(run, name.clone(), job), net);
        }
        if let (Some(grant), Some(hosted)) = (raised, self.hosted.get_mut(name)) {
            hosted.grant = grant;
        }
        if let Some(ended) = ended {
            self.ended(name, ended, now.moment, net);
        }
    }

    /// Does all that is due.
    fn advance(&mut self, now: Moment, net: &mut Net) {
        if self.gone {
            return;
        }
        self.settle(now, net);
        if let Some(renewal) = self.lease.renewal(now) {
            let ask = Ask::Renew(renewal.incarnation.clone(), renewal.fresh);
            self.ask(ask, Job::Renewed(renewal), net);
        }
        self.look(now, net);
        let due: Vec<NodeName> = self
            .hosted
            .iter()
            .filter(|(_, hosted)| matches!(hosted.phase, Phase::Waiting { until } if until <= now))
            .map(|(node, _)| node.clone())
            .collect();
        due.into_iter().for_each(|node| self.load(node, net));
        if self.lease.held() {
            self.plan(now);
        }
        self.say(now, net);
    }

    fn settle(&mut self, now: Moment, net: &mut Net) {
        match self.lease.phase() {
            LeasePhase::Fenced if self.nodes.is_empty() => self.lease.stopped(now),
            LeasePhase::Draining if self.drain_until.is_some_and(|until| until <= now) => self.gone = true,
            LeasePhase::Gone => self.gone = true,
            _ => {}
        }
        let empty = self.hosted.is_empty() && self.nodes.is_empty() && self.control.is_idle();
        if self.lease.phase() == LeasePhase::Draining && empty && !self.retiring {
            self.retiring = true;
            let incarnation = self.lease.incarnation().clone();
            self.ask(Ask::Retire(incarnation.clone()), Job::Retired(incarnation), net);
        }
    }

    fn look(&mut self, now: Moment, net: &mut Net) {
        if !self.listens && !self.subscribing {
            self.subscribing = true;
            self.ask(Ask::Subscribe(Subject::Ownership), Job::Subscribed, net);
        }
        if !self.lease.held() {
            return;
        }
        if self.survey_at <= now && !self.surveying {
            self.surveying = true;
            self.survey_at = now.after(self.config.lease.survey_interval);
            self.ask(Ask::Owners, Job::Owners, net);
        }
        if self.lives_at <= now && !self.asking_lives {
            self.asking_lives = true;
            self.lives_at = now.after(LIVES_INTERVAL);
            self.ask(Ask::Workers, Job::Lives, net);
        }
        let former = self.lease.former().filter(|_| !self.forgetting && self.forget_at <= now).cloned();
        if let Some(former) = former {
            self.forgetting = true;
            let incarnation = self.lease.incarnation().clone();
            self.ask(Ask::Owned(former.clone()), Job::Forgot(incarnation, former, 0), net);
        }
    }

    fn plan(&mut self, now: Moment) {
        let plan = self.placement.step(now, true, self.control.is_idle());
        for node in plan.read {
            self.placement.learned(&node, Ok(Some(Rule::default())), now);
        }
        for node in plan.claim {
            self.control.claim(Claim { node, floor: 0, from: None });
        }
    }

    fn say(&mut self, now: Moment, net: &mut Net) {
        if !matches!(self.lease.phase(), LeasePhase::Held | LeasePhase::Draining) {
            return;
        }
        let Some(next) = self.control.next(now) else { return };
        let incarnation = self.lease.incarnation().clone();
        match next {
            Next::Take(nonce, claims) => {
                let ask = Ask::Take(incarnation.clone(), nonce, claims.clone());
                self.ask(ask, Job::Took(incarnation, nonce, claims), net);
            }
            Next::Release(nodes) => {
                let ask = Ask::Release(incarnation.clone(), nodes.clone());
                self.ask(ask, Job::Released(incarnation, nodes), net);
            }
            Next::Compare => self.ask(Ask::Owned(incarnation.clone()), Job::Compared(incarnation), net),
        }
    }

    /// Stops every node and drops every grant (P2, P3).
    fn fence(&mut self, net: &mut Net) {
        net.note(|| format!("w{} fences itself with {} nodes", self.process, self.nodes.len()));
        self.lease.fence();
        for name in std::mem::take(&mut self.nodes).into_keys() {
            net.ask(self.process, self.life, Ask::Unsubscribe(Subject::Calls(name)));
        }
        self.hosted.clear();
        self.control = Control::default();
        self.placement.fenced(self.lease.incarnation());
        self.forgetting = false;
        self.retiring = false;
    }

    /// Whether it runs nodes, and may.
    pub(crate) fn holds(&self) -> bool {
        !self.gone && self.lease.held()
    }
}

/// What comes back.
impl Worker {
    fn done(&mut self, job: Job, answer: Answer, now: Now, net: &mut Net) {
        let present = |incarnation: &Incarnation| incarnation == self.lease.incarnation();
        let moment = now.moment;
        match job {
            Job::Node(run, name, job) => {
                if self.nodes.get(&name).is_some_and(|node| node.run == run) {
                    self.one_node(&name, net, |node, place, net| node.done(job, answer, place, net));
                }
            }
            Job::Renewed(renewal) => self.renewed(&renewal, answer, moment, net),
            Job::Took(incarnation, nonce, claims) if present(&incarnation) => {
                let answer = answer.map(|said| match said {
                    Said::Taken(taken) => taken,
                    other => unreachable!("{other:?}"),
                });
                match self.control.took(nonce, claims, answer, moment) {
                    Some(all) => {
                        all.into_iter().for_each(|claimed| self.claimed(claimed, nonce, moment, net))
                    }
                    None => self.fence(net),
                }
            }
            Job::Released(incarnation, nodes) if present(&incarnation) => {
                let answer = answer.map(|said| if let Said::Count(count) = said { count } else { 0 });
                for node in self.control.released(nodes, &answer, moment) {
                    self.hosted.remove(&node);
                    self.placement.left(&node, &incarnation, moment);
                }
            }
            Job::Compared(incarnation) if present(&incarnation) => {
                if let Some(owned) = self.control.compared(owned(answer), moment) {
                    self.compared(owned, moment, net);
                }
            }
            Job::Forgot(incarnation, former, step) if present(&incarnation) => {
                self.forgot(incarnation, former, step, answer, moment, net);
            }
            Job::Retired(incarnation) if present(&incarnation) => self.lease.retired(),
            Job::Loaded(incarnation, node, grant) if present(&incarnation) => {
                self.loaded(node, grant, answer.is_ok(), moment, net);
            }
            Job::Owners => match answer {
                Ok(Said::Owners(owners)) => self.ask(Ask::Workers, Job::Surveyed(owners), net),
                _ => self.surveying = false,
            },
            Job::Surveyed(owners) => {
                self.surveying = false;
                if let Ok(Said::Workers(live)) = answer {
                    self.placement.survey(owners, live, moment);
                }
            }
            Job::Lives => {
                self.asking_lives = false;
                if let Ok(Said::Workers(live)) = answer {
                    self.placement.lives(live, moment);
                }
            }
            Job::Subscribed => (self.subscribing, self.listens) = (false, answer.is_ok()),
            _ => {}
        }
    }

    fn renewed(&mut self, renewal: &Renewal, answer: Answer, now: Moment, net: &mut Net) {
        let answer = answer.ok().map(|said| match said {
            Said::Renewed(renewed) => renewed,
            other => unreachable!("{other:?}"),
        });
        let step = self.lease.answered(renewal, answer.as_ref(), now);
        if let (Step::Begun | Step::Extended, Some(Renewed::Held { era, changes, .. })) = (step, answer) {
            for node in self.nodes.values_mut() {
                node.era(&era);
            }
            self.control.counted(&era, changes);
            self.era = Some(era);
        }
        match step {
            Step::Begun => {
                net.note(|| format!("w{} holds a lease as {}", self.process, self.lease.incarnation()));
                self.survey_at = now;
                self.forget_at = now.after(LIVES_INTERVAL * 2);
            }
            Step::Fence => self.fence(net),
            Step::None | Step::Extended => {}
        }
    }

    /// Gives back, step by step, what the record still says of a fenced incarnation.
    fn forgot(
        &mut self,
        inc: Incarnation,
        former: Incarnation,
        step: u8,
        answer: Answer,
        now: Moment,
        net: &mut Net,
    ) {
        match (step, answer) {
            (0, Ok(Said::Owned(owned))) => {
                let nodes = owned.nodes.into_iter().map(|(node, grant)| (node, grant.epoch)).collect();
                self.ask(Ask::Release(former.clone(), nodes), Job::Forgot(inc, former, 1), net);
            }
            (1, Ok(_)) => self.ask(Ask::Retire(former.clone()), Job::Forgot(inc, former, 2), net),
            (2, Ok(_)) => {
                self.forgetting = false;
                self.lease.forgotten(&former);
                self.survey_at = now;
            }
            _ => self.forgetting = false,
        }
    }
}
