//! In and out: the host key is shown and pinned, the box is reached, and nothing of Drydock stays behind.

use drydock::proto::v1::blueprint_service_client::BlueprintServiceClient;
use drydock::proto::v1::resource::State;
use drydock::proto::v1::{ListBlueprintKindsRequest, ListResourcesRequest, RegisterResourceRequest};
use serde_json::json;

use super::fleet::{Fleet, words};
use crate::harness::reason;
use crate::ssh::sshd::Sshd;

fn request(name: &str, machine: &Sshd) -> RegisterResourceRequest {
    RegisterResourceRequest {
        blueprint: "remote-host".to_owned(),
        name: name.to_owned(),
        attributes: machine.attributes(),
        labels: words(&[("arch", "arm64")]),
        ..RegisterResourceRequest::default()
    }
}

async fn names(fleet: &Fleet) -> Vec<String> {
    let page = fleet.resources().list_resources(ListResourcesRequest::default()).await.unwrap().into_inner();
    page.resources.into_iter().filter(|of| of.state() != State::Destroyed).map(|of| of.name).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_is_shown_first_and_nothing_is_written() {
    let (fleet, machine) = (Fleet::start(json!({}), 1).await, Sshd::start());
    let mut look = request("one", &machine);
    let pinned = look.attributes.remove("host_key").unwrap();
    look.validate_only = true;
    let seen = fleet.resources().register_resource(look.clone()).await.unwrap().into_inner().resource.unwrap();
    assert_eq!(seen.facts["host_key.ssh-ed25519"], pinned);
    let fingerprint = &seen.facts["fingerprint.ssh-ed25519"];
    assert!(fingerprint.starts_with("SHA256:"), "{fingerprint}");
    assert!(names(&fleet).await.is_empty());

    look.validate_only = false;
    let refused = fleet.resources().register_resource(look.clone()).await.unwrap_err();
    assert_eq!(reason(&refused), "INVALID_ATTRIBUTE");
    for word in [fingerprint.as_str(), pinned.as_str(), "host_key"] {
        assert!(refused.message().contains(word), "{word}: {}", refused.message());
    }
    assert!(names(&fleet).await.is_empty());

    // Someone else's key.
    let other = Sshd::start();
    look.validate_only = true;
    look.attributes.insert("host_key".to_owned(), other.host_key());
    let mismatch = fleet.resources().register_resource(look).await.unwrap_err();
    assert_eq!(reason(&mismatch), "HOST_KEY_MISMATCH");
    assert!(!machine.log().contains("publickey"), "nobody has tried to log in: {}", machine.log());
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_box_is_registered_once_leased_and_leaves_no_trace() {
    let (fleet, machine) = (Fleet::start(json!({}), 1).await, Sshd::start());
    let mut asked = request("one", &machine);
    asked.request_id = "first".to_owned();
    let first = fleet.resources().register_resource(asked.clone()).await.unwrap().into_inner().resource.unwrap();
    let again = fleet.resources().register_resource(asked.clone()).await.unwrap().into_inner().resource.unwrap();
    assert_eq!((first.state(), &again.id), (State::Pending, &first.id));
    asked.request_id = String::new();
    assert_eq!(reason(&fleet.resources().register_resource(asked).await.unwrap_err()), "RESOURCE_EXISTS");

    let ready = fleet.until(&first.id, "ACTIVE", |now| now.state() == State::Active).await;
    assert_eq!(ready.facts["home"], machine.home().display().to_string());
    assert_eq!((ready.facts["name"].as_str(), ready.labels["arch"].as_str()), ("one", "arm64"));
    assert!(ready.problem.is_empty() && ready.diagnostics.is_some(), "{ready:?}");
    assert!(ready.attributes["identity_file"].starts_with('/'), "a reference, not a key");

    let lease = fleet.acquire("host", &[], &[("arch", "arm64")]).await;
    let (code, shown) = fleet.exec(&lease.id, "pwd; echo $HOME; echo x >left").await.unwrap();
    assert_eq!(code, 0);
    assert_eq!(shown, format!("{}\n{}\n", lease.facts["path"], machine.home().display()));
    assert!(lease.facts["path"].starts_with(machine.home().join(".drydock/leases").to_str().unwrap()));
    fleet.release(&lease.id).await;
    assert!(!std::path::Path::new(&lease.facts["path"]).exists());

    fleet.release_resource(&first.id, false).await.unwrap();
    fleet.until(&first.id, "DESTROYED", |now| now.state() == State::Destroyed).await;
    assert!(!machine.home().join(".drydock").exists());
    assert!(machine.commands().is_empty());
    // Its name is free again.
    fleet.register("one", &machine, &[]).await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_registered_is_refused_by_name() {
    let (fleet, machine) = (Fleet::start(json!({}), 1).await, Sshd::start());
    let mut client = fleet.resources();
    let good = request("one", &machine);
    let storage = RegisterResourceRequest { blueprint: "storage".to_owned(), ..good.clone() };
    assert_eq!(reason(&client.register_resource(storage).await.unwrap_err()), "NOT_REGISTRABLE");
    let nowhere = RegisterResourceRequest { blueprint: "nowhere".to_owned(), ..good.clone() };
    assert_eq!(reason(&client.register_resource(nowhere).await.unwrap_err()), "BLUEPRINT_NOT_FOUND");
    let unnamed = RegisterResourceRequest { name: "No Name".to_owned(), ..good.clone() };
    assert_eq!(reason(&client.register_resource(unnamed).await.unwrap_err()), "INVALID_ARGUMENT");
    for (field, value) in [("address", "-oProxyCommand=id"), ("host_key", "ssh-ed25519 AAAA"), ("colour", "red")] {
        let mut wrong = good.clone();
        wrong.attributes.insert(field.to_owned(), value.to_owned());
        let status = client.register_resource(wrong).await.unwrap_err();
        assert_eq!(reason(&status), "INVALID_ATTRIBUTE", "{field}");
        assert!(status.message().contains(field), "{field}: {}", status.message());
    }
    let alice = fleet.daemon.caller("alice").await;
    let mut hers = drydock::proto::v1::resource_service_client::ResourceServiceClient::new(alice);
    assert_eq!(reason(&hers.register_resource(good).await.unwrap_err()), "PERMISSION_DENIED");
    let none = fleet.try_queue("host", &[], &[]).await.unwrap_err();
    assert_eq!(reason(&none), "CAPACITY_NEVER");
    assert!(none.message().contains("drydock host add"), "{}", none.message());

    let kinds = ListBlueprintKindsRequest::default();
    let kinds = BlueprintServiceClient::new(fleet.link.clone()).list_blueprint_kinds(kinds).await.unwrap();
    for kind in kinds.into_inner().kinds {
        assert_eq!(kind.registration_schema.is_some(), kind.kind == "remote-host", "{}", kind.kind);
    }
    drop((client, hers));
    fleet.end().await;
}
