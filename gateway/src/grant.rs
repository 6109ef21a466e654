//! What a caller may do: verbs on patterns of resources, and nothing else. Pure: no clock, no I/O, no
//! word of any capability. Verbs and resources come from the descriptor, grants from credentials.
//!
//! A resource is a path of parts, such as `nodes/alpha/topics/demo`. A pattern is such a path in which
//! `*` stands for any text within a part and a part `**` for any number of parts; `%2F` is a slash within
//! a part, `%2A` a star that is none. A pattern covers its resource and everything beneath it.

use percent_encoding::percent_decode;
use serde::{Deserialize, Serialize};

/// Grants of one caller at most.
const GRANTS_MAX: usize = 32;
/// Verbs, and patterns, of one grant at most.
const WORDS_MAX: usize = 64;
/// Bytes of one verb or pattern at most.
const WORD_BYTES_MAX: usize = 1024;
/// Parts of a pattern at most.
const PARTS_MAX: usize = 16;
/// Parts `**` of a pattern at most.
const ACROSS_MAX: usize = 2;

/// The verb that changes nothing, whichever it is.
const READ: &str = "read";
/// The verb that may change something, whichever it is.
const WRITE: &str = "write";
/// Any verb.
const ANY: &str = "*";

/// A grant as files and tokens write it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// Names of methods, or `read`, `write`, `*`.
    pub verbs: Vec<String>,
    /// Patterns of resources.
    pub resources: Vec<String>,
}

/// Everything that a caller may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grants {
    /// Whether nothing is refused, so that nobody needs to look.
    all: bool,
    grants: Vec<Grant>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Grant {
    verbs: Vec<String>,
    patterns: Vec<Pattern>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Any number of parts.
    Across,
    /// One part: the texts between its stars.
    Part(Vec<Vec<u8>>),
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verb<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whether it changes nothing.
    pub safe: bool,
}

/// A part of a resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// The one of this name.
    Named(Vec<u8>),
    /// Every one, or one that is not known beforehand: only a part `*` stands for it.
    Every,
}

/// Whether it may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A grant covers it.
    Allowed,
    /// None does.
    Denied,
}

/// Decides whether the grants cover a verb on a resource. What no grant covers is denied.
pub fn decide(grants: &Grants, verb: Verb<'_>, resource: &[Part]) -> Verdict {
    let covers = |grant: &Grant| {
        grant.verbs.iter().any(|word| names(word, verb))
            && grant.patterns.iter().any(|pattern| covers(&pattern.0, resource))
    };
    if grants.all || grants.grants.iter().any(covers) { Verdict::Allowed } else { Verdict::Denied }
}

impl Grants {
    /// Refuses nothing.
    pub const fn all() -> Self {
        Self { all: true, grants: Vec::new() }
    }

    /// Reads what credentials say; the error names what is wrong.
    pub fn read(written: &[Written]) -> Result<Self, String> {
        if written.len() > GRANTS_MAX {
            return Err(format!("grants: at most {GRANTS_MAX}"));
        }
        let grants = written.iter().map(Grant::read).collect::<Result<Vec<_>, _>>()?;
        let full = |grant: &Grant| {
            grant.verbs.iter().any(|verb| verb == ANY)
                && grant.patterns.iter().any(|pattern| pattern.0 == [Step::Across])
        };
        Ok(Self { all: grants.iter().any(full), grants })
    }

    /// Tells whether nothing is refused.
    pub fn is_all(&self) -> bool {
        self.all
    }

    /// Tells whether who has these may hand those on. It would rather say no than look into what words
    /// mean: a verb is handed on by its own name or by `*`, a pattern by one that plainly covers it.
    pub fn may_give(&self, those: &Self) -> bool {
        let gives = |verb: &String, pattern: &Pattern| {
            self.grants.iter().any(|own| {
                own.verbs.iter().any(|word| word == ANY || word == verb)
                    && own.patterns.iter().any(|own| contains(&own.0, &pattern.0))
            })
        };
        let given = |grant: &Grant| {
            grant.verbs.iter().all(|verb| grant.patterns.iter().all(|pattern| gives(verb, pattern)))
        };
        self.all || those.grants.iter().all(given)
    }
}

