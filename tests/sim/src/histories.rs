//! Histories that walks rarely find: what protocol.md §9 calls scripted. Each is a plan whose faults come
//! in an order that matters; times, and who is there, are drawn.

use crate::{
    chance::Dice,
    net::{MS, SEC, Us},
    plan::{Doom, Fault, How, Kind, On, Plan, TALK},
};
use clap::ValueEnum;

/// All.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum History {
    /// An opening runs, and is lost with what came before it.
    LostOpening,
    /// A reader hears nothing while a tail is logged that is lost; the owner dies with it, or as it stamps.
    LostTail,
    /// An append of an owner that died runs between the take and the opening of the next one.
    LateAppend,
    /// A take is answered and lost, of a node that was just given back; who took it does not hear of it.
    LostTake,
    /// A topic begins after the replica fell behind, and is lost whole; the next owner does not know of it,
    /// its reader cannot say so.
    LostTopic,
    /// A take is lost that opened the logs, and the clock goes back: the next owner has to climb over it.
    /// Then all die, and it comes to the same again.
    GhostEpoch,
    /// The last messages before silence are lost with their primary.
    LastWords,
    /// A primary is replaced between two messages: the next append meets a log that ends too early.
    QuickFailover,
    /// Readers miss the last messages of an owner and hear the next one begin.
    MissedLast,
    /// Readers miss the last message of all, which has the number of the last one that they have.
    MissedAll,
    /// Readers go to a gateway that is behind, and back.
    Behind,
    /// A look at a trimmed log takes so long that the place from which it was made is long passed.
    SlowLook,
}

/// Each once.
pub(crate) const HISTORIES: &[History] = &[
    History::LostOpening,
    History::LostTail,
    History::LateAppend,
    History::LostTake,
    History::LostTopic,
    History::GhostEpoch,
    History::LastWords,
    History::QuickFailover,
    History::MissedLast,
    History::MissedAll,
    History::Behind,
    History::SlowLook,
];

const fn at(at: Us, kind: Kind) -> Fault {
    Fault { at, kind }
}

fn leave(worker: usize) -> Kind {
    Kind::Leave { worker, back: 2 * SEC }
}

fn strike(on: On, how: How) -> Kind {
    Kind::Strike { on, how }
}

impl Plan {
    /// Takes the faults of a history, and who it needs.
    pub(crate) fn write(&mut self, history: History, dice: &mut Dice) {
        (self.gateways, self.retention, self.page, self.talk) = (2, 100_000, 256, TALK);
        self.pace = dice.within(40 * MS..400 * MS);
        let begin = dice.within(6 * SEC..10 * SEC);
        let down = dice.spread(20 * MS, 400 * MS);
        self.faults = match history {
            History::LostOpening => self.lost_opening(begin, dice),
            History::LostTail => self.lost_tail(begin, down, dice),
            History::LateAppend => late_append(begin, dice),
            History::LostTake => self.lost_take(begin, down),
            History::LostTopic => self.lost_topic(begin, down),
            History::GhostEpoch => self.ghost_epoch(down, dice),
            History::LastWords => self.last_words(begin, down, dice),
            History::QuickFailover => self.quick_failover(begin, dice),
            History::MissedLast => self.missed_last(begin, dice),
            History::MissedAll => self.missed_all(),
            History::Behind => self.behind(begin, dice),
            History::SlowLook => self.slow_look(begin),
        };
    }

    /// Every worker leaves, one after the other.
    fn all_leave(&self, first: Us, apart: Us) -> impl Iterator<Item = Fault> {
        (0..self.workers).map(move |worker| at(first + worker as Us * apart, leave(worker)))
    }

    fn both_gateways(&self, from: Us, kind: impl Fn(usize) -> Kind) -> Vec<Fault> {
        (self.workers..self.workers + self.gateways).map(|process| at(from, kind(process))).collect()
    }

    /// Nobody says anything but what is scripted.
    fn hush(&mut self) {
        (self.nodes, self.topics, self.clients, self.talk) = (1, 1, 0, 0);
    }

    fn lost_opening(&mut self, begin: Us, dice: &mut Dice) -> Vec<Fault> {
        let (down, skew, answered) = (dice.spread(20 * MS, 2 * SEC), dice.skew(), dice.once_in(500));
        let how = How::Lost { down, skew, early: true, answered, crash: false, cut: 0 };
        let left = begin + dice.within(20 * MS..900 * MS);
        [at(begin, strike(On::Open, how))].into_iter().chain(self.all_leave(left, 3 * SEC)).collect()
    }

    fn lost_tail(&mut self, begin: Us, down: Us, dice: &mut Dice) -> Vec<Fault> {
        let (lag, deaf) = (dice.within(200 * MS..2800 * MS), self.workers + dice.below(2) as usize);
        let shard = usize::from(self.cluster);
        let mut faults = vec![
            at(begin, Kind::Cut { process: deaf, shard: None, lasts: 9 * SEC }),
            at(begin + lag, Kind::Failover { shard, lag, down, skew: dice.skew() }),
        ];
        if dice.once_in(500) {
            faults.push(at(begin + lag, strike(On::Stamp, How::Crash { back: 5 * SEC })));
        } else {
            let crash = |process| at(begin + lag, Kind::Crash { process, back: 5 * SEC });
            faults.extend((0..self.workers).map(crash));
        }
        faults
    }

