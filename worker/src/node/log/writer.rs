//! The writer: one errand under way, what waits, and the steps that `ask` (what next), `answer` (the
//! rows of P13) and `reading` share.

mod answer;
mod ask;
mod reading;

use super::{
    Do, Done, Kept, Known, Limits, Name, Order, Out, Refused, Retention,
    numbered::Confirmed,
    topic::{self, Reading, Source, Waiting},
    window::Seen,
};
use crate::clock::Moment;
use plexus_bus::{Era, Grant, Position, Topic};
use plexus_proto::bus::LogMessage;
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

/// Wait after the first failure in a row; doubles up to the longest.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The writer of a node's logs.
#[derive(Debug)]
pub(crate) struct Log {
    limits: Limits,
    grant: Grant,
    state: State,
    /// Drops dead logs with the first opening.
    sweep: bool,
    /// The one errand under way, besides reading.
    flight: Option<(u64, Flight)>,
    /// Something may have been lost while an opening was under way.
    suspect: bool,
    turn: u64,
    topics: BTreeMap<Topic, topic::Log>,
    /// Retention of topics that are not open yet.
    retentions: BTreeMap<Topic, Retention>,
    /// Topics to open under the present grant.
    to_open: Vec<Topic>,
    /// Topics with something to number, fairly in turn.
    ready: VecDeque<Topic>,
    /// Entries that may have to be appended again, oldest first, and their bytes.
    order: VecDeque<(Topic, Position, Moment)>,
    ring_bytes: usize,
    /// Topics whose window is not complete, and the read under way.
    unread: VecDeque<Topic>,
    read: Option<(u64, Topic)>,
    read_after: Moment,
    /// Topics at rest to be trimmed.
    trims: VecDeque<Topic>,
    trim_after: Moment,
    trimmed_last: bool,
    seen: Seen,
    load: Load,
    arrivals: u64,
    dropped: u64,
    failures: u32,
    /// No errand before this.
    after: Moment,
    ending: bool,
}

#[derive(Debug)]
enum State {
    /// Nothing is open under this grant.
    Fresh,
    /// Appends flow: `Open` and `Sent` of P13.
    Open,
    /// Only looking tells.
    Unsure,
    /// Appending what is past the tails, then stamping.
    Repair { era: Era, stamp: bool },
    /// The grant must be replaced.
    Raise { floor: u64, nonce: u64 },
    /// Another owner is there.
    Fenced,
}

#[derive(Debug)]
enum Flight {
    Open { first: bool, topics: Vec<Topic> },
    Append(Vec<(Topic, u64)>),
    Look,
    Stamp,
    Raise,
    Trim { topic: Topic, purge: bool },
}

/// What waits.
#[derive(Debug, Default)]
struct Load {
    own: usize,
    own_bytes: usize,
    network: usize,
    network_bytes: usize,
}

/// What the loop asks.
impl Log {
    /// Begins under a grant; nothing is open yet.
    pub(crate) fn new(grant: Grant, limits: Limits) -> Self {
        Self {
            limits,
            grant,
            state: State::Fresh,
            sweep: true,
            flight: None,
            suspect: false,
            turn: 0,
            topics: BTreeMap::new(),
            retentions: BTreeMap::new(),
            to_open: Vec::new(),
            ready: VecDeque::new(),
            order: VecDeque::new(),
            ring_bytes: 0,
            unread: VecDeque::new(),
            read: None,
            read_after: Moment::PAST,
            trims: VecDeque::new(),
            trim_after: Moment::PAST,
            trimmed_last: false,
            seen: Seen::default(),
            load: Load::default(),
            arrivals: 0,
            dropped: 0,
            failures: 0,
            after: Moment::PAST,
            ending: false,
        }
    }

    /// The present grant; a raise replaces it.
    pub(crate) fn grant(&self) -> Grant {
        self.grant
    }

    /// Opens further topics: pinned, or wanted by a first reader. Open ones are passed over.
    pub(crate) fn open(&mut self, topics: impl IntoIterator<Item = Topic>) -> Result<(), Refused> {
        for topic in topics {
            self.enter(&topic)?;
        }
        Ok(())
    }

