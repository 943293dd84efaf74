//! One integration binary: the harness, then a file per area.

mod blueprints;
mod cli;
mod end_to_end;
mod exec;
mod exec_ends;
mod files;
mod place;
mod protocol;
