//! The users of docs/redis.md, as its lines make them: each may do its part and nothing else.

use crate::{
    ALL, append, frame, node, open_all,
    server::{Server, free_port},
};
use bytes::Bytes;
use plexus_bus::{Bus, Claim, Config, Error, Event, Key, Payload, Refusal, Subject, When};
use std::time::Duration;

/// Makes the users, as an operator does.
fn make(server: &Server) {
    let text = include_str!("../../../docs/redis.md");
    let lines: Vec<&str> =
        text.lines().filter(|line| line.starts_with("ACL SETUSER ") && line.contains(" reset on ")).collect();
    assert_eq!(lines.len(), 3, "gateway, worker, operator");
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(server.ask(&words), "OK", "{line}");
    }
    let disk = text.lines().find(|line| line.starts_with("ACL SETUSER ") && line.ends_with(" +waitaof"));
    let words: Vec<&str> = disk.unwrap().split_whitespace().collect();
    if server.ask(&["COMMAND", "INFO", "waitaof"]).contains("waitaof") {
        assert_eq!(server.ask(&words), "OK");
    }
}

async fn open(server: &Server, user: &str, loads_functions: bool) -> Result<Bus, Error> {
    let url = format!("redis://{user}:{user}-password@127.0.0.1:{}", server.port);
    Bus::open(&Config { url, loads_functions, ..Config::default() }).await
}

#[tokio::test]
async fn gateway_and_worker_do_their_part_with_the_documented_rights() {
    let Some(server) = Server::start(free_port(), &[]) else { return };
    server.ready().await;
    make(&server);
    let gateway = open(&server, "gateway", false).await.unwrap();
    let topic = Bytes::from_static(b"t");
    let early = gateway.extent(&node(), &topic).await;
    assert_eq!(early, Err(Error::Refused(Refusal::NoFunctions)), "no worker was there yet");

    let worker = open(&server, "worker", true).await.unwrap();
    let name = "w.1".into();
    worker.renew(&name, true).await.unwrap();
    worker.put(Key::Record(node()), Bytes::new(), When::Absent, None).await.unwrap();
    worker.put(Key::Sealed(node()), Bytes::from_static(b"sealed"), When::Absent, None).await.unwrap();
    worker.enlist(&node(), b"peer").await.unwrap();
    worker.take(&name, 7, &[Claim { node: node(), floor: 0, from: None }]).await.unwrap();
    let grant = gateway.owner(&node()).await.unwrap().unwrap().grant;
    open_all(&worker, grant).await;
    let mut live = gateway.subscribe(Subject::Topic(node(), topic.clone())).await.unwrap();
    worker.append(&node(), grant, vec![append(grant, b"t", 1, 1)]).await.unwrap();
    assert!(matches!(frame(&mut live).await, Event::Frame(_)));
    worker.put_state(&node(), grant, Bytes::from_static(b"state")).await.unwrap();
    assert_eq!(worker.replicate(&node(), 1, false, Duration::from_millis(20)).await, Ok(0));
    let disk = worker.replicate(&node(), 0, true, Duration::from_millis(20)).await;
    assert!(matches!(disk, Err(Error::Unsupported(_)) | Ok(_)), "{disk:?}");

    assert_eq!(gateway.read(&node(), &topic, ALL).await.unwrap().len(), 2);
    assert_eq!(gateway.extent(&node(), &topic).await.unwrap().unwrap().entries, 2);
    assert_eq!(gateway.tops(&[(node(), topic.clone())]).await.unwrap()[0].unwrap().seq, 1);
    assert_eq!(gateway.find(b"peer").await.unwrap(), Some(node()));
    assert_eq!(gateway.owners().await.unwrap().len(), 1);
    let (record, state) = gateway.get_state(&node()).await.unwrap();
    assert_eq!(state.unwrap(), "state");
    let revision = When::Revision(record.unwrap().revision);
    assert_eq!(gateway.put(Key::Record(node()), Bytes::new(), revision, None).await, Ok(Some(2)));
    let named = || Key::Named("n".into());
    let soon = Some(Duration::from_secs(1));
    assert_eq!(gateway.put(named(), Bytes::new(), When::Absent, soon).await, Ok(Some(1)));
    assert_eq!(worker.list("").await.unwrap().len(), 1);
    assert_eq!(gateway.list("n").await.unwrap().len(), 1);
    assert_eq!(gateway.delete(named(), When::Always).await, Ok(true));
    let g = "g".into();
    gateway.attend(&g).await.unwrap();
    gateway.want(&node(), &g, &[(topic, Some(1))]).await.unwrap();
    assert_eq!(worker.wanted(&node()).await.unwrap().len(), 1);
    assert_eq!(worker.attending(&[g]).await.unwrap(), [true]);
    let mut calls = worker.subscribe(Subject::Calls(node())).await.unwrap();
    assert_eq!(gateway.publish(Subject::Calls(node()), Payload::encoded("x")).await, Ok(1));
    assert!(matches!(frame(&mut calls).await, Event::Frame(_)));
    worker.release(&"w.1".into(), &[(node(), grant.epoch)]).await.unwrap();
    assert_eq!(server.ask(&["ACL", "LOG"]), "", "nothing was tried that is denied");

    let sealed = gateway.get(Key::Sealed(node())).await;
    assert_eq!(sealed, Err(Error::Refused(Refusal::NoPermission)));
    let seal = gateway.put(Key::Sealed(node()), Bytes::new(), When::Always, None).await;
    assert_eq!(seal, Err(Error::Refused(Refusal::NoPermission)));
    assert!(server.ask(&["ACL", "LOG"]).contains("plx:{ns/a}:k"));
}

