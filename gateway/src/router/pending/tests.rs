use super::*;
use plexus_proto::bus::Principal;

const RESEND: Duration = Duration::from_secs(2);

fn node() -> NodeName {
    NodeName::new("default", "n").unwrap()
}

fn call(idempotent: bool, key: &str) -> Call {
    Call {
        method: "plexus.v1.TopicService/Publish".into(),
        payload: Payload::default(),
        node: Some(node()),
        namespace: "default".into(),
        reply_to: "gw".into(),
        deadline: None,
        caller: Principal::default(),
        idempotency_key: key.into(),
        epoch_seen: 0,
        attempt: 0,
        idempotent,
        credit: 0,
    }
}

/// What is done, in words.
fn did(pending: &mut Pending<u32>) -> Vec<String> {
    let word = |act: Act<u32>| match act {
        Act::Send(envelope) => match &envelope.body {
            Body::Call(call) => format!("send {}", call.attempt),
            other => format!("{other:?}"),
        },
        Act::Look(node) => format!("look {}", node.node()),
        Act::Tell(_, envelope) => match envelope.body {
            Body::Cancel(reason) => format!("cancel {reason}"),
            Body::Credit { bytes, .. } => format!("credit {bytes}"),
            other => format!("{other:?}"),
        },
        Act::Output(..) => "output".into(),
        Act::Finish(sink, result) => {
            format!("{sink}: {}", result.map_or_else(|e| e.reason, |_| "answer".into()))
        }
    };
    pending.take().into_iter().map(word).collect()
}

struct Scene {
    pending: Pending<u32>,
    id: CallId,
    start: Instant,
}

