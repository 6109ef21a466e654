use super::*;
use crate::router::{place, queue::Policy, reader::tests as logs};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use plexus_proto::v1::subscription_event::{Event, Gap, Start, gap::Reason as GapReason};
use proptest::prelude::*;
use prost::Message;
use std::collections::BTreeMap;

const LINGER: Duration = Duration::from_secs(60);

/// Subscriptions over a log in memory, whose orders are carried out at once.
struct Scene {
    subscriptions: Subscriptions,
    notes: Notes,
    log: logs::Model,
    now: Instant,
    /// What the owner answers to a join.
    join: Result<(), Failure>,
    left: usize,
    followed: usize,
}

/// A client: what it was told, in words, and what it holds.
struct Client {
    queue: Queue,
    starts: Vec<Start>,
    gaps: Vec<Gap>,
    /// Position and payload, in the order they came.
    messages: Vec<(String, String)>,
    ended: Option<String>,
}

type Answer = oneshot::Receiver<Result<Queue, Failure>>;

impl Scene {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(edit: impl FnOnce(&mut config::Router)) -> Self {
        let mut config = config::Router { linger: LINGER, ..config::Router::default() };
        edit(&mut config);
        let notes = Notes::default();
        Self {
            subscriptions: Subscriptions::new(config, notes.clone(), Arc::default()),
            notes,
            log: logs::Model::default(),
            now: Instant::now(),
            join: Ok(()),
            left: 0,
            followed: 0,
        }
    }

