//! One integration binary: the harness, then a file per area.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod blueprints;
mod cli;
mod exec;
mod exec_ends;
mod place;
mod protocol;
