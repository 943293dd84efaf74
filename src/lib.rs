//! Drydock leases resources.

pub mod clock;
pub mod error;
pub mod proto;
