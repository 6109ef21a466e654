//! A walk: processes, store, clients and readers under the faults of a plan, and the verdict.

mod clients;
mod faults;

use crate::{
    bus::embedded::store::Shard,
    chance,
    check::{End, clock},
    gateway::router::actor::Gateway,
    net::{Answer, Ask, Event, Heard, MS, Net, Request, SEC, Us},
    plan::{CHAOS, Doom, END, How, Kind, LAG_MAX, On, Plan},
    worker::host::event_loop::actor::Worker,
};
use plexus_bus::{NodeName, Position, Range, Subject, Topic};
use plexus_proto::{bus::LogEntry, text::After, v1};
use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

/// Wait before a client that finds no gateway tries again.
const AGAIN: Us = 200 * MS;

/// Calls at the end of a trace that are told in any case.
const LAST: usize = 60;

/// A publish under way, or to be tried again.
#[derive(Clone)]
struct Publish {
    number: u64,
    key: String,
    place: usize,
    tries: u32,
    gateway: usize,
    deadline: Us,
}

/// What became of a walk.
pub(crate) struct Verdict {
    pub(crate) wrong: Option<(Us, String)>,
    pub(crate) steps: u64,
    pub(crate) acked: u64,
    pub(crate) delivered: u64,
    pub(crate) gaps: u64,
    pub(crate) refused: u64,
    pub(crate) trace: Vec<(Us, String)>,
}

struct World {
    plan: Plan,
    net: Net,
    start: Instant,
    shards: Vec<Shard>,
    workers: Vec<Option<Worker>>,
    gateways: Vec<Option<Gateway>>,
    lives: Vec<u32>,
    /// Each stands still until then, and when that was last.
    stands: Vec<Us>,
    stood: Vec<Us>,
    /// When a process that left comes back.
    back: Vec<Us>,
    /// Every topic of every node.
    places: Vec<(NodeName, Topic)>,
    calls: BTreeMap<u64, Publish>,
    retries: VecDeque<(Us, Publish)>,
    numbers: u64,
    /// Where each reader is.
    readers: Vec<Option<usize>>,
    /// The last messages of peers.
    said: Vec<(u64, usize)>,
    /// Faults that wait for a call.
    armed: Vec<(On, How, Us)>,
}

/// Tells whether a call is of a kind.
fn is(ask: &Ask, on: On) -> bool {
    match (on, ask) {
        (On::Take, Ask::Take(_, _, claims)) => claims.iter().any(|claim| claim.from.is_none()),
        (On::Raise, Ask::Take(_, _, claims)) => claims.iter().any(|claim| claim.from.is_some()),
        (On::Release, Ask::Release(..)) | (On::Open, Ask::Open { .. }) => true,
        (On::Append, Ask::Append(..)) | (On::Stamp, Ask::Stamp(..)) | (On::Extent, Ask::Extent(..)) => true,
        _ => false,
    }
}

/// Walks.
pub(crate) fn walk(plan: &Plan, traced: bool) -> Verdict {
    chance::seed(plan.seed ^ 0x5eed);
    let mut world = World::new(plan.clone(), traced);
    world.run();
    let World { net, .. } = world;
    Verdict {
        wrong: net.check.wrong.clone().map(|what| (net.now, what)),
        steps: net.steps,
        acked: net.check.count() as u64,
        delivered: net.check.delivered,
        gaps: net.check.gaps,
        refused: net.check.refused,
        trace: net.trace.unwrap_or_default(),
    }
}

