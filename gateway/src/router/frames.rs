//! Events of a subscription as shared frames, and which messages a reader wants. A message is encoded
//! once per topic and view, whoever reads it.

use super::place::Gap;
use crate::frame::Frame;
use plexus_bus::Position;
use plexus_proto::{
    bus::{LogEntry, LogMessage},
    text,
    v1::{self, View, message::Origin, subscription_event::Event},
};
use prost::Message as _;
use std::sync::{Arc, LazyLock};

/// Which messages a reader wants; all fields given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Only by these authors (PeerId bytes).
    pub(crate) authors: Vec<bytes::Bytes>,
    /// Not by these.
    pub(crate) not_authors: Vec<bytes::Bytes>,
    /// Only of these producers.
    pub(crate) producers: Vec<String>,
    /// Only of this origin.
    pub(crate) origin: Option<Origin>,
    /// Only up to this size; 0: any.
    pub(crate) data_bytes_max: usize,
    /// Only what begins so.
    pub(crate) data_prefix: bytes::Bytes,
    /// Not what this session or key published; empty: no matter.
    pub(crate) not_session: String,
}

impl Filter {
    /// The same for readers to hold; those who want everything hold one together.
    pub(crate) fn shared(self) -> Arc<Self> {
        static EVERYTHING: LazyLock<Arc<Filter>> = LazyLock::new(Arc::default);
        if self == Self::default() { EVERYTHING.clone() } else { Arc::new(self) }
    }

    /// Tells whether a message passes.
    pub(crate) fn passes(&self, message: &LogMessage) -> bool {
        let among = |list: &[bytes::Bytes]| list.contains(&message.author);
        (self.authors.is_empty() || among(&self.authors))
            && !among(&self.not_authors)
            && (self.producers.is_empty() || self.producers.contains(&message.producer))
            && self.origin.is_none_or(|origin| origin == origin_of(message))
            && (self.data_bytes_max == 0 || message.data.len() <= self.data_bytes_max)
            && message.data.starts_with(&self.data_prefix)
            && (self.not_session.is_empty() || message.session != self.not_session)
    }
}

/// Where a message came from: a peer handed it over, or it was published here.
pub(crate) fn origin_of(message: &LogMessage) -> Origin {
    if message.via.is_empty() { Origin::Local } else { Origin::Network }
}

/// Messages of an entry with their sequences.
pub(crate) fn numbered(entry: &LogEntry) -> impl DoubleEndedIterator<Item = (u64, &LogMessage)> {
    let before = super::place::before(entry).seq;
    entry.messages.iter().enumerate().map(move |(i, message)| (before + 1 + i as u64, message))
}

/// Spells a message as the public contract does.
pub(crate) fn message(at: Position, message: &LogMessage, view: View) -> v1::Message {
    use v1::message::Payload;
    let payload = match view {
        View::Meta => None,
        View::Text => Some(match std::str::from_utf8(&message.data) {
            Ok(text) => Payload::Text(text.to_owned()),
            Err(_) => Payload::Data(message.data.clone()),
        }),
        View::Unspecified | View::Bytes => Some(Payload::Data(message.data.clone())),
    };
    let peer = |bytes: &[u8]| if bytes.is_empty() { String::new() } else { text::peer_id_to_text(bytes) };
    v1::Message {
        position: at.to_string(),
        id: base64url(&message.id),
        payload,
        author: peer(&message.author),
        via: peer(&message.via),
        received_at: message.received_at,
        seqno: message.seqno,
        origin: origin_of(message) as i32,
        producer: message.producer.clone(),
        producer_seq: (!message.producer.is_empty()).then_some(message.producer_seq),
        traceparent: message.traceparent.clone(),
        data_bytes: message.data.len() as u32,
        ..v1::Message::default()
    }
}

