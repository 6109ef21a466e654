//! What happens in a walk: who is there, and what goes wrong when. All of it follows from the seed and
//! the number of the walk, and can be cut down.

use crate::{
    chance::Dice,
    histories::{HISTORIES, History},
    net::{MS, SEC, Us},
};

/// Faults begin and end before this.
pub(crate) const CHAOS: Us = 24 * SEC;
/// After it there is time to settle.
pub(crate) const TALK: Us = CHAOS + 16 * SEC;
pub(crate) const END: Us = TALK + 14 * SEC;

/// A replica lacks no more than what came in this time.
pub(crate) const LAG_MAX: Us = 3 * SEC;

/// Something that goes wrong.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) at: Us,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// `kill -9`, and back after.
    Crash { process: usize, back: Us },
    /// SIGTERM, and back after it has left.
    Leave { worker: usize, back: Us },
    /// SIGSTOP, then SIGCONT.
    Stand { process: usize, lasts: Us },
    /// No way to one shard, or both.
    Cut { process: usize, shard: Option<usize>, lasts: Us },
    /// Calls, answers and frames are lost, come late, or twice.
    Bad { process: usize, lasts: Us, lossy: u64, slow: Us, twice: u64 },
    /// The connection of subscriptions breaks.
    Broken { process: usize, shard: usize },
    /// A queue of a subscription ran over.
    Lagged { process: usize },
    /// A primary stands still.
    Stopped { shard: usize, lasts: Us },
    /// A primary dies; its replica lacks what came after `lag` before, and is promoted later, with another
    /// clock.
    Failover { shard: usize, lag: Us, down: Us, skew: i64 },
    /// The next call of a kind meets with something.
    Strike { on: On, how: How },
    /// Live entries are lost on their way, and nobody is told.
    Deaf { process: usize, lasts: Us },
    /// Live entries come late.
    Behind { process: usize, lasts: Us, lag: Us },
    /// A client says one thing in the first topic.
    Say,
    /// A reader goes to another gateway, or comes back to the same.
    Move { reader: usize },
}

/// Kinds of calls that a walk may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum On {
    Take,
    Raise,
    Release,
    Open,
    Append,
    Stamp,
    /// A gateway's look at the edge of a log.
    Extent,
}

/// What a call meets with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum How {
    /// It runs so much later; whoever sent it has given up by then, or is dead.
    Late { wait: Us, crash: bool },
    /// It runs, and the answer is lost.
    Unanswered,
    /// It runs, and whoever sent it is killed.
    Crash { back: Us },
    /// It runs, and is lost with its primary; with `early` all that came since the walk began to wait for
    /// it is lost too, with `answered` whoever sent it thinks that it ran, with `crash` they are killed. With
    /// `cut` what it publishes is lost too, and whoever sent it has no way to this shard for so long.
    Lost { down: Us, skew: i64, early: bool, answered: bool, crash: bool, cut: Us },
    /// Whoever was deaf hears again, just before it runs.
    Heard,
    /// It runs, and the answer comes so much later.
    Held { wait: Us },
    /// It runs and is answered; so much later everything dies, and what came since is lost.
    Doom { wait: Us, doom: Doom },
}

/// Everything dies at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Doom {
    /// When replicas are promoted, with a clock that is so much off.
    pub(crate) down: Us,
    pub(crate) skew: i64,
    /// When workers are back, and gateways.
    pub(crate) workers: Us,
    pub(crate) gateways: Us,
}

/// A walk.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) workers: usize,
    pub(crate) gateways: usize,
    pub(crate) nodes: usize,
    pub(crate) topics: usize,
    pub(crate) readers: usize,
    pub(crate) clients: usize,
    /// Nobody says anything after.
    pub(crate) talk: Us,
    /// Time between publishes of a client.
    pub(crate) pace: Us,
    /// The nodes' slots have a primary of their own.
    pub(crate) cluster: bool,
    /// Messages that a topic retains.
    pub(crate) retention: u64,
    /// Entries that a gateway reads at once.
    pub(crate) page: usize,
    /// All but the first topic are used from then on only, each by one reader.
    pub(crate) late: Option<Us>,
    pub(crate) faults: Vec<Fault>,
}

