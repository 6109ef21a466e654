//! What a subscription asks for, in the router's terms: bounds, filter, and where each topic begins. Pure.

use super::{peers::check_span, read_peer, read_topic, wrong};
use crate::{
    resume::{self, Name},
    router::{
        Failure,
        frames::Filter,
        queue::{Pen, Policy, Terms},
        subscriptions::Wish,
    },
};
use plexus_bus::{NodeName, Position, Topic};
use plexus_proto::{
    reason::Reason,
    text::After,
    v1::{
        self, View,
        message::Origin,
        subscribe_request::{self, SlowReader},
    },
};
use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

/// Values of a filter of one kind.
const VALUES_MAX: usize = 16;

/// Reads a subscription. `session` marks what the caller itself published, `pen` reads its tokens.
pub(super) fn read(
    request: &v1::SubscribeRequest,
    node: NodeName,
    most: usize,
    session: &str,
    pen: &Pen,
) -> Result<Wish, Failure> {
    let topics = topics(request, most, pen)?;
    if request.presence || !request.member.is_empty() || request.state.is_some() {
        let error = v1::Error::new(Reason::FeatureOff, "presence: this release has no presence");
        return Err(Box::new(error.with("setting", "presence").violation("presence", "not built yet")));
    }
    let view = View::try_from(request.view).or_else(|_| wrong("view", "BYTES, TEXT or META"))?;
    let own = request.own.unwrap_or(true);
    let filter = filter(request.filter.as_ref(), if own { "" } else { session })?;
    Ok(Wish {
        node,
        topics,
        terms: terms(request)?,
        pen: Pen { named: !request.topic.is_empty() || !request.topics.is_empty(), ..pen.clone() },
        view,
        filter,
        require_recovery: request.require_recovery,
    })
}

fn terms(request: &v1::SubscribeRequest) -> Result<Terms, Failure> {
    let slow = SlowReader::try_from(request.slow_reader);
    let policy = match slow.or_else(|_| wrong("slowReader", "DISCONNECT, DROP_OLDEST or LATEST"))? {
        SlowReader::Unspecified | SlowReader::Disconnect => Policy::Disconnect,
        SlowReader::DropOldest => Policy::DropOldest,
        SlowReader::Latest => Policy::Latest,
    };
    let messages = match request.queue_messages {
        0 => 256,
        n @ 1..=4096 => n as usize,
        _ => return wrong("queueMessages", "1 to 4096; 0 means 256"),
    };
    let bytes = match request.queue_bytes {
        0 => 1 << 20,
        n @ 0x1_0000..=0x40_0000 => n as usize,
        _ => return wrong("queueBytes", "65536 to 4194304; 0 means 1048576"),
    };
    let (least, most) = (Duration::from_secs(1), Duration::from_secs(60));
    let heartbeat = check_span("heartbeat", request.heartbeat.as_ref(), least, most)?;
    let heartbeat = heartbeat.unwrap_or(Duration::from_secs(15));
    Ok(Terms { messages, bytes, gaps: 1, policy, limit: request.limit, heartbeat, ids: false })
}

fn filter(given: Option<&subscribe_request::Filter>, not_session: &str) -> Result<Filter, Failure> {
    let given = given.cloned().unwrap_or_default();
    let lists = [
        ("filter.authors", given.authors.len()),
        ("filter.notAuthors", given.not_authors.len()),
        ("filter.producers", given.producers.len()),
    ];
    if let Some((field, _)) = lists.iter().find(|(_, len)| *len > VALUES_MAX) {
        let wanted = format!("at most {VALUES_MAX} values");
        let error = v1::Error::new(Reason::SubscriptionLimit, format!("{field}: {wanted}"));
        return Err(Box::new(error.violation(*field, wanted).with("limit", VALUES_MAX)));
    }
    if given.data_prefix.len() > 64 {
        return wrong("filter.dataPrefix", "at most 64 bytes");
    }
    let origin = Origin::try_from(given.origin).or_else(|_| wrong("filter.origin", "NETWORK or LOCAL"))?;
    let peers = |field: &str, list: &[String]| {
        let read = |(i, text): (usize, &String)| read_peer(&format!("{field}[{i}]"), text);
        list.iter().enumerate().map(read).collect::<Result<Vec<_>, Failure>>()
    };
    Ok(Filter {
        authors: peers("filter.authors", &given.authors)?,
        not_authors: peers("filter.notAuthors", &given.not_authors)?,
        producers: given.producers,
        origin: (origin != Origin::Unspecified).then_some(origin),
        data_bytes_max: given.data_bytes_max as usize,
        data_prefix: given.data_prefix,
        not_session: not_session.to_owned(),
    })
}

