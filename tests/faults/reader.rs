//! Readers that go on wherever a gateway lives: by `Last-Event-ID` on SSE, by `after` on NDJSON and WebSocket, by
//! the token of a session that was closed with one.

use crate::{
    ground::TOPIC,
    load::{AGAIN, END, Lane, messages},
};
use anyhow::{Context, Result, bail};
use futures::{SinkExt, StreamExt};
use plexus_tests::history::{Reader, Seen};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest},
};
use tokio_util::sync::CancellationToken;

/// Silence after which a reader goes elsewhere; heartbeats are asked for every second.
const SILENCE: Duration = Duration::from_secs(5);

/// How a reader follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sse,
    Ndjson,
    WebSocket,
}

/// A reader on its way.
pub(crate) struct Follow {
    kind: Kind,
    node: String,
    lane: Lane,
    quit: CancellationToken,
    /// The token of a session that was closed, good once.
    token: Option<String>,
    told: Followed,
}

/// What it was told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Followed {
    pub(crate) reader: Reader,
    /// When each thing was seen.
    pub(crate) arrivals: Vec<Instant>,
    /// How often it came again.
    pub(crate) resumes: usize,
    /// Why, by reason.
    pub(crate) breaks: BTreeMap<String, usize>,
}

impl Followed {
    /// Takes an event; true at the last message.
    fn event(&mut self, name: &str, data: &Value) -> Result<bool> {
        let place = |field: &str| data[field].as_str().context("a position")?.parse();
        let seen = match name {
            "message" => {
                let text = data["text"].as_str().context("a text")?.to_owned();
                Seen::Message { position: place("position")?, text }
            }
            "gap" => {
                let reason = data["reason"].as_str().unwrap_or_default().to_owned();
                Seen::Gap { after: place("after")?, until: place("until")?, reason }
            }
            "failure" => bail!("{}", data["reason"].as_str().unwrap_or("failure")),
            _ => return Ok(false),
        };
        let is_last = matches!(&seen, Seen::Message { text, .. } if text == END);
        self.reader.seen.push(seen);
        self.arrivals.push(Instant::now());
        Ok(is_last)
    }

    fn after(&self) -> String {
        match self.reader.position() {
            start if start == Default::default() => "0".into(),
            position => position.to_string(),
        }
    }
}

impl Follow {
    pub(crate) fn new(name: String, kind: Kind, node: &str, lane: Lane, quit: CancellationToken) -> Self {
        let reader = Reader { name, ..Reader::default() };
        let told = Followed { reader, ..Followed::default() };
        Self { kind, node: node.into(), lane, quit, token: None, told }
    }

    /// Reads until the last message, or until it is told to give up.
    pub(crate) async fn run(mut self) -> Followed {
        let quit = self.quit.clone();
        let _ = quit.run_until_cancelled(self.on_and_on()).await;
        self.told
    }

    async fn on_and_on(&mut self) {
        loop {
            let read = match self.kind {
                Kind::Sse => self.sse().await,
                Kind::Ndjson => self.ndjson().await,
                Kind::WebSocket => self.websocket().await,
            };
            match read {
                Ok(()) => return,
                Err(error) => *self.told.breaks.entry(error.to_string()).or_default() += 1,
            }
            self.told.resumes += 1;
            self.lane.next();
            sleep(2 * AGAIN).await;
        }
    }

    /// Follows by server-sent events, as a browser does.
    async fn sse(&mut self) -> Result<()> {
        let path = format!("{}?view=TEXT&heartbeat=1s&after=0", messages(&self.node));
        let after = self.told.after();
        let last = (after != "0").then_some(after.as_str());
        let mut lines = quick(self.lane.client().events(&path, last)).await?;
        loop {
            // Comments are passed over below, so the silence is that of the connection.
            let event = quick_line(&mut lines).await?;
            if self.told.event(&event.0, &event.1)? {
                return Ok(());
            }
        }
    }

    /// Follows by lines of JSON.
    async fn ndjson(&mut self) -> Result<()> {
        let path = format!("{}?view=TEXT&heartbeat=1s&after={}", messages(&self.node), self.told.after());
        let headers = [("accept", "application/x-ndjson")];
        let mut lines = quick(self.lane.client().lines(&path, &headers)).await?;
        loop {
            let line = quick(lines.line()).await?.context("the stream ended")?;
            if line.trim().is_empty() {
                continue;
            }
            let line: Value = serde_json::from_str(&line)?;
            let (name, data) = line.as_object().and_then(|o| o.iter().next()).context("an event")?;
            if self.told.event(name, data)? {
                return Ok(());
            }
        }
    }

    /// Follows on a session; the token of the former one goes first.
    async fn websocket(&mut self) -> Result<()> {
        let mut socket = quick(open(&self.lane)).await?;
        let frame = match self.token.take() {
            Some(token) => json!({"resume": {"token": token}}),
            None => {
                let params = json!({
                    "node": self.node, "topic": TOPIC, "after": self.told.after(), "view": "TEXT",
                    "heartbeat": "1s",
                });
                json!({"id": 1, "call": "TopicService.Subscribe", "params": params})
            }
        };
        socket.send(text(&frame)).await?;
        loop {
            let message =
                quick(async { socket.next().await.context("the session ended")?.map_err(Into::into) });
            let frame: Value = match message.await? {
                Message::Text(text) => serde_json::from_str(&text)?,
                Message::Close(_) => bail!("closed"),
                _ => continue,
            };
            if let Some((name, data)) = frame["event"].as_object().and_then(|o| o.iter().next()) {
                if self.told.event(name, data)? {
                    return Ok(());
                }
            } else if let Some(number) = frame.get("ping") {
                socket.send(text(&json!({ "pong": number }))).await?;
            } else if let Some(close) = frame.get("close") {
                self.token = close["resume"].as_str().filter(|token| !token.is_empty()).map(str::to_owned);
                bail!("{}", close["reason"].as_str().unwrap_or("close"));
            } else if let Some(error) = frame.get("error") {
                bail!("{}", error["reason"].as_str().unwrap_or("error"));
            }
        }
    }
}

fn text(frame: &Value) -> Message {
    Message::Text(frame.to_string().into())
}

async fn open(lane: &Lane) -> Result<WebSocketStream<TcpStream>> {
    let address = lane.client().address;
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let request = format!("ws://{address}/v1/ws").into_client_request()?;
    Ok(client_async(request, socket).await?.0)
}

/// The next event; heartbeats are comments, which end the silence too.
async fn quick_line(lines: &mut plexus_tests::Lines) -> Result<(String, Value)> {
    let (mut name, mut data) = (String::new(), String::new());
    loop {
        let line = quick(lines.line()).await?.context("the stream ended")?;
        match line.trim_end_matches('\r').split_once(": ") {
            Some(("event", value)) => name = value.into(),
            Some(("data", value)) => data.push_str(value),
            _ if line.trim().is_empty() && !name.is_empty() => {
                return Ok((name, serde_json::from_str(&data).unwrap_or_default()));
            }
            _ => {}
        }
    }
}

async fn quick<T>(what: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(SILENCE, what).await.context("silence")?
}
