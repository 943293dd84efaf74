//! What the blueprints of a simulation act on: nothing but time goes by, and a journal tells what must not be.
//!
//! How long a call takes and whether it works is a matter of the seed and of the name of what it is for, not of the order of
//! the calls: two orders of the same work have the same work to do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use drydock::blueprint::{Blueprint, Context, Endpoint, Need, Step};
use drydock::model::{Field, FieldType, Kind, LeaseSpec, StringMap};
use fastrand::Rng;
use serde_json::Value;

/// The attribute by which a lease and all that is made for it are known.
pub(crate) const NAME: &str = "n";
/// The attribute in which resources may differ.
pub(crate) const COLOUR: &str = "colour";
const ATTRIBUTES: &[Field] = &[
    Field::optional(NAME, FieldType::Text, "What it is known by."),
    Field::optional(COLOUR, FieldType::Text, "A coat of paint."),
];

/// The fact by which try something came to be.
pub(super) const TRY: &str = "try";

/// Milliseconds, from and to.
pub(crate) type Span = (u64, u64);

/// A kind: what it needs, and how long its calls take.
pub(crate) struct Make {
    pub(crate) kind: Kind,
    pub(crate) needs: &'static [&'static str],
    /// It asks for a need when it has those before it.
    pub(crate) in_turn: bool,
    pub(crate) build: Span,
    pub(crate) prepare: Span,
    pub(crate) clean: Span,
    pub(crate) destroy: Span,
}

impl Make {
    /// Dies with its last lease, and takes no time but for its building.
    pub(crate) const fn new(name: &'static str, needs: &'static [&'static str], build: Span) -> Self {
        let kind = Kind {
            kind: name,
            resource_type: name,
            interfaces: &["command"],
            needs: &[],
            config: &[],
            attributes: ATTRIBUTES,
            leases_per_resource: 1,
            max_resources: None,
            rank: 0,
            stays: false,
            reused_by_attributes: true,
            instant: false,
            registration: None,
        };
        Self { kind, needs, in_turn: false, build, prepare: (0, 0), clean: (0, 0), destroy: (0, 0) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Build,
    Prepare,
    Clean,
    Destroy,
}

/// Of a hundred calls, so many do not work.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Trouble {
    /// Building and setting up: it may work the next time.
    pub(crate) stumbles: u64,
    /// Building: it never will.
    pub(crate) refusals: u64,
    /// Cleaning up and taking down: it may work the next time.
    pub(crate) sticks: u64,
}

/// Resources at most, and leases on each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Most {
    pub(crate) resources: usize,
    pub(crate) leases: usize,
}

#[derive(Default)]
struct Journal {
    /// What is there, of which kind: from the begin of its building to the end of its taking down.
    things: BTreeMap<String, &'static str>,
    /// Leases that are set up, and on what.
    set_up: BTreeMap<String, String>,
    /// Calls that run: their subjects, by number.
    under_way: BTreeMap<u64, String>,
    /// Of those, the ones that others may have taken over.
    ghosts: BTreeSet<u64>,
    calls: u64,
    /// Subjects whose next call is one of those.
    doomed: BTreeSet<String>,
    tries: BTreeMap<String, u64>,
    complaints: Vec<String>,
}

/// Where it all takes place.
pub(crate) struct Stage {
    pub(crate) seed: u64,
    /// How long a second of the story takes.
    pub(crate) second: Duration,
    pub(crate) trouble: Trouble,
    pub(crate) most: BTreeMap<&'static str, Most>,
    /// Somebody may go on for a while with what he has lost.
    pub(crate) haunted: bool,
    journal: Mutex<Journal>,
}

/// A call that runs, as long as this lives.
struct UnderWay<'s> {
    stage: &'s Stage,
    number: u64,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut journal = self.stage.journal.lock().unwrap();
        journal.under_way.remove(&self.number);
        journal.ghosts.remove(&self.number);
    }
}

impl Stage {
    pub(crate) fn new(seed: u64, second: Duration) -> Self {
        let (trouble, most, journal) = (Trouble::default(), BTreeMap::new(), Mutex::default());
        Self { seed, second, trouble, most, haunted: false, journal }
    }

