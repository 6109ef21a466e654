use super::*;
use crate::{
    config,
    host::{
        create::METHOD,
        errands::{Load, Loaded},
    },
    node::Note,
    tests::ground::{Caller, PATIENCE, bus, eventually, name, public, state},
};
use libp2p::{PeerId, identity::Keypair};
use plexus_bus::{CallId, Frame, Grant, Incarnation, Key, Outcome, Owned, Payload, Subject, Value, When};
use plexus_proto::{
    bus::{NodeRecord, NodeState},
    v1::{CreateNodeRequest, Node, NodeSpec, node_status::State, worker::State as WorkerState},
};
use tokio::sync::oneshot;

/// A node that was started, in the hands of a test.
struct Started {
    name: NodeName,
    worker: Incarnation,
    grant: Grant,
    peer: PeerId,
    state: NodeState,
    deadline: watch::Receiver<Moment>,
    store: watch::Receiver<Option<Store>>,
    changed: watch::Receiver<u64>,
    notes: mpsc::Sender<(NodeName, Note)>,
    pulse: Pulse,
    stop: CancellationToken,
    end: oneshot::Sender<End>,
}

enum End {
    With(Ended),
    Panic,
    /// Neither ends nor listens.
    Hang,
}

/// A host with nodes that do what the test says.
struct Host {
    tasks: JoinSet<()>,
    stop: CancellationToken,
    ready: watch::Receiver<bool>,
    alive: Alive,
    started: mpsc::Receiver<Started>,
}

fn settings() -> Config {
    let keys = config::Keys { key: Some("07".repeat(32)), ..Default::default() };
    let node = config::Node { failures_max: 3, ..Default::default() };
    Config { keys, node, drain: Duration::from_secs(5), ..Default::default() }
}

impl Host {
    fn start(id: &str, bus: &Bus, config: Config) -> Self {
        let (starts, started) = mpsc::channel(64);
        let spawn: Spawn = Arc::new(move |start, stop| Box::pin(pretend(start, stop, starts.clone())));
        let (ready, stop) = (watch::Sender::new(false), CancellationToken::new());
        let seal = Seal::load(&config.keys).unwrap();
        let handle = ready.subscribe();
        let alive = Alive::default();
        let probes = Probes { ready, alive: alive.clone() };
        let host = EventLoop::new(Arc::new(config), id, bus.clone(), seal, Metrics::default(), probes, spawn);
        let mut tasks = JoinSet::new();
        tasks.spawn(host.run(stop.clone()));
        Self { tasks, stop, ready: handle, alive, started }
    }

    async fn next(&mut self) -> Started {
        tokio::time::timeout(PATIENCE, self.started.recv()).await.expect("a node starts").unwrap()
    }

    async fn drain(mut self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.tasks.join_next()).await.expect("it leaves").unwrap().unwrap();
    }
}

async fn pretend(start: Start, stop: CancellationToken, starts: mpsc::Sender<Started>) -> Ended {
    let (end, ended) = oneshot::channel();
    let started = Started {
        peer: start.key.public().to_peer_id(),
        name: start.name,
        worker: start.worker,
        grant: start.grant,
        state: start.state,
        deadline: start.deadline,
        store: start.store,
        changed: start.changed,
        notes: start.notes,
        pulse: start.pulse,
        stop: stop.clone(),
        end,
    };
    let _ = starts.send(started).await;
    let end = tokio::select! {
        () = stop.cancelled() => return Ended::Stopped,
        Ok(end) = ended => end,
    };
    match end {
        End::With(ended) => ended,
        End::Panic => panic!("told to"),
        End::Hang => std::future::pending().await,
    }
}

async fn create(bus: &Bus, node: &str, spec: NodeSpec) -> Outcome {
    let request = CreateNodeRequest { id: node.into(), spec: Some(spec), ..Default::default() };
    Caller::new(bus).await.call(CallId::now_v7(), METHOD, None, Payload::of(request)).await
}

