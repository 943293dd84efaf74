//! A box that cannot be used stays, says why, and is mended by a change.

use drydock::proto::v1::resource::State;
use drydock::proto::v1::{Resource, UpdateResourceRequest};
use serde_json::json;

use super::fleet::{Fleet, Words, words};
use crate::harness::reason;
use crate::ssh::sshd::Sshd;

fn change(of: &Resource, attributes: Words) -> UpdateResourceRequest {
    UpdateResourceRequest { resource_id: of.id.clone(), attributes, ..UpdateResourceRequest::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_lets_nobody_in_waits_for_the_right_key() {
    let (fleet, machine, other) = (Fleet::start(json!({}), 1).await, Sshd::start(), Sshd::start());
    let mut wrong = machine.attributes();
    wrong.insert("identity_file".to_owned(), other.target().identity_file.unwrap().display().to_string());
    let asked = fleet.ask_in("one", wrong, words(&[])).await.unwrap();
    let stuck = fleet.until(&asked.id, "a problem", |now| !now.problem.is_empty()).await;
    assert_eq!(stuck.state(), State::Pending);
    assert!(stuck.problem.starts_with("HOST_AUTH_FAILED: "), "{}", stuck.problem);
    let waiting = fleet.queue("host", &[], &[]).await;
    let waiting = fleet.lease_until(&waiting.id, "waiting", |now| {
        now.waiting.as_ref().is_some_and(|why| why.reason == "NO_HEALTHY_RESOURCE")
    });
    let waiting = waiting.await;

    let stale = UpdateResourceRequest { etag: "0".to_owned(), ..change(&stuck, machine.attributes()) };
    assert_eq!(reason(&fleet.resources().update_resource(stale).await.unwrap_err()), "ETAG_MISMATCH");
    let right = UpdateResourceRequest { etag: stuck.etag.clone(), ..change(&stuck, machine.attributes()) };
    let right = UpdateResourceRequest { request_id: "mend".to_owned(), ..right };
    let mended = fleet.resources().update_resource(right.clone()).await.unwrap().into_inner().resource.unwrap();
    assert_ne!(mended.etag, stuck.etag);
    // The same once more is the same, though the etag is old by now.
    fleet.resources().update_resource(right).await.unwrap();
    fleet.until(&asked.id, "ACTIVE", |now| now.state() == State::Active && now.problem.is_empty()).await;
    fleet.lease_until(&waiting.id, "ACTIVE", |now| now.active_time.is_some()).await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn labels_are_replaced_as_a_whole_and_wake_who_waits_for_them() {
    let (fleet, machine) = (Fleet::start(json!({}), 1).await, Sshd::start());
    let known = fleet.register("one", &machine, &[("arch", "arm64"), ("disk", "ssd")]).await;
    let busy = fleet.acquire("host", &[], &[("disk", "ssd")]).await;
    let waiting = fleet.queue("host", &[], &[("arch", "arm64")]).await;
    let update = UpdateResourceRequest { labels: words(&[("arch", "riscv")]), ..change(&known, words(&[])) };
    let after = fleet.resources().update_resource(update).await.unwrap().into_inner().resource.unwrap();
    assert_eq!((after.labels, after.attributes), (words(&[("arch", "riscv")]), known.attributes.clone()));
    fleet.release(&busy.id).await;
    let why = fleet.lease_until(&waiting.id, "told", |now| {
        now.waiting.as_ref().is_some_and(|why| why.reason == "NO_HEALTHY_RESOURCE")
    });
    why.await;
    let update = UpdateResourceRequest { labels: words(&[("arch", "arm64")]), ..change(&known, words(&[])) };
    fleet.resources().update_resource(update).await.unwrap();
    fleet.lease_until(&waiting.id, "ACTIVE", |now| now.active_time.is_some()).await;

    let storage = fleet.acquire("storage", &[("host", &waiting.id)], &[]).await;
    let made = fleet.resource(&storage.resource_id).await;
    let wrong = fleet.resources().update_resource(change(&made, words(&[("quota", "1GiB")]))).await.unwrap_err();
    assert_eq!(reason(&wrong), "NOT_REGISTRABLE");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_key_behind_the_address_blocks_it_until_it_is_pinned() {
    let (fleet, mut machine) = (Fleet::start(json!({}), 2).await, Sshd::start());
    let known = fleet.register("one", &machine, &[]).await;
    let lease = fleet.acquire("host", &[], &[]).await;
    machine.rekey();
    machine.restart();
    let logged = machine.log().len();
    let blocked = fleet.until(&known.id, "blocked", |now| now.problem.starts_with("HOST_KEY_MISMATCH: ")).await;
    assert_eq!(blocked.state(), State::Active);
    let events = fleet.events("resource.unhealthy", &known.id).await;
    assert!(events.iter().any(|event| event.reason == "HOST_KEY_MISMATCH"), "{events:?}");
    let refused = fleet.exec(&lease.id, "true").await.unwrap_err();
    assert_eq!(reason(&refused), "HOST_KEY_MISMATCH");
    let check = fleet.check(&known.id).await;
    assert!(check.findings[0].contains("SHA256:") && check.findings[0].contains("host update"), "{check:?}");
    assert!(!machine.log()[logged..].contains("publickey"), "nothing was sent: {}", machine.log());
    let waiting = fleet.queue("host", &[], &[]).await;

    // The old key behind the address again would not be enough either; only a pin is.
    let repin = fleet.resources().update_resource(change(&known, machine.attributes())).await.unwrap();
    assert!(repin.into_inner().resource.unwrap().problem.is_empty());
    fleet.lease_until(&waiting.id, "ACTIVE", |now| now.active_time.is_some()).await;
    assert_eq!(fleet.exec(&lease.id, "echo back").await.unwrap(), (0, "back\n".to_owned()));
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_leased_stays_where_it_is_and_one_that_is_not_is_greeted_anew() {
    let (fleet, machine, other) = (Fleet::start(json!({}), 1).await, Sshd::start(), Sshd::start());
    let known = fleet.register("one", &machine, &[]).await;
    let lease = fleet.acquire("host", &[], &[]).await;
    let refused = fleet.resources().update_resource(change(&known, other.attributes())).await.unwrap_err();
    assert_eq!(reason(&refused), "RESOURCE_IN_USE");
    assert!(refused.message().contains(&lease.id), "{refused:?}");
    fleet.release(&lease.id).await;

    fleet.resources().update_resource(change(&known, other.attributes())).await.unwrap();
    let home = other.home().display().to_string();
    let there = |now: &Resource| now.problem.is_empty() && now.facts.get("home") == Some(&home);
    fleet.until(&known.id, "greeted", there).await;
    let lease = fleet.acquire("host", &[], &[]).await;
    assert_eq!(fleet.exec(&lease.id, "echo $HOME").await.unwrap(), (0, format!("{home}\n")));
    fleet.end().await;
}
