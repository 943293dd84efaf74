//! Drydock leases resources: something to hold while they are being allocated, and a way to use them.
//!
//! The modules are listed in reading order. A tour along the way of a lease:
//!
//! 1. [`model`] has the nouns: a [`Lease`](model::Lease) is what a caller holds, a [`Resource`](model::Resource) is what
//!    a [`Blueprint`](model::Blueprint) makes, a [`Task`](model::Task) is the queue's row for one of them. Which state may
//!    follow which is decided here: [`LeaseState::may_become`](model::LeaseState::may_become).
//! 2. [`store`] keeps them: [`Store::write`](store::Store::write) runs a closure in a transaction, and many closures share one
//!    commit.
//! 3. [`scheduler`] decides who works on what: [`Scheduler::drive`](scheduler::Scheduler::drive) lets the caller of a lease
//!    work for it.
//! 4. [`allocator::plan`] decides what a lease gets, or why it waits: a pure function.
//! 5. [`host`] runs commands and holds files on a machine; [`httpd`] runs web servers there.
//! 6. [`blueprint`] makes resources of those, step by step; a step says what it needs instead of waiting for it.
//! 7. [`engine`] joins these: a step of a task looks at its lease or resource and does the next thing.
//! 8. [`interface`] is what an ACTIVE lease is used for; [`rpc`] is the edge where all of it becomes gRPC, and [`cli`] a client
//!    of that.
//!
//! Who may import whom, and what is nowhere: ARCHITECTURE.md.

pub mod clock;
pub mod error;

pub mod metrics;

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

pub mod config;

pub mod rpc;

pub mod cli;
