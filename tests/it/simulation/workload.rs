//! What is asked of the allocator in a simulation: workloads with a name and a story, each made anew from a seed.

use std::time::Duration;

use drydock::model::upkeep::Upkeep;
use drydock::model::{Limits, Shares};
use fastrand::Rng;

use super::stage::{Make, Most, Span, Trouble};

/// What goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Workload {
    Burst,
    Stream,
    Owners,
    Crossing,
    Flapping,
    LongTasks,
    Pool,
    Colours,
    Cascades,
}

impl Workload {
    pub(super) const ALL: [Self; 9] = [
        Self::Burst,
        Self::Stream,
        Self::Owners,
        Self::Crossing,
        Self::Flapping,
        Self::LongTasks,
        Self::Pool,
        Self::Colours,
        Self::Cascades,
    ];

    /// Its story.
    pub(super) const fn about(self) -> &'static str {
        match self {
            Self::Burst => "everybody comes at once for a few boxes that stay, with priorities, and gives them back",
            Self::Stream => {
                "a steady stream for tools; some expire, some lose patience, some cancel, some wait in their call"
            }
            Self::Owners => "two owners, of weights 1 and 3, want far more of one tool than there is",
            Self::Crossing => {
                "trees that take a box and then a jar, or a jar and then a box, or two boxes, and there are few"
            }
            Self::Flapping => "builds that fail now and then, and some that never work, in trees and in a pool",
            Self::LongTasks => "cascades and short errands beside long unrelated tasks that hold their workers",
            Self::Pool => "boxes that are kept ready, asked for in bursts with lulls between them",
            Self::Colours => "leases of two colours take turns on a place or two: room is made, but not for every whim",
            Self::Cascades => "trees of depth three, several at once, some given up half-way",
        }
    }
}

/// How a lease ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Given back so long after it became ACTIVE.
    GivenBack(Duration),
    /// By itself, so long after it became ACTIVE.
    Expires(Duration),
    /// Given back so long after it was asked for, whatever it is then.
    Cancelled(Duration),
}

/// Somebody who wants something.
#[derive(Debug, Clone)]
pub(super) struct Job {
    /// Since the beginning.
    pub(super) at: Duration,
    pub(super) owner: &'static str,
    pub(super) of: &'static str,
    pub(super) priority: i64,
    pub(super) colour: Option<&'static str>,
    pub(super) end: End,
    /// How long he works for it himself, in his call.
    pub(super) wait: Duration,
    pub(super) patience: Option<Duration>,
}

/// What is to happen.
pub(super) struct Plan {
    pub(super) workers: usize,
    pub(super) blueprints: Vec<(&'static Make, Limits)>,
    pub(super) shares: Shares,
    pub(super) jobs: Vec<Job>,
    pub(super) trouble: Trouble,
    /// The daemon dies then, and another begins.
    pub(super) deaths: Vec<Duration>,
    /// The machine stands still then: the wall clock goes on, and whatever was claimed may be taken over.
    pub(super) standstills: Vec<Duration>,
    /// An operator has tasks tried again while they run.
    pub(super) hasty: bool,
    pub(super) sweep: bool,
    /// Types whose leases are served strictly in the order of the queue, and never wait when there is room.
    pub(super) orderly: &'static [&'static str],
}

const STAYS: Make = {
    let mut make = Make::new("box", &[], (200, 4000));
    make.kind.stays = true;
    make.kind.reused_by_attributes = false;
    make.prepare = (0, 300);
    make.clean = (0, 300);
    make.destroy = (0, 500);
    make
};
static BOX: Make = STAYS;
static JAR: Make = {
    let mut make = STAYS;
    make.kind.kind = "jar";
    make.kind.resource_type = "jar";
    make
};
static TOOL: Make = {
    let mut make = Make::new("tool", &[], (0, 0));
    make.kind.stays = true;
    make.kind.reused_by_attributes = false;
    make.kind.instant = true;
    make
};
static PAINT: Make = {
    let mut make = Make::new("paint", &[], (1000, 5000));
    make.kind.stays = true;
    make
};
static ERRAND: Make = Make::new("errand", &[], (500, 1500));
static LONG: Make = Make::new("long", &[], (60_000, 100_000));
static CUP: Make = Make::new("cup", &["mid", "leaf"], (100, 2000));
static MID: Make = Make::new("mid", &["leaf"], (100, 2000));
static LEAF: Make = {
    let mut make = Make::new("leaf", &[], (100, 9000));
    make.clean = (0, 200);
    make
};
static THERE: Make = in_turn("there", &["box", "jar"]);
static BACK: Make = in_turn("back", &["jar", "box"]);
static PAIR: Make = in_turn("pair", &["box", "box"]);

