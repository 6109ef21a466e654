//! Readers of topics on this gateway: who follows what, who has begun, who comes after. Pure: the loop
//! tells what happened and does the [`Order`]s. protocol.md P20–P23.

use super::{
    Failure, Metrics,
    beats::Beats,
    frames::Filter,
    notes::{Note, Notes},
    place::{Found, Place, Told, Walked},
    queue::{self, Feed, Pen, Queue, Terms},
    reader::Ask,
    topic::{Facts, Phase, Resuming, Topic},
};
use crate::config;
use plexus_bus::{NodeName, Position};
use plexus_proto::{
    bus::LogEntry,
    reason::{self, Again, Reason},
    text::After,
    v1::{self, View, subscription_event::end},
};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// Pause before a read is repeated that told nothing new.
pub(super) const RETRY: Duration = Duration::from_millis(100);
/// Reads for single readers at once; more wait their turn.
pub(super) const READS_MAX: usize = 64;

/// What a reader wants.
pub(crate) struct Wish {
    pub(crate) node: NodeName,
    /// Each topic once, and where to begin.
    pub(crate) topics: Vec<(plexus_bus::Topic, After)>,
    pub(crate) terms: Terms,
    pub(crate) pen: Pen,
    pub(crate) view: View,
    pub(crate) filter: Filter,
    /// Refuses to begin with a gap.
    pub(crate) require_recovery: bool,
}

/// What the loop has to do.
#[derive(Debug)]
pub(crate) enum Order {
    /// Subscribe to the live subject and write interest; tell `listening`.
    Follow { t: u32, node: NodeName, topic: plexus_bus::Topic },
    /// Ask the owner to join; tell `joined`.
    Join { t: u32, node: NodeName, topic: plexus_bus::Topic },
    /// Read the ends of the log; tell `facts`.
    Facts { t: u32, node: NodeName, topic: plexus_bus::Topic },
    /// Read the log for everybody; tell `found`.
    Read { t: u32, node: NodeName, topic: plexus_bus::Topic, ask: Ask },
    /// Read the log for one reader; tell `found_for`.
    ReadFor { id: u64, slot: usize, node: NodeName, topic: plexus_bus::Topic, place: Place, limit: usize },
    /// Stop listening and withdraw interest; tell `left`.
    Leave { t: u32, node: NodeName, topic: plexus_bus::Topic },
}

pub(super) enum Cursor {
    Starting { after: After, reread: bool },
    Resuming(Box<Resuming>),
    Attached,
    Ended,
}

/// Who waits for a stream to begin, and the stream.
pub(super) type Waits = (oneshot::Sender<Result<Queue, Failure>>, Queue);

pub(super) struct Reading {
    pub(super) feed: Feed,
    pub(super) view: View,
    pub(super) filter: Arc<Filter>,
    pub(super) strict: bool,
    pub(super) patient: bool,
    /// By slot: the topic's number and where the reader is.
    pub(super) cursors: Vec<(u32, Cursor)>,
    /// Until every topic has begun: who waits, and what they get.
    pub(super) answer: Option<Box<Waits>>,
}

/// All readers and the topics they follow.
pub(crate) struct Subscriptions {
    pub(super) topics: HashMap<u32, Topic>,
    pub(super) names: HashMap<(NodeName, plexus_bus::Topic), u32>,
    pub(super) nodes: HashMap<NodeName, HashSet<u32>>,
    pub(super) readers: HashMap<u64, Reading>,
    /// Readers that wait for time to pass: id and slot.
    pub(super) timed: HashSet<(u64, usize)>,
    /// Topics whose reader waits for time to pass.
    pub(super) restless: HashSet<u32>,
    /// Reads that wait their turn, and how many are under way.
    pub(super) queued: VecDeque<(u64, usize)>,
    pub(super) reads: usize,
    pub(super) beats: Beats,
    pub(super) last_t: u32,
    pub(super) last_id: u64,
    pub(super) config: config::Router,
    pub(super) notes: Notes,
    pub(super) metrics: Arc<Metrics>,
    pub(super) orders: Vec<Order>,
    pub(super) draining: bool,
}

impl Subscriptions {
    pub(crate) fn new(config: config::Router, notes: Notes, metrics: Arc<Metrics>) -> Self {
        Self {
            topics: HashMap::new(),
            names: HashMap::new(),
            nodes: HashMap::new(),
            readers: HashMap::new(),
            timed: HashSet::new(),
            restless: HashSet::new(),
            queued: VecDeque::new(),
            reads: 0,
            beats: Beats::new(Instant::now()),
            last_t: 0,
            last_id: 0,
            config,
            notes,
            metrics,
            orders: Vec::new(),
            draining: false,
        }
    }

    /// How many readers there are, and topics.
    pub(crate) fn len(&self) -> (usize, usize) {
        (self.readers.len(), self.topics.len())
    }