    /// Sets how much of a topic is kept; of a topic that is not open yet as well.
    pub(crate) fn retain(&mut self, topic: &Topic, retention: Retention) {
        match self.topics.get_mut(topic) {
            Some(log) => log.set_retention(retention),
            None if self.retentions.len() < self.limits.logs_max => {
                self.retentions.insert(topic.clone(), retention);
            }
            None => {}
        }
    }

    /// Payload bytes kept to append again.
    pub(crate) fn ring_bytes(&self) -> usize {
        self.ring_bytes
    }

    /// Sets how much is kept to append again, beside what is not confirmed, and how long.
    pub(crate) fn remember(&mut self, bytes_max: usize, age_max: Duration) {
        (self.limits.ring_bytes_max, self.limits.ring_age_max) = (bytes_max, age_max);
    }

    /// Removes what is retained of a topic; answered by [`Out::Purged`]. False: there is no such log.
    pub(crate) fn purge(&mut self, topic: &Topic) -> bool {
        let Some(log) = self.topics.get_mut(topic) else { return false };
        log.purge = true;
        self.trims.push_front(topic.clone());
        true
    }

    /// The position of the last message that is certainly in the log; `None` before the topic is open.
    pub(crate) fn top(&self, topic: &Topic) -> Option<Position> {
        let log = self.topics.get(topic).filter(|log| log.open)?;
        Some(Position::new(self.grant.epoch, log.acked))
    }

    /// Tells how much of a topic is kept.
    pub(crate) fn kept(&self, topic: &Topic) -> Kept {
        self.topics.get(topic).map(topic::Log::kept).unwrap_or_default()
    }

    /// Tells what is known of a publish (P16, P17), and sees to it that the topic is opened. A publish
    /// without a name is always new.
    pub(crate) fn seek(&mut self, topic: &Topic, name: Name<'_>) -> Known {
        if name.is_empty() || self.enter(topic).is_err() {
            return Known::New;
        }
        match self.topics.get(topic) {
            Some(log) if log.reading == Reading::Done => log.window.seek(name),
            Some(log) => match log.window.seek(name) {
                Known::New | Known::Stale => Known::Wait,
                known => known,
            },
            None => Known::New,
        }
    }

    /// Takes a message. With a ticket it is a caller's and comes back by [`Out::Logged`]; without, it is
    /// of the network, dropped oldest first where too many wait. Opens the topic where it is not.
    pub(crate) fn push(
        &mut self,
        topic: &Topic,
        message: LogMessage,
        ticket: Option<u64>,
    ) -> Result<(), Refused> {
        let len = message.data.len();
        if self.ending || matches!(self.state, State::Fenced) {
            return Err(Refused::Ending);
        }
        let over = self.load.own >= self.limits.own_messages_max
            || self.load.own_bytes + len > self.limits.own_bytes_max;
        if ticket.is_some() && over {
            return Err(Refused::Full);
        }
        self.enter(topic)?;
        self.arrivals += 1;
        let arrival = self.arrivals;
        let Some(log) = self.topics.get_mut(topic) else { return Err(Refused::Logs) };
        if let Some(ticket) = ticket {
            log.window.begin(&message, ticket);
        }
        let source = ticket.map_or(Source::Network, Source::Own);
        log.waiting.push_back(Waiting { message, source, arrival });
        self.load.put(source, len);
        self.queue(topic);
        while self.load.network > self.limits.backlog_messages_max
            || self.load.network_bytes > self.limits.backlog_bytes_max
        {
            self.drop_oldest();
        }
        Ok(())
    }

    /// The next errand; `None`: nothing to do before an answer or [`Log::wake`].
    pub(crate) fn next(&mut self, now: Moment) -> Option<Order> {
        if let Some(order) = self.next_read(now) {
            return Some(order);
        }
        if self.flight.is_some() || now < self.after {
            return None;
        }
        let (task, flight) = match &self.state {
            State::Fenced => return None,
            State::Fresh => self.open_task(true),
            State::Raise { floor, nonce } => {
                (Do::Raise { from: self.grant.nonce, floor: *floor, nonce: *nonce }, Flight::Raise)
            }
            State::Unsure => (Do::Look, Flight::Look),
            State::Repair { .. } => self.repair_task(now)?,
            State::Open => self.open_state_task(now)?,
        };
        self.turn += 1;
        self.flight = Some((self.turn, flight));
        Some(Order { turn: self.turn, task })
    }

