//! The part of the protocol that is the same for every scenario: workers, claims, the reaper, kills, notices. What a step
//! reads and writes is in [`super::cascade`] and [`super::pool`].

use std::fmt;

use super::state::{At, FRESH, Phase, Plan, State, TASKS, Task, WORKERS, Worker, bits};
use super::state::{claim, kill, raise, wake};
use super::{cascade, pool};

/// A guard of the protocol; a mutant is the protocol without one.
#[derive(Clone, Copy, Debug)]
#[repr(u16)]
pub(super) enum Guard {
    /// Parking compares `signal` with the value seen at the claim.
    Signal = 1,
    /// Every commit of a step demands its own attempt, still running.
    Fence = 1 << 1,
    /// Parking locks the awaited rows and looks at them again.
    Look = 1 << 2,
    /// A wake is in the transaction of its cause.
    WakeInCommit = 1 << 3,
    /// A worker subscribes to notices before it scans.
    SubscribeFirst = 1 << 4,
    /// A step that must wait parks its task and gives the worker back.
    Park = 1 << 5,
    /// A commit that leaves tasks ready notifies the other workers.
    Notify = 1 << 6,
    /// Who was woken for a slot and does not take it wakes the next.
    Baton = 1 << 7,
    /// A slot is a row with a primary key, not a count read earlier.
    SlotKey = 1 << 8,
    /// A freed slot wakes one waiter, not all.
    WakeOne = 1 << 9,
    /// The look covers only the waits that had no edge yet when the step read: the others are the signal's. The real commit
    /// looks at every awaited row; by default the model gives each guard its own share, so that none hides another's absence.
    LookAtNewOnly = 1 << 10,
}

/// What the commit of a step did.
pub(super) enum Written {
    /// Committed; true if it made a task ready.
    Committed(bool),
    /// Committed the change, the wake of whoever awaits the task is left for a second transaction.
    WakeOwed,
    /// Committed, and the worker keeps its claim.
    Held(bool),
    /// Rolled back by the slot's primary key: plan again under the same claim.
    Refused,
}

/// Which transition it was, for the trace.
#[derive(Clone, Copy, Debug)]
pub(super) enum Label {
    Subscribe(usize),
    Claim(usize, usize),
    FoundNothing(usize),
    Read(usize, usize, Plan),
    Commit(usize, usize, Plan),
    FenceLost(usize, usize),
    LateWake(usize, usize),
    Notify(usize),
    Kill(usize),
    Reap(usize),
    ExpireAlive(usize),
    Cancel(usize),
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Subscribe(w) => write!(f, "worker {w} subscribes"),
            Self::Claim(w, t) => write!(f, "worker {w} claims task {t}"),
            Self::FoundNothing(w) => write!(f, "worker {w} finds nothing ready"),
            Self::Read(w, t, plan) => write!(f, "worker {w} reads for task {t}: {plan:?}"),
            Self::Commit(w, t, plan) => write!(f, "worker {w} commits task {t}: {plan:?}"),
            Self::FenceLost(w, t) => write!(f, "worker {w} is fenced off task {t}"),
            Self::LateWake(w, t) => write!(f, "worker {w} wakes who awaits task {t}"),
            Self::Notify(w) => write!(f, "worker {w} notifies the others"),
            Self::Kill(w) => write!(f, "worker {w} is killed and starts again"),
            Self::Reap(t) => write!(f, "the dead claim on task {t} is reaped"),
            Self::ExpireAlive(t) => write!(f, "the claim on task {t} expires, its owner alive"),
            Self::Cancel(t) => write!(f, "the client cancels task {t}"),
        }
    }
}

/// A transition; a fault is one that progress must not rely on.
pub(super) struct Next {
    pub(super) label: Label,
    pub(super) fault: bool,
    pub(super) state: State,
}

/// What the tasks are for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scenario {
    Cascade(cascade::Shape),
    Pool(pool::Pool),
}

/// A scenario with its bounds and the guards left out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Model {
    pub(super) scenario: Scenario,
    pub(super) workers: usize,
    pub(super) kills: u8,
    pub(super) expiries: u8,
    /// Keep `attempt` as it is, so that claims can be counted; only without faults, as the numbers then stay small.
    pub(super) counting: bool,
    without: u16,
}

impl Model {
    /// The protocol as it is.
    pub(super) fn new(scenario: Scenario, workers: usize, kills: u8, expiries: u8) -> Self {
        assert!((1..=WORKERS).contains(&workers));
        Self { scenario, workers, kills, expiries, counting: false, without: 0 }
    }

