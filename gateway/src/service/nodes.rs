//! Hosted nodes: what shall be is written into the record here, what is comes from the owner.

use super::{
    Call, Context, Service, check_key, held, holdings, not_found,
    page::Page,
    records::{Held, check_etag, touch},
    respond, status, unavailable, watch, wrong,
};
use crate::{error, holdings::What, router::Failure};
use futures::{StreamExt, stream, stream::BoxStream};
use plexus_bus::{Bus, Frame, NodeName, Payload};
use plexus_proto::{bus::NodeRecord, bus::NodeState, reason::Reason, spec, text, v1};
use std::time::{Duration, Instant};
use tonic::{Request, Response, Status};

/// Any worker makes a node.
pub(super) const CREATE: &str = "plexus.v1.NodeService/CreateNode";
/// How long a deletion waits for the node to stop.
const STOPPING: Duration = Duration::from_secs(5);
/// Time between looks at it.
const LOOK: Duration = Duration::from_millis(100);
/// Records read at once.
const READS: usize = 32;

#[tonic::async_trait]
impl v1::node_service_server::NodeService for Service {
    async fn create_node(
        &self,
        request: Request<v1::CreateNodeRequest>,
    ) -> Result<Response<v1::Node>, Status> {
        let context = self.context(&request);
        respond(self.create(&context, request.into_inner()).await)
    }

    async fn get_node(&self, request: Request<v1::GetNodeRequest>) -> Result<Response<v1::Node>, Status> {
        let context = self.context(&request);
        respond(self.get(&context, &request.get_ref().node).await)
    }

    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        let context = self.context(&request);
        respond(self.list(&context, request.get_ref()).await)
    }

    async fn update_node(
        &self,
        request: Request<v1::UpdateNodeRequest>,
    ) -> Result<Response<v1::Node>, Status> {
        let context = self.context(&request);
        let request = request.get_ref();
        let act = self.update(&context, request);
        respond(self.once(&context, "UpdateNode", &request.request_id, request, act).await)
    }

    async fn delete_node(
        &self,
        request: Request<v1::DeleteNodeRequest>,
    ) -> Result<Response<v1::DeleteNodeResponse>, Status> {
        let context = self.context(&request);
        let request = request.get_ref();
        let act = self.delete(&context, request);
        respond(self.once(&context, "DeleteNode", &request.request_id, request, act).await)
    }

    async fn start_node(&self, request: Request<v1::StartNodeRequest>) -> Result<Response<v1::Node>, Status> {
        let context = self.context(&request);
        let request = request.get_ref();
        let act = self.stop(&context, &request.node, false);
        respond(self.once(&context, "StartNode", &request.request_id, request, act).await)
    }

    async fn stop_node(&self, request: Request<v1::StopNodeRequest>) -> Result<Response<v1::Node>, Status> {
        let context = self.context(&request);
        let request = request.get_ref();
        let act = self.stop(&context, &request.node, true);
        respond(self.once(&context, "StopNode", &request.request_id, request, act).await)
    }

    async fn restart_node(
        &self,
        request: Request<v1::RestartNodeRequest>,
    ) -> Result<Response<v1::Node>, Status> {
        let context = self.context(&request);
        let request = request.get_ref();
        let act = self.restart(&context, &request.node);
        respond(self.once(&context, "RestartNode", &request.request_id, request, act).await)
    }

    type WatchNodesStream = BoxStream<'static, Result<v1::WatchNodesResponse, Status>>;

    async fn watch_nodes(
        &self,
        request: Request<v1::WatchNodesRequest>,
    ) -> Result<Response<Self::WatchNodesStream>, Status> {
        let context = self.open_context(&request);
        let most = self.router.config().watches_max;
        let hold = holdings(&request).take(What::Watches, 1, most);
        let watch = async {
            let hold = hold?;
            let watch = watch::begin(&self.watching, context, request.into_inner()).await?;
            let told = |next: Result<_, Failure>| next.map_err(|failure| error::status(&failure));
            Ok(held(watch.map(told), hold))
        };
        respond(watch.await)
    }

    async fn get_identity(
        &self,
        request: Request<v1::GetIdentityRequest>,
    ) -> Result<Response<v1::Identity>, Status> {
        let context = self.context(&request);
        let request = request.into_inner();
        let answer = async {
            let node = self.node(&context, &request.node).await?;
            self.ask(&context, &node, Call::new("plexus.v1.NodeService/GetIdentity", request)).await
        };
        respond(answer.await)
    }

    async fn list_bootstrap(
        &self,
        request: Request<v1::ListBootstrapRequest>,
    ) -> Result<Response<v1::BootstrapList>, Status> {
        let context = self.context(&request);
        let answer = async {
            let node = self.node(&context, &request.get_ref().node).await?;
            self.bootstrap(&context, &node).await
        };
        respond(answer.await)
    }

    async fn add_bootstrap(
        &self,
        request: Request<v1::AddBootstrapRequest>,
    ) -> Result<Response<v1::BootstrapList>, Status> {
        let context = self.context(&request);
        let request = request.get_ref();
        let act = async {
            if request.addresses.is_empty() {
                return wrong("addresses", "at least one multiaddr with `/p2p/`");
            }
            spec::check_bootstrap("addresses", &request.addresses)?;
            self.change_bootstrap(&context, &request.node, |list| {
                for address in &request.addresses {
                    if !list.contains(address) {
                        list.push(address.clone());
                    }
                }
                Ok(())
            })
            .await
        };
        respond(self.once(&context, "AddBootstrap", &request.request_id, request, act).await)
    }

    async fn remove_bootstrap(
        &self,
        request: Request<v1::RemoveBootstrapRequest>,
    ) -> Result<Response<v1::BootstrapList>, Status> {
        let context = self.context(&request);
        let request = request.get_ref();
        let act = async {
            if request.addresses.is_empty() && !request.all {
                return wrong("addresses", "at least one, or `all`");
            }
            self.change_bootstrap(&context, &request.node, |list| {
                list.retain(|address| !request.all && !request.addresses.contains(address));
                Ok(())
            })
            .await
        };
        respond(self.once(&context, "RemoveBootstrap", &request.request_id, request, act).await)
    }

    async fn move_node(&self, request: Request<v1::MoveNodeRequest>) -> Result<Response<v1::Node>, Status> {
        let context = self.context(&request);
        let request = request.get_ref();
        let act = self.move_away(&context, request);
        respond(self.once(&context, "MoveNode", &request.request_id, request, act).await)
    }

    async fn explain_placement(
        &self,
        request: Request<v1::ExplainPlacementRequest>,
    ) -> Result<Response<v1::Placement>, Status> {
        let context = self.context(&request);
        respond(self.explain(&context, &request.get_ref().node).await)
    }
}

