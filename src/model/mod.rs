//! The nouns and their state machines: pure, no I/O, no async.

pub mod filter;
