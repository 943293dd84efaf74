//! Blueprints on the real local host, with real git and real sockets. Only the engine is played, by [`Yard`].

mod bare;
mod composites;
mod documents;
mod places;
pub(crate) mod servers;
mod sites;
mod webroots;
mod working_copies;
mod yard;
