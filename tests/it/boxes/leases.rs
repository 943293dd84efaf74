//! Leases on boxes: several at once, by labels, with scripts around them, and what is built on them.

use std::process::Command;

use serde_json::json;

use super::fleet::Fleet;
use crate::harness::reason;
use crate::ssh::sshd::Sshd;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_box_takes_as_many_as_the_blueprint_says() {
    let (fleet, machine) = (Fleet::start(json!({}), 2).await, Sshd::start());
    let known = fleet.register("one", &machine, &[]).await;
    let (first, second) = (fleet.acquire("host", &[], &[]).await, fleet.acquire("host", &[], &[]).await);
    assert_eq!((&first.resource_id, &second.resource_id), (&known.id, &known.id));
    assert_ne!(first.facts["path"], second.facts["path"]);
    let third = fleet.queue("host", &[], &[]).await;
    let third = fleet
        .lease_until(&third.id, "waits", |now| now.waiting.as_ref().is_some_and(|why| why.reason == "LIMIT_REACHED"));
    let third = third.await;
    fleet.release(&first.id).await;
    fleet.lease_until(&third.id, "ACTIVE", |now| now.active_time.is_some()).await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn labels_choose_the_box() {
    let fleet = Fleet::start(json!({}), 1).await;
    let (one, two) = (Sshd::start(), Sshd::start());
    let (arm, ssd) = tokio::join!(
        fleet.register("one", &one, &[("arch", "arm64")]),
        fleet.register("two", &two, &[("arch", "amd64"), ("disk", "ssd")]),
    );
    let on_ssd = fleet.acquire("host", &[], &[("disk", "ssd")]).await;
    let on_arm = fleet.acquire("host", &[], &[("arch", "arm64")]).await;
    assert_eq!((on_ssd.resource_id, on_arm.resource_id), (ssd.id, arm.id));
    let none = fleet.try_queue("host", &[], &[("arch", "mips")]).await.unwrap_err();
    assert_eq!(reason(&none), "CAPACITY_NEVER");
    assert!(none.message().contains("arch=mips"), "{}", none.message());
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_run_once_for_the_box_and_around_each_lease() {
    let script = |name: &str| json!(["sh", "-c", format!("echo {name} $(pwd) $DRYDOCK_LEASE_ID >>$HOME/told")]);
    let config = json!({"setup": script("setup"), "prepare": script("prepare"), "cleanup": script("cleanup")});
    let (fleet, machine) = (Fleet::start(config, 1).await, Sshd::start());
    let known = fleet.register("one", &machine, &[]).await;
    let mut expected = vec![format!("setup {} {}", machine.home().display(), known.id)];
    for _ in 0..2 {
        let lease = fleet.acquire("host", &[], &[]).await;
        fleet.release(&lease.id).await;
        for name in ["prepare", "cleanup"] {
            expected.push(format!("{name} {} {}", lease.facts["path"], lease.id));
        }
    }
    let told = std::fs::read_to_string(machine.home().join("told")).unwrap();
    assert_eq!(told.lines().collect::<Vec<_>>(), expected);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_working_copy_and_a_storage_are_built_on_a_box() {
    let (fleet, machine) = (Fleet::start(json!({}), 2).await, Sshd::start());
    fleet.register("one", &machine, &[]).await;
    let source = machine.folder().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("hello.txt"), "hello\n").unwrap();
    for line in [&["init", "-q"][..], &["add", "."], &["commit", "-q", "-m", "The first commit"]] {
        let who = ["-c", "user.name=Test", "-c", "user.email=test@localhost"];
        assert!(Command::new("git").arg("-C").arg(&source).args(who).args(line).status().unwrap().success());
    }
    let host = fleet.acquire("host", &[], &[]).await;
    let on = [("host", host.id.as_str()), ("repository", source.to_str().unwrap())];
    let (copy, storage) =
        tokio::join!(fleet.acquire("working-copy", &on, &[]), fleet.acquire("storage", &on[..1], &[]));
    assert_eq!(fleet.exec(&copy.id, "cat hello.txt").await.unwrap(), (0, "hello\n".to_owned()));
    let resources = machine.home().join(".drydock/resources");
    for lease in [&copy, &storage] {
        assert!(lease.facts["path"].starts_with(resources.to_str().unwrap()), "{:?}", lease.facts);
    }
    assert_eq!(fleet.exec(&storage.id, "echo kept >file; cat file").await.unwrap(), (0, "kept\n".to_owned()));
    // By itself it leases the box, which comes before the daemon's own machine.
    let alone = fleet.acquire("storage", &[], &[]).await;
    assert!(alone.facts["path"].starts_with(resources.to_str().unwrap()), "{:?}", alone.facts);
    for lease in [&copy, &storage, &alone, &host] {
        fleet.release(&lease.id).await;
    }
    let left = |name: &str| {
        let entries = std::fs::read_dir(machine.home().join(".drydock").join(name)).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>()
    };
    assert_eq!((left("leases"), left("resources")), (Vec::new(), Vec::new()));
    fleet.end().await;
}
