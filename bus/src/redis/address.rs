//! Where the bus is: `redis://[user:password@]host:port[/db]`, behind Sentinel
//! `redis-sentinel://host:port[,…]?sentinelServiceName=name`, or in a Cluster `redis-cluster://host:port`;
//! with an `s` after `redis` over TLS. Nothing of a password is ever told.

use crate::Error;
use fred::types::config::{Config as Client, Server, ServerConfig, TlsConfig};

/// Schemes, and the plain one of the same kind.
const SCHEMES: [(&str, &str, bool); 6] = [
    ("redis", "redis", false),
    ("rediss", "redis", true),
    ("redis-sentinel", "redis-sentinel", false),
    ("rediss-sentinel", "redis-sentinel", true),
    ("redis-cluster", "redis-cluster", false),
    ("rediss-cluster", "redis-cluster", true),
];

/// A place, with what it takes to be let in.
#[derive(Clone)]
pub(super) struct Place {
    client: Client,
    /// Whether the address asks for TLS.
    pub(super) tls: bool,
}

impl Place {
    /// Reads an address.
    pub(super) fn parse(url: &str) -> Result<Self, Error> {
        let known = url.split_once("://").and_then(|(scheme, rest)| {
            let (_, plain, tls) = SCHEMES.iter().find(|(name, ..)| *name == scheme)?;
            Some((format!("{plain}://{rest}"), *tls))
        });
        // The client library's own reading of TLS would take whatever authorities it finds.
        let Some((plain, tls)) = known else {
            let schemes = "redis://, redis-sentinel:// or redis-cluster://, over TLS rediss…://";
            return Err(Error::Invalid(format!("url: must be memory:, {schemes}")));
        };
        let client = Client::from_url(&plain).map_err(|_| Error::Invalid("url: cannot be read".into()))?;
        let path = plain.split('?').next().and_then(|plain| plain.splitn(4, '/').nth(3));
        if client.server.is_clustered() && !matches!(path, None | Some("" | "0")) {
            return Err(Error::Invalid("url: a cluster has no database but 0".into()));
        }
        Ok(Self { client, tls })
    }

    /// Takes the password from elsewhere.
    pub(super) fn set_password(&mut self, password: String) {
        self.client.password = Some(password);
    }

    /// Takes what TLS needs.
    pub(super) fn set_tls(&mut self, tls: TlsConfig) {
        self.client.tls = Some(tls);
    }

    /// The servers to ask where the slots are; none where it is no cluster.
    pub(super) fn seeds(&self) -> Option<&[Server]> {
        match &self.client.server {
            ServerConfig::Clustered { hosts, .. } => Some(hosts),
            _ => None,
        }
    }

    /// How one connection is made: to the one server there is, or to this one of a cluster.
    pub(super) fn client(&self, server: Option<&Server>) -> Client {
        let mut client = self.client.clone();
        if let Some(server) = server {
            client.server = ServerConfig::Centralized { server: server.clone() };
        }
        client
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_a_wrong_one_told_without_its_password() {
        let place = Place::parse("redis://me:s%40cret@bus.example:6380/3").unwrap();
        assert_eq!(place.client.username.as_deref(), Some("me"));
        assert_eq!(place.client.password.as_deref(), Some("s@cret"));
        assert_eq!(place.client.database, Some(3));
        let wrong = [
            "http://me:s3cret@x",
            "redis://me:s3cret@host:99999",
            "redis://me:s3cret@host/x",
            "redis-cluster://me:s3cret@host:1/2",
            "redis-sentinel://me:s3cret@host:1",
            "",
        ];
        for wrong in wrong {
            let told = Place::parse(wrong).err().unwrap().to_string();
            assert!(told.starts_with("url: ") && !told.contains("s3cret"), "{told}");
        }
    }

    #[test]
    fn every_kind_is_told_from_its_scheme() {
        for (url, seeds, tls) in [
            ("redis://a:1", None, false),
            ("rediss://a:1", None, true),
            ("rediss-sentinel://a:1?sentinelServiceName=m", None, true),
            ("redis-cluster://a:1?node=b:2", Some(2), false),
            ("rediss-cluster://a:1", Some(1), true),
        ] {
            let place = Place::parse(url).unwrap();
            assert_eq!((place.seeds().map(<[_]>::len), place.tls), (seeds, tls), "{url}");
        }
    }
}
