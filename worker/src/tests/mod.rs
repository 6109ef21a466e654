//! A whole worker. [`ground`] is what other tests stand on as well, [`honeypot`] listens where nobody may
//! dial.

pub(crate) mod ground;
pub(crate) mod honeypot;

use super::*;
use ground::{Caller, PATIENCE, bus, eventually, name, public, state};
use plexus_bus::{CallId, Frame, Payload};
use plexus_proto::{
    text,
    v1::{CreateNodeRequest, ListTopicsRequest, ListTopicsResponse, Node, node_status::State},
};
use std::time::Duration;
use tokio::task::JoinSet;

#[tokio::test]
async fn a_worker_brings_up_the_node_it_made_and_leaves_nothing_behind() {
    let bus = bus().await;
    let keys = config::Keys { generate: true, ..Default::default() };
    let config = Config { id: "w".into(), keys, allow_private_addresses: true, ..Default::default() };
    let worker = Worker::new(config, bus.clone()).unwrap();
    let (mut ready, alive) = (worker.ready(), worker.alive());
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    assert!(!ready.is_ready());
    tasks.spawn(Box::pin(worker.run(stop.clone())));
    assert!(ready.wait().await);
    let mut caller = Caller::new(&bus).await;
    let request = Payload::of(CreateNodeRequest { id: "n".into(), ..Default::default() });
    let made = caller.call(CallId::now_v7(), "plexus.v1.NodeService/CreateNode", None, request).await;
    let made = Node::from_bytes(made.result.unwrap().to_bytes()).unwrap();
    let name = name("n");
    let peer = text::peer_id_from_text(&made.peer_id).unwrap();
    assert_eq!(bus.find(&peer).await.unwrap(), Some(name.clone()));
    let (method, request) = ("plexus.v1.TopicService/ListTopics", Payload::of(ListTopicsRequest::default()));
    let answer = caller.call(CallId::now_v7(), method, Some(&name), request).await;
    let answer = ListTopicsResponse::from_bytes(answer.result.unwrap().to_bytes()).unwrap();
    assert!(answer.topics.is_empty());
    eventually("its state says so", || async { public(&state(&bus, &name).await) == State::Running }).await;
    assert!(alive.is_alive(PATIENCE));
    stop.cancel();
    tokio::time::timeout(PATIENCE, tasks.join_next()).await.expect("it leaves").unwrap().unwrap();
    assert!(!ready.is_ready());
    assert!(bus.owner(&name).await.unwrap().unwrap().worker.is_none());
    assert!(bus.workers().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_config_that_cannot_hold_a_lease_is_refused() {
    let bus = Bus::open(&plexus_bus::Config::default()).await.unwrap();
    let keys = config::Keys { generate: true, ..Default::default() };
    let fits = Config { id: "pod-1.zone".into(), keys, ..Default::default() };
    let lease = |renew: u64, deadline: u64| config::Lease {
        renew_interval: Duration::from_secs(renew),
        deadline: Duration::from_secs(deadline),
        ..Default::default()
    };
    for bad in [
        Config { id: "a b".into(), ..fits.clone() },
        Config { id: "a".repeat(201), ..fits.clone() },
        Config { lease: lease(3, 4), ..fits.clone() },
        Config { lease: lease(0, 4), ..fits.clone() },
        Config { lease: lease(1, 6), ..fits.clone() },
        Config { nodes_max: 0, ..fits.clone() },
        Config { node: config::Node { commands_max: 0, ..Default::default() }, ..fits.clone() },
        Config {
            node: config::Node { listen_addresses: vec!["127.0.0.1:4001".into()], ..Default::default() },
            ..fits.clone()
        },
        Config { keys: config::Keys::default(), ..fits.clone() },
    ] {
        let refused = Worker::new(bad.clone(), bus.clone()).is_err();
        assert!(refused && bad.check().is_err(), "{bad:?}");
    }
    assert!(fits.check().is_ok() && Worker::new(fits, bus.clone()).is_ok());
    assert!(
        Worker::new(
            Config { keys: config::Keys { generate: true, ..Default::default() }, ..Default::default() },
            bus
        )
        .is_ok()
    );
}
