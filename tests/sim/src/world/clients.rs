//! Clients of a walk: they publish, try again what has a key, read, and go from gateway to gateway; and
//! peers, who send nodes messages.

use super::*;

impl World {
    pub(super) fn gateway(&mut self) -> Option<usize> {
        let first = self.net.dice.below(self.plan.gateways as u64) as usize;
        let all = (0..self.plan.gateways).map(|i| (first + i) % self.plan.gateways);
        let ready = |index: &usize| {
            let stands = self.stands[self.plan.workers + index] > self.net.now;
            !stands && self.gateways[*index].as_ref().is_some_and(Gateway::ready)
        };
        all.into_iter().find(ready)
    }

    pub(super) fn client(&mut self, client: usize) {
        if self.net.now >= self.plan.talk {
            return;
        }
        let pace = self.net.dice.within(self.plan.pace / 4..self.plan.pace * 2);
        self.net.after(pace, Event::Client(client));
        let again = self.retries.front().is_some_and(|(at, _)| *at <= self.net.now);
        let publish = if again && self.net.dice.once_in(500) {
            self.retries.pop_front().map(|(_, publish)| publish)
        } else {
            None
        };
        let publish = publish.unwrap_or_else(|| {
            self.numbers += 1;
            let number = self.numbers;
            // A key is known as long as its message is retained.
            let key = if self.plan.keeps() && self.net.dice.once_in(600) {
                format!("k{number}")
            } else {
                String::new()
            };
            let place = self.place();
            Publish { number, key, place, tries: 0, gateway: 0, deadline: 0 }
        });
        self.publish(publish);
    }

    /// A topic to say something in.
    fn place(&mut self) -> usize {
        let early = self.plan.late.is_some_and(|late| self.net.now < late);
        let places = if early { 1 } else { self.places.len() };
        self.net.dice.below(places as u64) as usize
    }

    /// A client says something in the first topic, whatever else it does.
    pub(super) fn say(&mut self) {
        self.numbers += 1;
        let number = self.numbers;
        self.publish(Publish { number, key: String::new(), place: 0, tries: 0, gateway: 0, deadline: 0 });
    }

    pub(super) fn publish(&mut self, mut publish: Publish) {
        let Some(index) = self.gateway() else {
            self.retries.push_back((self.net.now + AGAIN, publish));
            return;
        };
        let within = self.net.dice.spread(500 * MS, 8 * SEC);
        publish.tries += 1;
        publish.gateway = index;
        publish.deadline = self.net.now + within;
        let call = self.net.fresh();
        let (node, topic) = self.places[publish.place].clone();
        let (number, key) = (publish.number, publish.key.clone());
        self.calls.insert(call, publish);
        if let Some(gateway) = &mut self.gateways[index] {
            gateway.publish((call, number), &node, &topic, &key, within, &mut self.net);
        }
        self.follow_up(index);
    }

    /// Takes what a gateway has for clients.
    pub(super) fn follow_up(&mut self, index: usize) {
        let Some(gateway) = &mut self.gateways[index] else { return };
        if gateway.finished.is_empty() && gateway.parted.is_empty() {
            return;
        }
        let (finished, parted) = (std::mem::take(&mut gateway.finished), std::mem::take(&mut gateway.parted));
        for finished in finished {
            match finished.result {
                Ok(payload) => {
                    let Some(publish) = self.calls.remove(&finished.call) else { continue };
                    self.in_time(&publish);
                    let receipt = payload.open::<v1::Receipt>().expect("a publish is answered by a receipt");
                    let at: Position = receipt.position.parse().expect("positions are spelled well");
                    let (node, topic) = &self.places[publish.place];
                    self.net.check.acked(publish.number, node, topic, at);
                }
                Err(error) => {
                    self.net.check.refused += 1;
                    let number = self.calls.get(&finished.call).map_or(0, |publish| publish.number);
                    self.net.note(|| format!("message {number} is refused: {}", error.reason));
                    self.failed(finished.call);
                }
            }
        }
        parted.into_iter().for_each(|reader| self.parted(reader));
    }

    pub(super) fn in_time(&mut self, publish: &Publish) {
        let stood = self.stood[self.plan.workers + publish.gateway];
        let (now, deadline, number) = (self.net.now, publish.deadline, publish.number);
        if now > deadline.max(stood) + SEC {
            self.net.check.fail(|| format!("I6: message {number} was answered {} us late", now - deadline));
        }
    }

    /// A call failed: one with a key is tried again.
    pub(super) fn failed(&mut self, call: u64) {
        let Some(publish) = self.calls.remove(&call) else { return };
        self.in_time(&publish);
        if !publish.key.is_empty() && publish.tries < 6 {
            let wait = self.net.dice.spread(20 * MS, 3 * SEC);
            self.retries.push_back((self.net.now + wait, publish));
        }
    }

    pub(super) fn parted(&mut self, reader: usize) {
        self.readers[reader] = None;
        let wait = self.net.dice.spread(5 * MS, 3 * SEC);
        self.net.after(wait, Event::Reader(reader));
    }

    /// A reader connects; one that is connected goes elsewhere.
    pub(super) fn reader(&mut self, reader: usize) {
        if let Some(at) = self.readers[reader].take()
            && let Some(gateway) = &mut self.gateways[at]
        {
            gateway.part(reader);
        }
        let Some(index) = self.gateway() else {
            return self.net.after(AGAIN, Event::Reader(reader));
        };
        self.readers[reader] = Some(index);
        let (node, topics) = self.interest(reader);
        let resumes = self.net.check.resumes(reader);
        let after = |at: Option<Position>| at.map_or(After::End, After::Position);
        let wish = topics.into_iter().zip(resumes).map(|(topic, at)| (topic, after(at))).collect();
        if let Some(gateway) = &mut self.gateways[index] {
            gateway.serve(reader, &node, wish, &mut self.net);
        }
        self.follow_up(index);
        if self.net.now < CHAOS && self.net.dice.once_in(400) {
            let wait = self.net.dice.within(SEC..10 * SEC);
            self.net.after(wait, Event::Reader(reader));
        }
    }

    pub(super) fn peer(&mut self, process: usize, life: u32) {
        if self.lives[process] != life || self.net.now >= self.plan.talk {
            return;
        }
        let wait = self.net.dice.spread(100 * MS, 4 * SEC);
        self.net.after(wait, Event::Peer(process, life));
        let again = self.plan.keeps() && self.net.dice.once_in(150) && !self.said.is_empty();
        let (number, place) = if again {
            self.said[self.net.dice.below(self.said.len() as u64) as usize]
        } else {
            self.numbers += 1;
            (self.numbers, self.place())
        };
        let (node, topic) = self.places[place].clone();
        let Some(worker) = &mut self.workers[process] else { return };
        if worker.nodes.contains_key(&node) {
            worker.received(&node, &topic, number, &mut self.net);
            if !again {
                self.said.push((number, place));
            }
        }
    }
}
