//! The state of the model: task rows, workers, the bounds still open; what wakes, claims and kills do to it; and its packing
//! into one word.

/// Rows of the task table in every scenario; unused ones stay absent.
pub(super) const TASKS: usize = 3;
/// Most workers; each is a daemon of its own, which is harder than several workers in one.
pub(super) const WORKERS: usize = 3;

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// Nothing can move, short of another fault.
    Stuck,
    /// Things move, but the end is out of reach.
    NeverDone,
    /// A task was finished twice.
    DoubleCommit,
    /// Two leases hold the one slot.
    SlotTwice,
    /// A worker sleeps beside a ready task and no notice is on its way.
    Idle,
}

/// State column of a task row; `Absent` is no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Absent,
    Ready,
    Running,
    Parked,
    Done,
}

/// A task row with its wait edges.
#[derive(Clone, Copy, Debug)]
pub(super) struct Task {
    /// Its state.
    pub(super) phase: Phase,
    /// Fencing token of the claim: one more per claim.
    pub(super) attempt: u8,
    /// Eventcount: one more per wake.
    pub(super) signal: u8,
    /// Running, but its owner was killed.
    pub(super) orphan: bool,
    /// Bit per awaited subject.
    pub(super) waits: u8,
}

/// Where a worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum At {
    /// Top of the loop, not subscribed.
    Top,
    /// Subscribed, about to scan.
    Scan,
    /// The same, and a notice came since.
    Heard,
    /// Mutant only: scanned in vain, not yet subscribed.
    Late,
    Asleep,
    /// Holds a claim, about to read its subject.
    Reading,
    /// Has read and decided; the commit is next.
    Acting,
    /// Mutant only: committed, the wake still to come.
    Waking,
}

/// What a step decided from what it read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Commit the end of the task.
    Finish,
    /// Create the sub-leases with their tasks and edges, and park.
    Create,
    /// Park; the mask names the awaited subjects to be looked at again.
    Park(u8),
    /// Insert the slot row.
    Take,
    /// Delete the slot row and end.
    Free,
}

/// A worker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Worker {
    /// Its place in the loop.
    pub(super) at: At,
    /// The claimed task, if any.
    pub(super) task: usize,
    /// The claim's fencing token.
    pub(super) attempt: u8,
    /// The task's signal at the claim.
    pub(super) seen: u8,
    /// What the step decided.
    pub(super) plan: Plan,
    /// A notice of its last commit has not gone out yet: it is coalesced, outside the transaction, and a kill loses it.
    pub(super) dirty: bool,
}

/// A worker just started.
pub(super) const FRESH: Worker = Worker { at: At::Top, task: 0, attempt: 0, seen: 0, plan: Plan::Finish, dirty: false };

/// The database and all processes at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct State {
    /// The task table.
    pub(super) tasks: [Task; TASKS],
    /// All workers; those beyond the model's number never move.
    pub(super) workers: [Worker; WORKERS],
    /// kill -9 still allowed.
    pub(super) kills: u8,
    /// Expiries of a live worker's claim still allowed.
    pub(super) expiries: u8,
    /// Cancel commands still to come.
    pub(super) cancels: u8,
    /// Bit per task that was cancelled.
    pub(super) cancelled: u8,
    /// Bit per task that holds the slot.
    pub(super) holders: u8,
    /// Set by the transition that broke an invariant; such a state is never stored.
    pub(super) broken: Option<Broken>,
}

impl State {
    /// The same with one worker changed.
    pub(super) fn with(&self, w: usize, worker: Worker) -> Self {
        let mut n = *self;
        n.workers[w] = worker;
        n
    }

    /// Claims made so far: the sum of all attempts.
    pub(super) fn claims(&self) -> u32 {
        self.tasks.iter().map(|t| u32::from(t.attempt)).sum()
    }

    /// The state in 109 bits and a normal form. Workers are sorted: they are interchangeable. Of `attempt` and `signal` only
    /// equality with the task's present value matters, and what once was stale stays so: present is 1, stale is 0.
    pub(super) fn pack(&self, workers: usize, counting: bool) -> u128 {
        let mut normal = *self;
        for w in &mut normal.workers[..workers] {
            let claims = matches!(w.at, At::Reading | At::Acting);
            w.seen = u8::from(claims && w.seen == self.tasks[w.task].signal);
            if !counting {
                w.attempt = u8::from(claims && w.attempt == self.tasks[w.task].attempt);
            }
        }
        for t in &mut normal.tasks {
            t.signal = 1;
            if !counting {
                t.attempt = 1;
            }
        }
        let mut to = Packer(0);
        for t in &normal.tasks {
            to.put(t.phase as u8, 3);
            to.put(t.attempt, 4);
            to.put(t.signal, 3);
            to.put(u8::from(t.orphan), 1);
            to.put(t.waits, 3);
        }
        to.put(normal.kills, 2);
        to.put(normal.expiries, 1);
        to.put(normal.cancels, 1);
        to.put(normal.cancelled, 3);
        to.put(normal.holders, 3);
        let mut words = [0_u128; WORKERS];
        for (word, worker) in words.iter_mut().zip(&normal.workers) {
            *word = worker.pack();
        }
        words[..workers].sort_unstable();
        for word in words {
            to.0 = (to.0 << Worker::BITS) | word;
        }
        to.0
    }

