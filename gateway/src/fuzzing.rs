//! What the fuzz targets call: each takes any bytes, reads them as one part of the gateway does, and panics
//! where a promise does not hold. `tests/fuzz` runs them under libFuzzer (`make fuzz`); the test below runs
//! them on all that was ever found (`tests/fuzz/corpus`). Never part of the program.

use crate::{
    config::Config,
    error,
    grant::{Grants, Part, Verb, Verdict, Written, decide},
    resume,
    router::frames::Sheet,
    service::page::Page,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use plexus_bus::{Envelope, Frame as _, NodeName};
use plexus_proto::{
    address,
    bus::{self as wire, LogEntry},
    reason,
    text::{self, After, Position},
    v1::{self, View},
};
use prost::Message as _;
use std::path::PathBuf;

/// A target: its name, as its corpus has it, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 10] = [
    ("config", config),
    ("envelope", envelope),
    ("forwarders", crate::edge::fuzzing::forwarders),
    ("frame", crate::edge::fuzzing::frame),
    ("grants", grants),
    ("json", crate::edge::fuzzing::json),
    ("names", names),
    ("resources", crate::edge::fuzzing::resources),
    ("rest", crate::edge::fuzzing::rest),
    ("token", crate::edge::fuzzing::token),
];

/// Bytes of a text of a refusal, which may quote what it refuses.
const TEXT_MAX: usize = 1100;

/// What is told of bad input is a reason of the table that blames the input, in few words.
pub(crate) fn refused(error: &v1::Error) {
    let row = reason::by_name(&error.reason).unwrap_or_else(|| panic!("no such reason: {error:?}"));
    let status = error::http_status(error);
    assert!(status.is_client_error(), "{status} {}", row.name);
    let texts = error.violations.iter().flat_map(|v| [&v.field, &v.description]);
    for text in texts.chain([&error.message]) {
        assert!(text.len() <= TEXT_MAX, "{} bytes: {:.200}", text.len(), text);
    }
}

/// Topics, positions, PeerIds, multiaddrs and the tokens of pages and subscriptions.
fn names(data: &[u8]) {
    if !data.is_empty() {
        let spelled = text::bytes_to_text(data);
        assert!(!spelled.chars().any(char::is_control), "{spelled:?}");
        assert_eq!(text::bytes_from_text(&spelled).as_deref(), Some(data));
    }
    let Ok(said) = std::str::from_utf8(data) else { return };
    if let Ok(topic) = text::topic_from_text(said) {
        assert!((1..=text::TOPIC_BYTES_MAX).contains(&topic.len()));
        assert_eq!(text::topic_from_text(&text::bytes_to_text(&topic)), Ok(topic));
    }
    if let Ok(at) = said.parse::<Position>() {
        assert_eq!(at.to_string().parse(), Ok(at));
        assert_eq!(said.parse(), Ok(After::Position(at)));
    }
    if let Ok(peer) = text::peer_id_from_text(said) {
        let cids = [text::Base::Base32Lower, text::Base::Base36Lower].map(|b| text::peer_id_to_cid(&peer, b));
        for spelled in cids.iter().chain([&text::peer_id_to_text(&peer)]) {
            assert_eq!(text::peer_id_from_text(spelled), Ok(peer.clone()), "{spelled}");
        }
    }
    if let Ok(parts) = address::parse(said) {
        let part = |p: &address::Part<'_>| match p.value {
            "" => format!("/{}", p.protocol),
            value => format!("/{}/{value}", p.protocol),
        };
        let written: String = parts.iter().map(part).collect();
        assert_eq!(address::parse(&written), Ok(parts), "{written}");
    }
    match Page::read(0, said, b"fields") {
        Ok(page) => {
            let end = page.after.clone().unwrap_or_else(|| "end".into());
            let next = Page::read(0, &page.token(&end), b"fields").expect("our own token is read");
            assert_eq!(next.after, Some(end));
        }
        Err(error) => refused(&error),
    }
    if let Ok(bytes) = URL_SAFE_NO_PAD.decode(said) {
        resume::again(&bytes);
    }
    if let Ok(name) = NodeName::parse(said) {
        assert_eq!((name.as_str(), name.to_string().matches('/').count()), (said, 1));
    }
}

