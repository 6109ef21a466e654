//! What happens to the nodes that are here, from the take to the release. A node that was taken is
//! loaded: its record decides whether it runs, is given back, or is buried. A node that ended is
//! loaded again, under a raised grant before it runs (one opening per epoch, protocol.md P10).

use super::{Claimed, EventLoop, FENCE_TIME, Task};
use crate::{
    Pulse,
    clock::Moment,
    host::{
        errands::{self, Hold, Load, Loaded},
        placement::Rule,
    },
    node::{Ended, Note, Start},
};
use plexus_bus::{Claim, Grant, NodeName, Owned, Owner};
use std::time::Duration;
use tokio::{sync::watch, task::JoinError};
use tokio_util::sync::CancellationToken;

/// First wait after a failure; it doubles with each one.
const BACKOFF: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Wait after an answer that the bus did not give.
const RETRY: Duration = Duration::from_secs(1);
/// Nodes that are asked for at once, each because of a hint.
const ASKING_MAX: usize = 256;
/// A node that ran so long is well: its failures are forgotten.
const WELL: Duration = Duration::from_secs(60);

/// A node under one of this worker's grants.
pub(super) struct Hosted {
    /// The grant.
    pub(super) grant: Grant,
    /// What is being done with it.
    pub(super) phase: Phase,
    /// A task ran under this grant, so that the next one needs a higher one.
    used: bool,
    /// It is to be given back as soon as it stands still.
    pub(super) leaving: bool,
    /// The record gave it to nobody while it was loaded: it was buried, or its take is lost.
    lost: bool,
    /// Failures in a row.
    failures: u32,
    /// Revision of the record that was last heard of.
    changed: watch::Sender<u64>,
}

/// What is being done with a node.
pub(super) enum Phase {
    /// Its record and key are being read, or its last state is being written.
    Loading,
    /// It waits for a higher grant, and is ready to run.
    Raising(Box<Loaded>),
    /// It runs; the token stops it.
    Running { stop: CancellationToken, since: Moment },
    /// It failed and waits.
    Waiting { until: Moment },
    /// It is being given back.
    Releasing,
}

impl Hosted {
    fn new(grant: Grant) -> Self {
        Self {
            grant,
            phase: Phase::Loading,
            used: false,
            leaving: false,
            lost: false,
            failures: 0,
            changed: watch::Sender::new(0),
        }
    }
}

impl EventLoop {
    pub(super) fn claimed(&mut self, claimed: Claimed, nonce: u64, now: Moment) {
        match claimed {
            Claimed::Granted(claim, epoch) => {
                let grant = Grant { epoch, nonce };
                match claim.from {
                    None => self.taken(claim.node, grant),
                    Some(_) => self.raised(&claim.node, grant, now),
                }
            }
            Claimed::Refused(Claim { node, from: None, .. }) => self.placement.refused(&node, now),
            // The grant is not what we thought; the record knows.
            Claimed::Refused(Claim { node, .. }) => self.forsake(&node, now),
        }
    }

    fn taken(&mut self, node: NodeName, grant: Grant) {
        tracing::debug!(%node, grant.epoch, "node taken");
        let mut hosted = Hosted::new(grant);
        hosted.leaving = self.lease.leaving();
        self.hosted.insert(node.clone(), hosted);
        self.load(node);
    }

    fn load(&mut self, node: NodeName) {
        let Some(hosted) = self.hosted.get_mut(&node) else { return };
        if hosted.leaving {
            return self.release(node);
        }
        hosted.phase = Phase::Loading;
        let hold = Hold {
            bus: self.bus.clone(),
            worker: self.lease.incarnation().clone(),
            node,
            grant: hosted.grant,
        };
        self.work.spawn(errands::load(hold, self.maker.seal.clone()));
    }