    fn wish(topics: &[&'static str], after: After) -> Wish {
        Wish {
            node: NodeName::new("default", "n").unwrap(),
            topics: topics.iter().map(|t| (Bytes::from_static(t.as_bytes()), after)).collect(),
            terms: Terms {
                messages: 4,
                bytes: 1 << 20,
                gaps: 256,
                policy: Policy::Disconnect,
                limit: 0,
                heartbeat: LINGER,
                ids: true,
            },
            pen: Pen {
                tokens: crate::resume::Tokens::new(Some("secret")),
                bearer: (&crate::caller::Caller::anonymous()).into(),
                seat: None,
                named: false,
            },
            view: View::Text,
            filter: Filter::default(),
            require_recovery: false,
        }
    }

    fn ask(&mut self, wish: Wish) -> Answer {
        let (answer, waiting) = oneshot::channel();
        self.subscriptions.subscribe(wish, answer, self.now);
        self.settle();
        waiting
    }

    fn client(&mut self, after: &str) -> Client {
        self.with_wish(Self::wish(&["a"], after.parse().unwrap()))
    }

    fn with_wish(&mut self, wish: Wish) -> Client {
        let mut answer = self.ask(wish);
        for _ in 0..40 {
            if let Ok(queue) = answer.try_recv() {
                return Client::new(queue.expect("it begins"));
            }
            self.pass(Duration::from_millis(100));
        }
        panic!("it does not begin");
    }

    fn refused(&mut self, wish: Wish) -> String {
        let mut answer = self.ask(wish);
        for _ in 0..40 {
            if let Ok(result) = answer.try_recv() {
                return result.err().expect("it is refused").reason;
            }
            self.pass(Duration::from_millis(100));
        }
        panic!("it is not refused");
    }

    /// Carries out all orders.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut orders = self.subscriptions.take();
            for note in self.notes.take() {
                self.subscriptions.note(note, self.now);
            }
            orders.extend(self.subscriptions.take());
            if orders.is_empty() {
                return;
            }
            orders.into_iter().for_each(|order| self.carry_out(order));
        }
        panic!("it never comes to rest");
    }

    fn carry_out(&mut self, order: Order) {
        let (now, log) = (self.now, &self.log);
        match order {
            Order::Follow { t, .. } => {
                self.followed += 1;
                self.subscriptions.listening(t, Ok(()), now);
            }
            Order::Join { t, .. } => self.subscriptions.joined(t, self.join.clone(), now),
            Order::Facts { t, .. } => {
                let first = log.log.first();
                let said = log.log.iter().find(|e| !e.messages.is_empty());
                let facts = Facts {
                    start: first.map(|e| place::before(e)),
                    oldest: said.map(|e| Position::new(e.epoch, place::before(e).seq + 1)),
                    top: log.tail,
                    nonce: log.log.last().map_or(0, |e| e.nonce),
                };
                self.subscriptions.facts(t, Ok(facts), now);
            }
            Order::Read { t, ask, .. } => {
                let found = logs::look(&log.log, log.tail, ask.place, 8);
                self.subscriptions.found(t, ask.ticket, Some(found), now);
            }
            Order::ReadFor { id, slot, place, limit, .. } => {
                let found = logs::look(&log.log, log.tail, place, limit);
                self.subscriptions.found_for(id, slot, Some(found), now);
            }
            Order::Leave { t, .. } => {
                self.left += 1;
                self.subscriptions.left(t, true, now);
            }
        }
    }

    /// Time passes, and the log is looked at where that is due.
    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.subscriptions.tick(self.now);
        self.settle();
        let due = self.subscriptions.sweep(self.now);
        let tops = due.into_iter().map(|(t, ticket, ..)| (t, ticket, self.log.tail)).collect();
        self.subscriptions.compare(tops, self.now);
        self.settle();
    }

    /// Appends messages and says so live.
    fn say(&mut self, entries: u64) {
        for _ in 0..entries {
            self.log.append(1);
        }
        self.deliver(usize::MAX);
    }

    fn deliver(&mut self, entries: usize) {
        let entries = entries.min(self.log.live.len());
        for entry in self.log.live.drain(..entries).collect::<Vec<_>>() {
            let ts: Vec<u32> = self.subscriptions.topics.keys().copied().collect();
            ts.into_iter().for_each(|t| self.subscriptions.live(t, entry.clone(), self.now));
            self.settle();
        }
    }

    /// Appends messages that no live frame tells of.
    fn whisper(&mut self, entries: u64) {
        (0..entries).for_each(|_| self.log.append(1));
        self.log.live.clear();
    }

    /// Lets clients read all they can.
    fn drain(&mut self, clients: &mut [&mut Client]) {
        for _ in 0..1000 {
            // Every client reads, whatever the others heard.
            let heard = clients.iter_mut().map(|client| client.read()).filter(|heard| *heard).count() > 0;
            self.settle();
            if !heard {
                return;
            }
        }
        panic!("they never stop reading");
    }
}

impl Client {
    fn new(queue: Queue) -> Self {
        Self { queue, starts: Vec::new(), gaps: Vec::new(), messages: Vec::new(), ended: None }
    }

    /// Takes what is there; true: something was.
    fn read(&mut self) -> bool {
        let mut heard = false;
        while let Some(next) = self.queue.next().now_or_never() {
            let Some(next) = next else { break };
            heard = true;
            match next {
                Err(failure) => self.ended = Some(failure.reason),
                Ok(delivery) => {
                    self.hear(
                        v1::SubscriptionEvent::decode(delivery.frame.proto().clone()).unwrap().event.unwrap(),
                    );
                }
            }
        }
        heard
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Start(start) => self.starts.push(start),
            Event::Gap(gap) => self.gaps.push(gap),
            Event::Message(m) => {
                assert!(!self.starts.is_empty(), "a message before its start");
                let Some(v1::message::Payload::Text(text)) = m.payload else { panic!("{m:?}") };
                self.messages.push((m.position, text));
            }
            Event::End(end) => self.ended = Some(end.reason().as_str_name().into()),
            other => panic!("{other:?}"),
        }
    }

    fn positions(&self) -> Vec<&str> {
        self.messages.iter().map(|(at, _)| at.as_str()).collect()
    }
}

