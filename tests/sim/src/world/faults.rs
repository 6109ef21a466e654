//! Faults of a walk, and their end.

use super::*;

impl World {
    pub(super) fn fault(&mut self, number: usize, begins: bool) {
        let fault = self.plan.faults[number].clone();
        let room = CHAOS.saturating_sub(self.net.now); // none outlasts the chaos
        if begins {
            self.net.note(|| format!("FAULT {:?}", fault.kind));
        }
        match fault.kind {
            Kind::Crash { process, back } => {
                if self.alive(process) {
                    self.end(process, back);
                }
            }
            Kind::Leave { worker, back } => {
                self.back[worker] = back;
                if let Some(worker) = &mut self.workers[worker] {
                    worker.leave(&mut self.net);
                }
            }
            Kind::Stand { process, lasts } => {
                self.stands[process] = self.stands[process].max(self.net.now + lasts.min(room));
                self.stood[process] = self.stands[process];
            }
            Kind::Cut { process, shard, lasts } => self.cut(process, shard, lasts.min(room)),
            Kind::Bad { process, lasts, lossy, slow, twice } => {
                for link in &mut self.net.links[process] {
                    (link.lossy, link.slow, link.twice) =
                        if begins { (lossy, slow, twice) } else { Default::default() };
                }
                if begins {
                    self.net.after(lasts, Event::Fault(number, false));
                }
            }
            Kind::Broken { process, shard } => {
                self.shards[shard].live().broken(process);
                let (life, wait) = (self.lives[process], self.net.dice.spread(2 * MS, SEC));
                self.net.after(wait, Event::Reconnect(process, life, shard));
            }
            Kind::Deaf { process, lasts } => {
                let until = self.net.now + lasts.min(room);
                self.net.links[process].iter_mut().for_each(|link| link.deaf_until = until);
            }
            Kind::Behind { process, lasts, lag } => {
                let lag = if begins { lag } else { 0 };
                self.net.links[process].iter_mut().for_each(|link| link.lag = lag);
                if begins {
                    self.net.after(lasts, Event::Fault(number, false));
                }
            }
            Kind::Say => self.say(),
            Kind::Move { reader } => {
                if reader < self.readers.len() {
                    self.reader(reader);
                }
            }
            Kind::Lagged { process } => {
                let life = self.lives[process];
                for subject in self.net.listens[process].clone() {
                    self.net.after(MS, Event::Heard(process, life, Box::new((subject, Heard::Lagged))));
                }
            }
            Kind::Stopped { shard, lasts } => {
                let until = self.net.now + lasts.min(room);
                self.shards[shard].stands_until = self.shards[shard].stands_until.max(until);
            }
            Kind::Failover { shard, down, skew, .. } => self.fail_over(shard, down, skew),
            Kind::Strike { on, how } => {
                if let How::Lost { early: true, .. } = how {
                    self.shards.iter_mut().filter(|shard| !shard.down).for_each(Shard::snapshot);
                }
                self.armed.push((on, how, self.net.now));
            }
        }
    }

    pub(super) fn alive(&self, process: usize) -> bool {
        match process.checked_sub(self.plan.workers) {
            None => self.workers[process].is_some(),
            Some(index) => self.gateways[index].is_some(),
        }
    }

    pub(super) fn cut(&mut self, process: usize, shard: Option<usize>, lasts: Us) {
        let until = self.net.now + lasts;
        let life = self.lives[process];
        for one in (0..self.shards.len()).filter(|one| shard.is_none_or(|shard| shard == *one)) {
            self.net.links[process][one].cut_until = until;
            self.net.at(until + MS, Event::Reconnect(process, life, one));
        }
    }

    /// A call that a fault waited for since.
    pub(super) fn strike(&mut self, request: Request, how: How, since: Us) {
        self.net.note(|| format!("FAULT {how:?} strikes {:?} of {}", request.ask, request.from));
        let (shard, from) = (request.shard, request.from);
        let crash = match how {
            How::Late { wait, crash } => {
                self.net.after(wait, Event::Request(Box::new(request)));
                crash.then_some(6 * SEC)
            }
            How::Unanswered | How::Crash { .. } => {
                self.net.mute = true;
                self.shards[shard].serve(request, &mut self.net);
                if let How::Crash { back } = how { Some(back) } else { None }
            }
            How::Heard => {
                self.net.links.iter_mut().flatten().for_each(|link| link.deaf_until = 0);
                self.shards[shard].serve(request, &mut self.net);
                None
            }
            How::Held { wait } => {
                self.net.hold = wait;
                self.shards[shard].serve(request, &mut self.net);
                None
            }
            How::Doom { wait, doom } => {
                self.shards.iter_mut().filter(|shard| !shard.down).for_each(Shard::snapshot);
                self.shards[shard].serve(request, &mut self.net);
                self.net.after(wait, Event::Doom(doom));
                None
            }
            How::Lost { down, skew, early, answered, crash, cut } => {
                // A replica is not further behind than what takes of nodes may rely on (P8).
                if !early || since + LAG_MAX < self.net.now {
                    self.shards[shard].snapshot();
                }
                self.net.mute = !answered;
                self.net.hush = cut > 0;
                self.shards[shard].serve(request, &mut self.net);
                self.fail_over(shard, down, skew);
                if cut > 0 {
                    self.cut(from, Some(shard), cut);
                }
                crash.then_some(down + SEC)
            }
        };
        if let Some(back) = crash.filter(|_| self.alive(from)) {
            self.end(from, back);
        }
    }

    pub(super) fn fail_over(&mut self, shard: usize, down: Us, skew: i64) {
        if !self.shards[shard].down {
            self.shards[shard].down = true;
            self.net.check.lossy = true;
            self.net.after(down, Event::Promote(shard, skew));
        }
    }

    /// Every process dies, and every primary with all that its replica lacks.
    pub(super) fn doom(&mut self, Doom { down, skew, workers, gateways }: Doom) {
        self.net.note(|| "FAULT everything dies".into());
        (0..self.shards.len()).for_each(|shard| self.fail_over(shard, down, skew));
        for process in (0..self.lives.len()).filter(|process| self.alive(*process)).collect::<Vec<_>>() {
            self.end(process, if process < self.plan.workers { workers } else { gateways });
        }
    }

    pub(super) fn promote(&mut self, shard: usize, skew: i64) {
        if !self.shards[shard].down {
            return;
        }
        self.net.note(|| format!("a replica of shard {shard} is promoted"));
        self.shards[shard].promote(skew);
        for process in 0..self.lives.len() {
            let (life, wait) = (self.lives[process], self.net.dice.spread(2 * MS, 2 * SEC));
            self.net.after(wait, Event::Reconnect(process, life, shard));
        }
    }

    /// All faults end.
    pub(super) fn calm(&mut self) {
        self.net.note(|| "all faults end".into());
        let now = self.net.now;
        self.armed.clear();
        (0..self.shards.len()).for_each(|shard| self.promote(shard, 0));
        for process in 0..self.lives.len() {
            self.stands[process] = 0;
            if !self.alive(process) {
                self.start(process);
            }
            for shard in 0..self.shards.len() {
                let link = &mut self.net.links[process][shard];
                let cut = link.cut_until > now;
                (link.cut_until, link.lossy, link.slow, link.twice) = (0, 0, 0, 0);
                (link.deaf_until, link.lag) = (0, 0);
                if cut {
                    let life = self.lives[process];
                    self.net.after(MS, Event::Reconnect(process, life, shard));
                }
            }
        }
        for shard in &mut self.shards {
            shard.stands_until = 0;
        }
    }
}
