//! One integration binary: the harness, then a file per area.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod blueprints;
