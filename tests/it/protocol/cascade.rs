//! Steps of leases that need other leases: a tree whose root creates its children, a chain, a diamond whose two parents find
//! one pending resource that is there already, and a lease whose capacity never comes and that its client gives up.

use super::model::{Guard, Model, Written, park};
use super::state::{Phase, Plan, State, TASKS, Worker, bits, finish, wake};

/// Who needs whom; all masks have a bit per task.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// What each task waits for.
    pub(super) needs: [u8; TASKS],
    /// What each task creates in its first step, with its edges.
    pub(super) creates: [u8; TASKS],
    /// What is there, and ready, at the start.
    pub(super) ready: u8,
    /// What must be done at the end.
    pub(super) goal: u8,
    /// Cancel commands; here they are part of the way to the end, not a disturbance.
    pub(super) cancels: u8,
}

/// A root and two children which it creates.
pub(super) const TREE: Shape =
    Shape { needs: [0b110, 0, 0], creates: [0b110, 0, 0], ready: 0b001, goal: 0b111, cancels: 0 };
/// A root, its child, its grandchild.
pub(super) const CHAIN: Shape =
    Shape { needs: [0b010, 0b100, 0], creates: [0b010, 0b100, 0], ready: 0b001, goal: 0b111, cancels: 0 };
/// Two leases wait for one resource that somebody else already builds.
pub(super) const DIAMOND: Shape =
    Shape { needs: [0b100, 0b100, 0], creates: [0; 3], ready: 0b111, goal: 0b111, cancels: 0 };
/// A lease waits for what never comes; only the client's cancel ends it, and a cancel changes no awaited row.
pub(super) const GIVEN_UP: Shape =
    Shape { needs: [0b010, 0, 0], creates: [0; 3], ready: 0b001, goal: 0b001, cancels: 1 };

/// What a step decides from the rows as they are now; it holds nothing until it commits.
pub(super) fn read(model: &Model, shape: &Shape, s: &State, t: usize) -> Plan {
    if s.cancelled & (1 << t) != 0 {
        return Plan::Finish;
    }
    if bits(shape.creates[t]).any(|c| s.tasks[c].phase == Phase::Absent) {
        return Plan::Create;
    }
    let pending = shape.needs[t] & !done(s);
    if pending == 0 {
        Plan::Finish
    } else if model.keeps(Guard::LookAtNewOnly) {
        Plan::Park(pending & !s.tasks[t].waits)
    } else {
        Plan::Park(pending)
    }
}

/// What the step's transaction does, its fence already passed.
pub(super) fn write(model: &Model, shape: &Shape, s: &mut State, me: &Worker, plan: Plan) -> Written {
    let t = me.task;
    match plan {
        Plan::Create => {
            for c in bits(shape.creates[t]) {
                if s.tasks[c].phase == Phase::Absent {
                    s.tasks[c].phase = Phase::Ready;
                }
            }
            s.tasks[t].waits |= shape.creates[t];
            if !model.keeps(Guard::Park) {
                return Written::Held(true);
            }
            park(model, s, me);
            Written::Committed(true)
        }
        Plan::Park(look) => {
            if model.keeps(Guard::Look) && look & done(s) != 0 {
                s.tasks[t].phase = Phase::Ready;
                return Written::Committed(true);
            }
            s.tasks[t].waits |= look;
            Written::Committed(park(model, s, me))
        }
        _ => {
            finish(s, t);
            if model.keeps(Guard::WakeInCommit) { Written::Committed(wake(s, t)) } else { Written::WakeOwed }
        }
    }
}

fn done(s: &State) -> u8 {
    (0..TASKS).filter(|&t| s.tasks[t].phase == Phase::Done).fold(0, |mask, t| mask | (1 << t))
}