    /// When [`Log::next`] should be asked again without any other cause.
    pub(crate) fn wake(&self) -> Option<Moment> {
        let pause =
            (self.flight.is_none() && self.after > Moment::PAST && self.wants()).then_some(self.after);
        let read = (self.read.is_none() && !self.unread.is_empty()).then_some(self.read_after);
        let trim = matches!(self.state, State::Open).then_some(self.trim_after);
        [pause, read, trim].into_iter().flatten().min()
    }

    /// Takes the answer of an errand. One of an abandoned turn is ignored: only looking tells (P13).
    pub(crate) fn done(&mut self, turn: u64, done: Done, now: Moment) -> Vec<Out> {
        let mut outs = Vec::new();
        if let Done::Read(result, wall) = done {
            self.on_read(turn, result, wall, now, &mut outs);
        } else if let Some((_, flight)) = self.flight.take_if(|(t, _)| *t == turn) {
            match (flight, done) {
                (Flight::Open { first, topics }, Done::Opened(result)) => {
                    self.on_opened(first, topics, result, now, &mut outs)
                }
                (Flight::Append(sent), Done::Appended(result)) => {
                    self.on_appended(&sent, result, now, &mut outs)
                }
                (Flight::Look, Done::Looked(result)) => self.on_look(result, now, &mut outs),
                (Flight::Stamp, Done::Stamped(result)) => self.on_stamped(result, now),
                (Flight::Raise, Done::Raised(result)) => self.on_raised(result, now, &mut outs),
                (Flight::Trim { topic, purge }, Done::Trimmed(result)) => {
                    self.on_trimmed(topic, purge, result, now, &mut outs)
                }
                _ => self.doubt(),
            }
        }
        if self.dropped > 0 {
            outs.push(Out::Dropped(std::mem::take(&mut self.dropped)));
        }
        outs
    }

    /// Something may have been lost: a reconnect, a new era, a lag. No append and no receipt before a look.
    pub(crate) fn doubt(&mut self) {
        match (&self.state, &self.flight) {
            (_, Some((_, Flight::Open { .. }))) => self.suspect = true,
            (State::Open | State::Unsure | State::Repair { .. }, _) => {
                self.state = State::Unsure;
                self.flight = None;
            }
            (State::Fresh | State::Raise { .. } | State::Fenced, _) => {}
        }
    }

    /// Takes no more messages (P7).
    pub(crate) fn drain(&mut self) {
        self.ending = true;
    }

    /// Tells whether nothing waits and nothing is under way.
    pub(crate) fn drained(&self) -> bool {
        let at_rest = self.flight.is_none() && self.topics.values().all(topic::Log::rests);
        at_rest || matches!(self.state, State::Fenced)
    }
}

/// Steps that several answers share.
impl Log {
    /// Makes a place for a topic's log and asks for its opening.
    fn enter(&mut self, topic: &Topic) -> Result<(), Refused> {
        if self.topics.contains_key(topic) {
            return Ok(());
        }
        if self.topics.len() >= self.limits.logs_max {
            return Err(Refused::Logs);
        }
        let retention = self.retentions.remove(topic).unwrap_or(self.limits.retention);
        self.topics.insert(topic.clone(), topic::Log::new(retention));
        self.to_open.push(topic.clone());
        Ok(())
    }

    /// Puts a topic in line if it has something that can be numbered.
    fn queue(&mut self, topic: &Topic) {
        if let Some(log) = self.topics.get_mut(topic)
            && !log.queued
            && !log.waiting.is_empty()
            && log.numbers()
        {
            log.queued = true;
            self.ready.push_back(topic.clone());
        }
    }

    fn confirm(&mut self, topic: &Topic, upto: u64, outs: &mut Vec<Out>) {
        let Some(log) = self.topics.get_mut(topic) else { return };
        let confirmed = log.confirm(self.grant, upto);
        self.tell(topic, confirmed, outs);
    }

    fn settle(&mut self, topic: &Topic, before: Position, outs: &mut Vec<Out>) {
        let Some(log) = self.topics.get_mut(topic) else { return };
        let confirmed = log.settle(before);
        self.tell(topic, confirmed, outs);
        self.weigh();
        self.load = Load::default();
        for waiting in self.topics.values().flat_map(|log| &log.waiting) {
            self.load.put(waiting.source, waiting.message.data.len());
        }
        self.read_on(topic, outs);
    }

