//! The real daemon, killed: at every commit, and at any time under load. Then it is started again, and goes on. And
//! with a disk that is full.

mod boundaries;
mod daemon;
pub(crate) mod full_disk;
mod load;
mod sites;
