//! `plexus pub` and `plexus sub`.

use super::{Target, output};
use clap::Args;
use plexus_proto::v1::{
    self, PublishRequest, SubscribeRequest, publish_request::Payload, receipt::Level,
    subscription_event::Event,
};
use std::{collections::HashMap, io::Read, time::Duration};
use tonic::{Code, Status};

/// Publishes one message.
#[derive(Args)]
#[command(after_help = "Examples:
  plexus pub demo 'hello'
  plexus pub demo --min-peers 1 'is anybody there?'
  date | plexus pub demo -")]
pub(crate) struct Publish {
    /// The topic: text, or `~` and base64url for other bytes.
    topic: String,
    /// The payload as text; `-` reads standard input, any bytes.
    message: String,
    /// The least level to wait for.
    #[arg(long, value_parser = ["accepted", "logged", "replicated", "durable"])]
    level: Option<String>,
    /// Peers that must follow the topic before anything happens.
    #[arg(long, default_value_t = 0)]
    min_peers: u32,
    /// Makes a repeat safe.
    #[arg(long)]
    request_id: Option<String>,
    #[command(flatten)]
    target: Target,
}

impl Publish {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let payload = if self.message == "-" {
            // On a thread of its own, so that Ctrl-C ends the command while it waits for more.
            Payload::Data(tokio::task::spawn_blocking(read_input).await??.into())
        } else {
            Payload::Text(self.message)
        };
        let level = self.level.and_then(|l| Level::from_str_name(&l.to_uppercase())).unwrap_or_default();
        let request = PublishRequest {
            node: self.target.node.clone(),
            topic: self.topic,
            payload: Some(payload),
            level: level.into(),
            min_peers: self.min_peers,
            request_id: self.request_id.unwrap_or_default(),
            ..Default::default()
        };
        let receipt = self.target.topics().await?.publish(self.target.ask(request)).await?.into_inner();
        if self.target.json {
            return output::json("Receipt", &receipt);
        }
        output::facts(&[
            ("position", receipt.position.clone()),
            ("level", receipt.level().as_str_name().to_owned()),
            ("peers", receipt.peers.to_string()),
            ("id", receipt.id.clone()),
            ("duplicate", if receipt.duplicate { "yes".into() } else { String::new() }),
        ])
    }
}

/// Reads standard input; a byte more than a payload may have is enough to be refused.
fn read_input() -> std::io::Result<Vec<u8>> {
    let mut data = Vec::new();
    std::io::stdin().lock().take((1 << 20) + 1).read_to_end(&mut data)?;
    Ok(data)
}

/// Follows topics.
#[derive(Args)]
#[command(after_help = "Examples:
  plexus sub demo                     what arrives from now on
  plexus sub demo --after 0           everything retained first
  plexus sub demo --after 3-17 --json go on after a position, one JSON object a line
Ends with Ctrl-C. A lost gateway is dialled again, and reading goes on where it stopped.")]
pub(crate) struct Subscribe {
    /// The topics.
    #[arg(required = true)]
    topics: Vec<String>,
    /// Start after this position: `<epoch>-<seq>`, `0` for everything retained, `$` for the end.
    #[arg(long)]
    after: Option<String>,
    /// End after so many messages.
    #[arg(long, default_value_t = 0)]
    limit: u32,
    #[command(flatten)]
    target: Target,
}

impl Subscribe {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let mut progress = Progress::default();
        let mut wait = Duration::from_millis(100);
        loop {
            match self.follow(&mut progress).await {
                Ok(()) => return Ok(()),
                Err(error) if progress.started && passing(&error) => {
                    eprintln!("plexus: {}; trying again", super::explain(&error));
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(Duration::from_secs(5));
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn follow(&self, progress: &mut Progress) -> anyhow::Result<()> {
        let request = SubscribeRequest {
            node: self.target.node.clone(),
            topics: self.topics.clone(),
            after: self.after.clone().unwrap_or_default(),
            positions: progress.positions.clone(),
            limit: if self.limit == 0 { 0 } else { self.limit.saturating_sub(progress.messages).max(1) },
            ..Default::default()
        };
        let mut events = self.target.topics().await?.subscribe(request).await?.into_inner();
        while let Some(event) = events.message().await? {
            let Some(event) = event.event else { continue };
            progress.note(&event);
            self.show(&event, progress)?;
        }
        Ok(())
    }

    fn show(&self, event: &Event, progress: &Progress) -> anyhow::Result<()> {
        if self.target.json {
            if matches!(event, Event::Heartbeat(_)) {
                return Ok(());
            }
            return output::json("SubscriptionEvent", &v1::SubscriptionEvent { event: Some(event.clone()) });
        }
        match event {
            Event::Start(start) => {
                eprintln!("following {} after {}", output::printable(&start.topic), start.position);
                Ok(())
            }
            Event::Message(message) => {
                let many = self.topics.len() > 1;
                let topic = progress.topics.get(&message.t).filter(|_| many);
                let topic = topic.map(|t| format!("{}  ", output::printable(t))).unwrap_or_default();
                let line = format!("{topic}{}  {}\n", message.position, output::payload(message));
                output::write(line.as_bytes())
            }
            Event::Gap(gap) => {
                eprintln!("gap after {} until {}: {}", gap.after, gap.until, gap.reason().as_str_name());
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// How far a subscription came, so that it can go on.
#[derive(Default)]
struct Progress {
    started: bool,
    messages: u32,
    topics: HashMap<u32, String>,
    positions: HashMap<String, String>,
}

impl Progress {
    fn note(&mut self, event: &Event) {
        match event {
            Event::Start(start) => {
                self.started = true;
                self.topics.insert(start.t, start.topic.clone());
                self.positions.insert(start.topic.clone(), start.position.clone());
            }
            Event::Message(message) => {
                self.messages += 1;
                self.at(message.t, &message.position);
            }
            Event::Gap(gap) => self.at(gap.t, &gap.until),
            _ => {}
        }
    }

    fn at(&mut self, t: u32, position: &str) {
        if let Some(topic) = self.topics.get(&t) {
            self.positions.insert(topic.clone(), position.to_owned());
        }
    }
}

/// Whether it may be over soon.
fn passing(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<Status>() {
        Some(status) => matches!(
            status.code(),
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::ResourceExhausted
        ),
        None => error.chain().any(|e| e.is::<tonic::transport::Error>()),
    }
}