#[tokio::test]
async fn a_reader_begins_at_the_end_and_hears_what_comes() {
    let mut scene = Scene::new();
    scene.say(3);
    let mut client = scene.client("$");
    scene.say(2);
    scene.drain(&mut [&mut client]);
    assert_eq!(client.positions(), ["10-4", "10-5"]);
    let start = &client.starts[0];
    assert_eq!((&*start.position, &*start.oldest, &*start.top), ("10-3", "10-1", "10-3"));
    assert!(start.recovered && start.joined);
    assert!(client.gaps.is_empty());
}

#[tokio::test]
async fn from_any_position_each_message_comes_once() {
    for after in 0..=9_u64 {
        let mut scene = Scene::new();
        scene.say(4);
        scene.log.append(5);
        scene.deliver(9);
        let mut first = scene.client("$");
        let mut client = scene.client(&format!("10-{after}"));
        for _ in 0..3 {
            scene.say(1);
            scene.drain(&mut [&mut client, &mut first]);
        }
        let expected: Vec<_> = (after + 1..=12).map(|seq| format!("10-{seq}")).collect();
        assert_eq!(client.positions(), expected, "after {after}");
        assert!(client.starts[0].recovered && client.gaps.is_empty());
        assert_eq!(client.starts[0].position, format!("10-{after}"));
    }
}

#[tokio::test]
async fn from_the_start_everything_kept_comes_without_a_gap() {
    let mut scene = Scene::new();
    scene.say(9);
    scene.log.log.drain(..4);
    let mut client = scene.client("0");
    scene.drain(&mut [&mut client]);
    assert_eq!(client.positions(), ["10-4", "10-5", "10-6", "10-7", "10-8", "10-9"]);
    assert!(client.starts[0].recovered && client.gaps.is_empty());
    let mut empty = Scene::new();
    let mut client = empty.client("0");
    empty.say(1);
    empty.drain(&mut [&mut client]);
    assert_eq!(client.positions(), ["10-1"]);
}

#[tokio::test]
async fn a_position_this_gateway_has_not_heard_of_yet_makes_it_read() {
    let mut scene = Scene::new();
    scene.say(2);
    let mut first = scene.client("$");
    scene.whisper(3);
    let mut client = scene.client("10-4");
    scene.drain(&mut [&mut first, &mut client]);
    assert_eq!(first.positions(), ["10-3", "10-4", "10-5"], "and everybody profits");
    assert_eq!(client.positions(), ["10-5"]);
    assert!(client.starts[0].recovered && client.gaps.is_empty() && first.gaps.is_empty());
}

#[tokio::test]
async fn a_position_that_cannot_be_continued_is_told_or_refused() {
    type Row = (&'static str, GapReason, &'static str, fn(&mut logs::Model));
    let table: [Row; 4] = [
        ("10-2", GapReason::Trimmed, "POSITION_TRIMMED", |log| drop(log.log.drain(..6))),
        ("10-9", GapReason::Rewound, "POSITION_AHEAD", |_| {}),
        ("11-1", GapReason::UnknownEpoch, "UNKNOWN_EPOCH", |_| {}),
        ("10-8", GapReason::Rewound, "POSITION_AHEAD", |log| log.lose(3, false)),
    ];
    for (after, reason, refusal, hardship) in table {
        let mut scene = Scene::new();
        scene.say(8);
        hardship(&mut scene.log);
        scene.log.live.clear();
        let mut wish = Scene::wish(&["a"], after.parse().unwrap());
        wish.require_recovery = true;
        assert_eq!(scene.refused(wish), refusal, "{after}");
        let mut client = scene.client(after);
        (0..40).for_each(|_| scene.pass(Duration::from_millis(100)));
        scene.drain(&mut [&mut client]);
        assert_eq!(client.gaps[0].reason(), reason, "{after}");
        assert!(!client.starts[0].recovered, "{after}");
        assert_eq!(client.starts[0].position, client.gaps[0].until, "{after}");
    }
}

