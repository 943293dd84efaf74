//! Daemons among each other: what is on a machine that only one daemon reaches, the others ask that one for.
//!
//! `identity` is a daemon's key, `door` where others come in, `roll` who they are, `tape` a request that can be sent once more,
//! `forward` what sends it on, `line` the connection that it goes over, `passed` who asked in the first place. What comes in by
//! this door is never sent on: behind it there is no `forward`.

mod door;
mod forward;
mod identity;
mod line;
mod passed;
mod roll;
mod tape;

use std::sync::Arc;

pub(super) use self::door::{Admission, Entrance};
pub(super) use self::forward::ForwardLayer;

use self::identity::Identity;
use self::line::Lines;
use self::roll::Roll;
use crate::clock::SharedClock;
use crate::store::Store;

/// What a daemon knows of the others.
pub(super) struct Peers {
    roll: Roll,
    lines: Lines,
}

impl Peers {
    /// `identity` is this daemon's own, `machine` the name of its machine.
    fn new(store: Store, clock: SharedClock, machine: String, identity: Arc<Identity>) -> Self {
        Self { roll: Roll::new(store.clone()), lines: Lines::new(store, clock, machine, identity) }
    }
}
