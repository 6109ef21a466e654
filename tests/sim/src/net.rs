//! The world between processes: time, what is under way, and what may go wrong on the way. It knows no
//! rule of the protocol.

use crate::{chance::Dice, check::Check, plan::Doom};
use plexus_bus::{
    Append, Appended, Claim, Entry, Envelope, Era, Error, Extent, GatewayId, Grant, Incarnation, Look,
    NodeName, Opened, Owned, Owner, Payload, Position, Range, Renewed, Stage, Subject, Taken, Topic,
};
use std::{cmp::Reverse, collections::BinaryHeap};

/// Microseconds since the walk began.
pub(crate) type Us = u64;
pub(crate) const MS: Us = 1_000;
pub(crate) const SEC: Us = 1_000_000;

/// Deadline of a call to the store.
pub(crate) const TIMEOUT: Us = 1_500 * MS;

/// What is asked of the store.
#[derive(Debug)]
pub(crate) enum Ask {
    Renew(Incarnation, bool),
    Take(Incarnation, u64, Vec<Claim>),
    Release(Incarnation, Vec<(NodeName, u64)>),
    Retire(Incarnation),
    Owned(Incarnation),
    Owners,
    Workers,
    Open {
        node: NodeName,
        grant: Grant,
        topics: Vec<Topic>,
        stage: Stage,
        known: Vec<(Topic, Position)>,
    },
    Append(NodeName, Grant, Vec<Append>),
    Look(NodeName),
    Stamp(NodeName, Grant, Era),
    Trim(NodeName, Grant, Topic, u64),
    Read(NodeName, Topic, Range),
    Extent(NodeName, Topic),
    Tops(Vec<(NodeName, Topic)>),
    Want(NodeName, GatewayId, Vec<(Topic, Option<u32>)>),
    Publish(Subject, Payload),
    Subscribe(Subject),
    Unsubscribe(Subject),
    /// A read of a record, which says nothing new.
    Record,
}

/// What the store answers.
#[derive(Debug)]
pub(crate) enum Said {
    Renewed(Renewed),
    Taken(Taken),
    Count(usize),
    Owned(Owned),
    Owners(Vec<(NodeName, Owner)>),
    Workers(Vec<Incarnation>),
    Opened(Opened),
    Appended(Appended),
    Look(Look),
    Flag(bool),
    Entries(Vec<Entry>),
    Extent(Option<Extent>),
    Tops(Vec<Option<Position>>),
    Done,
}

pub(crate) type Answer = Result<Said, Error>;

/// A call on its way to a shard of the store.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) from: usize,
    pub(crate) life: u32,
    pub(crate) op: u64,
    pub(crate) shard: usize,
    pub(crate) ask: Ask,
}

/// What a subscriber hears.
#[derive(Clone, Debug)]
pub(crate) enum Heard {
    Frame(Payload),
    /// So many were dropped.
    Lagged,
    /// The connection to this shard was made anew.
    Restored,
}

/// What happens at a moment.
#[derive(Debug)]
pub(crate) enum Event {
    /// Time passes for a process.
    Tick(usize, u32),
    /// A call reaches the store.
    Request(Box<Request>),
    /// An answer reaches a process.
    Answer(usize, u32, u64, Box<Answer>),
    /// A frame reaches a process.
    Heard(usize, u32, Box<(Subject, Heard)>),
    /// A peer sends a node of this worker a message.
    Peer(usize, u32),
    /// A client publishes.
    Client(usize),
    /// A reader connects, or tries again.
    Reader(usize),
    /// A fault begins or ends.
    Fault(usize, bool),
    /// What a replica will have when it is promoted.
    Snapshot(usize),
    Promote(usize, i64),
    /// Everything dies.
    Doom(Doom),
    /// A process makes its connection to a shard anew.
    Reconnect(usize, u32, usize),
    /// A process starts again.
    Start(usize, u32),
    /// All faults end.
    Calm,
}