    /// What is to be done, in order.
    pub(crate) fn take(&mut self) -> Vec<Order> {
        std::mem::take(&mut self.orders)
    }

    /// Takes a reader in; it hears once all its topics have begun.
    pub(crate) fn subscribe(
        &mut self,
        wish: Wish,
        answer: oneshot::Sender<Result<Queue, Failure>>,
        now: Instant,
    ) {
        if let Err(failure) = self.admit(&wish) {
            let _ = answer.send(Err(failure));
            return;
        }
        self.last_id += 1;
        let id = self.last_id;
        let mut topics = Vec::new();
        for (slot, (topic, _)) in wish.topics.iter().enumerate() {
            let t = self.follow(&wish.node, topic, now);
            self.topics.get_mut(&t).expect("it was just followed").coming.push((id, slot));
            topics.push((t, topic.clone()));
        }
        let start = |((t, _), (_, after)): (&(u32, _), &(_, After))| {
            (*t, Cursor::Starting { after: *after, reread: false })
        };
        let cursors: Vec<_> = topics.iter().zip(&wish.topics).map(start).collect();
        let terms = (wish.terms, wish.pen);
        let (feed, queue) = queue::queue(id, terms, topics, self.notes.clone(), self.metrics.clone());
        let reading = Reading {
            feed,
            view: wish.view,
            filter: wish.filter.shared(),
            strict: wish.require_recovery,
            patient: wish.terms.policy == queue::Policy::Disconnect,
            cursors,
            answer: Some(Box::new((answer, queue))),
        };
        let ts: Vec<u32> = reading.cursors.iter().map(|(t, _)| *t).collect();
        self.readers.insert(id, reading);
        self.beats.plan(id, now + wish.terms.heartbeat);
        for (slot, t) in ts.into_iter().enumerate() {
            self.rejoin(t);
            self.ask(t, now);
            self.advance(id, slot, now);
        }
    }

    fn admit(&self, wish: &Wish) -> Result<(), Failure> {
        let full = |bound, what: &str, most: usize| {
            self.metrics.refuse(bound);
            Box::new(v1::Error::new(Reason::Overloaded, format!("this gateway has {most} {what} already")))
        };
        if self.draining {
            return Err(draining());
        }
        if self.readers.len() >= self.config.readers_max {
            return Err(full("readers_max", "readers", self.config.readers_max));
        }
        if self.topics.len() + wish.topics.len() > self.config.topics_max {
            let known = |(topic, _): &&(plexus_bus::Topic, After)| {
                self.names.contains_key(&(wish.node.clone(), topic.clone()))
            };
            let new = wish.topics.len() - wish.topics.iter().filter(known).count();
            if self.topics.len() + new > self.config.topics_max {
                return Err(full("topics_max", "topics", self.config.topics_max));
            }
        }
        Ok(())
    }

    /// Finds a topic, or begins to follow it.
    fn follow(&mut self, node: &NodeName, name: &plexus_bus::Topic, now: Instant) -> u32 {
        let key = (node.clone(), name.clone());
        if let Some(&t) = self.names.get(&key) {
            let topic = self.topics.get_mut(&t).expect("names and topics agree");
            topic.left = None;
            if topic.phase == (Phase::Leaving { again: false }) {
                topic.phase = Phase::Leaving { again: true };
            }
            return t;
        }
        self.last_t += 1;
        let t = self.last_t;
        self.topics.insert(t, Topic::new(t, node.clone(), name.clone(), self.config.patience, now));
        self.names.insert(key, t);
        self.nodes.entry(node.clone()).or_default().insert(t);
        self.orders.push(Order::Follow { t, node: node.clone(), topic: name.clone() });
        t
    }

    /// Asks the owner once more, where it could not be asked before.
    fn rejoin(&mut self, t: u32) {
        let Some(topic) = self.topics.get_mut(&t) else { return };
        if topic.phase == Phase::Listening && !topic.joined && !topic.joining {
            topic.joining = true;
            self.orders.push(Order::Join { t, node: topic.node.clone(), topic: topic.name.clone() });
        }
    }

    /// The live subject stands and interest is written, or not.
    pub(crate) fn listening(&mut self, t: u32, result: Result<(), Failure>, now: Instant) {
        let Some(topic) = self.topics.get_mut(&t) else { return };
        topic.phase = Phase::Listening;
        let unwanted = std::mem::take(&mut topic.unwanted) && topic.readers() == 0;
        match result {
            // Whoever asked for it was refused meanwhile.
            Ok(()) if unwanted => return self.leave(t),
            Ok(()) => self.rejoin(t),
            Err(failure) => self.fail_coming(t, &failure, now),
        }
        self.settle(t, now);
    }

