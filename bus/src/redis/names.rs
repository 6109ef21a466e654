//! How places are spelled in Redis: keys and channels. The table is in the front page of [`super`];
//! the scripts spell the rest of a slot from the key they are given.

use crate::{Key, NodeName, Subject};
use bytes::Bytes;
use std::fmt::Write;

/// Any key of the control slot; its scripts take the hash tag from it.
pub(super) const ERA: &str = "plx:{c}:era";
/// Who owns which node.
pub(super) const OWNERS: &str = "plx:{c}:n";
/// PeerId to node.
pub(super) const PEERS: &str = "plx:{c}:p";
/// Names of free keys.
pub(super) const INDEX: &str = "plx:{c}:K";

/// A key in a node's slot.
pub(super) fn node(name: &NodeName, suffix: &str) -> Bytes {
    node_text(name, suffix).into()
}

fn node_text(name: &NodeName, suffix: &str) -> String {
    let name = name.as_str();
    let mut key = String::with_capacity(7 + name.len() + suffix.len());
    key.push_str("plx:{");
    key.push_str(name);
    key.push_str("}:");
    key.push_str(suffix);
    key
}

/// The log of a topic, whose bytes stay as they are.
pub(super) fn log(name: &NodeName, topic: &[u8]) -> Bytes {
    let mut key = node_text(name, "l:").into_bytes();
    key.extend_from_slice(topic);
    key.into()
}

/// A worker's list of nodes.
pub(super) fn owned(worker: &str) -> Bytes {
    format!("plx:{{c}}:o:{worker}").into()
}

/// A gateway's lease.
pub(super) fn gateway(gateway: &str) -> Bytes {
    format!("plx:{{c}}:g:{gateway}").into()
}

/// A kept value.
pub(super) fn value(key: &Key) -> Bytes {
    match key {
        Key::Record(name) => node(name, "d"),
        Key::Sealed(name) => node(name, "k"),
        Key::Named(name) => format!("plx:{{c}}:v:{name}").into(),
    }
}

/// The channel of a live subject.
pub(super) fn channel(subject: &Subject) -> String {
    match subject {
        Subject::Calls(name) => node_text(name, "c"),
        Subject::Anyone => "plx:{c}:a".into(),
        Subject::Replies(gateway) => format!("plx:{{g:{gateway}}}:r"),
        Subject::Topic(name, topic) => topic_channel(name, topic),
        Subject::Ownership => "plx:{c}:own".into(),
        Subject::Records => "plx:{c}:d".into(),
        Subject::Keys => "plx:{c}:k".into(),
    }
}

/// Channels are text for the client library, topics are bytes: what is not ASCII is spelled in
/// hexadecimal. log.lua does the same.
fn topic_channel(name: &NodeName, topic: &[u8]) -> String {
    if let Some(text) = std::str::from_utf8(topic).ok().filter(|text| text.is_ascii()) {
        let mut channel = node_text(name, "m:");
        channel.push_str(text);
        return channel;
    }
    let mut channel = node_text(name, "x:");
    for byte in topic {
        write!(channel, "{byte:02x}").expect("a String takes everything");
    }
    channel
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_spelled_as_the_protocol_says() {
        let name = NodeName::new("ns", "a").unwrap();
        let topic = |bytes: &'static [u8]| channel(&Subject::Topic(name.clone(), Bytes::from_static(bytes)));
        assert_eq!(node(&name, "f"), "plx:{ns/a}:f");
        assert_eq!(log(&name, b"\xff"), b"plx:{ns/a}:l:\xff"[..]);
        assert_eq!(topic(b"demo"), "plx:{ns/a}:m:demo");
        assert_eq!(topic(b"\xff\x00"), "plx:{ns/a}:x:ff00");
        assert_eq!(channel(&Subject::Replies("gw1".into())), "plx:{g:gw1}:r");
    }
}