impl Service {
    async fn create(&self, context: &Context, request: v1::CreateNodeRequest) -> Result<v1::Node, Failure> {
        check_key(&request.request_id)?;
        spec::check_id(&request.id)?;
        if let Some(spec) = &request.spec {
            spec::check(spec)?;
        }
        let key = request.request_id.clone();
        let asked = self.request(context, None, CREATE, Payload::of(request), &key, false);
        super::open(self.router.call(asked).await?)
    }

    async fn get(&self, context: &Context, node: &str) -> Result<v1::Node, Failure> {
        let node = self.node(context, node).await?;
        match self.look(&node).await? {
            None if node.node() == super::DEFAULT => {
                self.make_default(context).await?;
                self.look(&node).await?.ok_or_else(|| not_found(node.node()))
            }
            found => found.ok_or_else(|| not_found(node.node())),
        }
    }

    /// Reads a node as it is.
    pub(super) async fn look(&self, node: &NodeName) -> Result<Option<v1::Node>, Failure> {
        look(self.router.bus(), node).await
    }

    async fn answer(&self, node: &NodeName, held: Held) -> Result<v1::Node, Failure> {
        let bus = self.router.bus();
        let (kept, owner) = tokio::try_join!(bus.get_state(node), bus.owner(node)).map_err(unavailable)?;
        let written = kept.1.and_then(|w| NodeState::from_bytes(w).ok());
        Ok(status::node(held.record, written, owner.as_ref()))
    }

