//! Whatever the connection does, a call runs at most once: the client library sends nothing again by itself.

use crate::{
    ALL, append, node, open_all,
    server::{Server, eventually, free_port},
};
use bytes::Bytes;
use futures::future::join_all;
use plexus_bus::{Bus, Claim, Config, Error, Grant, Key, Payload, Ran, Subject, Taken, When};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinSet,
};

/// A way to the server that carries all calls there, and on order loses the answers and breaks.
struct Way {
    port: u16,
    loses: Arc<AtomicBool>,
    _tasks: JoinSet<()>,
}

impl Way {
    async fn to(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, target) = (listener.local_addr().unwrap().port(), server.port);
        let loses = Arc::new(AtomicBool::new(false));
        let (mut tasks, losing) = (JoinSet::new(), loses.clone());
        tasks.spawn(async move {
            let mut ways = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(("127.0.0.1", target)).await else { continue };
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                let losing = losing.clone();
                ways.spawn(async move {
                    tokio::select! {
                        () = carry(near_in, far_out, None) => {}
                        () = carry(far_in, near_out, Some(losing)) => {}
                    }
                });
            }
        });
        Self { port, loses, _tasks: tasks }
    }
}

/// A bus whose own probes do not come between.
async fn bus_at(url: String) -> Bus {
    Bus::open(&Config { url, probe_interval: Duration::from_secs(10), ..Config::default() }).await.unwrap()
}

fn direct(way: &Way) -> String {
    format!("redis://127.0.0.1:{}", way.port)
}

/// Carries one direction until it ends, or until it comes to bytes that it is to lose.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, loses: Option<Arc<AtomicBool>>) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        let lost = loses.as_ref().is_some_and(|loses| loses.load(Ordering::Relaxed));
        if lost || to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}

/// How often the server has run a command since it was asked to count anew.
fn runs(server: &Server, command: &str) -> u32 {
    let stats = server.ask(&["INFO", "commandstats"]);
    let calls = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    calls.map_or(0, |calls| calls.split(',').next().unwrap().parse().unwrap())
}

/// Loses the answer of one call, which has run; then all is well again, and it has run once.
async fn lost<T: std::fmt::Debug>(
    (server, way, bus): (&Server, &Way, &Bus),
    command: &str,
    call: impl Future<Output = Result<T, Error>>,
) {
    server.ask(&["CONFIG", "RESETSTAT"]);
    way.loses.store(true, Ordering::Relaxed);
    let error = call.await.unwrap_err();
    assert_eq!(error.outcome(), Ran::Unknown, "{error}");
    way.loses.store(false, Ordering::Relaxed);
    eventually("healthy again", || async { bus.healthy() }).await;
    assert_eq!(runs(server, command), 1, "{command}");
}

/// Loses the answers of one call of a kind after the other.
async fn loses_answers(server: &Server, way: &Way, bus: &Bus) {
    let (worker, node) = ("w.1".into(), node());
    bus.renew(&worker, true).await.unwrap();
    bus.put(Key::Record(node.clone()), Bytes::new(), When::Absent, None).await.unwrap();
    let claim = [Claim { node: node.clone(), floor: 0, from: None }];
    let Taken::Epochs(epochs) = bus.take(&worker, 7, &claim).await.unwrap() else { panic!("lost") };
    let grant = Grant { epoch: epochs[0].unwrap(), nonce: 7 };
    open_all(bus, grant).await;
    let all = (server, way, bus);
    lost(all, "spublish", bus.publish(Subject::Anyone, Payload::encoded("x"))).await;
    lost(all, "fcall", bus.append(&node, grant, vec![append(grant, b"t", 1, 1)])).await;
    lost(all, "fcall", bus.put(Key::Named("k".into()), Bytes::new(), When::Always, None)).await;
    lost(all, "fcall", bus.delete(Key::Named("k".into()), When::Always)).await;
    lost(all, "fcall", bus.renew(&worker, false)).await;
    lost(all, "fcall", bus.release(&worker, &[(node.clone(), grant.epoch)])).await;
    assert_eq!(bus.read(&node, &Bytes::from_static(b"t"), ALL).await.unwrap().len(), 2, "opening, entry");
}

#[tokio::test]
async fn a_call_whose_answer_is_lost_is_told_as_unknown_and_not_sent_again() {
    let Some(server) = Server::start(free_port(), &[]) else { return };
    server.ready().await;
    let way = Way::to(&server).await;
    loses_answers(&server, &way, &bus_at(direct(&way)).await).await;
}

#[tokio::test]
async fn behind_sentinel_it_is_not_sent_again_either() {
    let Some(server) = Server::start(free_port(), &[]) else { return };
    server.ready().await;
    let way = Way::to(&server).await;
    let file = server.dir.join("sentinel.conf");
    let watched = format!(
        "sentinel monitor main 127.0.0.1 {} 1\nsentinel down-after-milliseconds main 60000\n",
        way.port
    );
    std::fs::write(&file, watched).unwrap();
    let sentinel = Server::sentinel(free_port(), &file).unwrap();
    sentinel.ready().await;
    let url = format!("redis-sentinel://127.0.0.1:{}?sentinelServiceName=main", sentinel.port);
    loses_answers(&server, &way, &bus_at(url).await).await;
}

#[tokio::test]
async fn of_many_calls_on_a_connection_that_breaks_each_runs_at_most_once() {
    let Some(server) = Server::start(free_port(), &[]) else { return };
    server.ready().await;
    let way = Way::to(&server).await;
    let bus = bus_at(direct(&way)).await;
    let (mut done, mut unknown, mut refused) = (0, 0, 0);
    for round in 0..20 {
        server.ask(&["CONFIG", "RESETSTAT"]);
        let key = |n: u32| Key::Named(format!("k{n}").into());
        let put = |n| bus.put(key(n), Bytes::new(), When::Always, None);
        let breaking = async {
            for _ in 0..round {
                tokio::task::yield_now().await;
            }
            way.loses.store(true, Ordering::Relaxed);
        };
        let (answers, ()) = futures::future::join(join_all((0..200).map(put)), breaking).await;
        way.loses.store(false, Ordering::Relaxed);
        eventually("healthy again", || async { bus.healthy() }).await;
        let told =
            |ran: Ran| answers.iter().filter(|a| a.as_ref().is_err_and(|e| e.outcome() == ran)).count();
        let taken = answers.iter().filter(|answer| answer.is_ok()).count();
        let ran = usize::try_from(runs(&server, "fcall")).unwrap();
        let most = taken + told(Ran::Unknown);
        assert!((taken..=most).contains(&ran), "round {round}: {ran} ran, {taken} answered, {most} at most");
        (done, unknown, refused) = (done + taken, unknown + told(Ran::Unknown), refused + told(Ran::NotRun));
    }
    println!("{done} answered, {unknown} unknown, {refused} not run");
    assert!(unknown > 0, "nothing was lost");
}
