//! What the claim order is worth: list scheduling of trees of leases, once in root order `(band, ord, depth DESC, id)` and once
//! first in, first out. Both park and wake alike and both are greedy, so every test of correctness passes with either; the
//! second starts every root before it finishes any, and its callers wait. Times are virtual, in milliseconds, and only their
//! proportions mean anything: a host boots for a minute, what is built on it takes seconds.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

/// In which order ready tasks are claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// Oldest root first, deepest task of it first.
    Root,
    /// Whatever became ready first.
    Fifo,
    /// The same, but a worker goes straight on with a child it made or a parent it woke.
    FifoHandOff,
}

/// A task: `before` of work, its children side by side, `after` of work.
#[derive(Clone, Debug, Default)]
struct Task {
    parent: Option<usize>,
    root: usize,
    depth: u64,
    before: u64,
    after: u64,
    children: Vec<usize>,
    open: usize,
    woken: bool,
}

/// Roots with their arrivals, and whether each counts towards the latency.
#[derive(Default)]
struct Load {
    tasks: Vec<Task>,
    arrivals: Vec<(u64, usize)>,
    counted: Vec<usize>,
}

impl Load {
    fn add(&mut self, parent: Option<usize>, before: u64, after: u64) -> usize {
        let id = self.tasks.len();
        let (root, depth) = parent.map_or((id, 0), |p| (self.tasks[p].root, self.tasks[p].depth + 1));
        self.tasks.push(Task { parent, root, depth, before, after, ..Task::default() });
        if let Some(p) = parent {
            self.tasks[p].children.push(id);
            self.tasks[p].open += 1;
        }
        id
    }

    /// A sandbox: a page on storage on a host, a database on storage on another host; seven tasks, four deep.
    fn sandbox(&mut self, at: u64, dice: &mut Dice) {
        let root = self.add(None, 50, dice.between(10_000, 20_000));
        for longest in [8_000, 10_000] {
            let part = self.add(Some(root), 50, 2_000);
            let storage = self.add(Some(part), 50, dice.between(3_000, longest));
            self.add(Some(storage), 50, dice.between(40_000, 80_000));
        }
        self.arrivals.push((at, root));
        self.counted.push(root);
    }

    /// Sandboxes at about `gap` one after the other, and among them long tasks that nobody's latency counts.
    fn generate(sandboxes: u64, gap: u64, long: u64, seed: u64) -> Self {
        let mut dice = Dice(seed);
        let mut load = Self::default();
        for i in 0..sandboxes {
            let at = i * gap + dice.between(0, gap);
            load.sandbox(at, &mut dice);
        }
        for _ in 0..long {
            let at = dice.between(0, sandboxes * gap);
            let root = load.add(None, 0, 600_000);
            load.arrivals.push((at, root));
        }
        load
    }
}

/// A small generator of its own, so that the figures stay the same for ever.
struct Dice(u64);

impl Dice {
    fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        low + (self.0 >> 33) % (high - low + 1)
    }
}

/// What a run gave.
#[derive(Debug)]
struct Outcome {
    /// Mean time from a root's arrival to its end.
    mean: u64,
    /// When the first root ended.
    first: u64,
    /// When everything was done.
    makespan: u64,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrived(usize),
    WorkedBefore(usize),
    WorkedAfter(usize),
}

/// `free` workers over the load.
struct Run<'a> {
    order: Order,
    tasks: Vec<Task>,
    arrived: Vec<u64>,
    ended: Vec<Option<u64>>,
    ready: BTreeSet<(u64, Reverse<u64>, usize)>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    free: usize,
    clock: u64,
    sequence: u64,
    load: &'a Load,
}

impl<'a> Run<'a> {
    fn new(load: &'a Load, order: Order, workers: usize) -> Self {
        let n = load.tasks.len();
        let mut run = Self {
            order,
            tasks: load.tasks.clone(),
            arrived: vec![0; n],
            ended: vec![None; n],
            ready: BTreeSet::new(),
            events: BinaryHeap::new(),
            free: workers,
            clock: 0,
            sequence: 0,
            load,
        };
        for &(at, root) in &load.arrivals {
            run.arrived[root] = at;
            run.after(at, Event::Arrived(root));
        }
        run
    }

