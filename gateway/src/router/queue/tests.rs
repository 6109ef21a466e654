use super::*;
use crate::{
    frame::{Frame, Seat},
    resume::{self, Draft, Name, Tokens},
};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use prost::Message;
use std::time::SystemTime;

const MINUTE: Duration = Duration::from_secs(60);

fn terms(policy: Policy) -> Terms {
    Terms { messages: 3, bytes: 1000, gaps: 3, policy, limit: 0, heartbeat: MINUTE, ids: true }
}

fn pen() -> Pen {
    let bearer = (&crate::caller::Caller::anonymous()).into();
    Pen { tokens: Tokens::new(Some("secret")), bearer, seat: None, named: false }
}

fn places(token: &str) -> Vec<(Name, Position)> {
    resume::places(pen().tokens.read(&pen().bearer, token, SystemTime::now()).unwrap())
}

fn full(name: &'static str) -> Name {
    Name::Full(Topic::from_static(name.as_bytes()))
}

fn p(seq: u64) -> Position {
    Position::new(5, seq)
}

struct Scene {
    feed: Feed,
    queue: Queue,
    notes: Notes,
    metrics: Arc<Metrics>,
}

impl Scene {
    /// One topic or two, both begun at 5-0.
    fn new(terms: Terms, topics: usize) -> Self {
        let (notes, metrics) = (Notes::default(), Arc::<Metrics>::default());
        let names = [(1, Topic::from_static(b"a")), (2, Topic::from_static(b"b"))];
        let (feed, queue) =
            queue(7, (terms, pen()), names[..topics].to_vec(), notes.clone(), metrics.clone());
        for slot in 0..topics {
            feed.start(slot, p(0), frames::event(Event::Start(Default::default()), Some(p(0))));
        }
        let mut scene = Self { feed, queue, notes, metrics };
        for _ in 0..topics {
            assert!(matches!(scene.next(), Some(Ok(_))));
        }
        scene
    }

    fn message(&self, slot: usize, seq: u64) {
        self.sized(slot, seq, 10);
    }

    fn sized(&self, slot: usize, seq: u64, bytes: usize) {
        let frame = Frame::new(Bytes::from_static(b""), Some(p(seq).to_string().into()));
        self.feed.message(slot, p(seq), bytes, Arc::new(frame));
    }

    fn next(&mut self) -> Option<Result<Delivery, Failure>> {
        self.queue.next().now_or_never().flatten()
    }

    /// All that is there, in words: a position, or what else it is.
    fn drain(&mut self) -> Vec<String> {
        let word = |next: Result<Delivery, Failure>| match next {
            Err(failure) => failure.reason,
            Ok(delivery) => {
                match v1::SubscriptionEvent::decode(delivery.frame.proto().clone()).unwrap().event {
                    None => delivery.frame.id().unwrap_or_default().to_owned(),
                    Some(Event::Gap(gap)) => format!("gap {}..{} {}", gap.after, gap.until, gap.skipped()),
                    Some(Event::End(end)) => format!("end {}", end.reason().as_str_name()),
                    Some(Event::Heartbeat(beat)) => format!("beat {:?}", beat.positions.get(&1)),
                    Some(other) => format!("{other:?}"),
                }
            }
        };
        std::iter::from_fn(|| self.next()).map(word).collect()
    }
}

#[tokio::test]
async fn a_slow_reader_that_wants_everything_is_ended_after_what_it_has() {
    let mut scene = Scene::new(terms(Policy::Disconnect), 1);
    (1..=5).for_each(|seq| scene.message(0, seq));
    assert_eq!(scene.drain(), ["5-1", "5-2", "5-3", "SLOW_READER"]);
    assert!(scene.queue.next().await.is_none());
}

#[tokio::test]
async fn where_it_goes_on_is_told_with_the_error() {
    let mut scene = Scene::new(terms(Policy::Disconnect), 1);
    (1..=4).for_each(|seq| scene.message(0, seq));
    let error = std::iter::from_fn(|| scene.next()).find_map(Result::err).unwrap();
    assert!(error.retry_after.is_some());
    assert_eq!(places(&error.metadata["resume"]), [(full("a"), p(3))]);
}

