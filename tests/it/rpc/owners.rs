//! Three principals over every RPC: what belongs to others does not exist, and what is for admins stays with them.

use std::time::Duration;

use drydock::proto::v1::event_service_client::EventServiceClient;
use drydock::proto::v1::lease::State;
use drydock::proto::v1::lease_service_client::LeaseServiceClient;
use drydock::proto::v1::resource_service_client::ResourceServiceClient;
use drydock::proto::v1::task_service_client::TaskServiceClient;
use drydock::proto::v1::{
    AcquireLeaseRequest, GetLeaseRequest, Lease, ListEventsRequest, ListLeasesRequest, ListResourcesRequest,
    ListTasksRequest, ReleaseLeaseRequest, ReleaseLeasesRequest,
};
use serde_json::json;

use super::api::{about, call_json, methods};
use crate::harness::{Daemon, LONG, Link, reason};

async fn host_of(link: &Link) -> Lease {
    let wait = Some(LONG.try_into().unwrap());
    let ask = AcquireLeaseRequest { resource_type: "host".to_owned(), wait, ..AcquireLeaseRequest::default() };
    let lease = LeaseServiceClient::new(link.clone()).acquire_lease(ask).await.unwrap().into_inner().lease.unwrap();
    assert_eq!(lease.state(), State::Active, "{lease:?}");
    lease
}

async fn leases(link: &Link) -> Vec<String> {
    let all = ListLeasesRequest { show_sub_leases: true, ..ListLeasesRequest::default() };
    let page = LeaseServiceClient::new(link.clone()).list_leases(all).await.unwrap().into_inner();
    page.leases.into_iter().map(|lease| lease.id).collect()
}

#[tokio::test]
async fn a_lease_exists_for_its_owner_and_for_admins() {
    let daemon = Daemon::start().await;
    let (root, alice, bob) = (daemon.caller("root").await, daemon.caller("alice").await, daemon.caller("bob").await);
    let lease = host_of(&alice).await;
    assert_eq!(lease.owner, "alice");
    let others = host_of(&bob).await;

    for method in methods() {
        let Some((subject, request)) = about(&method) else { continue };
        if subject.field == "lease_id" {
            let status = call_json(&bob, &method, request(&lease.id)).await.unwrap_err();
            assert_eq!(reason(&status), "LEASE_NOT_FOUND", "{}: {status:?}", method.full_name());
        }
    }
    assert_eq!(leases(&alice).await, [lease.id.as_str()]);
    assert_eq!(leases(&bob).await, [others.id.as_str()]);
    assert_eq!(leases(&root).await, [others.id.as_str(), lease.id.as_str()]);

    let ask = |id: &str| ReleaseLeasesRequest {
        filter: format!("id = {id}"),
        validate_only: true,
        ..ReleaseLeasesRequest::default()
    };
    let ended = LeaseServiceClient::new(bob.clone()).release_leases(ask(&lease.id)).await.unwrap().into_inner();
    assert!(ended.lease_ids.is_empty());
    let events = ListEventsRequest { filter: format!("root_lease_id = {}", lease.id), ..ListEventsRequest::default() };
    let seen = EventServiceClient::new(bob.clone()).list_events(events.clone()).await.unwrap().into_inner();
    assert!(seen.events.is_empty());
    let seen = EventServiceClient::new(alice.clone()).list_events(events).await.unwrap().into_inner();
    assert!(!seen.events.is_empty());

    // Nothing that bob tried had an effect, and an admin may do all of it.
    for link in [&alice, &root] {
        let get = GetLeaseRequest { lease_id: lease.id.clone() };
        let found = LeaseServiceClient::new(link.clone()).get_lease(get).await.unwrap().into_inner().lease.unwrap();
        assert_eq!((found.state(), found.renew_time), (State::Active, None));
    }
    let release = ReleaseLeaseRequest { lease_id: lease.id.clone(), ..ReleaseLeaseRequest::default() };
    let ended = LeaseServiceClient::new(root.clone()).release_lease(release).await.unwrap().into_inner().lease.unwrap();
    assert_eq!((ended.state(), ended.state_reason.as_str()), (State::Released, "REVOKED"));
    drop((root, alice, bob));
    daemon.drain().await.unwrap();
}

#[tokio::test]
async fn what_operators_do_is_for_admins() {
    let daemon = Daemon::start().await;
    let (root, alice) = (daemon.caller("root").await, daemon.caller("alice").await);
    host_of(&alice).await;

    let resources = |link: &Link| {
        let mut client = ResourceServiceClient::new(link.clone());
        async move { client.list_resources(ListResourcesRequest::default()).await.unwrap().into_inner().resources }
    };
    assert!(resources(&alice).await.is_empty());
    let resource = resources(&root).await.remove(0).id;
    let tasks = TaskServiceClient::new(alice.clone()).list_tasks(ListTasksRequest::default()).await.unwrap();
    assert!(tasks.into_inner().tasks.is_empty());
    let tasks = TaskServiceClient::new(root.clone()).list_tasks(ListTasksRequest::default()).await.unwrap();
    let task = tasks.into_inner().tasks.remove(0).id;

    for method in methods() {
        let Some((subject, request)) = about(&method) else { continue };
        let (id, wanted) = match subject.field {
            "resource_id" => (resource.as_str(), "RESOURCE_NOT_FOUND"),
            "task_id" => (task.as_str(), "TASK_NOT_FOUND"),
            // Everybody may see blueprints: their names go into AcquireLease.
            "blueprint" if method.name() != "GetBlueprint" => ("storage", "PERMISSION_DENIED"),
            _ => continue,
        };
        let request =
            if method.name() == "UpdateBlueprint" { json!({"blueprint": {"name": "storage"}}) } else { request(id) };
        let status = call_json(&alice, &method, request).await.unwrap_err();
        assert_eq!(reason(&status), wanted, "{}: {status:?}", method.full_name());
    }
    for method in methods().iter().filter(|method| ["CreateBlueprint", "ApplyBlueprint"].contains(&method.name())) {
        let request = json!({"blueprint": {"name": "mine", "kind": "storage"}});
        let status = call_json(&alice, method, request).await.unwrap_err();
        assert_eq!(reason(&status), "PERMISSION_DENIED", "{}: {status:?}", method.full_name());
    }
    drop((root, alice));
    daemon.drain().await.unwrap();
}

#[tokio::test]
async fn nobody_is_nobody() {
    let daemon = Daemon::start().await;
    let nobody = daemon.bearer("t-mallory").await;
    for method in methods() {
        let request = about(&method).map_or_else(|| json!({}), |(_, request)| request("nonsense"));
        let status = call_json(&nobody, &method, request).await.unwrap_err();
        assert_eq!(reason(&status), "UNAUTHENTICATED", "{}: {status:?}", method.full_name());
    }
    drop(nobody);
    let begun = tokio::time::Instant::now();
    daemon.drain().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(25), "an idle daemon drains at once");
}