#[tokio::test]
async fn a_slow_reader_is_ended_and_never_delays_another() {
    let mut scene = Scene::new();
    let (mut slow, mut quick) = (scene.client("$"), scene.client("$"));
    for _ in 0..20 {
        scene.say(1);
        scene.drain(&mut [&mut quick]);
    }
    assert_eq!(quick.messages.len(), 20);
    scene.drain(&mut [&mut slow]);
    assert_eq!(slow.positions(), ["10-1", "10-2", "10-3", "10-4"], "what waited is still delivered");
    assert_eq!(slow.ended.as_deref(), Some("SLOW_READER"));
    // It comes back where it was, and nothing is lost.
    let mut back = scene.client("10-4");
    scene.drain(&mut [&mut back]);
    assert_eq!(back.messages.len(), 16);
}

#[tokio::test]
async fn a_repair_is_no_fault_of_the_reader() {
    let mut scene = Scene::new();
    let mut client = scene.client("$");
    scene.whisper(50);
    scene.pass(Duration::from_secs(6));
    scene.say(1);
    scene.drain(&mut [&mut client]);
    assert_eq!((client.messages.len(), client.ended), (51, None));
    scene.say(1);
    client.ended = None;
    scene.drain(&mut [&mut client]);
    assert_eq!(client.messages.len(), 52, "it moves with the topic again");
}

#[tokio::test]
async fn a_long_way_back_is_read_at_the_readers_pace() {
    let mut scene = Scene::new();
    scene.say(300);
    let mut client = scene.client("0");
    let waiting = |client: &mut Client| {
        client.read();
        client.messages.len()
    };
    let first = waiting(&mut client);
    assert!(first <= 4, "no more than its queue: {first}");
    for _ in 0..300 {
        scene.settle();
        scene.say(1);
        client.read();
    }
    scene.drain(&mut [&mut client]);
    let expected: Vec<_> = (1..=600).map(|seq| format!("10-{seq}")).collect();
    assert!(client.positions() == expected, "{:?}", client.positions());
    assert_eq!(client.ended, None, "live messages did not run it over meanwhile");
}

#[tokio::test]
async fn interest_outlives_the_last_reader_for_a_while() {
    let mut scene = Scene::new();
    drop(scene.client("$"));
    scene.pass(Duration::from_secs(1));
    scene.pass(LINGER - Duration::from_secs(2));
    assert_eq!(scene.left, 0);
    let client = scene.client("$");
    scene.pass(LINGER * 2);
    assert_eq!((scene.left, scene.followed), (0, 1), "a reader came back in time");
    drop(client);
    scene.pass(Duration::from_secs(1));
    scene.pass(LINGER + Duration::from_secs(1));
    assert_eq!(scene.left, 1);
    assert!(scene.subscriptions.topics.is_empty() && scene.subscriptions.names.is_empty());
    assert!(scene.subscriptions.nodes.is_empty());
    let _again = scene.client("$");
    assert_eq!(scene.followed, 2);
}

#[tokio::test]
async fn interest_that_cannot_be_withdrawn_is_withdrawn_later() {
    let mut scene = Scene::new();
    drop(scene.client("$"));
    scene.settle();
    scene.now += LINGER * 2;
    scene.subscriptions.sweep(scene.now);
    let orders = scene.subscriptions.take();
    let [Order::Leave { t, .. }] = orders[..] else { panic!("{orders:?}") };
    scene.subscriptions.left(t, false, scene.now);
    assert!(scene.subscriptions.take().is_empty());
    scene.pass(Duration::from_secs(1));
    assert_eq!(scene.left, 1);
    assert!(scene.subscriptions.topics.is_empty());
}

