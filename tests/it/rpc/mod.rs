//! The API as clients see it, on a whole daemon.

mod api;
mod daemon;
mod leases;
mod owners;
mod tls;
mod walk;
