//! Large files, large trees, full disks.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::atomic::Ordering;

use drydock::error::{Error, Reason};
use drydock::host::ssh::link::Purpose;
use drydock::host::ssh::sftp::Sftp;
use rustix::process::geteuid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::over::{Pipes, Remote, server};
use crate::place::{soon, until};

fn noise(length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    std::iter::repeat_with(|| random.u8(..)).take(length).collect()
}

#[tokio::test]
async fn what_is_written_in_any_pieces_is_read_in_any_pieces() {
    let remote = Remote::new().await;
    let data = noise(9_000_001);
    let path = Path::new("part");
    let mut random = fastrand::Rng::with_seed(8);
    let mut at = 0;
    // With a break, as after a lost call.
    for end in [3_333_333, data.len()] {
        let mut file = remote.files.append(path, at as u64).await.unwrap();
        while at < end {
            let length = random.usize(1..400_000).min(end - at);
            file.write_all(&data[at..at + length]).await.unwrap();
            at += length;
        }
        file.flush().await.unwrap();
        assert_eq!(fs::metadata(remote.path("part")).unwrap().len(), at as u64);
        drop(file);
        let error = remote.files.append(path, 5).await.map(|_| ()).unwrap_err();
        assert_eq!((error.reason, &error.metadata["committed_size"]), (Reason::OffsetUnavailable, &at.to_string()));
    }
    remote.files.sync(path).await.unwrap();
    remote.files.publish(path, Path::new("whole"), 0o640, false).await.unwrap();
    assert!(fs::read(remote.path("whole")).unwrap() == data && !remote.path("part").exists());
    for offset in [0, 1, 261_120, 8_999_999, 9_000_001] {
        let (entry, mut file) = remote.files.read(Path::new("whole"), offset as u64).await.unwrap();
        assert_eq!((entry.size, entry.mode), (9_000_001, 0o640));
        let mut got = Vec::new();
        file.read_to_end(&mut got).await.unwrap();
        assert!(got == data[offset..], "from {offset}");
    }
    // All of it beside the session of the others.
    assert_eq!(remote.link.opened[Purpose::Command as usize].load(Ordering::Relaxed), 1);
    assert!((1..=4).contains(&remote.link.opened[Purpose::Bulk as usize].load(Ordering::Relaxed)));
}

#[tokio::test]
async fn readers_that_stall_hold_little_and_nobody_up() {
    let remote = Remote::new().await;
    fs::File::create(remote.path("large")).unwrap().set_len(1 << 30).unwrap();
    let path = Path::new("large");
    let mut readers = Vec::new();
    for _ in 0..20 {
        let (_, mut file) = remote.files.read(path, 0).await.unwrap();
        soon("a byte", file.read_u8()).await.unwrap();
        readers.push(file);
    }
    soon("an entry", remote.files.stat(path, false)).await.unwrap();
    let mut other = remote.files.append(Path::new("other"), 0).await.unwrap();
    other.write_all(&noise(5_000_000)).await.unwrap();
    soon("a flush", other.flush()).await.unwrap();
    let sent = |pid: &i32| {
        let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
        io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap().parse::<u64>().unwrap()
    };
    let sent: u64 = remote.link.pids.lock().unwrap().iter().map(sent).sum();
    assert!(sent < 20 * 3_500_000 + 6_000_000, "{sent} bytes were sent");
    // Who has stalled goes on.
    let mut rest = readers.pop().unwrap().take(50_000_000);
    assert_eq!(soon("the rest", tokio::io::copy(&mut rest, &mut tokio::io::sink())).await.unwrap(), 50_000_000);
}

#[tokio::test]
async fn a_file_that_grows_or_shrinks_is_read_to_its_end() {
    let remote = Remote::new().await;
    fs::write(remote.path("a"), vec![1; 1_000_000]).unwrap();
    let (_, mut file) = remote.files.read(Path::new("a"), 0).await.unwrap();
    let mut got = vec![0; 500_000];
    file.read_exact(&mut got).await.unwrap();
    fs::OpenOptions::new().append(true).open(remote.path("a")).unwrap().set_len(1_200_000).unwrap();
    file.read_to_end(&mut got).await.unwrap();
    assert!((1_000_000..=1_200_000).contains(&got.len()), "{}", got.len());
    fs::write(remote.path("b"), vec![1; 8_000_000]).unwrap();
    let (_, mut file) = remote.files.read(Path::new("b"), 0).await.unwrap();
    fs::write(remote.path("b"), vec![1; 10]).unwrap();
    let mut got = Vec::new();
    file.read_to_end(&mut got).await.unwrap();
    assert!(got.len() < 8_000_000);
}