#[tokio::test]
async fn the_oldest_go_and_a_gap_says_how_many() {
    let mut scene = Scene::new(terms(Policy::DropOldest), 1);
    scene.message(0, 1);
    assert_eq!(scene.drain(), ["5-1"]);
    (2..=6).for_each(|seq| scene.message(0, seq));
    assert_eq!(scene.drain(), ["gap 5-1..5-3 2", "5-4", "5-5", "5-6"]);
    scene.sized(0, 7, 600);
    scene.sized(0, 8, 600);
    assert_eq!(scene.drain(), ["gap 5-6..5-7 1", "5-8"], "bytes are bounded too");
    scene.sized(0, 9, 5000);
    assert_eq!(scene.drain(), ["5-9"], "one larger than the queue goes alone");
}

#[tokio::test]
async fn only_the_newest_of_each_topic_waits() {
    let mut scene = Scene::new(terms(Policy::Latest), 2);
    for (slot, seq) in [(0, 1), (1, 1), (0, 2), (0, 3), (1, 2)] {
        scene.message(slot, seq);
    }
    assert_eq!(scene.drain(), ["gap 5-0..5-2 2", "gap 5-0..5-1 1", "5-3", "5-2"]);
}

#[tokio::test]
async fn a_reader_of_several_topics_hears_where_all_of_them_go_on() {
    let mut scene = Scene::new(terms(Policy::Disconnect), 2);
    scene.message(0, 4);
    scene.message(1, 9);
    let first = scene.next().unwrap().unwrap();
    assert_eq!(places(first.id().unwrap()), [(full("a"), p(4)), (full("b"), p(0))]);
    scene.feed.end(0, end::Reason::Deleted);
    assert_eq!(scene.drain(), ["5-9", "end DELETED"]);
    scene.feed.end(1, end::Reason::Deleted);
    assert_eq!(scene.drain(), ["end DELETED"]);
    assert!(scene.queue.next().await.is_none(), "the last topic ends the stream");
}

#[tokio::test]
async fn where_nobody_writes_it_a_frame_costs_no_token() {
    let mut scene = Scene::new(Terms { ids: false, ..terms(Policy::Disconnect) }, 2);
    scene.message(0, 4);
    assert_eq!(scene.next().unwrap().unwrap().resume, None);
    scene.feed.fail(Box::new(v1::Error::new(Reason::Draining, "")));
    let error = scene.next().unwrap().unwrap_err();
    assert!(error.metadata.contains_key("resume"), "the end says it all the same");
}

#[tokio::test]
async fn slow_readers_and_what_they_lose_are_counted() {
    let mut cut = Scene::new(terms(Policy::Disconnect), 1);
    (1..=9).for_each(|seq| cut.message(0, seq));
    assert_eq!((cut.metrics.slow.get(), cut.metrics.skipped.get()), (1, 0), "once, however long it goes on");
    let mut dropping = Scene::new(terms(Policy::DropOldest), 1);
    (1..=9).for_each(|seq| dropping.message(0, seq));
    dropping.drain();
    let gap = Gap { after: p(9), until: p(20), reason: gap::Reason::Trimmed };
    dropping.feed.gap(0, gap, frames::event(frames::gap(1, gap, None, false), Some(p(20))));
    let metrics = &dropping.metrics;
    assert_eq!((metrics.slow.get(), metrics.skipped.get()), (0, 6));
    let told = |reason| metrics.gaps.get_or_create(&crate::router::ByReason { reason }).get();
    assert_eq!((told("SLOW"), told("TRIMMED"), told("REWOUND")), (1, 1, 0));
    cut.drain();
}

#[tokio::test]
async fn a_limit_ends_the_stream_exactly() {
    let mut scene = Scene::new(Terms { limit: 2, ..terms(Policy::Disconnect) }, 1);
    (1..=3).for_each(|seq| scene.message(0, seq));
    assert_eq!(scene.drain(), ["5-1", "5-2", "end LIMIT"]);
    assert!(scene.queue.next().await.is_none());
}