struct Item(Us, u64, Event);

impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}

impl Eq for Item {}

impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Item {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// The way between a process and a shard.
#[derive(Clone, Debug, Default)]
pub(crate) struct Link {
    /// Nothing passes before.
    pub(crate) cut_until: Us,
    /// Everything takes so much longer.
    pub(crate) slow: Us,
    /// So many of a thousand calls, answers and frames are lost.
    pub(crate) lossy: u64,
    /// So many of a thousand frames come twice, calls aside.
    pub(crate) twice: u64,
    /// Live entries are lost, and nobody is told, before this.
    pub(crate) deaf_until: Us,
    /// Live entries come so much later.
    pub(crate) lag: Us,
    /// The present connection of its subscriptions.
    pub(crate) connection: u32,
    /// When its last frame arrives: frames of one connection keep their order.
    last_frame: Us,
}

/// The network, the clock and the agenda.
pub(crate) struct Net {
    pub(crate) now: Us,
    agenda: BinaryHeap<Reverse<Item>>,
    count: u64,
    pub(crate) dice: Dice,
    /// By process and shard.
    pub(crate) links: Vec<[Link; 2]>,
    /// What each process listens to, made anew after a reconnect.
    pub(crate) listens: Vec<Vec<Subject>>,
    /// Nodes have a primary of their own.
    pub(crate) cluster: bool,
    pub(crate) check: Check,
    pub(crate) steps: u64,
    /// The next answer is lost.
    pub(crate) mute: bool,
    /// What the next call publishes is lost.
    pub(crate) hush: bool,
    /// The next answer takes so much longer.
    pub(crate) hold: Us,
    /// What happened, where somebody wants to know.
    pub(crate) trace: Option<Vec<(Us, String)>>,
}

impl Net {
    pub(crate) fn new(seed: u64, processes: usize, cluster: bool, traced: bool) -> Self {
        Self {
            now: 0,
            agenda: BinaryHeap::new(),
            count: 0,
            dice: Dice::new(seed),
            links: vec![Default::default(); processes],
            listens: vec![Vec::new(); processes],
            cluster,
            check: Check::default(),
            steps: 0,
            mute: false,
            hush: false,
            hold: 0,
            trace: traced.then(Vec::new),
        }
    }

    /// A number that was never given before.
    pub(crate) fn fresh(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    pub(crate) fn at(&mut self, at: Us, event: Event) {
        self.count += 1;
        self.agenda.push(Reverse(Item(at, self.count, event)));
    }

    pub(crate) fn after(&mut self, wait: Us, event: Event) {
        self.at(self.now + wait, event);
    }

    /// The next event; puts it off where the process it is for stands still.
    pub(crate) fn next(&mut self, until: Us, stands: impl Fn(usize) -> Us) -> Option<Event> {
        loop {
            let Reverse(Item(at, ..)) = self.agenda.peek()?;
            if *at > until {
                return None;
            }
            let Reverse(Item(at, number, event)) = self.agenda.pop()?;
            let resumes = match &event {
                Event::Tick(p, _) | Event::Answer(p, ..) | Event::Heard(p, ..) | Event::Peer(p, _) => {
                    stands(*p)
                }
                _ => 0,
            };
            if resumes > at {
                self.agenda.push(Reverse(Item(resumes, number, event)));
                continue;
            }
            self.now = at;
            self.steps += 1;
            return Some(event);
        }
    }

    pub(crate) fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push((self.now, text()));
        }
    }

    /// Where a thing is kept: the control slot, or the nodes' slots.
    fn shard(&self, ask: &Ask) -> usize {
        let control = match ask {
            Ask::Renew(..) | Ask::Take(..) | Ask::Release(..) | Ask::Retire(_) | Ask::Owned(_) => true,
            Ask::Owners | Ask::Workers => true,
            Ask::Publish(subject, _) | Ask::Subscribe(subject) | Ask::Unsubscribe(subject) => {
                return self.home(subject);
            }
            _ => false,
        };
        usize::from(self.cluster && !control)
    }

    pub(crate) fn home(&self, subject: &Subject) -> usize {
        usize::from(self.cluster && matches!(subject, Subject::Calls(_) | Subject::Topic(..)))
    }

    /// Sends a call to the store; the answer comes under the number, or never.
    pub(crate) fn ask(&mut self, from: usize, life: u32, ask: Ask) -> u64 {
        let op = self.fresh();
        let shard = self.shard(&ask);
        match &ask {
            Ask::Subscribe(subject) if !self.listens[from].contains(subject) => {
                self.listens[from].push(subject.clone());
            }
            Ask::Unsubscribe(subject) => self.listens[from].retain(|other| other != subject),
            _ => {}
        }
        let link = &self.links[from][shard];
        let (cut, lossy) = (link.cut_until > self.now, link.lossy);
        let late = self.latency(from, shard);
        let lost = cut || self.dice.once_in(lossy);
        if cut && self.dice.once_in(500) {
            let unsent = Err(Error::Unreachable { sent: false });
            self.after(MS, Event::Answer(from, life, op, Box::new(unsent)));
        } else if !lost || self.dice.once_in(300) {
            // What was sent as the way broke may still come, and late.
            let late = if lost { self.dice.spread(100 * MS, 12 * SEC) } else { late };
            self.after(late, Event::Request(Box::new(Request { from, life, op, shard, ask })));
        }
        op
    }

    fn latency(&mut self, process: usize, shard: usize) -> Us {
        let slow = self.links[process][shard].slow;
        let usual = self.dice.within(150..900);
        // A few take long: longer than the deadline of the call, once in a while.
        let odd = if self.dice.once_in(1) { self.dice.spread(5 * MS, 3 * SEC) } else { 0 };
        let slow = if slow > 0 { self.dice.below(slow) } else { 0 };
        usual + odd + slow
    }

    /// Sends an answer back.
    pub(crate) fn answer(&mut self, request: &Request, answer: Answer) {
        let link = &self.links[request.from][request.shard];
        let (cut, lossy) = (link.cut_until > self.now, link.lossy);
        if std::mem::take(&mut self.mute) || cut || self.dice.once_in(lossy) {
            return;
        }
        let late = self.latency(request.from, request.shard) + std::mem::take(&mut self.hold);
        self.after(late, Event::Answer(request.from, request.life, request.op, Box::new(answer)));
    }

    /// Sends a frame to a subscriber, in the order of its connection.
    pub(crate) fn frame(&mut self, shard: usize, to: (usize, u32, u32), subject: Subject, heard: Heard) {
        let (process, life, connection) = to;
        let mut late = self.latency(process, shard);
        let link = &self.links[process][shard];
        let (lossy, twice, cut) = (link.lossy, link.twice, link.cut_until > self.now);
        if cut || self.dice.once_in(lossy) {
            return;
        }
        if matches!(subject, Subject::Topic(..)) {
            if link.deaf_until > self.now {
                return;
            }
            late += link.lag;
        }
        let at = (self.now + late).max(self.links[process][shard].last_frame + 1);
        // What an old connection still carries may come after what the new one brings.
        if connection == self.links[process][shard].connection {
            self.links[process][shard].last_frame = at;
        }
        // Calls come at most once, as the bus promises; who may send one again does so with its id.
        if !matches!(subject, Subject::Calls(_)) && self.dice.once_in(twice) {
            let again = at + self.dice.within(1..200 * MS);
            self.at(again, Event::Heard(process, life, Box::new((subject.clone(), heard.clone()))));
        }
        self.at(at, Event::Heard(process, life, Box::new((subject, heard))));
    }
}

/// An envelope, if that is what the frame holds.
pub(crate) fn envelope(frame: Payload) -> Option<Envelope> {
    frame.take::<Envelope>().ok()
}
