//! Clients that go on at a steady rate: one publishes by REST, one follows by WebSocket, and both note how
//! long it took.

use crate::{
    client::{self, Heard, Kept},
    clock,
};
use anyhow::{Context, Result};
use std::{fmt, net::SocketAddr, time::Duration, time::Instant};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

/// Messages a second.
const RATE: u32 = 100;
const BYTES: usize = 256;
/// How often the reader shows that it lives.
const PING: Duration = Duration::from_secs(10);

const TOPIC: &str = "honest";

/// Samples that may wait: more than any window has.
const SAMPLES: usize = 200_000;

/// One thing that was measured.
enum Sample {
    Called(Duration),
    Delivered(Duration),
    Failed(String),
}

/// The clients.
pub(super) struct Honest {
    samples: mpsc::Receiver<Sample>,
    _tasks: JoinSet<()>,
}

/// What they noticed in a window of time, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// Calls that were answered.
    pub(super) calls: usize,
    /// Calls and deliveries that failed.
    pub(super) failures: usize,
    /// From a publish to its receipt: median and p99.
    pub(super) call: (f64, f64),
    /// From a publish to its reader: median and p99.
    pub(super) delivery: (f64, f64),
}

impl Honest {
    /// Starts them.
    pub(super) async fn start(address: SocketAddr) -> Result<Self> {
        let (tell, samples) = mpsc::channel(SAMPLES);
        let (mut asks, mut reads) = client::session(address).await?;
        asks.subscribe(1, "", TOPIC).await?;
        reads.started().await?;
        let mut publisher = Kept::open(address).await?;
        let mut tasks = JoinSet::new();
        let told = tell.clone();
        tasks.spawn(async move {
            let mut pings = interval(PING);
            loop {
                let heard = tokio::select! {
                    heard = reads.hear() => heard,
                    _ = pings.tick() => asks.ping().await.map(|()| Heard::Other),
                };
                let sample = match heard {
                    Ok(Heard::Message(data)) => clock::age(&data).map(Sample::Delivered),
                    Ok(_) => None,
                    Err(error) => {
                        let _ = told.try_send(Sample::Failed(format!("the reader: {error:#}")));
                        return;
                    }
                };
                sample.and_then(|sample| told.try_send(sample).ok());
            }
        });
        tasks.spawn(async move {
            let path = format!("/v1/topics/{TOPIC}/messages");
            let mut ticks = interval(Duration::from_secs(1) / RATE);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let began = Instant::now();
                let answer = publisher.publish(&path, clock::payload(BYTES));
                let sample = match answer.await {
                    Ok(()) => Sample::Called(began.elapsed()),
                    Err(error) => Sample::Failed(format!("the publisher: {error:#}")),
                };
                let _ = tell.try_send(sample);
            }
        });
        Ok(Self { samples, _tasks: tasks })
    }

    /// What was noticed since the last look.
    pub(super) fn take(&mut self) -> Result<Window> {
        let (mut calls, mut delivered, mut failures) = (Vec::new(), Vec::new(), 0);
        while let Ok(sample) = self.samples.try_recv() {
            match sample {
                Sample::Called(took) => calls.push(crate::proc::micros(took)),
                Sample::Delivered(took) => delivered.push(crate::proc::micros(took)),
                Sample::Failed(why) => {
                    eprintln!("failed: {why}");
                    failures += 1;
                }
            }
        }
        let both = |samples: &[f64]| (clock::quantile(samples, 0.5), clock::quantile(samples, 0.99));
        calls.first().context("no call of an honest client was answered")?;
        Ok(Window { calls: calls.len(), failures, call: both(&calls), delivery: both(&delivered) })
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { calls, failures, call, delivery } = self;
        let [a, b, c, d] = [call.0, call.1, delivery.0, delivery.1].map(|us| us / 1e3);
        write!(f, "{calls} calls {a:.2} / {b:.2} ms, deliveries {c:.2} / {d:.2} ms, {failures} failures")
    }
}
