//! Producers that write down every receipt and every refusal, readers that write down every event, over whatever
//! gateways live; and the history that comes of it.

use crate::{
    ground::{Ground, TOPIC},
    reader::{Follow, Followed, Kind},
};
use anyhow::Result;
use http::Method;
use plexus_tests::{
    Http,
    history::{self, Ack, History, Position, Terms, Verdict},
};
use serde_json::{Value, json};
use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// The last message of every topic.
pub(crate) const END: &str = "end";
/// How long a keyed publish is repeated.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause of a client before it comes again.
pub(crate) const AGAIN: Duration = Duration::from_millis(50);

/// A client's view of the gateways that live.
#[derive(Clone)]
pub(crate) struct Lane {
    pub(crate) addresses: watch::Receiver<Vec<SocketAddr>>,
    pub(crate) turn: usize,
}

impl Lane {
    /// The gateway whose turn it is.
    pub(crate) fn client(&self) -> Http {
        let addresses = self.addresses.borrow();
        Http::new(addresses[self.turn % addresses.len()])
    }

    /// Goes on to the next.
    pub(crate) fn next(&mut self) {
        self.turn += 1;
    }
}

/// How a producer publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// With a key, and again with it until there is a receipt.
    Keyed,
    /// Once, without a key; what fails has failed.
    Once,
}

/// One try of a publish.
#[derive(Clone, Debug)]
pub(crate) struct Try {
    pub(crate) text: String,
    pub(crate) sent: Instant,
    pub(crate) took: Duration,
    /// The position, or why not.
    pub(crate) outcome: Result<Position, String>,
}

/// All tries of one producer.
#[derive(Clone, Debug)]
pub(crate) struct Produced {
    pub(crate) name: String,
    pub(crate) tries: Vec<Try>,
}

/// What is done to each node's topic.
#[derive(Clone, Debug)]
pub(crate) struct Mix {
    pub(crate) producers: Vec<Style>,
    pub(crate) readers: Vec<Kind>,
    /// Pause of a producer between its publishes.
    pub(crate) every: Duration,
}

impl Mix {
    /// Two keyed producers and one reader of each kind.
    pub(crate) fn usual() -> Self {
        Self {
            producers: vec![Style::Keyed; 2],
            readers: vec![Kind::Sse, Kind::WebSocket, Kind::Ndjson],
            every: Duration::from_millis(15),
        }
    }
}

/// A load under way.
pub(crate) struct Load {
    lanes: watch::Receiver<Vec<SocketAddr>>,
    topics: Vec<Topic>,
    stop: CancellationToken,
    receipts: watch::Sender<usize>,
}

struct Topic {
    node: String,
    producers: JoinSet<Produced>,
    /// Those that ended.
    produced: Vec<Produced>,
    readers: JoinSet<Followed>,
    quit: CancellationToken,
}

/// What came of one node's topic.
pub(crate) struct Ended {
    pub(crate) producers: Vec<Produced>,
    pub(crate) readers: Vec<Followed>,
    history: History,
}

/// What came of all.
pub(crate) struct Ledger(pub(crate) Vec<Ended>);

impl Load {
    /// Begins: the readers first, from the beginning of every topic.
    pub(crate) fn start(ground: &Ground, mix: &Mix) -> Self {
        let (receipts, _) = watch::channel(0);
        let mut load =
            Self { lanes: ground.lanes(), topics: Vec::new(), stop: CancellationToken::new(), receipts };
        for (turn, node) in ground.nodes.iter().enumerate() {
            let topic = load.begin(node, mix, turn);
            load.topics.push(topic);
        }
        load
    }

    fn begin(&self, node: &str, mix: &Mix, turn: usize) -> Topic {
        let quit = CancellationToken::new();
        let (mut producers, mut readers) = (JoinSet::new(), JoinSet::new());
        for (n, kind) in mix.readers.iter().enumerate() {
            let name = format!("{node} {kind:?} {n}");
            let follow = Follow::new(name, *kind, node, self.lane(turn + n), quit.clone());
            readers.spawn(follow.run());
        }
        for (n, style) in mix.producers.iter().enumerate() {
            let (stop, receipts) = (self.stop.clone(), self.receipts.clone());
            let (path, lane, style, every) = (messages(node), self.lane(turn + n), *style, mix.every);
            let name = format!("{node}-p{n}");
            producers.spawn(Producer { name, path, lane, style, every, stop, receipts }.run());
        }
        Topic { node: node.into(), producers, produced: Vec::new(), readers, quit }
    }

