//! The baseline: libp2p alone, in a child process of this binary. Same allocator, flags and gossipsub
//! settings as a node of ours; no bus, no log, no API.
//!
//! A child takes commands as lines on its standard input and answers each with one line of JSON.

use crate::{
    clock,
    proc::{self, Watch, micros},
};
use anyhow::{Context, Result, bail};
use clap::Subcommand;
use futures::StreamExt;
use libp2p::{
    Multiaddr, Swarm, gossipsub, identify,
    kad::{self, store::MemoryStore},
    ping,
    swarm::{NetworkBehaviour, SwarmEvent, behaviour::toggle::Toggle},
};
use serde_json::{Value, json};
use std::{io::Write, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::mpsc,
    task::JoinSet,
};

const TOPIC: &str = "bench";

/// What a child does.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Raw {
    /// Holds swarms that do nothing. Commands: `grow N`, `ring`.
    Idle {
        /// With Kademlia as a client.
        #[arg(long)]
        kad: bool,
    },
    /// Sends at a rate from one swarm to another and answers how long each message took.
    Hop {
        #[arg(long)]
        rate: u32,
        #[arg(long)]
        seconds: u64,
        #[arg(long)]
        bytes: usize,
    },
    /// Sends as fast as the other swarm takes it.
    Flood {
        #[arg(long)]
        seconds: u64,
        #[arg(long)]
        bytes: usize,
    },
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    gossip: gossipsub::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    kad: Toggle<kad::Behaviour<MemoryStore>>,
}

type Node = Swarm<Behaviour>;

/// Runs as a child.
pub(crate) async fn run(what: Raw) -> Result<()> {
    match what {
        Raw::Idle { kad } => idle(kad).await,
        Raw::Hop { rate, seconds, bytes } => Box::pin(hop(rate, Duration::from_secs(seconds), bytes)).await,
        Raw::Flood { seconds, bytes } => Box::pin(flood(Duration::from_secs(seconds), bytes)).await,
    }
}

fn answer(value: &Value) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{value}")?;
    Ok(out.flush()?)
}

async fn build(kad: bool) -> Result<(Node, Multiaddr)> {
    let mut swarm = libp2p::SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            libp2p::tcp::Config::default().nodelay(true),
            libp2p::noise::Config::new,
            libp2p::yamux::Config::default,
        )?
        .with_behaviour(|key| {
            let author = gossipsub::MessageAuthenticity::Signed(key.clone());
            let id = key.public().to_peer_id();
            let mut tree = kad.then(|| kad::Behaviour::new(id, MemoryStore::new(id)));
            tree.iter_mut().for_each(|tree| tree.set_mode(Some(kad::Mode::Client)));
            Ok(Behaviour {
                gossip: gossipsub::Behaviour::new(author, settings()?)?,
                identify: identify::Behaviour::new(identify::Config::new("ipfs/0.1.0".into(), key.public())),
                ping: ping::Behaviour::default(),
                kad: tree.into(),
            })
        })?
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(600)))
        .build();
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse()?)?;
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            let id = *swarm.local_peer_id();
            return Ok((swarm, address.with(libp2p::multiaddr::Protocol::P2p(id))));
        }
    }
}

/// As a node of ours is set, so that the difference is what we add.
fn settings() -> Result<gossipsub::Config> {
    let id = |message: &gossipsub::Message| {
        let mut id = message.source.map(|peer| peer.to_bytes()).unwrap_or_default();
        id.extend(message.sequence_number.unwrap_or_default().to_be_bytes());
        gossipsub::MessageId::new(&id)
    };
    Ok(gossipsub::ConfigBuilder::default()
        .max_transmit_size((1 << 20) + (64 << 10))
        .max_control_message_size(1 << 20)
        .heartbeat_initial_delay(Duration::from_millis(100))
        .duplicate_cache_time(Duration::from_secs(120))
        .history_length(10)
        .connection_handler_queue_len(1024)
        .validation_mode(gossipsub::ValidationMode::Strict)
        .message_id_fn(id)
        .build()?)
}

/// Two swarms that have each other in the mesh.
async fn pair() -> Result<(Node, Node)> {
    let ((mut a, _), (mut b, address)) = (build(false).await?, build(false).await?);
    let topic = gossipsub::IdentTopic::new(TOPIC);
    a.behaviour_mut().gossip.subscribe(&topic)?;
    b.behaviour_mut().gossip.subscribe(&topic)?;
    a.dial(address)?;
    // The heartbeat of a quiet swarm falls asleep: an interval keeps it awake until the mesh is there.
    let mut awake = tokio::time::interval(Duration::from_millis(50));
    let meshed = |node: &Node| node.behaviour().gossip.mesh_peers(&topic.hash()).count() == 1;
    while !(meshed(&a) && meshed(&b)) {
        tokio::select! {
            _ = a.select_next_some() => {}
            _ = b.select_next_some() => {}
            _ = awake.tick() => {}
        }
    }
    Ok((a, b))
}

