//! Killed at random times while twenty callers want something.

use std::collections::BTreeSet;
use std::time::Duration;

use drydock::proto::v1::{AcquireLeaseRequest, ListTasksRequest, RetryTaskRequest, lease};
use fastrand::Rng;
use futures::future::join_all;

use super::boundaries::own_ports;
use super::daemon::Daemon;
use crate::queue::kit::{eventually, folder};

const CALLERS: usize = 20;
const KILLS: usize = 10;

fn wanted(number: usize) -> AcquireLeaseRequest {
    let (of, attributes) = match number % 4 {
        0 => ("host", None),
        1 => ("webroot", None),
        _ => ("storage", Some(("quota".to_owned(), "1MiB".to_owned()))),
    };
    AcquireLeaseRequest {
        resource_type: of.to_owned(),
        attributes: attributes.into_iter().collect(),
        request_id: format!("caller-{number}"),
        ..AcquireLeaseRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_random_under_load_it_loses_no_lease_and_leaves_nothing() {
    let seed = std::env::var("DRYDOCK_CHAOS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("DRYDOCK_CHAOS_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let folder = folder();
    let mut daemon = Daemon::on(&folder.path().join("data"));
    assert!(daemon.start(None).await);
    own_ports(&daemon).await;
    // The host takes sixteen: the others wait for their turn, through all the deaths.
    for round in 0..KILLS {
        let life = Duration::from_millis(rng.u64(20..600));
        let calls = join_all((0..CALLERS).map(|number| {
            let wanted = wanted(number);
            let daemon = &daemon;
            async move { daemon.acquire(&wanted).await }
        }));
        // The callers lose their connection, or have what they want.
        let _ = tokio::time::timeout(life, calls).await;
        daemon.kill().await;
        assert!(daemon.start(None).await, "round {round}");
    }
    let served = join_all((0..CALLERS).map(|number| serve(&daemon, number))).await;
    let ids: BTreeSet<&str> = served.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(ids.len(), CALLERS, "one lease for each caller");
    let ports = served.iter().filter_map(|(_, port)| *port).collect();
    give_poisoned_another_life(&daemon).await;
    daemon.assert_nothing_left(&ports).await;
    daemon.kill().await;
}

/// Gets what was asked for all the time, and gives it back.
async fn serve(daemon: &Daemon, number: usize) -> (String, Option<u16>) {
    let lease = eventually("each caller is served", async || {
        give_poisoned_another_life(daemon).await;
        let lease = daemon.acquire(&wanted(number)).await.unwrap();
        match lease.state() {
            lease::State::Active => Some(lease),
            lease::State::Pending | lease::State::Acquired => None,
            // Whoever was at work in five deaths is suspected of them.
            _ if lease.state_message.contains("killed its daemon") => Some(lease),
            state => panic!("{state:?}: {lease:?}"),
        }
    })
    .await;
    daemon.release(&lease.id).await.unwrap();
    let port = lease.facts.get("port").and_then(|port| port.parse().ok());
    (lease.id, port)
}

async fn give_poisoned_another_life(daemon: &Daemon) {
    let mut tasks = daemon.tasks().await.unwrap();
    let request = ListTasksRequest { filter: "state = DEAD".to_owned(), ..ListTasksRequest::default() };
    for task in tasks.list_tasks(request).await.unwrap().into_inner().tasks {
        let retry = RetryTaskRequest { task_id: task.id, ..RetryTaskRequest::default() };
        tasks.retry_task(retry).await.unwrap();
    }
}
