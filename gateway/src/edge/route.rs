//! Paths: the templates of the contract, and which of them a request's path fits. Pure.

use super::desc::{Error, Method, Registry, Rule};
use http::Method as Verb;
use plexus_proto::{reason::Reason, v1};
use std::{cmp::Reverse, sync::Arc};

/// One segment of a template.
#[derive(Clone, Debug, PartialEq)]
enum Segment {
    Literal(String),
    One,
    Rest,
}

/// `/v1/{name=shelves/*}/books/{id}:verb`.
#[derive(Debug)]
struct Template {
    segments: Vec<Segment>,
    /// Name of a field, and the segments it covers.
    variables: Vec<(String, usize, usize)>,
    verb: Option<String>,
}

/// Fields that a path gave, by name.
pub(crate) type Captures = Vec<(String, String)>;

/// A path of one method.
#[derive(Debug)]
pub(crate) struct Route {
    template: Template,
    /// The HTTP method and what the body is.
    pub(crate) rule: Rule,
    /// What it calls.
    pub(crate) method: Arc<Method>,
}

/// Every path.
#[derive(Debug)]
pub(crate) struct Routes(Vec<Route>);

/// What a path and an HTTP method lead to.
pub(crate) struct Found<'a> {
    /// The unary call of the path.
    pub(crate) unary: Option<(&'a Route, Captures)>,
    /// The streaming call of the path.
    pub(crate) stream: Option<(&'a Route, Captures)>,
    /// The HTTP methods that the path takes.
    pub(crate) allow: Vec<&'a str>,
}

impl Routes {
    /// Reads the rules of every method that takes one request. Fails on one that cannot be read, and on two
    /// that would take the same requests: only a list and its watch may share a path.
    pub(crate) fn new(registry: &Registry) -> Result<Self, Error> {
        let mut routes: Vec<Route> = Vec::new();
        for method in registry.methods().iter().filter(|m| m.kind.takes_one()) {
            for rule in &method.rules {
                let unreadable =
                    || Error::Template { method: method.path.clone(), template: rule.template.clone() };
                let template = Template::parse(&rule.template).ok_or_else(unreadable)?;
                let same = |r: &&Route| {
                    r.rule.verb == rule.verb && r.template.fits_as(&template) && r.method.kind == method.kind
                };
                if let Some(taken) = routes.iter().find(same) {
                    return Err(Error::Conflict {
                        template: rule.template.clone(),
                        first: taken.method.path.clone(),
                        second: method.path.clone(),
                    });
                }
                routes.push(Route { template, rule: rule.clone(), method: method.clone() });
            }
        }
        routes.sort_by_key(|r| Reverse(r.template.rank()));
        Ok(Self(routes))
    }

    /// Finds what a path leads to; the most literal template wins.
    pub(crate) fn find(&self, verb: &Verb, path: &str) -> Result<Found<'_>, Box<v1::Error>> {
        // HEAD is GET without a body.
        let verb = if verb == Verb::HEAD { &Verb::GET } else { verb };
        let mut found = Found { unary: None, stream: None, allow: Vec::new() };
        for route in &self.0 {
            let Some(captures) = route.template.captures(path) else { continue };
            let slot = if route.method.kind.streams() { &mut found.stream } else { &mut found.unary };
            match &route.rule.verb {
                Some(takes) if takes != verb => found.allow.push(takes.as_str()),
                takes => {
                    found.allow.push(takes.as_ref().map_or("*", Verb::as_str));
                    if slot.is_none() {
                        *slot = Some((route, captures?));
                    }
                }
            }
        }
        if found.allow.contains(&"GET") {
            found.allow.push("HEAD");
        }
        found.allow.sort_unstable();
        found.allow.dedup();
        Ok(found)
    }
}