#[tokio::test]
async fn trees_are_listed_in_pages_and_removed_whole() {
    let remote = Remote::new().await;
    let name = OsStr::from_bytes(b"caf\xE9");
    fs::create_dir_all(remote.path("t/deep").join(name)).unwrap();
    for number in 0..1_000 {
        fs::write(remote.path("t/deep").join(name).join(number.to_string()), "").unwrap();
        fs::create_dir(remote.path("t").join(format!("d-{number}"))).unwrap();
    }
    fs::create_dir(remote.path("precious")).unwrap();
    fs::write(remote.path("precious/kept"), "").unwrap();
    symlink("../precious", remote.path("t/link")).unwrap();
    let all = remote.files.list(Path::new("t"), 9, None, 10_000).await.unwrap();
    assert_eq!(all.len(), 2_003);
    assert!(all.is_sorted_by(|a, b| a.path < b.path));
    let mut paged = Vec::new();
    loop {
        let after = paged.last().map(|entry: &drydock::host::files::Entry| entry.path.clone());
        let page = remote.files.list(Path::new("t"), 9, after.as_deref(), 300).await.unwrap();
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 300);
        paged.extend(page);
    }
    assert_eq!(all, paged);
    // Closed to us, and deeper than any path may be long.
    let mut deep = remote.path("t/deep");
    for _ in 0..40 {
        deep.push("x".repeat(90));
        fs::create_dir(&deep).unwrap();
    }
    std::process::Command::new("sh")
        .args(["-c", "for i in $(seq 20); do mkdir $0 && cd $0 || exit 1; done", &"y".repeat(200)])
        .current_dir(&deep)
        .status()
        .unwrap();
    fs::set_permissions(remote.path("t/deep"), fs::Permissions::from_mode(0o500)).unwrap();
    fs::set_permissions(remote.path("t/deep").join(name), fs::Permissions::from_mode(0)).unwrap();
    remote.files.remove(Path::new("t"), true).await.unwrap();
    assert!(!remote.path("t").exists() && remote.path("precious/kept").exists());
}

/// A server that sees a file system of one mebibyte at `folder`.
fn cramped(folder: &Path) -> Vec<String> {
    let script = r#"mount -t tmpfs -o size=1m,nr_inodes=20 tmpfs "$0" && exec "$1""#;
    let user: &[&str] = if geteuid().is_root() { &[] } else { &["--user", "--map-root-user"] };
    let words = [&["unshare", "--mount"], user, &["sh", "-c", script, folder.to_str().unwrap()]].concat();
    words.into_iter().map(str::to_owned).chain(server()).collect()
}

#[tokio::test]
async fn a_full_disk_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let sftp = Sftp::new(Pipes::new(cramped(folder.path())), "box-1");
    let files = sftp.files(folder.path()).await.unwrap();
    let path = Path::new("a");
    // Each server of this kind has a disk of its own, so the file is written where it was opened.
    let mut file = files.append(path, 0).await.unwrap();
    let written = async {
        file.write_all(&noise(3_000_000)).await?;
        file.flush().await
    };
    let error = Error::from_stream("written", soon("an error", written).await.unwrap_err());
    assert_eq!(error.reason, Reason::NoSpace, "{error}");
    assert!(file.write_all(b"more").await.is_err());
    for number in 0.. {
        if let Err(error) = files.make_directory(Path::new(&number.to_string()), 0o755, false).await {
            assert_eq!(error.reason, Reason::NoSpace, "{error}");
            break;
        }
        assert!(number < 30);
    }
}

#[tokio::test]
async fn many_writers_share_few_sessions() {
    let remote = Remote::new().await;
    let writes = (0..12).map(|number: usize| {
        let files = &remote.files;
        async move {
            let (part, whole) = (format!("{number}.part"), format!("{number}"));
            let data = vec![u8::try_from(number).unwrap(); 400_000 + number];
            let mut file = files.append(Path::new(&part), 0).await.unwrap();
            file.write_all(&data).await.unwrap();
            file.flush().await.unwrap();
            drop(file);
            files.publish(Path::new(&part), Path::new(&whole), 0o600, true).await.unwrap();
        }
    });
    soon("all writes", futures::future::join_all(writes)).await;
    for number in 0..12_usize {
        assert_eq!(fs::read(remote.path(&number.to_string())).unwrap().len(), 400_000 + number);
    }
    assert!(remote.link.opened[Purpose::Bulk as usize].load(Ordering::Relaxed) <= 4);
    until("nothing else", || fs::read_dir(remote.folder.path()).unwrap().count() == 12).await;
}
