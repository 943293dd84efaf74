//! One integration binary: the harness, then a file per area.

mod place;

mod exec;
mod exec_ends;