/// What is denied, by user.
const DENIED: [(&str, &str); 42] = [
    ("gateway", "HMGET plx:{ns/a}:k r d"),
    ("gateway", "EXISTS plx:{ns/a}:k"),
    ("gateway", "FCALL plx1_put 1 plx:{ns/a}:k always 0 x sealed"),
    ("gateway", "FCALL plx1_renew 1 plx:{c}:era w.1 1"),
    ("gateway", "FCALL plx1_take 1 plx:{c}:era w.1 1 1"),
    ("gateway", "FCALL plx1_append 1 plx:{ns/a}:f 1 1"),
    ("gateway", "FCALL plx1_erase 1 plx:{ns/a}:f 1 1"),
    ("gateway", "HSET plx:{ns/a}:f e 9"),
    ("gateway", "HSET plx:{ns/a}:x d 9"),
    ("gateway", "HSET plx:{c}:n ns/a x|1|1"),
    ("gateway", "SET plx:{c}:w:w.1 1"),
    ("gateway", "GET plx:{c}:w:w.1"),
    ("gateway", "XADD plx:{ns/a}:l:t * d x"),
    ("gateway", "DEL plx:{ns/a}:d"),
    ("gateway", "SET other 1"),
    ("gateway", "SPUBLISH other x"),
    ("gateway", "FUNCTION LOAD x"),
    ("gateway", "EVAL x 0"),
    ("gateway", "KEYS *"),
    ("gateway", "SCAN 0"),
    ("gateway", "FLUSHALL"),
    ("gateway", "CONFIG GET maxmemory"),
    ("gateway", "ACL LIST"),
    ("gateway", "MONITOR"),
    ("worker", "SET other 1"),
    ("worker", "SPUBLISH other x"),
    ("worker", "FUNCTION FLUSH"),
    ("worker", "FUNCTION DELETE plx1_log"),
    ("worker", "EVAL x 0"),
    ("worker", "KEYS *"),
    ("worker", "FLUSHALL"),
    ("worker", "CONFIG SET maxmemory 1"),
    ("worker", "DEBUG SLEEP 0"),
    ("worker", "SHUTDOWN NOSAVE"),
    ("worker", "REPLICAOF NO ONE"),
    ("operator", "HGETALL plx:{c}:n"),
    ("operator", "FCALL plx1_look 1 plx:{ns/a}:f"),
    ("operator", "CONFIG SET maxmemory 1"),
    ("operator", "SSUBSCRIBE plx:{c}:own"),
    ("operator", "KEYS *"),
    ("operator", "FLUSHALL"),
    ("operator", "ACL SETUSER gateway +@all"),
];

#[tokio::test]
async fn what_a_user_has_no_need_of_is_denied() {
    let Some(server) = Server::start(free_port(), &[]) else { return };
    server.ready().await;
    make(&server);
    open(&server, "worker", true).await.unwrap();
    for (user, command) in DENIED {
        let password = format!("{user}-password");
        let words: Vec<&str> = command.split(' ').collect();
        let words = [&["--no-auth-warning", "--user", user, "--pass", &password], &words[..]].concat();
        let said = server.ask(&words);
        // What a function may not do is told from within.
        let denied = ["NOPERM", "can't run this command", "can't access"];
        assert!(denied.iter().any(|sign| said.contains(sign)), "{user}: {command}: {said}");
    }
    let url = format!("redis://operator:operator-password@127.0.0.1:{}", server.port);
    let looked = plexus_bus::redis::inspect(&Config { url, ..Config::default() }).await;
    assert!(looked.unwrap().settings.contains_key("maxmemory-policy"));
}
