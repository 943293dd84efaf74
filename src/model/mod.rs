//! The nouns and their state machines: pure, no I/O, no async.
//!
//! Times are [`Micros`](crate::clock::Micros) since the epoch. A lease is something to hold while resources are being
//! allocated; a resource is a thing put somewhere; a blueprint knows how to make one; a task is the queue's row for a
//! lease or a resource that has something to do.

pub mod blueprint;
pub mod event;
pub mod filter;
pub mod id;
pub mod kind;
pub mod labels;
pub mod lease;
pub mod pool;
pub mod resource;
pub mod share;
pub mod slot;
pub mod task;

pub use blueprint::{Blueprint, Limits, Placement};
pub use event::{Event, NewEvent};
pub use kind::{Field, FieldType, Kind};
pub use labels::StringMap;
pub use lease::{Lease, LeaseSpec, LeaseState, Waiting};
pub use resource::{Drain, Resource, ResourceState};
pub use share::{Share, Shares};
pub use task::{Task, TaskState};