    fn lane(&self, turn: usize) -> Lane {
        Lane { addresses: self.lanes.clone(), turn }
    }

    /// Adds a reader of every topic that begins from its beginning.
    pub(crate) fn join(&mut self, kind: Kind) {
        let lane = self.lane(1);
        for topic in &mut self.topics {
            let name = format!("{} late {kind:?}", topic.node);
            let follow = Follow::new(name, kind, &topic.node, lane.clone(), topic.quit.clone());
            topic.readers.spawn(follow.run());
        }
    }

    /// Waits until there are so many receipts more, over all producers.
    pub(crate) async fn flows(&self, receipts: usize) {
        let mut count = self.receipts.subscribe();
        let wanted = *count.borrow_and_update() + receipts;
        let _ = timeout(PATIENCE, count.wait_for(|count| *count >= wanted)).await;
    }

    /// Ends the producers and publishes a last message to each topic.
    pub(crate) async fn quiet(&mut self) {
        self.stop.cancel();
        let lane = self.lane(0);
        for topic in &mut self.topics {
            while let Some(produced) = topic.producers.join_next().await {
                topic.produced.push(produced.expect("a producer does not panic"));
            }
            if topic.produced.iter().all(|produced| produced.name != END) {
                topic.produced.push(last(&topic.node, lane.clone()).await);
            }
        }
    }

    /// Ends the producers, and waits until every reader has the last message.
    pub(crate) async fn finish(mut self) -> Ledger {
        self.quiet().await;
        let mut ended = Vec::new();
        for mut topic in self.topics {
            let mut readers = Vec::new();
            let patience = sleep(PATIENCE / 2);
            tokio::pin!(patience);
            loop {
                tokio::select! {
                    followed = topic.readers.join_next() => match followed {
                        Some(followed) => readers.push(followed.expect("a reader does not panic")),
                        None => break,
                    },
                    () = &mut patience, if !topic.quit.is_cancelled() => topic.quit.cancel(),
                }
            }
            ended.push(Ended::new(topic.produced, readers));
        }
        Ledger(ended)
    }
}

impl Ended {
    fn new(producers: Vec<Produced>, readers: Vec<Followed>) -> Self {
        let tries = || producers.iter().flat_map(|p| p.tries.iter().map(|t| (&p.name, t)));
        let ack = |(name, one): (&String, &Try)| {
            let position = *one.outcome.as_ref().ok()?;
            Some(Ack { producer: name.clone(), text: one.text.clone(), position })
        };
        let history = History {
            tried: tries().map(|(_, one)| one.text.clone()).collect(),
            acks: tries().filter_map(ack).collect(),
            readers: readers.iter().map(|followed| followed.reader.clone()).collect(),
        };
        Self { producers, readers, history }
    }
}

impl Ledger {
    /// What the checker finds.
    pub(crate) fn verdict(&self, terms: Terms) -> Verdict {
        let mut all = Verdict::default();
        for ended in &self.0 {
            all.add(history::check(&ended.history, terms));
        }
        all
    }

    /// Every try of every producer.
    pub(crate) fn tries(&self) -> impl Iterator<Item = &Try> {
        self.0.iter().flat_map(|ended| ended.producers.iter().flat_map(|p| p.tries.iter()))
    }

    /// How often a publish failed for each reason.
    pub(crate) fn refusals(&self) -> std::collections::BTreeMap<String, usize> {
        let mut counts = std::collections::BTreeMap::new();
        for reason in self.tries().filter_map(|one| one.outcome.as_ref().err()) {
            *counts.entry(reason.clone()).or_default() += 1;
        }
        counts
    }

    /// The longest that a publish sent after `since` took, by whether it got a receipt.
    pub(crate) fn slowest(&self, since: Instant, until: Instant, good: bool) -> Duration {
        let during = |one: &&Try| one.sent >= since && one.sent < until && one.outcome.is_ok() == good;
        self.tries().filter(during).map(|one| one.took).max().unwrap_or_default()
    }

    /// Per node: how long after `since` the first receipt of another owner came.
    pub(crate) fn taken_over(&self, since: Instant) -> Vec<Duration> {
        let mut times: Vec<Duration> = self.0.iter().filter_map(|ended| ended.taken_over(since)).collect();
        times.sort();
        times
    }

