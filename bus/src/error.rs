//! What can go wrong on the bus, in terms a caller can act on.

/// An error of a carrier. [`Error::outcome`] says whether the call may have run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The carrier did not answer in time; the call may still run, at most once.
    #[error("the bus did not answer within its deadline")]
    Timeout,
    /// The connection broke while the call was under way, or there is none.
    #[error("the bus cannot be reached")]
    Unreachable {
        /// Whether the call may have been sent.
        sent: bool,
    },
    /// One of both sides does not trust the other; nothing was sent.
    #[error("TLS to the bus failed: {0}")]
    Tls(String),
    /// A bounded queue of the carrier is full; nothing was sent.
    #[error("a queue of the bus is full")]
    Overloaded,
    /// The server refused. Nothing ran, unless [`Error::outcome`] says otherwise.
    #[error("the bus refused: {0}")]
    Refused(Refusal),
    /// The carrier cannot do this at all.
    #[error("this bus cannot {0}")]
    Unsupported(&'static str),
    /// What came back could not be read.
    #[error("the bus answered something unreadable: {0}")]
    Unreadable(String),
    /// The call itself was wrong.
    #[error("{0}")]
    Invalid(String),
    /// The bus was closed.
    #[error("the bus is closed")]
    Closed,
}

/// Why a server refused a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It is a replica.
    #[error("read-only replica")]
    ReadOnly,
    /// It still loads its data.
    #[error("loading")]
    Loading,
    /// Its memory limit is reached.
    #[error("out of memory")]
    OutOfMemory,
    /// Credentials are missing or wrong.
    #[error("not authenticated")]
    NoAuth,
    /// The credentials do not allow it.
    #[error("not permitted")]
    NoPermission,
    /// It cannot persist.
    #[error("misconfigured")]
    Misconfigured,
    /// Too many clients.
    #[error("too many clients")]
    MaxClients,
    /// Fewer replicas than it needs to write.
    #[error("too few replicas")]
    NoReplicas,
    /// A script holds it up.
    #[error("busy")]
    Busy,
    /// The functions are not loaded, and this user may not load them.
    #[error("functions are missing")]
    NoFunctions,
    /// Its slot is with another server.
    #[error("slot moved")]
    Moved,
    /// Its slot is being moved.
    #[error("slot moving")]
    Moving,
    /// The cluster is down, or a part of it.
    #[error("cluster down")]
    ClusterDown,
}

impl Refusal {
    /// Tells whether the same call may do better in a while by itself. What is left takes an operator.
    pub fn passes(self) -> bool {
        match self {
            Self::OutOfMemory | Self::NoAuth | Self::NoPermission | Self::Misconfigured => false,
            Self::ReadOnly
            | Self::Loading
            | Self::MaxClients
            | Self::NoReplicas
            | Self::Busy
            | Self::NoFunctions
            | Self::Moved
            | Self::Moving
            | Self::ClusterDown => true,
        }
    }

    /// Its name in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::ReadOnly => "read_only",
            Self::Loading => "loading",
            Self::OutOfMemory => "out_of_memory",
            Self::NoAuth => "not_authenticated",
            Self::NoPermission => "not_permitted",
            Self::Misconfigured => "misconfigured",
            Self::MaxClients => "max_clients",
            Self::NoReplicas => "no_replicas",
            Self::Busy => "busy",
            Self::NoFunctions => "no_functions",
            Self::Moved => "moved",
            Self::Moving => "moving",
            Self::ClusterDown => "cluster_down",
        }
    }
}

/// Whether a failed call may have run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It did not and will not.
    NotRun,
    /// It may have run, or may still run, at most once.
    Unknown,
}

impl Error {
    /// Tells whether the call may have run.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Timeout | Self::Unreadable(_) | Self::Unreachable { sent: true } => Outcome::Unknown,
            // The client library gives the word of one call to all that were under way on its connection.
            Self::Refused(Refusal::ClusterDown) => Outcome::Unknown,
            _ => Outcome::NotRun,
        }
    }
}