    fn tell(&mut self, topic: &Topic, confirmed: Vec<Confirmed>, outs: &mut Vec<Out>) {
        let Some(log) = self.topics.get_mut(topic) else { return };
        let mut carried = false;
        for Confirmed { first, entry, tickets } in confirmed {
            for (seq, message) in (first.seq..).zip(&entry.messages) {
                carried |= log.window.logged(Position::new(first.epoch, seq), message);
            }
            outs.push(Out::Logged { topic: topic.clone(), first, entry, tickets });
        }
        if carried {
            outs.push(Out::Ready(topic.clone()));
        }
    }

    /// Goes on with the reading of a topic, or says that it is complete.
    fn read_on(&mut self, topic: &Topic, outs: &mut Vec<Out>) {
        match self.topics.get(topic).map(|log| log.reading) {
            Some(Reading::Until { .. }) if !self.unread.contains(topic) => {
                self.unread.push_back(topic.clone())
            }
            Some(Reading::Done) => outs.push(Out::Ready(topic.clone())),
            _ => {}
        }
        self.queue(topic);
    }

    fn weigh(&mut self) {
        self.ring_bytes = self.topics.values().map(topic::Log::ring_bytes).sum();
    }

    /// Forgets what need not be appended again any more.
    fn evict(&mut self, now: Moment) {
        while let Some((topic, last, at)) = self.order.front() {
            let due =
                now.since(*at) > self.limits.ring_age_max || self.ring_bytes > self.limits.ring_bytes_max;
            let Some(log) = self.topics.get_mut(topic) else { break };
            let settled = log.past.is_none() && *last <= Position::new(self.grant.epoch, log.acked);
            if !due || !settled {
                break;
            }
            self.ring_bytes = self.ring_bytes.saturating_sub(log.forget(*last));
            self.order.pop_front();
        }
    }

    /// Drops the message of the network that waits longest.
    fn drop_oldest(&mut self) {
        let network = |waiting: &Waiting| waiting.source == Source::Network;
        let oldest =
            |log: &topic::Log| log.waiting.iter().position(network).map(|at| (log.waiting[at].arrival, at));
        let found =
            self.topics.values_mut().filter_map(|log| Some((oldest(log)?, log))).min_by_key(|(key, _)| *key);
        let Some(((_, at), log)) = found else { return self.load.network_gone() };
        if let Some(waiting) = log.waiting.remove(at) {
            log.dropped += 1;
            self.dropped += 1;
            self.load.take(waiting.source, waiting.message.data.len());
        }
    }

    fn raise(&mut self, floor: u64) {
        self.state = State::Raise { floor, nonce: rand::random() };
    }

    fn fence(&mut self, outs: &mut Vec<Out>) {
        self.state = State::Fenced;
        (self.flight, self.read) = (None, None);
        self.unread.clear();
        outs.push(Out::Fenced);
    }

    /// Nothing is sure, and something did not work: looks after a pause.
    fn fail(&mut self, now: Moment) {
        self.state = State::Unsure;
        self.pause(now);
    }

    fn pause(&mut self, now: Moment) {
        self.after = now.after((PAUSE * 2u32.pow(self.failures.min(8))).min(PAUSE_MAX));
        self.failures += 1;
    }

    fn succeeded(&mut self) {
        (self.failures, self.after) = (0, Moment::PAST);
    }
}

impl Load {
    fn put(&mut self, source: Source, len: usize) {
        match source {
            Source::Own(_) => (self.own, self.own_bytes) = (self.own + 1, self.own_bytes + len),
            Source::Network => {
                (self.network, self.network_bytes) = (self.network + 1, self.network_bytes + len)
            }
            Source::Carried => {}
        }
    }

    fn take(&mut self, source: Source, len: usize) {
        match source {
            Source::Own(_) => (self.own, self.own_bytes) = (self.own - 1, self.own_bytes - len),
            Source::Network => {
                (self.network, self.network_bytes) = (self.network - 1, self.network_bytes - len)
            }
            Source::Carried => {}
        }
    }

    fn network_gone(&mut self) {
        (self.network, self.network_bytes) = (0, 0);
    }
}
