//! A primary of the store: the tables of the embedded bus, with the functions of protocol.md §2, and what
//! a replica of it has when it takes over.

use super::{
    live::{Listener, Subjects},
    ownership::Seed,
    tables::Tables,
};
use crate::{
    bus::*,
    chance,
    check::Check,
    net::{Answer, Ask, Heard, Net, Request, SEC, Said, Us},
    switch,
};
use bytes::Bytes;
use plexus_proto::bus::{EpochOpening, LogEntry};
use std::time::{Duration, Instant, SystemTime};

/// The clocks of primaries began so long before the walk, so that they may go back.
const EARLIER: Us = 1000 * SEC;

/// One primary.
pub(crate) struct Shard {
    tables: Tables,
    start: Instant,
    eras: u32,
    /// Its clock is so much ahead, in microseconds.
    skew: i64,
    /// It answers nothing.
    pub(crate) down: bool,
    /// It stands still until then.
    pub(crate) stands_until: Us,
    /// What its replica has.
    replica: Option<Tables>,
}

impl Shard {
    pub(crate) fn new(start: Instant) -> Self {
        let config = Config { strict: false, ..Config::default() };
        let mut tables = Tables::new(&config, Metrics::default()).replica("era-0".into());
        tables.turn(start.into(), wall(0));
        Self { tables, start, eras: 0, skew: 0, down: false, stands_until: 0, replica: None }
    }

    /// Enters a node into the directory, and its record.
    pub(crate) fn found(&mut self, node: &NodeName) {
        self.tables.control.enlist(node, node.as_str().as_bytes());
        let put = self.tables.put(Key::Record(node.clone()), Bytes::new(), When::Always, None);
        put.expect("there is room for the nodes of a walk");
    }

    fn turn(&mut self, now: Us) {
        let now = (now + EARLIER).saturating_add_signed(self.skew);
        self.tables.turn((self.start + Duration::from_micros(now)).into(), wall(now));
    }

    /// Notes what a replica has; all that comes later is lost when it is promoted.
    pub(crate) fn snapshot(&mut self) {
        self.replica = Some(self.tables.replica(self.tables.era().clone()));
    }

    /// Promotes the replica: another era, another clock, nobody listens.
    pub(crate) fn promote(&mut self, skew: i64) {
        self.eras += 1;
        let has = self.replica.take();
        let era: Era = format!("era-{}", self.eras).into();
        self.tables = has.as_ref().unwrap_or(&self.tables).replica(era);
        self.skew = skew;
        self.down = false;
    }

    pub(crate) fn live(&mut self) -> &mut Subjects {
        &mut self.tables.live
    }

    /// Runs a call and sends what follows from it.
    pub(crate) fn serve(&mut self, request: Request, net: &mut Net) {
        if self.down {
            return;
        }
        self.turn(net.now);
        let listener = (request.from, request.life, net.links[request.from][request.shard].connection);
        let answer = self.run(&request.ask, listener, &mut net.check);
        net.note(|| format!("  {} {:?} -> {answer:?}", request.from, request.ask));
        let hushed = std::mem::take(&mut net.hush);
        let out = std::mem::take(&mut self.tables.live.out);
        for (to, subject, frame) in out.into_iter().filter(|_| !hushed) {
            net.frame(request.shard, to, subject, Heard::Frame(frame));
        }
        net.answer(&request, answer);
    }

