//! The history checker of the fault runs finds every kind of harm that is planted, and nothing where there is
//! none. It is pure: no process, no bus.

use plexus_tests::history::{Ack, Fault, History, Position, Reader, Seen, Terms, Verdict, check};

const STRICT: Terms = Terms { gaps: false };
const GAPS: Terms = Terms { gaps: true };

fn at(epoch: u64, seq: u64) -> Position {
    Position::new(epoch, seq)
}

fn message(epoch: u64, seq: u64, text: &str) -> Seen {
    Seen::Message { position: at(epoch, seq), text: text.into() }
}

fn gap(after: Position, until: Position, reason: &str) -> Seen {
    Seen::Gap { after, until, reason: reason.into() }
}

/// Six messages of two producers over two epochs, as two readers got them.
fn whole() -> History {
    let all = [(7, 1, "a-0"), (7, 2, "b-0"), (7, 3, "a-1"), (9, 1, "b-1"), (9, 2, "a-2"), (9, 3, "end")];
    let ack = |&(epoch, seq, text): &(u64, u64, &str)| Ack {
        producer: text.split('-').next().unwrap().into(),
        text: text.into(),
        position: at(epoch, seq),
    };
    let seen: Vec<Seen> = all.iter().map(|&(epoch, seq, text)| message(epoch, seq, text)).collect();
    let reader = |name: &str| Reader { name: name.into(), from: at(0, 0), seen: seen.clone() };
    History {
        tried: all.iter().map(|(_, _, text)| (*text).to_owned()).collect(),
        acks: all.iter().map(ack).collect(),
        readers: vec![reader("one"), reader("two")],
    }
}

fn kinds(verdict: &Verdict) -> Vec<&'static str> {
    let kind = |fault: &Fault| match fault {
        Fault::Lost { .. } => "lost",
        Fault::Doubled { .. } => "doubled",
        Fault::Disorder { .. } => "disorder",
        Fault::Hole { .. } => "hole",
        Fault::Misplaced { .. } => "misplaced",
        Fault::Conflict { .. } => "conflict",
        Fault::Invented { .. } => "invented",
        Fault::Gap { .. } => "gap",
        Fault::Shuffled { .. } => "shuffled",
    };
    verdict.faults.iter().map(kind).collect()
}

#[test]
fn a_whole_history_is_found_whole() {
    let verdict = check(&whole(), STRICT);
    assert_eq!(kinds(&verdict), [""; 0]);
    assert_eq!((verdict.acked, verdict.delivered, verdict.readers, verdict.told), (6, 12, 2, 0));
    let mut late = whole();
    late.readers[0].from = at(7, 3);
    late.readers[0].seen.drain(..3);
    assert_eq!(kinds(&check(&late, STRICT)), [""; 0], "one that began later is owed less");
    let mut failed = whole();
    failed.acks.remove(1);
    assert_eq!(kinds(&check(&failed, STRICT)), [""; 0], "a publish without a receipt may be there");
}

/// One kind of harm: what is done to a whole history, and what must be found.
type Planted = (&'static str, fn(&mut History), &'static [&'static str]);

const PLANTED: [Planted; 12] = [
    ("the last message is lost", |h| drop(h.readers[0].seen.pop()), &["lost"]),
    ("one in the middle is lost", |h| drop(h.readers[1].seen.remove(1)), &["lost", "hole"]),
    ("the end of an epoch is lost", |h| drop(h.readers[0].seen.remove(2)), &["lost"]),
    ("the begin of an epoch is lost", |h| drop(h.readers[0].seen.remove(3)), &["lost", "hole"]),
    (
        "a hole where nothing was acknowledged",
        |h| {
            h.acks.remove(1);
            h.readers[0].seen.remove(1);
        },
        &["hole"],
    ),
    ("one comes twice at its place", |h| h.readers[0].seen.insert(2, message(7, 2, "b-0")), &["doubled"]),
    ("one comes twice at two places", |h| h.readers[0].seen.push(message(9, 4, "a-1")), &["doubled"]),
    ("two come in the wrong order", |h| h.readers[0].seen.swap(0, 1), &["disorder", "hole"]),
    (
        "an old owner's message comes after a new one's",
        |h| {
            h.tried.push("late".into());
            h.readers[0].seen.insert(4, message(7, 4, "late"));
        },
        &["disorder"],
    ),
    (
        "a place has two messages",
        |h| {
            h.tried.push("other".into());
            h.readers[1].seen[2] = message(7, 3, "other");
        },
        &["lost", "conflict"],
    ),
    ("nobody said it", |h| h.readers[0].seen.push(message(9, 4, "ghost")), &["invented"]),
    ("a producer's receipts run backwards", |h| h.acks.swap(0, 2), &["shuffled"]),
];

#[test]
fn every_planted_harm_is_found() {
    for (what, plant, wanted) in PLANTED {
        let mut history = whole();
        plant(&mut history);
        let verdict = check(&history, GAPS);
        let found = kinds(&verdict);
        for kind in wanted {
            assert!(found.contains(kind), "{what}: {:?}", verdict.faults);
        }
    }
}

#[test]
fn a_message_that_stands_elsewhere_than_its_receipt_says_is_found() {
    let mut history = whole();
    history.acks[5].position = at(9, 4);
    assert_eq!(kinds(&check(&history, STRICT)), ["misplaced", "misplaced"]);
}

#[test]
fn what_a_gap_tells_is_no_silent_loss_and_only_that() {
    let mut told = whole();
    told.readers[0].seen[2] = gap(at(7, 2), at(9, 0), "REWOUND");
    let verdict = check(&told, GAPS);
    assert_eq!(kinds(&verdict), [""; 0]);
    assert_eq!((verdict.told, verdict.gaps["REWOUND"]), (1, 1));
    assert_eq!(kinds(&check(&told, STRICT)), ["gap"], "where the store lost nothing there is none");

    // The gap ends before the second message that is missing.
    let mut half = whole();
    half.readers[0].seen.splice(1..3, [gap(at(7, 1), at(7, 2), "TRIMMED")]);
    assert_eq!(kinds(&check(&half, GAPS)), ["lost"]);
}

#[test]
fn what_was_withdrawn_may_come_again_and_nothing_else() {
    let mut again = whole();
    // The reader had `a-1`; the log went back behind it, and it was logged anew.
    again.readers[0].seen.splice(3..3, [gap(at(7, 2), at(8, 0), "REWOUND"), message(8, 1, "a-1")]);
    assert_eq!(kinds(&check(&again, GAPS)), [""; 0]);
    // What stood before the gap was not withdrawn by it.
    let mut twice = whole();
    twice.readers[0].seen.splice(3..3, [gap(at(7, 2), at(8, 0), "REWOUND"), message(8, 1, "b-0")]);
    assert_eq!(kinds(&check(&twice, GAPS)), ["doubled"]);
    // Two readers saw different messages at one place: only where one was told that the log went back.
    let mut split = whole();
    split.acks.remove(2);
    split.tried.push("other".into());
    split.readers[1].seen.insert(3, gap(at(7, 2), at(8, 0), "REWOUND"));
    split.readers[1].seen[2] = message(7, 3, "other");
    assert_eq!(kinds(&check(&split, GAPS)), [""; 0]);
}
