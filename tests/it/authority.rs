//! A certificate authority that a test makes for itself.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use drydock::config::TlsFiles;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

/// It signs what it is asked to.
pub(crate) struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// Writes a file that its owner alone can read.
pub(crate) fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // Who signs under the name of whom it signs for is taken for its own signer.
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// Its own certificate in a file.
    pub(crate) fn file(&self, folder: &Path) -> PathBuf {
        let path = folder.join(format!("ca-{self:p}.pem"));
        write(&path, &self.pem);
        path
    }

    /// A certificate for a host of these names, and its key, in `NAME.pem` and `NAME.key`.
    pub(crate) fn host(&self, folder: &Path, name: &str, names: &[&str]) -> TlsFiles {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        self.sign(folder, name, &CertificateParams::new(names).unwrap())
    }

    /// The same, run out long ago.
    pub(crate) fn expired(&self, folder: &Path, name: &str, names: &[&str]) -> TlsFiles {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2019, 1, 1), date_time_ymd(2020, 1, 1));
        self.sign(folder, name, &params)
    }

    /// A certificate for a user, whom `PostgreSQL` knows by the common name.
    pub(crate) fn user(&self, folder: &Path, name: &str) -> TlsFiles {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        self.sign(folder, name, &params)
    }

    fn sign(&self, folder: &Path, name: &str, params: &CertificateParams) -> TlsFiles {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = TlsFiles { cert: folder.join(format!("{name}.pem")), key: folder.join(format!("{name}.key")) };
        write(&files.cert, &certificate.pem());
        write(&files.key, &key.serialize_pem());
        files
    }
}