    /// What must not have been.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.journal.lock().unwrap().complaints.clone()
    }

    /// Calls that run.
    pub(crate) fn under_way(&self) -> usize {
        self.journal.lock().unwrap().under_way.len()
    }

    /// Whoever works on one of these now may go on for a while, or begin, beside somebody who takes it over.
    pub(crate) fn excuse(&self, claimed: Vec<String>) {
        let mut journal = self.journal.lock().unwrap();
        journal.ghosts = journal.under_way.keys().copied().collect();
        let at_work: BTreeSet<&String> = journal.under_way.values().collect();
        let doomed = claimed.into_iter().filter(|subject| !at_work.contains(subject)).collect();
        journal.doomed = doomed;
    }

    /// What is there, and what is set up.
    pub(crate) fn left(&self) -> Vec<String> {
        let journal = self.journal.lock().unwrap();
        journal.things.keys().chain(journal.set_up.keys()).cloned().collect()
    }

    fn dice(&self, words: [&str; 3], tries: u64) -> Rng {
        let mut mixed = 0xcbf2_9ce4_8422_2325 ^ self.seed ^ tries.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for byte in words.iter().flat_map(|word| word.bytes().chain([0])) {
            mixed = (mixed ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Rng::with_seed(mixed)
    }

    fn begin(&self, kind: &'static str, phase: Phase, subject: &str, on: &str) -> UnderWay<'_> {
        let mut journal = self.journal.lock().unwrap();
        journal.calls += 1;
        let number = journal.calls;
        journal.under_way.insert(number, subject.to_owned());
        if journal.doomed.remove(subject) {
            journal.ghosts.insert(number);
        }
        let mut wrong = Vec::new();
        let same = journal.under_way.iter().filter(|(_, of)| *of == subject);
        if same.filter(|(number, _)| !journal.ghosts.contains(number)).count() > 1 {
            wrong.push(format!("{subject} is worked on by two at once"));
        }
        let most = self.most.get(kind);
        match phase {
            Phase::Build => {
                journal.things.insert(on.to_owned(), kind);
                let there = journal.things.values().filter(|of| **of == kind).count();
                if most.is_some_and(|most| there > most.resources) {
                    wrong.push(format!("{there} of {kind} are there"));
                }
            }
            Phase::Prepare => {
                if !journal.things.contains_key(on) {
                    wrong.push(format!("{subject} is set up on {on}, which is not there"));
                }
                journal.set_up.insert(subject.to_owned(), on.to_owned());
                let there = journal.set_up.values().filter(|of| *of == on).count();
                if most.is_some_and(|most| there > most.leases) {
                    wrong.push(format!("{there} leases are set up on {on}"));
                }
            }
            Phase::Clean => {}
            Phase::Destroy => {
                if journal.set_up.values().any(|of| of == on) && !self.haunted {
                    wrong.push(format!("{on} is taken down under a lease"));
                }
            }
        }
        journal.complaints.extend(wrong);
        UnderWay { stage: self, number }
    }

    fn end(&self, phase: Phase, subject: &str) {
        let mut journal = self.journal.lock().unwrap();
        match phase {
            Phase::Clean => journal.set_up.remove(subject).map(drop),
            Phase::Destroy => journal.things.remove(subject).map(drop),
            Phase::Build | Phase::Prepare => None,
        };
    }

    /// Whether a later try had begun when this one brought something about: then somebody else had taken it over.
    pub(super) fn is_overtaken(&self, subject: &str, by: u64) -> bool {
        let journal = self.journal.lock().unwrap();
        let last = |phase: Phase| journal.tries.get(&format!("{phase:?} {subject}")).copied();
        [Phase::Build, Phase::Prepare].into_iter().filter_map(last).any(|last| last > by)
    }

    fn tries(&self, phase: Phase, subject: &str) -> u64 {
        let mut journal = self.journal.lock().unwrap();
        let tries = journal.tries.entry(format!("{phase:?} {subject}")).or_default();
        *tries += 1;
        *tries
    }
}

/// A blueprint of this kind.
pub(crate) struct Timed {
    pub(crate) make: &'static Make,
    pub(crate) stage: Arc<Stage>,
}

impl Timed {
    /// Takes its time and works or does not: then it is the step that says so.
    async fn act(&self, phase: Phase, ctx: &Context) -> Option<Step> {
        let (kind, on) = (self.make.kind.kind, ctx.resource.id.as_str());
        let of_lease = matches!(phase, Phase::Prepare | Phase::Clean);
        let subject = if of_lease { ctx.lease.as_ref().unwrap().id.as_str() } else { on };
        let attributes = match &ctx.lease {
            Some(lease) if of_lease => &lease.spec.attributes,
            _ => &ctx.resource.attributes,
        };
        let name = attributes.get(NAME).map_or(subject, String::as_str);
        let tries = self.stage.tries(phase, subject);
        let (from, to) = match phase {
            Phase::Build => self.make.build,
            Phase::Prepare => self.make.prepare,
            Phase::Clean => self.make.clean,
            Phase::Destroy => self.make.destroy,
        };
        let mut dice = self.stage.dice([kind, &format!("{phase:?}"), name], tries);
        let takes = self.stage.second.mul_f64(f64::from(u32::try_from(dice.u64(from..=to)).unwrap()) / 1000.0);
        let (one, chance) = (dice.u64(..100), self.stage.trouble);
        let _under_way = self.stage.begin(kind, phase, subject, on);
        if !takes.is_zero() && tokio::time::timeout(takes, ctx.cancel.cancelled()).await.is_ok() {
            return Some(Step::stumble("nobody wants it any more", ""));
        }
        match phase {
            Phase::Build if one < chance.refusals => return Some(Step::refuse("it can never work", "")),
            Phase::Build | Phase::Prepare if one < chance.refusals + chance.stumbles => {
                return Some(Step::stumble("it did not work", ""));
            }
            Phase::Clean | Phase::Destroy if one < chance.sticks => return Some(Step::stumble("it sticks", "")),
            _ => {}
        }
        self.stage.end(phase, subject);
        let made = matches!(phase, Phase::Build | Phase::Prepare);
        made.then(|| Step::Ready(StringMap::from([(TRY.to_owned(), tries.to_string())])))
    }

    fn wanted(&self, ctx: &Context) -> Vec<Need> {
        let above = ctx.resource.attributes.get(NAME).map_or(ctx.resource.id.as_str(), String::as_str);
        let need = |(number, of): (usize, &&'static str)| Need {
            name: format!("{number}-{of}"),
            spec: LeaseSpec {
                resource_type: (*of).to_owned(),
                attributes: StringMap::from([(NAME.to_owned(), format!("{above}.{number}"))]),
                ..LeaseSpec::default()
            },
        };
        self.make.needs.iter().enumerate().map(need).collect()
    }
}

#[async_trait]
impl Blueprint for Timed {
    fn describe(&self) -> &'static Kind {
        &self.make.kind
    }

    fn needs(&self, _config: &Value) -> Vec<String> {
        self.make.needs.iter().map(ToString::to_string).collect()
    }

    async fn build(&self, ctx: &Context) -> Step {
        let mut wanted = self.wanted(ctx);
        if wanted.iter().any(|need| !ctx.needs.contains_key(&need.name)) {
            if self.make.in_turn {
                wanted.truncate(ctx.needs.len() + 1);
            }
            return Step::Needs(wanted);
        }
        self.act(Phase::Build, ctx).await.unwrap_or_else(Step::done)
    }

    async fn prepare(&self, ctx: &Context) -> Step {
        self.act(Phase::Prepare, ctx).await.unwrap_or_else(Step::done)
    }

    async fn clean(&self, ctx: &Context) -> Step {
        self.act(Phase::Clean, ctx).await.unwrap_or_else(Step::done)
    }

    async fn destroy(&self, ctx: &Context) -> Step {
        self.act(Phase::Destroy, ctx).await.unwrap_or_else(Step::done)
    }

    fn endpoint(&self, _ctx: &Context, _interface: &str) -> Option<Endpoint> {
        None
    }
}
