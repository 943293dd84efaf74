//! One sftp session: many requests under way at once, each answered to the one who asked.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::Patience;
use super::packet::{self, Attributes, CLOSE, Malformed, Name, Packet, Reply, code};
use super::start::{Extensions, Limits};

/// Requests that may be under way at once, besides the data of transfers, which have windows of their own.
const UNDER_WAY: usize = 64;
/// A packet that is longer is no packet; servers keep to 256 KiB.
const LONGEST: usize = 1024 * 1024;

/// Why there is no good answer.
#[derive(Debug, Clone)]
pub(in crate::host::ssh) enum Fault {
    /// The server says no.
    Refused { code: u32, message: String },
    /// The session is gone; whether the server did what was asked is unknown.
    Lost(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { code, message } => write!(f, "{message} (sftp status {code})"),
            Self::Lost(why) => f.write_str(why),
        }
    }
}

impl Fault {
    /// The server's answer has this code.
    pub(in crate::host::ssh) fn is(&self, wanted: u32) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == wanted)
    }
}

/// An open session. Dropping it closes it.
pub(in crate::host::ssh) struct Session {
    wire: Arc<Wire>,
    room: Arc<Semaphore>,
    pub(in crate::host::ssh) patience: Patience,
    pub(in crate::host::ssh) extensions: Extensions,
    pub(in crate::host::ssh) limits: Limits,
}

/// What the session shares with its two tasks.
pub(in crate::host::ssh) struct Wire {
    out: mpsc::UnboundedSender<Bytes>,
    state: Mutex<State>,
    over: CancellationToken,
}

struct State {
    next: u32,
    waiting: HashMap<u32, Waiting>,
    lost: Option<String>,
    used: Instant,
}

struct Waiting {
    answer: oneshot::Sender<Reply>,
    _room: Option<OwnedSemaphorePermit>,
}

/// A file or a directory that the server holds open for us. Dropping it closes it.
pub(in crate::host::ssh) struct Handle {
    pub(in crate::host::ssh) session: Arc<Session>,
    name: Bytes,
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Nobody waits for the answer.
        drop(self.session.wire.send(Packet::new(CLOSE).string(&self.name), None));
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.wire.over.cancel();
    }
}

impl Wire {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, packet: Packet, room: Option<OwnedSemaphorePermit>) -> oneshot::Receiver<Reply> {
        let (answer, answered) = oneshot::channel();
        let mut state = self.state();
        if state.lost.is_none() {
            let id = state.next;
            state.next = state.next.wrapping_add(1);
            state.used = Instant::now();
            state.waiting.insert(id, Waiting { answer, _room: room });
            // Under the lock, so that what is asked first is sent first.
            let _ = self.out.send(packet.finish(id));
        }
        answered
    }

    /// Ends the session; all who wait are told. The first reason stays.
    fn lose(&self, why: &str) {
        let mut state = self.state();
        state.lost.get_or_insert_with(|| why.to_owned());
        state.waiting.clear();
        self.over.cancel();
    }

    fn fault(&self) -> Fault {
        Fault::Lost(self.state().lost.clone().unwrap_or_else(|| "the sftp session is closed".to_owned()))
    }

    /// Passes an answer on.
    fn answer(&self, packet: Bytes) -> Result<(), Malformed> {
        let (id, reply) = packet::decode(packet)?;
        let waiting = self.state().waiting.remove(&id).ok_or(Malformed)?;
        if let Err(Reply::Handle(name)) = waiting.answer.send(reply) {
            // Whoever opened it went away meanwhile.
            drop(self.send(Packet::new(CLOSE).string(&name), None));
        }
        Ok(())
    }
}

impl Session {
    /// A session over a channel whose greetings were exchanged.
    pub(in crate::host::ssh) fn over(
        stdin: Box<dyn AsyncWrite + Send + Unpin>,
        stdout: BufReader<Box<dyn AsyncRead + Send + Unpin>>,
        hold: Box<dyn std::any::Any + Send>,
        extensions: Extensions,
        patience: Patience,
    ) -> Self {
        let (out, queue) = mpsc::unbounded_channel();
        let state = State { next: 1, waiting: HashMap::new(), lost: None, used: Instant::now() };
        let wire = Arc::new(Wire { out, state: Mutex::new(state), over: CancellationToken::new() });
        tokio::spawn(write(Arc::clone(&wire), queue, stdin));
        tokio::spawn(read(Arc::clone(&wire), stdout, hold));
        Self { wire, room: Arc::new(Semaphore::new(UNDER_WAY)), patience, extensions, limits: Limits::default() }
    }

    /// Sends at once: for transfers, which bound themselves. A receiver that errs means that the session is lost.
    pub(in crate::host::ssh) fn send(&self, packet: Packet) -> oneshot::Receiver<Reply> {
        self.wire.send(packet, None)
    }

    /// Why the session is gone.
    pub(in crate::host::ssh) fn fault(&self) -> Fault {
        self.wire.fault()
    }

    /// Gives the session up.
    pub(in crate::host::ssh) fn lose(&self, why: &str) -> Fault {
        self.wire.lose(why);
        self.fault()
    }

    pub(in crate::host::ssh) fn is_lost(&self) -> bool {
        self.wire.state().lost.is_some()
    }

    /// How long nobody has asked anything.
    pub(in crate::host::ssh) fn idle(&self) -> Duration {
        self.wire.state().used.elapsed()
    }

