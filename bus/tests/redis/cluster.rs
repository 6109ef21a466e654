//! Over a Redis Cluster: every call finds its server, slots move under load, and a replica takes over.

use crate::{
    ALL, append, frame, open_of,
    server::{Cluster, eventually},
};
use bytes::Bytes;
use plexus_bus::{
    Append, Appended, Bus, Claim, Config, Error, Event, Grant, Key, NodeName, Opened, Payload, Ran, Refusal,
    Renewed, Spot, Subject, Subscription, Taken, When,
};
use std::{
    process::Child,
    time::{Duration, Instant},
};
use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

const TOPIC: Bytes = Bytes::from_static(b"t");
const OTHER: Bytes = Bytes::from_static(b"u");

async fn bus_of(cluster: &Cluster) -> Bus {
    Bus::open(&Config { url: cluster.url(), ..Config::default() }).await.unwrap()
}

/// A node that is owned and opened.
async fn owned(bus: &Bus, worker: &str, name: &NodeName) -> Grant {
    let worker = worker.into();
    assert!(matches!(bus.renew(&worker, true).await.unwrap(), Renewed::Held { .. }));
    bus.put(Key::Record(name.clone()), Bytes::from_static(b"r"), When::Absent, None).await.unwrap().unwrap();
    let claim = [Claim { node: name.clone(), floor: 0, from: None }];
    let Taken::Epochs(epochs) = bus.take(&worker, 7, &claim).await.unwrap() else { panic!("lost") };
    let grant = Grant { epoch: epochs[0].unwrap(), nonce: 7 };
    let Opened::Done(openings) = open_of(bus, name, grant, &[TOPIC, OTHER]).await else { panic!("fenced") };
    assert!(openings[0].sure);
    grant
}

#[tokio::test]
async fn every_call_finds_the_server_of_its_key() {
    let Some(cluster) = Cluster::start(3, false).await else { return };
    let bus = bus_of(&cluster).await;
    let names: Vec<NodeName> = (0..12).map(|n| NodeName::new("ns", &format!("n{n}")).unwrap()).collect();
    for (at, name) in names.iter().enumerate() {
        let grant = owned(&bus, "w.1", name).await;
        let mut live = bus.subscribe(Subject::Topic(name.clone(), TOPIC)).await.unwrap();
        let mut calls = bus.subscribe(Subject::Calls(name.clone())).await.unwrap();
        assert_eq!(bus.publish(Subject::Calls(name.clone()), Payload::encoded("x")).await.unwrap(), 1);
        assert!(matches!(frame(&mut calls).await, Event::Frame(_)));
        let last = at as u64 + 1;
        let done = bus.append(name, grant, vec![append(grant, b"t", 1, last)]).await.unwrap();
        assert_eq!(done, Appended::Done(vec![Spot::Logged]));
        assert!(matches!(frame(&mut live).await, Event::Frame(_)));
        assert_eq!(bus.replicate(name, 1, false, Duration::from_millis(10)).await.unwrap(), 0);
    }
    let wanted: Vec<_> = names.iter().map(|name| (name.clone(), TOPIC)).collect();
    let tops = bus.tops(&wanted).await.unwrap();
    assert_eq!(tops.iter().map(|top| top.unwrap().seq).collect::<Vec<_>>(), (1..=12).collect::<Vec<_>>());
    let sizes: Vec<u32> =
        cluster.servers.iter().map(|server| server.ask(&["DBSIZE"]).parse().unwrap()).collect();
    assert!(sizes.iter().all(|size| *size > 0), "all servers hold some: {sizes:?}");
    for server in &cluster.servers {
        assert_eq!(server.ask(&["FUNCTION", "LIST"]).matches("library_name").count(), 3);
    }
    assert!(bus.healthy());
    bus.close().await;
    assert_eq!(bus.look(&names[0]).await.unwrap_err(), Error::Closed);
}

/// The entries after this one, in two logs that keep all of them.
fn next(grant: Grant, last: u64) -> Vec<Append> {
    let entry = |topic| Append { keep: 1_000_000, ..append(grant, topic, last + 1, last + 1) };
    vec![entry(b"t"), entry(b"u")]
}

/// A node whose slot is among the first of a cluster, which a reshard moves first.
fn low(cluster: &Cluster, below: u16) -> NodeName {
    let mut names = (0..).map(|n| format!("n{n}"));
    let name = names.find(|name| cluster.slot(&format!("plx:{{ns/{name}}}:f")) < below).unwrap();
    NodeName::new("ns", &name).unwrap()
}

