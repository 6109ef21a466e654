//! `plexus selftest`: the main way through the product, once, against a running gateway.

use super::{Failure, Target, output};
use clap::Args;
use plexus_proto::v1::{
    CreateNodeRequest, DeleteNodeRequest, ListMessagesRequest, ListNodesRequest, Message, PublishRequest,
    Receipt, SubscribeRequest, SubscriptionEvent, message, publish_request::Payload, receipt::Level,
    subscription_event::Event,
};
use std::{
    future::Future,
    time::{Instant, SystemTime},
};
use tonic::Streaming;

const TOPIC: &str = "selftest";
const TEXT: &str = "hello, myself";

/// Tries a gateway out.
#[derive(Args)]
#[command(after_help = "Examples:
  plexus selftest
  plexus selftest --url http://plexus.example:8080 --json
Makes a node of its own and removes it at the end, also after Ctrl-C. The exit code is that of the first step
that failed.")]
pub(crate) struct Selftest {
    #[command(flatten)]
    target: Target,
}

impl Selftest {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let node = format!("selftest-{:x}", since.as_nanos() ^ u128::from(std::process::id()));
        let test = Test { target: self.target, node };
        let interrupted = async {
            let _ = tokio::signal::ctrl_c().await;
            Err(Failure::interrupted())
        };
        let result = tokio::select! {
            result = test.steps() => result,
            result = interrupted => result,
        };
        let clean = test.step("remove the node", test.remove()).await;
        result.and(clean)
    }
}

struct Test {
    target: Target,
    node: String,
}

impl Test {
    async fn steps(&self) -> anyhow::Result<()> {
        self.step("reach the gateway", self.reach()).await?;
        self.step("create a node", self.create()).await?;
        let mut events = self.step("follow a topic", self.follow()).await?;
        let receipt = self.step("publish", self.publish()).await?;
        self.step("receive", self.receive(&mut events, &receipt)).await?;
        self.step("read history", self.history(&receipt)).await?;
        self.step("publish again: still one message", self.repeat(&receipt)).await
    }

    /// Does one step within the deadline, and prints how it went.
    async fn step<T>(&self, name: &str, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        let began = Instant::now();
        let late = || {
            Failure::late(format!("{name}: not within {}", humantime::format_duration(self.target.timeout)))
        };
        let result = tokio::time::timeout(self.target.timeout, work).await.unwrap_or_else(|_| Err(late()));
        let took = began.elapsed();
        let ms = (took.as_secs_f64() * 1e4).round() / 10.0;
        if self.target.json {
            let mut line = serde_json::json!({"step": name, "ok": result.is_ok(), "ms": ms});
            if let Err(error) = &result {
                line["error"] = super::explain(error).into();
            }
            output::line(&line)?;
        } else {
            let verdict = if result.is_ok() { "OK  " } else { "FAIL" };
            output::write(format!("{verdict}  {ms:>8.1} ms  {name}\n").as_bytes())?;
        }
        result
    }

    async fn reach(&self) -> anyhow::Result<()> {
        let request = ListNodesRequest { page_size: 1, ..Default::default() };
        self.target.nodes().await?.list_nodes(self.target.ask(request)).await?;
        Ok(())
    }

    async fn create(&self) -> anyhow::Result<()> {
        let request = CreateNodeRequest { id: self.node.clone(), ..Default::default() };
        self.target.nodes().await?.create_node(self.target.ask(request)).await?;
        Ok(())
    }

    async fn follow(&self) -> anyhow::Result<Streaming<SubscriptionEvent>> {
        let request =
            SubscribeRequest { node: self.node.clone(), topics: vec![TOPIC.into()], ..Default::default() };
        let mut events = self.target.topics().await?.subscribe(request).await?.into_inner();
        match next(&mut events).await? {
            Event::Start(_) => Ok(events),
            other => anyhow::bail!("the subscription began with {other:?}"),
        }
    }

    fn request(&self) -> PublishRequest {
        PublishRequest {
            node: self.node.clone(),
            topic: TOPIC.into(),
            payload: Some(Payload::Text(TEXT.into())),
            request_id: self.node.clone(),
            ..Default::default()
        }
    }

    async fn publish(&self) -> anyhow::Result<Receipt> {
        let receipt =
            self.target.topics().await?.publish(self.target.ask(self.request())).await?.into_inner();
        let reached = receipt.level().as_str_name();
        anyhow::ensure!(receipt.level() >= Level::Logged, "the receipt says {reached}, not LOGGED");
        Ok(receipt)
    }

    async fn receive(
        &self,
        events: &mut Streaming<SubscriptionEvent>,
        receipt: &Receipt,
    ) -> anyhow::Result<()> {
        loop {
            match next(events).await? {
                Event::Heartbeat(_) => {}
                Event::Message(message) => return same(&message, receipt),
                other => anyhow::bail!("instead of the message came {other:?}"),
            }
        }
    }

    async fn messages(&self) -> anyhow::Result<Vec<Message>> {
        let request =
            ListMessagesRequest { node: self.node.clone(), topic: TOPIC.into(), ..Default::default() };
        Ok(self.target.topics().await?.list_messages(self.target.ask(request)).await?.into_inner().messages)
    }

    async fn history(&self, receipt: &Receipt) -> anyhow::Result<()> {
        let messages = self.messages().await?;
        anyhow::ensure!(messages.len() == 1, "{} messages are retained, not 1", messages.len());
        same(&messages[0], receipt)
    }

    async fn repeat(&self, receipt: &Receipt) -> anyhow::Result<()> {
        let again = self.publish().await?;
        anyhow::ensure!(again.duplicate && again.position == receipt.position, "the repeat was logged anew");
        self.history(receipt).await
    }

    async fn remove(&self) -> anyhow::Result<()> {
        let request = DeleteNodeRequest { node: self.node.clone(), ..Default::default() };
        match self.target.nodes().await?.delete_node(self.target.ask(request)).await {
            Err(status) if status.code() == tonic::Code::NotFound => Ok(()),
            result => Ok(result.map(drop)?),
        }
    }
}

async fn next(events: &mut Streaming<SubscriptionEvent>) -> anyhow::Result<Event> {
    let event = events.message().await?.and_then(|event| event.event);
    event.ok_or_else(|| anyhow::anyhow!("the subscription ended"))
}

fn same(message: &Message, receipt: &Receipt) -> anyhow::Result<()> {
    let (at, wanted) = (&message.position, &receipt.position);
    anyhow::ensure!(at == wanted, "the message is at {at}, its receipt says {wanted}");
    let data = match &message.payload {
        Some(message::Payload::Data(data)) => data.as_ref(),
        Some(message::Payload::Text(text)) => text.as_bytes(),
        None => b"",
    };
    anyhow::ensure!(data == TEXT.as_bytes(), "the payload differs");
    Ok(())
}
