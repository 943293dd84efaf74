//! The daemon's doors: what opens, who is refused, and how it goes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use drydock::error::Reason;
use drydock::proto::v1::event_service_client::EventServiceClient;
use drydock::proto::v1::lease_service_client::LeaseServiceClient;
use drydock::proto::v1::system_service_client::SystemServiceClient;
use drydock::proto::v1::{
    AcquireLeaseRequest, GetServerInfoRequest, GetServerInfoResponse, ListDaemonsRequest, WatchEventsRequest,
};
use tokio::time::timeout;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::{Daemon, LONG, Link, reason, settings};

async fn info(link: &Link) -> Result<GetServerInfoResponse, Status> {
    let answer = SystemServiceClient::new(link.clone()).get_server_info(GetServerInfoRequest {}).await;
    answer.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn it_tells_who_asks_and_through_which_door() {
    let daemon = Daemon::start().await;
    let socket = info(&daemon.socket().await).await.unwrap();
    let owner = socket.caller.unwrap();
    assert!(owner.principal.starts_with("uid:"), "{owner:?}");
    assert_eq!((owner.door.as_str(), owner.permissions), ("socket", vec!["user".to_owned(), "admin".to_owned()]));
    let alice = info(&daemon.caller("alice").await).await.unwrap().caller.unwrap();
    assert_eq!((alice.principal.as_str(), alice.door.as_str()), ("alice", "token"));
    assert_eq!(alice.permissions, ["user"]);
    assert_eq!(socket.api_versions, ["drydock.v1"]);
    let link = daemon.socket().await;
    let daemons = SystemServiceClient::new(link.clone()).list_daemons(ListDaemonsRequest {}).await.unwrap();
    assert_eq!(daemons.into_inner().daemons[0].id, socket.daemon_id);
    drop(link);
    daemon.drain().await.unwrap();
}

#[tokio::test]
async fn its_socket_is_private_and_goes_with_it() {
    let daemon = Daemon::start().await;
    let socket = daemon.ready.socket.clone();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&socket), mode(socket.parent().unwrap())), (0o600, 0o700));
    assert_eq!(mode(&daemon.settings.data_dir), 0o700);
    daemon.drain().await.unwrap();
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_second_daemon_is_refused_and_the_first_unharmed() {
    let daemon = Daemon::start().await;
    let same = Daemon::on(daemon.settings.clone()).await.err().unwrap();
    assert_eq!(same.reason, Reason::InvalidArgument, "{same}");
    let mut other_socket = daemon.settings.clone();
    other_socket.socket.set_file_name("other.sock");
    let same_file = Daemon::on(other_socket.clone()).await.err().unwrap();
    assert_eq!(same_file.reason, Reason::InvalidArgument, "{same_file}");
    assert!(!other_socket.socket.exists());
    info(&daemon.socket().await).await.unwrap();
    daemon.drain().await.unwrap();
}

#[tokio::test]
async fn settings_that_cannot_be_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let plain = settings(folder.path());
    let mut open = plain.clone();
    open.listen = vec!["0.0.0.0:0".to_owned()];
    let mut readable = plain.clone();
    let tokens = folder.path().join("readable");
    fs::write(&tokens, "root t-root admin\n").unwrap();
    fs::set_permissions(&tokens, fs::Permissions::from_mode(0o644)).unwrap();
    readable.tokens = Some(tokens);
    let mut elsewhere = plain.clone();
    elsewhere.database = "mysql://localhost/x".to_owned().into();
    for wrong in [open, readable, elsewhere] {
        let error = Daemon::on(wrong.clone()).await.err().unwrap();
        assert_eq!(error.reason, Reason::InvalidArgument, "{error}");
        assert!(!wrong.socket.exists());
    }
    Daemon::on(plain).await.unwrap().drain().await.unwrap();
}

#[tokio::test]
async fn a_token_is_made_when_there_is_no_file_of_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(folder.path());
    settings.tokens = None;
    let daemon = Daemon::on(settings).await.unwrap();
    let token = fs::read_to_string(daemon.ready.token_file.clone().unwrap()).unwrap();
    let caller = info(&daemon.bearer(token.trim()).await).await.unwrap().caller.unwrap();
    assert_eq!((caller.principal.as_str(), caller.permissions.len()), ("local", 2));
    daemon.drain().await.unwrap();
}

#[tokio::test]
async fn tokens_are_read_again() {
    let daemon = Daemon::start().await;
    let status = info(&daemon.bearer("t-carol").await).await.unwrap_err();
    assert_eq!(reason(&status), "UNAUTHENTICATED");
    fs::write(daemon.settings.tokens.clone().unwrap(), "carol t-carol\n").unwrap();
    daemon.shutdown.reload.notify_one();
    let link = daemon.bearer("t-carol").await;
    let known = async {
        while info(&link).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, known).await.unwrap();
    assert_eq!(reason(&info(&daemon.caller("alice").await).await.unwrap_err()), "UNAUTHENTICATED");
    drop(link);
    daemon.drain().await.unwrap();
}

#[tokio::test]
async fn a_drain_says_so_and_ends_the_watches() {
    let daemon = Daemon::start().await;
    let link = daemon.socket().await;
    let mut health = HealthClient::new(link.clone());
    let mut statuses = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    let first = statuses.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    let mut events = EventServiceClient::new(link.clone());
    let mut watch = events.watch_events(WatchEventsRequest::default()).await.unwrap().into_inner();

    let begun = tokio::time::Instant::now();
    daemon.shutdown.drain.cancel();
    let last = timeout(LONG, statuses.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(last.status(), ServingStatus::NotServing);
    assert!(timeout(LONG, statuses.message()).await.unwrap().unwrap().is_none());
    let status = timeout(LONG, watch.message()).await.unwrap().unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::Unavailable, "SERVER_DRAINING".to_owned()));
    drop((link, health, events));
    daemon.drain().await.unwrap();
    assert!(begun.elapsed().as_secs() < 25, "nothing was left to wait for");
}

#[tokio::test]
async fn a_stop_waits_for_nobody() {
    let mut daemon = Daemon::start().await;
    let link = daemon.socket().await;
    let mut watch =
        EventServiceClient::new(link.clone()).watch_events(WatchEventsRequest::default()).await.unwrap().into_inner();
    let begun = tokio::time::Instant::now();
    daemon.shutdown.stop.cancel();
    assert!(timeout(LONG, watch.message()).await.unwrap().is_err());
    daemon.ended().await.unwrap();
    assert!(begun.elapsed().as_secs() < 25);
    let ask = AcquireLeaseRequest { resource_type: "host".to_owned(), ..AcquireLeaseRequest::default() };
    assert!(LeaseServiceClient::new(link).acquire_lease(ask).await.is_err());
}
