//! Machines that are reached over ssh.
//!
//! `link` is how channels are opened to a machine (a pool of OpenSSH masters behind it), `files` holds the files over sftp,
//! and what runs there runs under a small POSIX shell wrapper, for which the machine needs nothing but `sh`.

mod clerk;
mod crew;
pub mod host;
mod keeper;
pub mod link;
mod reason;
mod runner;
mod runners;
mod scan;
mod talk;
pub mod target;
mod tree;
mod words;
