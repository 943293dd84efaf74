//! What the server's refusals mean: worth another try, or not, and in which words.

use crate::error::{Error, Reason};
use crate::store::tx::Trouble;

/// Whether another transaction, perhaps on another connection, may do.
pub(super) fn trouble(error: &sqlx::Error) -> Option<Trouble> {
    match error {
        sqlx::Error::Database(refusal) => match refusal.code().as_deref().unwrap_or_default() {
            // Serialisation, deadlock, a lock that was not free in time, a key that someone else has just written.
            "40001" | "40P01" | "55P03" | "23505" => Some(Trouble::Met),
            // The server goes or comes, or has cut us off; too many connections; the plan of a statement that is prepared does
            // not fit a schema that a newer daemon has brought.
            "57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "25P04" | "53300" | "0A000" => Some(Trouble::Lost),
            code if code.starts_with("08") => Some(Trouble::Lost),
            _ => None,
        },
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => {
            Some(Trouble::Lost)
        }
        _ => None,
    }
}

/// The database said no, or nothing.
pub(super) fn failed(error: sqlx::Error) -> Error {
    if matches!(error, sqlx::Error::PoolTimedOut) {
        let why = "no connection to the database became free or could be made in time; nothing was written; try again";
        return Error::new(Reason::StoreUnavailable, why).because(error);
    }
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code).unwrap_or_default().into_owned();
    let (reason, message) = match code.as_str() {
        "53100" => {
            (Reason::NoSpace, "the disk of the database is full; nothing was written; free some space and try again")
        }
        "57014" => (Reason::StoreUnavailable, "the database took too long; nothing was written; try again"),
        // Of data, of statements, of rights: trying again does not help.
        // Or a look that writes.
        code if matches!(&code[..code.len().min(2)], "22" | "42")
            || code == "25006"
            || code.starts_with("23") && code != "23505" =>
        {
            (Reason::Internal, "the database refuses a statement; nothing was written")
        }
        _ => (Reason::StoreUnavailable, "the database does not answer; nothing was written; try again"),
    };
    Error::new(reason, message).because(error)
}
