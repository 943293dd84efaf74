//! The sftp sessions of one machine: a shared one for what is small, a few for what is large, none when nobody needs any.

mod packet;
mod read;
mod session;
mod start;
mod write;

use std::sync::{Arc, Mutex as Lock, PoisonError, Weak};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

pub(super) use self::packet::{
    Attributes, FSETSTAT, FSTAT, LSTAT, MKDIR, Name, OPEN, OPENDIR, Packet, READDIR, READLINK, REALPATH, REMOVE,
    RENAME, RMDIR, SETSTAT, STAT, code, open as how, take_u64,
};
pub(super) use self::read::reader;
pub(super) use self::session::{Fault, Handle, Session};
pub(super) use self::write::writer;

use super::link::{Link, Purpose};
use super::versions::Versions;
use crate::error::{Error, Reason, Result};

/// Sessions for transfers, at most; more transfers share them.
const TRANSFERS: usize = 4;

/// Who could share a session waits this long for one of his own.
const SHARES: Duration = Duration::from_secs(1);
/// When he got none, the next ones share at once, for this long.
const SHARED: Duration = Duration::from_secs(30);
/// Where transfers get no session of their own for so long, they go over that of the small.
const CROWDED: Duration = Duration::from_secs(3);
/// After so long without use a session is given up for another that needs its place: between the calls of one caller
/// less goes by.
const WANTED: Duration = Duration::from_millis(50);

/// How long is waited for what.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// A session, with all who are before us. Longer than the link waits for a place: that tells why there is none.
    pub session: Duration,
    /// The server's first words; the user's login files run before them.
    pub greeting: Duration,
    /// One answer. A server that is busy answers late, a dead link never.
    pub answer: Duration,
    /// An answer that waits for a disk.
    pub disk: Duration,
    /// A session that nobody uses is closed then: the machine has few. Much earlier when another needs its place.
    pub idle: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            session: Duration::from_secs(75),
            greeting: Duration::from_secs(20),
            answer: Duration::from_secs(30),
            disk: Duration::from_mins(5),
            idle: Duration::from_secs(30),
        }
    }
}

/// The sftp sessions of one machine.
pub struct Sftp {
    link: Arc<dyn Link>,
    host: String,
    patience: Patience,
    small: Mutex<Slot>,
    large: Mutex<Slot>,
    /// What distinguishes versions of a file that sftp cannot tell apart.
    pub(super) versions: Lock<Versions>,
}

#[derive(Default)]
struct Slot {
    sessions: Vec<Arc<Session>>,
    /// Until when nobody tries to get one of his own who can share.
    crowded: Option<Instant>,
    /// The last failure, for those who have waited for it.
    failed: Option<(Instant, Reason, String)>,
}

impl Sftp {
    /// Opens nothing yet; `host` is the machine's name in messages.
    #[must_use]
    pub fn new(link: Arc<dyn Link>, host: impl Into<String>) -> Arc<Self> {
        Self::patient(link, host, Patience::default())
    }

    /// As [`Sftp::new`], with other times.
    #[must_use]
    pub fn patient(link: Arc<dyn Link>, host: impl Into<String>, patience: Patience) -> Arc<Self> {
        Arc::new(Self {
            link,
            host: host.into(),
            patience,
            small: Mutex::default(),
            large: Mutex::default(),
            versions: Lock::default(),
        })
    }

    /// The machine's name in messages.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// Sessions that are open now.
    pub async fn open_sessions(&self) -> usize {
        let live = |slot: &Slot| slot.sessions.iter().filter(|session| !session.is_lost()).count();
        live(&*self.small.lock().await) + live(&*self.large.lock().await)
    }

    /// For operators: sessions for what is small and for transfers, how many there may be, and who uses them. `null` where
    /// one is just being opened or closed.
    pub(super) fn diagnostics(&self) -> Value {
        let of = |slot: &Mutex<Slot>, most: usize| {
            let slot = slot.try_lock().ok()?;
            let live: Vec<_> = slot.sessions.iter().filter(|session| !session.is_lost()).collect();
            // One is the slot's, one its guard's.
            let users: usize = live.iter().map(|session| Arc::strong_count(session).saturating_sub(1)).sum();
            Some(json!({"open": live.len(), "at_most": most, "users": users}))
        };
        json!({"small": of(&self.small, 1), "transfers": of(&self.large, TRANSFERS)})
    }

