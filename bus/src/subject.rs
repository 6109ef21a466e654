//! The names of places: a node, a topic, a gateway, a worker; and the keys that are kept.

use crate::Error;
use bytes::Bytes;
use std::{fmt, sync::Arc};

pub use plexus_proto::text::Position;

/// The full name of a hosted node: `<namespace>/<node>`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeName(Arc<str>);

impl NodeName {
    /// Joins a namespace and a node id; both are `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`, so neither
    /// can break out of a key or a hash tag.
    pub fn new(namespace: &str, node: &str) -> Result<Self, Error> {
        if is_label(namespace) && is_label(node) {
            Ok(Self(format!("{namespace}/{node}").into()))
        } else {
            Err(Error::Invalid(format!("{namespace:?}/{node:?} is no name of a node")))
        }
    }

    /// Reads `<namespace>/<node>`.
    pub fn parse(full: &str) -> Result<Self, Error> {
        let (namespace, node) = full.split_once('/').unwrap_or((full, ""));
        Self::new(namespace, node)
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        self.0.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The id within the namespace.
    pub fn node(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, node)| node)
    }

    /// Both, as written in keys.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Tells whether the text is a label: `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`.
pub fn is_label(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

/// The bytes of a topic, 1 to 1024.
pub type Topic = Bytes;

/// Id of a gateway process, new at every start: letters, digits, `-` and `.`.
pub type GatewayId = Arc<str>;

/// Id of a worker's incarnation, `<pod>.<nonce>`; never used again after a fence.
pub type Incarnation = Arc<str>;

/// Identifies the primary that runs the scripts; changes at promotion and restart (protocol.md).
pub type Era = Arc<str>;

/// One take of a node: its epoch and nonce (protocol.md, "Grant").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Grant {
    /// Rises from owner to owner; below 2^53, not dense.
    pub epoch: u64,
    /// Tells two grants of one epoch apart.
    pub nonce: u64,
}

/// A live subject: at most once, bounded, never stored.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// Calls to a node; its owner listens. Frames: [`crate::Envelope`].
    Calls(NodeName),
    /// Calls that any worker may take. Frames: [`crate::Envelope`].
    Anyone,
    /// Answers to a gateway. Frames: [`crate::Envelope`].
    Replies(GatewayId),
    /// Live entries of a topic. Frames: [`plexus_proto::bus::LogEntry`].
    Topic(NodeName, Topic),
    /// Changes of ownership. Frames: [`plexus_proto::bus::OwnerChange`].
    Ownership,
    /// Names of nodes whose record changed; a hint. Frames: `String`, the full name.
    Records,
    /// Names of free keys that changed; a hint. Frames: `String`.
    Keys,
}

/// A kept value, with a revision.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// A node's record, in the node's slot.
    Record(NodeName),
    /// A node's sealed private key, in the node's slot. Workers only.
    Sealed(NodeName),
    /// Any other name, up to 512 bytes.
    Named(Arc<str>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_break_out_of_its_key() {
        for bad in ["", "-a", "a-", "A", "a}b", "a/b", "a:b", "a b", "é", &"a".repeat(64)] {
            assert!(NodeName::new("default", bad).is_err(), "{bad}");
            assert!(NodeName::new(bad, "default").is_err(), "{bad}");
        }
        let name = NodeName::parse("default/alpha-1").unwrap();
        assert_eq!((name.namespace(), name.node()), ("default", "alpha-1"));
    }
}
