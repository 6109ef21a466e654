//! A reader that stops reading: what it costs, what it is told, and that nobody else notices. The product
//! runs as a process of its own, so that its memory can be read. `PLEXUS_SLOW_SECONDS=60` stops longer.

use crate::dialects::{
    rpc::{Failure, Rpc},
    ws::{Heard, Session, Terms},
};
use futures::{SinkExt, StreamExt};
use plexus_tests::{
    Ground, Http, Lines, eventually,
    process::Plexus,
    redis::{Role, Store},
};
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

const PATH: &str = "/v1/topics/busy/messages";
/// Bytes of a payload.
const PAYLOAD: usize = 1 << 10;
/// Messages a second.
const RATE: usize = 1_000;
/// Messages that must pass while the readers stand still: more than a queue and all that the kernel holds.
const PASS: usize = 6_000;
/// What a reader that stands still may keep in the process: its queue (1 MiB), what waits on its session (1
/// MiB), and what hyper and tungstenite hold at the socket (256 KiB).
const READER_BYTES: u64 = (2 << 20) + (256 << 10);
/// What the allocator and everything else may move meanwhile. A reader whose messages were kept would cost
/// another 1.3 MiB each second, so four of them 26 MiB in the shortest run.
const SLACK_BYTES: u64 = 12 << 20;

/// When each message was sent, by its number, in nanoseconds since the beginning.
struct Load {
    began: Instant,
    sent: Vec<AtomicU64>,
    count: AtomicUsize,
    stop: CancellationToken,
}

impl Load {
    fn new() -> Arc<Self> {
        let sent = (0..400_000).map(|_| AtomicU64::new(0)).collect();
        let (began, count, stop) = (Instant::now(), AtomicUsize::new(0), CancellationToken::new());
        Arc::new(Self { began, sent, count, stop })
    }

    /// Publishes at the rate on one session, several at once but not more than a session may.
    async fn run(self: Arc<Self>, address: SocketAddr) {
        let session = Session::open(address, None).await;
        let (mut tell, mut hear) = session.socket.split();
        let room = Arc::new(Semaphore::new(200));
        let mut answers = JoinSet::new();
        let freed = room.clone();
        answers.spawn(async move {
            while let Some(Ok(message)) = hear.next().await {
                if let Message::Text(text) = message {
                    // On a machine that is too busy an answer comes too late; the load goes on.
                    let fine =
                        ["\"result\"", "\"ping\"", "OWNER_CHANGED"].iter().any(|sign| text.contains(sign));
                    assert!(fine, "{text}");
                    freed.add_permits(1);
                }
            }
        });
        let mut clock = tokio::time::interval(Duration::from_millis(10));
        while self.stop.run_until_cancelled(clock.tick()).await.is_some() {
            for _ in 0..RATE / 100 {
                tokio::select! {
                    room = room.acquire() => room.unwrap().forget(),
                    ended = answers.join_next() => panic!("the answers ended: {ended:?}"),
                }
                let n = self.count.fetch_add(1, Ordering::SeqCst);
                let text = format!("{n:08} {}", "x".repeat(PAYLOAD - 9));
                let params = json!({"topic": "busy", "text": text});
                let frame = json!({"id": n + 1, "call": "TopicService.Publish", "params": params});
                self.sent[n].store(self.began.elapsed().as_nanos() as u64, Ordering::SeqCst);
                tell.send(Message::Text(frame.to_string().into())).await.unwrap();
            }
        }
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    async fn reaches(&self, count: usize) {
        let there = || std::future::ready(if self.count() < count { Err(self.count()) } else { Ok(()) });
        eventually(Duration::from_secs(120), there).await;
    }

    /// How long message `n` was under way, if it arrived now.
    fn delay(&self, n: usize) -> Duration {
        self.began.elapsed().saturating_sub(Duration::from_nanos(self.sent[n].load(Ordering::SeqCst)))
    }
}

/// A reader of either dialect, event by event.
enum Reader {
    Sse(Box<Lines>),
    WebSocket(Box<Session>),
}

impl Reader {
    async fn open(socket: TcpStream, sse: bool, query: &[(&str, Value)]) -> Self {
        if !sse {
            let mut session = Session::on(socket, None).await;
            let mut params = json!({"topic": "busy", "view": "TEXT"});
            query.iter().for_each(|(name, value)| params[*name] = value.clone());
            session.begin(1, &Rpc::named("TopicService/Subscribe"), &params, &Terms::default()).await;
            return Self::WebSocket(Box::new(session));
        }
        let query: String =
            query.iter().map(|(k, v)| format!("&{k}={}", v.to_string().trim_matches('"'))).collect();
        let address = socket.peer_addr().unwrap();
        let headers = [("accept", "text/event-stream")];
        let path = format!("{PATH}?view=TEXT{query}");
        let http = Http::new(address);
        let opened = http.open_on(socket, http::Method::GET, &path, &headers, Default::default());
        let (head, body, connection) = opened.await.unwrap();
        assert_eq!(head.status, 200);
        Self::Sse(Box::new(Lines::new(head, body, connection)))
    }

