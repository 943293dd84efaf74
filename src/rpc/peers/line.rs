//! Connections to other daemons: one to each, made when it is needed, to the key that its row names.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use super::identity::Identity;
use crate::clock::{SharedClock, span};
use crate::engine::DAEMON_FACT;
use crate::error::{Error, Reason, Result};
use crate::rpc::limits::{MAX_FRAME, PEER_CONNECTION_WINDOW, PEER_HEADERS, PEER_STREAM_WINDOW};
use crate::store::{Peer, PeerDoor, Store};

/// Without a sign of life for so long a daemon is dead: three of them, which come every 30 s.
const DEAD: Duration = Duration::from_secs(90);
/// For a connection, and then for its handshake.
const CONNECT: Duration = Duration::from_secs(3);
/// Between two looks whether a silent daemon is still there, and for its answer.
const PING: Duration = Duration::from_secs(4);
/// Before it is worth while to ask for a dead daemon again.
const RETRY: Duration = Duration::from_secs(5);

/// The connections of a daemon, by the home of the one at the other end.
pub(super) struct Lines {
    store: Store,
    clock: SharedClock,
    machine: String,
    identity: Arc<Identity>,
    open: Mutex<HashMap<String, Line>>,
}

/// A connection, and to whom.
#[derive(Clone)]
pub(super) struct Line {
    daemon_id: String,
    /// It connects by itself, again and again.
    pub(super) channel: Channel,
}

impl Lines {
    pub(super) fn new(store: Store, clock: SharedClock, machine: String, identity: Arc<Identity>) -> Self {
        Self { store, clock, machine, identity, open: Mutex::default() }
    }

    /// The connection to the daemon of this home.
    ///
    /// # Errors
    /// `HOST_UNREACHABLE` when it is dead, or lets nobody in who is where we are.
    pub(super) async fn to(&self, home: &str) -> Result<Line> {
        let peer = self.store.peer_of(home).await?;
        let peer = peer.ok_or_else(|| unreachable(home, "and no such daemon runs on this database"))?;
        let silent = span(self.clock.now().saturating_sub(peer.seen_time));
        if silent > DEAD {
            let why = format!("and that one gave no sign of life for {} s; start it again", silent.as_secs());
            return Err(unreachable(home, &why));
        }
        if let Some(line) = self.find(home, &peer.daemon_id) {
            return Ok(line);
        }
        let door = self.door(home, &peer)?;
        let line = Line { daemon_id: peer.daemon_id, channel: self.connect(home, &door)? };
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(home.to_owned(), line.clone());
        Ok(line)
    }

    fn find(&self, home: &str, daemon_id: &str) -> Option<Line> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(home).filter(|line| line.daemon_id == daemon_id).cloned()
    }

    /// The door of a daemon, if it is one that leads from here to there.
    fn door(&self, home: &str, peer: &Peer) -> Result<PeerDoor> {
        let Some(door) = peer.door.clone() else {
            return Err(unreachable(home, "and that one is going down, or opens no door to other daemons"));
        };
        let local = door.address.parse().is_ok_and(|address: SocketAddr| address.ip().to_canonical().is_loopback());
        if local && peer.machine != self.machine {
            let why = format!(
                "which is on {} and lets in daemons of that machine only; start it with --peer-listen",
                peer.machine
            );
            return Err(unreachable(home, &why));
        }
        Ok(door)
    }

    fn connect(&self, home: &str, door: &PeerDoor) -> Result<Channel> {
        let wrong = |error: tonic::transport::Error| {
            unreachable(home, "and the door that it told of makes no sense; start it again").because(error)
        };
        let endpoint = Endpoint::from_shared(format!("https://{}", door.address))
            .and_then(|endpoint| endpoint.tls_config(self.identity.of_client(&door.certificate).timeout(CONNECT)))
            .map_err(wrong)?;
        Ok(endpoint
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .initial_stream_window_size(PEER_STREAM_WINDOW)
            .initial_connection_window_size(PEER_CONNECTION_WINDOW)
            .http2_max_header_list_size(PEER_HEADERS)
            .max_frame_size(MAX_FRAME)
            .connect_lazy())
    }
}

/// The daemon whose machine it is cannot be asked; `why` goes on behind its name. Nothing was done.
pub(super) fn unreachable(home: &str, why: &str) -> Error {
    let message = format!("the lease is on the machine of the daemon {home}, which alone reaches it, {why}");
    Error::new(Reason::HostUnreachable, message).with(DAEMON_FACT, home).retry_after(RETRY)
}
