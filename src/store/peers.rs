//! The doors of daemons to each other, on record in the database that they share. Who can write there is one of them: the
//! certificates of these rows are all that a daemon trusts.

use super::Store;
use super::row::Columns;
use super::statement::sql;
use crate::clock::Micros;
use crate::error::Result;

/// The door that a daemon opens to the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerDoor {
    /// An IP address and a port.
    pub address: String,
    /// PEM. Its key is in the daemon's memory alone.
    pub certificate: String,
}

/// A daemon as the others find it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Another one each time that it starts.
    pub daemon_id: String,
    /// Its machine's name.
    pub machine: String,
    /// Its last sign of life.
    pub seen_time: Micros,
    /// `None` when it has none: it is going down, or is of a release that knows none.
    pub door: Option<PeerDoor>,
}

impl Store {
    /// Writes down where others reach this daemon, whose row is there; with `None`, that they no longer do. Nothing on one
    /// file, where there are no others.
    pub async fn open_to_peers(&self, daemon_id: &str, door: Option<PeerDoor>) -> Result<()> {
        let Some(home) = self.home() else { return Ok(()) };
        let (id, home) = (daemon_id.to_owned(), home.to_owned());
        let (address, certificate) = door.map(|door| (door.address, door.certificate)).unwrap_or_default();
        self.write(move |tx| {
            let (id, home, address, certificate) = (id.clone(), home.clone(), address.clone(), certificate.clone());
            Box::pin(async move {
                let statement =
                    sql("UPDATE daemon SET home = $2, peer_address = $3, peer_certificate = $4 WHERE id = $1")
                        .bind(id)
                        .bind(home)
                        .bind(address)
                        .bind(certificate);
                tx.execute(statement).await.map(|_| ())
            })
        })
        .await
    }

    /// The daemon of this machine and data folder, as it started last.
    pub async fn peer_of(&self, home: &str) -> Result<Option<Peer>> {
        let newest = sql("SELECT id, machine, seen_time, peer_address, peer_certificate FROM daemon WHERE home = $1 \
             ORDER BY start_time DESC, id DESC LIMIT 1");
        let Some(row) = newest.bind(home.to_owned()).fetch_optional(self.readers()).await? else { return Ok(None) };
        let c = Columns::of(&row);
        let door = PeerDoor { address: c.text("peer_address")?, certificate: c.text("peer_certificate")? };
        Ok(Some(Peer {
            daemon_id: c.text("id")?,
            machine: c.text("machine")?,
            seen_time: c.integer("seen_time")?,
            door: (!door.address.is_empty() && !door.certificate.is_empty()).then_some(door),
        }))
    }

    /// The certificates of all daemons on record, PEM.
    pub async fn peer_certificates(&self) -> Result<Vec<String>> {
        sql("SELECT peer_certificate FROM daemon WHERE peer_certificate <> ''")
            .fetch_all(self.readers())
            .await?
            .iter()
            .map(|row| Columns::of(row).text("peer_certificate"))
            .collect()
    }
}
