//! The real engine on a real file, with scripted blueprints, a clock that is turned by hand, and the sweep switched off: what
//! is not woken by the change that concerns it is never woken.

mod asking;
mod calls;
pub(crate) mod capacity;
mod cascades;
mod choice;
mod ending;
mod failing;
mod gangs;
pub(crate) mod invariants;
pub(crate) mod kit;
mod limits;
mod order;
mod overtaken;
mod shares;
mod wakes;
mod world;