    fn lost_take(&mut self, begin: Us, down: Us) -> Vec<Fault> {
        (self.cluster, self.workers) = (true, 3);
        let how = How::Lost { down, skew: 0, early: false, answered: true, crash: false, cut: 4 * SEC };
        let strike = at(begin, strike(On::Take, how));
        [strike].into_iter().chain(self.all_leave(begin, 4 * SEC)).collect()
    }

    fn lost_topic(&mut self, begin: Us, down: Us) -> Vec<Fault> {
        (self.workers, self.nodes, self.topics, self.readers) = (2, 1, 2, 2);
        self.late = Some(begin);
        let over = begin + 2 * SEC;
        let shard = usize::from(self.cluster);
        let mut faults = vec![
            at(over, Kind::Failover { shard, lag: 2200 * MS, down, skew: 0 }),
            at(over, Kind::Cut { process: self.workers, shard: None, lasts: 12 * SEC }),
        ];
        faults.extend((0..2).map(|process| at(over, Kind::Crash { process, back: SEC })));
        faults
    }

    fn ghost_epoch(&mut self, down: Us, dice: &mut Dice) -> Vec<Fault> {
        (self.cluster, self.nodes, self.topics) = (true, 1, 1);
        let (begin, skew) = (dice.within(2500 * MS..3500 * MS), -100 * SEC as i64);
        let lost = How::Lost { down, skew, early: false, answered: true, crash: false, cut: 0 };
        let doom = Doom { down, skew, workers: SEC, gateways: dice.within(8500 * MS..9500 * MS) };
        let doom = How::Doom { wait: dice.within(700 * MS..2 * SEC), doom };
        let mut faults = vec![at(begin, strike(On::Take, lost)), at(begin, strike(On::Raise, doom))];
        faults.extend((0..self.workers).map(|worker| at(begin, Kind::Leave { worker, back: 300 * MS })));
        faults
    }

    fn last_words(&mut self, begin: Us, down: Us, dice: &mut Dice) -> Vec<Fault> {
        self.talk = begin;
        let (over, shard) = (begin + dice.within(20 * MS..500 * MS), usize::from(self.cluster));
        let lag = dice.within(600 * MS..2900 * MS);
        vec![at(over, Kind::Failover { shard, lag, down, skew: 0 })]
    }

    fn quick_failover(&mut self, begin: Us, dice: &mut Dice) -> Vec<Fault> {
        let shard = usize::from(self.cluster);
        let mut over = |i: Us| {
            let (lag, down) = (dice.within(600 * MS..2900 * MS), dice.within(2 * MS..20 * MS));
            at(begin + i * 4 * SEC, Kind::Failover { shard, lag, down, skew: 0 })
        };
        vec![over(0), over(1), over(2)]
    }

    fn missed_last(&mut self, begin: Us, dice: &mut Dice) -> Vec<Fault> {
        self.nodes = 1;
        let mut faults = self.both_gateways(begin, |process| Kind::Deaf { process, lasts: 12 * SEC });
        faults.push(at(begin, strike(On::Open, How::Heard)));
        faults.extend(self.all_leave(begin + dice.within(300 * MS..900 * MS), 1500 * MS));
        faults
    }

    fn missed_all(&mut self) -> Vec<Fault> {
        self.hush();
        // Between two looks of the gateways, which come after 5 s of silence.
        let mut faults = self.both_gateways(7 * SEC, |process| Kind::Deaf { process, lasts: 12 * SEC });
        faults.extend([at(5 * SEC, Kind::Say), at(14_300 * MS, Kind::Say)]);
        faults.extend(self.all_leave(11_100 * MS, 800 * MS));
        faults
    }

    fn behind(&mut self, begin: Us, dice: &mut Dice) -> Vec<Fault> {
        (self.nodes, self.readers) = (1, 3);
        let (process, lasts) = (self.workers, 12 * SEC);
        let mut faults =
            vec![at(begin, Kind::Behind { process, lasts, lag: dice.within(500 * MS..2 * SEC) })];
        let moves = (0..16).map(|i| at(begin + i * 700 * MS, Kind::Move { reader: i as usize % 3 }));
        faults.extend(moves);
        faults
    }

    fn slow_look(&mut self, begin: Us) -> Vec<Fault> {
        self.hush();
        (self.workers, self.gateways, self.readers, self.retention) = (2, 1, 1, 1);
        let process = self.workers;
        let mut faults = vec![
            at(4 * SEC, Kind::Say),
            at(begin - SEC, Kind::Behind { process, lasts: 6 * SEC, lag: 200 * MS }),
            at(begin + 20 * MS, strike(On::Extent, How::Held { wait: 1400 * MS })),
            at(begin + 100 * MS, Kind::Lagged { process }),
        ];
        faults.extend((0..3).map(|i| at(begin + i * 30 * MS, Kind::Say)));
        faults.extend(self.all_leave(begin + 110 * MS, 2 * SEC));
        faults
    }
}

fn late_append(begin: Us, dice: &mut Dice) -> Vec<Fault> {
    let late = How::Late { wait: dice.within(5500 * MS..9 * SEC), crash: true };
    let slow = How::Late { wait: dice.within(300 * MS..1400 * MS), crash: false };
    vec![at(begin, strike(On::Append, late)), at(begin + SEC, strike(On::Open, slow))]
}