impl World {
    fn new(plan: Plan, traced: bool) -> Self {
        let processes = plan.workers + plan.gateways;
        let start = Instant::now();
        let mut shards: Vec<Shard> = (0..=usize::from(plan.cluster)).map(|_| Shard::new(start)).collect();
        let mut places = Vec::new();
        for node in 0..plan.nodes {
            let node = NodeName::new("sim", &format!("n{node}")).expect("it is a good name");
            shards.iter_mut().for_each(|shard| shard.found(&node));
            for topic in 0..plan.topics {
                places.push((node.clone(), Topic::from(format!("t{topic}"))));
            }
        }
        let mut net = Net::new(plan.seed, processes, plan.cluster, traced);
        net.check.whole = plan.keeps();
        let mut world = Self {
            net,
            start,
            shards,
            workers: (0..plan.workers).map(|_| None).collect(),
            gateways: (0..plan.gateways).map(|_| None).collect(),
            lives: vec![0; processes],
            stands: vec![0; processes],
            stood: vec![0; processes],
            back: vec![0; processes],
            places,
            calls: BTreeMap::new(),
            retries: VecDeque::new(),
            numbers: 0,
            readers: vec![None; plan.readers],
            said: Vec::new(),
            armed: Vec::new(),
            plan,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for process in 0..self.lives.len() {
            self.start(process);
        }
        for client in 0..self.plan.clients {
            self.net.at(500 * MS, Event::Client(client));
        }
        for reader in 0..self.plan.readers {
            let (node, topics) = self.interest(reader);
            let number = self.net.check.reader(&node, &topics);
            debug_assert_eq!(number, reader);
            let at = self.net.dice.within(200 * MS..2 * SEC);
            let late = self.plan.late.filter(|_| reader > 0).unwrap_or_default();
            self.net.at(at.max(late), Event::Reader(reader));
        }
        for (number, fault) in self.plan.faults.clone().into_iter().enumerate() {
            self.net.at(fault.at, Event::Fault(number, true));
            if let Kind::Failover { shard, lag, .. } = fault.kind {
                self.net.at(fault.at.saturating_sub(lag), Event::Snapshot(shard));
            }
        }
        self.net.at(CHAOS, Event::Calm);
    }

    /// Which topics a reader follows.
    fn interest(&self, reader: usize) -> (NodeName, Vec<Topic>) {
        if self.plan.late.is_some() {
            let (node, topic) = self.places[reader.min(self.places.len() - 1)].clone();
            return (node, vec![topic]);
        }
        let node = &self.places[reader * self.plan.topics % self.places.len()].0;
        let topics = self.places.iter().filter(|(other, _)| other == node).map(|(_, topic)| topic.clone());
        (node.clone(), topics.collect())
    }

    fn run(&mut self) {
        loop {
            let stands = &self.stands;
            let Some(event) = self.net.next(END, |process| stands[process]) else { break };
            self.apply(event);
            if self.net.check.wrong.is_some() {
                return;
            }
        }
        self.judge();
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Tick(process, life) => self.tick(process, life),
            Event::Request(request) => {
                let shard = &mut self.shards[request.shard];
                if shard.stands_until > self.net.now {
                    let until = shard.stands_until;
                    return self.net.at(until, Event::Request(request));
                }
                match self.armed.iter().position(|(on, ..)| is(&request.ask, *on)) {
                    Some(armed) if !shard.down => {
                        let (_, how, since) = self.armed.remove(armed);
                        self.strike(*request, how, since);
                    }
                    _ => shard.serve(*request, &mut self.net),
                }
            }
            Event::Answer(process, life, op, answer) => {
                if self.lives[process] == life {
                    self.answered(process, op, *answer);
                }
            }
            Event::Heard(process, life, heard) if self.lives[process] == life => {
                let (subject, heard) = *heard;
                self.hear(process, &subject, heard);
            }
            Event::Heard(..) => {}
            Event::Peer(process, life) => self.peer(process, life),
            Event::Client(client) => self.client(client),
            Event::Reader(reader) => self.reader(reader),
            Event::Fault(number, begins) => self.fault(number, begins),
            Event::Snapshot(shard) => {
                if !self.shards[shard].down {
                    self.shards[shard].snapshot();
                }
            }
            Event::Promote(shard, skew) => self.promote(shard, skew),
            Event::Doom(doom) => self.doom(doom),
            Event::Reconnect(process, life, shard) => self.reconnect(process, life, shard),
            Event::Start(process, life) => {
                if self.lives[process] == life {
                    self.start(process);
                }
            }
            Event::Calm => self.calm(),
        }
    }
}

/// Processes.
impl World {
    fn start(&mut self, process: usize) {
        let old = self.lives[process];
        self.lives[process] += 1;
        let life = self.lives[process];
        self.shards.iter_mut().for_each(|shard| shard.live().forget(process, old));
        self.net.listens[process].clear();
        let now = self.net.now;
        self.net.note(|| format!("process {process} starts"));
        if process < self.plan.workers {
            let worker = Worker::new(process, life, now, self.plan.retention, &mut self.net);
            self.workers[process] = Some(worker);
            self.net.after(SEC, Event::Peer(process, life));
        } else {
            let gateway = Gateway::new(process, life, self.start, self.plan.page, &mut self.net);
            self.gateways[process - self.plan.workers] = Some(gateway);
        }
        self.net.after(MS, Event::Tick(process, life));
    }

    /// Ends a process; its connections may take until it comes back to break.
    fn end(&mut self, process: usize, back: Us) {
        let life = self.lives[process];
        if self.net.dice.once_in(500) {
            self.shards.iter_mut().for_each(|shard| shard.live().forget(process, life));
        }
        self.lives[process] += 1;
        self.stands[process] = 0;
        if process < self.plan.workers {
            self.workers[process] = None;
        } else if let Some(gateway) = self.gateways[process - self.plan.workers].take() {
            for reader in gateway.readers() {
                self.parted(reader);
            }
            let index = process - self.plan.workers;
            let gone: Vec<u64> =
                self.calls.iter().filter(|(_, c)| c.gateway == index).map(|(id, _)| *id).collect();
            for call in gone {
                self.failed(call);
            }
        }
        self.net.after(back, Event::Start(process, life + 1));
    }

    fn tick(&mut self, process: usize, life: u32) {
        if self.lives[process] != life {
            return;
        }
        let next = if process < self.plan.workers {
            let Some(worker) = &mut self.workers[process] else { return };
            let next = worker.tick(&mut self.net);
            if worker.gone {
                self.net.note(|| format!("w{process} has left"));
                let back = self.back[process];
                return self.end(process, back);
            }
            next
        } else {
            let index = process - self.plan.workers;
            let Some(gateway) = &mut self.gateways[index] else { return };
            let next = gateway.tick(&mut self.net);
            self.follow_up(index);
            next
        };
        self.net.after(next, Event::Tick(process, life));
    }