impl Template {
    fn parse(text: &str) -> Option<Self> {
        let (mut segments, mut variables, mut verb) = (Vec::new(), Vec::new(), None);
        let mut rest = text.strip_prefix('/')?;
        while !rest.is_empty() {
            if let Some(inner) = rest.strip_prefix('{') {
                let (inner, after) = inner.split_once('}')?;
                let (name, pattern) = inner.split_once('=').unwrap_or((inner, "*"));
                let from = segments.len();
                segments.extend(pattern.split('/').map(Segment::parse));
                variables.push((name.to_owned(), from, segments.len()));
                rest = after;
            } else {
                let end = rest.find(['/', ':']).unwrap_or(rest.len());
                segments.push(Segment::parse(&rest[..end]));
                rest = &rest[end..];
            }
            if let Some(text) = rest.strip_prefix(':') {
                verb = Some(text.to_owned());
                break;
            }
            rest = rest.strip_prefix('/').unwrap_or(rest);
        }
        Some(Self { segments, variables, verb })
    }

    fn fits_as(&self, other: &Self) -> bool {
        self.segments == other.segments && self.verb == other.verb
    }

    /// Literal templates go before open ones, and those with a verb before those that would swallow it.
    fn rank(&self) -> (bool, usize) {
        (self.verb.is_some(), self.segments.iter().filter(|s| matches!(s, Segment::Literal(_))).count())
    }

    /// `None`: another path. An error: this path, but a variable is not UTF-8.
    ///
    /// What stands behind the last colon of a path is a verb, and never the end of a name: `…/peers/x:ping`
    /// is not the peer `x:ping`. A name with a colon there is written with `%3A`.
    fn captures(&self, path: &str) -> Option<Result<Captures, Box<v1::Error>>> {
        let path = path.strip_prefix('/')?;
        let path = match &self.verb {
            Some(verb) => path.strip_suffix(verb.as_str())?.strip_suffix(':')?,
            None if has_verb(path) => return None,
            None => path,
        };
        let parts: Vec<&str> = path.split('/').collect();
        let extra = parts.len().checked_sub(self.segments.len())?;
        if extra > 0 && !self.segments.contains(&Segment::Rest) {
            return None;
        }
        let mut starts = Vec::with_capacity(self.segments.len() + 1);
        let mut at = 0;
        for segment in &self.segments {
            starts.push(at);
            match segment {
                Segment::Literal(text) if parts[at] != text => return None,
                Segment::One if parts[at].is_empty() => return None,
                Segment::Rest => at += extra,
                _ => {}
            }
            at += 1;
        }
        starts.push(at);
        let capture = |(name, from, to): &(String, usize, usize)| {
            let many = to - from > 1 || self.segments[*from] == Segment::Rest;
            let value = decode(&parts[starts[*from]..starts[*to]], many);
            value.map(|v| (name.clone(), v)).ok_or_else(|| {
                let text = "not UTF-8 after decoding";
                Box::new(v1::Error::new(Reason::BadPath, format!("{name}: {text}")).violation(name, text))
            })
        };
        Some(self.variables.iter().map(capture).collect())
    }
}

/// Tells whether a path ends in a verb.
pub(crate) fn has_verb(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|last| last.contains(':'))
}

impl Segment {
    fn parse(text: &str) -> Self {
        match text {
            "*" => Self::One,
            "**" => Self::Rest,
            literal => Self::Literal(literal.into()),
        }
    }
}

