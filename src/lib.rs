//! Drydock leases resources.

// In reading order: nouns, what keeps them, who works on them, how they are built, how they are used, how they are asked for.
pub mod clock;
pub mod error;
pub mod model;

pub mod store;

pub mod scheduler;

pub mod allocator;

pub mod host;

pub mod httpd;

pub mod blueprint;

pub mod engine;

pub mod interface;

pub mod proto;

pub mod rpc;

pub mod config;

pub mod cli;
