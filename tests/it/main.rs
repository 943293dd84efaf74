//! One integration binary: the harness, then a file per area.

#![expect(clippy::unwrap_used, reason = "the helpers of tests may panic as tests do")]

mod place;

mod exec;
mod exec_ends;
mod files;
mod blueprints;
mod cli;
mod exec;
mod exec_ends;
mod place;
mod protocol;
