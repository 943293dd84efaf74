//! Commands and large files on a box, over the RPCs and by `drydock cp`.

use std::io::Write as _;

use drydock::proto::v1::filesystem_service_client::FilesystemServiceClient;
use drydock::proto::v1::{ReadFileRequest, WriteFileRequest, WriteFileResponse, WriteFinish, WriteStart};
use futures::stream;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tonic::Status;

use super::commands::{drydock, said};
use super::fleet::Fleet;
use crate::harness::Link;
use crate::ssh::sshd::Sshd;

const PIECE: usize = 65_536;
/// Of the largest file here. 256 go as well, unoptimised in twenty seconds.
const MEBIBYTES: u32 = 48;

pub(super) fn files(fleet: &Fleet) -> FilesystemServiceClient<Link> {
    FilesystemServiceClient::new(fleet.link.clone())
}

/// Bytes that no link can make smaller.
pub(super) fn noise(size: usize) -> Vec<u8> {
    let mut data = vec![0; size];
    fastrand::Rng::with_seed(7).fill(&mut data);
    data
}

/// A part of an upload.
pub(super) fn piece(offset: usize, data: &[u8]) -> WriteFileRequest {
    let data = data.to_vec().into();
    WriteFileRequest { offset: offset.try_into().unwrap(), data, ..WriteFileRequest::default() }
}

/// Writes `data` from `offset` on, and finishes.
pub(super) async fn write(
    fleet: &Fleet,
    start: WriteStart,
    offset: usize,
    data: &[u8],
) -> Result<WriteFileResponse, Status> {
    let mut messages = vec![WriteFileRequest { start: Some(start), ..WriteFileRequest::default() }];
    let rest = data[offset..].chunks(PIECE).zip((offset..).step_by(PIECE));
    messages.extend(rest.map(|(part, at)| piece(at, part)));
    let size = Some(data.len().try_into().unwrap());
    let finish = WriteFinish { size, sha256: Sha256::digest(data).to_vec().into() };
    messages.push(WriteFileRequest { finish: Some(finish), ..WriteFileRequest::default() });
    Ok(files(fleet).write_file(stream::iter(messages)).await?.into_inner())
}

pub(super) async fn read(fleet: &Fleet, lease: &str, path: &str) -> Result<Vec<u8>, Status> {
    let request = ReadFileRequest { lease_id: lease.to_owned(), path: path.to_owned(), ..ReadFileRequest::default() };
    let mut stream = files(fleet).read_file(request).await?.into_inner();
    let mut data = Vec::new();
    while let Some(part) = stream.message().await? {
        data.extend_from_slice(&part.data);
    }
    Ok(data)
}

pub(super) fn start(lease: &str, path: &str, upload_id: &str) -> WriteStart {
    let (lease_id, path, upload_id) = (lease.to_owned(), path.to_owned(), upload_id.to_owned());
    WriteStart { lease_id, path, upload_id, make_parents: true, ..WriteStart::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_file_goes_there_and_back() {
    let (fleet, machine) = (Fleet::start(json!({}), 1).await, Sshd::start());
    fleet.register("one", &machine, &[]).await;
    let lease = fleet.acquire("host", &[], &[]).await;
    let (code, out) = fleet.exec(&lease.id, "pwd; exit 7").await.unwrap();
    assert_eq!((code, out.trim()), (7, lease.facts["path"].as_str()));

    let data = noise(16 << 20);
    let written = write(&fleet, start(&lease.id, "deep/big", ""), 0, &data).await.unwrap();
    assert!(written.complete && written.committed_size == 16 << 20, "{written:?}");
    let there = std::fs::read(format!("{}/deep/big", lease.facts["path"])).unwrap();
    assert_eq!(Sha256::digest(there), Sha256::digest(&data));
    let back = read(&fleet, &lease.id, "deep/big").await.unwrap();
    assert_eq!(Sha256::digest(back), Sha256::digest(&data));

    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("source"), &data[..3 << 20]).unwrap();
    let copied = format!("{}:copied/", lease.id);
    for words in [["cp", "-p", &path("source"), &copied].as_slice(), &["cp", &format!("{copied}source"), &path("back")]]
    {
        let done = drydock(&fleet, words).await;
        assert!(done.status.success(), "{words:?}: {}", said(&done.stderr));
    }
    assert_eq!(Sha256::digest(std::fs::read(path("back")).unwrap()), Sha256::digest(&data[..3 << 20]));
    fleet.release(&lease.id).await;
    assert!(!machine.home().join(".drydock/leases").join(&lease.id).exists());
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_larger_than_all_windows_goes_there_and_back() {
    let (fleet, machine) = (Fleet::start(json!({}), 1).await, Sshd::start());
    fleet.register("one", &machine, &[]).await;
    let lease = fleet.acquire("host", &[], &[]).await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let piece = noise(1 << 20);
    let mut file = std::fs::File::create(path("source")).unwrap();
    for number in 0..MEBIBYTES {
        // No two pieces are the same: one that is lost, or comes twice, is found.
        file.write_all(&number.to_be_bytes()).unwrap();
        file.write_all(&piece[4..]).unwrap();
    }
    let there = format!("{}:big", lease.id);
    for words in [["cp", &path("source"), &there], ["cp", &there, &path("back")]] {
        let done = drydock(&fleet, &words).await;
        assert!(done.status.success(), "{words:?}: {}", said(&done.stderr));
    }
    let (_, sums) = fleet
        .exec(&lease.id, &format!("sha256sum <{}; sha256sum <big; sha256sum <{}", path("source"), path("back")))
        .await
        .unwrap();
    let sums: Vec<_> = sums.lines().collect();
    assert!(sums.len() == 3 && sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
    assert_eq!(std::fs::metadata(path("back")).unwrap().len(), u64::from(MEBIBYTES) << 20);
    fleet.release(&lease.id).await;
    fleet.end().await;
}
