//! One integration binary: the harness, then a file per area.

mod blueprints;
mod cli;
mod protocol;
