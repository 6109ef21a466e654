//! What only the carrier over Redis can break: a server that stands still, dies, is replaced by a
//! replica that missed writes, refuses, or forgets the functions. Needs `redis-server` 7 on the path;
//! without it the tests say so and pass.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod cluster;
mod once;
mod refusals;
mod secrets;
mod server;
mod users;

use bytes::Bytes;
use plexus_bus::{
    Append, Appended, Bus, Claim, Config, Error, Event, Grant, Key, NodeName, Opened, Payload, Ran, Range,
    Renewed, Spot, Stage, Subject, Subscription, Taken, When,
};
use plexus_proto::bus::LogEntry;
use prost::Message;
use server::{Server, eventually, free_port};
use std::time::{Duration, Instant};

async fn bus_at(port: u16) -> Bus {
    let url = format!("redis://127.0.0.1:{port}");
    Bus::open(&Config { url, ..Config::default() }).await.unwrap()
}

fn node() -> NodeName {
    NodeName::new("ns", "a").unwrap()
}

fn entry(grant: Grant, seq: u64) -> LogEntry {
    LogEntry { epoch: grant.epoch, nonce: grant.nonce, seq, ..LogEntry::default() }
}

fn append(grant: Grant, topic: &'static [u8], first: u64, last: u64) -> Append {
    Append {
        topic: Bytes::from_static(topic),
        first,
        last,
        keep: 1000,
        entry: Payload::of(entry(grant, last)),
    }
}

async fn frame(subscription: &mut Subscription) -> Event {
    tokio::time::timeout(Duration::from_secs(10), subscription.recv()).await.unwrap().unwrap()
}

async fn open(bus: &Bus, grant: Grant, topics: &[Bytes]) -> Opened {
    open_of(bus, &node(), grant, topics).await
}

async fn open_of(bus: &Bus, node: &NodeName, grant: Grant, topics: &[Bytes]) -> Opened {
    let marker = LogEntry {
        opening: Some(plexus_proto::bus::EpochOpening { worker: "w".into(), ..Default::default() }),
        ..entry(grant, 0)
    };
    let marker = marker.encode_to_vec().into();
    bus.open_logs(node, grant, topics, marker, Stage::First { sweep: false }).await.unwrap()
}

const ALL: Range = Range { from: plexus_bus::Position::ZERO, until: None, limit: 100, newest_first: false };

#[tokio::test]
async fn an_opening_carries_what_the_script_adds_and_topics_are_bytes() {
    let Some(server) = Server::start(free_port(), &[]) else { return };
    server.ready().await;
    let bus = bus_at(server.port).await;
    let topic = Bytes::from_static(b"\xff\x00 {x}");
    bus.put(Key::Record(node()), Bytes::from_static(b"record"), When::Absent, None).await.unwrap();
    let mut live = bus.subscribe(Subject::Topic(node(), topic.clone())).await.unwrap();
    let first = Grant { epoch: 1_700_000_000_000_000, nonce: u64::MAX };
    let Opened::Done(openings) = open(&bus, first, std::slice::from_ref(&topic)).await else {
        panic!("fenced")
    };
    assert!(openings[0].sure, "the fence was made with the record");
    let second = Grant { epoch: first.epoch + 1, nonce: 2 };
    let done = bus.append(&node(), first, vec![append(first, b"\xff\x00 {x}", 1, 3)]).await.unwrap();
    assert_eq!(done, Appended::Done(vec![Spot::Logged]));
    open(&bus, second, &[]).await;
    for sent in 0..3 {
        let Event::Frame(payload) = frame(&mut live).await else { panic!("no frame") };
        let log = bus.read(&node(), &topic, ALL).await.unwrap();
        assert_eq!(payload.to_bytes(), log[sent].entry.to_bytes(), "log and live frame are the same bytes");
    }
    let log = bus.read(&node(), &topic, ALL).await.unwrap();
    let opening = log[2].entry.open::<LogEntry>().unwrap().opening.clone().unwrap();
    assert_eq!(opening.prev, format!("{}-3", first.epoch));
    assert_eq!((opening.worker.as_str(), opening.sure), ("w", true));
    assert_eq!(bus.look(&node()).await.unwrap().grant, Some(second));
    bus.close().await;
    assert_eq!(bus.look(&node()).await.unwrap_err(), Error::Closed);
}

