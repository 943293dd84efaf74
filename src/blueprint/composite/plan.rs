//! What a composite can do now, from what it has: pure.

use std::collections::BTreeSet;

use super::design::{Design, StepDesign};

/// What can be done now.
#[derive(Debug, PartialEq, Eq, Default)]
pub(super) struct Next<'a> {
    /// Parts that can be leased now.
    pub(super) ask: Vec<&'a str>,
    /// Steps that can run now, each on another part.
    pub(super) run: Vec<usize>,
    /// All parts are there and all steps done.
    pub(super) complete: bool,
}

/// Of a design, with the parts that are ACTIVE and the steps that are done.
pub(super) fn next<'a>(design: &'a Design, met: &BTreeSet<&str>, done: &BTreeSet<String>) -> Next<'a> {
    let is_done = |step: &StepDesign| done.contains(&step.name);
    let ask: Vec<&str> = design
        .parts
        .iter()
        .filter(|(name, part)| {
            !met.contains(name.as_str())
                && part.references().all(|of| met.contains(of))
                && part.after.iter().all(|step| done.contains(step))
        })
        .map(|(name, _)| name.as_str())
        .collect();
    let run: Vec<usize> = (0..design.steps.len())
        .filter(|&nth| {
            let step = &design.steps[nth];
            !is_done(step)
                && step.references().all(|of| met.contains(of))
                && design.steps[..nth].iter().filter(|earlier| earlier.part == step.part).all(is_done)
        })
        .collect();
    let complete = design.parts.keys().all(|name| met.contains(name.as_str())) && design.steps.iter().all(is_done);
    Next { ask, run, complete }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blueprint::complaint::Complaints;
    use serde_json::json;

    fn design() -> Design {
        let config = json!({
            "type": "box",
            "needs": {
                "host": {"type": "host"},
                "copy": {"type": "working-copy", "attributes": {"host": "${host.lease_id}", "repository": "/srv/a"}},
                "disk": {"type": "storage", "attributes": {"host": "${host.lease_id}"}},
                "site": {"type": "webroot", "attributes": {"document_root": "${copy.path}"}, "after": ["build"]},
            },
            "steps": [
                {"name": "fetch", "part": "copy", "run": ["true"]},
                {"name": "build", "part": "copy", "run": ["make"], "env": {"OUT": "${disk.path}"}},
                {"name": "warm", "part": "site", "run": ["true"]},
            ],
            "exports": {"command": "copy", "filesystem": "copy"},
        });
        let mut complaints = Complaints::default();
        let design = Design::read("config", &config, &mut complaints);
        complaints.finish().unwrap();
        design
    }

    #[test]
    fn parts_come_when_their_references_are_met_and_steps_when_their_part_is() {
        let design = design();
        let at = |met: &[&str], done: &[&str]| {
            let done = done.iter().map(ToString::to_string).collect();
            let next = next(&design, &met.iter().copied().collect(), &done);
            let run: Vec<&str> = next.run.iter().map(|&nth| design.steps[nth].name.as_str()).collect();
            format!("{} | {} | {}", next.ask.join(" "), run.join(" "), next.complete)
        };
        assert_eq!(at(&[], &[]), "host |  | false");
        assert_eq!(at(&["host"], &[]), "copy disk |  | false");
        assert_eq!(at(&["host", "copy"], &[]), "disk | fetch | false");
        assert_eq!(at(&["host", "copy"], &["fetch"]), "disk |  | false");
        assert_eq!(at(&["host", "copy", "disk"], &["fetch"]), " | build | false");
        assert_eq!(at(&["host", "copy", "disk"], &["fetch", "build"]), "site |  | false");
        assert_eq!(at(&["host", "copy", "disk", "site"], &["fetch", "build"]), " | warm | false");
        assert_eq!(at(&["host", "copy", "disk", "site"], &["fetch", "build", "warm"]), " |  | true");
    }
}