    fn answered(&mut self, process: usize, op: u64, answer: Answer) {
        if process < self.plan.workers {
            if let Some(worker) = &mut self.workers[process] {
                worker.answered(op, answer, &mut self.net);
            }
        } else {
            let index = process - self.plan.workers;
            if let Some(gateway) = &mut self.gateways[index] {
                gateway.answered(op, answer, &mut self.net);
            }
            self.follow_up(index);
        }
    }

    fn hear(&mut self, process: usize, subject: &Subject, heard: Heard) {
        if process < self.plan.workers {
            if let Some(worker) = &mut self.workers[process] {
                worker.heard(subject, heard, &mut self.net);
            }
        } else {
            let index = process - self.plan.workers;
            if let Some(gateway) = &mut self.gateways[index] {
                gateway.heard(subject, heard, &mut self.net);
            }
            self.follow_up(index);
        }
    }

    fn reconnect(&mut self, process: usize, life: u32, shard: usize) {
        if self.lives[process] != life {
            return;
        }
        let cut = self.net.links[process][shard].cut_until;
        if self.shards[shard].down || cut > self.net.now || self.shards[shard].stands_until > self.net.now {
            let wait = self.net.dice.within(20 * MS..300 * MS);
            return self.net.after(wait, Event::Reconnect(process, life, shard));
        }
        self.net.links[process][shard].connection += 1;
        let connection = self.net.links[process][shard].connection;
        self.shards[shard].live().broken(process);
        for subject in self.net.listens[process].clone() {
            if self.net.home(&subject) == shard {
                self.shards[shard].live().subscribe(&subject, (process, life, connection));
                self.net.frame(shard, (process, life, connection), subject, Heard::Restored);
            }
        }
    }
}

/// The end.
impl World {
    /// The end: one owner, nothing waits, every reader has the log.
    fn judge(&mut self) {
        for node in
            self.places.iter().map(|(node, _)| node.clone()).collect::<std::collections::BTreeSet<_>>()
        {
            let workers = self.workers.iter().flatten().filter(|worker| worker.holds());
            let owners: Vec<_> = workers
                .filter_map(|worker| Some((worker.incarnation().clone(), worker.nodes.get(&node)?)))
                .filter(|(_, node)| node.running)
                .map(|(worker, node)| (worker, node.log.grant()))
                .collect();
            let record = self.shards[0].owner(&node).map(|owner| (owner.worker, owner.grant));
            // A raise that was lost leaves an earlier grant of the same owner in the record.
            let agree = owners.len() == 1
                && record.as_ref().is_some_and(|(worker, grant)| {
                    worker.as_ref() == Some(&owners[0].0) && grant.epoch <= owners[0].1.epoch
                });
            if !agree {
                self.net
                    .check
                    .fail(|| format!("I6: {node} is owned by {owners:?}, the record says {record:?}"));
            }
        }
        let waiting: usize = self.gateways.iter().flatten().map(Gateway::waiting).sum();
        if waiting > 0 || !self.calls.is_empty() {
            let calls: Vec<_> = self.calls.values().map(|call| call.number).collect();
            let waits: Vec<_> = self.gateways.iter().flatten().map(Gateway::waits).collect();
            self.net.check.fail(|| format!("I6: messages {calls:?} were never answered: {waits:?}"));
        }
        let end = End {
            runs: self.workers.iter().flatten().flat_map(|w| w.nodes.values().map(|node| node.run)).collect(),
            logs: self.places.iter().map(|place| (place.clone(), self.log(place))).collect(),
        };
        self.net.check.end(&end);
    }

    fn log(&self, (node, topic): &(NodeName, Topic)) -> Vec<(Position, u64)> {
        let all = Range { from: Position::ZERO, until: None, limit: usize::MAX, newest_first: false };
        let entries = self.shards[usize::from(self.plan.cluster)].read(node, topic, all);
        let mut log = Vec::new();
        for entry in entries {
            let messages = entry.entry.open::<LogEntry>().expect("the log holds entries");
            let first = entry.id.seq + 1 - messages.messages.len() as u64;
            for (seq, message) in (first..).zip(&messages.messages) {
                let number: [u8; 8] = message.data[..].try_into().unwrap_or_default();
                log.push((Position::new(entry.id.epoch, seq), u64::from_be_bytes(number)));
            }
        }
        log
    }
}

/// A trace, one line each.
pub(crate) fn spell(trace: &[(Us, String)]) -> String {
    trace.iter().map(|(at, what)| format!("{} {what}\n", clock(*at))).collect()
}

/// Leaves out calls of the store, but for the last.
pub(crate) fn shorten(trace: &mut Vec<(Us, String)>) {
    let last = trace.len().saturating_sub(LAST);
    let mut line = 0;
    trace.retain(|(_, what)| {
        line += 1;
        line > last || !what.starts_with("  ")
    });
}
