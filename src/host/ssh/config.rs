//! What ssh is told about one machine: a configuration and a `known_hosts` of its own.
//!
//! The first value that ssh finds wins, so ours stand before what the target's own file adds. A jump host is reached with a
//! second configuration and a `ProxyCommand`: `ProxyJump` would use this one for the jump host too, with the machine's user,
//! port and pinned key.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::keys::HostKey;
use super::target::{Jump, Target, check_path};
use crate::error::{Error, Result};

/// Names of files in a link's folder.
const CONFIG: &str = "config";
const JUMP: &str = "jump";
const KNOWN_HOSTS: &str = "known_hosts";
/// What the jump host's ssh has to say.
pub(super) const JUMP_LOG: &str = "jump.log";

/// For machine and jump host: nobody is asked, nothing is forwarded, nothing runs here, a dead network is noticed.
const ALWAYS: &str = "\
BatchMode yes
PasswordAuthentication no
KbdInteractiveAuthentication no
NumberOfPasswordPrompts 0
ForwardAgent no
ForwardX11 no
ClearAllForwardings yes
Tunnel no
PermitLocalCommand no
StrictHostKeyChecking yes
UpdateHostKeys no
VerifyHostKeyDNS no
CheckHostIP no
CanonicalizeHostname no
ConnectTimeout 10
ConnectionAttempts 1
ServerAliveInterval 2
ServerAliveCountMax 2
TCPKeepAlive yes
EscapeChar none
RequestTTY no
RemoteCommand none
LogLevel INFO
";

/// Writes the files that ssh is pointed to into `folder`; masters without sessions end after `idle`.
pub(super) fn write(target: &Target, folder: &Path, idle: Duration) -> Result<()> {
    check_path("folder", folder)?;
    let jump = target.jump()?;
    put(folder, KNOWN_HOSTS, &known_hosts(target))?;
    put(folder, CONFIG, &machine(target, jump.as_ref(), folder, idle))?;
    if jump.is_some() {
        put(folder, JUMP, &jump_host(target))?;
    }
    Ok(())
}

/// ssh with the configuration in `folder`, and an environment in which its words are the same everywhere.
pub(super) fn ssh(folder: &Path) -> Command {
    let mut command = Command::new("ssh");
    command.arg("-F").arg(folder.join(CONFIG));
    command.env("LC_ALL", "C").env("SHELL", "/bin/sh").env("SSH_ASKPASS_REQUIRE", "never").env_remove("DISPLAY");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    command
}

fn put(folder: &Path, name: &str, text: &str) -> Result<()> {
    let path = folder.join(name);
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        file.write_all(text.as_bytes())
    };
    write().map_err(|error| Error::internal(format!("cannot write {}", path.display()), error))
}

/// Under which name the machine's keys are known: addresses may be given to another machine.
fn alias(target: &Target) -> String {
    format!("drydock-{}", target.id.to_lowercase())
}

fn known_hosts(target: &Target) -> String {
    let keys = target.host_keys.iter().filter_map(|line| HostKey::parse(line).ok());
    keys.fold(String::new(), |text, key| format!("{text}{} {}\n", alias(target), key.line()))
}

fn machine(target: &Target, jump: Option<&Jump<'_>>, folder: &Path, idle: Duration) -> String {
    let mut text = String::from(ALWAYS);
    let mut say = |line: std::fmt::Arguments<'_>| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{line}");
    };
    say(format_args!("User {}", target.user));
    // With a file of its own the usual port may be said there.
    if target.ssh_config.is_none() || target.port != 22 {
        say(format_args!("Port {}", target.port));
    }
    say(format_args!("HostKeyAlias {}", alias(target)));
    say(format_args!("UserKnownHostsFile \"{}\"", folder.join(KNOWN_HOSTS).display()));
    say(format_args!("GlobalKnownHostsFile /dev/null"));
    say(format_args!("KnownHostsCommand none"));
    // With an agent alone, any of its keys will do.
    let only = if target.identity_agent.is_some() && target.identity_file.is_none() { "no" } else { "yes" };
    say(format_args!("IdentitiesOnly {only}"));
    identity(target, &mut say);
    if target.identity_agent.is_none() {
        say(format_args!("IdentityAgent none"));
    }
    // The fast one first; it is also safe.
    say(format_args!("Ciphers ^aes128-gcm@openssh.com"));
    say(format_args!("Compression no"));
    say(format_args!("ControlPersist {}", idle.as_secs().max(1)));
    if let Some(jump) = jump {
        let user = jump.user.map(|user| format!("-l {user} ")).unwrap_or_default();
        let port = jump.port.map(|port| format!("-p {port} ")).unwrap_or_default();
        let (config, log) = (folder.join(JUMP), folder.join(JUMP_LOG));
        say(format_args!(
            "ProxyCommand ssh -F '{}' -E '{}' {user}{port}-W '[%h]:%p' -- {}",
            config.display(),
            log.display(),
            jump.host
        ));
    }
    if let Some(path) = &target.ssh_config {
        say(format_args!("Include \"{}\"", path.display()));
    }
    text
}

/// The jump host may use the same key; who else it is and what it takes is the daemon's user's own configuration.
fn jump_host(target: &Target) -> String {
    let mut text = String::from(ALWAYS);
    let mut say = |line: std::fmt::Arguments<'_>| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{line}");
    };
    say(format_args!("ControlMaster no"));
    say(format_args!("ControlPath none"));
    identity(target, &mut say);
    if let Some(path) = &target.ssh_config {
        say(format_args!("Include \"{}\"", path.display()));
    } else {
        say(format_args!("Include ~/.ssh/config"));
        say(format_args!("Include /etc/ssh/ssh_config"));
    }
    text
}

fn identity(target: &Target, say: &mut impl FnMut(std::fmt::Arguments<'_>)) {
    if let Some(path) = &target.identity_file {
        say(format_args!("IdentityFile \"{}\"", path.display()));
    }
    if let Some(path) = &target.certificate_file {
        say(format_args!("CertificateFile \"{}\"", path.display()));
    }
    if let Some(path) = &target.identity_agent {
        say(format_args!("IdentityAgent \"{}\"", path.display()));
    }
}
