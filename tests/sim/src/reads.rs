//! Reads that take several calls, each at a time of its own: a page with the edge of its log, and the
//! ends of a log. Mirrors `gateway/src/router/jobs.rs`.

use super::{
    place::{self, Edge, Found, Place},
    topic::Facts,
};
use crate::net::{Answer, Ask, Said};
use plexus_bus::{Entry, NodeName, Position, Range, Topic};
use plexus_proto::bus::LogEntry;
use std::sync::Arc;

/// A read under way.
pub(super) struct Reading {
    node: NodeName,
    topic: Topic,
    place: Place,
    limit: usize,
    /// A page came and does not say enough, or only the ends are read.
    page: Option<Vec<Arc<LogEntry>>>,
    ends: bool,
    parts: [Option<Said>; 3],
}

/// What comes next.
pub(super) enum Next {
    /// Ask these, numbered.
    Ask(Vec<(usize, Ask)>),
    Wait,
    Page(Found),
    Facts(Facts),
    Failed,
}

impl Reading {
    pub(super) fn page(node: NodeName, topic: Topic, place: Place, limit: usize) -> (Self, Next) {
        let range = Range { from: place.at, until: None, limit, newest_first: false };
        let ask = vec![(0, Ask::Read(node.clone(), topic.clone(), range))];
        (
            Self { node, topic, place, limit, page: None, ends: false, parts: Default::default() },
            Next::Ask(ask),
        )
    }

    pub(super) fn ends(node: NodeName, topic: Topic) -> (Self, Next) {
        let place = Place::new(Position::ZERO);
        let mut reading = Self {
            node,
            topic,
            place,
            limit: 0,
            page: Some(Vec::new()),
            ends: true,
            parts: Default::default(),
        };
        let next = reading.edge(4, None);
        (reading, next)
    }

    fn edge(&mut self, first: usize, until: Option<Position>) -> Next {
        let read = |from: Range| Ask::Read(self.node.clone(), self.topic.clone(), from);
        let zero = Position::ZERO;
        Next::Ask(vec![
            (0, Ask::Extent(self.node.clone(), self.topic.clone())),
            (1, read(Range { from: zero, until: None, limit: first, newest_first: false })),
            (2, read(Range { from: zero, until, limit: 1, newest_first: true })),
        ])
    }

    /// Takes one answer.
    pub(super) fn answered(&mut self, part: usize, answer: Answer) -> Next {
        let Ok(said) = answer else { return Next::Failed };
        if self.page.is_none() {
            let entries = entries(Some(said));
            let full = entries.len() >= self.limit;
            if entries.first().is_some_and(|entry| self.place.touches(entry)) {
                return Next::Page(Found { entries, full, edge: None });
            }
            self.page = Some(entries);
            return self.edge(1, Some(self.place.at));
        }
        self.parts[part] = Some(said);
        if self.parts.iter().any(Option::is_none) {
            return Next::Wait;
        }
        let [extent, first, last] = std::mem::take(&mut self.parts);
        let Some(Said::Extent(extent)) = extent else { return Next::Failed };
        let (top, first, last) = (extent.map(|e| e.top), entries(first), entries(last));
        let start = first.first().map(|e| place::before(e));
        if self.ends {
            let oldest = first.iter().find(|e| !e.messages.is_empty()).map(|e| {
                let before = place::before(e);
                Position::new(before.epoch, before.seq + 1)
            });
            let nonce = last.first().filter(|e| Some(place::id_of(e)) == top).map_or(0, |e| e.nonce);
            return Next::Facts(Facts { start, oldest, top, nonce });
        }
        let before = last.first().map(|e| (place::id_of(e), e.nonce));
        let entries = self.page.take().unwrap_or_default();
        let full = entries.len() >= self.limit;
        Next::Page(Found { entries, full, edge: Some(Edge { start, top, before }) })
    }
}

fn entries(said: Option<Said>) -> Vec<Arc<LogEntry>> {
    let Some(Said::Entries(entries)) = said else { return Vec::new() };
    let open = |entry: Entry| entry.entry.open::<LogEntry>().expect("the log holds entries");
    entries.into_iter().map(open).collect()
}