async fn made(bus: &Bus, node: &str) -> Node {
    create(bus, node, NodeSpec::default()).await.result.unwrap().take::<Node>().unwrap()
}

/// Changes a record as a gateway does, and tells everybody.
async fn change(bus: &Bus, node: &NodeName, change: impl FnOnce(&mut NodeRecord)) {
    let Value { revision, data } = bus.get(Key::Record(node.clone())).await.unwrap().unwrap();
    let mut record = NodeRecord::from_bytes(data).unwrap();
    change(&mut record);
    let written = bus.put(Key::Record(node.clone()), record.to_bytes(), When::Revision(revision), None).await;
    assert_eq!(written.unwrap(), Some(revision + 1));
    bus.publish(Subject::Records, Payload::of(node.to_string())).await.unwrap();
}

fn spec_of(record: &mut NodeRecord) -> &mut NodeSpec {
    record.node.as_mut().unwrap().spec.as_mut().unwrap()
}

async fn has_owner(bus: &Bus, node: &NodeName) -> Option<bool> {
    bus.owner(node).await.unwrap().map(|owner| owner.worker.is_some())
}

#[tokio::test]
async fn a_created_node_runs_with_the_answered_peer_id() {
    let bus = bus().await;
    let mut host = Host::start("a", &bus, settings());
    let node = made(&bus, "n").await;
    assert_eq!((node.id.as_str(), node.revision), ("n", 1));
    let started = host.next().await;
    assert_eq!(started.name, name("n"));
    assert_eq!(started.peer.to_string(), node.peer_id);
    assert!(*host.ready.borrow());
    assert!(*started.deadline.borrow() > Moment::now());
    let told = started.store.borrow().clone().expect("a renewal was answered");
    assert!(!told.replicated, "within a process there are no replicas");
    let owner = bus.owner(&name("n")).await.unwrap().unwrap();
    assert_eq!((owner.worker, owner.grant), (Some(started.worker), started.grant));
}

#[tokio::test]
async fn a_node_keeps_its_peer_id_after_its_worker_dies() {
    let bus = bus().await;
    let mut first = Host::start("a", &bus, settings());
    let node = made(&bus, "n").await;
    let before = first.next().await;
    let mut second = Host::start("b", &bus, settings());
    first.tasks.abort_all();
    let after = second.next().await;
    assert_eq!(after.peer.to_string(), node.peer_id);
    assert_eq!(after.peer, before.peer);
    assert!(after.grant.epoch > before.grant.epoch);
}

#[tokio::test]
async fn a_draining_worker_hands_its_nodes_over_once_they_stand_still() {
    let bus = bus().await;
    let mut first = Host::start("a", &bus, settings());
    for node in ["m", "n"] {
        made(&bus, node).await;
    }
    let stops = [first.next().await.stop, first.next().await.stop];
    let mut second = Host::start("b", &bus, settings());
    eventually("it is ready", || async { *second.ready.borrow() }).await;
    let began = tokio::time::Instant::now();
    first.drain().await;
    for _ in 0..2 {
        let started = second.next().await;
        assert!(started.worker.starts_with("b."));
    }
    assert!(stops.iter().all(CancellationToken::is_cancelled));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let live = bus.workers().await.unwrap();
    assert!(live.iter().all(|worker| worker.starts_with("b.")), "the lease is retired: {live:?}");
}

