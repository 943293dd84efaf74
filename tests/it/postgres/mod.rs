//! A `PostgreSQL` that the tests start themselves, and the suites that run on it too.
//!
//! `.ci/tools test` installs it. Where it is missing these tests say so and end; in CI they fail.

mod daemons;
mod example;
mod failover;
mod fencing;
mod forwarding;
mod secure;
mod server;
mod sharing;
mod takeover;

use std::cell::Cell;

pub(crate) use server::{Database, NOBODY, database, folder_of_programs, is_installed};

thread_local! {
    /// Whether the case that runs on this thread keeps its things on the server.
    static CHOSEN: Cell<bool> = const { Cell::new(false) };
}

/// Whether the case that runs on this thread keeps its things on the server.
pub(crate) fn is_chosen() -> bool {
    CHOSEN.get()
}

/// Says where what this thread starts from now on keeps its things.
pub(crate) fn choose(postgres: bool) {
    CHOSEN.set(postgres);
}

/// Runs a case on `PostgreSQL` that runs on `SQLite` by itself.
pub(crate) fn with_it(case: fn()) {
    if is_installed() {
        choose(true);
        case();
    }
}

/// The cases of a file once more, on `PostgreSQL`.
macro_rules! on_postgres_too {
    ($($case:ident),+ $(,)?) => {
        mod on_postgres {
            $(#[test]
            fn $case() {
                crate::postgres::with_it(super::$case);
            })+
        }
    };
}
pub(crate) use on_postgres_too;