impl Plan {
    /// The walk of a seed; every eighth is a history, each in turn, and with `history` every one is that.
    pub(crate) fn new(seed: u64, walk: u64, history: Option<History>) -> Self {
        let turn = (walk % 8 == 7).then(|| HISTORIES[(seed + walk / 8) as usize % HISTORIES.len()]);
        let seed = Dice::new(seed.wrapping_mul(1_000_003).wrapping_add(walk)).draw();
        let mut dice = Dice::new(seed);
        let (workers, gateways) = (dice.within(2..4) as usize, dice.within(1..3) as usize);
        let cluster = dice.once_in(400);
        let mut plan = Self {
            seed,
            workers,
            gateways,
            nodes: dice.within(1..3) as usize,
            topics: dice.within(1..3) as usize,
            readers: dice.within(1..4) as usize,
            clients: dice.within(1..4) as usize,
            talk: if dice.once_in(400) { dice.within(4 * SEC..CHAOS) } else { TALK },
            pace: dice.spread(30 * MS, 800 * MS),
            cluster,
            retention: if dice.once_in(200) { dice.within(4..60) } else { 100_000 },
            page: if dice.once_in(500) { dice.within(2..6) as usize } else { 256 },
            late: None,
            faults: Vec::new(),
        };
        if let Some(history) = history.or(turn) {
            plan.write(history, &mut dice);
            plan.faults.sort_by_key(|fault| fault.at);
            return plan;
        }
        let faults = dice.within(1..9);
        let failovers = dice.once_in(550);
        for _ in 0..faults {
            let at = dice.within(3 * SEC..CHAOS - SEC);
            let kind = plan.fault(&mut dice, failovers);
            plan.faults.push(Fault { at, kind });
        }
        plan.faults.sort_by_key(|fault| fault.at);
        plan
    }

    /// Whether topics retain all that a walk can say.
    pub(crate) fn keeps(&self) -> bool {
        self.retention > 1000
    }

    fn fault(&self, dice: &mut Dice, failovers: bool) -> Kind {
        let process = dice.below((self.workers + self.gateways) as u64) as usize;
        let worker = dice.below(self.workers as u64) as usize;
        let shard = if self.cluster { dice.below(2) as usize } else { 0 };
        let lasts = dice.spread(50 * MS, 15 * SEC);
        match dice.below(if failovers { 17 } else { 13 }) {
            0 | 1 => Kind::Crash { process, back: dice.spread(100 * MS, 12 * SEC) },
            2 | 3 => Kind::Leave { worker, back: dice.spread(100 * MS, 8 * SEC) },
            4 | 5 => Kind::Stand { process, lasts },
            6 => Kind::Cut { process, shard: dice.once_in(500).then_some(shard), lasts },
            7 | 8 => Kind::Bad {
                process,
                lasts,
                lossy: dice.spread(4, 500),
                slow: if dice.once_in(500) { dice.spread(MS, 2500 * MS) } else { 0 },
                twice: dice.below(100),
            },
            9 if dice.once_in(700) => Kind::Broken { process, shard },
            9 => Kind::Lagged { process },
            10 => Kind::Stopped { shard, lasts },
            11 | 12 => Kind::Strike { on: On::any(dice), how: How::any(dice, failovers) },
            _ => Kind::Failover {
                shard,
                lag: if dice.once_in(100) { 0 } else { dice.spread(MS, LAG_MAX) },
                down: dice.spread(50 * MS, 5 * SEC),
                skew: dice.skew(),
            },
        }
    }
}

impl On {
    fn any(dice: &mut Dice) -> Self {
        let all = [Self::Take, Self::Raise, Self::Release, Self::Open, Self::Append, Self::Stamp];
        all[dice.below(all.len() as u64) as usize]
    }
}

impl How {
    fn any(dice: &mut Dice, failovers: bool) -> Self {
        match dice.below(if failovers { 6 } else { 3 }) {
            0 => Self::Late { wait: dice.spread(100 * MS, 12 * SEC), crash: dice.once_in(300) },
            1 => Self::Unanswered,
            2 => Self::Crash { back: dice.spread(100 * MS, 12 * SEC) },
            _ => Self::Lost {
                down: dice.spread(50 * MS, 5 * SEC),
                skew: dice.skew(),
                early: dice.once_in(500),
                answered: dice.once_in(500),
                crash: dice.once_in(400),
                cut: 0,
            },
        }
    }
}
