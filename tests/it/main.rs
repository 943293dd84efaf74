//! One integration binary: the harness, then a file per area.

mod protocol;
mod place;

mod exec;
mod exec_ends;
mod blueprints;
mod protocol;