#[tokio::test]
async fn silence_is_broken_and_says_how_far_the_reader_is() {
    let mut scene = Scene::new(terms(Policy::Disconnect), 1);
    scene.feed.pass(0, p(8));
    let now = Instant::now();
    assert!(scene.feed.beat(now) <= now + MINUTE);
    assert!(scene.next().is_none(), "it has not been silent for long");
    scene.message(0, 8);
    scene.feed.beat(now + 2 * MINUTE);
    assert!(scene.next().unwrap().unwrap().frame.id() == Some("5-8") && scene.next().is_none());
    assert!(scene.feed.beat(now + 2 * MINUTE) == now + 3 * MINUTE);
    let beat = scene.next().unwrap().unwrap();
    let event = v1::SubscriptionEvent::decode(beat.frame.proto().clone()).unwrap().event;
    let Some(Event::Heartbeat(beat)) = event else { panic!("{event:?}") };
    assert_eq!(beat.positions[&1], "5-8", "filtered messages included");
    assert_eq!(places(&beat.resume), [(full("a"), p(8))]);
}

#[tokio::test]
async fn the_loop_hears_when_there_is_room_and_when_the_reader_goes() {
    let mut scene = Scene::new(terms(Policy::Disconnect), 1);
    (1..=3).for_each(|seq| scene.message(0, seq));
    assert!(!scene.feed.has_room(1) && !scene.feed.rested());
    assert!(scene.next().is_some());
    assert_eq!(scene.notes.take(), [], "two of three are more than half");
    assert!(scene.next().is_some());
    assert_eq!(scene.notes.take(), [Note::Drained(7)]);
    assert!(scene.next().is_some() && scene.notes.take().is_empty(), "said once");
    drop(scene.queue);
    assert_eq!(scene.notes.take(), [Note::Left(7)]);
}

#[tokio::test]
async fn a_waiting_reader_is_woken() {
    let mut scene = Scene::new(terms(Policy::Disconnect), 1);
    let feed = scene.feed.clone();
    let frame = Arc::new(Frame::new(Bytes::new(), None));
    let (next, ()) = tokio::join!(scene.queue.next(), async {
        tokio::task::yield_now().await;
        feed.message(0, p(1), 1, frame);
    });
    assert!(next.unwrap().is_ok());
}

#[tokio::test]
async fn gaps_that_nobody_takes_end_the_reader_as_slow() {
    for policy in [Policy::Disconnect, Policy::DropOldest, Policy::Latest] {
        let mut scene = Scene::new(terms(policy), 1);
        for seq in 1..=9 {
            let gap = Gap { after: p(seq), until: p(seq + 1), reason: gap::Reason::Trimmed };
            scene.feed.gap(0, gap, frames::event(frames::gap(1, gap, None, false), Some(p(seq + 1))));
        }
        let said = scene.drain();
        assert_eq!(said.len(), 4, "three gaps and the end: {said:?}");
        assert_eq!(said[3], "SLOW_READER");
        assert_eq!(scene.metrics.slow.get(), 1);
    }
}

#[tokio::test]
async fn a_session_hears_where_its_streams_go_on_whatever_has_reached_it() {
    let (mut scene, seat) =
        (Scene::new(terms(Policy::Disconnect), 2), Seat::new(Box::new(|_| b"again".to_vec())));
    let drawn = |seat: &Seat| {
        let mut draft = Draft::new(SystemTime::now());
        seat.draw(&mut draft);
        let token = pen().tokens.seal(draft, &pen().bearer);
        let mut formers = pen().tokens.read(&pen().bearer, &token, SystemTime::now()).unwrap();
        assert_eq!(&formers[0].again[..], b"again");
        formers.remove(0).places
    };
    assert_eq!(drawn(&seat), [], "it has not begun");
    let cursor: std::sync::Weak<Mutex<State>> = Arc::downgrade(&scene.queue.state);
    seat.take(cursor);
    scene.message(0, 1);
    scene.message(1, 5);
    assert_eq!(drawn(&seat), [(full("a"), p(0)), (full("b"), p(0))], "what waits was not taken");
    scene.next();
    scene.next();
    assert_eq!(drawn(&seat), [(full("a"), p(1)), (full("b"), p(5))]);
    seat.hold(true);
    assert_eq!(drawn(&seat), [(full("a"), p(1)), (full("b"), p(0))], "the last one waits for credit");
    drop(scene);
    assert_eq!(drawn(&seat), []);
}