/// Grants: lines of verbs, `;` and patterns; behind an empty line a verb, `!` before one that changes
/// something, and a resource, in which `?` is every one.
fn grants(data: &[u8]) {
    let Ok(said) = std::str::from_utf8(data) else { return };
    let Some((written, asked)) = said.split_once("\n\n") else { return };
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let written = written.lines().map(|line| {
        let (verbs, resources) = line.split_once(';').unwrap_or((line, ""));
        Written { verbs: words(verbs), resources: words(resources) }
    });
    let written: Vec<Written> = written.collect();
    let read = match Grants::read(&written) {
        Ok(read) => read,
        // It quotes a pattern, spelled out; whoever sends one is told less of it.
        Err(text) => return assert!(text.len() <= 16 << 10, "{text:.200}"),
    };
    let (verb, resource) = asked.split_once(' ').unwrap_or((asked, ""));
    let (name, safe) = verb.strip_prefix('!').map_or((verb, true), |name| (name, false));
    let part = |text: &str| if text == "?" { Part::Every } else { Part::Named(text.into()) };
    let parts: Vec<Part> = resource.split('/').take(16).map(part).collect();
    let allowed = written.iter().any(|grant| {
        let verb = |word: &String| word == "*" || word == name || word == if safe { "read" } else { "write" };
        grant.verbs.iter().any(verb)
            && grant.resources.iter().any(|p| model(&p.split('/').collect::<Vec<_>>(), &parts))
    });
    let verdict = decide(&read, Verb { name, safe }, &parts);
    assert_eq!(verdict == Verdict::Allowed, allowed, "{written:?} {name} {parts:?}");
}

/// Whether a pattern covers a resource, told in the plainest way.
fn model(pattern: &[&str], parts: &[Part]) -> bool {
    match (pattern, parts) {
        ([], _) => true,
        (["**", rest @ ..], _) => model(rest, parts) || (!parts.is_empty() && model(pattern, &parts[1..])),
        ([_, ..], []) => false,
        ([word, rest @ ..], [part, beneath @ ..]) => glob(word, part) && model(rest, beneath),
    }
}

/// Whether a word with stars stands for a part: a table of which beginnings fit which.
fn glob(word: &str, part: &Part) -> bool {
    let Part::Named(name) = part else { return word == "*" };
    let mut fits = vec![false; name.len() + 1];
    fits[0] = true;
    let mut rest = word.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first == b'*' {
            let least = fits.iter().position(|fit| *fit).unwrap_or(fits.len());
            fits[least..].fill(true);
            continue;
        }
        let hex = |b: &u8| char::from(*b).to_digit(16).map(|digit| digit as u8);
        let byte = match (first, after) {
            (b'%', [high, low, after @ ..]) => match (hex(high), hex(low)) {
                (Some(high), Some(low)) => {
                    rest = after;
                    high << 4 | low
                }
                _ => *first,
            },
            _ => *first,
        };
        for at in (0..name.len()).rev() {
            fits[at + 1] = fits[at] && name[at] == byte;
        }
        fits[0] = false;
    }
    fits[name.len()]
}

/// What comes over the bus: envelopes, and entries of logs.
fn envelope(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    let data = Bytes::copy_from_slice(data);
    if kind % 2 == 1 {
        let Ok(entry) = LogEntry::decode(data) else { return };
        let mut sheet = Sheet::new(1, &entry);
        for (i, _) in entry.messages.iter().enumerate() {
            for view in [View::Bytes, View::Text, View::Meta] {
                let frame = sheet.frame(i, view);
                let at: Position = frame.id().expect("a message has a position").parse().expect("one");
                assert_eq!(at.epoch, entry.epoch);
            }
        }
        return;
    }
    let Ok(read) = Envelope::from_bytes(data) else { return };
    let written = read.to_bytes();
    let again = Envelope::from_bytes(written.clone()).expect("what we write is read");
    let plain = |bytes: Bytes| wire::Envelope::decode(bytes).expect("it was read before");
    assert_eq!(plain(written), plain(again.to_bytes()));
}

/// A file of the gateway's config, and of the bus'.
fn config(data: &[u8]) {
    let Ok(said) = std::str::from_utf8(data) else { return };
    if let Ok(bus) = toml::from_str::<plexus_bus::Config>(said) {
        let _ = bus.check();
    }
    let Ok(mut read) = toml::from_str::<Config>(said) else { return };
    let written = toml::to_string(&read).expect("what was read can be written");
    let again: Config = toml::from_str(&written).expect("what was written can be read");
    assert_eq!(format!("{read:?}"), format!("{again:?}"));
    // Files are not ours to open here.
    read.tls.certificate = read.tls.certificate.map(|_| PathBuf::new());
    read.tls.key = read.tls.key.map(|_| PathBuf::new());
    read.tls.client_ca = read.tls.client_ca.map(|_| PathBuf::new());
    read.auth.keys.clear();
    read.auth.jwt.keys.clear();
    if let Err(error) = read.check() {
        let error = error.to_string();
        assert!(error.contains(": "), "names its key: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, path::Path};

    #[test]
    fn what_the_fuzzers_found_holds() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus");
        for (name, target) in TARGETS {
            let files = fs::read_dir(root.join(name)).unwrap().map(|entry| entry.unwrap().path());
            let files: Vec<_> = files.collect();
            assert!(files.len() > 5, "{name}: {}", files.len());
            for file in files {
                println!("{}", file.display());
                target(&fs::read(file).unwrap());
            }
        }
    }
}
