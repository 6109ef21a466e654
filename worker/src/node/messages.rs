//! What comes from the mesh: messages, judged and logged, and peers that follow topics or no longer
//! do. A message is accepted for the mesh without waiting for the log (P16).

use super::{event_loop::EventLoop, policy::Verdict};
use crate::clock::Now;
use bytes::Bytes;
use libp2p::{
    PeerId,
    gossipsub::{self, Message, MessageAcceptance, MessageId},
};
use plexus_bus::Topic;
use plexus_proto::bus::LogMessage;

impl EventLoop {
    /// Takes an event of gossipsub.
    pub(super) fn gossip_event(&mut self, event: gossipsub::Event, now: Now) {
        match event {
            gossipsub::Event::Message { propagation_source, message_id, message } => {
                self.received(propagation_source, &message_id, message, now);
            }
            gossipsub::Event::Subscribed { peer_id, topic, .. } => {
                let topic = topic.as_str().as_bytes();
                self.following.subscribed(topic, peer_id, now.wall);
                self.step_waiting(Some(topic), now);
            }
            gossipsub::Event::Unsubscribed { peer_id, topic } => {
                self.following.unsubscribed(topic.as_str().as_bytes(), &peer_id);
            }
            gossipsub::Event::SlowPeer { peer_id, .. } => {
                tracing::debug!(node = %self.name, peer = %peer_id, "a peer is too slow for its messages");
            }
            _ => {}
        }
    }

    fn received(&mut self, via: PeerId, id: &MessageId, message: Message, now: Now) {
        self.metrics.received.inc();
        let topic = Topic::copy_from_slice(message.topic.as_str().as_bytes());
        let verdict = match self.following.get(&topic) {
            Some(state) if state.joined => state.policy.judge(message.source, message.data.len()),
            // Left meanwhile.
            _ => Verdict::Ignore,
        };
        let acceptance = match verdict {
            Verdict::Accept => MessageAcceptance::Accept,
            Verdict::Reject => MessageAcceptance::Reject,
            Verdict::Ignore => MessageAcceptance::Ignore,
        };
        let Some(gossip) = self.swarm.act().and_then(|swarm| swarm.behaviour_mut().gossip.as_mut()) else {
            return;
        };
        gossip.report_message_validation_result(id, &via, acceptance);
        if verdict != Verdict::Accept {
            return;
        }
        let message = LogMessage {
            id: Bytes::copy_from_slice(&id.0),
            data: message.data.into(),
            author: message.source.map(|author| author.to_bytes().into()).unwrap_or_default(),
            via: via.to_bytes().into(),
            seqno: message.sequence_number,
            received_at: Some(now.wall.into()),
            ..Default::default()
        };
        if let Err(refused) = self.log.push(&topic, message, None) {
            tracing::debug!(node = %self.name, ?refused, "a message was not logged");
        }
    }
}
