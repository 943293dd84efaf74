//! The page of `lease explain`: what, when and why at the top, then what would help, then every candidate.

use std::fmt::Write as _;

use super::{output, words};
use crate::proto::v1;
use crate::proto::v1::explain_lease_response::Candidate;

/// Ids that are named before it becomes a list for machines.
const NAMED: usize = 4;

/// The page; `subject` is the lease's id, or words for a request that was not made.
pub(super) fn page(subject: &str, answer: &v1::ExplainLeaseResponse) -> String {
    let mut text = String::new();
    if !answer.never_reason.is_empty() {
        let _ = writeln!(text, "{subject} can never be served\n  why      {}", answer.never_reason);
    } else if let Some(waiting) = &answer.waiting {
        let _ = writeln!(text, "{subject} {}", headline(waiting));
        let _ = writeln!(text, "  when     {}", when(waiting));
        if !answer.eta_basis.is_empty() {
            let _ = writeln!(text, "           ({})", answer.eta_basis);
        }
        let _ = writeln!(text, "  why      {}: {}", waiting.reason, waiting.message);
        if !waiting.blocked_by.is_empty() {
            let _ = writeln!(text, "  held by  {}", some_of(&waiting.blocked_by));
        }
    } else {
        let _ = writeln!(text, "{subject}: nothing stands in its way");
    }
    for (place, remedy) in answer.remedies.iter().enumerate() {
        let _ = writeln!(text, "{}  {}. {remedy}", if place == 0 { "\nWhat would help\n" } else { "" }, place + 1);
    }
    if !answer.candidates.is_empty() {
        let rows: Vec<_> = answer.candidates.iter().map(candidate).collect();
        let table = output::table(&["FITS", "BLUEPRINT", "RESOURCE", "REASON", "MESSAGE"], &rows);
        let _ = writeln!(text, "\nWhat was looked at\n{}", indented(&table));
    }
    text.trim_end().to_owned()
}

/// What is going on, in a breath.
fn headline(waiting: &v1::Waiting) -> String {
    let what = match waiting.reason.as_str() {
        "BUILDING" => "is on its way: what it needs is being built",
        "ACTIVATING" => "is on its way: it has its place and is being set up there",
        "RECLAIMING" => "is on its way: something idle is taken down in its favour",
        "LIMIT_REACHED" => "waits for a place: all of them are taken",
        "QUOTA_REACHED" => "waits for its owner's other leases: they are as many as allowed",
        "BLUEPRINT_PAUSED" => "waits: every blueprint that could serve it is paused",
        "NO_HEALTHY_RESOURCE" => "waits: no resource that could serve it is well",
        _ => "waits for its turn",
    };
    match waiting.queue_position {
        Some(1) => format!("{what}; it is next"),
        Some(position) => format!("{what}; {} are ahead of it", position - 1).replace("; 1 are", "; 1 is"),
        None => what.to_owned(),
    }
}

fn when(waiting: &v1::Waiting) -> String {
    let spell = |span: &prost_types::Duration| words::spell(words::rounded(words::span(span)));
    match (&waiting.eta, &waiting.eta_p90) {
        (Some(eta), Some(most)) => format!("in about {}; 90 of 100 such leases within {}", spell(eta), spell(most)),
        (Some(eta), None) => format!("in about {}", spell(eta)),
        _ => "unknown: too few like it were served so far, or nobody holds what it waits for".to_owned(),
    }
}

fn some_of(ids: &[String]) -> String {
    match ids.len().checked_sub(NAMED) {
        None | Some(0) => ids.join(", "),
        Some(more) => format!("{} and {more} more", ids[..NAMED].join(", ")),
    }
}

fn candidate(candidate: &Candidate) -> Vec<String> {
    let resource = if candidate.resource_id.is_empty() { "(new)" } else { &candidate.resource_id };
    let mut message = candidate.message.clone();
    if !candidate.blocked_by.is_empty() {
        let _ = write!(message, " (held by {})", some_of(&candidate.blocked_by));
    }
    let fits = if candidate.eligible { "yes" } else { "no" };
    vec![fits.to_owned(), candidate.blueprint_name.clone(), resource.to_owned(), candidate.reason.clone(), message]
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: i64) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos: 700_000_000 })
    }

    #[test]
    fn what_when_and_why_are_at_the_top() {
        let waiting = v1::Waiting {
            reason: "LIMIT_REACHED".to_owned(),
            message: "scratch: 1 of 1 resources built".to_owned(),
            queue_position: Some(2),
            eta: seconds(361),
            blocked_by: ["a", "b", "c", "d", "e", "f"].map(str::to_owned).to_vec(),
            eta_p90: seconds(3_600),
        };
        let answer = v1::ExplainLeaseResponse {
            waiting: Some(waiting),
            candidates: vec![Candidate { blueprint_name: "scratch".to_owned(), ..Candidate::default() }],
            remedies: vec!["release a".to_owned()],
            eta_basis: "5 of 6 have ended".to_owned(),
            never_reason: String::new(),
        };
        let page = page("lease_x", &answer);
        let lines: Vec<&str> = page.lines().collect();
        assert_eq!(
            lines[..9],
            [
                "lease_x waits for a place: all of them are taken; 1 is ahead of it",
                "  when     in about 6m2s; 90 of 100 such leases within 1h",
                "           (5 of 6 have ended)",
                "  why      LIMIT_REACHED: scratch: 1 of 1 resources built",
                "  held by  a, b, c, d and 2 more",
                "",
                "What would help",
                "  1. release a",
                "",
            ]
        );
        assert!(page.contains("What was looked at\n  FITS"), "{page}");
    }

    #[test]
    fn what_is_not_known_is_said() {
        let waiting = v1::Waiting { reason: "BUILDING".to_owned(), ..v1::Waiting::default() };
        let answer = v1::ExplainLeaseResponse { waiting: Some(waiting), ..v1::ExplainLeaseResponse::default() };
        let page = page("it", &answer);
        assert!(page.starts_with("it is on its way") && page.contains("when     unknown"), "{page}");
        let never = v1::ExplainLeaseResponse { never_reason: "no".to_owned(), ..v1::ExplainLeaseResponse::default() };
        assert_eq!(super::page("it", &never), "it can never be served\n  why      no");
        assert_eq!(super::page("it", &v1::ExplainLeaseResponse::default()), "it: nothing stands in its way");
    }
}
