//! Who stands before the gateway.

use serde::{Deserialize, Serialize};

/// Who stands before the gateway and may say who the client is. Nobody by default.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Forwarders {
    /// Addresses and networks (`10.0.0.0/8`) whose connections begin with a PROXY protocol v2 header; one
    /// without it is closed.
    pub proxy_protocol: Vec<String>,
    /// Addresses and networks whose requests say in `header` who the client is.
    pub trusted: Vec<String>,
    /// The one header that they write: `x-forwarded-for` or `forwarded`.
    pub header: ForwardedHeader,
}

impl Default for Forwarders {
    fn default() -> Self {
        Self { proxy_protocol: Vec::new(), trusted: Vec::new(), header: ForwardedHeader::XForwardedFor }
    }
}

/// The header in which a forwarder says who the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded`, RFC 7239.
    Forwarded,
}