const fn in_turn(name: &'static str, needs: &'static [&'static str]) -> Make {
    let mut make = Make::new(name, needs, (100, 1000));
    make.in_turn = true;
    make
}

fn seconds(dice: &mut Rng, span: Span) -> Duration {
    Duration::from_millis(dice.u64(span.0 * 1000..=span.1 * 1000))
}

fn limits(resources: i64, leases: i64) -> Limits {
    Limits {
        max_resources: Some(resources),
        leases_per_resource: Some(leases),
        shared: true,
        upkeep: Upkeep { idle_ttl: Some(40_000_000), ..Upkeep::default() },
        ..Limits::default()
    }
}

const OWNERS: [&str; 3] = ["ann", "ben", "cat"];

impl Job {
    fn new(dice: &mut Rng, at: Duration, of: &'static str) -> Self {
        let owner = OWNERS[dice.usize(..OWNERS.len())];
        let end = End::GivenBack(seconds(dice, (0, 12)));
        Self { at, owner, of, priority: 0, colour: None, end, wait: Duration::ZERO, patience: None }
    }
}

impl Plan {
    pub(super) fn new(workload: Workload, dice: &mut Rng) -> Self {
        let mut plan = Self {
            workers: dice.usize(1..=4),
            blueprints: Vec::new(),
            shares: Shares::default(),
            jobs: Vec::new(),
            trouble: Trouble::default(),
            deaths: Vec::new(),
            standstills: Vec::new(),
            hasty: false,
            sweep: dice.bool(),
            orderly: &[],
        };
        match workload {
            Workload::Burst => plan.burst(dice),
            Workload::Stream => plan.stream(dice),
            Workload::Owners => plan.owners(dice),
            Workload::Crossing => plan.crossing(dice),
            Workload::Flapping => plan.flapping(dice),
            Workload::LongTasks => plan.long_tasks(dice),
            Workload::Pool => plan.pool(dice),
            Workload::Colours => plan.colours(dice),
            Workload::Cascades => plan.cascades(dice),
        }
        plan.bad_luck(workload, dice);
        plan
    }

    /// What each blueprint may have.
    pub(super) fn most(&self) -> impl Iterator<Item = (&'static str, Most)> {
        let count = |limit: Option<i64>| usize::try_from(limit.unwrap_or(i64::MAX)).unwrap_or(usize::MAX);
        self.blueprints.iter().map(move |(make, limits)| {
            let (resources, leases) = (limits.max_resources, limits.leases_per_resource.or(Some(1)));
            (make.kind.kind, Most { resources: count(resources), leases: count(leases) })
        })
    }

    /// Whether a job may get something that another one left when the daemon died, out of its turn.
    pub(super) fn is_disturbed(&self) -> bool {
        !self.deaths.is_empty() || !self.standstills.is_empty()
    }

    fn burst(&mut self, dice: &mut Rng) {
        self.blueprints.push((&BOX, limits(dice.i64(1..=3), dice.i64(1..=2))));
        self.orderly = &["box"];
        for _ in 0..dice.usize(3..=6) {
            let at = Duration::from_millis(dice.u64(..40));
            let mut job = Job::new(dice, at, "box");
            job.priority = dice.i64(-5..=5);
            self.jobs.push(job);
        }
    }

    fn stream(&mut self, dice: &mut Rng) {
        self.blueprints.push((&TOOL, limits(dice.i64(1..=2), dice.i64(1..=2))));
        self.orderly = &["tool"];
        let mut at = Duration::ZERO;
        for _ in 0..dice.usize(4..=7) {
            at += seconds(dice, (0, 4));
            let mut job = Job::new(dice, at, "tool");
            let span = seconds(dice, (1, 12));
            match dice.u8(..8) {
                0 => job.end = End::Expires(span),
                1 => job.end = End::Cancelled(span),
                2 => job.patience = Some(span),
                3 | 4 => job.wait = span,
                _ => {}
            }
            self.jobs.push(job);
        }
    }

    fn owners(&mut self, dice: &mut Rng) {
        self.blueprints.push((&TOOL, limits(1, 1)));
        self.orderly = &["tool"];
        self.shares = Shares::parse(&["heavy weight=3", "light weight=1"]).unwrap();
        for number in 0..10 {
            let owner = if number % 2 == 0 { "heavy" } else { "light" };
            let (at, end) = (Duration::from_millis(dice.u64(..30)), End::GivenBack(seconds(dice, (1, 4))));
            self.jobs.push(Job { owner, end, ..Job::new(dice, at, "tool") });
        }
    }

    fn crossing(&mut self, dice: &mut Rng) {
        let (boxes, jars) = (dice.i64(2..=3), dice.i64(1..=2));
        self.blueprints = vec![(&BOX, limits(boxes, 1)), (&JAR, limits(jars, 1))];
        for make in [&THERE, &BACK, &PAIR] {
            self.blueprints.push((make, Limits::default()));
        }
        for _ in 0..dice.usize(2..=3) {
            let (at, of) = (seconds(dice, (0, 3)), ["there", "back", "pair"][dice.usize(..3)]);
            self.jobs.push(Job::new(dice, at, of));
        }
    }

    fn flapping(&mut self, dice: &mut Rng) {
        self.trouble = Trouble { stumbles: dice.u64(5..=40), refusals: dice.u64(..=4), sticks: dice.u64(..=20) };
        self.blueprints = vec![(&BOX, limits(dice.i64(1..=2), 1))];
        for make in [&MID, &LEAF] {
            self.blueprints.push((make, Limits::default()));
        }
        for _ in 0..dice.usize(2..=4) {
            let (at, of) = (seconds(dice, (0, 20)), ["box", "box", "mid", "leaf"][dice.usize(..4)]);
            let mut job = Job::new(dice, at, of);
            job.patience = dice.bool().then_some(Duration::from_mins(4));
            self.jobs.push(job);
        }
    }

    fn long_tasks(&mut self, dice: &mut Rng) {
        self.workers = dice.usize(2..=4);
        for make in [&ERRAND, &LONG, &MID, &LEAF] {
            self.blueprints.push((make, Limits::default()));
        }
        for _ in 0..dice.usize(2..=4) {
            let (at, of) = (seconds(dice, (0, 15)), ["errand", "errand", "mid", "long"][dice.usize(..4)]);
            self.jobs.push(Job::new(dice, at, of));
        }
    }

    fn pool(&mut self, dice: &mut Rng) {
        let (ready, most) = (dice.i64(1..=2), dice.i64(2..=4));
        let mut limits = limits(most.max(ready), 1);
        limits.upkeep.min_ready = ready;
        limits.upkeep.shrink_delay = Some(60_000_000);
        self.blueprints.push((&BOX, limits));
        let mut at = seconds(dice, (0, 10));
        for _ in 0..dice.usize(1..=2) {
            for _ in 0..dice.usize(1..=3) {
                at += Duration::from_millis(dice.u64(..500));
                self.jobs.push(Job::new(dice, at, "box"));
            }
            at += seconds(dice, (30, 90));
        }
    }

    fn colours(&mut self, dice: &mut Rng) {
        let mut limits = limits(dice.i64(1..=2), 1);
        limits.upkeep.idle_ttl = Some(400_000_000);
        self.blueprints.push((&PAINT, limits));
        let mut at = Duration::ZERO;
        for _ in 0..dice.usize(2..=4) {
            let mut job = Job::new(dice, at, "paint");
            job.colour = Some(["red", "blue"][dice.usize(..2)]);
            self.jobs.push(job);
            at += seconds(dice, (0, 40));
        }
    }

    fn cascades(&mut self, dice: &mut Rng) {
        for make in [&CUP, &MID, &LEAF] {
            self.blueprints.push((make, Limits::default()));
        }
        for _ in 0..dice.usize(1..=2) {
            let at = seconds(dice, (0, 10));
            let mut job = Job::new(dice, at, "cup");
            match dice.u8(..6) {
                0 => job.end = End::Cancelled(seconds(dice, (0, 15))),
                1 => job.wait = seconds(dice, (1, 30)),
                _ => {}
            }
            self.jobs.push(job);
        }
    }

    /// All come nearly at once, and some more: those of one colour wait behind those of another.
    fn crowd(&mut self, dice: &mut Rng) {
        for job in &mut self.jobs {
            job.at /= 10;
        }
        for _ in 0..3 {
            let at = seconds(dice, (0, 6));
            let colour = Some(["red", "blue"][dice.usize(..2)]);
            self.jobs.push(Job { colour, ..Job::new(dice, at, "paint") });
        }
    }

    /// Daemons die, machines stand still, and operators are hasty, in some seeds.
    fn bad_luck(&mut self, workload: Workload, dice: &mut Rng) {
        match dice.u8(..10) {
            0 | 1 => {
                let times = dice.usize(1..=2);
                self.deaths = (0..times).map(|_| Duration::from_millis(dice.u64(1..20_000))).collect();
                self.deaths.sort();
                self.deaths.dedup();
            }
            2 if workload != Workload::Colours => {
                self.sweep = true;
                self.standstills = vec![Duration::from_millis(dice.u64(500..20_000))];
            }
            3 => self.hasty = true,
            4..=6 if workload == Workload::Colours => self.crowd(dice),
            _ => {}
        }
    }
}