    /// The same without one guard.
    #[must_use]
    pub(super) fn without(mut self, guard: Guard) -> Self {
        self.without |= guard as u16;
        self
    }

    /// Whether `guard` is in force.
    pub(super) fn keeps(&self, guard: Guard) -> bool {
        self.without & guard as u16 == 0
    }

    /// The state before anything has happened.
    pub(super) fn start(&self) -> State {
        let absent = Task { phase: Phase::Absent, attempt: 0, signal: 0, orphan: false, waits: 0 };
        let (ready, cancels) = match &self.scenario {
            Scenario::Cascade(shape) => (shape.ready, shape.cancels),
            Scenario::Pool(pool) => (0b111, pool.cancels),
        };
        let mut tasks = [absent; TASKS];
        for t in bits(ready) {
            tasks[t].phase = Phase::Ready;
        }
        let (kills, expiries) = (self.kills, self.expiries);
        State { tasks, workers: [FRESH; WORKERS], kills, expiries, cancels, cancelled: 0, holders: 0, broken: None }
    }

    /// Whether everything that has to be done is done.
    pub(super) fn finished(&self, s: &State) -> bool {
        let goal = match &self.scenario {
            Scenario::Cascade(shape) => shape.goal,
            Scenario::Pool(_) => 0b111,
        };
        bits(goal).all(|t| s.tasks[t].phase == Phase::Done)
    }

    /// The greedy promise: nobody sleeps beside a ready task. A kill may lose a notice, which is the sweep's business, so this
    /// is asked only until the first kill.
    pub(super) fn idles(&self, s: &State) -> bool {
        s.kills == self.kills
            && s.tasks.iter().any(|t| t.phase == Phase::Ready)
            && s.workers[..self.workers].iter().any(|w| w.at == At::Asleep)
            && !s.workers.iter().any(|w| w.dirty)
    }

    /// The normal form of `s` for this model, in one word.
    pub(super) fn pack(&self, s: &State) -> u128 {
        s.pack(self.workers, self.counting)
    }

    /// Every transition out of `s`.
    pub(super) fn successors(&self, s: &State, out: &mut Vec<Next>) {
        for w in 0..self.workers {
            self.worker(s, w, out);
            if s.workers[w].dirty {
                let mut n = *s;
                n.workers[w].dirty = false;
                self.notice(&mut n);
                push(out, Label::Notify(w), n);
            }
            if s.kills > 0 {
                out.push(Next { label: Label::Kill(w), fault: true, state: kill(s, w) });
            }
        }
        for t in 0..TASKS {
            let orphan = s.tasks[t].orphan;
            if s.tasks[t].phase == Phase::Running && (orphan || s.expiries > 0) {
                let mut n = *s;
                n.tasks[t].phase = Phase::Ready;
                n.tasks[t].orphan = false;
                n.expiries -= u8::from(!orphan);
                self.notice(&mut n);
                let label = if orphan { Label::Reap(t) } else { Label::ExpireAlive(t) };
                out.push(Next { label, fault: !orphan, state: n });
            }
            if s.cancels > 0 && cancellable(s, t) {
                let mut n = *s;
                n.cancels -= 1;
                n.cancelled |= 1 << t;
                raise(&mut n, t);
                self.notice(&mut n);
                let fault = matches!(self.scenario, Scenario::Pool(_));
                out.push(Next { label: Label::Cancel(t), fault, state: n });
            }
        }
    }

    fn worker(&self, s: &State, w: usize, out: &mut Vec<Next>) {
        let me = s.workers[w];
        match me.at {
            At::Top => push(out, Label::Subscribe(w), s.with(w, Worker { at: At::Scan, ..me })),
            At::Scan | At::Heard => self.scan(s, w, out),
            At::Late => push(out, Label::Subscribe(w), s.with(w, Worker { at: At::Asleep, ..me })),
            At::Asleep => {}
            At::Reading => {
                let plan = match &self.scenario {
                    Scenario::Cascade(shape) => cascade::read(self, shape, s, me.task),
                    Scenario::Pool(_) => pool::read(s, me.task),
                };
                let waits = matches!(plan, Plan::Park(_));
                if waits && !self.keeps(Guard::Park) {
                    return; // mutant: holds the worker and polls until there is nothing to wait for
                }
                let seen = if waits || plan == Plan::Create { me.seen } else { 0 }; // nobody else compares it
                push(out, Label::Read(w, me.task, plan), s.with(w, Worker { at: At::Acting, seen, plan, ..me }));
            }
            At::Acting => self.commit(s, w, out),
            At::Waking => {
                let mut n = s.with(w, Worker { dirty: me.dirty, ..FRESH });
                let woke = wake(&mut n, me.task);
                n.workers[w].dirty |= woke;
                push(out, Label::LateWake(w, me.task), n);
            }
        }
    }