impl Grant {
    fn read(written: &Written) -> Result<Self, String> {
        for (field, words) in [("verbs", &written.verbs), ("resources", &written.resources)] {
            if words.is_empty() || words.len() > WORDS_MAX {
                return Err(format!("{field}: 1 to {WORDS_MAX}"));
            }
            if let Some(long) = words.iter().find(|word| word.is_empty() || word.len() > WORD_BYTES_MAX) {
                let begin: String = long.chars().take(20).collect();
                return Err(format!("{field}: {begin:?} has not 1 to {WORD_BYTES_MAX} bytes"));
            }
        }
        let patterns = written.resources.iter().map(|text| Pattern::read(text)).collect::<Result<_, _>>()?;
        let is_word = |verb: &&String| *verb == ANY || verb.bytes().all(|b| b.is_ascii_alphanumeric());
        if let Some(verb) = written.verbs.iter().find(|verb| !is_word(verb)) {
            return Err(format!("verbs: {verb:?} is neither a method's name nor read, write or *"));
        }
        Ok(Self { verbs: written.verbs.clone(), patterns })
    }
}

impl Pattern {
    fn read(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        if parts.len() > PARTS_MAX || parts.contains(&"") {
            return Err(format!("resources: {text:?} is not 1 to {PARTS_MAX} parts with a slash between"));
        }
        if parts.iter().filter(|part| **part == "**").count() > ACROSS_MAX {
            return Err(format!("resources: {text:?} has more than {ACROSS_MAX} parts **"));
        }
        let steps = parts.into_iter().map(|part| match part {
            "**" => Ok(Step::Across),
            part if part.contains("**") => {
                Err(format!("resources: {text:?}: ** is a part of its own, * is within one"))
            }
            part => Ok(Step::Part(part.split('*').map(|t| percent_decode(t.as_bytes()).collect()).collect())),
        });
        steps.collect::<Result<_, _>>().map(Self)
    }
}

fn names(word: &str, verb: Verb<'_>) -> bool {
    match word {
        ANY => true,
        READ => verb.safe,
        WRITE => !verb.safe,
        name => name == verb.name,
    }
}

/// Tells whether a pattern covers a resource; what lies beneath a covered one is covered too.
fn covers(steps: &[Step], parts: &[Part]) -> bool {
    match (steps, parts) {
        ([], _) => true,
        ([Step::Across, rest @ ..], _) => (0..=parts.len()).any(|skip| covers(rest, &parts[skip..])),
        ([Step::Part(texts), rest @ ..], [part, beneath @ ..]) => {
            stands_for(texts, part) && covers(rest, beneath)
        }
        ([Step::Part(_), ..], []) => false,
    }
}

/// Tells whether a pattern covers all that another does; false also where that is hard to say.
fn contains(own: &[Step], other: &[Step]) -> bool {
    match (own, other) {
        ([], _) => true,
        ([Step::Across, rest @ ..], _) => (0..=other.len()).any(|skip| contains(rest, &other[skip..])),
        ([Step::Part(texts), rest @ ..], [Step::Part(others), beneath @ ..]) => {
            let any = texts.len() == 2 && texts.iter().all(Vec::is_empty);
            let one = || matches!(&others[..], [name] if stands_for(texts, &Part::Named(name.clone())));
            (any || texts == others || one()) && contains(rest, beneath)
        }
        ([Step::Part(_), ..], _) => false,
    }
}