    fn after(&mut self, time: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((self.clock + time, self.sequence, event)));
    }

    fn enqueue(&mut self, id: usize) {
        self.sequence += 1;
        let task = &self.tasks[id];
        let key = match self.order {
            Order::Root => (self.arrived[task.root], Reverse(task.depth), id),
            Order::Fifo | Order::FifoHandOff => (self.sequence, Reverse(0), id),
        };
        self.ready.insert(key);
    }

    fn run(mut self) -> Outcome {
        while let Some(Reverse((now, _, event))) = self.events.pop() {
            self.clock = now;
            match event {
                Event::Arrived(id) => self.enqueue(id),
                Event::WorkedBefore(id) if self.tasks[id].open > 0 => {
                    self.free += 1; // parked: its children are tasks now, and the worker is anybody's
                    let children = self.tasks[id].children.clone();
                    self.hand_on(children[0]);
                    for &child in &children[1..] {
                        self.enqueue(child);
                    }
                }
                Event::WorkedBefore(id) => self.after(self.tasks[id].after, Event::WorkedAfter(id)),
                Event::WorkedAfter(id) => self.finish(id),
            }
            while self.free > 0
                && let Some((_, _, id)) = self.ready.pop_first()
            {
                self.start(id);
            }
        }
        self.outcome()
    }

    fn start(&mut self, id: usize) {
        self.free -= 1;
        let task = &self.tasks[id];
        if task.woken {
            self.after(task.after, Event::WorkedAfter(id));
        } else {
            self.after(task.before, Event::WorkedBefore(id));
        }
    }

    /// The worker that is just free has made `id` ready.
    fn hand_on(&mut self, id: usize) {
        if self.order == Order::FifoHandOff {
            self.start(id);
        } else {
            self.enqueue(id);
        }
    }

    fn finish(&mut self, id: usize) {
        self.free += 1;
        self.ended[id] = Some(self.clock);
        if let Some(parent) = self.tasks[id].parent {
            self.tasks[parent].open -= 1;
            if self.tasks[parent].open == 0 {
                self.tasks[parent].woken = true;
                self.hand_on(parent);
            }
        }
    }

    fn outcome(&self) -> Outcome {
        let end = |id: usize| self.ended[id].expect("every task ends: the load has no limits and no cycles");
        let latencies: Vec<u64> = self.load.counted.iter().map(|&root| end(root) - self.arrived[root]).collect();
        let mean = latencies.iter().sum::<u64>() / u64::try_from(latencies.len()).expect("a count fits");
        let first = self.load.counted.iter().map(|&root| end(root)).min().expect("a load has roots");
        Outcome { mean, first, makespan: self.clock }
    }
}

fn run(load: &Load, order: Order, workers: usize) -> Outcome {
    Run::new(load, order, workers).run()
}

#[test]
fn root_order_beats_first_in_first_out_in_mean_latency() {
    for (workers, sandboxes, gap, long) in [(4, 40, 60_000, 20), (16, 200, 12_000, 60)] {
        for seed in 1..=5 {
            let load = Load::generate(sandboxes, gap, long, seed);
            let root = run(&load, Order::Root, workers);
            for order in [Order::Fifo, Order::FifoHandOff] {
                let fifo = run(&load, order, workers);
                let case = format!("{workers} workers, seed {seed}: root order {root:?}, {order:?} {fifo:?}");
                println!("{case}: ratio {}.{:02}", fifo.mean / root.mean, fifo.mean * 100 / root.mean % 100);
                assert!(fifo.mean * 10 >= root.mean * 13, "{case}");
            }
        }
    }
}

/// On trees alone; beside long tasks it may end a few per cent later, as it keeps these waiting for whoever came first.
#[test]
fn root_order_costs_no_throughput() {
    for seed in 1..=5 {
        let load = Load::generate(100, 10_000, 0, seed);
        let (root, fifo) = (run(&load, Order::Root, 8), run(&load, Order::Fifo, 8));
        assert!(root.makespan * 100 <= fifo.makespan * 105, "seed {seed}: root {root:?}, fifo {fifo:?}");
    }
}

#[test]
fn one_worker_finishes_a_root_before_it_starts_the_next() {
    let load = Load::generate(20, 1, 0, 7);
    let (root, fifo) = (run(&load, Order::Root, 1), run(&load, Order::Fifo, 1));
    assert!(root.first * 10 <= root.makespan, "the first of twenty ends early: {root:?}");
    assert!(fifo.first * 10 >= fifo.makespan * 8, "first in, first out ends none early: {fifo:?}");
    assert_eq!(root.makespan, fifo.makespan, "one worker is never idle");
}