    fn scan(&self, s: &State, w: usize, out: &mut Vec<Next>) {
        let me = s.workers[w];
        let mut found = false;
        for t in 0..TASKS {
            if s.tasks[t].phase == Phase::Ready {
                found = true;
                let mut n = *s;
                claim(&mut n, w, t);
                push(out, Label::Claim(w, t), n);
            }
        }
        if !found {
            let at = match me.at {
                At::Heard => At::Top,
                _ if self.keeps(Guard::SubscribeFirst) => At::Asleep,
                _ => At::Late,
            };
            push(out, Label::FoundNothing(w), s.with(w, Worker { at, ..me }));
        }
    }

    /// One `commit_step`: fence, write, wake, park, and the claim of the next task. Which ready task the fused claim takes, and
    /// whether it takes one at all (a rival's lock hides a row), is left open: order is no part of safety.
    fn commit(&self, s: &State, w: usize, out: &mut Vec<Next>) {
        let me = s.workers[w];
        let own = s.tasks[me.task].phase == Phase::Running && s.tasks[me.task].attempt == me.attempt;
        if !own && self.keeps(Guard::Fence) {
            push(out, Label::FenceLost(w, me.task), s.with(w, Worker { dirty: me.dirty, ..FRESH }));
            return;
        }
        let mut n = *s;
        let written = match &self.scenario {
            Scenario::Cascade(shape) => cascade::write(self, shape, &mut n, &me, me.plan),
            Scenario::Pool(_) => pool::write(self, &mut n, &me, me.plan),
        };
        let label = Label::Commit(w, me.task, me.plan);
        let (at, woke) = match written {
            Written::Committed(woke) => (At::Top, woke),
            Written::WakeOwed => (At::Waking, false),
            Written::Held(woke) => (At::Reading, woke),
            Written::Refused => (At::Reading, false),
        };
        let woke = woke && self.keeps(Guard::Notify);
        if at != At::Top {
            n.workers[w] = Worker { at, dirty: me.dirty || woke, plan: Plan::Finish, ..me };
            if n.tasks[me.task].phase == Phase::Running {
                // Planning anew starts like a claim: the signal first, then the rows.
                n.workers[w].seen = n.tasks[me.task].signal;
            }
            push(out, label, n);
            return;
        }
        n.workers[w] = Worker { dirty: me.dirty, ..FRESH };
        for t in 0..TASKS {
            if n.tasks[t].phase == Phase::Ready {
                let mut fused = n;
                claim(&mut fused, w, t);
                let left = fused.tasks.iter().any(|t| t.phase == Phase::Ready);
                fused.workers[w].dirty |= woke && left;
                push(out, label, fused);
            }
        }
        n.workers[w].dirty |= woke;
        push(out, label, n);
    }

    /// A NOTIFY reaches every worker that is subscribed at this moment, and nobody else.
    fn notice(&self, s: &mut State) {
        for w in &mut s.workers[..self.workers] {
            match w.at {
                At::Asleep => w.at = At::Top,
                At::Scan if self.keeps(Guard::SubscribeFirst) => w.at = At::Heard,
                _ => {}
            }
        }
    }
}

/// A task whose client may still change its mind: it has not ended, holds no slot and was not cancelled before.
fn cancellable(s: &State, t: usize) -> bool {
    let open = matches!(s.tasks[t].phase, Phase::Ready | Phase::Running | Phase::Parked);
    open && (s.holders | s.cancelled) & (1 << t) == 0
}

/// Gives the claim back, parked unless a signal came since the claim; true if the task is ready at once.
pub(super) fn park(model: &Model, s: &mut State, me: &Worker) -> bool {
    let task = &mut s.tasks[me.task];
    let quiet = task.signal == me.seen || !model.keeps(Guard::Signal);
    task.phase = if quiet { Phase::Parked } else { Phase::Ready };
    !quiet
}

fn push(out: &mut Vec<Next>, label: Label, state: State) {
    out.push(Next { label, fault: false, state });
}
