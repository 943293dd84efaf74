//! Host keys as attributes and as facts.

use crate::host::ssh::keys::HostKey;
use crate::model::StringMap;

/// Reads several, separated by commas or lines.
///
/// # Errors
/// What is wrong with the first that is none.
pub(super) fn parse_all(text: &str) -> Result<Vec<HostKey>, String> {
    text.split([',', '\n']).map(str::trim).filter(|line| !line.is_empty()).map(HostKey::parse).collect()
}

/// `ssh-ed25519 SHA256:…, ssh-rsa SHA256:…`.
pub(super) fn listed(keys: &[HostKey]) -> String {
    keys.iter().map(|key| format!("{} {}", key.algorithm, key.fingerprint)).collect::<Vec<_>>().join(", ")
}

/// The keys as facts: `host_key.TYPE` and `fingerprint.TYPE`.
pub(super) fn facts(keys: &[HostKey]) -> StringMap {
    let of = |key: &HostKey| {
        [
            (format!("host_key.{}", key.algorithm), key.line()),
            (format!("fingerprint.{}", key.algorithm), key.fingerprint.clone()),
        ]
    };
    keys.iter().flat_map(of).collect()
}
