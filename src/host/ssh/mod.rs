//! Machines that are reached over ssh.
//!
//! `link` is how channels are opened to a machine, `files` holds the files over sftp, and what runs there runs under a small
//! POSIX shell wrapper, for which the machine needs nothing but `sh`.
//!
//! Behind the seam, [`links::Links`] has one [`masters::Masters`] for each machine: a few OpenSSH masters, started with a
//! configuration that is written for that machine alone, and a pool of places for sessions on them.
//!
//! Before the seam, [`host::SshHost`] has a crew on each machine, all of them shells that stay: a keeper, which is the lifeline
//! of all that runs there, a clerk for small work with folders, and runners, each of which runs one command after the other.

mod channel;
mod clerk;
mod config;
mod crew;
mod failure;
mod files;
mod folder;
pub mod host;
mod keeper;
pub mod keys;
pub mod link;
pub mod links;
mod master;
pub mod masters;
mod pool;
mod reason;
mod room;
mod runner;
mod runners;
mod scan;
pub mod sftp;
mod talk;
pub mod target;
mod tree;
mod versions;
mod words;

pub use self::clerk::free_in;