#[tokio::test]
async fn a_reader_that_comes_while_a_topic_is_left_begins_anew() {
    let mut scene = Scene::new();
    drop(scene.client("$"));
    scene.settle();
    scene.now += LINGER * 2;
    scene.subscriptions.sweep(scene.now);
    let orders = scene.subscriptions.take();
    let [Order::Leave { t, .. }] = orders[..] else { panic!("{orders:?}") };
    let mut answer = scene.ask(Scene::wish(&["a"], After::End));
    assert!(answer.try_recv().is_err(), "it waits until interest is withdrawn");
    scene.subscriptions.left(t, true, scene.now);
    scene.settle();
    let mut client = Client::new(answer.try_recv().unwrap().unwrap());
    scene.say(1);
    scene.drain(&mut [&mut client]);
    assert_eq!((client.messages.len(), scene.followed), (1, 2));
}

#[tokio::test]
async fn an_owner_that_refuses_is_heard_and_one_that_is_missing_is_not_waited_for() {
    let failure = |reason| Err(Box::new(v1::Error::new(reason, "")));
    for reason in [Reason::TopicLimit, Reason::NodeNotFound, Reason::NodeStopped, Reason::NodeQuarantined] {
        let mut scene = Scene::new();
        scene.join = failure(reason);
        assert_eq!(scene.refused(Scene::wish(&["a"], After::End)), reason.as_str_name());
        assert_eq!(scene.left, 1, "nothing is wanted any more");
    }
    let mut scene = Scene::new();
    scene.join = failure(Reason::NoOwner);
    let mut client = scene.client("$");
    scene.drain(&mut [&mut client]);
    assert!(!client.starts[0].joined);
    scene.join = Ok(());
    let mut client = scene.client("$");
    scene.drain(&mut [&mut client]);
    assert!(client.starts[0].joined, "the next reader asks again");
}

#[tokio::test]
async fn a_node_that_is_deleted_ends_its_topics() {
    let mut scene = Scene::new();
    scene.say(1);
    let (mut client, node) = (scene.client("0"), NodeName::new("default", "n").unwrap());
    scene.subscriptions.deleted(&node, scene.now);
    scene.settle();
    scene.drain(&mut [&mut client]);
    assert_eq!((client.positions(), client.ended.as_deref()), (vec!["10-1"], Some("DELETED")));
    assert!(!scene.subscriptions.follows(&node));
}

#[tokio::test]
async fn a_reader_that_comes_while_a_missing_node_is_forgotten_is_told() {
    let mut scene = Scene::new();
    let (node, mut now) = (NodeName::new("default", "n").unwrap(), scene.now);
    let (answer, mut first) = oneshot::channel();
    scene.subscriptions.subscribe(Scene::wish(&["a"], After::End), answer, now);
    let follow = scene.subscriptions.take();
    assert!(matches!(follow[..], [Order::Follow { .. }]), "{follow:?}");
    // Another call finds that the node is missing, while the topic's subject is still under way.
    scene.subscriptions.deleted(&node, now);
    assert_eq!(first.try_recv().unwrap().err().unwrap().reason, "NODE_NOT_FOUND");
    let leave = scene.subscriptions.take();
    assert!(leave.is_empty(), "interest that is being written cannot be withdrawn: {leave:?}");
    now += Duration::from_millis(1);
    let (answer, mut second) = oneshot::channel();
    scene.subscriptions.subscribe(Scene::wish(&["a"], After::End), answer, now);
    let missing = v1::Error::new(Reason::NodeNotFound, "node \"n\" does not exist");
    scene.join = Err(Box::new(missing));
    follow.into_iter().for_each(|order| scene.carry_out(order));
    scene.settle();
    assert_eq!(second.try_recv().unwrap().err().unwrap().reason, "NODE_NOT_FOUND");
    assert!(!scene.subscriptions.follows(&node), "nothing is left of it");
    assert_eq!((scene.followed, scene.left), (1, 1));
}

