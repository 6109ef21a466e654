//! What the loop listens to on the bus: answers, changes of ownership and records, and the live entries of
//! every followed topic.

use crate::resume::Tokens;
use futures::{
    Stream, StreamExt,
    stream::{AbortHandle, Abortable, SelectAll},
};
use plexus_bus::{Bus, Error, Event, GatewayId, Subject, Subscription};
use std::{
    collections::HashMap,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

/// Pause before the bus is tried again at start.
const OPEN_RETRY: Duration = Duration::from_millis(500);

/// Subscriptions that a gateway always has.
pub(super) struct Heard {
    pub(super) replies: Subscription,
    pub(super) ownership: Subscription,
    pub(super) records: Subscription,
}

impl Heard {
    /// Subscribes, again and again until the bus answers.
    pub(super) async fn open(bus: Bus, gateway: GatewayId, tokens: Tokens) -> Self {
        loop {
            let heard = async {
                let replies = bus.subscribe(Subject::Replies(gateway.clone())).await?;
                let ownership = bus.subscribe(Subject::Ownership).await?;
                let records = bus.subscribe(Subject::Records).await?;
                bus.attend(&gateway).await?;
                tokens.share(&bus).await?;
                Ok::<_, Error>(Self { replies, ownership, records })
            };
            match heard.await {
                Ok(heard) => return heard,
                Err(error) => tracing::warn!(%error, "the bus cannot be heard yet"),
            }
            tokio::time::sleep(OPEN_RETRY).await;
        }
    }
}

/// Live entries of every followed topic, by its number.
#[derive(Default)]
pub(super) struct Lives {
    all: SelectAll<Abortable<Live>>,
    /// Ends the listening to one of them.
    aborts: HashMap<u32, AbortHandle>,
}

impl Lives {
    /// Listens to a topic; a former subscription of it ends.
    pub(super) fn add(&mut self, t: u32, subscription: Subscription) {
        let (abort, registration) = AbortHandle::new_pair();
        self.all.push(Abortable::new(Live { t, subscription }, registration));
        if let Some(former) = self.aborts.insert(t, abort) {
            former.abort();
        }
    }

    /// Listens to it no more.
    pub(super) fn remove(&mut self, t: u32) {
        if let Some(abort) = self.aborts.remove(&t) {
            abort.abort();
        }
    }

    /// What comes next; `None`: no topic is followed. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<(u32, Event)> {
        self.all.next().await
    }
}

/// Live entries of one topic.
struct Live {
    t: u32,
    subscription: Subscription,
}

impl Stream for Live {
    type Item = (u32, Event);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let t = self.t;
        self.subscription.poll_recv(cx).map(|event| event.map(|event| (t, event)))
    }
}
