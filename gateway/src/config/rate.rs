//! How often callers may call.

use serde::{Deserialize, Serialize};

/// How often callers may call, on this gateway. A limit of 0 a second is none.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rate {
    /// Calls a second of one client address. Counts where the address is public or forwarders are named.
    pub address_per_second: u32,
    /// Calls of one address at once, after a pause.
    pub address_burst: u32,
    /// Calls a second of one API key or subject of a token.
    pub caller_per_second: u32,
    /// Calls of one key or subject at once.
    pub caller_burst: u32,
    /// Calls a second of all keys and subjects of one namespace.
    pub namespace_per_second: u32,
    /// Calls of one namespace at once.
    pub namespace_burst: u32,
    /// Addresses, callers and namespaces remembered at most, each; those beyond share one limit.
    pub entries_max: usize,
}

impl Rate {
    /// The first bound with which nobody could call.
    pub(super) fn empty(&self) -> Option<&'static str> {
        let empty = [
            ("rate.address_burst", self.address_per_second > 0 && self.address_burst == 0),
            ("rate.caller_burst", self.caller_per_second > 0 && self.caller_burst == 0),
            ("rate.namespace_burst", self.namespace_per_second > 0 && self.namespace_burst == 0),
            ("rate.entries_max", self.entries_max == 0),
        ];
        empty.iter().find(|(_, empty)| *empty).map(|(name, _)| *name)
    }
}

impl Default for Rate {
    fn default() -> Self {
        Self {
            address_per_second: 200,
            address_burst: 1_000,
            caller_per_second: 2_000,
            caller_burst: 10_000,
            namespace_per_second: 10_000,
            namespace_burst: 50_000,
            entries_max: 100_000,
        }
    }
}