    /// The owner answered, or nobody did.
    pub(crate) fn joined(&mut self, t: u32, result: Result<(), Failure>, now: Instant) {
        let Some(topic) = self.topics.get_mut(&t) else { return };
        if topic.phase != Phase::Listening {
            return; // asked before it was left
        }
        topic.joining = false;
        topic.joined = result.is_ok();
        if let Err(failure) = result
            && reason::by_name(&failure.reason).is_some_and(|row| row.again != Again::Retry)
        {
            self.fail_coming(t, &failure, now);
        }
        self.ask(t, now);
        self.poke(t, now);
    }

    /// The ends of a log were read; `None`: they could not be.
    pub(crate) fn facts(&mut self, t: u32, facts: Result<Facts, Failure>, now: Instant) {
        let Some(topic) = self.topics.get_mut(&t) else { return };
        topic.asking = false;
        match facts {
            Err(failure) => self.fail_coming(t, &failure, now),
            Ok(facts) => {
                topic.facts = Some((now, facts));
                if !topic.reader.began() {
                    let place = Place { at: facts.top.unwrap_or_default(), nonce: facts.nonce };
                    let told = topic.reader.begin(place, now);
                    self.tell(t, told, true, now);
                }
                self.poke(t, now);
            }
        }
    }

    /// A live entry came.
    pub(crate) fn live(&mut self, t: u32, entry: Arc<LogEntry>, now: Instant) {
        let Some(topic) = self.topics.get_mut(&t) else { return };
        match topic.reader.live(entry, now) {
            Some(told) => {
                let aside = topic.deliver(&told, false);
                debug_assert!(aside.is_empty(), "only a repair sets readers aside");
            }
            None => self.pull(t, now),
        }
    }

    /// Live entries may have been missed.
    pub(crate) fn doubt(&mut self, t: u32) {
        if let Some(topic) = self.topics.get_mut(&t) {
            topic.reader.doubt();
        }
    }

    /// A read for everybody is done; `None`: it failed.
    pub(crate) fn found(&mut self, t: u32, ticket: u64, found: Option<Found>, now: Instant) {
        let Some(topic) = self.topics.get_mut(&t) else { return };
        let told = topic.reader.found(ticket, found, now);
        self.tell(t, told, true, now);
        if self.topics.get(&t).is_some_and(|topic| topic.reader.settled()) {
            self.poke(t, now);
        }
        self.pull(t, now);
    }

    /// A read for one reader is done; `None`: it failed.
    pub(crate) fn found_for(&mut self, id: u64, slot: usize, found: Option<Found>, now: Instant) {
        self.reads = self.reads.saturating_sub(1);
        self.next_read();
        let Some((t, Cursor::Resuming(resuming))) =
            self.readers.get_mut(&id).and_then(|r| r.cursors.get_mut(slot))
        else {
            return;
        };
        resuming.asking = false;
        let Some(topic) = self.topics.get(t) else { return };
        let Some(found) = found else {
            resuming.retry = Some(now + RETRY);
            return self.advance(id, slot, now);
        };
        let bytes = found.entries.iter().flat_map(|e| &e.messages).map(|m| m.data.len()).sum();
        resuming.adapt(bytes, self.config.page_entries);
        let patient = resuming.suspect.is_none_or(|since| now < since + self.config.patience);
        let stop = topic.reader.settled().then(|| topic.reader.place().at);
        let mut told = Vec::new();
        let walked = resuming.place.walk(found, patient, stop, &mut told);
        let still = told.is_empty();
        resuming.valid |= !still;
        resuming.told.extend(told);
        resuming.retry = (still && walked != Walked::Met).then_some(now + RETRY);
        resuming.at_tail = walked == Walked::Tail;
        match walked {
            Walked::Tail | Walked::Met | Walked::More => (resuming.valid, resuming.suspect) = (true, None),
            Walked::Wait => {
                resuming.suspect.get_or_insert(now);
            }
            Walked::Again => {}
        }
        self.advance(id, slot, now);
    }

    /// Tails were read: compares those whose ticket still stands.
    pub(crate) fn compare(&mut self, tops: Vec<(u32, u64, Option<Position>)>, now: Instant) {
        for (t, ticket, top) in tops {
            if let Some(topic) = self.topics.get_mut(&t) {
                topic.reader.compare(ticket, top);
                self.pull(t, now);
            }
        }
    }

    /// A reader has room again, or is gone.
    pub(crate) fn note(&mut self, note: Note, now: Instant) {
        match note {
            Note::Left(id) => self.remove(id, now),
            Note::CallGone(_) | Note::Took(..) => {}
            Note::Drained(id) => {
                let slots = self.readers.get(&id).map_or(0, |r| r.cursors.len());
                (0..slots).for_each(|slot| self.advance(id, slot, now));
            }
        }
    }