/// Tells whether texts with a star between each stand for a part.
fn stands_for(texts: &[Vec<u8>], part: &Part) -> bool {
    let Part::Named(name) = part else { return texts.len() == 2 && texts.iter().all(Vec::is_empty) };
    let Some((first, rest)) = texts.split_first() else { return false };
    let Some(mut left) = name.strip_prefix(&first[..]) else { return false };
    let Some((last, middle)) = rest.split_last() else { return left.is_empty() };
    for text in middle.iter().filter(|text| !text.is_empty()) {
        let Some(at) = left.windows(text.len()).position(|window| window == &text[..]) else { return false };
        left = &left[at + text.len()..];
    }
    left.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SEE: Verb<'_> = Verb { name: "See", safe: true };
    const DO: Verb<'_> = Verb { name: "Do", safe: false };

    fn grants(list: &[(&str, &str)]) -> Grants {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect();
        let written: Vec<_> =
            list.iter().map(|(v, r)| Written { verbs: words(v), resources: words(r) }).collect();
        Grants::read(&written).unwrap()
    }

    /// Parts, `?` being every one.
    fn resource(text: &str) -> Vec<Part> {
        let part = |t: &str| if t == "?" { Part::Every } else { Part::Named(t.into()) };
        text.split('/').map(part).collect()
    }

    fn allows(verbs: &str, pattern: &str, verb: Verb<'_>, of: &str) -> bool {
        decide(&grants(&[(verbs, pattern)]), verb, &resource(of)) == Verdict::Allowed
    }

    #[test]
    fn what_no_grant_covers_is_denied() {
        let rows = [
            // verbs, pattern, verb, resource, allowed
            ("*", "**", DO, "nodes/a/topics/t", true),
            ("*", "**", DO, "nodes/?/topics/?", true),
            ("read", "**", SEE, "nodes/a", true),
            ("read", "**", DO, "nodes/a", false),
            ("write", "**", DO, "nodes/a", true),
            ("write", "**", SEE, "nodes/a", false),
            ("See", "**", SEE, "nodes/a", true),
            ("See", "**", DO, "nodes/a", false),
            ("Do See", "nodes/a", SEE, "nodes/a", true),
            ("see", "nodes/a", SEE, "nodes/a", false),
            // One, and what lies beneath.
            ("*", "nodes/a", DO, "nodes/a", true),
            ("*", "nodes/a", DO, "nodes/a/topics/t/messages", true),
            ("*", "nodes/a", DO, "nodes/ab", false),
            ("*", "nodes/a", DO, "nodes/b", false),
            ("*", "nodes/a", DO, "nodes", false),
            ("*", "nodes", DO, "nodes", true),
            ("*", "nodes/a", DO, "nodes/?", false),
            ("*", "nodes", DO, "nodes/?", true),
            // A star within a part.
            ("*", "nodes/*", DO, "nodes/a/topics/t", true),
            ("*", "nodes/*", DO, "nodes", false),
            ("*", "nodes/*", DO, "nodes/?", true),
            ("*", "nodes/a*", DO, "nodes/?", false),
            ("*", "nodes/a*", DO, "nodes/a", true),
            ("*", "nodes/a*", DO, "nodes/ba", false),
            ("*", "nodes/*a", DO, "nodes/ba", true),
            ("*", "nodes/a*a", DO, "nodes/a", false),
            ("*", "nodes/a*a", DO, "nodes/aa", true),
            ("*", "nodes/a*b*c", DO, "nodes/axbxc", true),
            ("*", "nodes/a*b*c", DO, "nodes/axc", false),
            ("*", "*/a", DO, "nodes/b/a", false),
            // Across parts.
            ("*", "**/t", DO, "nodes/a/topics/t", true),
            ("*", "**/t", DO, "t", true),
            ("*", "**/u", DO, "nodes/a/topics/t", false),
            ("*", "nodes/**/topics/t", DO, "nodes/a/topics/t", true),
            ("*", "nodes/**/topics/t", DO, "nodes/topics/t", true),
            ("*", "nodes/**/topics/t", DO, "nodes/topics", false),
            // Bytes that patterns use themselves.
            ("*", "nodes/%2A", DO, "nodes/*", true),
            ("*", "nodes/%2A", DO, "nodes/a", false),
            ("*", "nodes/%2A", DO, "nodes/?", false),
        ];
        for (verbs, pattern, verb, of, allowed) in rows {
            assert_eq!(allows(verbs, pattern, verb, of), allowed, "{verbs} {pattern} {} {of}", verb.name);
        }
        assert_eq!(decide(&Grants::read(&[]).unwrap(), SEE, &resource("nodes")), Verdict::Denied);
    }

    #[test]
    fn a_slash_in_a_name_is_no_step_down() {
        let name = [resource("nodes/a/topics"), vec![Part::Named(b"/eth2/x".to_vec())]].concat();
        let allows = |pattern| decide(&grants(&[("*", pattern)]), DO, &name) == Verdict::Allowed;
        assert!(allows("nodes/a/topics/%2Feth2%2F*"));
        assert!(allows("nodes/a/topics/*"));
        assert!(!allows("nodes/a/topics/eth2"));
        assert!(!allows("nodes/a/topics/*/eth2"));
    }

    #[test]
    fn a_grant_that_cannot_be_read_is_refused_by_its_field() {
        let read = |verbs: &[&str], resources: &[&str]| {
            let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect();
            Grants::read(&[Written { verbs: words(verbs), resources: words(resources) }]).unwrap_err()
        };
        for (verbs, resources, field) in [
            (&[][..], &["a"][..], "verbs"),
            (&["*"], &[], "resources"),
            (&[""], &["a"], "verbs"),
            (&["a b"], &["a"], "verbs"),
            (&["**"], &["a"], "verbs"),
            (&["*"], &[""], "resources"),
            (&["*"], &["/a"], "resources"),
            (&["*"], &["a//b"], "resources"),
            (&["*"], &["a/x**"], "resources"),
            (&["*"], &["**/**/**"], "resources"),
        ] {
            assert!(read(verbs, resources).starts_with(field), "{verbs:?} {resources:?}");
        }
        let one = Written { verbs: vec!["*".into()], resources: vec!["a".into()] };
        assert!(Grants::read(&vec![one; GRANTS_MAX + 1]).unwrap_err().starts_with("grants"));
    }

    #[test]
    fn nobody_hands_on_more_than_they_have() {
        let all = grants(&[("*", "**")]);
        let own = grants(&[("read", "nodes/a*"), ("*", "nodes/b/topics/*"), ("*", "admin")]);
        for (verbs, patterns, given) in [
            ("read", "nodes/a", true),
            ("read", "nodes/a*", true),
            ("read", "nodes/ax/topics/*", true),
            ("read", "nodes/*", false),
            ("read", "**", false),
            ("write", "nodes/a", false),
            ("*", "nodes/a", false),
            ("GetTopic", "nodes/a", false),
            ("GetTopic *", "nodes/b/topics/x*", true),
            ("GetTopic", "nodes/b/topics/**", false),
            ("GetTopic", "nodes/b/topics", false),
            ("*", "admin/api-keys", true),
            ("*", "**/api-keys", false),
            ("read *", "nodes/a admin", false),
        ] {
            assert_eq!(own.may_give(&grants(&[(verbs, patterns)])), given, "{verbs} {patterns}");
            assert!(all.may_give(&grants(&[(verbs, patterns)])), "{verbs} {patterns}");
        }
    }

    /// The same decision, told in the slowest way.
    fn model(pattern: &[&str], parts: &[&str]) -> bool {
        fn glob(pattern: &[u8], text: &[u8]) -> bool {
            match (pattern, text) {
                ([], []) => true,
                ([b'*', rest @ ..], _) => glob(rest, text) || (!text.is_empty() && glob(pattern, &text[1..])),
                ([p, rest @ ..], [t, left @ ..]) => p == t && glob(rest, left),
                _ => false,
            }
        }
        match (pattern, parts) {
            ([], _) => true,
            (["**", rest @ ..], _) => {
                model(rest, parts) || (!parts.is_empty() && model(pattern, &parts[1..]))
            }
            ([p, rest @ ..], [t, left @ ..]) => glob(p.as_bytes(), t.as_bytes()) && model(rest, left),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn a_pattern_covers_what_the_model_says(
            pattern in proptest::collection::vec("[ab*]{1,4}", 1..5),
            across in proptest::option::of(0usize..4),
            parts in proptest::collection::vec("[ab]{0,4}", 0..5),
        ) {
            let mut pattern: Vec<String> = pattern.iter().map(|p| p.replace("**", "*").replace("**", "*")).collect();
            if let Some(at) = across {
                pattern.insert(at.min(pattern.len()), "**".into());
            }
            let pattern: Vec<&str> = pattern.iter().map(String::as_str).collect();
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            let named: Vec<Part> = parts.iter().map(|p| Part::Named(p.as_bytes().to_vec())).collect();
            let read = Pattern::read(&pattern.join("/")).unwrap();
            prop_assert_eq!(covers(&read.0, &named), model(&pattern, &parts));
        }

        #[test]
        fn what_is_handed_on_was_had(
            own in proptest::collection::vec("[ab*]{1,3}", 1..4), other in proptest::collection::vec("[ab*]{1,3}", 1..4),
            across: bool, beyond: bool, parts in proptest::collection::vec("[ab]{1,3}", 0..5),
        ) {
            let join = |list: &[String], across: bool| {
                let mut list: Vec<String> = list.iter().map(|p| p.replace("**", "*").replace("**", "*")).collect();
                if across {
                    list.insert(list.len() / 2, "**".into());
                }
                list.join("/")
            };
            let (own, other) = (join(&own, across), join(&other, beyond));
            let named: Vec<Part> = parts.iter().map(|p| Part::Named(p.as_bytes().to_vec())).collect();
            let (own, other) = (grants(&[("*", &own)]), grants(&[("*", &other)]));
            if own.may_give(&other) && decide(&other, DO, &named) == Verdict::Allowed {
                prop_assert_eq!(decide(&own, DO, &named), Verdict::Allowed);
            }
        }

        #[test]
        fn another_grant_takes_nothing_away(
            first in "[ab*]{1,3}", second in "[ab*]{1,3}", name in "[ab]{1,4}", safe: bool,
        ) {
            let (first, second) = (first.replace("**", "*").replace("**", "*"), second.replace("**", "*").replace("**", "*"));
            let verb = Verb { name: "Do", safe };
            let one = decide(&grants(&[("read", &first)]), verb, &resource(&name));
            let both = decide(&grants(&[("read", &first), ("*", &second)]), verb, &resource(&name));
            prop_assert!(one == Verdict::Denied || both == Verdict::Allowed);
        }
    }
}
