//! What the contract promises of leases, requests and pages, over the wire.

use std::time::Duration;

use drydock::proto::v1::event_service_client::EventServiceClient;
use drydock::proto::v1::lease::State;
use drydock::proto::v1::lease_service_client::LeaseServiceClient;
use drydock::proto::v1::{
    AcquireLeaseRequest, Lease, ListEventsRequest, ListLeasesRequest, ReleaseLeaseRequest, WatchEventsRequest,
    WatchLeaseRequest,
};
use tokio::time::timeout;
use tonic::{Request, Status};

use crate::harness::{Daemon, LONG, Link, reason};

fn host() -> AcquireLeaseRequest {
    AcquireLeaseRequest { resource_type: "host".to_owned(), ..AcquireLeaseRequest::default() }
}

fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

async fn acquire(link: &Link, ask: impl tonic::IntoRequest<AcquireLeaseRequest>) -> Result<Lease, Status> {
    let answer = LeaseServiceClient::new(link.clone()).acquire_lease(ask).await?;
    Ok(answer.into_inner().lease.unwrap())
}

async fn release(link: &Link, id: &str) -> Lease {
    let ask =
        ReleaseLeaseRequest { lease_id: id.to_owned(), wait: Some(seconds(60)), ..ReleaseLeaseRequest::default() };
    LeaseServiceClient::new(link.clone()).release_lease(ask).await.unwrap().into_inner().lease.unwrap()
}

#[tokio::test]
async fn a_request_id_does_it_once() {
    let daemon = Daemon::start().await;
    let (alice, bob) = (daemon.caller("alice").await, daemon.caller("bob").await);
    let ask = AcquireLeaseRequest { request_id: "r1".to_owned(), wait: Some(seconds(60)), ..host() };
    let first = acquire(&alice, ask.clone()).await.unwrap();
    assert_eq!(first.state(), State::Active);
    // The same object, in its present state; how long one waits is no part of the request.
    release(&alice, &first.id).await;
    let again = acquire(&alice, AcquireLeaseRequest { wait: None, ..ask.clone() }).await.unwrap();
    assert_eq!((again.id.as_str(), again.state()), (first.id.as_str(), State::Destroyed));
    let other = acquire(&alice, AcquireLeaseRequest { priority: 1, ..ask.clone() }).await.unwrap_err();
    assert_eq!(reason(&other), "REQUEST_ID_REUSED");
    assert_ne!(acquire(&bob, ask).await.unwrap().id, first.id);
    drop((alice, bob));
    daemon.drain().await.unwrap();
}

#[tokio::test]
async fn the_id_is_learned_before_the_deadline() {
    let daemon = Daemon::start().await;
    let alice = daemon.caller("alice").await;
    fill(&alice).await;
    let mut late = Request::new(AcquireLeaseRequest { wait: Some(seconds(60)), ..host() });
    late.set_timeout(Duration::from_millis(1500));
    let lease = acquire(&alice, late).await.unwrap();
    assert_eq!(lease.state(), State::Pending);
    let waiting = lease.waiting.unwrap();
    assert_eq!((waiting.queue_position, waiting.blocked_by.len()), (Some(1), 16), "{waiting:?}");
    drop(alice);
    daemon.drain().await.unwrap();
}

/// Takes all the places of the local host.
async fn fill(link: &Link) {
    for _ in 0..16 {
        let lease = acquire(link, AcquireLeaseRequest { wait: Some(seconds(60)), ..host() }).await.unwrap();
        assert_eq!(lease.state(), State::Active, "{lease:?}");
    }
}

#[tokio::test]
async fn the_id_is_learned_when_the_daemon_goes_down() {
    let daemon = Daemon::start().await;
    let alice = daemon.caller("alice").await;
    fill(&alice).await;
    let ask = AcquireLeaseRequest { wait: Some(seconds(600)), ..host() };
    let waiting = tokio::spawn({
        let alice = alice.clone();
        async move { acquire(&alice, ask).await }
    });
    let mut client = LeaseServiceClient::new(alice.clone());
    let queued = async {
        let pending = ListLeasesRequest { filter: "state = PENDING".to_owned(), ..ListLeasesRequest::default() };
        loop {
            if let Some(lease) = client.list_leases(pending.clone()).await.unwrap().into_inner().leases.pop() {
                break lease.id;
            }
        }
    };
    let id = timeout(LONG, queued).await.unwrap();
    let begun = tokio::time::Instant::now();
    daemon.shutdown.drain.cancel();
    let lease = timeout(LONG, waiting).await.unwrap().unwrap().unwrap();
    assert_eq!((lease.id, lease.state), (id, State::Pending.into()));
    drop((alice, client));
    daemon.drain().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(25), "nobody is left to wait for");
}

