//! A machine over ssh: a real sshd on loopback, beside the stock client over a warm master.

mod bulk;
mod exec;
mod faults;
mod machine;

pub(crate) use bulk::measure as bulk;
pub(crate) use exec::measure as exec;
pub(crate) use faults::measure as faults;