    pub(super) fn loaded(&mut self, node: NodeName, grant: Grant, load: Load, now: Moment) {
        let Some(hosted) = self.hosted.get_mut(&node) else { return };
        if hosted.grant != grant || !matches!(hosted.phase, Phase::Loading) {
            return;
        }
        match load {
            Load::Buried => {
                self.hosted.remove(&node);
                self.placement.buried(&node);
            }
            Load::Fenced => self.forsake(&node, now),
            _ if hosted.lost => self.forsake(&node, now),
            Load::Leave => self.release(node),
            _ if hosted.leaving => self.release(node),
            Load::Retry(error) => {
                tracing::warn!(%node, %error, "a node could not be loaded");
                hosted.phase = Phase::Waiting { until: now.after(RETRY) };
            }
            Load::Start(loaded) if hosted.used => {
                let claim = Claim { node, floor: grant.epoch, from: Some(grant.nonce) };
                hosted.phase = Phase::Raising(loaded);
                self.control.claim(claim);
            }
            Load::Start(loaded) => self.start(node, *loaded, now),
        }
    }

    fn raised(&mut self, node: &NodeName, grant: Grant, now: Moment) {
        let Some(hosted) = self.hosted.get_mut(node) else { return };
        hosted.grant = grant;
        hosted.used = false;
        if hosted.leaving {
            return self.release(node.clone());
        }
        match std::mem::replace(&mut hosted.phase, Phase::Loading) {
            Phase::Raising(loaded) => self.start(node.clone(), *loaded, now),
            other => hosted.phase = other,
        }
    }

    fn start(&mut self, node: NodeName, mut loaded: Loaded, now: Moment) {
        let Some(hosted) = self.hosted.get_mut(&node) else { return };
        if self.lingering.contains(&node) {
            hosted.phase = Phase::Waiting { until: now.after(RETRY) };
            return;
        }
        hosted.used = true;
        if loaded.state.generation < loaded.record.generation {
            // A restart was asked for: it begins with a clean slate.
            loaded.state.failures = 0;
        }
        hosted.failures = hosted.failures.max(loaded.state.failures);
        hosted.changed.send_if_modified(|known| {
            std::mem::replace(known, (*known).max(loaded.revision)) < loaded.revision
        });
        let pulse = Pulse::default();
        let start = Start {
            name: node.clone(),
            worker: self.lease.incarnation().clone(),
            grant: hosted.grant,
            record: loaded.record,
            revision: loaded.revision,
            state: loaded.state,
            key: loaded.key,
            deadline: self.deadline.subscribe(),
            store: self.store.subscribe(),
            changed: hosted.changed.subscribe(),
            bus: self.bus.clone(),
            config: self.config.clone(),
            metrics: self.metrics.clone(),
            pulse: pulse.clone(),
            notes: self.note_sender.clone(),
        };
        let stop = self.root.child_token();
        hosted.phase = Phase::Running { stop: stop.clone(), since: now };
        let abort = self.tasks.spawn((self.spawn)(start, stop));
        self.running.insert(abort.id(), Task { node, abort, pulse, until: None });
        self.metrics.starts.inc();
        self.metrics.nodes.set(self.running.len().try_into().unwrap_or(i64::MAX));
    }

    pub(super) fn noted(&mut self, node: &NodeName, note: Note) {
        match note {
            Note::Running => tracing::info!(%node, "node runs"),
            Note::Raised(grant) => {
                if let Some(hosted) = self.hosted.get_mut(node) {
                    hosted.grant = grant;
                }
            }
            Note::Unwanted => self.stop(node),
        }
    }

    /// Asks a node to end; what follows is decided when it has.
    pub(super) fn stop(&mut self, node: &NodeName) {
        if let Some(Hosted { phase: Phase::Running { stop, .. }, .. }) = self.hosted.get(node) {
            stop.cancel();
            let until = Moment::now().after(self.config.drain);
            self.running.values_mut().filter(|task| task.node == *node).for_each(|task| task.limit(until));
        }
    }

