//! `drydock cp`: one file to or from a lease, checked on arrival.

use std::path::{Path, PathBuf};

use prost::bytes::{Bytes, BytesMut};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;

use super::Globals;
use super::acquire::present;
use super::connect::Daemon;
use super::exit::{FAILURE, Failure, OK, Result};
use super::fs::Target;
use super::{output, words};
use crate::proto::v1;

/// What the API likes best.
const CHUNK: usize = 64 * 1024;
/// Chunks on their way: a slow daemon slows the source.
const IN_FLIGHT: usize = 4;

/// Copies a file; one side is LEASE:PATH, the other a local path or - for stdin or stdout.
#[derive(Debug, clap::Args)]
pub struct Copy {
    /// From.
    #[arg(value_name = "SRC")]
    source: String,
    /// To.
    #[arg(value_name = "DST")]
    target: String,
    #[command(flatten)]
    how: Target,
}

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Side {
    Stream,
    Local(PathBuf),
    Leased { lease: String, path: String },
}

/// Only what looks like a lease is one: `C:x` or `a:b` may be a file's name.
fn side(word: &str) -> Side {
    if word == "-" {
        return Side::Stream;
    }
    match word.split_once(':') {
        Some((lease, path)) if lease == "@" || lease.starts_with("lease_") => {
            Side::Leased { lease: lease.to_owned(), path: path.to_owned() }
        }
        _ => Side::Local(PathBuf::from(word)),
    }
}

/// Runs it.
///
/// # Errors
/// 64 when not exactly one side is on a lease; those of the daemon and of this machine's files.
pub async fn run(globals: &Globals, args: Copy) -> Result<u8> {
    let entry = match (side(&args.source), side(&args.target)) {
        (from @ (Side::Stream | Side::Local(_)), Side::Leased { lease, path }) => {
            let lease_id = words::lease(&lease)?;
            let daemon = globals.connect().await?;
            push(&daemon, from, &lease_id, &path, args.how).await?
        }
        (Side::Leased { lease, path }, to @ (Side::Stream | Side::Local(_))) => {
            if args.how.mode.is_some() || args.how.parents || args.how.create_only {
                return Err(Failure::usage("--mode, --parents and --create-only are for files on a lease"));
            }
            let request = v1::ReadFileRequest { lease_id: words::lease(&lease)?, path, ..Default::default() };
            let daemon = globals.connect().await?;
            pull(&daemon, request, to).await?
        }
        _ => return Err(Failure::usage("exactly one of SRC and DST must be LEASE:PATH")),
    };
    // What was copied is the data when the other side is stdout.
    if !matches!(side(&args.target), Side::Stream) {
        output::object_unless_table(globals.output, &entry)?;
    }
    Ok(OK)
}

/// The first message of a write.
#[must_use]
pub fn start(lease_id: &str, path: &str, how: &Target) -> v1::WriteStart {
    v1::WriteStart {
        lease_id: lease_id.to_owned(),
        path: path.to_owned(),
        mode: how.mode.unwrap_or(0),
        make_parents: how.parents,
        create_only: how.create_only,
        ..v1::WriteStart::default()
    }
}

async fn push(daemon: &Daemon, from: Side, lease_id: &str, path: &str, how: Target) -> Result<v1::FileEntry> {
    let Side::Local(source) = from else {
        if path.is_empty() || path.ends_with('/') {
            return Err(Failure::usage("a file from stdin needs a name: LEASE:PATH"));
        }
        return upload(daemon, tokio::io::stdin(), start(lease_id, path, &how)).await;
    };
    let refused = |error| Failure::io(source.display(), &error);
    let file = tokio::fs::File::open(&source).await.map_err(refused)?;
    let metadata = file.metadata().await.map_err(refused)?;
    if metadata.is_dir() {
        return Err(Failure::usage(format!("{} is a directory; only files can be copied so far", source.display())));
    }
    // As with cp: into a directory keeps the name.
    let path = match source.file_name().and_then(|name| name.to_str()) {
        Some(name) if path.is_empty() || path.ends_with('/') => format!("{path}{name}"),
        _ => path.to_owned(),
    };
    let mode = how.mode.or_else(|| Some(std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777));
    upload(daemon, file, start(lease_id, &path, &Target { mode, ..how })).await
}

/// Writes all of `source` to a file; the daemon checks its length and its SHA-256 before anything is to be seen of it.
///
/// # Errors
/// Those of the daemon and of the source.
pub async fn upload(
    daemon: &Daemon,
    source: impl AsyncRead + Unpin + Send + 'static,
    start: v1::WriteStart,
) -> Result<v1::FileEntry> {
    let (send, requests) = mpsc::channel(IN_FLIGHT);
    let reading = tokio::spawn(send_all(source, start, send));
    let answer = daemon.files().write_file(Request::new(ReceiverStream::new(requests))).await;
    // A source that cannot be read is the cause of whatever the daemon says about the torn stream.
    if let Ok(Err(error)) = reading.await {
        return Err(Failure::io("reading the source", &error));
    }
    present(answer?.into_inner().entry)
}

