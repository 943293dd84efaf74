//! Drydock leases resources.

pub mod clock;
pub mod error;
pub mod model;
pub mod proto;
pub mod rpc;
