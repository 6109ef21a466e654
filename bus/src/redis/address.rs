//! Where the bus is: `redis://[user:password@]host:port[/db]`, or behind Sentinel
//! `redis-sentinel://host:port?sentinelServiceName=name`. Nothing of a password is ever told.

use crate::Error;
use fred::types::config::Config as Address;

const SCHEMES: [&str; 2] = ["redis://", "redis-sentinel://"];

/// Reads the address.
pub(super) fn parse(url: &str) -> Result<Address, Error> {
    if !SCHEMES.iter().any(|scheme| url.starts_with(scheme)) {
        return Err(Error::Invalid("url: must be memory:, redis://… or redis-sentinel://…".into()));
    }
    Address::from_url(url).map_err(|_| Error::Invalid("url: cannot be read".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_a_wrong_one_told_without_its_password() {
        let address = parse("redis://me:s%40cret@bus.example:6380/3").unwrap();
        assert_eq!(address.username.as_deref(), Some("me"));
        assert_eq!(address.password.as_deref(), Some("s@cret"));
        assert_eq!(address.database, Some(3));
        for wrong in ["http://me:s3cret@x", "redis://me:s3cret@host:99999", "redis://me:s3cret@host/x", ""] {
            let told = parse(wrong).unwrap_err().to_string();
            assert!(!told.contains("s3cret"), "{told}");
        }
    }
}