/// Decodes after splitting, so that `%2F` stays inside its segment; in a variable of many it stays `%2F`.
fn decode(parts: &[&str], many: bool) -> Option<String> {
    let one = |part: &&str| {
        let text = percent_encoding::percent_decode_str(part).decode_utf8().ok()?;
        Some(if many { text.replace('/', "%2F") } else { text.into_owned() })
    };
    Some(parts.iter().map(one).collect::<Option<Vec<_>>>()?.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn captures(template: &str, path: &str) -> Option<Vec<String>> {
        let found = Template::parse(template).unwrap().captures(path)?;
        Some(found.map_or_else(|e| vec![e.reason], |c| c.into_iter().map(|(_, v)| v).collect()))
    }

    #[test]
    fn a_path_is_split_before_it_is_decoded() {
        let list = |values: &[&str]| Some(values.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>());
        let things = "/v1/things/{thing}";
        assert_eq!(captures(things, "/v1/things/a"), list(&["a"]));
        assert_eq!(captures(things, "/v1/things/a%2Fb"), list(&["a/b"]));
        assert_eq!(captures(things, "/v1/things/%zz"), list(&["%zz"]));
        assert_eq!(captures(things, "/v1/things/a+b"), list(&["a+b"]));
        assert_eq!(captures(things, "/v1/things/%ff"), list(&["BAD_PATH"]));
        for other in ["/v1/things", "/v1/things/", "/v1/things/a/b", "/v1/thing/a", "v1/things/a", ""] {
            assert_eq!(captures(things, other), None, "{other}");
        }
        assert_eq!(captures("/v1/{a=x/*}/{b}:go", "/v1/x/1%2F2/3:go"), list(&["x/1%2F2", "3"]));
        assert_eq!(captures("/v1/{a}:go", "/v1/3:stop"), None);
        assert_eq!(captures("/v1/{rest=**}", "/v1/a/b/c"), list(&["a/b/c"]));
    }

    #[test]
    fn what_stands_behind_the_last_colon_is_a_verb_and_never_the_end_of_a_name() {
        let peer = "/v1/peers/{peer}";
        let ping = "/v1/peers/{peer}:ping";
        let rows: [(&str, &str, Option<&[&str]>); 12] = [
            (peer, "/v1/peers/x", Some(&["x"])),
            (peer, "/v1/peers/x:ping", None),
            (peer, "/v1/peers/x:nothing", None),
            (peer, "/v1/peers/x:", None),
            (peer, "/v1/peers/:ping", None),
            (peer, "/v1/peers/x%3Aping", Some(&["x:ping"])),
            (ping, "/v1/peers/x:ping", Some(&["x"])),
            (ping, "/v1/peers/x%3Aping", None),
            (ping, "/v1/peers/a:b:ping", Some(&["a:b"])),
            (ping, "/v1/peers/:ping", None),
            ("/v1/topics/{topic}/messages", "/v1/topics/a:b/messages", Some(&["a:b"])),
            ("/v1/kv/{key=**}", "/v1/kv/a/b:c", None),
        ];
        for (template, path, wanted) in rows {
            let wanted = wanted.map(|w| w.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>());
            assert_eq!(captures(template, path), wanted, "{template} {path}");
        }
    }

    #[test]
    fn every_path_of_the_contract_leads_to_its_own_method() {
        let services: Vec<_> =
            crate::edge::desc::tests::POOL.services().map(|s| s.full_name().to_owned()).collect();
        let names: Vec<&str> = services.iter().map(String::as_str).collect();
        let registry = Registry::new(&[plexus_proto::DESCRIPTOR], &names, &[]).unwrap();
        let routes = Routes::new(&registry).unwrap();
        let mut seen = 0;
        for method in registry.methods() {
            for rule in &method.rules {
                let path: String = rule.template.replace('{', "x").replace('}', "");
                let found = routes.find(rule.verb.as_ref().unwrap(), &path).unwrap();
                let (route, captures) =
                    if method.kind.streams() { found.stream } else { found.unary }.unwrap();
                assert_eq!(route.method.path, method.path, "{path}");
                for (name, _) in captures {
                    assert!(method.input.get_field_by_name(&name).is_some(), "{path}: {name}");
                }
                seen += 1;
            }
        }
        assert!(seen > 20);
    }

    proptest! {
        #[test]
        fn no_path_makes_the_matcher_panic(path in ".*") {
            let template = Template::parse("/v1/{a}/b/{c=**}:d").unwrap();
            let _ = template.captures(&path);
        }

        #[test]
        fn any_text_survives_in_one_segment(text in ".+") {
            let encoded = percent_encoding::utf8_percent_encode(&text, percent_encoding::NON_ALPHANUMERIC).to_string();
            prop_assert_eq!(captures("/v1/{a}", &format!("/v1/{encoded}")), Some(vec![text]));
        }
    }
}
