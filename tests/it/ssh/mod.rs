//! Machines over ssh, each a real sshd on loopback.

mod faults;
pub(crate) mod kit;
mod links;
mod machines;
mod refusals;
mod sessions;
pub(crate) mod sshd;