/// Each topic once, and where it begins: `resume`, else `positions`, else `after`, else the end.
fn topics(request: &v1::SubscribeRequest, most: usize, pen: &Pen) -> Result<Vec<(Topic, After)>, Failure> {
    let mut names: Vec<Topic> = Vec::new();
    if !request.topic.is_empty() {
        names.push(read_topic("topic", &request.topic)?);
    }
    for (i, text) in request.topics.iter().enumerate() {
        let field = format!("topics[{i}]");
        let topic = read_topic(&field, text)?;
        if names.contains(&topic) {
            return wrong(field, "each topic once");
        }
        names.push(topic);
    }
    let (resumed, plain) = resumed(request, names.len(), pen)?;
    if names.is_empty() {
        let full = |(name, _): &(Name, Position)| match name {
            Name::Full(topic) => Some(topic.clone()),
            Name::Mark(_) => None,
        };
        names = resumed.iter().filter_map(full).collect();
    }
    if names.is_empty() {
        return wrong("topics", "at least one topic, unless `resume` names them");
    }
    if names.len() > most {
        let error = v1::Error::new(Reason::SubscriptionLimit, format!("topics: at most {most}"));
        return Err(Box::new(error.violation("topics", format!("at most {most}")).with("limit", most)));
    }
    let otherwise = match request.after.as_str() {
        "" => After::End,
        after => read_after("after", after)?,
    };
    let mut positions = HashMap::new();
    for (topic, at) in &request.positions {
        let field = format!("positions[{topic:?}]");
        let name = read_topic(&field, topic)?;
        if !names.contains(&name) {
            return wrong(field, "only topics of this subscription");
        }
        positions.insert(name, read_after(&field, at)?);
    }
    for topic in names.iter().filter(|_| !resumed.is_empty()) {
        if let Some((_, at)) = resumed.iter().find(|(name, _)| name.is(topic)) {
            positions.insert(topic.clone(), After::Position(*at));
        }
    }
    let begin = |topic: Topic| {
        let after = plain.or_else(|| positions.get(&topic).copied()).unwrap_or(otherwise);
        (topic, after)
    };
    Ok(names.into_iter().map(begin).collect())
}

/// Positions topic by topic, or one for the only topic.
type Resumed = (Vec<(Name, Position)>, Option<After>);

/// Reads `resume`: a token, or with one topic a plain position.
fn resumed(request: &v1::SubscribeRequest, topics: usize, pen: &Pen) -> Result<Resumed, Failure> {
    if request.resume.is_empty() {
        return Ok((Vec::new(), None));
    }
    if topics == 1
        && let Ok(after) = request.resume.parse::<After>()
    {
        return Ok((Vec::new(), Some(after)));
    }
    match pen.tokens.read(&pen.bearer, &request.resume, SystemTime::now()) {
        Some(formers) => Ok((resume::places(formers), None)),
        None => {
            let wanted = "a token that this caller got here in the last 24 h, or with one topic a position";
            Err(pen.tokens.refusal("resume", wanted))
        }
    }
}

