//! Drydock leases resources.

pub mod clock;
pub mod error;