    fn run(&mut self, ask: &Ask, listener: Listener, check: &mut Check) -> Answer {
        let tables = &mut self.tables;
        let now = tables.now();
        Ok(match ask {
            Ask::Renew(worker, fresh) => {
                let era = tables.era().clone();
                Said::Renewed(tables.control.renew(worker, *fresh, &era, now))
            }
            Ask::Take(worker, nonce, claims) => {
                let random = chance::random_range(0..1 << 20);
                let seed = Seed { micros: tables.micros(), random };
                let (taken, changes) = tables.control.take(worker, *nonce, claims, seed, now);
                tables.tell(changes);
                Said::Taken(taken)
            }
            Ask::Release(worker, nodes) => {
                let changes = tables.control.release(worker, nodes);
                let count = changes.len();
                tables.tell(changes);
                Said::Count(count)
            }
            Ask::Retire(worker) => {
                tables.control.retire(worker);
                Said::Done
            }
            Ask::Owned(worker) => Said::Owned(tables.control.owned(worker)),
            Ask::Owners => Said::Owners(tables.control.owners()),
            Ask::Workers => Said::Workers(tables.control.workers(now)),
            Ask::Publish(subject, frame) => Said::Count(tables.live.publish(subject, frame.clone())),
            Ask::Subscribe(subject) => {
                tables.live.subscribe(subject, listener);
                Said::Done
            }
            Ask::Unsubscribe(subject) => {
                tables.live.unsubscribe(subject, listener.0, listener.1);
                Said::Done
            }
            of_a_node => return self.run_on_a_node(of_a_node, check),
        })
    }

    fn run_on_a_node(&mut self, ask: &Ask, check: &mut Check) -> Answer {
        let tables = &mut self.tables;
        Ok(match ask {
            Ask::Open { node, grant, topics, stage, known } => {
                switch::knew(known);
                let opened = tables.open(node, *grant, topics, &marker(*grant), *stage)?;
                if let (Opened::Done(openings), true) = (&opened, switch::on(250)) {
                    switch::opened(openings);
                }
                Said::Opened(opened)
            }
            Ask::Append(node, grant, entries) => {
                let appended = tables.append(node, *grant, entries.clone());
                if let Appended::Done(spots) = &appended {
                    let logged = entries.iter().zip(spots).filter(|(_, spot)| **spot == Spot::Logged);
                    logged.for_each(|(append, _)| check.appended(node, *grant, append));
                }
                Said::Appended(appended)
            }
            Ask::Look(node) => {
                let era = tables.era().clone();
                let nothing = Look { era: era.clone(), grant: None, stamped: None, tails: Vec::new() };
                Said::Look(tables.slot(node).map_or(nothing, |slot| slot.look(&era)))
            }
            Ask::Stamp(node, grant, era) => {
                let same = tables.era() == era;
                Said::Flag(same && tables.slot_mut(node).is_some_and(|slot| slot.stamp(*grant, era)))
            }
            Ask::Trim(node, grant, topic, keep) => {
                Said::Flag(tables.slot_mut(node).is_some_and(|slot| slot.trim(*grant, topic, *keep)))
            }
            Ask::Read(node, topic, range) => Said::Entries(self.read(node, topic, *range)),
            Ask::Extent(node, topic) => Said::Extent(tables.slot(node).and_then(|slot| slot.extent(topic))),
            Ask::Tops(wanted) => {
                let top = |(node, topic): &(NodeName, Topic)| tables.slot(node)?.top(topic);
                Said::Tops(wanted.iter().map(top).collect())
            }
            Ask::Want(node, gateway, readers) => {
                tables.want(node, gateway, readers)?;
                Said::Done
            }
            _ => Said::Done,
        })
    }

    /// Reads a log.
    pub(crate) fn read(&self, node: &NodeName, topic: &Topic, range: Range) -> Vec<Entry> {
        self.tables.slot(node).map(|slot| slot.read(topic, range)).unwrap_or_default()
    }

    /// Who owns a node.
    pub(crate) fn owner(&self, node: &NodeName) -> Option<Owner> {
        self.tables.control.owner(node)
    }
}

/// An opening, to which the store adds what was before.
fn marker(grant: Grant) -> LogEntry {
    let opening = Some(EpochOpening::default());
    LogEntry { epoch: grant.epoch, nonce: grant.nonce, opening, ..LogEntry::default() }
}

/// The time of day at a moment of a walk.
pub(crate) fn wall(at: Us) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000 * SEC + at)
}
