//! One integration binary: the harness, then a file per area.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod authority;
mod blueprints;
mod boxes;
mod chaos;
mod cli;
mod end_to_end;
mod eta;
mod exec;
mod exec_ends;
mod files;
mod fire;
mod harness;
mod host;
mod metrics;
mod operations;
mod peers;
mod place;
mod pools;
mod postgres;
mod protocol;
mod queue;
mod rpc;
mod sftp;
mod simulation;
mod ssh;
mod store;
mod telemetry;
mod tidy;
mod traces;
mod web_servers;