#[tokio::test]
async fn a_drain_ends_though_a_node_hangs() {
    let bus = bus().await;
    let mut host = Host::start("a", &bus, Config { drain: Duration::from_millis(300), ..settings() });
    made(&bus, "n").await;
    host.next().await.end.send(End::Hang).ok().unwrap();
    host.drain().await;
    assert_eq!(has_owner(&bus, &name("n")).await, Some(false), "it is given back all the same");
    assert!(bus.workers().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_stopped_node_has_no_owner_and_runs_again_when_it_is_started() {
    let bus = bus().await;
    let mut host = Host::start("a", &bus, settings());
    made(&bus, "n").await;
    let mut started = host.next().await;
    started.changed.mark_unchanged();
    change(&bus, &name("n"), |record| spec_of(record).stopped = Some(true)).await;
    tokio::time::timeout(PATIENCE, started.changed.wait_for(|revision| *revision == 2))
        .await
        .expect("told")
        .unwrap();
    started.notes.send((name("n"), Note::Unwanted)).await.unwrap();
    eventually("it has no owner", || async { has_owner(&bus, &name("n")).await == Some(false) }).await;
    assert_eq!(public(&state(&bus, &name("n")).await), State::Stopped);
    change(&bus, &name("n"), |record| spec_of(record).stopped = Some(false)).await;
    let again = host.next().await;
    assert_eq!(again.peer, started.peer);
    assert!(again.grant.epoch > started.grant.epoch);
}

#[tokio::test]
async fn a_deleted_node_is_buried_with_its_peer_id() {
    let bus = bus().await;
    let mut host = Host::start("a", &bus, settings());
    made(&bus, "n").await;
    let started = host.next().await;
    assert!(bus.find(&started.peer.to_bytes()).await.unwrap().is_some());
    change(&bus, &name("n"), |record| record.deleting = true).await;
    started.notes.send((name("n"), Note::Unwanted)).await.unwrap();
    eventually("it is gone", || async { has_owner(&bus, &name("n")).await.is_none() }).await;
    assert!(bus.find(&started.peer.to_bytes()).await.unwrap().is_none());
    assert!(bus.get(Key::Sealed(name("n"))).await.unwrap().is_none());
    assert_ne!(made(&bus, "n").await.peer_id, started.peer.to_string(), "the name is free");
}

#[tokio::test]
async fn a_stopped_node_is_buried_as_well() {
    let bus = bus().await;
    let _host = Host::start("a", &bus, settings());
    create(&bus, "n", NodeSpec { stopped: Some(true), ..Default::default() }).await.result.unwrap();
    change(&bus, &name("n"), |record| record.deleting = true).await;
    eventually("it is gone", || async { has_owner(&bus, &name("n")).await.is_none() }).await;
}

#[tokio::test]
async fn a_node_that_fails_is_started_again_and_at_last_quarantined_until_a_restart() {
    let bus = bus().await;
    let mut host = Host::start("a", &bus, settings());
    made(&bus, "n").await;
    let mut epoch = 0;
    for end in
        [End::With(Ended::Failed("no luck".into())), End::Panic, End::With(Ended::Failed("no luck".into()))]
    {
        let started = host.next().await;
        assert!(started.grant.epoch > epoch, "one opening per epoch");
        epoch = started.grant.epoch;
        assert_eq!(
            bus.owner(&name("n")).await.unwrap().unwrap().worker,
            Some(started.worker),
            "it keeps its owner"
        );
        started.end.send(end).ok().unwrap();
    }
    eventually("it is given up", || async { has_owner(&bus, &name("n")).await == Some(false) }).await;
    let failed = state(&bus, &name("n")).await;
    assert_eq!((public(&failed), failed.failures), (State::Quarantined, 3));
    assert_eq!(failed.status.unwrap().last_error.unwrap().message, "no luck");
    assert!(host.started.try_recv().is_err());
    change(&bus, &name("n"), |record| record.generation += 1).await;
    let restarted = host.next().await;
    assert_eq!(restarted.state.failures, 0, "with a clean slate");
}

#[tokio::test]
async fn a_restart_keeps_the_owner_and_raises_the_epoch() {
    let bus = bus().await;
    let mut host = Host::start("a", &bus, settings());
    made(&bus, "n").await;
    let before = host.next().await;
    change(&bus, &name("n"), |record| record.generation += 1).await;
    before.notes.send((name("n"), Note::Unwanted)).await.unwrap();
    let after = host.next().await;
    assert_eq!((after.worker, after.peer), (before.worker, before.peer));
    assert!(after.grant.epoch > before.grant.epoch);
    let owner = bus.owner(&name("n")).await.unwrap().unwrap();
    assert_eq!(owner.grant, after.grant);
}

#[tokio::test]
async fn a_node_that_panics_leaves_its_neighbours_alone() {
    let bus = bus().await;
    let mut host = Host::start("a", &bus, settings());
    made(&bus, "m").await;
    let neighbour = host.next().await;
    made(&bus, "n").await;
    host.next().await.end.send(End::Panic).ok().unwrap();
    assert_eq!(host.next().await.name, name("n"));
    assert!(!neighbour.stop.is_cancelled());
    assert!(*neighbour.deadline.borrow() > Moment::now());
}

#[tokio::test]
async fn a_key_that_cannot_be_opened_quarantines_its_node() {
    let bus = bus().await;
    let mut first = Host::start("a", &bus, settings());
    made(&bus, "n").await;
    first.next().await;
    first.drain().await;
    let keys = config::Keys { key: Some("08".repeat(32)), ..Default::default() };
    let _second = Host::start("b", &bus, Config { keys, ..settings() });
    eventually("it is quarantined", || async {
        public(&state(&bus, &name("n")).await) == State::Quarantined
    })
    .await;
    let error = state(&bus, &name("n")).await.status.unwrap().last_error.unwrap();
    assert_eq!(error.reason, "KEY_UNSEALABLE");
    eventually("it has no owner", || async { has_owner(&bus, &name("n")).await == Some(false) }).await;
}

#[tokio::test]
async fn a_lost_lease_stops_every_node_and_brings_it_back_under_another_name() {
    let bus = bus().await;
    let mut host = Host::start("a", &bus, settings());
    made(&bus, "n").await;
    let before = host.next().await;
    // As if the lease had expired: the next renewal is answered by LOST.
    bus.retire(&before.worker).await.unwrap();
    tokio::time::timeout(PATIENCE, before.stop.cancelled()).await.expect("stopped");
    assert_eq!(*before.deadline.borrow(), Moment::PAST, "the swarm must not be polled");
    let after = host.next().await;
    assert_ne!(after.worker, before.worker);
    assert!(after.grant.epoch > before.grant.epoch);
    assert_eq!(after.peer, before.peer);
}

#[tokio::test]
async fn a_node_that_stands_still_fails_the_liveness_probe_until_it_has_ended() {
    let bus = bus().await;
    let mut host = Host::start("a", &bus, settings());
    made(&bus, "n").await;
    let (started, second) = (host.next().await, Duration::from_secs(1));
    eventually("it is seen", || async { !host.alive.is_alive(second) }).await;
    assert!(host.alive.is_alive(PATIENCE), "for its bound, it is well");
    started.pulse.beat();
    eventually("it turned", || async { host.alive.is_alive(second) }).await;
    eventually("it is seen again", || async { !host.alive.is_alive(second) }).await;
    started.end.send(End::With(Ended::Failed("no luck".into()))).ok().unwrap();
    eventually("it does not count", || async { host.alive.is_alive(second) }).await;
}

#[tokio::test]
async fn a_fence_cuts_off_a_node_that_hangs_before_it_begins_again() {
    let bus = bus().await;
    let mut host = Host::start("a", &bus, settings());
    made(&bus, "n").await;
    let Started { worker, end, .. } = host.next().await;
    end.send(End::Hang).ok().unwrap();
    bus.retire(&worker).await.unwrap();
    assert_ne!(host.next().await.worker, worker);
}

#[tokio::test]
async fn the_record_wins_over_what_runs() {
    let bus = bus().await;
    let mut host = Host::start("a", &bus, settings());
    made(&bus, "n").await;
    let started = host.next().await;
    // Recorded but not running: a take that ran late.
    create(&bus, "late", NodeSpec { stopped: Some(true), ..Default::default() }).await.result.unwrap();
    let claim = Claim { node: name("late"), floor: 0, from: None };
    bus.take(&started.worker, 77, &[claim]).await.unwrap();
    eventually("it is given back", || async { has_owner(&bus, &name("late")).await == Some(false) }).await;
    assert!(!started.stop.is_cancelled());
    // Running but not recorded.
    bus.release(&started.worker, &[(name("n"), started.grant.epoch)]).await.unwrap();
    tokio::time::timeout(PATIENCE, started.stop.cancelled()).await.expect("stopped");
    assert!(host.next().await.grant.epoch > started.grant.epoch);
}

/// Found by the simulator: seed 12, walk 78. A take was answered and lost with its primary, and the record
/// compared, while the node was being read.
#[tokio::test]
async fn a_node_that_the_record_gives_to_nobody_while_it_is_loaded_does_not_start() {
    let (now, grant) = (Moment::now(), Grant { epoch: 9, nonce: 7 });
    let spawn: Spawn = Arc::new(|_, _| Box::pin(async { Ended::Stopped }));
    let probes = Probes { ready: watch::Sender::new(false), alive: Alive::default() };
    let (bus, seal) = (bus().await, Seal::load(&settings().keys).unwrap());
    let mut host = EventLoop::new(Arc::new(settings()), "a", bus, seal, Metrics::default(), probes, spawn);
    let claim = Claim { node: name("n"), floor: 0, from: None };
    host.claimed(Claimed::Granted(claim, grant.epoch), grant.nonce, now);
    host.compared(Owned::default(), now);
    let (record, state) = (NodeRecord::default(), NodeState::default());
    let loaded = Loaded { record, revision: 1, state, key: Keypair::generate_ed25519() };
    host.loaded(name("n"), grant, Load::Start(Box::new(loaded)), now);
    assert!(host.running.is_empty() && host.hosted.is_empty());
}

#[tokio::test]
async fn a_node_may_raise_its_own_grant() {
    let bus = bus().await;
    let mut host = Host::start("a", &bus, settings());
    made(&bus, "n").await;
    let started = host.next().await;
    let claim = Claim { node: name("n"), floor: started.grant.epoch, from: Some(started.grant.nonce) };
    let plexus_bus::Taken::Epochs(epochs) = bus.take(&started.worker, 78, &[claim]).await.unwrap() else {
        panic!()
    };
    let raised = Grant { epoch: epochs[0].unwrap(), nonce: 78 };
    started.notes.send((name("n"), Note::Raised(raised))).await.unwrap();
    let second = Host::start("b", &bus, settings());
    eventually("it is ready", || async { *second.ready.borrow() }).await;
    assert!(!started.stop.is_cancelled());
    host.drain().await;
    eventually("the next one has it", || async {
        let owner = bus.owner(&name("n")).await.unwrap().unwrap();
        owner.worker.is_some_and(|worker| worker.starts_with("b."))
    })
    .await;
}

#[tokio::test]
async fn two_workers_run_each_node_once() {
    let bus = bus().await;
    let hosts = [Host::start("a", &bus, settings()), Host::start("b", &bus, settings())];
    for host in &hosts {
        eventually("it is ready", || async { *host.ready.borrow() }).await;
    }
    for i in 0..20 {
        made(&bus, &format!("n{i}")).await;
    }
    eventually("all have owners", || async {
        bus.owners().await.unwrap().iter().all(|(_, owner)| owner.worker.is_some())
    })
    .await;
    let [mut a, mut b] = hosts;
    let mut names = HashSet::new();
    for host in [&mut a, &mut b] {
        let mut count = 0;
        while let Ok(started) = host.started.try_recv() {
            assert!(names.insert(started.name.clone()), "{} twice", started.name);
            count += 1;
        }
        assert!(count > 0, "each has some");
    }
}

fn quick() -> Config {
    let balance = config::Balance { moves_per_second: 50, settle: Duration::from_millis(300) };
    let lease = config::Lease { survey_interval: Duration::from_millis(200), ..Default::default() };
    Config { balance, lease, ..settings() }
}

#[tokio::test]
async fn a_node_that_is_moved_stops_before_it_starts_elsewhere_and_stays_there() {
    let bus = bus().await;
    let mut a = Host::start("a", &bus, settings());
    made(&bus, "n").await;
    let before = a.next().await;
    let mut b = Host::start("b", &bus, settings());
    eventually("it is seen", || async { bus.workers_shown().await.unwrap().len() == 2 }).await;
    bus.expect("a", &name("n")).await.unwrap(); // a word that means nothing does nothing
    change(&bus, &name("n"), |record| record.home = "b".into()).await;
    let after = b.next().await;
    assert!(before.stop.is_cancelled());
    assert!(after.grant.epoch > before.grant.epoch);
    assert_eq!(after.peer, before.peer);
    // Its home ends: it goes back, and comes again when that is there again.
    b.drain().await;
    let back = a.next().await;
    let mut again = Host::start("b", &bus, quick());
    let home = again.next().await;
    assert!(back.stop.is_cancelled() && home.worker.starts_with("b."));
}

#[tokio::test]
async fn a_worker_gives_its_nodes_away_by_order_and_takes_none_until_that_is_lifted() {
    let bus = bus().await;
    let a = Host::start("a", &bus, quick());
    eventually("it is ready", || async { *a.ready.borrow() }).await;
    for i in 0..6 {
        made(&bus, &format!("n{i}")).await;
    }
    let all = async |worker: &str| {
        eventually(&format!("{worker} has all"), || async {
            let owners = bus.owners().await.unwrap();
            owners.iter().all(|(_, owner)| owner.worker.as_ref().is_some_and(|w| w.starts_with(worker)))
        })
        .await;
    };
    all("a.").await;
    let order = plexus_proto::v1::DrainWorkerRequest {
        worker: "a".into(),
        nodes_per_second: 100,
        ..Default::default()
    };
    bus.order_drain(&order).await.unwrap();
    eventually("it says so", || async {
        let cards = bus.workers_shown().await.unwrap();
        cards.iter().filter_map(|card| card.worker.as_ref()).any(|w| w.state() == WorkerState::Draining)
    })
    .await;
    all("a.").await; // nobody else is there
    let b = Host::start("b", &bus, quick());
    all("b.").await;
    made(&bus, "late").await;
    all("b.").await;
    // The order holds for whoever comes under that name.
    a.drain().await;
    let a = Host::start("a", &bus, quick());
    eventually("it is ready", || async { *a.ready.borrow() }).await;
    made(&bus, "later").await;
    all("b.").await;
    bus.lift_drain("a").await.unwrap();
    eventually("it takes some again", || async {
        let owners = bus.owners().await.unwrap();
        owners.iter().any(|(_, owner)| owner.worker.as_ref().is_some_and(|w| w.starts_with("a.")))
    })
    .await;
    drop(b);
}

#[tokio::test]
async fn a_worker_that_joins_gets_its_share_and_each_node_runs_once() {
    let bus = bus().await;
    let mut a = Host::start("a", &bus, quick());
    eventually("it is ready", || async { *a.ready.borrow() }).await;
    for i in 0..12 {
        made(&bus, &format!("n{i}")).await;
    }
    let mut before = HashMap::new();
    for _ in 0..12 {
        let started = a.next().await;
        before.insert(started.name.clone(), started);
    }
    let mut b = Host::start("b", &bus, quick());
    for _ in 0..5 {
        let started = b.next().await;
        assert!(before[&started.name].stop.is_cancelled(), "{} runs twice", started.name);
        assert!(started.grant.epoch > before[&started.name].grant.epoch);
    }
    let kept = before.values().filter(|started| !started.stop.is_cancelled()).count();
    assert!((5..=7).contains(&kept), "{kept} of 12 stay");
}