    /// The next event as the contract names it.
    async fn next(&mut self) -> Result<Value, Failure> {
        match self {
            Self::Sse(lines) => loop {
                let event = lines.event().await.unwrap().expect("the stream goes on");
                match event.event.as_str() {
                    "failure" => return Err(Failure::of_json(&event.data)),
                    "" => {}
                    name => return Ok(json!({ name: event.data })),
                }
            },
            Self::WebSocket(session) => loop {
                match session.hear().await.1 {
                    Heard::Answer(json, false) => return Ok(serde_json::from_slice(&json).unwrap()),
                    Heard::Failed(failure) => return Err(failure),
                    Heard::Ping(number) => session.say(json!({ "pong": number })).await,
                    other => panic!("{other:?}"),
                }
            },
        }
    }
}

fn number(message: &Value) -> usize {
    message["text"].as_str().unwrap_or_else(|| panic!("{message}"))[..8].parse().unwrap()
}

fn seq(position: &Value) -> u64 {
    position
        .as_str()
        .and_then(|p| p.split_once('-'))
        .unwrap_or_else(|| panic!("{position}"))
        .1
        .parse()
        .unwrap()
}

/// Reads all that comes, in order and without a hole, and notes how late each was.
async fn keep_up(load: Arc<Load>, mut reader: Reader, last: CancellationToken) -> Vec<(usize, Duration)> {
    let (mut delays, mut before) = (Vec::new(), None);
    loop {
        let Some(event) = last.run_until_cancelled(reader.next()).await else { return delays };
        let event = event.unwrap();
        let message = event.get("message").unwrap_or_else(|| panic!("{event}"));
        let (n, at) = (number(message), seq(&message["position"]));
        assert!(before.is_none_or(|before| before + 1 == at), "{at} after {before:?}");
        before = Some(at);
        delays.push((n, load.delay(n)));
    }
}

/// Bytes of memory that a process holds.
fn resident(pid: u32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * rustix::param::page_size() as u64
}

fn report(what: &str, mut delays: Vec<Duration>) {
    delays.sort();
    let at = |share: f64| delays.get((delays.len() as f64 * share) as usize).copied().unwrap_or_default();
    println!("{what}: {} messages, p50 {:?}, p99 {:?}", delays.len(), at(0.5), at(0.99));
}

/// A socket that takes little from the kernel, so that standing still shows soon.
async fn narrow(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    socket.connect(address).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_is_bounded_and_told_and_the_others_do_not_notice() {
    let redis = (Ground::of_the_run() == Ground::Redis).then(Store::start);
    let bus = redis.as_ref().map_or_else(|| "memory:".into(), |redis| redis.url(Role::Worker));
    let papers = redis.as_ref().map(Store::environment).unwrap_or_default();
    let seconds: u64 = std::env::var("PLEXUS_SLOW_SECONDS").map_or(5, |s| s.parse().unwrap());
    // The queue is tried here, not the timers of dead connections.
    let patience = format!("{}s", seconds + 120);
    let settings = [
        ("PLEXUS__GATEWAY__LIMITS__WRITE_TIMEOUT", patience.as_str()),
        ("PLEXUS__GATEWAY__LIMITS__SESSION_PING_INTERVAL", &patience),
    ];
    let papers = papers.iter().map(|(name, path)| (*name, path.as_str()));
    let settings: Vec<_> = settings.into_iter().chain(papers).collect();
    let plexus = Plexus::start("up", &bus, &settings).await;
    let (address, pid) = (plexus.address, plexus.pid());

    // Four who keep up, on both dialects.
    let (load, last, mut others) = (Load::new(), CancellationToken::new(), JoinSet::new());
    for n in 0..4 {
        let socket = TcpStream::connect(address).await.unwrap();
        let mut reader = Reader::open(socket, n % 2 == 0, &[("queueMessages", json!(4096))]).await;
        assert!(reader.next().await.unwrap().get("start").is_some());
        others.spawn(keep_up(load.clone(), reader, last.clone()));
    }
    let mut publisher = JoinSet::new();
    publisher.spawn(load.clone().run(address));
    // The log keeps 1,000: from now on it does not grow.
    load.reaches(1_500).await;
    let before = load.count();
    load.reaches(before + 3 * RATE).await;

    // Four who stand still, on both dialects under both policies.
    let mut still = Vec::new();
    for policy in ["DISCONNECT", "DROP_OLDEST"] {
        for sse in [true, false] {
            let mut reader = Reader::open(narrow(address).await, sse, &[("slowReader", json!(policy))]).await;
            assert!(reader.next().await.unwrap().get("start").is_some());
            still.push((policy, sse, reader));
        }
    }
    let (during, began, rest) = (load.count(), Instant::now(), resident(pid));
    let mut most = rest;
    while began.elapsed() < Duration::from_secs(seconds) || load.count() < during + PASS {
        tokio::time::sleep(Duration::from_millis(100)).await; // between looks, while the readers stand still
        most = most.max(resident(pid));
        assert!(publisher.try_join_next().is_none(), "the load goes on");
    }
    let (after, took) = (load.count(), began.elapsed());
    println!("{} messages a second for {took:?}", (after - during) as f64 / took.as_secs_f64());
    println!("resident: {} KiB before, {} KiB at most during", rest >> 10, most >> 10);
    let allowed = still.len() as u64 * READER_BYTES + SLACK_BYTES;
    assert!(most - rest <= allowed, "{} of {allowed} bytes", most - rest);

    for (policy, sse, reader) in still {
        match policy {
            "DISCONNECT" => is_disconnected_and_resumes(address, sse, reader).await,
            _ => is_told_of_the_gap(sse, reader).await,
        }
    }
    eventually(Duration::from_secs(10), || counts(plexus.admin)).await;
    load.stop.cancel();
    while publisher.join_next().await.is_some() {}
    last.cancel();
    let delays: Vec<_> = others.join_all().await.into_iter().flatten().collect();
    let of = |from: usize, to: usize| {
        delays.iter().filter(|(n, _)| (from..to).contains(n)).map(|(_, delay)| *delay).collect()
    };
    report("others before", of(before, during));
    report("others during", of(during, after));
}

/// The router's counters tell of two readers that were ended, and four that are left on one topic.
async fn counts(admin: SocketAddr) -> anyhow::Result<()> {
    let metrics = String::from_utf8(Http::new(admin).get("/metrics").await?.body.to_vec())?;
    for line in ["slow_total 2", "readers 4", "topics 1"] {
        let line = format!("plexus_gateway_router_{line}");
        anyhow::ensure!(metrics.lines().any(|told| told == line), "{line} is not in {metrics}");
    }
    Ok(())
}

/// Reads on after standing still: in order as far as it goes, then the reason; and it goes on from there.
async fn is_disconnected_and_resumes(address: SocketAddr, sse: bool, mut reader: Reader) {
    let mut read: Vec<Value> = Vec::new();
    let failure = loop {
        match reader.next().await {
            Ok(event) => {
                let message = event.get("message").unwrap_or_else(|| panic!("{event}"));
                let at = &message["position"];
                assert!(
                    read.last().is_none_or(|before| seq(before) + 1 == seq(at)),
                    "{at} after {:?}",
                    read.last()
                );
                read.push(at.clone());
            }
            Err(failure) => break failure,
        }
    };
    assert_eq!(failure.told(), ("resource_exhausted", "SLOW_READER", &[][..]));
    assert!(failure.retry_after_ms.is_some_and(|wait| wait > 0), "{failure:?}");
    let position = read.last().expect("something came before").clone();
    let token = failure.metadata.iter().find(|(name, _)| name == "resume").expect("where to go on").1.clone();
    println!("told SLOW_READER after {} messages (sse: {sse})", read.len());
    let socket = TcpStream::connect(address).await.unwrap();
    let mut reader = Reader::open(socket, sse, &[("resume", json!(token))]).await;
    let start = reader.next().await.unwrap();
    let next = reader.next().await.unwrap();
    match next.get("gap") {
        // The log keeps 1,000 messages only: what is gone is named, and nothing else is missing.
        Some(gap) => {
            assert_eq!((&gap["after"], &gap["reason"]), (&position, &json!("TRIMMED")), "{gap}");
            assert!(start["start"].get("recovered").is_none(), "{start}");
            let message = reader.next().await.unwrap();
            assert_eq!(seq(&message["message"]["position"]), seq(&gap["until"]) + 1);
        }
        None => {
            assert_eq!(start["start"]["recovered"], true, "{start}");
            assert_eq!(seq(&next["message"]["position"]), seq(&position) + 1);
        }
    }
}

/// Reads on after standing still: what was dropped is one gap between neighbours.
async fn is_told_of_the_gap(sse: bool, mut reader: Reader) {
    let mut last = Value::Null;
    loop {
        let event = reader.next().await.unwrap();
        if let Some(message) = event.get("message") {
            last = message["position"].clone();
            continue;
        }
        let gap = event.get("gap").unwrap_or_else(|| panic!("{event}"));
        assert_eq!((&gap["after"], &gap["reason"]), (&last, &json!("SLOW")), "{gap}");
        let message = reader.next().await.unwrap();
        assert_eq!(seq(&message["message"]["position"]), seq(&gap["until"]) + 1, "{gap} {message}");
        println!("told of a gap of {} messages (sse: {sse})", gap["skipped"]);
        return;
    }
}