#[tokio::test]
async fn a_stopped_server_is_a_typed_error_within_the_deadline() {
    let Some(server) = Server::start(free_port(), &[]) else { return };
    server.ready().await;
    let bus = bus_at(server.port).await;
    let mut live = bus.subscribe(Subject::Anyone).await.unwrap();
    eventually("it counts as up", || async { bus.metrics().up.get() == 1 }).await;
    server.signal("-STOP");
    let began = Instant::now();
    let error = bus.look(&node()).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(error.outcome(), Ran::Unknown, "{error}");
    eventually("not healthy", || async { !bus.healthy() && bus.metrics().up.get() == 0 }).await;
    let began = Instant::now();
    let error = bus.look(&node()).await.unwrap_err();
    assert_eq!(error, Error::Unreachable { sent: false });
    assert!(began.elapsed() < Duration::from_millis(100), "a dead connection is known");
    eventually("subscribing is refused too", || async {
        bus.subscribe(Subject::Records).await.is_err_and(|e| e == Error::Unreachable { sent: false })
    })
    .await;
    server.signal("-CONT");
    eventually("healthy again", || async { bus.healthy() }).await;
    assert!(matches!(frame(&mut live).await, Event::Restored));
    bus.look(&node()).await.unwrap();
    assert_eq!(bus.publish(Subject::Anyone, Payload::encoded("x")).await.unwrap(), 1);
}

#[tokio::test]
async fn a_restarted_server_gets_its_functions_and_subscriptions_back() {
    let port = free_port();
    let Some(mut server) = Server::start(port, &[]) else { return };
    server.ready().await;
    let bus = bus_at(port).await;
    let mut live = bus.subscribe(Subject::Calls(node())).await.unwrap();
    server.kill();
    eventually("not healthy", || async { !bus.healthy() }).await;
    let server = Server::start(port, &[]).unwrap();
    eventually("healthy again", || async { bus.healthy() }).await;
    assert!(matches!(frame(&mut live).await, Event::Restored));
    bus.look(&node()).await.unwrap();
    assert_eq!(bus.publish(Subject::Calls(node()), Payload::encoded("x")).await.unwrap(), 1);
    loop {
        if let Event::Frame(payload) = frame(&mut live).await {
            assert_eq!(payload.to_bytes(), "x");
            break;
        }
    }
    // Nothing tells that they are gone but the answer itself.
    server.ask(&["FUNCTION", "FLUSH"]);
    bus.look(&node()).await.unwrap();
}

#[tokio::test]
async fn the_last_listener_lets_the_channel_go_and_the_next_gets_it_back() {
    let Some(server) = Server::start(free_port(), &[]) else { return };
    server.ready().await;
    let bus = bus_at(server.port).await;
    for _ in 0..50 {
        let one = bus.subscribe(Subject::Anyone).await.unwrap();
        let two = bus.subscribe(Subject::Anyone).await.unwrap();
        assert_eq!(bus.publish(Subject::Anyone, Payload::encoded("x")).await.unwrap(), 1);
        drop((one, two));
    }
    eventually("nobody listens", || async {
        bus.publish(Subject::Anyone, Payload::encoded("x")).await.unwrap() == 0
    })
    .await;
}

