//! Machines that are reached over ssh.
//!
//! `link` is how channels are opened to a machine, `files` holds the files over sftp, and what runs there runs under a small
//! POSIX shell wrapper, for which the machine needs nothing but `sh`.
//!
//! Behind the seam, [`links::Links`] has one [`masters::Masters`] for each machine: a few OpenSSH masters, started with a
//! configuration that is written for that machine alone, and a pool of places for sessions on them.

mod channel;
mod config;
mod failure;
mod files;
mod folder;
pub mod keys;
pub mod link;
pub mod links;
mod master;
pub mod masters;
mod pool;
mod room;
pub mod sftp;
mod subsystem;
pub mod target;
mod versions;