    /// Ends the task of a node that is not ours; until it has ended the node cannot run here again.
    fn cease(&mut self, node: &NodeName, now: Moment) {
        let until = now.after(FENCE_TIME);
        self.stop(node);
        for task in self.running.values_mut().filter(|task| task.node == *node) {
            task.limit(until);
            self.lingering.insert(node.clone());
        }
    }

    pub(super) fn ended(&mut self, task: tokio::task::Id, result: Result<Ended, JoinError>, now: Moment) {
        // What the node said before its end counts, above all a higher grant.
        while let Ok((node, note)) = self.notes.try_recv() {
            self.noted(&node, note);
        }
        let Some(Task { node, .. }) = self.running.remove(&task) else { return };
        self.lingering.remove(&node);
        self.metrics.nodes.set(self.running.len().try_into().unwrap_or(i64::MAX));
        let Some(hosted) = self.hosted.get_mut(&node) else { return };
        let Phase::Running { since, stop } = &hosted.phase else { return };
        let (since, asked) = (*since, stop.is_cancelled());
        let failure = match result {
            Ok(Ended::Fenced) => return self.forsake(&node, now),
            Ok(Ended::Stopped) if asked => return self.load(node),
            // Nobody asked, so there is no hurry to see why.
            Ok(Ended::Stopped) => {
                hosted.phase = Phase::Waiting { until: now.after(RETRY) };
                return;
            }
            Ok(Ended::Failed(why)) => why,
            Err(error) if error.is_panic() => "it panicked".into(),
            Err(_) => "it did not stop in time".into(),
        };
        if hosted.leaving {
            return self.release(node);
        }
        self.failed(node, failure, since, now);
    }

    fn failed(&mut self, node: NodeName, why: String, since: Moment, now: Moment) {
        let Some(hosted) = self.hosted.get_mut(&node) else { return };
        self.metrics.failures.inc();
        hosted.failures = if now.since(since) >= WELL { 1 } else { hosted.failures.saturating_add(1) };
        let failures = hosted.failures;
        tracing::warn!(%node, why, failures, "node failed");
        let quarantined = failures >= self.config.node.failures_max;
        let wait = BACKOFF.saturating_mul(1 << (failures - 1).min(16)).min(BACKOFF_MAX);
        hosted.phase = if quarantined { Phase::Loading } else { Phase::Waiting { until: now.after(wait) } };
        let hold = Hold {
            bus: self.bus.clone(),
            worker: self.lease.incarnation().clone(),
            node,
            grant: hosted.grant,
        };
        self.work.spawn(errands::failed(hold, why, failures, quarantined));
    }

    /// Gives a node back that stands still.
    pub(super) fn release(&mut self, node: NodeName) {
        if let Some(hosted) = self.hosted.get_mut(&node) {
            hosted.phase = Phase::Releasing;
            self.control.release(node, hosted.grant.epoch);
        }
    }

    pub(super) fn released(&mut self, node: &NodeName, now: Moment) {
        self.hosted.remove(node);
        self.placement.left(node, self.lease.incarnation(), now);
    }

    /// Lets go of a node that is not ours, or not as we thought: nothing is released but what the
    /// record still gives us.
    fn forsake(&mut self, node: &NodeName, now: Moment) {
        self.hosted.remove(node);
        self.placement.refused(node, now);
        self.control.doubt();
        self.survey_at = now;
    }

    /// Compares what runs with what the record says (P5).
    pub(super) fn compared(&mut self, owned: Owned, now: Moment) {
        let mut recorded: std::collections::HashMap<NodeName, Grant> = owned.nodes.into_iter().collect();
        let mut gone = Vec::new();
        for (node, hosted) in &mut self.hosted {
            match recorded.remove(node) {
                // Only takes under this incarnation are in its record: the node raised its grant.
                Some(grant) => {
                    let idle = matches!(hosted.phase, Phase::Running { .. } | Phase::Waiting { .. });
                    if idle && grant.epoch > hosted.grant.epoch {
                        hosted.grant = grant;
                    }
                }
                None if matches!(hosted.phase, Phase::Loading) => hosted.lost = true,
                None if matches!(hosted.phase, Phase::Releasing) => {}
                None => gone.push(node.clone()),
            }
        }
        for node in gone {
            tracing::warn!(%node, "the record gives this node to nobody here; it is stopped");
            self.cease(&node, now);
            self.hosted.remove(&node);
            self.placement.refused(&node, now);
            self.survey_at = now;
        }
        for (node, grant) in recorded {
            tracing::debug!(%node, grant.epoch, "a node that does not run here is given back");
            self.control.release(node, grant.epoch);
        }
    }