#[tokio::test]
async fn what_the_server_refuses_is_told_apart_from_what_is_unknown() {
    let Some(server) = Server::start(free_port(), &["--min-replicas-to-write", "0"]) else { return };
    server.ready().await;
    let bus = bus_at(server.port).await;
    let worker = "w.1".into();
    bus.renew(&worker, true).await.unwrap();
    server.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    server.ask(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    let put = bus.put(Key::Sealed(node()), Bytes::new(), When::Always, None).await;
    assert_eq!(put, Err(Error::Refused(plexus_bus::Refusal::OutOfMemory)));
    assert!(matches!(bus.renew(&worker, false).await.unwrap(), Renewed::Held { .. }), "leases live on");
    server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    server.ask(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    let put = bus.put(Key::Sealed(node()), Bytes::new(), When::Always, None).await;
    assert_eq!(put, Err(Error::Refused(plexus_bus::Refusal::NoReplicas)));
    let huge = Payload::encoded(vec![0; (2 << 20) + 1]);
    assert!(matches!(bus.publish(Subject::Anyone, huge).await, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn a_promoted_replica_that_missed_entries_gets_them_again_and_grants_nothing_at_first() {
    let Some((mut old, new)) = pair().await else { return };
    let bus = bus_at(old.port).await;
    let (one, two) = ("w.1".into(), "w.2".into());
    assert!(matches!(bus.renew(&one, true).await.unwrap(), Renewed::Held { replicas: 1, .. }));
    bus.renew(&two, true).await.unwrap();
    bus.put(Key::Record(node()), Bytes::new(), When::Absent, None).await.unwrap();
    let claim = |from| [Claim { node: node(), floor: 0, from }];
    let Taken::Epochs(epochs) = bus.take(&one, 7, &claim(None)).await.unwrap() else { panic!("lost") };
    let grant = Grant { epoch: epochs[0].unwrap(), nonce: 7 };
    assert!(matches!(open(&bus, grant, &[Bytes::from_static(b"t")]).await, Opened::Done(_)));
    bus.append(&node(), grant, vec![append(grant, b"t", 1, 1)]).await.unwrap();
    assert_eq!(bus.replicate(&node(), 1, false, Duration::from_secs(1)).await.unwrap(), 1);
    assert!(matches!(
        bus.replicate(&node(), 0, true, Duration::from_secs(1)).await,
        Err(Error::Unsupported(_))
    ));

    new.ask(&["REPLICAOF", "NO", "ONE"]);
    let lost = bus.append(&node(), grant, vec![append(grant, b"t", 2, 2)]).await.unwrap();
    assert_eq!(lost, Appended::Done(vec![Spot::Logged]));
    old.kill();

    let bus = bus_at(new.port).await;
    assert!(matches!(bus.renew(&one, false).await.unwrap(), Renewed::Held { replicas: 0, .. }));
    assert!(matches!(bus.renew(&two, false).await.unwrap(), Renewed::Held { .. }));
    bus.release(&one, &[(node(), grant.epoch)]).await.unwrap();
    assert_eq!(bus.take(&two, 8, &claim(None)).await.unwrap(), Taken::Epochs(vec![None]), "grace");
    let look = bus.look(&node()).await.unwrap();
    assert_eq!(look.tails[0].1.seq, 1);
    assert_ne!(look.stamped.as_ref(), Some(&look.era));
    let again = bus.append(&node(), grant, vec![append(grant, b"t", 2, 2)]).await.unwrap();
    assert_eq!(again, Appended::Done(vec![Spot::Logged]));
    assert!(bus.stamp(&node(), grant, look.era).await.unwrap());
    eventually("the grace is over", || async {
        bus.renew(&two, false).await.unwrap();
        bus.take(&two, 8, &claim(None)).await.unwrap() != Taken::Epochs(vec![None])
    })
    .await;
    let owner = bus.owner(&node()).await.unwrap().unwrap();
    let Opened::Done(openings) = open(&bus, owner.grant, &[Bytes::from_static(b"later")]).await else {
        panic!("fenced")
    };
    let told: Vec<_> = openings.iter().map(|o| (o.topic.as_ref(), o.prev.seq, o.sure)).collect();
    assert_eq!(told, [(&b"later"[..], 0, true), (&b"t"[..], 2, true)]);
}

#[tokio::test]
async fn many_wait_for_a_replica_in_few_rounds_and_none_beyond_its_limit() {
    let Some((old, replica)) = pair().await else { return };
    let bus = bus_at(old.port).await;
    let names: Vec<NodeName> = (0..200).map(|n| NodeName::new("ns", &format!("n{n}")).unwrap()).collect();
    let limit = Duration::from_secs(5);
    let waits = names.iter().map(|name| bus.replicate(name, 1, false, limit));
    let all = futures::future::join_all(waits).await;
    assert!(all.iter().all(|count| *count == Ok(1)), "{all:?}");
    let calls = old.ask(&["INFO", "commandstats"]);
    let calls = calls.lines().find_map(|line| line.strip_prefix("cmdstat_wait:calls=")).unwrap();
    let calls: u32 = calls.split(',').next().unwrap().parse().unwrap();
    assert!(calls < 20, "{calls} rounds");

    // A replica that stands still holds up nobody beyond the limit, and calls go on meanwhile.
    replica.signal("-STOP");
    let waits = names.iter().map(|name| bus.replicate(name, 1, false, Duration::from_millis(100)));
    let (stuck, looked) = futures::future::join(futures::future::join_all(waits), bus.look(&names[0])).await;
    assert!(stuck.iter().all(|count| matches!(count, Ok(0) | Err(Error::Timeout))), "{stuck:?}");
    looked.unwrap();
    replica.signal("-CONT");
}

#[tokio::test]
async fn a_full_store_refuses_what_is_new_and_keeps_leases() {
    let Some(server) = Server::start(free_port(), &[]) else { return };
    server.ready().await;
    let bus = bus_at(server.port).await;
    let worker = "w.1".into();
    bus.renew(&worker, true).await.unwrap();
    bus.put(Key::Record(node()), Bytes::new(), When::Absent, None).await.unwrap();
    let claim = [Claim { node: node(), floor: 0, from: None }];
    let Taken::Epochs(epochs) = bus.take(&worker, 7, &claim).await.unwrap() else { panic!("lost") };
    let grant = Grant { epoch: epochs[0].unwrap(), nonce: 7 };
    open_all(&bus, grant).await;
    server.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    let full = Err(Error::Refused(plexus_bus::Refusal::OutOfMemory));
    let key = || Key::Named("k".into());
    assert_eq!(bus.put(key(), Bytes::new(), When::Always, None).await, full);
    assert_eq!(
        bus.want(&node(), &"g".into(), &[(Bytes::from_static(b"t"), Some(1))]).await.err(),
        full.clone().err()
    );
    let appended = bus.append(&node(), grant, vec![append(grant, b"t", 1, 1)]).await;
    assert_eq!(appended.as_ref().err(), full.as_ref().err());
    assert_eq!(appended.unwrap_err().outcome(), Ran::NotRun);
    assert!(matches!(bus.renew(&worker, false).await.unwrap(), Renewed::Held { .. }), "leases live on");
    assert_eq!(bus.release(&worker, &[(node(), grant.epoch)]).await, Ok(1), "and nodes are given back");
    server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(bus.put(key(), Bytes::new(), When::Always, None).await, Ok(Some(1)));
}

#[tokio::test]
async fn a_user_with_few_rights_suffices_and_a_wrong_password_is_refused_untold() {
    let Some(server) = Server::start(free_port(), &[]) else { return };
    server.ready().await;
    let rights = ["~plx:*", "&plx:*", "+@all", "-@dangerous", "+info"];
    server.ask(&[&["ACL", "SETUSER", "plexus", "on", ">s3cret"], &rights[..]].concat());
    server.ask(&["ACL", "SETUSER", "default", "off"]);
    let open = |password: &str| {
        let url = format!("redis://plexus:{password}@127.0.0.1:{}", server.port);
        async move { Bus::open(&Config { url, ..Config::default() }).await }
    };
    let refused = open("n0ne").await.err().unwrap();
    assert_eq!(refused, Error::Refused(plexus_bus::Refusal::NoAuth));
    assert!(!refused.to_string().contains("n0ne"));

    let bus = open("s3cret").await.unwrap();
    let worker = "w.1".into();
    let mut live = bus.subscribe(Subject::Ownership).await.unwrap();
    bus.renew(&worker, true).await.unwrap();
    bus.put(Key::Record(node()), Bytes::new(), When::Absent, None).await.unwrap();
    bus.put(Key::Named("name".into()), Bytes::new(), When::Absent, None).await.unwrap();
    bus.take(&worker, 7, &[Claim { node: node(), floor: 0, from: None }]).await.unwrap();
    assert!(matches!(frame(&mut live).await, Event::Frame(_)));
    let grant = bus.owner(&node()).await.unwrap().unwrap().grant;
    open_all(&bus, grant).await;
    bus.append(&node(), grant, vec![append(grant, b"t", 1, 1)]).await.unwrap();
    assert_eq!(bus.read(&node(), &Bytes::from_static(b"t"), ALL).await.unwrap().len(), 2);
    assert_eq!(bus.replicate(&node(), 1, false, Duration::from_millis(50)).await.unwrap(), 0);
}

/// A primary and a replica that follows it; none without `redis-server`.
async fn pair() -> Option<(Server, Server)> {
    let primary = Server::start(free_port(), &[])?;
    primary.ready().await;
    let port = primary.port.to_string();
    let replica = Server::start(free_port(), &["--replicaof", "127.0.0.1", &port]).unwrap();
    eventually("the replica follows", || async {
        replica.ask(&["INFO", "replication"]).contains("link_status:up")
    })
    .await;
    Some((primary, replica))
}

async fn open_all(bus: &Bus, grant: Grant) {
    let Opened::Done(_) = open(bus, grant, &[Bytes::from_static(b"t")]).await else { panic!("fenced") };
}

#[tokio::test]
async fn a_failover_by_sentinel_is_followed() {
    let Some((mut old, new)) = pair().await else { return };
    let port = old.port.to_string();
    let file = std::env::temp_dir().join(format!("plexus-sentinel-{port}.conf"));
    let watched = format!(
        "sentinel monitor main 127.0.0.1 {port} 1\nsentinel down-after-milliseconds main 500\n\
         sentinel failover-timeout main 2000\n"
    );
    std::fs::write(&file, watched).unwrap();
    let sentinel = Server::sentinel(free_port(), &file).unwrap();
    sentinel.ready().await;
    eventually("the replica is known", || async {
        sentinel.ask(&["SENTINEL", "REPLICAS", "main"]).contains(&new.port.to_string())
    })
    .await;

    let url = format!("redis-sentinel://127.0.0.1:{}?sentinelServiceName=main", sentinel.port);
    let bus = Bus::open(&Config { url, ..Config::default() }).await.unwrap();
    let mut live = bus.subscribe(Subject::Anyone).await.unwrap();
    old.kill();
    eventually("not healthy", || async { !bus.healthy() }).await;
    eventually("healthy on the promoted replica", || async { bus.healthy() }).await;
    assert!(matches!(frame(&mut live).await, Event::Restored));
    assert_eq!(bus.publish(Subject::Anyone, Payload::encoded("x")).await.unwrap(), 1);
    assert!(matches!(bus.renew(&"w.1".into(), true).await.unwrap(), Renewed::Held { .. }));
    let _ = std::fs::remove_file(file);
}

#[tokio::test]
async fn a_primary_that_becomes_a_replica_is_not_healthy_until_it_is_one_again() {
    let Some(server) = Server::start(free_port(), &[]) else { return };
    server.ready().await;
    let bus = bus_at(server.port).await;
    bus.subscribe(Subject::Anyone).await.unwrap();
    server.ask(&["REPLICAOF", "127.0.0.1", "1"]);
    let error = bus.renew(&"w.1".into(), true).await.unwrap_err();
    assert_eq!(error, Error::Refused(plexus_bus::Refusal::ReadOnly));
    eventually("not healthy", || async { !bus.healthy() }).await;
    server.ask(&["REPLICAOF", "NO", "ONE"]);
    eventually("healthy again", || async { bus.healthy() }).await;
    assert!(matches!(bus.renew(&"w.1".into(), true).await.unwrap(), Renewed::Held { .. }));
}
