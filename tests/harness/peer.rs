//! A plain rust-libp2p gossipsub peer with the crate's own defaults; not one of ours.

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm, gossipsub, identify, ping,
    swarm::{NetworkBehaviour, SwarmEvent},
};
use std::time::Duration;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

#[derive(NetworkBehaviour)]
struct Behaviour {
    gossip: gossipsub::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

/// A message as the peer got it.
#[derive(Debug, Clone)]
pub struct Received {
    /// The topic.
    pub topic: String,
    /// The payload.
    pub data: Vec<u8>,
    /// Who signed it.
    pub author: Option<PeerId>,
    /// Its sequence number.
    pub seqno: Option<u64>,
}

enum Order {
    Dial(Multiaddr, oneshot::Sender<()>),
    Subscribe(String, oneshot::Sender<()>),
    Publish(String, Vec<u8>, oneshot::Sender<Result<(), String>>),
    Mesh(String, oneshot::Sender<usize>),
}

/// A running peer; dropping it ends it.
pub struct Peer {
    /// Who it is.
    pub id: PeerId,
    /// Where it listens, with `/p2p/`.
    pub address: Multiaddr,
    /// How many connections are open.
    pub connections: watch::Receiver<usize>,
    orders: mpsc::Sender<Order>,
    received: mpsc::UnboundedReceiver<Received>,
    _task: JoinSet<()>,
}

impl Peer {
    /// Starts one on a free loopback port.
    pub async fn start() -> Self {
        let mut swarm = build();
        swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
        let address = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break address;
            }
        };
        let id = *swarm.local_peer_id();
        let (orders, inbox) = mpsc::channel(64);
        let (sender, received) = mpsc::unbounded_channel();
        let (count, connections) = watch::channel(0);
        let mut task = JoinSet::new();
        task.spawn(run(swarm, inbox, sender, count));
        let address = address.with_p2p(id).unwrap();
        Self { id, address, connections, orders, received, _task: task }
    }

    async fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> T {
        let (tx, rx) = oneshot::channel();
        self.orders.send(order(tx)).await.unwrap_or_else(|_| panic!("the peer runs"));
        rx.await.unwrap()
    }

    /// Dials an address.
    pub async fn dial(&self, address: Multiaddr) {
        self.ask(|done| Order::Dial(address, done)).await;
    }

    /// Subscribes to a topic.
    pub async fn subscribe(&self, topic: &str) {
        self.ask(|done| Order::Subscribe(topic.into(), done)).await;
    }

    /// Publishes a message.
    pub async fn publish(&self, topic: &str, data: impl Into<Vec<u8>>) -> Result<(), String> {
        self.ask(|done| Order::Publish(topic.into(), data.into(), done)).await
    }

    /// Counts the mesh peers of a topic.
    pub async fn mesh(&self, topic: &str) -> usize {
        self.ask(|done| Order::Mesh(topic.into(), done)).await
    }

    /// Waits for the next message.
    pub async fn receive(&mut self) -> Received {
        tokio::time::timeout(Duration::from_secs(20), self.received.recv())
            .await
            .expect("a message within 20 s")
            .expect("the peer runs")
    }
}

fn build() -> Swarm<Behaviour> {
    libp2p::SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(Default::default(), libp2p::noise::Config::new, libp2p::yamux::Config::default)
        .unwrap()
        .with_behaviour(|key| {
            let config = gossipsub::ConfigBuilder::default()
                .heartbeat_initial_delay(Duration::from_millis(100))
                .heartbeat_interval(Duration::from_millis(500))
                .max_transmit_size(2 << 20)
                .build()
                .unwrap();
            Behaviour {
                gossip: gossipsub::Behaviour::new(
                    gossipsub::MessageAuthenticity::Signed(key.clone()),
                    config,
                )
                .unwrap(),
                identify: identify::Behaviour::new(identify::Config::new("/test/1".into(), key.public())),
                ping: ping::Behaviour::default(),
            }
        })
        .unwrap()
        .with_swarm_config(|c| c.with_idle_connection_timeout(Duration::from_secs(60)))
        .build()
}

async fn run(
    mut swarm: Swarm<Behaviour>,
    mut orders: mpsc::Receiver<Order>,
    received: mpsc::UnboundedSender<Received>,
    connections: watch::Sender<usize>,
) {
    // Gossipsub's heartbeat falls asleep on a quiet swarm: an interval keeps it awake.
    let mut awake = tokio::time::interval(Duration::from_millis(250));
    loop {
        tokio::select! {
            _ = awake.tick() => {}
            order = orders.recv() => match order {
                Some(Order::Dial(address, done)) => {
                    swarm.dial(address).unwrap();
                    let _ = done.send(());
                }
                Some(Order::Subscribe(topic, done)) => {
                    swarm.behaviour_mut().gossip.subscribe(&gossipsub::IdentTopic::new(topic)).unwrap();
                    let _ = done.send(());
                }
                Some(Order::Publish(topic, data, done)) => {
                    let sent = swarm.behaviour_mut().gossip.publish(gossipsub::IdentTopic::new(topic), data);
                    let _ = done.send(sent.map(drop).map_err(|e| e.to_string()));
                }
                Some(Order::Mesh(topic, done)) => {
                    let hash = gossipsub::IdentTopic::new(topic).hash();
                    let _ = done.send(swarm.behaviour().gossip.mesh_peers(&hash).count());
                }
                None => return,
            },
            event = swarm.select_next_some() => match event {
                SwarmEvent::Behaviour(BehaviourEvent::Gossip(gossipsub::Event::Message { message, .. })) => {
                    let _ = received.send(Received {
                        topic: message.topic.into_string(),
                        data: message.data.to_vec(),
                        author: message.source,
                        seqno: message.sequence_number,
                    });
                }
                SwarmEvent::ConnectionEstablished { .. } => connections.send_modify(|n| *n += 1),
                SwarmEvent::ConnectionClosed { .. } => connections.send_modify(|n| *n -= 1),
                _ => {}
            },
        }
    }
}
