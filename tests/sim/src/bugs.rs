//! The planted bugs of protocol.md §9: what stands in a core, and what a bug has there. The build weaves
//! both in behind a switch; a place that is gone breaks the build. With `ON` the text takes the place of
//! the good one, which it repeats; without, an expression stands beside it and a statement before it.

/// A place of a bug.
pub(crate) struct Plant {
    /// The file, from the root of the repository.
    pub(crate) file: &'static str,
    /// What stands there, once.
    pub(crate) good: &'static str,
    /// What the bug has.
    pub(crate) bad: &'static str,
}

/// A planted bug.
pub(crate) struct Bug {
    /// Its number in protocol.md §9, times ten.
    pub(crate) number: u32,
    pub(crate) name: &'static str,
    /// The history that reaches it, as `--history` names it; empty: any walk may.
    pub(crate) history: &'static str,
    /// Where; nowhere: in the simulator's own loops, which stand for those of the worker.
    pub(crate) plants: &'static [Plant],
}

const LEASE: &str = "worker/src/host/lease.rs";
const CONTROL: &str = "worker/src/host/event_loop/control.rs";
const WRITER: &str = "worker/src/node/log/writer.rs";
const ANSWER: &str = "worker/src/node/log/writer/answer.rs";
const ASK: &str = "worker/src/node/log/writer/ask.rs";
const TOPIC: &str = "worker/src/node/log/topic.rs";
const CURSORS: &str = "gateway/src/router/cursors.rs";
const PLACE: &str = "gateway/src/router/place.rs";
const READER: &str = "gateway/src/router/reader.rs";
const HISTORY: &str = "bus/src/embedded/history.rs";
const OWNERSHIP: &str = "bus/src/embedded/ownership.rs";
const TABLES: &str = "bus/src/embedded/tables.rs";

const fn one(file: &'static str, good: &'static str, bad: &'static str) -> Plant {
    Plant { file, good, bad }
}

