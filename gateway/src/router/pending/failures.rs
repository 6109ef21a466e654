//! What callers are told whose calls no node answered.

use super::super::Failure;
use plexus_bus::{Error, NodeName};
use plexus_proto::{reason::Reason, v1};

/// What a node's record says about its calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// There is none, or it is being removed.
    Missing,
    /// Its spec stops it.
    Stopped,
    /// It failed too often.
    Quarantined,
    /// It should have an owner soon.
    Expected,
}

pub(super) fn error(reason: Reason, message: impl Into<String>) -> Failure {
    Box::new(v1::Error::new(reason, message))
}

pub(super) fn changed(message: &str) -> Failure {
    error(Reason::OwnerChanged, format!("{message}: it may have run"))
}

/// What a failed bus means to a caller.
pub(crate) fn unavailable(cause: &Error) -> Failure {
    match cause {
        Error::Overloaded => error(Reason::Overloaded, cause.to_string()),
        Error::Invalid(_) | Error::Unreadable(_) | Error::Unsupported(_) => {
            error(Reason::Internal, cause.to_string())
        }
        _ => error(Reason::BusUnavailable, cause.to_string()),
    }
}

/// Why a node takes no calls, if it does not.
pub(crate) fn refusal(node: &NodeName, standing: Standing) -> Option<Failure> {
    let id = node.node();
    let (reason, message) = match standing {
        Standing::Expected => return None,
        Standing::Missing => (Reason::NodeNotFound, format!("there is no node {id:?}")),
        Standing::Stopped => (Reason::NodeStopped, format!("node {id:?} is stopped; start it first")),
        Standing::Quarantined => (
            Reason::NodeQuarantined,
            format!("node {id:?} failed repeatedly; see its last error, then restart it"),
        ),
    };
    Some(Box::new(v1::Error::new(reason, message).with("node", id)))
}