    async fn list(
        &self,
        context: &Context,
        request: &v1::ListNodesRequest,
    ) -> Result<v1::ListNodesResponse, Failure> {
        let wanted = v1::node_status::State::try_from(request.state);
        let wanted =
            wanted.or_else(|_| wrong("state", format!("{} is no value of this enum", request.state)))?;
        check_labels("labels", &request.labels)?;
        let fields =
            format!("{}\0{}\0{:?}\0{}", request.state, request.worker, request.labels, request.prefix);
        let page = Page::read(request.page_size, &request.page_token, fields.as_bytes())?;
        let passes = |node: &v1::Node| {
            let status = node.status.as_ref();
            (request.state == 0 || status.is_some_and(|s| s.state() == wanted))
                && (request.worker.is_empty() || status.is_some_and(|s| s.worker == request.worker))
                && has_labels(node, &request.labels)
        };
        let mut names = names(self.router.bus(), &context.caller.namespace).await?;
        names.retain(|n| {
            n.node().starts_with(&request.prefix)
                && page.after.as_deref().is_none_or(|after| n.node() > after)
        });
        let mut found =
            stream::iter(names).map(|name| async move { self.look(&name).await }).buffered(READS).boxed();
        let mut nodes: Vec<v1::Node> = Vec::new();
        while let Some(node) = found.next().await {
            let Some(node) = node?.filter(passes) else { continue };
            if nodes.len() == page.size {
                let next_page_token = nodes.last().map(|n| page.token(&n.id)).unwrap_or_default();
                return Ok(v1::ListNodesResponse { nodes, next_page_token });
            }
            nodes.push(node);
        }
        Ok(v1::ListNodesResponse { nodes, next_page_token: String::new() })
    }

    async fn update(&self, context: &Context, request: &v1::UpdateNodeRequest) -> Result<v1::Node, Failure> {
        let node = self.node(context, &request.node).await?;
        let given = request.spec.clone().unwrap_or_default();
        let paths = request.update_mask.as_ref().map(|m| m.paths.clone()).unwrap_or_default();
        let edit = |record: &mut NodeRecord| {
            let held = record.node.get_or_insert_default();
            check_etag(&request.etag, &held.revision.max(1).to_string())?;
            let old = held.spec.clone().unwrap_or_default();
            let new = super::mask::update(&old, &given, &paths)?;
            if new.key != old.key {
                return wrong("spec.key", "it cannot change");
            }
            spec::check(&new)?;
            let changed = new != old;
            if changed {
                held.spec = Some(new);
                touch(held);
            }
            Ok(changed)
        };
        if request.validate_only {
            let mut held = self.record(context, &node).await?;
            edit(&mut held.record)?;
            return self.answer(&node, held).await;
        }
        let held = self.change(context, &node, edit).await?;
        self.answer(&node, held).await
    }

    async fn stop(&self, context: &Context, node: &str, stopped: bool) -> Result<v1::Node, Failure> {
        let node = self.node(context, node).await?;
        let edit = |record: &mut NodeRecord| {
            let node = record.node.get_or_insert_default();
            let spec = node.spec.get_or_insert_default();
            let changed = spec.stopped() != stopped;
            if changed {
                spec.stopped = Some(stopped);
                touch(node);
            }
            Ok(changed)
        };
        let held = self.change(context, &node, edit).await?;
        self.answer(&node, held).await
    }

    async fn restart(&self, context: &Context, node: &str) -> Result<v1::Node, Failure> {
        let node = self.node(context, node).await?;
        let edit = |record: &mut NodeRecord| {
            if record.node.as_ref().and_then(|n| n.spec.as_ref()).is_some_and(|s| s.stopped()) {
                let message = format!("node {:?} is stopped; start it first", node.node());
                return Err(Box::new(v1::Error::new(Reason::NodeStopped, message).with("node", node.node())));
            }
            record.generation += 1;
            Ok(true)
        };
        let held = self.change(context, &node, edit).await?;
        self.answer(&node, held).await
    }

