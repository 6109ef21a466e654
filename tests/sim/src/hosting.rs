//! What happens to the nodes that are here, from the take to the release. Mirrors
//! `worker/src/host/event_loop/nodes.rs`.

use super::*;

impl Worker {
    /// SIGTERM.
    pub(crate) fn leave(&mut self, net: &mut Net) {
        let now = self.wake(net);
        net.note(|| format!("w{} is asked to leave", self.process));
        self.lease.drain();
        self.drain_until = Some(now.moment.after(DRAIN));
        for claim in self.control.withdraw() {
            if claim.from.is_some() {
                self.release(claim.node);
            }
        }
        for name in self.hosted.keys().cloned().collect::<Vec<_>>() {
            let Some(hosted) = self.hosted.get_mut(&name) else { continue };
            hosted.leaving = true;
            match hosted.phase {
                Phase::Running => {
                    if switch::on(150) {
                        self.control.release(name.clone(), hosted.grant.epoch);
                    }
                    self.one_node(&name, net, |node, place, net| node.drain(place, net));
                }
                Phase::Waiting { .. } => self.release(name),
                Phase::Loading | Phase::Raising | Phase::Releasing => {}
            }
        }
        self.advance(now.moment, net);
    }

    pub(super) fn claimed(&mut self, claimed: Claimed, nonce: u64, now: Moment, net: &mut Net) {
        match claimed {
            Claimed::Granted(claim, epoch) => {
                let grant = Grant { epoch, nonce };
                net.note(|| format!("w{} has {} under {grant:?}", self.process, claim.node));
                if claim.from.is_none() {
                    let leaving = self.lease.leaving();
                    let hosted = Hosted { grant, phase: Phase::Loading, used: false, leaving, lost: false, run: 0 };
                    self.hosted.insert(claim.node.clone(), hosted);
                    return self.load(claim.node, net);
                }
                let Some(hosted) = self.hosted.get_mut(&claim.node) else { return };
                (hosted.grant, hosted.used) = (grant, false);
                if hosted.leaving {
                    self.release(claim.node);
                } else if hosted.phase == Phase::Raising {
                    self.start(claim.node, net);
                }
            }
            Claimed::Refused(Claim { node, from: None, .. }) => self.placement.refused(&node, now),
            Claimed::Refused(Claim { node, .. }) => self.forsake(&node, now),
        }
    }

    pub(super) fn load(&mut self, node: NodeName, net: &mut Net) {
        let Some(hosted) = self.hosted.get_mut(&node) else { return };
        if hosted.leaving {
            return self.release(node);
        }
        hosted.phase = Phase::Loading;
        let (incarnation, grant) = (self.lease.incarnation().clone(), hosted.grant);
        self.ask(Ask::Record, Job::Loaded(incarnation, node, grant), net);
    }

    pub(super) fn loaded(&mut self, node: NodeName, grant: Grant, done: bool, now: Moment, net: &mut Net) {
        let Some(hosted) = self.hosted.get_mut(&node) else { return };
        if hosted.grant != grant || hosted.phase != Phase::Loading {
            return;
        }
        if hosted.lost {
            self.forsake(&node, now);
        } else if hosted.leaving {
            self.release(node);
        } else if !done {
            hosted.phase = Phase::Waiting { until: now.after(RETRY) };
        } else if hosted.used {
            hosted.phase = Phase::Raising;
            self.control.claim(Claim { node, floor: grant.epoch, from: Some(grant.nonce) });
        } else {
            self.start(node, net);
        }
    }

    pub(super) fn start(&mut self, name: NodeName, net: &mut Net) {
        let Some(hosted) = self.hosted.get_mut(&name) else { return };
        (hosted.used, hosted.phase, hosted.run) = (true, Phase::Running, net.fresh());
        let worker = self.lease.incarnation();
        let mut node =
            Node::new(hosted.run, name.clone(), hosted.grant, worker, self.era.clone(), self.retention);
        if switch::on(50) || switch::on(250) {
            node.known = net.check.tails(&name);
        }
        self.nodes.insert(name.clone(), node);
        self.one_node(&name, net, |node, place, net| node.tick(place, net));
    }

    pub(super) fn ended(&mut self, name: &NodeName, ended: Ended, now: Moment, net: &mut Net) {
        net.note(|| format!("{name} ends on w{}: {ended:?}", self.process));
        let Some(node) = self.nodes.remove(name) else { return };
        net.ask(self.process, self.life, Ask::Unsubscribe(Subject::Calls(name.clone())));
        let Some(hosted) = self.hosted.get_mut(name).filter(|hosted| hosted.run == node.run) else { return };
        match ended {
            Ended::Fenced => self.forsake(name, now),
            Ended::Stopped => {
                hosted.phase = Phase::Loading;
                self.load(name.clone(), net);
            }
        }
    }

    pub(super) fn release(&mut self, node: NodeName) {
        if let Some(hosted) = self.hosted.get_mut(&node) {
            hosted.phase = Phase::Releasing;
            self.control.release(node, hosted.grant.epoch);
        }
    }

    pub(super) fn forsake(&mut self, node: &NodeName, now: Moment) {
        self.hosted.remove(node);
        self.placement.refused(node, now);
        self.control.doubt();
        self.survey_at = now;
    }

    /// Compares what runs with what the record says (P5).
    pub(super) fn compared(&mut self, owned: Owned, now: Moment, net: &mut Net) {
        let mut recorded: BTreeMap<NodeName, Grant> = owned.nodes.into_iter().collect();
        let mut gone = Vec::new();
        for (node, hosted) in &mut self.hosted {
            match recorded.remove(node) {
                Some(grant) => {
                    let idle = matches!(hosted.phase, Phase::Running | Phase::Waiting { .. });
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
            net.note(|| format!("the record gives {node} to nobody on w{}", self.process));
            if self.nodes.remove(&node).is_some() {
                net.ask(self.process, self.life, Ask::Unsubscribe(Subject::Calls(node.clone())));
            }
            self.hosted.remove(&node);
            self.placement.refused(&node, now);
            self.survey_at = now;
        }
        for (node, grant) in recorded {
            self.control.release(node, grant.epoch);
        }
    }
}

pub(super) fn owned(answer: Answer) -> Result<Owned, Error> {
    answer.map(|said| match said {
        Said::Owned(owned) => owned,
        other => unreachable!("{other:?}"),
    })
}