/// Bytes as base64url without padding.
pub(crate) fn base64url(bytes: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Encodes an event; `at` is where a reader of one topic goes on after it.
pub(crate) fn event(event: Event, at: Option<Position>) -> Arc<Frame> {
    let bytes = v1::SubscriptionEvent { event: Some(event) }.encode_to_vec();
    Arc::new(Frame::new(bytes.into(), at.map(|at| at.to_string().into())))
}

/// A gap as an event.
pub(crate) fn gap(t: u32, gap: Gap, skipped: Option<u64>, readable: bool) -> Event {
    Event::Gap(v1::subscription_event::Gap {
        t,
        topic: String::new(),
        after: gap.after.to_string(),
        until: gap.until.to_string(),
        reason: gap.reason as i32,
        skipped,
        readable,
    })
}

/// The messages of one entry, each encoded at most once per view.
pub(crate) struct Sheet<'a> {
    t: u32,
    entry: &'a LogEntry,
    frames: [Vec<Option<Arc<Frame>>>; 3],
}

impl<'a> Sheet<'a> {
    pub(crate) fn new(t: u32, entry: &'a LogEntry) -> Self {
        Self { t, entry, frames: Default::default() }
    }

    /// The frame of the `i`-th message.
    pub(crate) fn frame(&mut self, i: usize, view: View) -> Arc<Frame> {
        let column = match view {
            View::Unspecified | View::Bytes => 0,
            View::Text => 1,
            View::Meta => 2,
        };
        let frames = &mut self.frames[column];
        if frames.is_empty() {
            frames.resize(self.entry.messages.len(), None);
        }
        let (t, entry) = (self.t, self.entry);
        frames[i]
            .get_or_insert_with(|| {
                let at = Position::new(entry.epoch, super::place::before(entry).seq + 1 + i as u64);
                let message = v1::Message { t, ..message(at, &entry.messages[i], view) };
                event(Event::Message(message), Some(at))
            })
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn said(data: &'static [u8]) -> LogMessage {
        LogMessage {
            author: Bytes::from_static(b"a"),
            data: Bytes::from_static(data),
            producer: "p".into(),
            session: "s".into(),
            ..LogMessage::default()
        }
    }

    #[test]
    fn every_condition_of_a_filter_must_hold() {
        let m = said(b"hello");
        let all = Filter::default();
        assert!(all.passes(&m));
        let one = |b: &'static [u8]| vec![Bytes::from_static(b)];
        let table = [
            (Filter { authors: one(b"a"), ..all.clone() }, true),
            (Filter { authors: one(b"b"), ..all.clone() }, false),
            (Filter { not_authors: one(b"a"), ..all.clone() }, false),
            (Filter { producers: vec!["p".into(), "q".into()], ..all.clone() }, true),
            (Filter { producers: vec!["q".into()], ..all.clone() }, false),
            (Filter { origin: Some(Origin::Local), ..all.clone() }, true),
            (Filter { origin: Some(Origin::Network), ..all.clone() }, false),
            (Filter { data_bytes_max: 5, ..all.clone() }, true),
            (Filter { data_bytes_max: 4, ..all.clone() }, false),
            (Filter { data_prefix: Bytes::from_static(b"he"), ..all.clone() }, true),
            (Filter { data_prefix: Bytes::from_static(b"el"), ..all.clone() }, false),
            (Filter { not_session: "s".into(), ..all.clone() }, false),
            (Filter { not_session: "t".into(), authors: one(b"a"), ..all.clone() }, true),
        ];
        for (filter, passes) in table {
            assert_eq!(filter.passes(&m), passes, "{filter:?}");
        }
    }

    #[test]
    fn text_comes_as_text_only_where_it_is_text() {
        use v1::message::Payload;
        let at = Position::new(3, 1);
        assert_eq!(message(at, &said(b"hi"), View::Text).payload, Some(Payload::Text("hi".into())));
        assert!(matches!(message(at, &said(b"\xff"), View::Text).payload, Some(Payload::Data(_))));
        let meta = message(at, &said(b"hi"), View::Meta);
        assert_eq!((meta.payload, meta.data_bytes), (None, 2));
    }

    #[test]
    fn a_message_is_encoded_once_per_view() {
        let entry =
            LogEntry { epoch: 3, seq: 8, messages: vec![said(b"a"), said(b"b")], ..LogEntry::default() };
        let mut sheet = Sheet::new(1, &entry);
        let first = sheet.frame(0, View::Bytes);
        assert!(Arc::ptr_eq(&first, &sheet.frame(0, View::Bytes)));
        assert!(!Arc::ptr_eq(&first, &sheet.frame(0, View::Text)));
        assert_eq!((first.id(), sheet.frame(1, View::Bytes).id()), (Some("3-7"), Some("3-8")));
    }
}