async fn send_all(
    mut source: impl AsyncRead + Unpin,
    start: v1::WriteStart,
    send: mpsc::Sender<v1::WriteFileRequest>,
) -> std::io::Result<()> {
    let mut hash = Sha256::new();
    let mut offset = 0_i64;
    let mut start = Some(start);
    loop {
        let data = read_chunk(&mut source).await?;
        let last = data.len() < CHUNK;
        hash.update(&data);
        let size = offset + i64::try_from(data.len()).unwrap_or(i64::MAX);
        let finish = last
            .then(|| v1::WriteFinish { size: Some(size), sha256: Bytes::copy_from_slice(&hash.clone().finalize()) });
        let request = v1::WriteFileRequest { start: start.take(), offset, data, finish, ..Default::default() };
        // Nobody listens any more: the daemon has answered, and its answer says why.
        if send.send(request).await.is_err() || last {
            return Ok(());
        }
        offset = size;
    }
}

/// A full chunk, or less at the end.
async fn read_chunk(source: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Bytes> {
    let mut chunk = BytesMut::with_capacity(CHUNK);
    let mut limited = source.take(CHUNK as u64);
    while chunk.len() < CHUNK && limited.read_buf(&mut chunk).await? > 0 {}
    Ok(chunk.freeze())
}

async fn pull(daemon: &Daemon, request: v1::ReadFileRequest, to: Side) -> Result<v1::FileEntry> {
    let Side::Local(target) = to else {
        return download(daemon, request, &mut tokio::io::stdout()).await;
    };
    let target = if target.is_dir() {
        let name = request.path.rsplit('/').next().filter(|name| !name.is_empty() && *name != "..");
        target.join(name.ok_or_else(|| Failure::usage(format!("{:?} has no file name", request.path)))?)
    } else {
        target
    };
    // A sibling, so that the rename is atomic and nothing half-done is ever to be seen.
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let refused = |error| Failure::io(target.display(), &error);
    let temporary = tempfile::NamedTempFile::new_in(folder).map_err(refused)?;
    let mut file = tokio::fs::File::from_std(temporary.reopen().map_err(refused)?);
    let entry = download(daemon, request, &mut file).await?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(entry.mode & 0o777);
    temporary.as_file().set_permissions(mode).map_err(refused)?;
    temporary.persist(&target).map_err(|error| refused(error.error))?;
    Ok(entry)
}

/// Reads a file; what comes must be as long as its entry says.
async fn download(
    daemon: &Daemon,
    request: v1::ReadFileRequest,
    to: &mut (impl AsyncWrite + Unpin),
) -> Result<v1::FileEntry> {
    let refused = |error| Failure::io("writing the target", &error);
    let mut parts = daemon.files().read_file(Request::new(request)).await?.into_inner();
    let mut entry = None;
    let mut size = 0_i64;
    while let Some(part) = parts.next().await {
        let part = part?;
        if part.offset != size && !part.data.is_empty() {
            return Err(mismatch(&format!("bytes came for offset {}, expected {size}", part.offset)));
        }
        size += i64::try_from(part.data.len()).unwrap_or(i64::MAX);
        to.write_all(&part.data).await.map_err(refused)?;
        entry = entry.or(part.entry);
    }
    to.flush().await.map_err(refused)?;
    let entry = present(entry)?;
    if entry.size != size {
        return Err(mismatch(&format!("{size} bytes came of {}; it changed meanwhile, or the link broke", entry.size)));
    }
    Ok(entry)
}

fn mismatch(what: &str) -> Failure {
    Failure::new(FAILURE, "CHECKSUM_MISMATCH", what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_leases_are_taken_for_leases() {
        let leased = |lease: &str, path: &str| Side::Leased { lease: lease.to_owned(), path: path.to_owned() };
        assert_eq!(side("@:out.tgz"), leased("@", "out.tgz"));
        assert_eq!(side("lease_1:a:b"), leased("lease_1", "a:b"));
        assert_eq!(side("C:x"), Side::Local(PathBuf::from("C:x")));
        assert_eq!(side("-"), Side::Stream);
    }

    #[tokio::test]
    async fn the_last_message_has_the_length_and_the_hash_of_all() {
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK] {
            let data = vec![7_u8; length];
            let (send, mut requests) = mpsc::channel(100);
            send_all(std::io::Cursor::new(data.clone()), v1::WriteStart::default(), send).await.unwrap();
            let (mut got, mut finish, mut starts) = (Vec::new(), None, 0);
            while let Some(request) = requests.recv().await {
                assert_eq!(usize::try_from(request.offset).unwrap(), got.len());
                got.extend_from_slice(&request.data);
                starts += usize::from(request.start.is_some());
                assert!(finish.is_none(), "nothing follows the end");
                finish = request.finish;
            }
            let finish = finish.unwrap();
            assert_eq!((starts, got.len(), finish.size), (1, length, i64::try_from(length).ok()));
            assert_eq!(finish.sha256[..], Sha256::digest(&data)[..]);
        }
    }
}
