//! From a file to a server, while no daemon runs: what one daemon has grown to, several go on with.

use std::path::Path;
use std::sync::Arc;

use super::open::{lock, migrate};
use super::row::{Cell, Columns, Row};
use super::sqlite::Connection;
use super::statement::{Value, composed, sql};
use super::tx::{Opening, Session};
use super::{Location, Remote, Store, postgres};
use crate::error::{Error, Result};

/// All that lasts. Daemons do not: they report themselves.
const TABLES: [&str; 10] =
    ["blueprint", "resource", "lease", "slot", "task", "wait", "effect", "event", "request", "share"];
/// Rows in one statement.
const ROWS: usize = 200;

impl Store {
    /// Brings a database to this version, made when missing, and leaves it at that.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub async fn migrate(location: &Location) -> Result<()> {
        match location {
            Location::Sqlite { path } | Location::InTurns { path } => {
                let _lock = lock(path)?;
                migrate(path).await
            }
            Location::Postgres(remote) => postgres::migrate(remote).await,
        }
    }

    /// Copies all of a file into an empty database on a server, in one transaction; how many rows of each table. The local
    /// hosts in it become those of the daemon with the home that `to` names.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` when a daemon has the file or when the target is not empty; `STORE_UNAVAILABLE`.
    pub async fn copy(from: &Path, to: &Remote) -> Result<Vec<(&'static str, u64)>> {
        if !from.exists() {
            return Err(Error::invalid(format!("there is no database {}", from.display())));
        }
        let _lock = lock(from)?;
        migrate(from).await?;
        let mut source = Connection::writer(from, Arc::default())?;
        postgres::migrate(to).await?;
        let mut target = postgres::session(to).await?;
        target.begin(&Opening::Plain).await?;
        let mut copied = Vec::new();
        for table in TABLES {
            copied.push((table, copy_table(&mut source, target.as_mut(), table).await?));
        }
        // Whoever held a claim is gone.
        let free = "UPDATE task SET state = 'READY', claimed_by = NULL, claim_until = NULL WHERE state = 'RUNNING'";
        target.run(sql(free)).await?;
        let machines = "UPDATE resource SET facts = (facts::jsonb || jsonb_build_object('daemon', $1::text))::text \
                        WHERE state <> 'DESTROYED' AND blueprint_id IN (SELECT id FROM blueprint WHERE kind = 'local-host')";
        target.run(sql(machines).bind(to.home.clone())).await?;
        target.commit().await?;
        Ok(copied)
    }
}

async fn copy_table(source: &mut Connection, target: &mut dyn Session, table: &str) -> Result<u64> {
    let count = composed(format!("SELECT count(*) AS n FROM {table}"), Vec::new());
    let there = target.run(count).await?.rows.first().map_or(Ok(0), |row| Columns::of(row).integer("n"))?;
    if there > 0 {
        let why = format!("the target is not empty: it has {there} rows in {table}; copy into a new database");
        return Err(Error::invalid(why));
    }
    let (mut last, mut all) = (0, 0);
    loop {
        let text = format!("SELECT rowid AS row_number, * FROM {table} WHERE rowid > $1 ORDER BY rowid LIMIT {ROWS}");
        let rows = source.run(composed(text, vec![Value::Integer(Some(last))])).await?.rows;
        let Some(end) = rows.last() else { return Ok(all) };
        last = Columns::of(end).integer("row_number")?;
        all += rows.len() as u64;
        target.run(insertion(table, &rows)?).await?;
    }
}

/// One statement for several rows; each begins with its number, which is not copied.
fn insertion(table: &str, rows: &[Row]) -> Result<super::statement::Statement> {
    let names: Vec<&str> = rows.first().into_iter().flat_map(Row::columns).skip(1).collect();
    let mut values = Vec::with_capacity(rows.len() * names.len());
    let mut groups = Vec::with_capacity(rows.len());
    for row in rows {
        let mut places = Vec::with_capacity(names.len());
        for cell in row.cells().skip(1) {
            values.push(match cell {
                Cell::Integer(number) => Value::from(number),
                Cell::Text(text) => Value::from(text.to_owned()),
                // Of no type: it fits every column.
                Cell::Null => {
                    places.push("NULL".to_owned());
                    continue;
                }
                Cell::Odd => return Err(Error::invalid(format!("the table {table} holds what no column of it takes"))),
            });
            places.push(format!("${}", values.len()));
        }
        groups.push(format!("({})", places.join(", ")));
    }
    Ok(composed(format!("INSERT INTO {table} ({}) VALUES {}", names.join(", "), groups.join(", ")), values))
}
