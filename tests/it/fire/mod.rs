//! Four real daemons of four workers each on one `PostgreSQL`, a hundred callers, and things that go wrong all the time. Judged by
//! what happened on the machines that were leased, as a separate process was told of it.
//!
//! `DRYDOCK_FIRE_SEED` chooses what goes wrong; each run prints its own. `make soak` lets it go on for as long as one likes.

mod clients;
mod daemon;
mod fleet;
mod journal;
mod mutants;
mod nemesis;
mod proxy;
mod races;
mod server;
mod silence;
mod storm;
