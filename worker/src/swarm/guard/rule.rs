//! The reasons, their names, and how to find one in an error.

use libp2p::{core::transport::TransportError, swarm::DialError};
use std::{error, fmt, io};

/// Why an address is not dialled. The names are stable: errors carry them as `rule`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Rule {
    /// The node dials nothing.
    Outgoing,
    /// The node dials no addresses learned from peers.
    Learned,
    /// Not the shape of an address we dial: `/ip…|dns…/tcp[/tls][/ws]` or `/…/udp/quic-v1`.
    Protocol,
    /// A name of the local machine or network, or a number in disguise.
    Name,
    /// A port of services that are no peers.
    Port,
    /// Not among the ports of the spec.
    PortNotListed,
    /// 127.0.0.0/8, `::1`.
    Loopback,
    /// 10/8, 172.16/12, 192.168/16.
    Private,
    /// 100.64.0.0/10, behind carriers' NAT.
    SharedAddress,
    /// 169.254/16, `fe80::/10` and the old site-local `fec0::/10`.
    LinkLocal,
    /// Services of cloud hosts that hand out credentials.
    Metadata,
    /// `fc00::/7`.
    UniqueLocal,
    /// IPv4 within IPv6: mapped, translated or compatible.
    Mapped,
    /// `64:ff9b::/96`, `64:ff9b:1::/48`: reaches any IPv4 address through a translator.
    Nat64,
    /// `2002::/16` and its relays, 192.88.99.0/24.
    SixToFour,
    /// `2001::/32`.
    Teredo,
    /// To many.
    Multicast,
    /// 0.0.0.0/8, `::`.
    Unspecified,
    /// To all.
    Broadcast,
    /// Set aside for measurements.
    Benchmarking,
    /// Set aside for examples.
    Documentation,
    /// Not assigned to anybody.
    Reserved,
    /// An address that this node listens on.
    OwnAddress,
    /// In a blocked range.
    Blocked,
    /// In `spec.dial.deny`.
    Denied,
    /// Not in `spec.dial.allow`.
    NotAllowed,
}

impl Rule {
    /// The stable name, for `metadata.rule`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Outgoing => "outgoing",
            Self::Learned => "learned",
            Self::Protocol => "protocol",
            Self::Name => "name",
            Self::Port => "port",
            Self::PortNotListed => "port_not_listed",
            Self::Loopback => "loopback",
            Self::Private => "private",
            Self::SharedAddress => "shared_address",
            Self::LinkLocal => "link_local",
            Self::Metadata => "metadata",
            Self::UniqueLocal => "unique_local",
            Self::Mapped => "mapped",
            Self::Nat64 => "nat64",
            Self::SixToFour => "six_to_four",
            Self::Teredo => "teredo",
            Self::Multicast => "multicast",
            Self::Unspecified => "unspecified",
            Self::Broadcast => "broadcast",
            Self::Benchmarking => "benchmarking",
            Self::Documentation => "documentation",
            Self::Reserved => "reserved",
            Self::OwnAddress => "own_address",
            Self::Blocked => "blocked",
            Self::Denied => "denied",
            Self::NotAllowed => "not_allowed",
        }
    }

    /// Finds the rule that stopped a dial, if one did.
    pub fn of(error: &DialError) -> Option<Self> {
        match error {
            DialError::Denied { cause } => rule_in(cause),
            DialError::Transport(tried) => tried.iter().find_map(|(_, error)| match error {
                TransportError::Other(error) => rule_in(error),
                TransportError::MultiaddrNotSupported(_) => Some(Self::Protocol),
            }),
            _ => None,
        }
    }

    /// Whether development lifts it.
    pub(super) const fn is_private(self) -> bool {
        matches!(
            self,
            Self::Loopback | Self::Private | Self::SharedAddress | Self::LinkLocal | Self::UniqueLocal
        )
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The error of a dial that the guard stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the address is not dialled by rule {0}")]
pub struct Refused(pub Rule);

/// Carries a refusal one level down. Transports nest errors in `Either`, which answers as its source
/// the source of what it holds and so hides what it holds.
#[derive(Debug, thiserror::Error)]
#[error("dial refused")]
pub(super) struct Carried(#[source] pub(super) Refused);

/// Walks to the refusal within an error. `io::Error` hides what it wraps from `source`.
fn rule_in(error: &(dyn error::Error + 'static)) -> Option<Rule> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(Refused(rule)) = error.downcast_ref() {
            return Some(*rule);
        }
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}