/// Listens until it hears the end, and was told by then that it may have missed something.
async fn hears_the_end(mut live: Subscription) {
    let mut restored = 0;
    loop {
        match frame(&mut live).await {
            Event::Restored => restored += 1,
            Event::Frame(payload) if payload.to_bytes() == "end" => return assert!(restored > 0),
            _ => {}
        }
    }
}

async fn keeps_its_lease(bus: Bus, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let renewed = bus.renew(&"w.1".into(), false).await;
        assert!(!matches!(renewed, Ok(Renewed::Lost)), "the lease was lost");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn slots_move_under_load_and_nothing_is_lost_or_torn() {
    let Some(cluster) = Cluster::start(3, false).await else { return };
    let bus = bus_of(&cluster).await;
    let name = low(&cluster, 150);
    let grant = owned(&bus, "w.1", &name).await;
    let live = bus.subscribe(Subject::Topic(name.clone(), TOPIC)).await.unwrap();
    let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
    let listening = tasks.spawn(hears_the_end(live));
    // The worker's lease is renewed all the time, in a slot of its own, which moves as well.
    tasks.spawn(keeps_its_lease(bus.clone(), stop.clone()));
    let control = cluster.slot("plx:{c}:era");
    let there = usize::from(control) * 3 / 16384;
    let moves: [Box<dyn Fn() -> Child>; 3] = [
        Box::new(|| cluster.reshard(0, 1, 150)),
        Box::new(|| cluster.move_slot(control, there, (there + 1) % 3)),
        Box::new(|| cluster.move_slot(cluster.slot(&format!("plx:{{{name}}}:f")), 1, 2)),
    ];
    let mut last = 0;
    let mut refused = Vec::new();
    for begin in moves {
        let mut moving = begin();
        while moving.try_wait().unwrap().is_none() {
            // What shares this thread has its turn.
            tokio::task::yield_now().await;
            match bus.append(&name, grant, next(grant, last)).await {
                Ok(Appended::Done(spots)) => {
                    assert_eq!(spots, [Spot::Logged; 2]);
                    last += 1;
                }
                Ok(Appended::Fenced) => panic!("fenced by nobody"),
                Err(error) => {
                    assert_eq!(error.outcome(), Ran::NotRun, "{error}");
                    refused.push(error);
                }
            }
        }
        assert!(moving.wait().unwrap().success());
    }
    stop.cancel();
    println!("{last} entries while slots moved, refused: {}", refused.len());
    assert!(last > 50, "{last} entries");
    let owner = bus.owner(&name).await.unwrap().unwrap();
    assert_eq!(owner.grant, grant);
    let range = plexus_bus::Range { limit: 100_000, ..ALL };
    for topic in [TOPIC, OTHER] {
        let log = bus.read(&name, &topic, range).await.unwrap();
        assert!(log.iter().map(|entry| entry.id.seq).eq(0..=last), "a hole, or more than was acknowledged");
    }
    assert_eq!(cluster.servers[2].ask(&["EXISTS", &format!("plx:{{{name}}}:f")]), "1", "it moved twice");

    // The listener was told that it may have missed something, and goes on hearing.
    eventually("the listener hears the new server", || async {
        let _ = bus.publish(Subject::Topic(name.clone(), TOPIC), Payload::encoded("end")).await;
        listening.is_finished()
    })
    .await;
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
}

#[tokio::test]
async fn a_replica_of_a_cluster_takes_over_and_a_cluster_without_one_is_down() {
    let Some(mut cluster) = Cluster::start(3, true).await else { return };
    let bus = bus_of(&cluster).await;
    let name = low(&cluster, 5000);
    let grant = owned(&bus, "w.1", &name).await;
    let mut live = bus.subscribe(Subject::Calls(name.clone())).await.unwrap();
    assert_eq!(bus.replicate(&name, 1, false, Duration::from_secs(2)).await.unwrap(), 1);
    cluster.servers[0].kill();
    let began = Instant::now();
    eventually("not healthy", || async { !bus.healthy() }).await;
    eventually("healthy on the promoted replica", || async { bus.healthy() }).await;
    println!("took over after {:?}", began.elapsed());
    assert!(matches!(frame(&mut live).await, Event::Restored));
    let done = bus.append(&name, grant, vec![append(grant, b"t", 1, 1)]).await.unwrap();
    assert_eq!(done, Appended::Done(vec![Spot::Logged]));
    assert_eq!(bus.publish(Subject::Calls(name.clone()), Payload::encoded("x")).await.unwrap(), 1);

    // Nobody takes over from the second; what is left of the cluster refuses.
    cluster.servers[1].kill();
    let down = Error::Refused(Refusal::ClusterDown);
    eventually("the cluster is down", || async { bus.look(&name).await.is_err_and(|e| e == down) }).await;
    assert_eq!(down.outcome(), Ran::Unknown);
    assert!(!bus.healthy());
}
