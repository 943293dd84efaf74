//! What ssh's own words mean: unreachable, not let in, or another machine behind the address.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::config::JUMP_LOG;
use super::target::Target;
use crate::error::{Error, Reason};

/// Of a line of ssh, in bytes.
const LINE: usize = 300;

/// Why a machine could not be reached. Kept, and told to everyone who asks until it is tried again.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) reason: Reason,
    pub(super) message: String,
    /// The machine hung up before it knew who we are: it may be busy, and take us a moment later.
    pub(super) busy: bool,
}

impl Failure {
    pub(super) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), busy: false }
    }

    /// As an error; it can help to try again `after`.
    pub(super) fn error(&self, after: Option<Duration>) -> Error {
        let error = Error::new(self.reason, self.message.clone());
        match after {
            Some(after) if self.reason == Reason::HostUnreachable => error.retry_after(after),
            _ => error,
        }
    }
}

/// Where ssh writes what it has to say.
pub(super) struct Log {
    pub(super) own: PathBuf,
    pub(super) jump: PathBuf,
}

impl Log {
    /// The log of one ssh, and that of the jump host in the link's folder.
    pub(super) fn new(own: &Path, folder: &Path) -> Self {
        Self { own: own.to_owned(), jump: folder.join(JUMP_LOG) }
    }
}

/// ssh, or what belongs to it, cannot be run here.
pub(super) fn not_started(program: &str, error: &io::Error) -> Failure {
    let message = match error.kind() {
        io::ErrorKind::NotFound => {
            format!(
                "{program} is not installed where the daemon runs: install OpenSSH's client (Debian: openssh-client)"
            )
        }
        _ => format!("{program} cannot be started where the daemon runs: {error}"),
    };
    Failure::new(Reason::HostUnreachable, message)
}

/// What the logs of an ssh that has failed say.
pub(super) async fn of_log(target: &Target, log: &Log) -> Failure {
    let read = async |path| String::from_utf8_lossy(&tokio::fs::read(path).await.unwrap_or_default()).into_owned();
    let failure = of_text(target, &read(&log.own).await, &read(&log.jump).await);
    match &target.identity_file {
        Some(path) if failure.reason == Reason::HostAuthFailed && locked(path).await => {
            let message = format!(
                "the key file {} has a passphrase, which nobody is there to type: give one without, or an agent that holds it",
                path.display()
            );
            Failure::new(Reason::HostAuthFailed, message)
        }
        _ => failure,
    }
}

/// ssh itself says no word about a key that it cannot open.
async fn locked(path: &Path) -> bool {
    let mut command = Command::new("ssh-keygen");
    command.args(["-y", "-P", "", "-f"]).arg(path).env("LC_ALL", "C").stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(Duration::from_secs(5), command.output()).await;
    output.is_ok_and(|output| output.is_ok_and(|output| String::from_utf8_lossy(&output.stderr).contains("passphrase")))
}

fn of_text(target: &Target, own: &str, jump: &str) -> Failure {
    if let Some(name) = &target.jump
        && let Some(failure) = of_jump(name, jump)
    {
        return failure;
    }
    let Target { id, address, port, user, .. } = target;
    let place = format!("{address} port {port}");
    let said = last(own);
    if changed(own) {
        let shown =
            own.split_whitespace().find(|word| word.starts_with("SHA256:")).map(|word| word.trim_end_matches('.'));
        let shown = shown.map(|shown| format!(": it showed {shown}")).unwrap_or_default();
        let message = format!(
            "the host key of {id} at {place} is not the pinned one{shown}; nothing was sent to it. If the machine was set up \
             anew, pin its key again, else find out who answers there"
        );
        return Failure::new(Reason::HostKeyMismatch, message);
    }
    if refused(own) {
        let how = match (&target.identity_file, &target.identity_agent) {
            (Some(path), _) => format!("the key {}", path.display()),
            (None, Some(path)) => format!("the agent at {}", path.display()),
            (None, None) => "the default keys of the daemon's user".to_owned(),
        };
        let why = key_trouble(own).map_or(said, |line| line);
        let advice = match &target.certificate_file {
            Some(path) => {
                let path = path.display();
                format!(
                    "look with `ssh-keygen -Lf {path}` whether the certificate is valid now and names {user}, and whether the \
                     sshd there trusts who signed it (TrustedUserCAKeys)"
                )
            }
            None => format!("put the public key into ~{user}/.ssh/authorized_keys there, or give another key"),
        };
        let message = format!("{place} does not let in {user} with {how}: {advice} (ssh says: {why})");
        return Failure::new(Reason::HostAuthFailed, message);
    }
    Failure {
        busy: hung_up(own),
        ..Failure::new(Reason::HostUnreachable, format!("{id} cannot be reached at {place}: {}", hint(own, said)))
    }
}

