//! The real daemon, killed: at every commit, and at any time under load. Then it is started again, and goes on.

mod boundaries;
mod daemon;
mod load;