    /// The session for metadata and small files.
    pub(super) async fn small(self: &Arc<Self>) -> Result<Arc<Session>> {
        self.session(&self.small, Purpose::Command, 1).await
    }

    /// A session for a transfer: one that is idle, or a new one, or the one with the fewest users.
    pub(super) async fn large(self: &Arc<Self>) -> Result<Arc<Session>> {
        match timeout(CROWDED, self.session(&self.large, Purpose::Bulk, TRANSFERS)).await {
            // Slow is better than not at all.
            Err(_) => self.small().await,
            Ok(Err(error)) if error.reason == Reason::SessionsExhausted => self.small().await,
            Ok(session) => session,
        }
    }

    async fn session(self: &Arc<Self>, slot: &Mutex<Slot>, purpose: Purpose, most: usize) -> Result<Arc<Session>> {
        let asked = Instant::now();
        let find = async {
            let mut slot = slot.lock().await;
            slot.sessions.retain(|session| !session.is_lost());
            let least = slot.sessions.iter().min_by_key(|session| Arc::strong_count(session)).cloned();
            if let Some(session) = &least
                // Ours, the slot's.
                && (Arc::strong_count(session) <= 2
                    || slot.sessions.len() >= most
                    || slot.crowded.is_some_and(|until| asked < until))
            {
                return Ok(Arc::clone(session));
            }
            if let Some((at, reason, message)) = &slot.failed
                && *at > asked
            {
                return Err(Error::new(*reason, message.clone()));
            }
            let open = start::open(&*self.link, purpose, &self.host, self.patience);
            let shares = if least.is_some() { SHARES } else { self.patience.session };
            let opened = timeout(shares, open).await.unwrap_or_else(|_| {
                Err(Error::new(Reason::SessionsExhausted, format!("{} gives no sftp session in time", self.host)))
            });
            match opened {
                Ok(session) => {
                    let session = Arc::new(session);
                    slot.sessions.push(Arc::clone(&session));
                    tokio::spawn(close_idle(Arc::downgrade(self), Arc::downgrade(&session)));
                    Ok(session)
                }
                // One that is shared is better than none.
                Err(error) if error.reason == Reason::SessionsExhausted && least.is_some() => {
                    slot.crowded = Some(Instant::now() + SHARED);
                    least.ok_or(error)
                }
                Err(error) => {
                    slot.failed = Some((Instant::now(), error.reason, error.message.clone()));
                    Err(error)
                }
            }
        };
        timeout(self.patience.session, find).await.unwrap_or_else(|_| {
            let message = format!("{} gave no sftp session in {} s", self.host, self.patience.session.as_secs());
            Err(Error::new(Reason::HostUnreachable, message))
        })
    }

    pub(super) fn with_versions<T>(&self, work: impl FnOnce(&mut Versions) -> T) -> T {
        work(&mut self.versions.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Says hello to the sftp server of a machine, `host` in messages, and leaves.
///
/// # Errors
/// As [`Link::subsystem`]; `INTERFACE_NOT_SUPPORTED` when there is no such server, or something else answers.
pub async fn probe(link: &dyn Link, host: &str) -> Result<()> {
    start::open(link, Purpose::Command, host, Patience::default()).await.map(drop)
}

/// Closes a session that nobody has used for a while, or that another session needs the place of.
async fn close_idle(sftp: Weak<Sftp>, session: Weak<Session>) {
    let Some(idle_after) = sftp.upgrade().map(|sftp| sftp.patience.idle) else { return };
    loop {
        let Some(over) = session.upgrade().map(|session| session.over()) else { return };
        let Some(link) = sftp.upgrade().map(|sftp| Arc::clone(&sftp.link)) else { return };
        // Until it ends, or is to be looked at.
        let idle_after = tokio::select! {
            () = over.cancelled() => idle_after,
            _ = timeout(idle_after / 2, std::future::pending::<()>()) => idle_after,
            () = link.wanted() => WANTED,
        };
        let (Some(sftp), Some(session)) = (sftp.upgrade(), session.upgrade()) else { return };
        for slot in [&sftp.small, &sftp.large] {
            let mut slot = slot.lock().await;
            // Ours, the slot's: under its lock nobody else can get it.
            let idle = session.is_lost() || (Arc::strong_count(&session) <= 2 && session.idle() >= idle_after);
            slot.sessions.retain(|held| !(idle && Arc::ptr_eq(held, &session)));
        }
    }
}