#[tokio::test]
async fn pages_lead_through_all_of_them_newest_first() {
    let daemon = Daemon::start().await;
    let alice = daemon.caller("alice").await;
    let mut made = Vec::new();
    for number in 0..5 {
        let labels = [("job".to_owned(), (number % 2).to_string())].into();
        made.insert(0, acquire(&alice, AcquireLeaseRequest { labels, ..host() }).await.unwrap().id);
    }
    let mut client = LeaseServiceClient::new(alice.clone());
    let mut ask = ListLeasesRequest { page_size: 2, ..ListLeasesRequest::default() };
    let mut seen = Vec::new();
    loop {
        let page = client.list_leases(ask.clone()).await.unwrap().into_inner();
        seen.extend(page.leases.into_iter().map(|lease| lease.id));
        ask.page_token = page.next_page_token;
        if ask.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, made);
    let odd = ListLeasesRequest { filter: "labels.job = \"1\"".to_owned(), ..ListLeasesRequest::default() };
    assert_eq!(client.list_leases(odd).await.unwrap().into_inner().leases.len(), 2);
    drop((alice, client));
    daemon.drain().await.unwrap();
}

#[tokio::test]
async fn a_watch_shows_the_state_every_change_and_the_end() {
    let daemon = Daemon::start().await;
    let alice = daemon.caller("alice").await;
    let lease = acquire(&alice, AcquireLeaseRequest { wait: Some(seconds(60)), ..host() }).await.unwrap();
    let watch = |cursor: String| {
        let ask = WatchLeaseRequest { lease_id: lease.id.clone(), cursor, ..WatchLeaseRequest::default() };
        let mut client = LeaseServiceClient::new(alice.clone());
        async move { client.watch_lease(ask).await.unwrap().into_inner() }
    };
    let mut changes = watch(String::new()).await;
    let first = timeout(LONG, changes.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(first.lease.unwrap().state(), State::Active);
    release(&alice, &lease.id).await;
    let read = async {
        let (mut types, mut last) = (Vec::new(), State::Unspecified);
        while let Some(change) = changes.message().await.unwrap() {
            types.extend(change.events.into_iter().map(|event| event.r#type));
            last = change.lease.map_or(last, |lease| lease.state());
        }
        (types, last)
    };
    let (types, last) = timeout(LONG, read).await.unwrap();
    assert_eq!(last, State::Destroyed);
    // From the same place again: the same events, and no more.
    let mut again = watch(first.cursor).await;
    let resumed = timeout(LONG, again.message()).await.unwrap().unwrap().unwrap();
    let resumed: Vec<String> = resumed.events.into_iter().map(|event| event.r#type).collect();
    assert_eq!(resumed, types);
    assert!(timeout(LONG, again.message()).await.unwrap().unwrap().is_none());
    drop(alice);
    daemon.drain().await.unwrap();
}

#[tokio::test]
async fn events_go_on_from_a_listing_without_loss() {
    let daemon = Daemon::start().await;
    let alice = daemon.caller("alice").await;
    let mut client = EventServiceClient::new(alice.clone());
    let listed = client.list_events(ListEventsRequest::default()).await.unwrap().into_inner();
    let lease = acquire(&alice, host()).await.unwrap();
    let ask = WatchEventsRequest { cursor: listed.cursor, ..WatchEventsRequest::default() };
    let mut watch = client.watch_events(ask).await.unwrap().into_inner();
    let news = timeout(LONG, watch.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(news.events[0].root_lease_id, lease.id, "{news:?}");
    assert!(!news.cursor.is_empty() && !news.heartbeat);
    drop((alice, client, watch));
    daemon.drain().await.unwrap();
}
