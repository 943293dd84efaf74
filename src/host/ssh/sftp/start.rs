//! How an sftp session begins: the greetings, what the server can do, and what it says instead when it cannot.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::time::timeout;

use super::Patience;
use super::packet::{self, Packet, take_u64};
use super::session::{Session, next};
use crate::error::{Error, Reason, Result};
use crate::host::ssh::link::{Link, Purpose};

/// For the last words of a server that is gone.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Kept of what a server says on its stderr, in bytes.
const WORDS: usize = 1024;
/// A piece of data in one packet, when the server does not say.
const PIECE: u32 = 32 * 1024;
/// At most; more does not make it faster.
const LARGEST_PIECE: u32 = 256 * 1024;

/// The extensions that we can use.
#[derive(Debug, Clone, Copy, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own that the server told")]
pub(in crate::host::ssh) struct Extensions {
    pub(in crate::host::ssh) posix_rename: bool,
    pub(in crate::host::ssh) fsync: bool,
    pub(in crate::host::ssh) statvfs: bool,
    pub(in crate::host::ssh) lsetstat: bool,
    limits: bool,
}

/// How much data goes in one packet.
#[derive(Debug, Clone, Copy)]
pub(in crate::host::ssh) struct Limits {
    pub(in crate::host::ssh) read: u32,
    pub(in crate::host::ssh) write: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { read: PIECE, write: PIECE }
    }
}

impl Extensions {
    fn of(told: &[(Bytes, Bytes)]) -> Self {
        let has = |name: &str, version: &str| told.iter().any(|(n, v)| n == name.as_bytes() && v == version.as_bytes());
        Self {
            posix_rename: has("posix-rename@openssh.com", "1"),
            fsync: has("fsync@openssh.com", "1"),
            statvfs: has("statvfs@openssh.com", "2"),
            lsetstat: has("lsetstat@openssh.com", "1"),
            limits: has("limits@openssh.com", "1"),
        }
    }
}

/// Opens a session; `host` is its name in messages.
pub(super) async fn open(link: &dyn Link, purpose: Purpose, host: &str, patience: Patience) -> Result<Session> {
    let channel = link.subsystem("sftp", purpose).await?;
    let words = Arc::<Mutex<Vec<u8>>>::default();
    let said = tokio::spawn(listen(channel.stderr, Arc::clone(&words)));
    let (mut stdin, mut stdout) = (channel.stdin, BufReader::with_capacity(32 * 1024, channel.stdout));
    let greetings = async {
        // Whoever does not listen any more may still have said why.
        let _ = stdin.write_all(&packet::hello()).await;
        let _ = stdin.flush().await;
        greeting(&mut stdout).await
    };
    match timeout(patience.greeting, greetings).await {
        Ok(Greeting::Welcome(extensions)) => {
            let mut session = Session::over(stdin, stdout, channel.hold, extensions, patience);
            if extensions.limits {
                session.limits = limits(&session).await.unwrap_or_default();
            }
            Ok(session)
        }
        Ok(Greeting::Version(version)) => Err(Error::new(
            Reason::InterfaceNotSupported,
            format!("the sftp server of {host} speaks version {version}; files need version 3, as OpenSSH has it"),
        )),
        Ok(Greeting::Garbage(text)) => Err(Error::new(
            Reason::InterfaceNotSupported,
            format!(
                "{host} answers to sftp with {text:?}: a login file of the user, for example ~/.bashrc, prints; let it print \
                 only to terminals, or let the host's sshd_config say \"Subsystem sftp internal-sftp\""
            ),
        )),
        Ok(Greeting::End) => {
            // Its stderr ends with it.
            let _ = timeout(LAST_WORDS, said).await;
            drop(channel.hold);
            let words = words.lock().unwrap_or_else(PoisonError::into_inner).clone();
            Err(absent(link, host, &words).await)
        }
        Err(_) => Err(Error::new(
            Reason::HostUnreachable,
            format!("the sftp server of {host} has said nothing for {} s", patience.greeting.as_secs()),
        )),
    }
}

/// Without a word the link may as well have been lost: it is asked.
async fn absent(link: &dyn Link, host: &str, words: &[u8]) -> Error {
    let said = String::from_utf8_lossy(words).trim().to_owned();
    if said.is_empty()
        && let Err(error) = link.open("exit 0", Purpose::Command).await
    {
        return error;
    }
    let said = if said.is_empty() { String::new() } else { format!(" ({said:?})") };
    Error::new(
        Reason::InterfaceNotSupported,
        format!(
            "{host} offers no sftp, which files need{said}; let its sshd_config say \"Subsystem sftp internal-sftp\" and \
             reload sshd"
        ),
    )
}

enum Greeting {
    Welcome(Extensions),
    Version(u32),
    Garbage(String),
    End,
}

async fn greeting(stdout: &mut BufReader<Box<dyn AsyncRead + Send + Unpin>>) -> Greeting {
    // What is printed instead has more in its first four bytes than any greeting is long.
    let mut length = [0; 4];
    let mut got = 0;
    while got < length.len() {
        match stdout.read(&mut length[got..]).await {
            Ok(0) | Err(_) if got == 0 => return Greeting::End,
            Ok(0) | Err(_) => return Greeting::Garbage(String::from_utf8_lossy(&length[..got]).into_owned()),
            Ok(more) => got += more,
        }
    }
    let packet = next(&mut length.as_slice().chain(&mut *stdout)).await;
    match packet.map(|packet| packet.map(packet::welcome)) {
        Ok(Some(Ok((3, told)))) => Greeting::Welcome(Extensions::of(&told)),
        Ok(Some(Ok((version, _)))) => Greeting::Version(version),
        Ok(Some(Err(_)) | None) => {
            let mut text = length.to_vec();
            let mut rest = [0; 200];
            let more = timeout(LAST_WORDS, stdout.read(&mut rest)).await;
            text.extend_from_slice(&rest[..more.ok().and_then(Result::ok).unwrap_or(0)]);
            let text = String::from_utf8_lossy(&text);
            Greeting::Garbage(text.lines().next().unwrap_or_default().to_owned())
        }
        Err(_) => Greeting::End,
    }
}

async fn limits(session: &Session) -> Option<Limits> {
    let mut bytes = session.extended(Packet::extended("limits@openssh.com")).await.ok()?;
    let _packet = take_u64(&mut bytes).ok()?;
    let mut piece = || {
        let told = u32::try_from(take_u64(&mut bytes).ok()?).unwrap_or(u32::MAX);
        Some(if told == 0 { PIECE } else { told.min(LARGEST_PIECE) })
    };
    Some(Limits { read: piece()?, write: piece()? })
}

/// Keeps the last words, and reads the rest away.
async fn listen(mut stderr: Box<dyn AsyncRead + Send + Unpin>, words: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = [0; WORDS];
    while let Ok(length @ 1..) = stderr.read(&mut buffer).await {
        let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
        words.extend_from_slice(&buffer[..length]);
        let surplus = words.len().saturating_sub(WORDS);
        words.drain(..surplus);
    }
}