    /// Marks the node; its owner, or whoever takes it next, stops and buries it.
    async fn delete(
        &self,
        context: &Context,
        request: &v1::DeleteNodeRequest,
    ) -> Result<v1::DeleteNodeResponse, Failure> {
        match self.mark(context, request).await {
            Err(error) if request.allow_missing && error.is(Reason::NodeNotFound) => {}
            Err(error) => return Err(error),
            Ok(node) => {
                let until = Instant::now() + STOPPING;
                while self.router.bus().owner(&node).await.map_err(unavailable)?.is_some()
                    && Instant::now() < until
                {
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
        Ok(v1::DeleteNodeResponse {})
    }

    async fn mark(&self, context: &Context, request: &v1::DeleteNodeRequest) -> Result<NodeName, Failure> {
        let node = self.node(context, &request.node).await?;
        loop {
            let held = self.read_record(&node).await?;
            let Some(mut held) = held else { return Err(not_found(node.node())) };
            let revision = held.record.node.as_ref().map_or(1, |n| n.revision.max(1));
            check_etag(&request.etag, &revision.to_string())?;
            held.record.deleting = true;
            if self.write_record(&node, held).await?.is_some() {
                return Ok(node);
            }
        }
    }

    async fn change_bootstrap(
        &self,
        context: &Context,
        node: &str,
        edit: impl Fn(&mut Vec<String>) -> Result<(), Failure>,
    ) -> Result<v1::BootstrapList, Failure> {
        let node = self.node(context, node).await?;
        let held = self
            .change(context, &node, |record| {
                let node = record.node.get_or_insert_default();
                let spec = node.spec.get_or_insert_default();
                let before = spec.bootstrap.clone();
                edit(&mut spec.bootstrap)?;
                if spec.bootstrap.len() > 64 {
                    return wrong("addresses", "at most 64 bootstrap addresses in all");
                }
                let changed = spec.bootstrap != before;
                if changed {
                    touch(node);
                }
                Ok(changed)
            })
            .await?;
        let refreshed = self.refresh(context, &node, held.revision).await;
        match (refreshed, self.bootstrap(&context.within(STOPPING), &node).await) {
            (Ok(()), Ok(list)) => Ok(list),
            // Nobody runs the node: how the addresses fare is not known.
            _ => Ok(v1::BootstrapList { entries: held.spec().bootstrap.into_iter().map(entry).collect() }),
        }
    }

    async fn bootstrap(&self, context: &Context, node: &NodeName) -> Result<v1::BootstrapList, Failure> {
        let request = v1::ListBootstrapRequest { node: node.node().to_owned() };
        self.ask(context, node, Call::new("plexus.v1.NodeService/ListBootstrap", request)).await
    }
}

/// Reads a node as it is.
pub(super) async fn look(bus: &Bus, node: &NodeName) -> Result<Option<v1::Node>, Failure> {
    let (kept, owner) = tokio::try_join!(bus.get_state(node), bus.owner(node)).map_err(unavailable)?;
    let (Some(record), written) = kept else { return Ok(None) };
    let record: NodeRecord = super::open(Payload::encoded(record.data))?;
    let written = written.and_then(|w| NodeState::from_bytes(w).ok());
    Ok(Some(status::node(record, written, owner.as_ref())))
}

/// The nodes of a namespace, by id.
pub(super) async fn names(bus: &Bus, namespace: &str) -> Result<Vec<NodeName>, Failure> {
    let owners = bus.owners().await.map_err(unavailable)?;
    let mut names: Vec<_> =
        owners.into_iter().map(|(name, _)| name).filter(|n| n.namespace() == namespace).collect();
    names.sort();
    Ok(names)
}

fn entry(address: String) -> v1::bootstrap_list::Entry {
    v1::bootstrap_list::Entry { address, ..v1::bootstrap_list::Entry::default() }
}

/// Checks labels to select by: `key` or `key=value`, at most 8.
pub(super) fn check_labels(field: &str, labels: &[String]) -> Result<(), Failure> {
    if labels.len() > 8 {
        return wrong(field, "at most 8 of `key` or `key=value`");
    }
    match labels.iter().position(|l| l.is_empty() || l.starts_with('=') || l.len() > 320) {
        Some(i) => wrong(format!("{field}[{i}]"), "`key` or `key=value`, at most 320 bytes"),
        None => Ok(()),
    }
}

/// Tells whether a node has all of these labels.
pub(super) fn has_labels(node: &v1::Node, labels: &[String]) -> bool {
    let held = node.spec.as_ref().map(|s| &s.labels);
    labels.iter().all(|label| match label.split_once('=') {
        Some((key, value)) => held.and_then(|l| l.get(key)).is_some_and(|v| v == value),
        None => held.is_some_and(|l| l.contains_key(label)),
    })
}

/// Tells whether a node is among those named, by id or PeerId; none named: all.
pub(super) fn is_named(node: &v1::Node, names: &[String]) -> bool {
    let same = |name: &String| {
        *name == node.id
            || text::peer_id_from_text(name).is_ok_and(|peer| text::peer_id_to_text(&peer) == node.peer_id)
    };
    names.is_empty() || names.iter().any(same)
}