#[tokio::test]
async fn a_topic_that_nobody_wants_any_more_is_left_once_it_is_followed() {
    let mut scene = Scene::new();
    let node = NodeName::new("default", "n").unwrap();
    let (answer, _first) = oneshot::channel();
    scene.subscriptions.subscribe(Scene::wish(&["a"], After::End), answer, scene.now);
    let follow = scene.subscriptions.take();
    scene.subscriptions.deleted(&node, scene.now);
    follow.into_iter().for_each(|order| scene.carry_out(order));
    scene.settle();
    assert_eq!((scene.followed, scene.left), (1, 1));
    assert!(!scene.subscriptions.follows(&node));
}

#[tokio::test]
async fn several_topics_begin_together_and_each_before_its_messages() {
    let mut scene = Scene::new();
    scene.say(2);
    let mut client = scene.with_wish(Scene::wish(&["a", "b"], After::Start));
    scene.drain(&mut [&mut client]);
    let names: Vec<_> = client.starts.iter().map(|s| s.topic.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_ne!(client.starts[0].t, client.starts[1].t);
    assert_eq!(client.messages.len(), 4);
}

#[tokio::test]
async fn more_than_the_bounds_is_refused() {
    let mut scene = Scene::with(|config| (config.readers_max, config.topics_max) = (2, 1));
    let _first = scene.client("$");
    assert_eq!(scene.refused(Scene::wish(&["b"], After::End)), "OVERLOADED", "topics");
    let _second = scene.client("$");
    assert_eq!(scene.refused(Scene::wish(&["a"], After::End)), "OVERLOADED", "readers");
}

#[tokio::test]
async fn draining_ends_every_stream_and_takes_no_more() {
    let mut scene = Scene::new();
    scene.say(1);
    let mut client = scene.client("0");
    scene.subscriptions.drain(scene.now);
    scene.drain(&mut [&mut client]);
    assert_eq!((client.messages.len(), client.ended.as_deref()), (1, Some("DRAINING")));
    assert_eq!(scene.refused(Scene::wish(&["a"], After::End)), "DRAINING");
}

#[tokio::test]
async fn messages_that_do_not_pass_still_move_the_position() {
    let mut scene = Scene::new();
    let filter = Filter { data_prefix: "1".into(), ..Filter::default() };
    let mut client = scene.with_wish(Wish { filter, ..Scene::wish(&["a"], After::End) });
    scene.say(12);
    scene.drain(&mut [&mut client]);
    assert_eq!(client.positions(), ["10-1", "10-10", "10-11", "10-12"]);
    assert_eq!(client.ended, None, "what is filtered fills no queue");
}

#[derive(Clone, Debug)]
enum Deed {
    Append(u8),
    Open,
    Trim(u8),
    Lose {
        entries: u8,
        owner_lives: bool,
    },
    Deliver(u8),
    DropLive(u8),
    Pass,
    /// A client comes: at the end, at the start, or where a client before it was.
    Come(u8),
    Read(u8),
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let deed = prop_oneof![
        8 => (1..4u8).prop_map(Deed::Append),
        1 => Just(Deed::Open),
        1 => (1..5u8).prop_map(Deed::Trim),
        1 => (1..6u8, any::<bool>()).prop_map(|(entries, owner_lives)| Deed::Lose { entries, owner_lives }),
        6 => (1..5u8).prop_map(Deed::Deliver),
        1 => (1..5u8).prop_map(Deed::DropLive),
        2 => Just(Deed::Pass),
        2 => any::<u8>().prop_map(Deed::Come),
        4 => any::<u8>().prop_map(Deed::Read),
    ];
    proptest::collection::vec(deed, 1..60)
}

/// A client and what it holds, gaps taken into account.
#[derive(Default)]
struct Held {
    seen: BTreeMap<Position, String>,
    gaps: Vec<(Position, Position)>,
    at: Position,
    start: Position,
}

impl Held {
    /// Goes through what a client was told, in order.
    fn hear(client: &mut Client, held: &mut Self) -> Result<(), TestCaseError> {
        while let Some(Some(next)) = client.queue.next().now_or_never() {
            let Ok(delivery) = next else {
                client.ended = Some("failed".into());
                continue;
            };
            match v1::SubscriptionEvent::decode(delivery.frame.proto().clone()).unwrap().event.unwrap() {
                Event::Start(start) => {
                    held.at = start.position.parse().unwrap();
                    held.start = held.at;
                }
                Event::Gap(gap) => {
                    let (after, until) = (gap.after.parse().unwrap(), gap.until.parse().unwrap());
                    held.gaps.push((after, until));
                    held.seen.retain(|at, _| *at <= after);
                    held.at = until;
                }
                Event::Message(m) => {
                    let at: Position = m.position.parse().unwrap();
                    prop_assert!(at > held.at, "{} after {}", at, held.at);
                    held.at = at;
                    let Some(v1::message::Payload::Text(text)) = m.payload else { panic!("{m:?}") };
                    prop_assert!(held.seen.insert(at, text).is_none(), "{} twice without a gap", at);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn run(deeds: Vec<Deed>) -> Result<(), TestCaseError> {
    let mut scene = Scene::new();
    let mut clients: Vec<(Client, Held)> = Vec::new();
    for deed in deeds {
        scene.now += Duration::from_millis(50);
        match deed {
            Deed::Append(n) => scene.log.append(u64::from(n)),
            Deed::Open => scene.log.open_above(true, 7 + scene.log.mark),
            Deed::Trim(n) => {
                let n = usize::from(n).min(scene.log.log.len());
                scene.log.log.drain(..n);
            }
            Deed::Lose { entries, owner_lives } => scene.log.lose(usize::from(entries), owner_lives),
            Deed::Deliver(n) => scene.deliver(usize::from(n)),
            Deed::DropLive(n) => drop(scene.log.live.drain(..usize::from(n).min(scene.log.live.len()))),
            Deed::Pass => scene.pass(Duration::from_millis(2500)),
            Deed::Come(n) => {
                let known = clients.get(usize::from(n) % (clients.len() + 1)).map(|(_, held)| held.at);
                let after = known.map_or(if n % 2 == 0 { After::End } else { After::Start }, After::Position);
                let mut wish = Scene::wish(&["a"], after);
                wish.terms.messages = 1 + usize::from(n % 5) * 16;
                let client = scene.with_wish(wish);
                clients.push((client, Held::default()));
            }
            Deed::Read(n) => {
                let len = clients.len().max(1);
                if let Some((client, held)) = clients.get_mut(usize::from(n) % len) {
                    Held::hear(client, held)?;
                }
                scene.settle();
            }
        }
    }
    scene.log.live.clear();
    for _ in 0..20 {
        for _ in 0..50 {
            for (client, held) in &mut clients {
                Held::hear(client, held)?;
            }
            scene.settle();
        }
        scene.pass(Duration::from_millis(2500));
    }
    for (i, (client, held)) in clients.iter().enumerate() {
        if client.ended.is_some() {
            continue; // it was slow, and was told
        }
        for entry in &scene.log.log {
            for (seq, message) in crate::router::frames::numbered(entry) {
                let at = Position::new(entry.epoch, seq);
                let begun = at > held.start;
                let told = held.gaps.iter().any(|(after, until)| *after < at && at <= *until);
                let text = String::from_utf8_lossy(&message.data).into_owned();
                let seen = held.seen.get(&at);
                prop_assert!(
                    !begun || told || seen == Some(&text),
                    "client {} holds {:?} at {}, not {}",
                    i,
                    seen,
                    at,
                    text
                );
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn whoever_comes_from_wherever_loses_nothing_in_silence(deeds in deeds()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _entered = runtime.enter();
        run(deeds)?;
    }
}