    async fn ask(&self, packet: Packet, within: Duration) -> Result<Reply, Fault> {
        let work = async {
            let room = Arc::clone(&self.room).acquire_owned().await.ok();
            self.wire.send(packet, room).await
        };
        match timeout(within, work).await {
            Ok(Ok(Reply::Status { code, message })) if code != code::OK => Err(Fault::Refused { code, message }),
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_)) => Err(self.fault()),
            // One server works for one session, in order: when it is stuck, all of the session is.
            Err(_) => Err(self.lose(&format!("the sftp server has not answered for {} s", within.as_secs()))),
        }
    }

    /// Asks for what answers OK.
    pub(in crate::host::ssh) async fn done(&self, packet: Packet) -> Result<(), Fault> {
        self.done_within(packet, self.patience.answer).await
    }

    /// As [`Session::done`], for what waits for a disk.
    pub(in crate::host::ssh) async fn on_disk(&self, packet: Packet) -> Result<(), Fault> {
        self.done_within(packet, self.patience.disk).await
    }

    async fn done_within(&self, packet: Packet, within: Duration) -> Result<(), Fault> {
        match self.ask(packet, within).await? {
            Reply::Status { .. } => Ok(()),
            _ => Err(self.wrong()),
        }
    }

    /// Asks for attributes.
    pub(in crate::host::ssh) async fn attributes(&self, packet: Packet) -> Result<Attributes, Fault> {
        match self.ask(packet, self.patience.answer).await? {
            Reply::Attributes(attributes) => Ok(attributes),
            _ => Err(self.wrong()),
        }
    }

    /// Asks for names; empty at the end of a directory.
    pub(in crate::host::ssh) async fn names(&self, packet: Packet) -> Result<Vec<Name>, Fault> {
        match self.ask(packet, self.patience.answer).await {
            Ok(Reply::Names(names)) => Ok(names),
            Ok(_) => Err(self.wrong()),
            Err(fault) if fault.is(code::END) => Ok(Vec::new()),
            Err(fault) => Err(fault),
        }
    }

    /// Asks for the one name of a link or a path.
    pub(in crate::host::ssh) async fn name(&self, packet: Packet) -> Result<Bytes, Fault> {
        self.names(packet).await?.into_iter().next().map(|name| name.name).ok_or_else(|| self.wrong())
    }

    /// Asks an extension for its answer.
    pub(in crate::host::ssh) async fn extended(&self, packet: Packet) -> Result<Bytes, Fault> {
        match self.ask(packet, self.patience.answer).await? {
            Reply::Extended(bytes) => Ok(bytes),
            _ => Err(self.wrong()),
        }
    }

    /// Opens a file or a directory.
    pub(in crate::host::ssh) async fn open(self: &Arc<Self>, packet: Packet) -> Result<Handle, Fault> {
        match self.ask(packet, self.patience.answer).await? {
            Reply::Handle(name) => Ok(Handle { session: Arc::clone(self), name }),
            _ => Err(self.wrong()),
        }
    }

    fn wrong(&self) -> Fault {
        self.lose("the sftp server gave an answer of another kind than was asked for")
    }
}

impl Handle {
    /// A request about it.
    pub(in crate::host::ssh) fn packet(&self, kind: u8) -> Packet {
        Packet::new(kind).string(&self.name)
    }

    /// A request about it that has room for data.
    pub(in crate::host::ssh) fn packet_with_room(&self, kind: u8, room: usize) -> Packet {
        Packet::with_room(kind, room).string(&self.name)
    }

    /// An extension's request about it.
    pub(in crate::host::ssh) fn extended(&self, name: &str) -> Packet {
        Packet::extended(name).string(&self.name)
    }
}

/// Sends what is queued; small packets go together.
async fn write(
    wire: Arc<Wire>,
    mut queue: mpsc::UnboundedReceiver<Bytes>,
    mut out: Box<dyn AsyncWrite + Send + Unpin>,
) {
    const SMALL: usize = 4096;
    let work = async {
        let (mut batch, mut together) = (Vec::new(), BytesMut::new());
        while queue.recv_many(&mut batch, UNDER_WAY).await > 0 {
            for packet in batch.drain(..) {
                if packet.len() <= SMALL && together.len() < LONGEST {
                    together.put_slice(&packet);
                    continue;
                }
                out.write_all_buf(&mut together).await?;
                out.write_all(&packet).await?;
            }
            out.write_all_buf(&mut together).await?;
            out.flush().await?;
        }
        std::io::Result::Ok(())
    };
    if let Some(Err(error)) = wire.over.run_until_cancelled(work).await {
        wire.lose(&format!("the connection to the sftp server was lost: {error}"));
    }
}

/// Passes answers on until the session ends.
async fn read(
    wire: Arc<Wire>,
    mut stdout: BufReader<Box<dyn AsyncRead + Send + Unpin>>,
    hold: Box<dyn std::any::Any + Send>,
) {
    let work = async {
        loop {
            match next(&mut stdout).await.map(|packet| packet.map(|packet| wire.answer(packet))) {
                Ok(Some(Ok(()))) => {}
                Ok(_) => return "the sftp server sent what is no answer".to_owned(),
                Err(error) => return format!("the connection to the sftp server was lost: {error}"),
            }
        }
    };
    if let Some(why) = wire.over.run_until_cancelled(work).await {
        wire.lose(&why);
    }
    wire.lose("the sftp session is closed");
    drop(hold);
}

/// The next packet without its length; `None` when its length is impossible.
pub(in crate::host::ssh) async fn next(stdout: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Option<Bytes>> {
    let length = usize::try_from(stdout.read_u32().await?).unwrap_or(usize::MAX);
    if !(5..=LONGEST).contains(&length) {
        return Ok(None);
    }
    // Each packet in memory of its own, so that a piece of data does not keep others.
    let mut packet = BytesMut::with_capacity(length);
    while packet.len() < length {
        let missing = length - packet.len();
        let mut space = (&mut packet).limit(missing);
        if stdout.read_buf(&mut space).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(Some(packet.freeze()))
}