    /// Lets every node that waits long enough be loaded again.
    pub(super) fn wake(&mut self, now: Moment) {
        let due = |hosted: &Hosted| matches!(hosted.phase, Phase::Waiting { until } if until <= now);
        let nodes: Vec<NodeName> =
            self.hosted.iter().filter(|(_, hosted)| due(hosted)).map(|(node, _)| node.clone()).collect();
        nodes.into_iter().for_each(|node| self.load(node));
    }

    /// Hands every node over (P7).
    pub(super) fn hand_over(&mut self) {
        for claim in self.control.withdraw() {
            if claim.from.is_some() {
                self.release(claim.node);
            }
        }
        for node in self.hosted.keys().cloned().collect::<Vec<_>>() {
            self.give(node);
        }
    }

    /// Hands one node over: it is given back once it stands still.
    pub(super) fn give(&mut self, node: NodeName) {
        let Some(hosted) = self.hosted.get_mut(&node) else { return };
        hosted.leaving = true;
        match hosted.phase {
            Phase::Running { .. } => self.stop(&node),
            Phase::Waiting { .. } => self.release(node),
            Phase::Loading | Phase::Raising(_) | Phase::Releasing => {}
        }
    }

    /// Hears that a record may have changed.
    pub(super) fn hinted(&mut self, node: NodeName, now: Moment) {
        match self.hosted.get_mut(&node) {
            Some(hosted) => {
                if let Phase::Waiting { until } = &mut hosted.phase {
                    *until = now;
                }
                self.ask(node);
            }
            None if self.placement.knows(&node) => self.placement.changed(&node),
            None if self.asking.len() < ASKING_MAX => {
                self.asking.insert(node.clone());
                self.work.spawn(errands::find(self.bus.clone(), node));
            }
            None => self.survey_at = now,
        }
    }

    /// Reads the revision of a node's record; as many at once as may be, the rest after them.
    pub(super) fn ask(&mut self, node: NodeName) {
        if self.asking.len() >= ASKING_MAX || self.asking.contains(&node) {
            self.ask_again.insert(node);
        } else {
            self.asking.insert(node.clone());
            self.work.spawn(errands::revision(self.bus.clone(), node));
        }
    }

    pub(super) fn revised(&mut self, node: &NodeName, record: Option<(u64, Option<Rule>)>, now: Moment) {
        self.asking.remove(node);
        if let (Some((revision, rule)), Some(hosted)) = (record, self.hosted.get(node)) {
            hosted.changed.send_if_modified(|known| std::mem::replace(known, revision) != revision);
            if let Some(rule) = rule {
                // Where it was moved to may be a worker that was not heard of yet.
                if rule.home.as_ref().is_some_and(|home| !self.placement.is_told(home)) {
                    self.survey_at = now;
                }
                self.placement.ruled(node, rule);
                self.fleet.hurry();
            }
        }
        self.ask_next();
    }

    pub(super) fn found(&mut self, node: &NodeName, owner: Option<Owner>, now: Moment) {
        self.asking.remove(node);
        if let Some(owner) = owner {
            self.placement.owned(node, owner.worker, now);
        }
        self.ask_next();
    }

    fn ask_next(&mut self) {
        let next = self.ask_again.iter().find(|node| !self.asking.contains(*node)).cloned();
        if let Some(node) = next {
            self.ask_again.remove(&node);
            if self.hosted.contains_key(&node) {
                return self.ask(node);
            }
            self.ask_next();
        }
    }
}
