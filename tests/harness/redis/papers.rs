//! An authority and what it signed, for tests of TLS.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use std::path::{Path, PathBuf};

/// A folder with `ca.crt`, and certificate and key of `server` and `client`; gone when dropped.
pub struct Papers(PathBuf);

impl Papers {
    /// Makes them, for servers on loopback.
    pub fn new() -> Self {
        let name = format!("plexus-papers-{}-{}", std::process::id(), super::free_port());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap();
        std::fs::write(dir.join("ca.crt"), authority.pem()).unwrap();
        for (name, at) in [("server", "127.0.0.1"), ("client", "client")] {
            let own = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![at.to_owned()]).unwrap();
            let signed = params.signed_by(&own, &authority, &key).unwrap();
            std::fs::write(dir.join(name).with_extension("crt"), signed.pem()).unwrap();
            std::fs::write(dir.join(name).with_extension("key"), own.serialize_pem()).unwrap();
        }
        Self(dir)
    }

    /// One of its files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(super) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.0
    }
}

impl Default for Papers {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Papers {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
