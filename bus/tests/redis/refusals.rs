//! Each refusal of a server is an error of its own and counted under its own name.

use crate::{Server, eventually, free_port, node};
use bytes::Bytes;
use plexus_bus::{Bus, Config, Error, Key, Ran, Refusal, When, metrics::RefusalLabels};
use std::{process::Command, time::Duration};

async fn bus_at(port: u16) -> Bus {
    crate::bus_at(port).await
}

async fn put(bus: &Bus) -> Result<Option<u64>, Error> {
    bus.put(Key::Sealed(node()), Bytes::new(), When::Always, None).await
}

fn counted(bus: &Bus, refusal: Refusal) -> u64 {
    bus.metrics().refusals.get_or_create(&RefusalLabels { reason: refusal.label() }).get()
}

/// Waits until a write is refused so, and then until it is taken again.
async fn refused(bus: &Bus, refusal: Refusal) {
    eventually(refusal.label(), || async { put(bus).await == Err(Error::Refused(refusal)) }).await;
    assert_eq!(Error::Refused(refusal).outcome(), Ran::NotRun);
    assert!(counted(bus, refusal) > 0, "{refusal} is counted");
}

async fn taken(bus: &Bus) {
    eventually("writes are taken again", || async { put(bus).await.is_ok() }).await;
}

#[tokio::test]
async fn a_server_that_cannot_save_or_lacks_memory_or_replicas_says_which() {
    let Some(server) = Server::start(free_port(), &[]) else { return };
    server.ready().await;
    let bus = bus_at(server.port).await;
    taken(&bus).await;

    server.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    refused(&bus, Refusal::OutOfMemory).await;
    server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    taken(&bus).await;

    server.ask(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    refused(&bus, Refusal::NoReplicas).await;
    server.ask(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    taken(&bus).await;

    // It saves into its folder, which is gone.
    std::fs::remove_dir_all(&server.dir).unwrap();
    server.ask(&["CONFIG", "SET", "save", "3600 1"]);
    server.ask(&["BGSAVE"]);
    refused(&bus, Refusal::Misconfigured).await;
    server.ask(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]);
    taken(&bus).await;

    server.ask(&["REPLICAOF", "127.0.0.1", "1"]);
    refused(&bus, Refusal::ReadOnly).await;
    server.ask(&["REPLICAOF", "NO", "ONE"]);
    taken(&bus).await;
}

#[tokio::test]
async fn a_user_without_the_right_or_the_password_is_told_so() {
    let Some(server) = Server::start(free_port(), &[]) else { return };
    server.ready().await;
    let bus = bus_at(server.port).await;
    server.ask(&["ACL", "SETUSER", "default", "-fcall"]);
    refused(&bus, Refusal::NoPermission).await;
    server.ask(&["ACL", "SETUSER", "default", "+fcall"]);
    taken(&bus).await;

    // The user that is left to ask with.
    server.ask(&["ACL", "SETUSER", "admin", "on", "nopass", "~*", "&*", "+@all"]);
    server.ask(&["ACL", "SETUSER", "default", "resetpass", ">other"]);
    server.ask(&["--user", "admin", "--pass", "x", "CLIENT", "KILL", "TYPE", "normal"]);
    server.ask(&["--user", "admin", "--pass", "x", "CLIENT", "KILL", "TYPE", "pubsub"]);
    refused(&bus, Refusal::NoAuth).await;
    assert!(!bus.healthy());
    server.ask(&["--user", "admin", "--pass", "x", "ACL", "SETUSER", "default", "nopass"]);
    taken(&bus).await;
    eventually("healthy again", || async { bus.healthy() }).await;
}

#[tokio::test]
async fn a_server_that_is_busy_or_full_says_which() {
    let Some(server) = Server::start(free_port(), &["--busy-reply-threshold", "20"]) else { return };
    server.ready().await;
    let bus = bus_at(server.port).await;
    let port = server.port.to_string();
    let mut endless =
        Command::new("redis-cli").args(["-p", &port, "EVAL", "while true do end", "0"]).spawn().unwrap();
    refused(&bus, Refusal::Busy).await;
    server.ask(&["SCRIPT", "KILL"]);
    endless.wait().unwrap();
    taken(&bus).await;

    server.ask(&["CONFIG", "SET", "maxclients", "1"]);
    let url = format!("redis://127.0.0.1:{port}");
    let second = Bus::open(&Config { url, ..Config::default() }).await.err();
    assert_eq!(second, Some(Error::Refused(Refusal::MaxClients)));
}

#[tokio::test]
async fn a_server_that_still_loads_is_told_from_one_that_is_gone() {
    let port = free_port();
    let Some(mut server) = Server::start(port, &[]) else { return };
    server.ready().await;
    server.ask(&["DEBUG", "POPULATE", "2000"]);
    server.ask(&["CONFIG", "SET", "save", "3600 1"]);
    server.ask(&["SAVE"]);
    let bus = bus_at(port).await;
    let dump = std::fs::read(server.dir.join("dump.rdb")).unwrap();
    server.kill();
    eventually("it is gone", || async { put(&bus).await == Err(Error::Unreachable { sent: false }) }).await;
    std::fs::write(server.dir.join("dump.rdb"), dump).unwrap();
    let slowly = ["--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024"];
    let server = Server::start(port, &slowly).unwrap();
    refused(&bus, Refusal::Loading).await;
    taken(&bus).await;
    drop(server);
    tokio::time::timeout(Duration::from_secs(5), bus.close()).await.unwrap();
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up_in_time() {
    // It listens, and takes nobody in.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = mute.local_addr().unwrap().port();
    for scheme in ["redis", "rediss", "redis-sentinel", "redis-cluster", "rediss-cluster"] {
        let service = if scheme.ends_with("sentinel") { "?sentinelServiceName=main" } else { "" };
        let url = format!("{scheme}://127.0.0.1:{port}{service}");
        let quick = Duration::from_millis(200);
        let config = Config { url, connect_timeout: quick, call_timeout: quick, ..Config::default() };
        let opened = tokio::time::timeout(Duration::from_secs(5), Bus::open(&config)).await;
        let error = opened.expect(scheme).err().unwrap();
        assert!(matches!(error, Error::Timeout | Error::Unreachable { .. }), "{scheme}: {error:?}");
    }
}