impl Scene {
    fn new(idempotent: bool, key: &str) -> Self {
        let start = Instant::now();
        let mut pending = Pending::new(10, RESEND);
        let id = CallId::now_v7();
        let deadline = Some(start + Duration::from_secs(30));
        pending.begin(id, call(idempotent, key), Trace::default(), 1, deadline);
        assert_eq!(did(&mut pending), ["send 0"]);
        Self { pending, id, start }
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    fn sent(&mut self, attempt: u32, receivers: usize, ms: u64) -> Vec<String> {
        let now = self.at(ms);
        self.pending.sent(self.id, attempt, Ok(receivers), now);
        did(&mut self.pending)
    }

    fn tick(&mut self, ms: u64) -> Vec<String> {
        let now = self.at(ms);
        self.pending.tick(now);
        did(&mut self.pending)
    }

    fn owner(&mut self, owned: bool, epoch: u64, ms: u64) -> Vec<String> {
        let now = self.at(ms);
        self.pending.owner(&node(), owned, epoch, now);
        self.pending.tick(now);
        did(&mut self.pending)
    }

    fn hear(&mut self, epoch: u64, sequence: u64, body: Body, ms: u64) -> Vec<String> {
        let now = self.at(ms);
        let envelope = Envelope { sequence, epoch, ..envelope(self.id, &Trace::default(), body) };
        self.pending.reply(envelope, now);
        did(&mut self.pending)
    }
}

fn taken() -> Body {
    Body::Taken { worker: "w".into() }
}

fn outcome(moved: bool) -> Body {
    Body::Outcome(Outcome { result: Ok(Payload::default()), from_window: false, moved })
}

#[test]
fn a_call_to_nobody_is_sent_again_until_an_owner_is_there() {
    let mut scene = Scene::new(false, "");
    assert_eq!(scene.sent(0, 0, 0), ["look n"]);
    scene.pending.looked(&node(), Some(Standing::Expected));
    assert!(scene.tick(40).is_empty());
    assert_eq!(scene.tick(50), ["send 1"]);
    assert_eq!(scene.sent(1, 0, 51), ["look n"]);
    scene.pending.looked(&node(), None);
    // The pause doubles up to one second: the poll of P19.
    let mut at = 51;
    for (attempt, pause) in [(2, 100), (3, 200), (4, 400), (5, 800), (6, 1000), (7, 1000)] {
        assert!(scene.tick(at + pause - 1).is_empty(), "{attempt}");
        at += pause;
        assert_eq!(scene.tick(at), [format!("send {attempt}")]);
        scene.sent(attempt, 0, at);
        scene.pending.looked(&node(), Some(Standing::Expected));
    }
    // News of an owner does not wait for the pause.
    assert_eq!(scene.owner(true, 7, at + 1), ["send 8"]);
    assert!(scene.sent(8, 1, at + 2).is_empty());
    assert_eq!(scene.hear(7, 0, outcome(false), at + 3), ["1: answer"]);
    assert!(scene.pending.is_empty());
}

#[test]
fn the_record_says_why_nobody_listens() {
    for (standing, reason) in [
        (Standing::Missing, "NODE_NOT_FOUND"),
        (Standing::Stopped, "NODE_STOPPED"),
        (Standing::Quarantined, "NODE_QUARANTINED"),
    ] {
        let mut scene = Scene::new(true, "");
        scene.sent(0, 0, 0);
        scene.pending.looked(&node(), Some(standing));
        assert_eq!(did(&mut scene.pending), [format!("1: {reason}")]);
    }
    // A call that somebody got is not refused by it.
    let mut scene = Scene::new(true, "");
    scene.sent(0, 1, 0);
    scene.pending.looked(&node(), Some(Standing::Stopped));
    assert!(did(&mut scene.pending).is_empty());
}

#[test]
fn without_an_owner_until_the_deadline_the_answer_says_so() {
    let mut scene = Scene::new(true, "");
    scene.sent(0, 0, 0);
    scene.pending.looked(&node(), Some(Standing::Expected));
    let mut last = Vec::new();
    for step in 0..601 {
        last = scene.tick(step * 50);
        for attempt in 1..100 {
            scene.pending.sent(scene.id, attempt, Ok(0), scene.start + Duration::from_millis(step * 50));
        }
        last.extend(did(&mut scene.pending));
    }
    assert!(last.contains(&"1: NO_OWNER".to_owned()), "{last:?}");
    let mut scene = Scene::new(true, "");
    scene.sent(0, 1, 0);
    scene.hear(1, 0, taken(), 1);
    assert_eq!(scene.tick(30_000), ["cancel DEADLINE_EXCEEDED", "1: DEADLINE_EXCEEDED"]);
}

#[test]
fn p19_holds_row_by_row_for_silence_and_for_a_change_of_owner() {
    let silent = |idempotent, key| {
        let mut scene = Scene::new(idempotent, key);
        scene.sent(0, 1, 0);
        assert!(scene.tick(1_999).is_empty());
        scene.tick(2_000)
    };
    assert_eq!(silent(true, ""), ["send 1"], "a read");
    assert_eq!(silent(false, "k"), ["send 1"], "keyed");
    assert_eq!(silent(false, ""), ["1: OWNER_CHANGED"], "neither: it may have run");

    let moved = |idempotent, key: &str, took: bool, owned| {
        let mut scene = Scene::new(idempotent, key);
        scene.owner(true, 3, 0);
        scene.sent(0, 1, 0);
        if took {
            scene.hear(3, 0, taken(), 1);
        }
        let mut did = scene.owner(owned, 9, 10);
        did.extend(scene.tick(260));
        did
    };
    for took in [false, true] {
        assert_eq!(moved(true, "", took, true), ["send 1"]);
        assert_eq!(moved(true, "", took, false), ["send 1"]);
        assert_eq!(moved(false, "k", took, true), ["send 1"]);
        assert_eq!(moved(false, "", took, true), ["1: OWNER_CHANGED"]);
        assert_eq!(moved(false, "", took, false), ["1: OWNER_CHANGED"]);
    }
}

#[test]
fn an_owner_that_did_not_run_it_lets_any_call_be_sent_again() {
    let mut scene = Scene::new(false, "");
    scene.sent(0, 1, 0);
    assert_eq!(scene.hear(3, 0, outcome(true), 1), ["look n"]);
    assert_eq!(scene.owner(true, 9, 2), ["send 1"]);
    scene.sent(1, 1, 3);
    assert_eq!(scene.hear(9, 0, outcome(false), 4), ["1: answer"]);
}

#[test]
fn a_call_that_was_taken_is_not_hurried() {
    let mut scene = Scene::new(false, "");
    scene.sent(0, 1, 0);
    assert!(scene.hear(3, 0, taken(), 1).is_empty());
    assert!(scene.tick(20_000).is_empty());
    assert!(scene.owner(true, 3, 20_001).is_empty(), "the same owner, heard late");
    assert_eq!(scene.hear(3, 1, outcome(false), 20_002), ["1: answer"]);
}

#[test]
fn an_answer_of_an_owner_that_is_none_any_more_is_dropped() {
    let mut scene = Scene::new(true, "");
    scene.sent(0, 1, 0);
    scene.hear(9, 0, taken(), 1);
    assert!(scene.hear(3, 1, outcome(false), 2).is_empty());
    assert_eq!(scene.hear(9, 1, outcome(false), 3), ["1: answer"]);
}

#[test]
fn late_word_of_the_first_owner_is_no_change() {
    let mut scene = Scene::new(false, "");
    scene.sent(0, 1, 0);
    assert!(scene.owner(true, 3, 10).is_empty());
    assert!(scene.tick(300).is_empty(), "it has the call");
    scene.owner(true, 4, 310);
    assert_eq!(scene.tick(600), ["1: OWNER_CHANGED"], "another has not");
}

#[test]
fn an_answer_that_overtakes_the_bus_ends_the_call() {
    let mut scene = Scene::new(false, "");
    assert_eq!(scene.hear(3, 0, outcome(false), 1), ["1: answer"]);
    assert!(scene.sent(0, 1, 2).is_empty());
    assert!(scene.tick(60_000).is_empty());
}

#[test]
fn a_hole_in_a_stream_ends_it_and_a_repeat_does_not_show() {
    let mut scene = Scene::new(true, "");
    scene.sent(0, 1, 0);
    scene.hear(3, 0, taken(), 1);
    let output = || Body::Output(Payload::default());
    assert_eq!(scene.hear(3, 1, output(), 2), ["output"]);
    assert!(scene.hear(3, 1, output(), 2).is_empty());
    assert_eq!(scene.hear(3, 2, output(), 2), ["output"]);
    assert_eq!(scene.hear(3, 4, output(), 2), ["1: OWNER_CHANGED"]);
    // One that began is never begun anew.
    let mut scene = Scene::new(true, "");
    scene.sent(0, 1, 0);
    scene.hear(3, 0, output(), 1);
    assert!(scene.owner(true, 9, 2).is_empty());
    assert_eq!(scene.tick(300), ["1: OWNER_CHANGED"]);
}

#[test]
fn a_caller_that_goes_cancels_and_never_overtakes_its_call() {
    let mut scene = Scene::new(true, "");
    scene.pending.gone(scene.id);
    assert!(did(&mut scene.pending).is_empty());
    assert_eq!(scene.sent(0, 1, 1), ["cancel CANCELLED"]);
    assert!(scene.pending.is_empty());
}

#[test]
fn a_bus_that_fails_says_whether_it_may_have_run() {
    for (idempotent, error, reason) in [
        (true, Error::Timeout, "BUS_UNAVAILABLE"),
        (false, Error::Timeout, "OWNER_CHANGED"),
        (false, Error::Unreachable { sent: false }, "BUS_UNAVAILABLE"),
        (false, Error::Overloaded, "OVERLOADED"),
    ] {
        let mut scene = Scene::new(idempotent, "");
        scene.pending.sent(scene.id, 0, Err(error), scene.start);
        assert_eq!(did(&mut scene.pending), [format!("1: {reason}")]);
    }
}

#[test]
fn more_calls_than_the_bound_are_refused() {
    let mut pending = Pending::new(2, RESEND);
    for sink in 0..3 {
        pending.begin(CallId::now_v7(), call(true, ""), Trace::default(), sink, None);
    }
    assert_eq!(did(&mut pending), ["send 0", "send 0", "2: OVERLOADED"]);
}

#[test]
fn answers_that_may_be_lost_are_asked_for_again() {
    for (idempotent, did_then) in [(true, vec!["send 1".to_owned()]), (false, vec![])] {
        let mut scene = Scene::new(idempotent, "");
        scene.sent(0, 1, 0);
        scene.hear(3, 0, taken(), 1);
        let now = scene.at(10);
        scene.pending.missed(now);
        assert_eq!(scene.tick(10), did_then);
    }
}

/// Three calls of one node, begun one after the other.
fn three(start: Instant) -> (Pending<u32>, [CallId; 3]) {
    let (mut pending, ids) = (Pending::new(10, RESEND), [(); 3].map(|()| CallId::now_v7()));
    let deadline = Some(start + Duration::from_secs(30));
    pending.begin(ids[0], call(false, ""), Trace::default(), 0, deadline);
    assert_eq!(to(&mut pending, ids), [0]);
    pending.sent(ids[0], 0, Ok(0), start);
    pending.take();
    for (sink, id) in [(1, ids[1]), (2, ids[2])] {
        pending.begin(id, call(false, ""), Trace::default(), sink, deadline);
    }
    (pending, ids)
}

/// Which of the calls are sent.
fn to(pending: &mut Pending<u32>, ids: [CallId; 3]) -> Vec<usize> {
    let sent = |act| match act {
        Act::Send(envelope) => ids.iter().position(|id| *id == envelope.id),
        _ => None,
    };
    pending.take().into_iter().filter_map(sent).collect()
}

#[test]
fn calls_that_wait_for_an_owner_go_in_the_order_they_were_begun_in() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let (mut pending, ids) = three(start);
    assert_eq!(to(&mut pending, ids), [0; 0], "they wait behind the first");
    pending.tick(at(50));
    assert_eq!(to(&mut pending, ids), [0], "which tries for all");
    pending.sent(ids[0], 1, Ok(0), at(51));
    pending.owner(&node(), true, 7, at(60));
    pending.tick(at(60));
    assert_eq!(to(&mut pending, ids), [0], "an owner is there");
    let fourth = CallId::now_v7();
    pending.begin(fourth, call(false, ""), Trace::default(), 3, None);
    assert_eq!(to(&mut pending, [ids[0], ids[1], fourth]), [0; 0], "who comes now waits too");
    pending.sent(ids[0], 2, Ok(1), at(61));
    assert_eq!(to(&mut pending, [ids[1], ids[2], fourth]), [0, 1, 2]);
    let fifth = CallId::now_v7();
    pending.begin(fifth, call(false, ""), Trace::default(), 4, None);
    assert_eq!(to(&mut pending, [fifth; 3]), [0], "nobody waits any more");
}

