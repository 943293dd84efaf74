//! The disk of the database is full: who asks is told, nothing half-done stays, and with room again it goes on.

use std::fs::{OpenOptions, remove_file};
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use drydock::proto::v1::{AcquireLeaseRequest, GetLeaseRequest, lease};

use super::daemon::Daemon;
use crate::harness::reason;
use crate::queue::kit::folder;

/// Enough for the database and its log; the rest is filled by the test.
const DISK: u64 = 4 << 20;

/// Takes all room that is left on the disk of this file.
pub(crate) fn fill(path: &Path) {
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    for size in [4096, 1] {
        let block = vec![0; size];
        loop {
            match file.write_all(&block) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_told_and_leaves_nothing_half_done() {
    let folder = folder();
    let daemon = Daemon::on_small_disk(&folder.path().join("data"), DISK).await;
    let wanted = AcquireLeaseRequest { resource_type: "host".to_owned(), ..AcquireLeaseRequest::default() };
    let first = daemon.acquire(&wanted).await.unwrap();
    assert_eq!(first.state(), lease::State::Active);

    let filler = daemon.data.join("filler");
    fill(&filler);
    // The database's log may have room left from earlier; each try takes some of it.
    let mut served = Vec::new();
    let refusal = loop {
        match daemon.acquire(&wanted).await {
            Ok(lease) => served.push(lease.id),
            Err(status) => break status,
        }
        assert!(served.len() < 200, "the disk never was full");
        fill(&filler);
    };
    assert_eq!(reason(&refusal), "NO_SPACE", "{refusal}");
    assert!(refusal.message().contains("free some space"), "{refusal}");
    // Who only reads is served.
    let request = GetLeaseRequest { lease_id: first.id.clone() };
    let same = daemon.leases().await.unwrap().get_lease(request).await.unwrap().into_inner().lease.unwrap();
    assert_eq!(same.state(), lease::State::Active);

    remove_file(&filler).unwrap();
    let after = daemon.acquire(&wanted).await.unwrap();
    assert_eq!(after.state(), lease::State::Active);
    for id in served.iter().chain([&first.id, &after.id]) {
        assert_eq!(daemon.release(id).await.unwrap().state(), lease::State::Destroyed);
    }
    daemon.assert_nothing_left(&[].into()).await;
}