/// Reads a position.
pub(super) fn read_after(field: &str, text: &str) -> Result<After, Failure> {
    text.parse().map_err(|error: plexus_proto::text::Error| {
        Box::new(
            v1::Error::new(Reason::BadPosition, format!("{field}: {error}"))
                .violation(field, error.to_string()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pen() -> Pen {
        let (tokens, bearer) =
            (resume::Tokens::new(Some("secret")), (&crate::caller::Caller::anonymous()).into());
        Pen { tokens, bearer, seat: None, named: false }
    }

    fn asked(edit: impl FnOnce(&mut v1::SubscribeRequest)) -> Result<Wish, Failure> {
        let mut request = v1::SubscribeRequest { topic: "a".into(), ..v1::SubscribeRequest::default() };
        edit(&mut request);
        read(&request, NodeName::new("default", "n").unwrap(), 3, "me", &pen())
    }

    fn begins(edit: impl FnOnce(&mut v1::SubscribeRequest)) -> Vec<(String, After)> {
        let text = |(topic, after): (Topic, After)| (String::from_utf8(topic.to_vec()).unwrap(), after);
        asked(edit).map(|wish| wish.topics.into_iter().map(text).collect()).unwrap()
    }

    #[test]
    fn each_topic_begins_where_the_best_word_says() {
        let at = |e, s| After::Position(Position::new(e, s));
        assert_eq!(begins(|_| {}), [("a".into(), After::End)]);
        assert_eq!(begins(|r| r.after = "3-1".into()), [("a".into(), at(3, 1))]);
        let both = |r: &mut v1::SubscribeRequest| {
            r.topics = vec!["b".into()];
            r.after = "0".into();
            r.positions.insert("a".into(), "3-2".into());
        };
        assert_eq!(begins(both), [("a".into(), at(3, 2)), ("b".into(), After::Start)]);
        let [a, c] = [Topic::from_static(b"a"), Topic::from_static(b"c")];
        let short = [(Name::Mark(resume::mark(&a)), Position::new(4, 7))];
        let places = [(Name::Full(a), Position::new(4, 1)), (Name::Full(c), Position::new(4, 2))];
        let Pen { tokens, bearer, .. } = pen();
        let (token, short) = (tokens.write(&bearer, b"", &places), tokens.write(&bearer, b"", &short));
        let resumes = |r: &mut v1::SubscribeRequest| {
            both(r);
            r.resume = token.clone();
        };
        assert_eq!(
            begins(resumes),
            [("a".into(), at(4, 1)), ("b".into(), After::Start)],
            "only what is asked for"
        );
        let alone = |r: &mut v1::SubscribeRequest| (r.topic, r.resume) = (String::new(), token.clone());
        assert_eq!(begins(alone), [("a".into(), at(4, 1)), ("c".into(), at(4, 2))]);
        assert_eq!(begins(|r| r.resume = "5-6".into()), [("a".into(), at(5, 6))]);
        assert_eq!(begins(|r| r.resume = short.clone()), [("a".into(), at(4, 7))]);
        let foreign = Pen {
            bearer: (&crate::caller::Caller { namespace: "n".into(), ..crate::caller::Caller::anonymous() })
                .into(),
            ..pen()
        };
        let request = v1::SubscribeRequest { resume: token, ..v1::SubscribeRequest::default() };
        let refused = read(&request, NodeName::new("n", "n").unwrap(), 3, "me", &foreign).err().unwrap();
        assert!(refused.is(Reason::BadResumeToken), "another caller's: {refused:?}");
    }

    #[test]
    fn what_cannot_be_followed_is_refused_by_name() {
        type Edit = fn(&mut v1::SubscribeRequest);
        let table: &[(&str, Reason, Edit)] = &[
            ("topics", Reason::FieldInvalid, |r| r.topic.clear()),
            ("topic", Reason::BadTopic, |r| r.topic = "~!".into()),
            ("topics[0]", Reason::FieldInvalid, |r| r.topics = vec!["~YQ".into()]),
            ("topics", Reason::SubscriptionLimit, |r| r.topics = ["b", "c", "d"].map(Into::into).into()),
            ("after", Reason::BadPosition, |r| r.after = "x".into()),
            ("positions[\"a\"]", Reason::BadPosition, |r| drop(r.positions.insert("a".into(), "1".into()))),
            ("positions[\"z\"]", Reason::FieldInvalid, |r| {
                drop(r.positions.insert("z".into(), "1-1".into()))
            }),
            ("resume", Reason::BadResumeToken, |r| r.resume = "x".into()),
            ("slowReader", Reason::FieldInvalid, |r| r.slow_reader = 9),
            ("queueMessages", Reason::FieldInvalid, |r| r.queue_messages = 4097),
            ("queueBytes", Reason::FieldInvalid, |r| r.queue_bytes = 1),
            ("view", Reason::FieldInvalid, |r| r.view = 9),
            ("heartbeat", Reason::FieldInvalid, |r| {
                r.heartbeat = Some(prost_types::Duration { seconds: 61, nanos: 0 })
            }),
            ("presence", Reason::FeatureOff, |r| r.presence = true),
            ("filter.authors[0]", Reason::BadPeerId, |r| {
                r.filter =
                    Some(subscribe_request::Filter { authors: vec!["x".into()], ..Default::default() });
            }),
            ("filter.producers", Reason::SubscriptionLimit, |r| {
                r.filter =
                    Some(subscribe_request::Filter { producers: vec!["x".into(); 17], ..Default::default() });
            }),
        ];
        for (field, reason, edit) in table {
            let error = asked(edit).err().unwrap_or_else(|| panic!("{field} passes"));
            assert!(error.is(*reason), "{field}: {error:?}");
            assert_eq!(error.violations[0].field, *field, "{error:?}");
        }
        assert_eq!(asked(|r| r.own = Some(false)).unwrap().filter.not_session, "me");
    }
}