    /// How often readers came again.
    pub(crate) fn resumes(&self) -> usize {
        self.0.iter().flat_map(|ended| &ended.readers).map(|followed| followed.resumes).sum()
    }
}

impl Ended {
    fn taken_over(&self, since: Instant) -> Option<Duration> {
        let receipts = || {
            let tries = self.producers.iter().flat_map(|p| &p.tries);
            tries.filter_map(|one| Some((one.sent + one.took, one.outcome.as_ref().ok()?.epoch)))
        };
        let before = receipts().filter(|(at, _)| *at <= since).map(|(_, epoch)| epoch).max()?;
        let after = receipts().filter(|(at, epoch)| *at > since && *epoch != before);
        after.map(|(at, _)| at - since).min()
    }
}

/// The path of a node's messages.
pub(crate) fn messages(node: &str) -> String {
    format!("/v1/nodes/{node}/topics/{TOPIC}/messages")
}

async fn last(node: &str, mut lane: Lane) -> Produced {
    let mut tries = Vec::new();
    keyed(&messages(node), END, &mut lane, &mut tries).await;
    Produced { name: END.into(), tries }
}

struct Producer {
    name: String,
    path: String,
    lane: Lane,
    style: Style,
    every: Duration,
    stop: CancellationToken,
    receipts: watch::Sender<usize>,
}

impl Producer {
    async fn run(mut self) -> Produced {
        let mut tries = Vec::new();
        let mut next = Instant::now();
        for n in 0.. {
            if self.stop.is_cancelled() {
                break;
            }
            next = (next + self.every).max(Instant::now());
            let text = format!("{}-{n}", self.name);
            match self.style {
                Style::Keyed => keyed(&self.path, &text, &mut self.lane, &mut tries).await,
                Style::Once => once(&self.path, &text, false, &mut self.lane, &mut tries).await,
            }
            if tries.last().is_some_and(|one| one.outcome.is_ok()) {
                self.receipts.send_modify(|count| *count += 1);
            }
            tokio::time::sleep_until(next.into()).await;
        }
        Produced { name: self.name, tries }
    }
}

/// Publishes with a key until there is a receipt.
async fn keyed(path: &str, text: &str, lane: &mut Lane, tries: &mut Vec<Try>) {
    let end = Instant::now() + PATIENCE;
    loop {
        once(path, text, true, lane, tries).await;
        if tries.last().is_some_and(|one| one.outcome.is_ok()) || Instant::now() >= end {
            return;
        }
        sleep(AGAIN).await;
    }
}

/// Publishes once. A gateway that takes no connection has not heard of it, so the next one is asked.
async fn once(path: &str, text: &str, key: bool, lane: &mut Lane, tries: &mut Vec<Try>) {
    let mut body = json!({ "text": text });
    if key {
        body["requestId"] = text.into();
    }
    let sent = Instant::now();
    let outcome = loop {
        match publish(&lane.client(), path, &body).await {
            Err(reason) if reason == "NOT_CONNECTED" && sent.elapsed() < PATIENCE => {
                lane.next();
                sleep(AGAIN).await;
            }
            other => break other,
        }
    };
    if outcome.is_err() {
        lane.next();
    }
    tries.push(Try { text: text.into(), sent, took: sent.elapsed(), outcome });
}

/// Answers the position, or the reason of the refusal; `BROKEN` where there is no answer.
pub(crate) async fn publish(client: &Http, path: &str, body: &Value) -> Result<Position, String> {
    let headers = [("content-type", "application/json"), ("grpc-timeout", "20S")];
    match client.send(Method::POST, path, &headers, body.to_string()).await {
        Ok(answer) if answer.status.is_success() => {
            let receipt: Value = serde_json::from_slice(&answer.body).map_err(|_| "BROKEN")?;
            receipt["position"].as_str().and_then(|p| p.parse().ok()).ok_or_else(|| "BROKEN".into())
        }
        Ok(answer) => {
            let problem: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            Err(problem["reason"].as_str().unwrap_or("BROKEN").to_owned())
        }
        Err(error) if error.downcast_ref::<io::Error>().is_some() => Err("NOT_CONNECTED".into()),
        Err(_) => Err("BROKEN".into()),
    }
}