async fn idle(kad: bool) -> Result<()> {
    let (mut tasks, mut nodes) = (JoinSet::new(), Vec::new());
    answer(&json!({}))?;
    while let Some(line) = tokio::task::spawn_blocking(|| std::io::stdin().lines().next()).await? {
        let line = line?;
        let mut answers = Vec::new();
        match line.split_once(' ') {
            Some(("grow", count)) => {
                for _ in 0..count.parse()? {
                    let (node, address) = Box::pin(build(kad)).await?;
                    let (orders, inbox) = mpsc::channel(1);
                    tasks.spawn(live(node, inbox));
                    nodes.push((orders, address));
                }
            }
            None if line == "ring" => {
                for at in 0..nodes.len() {
                    let (done, answer) = mpsc::channel(1);
                    let to = nodes[(at + 1) % nodes.len()].1.clone();
                    nodes[at].0.send((to, done)).await?;
                    answers.push(answer);
                }
            }
            _ => bail!("{line:?} is no command"),
        }
        for mut each in answers {
            each.recv().await.context("a swarm ended")?;
        }
        answer(&json!({}))?;
    }
    Ok(())
}

type Order = (Multiaddr, mpsc::Sender<()>);

async fn live(mut node: Node, mut orders: mpsc::Receiver<Order>) {
    let mut dialled = None;
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some((address, done)) => {
                    node.dial(address).expect("the address is whole");
                    dialled = Some(done);
                }
                None => return,
            },
            event = node.select_next_some() => {
                if let SwarmEvent::ConnectionEstablished { endpoint, .. } = event
                    && endpoint.is_dialer()
                    && let Some(done) = dialled.take()
                {
                    let _ = done.send(()).await;
                }
            }
        }
    }
}

async fn hop(rate: u32, during: Duration, bytes: usize) -> Result<()> {
    let (mut a, mut b) = Box::pin(pair()).await?;
    let topic = gossipsub::IdentTopic::new(TOPIC);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut next = tokio::time::interval(Duration::from_secs(1) / rate);
        loop {
            tokio::select! {
                _ = next.tick() => {
                    // A queue that is full shows as a message that never arrives.
                    let _ = a.behaviour_mut().gossip.publish(topic.clone(), clock::payload(bytes));
                }
                _ = a.select_next_some() => {}
            }
        }
    });
    let mut took = Vec::new();
    let end = tokio::time::sleep(during);
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => break,
            event = b.select_next_some() => took.extend(data(&event).and_then(clock::age).map(micros)),
        }
    }
    answer(&json!({ "took_us": took }))
}

fn data(event: &SwarmEvent<BehaviourEvent>) -> Option<&[u8]> {
    match event {
        SwarmEvent::Behaviour(BehaviourEvent::Gossip(gossipsub::Event::Message { message, .. })) => {
            Some(&message.data)
        }
        _ => None,
    }
}

/// Messages under way at most, as many as a session of ours has calls.
const WINDOW: u64 = 256;

async fn flood(during: Duration, bytes: usize) -> Result<()> {
    let (mut a, mut b) = Box::pin(pair()).await?;
    let topic = gossipsub::IdentTopic::new(TOPIC);
    let (mut sent, mut received) = (0, 0);
    let mut watch = None;
    let warm = tokio::time::sleep(Duration::from_secs(1));
    tokio::pin!(warm);
    let (elapsed, used) = loop {
        while sent - received < WINDOW {
            a.behaviour_mut().gossip.publish(topic.clone(), clock::payload(bytes))?;
            sent += 1;
        }
        tokio::select! {
            () = &mut warm => match watch.take() {
                None => {
                    watch = Some((Watch::begin(&[std::process::id()])?, received));
                    warm.as_mut().reset(tokio::time::Instant::now() + during);
                }
                Some((watch, before)) => {
                    let (elapsed, used) = watch.end()?;
                    received -= before;
                    break (elapsed, used[0]);
                }
            },
            _ = a.select_next_some() => {}
            event = b.select_next_some() => received += u64::from(data(&event).is_some()),
        }
    };
    answer(&json!({ "messages": received, "seconds": elapsed.as_secs_f64(), "cpu_us": micros(used) }))
}

/// A child as its parent sees it; dropping it ends it.
pub(crate) struct Baseline {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Baseline {
    /// Starts one, on one core where that is asked for.
    pub(crate) fn start(words: &str, core: Option<usize>) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("raw").args(words.split(' '));
        if core.is_some() {
            command.env("TOKIO_WORKER_THREADS", "1");
        }
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("the baseline")?;
        let input = child.stdin.take().context("its input")?;
        let output = BufReader::new(child.stdout.take().context("its output")?).lines();
        let baseline = Self { child, input, output };
        if core.is_some() {
            proc::pin(baseline.pid()?, core)?;
        }
        Ok(baseline)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> Result<u32> {
        self.child.id().context("the baseline ended")
    }

    /// Waits for its next answer.
    pub(crate) async fn answer(&mut self) -> Result<Value> {
        let line = self.output.next_line().await?.context("the baseline ended")?;
        Ok(serde_json::from_str(&line)?)
    }

    /// Gives a command and waits for its answer.
    pub(crate) async fn ask(&mut self, command: &str) -> Result<Value> {
        use tokio::io::AsyncWriteExt;
        self.input.write_all(format!("{command}\n").as_bytes()).await?;
        self.answer().await
    }
}