#[test]
fn a_call_that_moved_comes_before_those_that_were_begun_after_it() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let (mut pending, ids) = three(start);
    pending.tick(at(50));
    pending.sent(ids[0], 1, Ok(1), at(51));
    assert_eq!(to(&mut pending, ids), [0, 1, 2]);
    pending.sent(ids[1], 0, Ok(1), at(52));
    pending.sent(ids[2], 0, Ok(1), at(52));
    let answer = |id, body| envelope(id, &Trace::default(), body);
    for id in [ids[2], ids[0], ids[1]] {
        pending.reply(answer(id, outcome(true)), at(53));
    }
    for (ms, sent) in [(102, vec![]), (103, vec![0])] {
        pending.tick(at(ms));
        assert_eq!(to(&mut pending, ids), sent);
    }
    pending.reply(answer(ids[0], taken()), at(104));
    assert_eq!(to(&mut pending, ids), [1, 2], "an answer shows that somebody is there");
}

#[test]
fn those_behind_a_call_that_is_given_up_do_not_wait_for_it() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let (mut pending, ids) = three(start);
    pending.tick(at(50));
    assert_eq!(to(&mut pending, ids), [0]);
    pending.gone(ids[0]);
    pending.sent(ids[0], 1, Ok(0), at(51));
    assert_eq!(to(&mut pending, ids), [1], "the next one tries");
    pending.gone(ids[2]);
    pending.sent(ids[1], 0, Err(Error::Overloaded), at(52));
    let mut scene = Scene { pending, id: ids[1], start };
    assert_eq!(did(&mut scene.pending), ["cancel CANCELLED", "1: OVERLOADED"]);
    assert!(scene.pending.is_empty() && scene.tick(5000).is_empty());
}

#[test]
fn a_bus_that_fails_is_told_to_all_who_wait_at_once() {
    let start = Instant::now();
    let (mut pending, ids) = three(start);
    pending.tick(start + Duration::from_millis(50));
    to(&mut pending, ids);
    pending.sent(ids[0], 1, Err(Error::Overloaded), start + Duration::from_millis(51));
    assert_eq!(to(&mut pending, ids), [1, 2]);
}
