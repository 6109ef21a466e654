//! What tests of the worker stand on: a bus, a caller in the place of a gateway, and patience.

use plexus_bus::{
    Body, Bus, Call, CallId, Envelope, Event, Frame, GatewayId, NodeName, Outcome, Payload, Subject,
    Subscription,
};
use plexus_proto::{bus::NodeState, v1::node_status::State};
use std::time::{Duration, Instant};

/// Longest wait of a test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Asks until it holds.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let end = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits for what has to come.
pub(crate) async fn soon<T>(what: &str, comes: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, comes).await.unwrap_or_else(|_| panic!("never: {what}"))
}

/// An empty bus that encodes whatever one between processes would.
pub(crate) async fn bus() -> Bus {
    Bus::open(&plexus_bus::Config { strict: true, ..Default::default() }).await.unwrap()
}

/// A node of the namespace `default`.
pub(crate) fn name(node: &str) -> NodeName {
    NodeName::new("default", node).unwrap()
}

/// A call as a gateway sends it.
pub(crate) fn call(
    id: CallId,
    method: &str,
    node: Option<&NodeName>,
    payload: Payload,
    from: &GatewayId,
) -> Payload {
    let call = Call {
        method: method.into(),
        payload,
        node: node.cloned(),
        namespace: "default".into(),
        reply_to: from.clone(),
        deadline: None,
        caller: Default::default(),
        idempotency_key: String::new(),
        epoch_seen: 0,
        attempt: 0,
        idempotent: false,
        credit: 0,
    };
    Payload::of(Envelope {
        id,
        sequence: 0,
        traceparent: String::new(),
        tracestate: String::new(),
        epoch: 0,
        body: Body::Call(Box::new(call)),
    })
}

/// A caller in the place of a gateway.
pub(crate) struct Caller {
    bus: Bus,
    gateway: GatewayId,
    replies: Subscription,
}

impl Caller {
    pub(crate) async fn new(bus: &Bus) -> Self {
        let gateway: GatewayId = format!("g-{}", CallId::new_v4()).into();
        let replies = bus.subscribe(Subject::Replies(gateway.clone())).await.unwrap();
        Self { bus: bus.clone(), gateway, replies }
    }

    /// Calls a node, or any worker, once somebody listens; answers the outcome.
    pub(crate) async fn call(
        &mut self,
        id: CallId,
        method: &str,
        node: Option<&NodeName>,
        payload: Payload,
    ) -> Outcome {
        let call = call(id, method, node, payload, &self.gateway);
        let subject = node.map_or(Subject::Anyone, |node| Subject::Calls(node.clone()));
        let sent = || self.bus.publish(subject.clone(), call.clone());
        eventually("somebody listens", || async { sent().await.unwrap() > 0 }).await;
        soon("an answer", async {
            loop {
                let Some(Event::Frame(frame)) = self.replies.recv().await else { panic!("no answer") };
                if let Body::Outcome(outcome) = frame.take::<Envelope>().unwrap().body {
                    return outcome;
                }
            }
        })
        .await
    }
}

/// What the owner of a node wrote last.
pub(crate) async fn state(bus: &Bus, node: &NodeName) -> NodeState {
    let (_, state) = bus.get_state(node).await.unwrap();
    state.map(|bytes| NodeState::from_bytes(bytes).unwrap()).unwrap_or_default()
}

/// The part of it that callers see first.
pub(crate) fn public(state: &NodeState) -> State {
    state.status.as_ref().map(|status| status.state()).unwrap_or_default()
}
