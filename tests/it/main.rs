//! One integration binary: the harness, then a file per area.

#![expect(clippy::unwrap_used, reason = "the helpers of tests may panic as tests do")]

mod blueprints;
mod cli;
mod exec;
mod exec_ends;
mod files;
mod peers;
mod place;
mod protocol;
mod tidy;