/// What the jump host's ssh says is of the jump host: the machine's own pin has nothing to do with it.
fn of_jump(name: &str, text: &str) -> Option<Failure> {
    if changed(text) {
        let message = format!(
            "the host key of the jump host {name} is not known, or has changed: put the right one into the known_hosts of the \
             daemon's user, or of the given ssh_config (ssh says: {})",
            last(text)
        );
        return Some(Failure::new(Reason::HostUnreachable, message));
    }
    if refused(text) {
        let message = format!("the jump host {name} does not let us in (ssh says: {})", last(text));
        return Some(Failure::new(Reason::HostAuthFailed, message));
    }
    let words = ["Could not resolve", "connect to host", "stdio forwarding failed", "banner exchange", "configuration"];
    let failed = hung_up(text) || words.iter().any(|word| text.contains(word));
    failed.then(|| Failure {
        busy: hung_up(text),
        ..Failure::new(Reason::HostUnreachable, format!("through the jump host {name}: {}", hint(text, last(text))))
    })
}

fn changed(text: &str) -> bool {
    text.contains("Host key verification failed") || text.contains("REMOTE HOST IDENTIFICATION HAS CHANGED")
}

fn refused(text: &str) -> bool {
    text.contains("Permission denied (") || text.contains("Too many authentication failures")
}

fn key_trouble(text: &str) -> Option<&str> {
    let words = ["Load key", "bad permissions", "UNPROTECTED", "passphrase", "sign_and_send_pubkey", "agent"];
    text.lines().map(str::trim).find(|line| words.iter().any(|word| line.contains(word))).map(cut)
}

/// Before the login: sshd drops connections so when too many begin at once (`MaxStartups`), or when it starts or stops.
fn hung_up(text: &str) -> bool {
    let words = ["kex_exchange_identification", "Connection closed by", "Connection reset by", "MaxStartups"];
    words.iter().any(|word| text.contains(word)) && !refused(text) && !changed(text)
}

fn hint(text: &str, said: &str) -> String {
    let advice = [
        ("Could not resolve", "the name does not resolve"),
        ("Connection refused", "nothing listens there"),
        ("banner exchange", "something listens, but does not speak ssh in time"),
        ("timed out", "no answer: check address, route and firewall"),
        ("No route to host", "there is no route"),
        ("is unreachable", "there is no route"),
        ("no matching", "machine and daemon have no algorithm in common"),
        ("Bad owner or permissions", "ssh refuses a configuration file that others may write"),
        ("onfiguration option", "ssh does not take the given ssh_config"),
        ("too long for Unix domain socket", "the runtime folder's path is too long"),
    ];
    let known = advice.iter().find(|(words, _)| text.contains(words)).map(|(_, meaning)| *meaning);
    match (known, said) {
        (Some(meaning), _) => format!("{meaning} (ssh says: {said})"),
        (None, "") => "ssh ended without a word".to_owned(),
        (None, said) => format!("ssh says: {said}"),
    }
}

/// The last line that is not the echo of the end of the connection.
fn last(text: &str) -> &str {
    let lines = text.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    let mut all = lines.clone();
    let told = lines.clone().find(|line| !line.starts_with("Connection closed by UNKNOWN"));
    cut(told.or_else(|| all.next()).unwrap_or_default())
}

fn cut(line: &str) -> &str {
    let end = (0..=LINE.min(line.len())).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
    &line[..end]
}
