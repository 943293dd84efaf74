//! Steps of three leases that want the one slot of a pool: take it, use it, free it, and wake the next. A waiter may be
//! cancelled at any moment, also after it was chosen and before it came to take the slot.

use super::model::{Guard, Model, Written, park};
use super::state::{Broken, Phase, Plan, State, TASKS, Worker, finish, raise};

/// The pool's own row, as the subject of wait edges.
const POOL: u8 = 1;

/// The disturbance allowed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pool {
    /// Waiters that their clients may cancel.
    pub(super) cancels: u8,
}

/// What a step decides from the rows as they are now.
pub(super) fn read(s: &State, t: usize) -> Plan {
    if s.holders & (1 << t) != 0 {
        Plan::Free
    } else if s.cancelled & (1 << t) != 0 {
        Plan::Finish
    } else if s.holders == 0 {
        Plan::Take
    } else {
        Plan::Park(POOL)
    }
}

/// What the step's transaction does, its fence already passed.
pub(super) fn write(model: &Model, s: &mut State, me: &Worker, plan: Plan) -> Written {
    let t = me.task;
    match plan {
        Plan::Take => {
            if s.holders != 0 && model.keeps(Guard::SlotKey) {
                return Written::Refused;
            }
            s.holders |= 1 << t;
            if s.holders.count_ones() > 1 {
                s.broken = Some(Broken::SlotTwice);
            }
            s.tasks[t].phase = Phase::Ready; // its client is quick: the release is already there
            s.tasks[t].waits = 0;
            Written::Committed(true)
        }
        Plan::Free => {
            finish(s, t);
            s.holders = 0;
            Written::Committed(wake(model, s))
        }
        Plan::Park(_) => {
            if model.keeps(Guard::Look) && s.holders == 0 {
                s.tasks[t].phase = Phase::Ready;
                return Written::Committed(true);
            }
            s.tasks[t].waits |= POOL;
            Written::Committed(park(model, s, me))
        }
        Plan::Finish | Plan::Create => {
            finish(s, t);
            let pass = s.holders == 0 && model.keeps(Guard::Baton);
            Written::Committed(pass && wake(model, s))
        }
    }
}

/// Wakes the first waiter, or all of them; true if one became ready.
fn wake(model: &Model, s: &mut State) -> bool {
    let mut woke = false;
    for t in 0..TASKS {
        if s.tasks[t].waits & POOL != 0 {
            s.tasks[t].waits &= !POOL;
            woke |= raise(s, t);
            if model.keeps(Guard::WakeOne) {
                break;
            }
        }
    }
    woke
}
