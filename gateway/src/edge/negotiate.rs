//! What a client says of forms: the media types and encodings it takes, and entity tags. Pure.

use super::sse::Form;
use http::{HeaderMap, HeaderName, header};

/// What `accept` asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Accept {
    /// The stream that is named.
    pub(crate) form: Option<Form>,
    /// Whether JSON will do.
    pub(crate) json: bool,
}

/// Reads `accept`: a stream must be named, JSON is what any other type gets that may be it.
pub(crate) fn accept(headers: &HeaderMap) -> Accept {
    let mut accept = Accept { form: None, json: !headers.contains_key(header::ACCEPT) };
    for media in wanted(headers, &header::ACCEPT) {
        match media.as_str() {
            "text/event-stream" => accept.form = accept.form.or(Some(Form::Sse)),
            "application/x-ndjson" | "application/jsonl" => accept.form = accept.form.or(Some(Form::Ndjson)),
            // An empty list is no wish.
            "" | "*/*" | "application/*" | "application/json" | "application/problem+json" => {
                accept.json = true
            }
            other => accept.json |= other.ends_with("+json"),
        }
    }
    accept
}

/// Tells whether a client takes gzip: it must name it, or everything.
pub(crate) fn gzip(headers: &HeaderMap) -> bool {
    wanted(headers, &header::ACCEPT_ENCODING).any(|coding| matches!(coding.as_str(), "gzip" | "x-gzip" | "*"))
}

/// The elements of a list that are not refused by a weight of 0, without their parameters.
fn wanted(headers: &HeaderMap, name: &HeaderName) -> impl Iterator<Item = String> {
    let values = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).filter_map(|element| {
        let mut parts = element.split(';').map(|p| p.trim().to_ascii_lowercase());
        let first = parts.next().unwrap_or_default();
        let refused = |p: String| matches!(p.as_str(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000");
        (!parts.any(refused)).then_some(first)
    })
}

/// Tells whether a list of entity tags names this one, or any.
pub(crate) fn names(list: &str, tag: &str) -> bool {
    list.split(',').any(|one| one.trim() == "*" || opaque(one) == opaque(tag))
}

/// An entity tag without its quotes. Weak ones are taken for strong: a proxy that compresses weakens
/// ours, and they mark a revision, not bytes.
pub(crate) fn opaque(tag: &str) -> &str {
    let tag = tag.trim();
    tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"')
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(name: HeaderName, text: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(text))])
    }

    #[test]
    fn a_stream_must_be_asked_for_by_name() {
        let ask = |text: &'static str| {
            let accept = accept(&headers(header::ACCEPT, text));
            (accept.form, accept.json)
        };
        for (text, form, json) in [
            ("*/*", None, true),
            ("text/html, application/xhtml+xml;q=0.9, */*;q=0.8", None, true),
            ("text/event-stream", Some(Form::Sse), false),
            ("TEXT/Event-Stream; charset=utf-8", Some(Form::Sse), false),
            ("application/x-ndjson, application/json", Some(Form::Ndjson), true),
            ("text/event-stream;q=0, application/json", None, true),
            ("application/vnd.example+json", None, true),
            ("image/png", None, false),
            ("application/json;q=0", None, false),
            ("", None, true),
        ] {
            assert_eq!(ask(text), (form, json), "{text}");
        }
        assert!(accept(&HeaderMap::new()).json);
    }

    #[test]
    fn only_who_names_gzip_gets_it() {
        for (text, takes) in [
            ("gzip", true),
            ("gzip, deflate, br, zstd", true),
            ("br;q=1.0, GZIP;q=0.5", true),
            ("*", true),
            ("gzip;q=0", false),
            ("identity", false),
            ("", false),
        ] {
            assert_eq!(gzip(&headers(header::ACCEPT_ENCODING, text)), takes, "{text}");
        }
        assert!(!gzip(&HeaderMap::new()));
    }

    #[test]
    fn an_entity_tag_is_what_stands_between_its_quotes() {
        for (list, tag, same) in [
            ("\"a1\"", "\"a1\"", true),
            ("W/\"a1\"", "\"a1\"", true),
            ("a1", "\"a1\"", true),
            ("\"b\", \"a1\"", "\"a1\"", true),
            ("*", "\"a1\"", true),
            ("\"a2\"", "\"a1\"", false),
            ("", "\"a1\"", false),
        ] {
            assert_eq!(names(list, tag), same, "{list} {tag}");
        }
    }
}