    /// The inverse of [`State::pack`].
    pub(super) fn unpack(packed: u128) -> Self {
        let mut from = Packer(packed);
        let mut workers = [FRESH; WORKERS];
        for worker in workers.iter_mut().rev() {
            *worker = Worker::unpack(&mut from);
        }
        let holders = from.take(3);
        let cancelled = from.take(3);
        let cancels = from.take(1);
        let expiries = from.take(1);
        let kills = from.take(2);
        let mut tasks = [Task { phase: Phase::Absent, attempt: 0, signal: 0, orphan: false, waits: 0 }; TASKS];
        for t in tasks.iter_mut().rev() {
            t.waits = from.take(3);
            t.orphan = from.take(1) == 1;
            t.signal = from.take(3);
            t.attempt = from.take(4);
            t.phase =
                [Phase::Absent, Phase::Ready, Phase::Running, Phase::Parked, Phase::Done][usize::from(from.take(3))];
        }
        State { tasks, workers, kills, expiries, cancels, cancelled, holders, broken: None }
    }
}

impl Worker {
    const BITS: u32 = 19;

    fn pack(&self) -> u128 {
        let (plan, mask) = match self.plan {
            Plan::Finish => (0, 0),
            Plan::Create => (1, 0),
            Plan::Park(mask) => (2, mask),
            Plan::Take => (3, 0),
            Plan::Free => (4, 0),
        };
        let mut to = Packer(0);
        to.put(self.at as u8, 3);
        to.put(self.task.to_le_bytes()[0], 2);
        to.put(self.attempt, 4);
        to.put(self.seen, 3);
        to.put(plan, 3);
        to.put(mask, 3);
        to.put(u8::from(self.dirty), 1);
        to.0
    }

    fn unpack(from: &mut Packer) -> Self {
        let dirty = from.take(1) == 1;
        let mask = from.take(3);
        let plan = [Plan::Finish, Plan::Create, Plan::Park(mask), Plan::Take, Plan::Free][usize::from(from.take(3))];
        let seen = from.take(3);
        let attempt = from.take(4);
        let task = usize::from(from.take(2));
        let places = [At::Top, At::Scan, At::Heard, At::Late, At::Asleep, At::Reading, At::Acting, At::Waking];
        Worker { at: places[usize::from(from.take(3))], task, attempt, seen, plan, dirty }
    }
}

/// A stack of small numbers in one word.
struct Packer(u128);

impl Packer {
    fn put(&mut self, value: u8, width: u32) {
        assert!(value >> width == 0, "{value} does not fit {width} bits: the model counts further than it should");
        self.0 = (self.0 << width) | u128::from(value);
    }

    fn take(&mut self, width: u32) -> u8 {
        let low = self.0.to_le_bytes()[0] & ((1 << width) - 1);
        self.0 >>= width;
        low
    }
}

/// The tasks named by a mask.
pub(super) fn bits(mask: u8) -> impl Iterator<Item = usize> {
    (0..TASKS).filter(move |t| mask & (1 << t) != 0)
}

/// `signal + 1`, and parked becomes ready; true if it did.
pub(super) fn raise(s: &mut State, t: usize) -> bool {
    let task = &mut s.tasks[t];
    task.signal += 1;
    let parked = task.phase == Phase::Parked;
    if parked {
        task.phase = Phase::Ready;
    }
    parked
}

/// Wakes every task with an edge to `subject` and takes the edges away; true if one became ready.
pub(super) fn wake(s: &mut State, subject: usize) -> bool {
    let mut woke = false;
    for t in 0..TASKS {
        if s.tasks[t].waits & (1 << subject) != 0 {
            s.tasks[t].waits &= !(1 << subject);
            woke |= raise(s, t);
        }
    }
    woke
}

/// The end of a task, which must come once.
pub(super) fn finish(s: &mut State, t: usize) {
    if s.tasks[t].phase == Phase::Done {
        s.broken = Some(Broken::DoubleCommit);
    }
    s.tasks[t].phase = Phase::Done;
    s.tasks[t].waits = 0;
}

/// A claim: running, one attempt more, the signal noted.
pub(super) fn claim(s: &mut State, w: usize, t: usize) {
    let task = &mut s.tasks[t];
    task.phase = Phase::Running;
    task.orphan = false;
    task.attempt += 1;
    let (attempt, seen) = (task.attempt, task.signal);
    s.workers[w] = Worker { at: At::Reading, task: t, attempt, seen, plan: Plan::Finish, dirty: s.workers[w].dirty };
}

/// kill -9 and a restart: everything in the process is gone, a claim it held stays behind without an owner.
pub(super) fn kill(s: &State, w: usize) -> State {
    let me = s.workers[w];
    let mut n = s.with(w, FRESH);
    n.kills -= 1;
    let task = &mut n.tasks[me.task];
    if matches!(me.at, At::Reading | At::Acting) && task.phase == Phase::Running && task.attempt == me.attempt {
        task.orphan = true;
    }
    n
}
