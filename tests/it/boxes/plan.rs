//! The plan for what is registered by hand: it is taken, waited for, and never built.

use drydock::allocator::{Decision, Plan, Rules, plan};
use drydock::model::id::LeaseId;
use drydock::model::pool::{Candidate, PoolView};
use drydock::model::{Blueprint, Kind, Lease, LeaseSpec, Resource, ResourceState, StringMap};

use crate::store::ground;

const BOXES: Kind = Kind {
    kind: "boxes",
    resource_type: "box",
    interfaces: &[],
    needs: &[],
    config: &[],
    attributes: &[],
    leases_per_resource: 1,
    max_resources: None,
    rank: 0,
    stays: true,
    reused_by_attributes: false,
    instant: false,
    registration: Some(&[]),
};
static REGISTERED: Kind = BOXES;
static BUILT: Kind = Kind { kind: "built", registration: None, ..BOXES };

/// Two kinds that take everything.
struct Both;

impl Rules for Both {
    fn kind(&self, name: &str) -> Option<&'static Kind> {
        [&REGISTERED, &BUILT].into_iter().find(|kind| kind.kind == name)
    }

    fn admits(&self, _: &Blueprint, _: &LeaseSpec) -> Result<(), String> {
        Ok(())
    }
}

fn blueprint(kind: &str) -> Blueprint {
    Blueprint { kind: kind.to_owned(), ..ground::blueprint(kind) }
}

fn registered(of: &Blueprint, labels: &[(&str, &str)]) -> Resource {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Resource { blueprint_id: of.id.clone(), state: ResourceState::Active, labels, ..ground::resource() }
}

fn wanting(labels: &[(&str, &str)]) -> Lease {
    let mut lease = ground::lease();
    lease.spec.resource_labels =
        labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<StringMap>();
    lease
}

fn view(blueprints: Vec<Blueprint>, resources: Vec<Resource>) -> PoolView {
    let candidates = resources.into_iter().map(|resource| Candidate { resource, taken: Vec::new() }).collect();
    PoolView { blueprints, candidates, ..PoolView::default() }
}

fn reason_of(decision: &Decision, resource: &str) -> &'static str {
    decision.verdicts.iter().find(|verdict| verdict.resource_id == resource).unwrap().reason
}

#[test]
fn nothing_is_built_where_things_are_registered() {
    let boxes = blueprint("boxes");
    let decision = plan(&wanting(&[]), &view(vec![boxes.clone()], Vec::new()), &Both);
    assert_eq!(decision.plan, Plan::Park);
    assert_eq!(reason_of(&decision, ""), "REGISTERED_ONLY");
    let waiting = decision.waiting.unwrap();
    assert_eq!(waiting.reason, "NO_HEALTHY_RESOURCE");
    assert!(waiting.message.contains("drydock host add"), "{}", waiting.message);
    assert!(!decision.more, "there is nothing for those behind either");

    let built = blueprint("built");
    let decision = plan(&wanting(&[]), &view(vec![boxes, built.clone()], Vec::new()), &Both);
    let Plan::Build { blueprint, .. } = decision.plan else { panic!("{:?}", decision.plan) };
    assert_eq!(blueprint.id, built.id);
}

#[test]
fn its_own_labels_decide_and_not_those_of_the_blueprint() {
    let boxes = blueprint("boxes");
    let (arm, other) = (registered(&boxes, &[("arch", "arm64")]), registered(&boxes, &[("arch", "amd64")]));
    let view = view(vec![boxes], vec![other.clone(), arm.clone()]);
    let decision = plan(&wanting(&[("arch", "arm64")]), &view, &Both);
    let Plan::Take { resource, .. } = &decision.plan else { panic!("{:?}", decision.plan) };
    assert_eq!(resource.id, arm.id);
    assert_eq!(reason_of(&decision, other.id.as_str()), "LABEL_MISMATCH");
    let decision = plan(&wanting(&[("arch", "mips")]), &view, &Both);
    assert_eq!((&decision.plan, decision.waiting.unwrap().reason.as_str()), (&Plan::Park, "NO_HEALTHY_RESOURCE"));
}

#[test]
fn a_sick_one_is_passed_over_and_named() {
    let boxes = blueprint("boxes");
    let mut sick = registered(&boxes, &[]);
    sick.problem = "HOST_UNREACHABLE: no answer".to_owned();
    // A clean-up that failed there does not make it better.
    sick.cleanup_failures = 3;
    let alone = plan(&wanting(&[]), &view(vec![boxes.clone()], vec![sick.clone()]), &Both);
    assert_eq!((&alone.plan, reason_of(&alone, sick.id.as_str())), (&Plan::Park, "UNHEALTHY"));
    let waiting = alone.waiting.unwrap();
    assert_eq!(waiting.reason, "NO_HEALTHY_RESOURCE");
    assert!(waiting.message.contains("no answer"), "{}", waiting.message);

    let well = registered(&boxes, &[]);
    let both = plan(&wanting(&[]), &view(vec![boxes.clone()], vec![sick, well.clone()]), &Both);
    let Plan::Take { resource, .. } = both.plan else { panic!("{:?}", both.plan) };
    assert_eq!(resource.id, well.id);

    let mut unfinished = registered(&boxes, &[]);
    unfinished.state = ResourceState::Pending;
    let built = plan(&wanting(&[]), &view(vec![boxes.clone()], vec![unfinished.clone()]), &Both);
    assert_eq!(reason_of(&built, unfinished.id.as_str()), "BUILDING");
    unfinished.problem = "HOST_AUTH_FAILED: no key fits".to_owned();
    let stuck = plan(&wanting(&[]), &view(vec![boxes], vec![unfinished.clone()]), &Both);
    assert_eq!(reason_of(&stuck, unfinished.id.as_str()), "UNHEALTHY");
}

#[test]
fn a_failed_clean_up_alone_stops_nobody() {
    let boxes = blueprint("boxes");
    let mut dirty = registered(&boxes, &[]);
    (dirty.lease_limit, dirty.cleanup_failures) = (2, 1);
    dirty.problem = "clean-up failed 1 times, it keeps its slots: the folder is busy".to_owned();
    let mut view = view(vec![boxes], vec![dirty.clone()]);
    view.candidates[0].taken.push((0, LeaseId::new(1)));
    let decision = plan(&wanting(&[]), &view, &Both);
    let Plan::Take { places, .. } = decision.plan else { panic!("{:?}", decision.plan) };
    assert_eq!(places, [1]);
}
