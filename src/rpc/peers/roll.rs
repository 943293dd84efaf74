//! Which certificates are those of daemons: the ones in the rows of the database, and no others.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;

use crate::error::Result;
use crate::store::Store;

/// How long what was read is believed: a daemon that was taken off the record is refused after this time.
const KEPT: Duration = Duration::from_secs(10);

/// The certificates of all daemons on record.
pub(super) struct Roll {
    store: Store,
    known: Mutex<Known>,
    /// Held by who reads: strangers who knock cause one look at a time.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    certificates: HashSet<Vec<u8>>,
    read: Option<Instant>,
}

impl Roll {
    pub(super) fn new(store: Store) -> Self {
        Self { store, known: Mutex::default(), turn: tokio::sync::Mutex::default() }
    }

    /// Whether a daemon on record has this certificate, DER.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub(super) async fn has(&self, certificate: &[u8]) -> Result<bool> {
        let asked = Instant::now();
        if self.look(certificate, |read| read.elapsed() < KEPT) == Some(true) {
            return Ok(true);
        }
        let _turn = self.turn.lock().await;
        // Somebody may have read it while we waited.
        if let Some(known) = self.look(certificate, |read| read > asked) {
            return Ok(known);
        }
        let read = Instant::now();
        let all = self.store.peer_certificates().await?;
        let of = |pem: &String| CertificateDer::from_pem_slice(pem.as_bytes()).ok().map(|der| der.to_vec());
        let certificates: HashSet<_> = all.iter().filter_map(of).collect();
        let known = certificates.contains(certificate);
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Known { certificates, read: Some(read) };
        Ok(known)
    }

    /// What is known, if it was read at a time that will do.
    fn look(&self, certificate: &[u8], will_do: impl Fn(Instant) -> bool) -> Option<bool> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.read.is_some_and(will_do).then(|| known.certificates.contains(certificate))
    }
}