    /// The node is gone: its topics end.
    pub(crate) fn deleted(&mut self, node: &NodeName, now: Instant) {
        for t in self.nodes.get(node).cloned().unwrap_or_default() {
            let Some(topic) = self.topics.get_mut(&t) else { continue };
            let mut readers: Vec<_> = topic.attached.drain(..).map(|a| (a.id, a.slot)).collect();
            readers.append(&mut topic.coming);
            for (id, slot) in readers {
                let Some(reading) = self.readers.get_mut(&id) else { continue };
                reading.cursors[slot].1 = Cursor::Ended;
                if reading.answer.is_some() {
                    let failure =
                        v1::Error::new(Reason::NodeNotFound, format!("node {:?} was deleted", node.node()));
                    self.fail(id, Box::new(failure), now);
                } else {
                    reading.feed.end(slot, end::Reason::Deleted);
                }
            }
            self.leave(t);
        }
    }

    /// The node has no owner: whoever comes asks the next one to join.
    pub(crate) fn disowned(&mut self, node: &NodeName) {
        for t in self.nodes.get(node).into_iter().flatten() {
            if let Some(topic) = self.topics.get_mut(t) {
                topic.joined = false;
            }
        }
    }

    /// Tells whether topics of the node are followed.
    pub(crate) fn follows(&self, node: &NodeName) -> bool {
        self.nodes.contains_key(node)
    }

    pub(super) fn ask(&mut self, t: u32, now: Instant) {
        let Some(topic) = self.topics.get_mut(&t) else { return };
        if topic.ask_facts(now) {
            self.orders.push(Order::Facts { t, node: topic.node.clone(), topic: topic.name.clone() });
        }
    }

    pub(super) fn pull(&mut self, t: u32, now: Instant) {
        let Some(topic) = self.topics.get_mut(&t) else { return };
        if let Some(ask) = topic.reader.ask(now) {
            self.orders.push(Order::Read { t, node: topic.node.clone(), topic: topic.name.clone(), ask });
        }
        if topic.reader.began() && !topic.reader.calm() {
            self.restless.insert(t);
        }
    }

    fn settle(&mut self, t: u32, now: Instant) {
        self.ask(t, now);
        self.poke(t, now);
    }

    fn tell(&mut self, t: u32, told: Vec<Told>, repair: bool, now: Instant) {
        for told in told {
            let Some(topic) = self.topics.get_mut(&t) else { return };
            for (id, slot, place) in topic.deliver(&told, repair) {
                let Some(reading) = self.readers.get_mut(&id) else { continue };
                let resuming = Resuming { said: true, valid: true, ..Resuming::new(place) };
                reading.cursors[slot].1 = Cursor::Resuming(Box::new(resuming));
                self.advance(id, slot, now);
            }
        }
    }

    /// Lets every reader on its way try to go on.
    fn poke(&mut self, t: u32, now: Instant) {
        for (id, slot) in self.topics.get(&t).map(|topic| topic.coming.clone()).unwrap_or_default() {
            self.advance(id, slot, now);
        }
    }

    fn fail_coming(&mut self, t: u32, failure: &Failure, now: Instant) {
        let coming = self.topics.get(&t).map(|topic| topic.coming.clone()).unwrap_or_default();
        for (id, slot) in coming {
            let starting = |r: &Reading| matches!(r.cursors[slot].1, Cursor::Starting { .. });
            if self.readers.get(&id).is_some_and(starting) {
                self.fail(id, failure.clone(), now);
            }
        }
        if self.topics.get(&t).is_some_and(|topic| topic.readers() == 0) {
            self.leave(t);
        }
    }

    pub(super) fn fail(&mut self, id: u64, failure: Failure, now: Instant) {
        let Some(reading) = self.readers.get_mut(&id) else { return };
        match reading.answer.take() {
            Some(waits) => {
                let _ = waits.0.send(Err(failure));
            }
            None => reading.feed.fail(failure),
        }
        self.remove(id, now);
    }

    pub(super) fn remove(&mut self, id: u64, now: Instant) {
        let Some(reading) = self.readers.remove(&id) else { return };
        for (t, _) in &reading.cursors {
            let Some(topic) = self.topics.get_mut(t) else { continue };
            topic.attached.retain(|a| a.id != id);
            topic.coming.retain(|(other, _)| *other != id);
            if topic.readers() == 0 {
                topic.left.get_or_insert(now);
            }
        }
    }
}

/// This gateway is going away; whoever comes back waits a moment of its own.
pub(crate) fn draining() -> Failure {
    let wait = Duration::from_millis(rand::random_range(100..5_000));
    Box::new(
        v1::Error::new(Reason::Draining, "this gateway is going away; another one is there")
            .retry_after(wait),
    )
}

#[cfg(test)]
mod tests;
