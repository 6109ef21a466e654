//! Reads retained messages back, straight from the log: no owner is needed, and nothing is consumed.

use super::{Context, Service, not_found, page::Page, read_topic, reading::read_after, unavailable, wrong};
use crate::router::{
    self, Failure, Standing, frames,
    place::{Gap, Place, Told},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use plexus_bus::{NodeName, Position, Range, Topic};
use plexus_proto::{
    bus::LogMessage,
    reason::Reason,
    text::After,
    v1::{self, Order, View},
};
use std::{collections::HashSet, time::SystemTime};

/// Bytes after which a page ends.
const PAGE_BYTES: usize = 4 << 20;
/// Messages looked at for one page; a filter that lets few pass ends it earlier.
const LOOKED_MAX: usize = 20_000;
/// Entries read at once.
const ENTRIES: usize = 64;

/// After everything that can ever be.
const END: Position = Position::new(u64::MAX >> 11, u64::MAX >> 11);

/// What of a log is wanted.
struct Wanted {
    after: Position,
    until: Option<Position>,
    since: Option<SystemTime>,
    before: Option<SystemTime>,
    ids: HashSet<Bytes>,
    authors: Vec<Bytes>,
    view: View,
    newest_first: bool,
}

impl Service {
    pub(super) async fn history(
        &self,
        context: &Context,
        request: &v1::ListMessagesRequest,
    ) -> Result<v1::ListMessagesResponse, Failure> {
        let topic = read_topic("topic", &request.topic)?;
        let (wanted, page) = read(request)?;
        let node = self.node(context, &request.node).await?;
        let bus = self.router.bus();
        let facts = router::ends(bus, &node, &topic).await.map_err(unavailable)?;
        let Some(top) = facts.top else { return Err(self.no_log(&node, &request.topic).await) };
        let start = facts.start.unwrap_or(top);
        let gap = self.missing(&node, &topic, &wanted, &page, start).await?;
        if gap.is_some() && request.require_complete {
            let message = format!("after: part of the range is not kept any more; it begins after {start}");
            return Err(Box::new(v1::Error::new(Reason::PositionTrimmed, message).with("oldest", start)));
        }
        let (messages, end) = self.collect(&node, &topic, &wanted, &page).await?;
        let said = |gap: Gap| v1::subscription_event::Gap {
            topic: request.topic.clone(),
            after: gap.after.to_string(),
            until: gap.until.to_string(),
            reason: gap.reason as i32,
            ..v1::subscription_event::Gap::default()
        };
        Ok(v1::ListMessagesResponse {
            messages: messages
                .into_iter()
                .map(|m| v1::Message { topic: request.topic.clone(), ..m })
                .collect(),
            retained: facts
                .oldest
                .map(|_| v1::PositionRange { after: start.to_string(), until: top.to_string() }),
            gap: gap.map(said),
            position: top.to_string(),
            next_page_token: end.map(|end| page.token(&end.to_string())).unwrap_or_default(),
        })
    }

    /// Why there is no log: no node, or a topic that it neither follows nor keeps.
    async fn no_log(&self, node: &NodeName, topic: &str) -> Failure {
        match router::standing(self.router.bus(), node).await {
            Err(error) => unavailable(error),
            Ok(Standing::Missing) if node.node() != super::DEFAULT => not_found(node.node()),
            Ok(_) => {
                let message = format!("the node neither follows nor keeps topic {topic:?}");
                Box::new(v1::Error::new(Reason::TopicNotFound, message).with("topic", topic))
            }
        }
    }

    /// What is missing at the start of the range.
    async fn missing(
        &self,
        node: &NodeName,
        topic: &Topic,
        wanted: &Wanted,
        page: &Page,
        start: Position,
    ) -> Result<Option<Gap>, Failure> {
        let from = wanted.after;
        if page.after.is_some() && !wanted.newest_first {
            // The page before ended here: what was trimmed since is missing.
            let trimmed =
                Gap { after: from, until: start, reason: v1::subscription_event::gap::Reason::Trimmed };
            return Ok((from < start).then_some(trimmed));
        }
        if from == Position::ZERO || from == END {
            return Ok(None);
        }
        let found = router::page(self.router.bus(), node, topic, Place::new(from), 1).await;
        let Some(found) = found else { return Err(unavailable(plexus_bus::Error::Timeout)) };
        let mut told = Vec::new();
        Place::new(from).walk(found, false, None, &mut told);
        Ok(told.into_iter().find_map(|told| if let Told::Gap(gap) = told { Some(gap) } else { None }))
    }

    /// Reads until the page is full; answers where the next one begins, if there may be more.
    async fn collect(
        &self,
        node: &NodeName,
        topic: &Topic,
        wanted: &Wanted,
        page: &Page,
    ) -> Result<(Vec<v1::Message>, Option<Position>), Failure> {
        let (mut messages, mut bytes, mut looked) = (Vec::new(), 0, 0);
        // An entry is found by its last message: bounds inside entries are kept message by message.
        let mut from = wanted.after;
        let mut until = match wanted.until.filter(|_| wanted.newest_first) {
            Some(until) => Some(self.holder(node, topic, until).await?),
            None => None,
        };
        let mut last = None;
        loop {
            let range = Range { from, until, limit: ENTRIES, newest_first: wanted.newest_first };
            let entries = router::read(self.router.bus(), node, topic, range).await.map_err(unavailable)?;
            let full = entries.len() == ENTRIES;
            for entry in &entries {
                let mut numbered: Vec<_> = frames::numbered(entry).collect();
                if wanted.newest_first {
                    numbered.reverse();
                }
                for (seq, message) in numbered {
                    let at = Position::new(entry.epoch, seq);
                    let beyond = wanted.until.is_some_and(|until| at > until);
                    if beyond && !wanted.newest_first {
                        return Ok((messages, None));
                    }
                    if at <= wanted.after || beyond {
                        continue;
                    }
                    let over = messages.len() == page.size || looked >= LOOKED_MAX || bytes >= PAGE_BYTES;
                    if over {
                        return Ok((messages, last));
                    }
                    looked += 1;
                    last = Some(at);
                    if wanted.passes(message) {
                        bytes += message.data.len() + 256;
                        messages.push(frames::message(at, message, wanted.view));
                    }
                }
            }
            let Some(end) = entries.last().filter(|_| full).map(|e| router::place::id_of(e)) else {
                return Ok((messages, None));
            };
            if wanted.newest_first {
                let Some(older) = before(end) else { return Ok((messages, None)) };
                until = Some(older);
            } else {
                from = Position::new(end.epoch, end.seq + 1);
            }
        }
    }

    /// The id of the entry that holds a position, or the position itself where none does.
    async fn holder(&self, node: &NodeName, topic: &Topic, at: Position) -> Result<Position, Failure> {
        let range = Range { from: at, until: None, limit: 1, newest_first: false };
        let entries = router::read(self.router.bus(), node, topic, range).await.map_err(unavailable)?;
        let holds = entries.first().filter(|e| router::place::before(e) < at);
        Ok(holds.map_or(at, |e| router::place::id_of(e)))
    }
}

/// The greatest position below another.
fn before(at: Position) -> Option<Position> {
    match (at.epoch, at.seq) {
        (0, 0) => None,
        (epoch, 0) => Some(Position::new(epoch - 1, END.seq)),
        (epoch, seq) => Some(Position::new(epoch, seq - 1)),
    }
}

impl Wanted {
    fn passes(&self, message: &LogMessage) -> bool {
        let at = message.received_at.and_then(|at| SystemTime::try_from(at).ok());
        self.since.is_none_or(|since| at.is_some_and(|at| at >= since))
            && self.before.is_none_or(|before| at.is_some_and(|at| at < before))
            && (self.ids.is_empty() || self.ids.contains(&message.id))
            && (self.authors.is_empty() || self.authors.contains(&message.author))
    }
}

fn read(request: &v1::ListMessagesRequest) -> Result<(Wanted, Page), Failure> {
    let position = |field: &str, text: &str| match read_after(field, text)? {
        After::Start => Ok::<_, Failure>(Some(Position::ZERO)),
        After::End => Ok(None),
        After::Position(at) => Ok(Some(at)),
    };
    let after = match request.after.as_str() {
        "" => Position::ZERO,
        // Nothing is after the end.
        text => position("after", text)?.unwrap_or(END),
    };
    let until = if request.until.is_empty() { None } else { position("until", &request.until)? };
    let time = |field: &str, at: Option<prost_types::Timestamp>| match at.map(SystemTime::try_from) {
        None => Ok(None),
        Some(Ok(at)) => Ok(Some(at)),
        Some(Err(_)) => wrong(field, "a time since 1970"),
    };
    if request.ids.len() > 100 {
        return wrong("ids", "at most 100");
    }
    if request.authors.len() > 16 {
        return wrong("authors", "at most 16");
    }
    let id = |(i, text): (usize, &String)| {
        let decoded = BASE64_URL_SAFE_NO_PAD.decode(text).map(Bytes::from);
        decoded.or_else(|_| wrong(format!("ids[{i}]"), "base64url without padding"))
    };
    let author = |(i, text): (usize, &String)| super::read_peer(&format!("authors[{i}]"), text);
    let order = Order::try_from(request.order).or_else(|_| wrong("order", "OLDEST_FIRST or NEWEST_FIRST"))?;
    let mut wanted = Wanted {
        after,
        until,
        since: time("since", request.since)?,
        before: time("before", request.before)?,
        ids: request.ids.iter().enumerate().map(id).collect::<Result<_, _>>()?,
        authors: request.authors.iter().enumerate().map(author).collect::<Result<_, _>>()?,
        view: View::try_from(request.view).or_else(|_| wrong("view", "BYTES, TEXT or META"))?,
        newest_first: order == Order::NewestFirst,
    };
    let fields = v1::ListMessagesRequest { page_size: 0, page_token: String::new(), ..request.clone() };
    let page = Page::read(request.page_size, &request.page_token, &prost::Message::encode_to_vec(&fields))?;
    if let Some(end) = &page.after {
        let end: Position = end.parse().map_err(|_| {
            let text = "the page token is not ours or belongs to other fields";
            Box::new(v1::Error::new(Reason::BadPageToken, text).violation("pageToken", text))
        })?;
        if wanted.newest_first {
            wanted.until = Some(before(end).unwrap_or_default());
        } else {
            wanted.after = end;
        }
    }
    Ok((wanted, page))
}
