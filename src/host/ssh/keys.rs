//! Host keys: how they are written, what their fingerprint is, and how a machine is asked for them.

use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use sha2::{Digest as _, Sha256};
use tokio::process::Command;
use tokio::time::timeout;

use super::config;
use super::failure::{self, Log};
use super::target::Target;
use crate::error::{Error, Reason, Result};

/// A public key of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKey {
    /// For example `ssh-ed25519`.
    pub algorithm: String,
    /// The key in base64, as it stands in `known_hosts`.
    pub key: String,
    /// `SHA256:…`, as `ssh-keygen -l` shows it.
    pub fingerprint: String,
}

impl HostKey {
    /// Reads `ALGORITHM KEY [COMMENT]`; the comment is dropped. The error says what is wrong with it.
    ///
    /// # Errors
    /// When it is no such line, or the key is not of the algorithm.
    pub fn parse(line: &str) -> Result<Self, String> {
        if line.chars().any(char::is_control) {
            return Err("has a key with a line break or another control character".to_owned());
        }
        let mut words = line.split(' ').filter(|word| !word.is_empty());
        let (Some(algorithm), Some(key)) = (words.next(), words.next()) else {
            return Err("has a key that is not like `ssh-ed25519 AAAA…`".to_owned());
        };
        let blob = STANDARD.decode(key).map_err(|_| format!("has a key of {algorithm:?} that is not base64"))?;
        // The blob begins with its own algorithm, after its length in four bytes.
        let named = blob.get(4..).and_then(|rest| rest.get(..algorithm.len()));
        let length = u32::try_from(algorithm.len()).unwrap_or(u32::MAX).to_be_bytes();
        if blob.get(..4) != Some(&length[..]) || named != Some(algorithm.as_bytes()) {
            return Err(format!("has a key that is not of the algorithm {algorithm:?} in front of it"));
        }
        let fingerprint = format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(&blob)));
        Ok(Self { algorithm: algorithm.to_owned(), key: key.to_owned(), fingerprint })
    }

    /// As it is pinned: algorithm and key.
    #[must_use]
    pub fn line(&self) -> String {
        format!("{} {}", self.algorithm, self.key)
    }
}

/// Asks a machine for its host keys, so that a person can compare the fingerprint. Nobody is logged in. The target's
/// `host_keys` are not looked at. Behind a jump host or with an `ssh_config` one key is found, the one that ssh prefers;
/// then the jump host itself must let us in.
///
/// # Errors
/// `INVALID_ARGUMENT`, `HOST_UNREACHABLE`; `HOST_AUTH_FAILED` by the jump host.
pub async fn scan(target: &Target, within: Duration) -> Result<Vec<HostKey>> {
    target.check_way()?;
    let keys = match (&target.jump, &target.ssh_config) {
        (None, None) => keyscan(target, within).await?,
        _ => meet(target, within).await?,
    };
    if keys.is_empty() {
        let Target { address, port, .. } = target;
        let message =
            format!("{address} port {port} shows no host key: check address, port and firewall, or give host_keys");
        return Err(Error::new(Reason::HostUnreachable, message));
    }
    Ok(keys)
}

async fn keyscan(target: &Target, within: Duration) -> Result<Vec<HostKey>> {
    let seconds = within.as_secs().max(1).to_string();
    let mut command = Command::new("ssh-keyscan");
    command.args(["-T", &seconds, "-p", &target.port.to_string(), "--", &target.address]);
    let output = run(&mut command, within).await?;
    let text = String::from_utf8_lossy(&output);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    Ok(lines.filter_map(|line| HostKey::parse(line.split_once(' ')?.1).ok()).collect())
}

/// Lets ssh itself note the key of a machine on the way to a login that cannot succeed: no method is tried.
async fn meet(target: &Target, within: Duration) -> Result<Vec<HostKey>> {
    let folder = tempfile::Builder::new().prefix("drydock-scan").tempdir();
    let folder = folder.map_err(|error| Error::internal("cannot make a folder for a scan", error))?;
    config::write(target, folder.path(), Duration::from_secs(1))?;
    let noted = folder.path().join("noted");
    let log = Log::new(&folder.path().join("log"), folder.path());
    let mut command = config::ssh(folder.path());
    command.arg("-E").arg(&log.own).arg("-T");
    command.args([
        "-o",
        "StrictHostKeyChecking=accept-new",
        "-o",
        "PreferredAuthentications=none",
        "-o",
        "ControlPath=none",
    ]);
    command.args(["-o", "PubkeyAuthentication=no", "-o"]).arg(format!("UserKnownHostsFile=\"{}\"", noted.display()));
    command.args(["--", &target.address, "true"]);
    run(&mut command, within).await?;
    let text = tokio::fs::read_to_string(&noted).await.unwrap_or_default();
    let keys: Vec<_> = text.lines().filter_map(|line| HostKey::parse(line.split_once(' ')?.1).ok()).collect();
    if keys.is_empty() {
        return Err(failure::of_log(target, &log).await.error(None));
    }
    Ok(keys)
}

/// What it prints; an end without success is none of ours, only one that does not come.
async fn run(command: &mut Command, within: Duration) -> Result<Vec<u8>> {
    command.stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).env("LC_ALL", "C");
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    // A little more than it was told, so that its own message comes first.
    match timeout(within + Duration::from_secs(2), command.output()).await {
        Ok(Ok(output)) => Ok(output.stdout),
        Ok(Err(error)) => Err(failure::not_started(&name, &error).error(None)),
        Err(_) => {
            let message = format!("{name} has no answer after {} s", within.as_secs());
            Err(Error::new(Reason::HostUnreachable, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_that_of_ssh_keygen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let keygen = |args: &[&str]| {
            std::process::Command::new("ssh-keygen").args(args).arg("-f").arg(&path).output().unwrap().stdout
        };
        keygen(&["-q", "-t", "ed25519", "-N", "", "-C", "a comment"]);
        let line = std::fs::read_to_string(path.with_extension("pub")).unwrap();
        let key = HostKey::parse(line.trim()).unwrap();
        let shown = String::from_utf8(keygen(&["-l"])).unwrap();
        assert_eq!(shown.split(' ').nth(1), Some(key.fingerprint.as_str()));
        assert!(line.starts_with(&format!("{} a comment", key.line())));
    }
}