/// All.
pub(crate) const BUGS: &[Bug] = &[
    Bug {
        number: 10,
        name: "no opening entry",
        history: "",
        plants: &[
            one(HISTORY, "log.push(id, entry)", "log.tail = id"),
            one(
                TABLES,
                "self.live.publish(&Subject::Topic(node.clone(), opening.topic.clone()), entry);",
                "continue;",
            ),
        ],
    },
    Bug {
        number: 20,
        name: "prev not compared",
        history: "missed-last",
        plants: &[one(PLACE, "prev(opening) == Some(p)", "prev(opening).is_some()")],
    },
    Bug {
        number: 30,
        name: "sure ignored",
        history: "lost-tail",
        plants: &[one(PLACE, "if opening.sure &&", "if (ON || opening.sure) &&")],
    },
    Bug {
        number: 31,
        name: "sure without era",
        history: "lost-tail",
        plants: &[one(HISTORY, "front.era == *era", "true")],
    },
    Bug {
        number: 40,
        name: "no doubt",
        history: "lost-topic",
        plants: &[one(HISTORY, "!(doubt.is_some() && prev == Position::ZERO)", "true")],
    },
    Bug {
        number: 50,
        name: "prev read before the script",
        history: "late-append",
        plants: &[one(TABLES, "&openings", "crate::switch::read_before(&openings)")],
    },
    Bug {
        number: 60,
        name: "same-epoch second opening",
        history: "lost-opening",
        plants: &[one(
            ANSWER,
            "Err(_) => self.raise(self.grant.epoch),",
            "Err(_) if ON => {
                self.pause(now);
                if !first {
                    self.to_open.extend(topics);
                }
            }
            Err(_) => self.raise(self.grant.epoch),",
        )],
    },
    Bug {
        number: 70,
        name: "counter epochs",
        history: "",
        plants: &[one(
            OWNERSHIP,
            "(last + 1 + self.random).max(self.micros).max(above_floor)",
            "(last + 1).max(if floor > 0 { floor + 1 } else { 0 })",
        )],
    },
    Bug {
        number: 80,
        name: "floor + 1",
        history: "ghost-epoch",
        plants: &[one(OWNERSHIP, "floor + 1 + self.random", "floor + 1")],
    },
    Bug {
        number: 90,
        name: "no deadline",
        history: "",
        plants: &[one(
            LEASE,
            "matches!(self.phase, Phase::Held | Phase::Draining) && now >= self.deadline",
            "false",
        )],
    },
    Bug {
        number: 100,
        name: "deadline after TTL",
        history: "",
        plants: &[one(LEASE, "renewal.sent.after(self.term)", "renewal.sent.after(self.term * 5 / 2)")],
    },
    Bug { number: 110, name: "acts before testing the deadline on resume", history: "", plants: &[] },
    Bug {
        number: 120,
        name: "no grace",
        history: "",
        plants: &[one(
            OWNERSHIP,
            "self.era.as_ref().is_some_and(|(_, end)| end.is_some_and(|end| now < end))",
            "false",
        )],
    },
    Bug {
        number: 130,
        name: "grace frees nodes without owner",
        history: "lost-take",
        plants: &[one(
            OWNERSHIP,
            "!self.grace(now) && last.worker.as_ref().is_none_or(|owner| !self.lives(owner, now))",
            "last.worker.as_ref().is_none_or(|owner| !self.grace(now) && !self.lives(owner, now))",
        )],
    },
    Bug {
        number: 140,
        name: "leases not re-armed",
        history: "",
        plants: &[one(
            OWNERSHIP,
            "self.workers.values_mut().filter(|lease| now < **lease).for_each(|lease| *lease = end);",
            "return;",
        )],
    },
    Bug { number: 150, name: "release before stop", history: "", plants: &[] },
    Bug {
        number: 160,
        name: "no reconcile with the record",
        history: "",
        plants: &[one(CONTROL, "turned || changes != self.reconciled", "false")],
    },
    Bug {
        number: 170,
        name: "refused = success",
        history: "quick-failover",
        plants: &[
            one(ANSWER, "if *spot == Spot::Logged {", "if ON || *spot == Spot::Logged {"),
            one(ANSWER, "spots.iter().all(|spot| *spot == Spot::Logged)", "true"),
            one(
                ANSWER,
                "Ok(Appended::Fenced) => self.fence(outs),",
                "Ok(Appended::Fenced) => {
                    if ON {
                        for (topic, last) in sent {
                            self.confirm(topic, *last, outs);
                        }
                    }
                    self.fence(outs);
                }",
            ),
        ],
    },
    Bug {
        number: 180,
        name: "receipt before reply",
        history: "",
        plants: &[one(
            ANSWER,
            "Ok(_) | Err(_) => self.fail(now),",
            "Err(_) if ON => {
                for (topic, last) in sent {
                    self.confirm(topic, *last, outs);
                }
                self.fail(now);
            }
            Ok(_) | Err(_) => self.fail(now),",
        )],
    },
    Bug {
        number: 190,
        name: "append without tail check",
        history: "",
        plants: &[one(HISTORY, "log.tail != Position::new(epoch, append.first - 1)", "false")],
    },
    Bug {
        number: 200,
        name: "renumber on unknown",
        history: "",
        plants: &[one(
            TOPIC,
            "let mut rest = self.ring.split_off(behind);",
            "let rest = self.ring.split_off(behind);
            self.last = self.tail;
            for n in rest {
                for (seq, message) in (n.first..).zip(&n.entry.messages).filter(|(seq, _)| *seq > self.tail) {
                    let _ = seq;
                    let source = Source::Carried;
                    self.waiting.push_back(Waiting { message: message.clone(), source, arrival: 0 });
                }
            }
            return;",
        )],
    },
    Bug {
        number: 210,
        name: "no look after reconnect",
        history: "last-words",
        plants: &[one(
            WRITER,
            "pub(crate) fn doubt(&mut self) {",
            "pub(crate) fn doubt(&mut self) {
                if ON {
                    return;
                }",
        )],
    },
    Bug {
        number: 220,
        name: "stamp before tail",
        history: "lost-tail",
        plants: &[
            one(
                ASK,
                "pub(super) fn repair_task(&mut self, now: Moment) -> Option<(Do, Flight)> {",
                "pub(super) fn repair_task(&mut self, now: Moment) -> Option<(Do, Flight)> {
                if ON && let State::Repair { era, stamp: true } = &self.state {
                    return Some((Do::Stamp(self.grant, era.clone()), Flight::Stamp));
                }",
            ),
            one(
                ANSWER,
                "self.state = State::Open;",
                "self.state = State::Repair { era: \"\".into(), stamp: false };
                return;",
            ),
        ],
    },
    Bug {
        number: 230,
        name: "no raise",
        history: "lost-opening",
        plants: &[one(
            ANSWER,
            "if seen < ours.epoch || self.topics.iter().any(lost) {",
            "if ON && (seen < ours.epoch || self.topics.iter().any(lost)) {
                for log in self.topics.values_mut() {
                    log.lay_aside(ours);
                    log.queued = false;
                }
                self.state = State::Fresh;
                self.read = None;
                self.ready.clear();
                self.unread.clear();
                self.to_open.clear();
                return;
            }
            if seen < ours.epoch || self.topics.iter().any(lost) {",
        )],
    },
    Bug {
        number: 240,
        name: "no window",
        history: "",
        plants: &[one(
            WRITER,
            "pub(crate) fn seek(&mut self, topic: &Topic, name: Name<'_>) -> Known {",
            "pub(crate) fn seek(&mut self, topic: &Topic, name: Name<'_>) -> Known {
                if ON {
                    return Known::New;
                }",
        )],
    },
    Bug {
        number: 250,
        name: "window before opening",
        history: "late-append",
        plants: &[one(
            TOPIC,
            "next => Reading::Until { next, recent: false },",
            "next if ON => Reading::Until { next: crate::switch::slipped_after(next), recent: false },
            next => Reading::Until { next, recent: false },",
        )],
    },
    Bug {
        number: 260,
        name: "live of older epoch accepted",
        history: "",
        plants: &[one(
            PLACE,
            "if id.epoch == p.epoch && id.seq <= p.seq || live && id.epoch < p.epoch {",
            "if ON && live && id.epoch < p.epoch {
                return Step::Deliver;
            }
            if id.epoch == p.epoch && id.seq <= p.seq || live && id.epoch < p.epoch {",
        )],
    },
    Bug {
        number: 270,
        name: "a cursor ahead of its gateway taken for an old one",
        history: "behind",
        plants: &[
            one(
                CURSORS,
                "After::Position(p) if p > at.at && !*reread => {",
                "After::Position(p) if !ON && p > at.at && !*reread => {",
            ),
            one(
                CURSORS,
                "resuming.place.at == at.at && topic.reader.settled();",
                "(resuming.place.at == at.at || ON && resuming.place.at > at.at) && topic.reader.settled();",
            ),
        ],
    },
    Bug {
        number: 280,
        name: "check by seq only",
        history: "missed-all",
        plants: &[one(
            READER,
            "top.unwrap_or_default() != self.place.at",
            "top.unwrap_or_default().seq != self.place.at.seq",
        )],
    },
    Bug {
        number: 290,
        name: "no idle check",
        history: "missed-all",
        plants: &[one(
            READER,
            "self.doubted || now.saturating_duration_since(self.heard) >= interval",
            "false",
        )],
    },
    Bug {
        number: 300,
        name: "read evidence after p moved",
        history: "slow-look",
        plants: &[
            one(
                READER,
                "if self.state != State::Live {",
                "let moves = matches!(self.place.step(&entry, true), Step::Deliver | Step::Silent);
                if self.state != State::Live && !(ON && moves && self.state == State::Reading) {",
            ),
            one(
                READER,
                "if ticket != self.moved || self.state != State::Reading {",
                "if !ON && ticket != self.moved || self.state != State::Reading {",
            ),
        ],
    },
];
