//! Follows the nodes of a namespace: first each as it is, then what changes. Hints of the bus say when
//! to look; every few seconds it looks anyway, for hints may be lost.

use super::{
    Context, Service,
    nodes::{check_labels, has_labels, is_named},
    unavailable, wrong,
};
use crate::router::Failure;
use futures::{Stream, stream};
use plexus_bus::{Event, NodeName, Subject, Subscription};
use plexus_proto::{
    bus::OwnerChange,
    v1::{self, watch_nodes_response::Change},
};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};
use tokio::time::Instant;

/// Time between looks at every node.
const LOOK: Duration = Duration::from_secs(5);
/// How long changes in quick succession are gathered.
const GATHER: Duration = Duration::from_millis(50);
/// Silence after which the stream says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(15);

struct Watch {
    service: Service,
    context: Context,
    request: v1::WatchNodesRequest,
    records: Subscription,
    ownership: Subscription,
    /// As last told.
    known: HashMap<NodeName, v1::Node>,
    queue: VecDeque<v1::WatchNodesResponse>,
    /// When to look at every node again.
    next: Instant,
    said: Instant,
}

/// Begins to watch; what happens from now on is told.
pub(super) async fn begin(
    service: Service,
    context: Context,
    request: v1::WatchNodesRequest,
) -> Result<impl Stream<Item = Result<v1::WatchNodesResponse, Failure>> + Send, Failure> {
    check_labels("labels", &request.labels)?;
    if request.nodes.len() > 1000 {
        return wrong("nodes", "at most 1,000");
    }
    let bus = service.router.bus().clone();
    let records = bus.subscribe(Subject::Records).await.map_err(unavailable)?;
    let ownership = bus.subscribe(Subject::Ownership).await.map_err(unavailable)?;
    let now = Instant::now();
    let (known, queue) = (HashMap::new(), VecDeque::new());
    let mut watch =
        Watch { service, context, request, records, ownership, known, queue, next: now + LOOK, said: now };
    watch.look_all(Change::Present).await?;
    watch.queue.push_back(v1::WatchNodesResponse { change: Change::Synced as i32, node: None });
    Ok(stream::unfold(Some(watch), |watch| async {
        let mut watch = watch?;
        match watch.next().await {
            Ok(next) => Some((Ok(next), Some(watch))),
            Err(failure) => Some((Err(failure), None)),
        }
    }))
}

impl Watch {
    async fn next(&mut self) -> Result<v1::WatchNodesResponse, Failure> {
        loop {
            if let Some(next) = self.queue.pop_front() {
                self.said = Instant::now();
                return Ok(next);
            }
            let mut changed = HashSet::new();
            let mut all = self.hear(self.next.min(self.said + HEARTBEAT), &mut changed).await;
            let gathered = Instant::now() + GATHER;
            while !changed.is_empty() && Instant::now() < gathered {
                all |= self.hear(gathered, &mut changed).await;
            }
            if all || Instant::now() >= self.next {
                self.next = Instant::now() + LOOK;
                // A bus that does not answer now is asked again; only the stream's end is final.
                let _ = self.look_all(Change::Created).await;
            } else {
                for name in changed {
                    let _ = self.look(name, Change::Created).await;
                }
            }
            if self.queue.is_empty() && self.said.elapsed() >= HEARTBEAT {
                self.queue.push_back(v1::WatchNodesResponse::default());
            }
        }
    }

    /// Waits for a hint; true: anything may have changed.
    async fn hear(&mut self, until: Instant, changed: &mut HashSet<NodeName>) -> bool {
        let name = |event: &Event| match event {
            Event::Frame(frame) => frame.open::<String>().ok().and_then(|name| NodeName::parse(&name).ok()),
            Event::Lagged(_) | Event::Restored => None,
        };
        let owned = |event: &Event| match event {
            Event::Frame(frame) => {
                let change = frame.open::<OwnerChange>().ok()?;
                NodeName::new(&change.namespace, &change.node).ok()
            }
            Event::Lagged(_) | Event::Restored => None,
        };
        let heard = tokio::select! {
            () = tokio::time::sleep_until(until) => return false,
            Some(event) = self.records.recv() => name(&event),
            Some(event) = self.ownership.recv() => owned(&event),
        };
        let Some(node) = heard else { return true };
        if node.namespace() == &*self.context.caller.namespace {
            changed.insert(node);
        }
        false
    }

    async fn look_all(&mut self, new: Change) -> Result<(), Failure> {
        let names = self.service.names(&self.context.caller.namespace).await?;
        let gone: Vec<_> = self.known.keys().filter(|name| !names.contains(name)).cloned().collect();
        for name in names.into_iter().chain(gone) {
            self.look(name, new).await?;
        }
        Ok(())
    }

    async fn look(&mut self, name: NodeName, new: Change) -> Result<(), Failure> {
        let found = self.service.look(&name).await?;
        let wanted =
            |node: &v1::Node| has_labels(node, &self.request.labels) && is_named(node, &self.request.nodes);
        let Some(node) = found.filter(wanted) else {
            if let Some(node) = self.known.remove(&name) {
                let node = v1::Node { id: node.id, peer_id: node.peer_id, ..v1::Node::default() };
                self.queue
                    .push_back(v1::WatchNodesResponse { change: Change::Removed as i32, node: Some(node) });
            }
            return Ok(());
        };
        let change = match self.known.get(&name) {
            None => new,
            Some(known) if differs(known, &node) => Change::Updated,
            Some(_) => return Ok(()),
        };
        self.known.insert(name, node.clone());
        self.queue.push_back(v1::WatchNodesResponse { change: change as i32, node: Some(node) });
        Ok(())
    }
}

/// Tells whether anything changed that is worth telling; counters are not.
fn differs(a: &v1::Node, b: &v1::Node) -> bool {
    let (a_status, b_status) = (a.status.clone().unwrap_or_default(), b.status.clone().unwrap_or_default());
    let told = |s: &v1::NodeStatus| {
        (
            s.state,
            s.worker.clone(),
            s.epoch,
            s.addresses.clone(),
            s.observed_revision,
            s.last_error.clone(),
            s.restarts,
        )
    };
    a.spec != b.spec || a.revision != b.revision || told(&a_status) != told(&b_status)
}
