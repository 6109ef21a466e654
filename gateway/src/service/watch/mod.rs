//! Follows the nodes of a namespace: first each as it is, then what changes. [`event_loop`] reads them once
//! for everybody on this gateway; a watcher compares its picture with what it told last.

mod event_loop;

pub(crate) use event_loop::EventLoop;

use super::{
    Context,
    nodes::{check_labels, has_labels, is_named},
    wrong,
};
use crate::router::{Failure, draining};
use event_loop::Command;
use futures::{Stream, stream};
use plexus_bus::{Bus, NodeName};
use plexus_proto::{
    reason::Reason,
    spec, text,
    v1::{self, watch_nodes_response::Change},
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

/// Silence after which the stream says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Nodes by name; one that did not change stays the same pointer.
type Nodes = BTreeMap<NodeName, Arc<v1::Node>>;
/// The nodes of a namespace as last read, shared by its watchers.
type Picture = Arc<Nodes>;

/// The handle; cheap to clone.
#[derive(Clone)]
pub(crate) struct Watching(mpsc::Sender<Command>);

impl Watching {
    /// Makes the handle and its loop. `queue` bounds those who begin at once.
    pub(crate) fn new(bus: Bus, queue: usize) -> (Self, EventLoop) {
        let (commands, heard) = mpsc::channel(queue);
        (Self(commands), EventLoop::new(bus, heard))
    }

    async fn picture(&self, namespace: Arc<str>) -> Result<watch::Receiver<Picture>, Failure> {
        let (answer, waiting) = oneshot::channel();
        self.0.try_send(Command { namespace, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                Box::new(v1::Error::new(Reason::Overloaded, "too many begin to watch nodes at once"))
            }
            mpsc::error::TrySendError::Closed(_) => draining(),
        })?;
        waiting.await.unwrap_or_else(|_| Err(draining()))
    }
}

struct Watch {
    request: v1::WatchNodesRequest,
    picture: watch::Receiver<Picture>,
    /// As last told.
    known: Nodes,
    queue: VecDeque<v1::WatchNodesResponse>,
    said: Instant,
}

/// Begins to watch; what happens from now on is told.
pub(super) async fn begin(
    watching: &Watching,
    context: Context,
    request: v1::WatchNodesRequest,
) -> Result<impl Stream<Item = Result<v1::WatchNodesResponse, Failure>> + Send + use<>, Failure> {
    check_labels("labels", &request.labels)?;
    if request.nodes.len() > 1000 {
        return wrong("nodes", "at most 1,000");
    }
    let named = |name: &str| spec::check_id(name).is_ok() || text::peer_id_from_text(name).is_ok();
    if let Some(i) = request.nodes.iter().position(|name| !named(name)) {
        return wrong(format!("nodes[{i}]"), "an id of `a-z`, `0-9` and `-`, or a PeerId in any text form");
    }
    let picture = watching.picture(context.caller.namespace.clone()).await?;
    let (known, queue) = (Nodes::new(), VecDeque::new());
    let mut watch = Watch { request, picture, known, queue, said: Instant::now() };
    watch.compare(Change::Present);
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
            match tokio::time::timeout_at(self.said + HEARTBEAT, self.picture.changed()).await {
                Ok(Ok(())) => self.compare(Change::Created),
                Ok(Err(_)) => return Err(draining()),
                Err(_) => self.queue.push_back(v1::WatchNodesResponse::default()),
            }
        }
    }

    /// Queues what differs from what was told, as far as it is wanted.
    fn compare(&mut self, new: Change) {
        let picture = self.picture.borrow_and_update().clone();
        let wanted =
            |node: &v1::Node| has_labels(node, &self.request.labels) && is_named(node, &self.request.nodes);
        let gone = |(name, _): &(&NodeName, &Arc<v1::Node>)| !picture.get(*name).is_some_and(|n| wanted(n));
        let gone: Vec<NodeName> = self.known.iter().filter(gone).map(|(name, _)| name.clone()).collect();
        for (name, node) in &*picture {
            let known = self.known.get(name);
            if known.is_some_and(|known| Arc::ptr_eq(known, node)) || !wanted(node) {
                continue;
            }
            let change = match known {
                None => new,
                Some(known) if differs(known, node) => Change::Updated,
                Some(_) => continue,
            };
            self.queue.push_back(v1::WatchNodesResponse {
                change: change as i32,
                node: Some(v1::Node::clone(node)),
            });
            self.known.insert(name.clone(), node.clone());
        }
        for node in gone.into_iter().filter_map(|name| self.known.remove(&name)) {
            let node = v1::Node { id: node.id.clone(), peer_id: node.peer_id.clone(), ..v1::Node::default() };
            let change = Change::Removed as i32;
            self.queue.push_back(v1::WatchNodesResponse { change, node: Some(node) });
        }
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
