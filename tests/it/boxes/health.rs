//! Boxes that go away and come back by themselves, and those that are given up.

use drydock::proto::v1::ExplainLeaseRequest;
use drydock::proto::v1::explain_lease_request::Subject;
use drydock::proto::v1::resource::State;
use serde_json::json;

use super::fleet::Fleet;
use crate::harness::reason;
use crate::ssh::sshd::{Options, Sftp, Shell, Sshd};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_down_takes_no_lease_and_comes_back() {
    let (fleet, mut machine) = (Fleet::start(json!({}), 1).await, Sshd::start());
    let known = fleet.register("one", &machine, &[]).await;
    machine.end();
    let down = fleet.until(&known.id, "unreachable", |now| now.problem.starts_with("HOST_UNREACHABLE: ")).await;
    assert_eq!((down.state(), down.drain), (State::Active, None));
    let lease = fleet.queue("host", &[], &[]).await;
    let lease =
        fleet.lease_until(&lease.id, "told why", |now| now.waiting.as_ref().is_some_and(|why| why.reason != "QUEUED"));
    let lease = lease.await;
    let why = lease.waiting.unwrap();
    assert_eq!(why.reason, "NO_HEALTHY_RESOURCE", "{why:?}");
    let ask = ExplainLeaseRequest { subject: Some(Subject::LeaseId(lease.id.clone())) };
    let told = fleet.leases().explain_lease(ask).await.unwrap().into_inner();
    let verdict = told.candidates.iter().find(|candidate| candidate.resource_id == known.id).unwrap();
    assert_eq!((verdict.eligible, verdict.reason.as_str()), (false, "UNHEALTHY"));
    assert!(verdict.message.contains("HOST_UNREACHABLE"), "{verdict:?}");

    machine.restart();
    fleet.lease_until(&lease.id, "ACTIVE", |now| now.active_time.is_some()).await;
    assert!(fleet.resource(&known.id).await.problem.is_empty());
    assert_eq!(fleet.exec(&lease.id, "echo back").await.unwrap(), (0, "back\n".to_owned()));
    assert_eq!(fleet.events("resource.unhealthy", &known.id).await.len(), 1, "told once");
    assert_eq!(fleet.events("resource.healthy", &known.id).await.len(), 1);
    let etag = fleet.resource(&known.id).await.etag;
    let check = fleet.check(&known.id).await;
    assert!(check.findings.is_empty() && check.latency.is_some(), "{check:?}");
    assert_eq!(check.resource.unwrap().etag, etag, "a look is no change");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_fails_tells_before_the_next_round() {
    // Nobody looks at it for an hour.
    let (fleet, mut machine) = (Fleet::start(json!({"check_interval": "1h"}), 1).await, Sshd::start());
    let known = fleet.register("one", &machine, &[]).await;
    let lease = fleet.acquire("host", &[], &[]).await;
    machine.end();
    let failed = fleet.exec(&lease.id, "true").await.unwrap_err();
    assert_eq!(reason(&failed), "HOST_UNREACHABLE", "{failed:?}");
    fleet.until(&known.id, "unreachable", |now| now.problem.starts_with("HOST_UNREACHABLE: ")).await;
    machine.restart();
    fleet.until(&known.id, "well", |now| now.problem.is_empty()).await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_up_keeps_its_slot_until_the_box_is_back_or_given_up() {
    let (fleet, mut machine) = (Fleet::start(json!({}), 1).await, Sshd::start());
    let known = fleet.register("one", &machine, &[]).await;
    let lease = fleet.acquire("host", &[], &[]).await;
    fleet.exec(&lease.id, "echo x >left").await.unwrap();
    let storage = fleet.acquire("storage", &[("host", &lease.id)], &[]).await;
    machine.end();
    let end = drydock::proto::v1::ReleaseLeaseRequest { lease_id: lease.id.clone(), force: true, ..Default::default() };
    fleet.leases().release_lease(end).await.unwrap();
    fleet.until(&known.id, "unreachable", |now| now.problem.starts_with("HOST_UNREACHABLE: ")).await;
    let placed = fleet.until(&storage.resource_id, "a failed clean-up", |now| now.cleanup_failures > 0).await;
    assert_eq!(placed.state(), State::Released, "{placed:?}");
    assert_eq!(fleet.resource(&known.id).await.lease_count, 1, "the slot is kept");

    // Nobody uses it any more, so it may be released; but it stays until it is cleaned up.
    fleet.release_resource(&known.id, false).await.unwrap();
    let kept = fleet.resource(&known.id).await;
    assert_eq!((kept.state(), kept.lease_count), (State::Released, 1));
    let let_go = fleet.release_resource(&known.id, true).await.unwrap();
    assert!(let_go.state_message.contains("left behind"), "{}", let_go.state_message);
    fleet.until(&known.id, "DESTROYED", |now| now.state() == State::Destroyed).await;
    fleet.lease_until(&lease.id, "DESTROYED", |now| now.destroy_time.is_some()).await;
    fleet.lease_until(&storage.id, "DESTROYED", |now| now.destroy_time.is_some()).await;
    assert_eq!(fleet.events("resource.abandoned", &known.id).await.len(), 1, "it is said plainly");
    assert!(machine.home().join(".drydock/leases").join(&lease.id).exists(), "what is there is left there");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_says_what_to_do() {
    let odd = Options { shell: Shell::Bash, sftp: Sftp::Missing, max_sessions: Some(2), ..Options::default() };
    let (fleet, machine) = (Fleet::start(json!({}), 1).await, Sshd::with(odd));
    std::fs::write(machine.home().join(".bashrc"), "echo welcome aboard\n").unwrap();
    let known = fleet.register("one", &machine, &[]).await;
    let check = fleet.check(&known.id).await;
    for word in ["welcome aboard", "no sftp subsystem", "MaxSessions too low"] {
        assert!(check.findings.iter().any(|finding| finding.contains(word)), "{word}: {:?}", check.findings);
    }
    assert!(check.resource.unwrap().problem.is_empty(), "none of it stands against a lease");

    let mut down = machine;
    down.end();
    let check = fleet.check(&known.id).await;
    assert!(check.findings[0].starts_with("unreachable: "), "{:?}", check.findings);
    assert!(check.resource.unwrap().problem.starts_with("HOST_UNREACHABLE: "));
    fleet.end().await;
}
